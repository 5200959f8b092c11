/** When a session's machine must be told that the time has come: one timer, for the earliest time that it waits for. */
import type { Clock } from '../clock.ts';

export class Wake {
  readonly #clock: Clock;
  readonly #onTime: () => void;
  #set: { readonly at: number; readonly cancel: () => void } | undefined;

  constructor(clock: Clock, onTime: () => void) {
    this.#clock = clock;
    this.#onTime = onTime;
  }

  /** `at`: in ms since the epoch; undefined if nothing waits for a time. One that was set for earlier stays: what it finds is not due yet. */
  by(at: number | undefined): void {
    if (at !== undefined && this.#set !== undefined && at >= this.#set.at) return;
    this.cancel();
    if (at === undefined) return;
    const cancel = this.#clock.after(Math.max(0, at - this.#clock.now()), () => {
      this.#set = undefined;
      this.#onTime();
    });
    this.#set = { at, cancel };
  }

  cancel(): void {
    this.#set?.cancel();
    this.#set = undefined;
  }
}
