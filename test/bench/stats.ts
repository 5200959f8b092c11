/**
 * The statistics of the benchmark. A figure is never a single value: a sample condenses the requests of one
 * round, and a row reports the median over its rounds.
 */

/** One round of load. */
export interface Sample {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly requestsPerSecond: number;
}

/** The `p`-th percentile (0 to 100) by nearest rank: always a value that was seen. Throws if there is none. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const rank = Math.max(1, Math.ceil((p / 100) * sorted.length));
  const value = sorted[rank - 1];
  if (value === undefined) throw new RangeError('a percentile needs at least one value');
  return value;
}

/** The middle value, or the mean of the two in the middle. Throws if there is none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.floor((sorted.length - 1) / 2)];
  if (upper === undefined || lower === undefined) throw new RangeError('a median needs at least one value');
  return (lower + upper) / 2;
}

/**
 * The median of a[i] / b[i]: each pair was measured back to back, so a slow spell of the machine hits both
 * halves and cancels out. Throws if the lists differ in length or are empty.
 */
export function pairwiseRatio(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) throw new RangeError(`${a.length} values cannot be paired with ${b.length}`);
  return median(a.map((value, index) => value / (b[index] ?? Number.NaN)));
}

/** Condense the latencies of one round (ms) that took `elapsedMs` in all. */
export function sampleOf(latenciesMs: readonly number[], elapsedMs: number): Sample {
  return {
    count: latenciesMs.length,
    p50Ms: percentile(latenciesMs, 50),
    p99Ms: percentile(latenciesMs, 99),
    requestsPerSecond: (latenciesMs.length / elapsedMs) * 1000,
  };
}

/** Each figure's median over the rounds; the figures of one result may come from different rounds. */
export function medianSample(samples: readonly Sample[]): Sample {
  return {
    count: median(samples.map((sample) => sample.count)),
    p50Ms: median(samples.map((sample) => sample.p50Ms)),
    p99Ms: median(samples.map((sample) => sample.p99Ms)),
    requestsPerSecond: median(samples.map((sample) => sample.requestsPerSecond)),
  };
}

/** Pairwise ratios of each figure of two sides. Over 1 is better for requests/s, worse for latencies. */
export interface SampleRatio {
  readonly p50: number;
  readonly p99: number;
  readonly requestsPerSecond: number;
}

/** The pairwise ratios of rounds `a` to rounds `b`. */
export function sampleRatio(a: readonly Sample[], b: readonly Sample[]): SampleRatio {
  const of = (figure: (sample: Sample) => number) => pairwiseRatio(a.map(figure), b.map(figure));
  return {
    p50: of((sample) => sample.p50Ms),
    p99: of((sample) => sample.p99Ms),
    requestsPerSecond: of((sample) => sample.requestsPerSecond),
  };
}
