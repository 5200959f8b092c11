/**
 * A session's actor: drives its machine. A fact is turned into the next context and what comes of it; that is
 * committed; only then is anything done or answered.
 *
 * Invariants:
 *  A1  Nothing that a step decided is done or told before the step is committed, except calls of `read` tools.
 *  A2  One commit is under way at a time; the facts that come meanwhile go into the next one together.
 *  A3  After a commit, and before anything is done, the owner looks in the same tick whether it may still act. If
 *      not, it falls silent for good.
 *  A4  Steps that need no haste (output, sleeps, calls of `read` tools) are committed together within
 *      {@link LAZY_MS}, or with the next step that does.
 */
import { hasWork, isQuiet, nextWake, type SessionStateValue, sessionMachine } from '../../actors/session.ts';
import type { Answer, SessionContext, SessionEvent, Surroundings } from '../../actors/sessiondata.ts';
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Losses } from '../losses.ts';
import type { ProviderMessage, Report, SessionLimits } from '../protocol.ts';
import type { Isolation } from '../sandbox/messages.ts';
import type { Subjects } from '../subjects.ts';
import type { Acks } from './acks.ts';
import type { Admission, Refused } from './admission.ts';
import { Admitted, tenantOf } from './admitted.ts';
import { Answers } from './answers.ts';
import { maxOfferBytes } from './attempts.ts';
import { Batch, type BatchOptions } from './batch.ts';
import type { Directory } from './directory.ts';
import { Effects } from './effects.ts';
import { type Fact, newToolNames, readReport, type SessionTools } from './facts.ts';
import { Holding } from './holding.ts';
import type { ExecutionTexts, LiveExecution, LiveSession } from './live.ts';
import type { BrokerNotice, Notify } from './notice.ts';
import type { Persistence } from './persistence.ts';
import type { PlacementQueue } from './queue.ts';
import { replayOf } from './replays.ts';
import { withinLimits } from './reports.ts';
import { retell } from './retold.ts';
import { ExecutionSpans } from './spans.ts';
import { type SessionSnapshot, step } from './step.ts';
import { Wake } from './wake.ts';

/** Longest wait of a step that needs no haste, in ms, and the output that ends it, in UTF-16 units. */
const LAZY_MS = 20;
const LAZY_OUTPUT = 16_384;
/** Facts waiting for the actor. Commands over it are refused; what runtimes and providers say is said again. */
const MAX_MAILBOX = 10_000;

/** Where a stateless run lives. */
export interface RunPlace {
  /** Stands for a session in subjects: the broker hears all its runs there. */
  readonly home: string;
  readonly tenant: string;
  /** Whether its events are published. */
  readonly events: boolean;
}

export interface SessionActorOptions {
  readonly id: string;
  /** The broker that it lives in, as traces name it. Default: not named. */
  readonly broker?: string | undefined;
  /** Of a stateless run, which is no session of its own. */
  readonly run?: RunPlace | undefined;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Directory;
  readonly queue: PlacementQueue;
  readonly admission: Admission;
  readonly acks: Acks;
  readonly persistence: Persistence;
  /** True while its broker may act as the owner. */
  readonly mayAct: () => boolean;
  readonly tools: SessionTools;
  /** How long the owner's lease certainly lasts, in ms. */
  readonly leaseLeftMs: () => number;
  readonly isolation: Isolation;
  readonly limits: SessionLimits;
  readonly snapshot: { readonly value: SessionStateValue; readonly context: SessionContext };
  readonly state: string;
  readonly live: ReadonlyMap<string, LiveExecution>;
  readonly seq: number;
  readonly publishedSeq: number;
  /** Keep what scripts write, pass and return out of events. Default false. */
  readonly redactEvents?: boolean | undefined;
  /** Tell an `execution.audited` of every execution that ends. Default false. */
  readonly audit?: boolean | undefined;
  readonly onSilenced: (actor: SessionActor) => void;
  /** Its tombstone has served its time. */
  readonly onPurge: (actor: SessionActor) => void;
  /** The session was closed, or has expired, and that is committed. Default: nobody wants to know. */
  readonly onClosed?: (() => void) | undefined;
  /** An execution has ended, and its end is committed. `result` is JSON of an ExecutionResult. Default: nobody wants to know. */
  readonly onEnded?: ((execution: string, result: string) => void) | undefined;
  /** Told of what is committed. */
  readonly notify: Notify;
  readonly losses: Losses;
}

