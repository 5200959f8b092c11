/**
 * The benchmark's statistics, on numbers small enough to check by hand.
 */
import { describe, expect, it } from 'vitest';
import {
  median,
  medianSample,
  pairwiseRatio,
  percentile,
  type Sample,
  sampleOf,
  sampleRatio,
} from '../bench/stats.ts';

const sample = (count: number, p50Ms: number, p99Ms: number, requestsPerSecond: number): Sample => ({
  count,
  p50Ms,
  p99Ms,
  requestsPerSecond,
});

describe('percentile', () => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);

  it('takes the nearest rank, whatever the order of the values', () => {
    expect(percentile(hundred, 50)).toBe(50);
    expect(percentile(hundred, 99)).toBe(99);
  });

  it('is the least value at 0 and the greatest at 100', () => {
    expect(percentile(hundred, 0)).toBe(1);
    expect(percentile(hundred, 100)).toBe(100);
  });

  it('is the greatest value where there are too few for the tail', () => {
    expect(percentile([3, 9, 1], 99)).toBe(9);
  });

  it('sorts by size and not by text', () => {
    expect(percentile([9, 10, 100], 50)).toBe(10);
  });

  it('refuses an empty list', () => {
    expect(() => percentile([], 50)).toThrow(RangeError);
  });
});

describe('median', () => {
  it('is the middle of an odd number of values', () => {
    expect(median([10, 9, 100])).toBe(10);
  });

  it('is the mean of the middle two of an even number', () => {
    expect(median([4, 1, 3, 100])).toBe(3.5);
  });

  it('leaves its input in order', () => {
    const values = [3, 1, 2];
    median(values);
    expect(values).toEqual([3, 1, 2]);
  });

  it('refuses an empty list', () => {
    expect(() => median([])).toThrow(RangeError);
  });
});

describe('pairwiseRatio', () => {
  it('is the median of the ratios, not the ratio of the medians', () => {
    // Ratios 0.5, 0.5, 2; the medians are 40 and 20, whose ratio would be 2.
    expect(pairwiseRatio([5, 50, 40], [10, 100, 20])).toBe(0.5);
  });

  it('ignores a slow spell that hits both halves of a pair', () => {
    expect(pairwiseRatio([90, 9, 90], [100, 10, 100])).toBeCloseTo(0.9);
  });

  it('refuses lists that cannot be paired', () => {
    expect(() => pairwiseRatio([1, 2], [1])).toThrow(RangeError);
  });
});

describe('sampleOf', () => {
  it('counts requests per second over the whole round', () => {
    expect(sampleOf([1, 2, 3, 4], 500)).toEqual(sample(4, 2, 4, 8));
  });
});

describe('medianSample', () => {
  it('takes each figure by itself', () => {
    const rounds = [sample(1, 9, 20, 100), sample(2, 7, 40, 300), sample(3, 8, 30, 200)];
    expect(medianSample(rounds)).toEqual(sample(2, 8, 30, 200));
  });
});

describe('sampleRatio', () => {
  it('divides the first side by the second, figure by figure', () => {
    const ratio = sampleRatio([sample(1, 3, 8, 50)], [sample(1, 2, 2, 100)]);
    expect(ratio).toEqual({ p50: 1.5, p99: 4, requestsPerSecond: 0.5 });
  });
});
