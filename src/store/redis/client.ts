/**
 * The only module that imports `ioredis`: connections to one Redis, or to the nodes of a Redis Cluster, that do
 * nothing by themselves.
 *
 *  C1  A command is written at once or refused at once: there is no queue of commands for later.
 *  C2  A command is written once. ioredis resends what a lost connection left unanswered, and sends again what
 *      it was redirected with or what a node of a Cluster closed its connection on; a script that is resent
 *      runs twice. So resending is off, and a Cluster is used for its map only: commands go to the connections
 *      of its nodes.
 *  C3  A connection that is silent while it owes an answer is closed after `timeoutMs`, and made anew: a
 *      network that drops packets says nothing else. Meanwhile commands are refused, which is certain, instead
 *      of lost.
 */
import { Cluster, type ClusterOptions, Command, Redis, type RedisOptions } from 'ioredis';
import { invalidArgument } from '../../errors.ts';
import { SLOTS } from './keys.ts';

/** What the constructor takes. */
type ClusterSettings = NonNullable<ConstructorParameters<typeof Cluster>[1]>;

/** A client of ioredis, for one Redis or for a Cluster. */
export type RedisClient = Redis | Cluster;

/**
 * The options of ioredis, and for a Redis Cluster `cluster`, where some of its nodes are.
 *
 * `maxRetriesPerRequest` is how often a read is tried again (default 3); writes never are. `commandTimeout` is
 * the default of the store's `commandTimeoutMs`. `scaleReads` is for the scans of indexes only, whose answers
 * are checked with the masters. `open` connects whatever `lazyConnect` says. Options about queues, resending
 * and pipelining say nothing here (C1, C2).
 */
export interface RedisConnection extends Omit<RedisOptions, 'natMap'> {
  readonly cluster?: readonly { readonly host?: string; readonly port?: number }[] | undefined;
  readonly scaleReads?: 'master' | 'slave' | 'all' | undefined;
  /** Of the nodes of a Cluster; beside them, the other options here are theirs, too. */
  readonly redisOptions?: ClusterOptions['redisOptions'] | undefined;
  /** Of a Cluster: where its nodes are seen from here. */
  readonly natMap?: ClusterOptions['natMap'] | null | undefined;
}

/** A connection to one server. */
export interface Node {
  /** `host:port` */
  readonly address: string;
  /** True if a command is written at once. */
  readonly ready: boolean;
  /** Another number for every connection that was made: what was said on one is nothing to the next. */
  readonly connection: number;
  /** Resolves at the next change for the better or the worse; connects if that was not done. */
  change(): Promise<void>;
  call(command: string, args: readonly (string | number)[]): Promise<unknown>;
  /** Close the connection and make it anew: the name may lead to another server by now. */
  renew(): void;
}

/** Connections to all of a Redis. */
export interface Link {
  readonly isCluster: boolean;
  readonly connected: boolean;
  /**
   * The master of a slot, or a replica of it if that is allowed and there is one; undefined if it is not known.
   */
  nodeOf(slot: number, replica?: boolean): Node | undefined;
  /** Of a redirection. */
  nodeAt(address: string): Node | undefined;
  /** Of all slots; undefined if that is not known. */
  masters(): readonly Node[] | undefined;
  /** Ask for the map of the Cluster again. */
  refresh(): void;
  /** Begin to connect, and go on until `close`. */
  connect(): void;
  /** Called with whatever goes wrong. */
  onError: (error: Error) => void;
  /** Called after a connection was made or lost. */
  onChange: () => void;
  close(): void;
}

/** What is the same for both connections of a store. */
export interface Origin {
  /** What the user's own client puts before every key. */
  readonly prefix: string;
  /** How often a read is tried again. */
  readonly readRetries: number;
  /** The time-out that the user's own client has, in ms, if it has one. */
  readonly commandTimeoutMs: number | undefined;
  /** Whether scans may read from replicas. */
  readonly scans: boolean;
  /** A new connection, not connected yet. */
  link(purpose: string, timeoutMs: number): Link;
}

/** Reads what the user gave. Throws INVALID_ARGUMENT naming `redis`. */
export function originOf(redis: unknown): Origin {
  const model = modelOf(redis);
  const cluster = isCluster(model);
  const own = cluster ? (model.options.redisOptions ?? {}) : model.options;
  const { maxRetriesPerRequest, commandTimeout } = own;
  // null is for ever, which the time-out ends; 20 is the default of ioredis: nobody asked for it.
  const retries = maxRetriesPerRequest === null ? Number.POSITIVE_INFINITY : maxRetriesPerRequest;
  const readRetries = retries === undefined || retries === DEFAULTS.maxRetriesPerRequest ? 3 : retries;
  const prefix = model.options.keyPrefix ?? '';
  return {
    prefix: String(prefix),
    readRetries,
    commandTimeoutMs: commandTimeout,
    scans: cluster && (model.options.scaleReads ?? 'master') !== 'master',
    link: (purpose, timeoutMs) =>
      cluster ? new ClusterLink(model, purpose, timeoutMs) : new SingleLink(model, purpose, timeoutMs),
  };
}

