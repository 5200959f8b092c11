/** Runs of seeds, one after the other, and what they found. */

import type { Defect } from './defects.ts';
import { Violation } from './violation.ts';
import { World } from './world.ts';

export interface Outcome {
  readonly seed: number;
  readonly hash: string;
  readonly violation: Error | undefined;
  /** The last lines of the trace. */
  readonly lines: readonly string[];
  /** What went wrong, and what clients did, by kind. */
  readonly faults: Readonly<Record<string, number>>;
  readonly actions: Readonly<Record<string, number>>;
  /** How often the version of a session's snapshot changed. */
  readonly formats: Readonly<Record<'raised' | 'lowered', number>>;
}

export interface RunOptions {
  readonly steps: number;
  readonly defect?: Defect | undefined;
  /** Told of every line of the trace. */
  readonly onLine?: ((line: string) => void) | undefined;
}

/** The world that runs: what nobody handles is its failure. */
let current: World | undefined;
process.on('unhandledRejection', (error) => {
  if (current === undefined) throw error;
  current.fail(error);
});

/** Run one seed. The same seed and steps give the same outcome, trace included. */
export async function runSeed(seed: number, { steps, defect, onLine }: RunOptions): Promise<Outcome> {
  const world = new World(seed, defect);
  world.trace.onLine = onLine;
  current = world;
  await world.run(steps);
  current = undefined;
  const { violation, trace, faults, clients, ledger } = world;
  const lines = trace.lines;
  const counts = { faults: faults.counts, actions: clients.counts, formats: ledger.formats };
  return { seed, hash: trace.digest(), violation, lines, ...counts };
}

/** An outcome's violation, for a reader. */
export function describe({ seed, violation, lines, hash }: Outcome): string {
  const name = violation instanceof Violation ? violation.invariant : 'failure';
  return [`${name} does not hold in seed ${seed} (trace ${hash})`, ...lines, `${violation?.message}`].join(
    '\n',
  );
}
