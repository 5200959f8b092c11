/** A cluster of real processes under a test's control. See README.md. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { EnclaveClient, type EnclaveClientOptions } from '../../src/index.ts';
import { RedisStore } from '../../src/store/redis/store.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { POD_TOOLS, type Pod, startBrokerPod, startRuntimePod } from '../support/pods.ts';
import { Launched, stopAll, temporaryDirectory, track, waitUntil } from '../support/processes.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';
import {
  type RedisCluster,
  type RedisServer,
  type ReplicatedRedis,
  startRedis,
  startRedisCluster,
  startReplicatedRedis,
} from '../support/redis.ts';
import { Observer } from './observer.ts';

/** What the documentation calls tuned: a broker that is gone is succeeded within three seconds. */
export const TUNED = ['--lease-ttl', '1500', '--scan', '250'] as const;

const SERVICE = path.join(import.meta.dirname, 'service.ts');
let services = 0;

export interface ChaosOptions {
  /** Default 2. */
  readonly brokers?: number | undefined;
  /** Default 2. */
  readonly runtimes?: number | undefined;
  /** Default `'standalone'`. */
  readonly redis?: 'standalone' | 'replicated' | 'cluster' | undefined;
  /** More arguments of brokers. Default {@link TUNED}. */
  readonly brokerArgs?: readonly string[] | undefined;
  readonly runtimeArgs?: readonly string[] | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
}

/** How long after its end a harm may have consequences, in ms: a lease that was lost during it ends a little later. */
const AFTERMATH_MS = 10_000;

/** A pod and its own links. */
export class ChaosPod {
  readonly pod: Pod;
  /** When something was done to it, by the wall clock. */
  readonly #harms: { readonly from: number; to: number }[] = [];
  readonly #nats: TcpProxy;
  readonly #redis: TcpProxy | undefined;

  constructor(pod: Pod, nats: TcpProxy, redis: TcpProxy | undefined) {
    this.pod = pod;
    this.#nats = nats;
    this.#redis = redis;
  }

