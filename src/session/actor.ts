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
import { type ExecutionEvent, PROTOCOL_VERSION } from '../../actors/events.ts';
import { hasWork, isQuiet, nextWake, type SessionStateValue, sessionMachine } from '../../actors/session.ts';
import type {
  Answer,
  Execution,
  JournalEntry,
  Output,
  ReportedItem,
  SessionContext,
  SessionEffect,
  SessionEvent,
  StepEvent,
  Surroundings,
} from '../../actors/sessiondata.ts';
import { type Bus, BusError } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { CallTool, Offer, ProviderMessage, Report, SessionLimits } from '../protocol.ts';
import type { Isolation } from '../sandbox/messages.ts';
import type { Subjects } from '../subjects.ts';
import { Attempts } from './attempts.ts';
import type { Directory } from './directory.ts';
import { SessionJournal } from './journal.ts';
import type { Persistence } from './persistence.ts';
import { resultJson } from './results.ts';
import { textOf } from './snapshot.ts';
import { type SessionSnapshot, step } from './step.ts';
import { ToolCalls } from './toolcalls.ts';

/** Longest wait of a step that needs no haste, in ms, and the output that ends it, in UTF-16 units. */
const LAZY_MS = 20;
const LAZY_OUTPUT = 16_384;
/** Facts waiting for the actor. Commands over it are refused; what runtimes and providers say is said again. */
const MAX_MAILBOX = 10_000;

/** What a tool does, as far as the owner must know. */
export interface ToolFacts {
  readonly canonicalName: string;
  readonly effect: 'read' | 'idempotent' | 'unsafe';
  readonly reconcilable: boolean;
}

/** What an execution needs besides what its machine knows. */
export interface LiveExecution {
  readonly source: string;
  readonly input: string;
  readonly seed: readonly [number, number, number, number];
  readonly limits: SessionLimits;
  /** The session's state when it began; undefined: as it is now. */
  base: string | undefined;
  readonly journal: SessionJournal;
}

export interface SessionActorOptions {
  readonly id: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Directory;
  readonly persistence: Persistence;
  /** True while its broker may act as the owner. */
  readonly mayAct: () => boolean;
  readonly tool: (name: string) => ToolFacts | undefined;
  /** How long the owner's lease certainly lasts, in ms. */
  readonly leaseLeftMs: () => number;
  readonly isolation: Isolation;
  readonly limits: SessionLimits;
  readonly snapshot: { readonly value: SessionStateValue; readonly context: SessionContext };
  readonly state: string;
  readonly live: ReadonlyMap<string, LiveExecution>;
  readonly seq: number;
  readonly publishedSeq: number;
  readonly onSilenced: (actor: SessionActor) => void;
  /** Its tombstone has served its time. */
  readonly onPurge: (actor: SessionActor) => void;
  /** An execution has ended, and its end is committed. `result` is JSON of an ExecutionResult. */
  readonly onEnded: (execution: string, result: string) => void;
}

/** A fact, made when its turn comes. */
export type Fact = () => SessionEvent | undefined;

interface Batch {
  readonly effects: SessionEffect[];
  readonly answers: { readonly ref: number; readonly answer: Answer }[];
  readonly events: ExecutionEvent[];
  readonly journal: Map<string, JournalEntry[]>;
  readonly fields: Record<string, string | null>;
  readonly forget: string[];
  /** Reports taken in, by attempt. */
  readonly reports: Map<string, number>;
  readonly results: Map<string, string>;
  urgent: boolean;
  dirty: boolean;
  output: number;
  purge: boolean;
}

const newBatch = (): Batch => ({
  effects: [],
  answers: [],
  events: [],
  journal: new Map(),
  fields: {},
  forget: [],
  reports: new Map(),
  results: new Map(),
  urgent: false,
  dirty: false,
  output: 0,
  purge: false,
});

export class SessionActor {
  readonly id: string;
  readonly persistence: Persistence;
  readonly attempts: Attempts;
  readonly calls: ToolCalls;
  readonly #options: SessionActorOptions;
  #snapshot: SessionSnapshot;
  #state: string;
  readonly #live: Map<string, LiveExecution>;
  #mailbox: Fact[] = [];
  #batch = newBatch();
  #committing = false;
  #scheduled = false;
  #stopped = false;
  #seq: number;
  #publishedSeq: number;
  #releasing = false;
  #cancelLazy: (() => void) | undefined;
  #wake: { readonly at: number; readonly cancel: () => void } | undefined;
  readonly #waiting = new Map<number, (answer: Answer | undefined) => void>();
  #refs = 0;
  #whenIdle: (() => void)[] = [];

