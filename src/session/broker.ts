/**
 * The broker role: owns sessions and answers for them, and looks for sessions that nobody looks after. Here are its
 * times of life and what it repeats; what it is made of is in parts.ts.
 *
 * Invariants:
 *  H1  It answers for a session only while its lease holds, and only after a commit in the epoch of its acquisition.
 *  H2  That it owns a session is told only when its subscriptions are in force.
 *  H3  A session is given up in three steps: no new messages, everything that came is taken in, then one commit that
 *      releases it.
 */
import type { SessionStateValue } from '../../actors/session.ts';
import type { Subscription } from '../bus/bus.ts';
import { EnclaveError } from '../errors.ts';
import type { BrokerHeartbeat } from '../protocol.ts';
import { publishOrDrop } from '../telling.ts';
import type { SessionActor } from './actor.ts';
import type { Directory } from './directory.ts';
import { assemble, type BrokerOptions, DEFAULTS, type Parts } from './parts.ts';
import type { ToolDirectory } from './tooldirectory.ts';

export type { BrokerNotice } from './notice.ts';
export type { BrokerOptions } from './parts.ts';

const HEARTBEAT_MS = 1_000;
const SWEEP_MS = 250;

export class Broker {
  readonly id: string;
  readonly directory: Directory;
  readonly tools: ToolDirectory;
  readonly #options: BrokerOptions;
  readonly #parts: Parts;
  readonly #firstHeld = Promise.withResolvers<void>();
  #subscriptions: Subscription[] = [];
  #timers: (() => void)[] = [];
  #state: 'new' | 'open' | 'draining' | 'closed' = 'new';