  get id(): string {
    return this.pod.id;
  }
  /** Whether whoever took something from it at this time, in ms since the epoch, had a reason. */
  wasHarmed(at: number): boolean {
    return this.#harms.some(({ from, to }) => from <= at && at <= to + AFTERMATH_MS);
  }
  cutNats(): void {
    this.harm();
    this.#nats.cut();
  }
  cutRedis(): void {
    this.harm();
    this.#redis?.cut();
  }
  /** Hold every byte instead: connections stay. */
  stallRedis(): void {
    this.harm();
    this.#redis?.stall();
  }
  /** Whether bytes for Redis are held. */
  get holdsForRedis(): boolean {
    return this.#redis !== undefined && this.#redis.held > 0;
  }
  async mend(): Promise<void> {
    this.#redis?.resume();
    await Promise.all([this.#nats.restore(), this.#redis?.restore()]);
    this.heal();
  }
  kill(): Promise<void> {
    this.harm();
    return this.pod.kill();
  }
  pause(): void {
    this.harm();
    this.pod.pause();
  }
  resume(): void {
    this.pod.resume();
    this.heal();
  }
  drain(): Promise<number | null> {
    this.harm();
    return this.pod.drain();
  }
  async start(): Promise<void> {
    await this.pod.start();
    this.heal();
  }

  /** Something happens to it from now on: what others take from it, they take with a reason. */
  harm(): void {
    this.#harms.push({ from: Date.now(), to: Number.POSITIVE_INFINITY });
  }
  /** What happened to it is over. */
  heal(): void {
    for (const harm of this.#harms) harm.to = Math.min(harm.to, Date.now());
  }
}

export type ChaosRedis =
  | { readonly kind: 'standalone'; readonly server: RedisServer }
  | { readonly kind: 'replicated'; readonly server: ReplicatedRedis }
  | { readonly kind: 'cluster'; readonly server: RedisCluster };

export class ChaosCluster {
  readonly nats: NatsServer;
  readonly redis: ChaosRedis;
  readonly brokers: ChaosPod[] = [];
  readonly runtimes: ChaosPod[] = [];
  readonly client: EnclaveClient;
  readonly observer: Observer;
  /** Where the tools of the pods write down what they did. */
  readonly directory: string;
  readonly #options: ChaosOptions;
  readonly #clients: EnclaveClient[] = [];
  #store: RedisStore | undefined;

  private constructor(nats: NatsServer, redis: ChaosRedis, observer: Observer, options: ChaosOptions) {
    this.nats = nats;
    this.redis = redis;
    this.observer = observer;
    this.#options = options;
    this.directory = temporaryDirectory();
    mkdirSync(this.directory, { recursive: true });
    this.client = this.connect();
  }

  /** Resolves when every pod is ready and the client is connected. */
  static async start(options: ChaosOptions = {}): Promise<ChaosCluster> {
    const { brokers = 2, runtimes = 2, redis: kind = 'standalone' } = options;
    const [nats, redis] = await Promise.all([startNats(), startKind(kind)]);
    const observer = await Observer.start(nats.url);
    const cluster = new ChaosCluster(nats, redis, observer, options);
    await Promise.all([
      ...Array.from({ length: brokers }, () => cluster.addBroker()),
      ...Array.from({ length: runtimes }, () => cluster.addRuntime()),
      cluster.client.connect(),
    ]);
    return cluster;
  }

  /** Another client, closed with the cluster. */
  connect(options: EnclaveClientOptions = {}): EnclaveClient {
    const client = new EnclaveClient({ serverUrl: this.nats.url, timeout: 60_000, ...options });
    this.#clients.push(client);
    return client;
  }

  async addBroker(
    args?: readonly string[],
    program?: string,
    { skewMs }: { readonly skewMs?: number } = {},
  ): Promise<ChaosPod> {
    const nats = await startProxy(this.nats.port);
    const redis = await this.#redisProxy();
    const pod = await startBrokerPod({
      nats: nats.url('nats'),
      redis: redis?.url('redis') ?? this.#clusterUrls(),
      tools: POD_TOOLS,
      args: args ?? this.#options.brokerArgs ?? TUNED,
      program,
      skewMs,
      env: { ENCLAVE_TEST_DIR: this.directory, ...this.#options.env },
    });
    const added = new ChaosPod(pod, nats, redis);
    this.brokers.push(added);
    return added;
  }

  async addRuntime(args?: readonly string[]): Promise<ChaosPod> {
    const nats = await startProxy(this.nats.port);
    const pod = await startRuntimePod({
      nats: nats.url('nats'),
      args: args ?? this.#options.runtimeArgs ?? [],
      env: this.#options.env,
    });
    const added = new ChaosPod(pod, nats, undefined);
    this.runtimes.push(added);
    return added;
  }

  /** Start a service that provides tools and is no broker: see service.ts. Resolves when it does. */
  async addService(): Promise<Launched> {
    const service = new Launched(process.execPath, [SERVICE, this.nats.url, `service-${++services}`], {
      env: { ...process.env, ENCLAVE_TEST_DIR: this.directory },
    });
    track({ stop: () => service.kill() });
    await waitUntil(() => !service.running || service.output.includes('ready'), 'the service is ready');
    if (!service.running) throw new Error(`the service ended at its start:\n${service.output}`);
    return service;
  }

  /** The broker that owns the session; undefined while none answers for it. */
  async ownerOf(session: string): Promise<ChaosPod | undefined> {
    const { owner } = await this.client.session(session).info();
    return this.brokers.find(({ id }) => id === owner);
  }

  /** The runtime that runs the session's script, or ran the last one. */
  async runtimeOf(session: string): Promise<ChaosPod | undefined> {
    const { runtime } = await this.client.session(session).info();
    return this.runtimes.find(({ id }) => id === runtime);
  }

  /** The broker whose process has this id. */
  brokerWith(pid: number): ChaosPod | undefined {
    return this.brokers.find(({ pod }) => pod.pid === pid);
  }

  /** SIGKILL the nats-server: every pod is harmed. */
  async killNats(): Promise<void> {
    for (const pod of this.#pods) pod.harm();
    await this.nats.kill();
  }

  async restartNats(): Promise<void> {
    await this.nats.restart();
    for (const pod of this.#pods) pod.heal();
  }

  get #pods(): readonly ChaosPod[] {
    return [...this.brokers, ...this.runtimes];
  }

  /** Let the calls of `gate:pass` and `gate:put` go on that wait there. */
  open(gate: string): void {
    writeFileSync(path.join(this.directory, `${gate}.open`), '');
  }

  /** A reader of the store, as no broker is. */
  async store(): Promise<RedisStore> {
    this.#store ??= await RedisStore.open({
      redis: this.redis.kind === 'cluster' ? { cluster: this.redis.server.addresses } : this.redis.server.url,
      namespace: 'default',
    });
    return this.#store;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.observer.stop();
    await this.#store?.close();
    await stopAll();
  }

  async #redisProxy(): Promise<TcpProxy | undefined> {
    const { redis } = this;
    if (redis.kind === 'cluster') return undefined;
    // Behind the proxy that follows the master.
    return startProxy(redis.server.port);
  }

  #clusterUrls(): string {
    if (this.redis.kind !== 'cluster') throw new TypeError('it is no Cluster');
    return this.redis.server.addresses.map(({ host, port }) => `redis://${host}:${port}`).join(',');
  }
}

async function startKind(kind: ChaosRedis['kind']): Promise<ChaosRedis> {
  switch (kind) {
    case 'standalone':
      return { kind, server: await startRedis() };
    case 'replicated':
      return { kind, server: await startReplicatedRedis() };
    case 'cluster':
      return { kind, server: await startRedisCluster() };
  }
}
