/**
 * What sessions and processes cost while nothing runs, on real servers: the figures of CAPACITY.md.
 *
 *   node test/bench/capacity.ts [--sessions N]
 *
 * Memory of a broker is what it holds after a full collection; that of the servers is what they say themselves.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { EnclaveClient, type SessionRef } from '../../src/index.ts';
import { probe } from '../soak/figures.ts';
import { usageOf } from '../soak/proc.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { type Pod, startBrokerPod, startRuntimePod } from '../support/pods.ts';
import { stopAll, temporaryDirectory, waitUntil } from '../support/processes.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';

const { values } = parseArgs({ options: { sessions: { type: 'string', default: '2000' } } });
const SESSIONS = Number(values.sessions);
/** Requests under way at once. */
const LANES = 32;
/** How long an idle cluster is looked at, in ms. */
const IDLE_MS = 10_000;
const POD = new URL('../soak/pod.ts', import.meta.url).pathname;
/** No session is put away before it is asked for. */
const STAY = ['--hibernate-after', '86400000', '--log-level', 'warn'];
const SCRIPT = 'state.n = (state.n ?? 0) + 1; return state.n;';

interface Held {
  /** Of the broker, after a collection. */
  readonly heap: number;
  readonly resident: number;
  readonly redis: number;
  readonly keys: number;
  readonly nats: number;
  readonly subscriptions: number;
}

interface Servers {
  readonly nats: NatsServer;
  readonly redis: RedisServer;
  readonly directory: string;
}

async function look({ nats, redis, directory }: Servers, broker: Pod): Promise<Held> {
  const told = await probe(broker.pid, directory);
  if (told === undefined) throw new Error('the broker does not tell what it holds');
  const { mem, subscriptions } = await natsNow(nats);
  return {
    heap: told.heldBytes,
    resident: usageOf(broker.pid)?.residentBytes ?? 0,
    redis: Number(await redisInfo(redis, 'memory', 'used_memory')),
    keys: Number(await redis.cli('DBSIZE')),
    nats: mem,
    subscriptions,
  };
}

interface NatsNow {
  readonly mem: number;
  readonly subscriptions: number;
  readonly in_msgs: number;
  readonly out_msgs: number;
}

async function natsNow({ monitorUrl }: NatsServer): Promise<NatsNow> {
  return (await (await fetch(`${monitorUrl}/varz`)).json()) as NatsNow;
}

async function redisInfo(redis: RedisServer, section: string, field: string): Promise<string> {
  const text = await redis.cli('INFO', section);
  return new RegExp(`^${field}:(\\S+)`, 'm').exec(text)?.[1] ?? '';
}

/** Do it with each, some at once. */
async function withAll<T>(all: readonly T[], act: (one: T) => Promise<unknown>): Promise<void> {
  const left = all.values();
  await Promise.all(
    Array.from({ length: LANES }, async () => {
      for (const one of left) await act(one);
    }),
  );
}

function print(what: string, before: Held, after: Held, count: number): void {
  const each = (key: keyof Held): string =>
    ((after[key] - before[key]) / count).toFixed(key === 'keys' ? 1 : 0);
  process.stdout.write(
    `${what.padEnd(34)} heap ${each('heap')} B, Redis ${each('redis')} B in ${each('keys')} keys, nats-server ${each('nats')} B, ${each('subscriptions')} subscriptions\n`,
  );
}

async function startServers(): Promise<Servers> {
  const [nats, redis] = await Promise.all([startNats(), startRedis()]);
  return { nats, redis, directory: temporaryDirectory() };
}

async function startPods(servers: Servers, brokers: number, runtimes: number): Promise<readonly Pod[]> {
  const { nats, redis, directory } = servers;
  const common = { nats: nats.url, program: POD, env: { ENCLAVE_TEST_DIR: directory } };
  return Promise.all([
    ...Array.from({ length: brokers }, () => startBrokerPod({ ...common, redis: redis.url, args: STAY })),
    ...Array.from({ length: runtimes }, () => startRuntimePod({ ...common, args: ['--log-level', 'warn'] })),
  ]);
}

async function sessions(): Promise<void> {
  const servers = await startServers();
  const [broker] = await startPods(servers, 1, 1);
  if (broker === undefined) throw new Error('there is no broker');
  await using client = new EnclaveClient({ serverUrl: servers.nats.url });
  await client.connect();
  const make = async (count: number): Promise<readonly SessionRef[]> => {
    const made: SessionRef[] = [];
    await withAll(Array.from({ length: count }), async () => made.push(await client.spawnSession()));
    return made;
  };
  const execute = async (session: SessionRef): Promise<void> => {
    const result = await session.execute(SCRIPT).result;
    if (!result.success) throw new Error(result.error.message);
  };
  // What is made once, is made.
  const first = await make(100);
  await withAll(first, execute);
  await withAll(first, (session) => session.delete());
  const empty = await look(servers, broker);
  process.stdout.write(
    `a broker without sessions: ${(empty.heap / 1e6).toFixed(0)} MB heap, ${(empty.resident / 1e6).toFixed(0)} MB resident\n`,
  );
  const made = await make(SESSIONS);
  const idle = await look(servers, broker);
  print('a session, hosted, never used', empty, idle, SESSIONS);
  await withAll(made, execute);
  const used = await look(servers, broker);
  print('… after one execution', empty, used, SESSIONS);
  for (let again = 0; again < 9; again++) await withAll(made, execute);
  const often = await look(servers, broker);
  print('… after ten', empty, often, SESSIONS);
  process.stdout.write(`resident with ${SESSIONS} sessions: ${(often.resident / 1e6).toFixed(0)} MB\n`);
  await withAll(made, (session) => session.hibernate());
  const away = await look(servers, broker);
  print('… hibernated', empty, away, SESSIONS);
  await client.close();
  await stopAll();
}

/** What a cluster does a second while nobody asks for anything. */
async function idle(brokers: number, runtimes: number): Promise<void> {
  const servers = await startServers();
  const pods = await startPods(servers, brokers, runtimes);
  await waitUntil(async () => (await natsNow(servers.nats)).subscriptions > 0, 'pods are connected');
  const counts = async () => {
    const { in_msgs, out_msgs } = await natsNow(servers.nats);
    const commands = Number(await redisInfo(servers.redis, 'stats', 'total_commands_processed'));
    const cpuMs = pods.map(({ pid }) => usageOf(pid)?.cpuMs ?? 0);
    return { at: performance.now(), in_msgs, out_msgs, commands, cpuMs };
  };
  const before = await counts();
  await delay(IDLE_MS);
  const after = await counts();
  const seconds = (after.at - before.at) / 1_000;
  const rate = (key: 'in_msgs' | 'out_msgs' | 'commands'): string =>
    ((after[key] - before[key]) / seconds).toFixed(1);
  const cpu = pods.map(({ role }, index) => {
    const ms = (after.cpuMs[index] ?? 0) - (before.cpuMs[index] ?? 0);
    return `${role} ${(ms / seconds / 10).toFixed(1)}%`;
  });
  process.stdout.write(
    `idle, ${brokers} brokers and ${runtimes} runtimes: ${rate('in_msgs')} messages a second in, ${rate('out_msgs')} out, ${rate('commands')} Redis commands; CPU ${cpu.join(', ')}\n`,
  );
  await stopAll();
}

try {
  await sessions();
  for (const [brokers, runtimes] of [
    [1, 1],
    [2, 1],
    [2, 3],
  ] as const)
    await idle(brokers, runtimes);
} finally {
  await stopAll();
}
