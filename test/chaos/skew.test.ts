/** Brokers whose wall clocks disagree by ten minutes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SessionRef } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod, TUNED } from './cluster.ts';
import { checkInvariants } from './invariants.ts';
import { Load } from './load.ts';

const MINUTES_MS = 60_000;
/** Far more than a hand-over takes, and far less than the clocks disagree. */
const SOON_MS = 15_000;

let cluster: ChaosCluster;
let ahead: ChaosPod;
let behind: ChaosPod;
beforeAll(async () => {
  cluster = await ChaosCluster.start({ brokers: 0 });
  const args = [...TUNED, '--park-after', '300'];
  [ahead, behind] = await Promise.all([
    cluster.addBroker(args, undefined, { skewMs: 5 * MINUTES_MS }),
    cluster.addBroker(args, undefined, { skewMs: -5 * MINUTES_MS }),
  ]);
});
afterAll(() => cluster.stop());

/** It may have been heard of only now. */
const move = (session: SessionRef, to: ChaosPod): Promise<void> =>
  waitUntil(async () => (await session.migrate({ to: to.id })).owner === to.id, 'the session is handed over');

describe('a broker whose clock is five minutes ahead and one that is five minutes behind', () => {
  it('have the clocks that they were given', async () => {
    const readyAt = ({ pod }: ChaosPod): number => Number(pod.logged('broker is ready')[0]?.time);
    await waitUntil(() => readyAt(ahead) - readyAt(behind) > 9 * MINUTES_MS, 'ten minutes lie between them');
  });

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
    const late = session.execute('await sleep(3_600_000)', { limits: { deadlineMs: 1_500 } });
    await late.accepted;
    await move(session, behind);
    expect(await late.result).toMatchObject({ success: false, error: { code: 'DEADLINE_EXCEEDED' } });
    expect(performance.now() - startedAt).toBeLessThan(SOON_MS);
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
    expect(
      executed.filter(({ result }) => !result.success && result.error.code !== 'OUTCOME_UNKNOWN'),
    ).toEqual([]);
    const report = await checkInvariants(cluster, executed);
    expect(report.takeovers).toBeGreaterThan(0);
    // A machine that is too busy may cost a broker its lease; another's clock must not.
    if (report.leasesLost.length === 0) expect(report.falseTakeovers).toBe(0);
    console.log('brokers of skewed clocks', report);
  }, 90_000);
});
