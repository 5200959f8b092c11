/**
 * When a runtime says that it is there: regularly, and at once when it has become full or no longer is. One that
 * is busy to the brim goes to and fro between these with every script, so changes are told at a bounded rate;
 * between two tellings a refused offer says the same.
 */
import type { Clock } from '../clock.ts';

/** Heartbeats out of turn within one interval. */
const CHANGES_PER_INTERVAL = 20;

export interface HeartbeatPort {
  readonly isFull: () => boolean;
  /** Send one. What the bus does not take is dropped. */
  readonly beat: () => void;
}

export class Heartbeats {
  readonly #clock: Clock;
  readonly #intervalMs: number;
  readonly #port: HeartbeatPort;
  #on = false;
  #cancelTurn: (() => void) | undefined;
  #cancelChange: (() => void) | undefined;
  #toldFull = false;
  /** When a change was last told. */
  #changedAt = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, intervalMs: number, port: HeartbeatPort) {
    this.#clock = clock;
    this.#intervalMs = intervalMs;
    this.#port = port;
  }

  /** Beat now and every `intervalMs` from now on. */
  start(): void {
    this.#on = true;
    this.#turn();
  }

  stop(): void {
    this.#on = false;
    this.#cancelTurn?.();
    this.#cancelChange?.();
  }

  /** Beat now, out of turn. */
  now(): void {
    if (!this.#on) return;
    this.#toldFull = this.#port.isFull();
    this.#port.beat();
  }

  /** The load has changed: beat if that made the difference between full and not full. */
  noteLoad(): void {
    if (!this.#on || this.#cancelChange !== undefined || this.#port.isFull() === this.#toldFull) return;
    const gapMs = this.#intervalMs / CHANGES_PER_INTERVAL;
    const wait = this.#changedAt + gapMs - this.#clock.monotonic();
    if (wait <= 0) return this.#change();
    this.#cancelChange = this.#clock.after(wait, () => {
      this.#cancelChange = undefined;
      if (this.#port.isFull() !== this.#toldFull) this.#change();
    });
  }

  #change(): void {
    this.#changedAt = this.#clock.monotonic();
    this.now();
  }

  #turn(): void {
    this.#cancelTurn = this.#clock.after(this.#intervalMs, () => this.#turn());
    this.now();
  }
}
