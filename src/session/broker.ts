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
import type { Routing } from '../../actors/routing.ts';
import { hasWork, type SessionStateValue } from '../../actors/session.ts';
import type { Bus, Subscription, TraceHeaders } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import { EnclaveError } from '../errors.ts';
import { type Losses, UNCOUNTED } from '../losses.ts';
import { type ResolvedAdmission, resolveAdmission } from '../options.ts';
import type { Activated, ActivateSession, BrokerHeartbeat, Reply } from '../protocol.ts';
import { success } from '../replies.ts';
import type { Store } from '../store/store.ts';
import { BROKERS, type Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import { Acks } from './acks.ts';
import type { SessionActor } from './actor.ts';
import { Admission } from './admission.ts';
import {
  activateOf,
  askOf,
  checked,
  createOf,
  listSessionsOf,
  listToolsOf,
  readEventsOf,
  runOf,
} from './asked.ts';
import { Autoscale, type Autoscaling } from './autoscale.ts';
import { Census } from './census.ts';
import { Creation, type CreationSettings, settingsOf } from './creation.ts';
import { Directory } from './directory.ts';
import type { ToolFacts } from './facts.ts';
import { Dropped } from './heard.ts';
import { Hosting } from './hosting.ts';
import { Lease } from './lease.ts';
import { Leaving } from './leaving.ts';
import type { BrokerNotice } from './notice.ts';
import { Ownership } from './ownership.ts';
import { Places } from './places.ts';
import { Queries } from './queries.ts';
import { PlacementQueue } from './queue.ts';
import { CODEC } from './release.ts';
import { noPlace, notNow, type Respond, responder } from './responses.ts';
import { Runs } from './runs.ts';
import { Scan } from './scan.ts';
import type { SnapshotCodec } from './snapshot.ts';
import { ToolDirectory } from './tooldirectory.ts';
import { Snapshots } from './versions.ts';

export type { BrokerNotice } from './notice.ts';

export interface BrokerOptions {
  readonly id: string;
  readonly bus: Bus;
  readonly store: Store;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** The tools of this process, by name as a script wrote it. Others are known when their providers advertise them. */
  readonly tool: (name: string) => ToolFacts | undefined;
  /** True while the bus can be reached: without it the lease is not renewed. Default: always. */
  readonly isReachable?: (() => boolean) | undefined;
  /** Life of its incarnation lease, in ms. Default 6,000; 500 to 600,000. */
  readonly leaseTtlMs?: number | undefined;
  /** A session with nothing to do is put away after this, in ms. Default 30,000; 100 to 86,400,000. */
  readonly hibernateAfterMs?: number | undefined;
  /** How often it looks for sessions that nobody looks after, in ms. Default 1,000. */
  readonly scanMs?: number | undefined;
  /** Sessions with an actor here. Default 100,000. Over it: OVERLOADED. */
  readonly maxSessions?: number | undefined;
  /** Sessions with an actor at all brokers of the namespace, those that ended not counted. 0 or undefined: no limit. Over it: OVERLOADED. */
  readonly maxConcurrentSessions?: number | undefined;
  /** What it takes on for each tenant. Default: no limits but the default bound of what waits. */
  readonly admission?: ResolvedAdmission | undefined;
  /** Stateless runs here at once. Default 10,000. Over it: OVERLOADED. */
  readonly maxRuns?: number | undefined;
  readonly settings?: CreationSettings | undefined;
  /** How it places executions on runtimes. Default: on the one with the most room. */
  readonly routing?: Routing | undefined;
  /** Keep a pool of runtimes of the right size, while this broker is the one that decides. Whoever made the provisioner closes it. Default: others do. */
  readonly autoscaling?: Autoscaling | undefined;
  /** @internal For tests, which pose as another release. Default: what this release reads and writes. */
  readonly snapshots?: SnapshotCodec | undefined;
  /** Keep what scripts write, pass to tools and return out of all events. Default false: sessions and runs say it themselves. */
  readonly redactEvents?: boolean | undefined;
  /** Tell an `execution.audited` of every execution that ends. Default false. */
  readonly audit?: boolean | undefined;
  /** Told of what is refused or dropped here. Default: nobody counts. */
  readonly losses?: Losses | undefined;
  /** Told of what an operator should know. */
  readonly onNotice?: ((notice: BrokerNotice) => void) | undefined;
}

const DEFAULTS = {
  leaseTtlMs: 6_000,
  hibernateAfterMs: 30_000,
  scanMs: 1_000,
  maxSessions: 100_000,
  maxRuns: 10_000,
} as const;
const HEARTBEAT_MS = 1_000;
const SWEEP_MS = 250;

export class Broker {
  readonly id: string;
  readonly directory: Directory;
  readonly tools: ToolDirectory;
  readonly #options: BrokerOptions;
  readonly #snapshots: Snapshots;
  readonly #acks: Acks;
  readonly #lease: Lease;
  readonly #respond: Respond;
  readonly #hosting: Hosting;
  readonly #ownership: Ownership;
  readonly #leaving: Leaving;
  readonly #creation: Creation;
  readonly #queries: Queries;
  readonly #scan: Scan;
  readonly #queue: PlacementQueue;
  readonly #admission: Admission;
  readonly #places: Places;
  readonly #runs: Runs;
  readonly #census: Census;
  readonly #autoscale: Autoscale | undefined;
  #subscriptions: Subscription[] = [];
  #timers: (() => void)[] = [];
  #state: 'new' | 'open' | 'draining' | 'closed' = 'new';
  readonly #firstHeld = Promise.withResolvers<void>();

  constructor(options: BrokerOptions) {
    const { id, bus, store, clock, subjects, tool, settings, routing } = options;
    const { leaseTtlMs = DEFAULTS.leaseTtlMs, maxSessions = DEFAULTS.maxSessions } = options;
    const { losses = UNCOUNTED, redactEvents = false, audit = false } = options;
    const isOpen = (): boolean => this.#state === 'open';
    const isClosed = (): boolean => this.#state === 'closed';
    const notify = (notice: BrokerNotice): void => this.#options.onNotice?.(notice);
    this.id = id;
    this.#options = options;
    const onChange = (): void => this.#queue.changed();
    const dropped = new Dropped(clock, notify, losses);
    const onGone = (runtime: string): void => {
      for (const { actor } of this.#hosting.all()) actor.runtimeGone(runtime);
      this.#runs.runtimeGone(runtime);
    };
    const snapshots = new Snapshots(id, options.snapshots ?? CODEC);
    this.#snapshots = snapshots;
    const onBroker = (beat: BrokerHeartbeat): void => snapshots.hear(beat);
    const directory = new Directory({
      bus,
      clock,
      subjects,
      routing,
      onChange,
      onGone,
      onHeard: (runtime) => notify({ type: 'runtime.heard', runtime }),
      onLeft: (runtime, drained) => notify({ type: 'runtime.gone', runtime, drained }),
      onBroker,
      dropped,
    });
    this.directory = directory;
    const rules = options.admission ?? resolveAdmission();
    const queue: PlacementQueue = new PlacementQueue({
      clock,
      directory,
      weightOf: (tenant) => admission.weightOf(tenant),
    });
    this.#queue = queue;
    const admission: Admission = new Admission({ clock, rules, waiting: queue, losses });
    this.#admission = admission;
    const acks = new Acks({ bus, clock, subjects });
    this.#acks = acks;
    const tools = new ToolDirectory({ bus, clock, subjects, local: tool, notify });
    this.tools = tools;
    const lease = new Lease({
      store,
      clock,
      broker: id,
      ttlMs: leaseTtlMs,
      isReachable: options.isReachable,
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
      queue,
      admission,
      acks,
      lease,
      tools,
      isClosed,
      respond,
      leave: (hosted, body) => this.#leaving.command(hosted, body),
      onSilenced: (actor, owner) => {
        this.#ownership.silenced(actor, owner);
        notify({ type: 'session.fenced', session: actor.id });
      },
      redactEvents,
      audit,
      notify,
      losses,
      dropped,
    });
    this.#hosting = hosting;
    const ownership = new Ownership({
      broker: id,
      bus,
      store,
      clock,
      subjects,
      directory,
      lease,
      hosting,
      snapshots,
      isClosed,
      notify,
    });
    this.#ownership = ownership;
    this.#leaving = new Leaving({ broker: id, bus, subjects, directory, hosting, ownership, isOpen, notify });
    const places = new Places({
      store,
      clock,
      lease,
      most: options.maxConcurrentSessions ?? 0,
      // Longer than a lease: what a living broker has never counts as free.
      ttlMs: leaseTtlMs * 1.5,
      here: hosting,
      losses,
    });
    this.#places = places;
    this.#creation = new Creation({
      places,
      store,
      clock,
      lease,
      hosting,
      ownership,
      snapshots,
      settings,
      maxSessions,
      isOpen,
      losses,
    });
    this.#queries = new Queries({ broker: id, bus, store, subjects, hosting, ownership, snapshots });
    this.#runs = new Runs({
      broker: id,
      bus,
      clock,
      subjects,
      directory,
      queue,
      admission,
      acks,
      tools,
      settings: settingsOf(settings),
      maxRuns: options.maxRuns ?? DEFAULTS.maxRuns,
      isOpen,
      isClosed,
      respond,
      redactEvents,
      audit,
      notify,
      losses,
      dropped,
    });
    const { autoscaling, isReachable = () => true } = options;
    const startable = autoscaling?.provisioner.labels;
    this.#census = new Census({ hosting, runs: this.#runs, routing, startable });
    const hears = (): boolean => isOpen() && isReachable();
    this.#autoscale =
      autoscaling &&
      new Autoscale({ ...autoscaling, broker: id, store, clock, directory, isOpen: hears, notify });
    const mayOwn = (): boolean => isOpen() && lease.holds();
    this.#scan = new Scan({ store, clock, hosting, ownership, mayOwn, isOpen, notify });
  }

  /** Sessions with an actor here. */
  get sessions(): number {
    return this.#hosting.size;
  }
  /** Sessions with an actor here, by status. */
  statuses(): ReadonlyMap<SessionStateValue, number> {
    return this.#census.statuses();
  }
  /** Executions here that wait for room in any runtime. */
  get waiting(): number {
    return this.#census.waiting();
  }
  /** True while it may act as an owner. */
  get holdsLease(): boolean {
    return this.#lease.holds();
  }
  /** The version of sessions' snapshots that it writes now: the highest that every broker reads. */
  get snapshotVersion(): number {
    return this.#snapshots.writes;
  }
  /** Stateless runs that are here. */
  get runs(): number {
    return this.#runs.size;
  }
  actor(session: string): SessionActor | undefined {
    return this.#hosting.get(session)?.actor;
  }

  /** Resolves when it can own sessions. Rejects with an EnclaveError CLOSED if it ends before. */
  async start(): Promise<void> {
    const { bus, scanMs = DEFAULTS.scanMs } = this.#options;
    if (this.#state !== 'new') throw ended();
    this.#state = 'open';
    this.directory.start();
    this.tools.start();
    this.#lease.start();
    await this.#firstHeld.promise;
    if (this.#state !== 'open') throw ended();
    this.#subscribe();
    await bus.flush();
    if (this.#state !== 'open') throw ended();
    this.#repeat(HEARTBEAT_MS, () => this.#beat());
    this.#repeat(SWEEP_MS, () => this.#sweep());
    this.#repeat(scanMs, () => void this.#scan.run());
    this.#beat();
    this.#autoscale?.start();
  }

  #leaseHeld(): void {
    this.#snapshots.restart();
    this.#firstHeld.resolve();
  }

  #subscribe(): void {
    const { bus, subjects } = this.#options;
    const verb = <T>(
      name: Parameters<Subjects['broker']>[0],
      check: (body: unknown) => T,
      answer: (asked: T, trace: TraceHeaders | undefined) => Promise<Reply<unknown>>,
    ): Subscription =>
      bus.subscribe(subjects.broker(name), (message) => this.#respond(message, checked(check, answer)), {
        queue: BROKERS,
      });
    this.#runs.listen();
    this.#subscriptions = [
      verb(
        'run',
        (body) => runOf(body, subjects),
        (asked, trace) => this.#runs.take(asked, trace),
      ),
      verb('session_create', createOf, (asked) => this.#creation.create(asked)),
      verb('session_activate', activateOf, (asked) => this.#wake(asked)),
      verb('session_info', askOf, (asked) => this.#queries.info(asked)),
      verb('sessions_list', listSessionsOf, (asked) => this.#queries.list(asked)),
      verb('session_result', askOf, (asked) => this.#queries.result(asked)),
      verb('events_read', readEventsOf, (asked) => this.#queries.events(asked)),
      verb('journal_read', askOf, (asked) => this.#queries.journal(asked)),
      verb('tools_list', listToolsOf, async (asked) => success(this.tools.list(asked), 0)),
      bus.subscribe(subjects.brokerCmd(this.id), (message) =>
        this.#respond(
          message,
          checked(activateOf, (asked) => this.#activate(asked)),
        ),
      ),
    ];
  }

  /** For a client: one that was put away, and has nothing to do, needs a place as a new one does. */
  async #wake(asked: ActivateSession): Promise<Reply<Activated>> {
    if (!this.#places.limited || !(await this.#isAway(asked.session))) return this.#activate(asked);
    return (await this.#places.within(asked.session, () => this.#activate(asked))) ?? noPlace();
  }

  async #isAway(session: string): Promise<boolean> {
    if (this.#hosting.has(session) || this.#ownership.isUnderway(session)) return false;
    const record = await this.#options.store.load(session);
    if (record === undefined || record.owner !== undefined) return false;
    if (this.#snapshots.isNewer(record.snapshot)) return false;
    const { context } = this.#snapshots.decode(record.snapshot);
    return context.ended === '' && !hasWork(context);
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
    publishOrDrop(bus, subjects.brokerHeartbeat(this.id), {
      broker: this.id,
      sessions: this.#hosting.size,
      waiting: this.#census.demand(),
      draining: this.#state === 'draining',
      snapshot: { reads: this.#snapshots.reads, writes: this.#snapshots.writes },
      intervalMs: HEARTBEAT_MS,
    } satisfies BrokerHeartbeat);
  }

  #sweep(): void {
    const { clock, hibernateAfterMs = DEFAULTS.hibernateAfterMs } = this.#options;
    this.directory.sweep();
    if (this.#lease.holds()) this.directory.ping();
    this.tools.sweep();
    this.#runs.sweep();
    this.#queue.changed();
    this.#admission.sweep();
    this.#places.sweep();
    const idleSince = clock.now() - hibernateAfterMs;
    for (const hosted of this.#hosting.all()) {
      const { actor } = hosted;
      actor.sweep();
      if (hosted.moving || !actor.persistence.durable || !actor.quiet) continue;
      if (actor.context.lastActivityAt <= idleSince) void this.#leaving.hibernate(hosted);
    }
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /**
   * Take nothing new and hand every session to another broker, scripts running on. Without another they are released.
   * Resolves when stateless runs have ended too, or `graceMs` later.
   */
  async drain(graceMs = 0): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    this.#beat();
    // Another broker may decide from now on.
    if (this.#autoscale !== undefined) await this.#autoscale.stop();
    await Promise.all(this.#subscriptions.splice(0).map((subscription) => subscription.drain()));
    await Promise.all([...this.#hosting.all()].map((hosted) => this.#leaving.leave(hosted)));
    // A run cannot be handed over: it is lost with its broker.
    await Promise.race([this.#runs.ended(), this.#passed(graceMs)]);
  }

  #passed(ms: number): Promise<void> {
    return new Promise((resolve) => this.#options.clock.after(ms, resolve));
  }

  /** Give everything up: sessions are released, the lease is ended. */
  async close(): Promise<void> {
    await this.drain();
    if (this.#state === 'closed') return;
    this.#acks.flush();
    this.#end();
    await this.#places.end().catch(() => undefined); // So does this.
    await this.#lease.end().catch(() => undefined); // It ends by itself.
  }

  /** Stop at once. Sessions are not released, but its lease is ended: others take them over without waiting for it. */
  async halt(): Promise<void> {
    if (this.#state === 'closed') return;
    const left = this.#autoscale?.stop();
    this.#acks.flush();
    this.#end();
    await left;
    await this.#places.end().catch(() => undefined); // So does this.
    await this.#lease.end().catch(() => undefined); // It ends by itself.
  }

  /** Stop as a process that dies: nothing is released or told. Its sessions can be acquired when its lease has ended. */
  abandon(): void {
    this.#end();
    this.#lease.stop();
  }

  #end(): void {
    this.#state = 'closed';
    this.#firstHeld.resolve();
    for (const cancel of this.#timers.splice(0)) cancel();
    for (const subscription of this.#subscriptions.splice(0)) subscription.unsubscribe();
    this.#hosting.silenceAll();
    this.#runs.stop();
    this.#autoscale?.abandon();
    this.directory.stop();
    this.tools.stop();
  }
}

function ended(): EnclaveError {
  return new EnclaveError('CLOSED', 'The broker ended before it had started');
}
