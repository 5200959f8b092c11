/**
 * An answer that is held back for a moment, because what follows it in most cases can go along: a script that has
 * ended by then, or a call that has returned, costs one message less for its sender, the server and its receiver.
 */
import type { Clock } from './clock.ts';

/** Default of how long an answer is held back at most, in ms: far below what those who asked wait for it. */
export const HOLD_MS = 25;

export class HeldAnswer<T> {
  readonly #answer: (along: T | undefined) => boolean;
  readonly #onUntold: () => void;
  #open = true;
  #callOff: () => void = () => undefined;

  /**
   * `answer` sends it, and returns false if it cannot be sent. `onUntold`: it could not be sent at all, not even
   * alone.
   */
  constructor(answer: (along: T | undefined) => boolean, onUntold: () => void) {
    this.#answer = answer;
    this.#onUntold = onUntold;
  }

  /** Wait so long for something to go along, in ms, and then answer without. 0: answer at once. */
  hold(clock: Clock, ms: number): void {
    if (ms === 0) this.give();
    else if (this.#open) this.#callOff = clock.after(ms, () => this.give());
  }

  /** Answer now, unless that has happened. True if `along` went with it: else it has to be told by itself. */
  give(along?: T): boolean {
    if (!this.#open) return false;
    this.drop();
    if (along !== undefined && this.#answer(along)) return true;
    if (!this.#answer(undefined)) this.#onUntold();
    return false;
  }

  /** Say nothing at all. */
  drop(): void {
    this.#open = false;
    this.#callOff();
  }
}
