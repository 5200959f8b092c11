import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  backoffDelay,
  doublingDelay,
  NO_CRASHES,
  type RestartPolicy,
  recordCrash,
  recordProgress,
} from '../../actors/restart.ts';

const policy: RestartPolicy = { maxRestarts: 2, restartWindowMs: 100, baseDelayMs: 50, maxDelayMs: 1_000 };

/** Whether each of the crashes at these times exceeded the intensity. */
function verdicts(given: RestartPolicy, times: readonly number[]): readonly boolean[] {
  let history = NO_CRASHES;
  return times.map((at) => {
    const recorded = recordCrash(given, history, at);
    history = recorded.history;
    return recorded.exceeded;
  });
}

describe('restart intensity', () => {
  it.each([
    { claim: 'bears as many crashes as are allowed', times: [0, 10], exceeded: [false, false] },
    { claim: 'is exceeded by one more', times: [0, 10, 20], exceeded: [false, false, true] },
    { claim: 'counts a crash as old as the window', times: [0, 10, 100], exceeded: [false, false, true] },
    {
      claim: 'does not count a crash older than the window',
      times: [0, 10, 101],
      exceeded: [false, false, false],
    },
    { claim: 'counts crashes of the same moment', times: [7, 7, 7], exceeded: [false, false, true] },
    {
      claim: 'is kept again once the window has passed',
      times: [0, 1, 2, 500],
      exceeded: [false, false, true, false],
    },
  ])('$claim', ({ times, exceeded }) => {
    expect(verdicts(policy, times)).toEqual(exceeded);
  });

  it('is exceeded by the first crash when none is allowed', () => {
    expect(verdicts({ ...policy, maxRestarts: 0 }, [5])).toEqual([true]);
  });

  it('says the same as counting all crashes ever, and remembers a bounded number of them', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 5 }),
        fc.integer({ min: 1, max: 50 }),
        fc.array(fc.nat({ max: 20 }), { maxLength: 60 }),
        (maxRestarts, restartWindowMs, gaps) => {
          const given = { ...policy, maxRestarts, restartWindowMs };
          const all: number[] = [];
          let history = NO_CRASHES;
          let at = 0;
          for (const gap of gaps) {
            at += gap;
            all.push(at);
            const recorded = recordCrash(given, history, at);
            history = recorded.history;
            const within = all.filter((time) => at - time <= restartWindowMs).length;
            expect(recorded.exceeded).toBe(within > maxRestarts);
            expect(history.crashes.length).toBe(Math.min(within, maxRestarts + 1));
          }
          expect(history.consecutive).toBe(gaps.length);
        },
      ),
    );
  });

  it('leaves the history it was given as it was', () => {
    const before = recordCrash(policy, NO_CRASHES, 1).history;
    recordCrash(policy, before, 2);
    expect(before).toEqual({ crashes: [1], consecutive: 1 });
    expect(NO_CRASHES).toEqual({ crashes: [], consecutive: 0 });
  });
});

describe('progress', () => {
  it('ends the row of crashes and keeps their times', () => {
    expect(recordProgress({ crashes: [1, 2], consecutive: 2 })).toEqual({ crashes: [1, 2], consecutive: 0 });
  });

  it('returns the same object when there is nothing to reset', () => {
    const history = { crashes: [1], consecutive: 0 };
    expect(recordProgress(history)).toBe(history);
  });
});

describe('back-off', () => {
  it.each([
    { consecutive: 1, jitter: 0.5, delayMs: 0 },
    { consecutive: 2, jitter: 0, delayMs: 25 },
    { consecutive: 2, jitter: 0.5, delayMs: 38 },
    { consecutive: 3, jitter: 0, delayMs: 50 },
    { consecutive: 4, jitter: 0, delayMs: 100 },
    { consecutive: 6, jitter: 0, delayMs: 400 },
    { consecutive: 7, jitter: 0, delayMs: 500 },
    { consecutive: 7, jitter: 0.998, delayMs: 999 },
    { consecutive: 5_000, jitter: 0, delayMs: 500 },
  ])('after crash $consecutive in a row with jitter $jitter is $delayMs ms', (row) => {
    expect(backoffDelay(policy, row.consecutive, row.jitter)).toBe(row.delayMs);
  });

  it('is whole, at least half of the doubled base, and never over the longest pause', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 5_000 }),
        fc.nat({ max: 100_000 }),
        fc.integer({ min: 1, max: 3_000 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (baseDelayMs, maxDelayMs, consecutive, jitter) => {
          const delay = backoffDelay({ ...policy, baseDelayMs, maxDelayMs }, consecutive, jitter);
          const full = consecutive === 1 ? 0 : doublingDelay(baseDelayMs, maxDelayMs, consecutive - 2);
          expect(Number.isInteger(delay)).toBe(true);
          expect(delay).toBeGreaterThanOrEqual(full / 2);
          expect(delay).toBeLessThanOrEqual(Math.min(full, maxDelayMs));
        },
      ),
    );
  });
});

describe('a doubling delay', () => {
  it.each([
    { times: 0, delayMs: 500 },
    { times: 1, delayMs: 1_000 },
    { times: 5, delayMs: 16_000 },
    { times: 6, delayMs: 30_000 },
    { times: 1e9, delayMs: 30_000 },
  ])('doubled $times times is $delayMs ms', ({ times, delayMs }) => {
    expect(doublingDelay(500, 30_000, times)).toBe(delayMs);
  });

  it('of nothing stays nothing', () => {
    expect(doublingDelay(0, 30_000, 1e9)).toBe(0);
  });
});
