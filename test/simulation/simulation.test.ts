/** Durable sessions hold I1 to I5 in every world that the seeds make. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { runSeed } from './run.ts';
import { BOUNDARIES } from './store.ts';

const MAIN = fileURLToPath(new URL('./main.ts', import.meta.url));
const SEEDS = 2_000;
const STEPS = 400;
const TIMEOUT_MS = 600_000;

interface Summary {
  readonly runs: number;
  readonly violations: number;
  readonly seconds: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly formats: Readonly<Record<'raised' | 'lowered', number>>;
}

/** Run seeds in a process of their own: the test runner's transform would slow them down. */
async function simulate(from: number, to: number): Promise<Summary> {
  const args = [MAIN, '--seeds', `${from}..${to}`, '--steps', `${STEPS}`, '--json'];
  const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: 64 * 1024 * 1024 }).catch(
    (error: unknown) => {
      throw new Error(`${(error as { readonly stdout?: string }).stdout}`, { cause: error });
    },
  );
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Summary;
}

describe('durable sessions, simulated', () => {
  it(`hold every invariant in ${SEEDS} seeds, with a broker dying at every boundary of a commit`, {
    timeout: TIMEOUT_MS,
  }, async () => {
    const halves = await Promise.all([simulate(1, SEEDS / 2), simulate(SEEDS / 2 + 1, SEEDS)]);
    const deaths = BOUNDARIES.map((boundary) =>
      halves.reduce((sum, { faults }) => sum + (faults[boundary] ?? 0), 0),
    );
    expect(halves.reduce((sum, { runs }) => sum + runs, 0)).toBe(SEEDS);
    expect(halves.reduce((sum, { violations }) => sum + violations, 0)).toBe(0);
    expect(Math.min(...deaths), BOUNDARIES.join(', ')).toBeGreaterThan(10);
    // Brokers of two releases met, in a part of the worlds.
    for (const way of ['raised', 'lowered'] as const)
      expect(
        halves.reduce((sum, { formats }) => sum + formats[way], 0),
        way,
      ).toBeGreaterThan(5);
    const seconds = Math.max(...halves.map((half) => half.seconds));
    console.info(
      `${SEEDS} seeds of ${STEPS} steps and a calm phase each, in two processes: ${Math.round(seconds)} s`,
    );
  });

  it('gives the same run for the same seed, byte for byte', async () => {
    for (const seed of [3, 17, 42]) {
      const [one, other] = [await runSeed(seed, { steps: STEPS }), await runSeed(seed, { steps: STEPS })];
      expect(other.hash).toBe(one.hash);
      expect(other.lines).toEqual(one.lines);
    }
  });

  it('gives another run for another seed', async () => {
    const [one, other] = [await runSeed(1, { steps: STEPS }), await runSeed(2, { steps: STEPS })];
    expect(other.hash).not.toBe(one.hash);
  });
});
