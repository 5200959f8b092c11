/**
 * Brokers of this release and of the next one, as processes of their own on one Redis, under load: rolled from one to the
 * other and back again. The next release stores what this one could make nothing of: see support/nextrelease.ts.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type { SessionRef } from '../../src/index.ts';
import { CODEC } from '../../src/session/release.ts';
import { CODEC as NEXT } from '../support/nextrelease.ts';
import { CLI, NEXT_POD } from '../support/pods.ts';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod, TUNED } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { Load } from './load.ts';
import { Waiting } from './waiting.ts';

const OLD = CODEC.newest;
const NEW = NEXT.newest;

let cluster: ChaosCluster;
afterEach(() => cluster.stop());

/** It may have been heard of only now. */
const move = (session: SessionRef, to: ChaosPod): Promise<void> =>
  waitUntil(
    async () => (await session.migrate({ to: to.id })).owner === to.id,
    `${session.id} goes to ${to.id}`,
  );

/** Have each session owned by each broker in turn while its scripts run: what one wrote, the other reads. */
async function passRound(load: Load): Promise<void> {
  for (const broker of cluster.brokers) {
    await Promise.all(load.sessions.map((session) => move(session, broker)));
    await waitUntil(load.everyoneGoesOn(), `every session goes on at ${broker.id}`, 40_000);
  }
}

/** Resolves when every broker writes this version: each has heard for itself what the others read. */
async function everybodyWrites(load: Load, format: number): Promise<void> {
  const isStored = ({ id }: SessionRef): boolean => cluster.history.last(id)?.format === format;
  for (const broker of cluster.brokers) {
    await Promise.all(load.sessions.map((session) => move(session, broker)));
    await waitUntil(() => load.sessions.every(isStored), `${broker.id} writes version ${format}`, 60_000);
  }
}

/** Drain it, and start the other release under its id. */
async function roll(broker: ChaosPod, program: string, load: Load): Promise<void> {
  expect(await broker.drain()).toBe(0);
  await waitUntil(load.everyoneGoesOn(), `every session goes on without ${broker.id}`, 40_000);
  await broker.start(program);
  await passRound(load);
}

/** How much was seen of each session so far. */
const seenOf = (load: Load): ReadonlyMap<string, number> =>
  new Map(load.sessions.map(({ id }) => [id, cluster.history.of(id).flat().length]));

/** The versions in which any session was stored after that much was seen. */
function formatsSince(load: Load, seen: ReadonlyMap<string, number>): ReadonlySet<number | undefined> {
  return new Set(
    load.sessions.flatMap(({ id }) =>
      cluster.history
        .of(id)
        .flat()
        .slice(seen.get(id))
        .map(({ format }) => format),
    ),
  );
}

interface Started {
  readonly load: Load;
  readonly one: ChaosPod;
  readonly other: ChaosPod;
}

async function start(): Promise<Started> {
  cluster = await ChaosCluster.start({ brokerArgs: [...TUNED, '--hibernate-after', '600000'] });
  const [one, other] = cluster.brokers;
  if (one === undefined || other === undefined) throw new TypeError('there are two brokers');
  const load = await Load.start(cluster, { sessions: 6 });
  await waitUntil(() => load.count > 12, 'the load runs');
  return { load, one, other };
}

describe('brokers that are upgraded to the next release', () => {
  it('one by one under load, and rolled back, fail, lose and double nothing, and read what the others wrote', async () => {
    const { load, one, other } = await start();
    await cluster.addService();
    // Both wait from the beginning to the end, in a call that outlives every broker.
    const waiting = [
      await Waiting.start(cluster, 'service:send'),
      await Waiting.start(cluster, 'service:put'),
    ];
    const sleeper = await cluster.client.spawnSession();
    const count = async (n: number): Promise<void> => {
      const { result } = sleeper.execute('state.n = (state.n ?? 0) + 1; return state.n;');
      expect(await result).toMatchObject({ success: true, value: n });
    };
    await count(1);

    // The upgrade begins. While one of the old is there, everything is stored for it.
    await roll(one, NEXT_POD, load);
    expect(formatsSince(load, new Map())).toEqual(new Set([OLD]));
    await count(2);

    // It is complete.
    await roll(other, NEXT_POD, load);
    await everybodyWrites(load, NEW);
    await count(3);
    await sleeper.hibernate();
    const asleep = await (await cluster.store()).load(sleeper.id);
    expect(asleep?.owner).toBeUndefined();
    expect(CODEC.isNewer(asleep?.snapshot ?? '')).toBe(true);

    // It is rolled back. What only the new one reads, that one takes, and the old one has it from there.
    await roll(one, CLI, load);
    await everybodyWrites(load, OLD);
    await count(4);
    await move(sleeper, one);
    const seen = seenOf(load);
    await passRound(load);
    await roll(other, CLI, load);
    expect(formatsSince(load, seen)).toEqual(new Set([OLD]));
    await count(5);

    for (const each of waiting) each.open();
    const executed = [...(await load.stop()), ...(await Promise.all(waiting.map((each) => each.executed())))];
    for (const { execution, result } of executed)
      expect(result.stats.attempts, `attempts of ${execution}`).toBe(1);
    for (const { calls } of waiting) expect(calls).toHaveLength(1);
    console.log('upgraded and rolled back under load', await checkInvariants(cluster, executed));
  }, 300_000);

  it('take over what one of the other release left behind that was killed, in both directions', async () => {
    const { load, one, other } = await start();
    await roll(one, NEXT_POD, load);
    for (const [killed, next] of [
      [one, other],
      [other, one],
    ] as const) {
      const waiting = await Waiting.start(cluster, 'gate:put');
      await Promise.all(load.sessions.map((session) => move(session, killed)));
      await move(cluster.client.session(waiting.session), killed);
      await killed.kill();
      await waitUntil(load.everyoneGoesOn(), `every session goes on at ${next.id}`, 40_000);
      expect((await waiting.owner()).id).toBe(next.id);
      waiting.open();
      await checkInvariants(cluster, [await waiting.executed()]);
      await killed.start();
      await waitUntil(load.everyoneGoesOn(), `every session goes on with ${killed.id}`, 40_000);
    }
    const report = await checkInvariants(cluster, await load.stop(), IN_DOUBT);
    expect(report.takeovers).toBeGreaterThan(1);
    console.log('brokers of two releases killed under load', report);
  }, 180_000);
});
