/**
 * The sessions that have an actor in this broker: their actors, the messages that come for them, and their end here.
 *
 * Upholds H1 of broker.ts: what is answered in a session's name is answered while the lease holds.
 */
import type { Bus, Message, Subscription, TraceHeaders } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Losses } from '../losses.ts';
import type { Reply } from '../protocol.ts';
import { fenced } from '../replies.ts';
import { StoreError } from '../store/store.ts';
import { type Subjects, TOOLS } from '../subjects.ts';
import type { Acks } from './acks.ts';
import { SessionActor } from './actor.ts';
import type { Admission } from './admission.ts';
import { type Allowance, inherited } from './allowance.ts';
import { attempt, commandOf } from './asked.ts';
import { answerCommand } from './commands.ts';
import type { Directory } from './directory.ts';
import { type Dropped, lastOf, providerMessageOf } from './heard.ts';
import type { Lease } from './lease.ts';
import type { LoadedSession } from './load.ts';
import type { Notify } from './notice.ts';
import type { Persistence } from './persistence.ts';
import type { PlacementQueue } from './queue.ts';
import { reportOf } from './reports.ts';
import type { Respond } from './responses.ts';
import type { ToolDirectory } from './tooldirectory.ts';

/** After a purge that the store could not be told of, in ms. */
const PURGE_RETRY_MS = 1_000;

export interface Hosted {
  readonly actor: SessionActor;
  /** Being given up: it hears nothing. */
  moving: boolean;
  subscriptions: readonly Subscription[];
}

export interface HostedFrom extends LoadedSession {
  readonly persistence: Persistence;
  /** The incarnation that owns it. */
  readonly owner: string;
  readonly seq: number;
  readonly publishedSeq: number;
}

export interface HostingOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Directory;
  readonly queue: PlacementQueue;
  readonly admission: Admission;
  readonly acks: Acks;
  readonly lease: Pick<Lease, 'holds' | 'leftMs'>;
  readonly tools: Pick<ToolDirectory, 'allowing'>;
  readonly allowance: Pick<Allowance, 'most'>;
  /** True once the broker does nothing any more. */
  readonly isClosed: () => boolean;
  readonly respond: Respond;
  /** Answers the commands that move or end a session; undefined for every other one. */
  readonly leave: (hosted: Hosted, body: object) => Promise<Reply<unknown>> | undefined;
  /** The store refused a session's step, or the lease was lost. `owner` is the incarnation that owned it. */
  readonly onSilenced: (actor: SessionActor, owner: string) => void;
  /** Of every session, whatever it was made with. */
  readonly redactEvents: boolean;
  /** Have a record made of every execution that ends. */
  readonly audit: boolean;
  readonly notify: Notify;
  readonly losses: Losses;
  /** Told of what is no message. */
  readonly dropped: Pick<Dropped, 'note'>;
}

export class Hosting {
  readonly #options: HostingOptions;
  readonly #hosted = new Map<string, Hosted>();
  /** Those that were closed or have expired. */
  readonly #ended = new Set<SessionActor>();

  constructor(options: HostingOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#hosted.size;
  }
  /** Without those that were closed or have expired. */
  get counted(): number {
    return this.#hosted.size - this.#ended.size;
  }
  get(session: string): Hosted | undefined {
    return this.#hosted.get(session);
  }
  has(session: string): boolean {
    return this.#hosted.has(session);
  }
  all(): Iterable<Hosted> {
    return this.#hosted.values();
  }