  constructor(options: SessionActorOptions) {
    const { id, bus, clock, subjects, directory, persistence, mayAct } = options;
    this.id = id;
    this.persistence = persistence;
    this.#options = options;
    this.#snapshot = sessionMachine.resolveState(options.snapshot);
    this.#state = options.state;
    this.#live = new Map(options.live);
    this.#seq = options.seq;
    this.#publishedSeq = options.publishedSeq;
    const acts = (): boolean => !this.#stopped && mayAct();
    this.attempts = new Attempts({
      session: id,
      epoch: persistence.epoch,
      bus,
      clock,
      subjects,
      directory,
      mayAct: acts,
      makeOffer: (execution, attempt) => this.#makeOffer(execution, attempt),
      deliveries: (execution, count) => this.#live.get(execution)?.journal.after(count) ?? [],
      onRefused: (execution, attempt, code, message) =>
        this.tell(() => ({ type: 'attempt.refused', execution, attempt, code, message, ...this.#around() })),
      onLost: (execution, attempt) =>
        this.tell(() => ({ type: 'attempt.lost', execution, attempt, ...this.#around() })),
    });
    this.calls = new ToolCalls({
      session: id,
      bus,
      clock,
      subjects,
      mayAct: acts,
      makeCall: (execution, index, t) => this.#makeCall(execution, index, t),
      subjectOf: ({ name }) => subjects.tool(options.tool(name)?.canonicalName ?? name),
      isOpen: (execution, index) =>
        this.#execution(execution)?.calls.some((call) => call.index === index) ?? false,
      isCommitted: () => !this.#committing && !this.#batch.dirty,
      onLost: (execution, index) =>
        this.tell(() => ({ type: 'call.lost', execution, index, ...this.#around() })),
      onUnprovided: (execution, index) =>
        this.tell(() => ({ type: 'call.unprovided', execution, index, ...this.#around() })),
      onEnded: (execution, index, message) => this.#callEnded(execution, index, message),
    });
    for (const { id: execution, attempt } of this.context.executions) {
      if (attempt !== undefined)
        this.attempts.restore(execution, attempt.id, attempt.runtime, attempt.reports);
    }
  }

  get context(): SessionContext {
    return this.#snapshot.context;
  }
  get status(): SessionStateValue {
    return this.#snapshot.value as SessionStateValue;
  }
  get state(): string {
    return this.#state;
  }
  /** Of executions that do not set their own. */
  get limits(): SessionLimits {
    return this.#options.limits;
  }
  get seq(): number {
    return this.#seq;
  }
  get stopped(): boolean {
    return this.#stopped;
  }
  /** True if nothing of it runs, waits or is being written. */
  get quiet(): boolean {
    return isQuiet(this.context) && this.#mailbox.length === 0 && !this.#committing && !this.#batch.dirty;
  }
  liveExecution(id: string): LiveExecution | undefined {
    return this.#live.get(id);
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
    return new Promise((resolve) => {
      const ref = ++this.#refs;
      this.#waiting.set(ref, resolve);
      if (this.tell(() => fact(ref, this.#around()))) return;
      this.#waiting.delete(ref);
      resolve(undefined);
    });
  }

  /** Accept a command: its texts are kept until the machine has taken it in. */
  request(
    execution: Extract<SessionEvent, { type: 'execution.requested' }>['execution'],
    live: Omit<LiveExecution, 'journal' | 'base'>,
  ): Promise<Answer | undefined> {
    return this.ask((ref, around) => {
      this.#arriving = live;
      return { type: 'execution.requested', ref, execution, ...around };
    });
  }
  #arriving: Omit<LiveExecution, 'journal' | 'base'> | undefined;

  activate(): void {
    this.tell(() => ({ type: 'session.activated', ...this.#around() }));
  }

  report(report: Report): void {
    const link = this.attempts.admit(report);
    if (link === undefined) return;
    const told = this.tell(() => this.#readReport(report, link.execution));
    if (!told) link.taken--;
  }

  hear(message: ProviderMessage): void {
    this.calls.hear(message);
  }

  runtimesChanged(): void {
    if (this.context.executions.some(({ phase }) => phase === 'placing'))
      this.tell(() => ({ type: 'runtimes.changed', ...this.#around() }));
  }

  sweep(): void {
    this.attempts.sweep();
    this.calls.sweep();
  }

  #around(): Surroundings {
    const { clock, directory } = this.#options;
    return { now: clock.now(), fresh: clock.id(), runtimes: directory.view() };
  }

  #readReport(report: Report, execution: string): SessionEvent | undefined {
    const journal = this.#live.get(execution)?.journal;
    if (journal === undefined) return undefined;
    let mismatch = false;
    const items = report.items.map((item): ReportedItem => {
      switch (item.kind) {
        case 'call': {
          const facts = this.#options.tool(item.name);
          mismatch ||= journal.contradicts(item.index, 'call', item.name, item.json);
          return {
            ...item,
            known: facts !== undefined,
            effect: facts?.effect ?? 'unsafe',
            reconcilable: facts?.reconcilable ?? false,
          };
        }
        case 'sleep':
          mismatch ||= journal.contradicts(item.index, 'sleep', '', String(item.ms));
          return item;
        case 'applied':
          return { ...item, ok: journal.succeeded(item.index) };
        default:
          return item;
      }
    });
    const { attempt, n, received, waiting, end } = report;
    this.#batch.reports.set(attempt, n);
    this.#batch.dirty = true;
    return {
      type: 'attempt.reported',
      execution,
      attempt,
      n,
      received,
      items,
      waiting,
      end,
      mismatch,
      ...this.#around(),
    };
  }

  #callEnded(execution: string, index: number, message: Extract<ProviderMessage, { t: 'ended' }>): void {
    const { end, durationMs, provider } = message;
    this.tell(() => {
      this.calls.settled(execution, index, provider);
      return { type: 'call.ended', execution, index, end, durationMs, ...this.#around() };
    });
  }

  // ---- steps ---------------------------------------------------------------------------------------------

  #schedule(): void {
    if (this.#scheduled || this.#committing) return;
    this.#scheduled = true;
    this.#options.clock.soon(() => {
      this.#scheduled = false;
      this.#run();
    });
  }

  /** Take in everything that waits, then commit if something must be. */
  #run(): void {
    if (this.#stopped || this.#committing) return;
    if (!this.#options.mayAct()) return this.silence();
    const facts = this.#mailbox;
    this.#mailbox = [];
    for (const fact of facts) {
      const event = fact();
      if (event === undefined) continue;
      this.#snapshot = step(this.#snapshot, event);
      this.#collect(this.context.out, event);
    }
    if (this.#batch.urgent || this.#batch.output >= LAZY_OUTPUT) return this.#commit();
    this.#answer(this.#batch.answers.splice(0));
    if (this.#batch.dirty && this.#cancelLazy === undefined) {
      this.#cancelLazy = this.#options.clock.after(LAZY_MS, () => {
        this.#cancelLazy = undefined;
        if (!this.#committing && this.#batch.dirty) this.#commit();
      });
    }
    this.#settle();
  }

  /** Put what a step decided into the batch that is committed next. */
  #collect(out: Output, event: SessionEvent): void {
    const batch = this.#batch;
    if (out.urgent) {
      batch.urgent = true;
      batch.dirty = true;
    }
    if (out.purge) batch.purge = true;
    for (const id of out.accepted) this.#accept(id);
    if (event.type === 'execution.requested') this.#arriving = undefined;
    for (const { execution, entry } of out.journal) {
      this.#live.get(execution)?.journal.add(entry);
      const entries = batch.journal.get(execution);
      if (entries === undefined) batch.journal.set(execution, [entry]);
      else entries.push(entry);
      batch.dirty = true;
    }
    for (const step of out.events) this.#collectEvent(step);
    if (out.state !== undefined) this.#changeState(out.state);
    for (const ended of out.ended) {
      const { id } = ended.execution;
      const live = this.#live.get(id);
      if (live === undefined) continue;
      const result = resultJson(ended, live.journal);
      const { startTime, versions } = ended.execution;
      batch.results.set(id, result);
      batch.fields[`result:${id}`] = result;
      batch.fields[`ran:${id}`] =
        `{"startTime":${startTime}${versions === undefined ? '' : `,"versions":${textOf(versions)}`}}`;
      batch.fields[`base:${id}`] = live.base ?? this.#state;
      this.#live.delete(id);
    }
    for (const id of out.forget) {
      batch.forget.push(id);
      for (const field of ['source', 'input', 'spec', 'result', 'ran', 'base'])
        batch.fields[`${field}:${id}`] = null;
    }
    // Whoever looks for a runtime next sees that this one is taken.
    for (const effect of out.effects)
      if (effect.type === 'offer') this.#options.directory.noteOffer(effect.runtime, 1);
    batch.effects.push(...out.effects);
    batch.answers.push(...out.replies);
    if (out.early.length > 0 && this.#options.mayAct()) for (const effect of out.early) this.#perform(effect);
  }

  #collectEvent({ type, execution, payload }: StepEvent): void {
    const batch = this.#batch;
    batch.dirty = true;
    if (type === 'stdout' || type === 'log') batch.output += JSON.stringify(payload).length;
    batch.events.push({
      protocolVersion: PROTOCOL_VERSION,
      sessionId: this.id,
      seq: this.#seq + batch.events.length + 1,
      type,
      payload,
      executionId: execution,
    } as ExecutionEvent);
  }

  #accept(id: string): void {
    const live = this.#arriving;
    if (live === undefined) return;
    this.#live.set(id, { ...live, base: undefined, journal: new SessionJournal() });
    const { fields } = this.#batch;
    fields[`source:${id}`] = live.source;
    if (live.input !== '') fields[`input:${id}`] = live.input;
    fields[`spec:${id}`] = `{"seed":[${live.seed.join()}],"limits":${textOf(live.limits)}}`;
  }

  /** Executions that began before keep the state that they began with. */
  #changeState(state: string): void {
    for (const [id, live] of this.#live) {
      const execution = this.#execution(id);
      const ending = execution === undefined;
      if (live.base !== undefined) continue;
      // One that has not begun, or has begun in this very step, begins with the new state.
      if (!ending && (execution.startTime === 0 || execution.stateVersion === this.context.stateVersion))
        continue;
      live.base = this.#state;
      if (!ending) this.#batch.fields[`base:${id}`] = this.#state;
    }
    this.#state = state;
    this.#batch.fields.state = state;
    this.#batch.dirty = true;
  }

  /** A1, A2 */
  #commit(): void {
    this.#cancelLazy?.();
    this.#cancelLazy = undefined;
    const batch = this.#batch;
    this.#batch = newBatch();
    this.#committing = true;
    const { context } = this;
    const done = this.persistence.commit({
      value: this.status,
      context,
      fields: batch.fields,
      journal: batch.journal,
      forget: batch.forget,
      firstSeq: this.#seq + 1,
      events: batch.events,
      publishedSeq: this.#publishedSeq,
      work: hasWork(context),
      wakeAt: nextWake(context),
      release: this.#releasing,
    });
    if (typeof done === 'string') this.#committed(batch, done === 'committed');
    else void done.then((answer) => this.#committed(batch, answer === 'committed'));
  }

  #committed(batch: Batch, ok: boolean): void {
    this.#committing = false;
    if (this.#stopped) return;
    if (!ok || !this.#options.mayAct()) return this.silence(); // A3
    for (const committed of this.#whenCommitted.splice(0)) committed();
    this.#seq += batch.events.length;
    for (const execution of batch.journal.keys()) this.#live.get(execution)?.journal.commit();
    for (const [attempt, n] of batch.reports) this.attempts.committed(attempt, n);
    this.#publish(batch.events);
    for (const effect of batch.effects) this.#perform(effect, batch.results);
    this.attempts.acknowledge();
    this.calls.acknowledge();
    this.#answer(batch.answers);
    for (const [execution, result] of batch.results) this.#options.onEnded(execution, result);
    if (this.#releasing) return this.#stop();
    if (batch.purge) return this.#options.onPurge(this);
    if (this.#mailbox.length > 0) this.#schedule();
    this.#settle();
  }

  #answer(answers: Batch['answers']): void {
    for (const { ref, answer } of answers) {
      const resolve = this.#waiting.get(ref);
      this.#waiting.delete(ref);
      resolve?.(answer);
    }
  }

  /** The time comes in by itself; whoever waits for the actor to have nothing to do is told. */
  #settle(): void {
    const wakeAt = nextWake(this.context);
    if (wakeAt === undefined) {
      this.#wake?.cancel();
      this.#wake = undefined;
    } else if (this.#wake === undefined || wakeAt < this.#wake.at) {
      this.#wake?.cancel();
      const { clock } = this.#options;
      const cancel = clock.after(Math.max(0, wakeAt - clock.now()), () => {
        this.#wake = undefined;
        this.tell(() => ({ type: 'time.passed', ...this.#around() }));
      });
      this.#wake = { at: wakeAt, cancel };
    }
    if (this.#mailbox.length === 0 && !this.#committing && !this.#batch.dirty)
      for (const idle of this.#whenIdle.splice(0)) idle();
  }

  #publish(events: readonly ExecutionEvent[]): void {
    const { bus, subjects } = this.#options;
    for (const event of events) {
      try {
        bus.publish(subjects.sessionEvent(this.id, event.type), event);
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        if (error.code !== 'PAYLOAD_TOO_LARGE') return; // The next owner, or a reader of the log, sees to it.
      }
      this.#publishedSeq = event.seq;
    }
  }

  /** Publish what an owner before this one committed and may not have published. */
  republish(texts: readonly string[]): void {
    this.#publish(texts.map((text) => JSON.parse(text) as ExecutionEvent));
  }

  // ---- effects -------------------------------------------------------------------------------------------

  #perform(effect: SessionEffect, results?: ReadonlyMap<string, string>): void {
    switch (effect.type) {
      case 'offer':
        void this.attempts.offer(effect.execution, effect.attempt, effect.runtime);
        return;
      case 'probe':
        void this.attempts.probe(effect.execution, effect.attempt, effect.runtime);
        return;
      case 'deliver':
        return this.attempts.deliver(effect.execution);
      case 'stop':
        return this.attempts.release(effect.attempt, effect.runtime);
      case 'call':
      case 'reconcile':
        void this.calls.dispatch(effect.execution, effect.index, effect.type);
        return;
      case 'locate':
        return this.calls.locate(effect.execution, effect.index);
      case 'cancelCall':
        return this.calls.cancel(effect.execution, effect.index);
      case 'tell': {
        const { bus } = this.#options;
        const result = results?.get(effect.execution);
        if (result === undefined) return;
        try {
          bus.publish(effect.subject, { session: this.id, execution: effect.execution, result });
        } catch (error) {
          if (!(error instanceof BusError)) throw error; // The client asks by itself.
        }
      }
    }
  }

  #execution(id: string): Execution | undefined {
    return this.context.executions.find((execution) => execution.id === id);
  }

  #makeOffer(id: string, attempt: string): Offer | undefined {
    const execution = this.#execution(id);
    const live = this.#live.get(id);
    if (execution?.attempt?.id !== attempt || live === undefined) return undefined;
    return {
      t: 'offer',
      session: this.id,
      epoch: this.persistence.epoch,
      attempt,
      execution: id,
      source: live.source,
      input: live.input,
      state: live.base ?? this.#state,
      seed: live.seed,
      startTime: execution.startTime,
      limits: live.limits,
      isolation: this.#options.isolation,
      alone: execution.alone,
      replay: execution.attempt.replay,
      deliveries: [],
      versions: execution.versions,
    };
  }

  #makeCall(id: string, index: number, t: 'call' | 'reconcile'): CallTool | undefined {
    const open = this.#execution(id)?.calls.find((call) => call.index === index);
    const live = this.#live.get(id);
    const made = live?.journal.callAt(index);
    if (open === undefined || live === undefined || made === undefined) return undefined;
    return {
      t,
      key: `${this.id}/${id}/${index}`,
      session: this.id,
      execution: id,
      index,
      name: made.name,
      args: made.args,
      epoch: this.persistence.epoch,
      notAfterMs: this.#options.leaseLeftMs(),
      maxPayloadBytes: live.limits.maxToolPayloadBytes,
    };
  }

  /** True while what can be read from the actor is not committed: whoever answers from it waits for {@link committed} first, and looks again. */
  get committing(): boolean {
    return this.#committing && !this.#stopped;
  }

  /** Resolves when the commit under way is over. */
  committed(): Promise<void> {
    return new Promise((resolve) => this.#whenCommitted.push(resolve));
  }
  #whenCommitted: (() => void)[] = [];

  // ---- the end -------------------------------------------------------------------------------------------

  /** Resolves when nothing waits and everything is committed; at once if it has stopped. */
  idle(): Promise<void> {
    if (this.#stopped || (this.#mailbox.length === 0 && !this.#committing && !this.#batch.dirty))
      return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  /**
   * Commit the fact given and give the session up in the same step. The answer is the machine's; if it is not `ok`
   * the session was not given up. Nothing may come in any more: drain its subscriptions first.
   */
  async release(fact: (ref: number, around: Surroundings) => SessionEvent): Promise<Answer | undefined> {
    await this.idle();
    if (this.#stopped) return undefined;
    return new Promise((resolve) => {
      const ref = ++this.#refs;
      this.#waiting.set(ref, resolve);
      const event = fact(ref, this.#around());
      this.#snapshot = step(this.#snapshot, event);
      const { out } = this.context;
      this.#releasing = out.replies.some(({ answer }) => answer.ok);
      this.#collect(out, event);
      this.#commit();
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
    this.attempts.stop();
    this.calls.stop();
    this.#cancelLazy?.();
    this.#wake?.cancel();
    this.#mailbox = [];
    for (const resolve of this.#waiting.values()) resolve(undefined);
    this.#waiting.clear();
    for (const idle of this.#whenIdle.splice(0)) idle();
    for (const committed of this.#whenCommitted.splice(0)) committed();
  }
}
