/** Durable sessions hold I1 to I5 in every world that the seeds make. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Action } from './clients.ts';
import type { FaultKind } from './faults.ts';
import { runSeed } from './run.ts';

const MAIN = fileURLToPath(new URL('./main.ts', import.meta.url));
const SEEDS = 2_000;
const STEPS = 400;
const TIMEOUT_MS = 600_000;

/**
 * How often each fault has to happen in all seeds, and each action of a client: about a quarter of what they did when
 * this was written. A simulator that stops to inject one of them proves nothing about it.
 */
const FAULTS: Readonly<Record<FaultKind, number>> = {
  crashBroker: 450,
  crashRuntime: 650,
  crashProvider: 400,
  crashClient: 280,
  pause: 450,
  partition: 300,
  drain: 300,
  storeOutage: 200,
  slowStore: 450,
  lose: 1_200,
  double: 1_200,
  delay: 1_200,
  lostAttempt: 60,
  refusedAttempt: 25,
  'store-unavailable': 4_500,
  'store-unknown-before': 150,
  'store-unknown-after': 150,
  'store-unknown-late': 130,
  'before-write': 25,
  'after-write': 25,
  'after-reply': 25,
  'amid-effects': 20,
  'after-effects': 30,
};
const ACTIONS: Readonly<Record<Action, number>> = {
  spawns: 1_200,
  executes: 4_000,
  hears: 7_000,
  cancels: 500,
  has: 1_900,
  came: 110,
  could: 750,
  reads: 700,
  stops: 90,
  info: 450,
  journal: 200,
  migrate: 850,
  hibernate: 700,
  result: 200,
  close: 130,
};

interface Summary {
  readonly runs: number;
  readonly violations: number;
  readonly seconds: number;
  readonly faults: Readonly<Partial<Record<FaultKind, number>>>;
  readonly actions: Readonly<Partial<Record<Action, number>>>;
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
    const tooFew = (counted: 'faults' | 'actions', least: Readonly<Record<string, number>>) =>
      Object.entries(least).flatMap(([kind, bound]) => {
        const counts = halves.map((half): Readonly<Record<string, number>> => half[counted]);
        const sum = counts.reduce((all, count) => all + (count[kind] ?? 0), 0);
        return sum >= bound ? [] : [`${kind}: ${sum} of ${bound}`];
      });
    expect(halves.reduce((sum, { runs }) => sum + runs, 0)).toBe(SEEDS);
    expect(halves.reduce((sum, { violations }) => sum + violations, 0)).toBe(0);
    expect(tooFew('faults', FAULTS)).toEqual([]);
    expect(tooFew('actions', ACTIONS)).toEqual([]);
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
