/** Redis is lost, hangs, or fails over, while brokers write to it. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ExecutionEvent } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod, TUNED } from './cluster.ts';
import { checkHistory, checkInvariants, checkLog, IN_DOUBT, logOf } from './invariants.ts';
import { type Executed, Load, type Loaded } from './load.ts';
import { type Ack, killMaster, lossesOf, startLossy } from './losses.ts';

let cluster: ChaosCluster;
let before: readonly number[];

async function start(starting: Promise<ChaosCluster>): Promise<void> {
  cluster = await starting;
  before = pids();
}

const pods = (): readonly ChaosPod[] => [...cluster.brokers, ...cluster.runtimes];
const pids = (): readonly number[] => pods().map(({ pod }) => pod.pid);

async function underLoad(): Promise<Load> {
  const load = await Load.start(cluster, { sessions: 6 });
  await waitUntil(() => load.count > 20, 'the load runs');
  return load;
}

/** Something happens to Redis, and so to every broker. Resolves to how long it took until every session went on, in ms. */
async function during(load: Load, happens: () => Promise<void>): Promise<number> {
  const startedAt = performance.now();
  for (const pod of cluster.brokers) pod.harm();
  await happens();
  for (const pod of cluster.brokers) pod.heal();
  await waitUntil(load.everyoneGoesOn(), 'every session goes on', 40_000);
  return Math.round(performance.now() - startedAt);
}

async function holds(what: string, executed: readonly Executed[]): Promise<void> {
  expect(pids()).toEqual(before);
  console.log(what, await checkInvariants(cluster, executed, IN_DOUBT));
}

/** After a loss: what is left of each session is whole in itself. What was told and is not there was counted. */
async function checkWhatIsLeft(executed: readonly Loaded[]): Promise<void> {
  for (const session of new Set(executed.map((one) => one.session))) {
    // One whose end was lost goes on to another one, for which nobody waits any more.
    await waitUntil(
      async () => (await edgesOf(session)).every(({ length }) => length > 1),
      `everything in ${session} has ended`,
    );
    checkLog(session, await logOf(cluster, session));
    checkHistory(cluster, session);
    for (const edges of await edgesOf(session)) expect(edges, session).toEqual(['session_init', 'final']);
  }
}

/** The beginnings and ends in a session's log, by execution, in order. */
async function edgesOf(session: string): Promise<readonly (readonly string[])[]> {
  const events = (await logOf(cluster, session)).map((text) => JSON.parse(text) as ExecutionEvent);
  const byExecution = Object.values(Object.groupBy(events, ({ executionId }) => String(executionId)));
  return byExecution.map((all = []) =>
    all.map(({ type }) => type).filter((type) => type === 'session_init' || type === 'final'),
  );
}

/** Resolves this much later: how long something lasts is what is tested here. */
function lasting(ms: number): Promise<void> {
  const until = performance.now() + ms;
  return waitUntil(() => performance.now() >= until, `${ms} ms have passed`);
}

describe('a Redis', () => {
  beforeAll(() => start(ChaosCluster.start()), 60_000);
  afterAll(() => cluster.stop());

  it('that is killed and restarted under load has every session go on, without a restart of any pod', async () => {
    const load = await underLoad();
    const { redis } = cluster;
    if (redis.kind !== 'standalone') throw new TypeError('it is not alone');
    const tookMs = await during(load, async () => {
      await redis.server.kill();
      await redis.server.restart();
    });
    console.log(`Redis killed and restarted: every session had gone on after ${tookMs} ms`);
    await holds('Redis restarted under load', await load.stop());
  }, 60_000);

  it('that hangs for a second, and for longer than a lease, is taken up again where it was', async () => {
    const load = await underLoad();
    const { redis } = cluster;
    if (redis.kind !== 'standalone') throw new TypeError('it is not alone');
    const losses = (): readonly number[] =>
      cluster.brokers.map(({ pod }) => pod.logged('the lease is lost').length);
    const ready = async (): Promise<boolean> =>
      (await Promise.all(cluster.brokers.map(({ pod }) => pod.ready()))).every((is) => is);
    for (const ms of [1_000, 4_000]) {
      await waitUntil(ready, 'every broker has a lease to lose');
      const earlier = losses();
      const allLost = (): boolean => losses().every((count, index) => count > (earlier[index] ?? 0));
      const tookMs = await during(load, async () => {
        redis.server.pause();
        await lasting(ms);
        if (ms > 1_500) await waitUntil(allLost, 'every broker has given its lease up');
        redis.server.resume();
      });
      console.log(`Redis paused for ${ms} ms: every session had gone on after ${tookMs} ms`);
    }
    await holds('Redis paused under load', await load.stop());
  }, 60_000);
});

/** With 'master' the replica is behind, in ms, so that there is something to lose. */
const LAG_MS = 500;

describe('a Redis with a replica', () => {
  afterEach(() => cluster.stop());

  for (const ack of ['master', 'replica'] satisfies Ack[])
    it(`whose master is killed fails over under load, with ack '${ack}'`, async () => {
      await start(startLossy(ack));
      const { losses, executed } = await killMaster(cluster, ack === 'master' ? LAG_MS : 0);
      console.log(`fail-over with ack '${ack}'`, losses);
      expect(pids()).toEqual(before);
      const lost = losses.lostCommands + losses.lostResults + losses.lostEvents;
      if (ack === 'replica') expect(lost).toBe(0);
      // No more is lost than the master had to itself.
      expect(losses.lostThoughReplicated).toBe(0);
      expect(losses.told).toBeGreaterThan(20);
      await checkWhatIsLeft(executed);
      // What a master takes along is gone from the log: the invariants are those of what is left.
      if (lost === 0) await holds(`fail-over with ack '${ack}'`, executed);
    }, 60_000);
});

describe("a Redis Cluster, with ack 'replica'", () => {
  beforeAll(
    () => start(ChaosCluster.start({ redis: 'cluster', brokerArgs: [...TUNED, '--ack', 'replica'] })),
    60_000,
  );
  afterAll(() => cluster.stop());

  it('whose master is killed fails over under load, loses nothing, and no pod is restarted', async () => {
    const load = await underLoad();
    const { redis } = cluster;
    if (redis.kind !== 'cluster') throw new TypeError('it is no Cluster');
    let killedAt = 0;
    const tookMs = await during(load, async () => {
      const killed = await redis.server.killMaster();
      killedAt = performance.now();
      cluster.history.beginReign();
      await redis.server.waitForFailOver();
      // With 'replica' nothing of its slots is acknowledged before it is a replica.
      await killed.restart();
      await redis.server.waitUntilWhole();
    });
    console.log(`a Cluster's master killed: every session had gone on after ${tookMs} ms`);
    const executed = await load.stop();
    const losses = await lossesOf(cluster, executed, { replicatedAt: killedAt, killedAt });
    expect(losses).toMatchObject({ lostCommands: 0, lostResults: 0, lostEvents: 0 });
    expect(losses.told).toBeGreaterThan(20);
    await holds('a Cluster master killed under load', executed);
  }, 90_000);
});
