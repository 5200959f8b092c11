/** Numbers that the namespace has a bounded sum of, and who has how much of them (S13). */
import type { Clock } from '../clock.ts';
import { checkShare } from './checks.ts';
import type { Share, ShareReply } from './store.ts';

interface Held {
  readonly has: number;
  /** By the monotonic clock. */
  readonly until: number;
}

export class Shares {
  readonly #clock: Clock;
  readonly #holders = new Map<string, Map<string, Held>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  hold(share: Share): ShareReply {
    checkShare(share);
    const { name, holder, has, ttlMs, most } = share;
    const now = this.#clock.monotonic();
    const holders = this.#holders.get(name) ?? new Map<string, Held>();
    this.#holders.set(name, holders);
    let total = has;
    for (const [other, held] of holders) {
      if (held.until <= now) holders.delete(other);
      else if (other !== holder) total += held.has;
    }
    const granted = most === undefined || total < most;
    const more = most !== undefined && granted ? 1 : 0;
    if (has + more > 0) holders.set(holder, { has: has + more, until: now + ttlMs });
    else holders.delete(holder);
    return { granted, total: total + more };
  }
}
