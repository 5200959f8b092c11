/**
 * Ids that are gone and must not come to life again: a message that was late or came twice finds its tombstone.
 *
 * Bounded twice, by time and by count; where the count is reached the oldest goes first. Nothing is scheduled:
 * what has expired is let go when something is added.
 */
import type { Clock } from './clock.ts';

const MAX_TOMBSTONES = 10_000;

export class Tombstones {
  readonly #clock: Clock;
  readonly #keepMs: number;
  readonly #max: number;
  /** When each expires, by the monotonic clock; in that order. */
  readonly #expiry = new Map<string, number>();

  constructor(clock: Clock, keepMs: number, max = MAX_TOMBSTONES) {
    this.#clock = clock;
    this.#keepMs = keepMs;
    this.#max = max;
  }

  /** Keep this id from now on. */
  add(id: string): void {
    const now = this.#clock.monotonic();
    this.#expiry.delete(id); // Set anew, it goes to the end of the order.
    this.#expiry.set(id, now + this.#keepMs);
    for (const [oldest, at] of this.#expiry) {
      if (at > now && this.#expiry.size <= this.#max) return;
      this.#expiry.delete(oldest);
    }
  }

  has(id: string): boolean {
    const at = this.#expiry.get(id);
    return at !== undefined && at > this.#clock.monotonic();
  }
}