  constructor(options: BrokerOptions) {
    this.id = options.id;
    this.#options = options;
    this.#parts = assemble(options, {
      isOpen: () => this.#state === 'open',
      isClosed: () => this.#state === 'closed',
      onLeaseHeld: () => this.#firstHeld.resolve(),
    });
    this.directory = this.#parts.directory;
    this.tools = this.#parts.tools;
  }

  /** Sessions with an actor here. */
  get sessions(): number {
    return this.#parts.hosting.size;
  }
  /** Sessions with an actor here, by status. */
  statuses(): ReadonlyMap<SessionStateValue, number> {
    return this.#parts.census.statuses();
  }
  /** Executions here that wait for room in any runtime. */
  get waiting(): number {
    return this.#parts.census.waiting();
  }
  /** True while it may act as an owner. */
  get holdsLease(): boolean {
    return this.#parts.lease.holds();
  }
  /** The version of sessions' snapshots that it writes now: the highest that every broker reads. */
  get snapshotVersion(): number {
    return this.#parts.snapshots.writes;
  }
  /** Stateless runs that are here. */
  get runs(): number {
    return this.#parts.runs.size;
  }
  actor(session: string): SessionActor | undefined {
    return this.#parts.hosting.get(session)?.actor;
  }

  /** Resolves when it can own sessions. Rejects with an EnclaveError CLOSED if it ends before. */
  async start(): Promise<void> {
    const { bus, scanMs = DEFAULTS.scanMs } = this.#options;
    const { lease, runs, verbs, scan, autoscale } = this.#parts;
    if (this.#state !== 'new') throw ended();
    this.#state = 'open';
    this.directory.start();
    this.tools.start();
    lease.start();
    await this.#firstHeld.promise;
    if (this.#state !== 'open') throw ended();
    runs.listen();
    this.#subscriptions = verbs.listen();
    await bus.flush();
    if (this.#state !== 'open') throw ended();
    this.#repeat(HEARTBEAT_MS, () => this.#beat());
    this.#repeat(SWEEP_MS, () => this.#sweep());
    this.#repeat(scanMs, () => void scan.run());
    this.#beat();
    autoscale?.start();
  }

  // ---- what it does by itself ----------------------------------------------------------------------------

  #repeat(ms: number, act: () => void): void {
    const { clock } = this.#options;
    let cancel: () => void = () => undefined;
    const again = (): void => {
      cancel = clock.after(ms, () => {
        if (this.#state === 'closed') return;
        act();
        again();
      });
    };
    again();
    this.#timers.push(() => cancel());
  }

  #beat(): void {
    const { bus, subjects } = this.#options;
    const { lease, hosting, census, snapshots } = this.#parts;
    if (!lease.holds()) return;
    publishOrDrop(bus, subjects.brokerHeartbeat(this.id), {
      broker: this.id,
      sessions: hosting.size,
      waiting: census.demand(),
      draining: this.#state === 'draining',
      snapshot: { reads: snapshots.reads, writes: snapshots.writes },
      intervalMs: HEARTBEAT_MS,
    } satisfies BrokerHeartbeat);
  }

  #sweep(): void {
    const { clock, hibernateAfterMs = DEFAULTS.hibernateAfterMs } = this.#options;
    const { lease, runs, queue, admission, places, hosting, leaving } = this.#parts;
    this.directory.sweep();
    if (lease.holds()) this.directory.ping();
    this.tools.sweep();
    runs.sweep();
    queue.changed();
    admission.sweep();
    places.sweep();
    const idleSince = clock.now() - hibernateAfterMs;
    for (const hosted of hosting.all()) {
      const { actor } = hosted;
      actor.sweep();
      if (hosted.moving || !actor.persistence.durable || !actor.quiet) continue;
      if (actor.context.lastActivityAt <= idleSince) void leaving.hibernate(hosted);
    }
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /**
   * Take nothing new and hand every session to another broker, scripts running on. Without another they are released.
   * Resolves when stateless runs have ended too, or `graceMs` later.
   */
  async drain(graceMs = 0): Promise<void> {
    const { autoscale, hosting, leaving, runs } = this.#parts;
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    this.#beat();
    // Another broker may decide from now on.
    if (autoscale !== undefined) await autoscale.stop();
    await Promise.all(this.#subscriptions.splice(0).map((subscription) => subscription.drain()));
    await Promise.all([...hosting.all()].map((hosted) => leaving.leave(hosted)));
    // A run cannot be handed over: it is lost with its broker.
    await Promise.race([runs.ended(), this.#passed(graceMs)]);
  }

  #passed(ms: number): Promise<void> {
    return new Promise((resolve) => this.#options.clock.after(ms, resolve));
  }

  /** Give everything up: sessions are released, the lease is ended. */
  async close(): Promise<void> {
    await this.drain();
    await this.#leave();
  }

  /** Stop at once. Sessions are not released, but its lease is ended: others take them over without waiting for it. */
  async halt(): Promise<void> {
    if (this.#state === 'closed') return;
    await this.#leave(this.#parts.autoscale?.stop());
  }

  /** `unruled`: resolves when another broker may decide how many runtimes there are. */
  async #leave(unruled?: Promise<void>): Promise<void> {
    if (this.#state === 'closed') return;
    const { acks, places, lease } = this.#parts;
    acks.flush();
    this.#end();
    await unruled;
    // Both end by themselves where the store cannot be told.
    await places.end().catch(() => undefined);
    await lease.end().catch(() => undefined);
  }

  /** Stop as a process that dies: nothing is released or told. Its sessions can be acquired when its lease has ended. */
  abandon(): void {
    this.#end();
    this.#parts.lease.stop();
  }

  #end(): void {
    const { hosting, runs, autoscale } = this.#parts;
    this.#state = 'closed';
    this.#firstHeld.resolve();
    for (const cancel of this.#timers.splice(0)) cancel();
    for (const subscription of this.#subscriptions.splice(0)) subscription.unsubscribe();
    hosting.silenceAll();
    runs.stop();
    autoscale?.abandon();
    this.directory.stop();
    this.tools.stop();
  }
}

function ended(): EnclaveError {
  return new EnclaveError('CLOSED', 'The broker ended before it had started');
}
