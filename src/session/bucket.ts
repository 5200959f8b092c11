/** A token bucket by the broker's own clock. */
import { TokenBucket } from 'limiter';
import type { Clock } from '../clock.ts';

const SECOND_MS = 1_000;

/** The library tells the time by `performance`: what it takes for the last drip is put where the clock given has it. */
class ClockedBucket extends TokenBucket {
  readonly #clock: Pick<Clock, 'monotonic'>;
  #drippedAt: number;

  constructor(clock: Pick<Clock, 'monotonic'>, ratePerSecond: number, burst: number) {
    super({ bucketSize: burst, tokensPerInterval: ratePerSecond, interval: SECOND_MS });
    this.#clock = clock;
    this.#drippedAt = clock.monotonic();
    this.content = burst; // It starts empty otherwise.
  }

  override drip(): boolean {
    const now = this.#clock.monotonic();
    this.lastDrip = performance.now() - (now - this.#drippedAt);
    this.#drippedAt = now;
    return super.drip();
  }
}

/** Holds `burst` tokens at most, full at first, and gets `ratePerSecond` of them each second. */
export class Bucket {
  readonly #bucket: ClockedBucket;

  constructor(clock: Pick<Clock, 'monotonic'>, ratePerSecond: number, burst: number) {
    this.#bucket = new ClockedBucket(clock, ratePerSecond, burst);
  }

  /** Take a token. Returns 0 if there was one; else nothing is taken, and after so many ms there will be one. */
  take(): number {
    if (this.#bucket.tryRemoveTokens(1)) return 0;
    return Math.max(1, this.#bucket.getWaitTime(1));
  }

  /** True if nothing was taken for so long that it is as a new one. */
  get full(): boolean {
    this.#bucket.drip();
    return this.#bucket.content >= this.#bucket.bucketSize;
  }
}
