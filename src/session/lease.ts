/**
 * Where a broker's lease is opened and renewed: the host of the lease machine.
 *
 * `holds()` is asked in the same tick as everything that an owner does or answers (blueprint: an owner acts only
 * while its own monotonic clock says so).
 */
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import { holds, type LeaseEvent, leaseMachine } from '../../actors/lease.ts';
import type { Clock } from '../clock.ts';
import type { Store } from '../store/store.ts';

export interface LeaseOptions {
  readonly store: Store;
  readonly clock: Clock;
  /** Begins the id of every incarnation. */
  readonly broker: string;
  /** How long an incarnation lives without being renewed, in ms. */
  readonly ttlMs: number;
  /**
   * True while the broker can be reached. A broker that nobody can reach does not renew: else it would keep its
   * sessions from those who could answer for them. Default: always.
   */
  readonly isReachable?: (() => boolean) | undefined;
  readonly onHeld: (incarnation: string) => void;
  /** Told of one that was held. */
  readonly onLost: (incarnation: string, reason: string) => void;
}

export class Lease {
  readonly #options: LeaseOptions;
  #snapshot: SnapshotFrom<typeof leaseMachine>;
  #stopTicking: () => void = () => undefined;
  #closed = false;
  #reopenAt = 0;
  /** Incarnations of this process that were given up here, and may live on in the store. */
  #lost: string[] = [];

  constructor(options: LeaseOptions) {
    this.#options = options;
    [this.#snapshot] = initialTransition(leaseMachine, { ttlMs: options.ttlMs });
  }

  /** Open an incarnation and keep it; a lost one is followed by a new one until `end`. */
  start(): void {
    this.#tick();
  }

  /** The incarnation that may act now; undefined if none may. */
  get incarnation(): string | undefined {
    return this.holds() ? this.#snapshot.context.incarnation : undefined;
  }

  /** True if the owner named may act in this tick. */
  holds(incarnation?: string): boolean {
    const { context } = this.#snapshot;
    if (incarnation !== undefined && context.incarnation !== incarnation) return false;
    return holds(context, this.#options.clock.monotonic());
  }

  /** How long it is certainly held, in ms from now. */
  leftMs(): number {
    const { context } = this.#snapshot;
    return this.holds() ? Math.max(0, context.heldUntil - this.#options.clock.monotonic()) : 0;
  }

  /** Give it up now, in the store too. Its sessions may be acquired by others at once. */
  async end(): Promise<void> {
    const { incarnation } = this.#snapshot.context;
    this.stop();
    if (incarnation !== undefined) await this.#options.store.endIncarnation(incarnation);
  }

  /** Stop renewing, as a process that died would. */
  stop(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stopTicking();
    this.#tell({ type: 'lease.end', at: this.#options.clock.monotonic() });
  }

  #tick(): void {
    if (this.#closed) return;
    const { clock, ttlMs, broker } = this.#options;
    const at = clock.monotonic();
    if (this.#snapshot.context.incarnation !== undefined) this.#tell({ type: 'lease.ticked', at });
    else if (at >= this.#reopenAt) {
      this.#reopenAt = at + ttlMs / 10;
      this.#tell({ type: 'lease.open', incarnation: `${broker.slice(0, 40)}-${clock.id()}`, at });
    }
    this.#stopTicking = clock.after(ttlMs / 15, () => this.#tick());
  }

  #tell(event: LeaseEvent): void {
    const before = this.#snapshot.value;
    [this.#snapshot] = transition(leaseMachine, this.#snapshot, event);
    const { effects, incarnation } = this.#snapshot.context;
    if (before !== 'held' && this.#snapshot.value === 'held' && incarnation !== undefined) {
      this.#endLost();
      this.#options.onHeld(incarnation);
    }
    for (const effect of effects) {
      if (effect.type !== 'halt') void this.#ask(effect.type, effect.incarnation);
      // One that was never held has no sessions, and while the store is away there is one after the other.
      else if (before === 'held') {
        this.#lost.push(effect.incarnation);
        this.#options.onLost(effect.incarnation, effect.reason);
      }
    }
  }

  /** Nobody acts in their names any more: their sessions need not wait until the store finds out. */
  #endLost(): void {
    // Best effort: they end by themselves.
    for (const incarnation of this.#lost.splice(0))
      void this.#options.store.endIncarnation(incarnation).catch(() => undefined);
  }

  async #ask(what: 'open' | 'renew', incarnation: string): Promise<void> {
    const { store, ttlMs, clock, isReachable } = this.#options;
    let type: 'lease.granted' | 'lease.refused' | 'lease.unanswered';
    try {
      if (isReachable?.() === false) throw new TypeError('the bus is away');
      const granted =
        what === 'open'
          ? await store.openIncarnation(incarnation, ttlMs)
          : await store.renewIncarnation(incarnation, ttlMs);
      type = granted ? 'lease.granted' : 'lease.refused';
    } catch {
      // Never in the turn in which it was asked for: the machine is in the middle of it.
      await Promise.resolve();
      type = 'lease.unanswered';
    }
    if (!this.#closed) this.#tell({ type, incarnation, at: clock.monotonic() });
  }
}
