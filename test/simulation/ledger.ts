/**
 * What was committed, as the store's observer saw it: the truth that everything else is compared with. It forgets
 * nothing, whatever the store trims or the sessions forget.
 *
 * It holds to account as it goes: I1 (one accepted writer per version, epochs never fall), the log's part of I4 (no
 * gap, no duplicate), and I2 (an execution begins once, ends once, and its result never changes).
 */
import type { Delivery } from '../../actors/attempt.ts';
import type { ExecutionEvent } from '../../actors/events.ts';
import type { JournalEntry } from '../../actors/sessiondata.ts';
import { versionOf } from '../../src/session/snapshot.ts';
import type {
  AcquireReply,
  Acquisition,
  Commit,
  CommitReply,
  CreateReply,
  Creation,
} from '../../src/store/store.ts';
import { AHEAD } from './releases.ts';
import { Violation } from './violation.ts';

export interface ExecutionLedger {
  readonly session: string;
  readonly id: string;
  readonly source: string;
  readonly input: string;
  readonly seed: readonly [number, number, number, number];
  readonly acceptedAt: number;
  /** When its script's clock started, and the states that it may have begun with; undefined before. */
  start: { readonly time: number; readonly states: readonly string[] } | undefined;
  readonly entries: JournalEntry[];
  readonly deliveries: Delivery[];
  /** Indexes that were delivered. */
  readonly delivered: Set<number>;
  readonly events: ExecutionEvent[];
  readonly attempts: Set<string>;
  base: string | undefined;
  /** JSON of its ExecutionResult; undefined while it runs. */
  result: string | undefined;
  /** The state that its end committed; undefined if none, 'unclear' if others succeeded in the same commit. */
  state: string | undefined;
  endedAt: number;
  ended: boolean;
  forgotten: boolean;
}

export interface AttemptLedger {
  readonly execution: ExecutionLedger;
  /** Reports that were committed, as far as its session still tells. */
  reports: number;
  /** It is its execution's present attempt. */
  present: boolean;
}

export interface SessionLedger {
  readonly id: string;
  owner: { readonly incarnation: string; readonly epoch: number; readonly nonce: string } | undefined;
  epoch: number;
  version: number;
  publishedSeq: number;
  readonly events: string[];
  readonly operations: Set<string>;
  readonly executions: Map<string, ExecutionLedger>;
  state: string;
  closed: '' | 'closed' | 'expired';
  /** Something was forgotten: commands may be refused as expired. */
  forgot: boolean;
  maxActivations: number;
  /** Of its snapshot, as it is stored. */
  format: number | undefined;
}

export class Ledger {
  readonly sessions = new Map<string, SessionLedger>();
  readonly attempts = new Map<string, AttemptLedger>();
  /** How often a snapshot was written in another version than the one before it. */
  readonly formats = { raised: 0, lowered: 0 };
  /** When each incarnation's lease ends, in virtual time, and whose it is. */
  readonly #leases = new Map<string, { readonly process: string; readonly endsAt: number }>();
  /** Called with each execution that ended, after its commit. */
  onEnded: (execution: ExecutionLedger, session: SessionLedger) => void = () => undefined;

  session(id: string): SessionLedger | undefined {
    return this.sessions.get(id);
  }

  execution(session: string, id: string): ExecutionLedger | undefined {
    return this.sessions.get(session)?.executions.get(id);
  }

  // ---- leases --------------------------------------------------------------------------------------------

  leased(process: string, incarnation: string, endsAt: number): void {
    this.#leases.set(incarnation, { process, endsAt });
  }

  /** True if any incarnation of the process is alive. */
  leaseLives(process: string, now: number): boolean {
    for (const lease of this.#leases.values()) {
      if (lease.process === process && lease.endsAt > now) return true;
    }
    return false;
  }

  // ---- records -------------------------------------------------------------------------------------------

  created(creation: Creation, reply: CreateReply): void {
    const { session, owner, nonce, fields } = creation;
    if (reply.status !== 'created' || this.sessions.has(session)) return;
    this.sessions.set(session, {
      id: session,
      owner: { incarnation: owner, epoch: 1, nonce },
      epoch: 1,
      version: 1,
      publishedSeq: 0,
      events: [],
      operations: new Set(),
      executions: new Map(),
      state: fields?.state ?? '{}',
      closed: '',
      forgot: false,
      maxActivations: 0,
      format: versionOf(creation.snapshot),
    });
  }