  /** Make the actor of a session and let it hear. It does nothing before it is activated. */
  host(session: string, from: HostedFrom): SessionActor {
    const { bus, clock, subjects, directory, queue, admission, acks, lease } = this.#options;
    const { isClosed, notify, losses, onSilenced } = this.#options;
    const { persistence, owner, seq, publishedSeq, snapshot, state, live } = from;
    const { tools, isolation, redactEvents } = from.meta;
    // It may have been made where more was granted.
    const limits = inherited(from.meta.limits, this.#options.allowance.most);
    const actor = new SessionActor({
      id: session,
      broker: this.#options.broker,
      bus,
      clock,
      subjects,
      directory,
      queue,
      admission,
      acks,
      persistence,
      // Nobody can take over what is in this process only.
      mayAct: persistence.durable ? () => !isClosed() && lease.holds(owner) : () => !isClosed(),
      leaseLeftMs: () => lease.leftMs(),
      tools: this.#options.tools.allowing(tools),
      isolation,
      limits,
      snapshot,
      state,
      live,
      seq,
      publishedSeq,
      redactEvents: redactEvents === true || this.#options.redactEvents,
      audit: this.#options.audit,
      onSilenced: () => {
        this.drop(actor);
        onSilenced(actor, owner);
      },
      onPurge: () => void this.#purgeLater(actor),
      onClosed: () => this.#ended.add(actor),
      notify,
      losses,
    });
    const hosted: Hosted = { actor, moving: false, subscriptions: [] };
    this.listen(hosted);
    this.#hosted.set(session, hosted);
    if (snapshot.context.ended !== '') this.#ended.add(actor);
    return actor;
  }

  // ---- what it hears -------------------------------------------------------------------------------------

  listen(hosted: Hosted): void {
    const { bus, subjects, respond } = this.#options;
    const { actor } = hosted;
    hosted.subscriptions = [
      bus.subscribe(subjects.sessionCmd(actor.id), (message) =>
        respond(message, (body, trace) => this.#command(actor.id, body, trace)),
      ),
      bus.subscribe(subjects.sessionIn(actor.id, '*'), (message) => this.#hear(actor, message)),
    ];
  }

  /** The subject says who may speak there, and so what can be meant: the ends of calls come in their own alone. */
  #hear(actor: SessionActor, { subject, body }: Message): void {
    const from = lastOf(subject);
    const wrong = from === TOOLS ? hearProvider(actor, body) : hearRuntime(actor, body, from);
    if (wrong !== undefined) this.#options.dropped.note(subject, wrong);
  }

  /** No new messages; resolves when those that had come were handed to the actor. */
  async deafen({ subscriptions }: Hosted): Promise<void> {
    await Promise.all(subscriptions.map((subscription) => subscription.drain()));
  }

  /** H1 */
  async #command(session: string, body: object, trace: TraceHeaders | undefined): Promise<Reply<unknown>> {
    const hosted = this.#hosted.get(session);
    if (hosted === undefined || !this.answersFor(hosted.actor)) return fenced(0);
    const { actor } = hosted;
    const asked = attempt(() => commandOf(body, this.#options.subjects));
    if (!asked.ok) return asked;
    const leaving = this.#options.leave(hosted, asked.value);
    if (leaving !== undefined) return leaving;
    const { broker, allowance } = this.#options;
    const reply = await answerCommand(actor, asked.value, { broker, trace, most: allowance.most });
    // An answer in the name of a lease that has ended meanwhile is none.
    return this.answersFor(actor) ? reply : fenced(actor.persistence.epoch);
  }

  /** H1: whether this broker may answer in the session's name now. */
  answersFor(actor: SessionActor): boolean {
    return !actor.stopped && (!actor.persistence.durable || this.#options.lease.holds());
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /** Forget the actor and hear nothing for it any more. What becomes of the actor is for others to see to. */
  drop(actor: SessionActor): void {
    const hosted = this.#hosted.get(actor.id);
    if (hosted?.actor !== actor) return;
    this.#hosted.delete(actor.id);
    this.#ended.delete(actor);
    for (const subscription of hosted.subscriptions) subscription.unsubscribe();
  }

  /** Its time is over. A store that cannot be told is told again; another broker may do it meanwhile. */
  async #purgeLater(actor: SessionActor): Promise<void> {
    const { clock, notify } = this.#options;
    try {
      await this.purge(actor.id);
    } catch (error) {
      if (!(error instanceof StoreError)) notify({ type: 'error', session: actor.id, error });
      if (error instanceof StoreError && error.code === 'CLOSED') return;
      clock.after(PURGE_RETRY_MS, () => {
        if (this.#hosted.get(actor.id)?.actor === actor) void this.#purgeLater(actor);
      });
    }
  }

  /** Delete the session and all that is stored of it. False if this broker may not. Rejects with a StoreError. */
  async purge(session: string): Promise<boolean> {
    const hosted = this.#hosted.get(session);
    if (hosted === undefined) return false;
    await hosted.actor.idle();
    const deleted = await hosted.actor.persistence.delete();
    this.drop(hosted.actor);
    hosted.actor.silence();
    return deleted;
  }

  /** The lease is lost: whatever others may take over falls silent. */
  silenceDurable(): void {
    for (const { actor } of [...this.#hosted.values()]) if (actor.persistence.durable) actor.silence();
  }

  silenceAll(): void {
    for (const { actor } of [...this.#hosted.values()]) actor.silence();
    this.#hosted.clear();
    this.#ended.clear();
  }
}

/** Both return the field that is wrong. */
function hearRuntime(actor: SessionActor, body: object, attempt: string): string | undefined {
  const report = reportOf(body, attempt);
  if (typeof report === 'string') return report;
  actor.report(report);
  return undefined;
}

function hearProvider(actor: SessionActor, body: object): string | undefined {
  const message = providerMessageOf(body, actor.id);
  if (typeof message === 'string') return message;
  actor.hear(message);
  return undefined;
}
