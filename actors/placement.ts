/**
 * Where an attempt runs: a choice among the runtimes that are known, by what an execution needs.
 */
import { sameVersions, type Versions } from './attempt.ts';

/** A runtime as its last heartbeat showed it, and what was offered to it since. */
export interface RuntimeView {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Attempts that it would still take. */
  readonly free: number;
  readonly draining: boolean;
  readonly versions: Versions | undefined;
}

export interface Wanted {
  /** Labels that the runtime must have. */
  readonly labels: Readonly<Record<string, string>>;
  /** What a replay depends on; undefined if nothing has run yet. */
  readonly versions: Versions | undefined;
  /** Where it ran last: its isolate may be warm there. */
  readonly prefer: string | undefined;
  /** Where it failed last: only if there is no other. */
  readonly avoid: string | undefined;
}

/** The runtime to ask, or undefined if none would take it now. */
export function choose(runtimes: readonly RuntimeView[], wanted: Wanted): RuntimeView | undefined {
  let best: RuntimeView | undefined;
  for (const runtime of runtimes) {
    if (runtime.draining || runtime.free <= 0 || !fits(runtime, wanted)) continue;
    if (best === undefined || better(runtime, best, wanted)) best = runtime;
  }
  return best;
}

function fits({ labels, versions }: RuntimeView, wanted: Wanted): boolean {
  if (wanted.versions !== undefined && versions !== undefined && !sameVersions(versions, wanted.versions))
    return false;
  return Object.entries(wanted.labels).every(([key, value]) => labels[key] === value);
}

function better(one: RuntimeView, other: RuntimeView, { prefer, avoid }: Wanted): boolean {
  if ((one.id === avoid) !== (other.id === avoid)) return other.id === avoid;
  if ((one.id === prefer) !== (other.id === prefer)) return one.id === prefer;
  return one.free > other.free;
}
