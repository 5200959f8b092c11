/**
 * The clock of a broker: its wall clock is that of the store, as well as it is known. Sessions are handed from broker
 * to broker with the times at which they sleep no more, expire, or are given up; what one writes another must read
 * the same way, whatever the clocks of their machines say.
 *
 * Invariants:
 *  T1  Between two samples it runs with the machine's monotonic clock: a jump of the wall clock is not seen.
 *  T2  A sample that agrees with what is known, as far as it can tell, changes nothing: times do not go to and fro.
 *  T3  Before the first sample it is the machine's own.
 */
import type { Clock } from './clock.ts';
import type { Store } from './store/store.ts';

/** Between samples, in ms, and after one that failed. */
const SAMPLE_MS = 10_000;
const RETRY_MS = 1_000;
/** A sample that took longer tells too little, in ms. */
const MAX_TRIP_MS = 500;

export class StoreClock implements Clock {
  readonly #clock: Clock;
  readonly #store: Pick<Store, 'time'>;
  /** The store's time less the monotonic clock's, in ms; undefined before the first sample. */
  #offsetMs: number | undefined;
  #cancel: (() => void) | undefined;
  #stopped = false;

  constructor(clock: Clock, store: Pick<Store, 'time'>) {
    this.#clock = clock;
    this.#store = store;
  }

  /** Take the first sample, and more from time to time. Never rejects: a store that is away is asked again. */
  async start(): Promise<void> {
    const sampled = await this.#sample();
    if (this.#stopped) return;
    this.#cancel = this.#clock.after(sampled ? SAMPLE_MS : RETRY_MS, () => void this.start());
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel?.();
  }

  now(): number {
    if (this.#offsetMs === undefined) return this.#clock.now(); // T3
    return Math.floor(this.#offsetMs + this.#clock.monotonic()); // T1
  }
  monotonic(): number {
    return this.#clock.monotonic();
  }
  after(ms: number, act: () => void, keepsAlive?: boolean): () => void {
    return this.#clock.after(ms, act, keepsAlive);
  }
  soon(act: () => void): void {
    this.#clock.soon(act);
  }
  id(): string {
    return this.#clock.id();
  }

  async #sample(): Promise<boolean> {
    const sentAt = this.#clock.monotonic();
    let time: number;
    try {
      time = await this.#store.time();
    } catch {
      return false;
    }
    const tripMs = this.#clock.monotonic() - sentAt;
    if (tripMs > MAX_TRIP_MS) return false;
    const doubtMs = tripMs / 2 + 1;
    const offsetMs = time - (sentAt + tripMs / 2);
    // T2
    if (this.#offsetMs === undefined || Math.abs(offsetMs - this.#offsetMs) > doubtMs)
      this.#offsetMs = offsetMs;
    return true;
  }
}
