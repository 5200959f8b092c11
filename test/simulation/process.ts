/**
 * A simulated process: what lives, stands still and dies together. It reaches the rest of the world by its clock,
 * its bus handles and its store, and all of them ask it first.
 *
 * Invariants:
 *  P1  A process that is gone does nothing: its timers, replies and messages never come, and what its code still
 *      says within the turn of its death reaches nobody.
 *  P2  One that stands still does nothing until it goes on; then what came due happens late, all at once. Time moves
 *      on for it meanwhile.
 */
import type { Clock } from '../../src/clock.ts';
import type { Random } from './random.ts';
import type { Scheduler, Task } from './scheduler.ts';

/** What the wall clocks show at the start of a run, in ms since the epoch. */
export const EPOCH = 1_700_000_000_000;
/** How late a timer may be at most, in ms, apart from pauses. */
const LATE_MS = 5;
const LATE_CHANCE = 0.15;

export type Kind = 'broker' | 'runtime' | 'provider' | 'client';

export interface ProcessOptions {
  readonly id: string;
  readonly kind: Kind;
  readonly scheduler: Scheduler;
  readonly random: Random;
  /** `soon` goes through the scheduler, so that other processes may come in between; else it is a microtask. */
  readonly slowSoon: boolean;
  /** How far its wall clock is off, in whole ms. */
  readonly skewMs: number;
}

export class Process {
  readonly id: string;
  readonly kind: Kind;
  readonly clock: Clock;
  readonly backlog: Task[] = [];
  readonly #scheduler: Scheduler;
  readonly #soon: (() => void)[] = [];
  /** Called when it dies. */
  readonly onDeath: (() => void)[] = [];
  alive = true;
  paused = false;
  /** It has been stopped at least once, so others may have taken it for dead. */
  wasPaused = false;
  /** It is on its way out by itself. */
  draining = false;
  /** Messages and store calls that it may still send before it dies; undefined for any number. */
  #sendsLeft: number | undefined;

  constructor(options: ProcessOptions) {
    const { id, kind, scheduler, random, slowSoon, skewMs } = options;
    this.id = id;
    this.kind = kind;
    this.#scheduler = scheduler;
    const offset = random.between(0, 1_000_000);
    this.clock = {
      now: () => EPOCH + scheduler.now + skewMs,
      monotonic: () => offset + scheduler.now,
      after: (ms, act) => {
        if (!this.speaks) return () => undefined;
        const late = random.chance(LATE_CHANCE) ? random.between(1, LATE_MS) : 0;
        const task = scheduler.after(ms + late, this, act);
        return () => {
          task.act = undefined;
        };
      },
      soon: slowSoon ? (act) => this.#later(act) : (act) => queueMicrotask(() => this.alive && act()),
      id: () => random.id(),
    };
  }

  /** Whether what it does now reaches anybody (P1). */
  get speaks(): boolean {
    return this.alive && this.#sendsLeft !== 0;
  }

  /** It is about to send something. False: it died before. */
  send(): boolean {
    if (!this.speaks) return false;
    if (this.#sendsLeft !== undefined) this.#sendsLeft--;
    return true;
  }

  /** Let it say only so much more, until it dies. */
  limitSends(count: number): void {
    this.#sendsLeft = count;
  }

  die(): void {
    if (!this.alive) return;
    this.alive = false;
    this.backlog.length = 0;
    for (const act of this.onDeath.splice(0)) act();
  }

  pause(): void {
    this.paused = true;
    this.wasPaused = true;
  }

  /** P2 */
  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.#scheduler.release(this.backlog.splice(0));
  }

  /** In the order in which they were asked for. */
  #later(act: () => void): void {
    if (!this.speaks) return;
    this.#soon.push(act);
    this.#scheduler.after(0, this, () => this.#soon.shift()?.());
  }
}
