/**
 * What a session does in the world: offers and deliveries to runtimes, calls to providers, events, and the word to
 * whoever waits for a result.
 *
 * Upholds A1 of actor.ts: it does what it is handed, which is what was committed, and calls of `read` tools.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { Execution, SessionContext, SessionEffect } from '../../actors/sessiondata.ts';
import { type Bus, BusError } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { CallTool, Offer, ProviderMessage, Report } from '../protocol.ts';
import type { Isolation } from '../sandbox/messages.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import { canonicalToolName } from '../tools/define.ts';
import type { Acks } from './acks.ts';
import { Attempts, type Link } from './attempts.ts';
import type { Batch } from './batch.ts';
import type { Directory } from './directory.ts';
import type { Fact, SessionTools } from './facts.ts';
import type { LiveSession } from './live.ts';
import type { ExecutionSpans } from './spans.ts';
import { ToolCalls } from './toolcalls.ts';

export interface EffectsOptions {
  /** What stands for it in subjects and in the keys of calls. */
  readonly session: string;
  /** True if it is the home of stateless runs, which nobody takes over; else undefined. */
  readonly home: true | undefined;
  /** On whose behalf a stateless run is; undefined for a session. */
  readonly tenant: string | undefined;
  /** On whose behalf it runs, where somebody was named: what handlers of tools are told. */
  readonly behalf: string | undefined;
  /** Whose turns it takes at runtimes, and how large that share is now. */
  readonly share: () => NonNullable<Offer['share']>;
  /** Whether its events are published, and of whom they are. */
  readonly events: string | undefined;
  readonly epoch: number;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Directory;
  /** True while this owner may act. */
  readonly mayAct: () => boolean;
  /** True while the owner may speak, though the session's actor may have stopped. */
  readonly leaseHolds: () => boolean;
  readonly acks: Acks;
  readonly tools: Pick<SessionTools, 'providers'>;
  /** A report that did not come by the session's own subject. */
  readonly onReport: (report: Report) => void;
  /** How long the owner's lease certainly lasts, in ms. */
  readonly leaseLeftMs: () => number;
  readonly isolation: Isolation;
  readonly spans: ExecutionSpans;
  readonly live: LiveSession;
  /** What the machine knows now. */
  readonly context: () => SessionContext;
  /** True if everything that was decided is committed. */
  readonly isCommitted: () => boolean;
  /** A fact for the machine, of what became of an effect. */
  readonly tell: (fact: Fact) => void;
  readonly publishedSeq: number;
}

export class Effects {
  readonly #options: EffectsOptions;
  readonly #attempts: Attempts;
  readonly #calls: ToolCalls;
  #publishedSeq: number;

  constructor(options: EffectsOptions) {
    this.#options = options;
    this.#publishedSeq = options.publishedSeq;
    this.#attempts = this.#makeAttempts(options);
    this.#calls = this.#makeCalls(options);
    for (const { id, attempt } of options.context().executions)
      if (attempt !== undefined) this.#attempts.restore(id, attempt.id, attempt.runtime, attempt.reports);
  }