export class SessionActor {
  readonly id: string;
  /** Whose executions these are: what they count for. */
  readonly tenant: string;
  readonly persistence: Persistence;
  readonly #options: SessionActorOptions;
  readonly #live: LiveSession;
  readonly #effects: Effects;
  readonly #spans: ExecutionSpans;
  readonly #batchOptions: BatchOptions;
  readonly #answers = new Answers();
  readonly #admitted: Admitted;
  readonly #wake: Wake;
  readonly #holding: Holding;
  #snapshot: SessionSnapshot;
  #mailbox: Fact[] = [];
  #batch: Batch;
  /** What the command that is taken in now brought. */
  #arriving: ExecutionTexts | undefined;
  #seq: number;
  #committing = false;
  #scheduled = false;
  #releasing = false;
  #stopped = false;
  /** The step that is worked out now is its turn to look for a runtime. */
  #inTurn = false;
  #cancelLazy: (() => void) | undefined;
  #whenCommitted: (() => void)[] = [];
  #whenIdle: (() => void)[] = [];

  constructor(options: SessionActorOptions) {
    const { id, persistence, seq, clock, admission, tools } = options;
    this.id = id;
    this.persistence = persistence;
    this.#options = options;
    const { run, snapshot } = options;
    this.tenant = tenantOf(run === undefined ? snapshot.context.settings.tenant : run.tenant);
    this.#snapshot = sessionMachine.resolveState(snapshot);
    this.#live = { state: options.state, executions: new Map(options.live) };
    this.#seq = seq;
    this.#batchOptions = batchOptionsOf(options, this.tenant);
    this.#batch = new Batch(id, seq, this.#live, this.#batchOptions);
    this.#spans = this.#makeSpans(options);
    for (const execution of this.#live.executions.keys()) this.#spans.begin(execution, true);
    this.#effects = this.#makeEffects(options);
    this.#holding = new Holding({
      until: (report) => {
        const journal = this.#live.executions.get(report.execution)?.journal;
        return journal === undefined ? undefined : tools.seek(newToolNames(report, journal));
      },
      pass: (report) => this.#takeIn(report),
    });
    this.#admitted = new Admitted({
      session: id,
      tenant: this.tenant,
      admission,
      context: () => this.context,
    });
    this.#wake = new Wake(clock, () => this.tell((around) => ({ type: 'time.passed', ...around })));
  }

  #makeSpans({ id, broker, bus, subjects, run }: SessionActorOptions): ExecutionSpans {
    return new ExecutionSpans({
      session: id,
      broker,
      tenant: this.tenant,
      bus,
      subject: () => (run === undefined ? subjects.sessionCmd(id) : subjects.broker('run')),
      asked: (execution) => this.#live.executions.get(execution)?.trace,
    });
  }

  #makeEffects({
    id,
    run,
    bus,
    clock,
    subjects,
    directory,
    admission,
    acks,
    persistence,
    mayAct,
    tools,
    leaseLeftMs,
    isolation,
    publishedSeq,
    snapshot,
  }: SessionActorOptions): Effects {
    const named = run === undefined ? snapshot.context.settings.tenant : run.tenant;
    return new Effects({
      spans: this.#spans,
      session: run?.home ?? id,
      home: run === undefined ? undefined : true,
      tenant: run?.tenant,
      behalf: named === '' ? undefined : named,
      share: () => ({ name: this.tenant, weight: admission.weightOf(this.tenant) }),
      events: run?.events === false ? undefined : id,
      epoch: persistence.epoch,
      bus,
      clock,
      subjects,
      directory,
      mayAct: () => !this.#stopped && mayAct(),
      leaseHolds: mayAct,
      acks,
      tools,
      onReport: (report) => this.report(report),
      leaseLeftMs,
      isolation,
      live: this.#live,
      context: () => this.context,
      isCommitted: () => !this.#committing && !this.#batch.dirty,
      tell: (fact) => this.tell(fact),
      publishedSeq,
    });
  }

  get context(): SessionContext {
    return this.#snapshot.context;
  }
  get status(): SessionStateValue {
    return this.#snapshot.value as SessionStateValue;
  }
  /** In ms since the epoch, by its broker's clock. */
  now(): number {
    return this.#options.clock.now();
  }
  /** JSON of the session's `state`. */
  get state(): string {
    return this.#live.state;
  }
  /** Of executions that do not set their own. */
  get limits(): SessionLimits {
    return this.#options.limits;
  }
  /** What an offer may carry of texts, in bytes. */
  get maxOfferBytes(): number {
    return maxOfferBytes(this.#options.bus);
  }
  /** The number of the last committed event. */
  get seq(): number {
    return this.#seq;
  }
  get stopped(): boolean {
    return this.#stopped;
  }
  /** True if nothing of it runs, waits or is being written. */
  get quiet(): boolean {
    return isQuiet(this.context) && this.#isIdle;
  }
  /** True while what can be read from the actor is not committed: whoever answers from it waits for {@link committed} first, and looks again. */
  get committing(): boolean {
    return this.#committing && !this.#stopped;
  }
  get #isIdle(): boolean {
    return this.#mailbox.length === 0 && !this.#committing && !this.#batch.dirty;
  }

  // ---- facts ---------------------------------------------------------------------------------------------

  /** A fact for the machine. Dropped once the actor has stopped, and over the bound of the mailbox. */
  tell(fact: Fact): boolean {
    if (this.#stopped || this.#mailbox.length >= MAX_MAILBOX) return false;
    this.#mailbox.push(fact);
    this.#schedule();
    return true;
  }

  /** A fact that is answered: after the commit of its step. Undefined: the actor stopped first, and nothing is known. */
  ask(fact: (ref: number, around: Surroundings) => SessionEvent): Promise<Answer | undefined> {
    return this.#answers.expect((ref) => this.tell((around) => fact(ref, around)));
  }

  /** Accept a command: its texts are kept until the machine has taken it in. */
  request(
    execution: Extract<SessionEvent, { type: 'execution.requested' }>['execution'],
    texts: ExecutionTexts,
  ): Promise<Answer | undefined> {
    return this.ask((ref, around) => {
      this.#arriving = texts;
      return { type: 'execution.requested', ref, execution, ...around };
    });
  }

  /** Whether a new execution may come in. 'known': it is no new one. Whoever was admitted is dismissed, unless it is taken in. */
  admit(execution: string): 'known' | 'admitted' | Refused {
    return this.#admitted.admit(execution);
  }

  /** It was admitted, and not taken in. */
  dismiss(execution: string): void {
    this.#admitted.dismiss(execution);
  }

  /** A command was refused as OVERLOADED. */
  noteFull(full: 'session' | 'mailbox'): void {
    this.#options.losses.overloaded(full);
  }

  activate(): void {
    this.tell((around) => ({ type: 'session.activated', ...around }));
  }

  /** What a runtime tells of an attempt. */
  report(report: Report): void {
    this.#holding.take(report);
  }

  #takeIn(report: Report): void {
    if (this.#stopped) return;
    const link = this.#effects.admit(report);
    if (link === undefined) return;
    const { execution, attempt } = link;
    const told = this.tell((around) => {
      const live = this.#live.executions.get(execution);
      if (live === undefined) return undefined;
      this.#batch.report(attempt, report.n);
      const kept = { ...report, end: withinLimits(report.end, live.limits) };
      return readReport(kept, execution, live.journal, this.#options.tools, around);
    });
    if (!told) link.taken--;
  }

  hear(message: ProviderMessage): void {
    this.#effects.hear(message);
  }

  /** There is room, and it is kept for this one until it has looked. False if that was not heard. */
  turn(): boolean {
    const { queue } = this.#options;
    return this.tell(() => {
      queue.take(this);
      this.#inTurn = true;
      return { type: 'runtimes.changed', ...this.#around(), behind: false };
    });
  }

  /** A runtime's process seems to be gone. */
  runtimeGone(runtime: string): void {
    this.#effects.runtimeGone(runtime);
  }

  sweep(): void {
    this.#effects.sweep();
  }

  #around(): Surroundings {
    const { clock, directory, queue } = this.#options;
    const behind = queue.isBehind(this);
    const { routing } = directory;
    return { now: clock.now(), fresh: clock.id(), runtimes: directory.view(), routing, behind };
  }

  // ---- steps ---------------------------------------------------------------------------------------------

  #schedule(): void {
    if (this.#scheduled || this.#committing) return; // A2
    this.#scheduled = true;
    this.#options.clock.soon(() => {
      this.#scheduled = false;
      this.#run();
    });
  }

  /** Take in everything that waits, then commit if something must be. */
  #run(): void {
    if (this.#stopped || this.#committing) return; // A2
    if (!this.#options.mayAct()) return this.silence();
    const facts = this.#mailbox;
    this.#mailbox = [];
    for (const fact of facts) {
      const event = fact(this.#around());
      if (event !== undefined) this.#step(event);
    }
    if (this.#batch.urgent || this.#batch.output >= LAZY_OUTPUT) return this.#commit();
    this.#answers.give(this.#batch.answers.splice(0));
    this.#commitSoon();
    this.#settle();
  }

  #step(event: SessionEvent): void {
    const { directory, queue, mayAct } = this.#options;
    const before = this.context;
    this.#snapshot = step(this.#snapshot, event);
    const { out } = this.context;
    this.#batch.collect(out, this.context, this.#arriving);
    if (event.type === 'execution.requested') this.#arriving = undefined;
    for (const execution of out.accepted) this.#spans.begin(execution, false);
    const replay = replayOf(event, before, this.context);
    if (replay !== undefined)
      this.#batch.facts.push({ type: 'execution.replayed', session: this.id, ...replay });
    // Whoever looks for a runtime next sees that this one is taken.
    let offered = false;
    for (const effect of out.effects) {
      if (effect.type !== 'offer') continue;
      directory.noteOffer(effect.runtime, 1);
      offered = true;
    }
    this.#admitted.note(out);
    queue.note(this, event.type === 'attempt.refused');
    if (this.#inTurn) queue.taken(this, !offered);
    this.#inTurn = false;
    // A1: calls of `read` tools need not wait.
    if (out.early.length > 0 && mayAct()) for (const effect of out.early) this.#effects.perform(effect);
  }

  /** A4 */
  #commitSoon(): void {
    if (!this.#batch.dirty || this.#cancelLazy !== undefined) return;
    this.#cancelLazy = this.#options.clock.after(LAZY_MS, () => {
      this.#cancelLazy = undefined;
      if (!this.#committing && this.#batch.dirty) this.#commit();
    });
  }

  /** A1, A2 */
  #commit(): void {
    this.#cancelLazy?.();
    this.#cancelLazy = undefined;
    const { context } = this;
    const batch = this.#batch;
    this.#batch = new Batch(this.id, batch.seq, this.#live, this.#batchOptions);
    this.#committing = true;
    const done = this.persistence.commit({
      value: this.status,
      context,
      fields: batch.fields,
      journal: batch.journal,
      forget: batch.forget,
      firstSeq: this.#seq + 1,
      events: batch.events,
      publishedSeq: this.#effects.publishedSeq,
      work: hasWork(context),
      wakeAt: nextWake(context),
      release: this.#releasing,
    });
    if (typeof done === 'string') this.#committed(batch, done === 'committed');
    else void done.then((answer) => this.#committed(batch, answer === 'committed'));
  }

  #committed(batch: Batch, ok: boolean): void {
    this.#committing = false;
    // It is so, whatever becomes of this owner.
    if (ok) for (const fact of batch.facts) this.#note(fact);
    if (this.#stopped) return;
    if (!ok || !this.#options.mayAct()) return this.silence(); // A3
    for (const committed of this.#whenCommitted.splice(0)) committed();
    if (this.context.ended !== '') this.#options.onClosed?.();
    this.#seq = batch.seq;
    for (const execution of batch.journal.keys()) this.#live.executions.get(execution)?.journal.commit();
    this.#effects.carryOut(batch);
    this.#answers.give(batch.answers);
    for (const [execution, result] of batch.results) this.#options.onEnded?.(execution, result);
    if (this.#stopped) return; // A run ends with its only execution.
    if (this.#releasing) return this.#stop();
    if (batch.purge) return this.#options.onPurge(this);
    if (this.#mailbox.length > 0) this.#schedule();
    this.#settle();
  }

  /** Tell what is committed. */
  #note(fact: BrokerNotice): void {
    if (fact.type === 'execution.ended') this.#spans.end(fact.execution, fact.outcome, fact.code);
    else if (fact.type === 'execution.replayed')
      this.#spans.event(fact.execution, 'enclave.replayed', { 'enclave.reason': fact.reason });
    this.#options.notify(fact);
  }

  /** The time comes in by itself; whoever waits for the actor to have nothing to do is told. */
  #settle(): void {
    this.#wake.by(nextWake(this.context));
    if (this.#isIdle) for (const idle of this.#whenIdle.splice(0)) idle();
  }

  /** Publish what an owner before this one committed and may not have published. */
  republish(texts: readonly string[]): void {
    retell(texts, {
      session: this.id,
      persistence: this.persistence,
      audited: this.#batchOptions.audited !== undefined,
      publish: (events) => this.#effects.publish(events),
      isStopped: () => this.#stopped,
      notify: this.#options.notify,
    });
  }

  /** Resolves when the commit under way is over. */
  committed(): Promise<void> {
    return new Promise((resolve) => this.#whenCommitted.push(resolve));
  }

  /** Resolves when nothing waits and everything is committed; at once if it has stopped. */
  idle(): Promise<void> {
    if (this.#stopped || this.#isIdle) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /**
   * Commit the fact given and give the session up in the same step. The answer is the machine's; if it is not `ok`
   * the session was not given up. Nothing may come in any more: drain its subscriptions first.
   */
  async release(fact: (ref: number, around: Surroundings) => SessionEvent): Promise<Answer | undefined> {
    await this.idle();
    if (this.#stopped) return undefined;
    return this.#answers.expect((ref) => {
      this.#step(fact(ref, this.#around()));
      this.#releasing = this.context.out.replies.some(({ answer }) => answer.ok);
      this.#commit();
      return true;
    });
  }

  /** Not the owner any more: nothing is done or answered from here on. */
  silence(): void {
    if (this.#stopped) return;
    this.#stop();
    this.#options.onSilenced(this);
  }

  #stop(): void {
    this.#stopped = true;
    this.#options.queue.leave(this);
    this.#admitted.leave();
    this.#effects.stop();
    this.#spans.stop();
    this.#cancelLazy?.();
    this.#wake.cancel();
    this.#mailbox = [];
    this.#answers.stop();
    for (const idle of this.#whenIdle.splice(0)) idle();
    for (const committed of this.#whenCommitted.splice(0)) committed();
  }
}

function batchOptionsOf(
  { id, run, broker = '', subjects, isolation, redactEvents = false, audit }: SessionActorOptions,
  tenant: string,
): BatchOptions {
  const { namespace } = subjects;
  const session = run === undefined ? id : undefined;
  const audited = audit === true ? { namespace, broker, session, tenant, isolation } : undefined;
  return { tenant, redactEvents, audited };
}
