/** Every pod is restarted in turn while scripts run; sessions are moved while theirs do. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChaosCluster } from './cluster.ts';
import { describePauses, describeRolled, migrate, percentile, roll, startRolling } from './rolling.ts';

/** What a migration may usually cost, in ms. What it may cost at most (p99) is for a machine with nothing else to do: `npm run bench:cluster`. */
const PAUSE_MS = 250;
/** As many as the time of a test run allows; `node test/chaos/rolling.ts 5000` does the whole. */
const EXECUTIONS = Number(process.env.ROLLING_EXECUTIONS ?? 600);

let cluster: ChaosCluster;
beforeAll(async () => {
  cluster = await startRolling();
}, 60_000);
afterAll(() => cluster.stop());

describe('a cluster of two brokers and three runtimes', () => {
  it('whose pods are all restarted in turn fails, loses and doubles nothing', async () => {
    const rolled = await roll(cluster, EXECUTIONS);
    console.log(describeRolled(rolled));
    expect(rolled.failed).toEqual([]);
    expect(rolled.exitCodes.filter((code) => code !== 0)).toEqual([]);
    expect(rolled.report.executions).toBeGreaterThanOrEqual(EXECUTIONS);
  }, 600_000);

  it('moves sessions whose scripts run without a pause that anybody minds', async () => {
    const pauses = await migrate(cluster, 100);
    console.log(describePauses(pauses));
    expect(percentile(pauses.calls, 0.5)).toBeLessThan(PAUSE_MS);
    // The script's own pace counts, which a busy machine slows down without any migration.
    expect(percentile(pauses.gaps, 0.5)).toBeLessThan(PAUSE_MS + percentile(pauses.usual, 0.99));
  }, 60_000);
});
