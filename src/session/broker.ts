/**
 * The broker role: hosts session actors, answers for them, and looks for sessions that nobody looks after.
 *
 * Invariants:
 *  H1  It answers for a session only while its lease holds, and only after a commit in the epoch of its acquisition.
 *  H2  That it owns a session is told only when its subscriptions are in force.
 *  H3  A session is given up in three steps: no new messages, everything that came is taken in, then one commit that
 *      releases it.
 */

import { isQuiet, newSession } from '../../actors/session.ts';
import type { Answer, SessionSettings } from '../../actors/sessiondata.ts';
import { type Bus, BusError, type Message, type Subscription } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type {
  Activated,
  ActivateSession,
  AdoptSession,
  AskSession,
  CreateSession,
  EventsRead,
  ProviderMessage,
  ReadEvents,
  Reply,
  Report,
} from '../protocol.ts';
import { failure, fenced, success } from '../replies.ts';
import { type Store, StoreError } from '../store/store.ts';
import { BROKERS, ID, type Subjects } from '../subjects.ts';
import { SessionActor, type ToolFacts } from './actor.ts';
import { answerCommand, infoOf, journalOf } from './commands.ts';
import { Directory } from './directory.ts';
import { Lease } from './lease.ts';
import { loadSession, storedInfo } from './load.ts';
import { EphemeralSession, StoredSession } from './persistence.ts';
import { decodeSnapshot, encodeSnapshot } from './snapshot.ts';

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
  readonly settings?:
    | Partial<Omit<SessionSettings, 'labels' | 'ttlMs' | 'maxConcurrentExecutions'>>
    | undefined;
  /** Told of what an operator should know. */
  readonly onNotice?: ((notice: BrokerNotice) => void) | undefined;
}

export type BrokerNotice =
  | { readonly type: 'lease.lost'; readonly incarnation: string; readonly reason: string }
  | { readonly type: 'session.taken_over'; readonly session: string; readonly epoch: number }
  | { readonly type: 'session.fenced'; readonly session: string }
  /** `result` is JSON of an ExecutionResult. */
  | {
      readonly type: 'execution.ended';
      readonly session: string;
      readonly execution: string;
      readonly result: string;
    }
  | { readonly type: 'error'; readonly session: string | undefined; readonly error: unknown };

const DEFAULTS = {
  leaseTtlMs: 15_000,
  hibernateAfterMs: 30_000,
  scanMs: 1_000,
  maxSessions: 100_000,
} as const;
const HEARTBEAT_MS = 1_000;
const SWEEP_MS = 250;
const ADOPT_MS = 5_000;
const SCAN_LIMIT = 100;
/** Longest page of events, in bytes of JSON. */
const PAGE_BYTES = 256 * 1024;

/** Of a session, for its life. */
export const SETTINGS = {
  maxExecutions: 100,
  keepExecutions: 32,
  tombstoneMs: 600_000,
  placementTimeoutMs: 30_000,
  providerTimeoutMs: 30_000,
  parkAfterMs: 10_000,
  quarantineAfter: 3,
} as const;

interface Hosted {
  readonly actor: SessionActor;
  readonly subscriptions: readonly Subscription[];
  /** Canonical names of the only tools that it may call. */
  readonly tools: readonly string[] | undefined;
  moving: boolean;
}

export class Broker {
  readonly id: string;
  readonly directory: Directory;
  readonly #options: BrokerOptions;
  readonly #hosted = new Map<string, Hosted>();
  readonly #activating = new Map<string, Promise<Reply<Activated>>>();
  readonly #lease: Lease;
  #subscriptions: Subscription[] = [];
  #timers: (() => void)[] = [];
  #state: 'new' | 'open' | 'draining' | 'closed' = 'new';
  #whenHeld: (() => void)[] = [];
  #heldSince = 0;

