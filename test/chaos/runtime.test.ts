/** A runtime is lost while it runs scripts. */
import { afterEach, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster } from './cluster.ts';
import { checkInvariants, landings } from './invariants.ts';
import { Load } from './load.ts';

let cluster: ChaosCluster;
afterEach(() => cluster.stop());

/** Passes a gate in the middle. */
const GATED = `state.n = (state.n ?? 0) + 1;
const once = await callTool('ledger:once', { n: input });
await callTool('gate:pass', { gate: 'gate' });
return [state.n, once.landed, input, input];`;

describe('a runtime', () => {
  it('that is killed in mid-script has its scripts go on elsewhere within two seconds', async () => {
    cluster = await ChaosCluster.start({ runtimes: 2 });
    const session = await cluster.client.spawnSession();
    const run = session.execute(GATED, { input: 1 });
    await waitUntil(() => landings(cluster, 'gate.waiting').length === 1, 'the script waits');
    const first = await cluster.runtimeOf(session.id);
    expect(first).toBeDefined();
    const killedAt = performance.now();
    await first?.kill();
    await waitUntil(async () => (await cluster.runtimeOf(session.id)) !== first, 'it runs elsewhere');
    const tookMs = performance.now() - killedAt;
    cluster.open('gate');
    const result = await run.result;
    expect(result).toMatchObject({ success: true, value: [1, 1, 1, 1] });
    expect(result.stats.attempts).toBe(2);
    console.log(`after SIGKILL of a runtime its script ran elsewhere after ${Math.round(tookMs)} ms`);
    const executed = [{ session: session.id, execution: run.id, input: 1, acknowledged: true, result }];
    await checkInvariants(cluster, executed);
  }, 60_000);

  it('that is killed under load loses nothing', async () => {
    cluster = await ChaosCluster.start({ runtimes: 3 });
    const load = await Load.start(cluster, { sessions: 6 });
    await waitUntil(() => load.count > 30, 'the load runs');
    await cluster.runtimes[0]?.kill();
    const before = load.count;
    await waitUntil(() => load.count > before + 30, 'the load goes on');
    const executed = await load.stop();
    expect(executed.filter(({ result }) => !result.success)).toEqual([]);
    console.log('runtime killed under load', await checkInvariants(cluster, executed));
  }, 90_000);
});
