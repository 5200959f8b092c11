/**
 * What the steps since the last commit decided, gathered for the next one: what is written, and what is done and
 * answered once it is.
 */

import { isInDoubt } from '../../actors/ending.ts';
import {
  type EventPayloads,
  type EventType,
  type ExecutionEvent,
  PROTOCOL_VERSION,
} from '../../actors/events.ts';
import type {
  Answer,
  Ended,
  JournalEntry,
  Output,
  SessionContext,
  SessionEffect,
  StepEvent,
} from '../../actors/sessiondata.ts';
import { type Audited, auditRecord } from './audit.ts';
import { SessionJournal } from './journal.ts';
import type { ExecutionTexts, LiveExecution, LiveSession } from './live.ts';
import type { BrokerNotice } from './notice.ts';
import { redactedPayload } from './redaction.ts';
import { resultJson } from './results.ts';
import { textOf } from './snapshot.ts';

/** What is stored of an execution, each in a field `<name>:<execution>`. */
const FIELDS = ['source', 'input', 'spec', 'result', 'ran', 'base', 'audit'] as const;

export interface BatchOptions {
  /** On whose behalf the session is. */
  readonly tenant: string;
  /** Keep what scripts write, pass and return out of events. */
  readonly redactEvents: boolean;
  /** Make a record of every execution that ends. Undefined: none. */
  readonly audited: Audited | undefined;
}

export class Batch {
  readonly effects: SessionEffect[] = [];
  readonly answers: { readonly ref: number; readonly answer: Answer }[] = [];
  readonly events: ExecutionEvent[] = [];
  readonly journal = new Map<string, JournalEntry[]>();
  readonly fields: Record<string, string | null> = {};
  readonly forget: string[] = [];
  /** Reports taken in, by attempt. */
  readonly reports = new Map<string, number>();
  /** JSON of the results of executions that ended, by execution. */
  readonly results = new Map<string, string>();
  /** What the operator is told once it is committed. */
  readonly facts: BrokerNotice[] = [];
  readonly #session: string;
  readonly #seq: number;
  readonly #live: LiveSession;
  readonly #options: BatchOptions;
  #urgent = false;
  #dirty = false;
  #output = 0;
  #purge = false;

  /** `seq` is the number of the last event before this batch. */
  constructor(session: string, seq: number, live: LiveSession, options: BatchOptions) {
    this.#session = session;
    this.#seq = seq;
    this.#live = live;
    this.#options = options;
  }

  /** Something must not happen before this is committed. */
  get urgent(): boolean {
    return this.#urgent;
  }
  /** There is something to commit. */
  get dirty(): boolean {
    return this.#dirty;
  }
  /** Text that scripts wrote, in UTF-16 units of its JSON. */
  get output(): number {
    return this.#output;
  }
  /** The session may be deleted. */
  get purge(): boolean {
    return this.#purge;
  }
  /** The number of the last event. */
  get seq(): number {
    return this.#seq + this.events.length;
  }

  /** A report goes into the next step. */
  report(attempt: string, n: number): void {
    this.reports.set(attempt, n);
    this.#dirty = true;
  }

  /** Put in what a step decided. `context` is the one after it, `arriving` what the command that it took in brought. */
  collect(out: Output, context: SessionContext, arriving: ExecutionTexts | undefined): void {
    if (out.urgent) {
      this.#urgent = true;
      this.#dirty = true;
    }
    if (out.purge) this.#purge = true;
    if (arriving !== undefined) for (const id of out.accepted) this.#accept(id, arriving);
    for (const { execution, entry } of out.journal) this.#enter(execution, entry);
    for (const event of out.events) this.#event(event);
    if (out.state !== undefined) this.#changeState(out.state, context);
    for (const ended of out.ended) this.#end(ended);
    for (const id of out.forget) {
      this.forget.push(id);
      for (const field of FIELDS) this.fields[`${field}:${id}`] = null;
    }
    this.effects.push(...out.effects);
    this.answers.push(...out.replies);
  }

