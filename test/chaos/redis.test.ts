/** Redis is lost, hangs, or fails over, while brokers write to it. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod } from './cluster.ts';
import { checkInvariants } from './invariants.ts';
import { type Executed, Load } from './load.ts';
import { type Ack, killMaster, startLossy } from './losses.ts';

let cluster: ChaosCluster;
let before: readonly number[];

async function start(starting: Promise<ChaosCluster>): Promise<void> {
  cluster = await starting;
  before = pids();
}

const pods = (): readonly ChaosPod[] => [...cluster.brokers, ...cluster.runtimes];
const pids = (): readonly number[] => pods().map(({ pod }) => pod.pid);

/** Of the unsafe calls that were under way some may be in doubt; everything else succeeds. */
const failures = (executed: readonly Executed[]): readonly Executed[] =>
  executed.filter(({ result }) => !result.success && result.error.code !== 'OUTCOME_UNKNOWN');

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
  expect(failures(executed)).toEqual([]);
  expect(pids()).toEqual(before);
  const inDoubt = executed.filter(({ result }) => !result.success).length;
  console.log(what, { inDoubt, ...(await checkInvariants(cluster, executed)) });
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
    const lost = (): boolean =>
      cluster.brokers.every(({ pod }) => pod.logged('the lease is lost').length > 0);
    for (const ms of [1_000, 4_000]) {
      const tookMs = await during(load, async () => {
        redis.server.pause();
        await lasting(ms);
        if (ms > 1_500) await waitUntil(lost, 'every broker has given its lease up');
        redis.server.resume();
      });
      console.log(`Redis paused for ${ms} ms: every session had gone on after ${tookMs} ms`);
    }
    await holds('Redis paused under load', await load.stop());
  }, 60_000);
});

describe('a Redis with a replica', () => {
  afterEach(() => cluster.stop());

  for (const ack of ['master', 'replica'] satisfies Ack[])
    it(`whose master is killed fails over under load, with ack '${ack}'`, async () => {
      await start(startLossy(ack));
      const { losses, executed } = await killMaster(cluster);
      console.log(`fail-over with ack '${ack}'`, losses);
      expect(pids()).toEqual(before);
      const lost = losses.lostCommands + losses.lostResults + losses.lostEvents;
      if (ack === 'replica') expect(lost).toBe(0);
      // What a master takes along is gone from the log: the invariants are those of what is left.
      if (lost === 0) await holds(`fail-over with ack '${ack}'`, executed);
    }, 60_000);
});

describe('a Redis Cluster', () => {
  beforeAll(() => start(ChaosCluster.start({ redis: 'cluster' })), 60_000);
  afterAll(() => cluster.stop());

  it('whose master is killed fails over under load, without a restart of any pod', async () => {
    const load = await underLoad();
    const { redis } = cluster;
    if (redis.kind !== 'cluster') throw new TypeError('it is no Cluster');
    const tookMs = await during(load, async () => {
      const killed = await redis.server.killMaster();
      await redis.server.waitForFailOver();
      await killed.restart();
    });
    console.log(`a Cluster's master killed: every session had gone on after ${tookMs} ms`);
    await redis.server.waitUntilWhole();
    await holds('a Cluster master killed under load', await load.stop());
  }, 90_000);
});
