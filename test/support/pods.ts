/** Pods: brokers and runtimes as processes of their own, started through the command line as an operator would. */
import path from 'node:path';
import { childrenOf, freePort, HOST, Launched, track, waitUntil } from './processes.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
/** The command line of this release. */
export const CLI = path.join(ROOT, 'src/cli.ts');
/** Tools that pods provide: see podtools.ts. */
export const POD_TOOLS = path.join(import.meta.dirname, 'podtools.ts');
/** A loaded machine may take long to start a process. */
const START_MS = 60_000;
/** The command line of the next release: see nextpod.ts. */
export const NEXT_POD = path.join(import.meta.dirname, 'nextpod.ts');
const SKEW = path.join(import.meta.dirname, 'skew.ts');

export interface PodOptions {
  /** Default: a new one. */
  readonly id?: string | undefined;
  readonly nats: string;
  readonly args?: readonly string[] | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** The program to start instead of the command line. */
  readonly program?: string | undefined;
  /** How far its wall clock is ahead, in ms; negative: behind. Default 0. */
  readonly skewMs?: number | undefined;
}

export interface BrokerPodOptions extends PodOptions {
  /** A url, or several of a Redis Cluster joined by commas. */
  readonly redis: string;
  /** Module of the tools that it provides. Default: none. */
  readonly tools?: string | undefined;
}

export interface RuntimePodOptions extends PodOptions {
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Default 1. */
  readonly poolSize?: number | undefined;
}

/** A line that a pod logged, parsed. */
export type Logged = Readonly<Record<string, unknown>>;

/** Lines of one message that a pod keeps: of more nobody could say how often it was. */
const KEPT_OF_A_KIND = 20_000;

let pods = 0;

/** Resolves when it is ready. */
export function startBrokerPod(options: BrokerPodOptions): Promise<Pod> {
  const { redis, tools, args = [] } = options;
  const given = tools === undefined ? [] : ['--tools', tools];
  return start('broker', { ...options, args: ['--redis', redis, ...given, ...args] });
}

/** Resolves when it is ready. */
export function startRuntimePod(options: RuntimePodOptions): Promise<Pod> {
  const { labels, poolSize = 1, args = [] } = options;
  const words = Object.entries(labels ?? {}).map(([key, value]) => `${key}=${value}`);
  const given = words.length === 0 ? [] : ['--labels', words.join(',')];
  return start('runtime', { ...options, args: ['--pool-size', String(poolSize), ...given, ...args] });
}

async function start(role: 'broker' | 'runtime', options: PodOptions): Promise<Pod> {
  const id = options.id ?? `${role}-${process.pid}-${++pods}`;
  const pod = track(new Pod(role, id, await freePort(), options));
  await pod.start();
  return pod;
}

export class Pod {
  readonly role: 'broker' | 'runtime';
  readonly id: string;
  readonly port: number;
  readonly #options: PodOptions;
  #process: Launched | undefined;
  #program: string;
  /** By message, in all its lives. */
  readonly #logged = new Map<string, Logged[]>();

  constructor(role: 'broker' | 'runtime', id: string, port: number, options: PodOptions) {
    this.role = role;
    this.id = id;
    this.port = port;
    this.#options = options;
    this.#program = options.program ?? CLI;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }
  get running(): boolean {
    return this.#process?.running === true;
  }
  /** What it logged last. */
  get output(): string {
    return this.#process?.output ?? '';
  }
  /** How far its wall clock is ahead, in ms. */
  get skewMs(): number {
    return this.#options.skewMs ?? 0;
  }
  /**
   * Its log lines whose message says so, in the order of their coming; those of its earlier lives too.
   *
   * @throws Error when there were too many of them to keep.
   */
  logged(message: string): readonly Logged[] {
    const found = [...this.#logged].filter(([text]) => text.includes(message)).map(([, lines]) => lines);
    if (found.some(({ length }) => length >= KEPT_OF_A_KIND))
      throw new Error(`${this.id} logged '${message}' too often for anybody to count`);
    const [one = [], ...more] = found;
    return more.length === 0 ? one : found.flat().toSorted((a, b) => Number(a.time) - Number(b.time));
  }

  #keep(line: string): void {
    if (!line.startsWith('{')) return;
    let logged: Logged;
    try {
      logged = JSON.parse(line) as Logged;
    } catch {
      return; // Something that looks like it.
    }
    const message = String(logged.msg);
    const lines = this.#logged.get(message) ?? [];
    this.#logged.set(message, lines);
    if (lines.length < KEPT_OF_A_KIND) lines.push(logged);
  }

  /** Start it, again under the same id if it has ended. `program`: default the one that it had. Resolves when it is ready. */
  async start(program = this.#program): Promise<void> {
    const { nats, args = [], env = {} } = this.#options;
    this.#program = program;
    const words = [this.role, '--nats', nats, '--id', this.id, '--port', String(this.port), '--host', HOST];
    const launched = new Launched(process.execPath, [program, ...words, ...args], {
      cwd: ROOT,
      env: { ...process.env, NODE_ENV: 'test', ...skewed(this.skewMs), ...env },
      onLine: (line) => this.#keep(line),
    });
    this.#process = launched;
    const isReadyOrGone = async (): Promise<boolean> => !launched.running || (await this.ready());
    await waitUntil(isReadyOrGone, `${this.id} is ready`, START_MS).catch(async (error) => {
      await launched.kill();
      throw new Error(`${(error as Error).message}:\n${launched.output}`);
    });
    if (!launched.running) throw new Error(`${this.id} ended at its start:\n${launched.output}`);
  }

  /** What its readiness endpoint says. */
  async ready(): Promise<boolean> {
    return (await this.get('/readyz')).status === 200;
  }

  async get(route: string): Promise<{ readonly status: number; readonly text: string }> {
    const response = await fetch(`http://${HOST}:${this.port}${route}`, {
      signal: AbortSignal.timeout(2_000),
    });
    return { status: response.status, text: await response.text() };
  }

  /** SIGSTOP it and its workers, as a frozen machine would. */
  pause(): void {
    for (const pid of this.#tree()) signal(pid, 'SIGSTOP');
  }

  resume(): void {
    for (const pid of this.#tree()) signal(pid, 'SIGCONT');
  }

  /** SIGKILL. Resolves when the process is gone; its workers follow by themselves. */
  async kill(): Promise<void> {
    await this.#process?.kill();
  }

  /** SIGTERM, and wait for its end however long it drains. Resolves to the exit code. */
  async drain(): Promise<number | null> {
    this.#process?.signal('SIGTERM');
    await this.#process?.exited;
    return this.#process?.exitCode ?? null;
  }

  async stop(): Promise<void> {
    if (!this.running) return;
    this.resume();
    await this.kill();
  }

  /** Its process and the children of that. */
  #tree(): readonly number[] {
    const { pid } = this;
    return this.running ? [pid, ...childrenOf(pid)] : [];
  }
}

/** The environment of a process whose wall clock is ahead by so much. */
export function skewed(skewMs: number): Readonly<Record<string, string>> {
  if (skewMs === 0) return {};
  return { NODE_OPTIONS: `--import ${SKEW}`, ENCLAVE_TEST_SKEW_MS: String(skewMs) };
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}