  acquired({ session, owner, nonce }: Acquisition, reply: AcquireReply): void {
    if (reply.status !== 'acquired') return;
    const ledger = this.#of(session);
    const { epoch, version, snapshot } = reply.record;
    if (epoch <= ledger.epoch)
      throw new Violation('I1', `${session}: epoch ${epoch} was acquired after ${ledger.epoch}`);
    if (version !== ledger.version)
      throw new Violation(
        'I1',
        `${session}: version ${version} was found where ${ledger.version} was committed`,
      );
    ledger.epoch = epoch;
    ledger.owner = { incarnation: owner, epoch, nonce };
    const { value, context } = AHEAD.decode(snapshot);
    const written = (JSON.parse(snapshot) as { readonly epoch: number }).epoch;
    if (AHEAD.encode(value, context, written, versionOf(snapshot)) !== snapshot)
      throw new Violation('I4', `${session}: the snapshot is another one when it was read and written again`);
  }

  committed(commit: Commit, reply: CommitReply): void {
    if (reply.status !== 'committed') return;
    const ledger = this.#of(commit.session);
    this.#checkWriter(ledger, commit, reply.version);
    ledger.version = reply.version;
    ledger.operations.add(commit.operation);
    ledger.publishedSeq = commit.publishedSeq;
    const before = ledger.state;
    const state = commit.fields?.state;
    if (typeof state === 'string') ledger.state = state;
    const ended = this.#takeEvents(ledger, commit);
    this.#takeJournal(ledger, commit);
    this.#takeSnapshot(ledger, commit, [before, ledger.state]);
    this.#takeResults(ledger, commit, ended);
    if (commit.release === true) ledger.owner = undefined;
    for (const id of commit.forget ?? []) this.#forget(ledger, id);
    this.#takeState(commit, ended);
    for (const execution of ended) this.onEnded(execution, ledger);
  }

