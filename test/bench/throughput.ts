/**
 * Throughput and latency of both sides, for every script, concurrency and isolation level.
 */
import { load } from './load.ts';
import { interleave } from './rounds.ts';
import { ask, ONE_CALL, type Script, SIMPLE, TEN_CALLS } from './scripts.ts';
import type { Settings } from './settings.ts';
import { type Level, type Openers, type Side, type SideName, TWO_WORKERS, withSides } from './side.ts';
import { medianSample, type Sample, type SampleRatio, sampleRatio } from './stats.ts';

const SCRIPTS = [SIMPLE, ONE_CALL, TEN_CALLS] as const;

/** One combination of the matrix. */
interface Row {
  readonly level: Level;
  readonly script: Script;
  readonly concurrency: number;
}

/** A row's medians, and the pairwise ratios ours / bare if both sides were measured. */
export interface RowResult {
  readonly level: Level;
  readonly script: string;
  readonly concurrency: number;
  readonly bare: Sample | undefined;
  readonly ours: Sample | undefined;
  readonly ratio: SampleRatio | undefined;
}

/** Measure the matrix on one pair of sides; `progress` hears of each row before it starts. */
export function measureThroughput(
  openers: Openers,
  settings: Settings,
  progress: (row: string) => void,
): Promise<readonly RowResult[]> {
  return withSides(openers, TWO_WORKERS, async (sides) => {
    const results: RowResult[] = [];
    // Both parents' code is compiled and optimised before the first row: a service runs for longer than a row.
    for (const side of sides.values()) {
      await load(() => ask(side, ONE_CALL, { level: 'context' }), {
        concurrency: 16,
        durationMs: settings.steadyMs,
      });
    }
    for (const row of rowsOf(settings)) {
      progress(`${row.level}, ${row.script.name}, ${row.concurrency} at once`);
      results.push(await measureRow(row, sides, settings));
    }
    return results;
  });
}

/** The matrix, narrowed to what was asked for. */
function rowsOf({ levels, concurrencies }: Settings): readonly Row[] {
  return levels.flatMap((level) =>
    SCRIPTS.flatMap((script) => concurrencies.map((concurrency) => ({ level, script, concurrency }))),
  );
}

/** A warm-up of each side, then the interleaved rounds. */
async function measureRow(
  row: Row,
  sides: ReadonlyMap<SideName, Side>,
  settings: Settings,
): Promise<RowResult> {
  const { level, script, concurrency } = row;
  const loadOn = (side: Side, durationMs: number) =>
    load(() => ask(side, script, { level }), { concurrency, durationMs });
  for (const side of sides.values()) await loadOn(side, settings.warmupMs);
  const samples = await interleave(sides, settings.rounds, (side) => loadOn(side, settings.sampleMs));
  const bare = samples.get('bare');
  const ours = samples.get('ours');
  return {
    level,
    script: script.name,
    concurrency,
    bare: bare && medianSample(bare),
    ours: ours && medianSample(ours),
    ratio: ours && bare && sampleRatio(ours, bare),
  };
}
