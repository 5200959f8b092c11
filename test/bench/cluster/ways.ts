/** The ways in which throughput is measured: two clusters, and what they are compared with. All of them at once. */
import type { ExecutionResult, SessionRef } from '../../../src/index.ts';
import { startNats } from '../../support/nats.ts';
import { startRedis, startReplicatedRedis } from '../../support/redis.ts';
import { openOurs } from '../ours.ts';
import { answerTool, ONE_CALL, type Script, SIMPLE } from '../scripts.ts';
import { type Side, TWO_WORKERS } from '../side.ts';
import { type Bare, openBareCommits, openBareNats } from './bare.ts';
import { createSystem } from './built.ts';
import type { Processes } from './cpu.ts';
import { Cluster } from './deployment.ts';
import { userTools } from './podtools.ts';
import type { RowName, Way } from './settings.ts';
import type { Counted } from './traffic.ts';

/** Requests under way at once, and sessions of each durable way. */
export const LANES = 16;

const NEVER = 1_000_000_000;

const UNSAFE_CALL: Script = {
  ...ONE_CALL,
  name: 'one call, unsafe',
  source: (n) => ONE_CALL.source(n).replace('users:get', 'users:put'),
};

export const SCRIPTS: Readonly<Record<RowName, Script>> = {
  simple: SIMPLE,
  read: { ...ONE_CALL, name: 'one call, read' },
  unsafe: UNSAFE_CALL,
};

/** Where requests of a row go, and who serves them. */
export interface Contender {
  readonly request: () => Promise<void>;
  readonly processes: Processes;
  readonly counted: Counted;
}

/** What a cluster stands on. */
interface Servers {
  readonly pids: Processes;
  readonly counted: Counted;
}

type Opened = ReadonlyMap<Way, (row: RowName) => Promise<Contender | undefined>>;

export interface Ways {
  /** The contenders of a row, in the order of `WAYS`. */
  contenders(row: RowName): Promise<ReadonlyMap<Way, Contender>>;
  /** Resolves when every process of it has ended. */
  close(): Promise<void>;
}

