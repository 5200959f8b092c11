/**
 * What a broker grants to those who ask it for sessions, executions and runs: its own limits and isolation where they
 * say nothing, and never more than its ceiling.
 *
 * Invariants:
 *  G1  What is asked for above the ceiling is refused by name, and never lowered without a word.
 *  G2  What is inherited, from the broker's defaults or from an older session, is lowered to the ceiling.
 */
import {
  checkCeiling,
  lowerLimits,
  MOST_LIMITS,
  type ResolvedSessionLimits,
  resolveSessionLimits,
  type SessionLimitOptions,
} from '../options.ts';
import type { SessionLimits } from '../protocol.ts';
import type { Isolation } from '../sandbox/messages.ts';

export interface Allowance {
  /** Where nothing was said. */
  readonly limits: SessionLimits;
  /** The ceiling. */
  readonly most: SessionLimits;
  /** Where nothing was said. */
  readonly isolation: Isolation;
}

/** Default: the documented defaults and ranges. */
export function allowanceOf({
  limits = resolveSessionLimits(undefined),
  most = MOST_LIMITS,
  isolation = 'context',
}: {
  readonly limits?: ResolvedSessionLimits | undefined;
  readonly most?: ResolvedSessionLimits | undefined;
  readonly isolation?: Isolation | undefined;
}): Allowance {
  return { limits: inherited(limits, most), most, isolation };
}

/** What is asked for, over what it inherits. Throws INVALID_ARGUMENT naming what is wrong, or above the ceiling (G1). */
export function granted(
  asked: SessionLimitOptions | undefined,
  base: SessionLimits,
  most: SessionLimits,
  path = 'options.limits',
): SessionLimits {
  const resolved = resolveSessionLimits(asked, base, path);
  checkCeiling(asked ?? {}, most, 'options.limits', 'here');
  return resolved;
}

/** G2 */
export function inherited(limits: SessionLimits, most: SessionLimits): SessionLimits {
  return lowerLimits(limits, most);
}