  constructor(options: BrokerOptions) {
    const { id, bus, store, clock, subjects } = options;
    this.id = id;
    this.#options = options;
    this.directory = new Directory({
      bus,
      clock,
      subjects,
      onChange: () => {
        for (const { actor } of this.#hosted.values()) actor.runtimesChanged();
      },
    });
    this.#lease = new Lease({
      store,
      clock,
      broker: id,
      ttlMs: options.leaseTtlMs ?? DEFAULTS.leaseTtlMs,
      onHeld: () => {
        this.#heldSince = clock.monotonic();
        for (const held of this.#whenHeld.splice(0)) held();
      },
      onLost: (incarnation, reason) => this.#leaseLost(incarnation, reason),
    });
  }

  /** Sessions with an actor here. */
  get sessions(): number {
    return this.#hosted.size;
  }
  get holdsLease(): boolean {
    return this.#lease.holds();
  }
  actor(session: string): SessionActor | undefined {
    return this.#hosted.get(session)?.actor;
  }

  /** Resolves when it can own sessions. */
  async start(): Promise<void> {
    const { bus, subjects, scanMs = DEFAULTS.scanMs } = this.#options;
    this.#state = 'open';
    this.directory.start();
    const held = new Promise<void>((resolve) => this.#whenHeld.push(resolve));
    this.#lease.start();
    await held;
    const verb = (
      name: Parameters<Subjects['broker']>[0],
      answer: (body: object) => Promise<Reply<unknown>>,
    ) => bus.subscribe(subjects.broker(name), (message) => this.#answer(message, answer), { queue: BROKERS });
    this.#subscriptions = [
      verb('session_create', (body) => this.#create(body as CreateSession)),
      verb('session_activate', (body) => this.#activateFor(body as ActivateSession)),
      verb('session_info', (body) => this.#info(body as AskSession)),
      verb('session_result', (body) => this.#result(body as AskSession)),
      verb('events_read', (body) => this.#readEvents(body as ReadEvents)),
      verb('journal_read', (body) => this.#readJournal(body as AskSession)),
      bus.subscribe(subjects.brokerCmd(this.id), (message) =>
        this.#answer(message, (body) => this.#activateFor(body as AdoptSession)),
      ),
    ];
    await bus.flush();
    this.#repeat(HEARTBEAT_MS, () => this.#beat());
    this.#repeat(SWEEP_MS, () => this.#sweep());
    this.#repeat(scanMs, () => void this.#scan());
    this.#beat();
  }

  // ---- requests ------------------------------------------------------------------------------------------

  #answer(message: Message, answer: (body: object) => Promise<Reply<unknown>>): void {
    void answer(message.body).then(
      (reply) => this.#respond(message, reply),
      (error: unknown) => {
        this.#notice({ type: 'error', session: undefined, error });
        this.#respond(message, unavailable(error));
      },
    );
  }

  #respond(message: Message, reply: Reply<unknown>): void {
    if (this.#state === 'closed') return;
    try {
      message.respond?.(reply);
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      if (error.code === 'PAYLOAD_TOO_LARGE')
        message.respond?.(failure('RESULT_LIMIT_EXCEEDED', 'The answer is larger than a message may be', 0));
    }
  }

  async #create(asked: CreateSession): Promise<Reply<unknown>> {
    const { store, clock } = this.#options;
    const owner = this.#lease.incarnation;
    if (owner === undefined || this.#state !== 'open') return notNow();
    if (typeof asked.session !== 'string' || !ID.test(asked.session))
      return failure('INVALID_ARGUMENT', 'id: must be 1 to 64 of A-Z, a-z, 0-9, _ and -', 0);
    if (this.#hosted.size >= (this.#options.maxSessions ?? DEFAULTS.maxSessions))
      return failure('OVERLOADED', 'The broker has as many sessions as it takes', 0, { retryAfterMs: 1_000 });
    const known = this.#hosted.get(asked.session);
    if (known !== undefined) return this.#alreadyThere(known.actor, asked);
    const settings: SessionSettings = {
      ...SETTINGS,
      ...this.#options.settings,
      ttlMs: asked.ttlMs,
      labels: asked.labels,
      maxConcurrentExecutions: asked.maxConcurrentExecutions,
    };
    const context = newSession({ id: asked.session, settings, now: clock.now() });
    const meta = JSON.stringify({
      creation: asked.creation,
      tools: asked.tools,
      isolation: asked.isolation,
      limits: asked.limits,
    });
    if (asked.durability === 'none') {
      if ((await store.load(asked.session)) !== undefined) return exists(asked.session);
      const actor = this.#host(asked.session, {
        persistence: new EphemeralSession(),
        snapshot: { value: 'starting', context },
        state: asked.state,
        meta: { tools: asked.tools, isolation: asked.isolation, limits: asked.limits },
        live: new Map(),
        seq: 0,
        publishedSeq: 0,
        owner,
      });
      return this.#begin(actor);
    }
    const nonce = clock.id();
    const reply = await store.create({
      session: asked.session,
      operation: asked.creation,
      owner,
      nonce,
      snapshot: encodeSnapshot('starting', context, 1),
      fields: { state: asked.state, meta },
      wakeAt: asked.ttlMs > 0 ? clock.now() + asked.ttlMs : undefined,
    });
    if (reply.status === 'dead') return notNow();
    if (reply.status === 'exists') return this.#createdBefore(asked);
    return this.#activate(asked.session, 0);
  }

  /** The same creation again is answered as the first time. */
  async #createdBefore(asked: CreateSession): Promise<Reply<unknown>> {
    const { meta } = await this.#options.store.readFields(asked.session, ['meta']);
    if (meta === undefined || (JSON.parse(meta) as { creation?: string }).creation !== asked.creation)
      return exists(asked.session);
    return this.#activate(asked.session, 0);
  }

  async #alreadyThere(actor: SessionActor, asked: CreateSession): Promise<Reply<unknown>> {
    if (actor.persistence.durable) return this.#createdBefore(asked);
    return exists(asked.session);
  }

  #activateFor({ session, minEpoch }: ActivateSession): Promise<Reply<Activated>> {
    if (this.#state !== 'open') return Promise.resolve(notNow());
    return this.#activate(session, minEpoch);
  }

  /** Own it, unless somebody else does; several requests at once share one acquisition. */
  #activate(session: string, minEpoch: number): Promise<Reply<Activated>> {
    const underway = this.#activating.get(session);
    if (underway !== undefined) return underway;
    const activation = this.#acquire(session, minEpoch).finally(() => this.#activating.delete(session));
    this.#activating.set(session, activation);
    return activation;
  }

  async #acquire(session: string, minEpoch: number): Promise<Reply<Activated>> {
    const { store, clock } = this.#options;
    const there = this.#hosted.get(session);
    if (there !== undefined && !there.moving) return this.#owned(there.actor);
    const owner = this.#lease.incarnation;
    if (owner === undefined || there !== undefined) return notNow();
    const nonce = clock.id();
    const reply = await store.acquire({ session, owner, nonce, minEpoch });
    if (reply.status === 'not_found') return failure('NOT_FOUND', `There is no session "${session}"`, 0);
    if (reply.status === 'dead') return notNow();
    if (reply.status === 'held') {
      const retryAfterMs = Math.min(Math.max(reply.retryAfterMs, 10), 1_000);
      return success({ session, broker: undefined, retryAfterMs }, 0);
    }
    const { record, fields } = reply;
    this.#orphans.add(session);
    if (!this.#lease.holds(owner)) return notNow();
    const loaded = await loadSession(store, record, fields);
    const { seq, publishedSeq } = record;
    const unpublished =
      publishedSeq < seq ? await store.readEvents(session, publishedSeq + 1, seq - publishedSeq) : undefined;
    if (!this.#lease.holds(owner) || this.#hosted.has(session) || this.#state === 'closed') return notNow();
    const { epoch, version } = record;
    const persistence = new StoredSession(store, clock, { session, owner, epoch, nonce, version }, () =>
      this.#lease.holds(owner),
    );
    const actor = this.#host(session, {
      ...loaded,
      persistence,
      seq,
      publishedSeq,
      owner,
    });
    if (loaded.snapshot.context.pending.length > 0)
      this.#notice({ type: 'session.taken_over', session, epoch });
    actor.republish(unpublished?.events ?? []);
    return this.#begin(actor);
  }

  /** H1, H2 */
  async #begin(actor: SessionActor): Promise<Reply<Activated>> {
    try {
      await this.#options.bus.flush();
    } catch (error) {
      this.#drop(actor.id, actor);
      actor.silence();
      throw error;
    }
    actor.activate();
    await actor.idle();
    return actor.stopped ? notNow() : this.#owned(actor);
  }

