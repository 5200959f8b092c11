/**
 * The brokers' incarnation leases.
 *
 * An id is never forgotten, so that S5 holds for ever; it costs some hundred bytes per process that ever ran.
 */
import type { Clock } from '../clock.ts';
import { checkId, checkTtl } from './checks.ts';

/** The end of what was ended: before any time that a clock can tell. */
const ENDED = Number.NEGATIVE_INFINITY;

export class Incarnations {
  readonly #clock: Clock;
  /** When each that was ever opened ends, by the monotonic clock. It never goes back, so what ended stays so. */
  readonly #ends = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  open(incarnation: string, ttlMs: number): boolean {
    checkId('incarnation', incarnation);
    checkTtl(ttlMs);
    if (this.#ends.has(incarnation)) return false;
    this.#ends.set(incarnation, this.#clock.monotonic() + ttlMs);
    return true;
  }

  renew(incarnation: string, ttlMs: number): boolean {
    checkTtl(ttlMs);
    if (!this.isAlive(incarnation)) return false;
    this.#ends.set(incarnation, this.#clock.monotonic() + ttlMs);
    return true;
  }

  end(incarnation: string): void {
    if (this.#ends.has(incarnation)) this.#ends.set(incarnation, ENDED);
  }

  isAlive(incarnation: string): boolean {
    return this.leftMs(incarnation) > 0;
  }

  /** How long it lives if it is not renewed, in whole ms, rounded up; 0 if it is dead. */
  leftMs(incarnation: string): number {
    const left = (this.#ends.get(incarnation) ?? ENDED) - this.#clock.monotonic();
    return Math.max(0, Math.ceil(left));
  }
}
