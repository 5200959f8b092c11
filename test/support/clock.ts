/** Time and chance under a test's control. */
import type { Clock } from '../../src/clock.ts';

interface Timer {
  readonly at: number;
  readonly act: () => void;
}

const START = 1_800_000_000_000;
// Taken now: a test may put fake timers in its place.
const turnOfTheLoop = setImmediate;

/**
 * A clock that stands still until it is advanced. What is due is run in the order of its time, then of its
 * making; `soon` is a microtask; ids are counted.
 */
export class VirtualClock implements Clock {
  #elapsed = 0;
  #jumped = 0;
  #ids = 0;
  /** In the order of their making. */
  readonly #timers = new Set<Timer>();

  now(): number {
    return START + Math.floor(this.#elapsed) + this.#jumped;
  }

  monotonic(): number {
    return this.#elapsed;
  }

  after(ms: number, act: () => void): () => void {
    const timer = { at: this.#elapsed + Math.max(0, ms), act };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  soon(act: () => void): void {
    queueMicrotask(act);
  }

  id(): string {
    return String(++this.#ids).padStart(22, '0');
  }

  /** Timers that wait. */
  get timers(): number {
    return this.#timers.size;
  }

  /** Let everything happen that needs no time to pass. */
  settle(): Promise<void> {
    return new Promise((resolve) => turnOfTheLoop(resolve));
  }

  /** Let this much time pass, and everything happen that is due by its end, one thing after the other. */
  async advance(ms: number): Promise<void> {
    const end = this.#elapsed + ms;
    await this.settle();
    for (let timer = this.#next(end); timer !== undefined; timer = this.#next(end)) {
      this.#timers.delete(timer);
      this.#elapsed = timer.at;
      timer.act();
      await this.settle();
    }
    this.#elapsed = end;
  }

  /** Set the wall clock forward or back; the monotonic one does not notice. */
  jump(ms: number): void {
    this.#jumped += ms;
  }

  #next(end: number): Timer | undefined {
    let next: Timer | undefined;
    for (const timer of this.#timers)
      if (timer.at <= end && (next === undefined || timer.at < next.at)) next = timer;
    return next;
  }
}
