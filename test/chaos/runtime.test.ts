/** A runtime is lost, or seems to be, while it runs scripts. */
import { afterEach, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster } from './cluster.ts';
import { checkInvariants } from './invariants.ts';
import { Load } from './load.ts';
import { Waiting } from './waiting.ts';

/** How seldom a heartbeat may be, in ms. */
const SELDOM_MS = 60_000;
/** Nothing but the heartbeats takes so long, in ms. What the issue allows, two seconds, is measured by `npm run bench:cluster`. */
const ELSEWHERE_MS = 15_000;

let cluster: ChaosCluster;
afterEach(() => cluster.stop());

/** SIGKILL the runtime of a script that waits. Resolves to how long it took until another one had it, in ms. */
async function killRuntimeOf(waiting: Waiting): Promise<number> {
  const first = await waiting.runtime();
  const killedAt = performance.now();
  await first.kill();
  await waitUntil(async () => (await waiting.runtime()) !== first, 'it runs elsewhere');
  return performance.now() - killedAt;
}

/** It was begun a second time, and ended once. */
async function replayed(waiting: Waiting): Promise<void> {
  waiting.open();
  const one = await waiting.executed();
  expect(one.result).toMatchObject({
    success: true,
    value: [1, waiting.input, waiting.input, waiting.input],
  });
  expect(one.result.stats.attempts).toBe(2);
  expect(waiting.calls).toHaveLength(1);
  await checkInvariants(cluster, [one]);
}

describe('a runtime', () => {
  it('that is killed in mid-script has its scripts go on elsewhere', async () => {
    cluster = await ChaosCluster.start();
    const waiting = await Waiting.start(cluster);
    const tookMs = await killRuntimeOf(waiting);
    console.log(`after SIGKILL of a runtime its script ran elsewhere after ${Math.round(tookMs)} ms`);
    expect(tookMs).toBeLessThanOrEqual(ELSEWHERE_MS);
    await replayed(waiting);
  }, 60_000);

  it('that is killed is missed long before its next heartbeat is due', async () => {
    cluster = await ChaosCluster.start({ runtimeArgs: ['--heartbeat', String(SELDOM_MS)] });
    const waiting = await Waiting.start(cluster);
    const tookMs = await killRuntimeOf(waiting);
    console.log(`the same with a heartbeat a minute: ${Math.round(tookMs)} ms`);
    expect(tookMs).toBeLessThanOrEqual(ELSEWHERE_MS);
    await replayed(waiting);
  }, 60_000);

  it('that is paused is succeeded, and when it comes back its old attempt is stopped', async () => {
    cluster = await ChaosCluster.start();
    const { observer } = cluster;
    const session = await cluster.client.spawnSession();
    // Busy all the time: it is in the middle of something whenever it is paused.
    const run = session.execute(
      `state.n = (state.n ?? 0) + 1;
      for (let round = 0; round < 40; round++) await callTool('slow:look', { ms: 20 });
      const once = await callTool('ledger:once', { n: input });
      return [state.n, once.landed, input, input];`,
      { input: 7 },
    );
    await waitUntil(() => observer.heard(session.id).length > 20, 'it is in the middle');
    const first = await cluster.runtimeOf(session.id);
    const pausedAt = performance.now();
    first?.pause();
    await waitUntil(async () => (await cluster.runtimeOf(session.id)) !== first, 'it runs elsewhere');
    const tookMs = performance.now() - pausedAt;
    console.log(`after SIGSTOP of a runtime its script ran elsewhere after ${Math.round(tookMs)} ms`);
    const resumedAt = performance.now();
    first?.resume();
    await waitUntil(() => observer.load(first?.id ?? '', resumedAt) === 0, 'its old attempt is gone');
    const result = await run.result;
    expect(result).toMatchObject({ success: true, value: [1, 7, 7, 7] });
    expect(result.stats.attempts).toBe(2);
    const executed = [{ session: session.id, execution: run.id, input: 7, acknowledged: true, result }];
    await checkInvariants(cluster, executed);
  }, 60_000);

  it('that is killed, and one that is paused and comes back, lose nothing under load', async () => {
    cluster = await ChaosCluster.start({ runtimes: 3 });
    const [killed, paused] = cluster.runtimes;
    const load = await Load.start(cluster, { sessions: 6 });
    await waitUntil(() => load.count > 30, 'the load runs');
    await killed?.kill();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on');
    paused?.pause();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on without it', 30_000);
    paused?.resume();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on with it');
    const executed = await load.stop();
    console.log('runtimes killed and paused under load', await checkInvariants(cluster, executed));
  }, 90_000);
});