/** Start what the chosen ways need. */
export async function openWays(chosen: readonly Way[], profile: string | undefined): Promise<Ways> {
  const closing: (() => Promise<unknown>)[] = [];
  const close = async () => {
    for (const end of closing.splice(0).reverse()) await end();
  };
  try {
    const opened = await open(chosen, profile, closing);
    return {
      contenders: async (row) => {
        const contenders = new Map<Way, Contender>();
        for (const [way, of] of opened) {
          const contender = await of(row);
          if (contender !== undefined) contenders.set(way, contender);
        }
        return contenders;
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function open(
  chosen: readonly Way[],
  profile: string | undefined,
  closing: (() => Promise<unknown>)[],
): Promise<Opened> {
  const opened: [Way, (row: RowName) => Promise<Contender | undefined>][] = [];
  const nats = await startNats({ config: 'max_payload: 8MB\n' });
  closing.push(() => nats.stop());
  const redis = await startRedis();
  closing.push(() => redis.stop());
  const servers: Servers = { pids: { nats: [nats.pid], redis: [redis.pid] }, counted: { nats, redis } };
  const wants = (...ways: Way[]) => ways.some((way) => chosen.includes(way));
  const bare = (way: Way, opening: Bare) => {
    closing.push(() => opening.close());
    const request = requests(opening.request);
    const processes = { ...servers.pids, ...opening.processes };
    const contender = { request, processes, counted: servers.counted };
    opened.push([way, async (row) => (row === 'simple' ? contender : undefined)]);
  };
  if (wants('nats')) bare('nats', await openBareNats(nats.url));
  if (wants('commits')) bare('commits', await openBareCommits(redis.url));
  if (wants('enclave')) opened.push(['enclave', embedded(openEnclave(closing))]);
  if (wants('memory')) opened.push(['memory', await openMemory(closing)]);
  if (wants('stateless', 'master')) {
    const cluster = await Cluster.open({ nats: nats.url, redis: redis.url, namespace: 'master', profile });
    closing.push(() => cluster.drain());
    if (wants('stateless')) opened.push(['stateless', stateless(cluster, servers)]);
    if (wants('master')) opened.push(['master', durable(cluster, servers)]);
  }
  if (wants('replica')) {
    const replicated = await startReplicatedRedis();
    closing.push(() => replicated.stop());
    const cluster = await Cluster.open({
      nats: nats.url,
      // Not through the proxy: it runs in this process.
      redis: replicated.master.url,
      namespace: 'replica',
      args: ['--ack', 'replica'],
      profile,
    });
    closing.push(() => cluster.drain());
    const replicas = replicated.replicas.map(({ pid }) => pid);
    const own: Servers = {
      pids: { nats: [nats.pid], redis: [replicated.master.pid], replica: replicas },
      counted: { nats, redis: replicated.master },
    };
    opened.push(['replica', durable(cluster, own)]);
  }
  return new Map(opened);
}

function requests(request: (n: number) => Promise<void>): () => Promise<void> {
  let n = 0;
  return () => request(n++);
}

function openEnclave(closing: (() => Promise<unknown>)[]): Side {
  const side = openOurs(TWO_WORKERS, (_, args) => answerTool('users:get', args));
  closing.push(() => side.close());
  return side;
}

function embedded(side: Side): (row: RowName) => Promise<Contender> {
  return async (row) => {
    const script = SCRIPTS[row];
    return {
      request: requests(async (n) =>
        check(script, n, await side.run(script.source(n), { level: 'context', tenant: `lane-${n % LANES}` })),
      ),
      get processes() {
        return { workers: side.pids() };
      },
      counted: {},
    };
  };
}

async function openMemory(
  closing: (() => Promise<unknown>)[],
): Promise<(row: RowName) => Promise<Contender>> {
  const { workers, maxConcurrentPerWorker } = TWO_WORKERS;
  const pool = { poolSize: workers, minWorkers: workers, maxConcurrentPerWorker };
  const system = await createSystem({
    tools: userTools,
    pool: { ...pool, maxExecutionsPerWorker: NEVER },
  });
  closing.push(() => system.close());
  return async (row) => {
    const lanes = Array.from({ length: LANES }, () => system.spawnSession());
    return {
      request: inSessions(await Promise.all(lanes), SCRIPTS[row]),
      get processes() {
        const all = Object.values(system.stats()).flatMap((pools) => pools.workers);
        return { workers: all.flatMap(({ pid }) => (pid === undefined ? [] : [pid])) };
      },
      counted: {},
    };
  };
}

function stateless(cluster: Cluster, { pids, counted }: Servers): (row: RowName) => Promise<Contender> {
  return async (row) => {
    const script = SCRIPTS[row];
    return {
      request: requests(async (n) => check(script, n, returned(await cluster.client.run(script.source(n))))),
      processes: { ...pids, ...cluster.processes },
      counted,
    };
  };
}

function durable(cluster: Cluster, { pids, counted }: Servers): (row: RowName) => Promise<Contender> {
  return async (row) => {
    const lanes = Array.from({ length: LANES }, () => cluster.client.spawnSession());
    return {
      request: inSessions(await Promise.all(lanes), SCRIPTS[row]),
      processes: { ...pids, ...cluster.processes },
      counted,
    };
  };
}

/** Each session runs one script at a time. */
function inSessions(sessions: readonly SessionRef[], script: Script): () => Promise<void> {
  const free = [...sessions];
  return requests(async (n) => {
    const session = free.pop();
    if (session === undefined) throw new Error(`there are more requests at once than sessions`);
    const result = await session.execute(script.source(n)).result;
    free.push(session);
    check(script, n, returned(result));
  });
}

function returned(result: ExecutionResult): unknown {
  if (!result.success) throw new Error(`${result.error.code}: ${result.error.message}`);
  return result.value;
}

function check(script: Script, n: number, value: unknown): void {
  if (value !== script.expected(n)) throw new Error(`${script.name} ${n} returned ${JSON.stringify(value)}`);
}
