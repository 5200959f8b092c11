/** Roles of which there is one in the namespace, and who has them (S11). */
import type { Clock } from '../clock.ts';
import { checkId, checkTtl } from './checks.ts';

export class Roles {
  readonly #clock: Clock;
  /** Who had each last, and until when, by the monotonic clock. */
  readonly #holders = new Map<string, { readonly holder: string; readonly until: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  hold(role: string, holder: string, ttlMs: number): boolean {
    checkId('role', role);
    checkId('holder', holder);
    checkTtl(ttlMs);
    const now = this.#clock.monotonic();
    const last = this.#holders.get(role);
    if (last !== undefined && last.holder !== holder && last.until > now) return false;
    this.#holders.set(role, { holder, until: now + ttlMs });
    return true;
  }

  release(role: string, holder: string): void {
    checkId('role', role);
    checkId('holder', holder);
    if (this.#holders.get(role)?.holder === holder) this.#holders.delete(role);
  }
}
