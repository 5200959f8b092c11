/** What the soak takes for growth, and what it does not. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { judge, LEAST_SAMPLES, medianOf, type Sample, slopeOf } from '../soak/slope.ts';

const BOUND = { noise: 10, perMinute: 1 };

/** One sample every 5 s. */
const series = (count: number, valueAt: (index: number) => number): readonly Sample[] =>
  Array.from({ length: count }, (_, index) => ({ at: index * 5_000, value: valueAt(index) }));

/** Numbers from 0 to 1 that are the same every time. */
const noise = (index: number): number => Math.abs(Math.sin(index * 12.9898) * 43_758.5453) % 1;

const verdictOf = (samples: readonly Sample[]): string => judge(samples, BOUND).verdict;

describe('a figure is flat', () => {
  it.each([
    ['that does not change', () => 100],
    ['that falls', (index: number) => 1_000 - index],
    ['with noise', (index: number) => 100 + 50 * noise(index)],
    ['that rises and is collected, again and again', (index: number) => 100 + 5 * (index % 12)],
    ['with bursts that pass', (index: number) => (index % 9 === 8 ? 10_000 : 100)],
    ['that was large at its end only', (index: number) => (index > 110 ? 400 : 100)],
    ['that grows as fast as it may', (index: number) => 100 + (index * 5) / 60],
  ])('%s', (_, valueAt) => {
    expect(verdictOf(series(120, valueAt))).toBe('flat');
  });
});

describe('a figure grows', () => {
  it.each([
    ['that leaks steadily', (index: number) => 100 + index],
    ['that leaks within noise', (index: number) => 100 + index + 60 * noise(index)],
    ['that leaks and is collected', (index: number) => 100 + index + 8 * (index % 12)],
    ['that leaks, with bursts that pass', (index: number) => (index % 9 === 8 ? 10_000 : 100 + index)],
    ['in steps', (index: number) => 100 + 20 * Math.floor(index / 20)],
    ['a little faster than it may', (index: number) => 100 + index * ((2.2 * 5) / 60)],
  ])('%s', (_, valueAt) => {
    expect(verdictOf(series(120, valueAt))).toBe('grows');
  });
});

describe('the judgement', () => {
  it('says nothing of few samples', () => {
    const leak = series(LEAST_SAMPLES, (index) => 100 * index);
    expect(verdictOf(leak)).toBe('grows');
    expect(verdictOf(leak.slice(1))).toBe('short');
    expect(verdictOf([])).toBe('short');
  });

  it('allows the noise once, and the rest by the minute', () => {
    const { growth, allowed, spanMs } = judge(
      series(121, (index) => index / 2),
      BOUND,
    );
    expect(spanMs).toBe(600_000);
    expect(growth).toBeCloseTo(60, 6);
    expect(allowed).toBeCloseTo(20, 6);
  });

  it('names the median and the most', () => {
    const { median, most, samples } = judge(
      series(9, (index) => (index === 4 ? 99 : index)),
      BOUND,
    );
    expect([median, most, samples]).toEqual([5, 99, 9]);
  });
});

describe('the slope', () => {
  const values = fc.array(fc.integer({ min: -1_000, max: 1_000 }), { minLength: 2, maxLength: 30 });

  it('of a line is that of the line', () => {
    fc.assert(
      fc.property(fc.integer({ min: -50, max: 50 }), fc.integer({ min: 2, max: 40 }), (slope, count) => {
        expect(slopeOf(series(count, (index) => slope * index * 5_000))).toBeCloseTo(slope, 9);
      }),
    );
  });

  it('turns round with the sign of the values, and stays when all are moved', () => {
    fc.assert(
      fc.property(values, fc.integer({ min: -500, max: 500 }), (given, by) => {
        const slope = slopeOf(series(given.length, (index) => given[index] ?? 0));
        expect(slopeOf(series(given.length, (index) => -(given[index] ?? 0)))).toBeCloseTo(-slope, 9);
        expect(slopeOf(series(given.length, (index) => (given[index] ?? 0) + by))).toBeCloseTo(slope, 9);
      }),
    );
  });

  it('is not moved out of its sign by one sample in five that is wrong', () => {
    const samples = series(100, (index) => (index % 5 === 0 ? 1e9 * noise(index) : index));
    expect(slopeOf(samples)).toBeGreaterThan(0);
    expect(slopeOf(samples)).toBeLessThan(1 / 1_000);
  });

  it('of samples at one time is 0', () => {
    expect(slopeOf([])).toBe(0);
    expect(
      slopeOf([
        { at: 1, value: 1 },
        { at: 1, value: 9 },
      ]),
    ).toBe(0);
  });
});

it('the median of an even number of values is between the middle two', () => {
  expect(medianOf([9, 1, 3, 5])).toBe(4);
  expect(medianOf([9, 1, 3])).toBe(3);
});