  #makeAttempts(options: EffectsOptions): Attempts {
    const { epoch, directory, onReport, live, spans, tell } = options;
    return new Attempts({
      ...voiceOf(options),
      epoch,
      directory,
      onReport,
      makeOffer: (execution, attempt) => this.#makeOffer(execution, attempt),
      trace: (execution) => spans.headers(execution),
      deliveries: (execution, count) => live.executions.get(execution)?.journal.after(count) ?? [],
      onRefused: (execution, attempt, code, message) =>
        tell((around) => ({ type: 'attempt.refused', execution, attempt, code, message, ...around })),
      onLost: (execution, attempt) =>
        tell((around) => ({ type: 'attempt.lost', execution, attempt, ...around })),
    });
  }

  #makeCalls(options: EffectsOptions): ToolCalls {
    const { subjects, tools, spans, isCommitted, tell } = options;
    return new ToolCalls({
      ...voiceOf(options),
      spans,
      providers: tools.providers,
      makeCall: (execution, index, t) => this.#makeCall(execution, index, t),
      subjectOf: ({ name }) => subjects.tool(canonicalToolName(name) ?? name),
      isOpen: (execution, index) =>
        this.#execution(execution)?.calls.some((call) => call.index === index) ?? false,
      isCommitted,
      onLost: (execution, index) => tell((around) => ({ type: 'call.lost', execution, index, ...around })),
      onUnprovided: (execution, index) =>
        tell((around) => ({ type: 'call.unprovided', execution, index, ...around })),
      onEnded: (execution, index, { end, durationMs, provider }) =>
        tell((around) => {
          this.#calls.settled(execution, index, provider);
          return { type: 'call.ended', execution, index, end, durationMs, ...around };
        }),
    });
  }

  /** The number of the last event that was published. */
  get publishedSeq(): number {
    return this.#publishedSeq;
  }

  /** Do what a committed batch says, and acknowledge what it took in. */
  carryOut({ reports, events, effects, results }: Batch): void {
    for (const [attempt, n] of reports) this.#attempts.committed(attempt, n);
    this.publish(events);
    for (const effect of effects) this.perform(effect, results);
    this.#attempts.acknowledge();
    this.#calls.acknowledge();
  }

  /** Whether a report is to be taken in now. */
  admit(report: Report): Link | undefined {
    return this.#attempts.admit(report);
  }

  runtimeGone(runtime: string): void {
    this.#attempts.runtimeGone(runtime);
  }

  hear(message: ProviderMessage): void {
    this.#calls.hear(message);
  }

  sweep(): void {
    this.#attempts.sweep();
    this.#calls.sweep();
  }

  stop(): void {
    this.#attempts.stop();
    this.#calls.stop();
  }

  perform(effect: SessionEffect, results?: ReadonlyMap<string, string>): void {
    switch (effect.type) {
      case 'offer':
        void this.#attempts.offer(effect.execution, effect.attempt, effect.runtime);
        return;
      case 'probe':
        void this.#attempts.probe(effect.execution, effect.attempt, effect.runtime);
        return;
      case 'deliver':
        return this.#attempts.deliver(effect.execution);
      case 'stop':
        return this.#attempts.release(effect.attempt, effect.runtime);
      case 'call':
      case 'reconcile':
        void this.#calls.dispatch(effect.execution, effect.index, effect.type);
        return;
      case 'locate':
        return this.#calls.locate(effect.execution, effect.index);
      case 'cancelCall':
        return this.#calls.cancel(effect.execution, effect.index);
      case 'tell':
        return this.#tellResult(effect.subject, effect.execution, results?.get(effect.execution));
    }
  }

  #tellResult(subject: string, execution: string, result: string | undefined): void {
    const { bus, session } = this.#options;
    if (result === undefined || subject === '') return;
    // Without it the client asks by itself.
    publishOrDrop(bus, subject, { session, execution, result });
  }

  publish(events: readonly ExecutionEvent[]): void {
    const { bus, subjects, events: of } = this.#options;
    if (of === undefined) return;
    for (const event of events) {
      try {
        bus.publish(subjects.sessionEvent(of, event.type), event);
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        if (error.code !== 'PAYLOAD_TOO_LARGE') return; // The next owner, or a reader of the log, sees to it.
      }
      this.#publishedSeq = event.seq;
    }
  }

  // ---- messages ------------------------------------------------------------------------------------------

  #execution(id: string): Execution | undefined {
    return this.#options.context().executions.find((execution) => execution.id === id);
  }

  #makeOffer(id: string, attempt: string): Offer | undefined {
    const { session, home, tenant, share, epoch, isolation, live } = this.#options;
    const execution = this.#execution(id);
    const texts = live.executions.get(id);
    if (execution?.attempt?.id !== attempt || texts === undefined) return undefined;
    return {
      t: 'offer',
      session,
      home,
      epoch,
      attempt,
      execution: id,
      source: texts.source,
      input: texts.input,
      state: texts.base ?? live.state,
      seed: texts.seed,
      startTime: execution.startTime,
      limits: texts.limits,
      isolation,
      tenant: tenant === undefined ? undefined : `run:${tenant}`,
      share: share(),
      alone: execution.alone,
      replay: execution.attempt.replay,
      deliveries: [],
      versions: execution.versions,
    };
  }

  #makeCall(id: string, index: number, t: 'call' | 'reconcile'): CallTool | undefined {
    const { session, home, behalf, epoch, live, leaseLeftMs } = this.#options;
    const open = this.#execution(id)?.calls.find((call) => call.index === index);
    const texts = live.executions.get(id);
    const made = texts?.journal.callAt(index);
    if (open === undefined || texts === undefined || made === undefined) return undefined;
    return {
      t,
      key: `${session}/${id}/${index}`,
      session,
      home,
      execution: id,
      index,
      name: made.name,
      args: made.args,
      epoch,
      notAfterMs: leaseLeftMs(),
      maxPayloadBytes: texts.limits.maxToolPayloadBytes,
      tenant: behalf,
    };
  }
}

/** As whom, when and by what the owner speaks. */
function voiceOf({ session, bus, clock, subjects, mayAct, acks, leaseHolds }: EffectsOptions) {
  return { session, bus, clock, subjects, mayAct, acks, leaseHolds };
}
