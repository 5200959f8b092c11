/**
 * The autoscaler's host: looks at the pool, tells the machine, and has a provisioner carry out what it decides. Of
 * several brokers the one decides that has the role.
 *
 * Invariants:
 *  C1  Nothing is decided unless the role was granted in time: counted from when it was asked for, by this process's
 *      clock. A process that stands still between that look and the start may still start one beside its successor's;
 *      the successor sees it and takes it into account.
 *  C2  Nothing is decided before the runtimes that are there had the time to be heard: after the start, after the bus
 *      was away, and after this process stood still. Who was not heard then would be started again.
 *  C3  Only runtimes with the labels of the provisioner's are looked at: others are not made by it.
 */
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import { type AutoscalerEffect, type AutoscalerEvent, autoscalerMachine } from '../../actors/autoscaler.ts';
import { hasLabels } from '../../actors/routing.ts';
import type { Clock } from '../clock.ts';
import type { ResolvedRuntimePool } from '../options.ts';
import type { Provisioner } from '../provision/provisioner.ts';
import type { Store } from '../store/store.ts';
import type { Directory } from './directory.ts';
import type { Notify } from './notice.ts';

/** The name of the role in the store. */
export const AUTOSCALER = 'autoscaler';
/** Between two looks, in ms, at most: a pool that is too small is noticed within it. */
const LOOK_MS = 2_000;
/** How long the role is held, in looks. */
const ROLE_LOOKS = 5;
/** Share of that time that is not counted on. */
const MARGIN = 0.1;
/** How long runtimes have to be heard, in ms: more than the interval of their heartbeats. */
const SETTLE_MS = 6_000;

export interface Autoscaling {
  readonly pool: ResolvedRuntimePool;
  readonly provisioner: Provisioner;
}

export interface AutoscaleOptions extends Autoscaling {
  readonly broker: string;
  readonly store: Pick<Store, 'holdRole' | 'releaseRole'>;
  readonly clock: Clock;
  readonly directory: Pick<Directory, 'runtimes' | 'demand'>;
  /** True while the broker is open and hears the bus. */
  readonly isOpen: () => boolean;
  readonly notify: Notify;
}

export class Autoscale {
  readonly #options: AutoscaleOptions;
  /** Names this process, so that another of the same name is told apart from it. */
  readonly #holder: string;
  readonly #lookMs: number;
  #snapshot: SnapshotFrom<typeof autoscalerMachine>;
  #settledAt = 0;
  #decides = false;
  #looking: Promise<void> | undefined;
  #cancel: () => void = () => undefined;
  #stopped = false;

  constructor(options: AutoscaleOptions) {
    const { broker, clock, pool } = options;
    this.#options = options;
    this.#holder = `${broker.slice(0, 40)}-${clock.id()}`;
    this.#lookMs = Math.min(LOOK_MS, pool.scaleInterval);
    [this.#snapshot] = initialTransition(autoscalerMachine, pool);
  }

  /** True if this broker decided at its last look. */
  get decides(): boolean {
    return this.#decides;
  }

  start(): void {
    this.#settle();
    this.#lookSoon();
  }

  /** C2 */
  #settle(): void {
    const { clock, pool } = this.#options;
    this.#settledAt = clock.monotonic() + Math.min(SETTLE_MS, pool.scaleInterval);
  }

  /** Decide nothing more, and leave the role to another. What was started stays. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#cancel();
    await this.#looking;
    await this.#options.store.releaseRole(AUTOSCALER, this.#holder).catch(() => undefined); // It ends by itself.
  }

  /** Stop as a process that dies: the role is left when its time is over. */
  abandon(): void {
    this.#stopped = true;
    this.#cancel();
  }

  #lookSoon(): void {
    const { clock } = this.#options;
    const dueAt = clock.monotonic() + this.#lookMs;
    this.#cancel = clock.after(this.#lookMs, () => {
      if (clock.monotonic() - dueAt > this.#lookMs) this.#settle();
      this.#looking = this.#look().finally(() => {
        if (!this.#stopped) this.#lookSoon();
      });
    });
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const { clock, directory, provisioner, isOpen, notify } = this.#options;
    try {
      if (!isOpen()) this.#settle();
      const until = isOpen() ? await this.#hold() : undefined;
      if (until !== undefined && !this.#decides) this.#tell({ type: 'role.taken', at: clock.monotonic() });
      this.#decides = until !== undefined;
      if (until === undefined || clock.monotonic() < this.#settledAt) return;
      const ours = await provisioner.list();
      const at = clock.monotonic();
      if (at >= until || this.#stopped || !isOpen()) return; // C1
      this.#tell({
        type: 'pool.observed',
        at,
        ours,
        runtimes: directory
          .runtimes()
          .filter(({ labels }) => hasLabels(labels, provisioner.labels)) // C3
          .map(({ runtime: id, load, capacity, draining }) => ({ id, load, capacity, draining })),
        waiting: directory.demand(),
      });
    } catch (error) {
      notify({ type: 'scaling.failed', reason: reasonOf(error) });
    }
  }

  /** Until when this process decides, by the monotonic clock; undefined if it does not. */
  async #hold(): Promise<number | undefined> {
    const { store, clock } = this.#options;
    const ttlMs = this.#lookMs * ROLE_LOOKS;
    const askedAt = clock.monotonic();
    // A store that does not answer grants nothing, and tells its operator by itself.
    const granted = await store.holdRole(AUTOSCALER, this.#holder, ttlMs).catch(() => false);
    return granted ? askedAt + ttlMs * (1 - MARGIN) : undefined; // C1
  }

  #tell(event: AutoscalerEvent): void {
    [this.#snapshot] = transition(autoscalerMachine, this.#snapshot, event);
    for (const effect of this.#snapshot.context.effects) void this.#carryOut(effect);
  }

  /** Never rejects. */
  async #carryOut(effect: AutoscalerEffect): Promise<void> {
    const { provisioner, clock, notify } = this.#options;
    try {
      switch (effect.type) {
        case 'start': {
          const { id: runtime } = await provisioner.start();
          return this.#tell({ type: 'scale.started', ref: effect.ref, runtime, at: clock.monotonic() });
        }
        case 'drain':
          return await provisioner.drain(effect.runtime);
        case 'stop':
          return await provisioner.stop(effect.runtime);
        case 'tell': {
          const { from, to, reason } = effect;
          return notify({ type: 'runtimes.scaled', from, to, reason });
        }
      }
    } catch (error) {
      notify({ type: 'scaling.failed', reason: reasonOf(error) });
      if (effect.type === 'start')
        this.#tell({ type: 'scale.failed', ref: effect.ref, at: clock.monotonic() });
    } finally {
      if (effect.type === 'drain')
        this.#tell({ type: 'scale.drained', runtime: effect.runtime, at: clock.monotonic() });
    }
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
