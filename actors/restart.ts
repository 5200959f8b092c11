/**
 * When a crashed child may come back, and how soon.
 *
 * Two questions that are easily mixed up have one answer each. *May it?* is restart intensity, as in OTP:
 * more than `maxRestarts` crashes within `restartWindowMs` mean that restarting does not help. *How soon?*
 * is back-off: it grows with the crashes since anything last succeeded, so that one crash among many
 * successes costs nothing and a child that cannot even start does not burn a core.
 *
 * Times are read by the caller, from a clock that never goes back; randomness comes in as `jitter`.
 */

/** How many crashes are borne, and how the pause after one grows. */
export interface RestartPolicy {
  /** Crashes allowed within the window. A whole number from 0; at 0 the first crash exceeds it. */
  readonly maxRestarts: number;
  /** Length of the window, in ms, both ends included. */
  readonly restartWindowMs: number;
  /** Pause after the second crash in a row, in ms; it doubles with each further one. */
  readonly baseDelayMs: number;
  /** Longest pause, in ms. */
  readonly maxDelayMs: number;
}

/** What is remembered of past crashes: never more than `maxRestarts + 1` times. */
export interface RestartHistory {
  /** Times of the crashes that may still lie within a window, in ms, oldest first. */
  readonly crashes: readonly number[];
  /** Crashes since something last succeeded. */
  readonly consecutive: number;
}

/** The history of a child, or of a pool, that has never crashed. */
export const NO_CRASHES: RestartHistory = { crashes: [], consecutive: 0 };

/**
 * Count a crash at `at` (ms). `exceeded` is true if more than `maxRestarts` crashes, this one included, lie
 * within the window that ends at `at`.
 */
export function recordCrash(
  policy: RestartPolicy,
  history: RestartHistory,
  at: number,
): { readonly history: RestartHistory; readonly exceeded: boolean } {
  const opens = at - policy.restartWindowMs;
  const within = [...history.crashes.filter((crash) => crash >= opens), at];
  // One more than is allowed settles every later question: older ones leave the window before these do.
  const crashes = within.slice(-(policy.maxRestarts + 1));
  return {
    history: { crashes, consecutive: history.consecutive + 1 },
    exceeded: within.length > policy.maxRestarts,
  };
}

/** Something succeeded: the next crash is the first again. Crashes within the window still count. */
export function recordProgress(history: RestartHistory): RestartHistory {
  return history.consecutive === 0 ? history : { ...history, consecutive: 0 };
}

/**
 * The pause before the restart that follows the `consecutive`-th crash in a row (from 1), in whole ms.
 *
 * The first is restarted at once. From the second on the pause is `baseDelayMs` doubled each time, at most
 * `maxDelayMs`, with equal jitter: half of it is fixed and half is scaled by `jitter` (0 <= jitter < 1), so
 * that children that fell together do not get up together.
 */
export function backoffDelay(policy: RestartPolicy, consecutive: number, jitter: number): number {
  if (consecutive <= 1) return 0;
  const half = doublingDelay(policy.baseDelayMs, policy.maxDelayMs, consecutive - 2) / 2;
  return Math.round(half + half * jitter);
}

/** `baseMs` doubled `times` times, in ms, at most `maxMs`. */
export function doublingDelay(baseMs: number, maxMs: number, times: number): number {
  // 52 doublings pass any delay there is; without the bound, 0 times Infinity would be no number at all.
  return Math.min(maxMs, baseMs * 2 ** Math.min(times, 52));
}
