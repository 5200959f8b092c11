/**
 * The runtimes that a broker knows, for their health: 1 for one that it hears, 0 for one that stopped answering without
 * having drained, until it is back or was away for {@link REMEMBER_MS}. One that drained is forgotten.
 */
import type { Monotonic } from './executions.ts';
import type { Reading } from './registry.ts';

/** For how long a lost runtime is reported, in ms. */
export const REMEMBER_MS = 900_000;
/** Lost ones that are reported, the latest: ids come from outside. */
const MAX_LOST = 1_000;

export class KnownRuntimes {
  readonly #now: Monotonic;
  readonly #there = new Set<string>();
  /** When each was lost. */
  readonly #lost = new Map<string, number>();

  constructor(now: Monotonic) {
    this.#now = now;
  }

  heard(runtime: string): void {
    this.#lost.delete(runtime);
    this.#there.add(runtime);
  }

  gone(runtime: string, drained: boolean): void {
    this.#there.delete(runtime);
    this.#lost.delete(runtime);
    if (drained) return;
    this.#lost.set(runtime, this.#now());
    const [oldest] = this.#lost.keys();
    if (this.#lost.size > MAX_LOST && oldest !== undefined) this.#lost.delete(oldest);
  }

  readonly health: Reading = (report) => {
    const forgotten = this.#now() - REMEMBER_MS;
    for (const [runtime, at] of this.#lost)
      if (at <= forgotten) this.#lost.delete(runtime);
      else report(0, runtime);
    for (const runtime of this.#there) report(1, runtime);
  };
}
