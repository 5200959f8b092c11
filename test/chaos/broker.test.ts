/** A broker is lost while scripts of its sessions run. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod, TUNED } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { type Executed, Load } from './load.ts';
import { Waiting } from './waiting.ts';

/**
 * How long anything that must happen may take on a machine that has much else to do, in ms. What the issue allows, three
 * seconds with the tuned settings and eight with the default ones, is measured by `npm run bench:cluster`.
 */
const SLACK_MS = 15_000;
/** The lives of leases, in ms: tuned, and by default. */
const LEASE_MS = 1_500;
const DEFAULT_LEASE_MS = 6_000;
/** Timers may ring a little early, by the clock of another process. */
const EARLY_MS = 50;

describe('a broker of the tuned settings that is killed', () => {
  let cluster: ChaosCluster;
  let killed: ChaosPod | undefined;
  const executed: Executed[] = [];
  beforeAll(async () => {
    cluster = await ChaosCluster.start({ brokerArgs: [...TUNED, '--park-after', '300'] });
  });
  afterEach(async () => {
    if (killed?.pod.running === false) await killed.start();
  });
  afterAll(() => cluster.stop());

  /** SIGKILL its owner while nobody asks for it. Resolves to when that was. */
  async function kill(waiting: Waiting): Promise<{ readonly at: number; readonly wall: number }> {
    killed = await waiting.owner();
    await waiting.forsake();
    const when = { at: performance.now(), wall: Date.now() };
    await killed.kill();
    return when;
  }

  /** Of a script that went on, and not again. */
  async function wentOn(waiting: Waiting): Promise<void> {
    await waitUntil(
      () => cluster.observer.ended(waiting.session, waiting.execution) !== undefined,
      'it ends',
    );
    const one = await waiting.executed();
    expect(one.result).toMatchObject({ success: true });
    expect(one.result.stats.attempts).toBe(1);
    executed.push(one);
    const { takeovers } = await checkInvariants(cluster, executed);
    expect(takeovers).toBeGreaterThan(0);
  }

  it('is succeeded, and its script goes on, though no client asks', async () => {
    const service = await cluster.addService();
    const waiting = await Waiting.start(cluster, 'service:send');
    const { at, wall } = await kill(waiting);
    waiting.open();
    await waitUntil(() => waiting.passedAt() !== undefined, 'the script goes on');
    const tookMs = (waiting.passedAt() ?? 0) - at;
    // Its log may come later than what it did.
    await waitUntil(() => waiting.takenOverAt(wall) !== undefined, 'its log says so');
    const takenMs = (waiting.takenOverAt(wall) ?? Number.POSITIVE_INFINITY) - wall;
    console.log(
      `after SIGKILL of a broker, tuned: taken over after ${takenMs} ms, its script printed after ${Math.round(tookMs)} ms`,
    );
    expect(takenMs).toBeLessThanOrEqual(LEASE_MS + SLACK_MS);
    expect(tookMs).toBeLessThanOrEqual(LEASE_MS + SLACK_MS);
    expect(waiting.calls).toHaveLength(1);
    await wentOn(waiting);
    await service.kill();
  }, 60_000);

  it('takes an unsafe call along, and the script can catch that nobody knows what became of it', async () => {
    const waiting = await Waiting.start(cluster, 'gate:pass');
    const { at } = await kill(waiting);
    waiting.open();
    await waitUntil(() => waiting.passedAt('OutcomeUnknownError') !== undefined, 'the script goes on');
    const tookMs = (waiting.passedAt('OutcomeUnknownError') ?? 0) - at;
    console.log(
      `an unsafe call that a killed broker served was known to be lost after ${Math.round(tookMs)} ms`,
    );
    expect(waiting.calls).toHaveLength(1);
    await wentOn(waiting);
  }, 60_000);

  it('takes an idempotent call along, and it is made again under the same key', async () => {
    const waiting = await Waiting.start(cluster, 'gate:put');
    const { at } = await kill(waiting);
    waiting.open();
    await waitUntil(() => waiting.passedAt() !== undefined, 'the script goes on');
    const tookMs = (waiting.passedAt() ?? 0) - at;
    console.log(
      `an idempotent call that a killed broker served was done again after ${Math.round(tookMs)} ms`,
    );
    const [first, second, ...more] = waiting.calls;
    expect(second?.key).toBe(first?.key);
    expect(second?.pid).not.toBe(first?.pid);
    expect(more).toEqual([]);
    await wentOn(waiting);
  }, 60_000);

  it('leaves a script that sleeps without an isolate, which wakes in time though nobody owned it', async () => {
    const SLEEP_MS = 4_000;
    const client = cluster.connect();
    const session = await client.spawnSession();
    const beganAt = performance.now();
    const run = session.execute(
      `state.n = (state.n ?? 0) + 1;
      const once = await callTool('ledger:once', { n: input });
      await sleep(${SLEEP_MS});
      console.log('woke');
      return [state.n, once.landed, input, input];`,
      { input: 5 },
    );
    await waitUntil(
      async () => (await session.info()).executions.some(({ status }) => status === 'parked'),
      'it is parked',
    );
    const parkedAt = performance.now();
    killed = await cluster.ownerOf(session.id);
    await client.close();
    await killed?.kill();
    await waitUntil(() => cluster.observer.printed(session.id, 'woke') !== undefined, 'it wakes');
    const wokeAt = cluster.observer.printed(session.id, 'woke') ?? 0;
    console.log(
      `a parked sleep of ${SLEEP_MS} ms whose broker was killed was over after ${Math.round(wokeAt - parkedAt)} ms`,
    );
    expect(wokeAt - beganAt).toBeGreaterThanOrEqual(SLEEP_MS - EARLY_MS);
    expect(wokeAt - parkedAt).toBeLessThanOrEqual(SLEEP_MS + LEASE_MS + SLACK_MS);
    await waitUntil(() => cluster.observer.ended(session.id, run.id) !== undefined, 'it ends');
    const result = await cluster.client.session(session.id).result(run.id);
    expect(result).toMatchObject({ success: true, value: [1, 5, 5, 5] });
    executed.push({ session: session.id, execution: run.id, input: 5, acknowledged: true, result });
    await checkInvariants(cluster, executed);
  }, 60_000);

  it('leaves nobody behind: what hibernates wakes from its sleep, and expires, though nobody owns it', async () => {
    const TIME_MS = 2_000;
    const sleeper = await cluster.client.spawnSession();
    const beganAt = performance.now();
    const run = sleeper.execute(`await sleep(${TIME_MS}); console.log('woke');`);
    const idle = await cluster.client.spawnSession({ ttlMs: TIME_MS });
    await idle.hibernate();
    await waitUntil(
      async () => (await sleeper.info()).executions.some(({ status }) => status === 'parked'),
      'it is parked',
    );
    await sleeper.hibernate();
    expect((await sleeper.info()).owner).toBeUndefined();
    expect((await idle.info()).owner).toBeUndefined();
    killed = cluster.brokers[0];
    await killed?.kill();
    await waitUntil(() => cluster.observer.printed(sleeper.id, 'woke') !== undefined, 'it wakes');
    const wokeAt = cluster.observer.printed(sleeper.id, 'woke') ?? 0;
    expect(wokeAt - beganAt).toBeGreaterThanOrEqual(TIME_MS - EARLY_MS);
    expect(wokeAt - beganAt).toBeLessThanOrEqual(TIME_MS + LEASE_MS + SLACK_MS);
    expect(await run.result).toMatchObject({ success: true });
    // To be asked for its status does not wake it.
    await waitUntil(async () => (await idle.info()).status === 'expired', 'it expires');
    expect(performance.now() - beganAt).toBeGreaterThanOrEqual(TIME_MS - EARLY_MS);
  }, 60_000);

  it('is no loss to a service that provides tools, and both may be killed at once', async () => {
    const service = await cluster.addService();
    const [unsafe, idempotent] = await Promise.all([
      Waiting.start(cluster, 'service:send'),
      Waiting.start(cluster, 'service:put'),
    ]);
    killed = await unsafe.owner();
    await Promise.all([service.kill(), killed.kill()]);
    const next = await cluster.addService();
    idempotent.open();
    unsafe.open();
    await waitUntil(
      () => unsafe.passedAt('OutcomeUnknownError') !== undefined,
      'the unsafe call is in doubt',
    );
    await waitUntil(() => idempotent.passedAt() !== undefined, 'the idempotent call is made again');
    expect(unsafe.calls).toHaveLength(1);
    expect(idempotent.calls.map(({ pid }) => pid)).toEqual([service.pid, next.pid]);
    await wentOn(unsafe);
    await wentOn(idempotent);
    await next.kill();
  }, 60_000);

  it('costs a client that is closed and comes back no result', async () => {
    const before = [await Waiting.start(cluster), await Waiting.start(cluster)];
    await Promise.all(before.map((waiting) => waiting.forsake()));
    killed = await before[0]?.owner();
    await killed?.kill();
    const again = cluster.connect();
    await again.connect();
    const results = before.map(({ session, execution }) => again.session(session).result(execution));
    for (const waiting of before) waiting.open();
    for (const [index, result] of (await Promise.all(results)).entries())
      expect(result).toMatchObject({ success: true, executionId: before[index]?.execution });
    for (const waiting of before) await wentOn(waiting);
  }, 60_000);

  it('loses nothing under load', async () => {
    const load = await Load.start(cluster, { sessions: 6 });
    await waitUntil(() => load.count > 20, 'the load runs');
    killed = cluster.brokers[1];
    await killed?.kill();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on', 40_000);
    const all = await load.stop();
    console.log('broker killed under load', await checkInvariants(cluster, all, IN_DOUBT));
  }, 90_000);
});

