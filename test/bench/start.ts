/**
 * Cold start: from nothing (the package is loaded, no process runs) to the first result.
 */
import { interleave } from './rounds.ts';
import { ask, SIMPLE } from './scripts.ts';
import { ONE_WORKER, type Open, type Openers, withSide } from './side.ts';
import { median, pairwiseRatio } from './stats.ts';

/** Medians in ms, and the pairwise ratio ours / bare. */
export interface StartResult {
  readonly bareMs: number | undefined;
  readonly oursMs: number | undefined;
  readonly ratio: number | undefined;
}

/** Start each side afresh every round. */
export async function measureStart(openers: Openers, rounds: number): Promise<StartResult> {
  const times = await interleave(openers, rounds, startOnce);
  const bare = times.get('bare');
  const ours = times.get('ours');
  return {
    bareMs: bare && median(bare),
    oursMs: ours && median(ours),
    ratio: ours && bare && pairwiseRatio(ours, bare),
  };
}

function startOnce(open: Open): Promise<number> {
  const begun = performance.now();
  return withSide(open, ONE_WORKER, async (side) => {
    await ask(side, SIMPLE, { level: 'context' });
    return performance.now() - begun;
  });
}
