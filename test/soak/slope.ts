/**
 * Whether a figure stays where it is: the judgement of the soak.
 *
 * The slope is that of Theil and Sen, the median of the slopes between all pairs of samples: a collection of garbage,
 * a burst or a few samples that are far off do not move it. What counts is the growth over the time that was looked
 * at, slope times span. It may be as much as `noise`, which any figure moves without growing, and `perMinute` on top,
 * which is what is known to be kept for a while.
 */

export interface Sample {
  /** When, in ms of any clock that does not jump. */
  readonly at: number;
  readonly value: number;
}

/** How much a figure may grow, in its own unit. */
export interface Bound {
  /** In all, however short the time was. */
  readonly noise: number;
  /** For each minute, besides. */
  readonly perMinute: number;
}

export interface Judgement {
  readonly samples: number;
  readonly spanMs: number;
  readonly median: number;
  readonly most: number;
  /** Slope times span. */
  readonly growth: number;
  readonly allowed: number;
  /** `short`: too few samples to say anything. */
  readonly verdict: 'flat' | 'grows' | 'short';
}

/** Fewer say nothing: of five points in any order, one in sixty would look like growth. */
export const LEAST_SAMPLES = 8;

/** The median of all slopes between two samples, per ms; 0 if there are no two at different times. */
export function slopeOf(samples: readonly Sample[]): number {
  const slopes: number[] = [];
  for (const [index, one] of samples.entries())
    for (const other of samples.slice(index + 1))
      if (other.at !== one.at) slopes.push((other.value - one.value) / (other.at - one.at));
  return slopes.length === 0 ? 0 : medianOf(slopes);
}

/** Samples in the order of time. */
export function judge(samples: readonly Sample[], { noise, perMinute }: Bound): Judgement {
  const spanMs = (samples.at(-1)?.at ?? 0) - (samples[0]?.at ?? 0);
  const values = samples.map(({ value }) => value);
  const growth = slopeOf(samples) * spanMs;
  const allowed = noise + (perMinute * spanMs) / 60_000;
  const enough = samples.length >= LEAST_SAMPLES;
  return {
    samples: samples.length,
    spanMs,
    median: values.length === 0 ? 0 : medianOf(values),
    most: Math.max(0, ...values),
    growth,
    allowed,
    verdict: enough ? (growth > allowed ? 'grows' : 'flat') : 'short',
  };
}

/** Of at least one value. */
export function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2;
}
