/** Acceptance: brokers keep a pool of runtimes as an operator turns it on: with `--runtime-pool`, over real servers. */
import { afterEach, expect, it } from 'vitest';
import { createSystem, EnclaveBroker, type System } from '../../src/index.ts';
import { startNats } from '../support/nats.ts';
import { type Pod, startBrokerPod } from '../support/pods.ts';
import { childrenOf, isAlive, stopAll, waitUntil } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';

const POOL = { minSize: 2, maxSize: 3, scaleUpThreshold: 0.2, scaleInterval: 500 };
/** Runs until its session is closed. */
const FOREVER = 'for (;;) await sleep(50);';
const SCALED = 'the pool of runtimes is scaled';

const cleanups: (() => Promise<unknown>)[] = [];
/** Every process that a broker was seen to have started. A broker without workers of its own starts nothing else. */
const started = new Map<string, Set<number>>();

afterEach(async () => {
  for (const clean of cleanups.splice(0)) await clean();
  await stopAll();
  for (const pid of [...started.values()].flatMap((pids) => [...pids]))
    if (isAlive(pid)) process.kill(pid, 'SIGKILL');
  started.clear();
  most = { ofOne: 0, taking: 0 };
});

/** The most runtimes that were seen at a time: of one broker, and of those that the cluster hears and that take executions. */
let most = { ofOne: 0, taking: 0 };

/** The runtimes of a broker that run now. */
function runtimesOf(pod: Pod): readonly number[] {
  const pids = pod.running ? childrenOf(pod.pid) : [];
  const seen = started.get(pod.id) ?? new Set();
  for (const pid of pids) seen.add(pid);
  started.set(pod.id, seen);
  most.ofOne = Math.max(most.ofOne, pids.length);
  return pids;
}

/** Those that take executions. One that drains counts to no bound. */
function taking(system: System): number {
  const known = system.runtimes().filter(({ draining }) => !draining).length;
  most.taking = Math.max(most.taking, known);
  return known;
}

const hadStarted = (pod: Pod): number => started.get(pod.id)?.size ?? 0;

it('one of two brokers keeps the pool, and the other one when that is killed', async () => {
  const [nats, redis] = await Promise.all([startNats(), startRedis()]);
  const env = { ENCLAVE_DRAIN_GRACE_MS: '1000', ENCLAVE_LOG_LEVEL: 'info' };
  const args = ['--lease-ttl', '1500', '--scan', '250', '--runtime-pool', JSON.stringify(POOL)];
  const pods = await Promise.all(
    ['one', 'two'].map((id) => startBrokerPod({ id, nats: nats.url, redis: redis.url, args, env })),
  );
  const system = await createSystem({ nats: nats.url });
  cleanups.push(() => system.close());
  /** How many take executions; what every broker has is noted. */
  const look = (): number => {
    pods.forEach(runtimesOf);
    return taking(system);
  };

  await waitUntil(() => look() === POOL.minSize, 'the least number is there', 60_000);
  const decider = pods.find((pod) => runtimesOf(pod).length > 0);
  const other = pods.find((pod) => pod !== decider);
  if (decider === undefined || other === undefined) throw new Error('nobody started anything');
  expect([decider, other].map((pod) => runtimesOf(pod).length)).toEqual([POOL.minSize, 0]);

  // Above the threshold for two runtimes, far below what two can hold: it is the pool's choice to grow.
  const { capacity } = system.runtimes()[0] ?? { capacity: 0 };
  const sessions = await Promise.all(
    Array.from({ length: Math.ceil(POOL.scaleUpThreshold * 2 * capacity) + 2 }, () => system.spawnSession()),
  );
  const runs = sessions.map((session) => session.execute(FOREVER));
  await waitUntil(() => look() === POOL.maxSize, 'the pool has grown to its most', 60_000);
  expect([decider, other].map(hadStarted)).toEqual([POOL.maxSize, 0]);
  expect(other.logged(SCALED)).toEqual([]);
  expect(decider.logged(SCALED).length).toBeGreaterThanOrEqual(2);

  await decider.kill();
  await waitUntil(
    () => look() === POOL.maxSize && runtimesOf(other).length === POOL.maxSize,
    'the other one has made it up',
    60_000,
  );
  // Nobody died beside the killed one's, so whatever more it had started would have been started twice.
  expect(hadStarted(other)).toBe(POOL.maxSize);
  expect(most).toEqual({ ofOne: POOL.maxSize, taking: POOL.maxSize });
  expect(other.logged(SCALED).length).toBeGreaterThanOrEqual(1);

  // What was running goes on there.
  await waitUntil(
    async () =>
      (await Promise.all(sessions.map((session) => session.info()))).every(({ runtime }) => runtime),
    'every execution has a runtime',
  );
  await Promise.all(sessions.map((session) => session.close()));
  await Promise.all(runs.map(({ result }) => result));
  await waitUntil(() => look() === POOL.minSize, 'it shrinks to its least', 60_000);

  expect(await other.drain()).toBe(0);
  const everybody = [...started.values()].flatMap((pids) => [...pids]);
  expect(everybody).toHaveLength(2 * POOL.maxSize);
  await waitUntil(() => everybody.every((pid) => !isAlive(pid)), 'no process is left');
}, 240_000);

it.each([
  [
    'createSystem',
    (options: { readonly nats: string; readonly redis: string; readonly runtimePool: object }) =>
      createSystem({ ...options, roles: ['broker'] }),
  ],
  [
    'EnclaveBroker',
    async (options: { readonly nats: string; readonly redis: string; readonly runtimePool: object }) => {
      const broker = new EnclaveBroker(options);
      await broker.start();
      return broker;
    },
  ],
] as const)(
  '%s({ runtimePool }) has runtimes as processes of their own, which end with it',
  async (_, open) => {
    const [nats, redis] = await Promise.all([startNats(), startRedis()]);
    const before = childrenOf(process.pid);
    const runtimePool = { minSize: 1, maxSize: 1, scaleInterval: 200 };
    const broker = await open({ nats: nats.url, redis: redis.url, runtimePool });
    cleanups.push(() => broker.close());
    const system = await createSystem({ nats: nats.url });
    cleanups.push(() => system.close());
    await waitUntil(() => taking(system) === 1, 'there is one', 60_000);
    expect(await system.run('return 6 * 7')).toMatchObject({ success: true, value: 42 });
    const runtimes = childrenOf(process.pid).filter((pid) => !before.includes(pid));
    started.set('here', new Set(runtimes));
    expect(runtimes).toHaveLength(1);
    await broker.close();
    expect(runtimes.filter(isAlive)).toEqual([]);
  },
  120_000,
);
