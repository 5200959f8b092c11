/**
 * The latency of a small tenant, alone and while another tenant floods the same workers.
 *
 * Bare has no tenants: there the small one waits in the same queue as the flood, which is the point.
 */
import { load } from './load.ts';
import { interleave } from './rounds.ts';
import { ask, SIMPLE } from './scripts.ts';
import type { Settings } from './settings.ts';
import { type Openers, type Side, TWO_WORKERS, withSides } from './side.ts';
import { medianSample, pairwiseRatio, type Sample } from './stats.ts';

/** Requests that the flood keeps under way: four times what both workers take aboard. */
const FLOOD = 128;

/** The small tenant's latencies on one side. */
export interface FloodFigures {
  readonly alone: Sample;
  readonly flooded: Sample;
  /** Median of the pairwise ratios flooded / alone of p50. */
  readonly slowdown: number;
}

export interface FloodResult {
  readonly bare: FloodFigures | undefined;
  readonly ours: FloodFigures | undefined;
}

/** One pair of sides; each round measures the small tenant alone and then flooded, on either side. */
export function measureFlood(openers: Openers, settings: Settings): Promise<FloodResult> {
  return withSides(openers, TWO_WORKERS, async (sides) => {
    for (const side of sides.values()) await loadAs(side, 'flood', FLOOD, settings.warmupMs);
    const rounds = await interleave(sides, settings.rounds, (side) => measureRound(side, settings.sampleMs));
    return { bare: condense(rounds.get('bare')), ours: condense(rounds.get('ours')) };
  });
}

interface Round {
  readonly alone: Sample;
  readonly flooded: Sample;
}

async function measureRound(side: Side, durationMs: number): Promise<Round> {
  const alone = await loadAs(side, 'small', 1, durationMs);
  // The flood is asked first, so that its queue stands before the small tenant's first request.
  const [, flooded] = await Promise.all([
    loadAs(side, 'flood', FLOOD, durationMs),
    loadAs(side, 'small', 1, durationMs),
  ]);
  return { alone, flooded };
}

function loadAs(side: Side, tenant: string, concurrency: number, durationMs: number): Promise<Sample> {
  return load(() => ask(side, SIMPLE, { level: 'context', tenant }), { concurrency, durationMs });
}

function condense(rounds: readonly Round[] | undefined): FloodFigures | undefined {
  if (rounds === undefined) return undefined;
  const alone = rounds.map((round) => round.alone);
  const flooded = rounds.map((round) => round.flooded);
  const p50 = (sample: Sample) => sample.p50Ms;
  return {
    alone: medianSample(alone),
    flooded: medianSample(flooded),
    slowdown: pairwiseRatio(flooded.map(p50), alone.map(p50)),
  };
}
