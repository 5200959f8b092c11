/** Real redis-servers for tests: alone, replicated, and as a Cluster. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { binary } from './install.ts';
import { HOST, type OwnServer, type Server, startServer, waitUntil } from './processes.ts';
import { startProxy, type TcpProxy } from './proxy.ts';

const run = promisify(execFile);

/** How long a command of {@link RedisServer.cli} may take. */
const COMMAND_MS = 5000;
const SLOTS = 16_384;

export interface RedisOptions {
  /**
   * Whether writes go to an append-only file. Default true, synced every second: a write is in the file before its
   * reply is sent, so that a SIGKILL loses nothing acknowledged; only a dying machine would lose the last second,
   * and no test can kill that. `always` would measure the disk of the machine instead.
   */
  readonly appendonly?: boolean | undefined;
  /** More arguments of redis-server: `['--maxmemory', '10mb']`. */
  readonly args?: readonly string[] | undefined;
  /** Default: a free one. */
  readonly port?: number | undefined;
  /** Of the default user. Default: none. */
  readonly password?: string | undefined;
}

export interface RedisServer extends Server {
  /**
   * One command over a connection of its own, answered as `redis-cli --raw` prints it. What belongs to a connection
   * makes no sense here: a WAIT waits for nothing.
   *
   * @throws Error with the server's answer, when that is an error; also when nothing comes for 5 s.
   */
  cli(...args: readonly string[]): Promise<string>;
}

/** Starts a redis-server on loopback. Resolves when it accepts connections. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  return await start(options, () => []);
}

type OwnRedis = OwnServer & RedisServer;

async function start(options: RedisOptions, more: (secondPort: number) => string[]): Promise<OwnRedis> {
  const { appendonly = true, args = [], port, password } = options;
  const secret = password === undefined ? '' : `:${encodeURIComponent(password)}@`;
  const server = await startServer({
    name: 'redis-server',
    command: binary('redis-server'),
    port,
    url: (own) => `redis://${secret}${HOST}:${own}`,
    args: (place) => [
      ...['--port', String(place.port), '--bind', HOST, '--dir', place.directory],
      ...['--logfile', '', '--daemonize', 'no', '--save', ''],
      ...['--appendonly', appendonly ? 'yes' : 'no', '--appendfsync', 'everysec'],
      ...(password === undefined ? [] : ['--requirepass', password, '--masterauth', password]),
      ...more(place.secondPort),
      ...args,
    ],
    ready: ({ output }) => output.includes('Ready to accept connections'),
  });
  return Object.assign(server, { cli: clientOf(server.port, password) });
}

/** See {@link RedisServer.cli}. */
export function clientOf(port: number, password?: string): RedisServer['cli'] {
  const env = { ...process.env, ...(password === undefined ? {} : { REDISCLI_AUTH: password }) };
  return async (...args) => {
    const all = ['-h', HOST, '-p', String(port), '--raw', '-e', ...args];
    const { stdout } = await run(binary('redis-cli'), all, { env, timeout: COMMAND_MS });
    return stdout.replace(/\n$/, '');
  };
}

/** The fields that `INFO <section>` or `CLUSTER INFO` answers. */
async function fields(server: RedisServer, ...command: string[]): Promise<ReadonlyMap<string, string>> {
  const text = await server.cli(...command);
  return new Map(
    text.split(/\r?\n/).map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1)];
    }),
  );
}

/** How many replicas the master counts in a WAIT: that a replica is connected does not say so. */
function onlineReplicas(master: ReadonlyMap<string, string>): number {
  return [...master].filter(([key, value]) => /^slave\d+$/.test(key) && value.includes('state=online'))
    .length;
}

// --- Replicated

/** Redis waits 5 s for more replicas before it sends them the data; tests need not. */
const SOON_IN_SYNC = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1'];

export interface ReplicatedOptions extends Omit<RedisOptions, 'port'> {
  /** How many replicas the master has at the start. Default 1. */
  readonly replicas?: number | undefined;
}

