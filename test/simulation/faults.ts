/** What goes wrong in a run: kinds and rates are drawn from the seed; in the calm phase nothing does. */
import type { Random } from './random.ts';
import type { Boundary } from './store.ts';
import { BOUNDARIES } from './store.ts';

export type StoreFault = 'unavailable' | 'unknown-before' | 'unknown-after' | 'unknown-late';

/** Chances per step of the fault phase, per message, per call; 0 where a kind is off in this run. */
export interface Rates {
  readonly crashBroker: number;
  readonly crashRuntime: number;
  readonly crashProvider: number;
  readonly crashClient: number;
  readonly pause: number;
  readonly partition: number;
  readonly drain: number;
  readonly storeOutage: number;
  readonly storeFault: number;
  readonly slowStore: number;
  readonly boundary: number;
  readonly lose: number;
  readonly double: number;
  readonly delay: number;
  readonly lostAttempt: number;
  readonly refusedAttempt: number;
}

/** What is counted: a fault of the store by its kind, the death in a commit by its place. */
export type FaultKind = Exclude<keyof Rates, 'storeFault' | 'boundary'> | `store-${StoreFault}` | Boundary;
export type FaultCount = Partial<Record<FaultKind, number>>;

/** Runs without any fault, in parts of one. */
const QUIET = 0.08;
/** Runs in which everything happens three times as often, in parts of one. */
const STORMY = 0.2;
const ENABLED = 0.5;

export class Faults {
  readonly rates: Rates;
  readonly counts: FaultCount = {};
  readonly #random: Random;
  #on = true;
  #outageUntil = 0;

  constructor(random: Random) {
    this.#random = random;
    const quiet = random.chance(QUIET);
    const storm = random.chance(STORMY) ? 3 : 1;
    const rate = (most: number): number =>
      random.chance(ENABLED) && !quiet ? storm * most * (0.2 + 0.8 * random.unit()) : 0;
    this.rates = {
      crashBroker: rate(0.006),
      crashRuntime: rate(0.008),
      crashProvider: rate(0.005),
      crashClient: rate(0.004),
      pause: rate(0.006),
      partition: rate(0.004),
      drain: rate(0.004),
      storeOutage: rate(0.003),
      storeFault: rate(0.05),
      slowStore: rate(0.02),
      boundary: rate(0.08),
      lose: rate(0.05),
      double: rate(0.05),
      delay: rate(0.05),
      lostAttempt: rate(0.15),
      refusedAttempt: rate(0.1),
    };
  }

  /** From here on nothing goes wrong. */
  end(): void {
    this.#on = false;
    this.#outageUntil = 0;
  }

  /** Whether one of this kind happens now. */
  happens(kind: keyof Rates & FaultKind): boolean {
    if (!this.#on || !this.#random.chance(this.rates[kind])) return false;
    this.hit(kind);
    return true;
  }

  hit(kind: FaultKind): void {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  beginOutage(now: number): void {
    this.#outageUntil = now + this.#random.between(50, 2_500);
  }

  storeFault(now: number): StoreFault | undefined {
    if (!this.#on) return undefined;
    const fault = now < this.#outageUntil ? 'unavailable' : this.#drawStoreFault();
    if (fault !== undefined) this.hit(`store-${fault}`);
    return fault;
  }

  #drawStoreFault(): StoreFault | undefined {
    if (!this.#random.chance(this.rates.storeFault)) return undefined;
    return this.#random.pick(['unavailable', 'unknown-before', 'unknown-after', 'unknown-late'] as const);
  }

  /** How long a message to or from the store takes, in ms. */
  storeDelay(): number {
    if (this.happens('slowStore')) return this.#random.between(100, 2_500);
    return this.#random.between(0, 3);
  }

  /** Where the broker dies in this commit. */
  boundary(): Boundary | undefined {
    return this.#on && this.#random.chance(this.rates.boundary) ? this.#random.pick(BOUNDARIES) : undefined;
  }
}