/** A client that is only copied from; our own of them never connect. */
function modelOf(redis: unknown): RedisClient {
  if (typeof redis === 'string') {
    if (!/^rediss?:\/\//.test(redis))
      throw invalidArgument('redis', 'a url must begin with redis:// or rediss://');
    return new Redis(redis, { lazyConnect: true });
  }
  if (typeof redis !== 'object' || redis === null || Array.isArray(redis))
    throw invalidArgument('redis', 'must be a url, options of ioredis, or a client of ioredis');
  // A client may come from another copy of ioredis, so that `instanceof` says nothing.
  const { duplicate, sendCommand } = redis as { duplicate?: unknown; sendCommand?: unknown };
  if (typeof duplicate === 'function' && typeof sendCommand === 'function') return redis as RedisClient;
  if (duplicate !== undefined || sendCommand !== undefined || 'connect' in redis || 'sendCommand' in redis)
    throw invalidArgument('redis', 'is a client, but not one of ioredis');
  const { cluster, scaleReads, redisOptions, natMap, ...options } = redis as RedisConnection;
  if (cluster === undefined)
    return new Redis(
      defined({ ...options, natMap, lazyConnect: true }) as Omit<RedisOptions, 'replyMapping'>,
    );
  if (!Array.isArray(cluster) || cluster.length === 0)
    throw invalidArgument('redis.cluster', 'must be a list of at least one { host, port }');
  if (scaleReads !== undefined && !['master', 'slave', 'all'].includes(scaleReads))
    throw invalidArgument('redis.scaleReads', "must be 'master', 'slave' or 'all'");
  const { host: _host, port: _port, keyPrefix, ...shared } = options;
  const nodes = { ...defined(shared), ...defined(redisOptions ?? {}) };
  const own = { lazyConnect: true, scaleReads, natMap: natMap ?? undefined, keyPrefix, redisOptions: nodes };
  return new Cluster([...cluster], defined(own) as ClusterSettings);
}

/** Without the keys that are there and undefined: to ioredis those are not the default. */
function defined(options: object): object {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function isCluster(client: RedisClient): client is Cluster {
  return client.isCluster;
}

/** What every connection of ours has, whatever its model has (C1 to C3). */
const overrides = (purpose: string, timeoutMs: number) =>
  ({
    lazyConnect: true,
    keyPrefix: '',
    connectionName: `enclave-${purpose}`,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout: undefined,
    blockingTimeout: undefined,
    socketTimeout: timeoutMs,
    enableAutoPipelining: false,
    reconnectOnError: null,
    readOnly: false,
    monitor: false,
    stringNumbers: false,
    replyMapping: 'legacy',
    himportFieldsets: undefined,
  }) as const;

/** Longest wait before the next try to connect, in ms. */
const MAX_RECONNECT_MS = 1_000;

/** How long one node of a Cluster may take to show the map before another one is asked, in ms. */
const MAX_REFRESH_MS = 1_000;

const reconnectDelay = (times: number): number =>
  Math.min(50 * 2 ** Math.min(times - 1, 10), MAX_RECONNECT_MS);

/** What ioredis gives to who says nothing: those are not wishes. */
const DEFAULTS = new Redis({ lazyConnect: true }).options;

class RedisNode implements Node {
  readonly address: string;
  readonly #redis: Redis;
  readonly #waiting: (() => void)[] = [];
  #connection = 0;
  #corked = false;

  constructor(redis: Redis) {
    this.#redis = redis;
    const { host = '127.0.0.1', port = 6379 } = redis.options;
    this.address = redis.options.path ?? `${host}:${port}`;
    redis.on('close', () => {
      this.#connection++;
    });
    for (const status of ['ready', 'close', 'end'])
      redis.on(status, () => {
        for (const resolve of this.#waiting.splice(0)) resolve();
      });
  }

  get ready(): boolean {
    return this.#redis.status === 'ready' && this.#redis.stream.writable;
  }

  get connection(): number {
    return this.#connection;
  }

  change(): Promise<void> {
    const redis = this.#redis;
    if (redis.status === 'ready' || redis.status === 'end') return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      if (redis.status === 'wait') redis.connect().catch(() => undefined);
    });
  }

  call(command: string, args: readonly (string | number)[]): Promise<unknown> {
    this.#cork();
    const sent = new Command(command, args as (string | number)[], { replyEncoding: 'utf8' });
    this.#redis.sendCommand(sent);
    return sent.promise;
  }

  renew(): void {
    if (this.#redis.status === 'ready') this.#redis.disconnect(true);
  }

  /** What is sent in one tick is one write to the socket. */
  #cork(): void {
    if (this.#corked || !this.ready) return;
    this.#corked = true;
    const { stream } = this.#redis;
    stream.cork();
    setImmediate(() => {
      this.#corked = false;
      stream.uncork();
    });
  }
}

class SingleLink implements Link {
  readonly isCluster = false;
  onError: (error: Error) => void = () => undefined;
  onChange: () => void = () => undefined;
  readonly #redis: Redis;
  readonly #node: RedisNode;

  constructor(model: Redis, purpose: string, timeoutMs: number) {
    const { retryStrategy, connectTimeout } = model.options;
    this.#redis = model.duplicate({
      ...overrides(purpose, timeoutMs),
      connectTimeout: connectTimeout === DEFAULTS.connectTimeout ? timeoutMs : connectTimeout,
      // ioredis waits for up to 5 s by default; whoever set another strategy means it.
      retryStrategy: retryStrategy === DEFAULTS.retryStrategy ? reconnectDelay : retryStrategy,
    });
    this.#node = new RedisNode(this.#redis);
    this.#redis.on('error', (error: Error) => this.onError(error));
    for (const status of ['ready', 'close', 'end']) this.#redis.on(status, () => this.onChange());
  }

  get connected(): boolean {
    return this.#node.ready;
  }

  nodeOf(): Node {
    return this.#node;
  }

  nodeAt(): Node | undefined {
    return undefined;
  }

  masters(): readonly Node[] {
    return [this.#node];
  }

  refresh(): void {}

  connect(): void {
    this.#redis.connect().catch(() => undefined);
  }

  close(): void {
    this.#redis.disconnect();
  }
}

class ClusterLink implements Link {
  readonly isCluster = true;
  onError: (error: Error) => void = () => undefined;
  onChange: () => void = () => undefined;
  readonly #cluster: Cluster;
  readonly #nodes = new WeakMap<Redis, RedisNode>();

  constructor(model: Cluster, purpose: string, timeoutMs: number) {
    const { lazyConnect: _, keyPrefix: __, enableOfflineQueue: ___, ...node } = overrides(purpose, timeoutMs);
    this.#cluster = model.duplicate([], {
      lazyConnect: true,
      keyPrefix: '',
      enableOfflineQueue: false,
      enableAutoPipelining: false,
      shardedSubscribers: false,
      slotsRefreshTimeout: Math.min(timeoutMs, MAX_REFRESH_MS),
      clusterRetryStrategy: reconnectDelay,
      // A master that is gone comes back as a replica, or not at all: the map tells.
      clusterNodeRetryStrategy: null,
      redisOptions: { connectTimeout: timeoutMs, ...model.options.redisOptions, ...node, keyPrefix: '' },
    } as ClusterSettings) as Cluster;
    this.#cluster.on('error', (error: Error) => this.#failed(error));
    this.#cluster.on('node error', (error: Error) => this.onError(error));
    this.#cluster.on('+node', () => this.onChange());
    this.#cluster.on('-node', () => this.onChange());
    for (const status of ['ready', 'close', 'end']) this.#cluster.on(status, () => this.onChange());
  }

  get connected(): boolean {
    return this.#cluster.status === 'ready';
  }

  nodeOf(slot: number, replica = false): Node | undefined {
    if (!this.connected) return undefined;
    const [master, ...replicas] = this.#cluster.slots[slot] ?? [];
    const key = replica ? (replicas[Math.floor(Math.random() * replicas.length)] ?? master) : master;
    return key === undefined ? undefined : this.#at(key);
  }

  nodeAt(address: string): Node | undefined {
    const { natMap } = this.#cluster.options;
    const mapped = typeof natMap === 'function' ? natMap(address) : natMap?.[address];
    return this.#at(mapped === undefined || mapped === null ? address : `${mapped.host}:${mapped.port}`);
  }

  masters(): readonly Node[] | undefined {
    const { slots } = this.#cluster;
    const keys = new Set(Array.from({ length: SLOTS }, (_, slot) => slots[slot]?.[0]));
    const nodes = [...keys].map((key) => (key === undefined ? undefined : this.#at(key)));
    return nodes.every((node) => node !== undefined) ? nodes : undefined;
  }

  refresh(): void {
    if (this.connected) this.#cluster.refreshSlotsCache();
  }

  connect(): void {
    this.#cluster.connect().catch((error: Error) => this.#failed(error));
  }

  close(): void {
    this.#cluster.disconnect();
  }

  #at(key: string): Node | undefined {
    const found = this.#cluster
      .nodes('all')
      .find(({ options: { host = '127.0.0.1', port = 6379 } }) => `${host}:${port}` === key);
    return found === undefined ? undefined : this.#nodeFor(found);
  }

  #nodeFor(redis: Redis): RedisNode {
    const known = this.#nodes.get(redis);
    if (known !== undefined) return known;
    const node = new RedisNode(redis);
    this.#nodes.set(redis, node);
    return node;
  }

  /** The reason is in what its nodes said, if anywhere. */
  #failed(error: Error): void {
    const { lastNodeError } = error as { lastNodeError?: unknown };
    this.onError(lastNodeError instanceof Error ? lastNodeError : error);
  }
}
