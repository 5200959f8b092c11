/**
 * What recycling costs: the same load with workers replaced after every 50 runs, and never.
 *
 * Two loads, because the answer depends on whether the processors have time to start the replacements: one
 * that leaves none (`simple`), and one that mostly waits for a tool (`waiting`).
 */
import { load } from './load.ts';
import { interleave } from './rounds.ts';
import { ask, type Script, SIMPLE, WAITING } from './scripts.ts';
import type { Settings } from './settings.ts';
import { type Open, type Shape, type Side, TWO_WORKERS, withSide } from './side.ts';
import { median, medianSample, type Sample, type SampleRatio, sampleRatio } from './stats.ts';

const MAX_EXECUTIONS = 50;
const CONCURRENCY = 16;
const LOOK_EVERY_MS = 20;

/** Medians with and without, and the pairwise ratios with / without. */
export interface RecyclingResult {
  readonly script: string;
  readonly never: Sample;
  readonly after50: Sample;
  readonly ratio: SampleRatio;
  /** Worker processes that were seen in a round with recycling; without it there are two. */
  readonly workersSeen: number;
}

/** Ours only: bare never replaces a worker. Throws if no worker was replaced: the ratio would mean nothing. */
export async function measureRecycling(open: Open, settings: Settings): Promise<readonly RecyclingResult[]> {
  const results: RecyclingResult[] = [];
  for (const script of [SIMPLE, WAITING]) results.push(await measureScript(open, script, settings));
  return results;
}

async function measureScript(open: Open, script: Script, settings: Settings): Promise<RecyclingResult> {
  const shapes: ReadonlyMap<'never' | 'after50', Shape> = new Map([
    ['never', TWO_WORKERS],
    ['after50', { ...TWO_WORKERS, maxExecutionsPerWorker: MAX_EXECUTIONS }],
  ]);
  const rounds = await interleave(shapes, settings.rounds, (shape) =>
    // Processes of its own for every round, so that no replacement starts in the other contender's time.
    withSide(open, shape, (side) => measureRound(side, script, settings)),
  );
  const after50 = rounds.get('after50') ?? [];
  const samples = after50.map(({ sample }) => sample);
  const never = (rounds.get('never') ?? []).map(({ sample }) => sample);
  const workersSeen = median(after50.map(({ workers }) => workers));
  if (workersSeen <= TWO_WORKERS.workers) throw new Error(`${script.name}: no worker was recycled`);
  return {
    script: script.name,
    never: medianSample(never),
    after50: medianSample(samples),
    ratio: sampleRatio(samples, never),
    workersSeen,
  };
}

interface Round {
  readonly sample: Sample;
  readonly workers: number;
}

async function measureRound(side: Side, script: Script, settings: Settings): Promise<Round> {
  const loadFor = (durationMs: number) =>
    load(() => ask(side, script, { level: 'context' }), { concurrency: CONCURRENCY, durationMs });
  await loadFor(settings.warmupMs);
  const seen = new Set<number>();
  const look = setInterval(() => {
    for (const pid of side.pids()) seen.add(pid);
  }, LOOK_EVERY_MS);
  try {
    return { sample: await loadFor(settings.recyclingMs), workers: seen.size };
  } finally {
    clearInterval(look);
  }
}