  #accept(id: string, texts: ExecutionTexts): void {
    this.#live.executions.set(id, { ...texts, base: undefined, journal: new SessionJournal() });
    const { source, input, seed, limits, trace } = texts;
    this.fields[`source:${id}`] = source;
    if (input !== '') this.fields[`input:${id}`] = input;
    const traced = trace === undefined ? '' : `,"trace":${JSON.stringify(trace)}`;
    this.fields[`spec:${id}`] = `{"seed":[${seed.join()}],"limits":${textOf(limits)}${traced}}`;
  }

  #enter(execution: string, entry: JournalEntry): void {
    const journal = this.#live.executions.get(execution)?.journal;
    journal?.add(entry);
    if (entry[0] === 'd') this.#callEnded(execution, entry, journal);
    const entries = this.journal.get(execution);
    if (entries === undefined) this.journal.set(execution, [entry]);
    else entries.push(entry);
    this.#dirty = true;
  }

  #event({ type, execution, payload }: StepEvent): void {
    this.#dirty = true;
    if (type === 'stdout' || type === 'log') this.#output += JSON.stringify(payload).length;
    this.events.push({
      protocolVersion: PROTOCOL_VERSION,
      sessionId: this.#session,
      seq: this.seq + 1,
      type,
      payload: this.#options.redactEvents ? this.#redacted(type, payload, execution) : payload,
      executionId: execution,
    } as ExecutionEvent);
  }

  #redacted(type: EventType, payload: EventPayloads[EventType], execution: string): EventPayloads[EventType] {
    return redactedPayload(type, payload, this.#live.executions.get(execution)?.seed ?? []);
  }

  /** Executions that began before keep the state that they began with. */
  #changeState(state: string, { executions, stateVersion }: SessionContext): void {
    for (const [id, live] of this.#live.executions) {
      if (live.base !== undefined) continue;
      const execution = executions.find((each) => each.id === id);
      const ending = execution === undefined;
      // One that has not begun, or has begun in this very step, begins with the new state.
      if (!ending && (execution.startTime === 0 || execution.stateVersion === stateVersion)) continue;
      live.base = this.#live.state;
      if (!ending) this.fields[`base:${id}`] = this.#live.state;
    }
    this.#live.state = state;
    this.fields.state = state;
    this.#dirty = true;
  }

  #end(ended: Ended): void {
    const { id, startTime, versions } = ended.execution;
    const live = this.#live.executions.get(id);
    if (live === undefined) return;
    const result = resultJson(ended, live.journal);
    this.results.set(id, result);
    this.fields[`result:${id}`] = result;
    this.fields[`ran:${id}`] =
      `{"startTime":${startTime}${versions === undefined ? '' : `,"versions":${textOf(versions)}`}}`;
    this.fields[`base:${id}`] = live.base ?? this.#live.state;
    this.#tellEnd(ended, live, result);
    this.#audit(ended, live);
    this.#live.executions.delete(id);
  }

  /** It is stored beside the result, so that who takes the session over can tell it again. */
  #audit(ended: Ended, live: LiveExecution): void {
    const { audited } = this.#options;
    if (audited === undefined) return;
    const record = auditRecord(audited, ended, live);
    this.fields[`audit:${ended.execution.id}`] = JSON.stringify(record);
    this.facts.push({ type: 'execution.audited', record });
  }

  // ---- for the operator ----------------------------------------------------------------------------------

  #callEnded(
    execution: string,
    [, index, code, , , durationMs]: Extract<JournalEntry, readonly ['d', ...unknown[]]>,
    journal: SessionJournal | undefined,
  ): void {
    const call = journal?.callAt(index);
    if (call === undefined) return; // It was a sleep.
    const outcome = code === '' ? 'completed' : code === 'OUTCOME_UNKNOWN' ? 'unknown' : 'failed';
    this.facts.push({
      type: 'tool.ended',
      session: this.#session,
      execution,
      tool: call.name,
      outcome,
      code,
      durationMs,
      args: call.args,
    });
  }

  #tellEnd({ execution, at, end }: Ended, { journal, source }: LiveExecution, result: string): void {
    const { id, acceptedAt, calls } = execution;
    const session = this.#session;
    // Calls that have no end of their own end with it.
    for (const open of calls) {
      const outcome = isInDoubt(open) ? 'unknown' : 'not_started';
      const { name: tool = '', args = '' } = journal.callAt(open.index) ?? {};
      const durationMs = outcome === 'unknown' ? at - open.since : 0;
      this.facts.push({
        type: 'tool.ended',
        session,
        execution: id,
        tool,
        outcome,
        code: 'CANCELLED',
        durationMs,
        args,
      });
    }
    this.facts.push({
      type: 'execution.ended',
      session,
      execution: id,
      result,
      outcome: end.ok ? 'completed' : end.outcome,
      code: end.ok ? 'OK' : end.code,
      latencyMs: Math.max(0, at - acceptedAt),
      tenant: this.#options.tenant,
      source,
    });
  }
}
