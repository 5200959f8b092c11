/**
 * The executions of a broker that wait for room in any runtime, and whose turn comes when there is some: tenants get
 * places by their weights, each in the order in which its executions came.
 *
 * Invariants:
 *  U1  While others wait who could use it, nobody takes a place whose turn it is not: not who came just now, nor who
 *      looks again.
 *  U2  When there is a place that anyone who waits could use, somebody's turn comes: what the first cannot use, because
 *      it wants other labels or versions, is the next one's.
 *  U3  A place is kept for whoever's turn has come until he has looked. What came to nothing is not counted against
 *      his tenant, and he is first again.
 */

import {
  EMPTY_FAIR,
  enqueue,
  type FairQueue,
  putBack,
  serveFitting,
  without,
} from '../../actors/fairqueue.ts';
import { askedOf, placeable } from '../../actors/placing.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import type { Clock } from '../clock.ts';
import type { Directory } from './directory.ts';

/** How much the last turn counts in the mean time between turns. */
const SMOOTHING = 1 / 16;

/** Who waits: a session's actor, or a run's. */
export interface Waiter {
  readonly tenant: string;
  readonly context: SessionContext;
  /** Look for a runtime now: it is your turn. False if that was not heard. */
  turn(): boolean;
}

interface Entry {
  readonly waiter: Waiter;
  readonly tenant: string;
  /** Executions of it that wait. */
  count: number;
  /** What it asks of a runtime. */
  asked: string;
  queued: boolean;
  /** Not in the queue while it looks: the place that is kept for it. */
  kept: (() => void) | undefined;
}

export interface QueueOptions {
  readonly clock: Clock;
  readonly directory: Pick<Directory, 'view' | 'routing' | 'reserve'>;
  readonly weightOf: (tenant: string) => number;
}

export class PlacementQueue {
  readonly #options: QueueOptions;
  readonly #entries = new Map<Waiter, Entry>();
  readonly #waiting = new Map<string, number>();
  #queue: FairQueue<Entry> = EMPTY_FAIR;
  #size = 0;
  #scheduled = false;
  /** There is room, and nobody who waits could use any of it, as far as was looked. */
  #unusable = false;
  #turnMs = 0;
  #turnedAt: number | undefined;

  constructor(options: QueueOptions) {
    this.#options = options;
  }

  /** Executions that wait. */
  get size(): number {
    return this.#size;
  }

  /** Executions of a tenant that wait. */
  of(tenant: string): number {
    return this.#waiting.get(tenant) ?? 0;
  }

  /** How long it takes, at the pace of late, until the next execution of a tenant gets a place, in ms. */
  turnMs(tenant: string): number {
    const { weightOf } = this.#options;
    let weights = 0;
    for (const other of this.#waiting.keys()) weights += weightOf(other);
    const own = weightOf(tenant);
    const all = this.#waiting.has(tenant) ? weights : weights + own;
    return (this.#turnMs * all) / own;
  }

  /** U1: others wait, and it is not this one's turn. */
  isBehind(waiter: Waiter): boolean {
    if (this.#entries.size === 0 || this.#unusable) return false;
    const entry = this.#entries.get(waiter);
    return this.#entries.size > (entry === undefined ? 0 : 1);
  }

  /** A step of it is done: whether something of it waits may have changed. `again`: it was refused where it was placed. */
  note(waiter: Waiter, again: boolean): void {
    const { executions } = waiter.context;
    let count = 0;
    for (const { phase } of executions) if (phase === 'placing') count++;
    const entry = this.#entries.get(waiter);
    if (count === 0) {
      if (entry !== undefined) this.#remove(entry);
      return;
    }
    const asked = askedOf(waiter.context);
    if (entry === undefined) {
      const fresh: Entry = {
        waiter,
        tenant: waiter.tenant,
        count: 0,
        asked,
        queued: false,
        kept: undefined,
      };
      this.#entries.set(waiter, fresh);
      this.#count(fresh, count);
      this.#enter(fresh, again);
    } else {
      this.#count(entry, count);
      entry.asked = asked;
    }
    this.changed();
  }

  /** It waits no longer, whatever of it did. */
  leave(waiter: Waiter): void {
    const entry = this.#entries.get(waiter);
    if (entry !== undefined) this.#remove(entry);
  }

  /** Its turn is being taken: the place that was kept is there for it to find. */
  take(waiter: Waiter): void {
    const entry = this.#entries.get(waiter);
    if (entry?.kept === undefined) return;
    entry.kept();
    entry.kept = undefined;
  }

  /** Its turn is over. What of it still waits has its place behind the others of its tenant; first, if it got nothing. */
  taken(waiter: Waiter, gotNothing: boolean): void {
    const entry = this.#entries.get(waiter);
    if (entry === undefined) return;
    this.take(waiter);
    this.#enter(entry, gotNothing);
    this.changed();
  }

  /** There may be room. */
  changed(): void {
    this.#unusable = false;
    if (this.#scheduled || this.#queue.size === 0) return;
    this.#scheduled = true;
    this.#options.clock.soon(() => {
      this.#scheduled = false;
      this.#giveTurns();
    });
  }

  /** U2 */
  #giveTurns(): void {
    const { directory } = this.#options;
    const misfits = new Set<string>();
    for (;;) {
      const runtimes = directory.view();
      if (this.#queue.size === 0 || !runtimes.some(({ free, draining }) => free > 0 && !draining)) return;
      let runtime: string | undefined;
      const fits = ({ waiter, asked }: Entry): boolean => {
        if (misfits.has(asked)) return false;
        runtime = placeable(waiter.context, runtimes, directory.routing);
        if (runtime === undefined) misfits.add(asked);
        return runtime !== undefined;
      };
      const served = serveFitting(this.#queue, fits);
      if (served === undefined || runtime === undefined) {
        this.#unusable = true;
        return;
      }
      const [entry, rest] = served;
      this.#queue = rest;
      entry.queued = false;
      this.#noteTurn();
      entry.kept = directory.reserve(runtime); // U3
      if (!entry.waiter.turn()) this.#remove(entry);
    }
  }

  #enter(entry: Entry, first: boolean): void {
    if (entry.queued) return;
    entry.queued = true;
    const weight = this.#options.weightOf(entry.tenant);
    const put = first ? putBack : enqueue;
    this.#queue = put(this.#queue, entry.tenant, weight, entry);
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.waiter);
    this.#count(entry, 0);
    entry.kept?.();
    entry.kept = undefined;
    if (entry.queued) this.#queue = without(this.#queue, (other) => other === entry);
    entry.queued = false;
    this.changed();
  }

  #count(entry: Entry, count: number): void {
    const change = count - entry.count;
    if (change === 0) return;
    entry.count = count;
    this.#size += change;
    const waiting = this.of(entry.tenant) + change;
    if (waiting === 0) this.#waiting.delete(entry.tenant);
    else this.#waiting.set(entry.tenant, waiting);
  }

  #noteTurn(): void {
    const now = this.#options.clock.monotonic();
    // The time in which nobody waited says nothing of the pace.
    if (this.#turnedAt !== undefined && this.#entries.size > 1)
      this.#turnMs += (now - this.#turnedAt - this.#turnMs) * SMOOTHING;
    this.#turnedAt = now;
  }
}
