/** Ends waits whose time is over. One timer serves all of them: a timer each would cost more than the wait. */
import type { Clock } from '../../clock.ts';

/** How late a wait may be ended, at most, as a part of the shortest one. */
const GRAIN_MS = 25;

interface Wait {
  readonly endsAt: number;
  readonly end: () => void;
}

export class Deadlines {
  readonly #clock: Clock;
  readonly #waits = new Set<Wait>();
  #ticking = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** What the promise gives, or a rejection with what `late` makes once the monotonic clock shows `endsAt`. */
  within<T>(promise: Promise<T>, endsAt: number, late: () => Error): Promise<T> {
    return new Promise((resolve, reject) => {
      const wait = { endsAt, end: () => reject(late()) };
      this.#waits.add(wait);
      this.#tick();
      promise.then(
        (value) => {
          this.#waits.delete(wait);
          resolve(value);
        },
        (error: unknown) => {
          this.#waits.delete(wait);
          reject(error);
        },
      );
    });
  }

  #tick(): void {
    if (this.#ticking || this.#waits.size === 0) return;
    this.#ticking = true;
    this.#clock.after(
      GRAIN_MS,
      () => {
        this.#ticking = false;
        const now = this.#clock.monotonic();
        for (const wait of this.#waits) {
          if (wait.endsAt > now) continue;
          this.#waits.delete(wait);
          wait.end();
        }
        this.#tick();
      },
      // Somebody awaits its outcome.
      true,
    );
  }
}
