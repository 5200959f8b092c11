/**
 * The broker role: owns sessions and answers for them, and looks for sessions that nobody looks after. Here its parts
 * are put together, and here are its times of life and what it repeats.
 *
 * Invariants:
 *  H1  It answers for a session only while its lease holds, and only after a commit in the epoch of its acquisition.
 *  H2  That it owns a session is told only when its subscriptions are in force.
 *  H3  A session is given up in three steps: no new messages, everything that came is taken in, then one commit that
 *      releases it.
 */
import { type Bus, BusError, type Subscription } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type {
  Activated,
  ActivateSession,
  AdoptSession,
  AskSession,
  CreateSession,
  ReadEvents,
  Reply,
} from '../protocol.ts';
import type { Store } from '../store/store.ts';
import { BROKERS, type Subjects } from '../subjects.ts';
import type { SessionActor } from './actor.ts';
import { Creation, type CreationSettings } from './creation.ts';
import { Directory } from './directory.ts';
import type { ToolFacts } from './facts.ts';
import { Hosting } from './hosting.ts';
import { Lease } from './lease.ts';
import { Leaving } from './leaving.ts';
import type { BrokerNotice } from './notice.ts';
import { Ownership } from './ownership.ts';
import { Queries } from './queries.ts';
import { notNow, type Respond, responder } from './responses.ts';
import { Scan } from './scan.ts';

export type { BrokerNotice } from './notice.ts';

export interface BrokerOptions {
  readonly id: string;
  readonly bus: Bus;
  readonly store: Store;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** What is known of a tool by its name as a script wrote it, and whether a session may call it is decided elsewhere. */
  readonly tool: (name: string) => ToolFacts | undefined;
  /** Life of its incarnation lease, in ms. Default 15,000; 500 to 600,000. */
  readonly leaseTtlMs?: number | undefined;
  /** A session with nothing to do is put away after this, in ms. Default 30,000; 100 to 86,400,000. */
  readonly hibernateAfterMs?: number | undefined;
  /** How often it looks for sessions that nobody looks after, in ms. Default 1,000. */
  readonly scanMs?: number | undefined;
  /** Sessions with an actor here. Default 100,000. Over it: OVERLOADED. */
  readonly maxSessions?: number | undefined;
  readonly settings?: CreationSettings | undefined;
  /** Told of what an operator should know. */
  readonly onNotice?: ((notice: BrokerNotice) => void) | undefined;
}

const DEFAULTS = {
  leaseTtlMs: 15_000,
  hibernateAfterMs: 30_000,
  scanMs: 1_000,
  maxSessions: 100_000,
} as const;
const HEARTBEAT_MS = 1_000;
const SWEEP_MS = 250;

export class Broker {
  readonly id: string;
  readonly directory: Directory;
  readonly #options: BrokerOptions;
  readonly #lease: Lease;
  readonly #respond: Respond;
  readonly #hosting: Hosting;
  readonly #ownership: Ownership;
  readonly #leaving: Leaving;
  readonly #creation: Creation;
  readonly #queries: Queries;
  readonly #scan: Scan;
  #subscriptions: Subscription[] = [];
  #timers: (() => void)[] = [];
  #state: 'new' | 'open' | 'draining' | 'closed' = 'new';
  #whenHeld: (() => void)[] = [];

