/** Processes of all roles whose wall clocks disagree: brokers by ten minutes, runtimes by twenty, services and clients by five or ten. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SessionRef } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod, TUNED } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { Load } from './load.ts';
import { Waiting } from './waiting.ts';

const MINUTES_MS = 60_000;
/** Far more than a hand-over takes, and far less than the clocks disagree. */
const SOON_MS = 15_000;
const DEADLINE_MS = 1_500;
/** What each broker makes of the store's clock is a little wrong, by as long as its answer took. */
const EARLIEST_MS = DEADLINE_MS - 250;

let cluster: ChaosCluster;
let ahead: ChaosPod;
let behind: ChaosPod;
let fast: ChaosPod;
let slow: ChaosPod;
beforeAll(async () => {
  cluster = await ChaosCluster.start({ brokers: 0, runtimes: 0 });
  const args = [...TUNED, '--park-after', '300'];
  [ahead, behind] = await Promise.all([
    cluster.addBroker({ args, skewMs: 5 * MINUTES_MS }),
    cluster.addBroker({ args, skewMs: -5 * MINUTES_MS }),
  ]);
  [fast, slow] = await Promise.all([
    cluster.addRuntime({ skewMs: 10 * MINUTES_MS }),
    cluster.addRuntime({ skewMs: -10 * MINUTES_MS }),
    cluster.addService({ skewMs: 10 * MINUTES_MS }),
  ]);
}, 60_000);
afterAll(() => cluster.stop());

/** It may have been heard of only now. */
const move = (session: SessionRef, to: ChaosPod): Promise<void> =>
  waitUntil(async () => (await session.migrate({ to: to.id })).owner === to.id, 'the session is handed over');

describe('a broker whose clock is five minutes ahead and one that is five minutes behind', () => {
  it('have the clocks that they were given, as all others have', async () => {
    const readyAt = ({ pod }: ChaosPod): number => Number(pod.logged(`${pod.role} is ready`)[0]?.time);
    await waitUntil(() => readyAt(ahead) - readyAt(behind) > 9 * MINUTES_MS, 'ten minutes lie between them');
    await waitUntil(() => readyAt(fast) - readyAt(slow) > 19 * MINUTES_MS, 'twenty minutes between those');
  });

  it('call tools of a service whose clock is another one, on both runtimes', async () => {
    const waiting: Waiting[] = [];
    const used = new Set<string>();
    // The one that has less to do gets the next one, once every broker has heard of that.
    while (used.size < 2 && waiting.length < 10) {
      const one = await Waiting.start(cluster, waiting.length % 2 === 0 ? 'service:send' : 'service:put');
      waiting.push(one);
      used.add((await one.runtime()).id);
    }
    expect(used.size).toBe(2);
    for (const one of waiting) {
      await move(cluster.client.session(one.session), (await one.owner()) === ahead ? behind : ahead);
      one.open();
    }
    const executed = await Promise.all(waiting.map((one) => one.executed()));
    for (const { result } of executed) expect(result.stats.attempts).toBe(1);
    for (const { calls } of waiting) expect(calls).toHaveLength(1);
    await checkInvariants(cluster, executed);
  }, 60_000);

  it.each([5, -5])(
    'answer a client whose clock is %i minutes ahead, and hold the deadline that it gives',
    async (minutes) => {
      const skewMs = minutes * MINUTES_MS;
      for (const broker of [ahead, behind]) {
        const session = await cluster.client.spawnSession();
        await move(session, broker);
        const fine = await cluster.askFrom(skewMs, {
          session: session.id,
          script: 'await sleep(500); return 1',
          deadlineMs: SOON_MS,
        });
        expect(fine.result).toMatchObject({ success: true, value: 1 });
        expect(Math.abs(fine.at - skewMs - Date.now())).toBeLessThan(MINUTES_MS);
        const late = await cluster.askFrom(skewMs, {
          session: session.id,
          script: 'await sleep(3_600_000)',
          deadlineMs: DEADLINE_MS,
        });
        expect(late.result).toMatchObject({ success: false, error: { code: 'DEADLINE_EXCEEDED' } });
        // From when it was accepted, which was after it was asked for.
        expect(late.tookMs).toBeGreaterThanOrEqual(EARLIEST_MS);
        expect(late.tookMs).toBeLessThan(SOON_MS);
      }
    },
    60_000,
  );

  it('hand sleeping scripts to and fro, and they wake in time', async () => {
    const session = await cluster.client.spawnSession();
    for (const [from, to] of [
      [ahead, behind],
      [behind, ahead],
    ] as const) {
      await move(session, from);
      const startedAt = performance.now();
      const run = session.execute(
        `const before = Date.now(); await sleep(1_500); return Date.now() - before;`,
      );
      await waitUntil(
        async () => (await session.info()).executions.at(-1)?.status === 'parked',
        'the script sleeps',
      );
      await move(session, to);
      const result = await run.result;
      const tookMs = performance.now() - startedAt;
      expect(result).toMatchObject({ success: true });
      expect(result.success && result.value).toBeGreaterThanOrEqual(1_500);
      expect(result.success && result.value).toBeLessThan(SOON_MS);
      expect(tookMs).toBeGreaterThanOrEqual(1_500);
      expect(tookMs).toBeLessThan(SOON_MS);
    }
  }, 60_000);

  it('hand executions to and fro that have a deadline, and none is given up too early or too late', async () => {
    const session = await cluster.client.spawnSession({ limits: { deadlineMs: 8_000 } });
    for (const [from, to] of [
      [ahead, behind],
      [behind, ahead],
    ] as const) {
      await move(session, from);
      const fine = session.execute("console.log('runs'); await sleep(1_000); return 1;");
      await fine.accepted;
      await move(session, to);
      expect(await fine.result).toMatchObject({ success: true, value: 1 });
    }
    const startedAt = performance.now();
    const late = session.execute('await sleep(3_600_000)', { limits: { deadlineMs: DEADLINE_MS } });
    await late.accepted;
    await move(session, behind);
    expect(await late.result).toMatchObject({ success: false, error: { code: 'DEADLINE_EXCEEDED' } });
    const tookMs = performance.now() - startedAt;
    expect(tookMs).toBeGreaterThanOrEqual(EARLIEST_MS);
    expect(tookMs).toBeLessThan(SOON_MS);
  }, 60_000);

  it('hand sessions to and fro that expire, which they do in time', async () => {
    const [early, late] = await Promise.all([
      cluster.client.spawnSession({ ttlMs: 60_000 }),
      cluster.client.spawnSession({ ttlMs: 2_000 }),
    ]);
    await move(early, behind);
    await early.execute('return 1').result;
    await move(early, ahead);
    expect(await early.execute('return 2').result).toMatchObject({ success: true, value: 2 });
    await move(late, ahead);
    await late.execute('return 1').result;
    await move(late, behind);
    await waitUntil(async () => (await late.info()).status === 'expired', 'it expires', SOON_MS);
    expect((await early.info()).status).not.toBe('expired');
  }, 60_000);

  it('hold each other for alive while they are, and succeed each other when they are not', async () => {
    const load = await Load.start(cluster, { sessions: 6 });
    await waitUntil(() => load.count > 30, 'the load runs');
    await Promise.all(load.sessions.map((session) => move(session, behind)));
    await behind.kill();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on with the one that is ahead');
    await behind.start();
    await ahead.kill();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on with the one that is behind');
    await ahead.start();
    const executed = await load.stop();
    const report = await checkInvariants(cluster, executed, IN_DOUBT);
    expect(report.takeovers).toBeGreaterThan(0);
    console.log('brokers of skewed clocks', report);
  }, 90_000);
});
