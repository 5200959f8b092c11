/** The processes of the soak. */
import { type ChildProcess, fork } from 'node:child_process';
import path from 'node:path';
import { ChaosCluster, ChaosPod } from '../chaos/cluster.ts';
import { type Pod, startBrokerPod, startRuntimePod } from '../support/pods.ts';
import { Launched, track, waitUntil } from '../support/processes.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';
import type { FromLoad, ToLoad } from './messages.ts';
import { type Identity, identityOf, isSame } from './proc.ts';

const here = (file: string): string => path.join(import.meta.dirname, file);

export const BROKERS = 2;
export const RUNTIMES = 3;
/** Those that harm leaves alone: they are there from the beginning to the end. */
export const LASTING: readonly string[] = ['broker-1', 'runtime-1', 'load'];
/** The others, which have many lives; the nats-server and the redis-server are neither. */
export const REPLACED: readonly string[] = ['broker-2', 'runtime-2', 'runtime-3', 'service'];
/** Sessions are put away soon, so that a soak of a minute sees some be. */
const BROKER_ARGS = ['--hibernate-after', '5000', '--log-level', 'info'];
/** How long a process that was told to end may take, drain included. */
const END_MS = 45_000;

/** A process that is watched, from its start to its end. */
export interface Member {
  readonly name: string;
  readonly kind: 'broker' | 'runtime' | 'service' | 'load' | 'nats-server' | 'redis-server';
  readonly pid: number;
  /** Answers SIGUSR2. */
  readonly probed: boolean;
}

export class Members {
  readonly cluster: ChaosCluster;
  readonly load: Load;
  /** What ended otherwise than with code 0, though it was asked to end. */
  readonly badEnds: string[] = [];
  /** From SIGTERM to the end, in ms, by kind. */
  readonly drains: { readonly kind: string; readonly ms: number }[] = [];
  #service: Launched;
  #services = 1;
  /** Those that were asked to end: a process that ends handles no signals any more, and would be killed by one. */
  readonly #ending = new Set<number>();
  /** Every process that was ever seen, workers too. */
  readonly #seen = new Map<string, Identity>();
  readonly #workers = new Set<string>();

  private constructor(cluster: ChaosCluster, service: Launched, load: Load) {
    this.cluster = cluster;
    this.#service = service;
    this.load = load;
  }

  static async start(): Promise<Members> {
    const cluster = await ChaosCluster.start({ brokers: 0, runtimes: 0 });
    const env = { ENCLAVE_TEST_DIR: cluster.directory };
    // Links are cut in test/chaos; here pods go straight to their servers.
    const uncut = await startProxy(cluster.nats.port);
    const redis = cluster.redis.kind === 'standalone' ? cluster.redis.server.url : '';
    const common = { nats: cluster.nats.url, program: here('pod.ts'), env };
    const brokers = Array.from({ length: BROKERS }, (_, index) =>
      startBrokerPod({
        ...common,
        id: `broker-${index + 1}`,
        redis,
        tools: here('tools.ts'),
        args: BROKER_ARGS,
      }),
    );
    const runtimes = Array.from({ length: RUNTIMES }, (_, index) =>
      startRuntimePod({ ...common, id: `runtime-${index + 1}` }),
    );
    const wrap = async (pods: readonly Promise<Pod>[], proxy: TcpProxy): Promise<readonly ChaosPod[]> =>
      (await Promise.all(pods)).map((pod) => new ChaosPod(pod, proxy, undefined));
    cluster.brokers.push(...(await wrap(brokers, uncut)));
    cluster.runtimes.push(...(await wrap(runtimes, uncut)));
    await uncut.stop();
    const service = await startService(cluster, 1);
    return new Members(cluster, service, await Load.start(cluster));
  }