  async #owned(actor: SessionActor): Promise<Reply<Activated>> {
    if (actor.status === 'starting') await actor.idle();
    if (!this.#answersFor(actor)) return notNow();
    return success({ session: actor.id, broker: this.id, retryAfterMs: 0 }, actor.persistence.epoch);
  }

  #host(
    session: string,
    from: Omit<Awaited<ReturnType<typeof loadSession>>, never> & {
      readonly persistence: StoredSession | EphemeralSession;
      readonly seq: number;
      readonly publishedSeq: number;
      readonly owner: string;
    },
  ): SessionActor {
    const { bus, clock, subjects } = this.#options;
    const { tools, isolation, limits } = from.meta;
    const actor = new SessionActor({
      id: session,
      bus,
      clock,
      subjects,
      directory: this.directory,
      persistence: from.persistence,
      // Nobody can take over what is in this process only.
      mayAct: from.persistence.durable
        ? () => this.#state !== 'closed' && this.#lease.holds(from.owner)
        : () => this.#state !== 'closed',
      leaseLeftMs: () => this.#lease.leftMs(),
      tool: (name) => this.#tool(name, tools),
      isolation,
      limits,
      snapshot: from.snapshot,
      state: from.state,
      live: from.live,
      seq: from.seq,
      publishedSeq: from.publishedSeq,
      onSilenced: () => {
        this.#drop(session, actor);
        if (from.persistence.durable && this.#lease.holds(from.owner)) this.#orphans.add(session);
        this.#notice({ type: 'session.fenced', session });
      },
      onPurge: () => void this.#purge(session),
      onEnded: (execution, result) => this.#notice({ type: 'execution.ended', session, execution, result }),
    });
    const subscriptions = [
      bus.subscribe(subjects.sessionCmd(session), (message) =>
        this.#answer(message, (body) => this.#command(session, body)),
      ),
      bus.subscribe(subjects.sessionIn(session, '*'), ({ body }) => this.#hear(actor, body)),
    ];
    this.#hosted.set(session, { actor, subscriptions, tools, moving: false });
    this.#orphans.delete(session);
    return actor;
  }
  /** Owned by this broker's incarnation, as far as the store knows, and without an actor: something failed. */
  readonly #orphans = new Set<string>();

  #tool(name: string, allowed: readonly string[] | undefined): ToolFacts | undefined {
    const facts = this.#options.tool(name);
    if (facts === undefined || allowed === undefined) return facts;
    return allowed.includes(facts.canonicalName) ? facts : undefined;
  }

  #hear(actor: SessionActor, body: object): void {
    const { t } = body as { readonly t?: unknown };
    if (t === 'report') actor.report(body as Report);
    else if (t === 'ended' || t === 'alive') actor.hear(body as ProviderMessage);
  }

  async #command(session: string, body: object): Promise<Reply<unknown>> {
    const hosted = this.#hosted.get(session);
    if (hosted === undefined || !this.#answersFor(hosted.actor)) return fenced(0);
    const { actor } = hosted;
    const { t, to, fromEpoch } = body as {
      readonly t: string;
      readonly to?: string;
      readonly fromEpoch?: number;
    };
    if (t === 'migrate') return this.#migrate(hosted, to, fromEpoch);
    if (t === 'hibernate') return this.#hibernate(hosted);
    if (t === 'delete') return this.#delete(hosted);
    const reply = await answerCommand(actor, body, this.id);
    // H1: an answer in the name of a lease that has ended meanwhile is none.
    return this.#answersFor(actor) ? reply : fenced(actor.persistence.epoch);
  }

  #answersFor(actor: SessionActor): boolean {
    return !actor.stopped && (!actor.persistence.durable || this.#lease.holds());
  }

  async #info({ session }: AskSession): Promise<Reply<unknown>> {
    const hosted = this.#hosted.get(session);
    if (hosted !== undefined) {
      while (hosted.actor.committing) await hosted.actor.committed();
      return success(infoOf(hosted.actor, this.id), hosted.actor.persistence.epoch);
    }
    const record = await this.#options.store.load(session);
    if (record === undefined) return failure('NOT_FOUND', `There is no session "${session}"`, 0);
    const { state = '{}' } = await this.#options.store.readFields(session, ['state']);
    return success(storedInfo(record, state), record.epoch);
  }

  async #result({ session, execution = '' }: AskSession): Promise<Reply<unknown>> {
    const { store } = this.#options;
    const name = `result:${execution}`;
    const { [name]: result } = await store.readFields(session, [name]);
    if (result !== undefined) return success({ status: 'ended', result }, 0);
    const record = await store.load(session);
    if (record === undefined) return failure('NOT_FOUND', `There is no session "${session}"`, 0);
    const { context } = decodeSnapshot(record.snapshot);
    const runs = context.executions.some(({ id }) => id === execution);
    return success({ status: runs ? 'running' : 'unknown', result: undefined }, record.epoch);
  }

  async #readEvents({ session, fromSeq, limit }: ReadEvents): Promise<Reply<unknown>> {
    const most = Math.min(Math.max(1, limit), 1_000);
    const hosted = this.#hosted.get(session);
    const page = await (hosted?.actor.persistence.readEvents(fromSeq, most) ??
      this.#options.store.readEvents(session, fromSeq, most));
    if (page === undefined) return this.#forward(session, { t: 'events', fromSeq, limit: most });
    let bytes = 0;
    const events = page.events.filter((event, index) => (bytes += event.length) <= PAGE_BYTES || index === 0);
    return success({ ...page, events } satisfies EventsRead, 0);
  }

  async #readJournal({ session, execution = '' }: AskSession): Promise<Reply<unknown>> {
    const hosted = this.#hosted.get(session);
    if (hosted !== undefined) return journalOf(hosted.actor, execution);
    const reply = await this.#activate(session, 0);
    if (!reply.ok)
      return reply.error.code === 'NOT_FOUND' ? this.#forward(session, { t: 'journal', execution }) : reply;
    const now = this.#hosted.get(session);
    return now === undefined
      ? this.#forward(session, { t: 'journal', execution })
      : journalOf(now.actor, execution);
  }

  /** Ask the owner itself: a session of durability 'none' is known to it alone. */
  async #forward(session: string, body: object): Promise<Reply<unknown>> {
    try {
      const { bus, subjects } = this.#options;
      return (await bus.request(subjects.sessionCmd(session), body, { timeoutMs: 1_000 })) as Reply<unknown>;
    } catch (error) {
      if (error instanceof BusError && error.code === 'NO_RESPONDERS')
        return failure('NOT_FOUND', `There is no session "${session}"`, 0);
      return notNow();
    }
  }

  // ---- giving up -----------------------------------------------------------------------------------------

  /** H3. Answers with the new owner. */
  async #migrate(
    hosted: Hosted,
    to: string | undefined,
    fromEpoch: number | undefined,
  ): Promise<Reply<unknown>> {
    const { actor } = hosted;
    const { epoch } = actor.persistence;
    // The command came again, because its first answer was lost.
    if (fromEpoch !== undefined && epoch > fromEpoch) return this.#owned(actor);
    if (!actor.persistence.durable)
      return failure('INVALID_ARGUMENT', "A session of durability 'none' cannot leave its broker", epoch);
    const target = to ?? this.directory.brokers().find(({ broker }) => broker !== this.id)?.broker;
    if (target === undefined) return failure('UNAVAILABLE', 'There is no other broker', epoch);
    if (target === this.id) return this.#owned(actor);
    if (to !== undefined && !this.directory.brokers().some(({ broker }) => broker === to))
      return failure('NOT_FOUND', `There is no broker "${to}"`, epoch);
    const answer = await this.#giveUp(hosted, (ref, around) => ({ type: 'session.migrate', ref, ...around }));
    if (answer?.ok !== true) return answer === undefined ? fenced(epoch) : refused(answer, epoch);
    return this.#handOver(actor.id, target, epoch);
  }

  /** Have another broker adopt it. Who asks meanwhile is told what comes of that. */
  #handOver(session: string, target: string, epoch: number): Promise<Reply<Activated>> {
    const handOver = this.#adopt(session, target, epoch).finally(() => this.#activating.delete(session));
    this.#activating.set(session, handOver);
    return handOver;
  }

  async #adopt(session: string, target: string, epoch: number): Promise<Reply<Activated>> {
    const { bus, subjects } = this.#options;
    try {
      const adopted = (await bus.request(
        subjects.brokerCmd(target),
        { t: 'adopt', session, minEpoch: epoch + 1 } satisfies AdoptSession,
        { timeoutMs: ADOPT_MS },
      )) as Reply<Activated>;
      if (adopted.ok && adopted.value.broker !== undefined) return adopted;
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
    }
    // Nobody may be left without an owner because of a hand-over.
    return this.#state === 'open' ? this.#acquire(session, epoch) : notNow();
  }

  /** Stop its messages, take in what came, commit and release. Goes on as before if the machine refuses. */
  async #giveUp(hosted: Hosted, fact: Parameters<SessionActor['release']>[0]): Promise<Answer | undefined> {
    const { actor } = hosted;
    if (hosted.moving) return undefined;
    hosted.moving = true;
    await Promise.all(hosted.subscriptions.map((subscription) => subscription.drain()));
    const answer = await actor.release(fact);
    if (actor.stopped) {
      this.#drop(actor.id, actor);
      return answer;
    }
    this.#resubscribe(actor, hosted);
    return answer;
  }

  #resubscribe(actor: SessionActor, { tools }: Hosted): void {
    const { bus, subjects } = this.#options;
    const subscriptions = [
      bus.subscribe(subjects.sessionCmd(actor.id), (message) =>
        this.#answer(message, (body) => this.#command(actor.id, body)),
      ),
      bus.subscribe(subjects.sessionIn(actor.id, '*'), ({ body }) => this.#hear(actor, body)),
    ];
    this.#hosted.set(actor.id, { actor, subscriptions, tools, moving: false });
  }

  async #hibernate(hosted: Hosted): Promise<Reply<unknown>> {
    const { actor } = hosted;
    const { epoch, durable } = actor.persistence;
    if (!durable)
      return failure('INVALID_ARGUMENT', "A session of durability 'none' cannot hibernate", epoch);
    // Its messages are stopped only if it looks as if it would agree.
    if (!isQuiet(actor.context))
      return failure('OVERLOADED', 'The session has executions under way', epoch, { retryAfterMs: 1_000 });
    const answer = await this.#giveUp(hosted, (ref, around) => ({
      type: 'session.hibernate',
      ref,
      ...around,
    }));
    if (answer === undefined) return fenced(epoch);
    return answer.ok ? success({}, epoch) : refused(answer, epoch);
  }

  async #delete(hosted: Hosted): Promise<Reply<unknown>> {
    const { actor } = hosted;
    const answer = await actor.ask((ref, around) => ({ type: 'session.close', ref, ...around }));
    if (answer === undefined) return fenced(actor.persistence.epoch);
    return (await this.#purge(actor.id)) ? success({}, actor.persistence.epoch) : notNow();
  }

  async #purge(session: string): Promise<boolean> {
    const hosted = this.#hosted.get(session);
    if (hosted === undefined) return false;
    await hosted.actor.idle();
    const deleted = await hosted.actor.persistence.delete();
    this.#drop(session, hosted.actor);
    hosted.actor.silence();
    return deleted;
  }

  #drop(session: string, actor: SessionActor): void {
    const hosted = this.#hosted.get(session);
    if (hosted?.actor !== actor) return;
    this.#hosted.delete(session);
    for (const subscription of hosted.subscriptions) subscription.unsubscribe();
  }

  #leaseLost(incarnation: string, reason: string): void {
    if (this.#state === 'closed') return;
    this.#notice({ type: 'lease.lost', incarnation, reason });
    for (const { actor } of [...this.#hosted.values()]) if (actor.persistence.durable) actor.silence();
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
        sessions: this.#hosted.size,
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
    for (const hosted of this.#hosted.values()) {
      const { actor } = hosted;
      actor.sweep();
      if (hosted.moving || !actor.persistence.durable || !actor.quiet) continue;
      if (actor.context.lastActivityAt <= idleSince && clock.monotonic() - this.#heldSince > 0)
        void this.#hibernate(hosted);
    }
  }

  /** Sessions with work whose owner is dead or gave them up, and sessions whose time has come. */
  async #scan(): Promise<void> {
    const { store, clock } = this.#options;
    if (this.#state !== 'open' || !this.#lease.holds() || this.#scanning) return;
    this.#scanning = true;
    try {
      const owners = [...(await store.deadIncarnations(SCAN_LIMIT)), undefined];
      for (const owner of owners) {
        for (const session of await store.workOf(owner, SCAN_LIMIT)) await this.#takeOver(session);
      }
      for (const session of this.#orphans) await this.#takeOver(session);
      for (const session of await store.dueWakes(clock.now(), SCAN_LIMIT)) await this.#takeOver(session);
    } catch (error) {
      if (!(error instanceof StoreError)) this.#notice({ type: 'error', session: undefined, error });
    } finally {
      this.#scanning = false;
    }
  }
  #scanning = false;

  async #takeOver(session: string): Promise<void> {
    const { store, clock } = this.#options;
    if (this.#hosted.has(session) || this.#activating.has(session) || this.#state !== 'open') return;
    const reply = await this.#activate(session, 0);
    if (!reply.ok) {
      if (reply.error.code !== 'NOT_FOUND') return;
      this.#orphans.delete(session);
      return store.cleanIndexes(session);
    }
    this.#orphans.delete(session);
    if (reply.value.broker === undefined) return;
    const actor = this.#hosted.get(session)?.actor;
    actor?.tell(() => ({
      type: 'time.passed',
      now: clock.now(),
      fresh: clock.id(),
      runtimes: this.directory.view(),
    }));
  }

  #notice(notice: BrokerNotice): void {
    this.#options.onNotice?.(notice);
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /** Take nothing new and hand every session to another broker, scripts running on. Without another they are released. */
  async drain(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    this.#beat();
    await Promise.all(this.#subscriptions.splice(0).map((subscription) => subscription.drain()));
    await Promise.all([...this.#hosted.values()].map((hosted) => this.#leave(hosted)));
  }

  async #leave(hosted: Hosted): Promise<void> {
    const { actor } = hosted;
    if (!actor.persistence.durable) return;
    const { epoch } = actor.persistence;
    await this.#giveUp(hosted, (ref, around) => ({ type: 'session.migrate', ref, ...around }));
    const target = this.directory.brokers().find(({ broker }) => broker !== this.id)?.broker;
    // Released is enough: whoever scans or is asked for it takes it up.
    if (target !== undefined && actor.context.executions.length > 0)
      await this.#handOver(actor.id, target, epoch);
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
    for (const { actor } of [...this.#hosted.values()]) actor.silence();
    this.#hosted.clear();
    this.directory.stop();
  }
}

function notNow(): Reply<never> {
  return failure('UNAVAILABLE', 'The broker cannot own sessions just now', 0, { retryAfterMs: 50 });
}

function exists(session: string): Reply<never> {
  return failure('ALREADY_EXISTS', `There is a session "${session}" already`, 0);
}

/** Every request may be sent again: commands carry their ids, and the rest changes nothing. */
function unavailable(error: unknown): Reply<never> {
  const message = error instanceof StoreError ? 'The store could not answer' : 'The broker failed to answer';
  const reply = failure('UNAVAILABLE', message, 0, { retryAfterMs: 100 }, 'unknown');
  return reply.ok ? reply : { ...reply, error: { ...reply.error, retryable: true } };
}

function refused(answer: Extract<Answer, { ok: false }>, epoch: number): Reply<never> {
  const { code, message, outcome, retryAfterMs } = answer;
  return failure(code, message, epoch, retryAfterMs === undefined ? undefined : { retryAfterMs }, outcome);
}
