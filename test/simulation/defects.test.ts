/** The simulator can fail: for each part that is wrong on purpose it finds a violation, and the right one. */
import { describe, expect, it } from 'vitest';
import { DEFECTS, type DefectName } from './defects.ts';
import { runSeed } from './run.ts';
import { type Invariant, Violation } from './violation.ts';

const STEPS = 400;

/** What each of them breaks, and within how many seeds that must show. */
const EXPECTED: Readonly<
  Record<DefectName, { readonly breaks: readonly Invariant[]; readonly seeds: number }>
> = {
  fencing: { breaks: ['I1'], seeds: 200 },
  'operation-dedup': { breaks: ['I2'], seeds: 40 },
  'commit-before-effect': { breaks: ['I3', 'I4'], seeds: 5 },
  'pending-on-activation': { breaks: ['I5'], seeds: 40 },
  'ordered-deliveries': { breaks: ['I4', 'I5'], seeds: 20 },
  'one-delivery-per-entry': { breaks: ['I4', 'I5'], seeds: 40 },
  'self-halt': { breaks: ['I3'], seeds: 5 },
};

async function firstViolation(name: DefectName, seeds: number): Promise<Violation | undefined> {
  for (let seed = 1; seed <= seeds; seed++) {
    const { violation } = await runSeed(seed, { steps: STEPS, defect: DEFECTS[name] });
    if (violation instanceof Violation) return violation;
  }
  return undefined;
}

describe('the simulator finds', () => {
  for (const [name, { breaks, seeds }] of Object.entries(EXPECTED)) {
    it(`${name} within ${seeds} seeds, as ${breaks.join(' or ')}`, async () => {
      const violation = await firstViolation(name as DefectName, seeds);
      expect(violation?.invariant, violation?.message).toBeOneOf([...breaks]);
    });
  }
});
