/** A cluster of real processes under a test's control. See README.md. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { EnclaveClient, type EnclaveClientOptions } from '../../src/index.ts';
import { RedisStore } from '../../src/store/redis/store.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { POD_TOOLS, type Pod, skewed, startBrokerPod, startRuntimePod } from '../support/pods.ts';
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
import { scrape } from '../support/scrape.ts';
import type { Answer, Asked } from './asker.ts';
import { History } from './history.ts';
import { Observer } from './observer.ts';

/** What the documentation calls tuned: a broker that is gone is succeeded within three seconds. */
export const TUNED = ['--lease-ttl', '1500', '--scan', '250'] as const;

const SERVICE = path.join(import.meta.dirname, 'service.ts');
const ASKER = path.join(import.meta.dirname, 'asker.ts');
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

/** Another broker, where it differs from the others. */
export interface AddedBroker {
  readonly args?: readonly string[] | undefined;
  /** Instead of this release's command line. */
  readonly program?: string | undefined;
  /** How far its wall clock is ahead, in ms. Default 0. */
  readonly skewMs?: number | undefined;
}

/** How long after its end a harm may have consequences, in ms: a lease that was lost during it ends a little later. */
const AFTERMATH_MS = 10_000;

interface Harmed {
  /** By the wall clock, in ms. */
  readonly from: number;
  to: number;
  /** Whether it was cut off from NATS. */
  readonly nats: boolean;
}

/** A pod and its own links. */
export class ChaosPod {
  readonly pod: Pod;
  readonly #harms: Harmed[] = [];
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
  /** Whether it was cut off from NATS at some time after this one, in ms since the epoch. */
  wasCutFromNats(since: number): boolean {
    return this.#harms.some(({ to, nats }) => nats && since <= to + AFTERMATH_MS);
  }
  cutNats(): void {
    this.harm(true);
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
  /** Whether a request to Redis is held that has this text. */
  holdsForRedis(text: string): boolean {
    return this.#redis?.holds(text) === true;
  }
  /** How many bytes of requests to Redis are held. */
  get heldForRedis(): number {
    return this.#redis?.held ?? 0;
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
  /** `program`: another release of it. Default: the one that it had. */
  async start(program?: string): Promise<void> {
    await this.pod.start(program);
    this.heal();
  }
  /** The sum of a metric of its, over all labels; 0 if it has none. */
  async metric(name: string): Promise<number> {
    const found = [...(await scrape(this.pod))].filter(([series]) => series.replace(/\{.*/, '') === name);
    return found.reduce((sum, [, value]) => sum + value, 0);
  }

  /** Something happens to it from now on: what others take from it, they take with a reason. */
  harm(nats = false): void {
    this.#harms.push({ from: Date.now(), to: Number.POSITIVE_INFINITY, nats });
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
  /** What the store said of the sessions under load. */
  readonly history: History;
  /** Where the tools of the pods write down what they did. */
  readonly directory: string;
  readonly #options: ChaosOptions;
  readonly #clients: EnclaveClient[] = [];
  #store: RedisStore | undefined;
  #stopping = false;

  private constructor(nats: NatsServer, redis: ChaosRedis, observer: Observer, options: ChaosOptions) {
    this.nats = nats;
    this.redis = redis;
    this.observer = observer;
    this.#options = options;
    this.history = new History(() => this.store());
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

  async addBroker({ args, program, skewMs }: AddedBroker = {}): Promise<ChaosPod> {
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

  async addRuntime({ skewMs }: Pick<AddedBroker, 'skewMs'> = {}): Promise<ChaosPod> {
    const nats = await startProxy(this.nats.port);
    const pod = await startRuntimePod({
      nats: nats.url('nats'),
      args: this.#options.runtimeArgs ?? [],
      skewMs,
      env: this.#options.env,
    });
    const added = new ChaosPod(pod, nats, undefined);
    this.runtimes.push(added);
    return added;
  }

  /** Start a service that provides tools and is no broker: see service.ts. Resolves when it does. */
  async addService({ skewMs = 0 }: Pick<AddedBroker, 'skewMs'> = {}): Promise<Launched> {
    const service = new Launched(process.execPath, [SERVICE, this.nats.url, `service-${++services}`], {
      env: { ...process.env, ...skewed(skewMs), ENCLAVE_TEST_DIR: this.directory },
    });
    track({ stop: () => service.kill() });
    await waitUntil(() => !service.running || service.output.includes('ready'), 'the service is ready');
    if (!service.running) throw new Error(`the service ended at its start:\n${service.output}`);
    return service;
  }

  /** Have a client that is a process of its own, with a clock of its own, execute something: see asker.ts. */
  async askFrom(skewMs: number, asked: Asked): Promise<Answer> {
    const lines: string[] = [];
    const asker = new Launched(process.execPath, [ASKER, this.nats.url, JSON.stringify(asked)], {
      env: { ...process.env, ...skewed(skewMs) },
      onLine: (line) => lines.push(line),
    });
    track({ stop: () => asker.kill() });
    await asker.closed;
    const told = lines.find((line) => line.startsWith('{'));
    if (told === undefined) throw new Error(`the client told nothing:\n${asker.output}`);
    return JSON.parse(told) as Answer;
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
    for (const pod of this.#pods) pod.harm(true);
    await this.nats.kill();
  }

  async restartNats(): Promise<void> {
    await this.nats.restart();
    for (const pod of this.#pods) pod.heal();
  }

  /** Whether something that is published may have been lost since then, in ms since the epoch. */
  wasCutFromNats(since: number): boolean {
    return this.#pods.some((pod) => pod.wasCutFromNats(since));
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

  /** Whoever still asks it for something may end. */
  get stopping(): boolean {
    return this.#stopping;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.history.stop();
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