  get all(): readonly Member[] {
    const { cluster } = this;
    const pods = [...cluster.brokers, ...cluster.runtimes].map(({ pod }) => pod);
    const redis = cluster.redis.kind === 'standalone' ? cluster.redis.server.pid : 0;
    return [
      ...pods.flatMap((pod) =>
        pod.running
          ? [{ name: pod.id, kind: pod.role, pid: pod.pid, probed: !this.#ending.has(pod.pid) }]
          : [],
      ),
      ...(this.#service.running
        ? [
            {
              name: 'service',
              kind: 'service',
              pid: this.#service.pid,
              probed: !this.#ending.has(this.#service.pid),
            } as const,
          ]
        : []),
      { name: 'load', kind: 'load', pid: this.load.pid, probed: true },
      { name: 'nats-server', kind: 'nats-server', pid: cluster.nats.pid, probed: false },
      { name: 'redis-server', kind: 'redis-server', pid: redis, probed: false },
    ];
  }

  /** Remember that it was there. */
  saw(pid: number, isWorker = false): void {
    const identity = identityOf(pid);
    if (identity === undefined) return;
    this.#seen.set(`${pid}-${identity.startedAt}`, identity);
    if (isWorker) this.#workers.add(`${pid}-${identity.startedAt}`);
  }

  /** Those that were seen and are still there. */
  get left(): readonly Identity[] {
    return [...this.#seen.values()].filter(isSame);
  }

  get seen(): number {
    return this.#seen.size;
  }

  /** Of those, children of runtimes. */
  get workersSeen(): number {
    return this.#workers.size;
  }

  /** SIGTERM, and wait for its end. */
  async drain(chaos: ChaosPod): Promise<void> {
    this.#ending.add(chaos.pod.pid);
    const from = performance.now();
    const code = await inTime(chaos.drain(), `${chaos.id} ends after SIGTERM`, () => chaos.pod.output).catch(
      async (error: unknown) => {
        await chaos.pod.kill();
        return error instanceof Error ? error.message : String(error);
      },
    );
    this.drains.push({ kind: chaos.pod.role, ms: performance.now() - from });
    if (code !== 0) this.badEnds.push(`${chaos.id} ended with ${code}:\n${chaos.pod.output}`);
  }

  /** Another one first: without any, calls would wait. */
  async replaceService(): Promise<void> {
    const old = this.#service;
    this.#service = await startService(this.cluster, ++this.#services);
    await this.drainService(old);
  }

  async drainService(service = this.#service): Promise<void> {
    this.#ending.add(service.pid);
    const from = performance.now();
    service.signal('SIGTERM');
    await inTime(service.exited, 'the service ends after SIGTERM', () => service.output).catch(
      async (error: unknown) => {
        this.badEnds.push(String(error));
        await service.kill();
      },
    );
    this.drains.push({ kind: 'service', ms: performance.now() - from });
    if (service.exitCode !== 0) this.badEnds.push(`the service ended with ${service.exitCode}`);
  }

  async endLoad(): Promise<void> {
    const code = await inTime(this.load.end(), 'the load ends', () => this.load.errors).catch(
      async (error: unknown) => {
        await this.load.kill();
        return String(error);
      },
    );
    if (code !== 0) this.badEnds.push(`the load ended with ${code}:\n${this.load.errors}`);
  }
}

async function inTime<T>(fact: Promise<T>, what: string, detail: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it never came true that ${what}:\n${detail()}`)), END_MS);
  });
  return await Promise.race([fact, late]).finally(() => clearTimeout(timer));
}

async function startService({ nats, directory }: ChaosCluster, number: number): Promise<Launched> {
  const service = new Launched(process.execPath, [here('service.ts'), nats.url, `service-${number}`], {
    env: { ...process.env, ENCLAVE_TEST_DIR: directory },
  });
  track({ stop: () => service.kill() });
  await waitUntil(() => !service.running || service.output.includes('ready'), 'the service is ready');
  if (!service.running) throw new Error(`the service ended at its start:\n${service.output}`);
  return service;
}

/** The process of load.ts. */
export class Load {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #exited: Promise<number | null>;
  #errors = '';

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.pid = child.pid ?? 0;
    this.#exited = new Promise((resolve) => child.once('exit', resolve));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errors = (this.#errors + text).slice(-10_000);
    });
    track({ stop: () => this.kill() });
  }

  /** Resolves when it is connected and its lanes begin. */
  static async start({ nats, directory }: ChaosCluster): Promise<Load> {
    const load = new Load(
      fork(here('load.ts'), [nats.url], {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
        env: { ...process.env, ENCLAVE_TEST_DIR: directory },
      }),
    );
    await new Promise<void>((resolve, reject) => {
      load.hear((message) => {
        if (message.t === 'ready') resolve();
      });
      void load.#exited.then(() => reject(new Error(`the load ended at its start:\n${load.errors}`)));
    });
    return load;
  }

  get errors(): string {
    return this.#errors;
  }

  hear(listener: (message: FromLoad) => void): void {
    this.#child.on('message', listener);
  }

  tell(message: ToLoad): void {
    this.#child.send(message);
  }

  /** Resolves to its exit code. */
  end(): Promise<number | null> {
    this.tell({ t: 'stop' });
    return this.#exited;
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}