/** A master with replicas, behind one address that follows the master. */
export interface ReplicatedRedis {
  readonly host: string;
  /** Of the proxy. */
  readonly port: number;
  /** Leads to the master of the time. */
  readonly url: string;
  readonly proxy: TcpProxy;
  readonly master: RedisServer;
  readonly replicas: readonly RedisServer[];
  /** Those that were master once, and did not come back. */
  readonly former: readonly RedisServer[];
  pauseReplica(index?: number): void;
  /** Resumes it, and has it follow the present master. Resolves when it agrees. */
  resumeReplica(index?: number): Promise<void>;
  /**
   * Makes the replica that has seen most the master, whether or not the old one lives, and leads the address there.
   * Old connections are cut first: what an old master still takes from elsewhere is lost. Paused replicas are
   * passed over. Resolves when the new master serves the address.
   *
   * @throws Error when there is no replica that answers.
   */
  failOver(): Promise<RedisServer>;
  /** Starts those that were master again as replicas of the present one. Resolves when they are in sync. */
  rejoin(): Promise<void>;
  /** Resolves when every replica that answers has all that the master has. */
  inSync(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a master and its replicas. Resolves when they are in sync. */
export async function startReplicatedRedis(options: ReplicatedOptions = {}): Promise<ReplicatedRedis> {
  const { replicas = 1 } = options;
  const own = { ...options, args: [...SOON_IN_SYNC, ...(options.args ?? [])] };
  const [master, ...others] = await allOrNone(
    Array.from({ length: replicas + 1 }, () => start(own, () => [])),
  );
  if (master === undefined) throw new Error('`replicas` must be at least 0');
  const proxy = await startProxy(master.port);
  const secret = master.url.slice('redis://'.length, -`${HOST}:${master.port}`.length);
  const url = `redis://${secret}${HOST}:${proxy.port}`;
  const group = new OwnReplicated(url, proxy, master, others);
  return await orStop(group, async () => {
    await Promise.all(others.map((replica) => follow(replica, master)));
    await group.inSync();
  });
}

/** All of them; when one fails, the others are stopped. */
async function allOrNone(starts: readonly Promise<OwnRedis>[]): Promise<OwnRedis[]> {
  const settled = await Promise.allSettled(starts);
  const started = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  const failed = settled.find((one) => one.status === 'rejected');
  if (failed === undefined) return started;
  await Promise.all(started.map((one) => one.stop()));
  throw failed.reason;
}

/** Resolves to the group when it is made; when that fails, nothing of it stays. */
async function orStop<T extends { stop(): Promise<void> }>(group: T, make: () => Promise<void>): Promise<T> {
  try {
    await make();
    return group;
  } catch (error) {
    await group.stop();
    throw error;
  }
}

async function follow(replica: RedisServer, master: RedisServer): Promise<void> {
  await replica.cli('REPLICAOF', master.host, String(master.port));
}

class OwnReplicated implements ReplicatedRedis {
  readonly host = HOST;
  readonly port: number;
  readonly url: string;
  readonly proxy: TcpProxy;
  #master: RedisServer;
  #replicas: readonly RedisServer[];
  #former: readonly RedisServer[] = [];

  constructor(url: string, proxy: TcpProxy, master: RedisServer, replicas: readonly RedisServer[]) {
    this.url = url;
    this.proxy = proxy;
    this.port = proxy.port;
    this.#master = master;
    this.#replicas = replicas;
  }

  get master(): RedisServer {
    return this.#master;
  }

  get replicas(): readonly RedisServer[] {
    return this.#replicas;
  }

  get former(): readonly RedisServer[] {
    return this.#former;
  }

  pauseReplica(index = 0): void {
    this.#replica(index).pause();
  }

  async resumeReplica(index = 0): Promise<void> {
    this.#replica(index).resume();
    await follow(this.#replica(index), this.#master);
  }

  async failOver(): Promise<RedisServer> {
    this.proxy.cut();
    const next = await this.#best();
    await next.cli('REPLICAOF', 'NO', 'ONE');
    this.#former = [...this.#former, this.#master];
    this.#master = next;
    this.#replicas = this.#replicas.filter((one) => one !== next);
    await this.#repoint();
    this.proxy.target(next.port);
    await this.proxy.restore();
    return next;
  }

  async rejoin(): Promise<void> {
    const back = this.#former;
    await Promise.all(back.map((one) => one.restart()));
    this.#replicas = [...this.#replicas, ...back];
    this.#former = [];
    await this.#repoint();
    await this.inSync();
  }

  async inSync(): Promise<void> {
    const replicas = this.#replicas.filter((one) => one.answering);
    await waitUntil(async () => {
      const master = await fields(this.#master, 'INFO', 'replication');
      const states = await Promise.all(replicas.map((one) => fields(one, 'INFO', 'replication')));
      return (
        onlineReplicas(master) >= replicas.length &&
        states.every(
          (state) =>
            state.get('master_port') === String(this.#master.port) &&
            state.get('master_link_status') === 'up' &&
            Number(state.get('slave_repl_offset')) >= Number(master.get('master_repl_offset')),
        )
      );
    }, 'the replicas are in sync');
  }

  async stop(): Promise<void> {
    await this.proxy.stop();
    const all = [this.#master, ...this.#replicas, ...this.#former];
    await Promise.all(all.map((one) => one.stop()));
  }

  /** A paused one is told when it is resumed. */
  async #repoint(): Promise<void> {
    await Promise.all(this.#replicas.filter((one) => one.answering).map((one) => follow(one, this.#master)));
  }

  #replica(index: number): RedisServer {
    const replica = this.#replicas[index];
    if (replica === undefined) throw new Error(`there is no replica ${index}`);
    return replica;
  }

  async #best(): Promise<RedisServer> {
    const ranked = await Promise.all(
      this.#replicas
        .filter((one) => one.answering)
        .map(async (one) => ({
          one,
          seen: Number((await fields(one, 'INFO', 'replication')).get('slave_repl_offset')),
        })),
    );
    const best = ranked.sort((a, b) => b.seen - a.seen)[0];
    if (best === undefined) throw new Error('there is no replica that answers');
    return best.one;
  }
}

// --- Cluster

const MASTERS = 3;

export interface ClusterOptions extends Omit<RedisOptions, 'port'> {
  /** After which silence a node is taken for dead. Default 1500. */
  readonly nodeTimeoutMs?: number | undefined;
}

/** Three masters, each with a third of the slots and one replica. */
export interface RedisCluster {
  /** All six, in the order of their start; the first three began as masters. */
  readonly nodes: readonly RedisServer[];
  /** Of all six, as a Cluster client takes them. */
  readonly addresses: readonly { readonly host: string; readonly port: number }[];
  /** Those that answer and hold slots, in the order of their first slot. */
  masters(): Promise<readonly RedisServer[]>;
  /** The master that holds the slot of this key. */
  masterOf(key: string): Promise<RedisServer>;
  /** SIGKILL the master number `index` of {@link masters}. Returns it; it may be restarted, and becomes a replica. */
  killMaster(index?: number): Promise<RedisServer>;
  /** Resolves when the nodes that answer hold all slots, and all of them say so. */
  waitForFailOver(): Promise<void>;
  /** Resolves when, besides, every node answers and every replica is connected to its master. */
  waitUntilWhole(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts six nodes and joins them. Resolves when the Cluster is whole. */
export async function startRedisCluster(options: ClusterOptions = {}): Promise<RedisCluster> {
  const { nodeTimeoutMs = 1500 } = options;
  const own = { ...options, args: [...SOON_IN_SYNC, ...(options.args ?? [])] };
  const clustered = (secondPort: number) => [
    ...['--cluster-enabled', 'yes', '--cluster-node-timeout', String(nodeTimeoutMs)],
    // A bus port of its own choice need not be the port + 10000. Replicas stay with their masters.
    ...['--cluster-port', String(secondPort), '--cluster-allow-replica-migration', 'no'],
  ];
  const starts = Array.from({ length: 2 * MASTERS }, () => start(own, clustered));
  const nodes = await allOrNone(starts);
  const cluster = new OwnCluster(nodes);
  return await orStop(cluster, async () => {
    await form(nodes);
    await cluster.waitUntilWhole();
  });
}

/** By hand: `redis-cli --cluster create` sleeps for seconds between its steps. */
async function form(nodes: readonly OwnRedis[]): Promise<void> {
  const masters = nodes.slice(0, MASTERS);
  const share = (part: number) => Math.floor((part * SLOTS) / MASTERS);
  await Promise.all(
    masters.map(async (node, i) => {
      await node.cli('CLUSTER', 'SET-CONFIG-EPOCH', String(i + 1));
      await node.cli('CLUSTER', 'ADDSLOTSRANGE', String(share(i)), String(share(i + 1) - 1));
    }),
  );
  await Promise.all(
    nodes.map(async (node, i) => {
      // Everybody meets those before it: gossip alone would take its time.
      for (const { port, secondPort } of nodes.slice(0, i)) {
        await node.cli('CLUSTER', 'MEET', HOST, String(port), String(secondPort));
      }
    }),
  );
  const ids = await Promise.all(masters.map((node) => node.cli('CLUSTER', 'MYID')));
  await Promise.all(
    ids.map((id, i) => {
      const replica = nodes[MASTERS + i];
      // Refused until the replica has heard of the master.
      const agrees = async () => (await replica?.cli('CLUSTER', 'REPLICATE', id)) === 'OK';
      return waitUntil(agrees, `node ${MASTERS + i} becomes a replica`);
    }),
  );
}

/** What one node says about one node. */
interface Seen {
  readonly port: number;
  readonly flags: readonly string[];
  readonly connected: boolean;
  /** Ranges: '0-5460', '7'. */
  readonly slots: readonly string[];
}

class OwnCluster implements RedisCluster {
  readonly nodes: readonly RedisServer[];

  constructor(nodes: readonly RedisServer[]) {
    this.nodes = nodes;
  }

  get addresses(): readonly { readonly host: string; readonly port: number }[] {
    return this.nodes.map(({ host, port }) => ({ host, port }));
  }

  async masters(): Promise<readonly RedisServer[]> {
    const holders = (await this.#view(this.#anyone())).filter(({ slots }) => slots.length > 0);
    const inOrder = holders.sort((a, b) => firstSlot(a) - firstSlot(b));
    return inOrder.map(({ port }) => this.#at(port)).filter((node) => node.answering);
  }

  async masterOf(key: string): Promise<RedisServer> {
    const node = this.#anyone();
    const slot = Number(await node.cli('CLUSTER', 'KEYSLOT', key));
    const holder = (await this.#view(node)).find(({ slots }) => slots.some((range) => holds(range, slot)));
    if (holder === undefined) throw new Error(`nobody holds slot ${slot}`);
    return this.#at(holder.port);
  }

  async killMaster(index = 0): Promise<RedisServer> {
    const master = (await this.masters())[index];
    if (master === undefined) throw new Error(`there is no master ${index}`);
    await master.kill();
    return master;
  }

  async waitForFailOver(): Promise<void> {
    const answering = () => this.nodes.filter((node) => node.answering);
    await waitUntil(
      async () => (await Promise.all(answering().map((node) => this.#isServed(node)))).every(Boolean),
      'the nodes that answer hold all slots',
    );
  }

  async waitUntilWhole(): Promise<void> {
    await waitUntil(
      async () => (await Promise.all(this.nodes.map((node) => this.#isWhole(node)))).every(Boolean),
      'the Cluster is whole',
    );
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()));
  }

  async #isServed(node: RedisServer): Promise<boolean> {
    if ((await fields(node, 'CLUSTER', 'INFO')).get('cluster_state') !== 'ok') return false;
    const holders = (await this.#view(node)).filter(({ slots }) => slots.length > 0);
    const held = holders.flatMap(({ slots }) => slots).reduce((sum, range) => sum + size(range), 0);
    return held === SLOTS && holders.every(({ port }) => this.#at(port).answering);
  }

  async #isWhole(node: RedisServer): Promise<boolean> {
    if (!node.answering || !(await this.#isServed(node))) return false;
    const seen = await this.#view(node);
    const healthy = seen.every(
      ({ connected, flags }) => connected && !flags.some((flag) => /fail|handshake/.test(flag)),
    );
    const replicas = seen.filter(({ flags }) => flags.includes('slave')).length;
    if (!healthy || seen.length !== this.nodes.length || replicas !== this.nodes.length - MASTERS)
      return false;
    const state = await fields(node, 'INFO', 'replication');
    return state.get('role') === 'master'
      ? onlineReplicas(state) === 1
      : state.get('master_link_status') === 'up';
  }

  async #view(node: RedisServer): Promise<Seen[]> {
    const lines = (await node.cli('CLUSTER', 'NODES')).split('\n').filter((line) => line !== '');
    return lines.map((line) => {
      const [, address = '', flags = '', , , , , link, ...slots] = line.split(' ');
      return {
        port: Number(/:(\d+)@/.exec(address)?.[1]),
        flags: flags.split(','),
        connected: link === 'connected',
        // A slot that is moving is in brackets, besides.
        slots: slots.filter((range) => !range.startsWith('[')),
      };
    });
  }

  #anyone(): RedisServer {
    const node = this.nodes.find((one) => one.answering);
    if (node === undefined) throw new Error('no node answers');
    return node;
  }

  #at(port: number): RedisServer {
    const node = this.nodes.find((one) => one.port === port);
    if (node === undefined) throw new Error(`no node has port ${port}`);
    return node;
  }
}

const bounds = (range: string): readonly [number, number] => {
  const [first = '', last = first] = range.split('-');
  return [Number(first), Number(last)];
};

const firstSlot = ({ slots }: Seen): number => Math.min(...slots.map((range) => bounds(range)[0]));

const size = (range: string): number => bounds(range)[1] - bounds(range)[0] + 1;

const holds = (range: string, slot: number): boolean => bounds(range)[0] <= slot && slot <= bounds(range)[1];
