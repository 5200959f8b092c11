/** How long the client goes on trying, and how long it waits in between. */
import type { Clock } from '../clock.ts';
import { randomBytes } from '../ids.ts';

const FIRST_MS = 5;
const MOST_MS = 1_000;

/** The patience of one command: a deadline, and pauses that grow from 5 ms to 1 s with full jitter. */
export class Patience {
  readonly #clock: Clock;
  readonly #until: number;
  #pauses = 0;

  constructor(clock: Clock, timeoutMs: number) {
    this.#clock = clock;
    this.#until = clock.monotonic() + timeoutMs;
  }

  /** What is left, in ms; 0 once it has run out. */
  get leftMs(): number {
    return Math.max(0, this.#until - this.#clock.monotonic());
  }

  /** The next pause, in ms. The first is none: an owner that is gone is looked for at once. */
  nextPauseMs(atLeastMs = 0): number {
    const grown =
      this.#pauses === 0 ? 0 : jitter(this.#clock, Math.min(MOST_MS, FIRST_MS * 2 ** (this.#pauses - 1)));
    this.#pauses++;
    return Math.min(Math.max(atLeastMs, grown), this.leftMs);
  }
}

/** Full jitter, so that the clients of an owner that was lost do not come back all at once. */
function jitter(clock: Clock, ms: number): number {
  return 1 + Math.floor((ms * randomBytes(clock).readUInt32LE(0)) / 2 ** 32);
}
