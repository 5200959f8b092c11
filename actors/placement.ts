/**
 * Where an attempt runs: a choice among the runtimes that are known, by what an execution needs.
 */
import { sameVersions, type Versions } from './attempt.ts';

export type Labels = Readonly<Record<string, string>>;

/** A runtime as its last heartbeat showed it, and what was offered to it since. */
export interface RuntimeView {
  readonly id: string;
  readonly labels: Labels;
  /** Attempts that it would still take. */
  readonly free: number;
  readonly draining: boolean;
  readonly versions: Versions | undefined;
  /** Which of the broker's offers it got last, counted from 1. Default 0: none yet. */
  readonly turn?: number | undefined;
}

export interface Wanted {
  /** Labels that the runtime must have. */
  readonly labels: Labels;
  /** What a replay depends on; undefined if nothing has run yet. */
  readonly versions: Versions | undefined;
  /** Where it ran last: its isolate may be warm there. */
  readonly prefer: string | undefined;
  /** Where it failed last: only if there is no other. */
  readonly avoid: string | undefined;
  /**
   * Which one of those that fit. `room`: the preferred one, else the one with the most room. `turns`: the one that has
   * waited longest for an offer; a preference would make the turns uneven, and does not count. Default `room`.
   */
  readonly by?: 'room' | 'turns' | undefined;
}

/** The runtime to ask, or undefined if none would take it now. */
export function choose(runtimes: readonly RuntimeView[], wanted: Wanted): RuntimeView | undefined {
  let best: RuntimeView | undefined;
  for (const runtime of runtimes) {
    if (runtime.free <= 0 || !couldRun(runtime, wanted)) continue;
    if (best === undefined || better(runtime, best, wanted)) best = runtime;
  }
  return best;
}

/** Whether it may be given it once it has room. */
export function couldRun(
  { draining, labels, versions }: RuntimeView,
  wanted: Pick<Wanted, 'labels' | 'versions'>,
): boolean {
  if (draining) return false;
  if (wanted.versions !== undefined && versions !== undefined && !sameVersions(versions, wanted.versions))
    return false;
  return Object.entries(wanted.labels).every(([key, value]) => labels[key] === value);
}

function better(one: RuntimeView, other: RuntimeView, { prefer, avoid, by = 'room' }: Wanted): boolean {
  if ((one.id === avoid) !== (other.id === avoid)) return other.id === avoid;
  if (by === 'turns') {
    const [mine, theirs] = [one.turn ?? 0, other.turn ?? 0];
    if (mine !== theirs) return mine < theirs;
    return one.free > other.free;
  }
  if ((one.id === prefer) !== (other.id === prefer)) return one.id === prefer;
  return one.free > other.free;
}