  constructor(options: BrokerOptions) {
    const { id, bus, store, clock, subjects, tool, settings } = options;
    const { leaseTtlMs = DEFAULTS.leaseTtlMs, maxSessions = DEFAULTS.maxSessions } = options;
    const isOpen = (): boolean => this.#state === 'open';
    const isClosed = (): boolean => this.#state === 'closed';
    const notify = (notice: BrokerNotice): void => this.#options.onNotice?.(notice);
    this.id = id;
    this.#options = options;
    const onChange = (): void => {
      for (const { actor } of this.#hosting.all()) actor.runtimesChanged();
    };
    const directory = new Directory({ bus, clock, subjects, onChange });
    this.directory = directory;
    const lease = new Lease({
      store,
      clock,
      broker: id,
      ttlMs: leaseTtlMs,
      onHeld: () => this.#leaseHeld(),
      onLost: (incarnation, reason) => {
        if (isClosed()) return;
        notify({ type: 'lease.lost', incarnation, reason });
        this.#hosting.silenceDurable();
      },
    });
    this.#lease = lease;
    const respond = responder({ isClosed, notify });
    this.#respond = respond;
    const hosting = new Hosting({
      broker: id,
      bus,
      clock,
      subjects,
      directory,
      lease,
      tool,
      isClosed,
      respond,
      leave: (hosted, body) => this.#leaving.command(hosted, body),
      onSilenced: (actor, owner) => {
        this.#ownership.silenced(actor, owner);
        notify({ type: 'session.fenced', session: actor.id });
      },
      notify,
    });
    this.#hosting = hosting;
    const ownership = new Ownership({ broker: id, bus, store, clock, lease, hosting, isClosed, notify });
    this.#ownership = ownership;
    this.#leaving = new Leaving({ broker: id, bus, subjects, directory, hosting, ownership, isOpen });
    this.#creation = new Creation({ store, clock, lease, hosting, ownership, settings, maxSessions, isOpen });
    this.#queries = new Queries({ broker: id, bus, store, subjects, hosting, ownership });
    const mayOwn = (): boolean => isOpen() && lease.holds();
    this.#scan = new Scan({ store, clock, hosting, ownership, mayOwn, isOpen, notify });
  }

  /** Sessions with an actor here. */
  get sessions(): number {
    return this.#hosting.size;
  }
  actor(session: string): SessionActor | undefined {
    return this.#hosting.get(session)?.actor;
  }

  /** Resolves when it can own sessions. */
  async start(): Promise<void> {
    const { bus, scanMs = DEFAULTS.scanMs } = this.#options;
    this.#state = 'open';
    this.directory.start();
    const held = new Promise<void>((resolve) => this.#whenHeld.push(resolve));
    this.#lease.start();
    await held;
    this.#subscribe();
    await bus.flush();
    this.#repeat(HEARTBEAT_MS, () => this.#beat());
    this.#repeat(SWEEP_MS, () => this.#sweep());
    this.#repeat(scanMs, () => void this.#scan.run());
    this.#beat();
  }

  #leaseHeld(): void {
    for (const held of this.#whenHeld.splice(0)) held();
  }

  #subscribe(): void {
    const { bus, subjects } = this.#options;
    const verb = (
      name: Parameters<Subjects['broker']>[0],
      answer: (body: object) => Promise<Reply<unknown>>,
    ): Subscription =>
      bus.subscribe(subjects.broker(name), (message) => this.#respond(message, answer), { queue: BROKERS });
    this.#subscriptions = [
      verb('session_create', (body) => this.#creation.create(body as CreateSession)),
      verb('session_activate', (body) => this.#activate(body as ActivateSession)),
      verb('session_info', (body) => this.#queries.info(body as AskSession)),
      verb('session_result', (body) => this.#queries.result(body as AskSession)),
      verb('events_read', (body) => this.#queries.events(body as ReadEvents)),
      verb('journal_read', (body) => this.#queries.journal(body as AskSession)),
      bus.subscribe(subjects.brokerCmd(this.id), (message) =>
        this.#respond(message, (body) => this.#activate(body as AdoptSession)),
      ),
    ];
  }

  #activate({ session, minEpoch }: ActivateSession): Promise<Reply<Activated>> {
    if (this.#state !== 'open') return Promise.resolve(notNow());
    return this.#ownership.activate(session, minEpoch);
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
    if (!this.#lease.holds()) return;
    try {
      bus.publish(subjects.brokerHeartbeat(this.id), {
        broker: this.id,
        sessions: this.#hosting.size,
        draining: this.#state === 'draining',
        intervalMs: HEARTBEAT_MS,
      });
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
    }
  }

  #sweep(): void {
    const { clock, hibernateAfterMs = DEFAULTS.hibernateAfterMs } = this.#options;
    this.directory.sweep();
    const idleSince = clock.now() - hibernateAfterMs;
    for (const hosted of this.#hosting.all()) {
      const { actor } = hosted;
      actor.sweep();
      if (hosted.moving || !actor.persistence.durable || !actor.quiet) continue;
      if (actor.context.lastActivityAt <= idleSince) void this.#leaving.hibernate(hosted);
    }
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /** Take nothing new and hand every session to another broker, scripts running on. Without another they are released. */
  async drain(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    this.#beat();
    await Promise.all(this.#subscriptions.splice(0).map((subscription) => subscription.drain()));
    await Promise.all([...this.#hosting.all()].map((hosted) => this.#leaving.leave(hosted)));
  }

  /** Give everything up: sessions are released, the lease is ended. */
  async close(): Promise<void> {
    await this.drain();
    if (this.#state === 'closed') return;
    this.#end();
    await this.#lease.end().catch(() => undefined); // It ends by itself.
  }

  /** Stop as a process that dies: nothing is released or told. Its sessions can be acquired when its lease has ended. */
  abandon(): void {
    this.#end();
    this.#lease.stop();
  }

  #end(): void {
    this.#state = 'closed';
    for (const cancel of this.#timers.splice(0)) cancel();
    for (const subscription of this.#subscriptions.splice(0)) subscription.unsubscribe();
    this.#hosting.silenceAll();
    this.directory.stop();
  }
}