  #takeState({ session, fields }: Commit, ended: readonly ExecutionLedger[]): void {
    const state = fields?.state ?? undefined;
    const succeeded = ended.filter(isSuccess);
    if (state !== undefined && succeeded.length === 0)
      throw new Violation('I5', `${session}: its state changed, and no execution succeeded`);
    for (const execution of succeeded) execution.state = succeeded.length === 1 ? state : 'unclear';
  }

  #checkWriter(
    ledger: SessionLedger,
    { session, owner, epoch, nonce, operation }: Commit,
    version: number,
  ): void {
    const { owner: expected } = ledger;
    if (expected?.epoch !== epoch || expected.nonce !== nonce || expected.incarnation !== owner)
      throw new Violation(
        'I1',
        `${session}: ${owner} wrote version ${version} in epoch ${epoch}; the owner is ${expected?.incarnation ?? 'nobody'} in epoch ${ledger.epoch}`,
      );
    if (version !== ledger.version + 1)
      throw new Violation('I1', `${session}: version ${version} was written after ${ledger.version}`);
    if (ledger.operations.has(operation))
      throw new Violation('I2', `${session}: operation ${operation} was committed twice`);
  }

  /** Returns the executions that ended. */
  #takeEvents(ledger: SessionLedger, { session, firstSeq, events, fields = {} }: Commit): ExecutionLedger[] {
    const ended: ExecutionLedger[] = [];
    if (events.length > 0 && firstSeq !== ledger.events.length + 1)
      throw new Violation(
        'I4',
        `${session}: events from ${firstSeq} were written after ${ledger.events.length}`,
      );
    for (const json of events) {
      const event = JSON.parse(json) as ExecutionEvent;
      ledger.events.push(json);
      if (event.seq !== ledger.events.length || event.sessionId !== session)
        throw new Violation(
          'I4',
          `${session}: event ${ledger.events.length} of the log has number ${event.seq}`,
        );
      const id = event.executionId ?? '';
      if (event.type === 'session_init') this.#begin(ledger, id, fields);
      const execution = ledger.executions.get(id);
      if (execution === undefined || execution.ended)
        throw new Violation('I2', `${session}: ${event.type} of ${id}, which has not begun or has ended`);
      execution.events.push(event);
      if (event.type !== 'final') continue;
      execution.ended = true;
      ended.push(execution);
    }
    return ended;
  }

  #begin(ledger: SessionLedger, id: string, fields: NonNullable<Commit['fields']>): void {
    if (ledger.executions.has(id)) throw new Violation('I2', `${ledger.id}: ${id} began twice`);
    const { seed } = JSON.parse(fields[`spec:${id}`] ?? '{}') as { readonly seed: ExecutionLedger['seed'] };
    ledger.executions.set(id, {
      session: ledger.id,
      id,
      source: fields[`source:${id}`] ?? '',
      input: fields[`input:${id}`] ?? '',
      seed,
      acceptedAt: 0,
      start: undefined,
      entries: [],
      deliveries: [],
      delivered: new Set(),
      events: [],
      attempts: new Set(),
      base: undefined,
      result: undefined,
      state: undefined,
      endedAt: 0,
      ended: false,
      forgotten: false,
    });
  }

  #takeJournal(ledger: SessionLedger, { session, journal = [] }: Commit): void {
    for (const { execution: id, entries } of journal) {
      const execution = ledger.executions.get(id);
      if (execution === undefined)
        throw new Violation('I2', `${session}: a journal of ${id}, which has not begun`);
      for (const text of entries) this.#takeEntry(execution, JSON.parse(text) as JournalEntry);
    }
  }

  #takeEntry(execution: ExecutionLedger, entry: JournalEntry): void {
    const what = `${execution.session}/${execution.id}`;
    if (entry[0] !== 'd') {
      if (entry[1] !== execution.entries.length)
        throw new Violation(
          'I2',
          `${what}: entry ${entry[1]} was journaled after ${execution.entries.length} others`,
        );
      execution.entries.push(entry);
      return;
    }
    const [, index, code, payload, time] = entry;
    if (execution.entries[index] === undefined || execution.delivered.has(index))
      throw new Violation('I2', `${what}: the end of ${index} was journaled twice, or before its beginning`);
    execution.delivered.add(index);
    execution.deliveries.push([index, code, payload, time]);
  }

  #takeSnapshot(ledger: SessionLedger, { snapshot }: Commit, states: readonly string[]): void {
    const { context } = AHEAD.decode(snapshot);
    const format = versionOf(snapshot) ?? 0;
    if (format > (ledger.format ?? format)) this.formats.raised++;
    if (format < (ledger.format ?? format)) this.formats.lowered++;
    ledger.format = format;
    ledger.closed = context.ended;
    ledger.maxActivations = Math.max(ledger.maxActivations, context.activations);
    this.#retireAttempts(ledger);
    for (const { id, startTime, attempt } of context.executions) {
      const execution = ledger.executions.get(id);
      if (execution === undefined) continue;
      if (attempt !== undefined) {
        execution.attempts.add(attempt.id);
        this.attempts.set(attempt.id, { execution, reports: attempt.reports, present: true });
      }
      if (startTime === 0) continue;
      execution.start ??= { time: startTime, states };
      if (execution.start.time !== startTime)
        throw new Violation(
          'I4',
          `${ledger.id}/${id}: its clock started at ${execution.start.time}, now at ${startTime}`,
        );
    }
  }

  #retireAttempts({ executions }: SessionLedger): void {
    for (const { attempts } of executions.values()) {
      for (const attempt of attempts) {
        const known = this.attempts.get(attempt);
        if (known !== undefined) known.present = false;
      }
    }
  }

  #takeResults(ledger: SessionLedger, { fields = {} }: Commit, ended: readonly ExecutionLedger[]): void {
    for (const [name, text] of Object.entries(fields)) {
      if (!name.startsWith('result:') || text === null) continue;
      const execution = ledger.executions.get(name.slice('result:'.length));
      if (execution === undefined || !ended.includes(execution) || execution.result !== undefined)
        throw new Violation('I2', `${ledger.id}: ${name} was written, and not by the commit of its end`);
      execution.result = text;
      execution.base = fields[`base:${execution.id}`] ?? undefined;
    }
  }

  #forget(ledger: SessionLedger, id: string): void {
    ledger.forgot = true;
    const execution = ledger.executions.get(id);
    if (execution === undefined || !execution.ended)
      throw new Violation('I5', `${ledger.id}: ${id} was forgotten, and it has not ended`);
    execution.forgotten = true;
  }

  #of(session: string): SessionLedger {
    const ledger = this.sessions.get(session);
    if (ledger === undefined) throw new Violation('I1', `${session}: written, and never created`);
    return ledger;
  }
}

function isSuccess({ events }: ExecutionLedger): boolean {
  const last = events.at(-1);
  return last?.type === 'final' && last.payload.ok;
}
