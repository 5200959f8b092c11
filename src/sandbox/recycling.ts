/**
 * Planned replacement of workers: one at a time, and under load no more than a share of a core.
 *
 * A worker that is due serves on until the one that relieves it is ready.
 */
import type { RetireReason } from '../../actors/worker.ts';

/** Planned recycles under load may take this share of one core: a start is followed by a pause of so many starts. */
const PAUSE_FACTOR = 4;
/** How long a start takes until one was measured, in ms. */
const START_MS = 150;

/** A worker that is to be replaced, and why. */
export interface Due<W> {
  readonly worker: W;
  readonly reason: RetireReason;
}

/** What recycling needs of its pool. */
export interface RecyclingPort {
  /** False while no worker may be started. */
  readonly starts: () => boolean;
  /** True while something waits for a worker. */
  readonly busy: () => boolean;
  /** Start a worker. Calls `named` with its name first. */
  readonly replace: (named: (name: string) => void) => void;
  readonly later: (ms: number, act: () => void) => void;
}

export class Recycling<W> {
  readonly #port: RecyclingPort;
  #due: Due<W>[] = [];
  /** Which worker a starting one will relieve. */
  readonly #relieves = new Map<string, Due<W>>();
  #startMs = START_MS;
  #last = Number.NEGATIVE_INFINITY;
  #pending = false;

  constructor(port: RecyclingPort) {
    this.#port = port;
  }

  /** This worker asks to be replaced. */
  request(due: Due<W>): void {
    this.#due.push(due);
    this.next();
  }

  /** A worker is ready. Returns the one that it relieves, if it was started for that. */
  ready(name: string, startMs: number): Due<W> | undefined {
    this.#startMs = startMs;
    const relieved = this.#relieves.get(name);
    this.#relieves.delete(name);
    return relieved;
  }

  /** This worker is gone. */
  gone(worker: W): void {
    this.#due = this.#due.filter((due) => due.worker !== worker);
  }

  /** No worker that was started will come up: whom they would have relieved is due again. */
  abandon(): void {
    this.#due.push(...this.#relieves.values());
    this.#relieves.clear();
  }

  /** Start the next replacement, now or when it may be. */
  next(): void {
    const { starts, busy, replace, later } = this.#port;
    if (!starts() || this.#due.length === 0 || this.#relieves.size > 0) return;
    const now = performance.now();
    const wait = busy() ? this.#last + this.#startMs * (1 + PAUSE_FACTOR) - now : 0;
    if (wait > 0) {
      if (this.#pending) return;
      this.#pending = true;
      later(wait, () => {
        this.#pending = false;
        this.next();
      });
      return;
    }
    const due = this.#due.shift();
    if (due === undefined) return;
    this.#last = now;
    replace((name) => this.#relieves.set(name, due));
  }
}