describe('a broker of the default settings that is killed', () => {
  it('is succeeded, and its scripts go on, though no client asks', async () => {
    const cluster = await ChaosCluster.start({ brokerArgs: [] });
    try {
      const client = cluster.connect();
      const session = await client.spawnSession();
      const run = session.execute(
        `state.n = (state.n ?? 0) + 1;
        const once = await callTool('ledger:once', { n: input });
        console.log('before');
        await sleep(1_000);
        console.log('after');
        return [state.n, once.landed, input, input];`,
        { input: 6 },
      );
      await waitUntil(() => cluster.observer.printed(session.id, 'before') !== undefined, 'it runs');
      const owner = await cluster.ownerOf(session.id);
      await client.close();
      const killedAt = performance.now();
      await owner?.kill();
      await waitUntil(() => cluster.observer.printed(session.id, 'after') !== undefined, 'it goes on');
      const tookMs = (cluster.observer.printed(session.id, 'after') ?? 0) - killedAt;
      console.log(
        `after SIGKILL of a broker, default settings: its script printed after ${Math.round(tookMs)} ms`,
      );
      expect(tookMs).toBeLessThanOrEqual(DEFAULT_LEASE_MS + SLACK_MS);
      await waitUntil(() => cluster.observer.ended(session.id, run.id) !== undefined, 'it ends');
      const result = await cluster.client.session(session.id).result(run.id);
      expect(result).toMatchObject({ success: true, value: [1, 6, 6, 6] });
      expect(result.stats.attempts).toBe(1);
      const executed = [{ session: session.id, execution: run.id, input: 6, acknowledged: true, result }];
      const report = await checkInvariants(cluster, executed);
      expect(report.takeovers).toBe(1);
      console.log('default settings', report);
    } finally {
      await cluster.stop();
    }
  }, 60_000);
});
