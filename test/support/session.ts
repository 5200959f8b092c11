/**
 * A session's machine under test: facts go in through the pure `transition`, what comes out is gathered, and after
 * every step what must always be so is checked.
 *
 * Checked after each step:
 *  D1  The context given was not changed: it is frozen before.
 *  D2  M2: at most `maxConcurrentExecutions` are not queued, and nobody overtakes.
 *  D3  M3: `pending` holds exactly the attempts and the dispatched calls that are under way, each once.
 *  D4  The context is plain data: a session that was written and read before every step goes the same way.
 *  D5  Per execution: `session_init` first, one `final` last, each with its end; the journal holds what the counters
 *      say, and its clock never decreases.
 *  D6  An attempt is offered once.
 *  D7  A step that has something to do after its commit is committed at once.
 *  D8  While anything waits for the time, the next wake is known.
 */
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'vitest';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import type { AttemptEnd } from '../../actors/attempt.ts';
import type { RuntimeView } from '../../actors/placement.ts';
import type { Routing } from '../../actors/routing.ts';
import { hasWork, nextWake, type SessionStateValue, sessionMachine } from '../../actors/session.ts';
import type {
  Answer,
  Ended,
  Execution,
  ExecutionLimits,
  JournalEntry,
  Output,
  Pending,
  ReportedItem,
  SessionContext,
  SessionEffect,
  SessionEvent,
  SessionSettings,
  StepEvent,
  Surroundings,
  ToolEnd,
} from '../../actors/sessiondata.ts';
import type { ToolCallRecord } from '../../src/result.ts';
import { SessionJournal } from '../../src/session/journal.ts';
import { CODEC } from '../../src/session/release.ts';

export const START = 1_800_000_000_000;

export const SETTINGS: SessionSettings = {
  ttlMs: 300_000,
  labels: {},
  maxConcurrentExecutions: 1,
  maxExecutions: 10,
  keepExecutions: 5,
  tombstoneMs: 60_000,
  placementTimeoutMs: 30_000,
  providerTimeoutMs: 10_000,
  parkAfterMs: 10_000,
  quarantineAfter: 2,
};

export const LIMITS: ExecutionLimits = {
  maxToolCalls: 100,
  maxConcurrentToolCalls: 10,
  timeoutMs: 30_000,
  deadlineMs: 3_600_000,
};

export const VERSIONS = { engine: 'v8-1', prelude: 'p-1', stripper: 's-1' };

export const runtime = (id: string, over: Partial<RuntimeView> = {}): RuntimeView => ({
  id,
  labels: {},
  free: 4,
  draining: false,
  versions: VERSIONS,
  ...over,
});

// ---- what a script reports -------------------------------------------------------------------------------

type CallItem = Extract<ReportedItem, { kind: 'call' }>;

export const call = (index: number, over: Partial<Omit<CallItem, 'kind' | 'index'>> = {}): CallItem => ({
  kind: 'call',
  index,
  name: 'work',
  json: '{}',
  refusal: undefined,
  effect: 'unsafe',
  reconcilable: false,
  ...over,
});
export const sleep = (index: number, ms: number): ReportedItem => ({ kind: 'sleep', index, ms });
export const output = (text: string): ReportedItem => ({ kind: 'output', level: '', text });
/** `ok` is filled in from the journal. */
export const applied = (index: number): ReportedItem => ({ kind: 'applied', index, ok: undefined });

const USAGE = { cpu: 1, heap: 1_000 };
export const returned = (json = '1', state?: string): AttemptEnd => ({
  kind: 'returned',
  json,
  state,
  usage: USAGE,
});
export const failed = (code = 'SCRIPT_ERROR'): AttemptEnd => ({
  kind: 'failed',
  code,
  name: 'Error',
  message: 'it failed',
  stack: '',
  usage: USAGE,
});
export const crashed = (alone: boolean): AttemptEnd => ({ kind: 'lost', alone });
export const value = (json = '1'): ToolEnd => ({ ok: true, json });

// ---- the driver ------------------------------------------------------------------------------------------

type Told<T extends SessionEvent = SessionEvent> = T extends SessionEvent
  ? Omit<T, keyof Surroundings | 'ref'>
  : never;
type Snapshot = SnapshotFrom<typeof sessionMachine>;

export interface ReportOptions {
  readonly items?: readonly ReportedItem[] | undefined;
  /** Default: false. */
  readonly waiting?: boolean | undefined;
  readonly end?: AttemptEnd | undefined;
  /** Deliveries that the runtime has; default: all there are. */
  readonly received?: number | undefined;
  /** Default: the next one of the present attempt. */
  readonly n?: number | undefined;
  /** Default: the present one. */
  readonly attempt?: string | undefined;
}

interface Story {
  readonly journal: SessionJournal;
  readonly entries: JournalEntry[];
  readonly events: StepEvent[];
  ended: Ended | undefined;
}

export interface DriverOptions {
  readonly settings?: Partial<SessionSettings> | undefined;
  readonly runtimes?: readonly RuntimeView[] | undefined;
  /** Default: on the runtime with the most room. */
  readonly routing?: Routing | undefined;
  /** Go on from a snapshot. */
  readonly snapshot?: string | undefined;
}

export class SessionDriver {
  now = START;
  runtimes: readonly RuntimeView[];
  /** How its broker places. */
  routing: Routing | undefined;
  /** Others wait for room whose turn comes first. */
  behind = false;
  /** Every event of the session, numbered from 1 by its place. */
  readonly events: StepEvent[] = [];
  readonly #stories = new Map<string, Story>();
  readonly #offered = new Set<string>();
  /** Executions that were there before, whose story is not known. */
  readonly #inherited = new Set<string>();
  #snapshot: Snapshot;
  /** The same session, written and read before every step. */
  #twin: Snapshot;
  #fresh = 0;
  /** Ids of attempts are never used twice, not by another owner either. */
  readonly #prefix: string;
  #ref = 0;

  constructor({ settings, runtimes, routing, snapshot }: DriverOptions = {}) {
    this.routing = routing;
    this.#prefix = snapshot === undefined ? 'a' : 'b';
    this.runtimes = runtimes ?? [runtime('r1'), runtime('r2')];
    if (snapshot === undefined) {
      const input = { id: 's1', settings: { ...SETTINGS, ...settings }, now: START };
      [this.#snapshot] = initialTransition(sessionMachine, input);
    } else {
      this.#snapshot = sessionMachine.resolveState(CODEC.decode(snapshot));
      for (const { id, attempt } of this.context.executions) {
        this.#inherited.add(id);
        if (attempt !== undefined) this.#offered.add(attempt.id);
      }
    }
    this.#twin = this.#snapshot;
  }

  get context(): SessionContext {
    return this.#snapshot.context;
  }
  get state(): SessionStateValue {
    return this.#snapshot.value as SessionStateValue;
  }
  get out(): Output {
    return this.context.out;
  }
  get nextWake(): number | undefined {
    return nextWake(this.context);
  }
  get encoded(): string {
    return CODEC.encode(this.state, this.context, 1);
  }

  // ---- facts ---------------------------------------------------------------------------------------------

  tell(event: Told): Output {
    const { now, runtimes, routing, behind } = this;
    const around = { now, fresh: `${this.#prefix}${++this.#fresh}`, runtimes, routing, behind };
    const asked = /^(session\.(migrate|hibernate|close)|execution\.)/.test(event.type);
    const fact = { ...event, ...around, ...(asked ? { ref: ++this.#ref } : {}) } as SessionEvent;
    deepFreeze(this.context); // D1
    deepFreeze(fact);
    const before = this.context;
    [this.#snapshot] = transition(sessionMachine, this.#snapshot, fact);
    const reread = sessionMachine.resolveState(
      CODEC.decode(CODEC.encode(this.#twin.value as SessionStateValue, this.#twin.context, 1)),
    );
    [this.#twin] = transition(sessionMachine, reread, fact);
    this.#gather();
    this.#check(before, asked);
    return this.out;
  }

  /** A fact that is answered. */
  #ask(event: Told): Answer {
    const { replies } = this.tell(event);
    return found(replies[0], 'an answer').answer;
  }

  request(
    id: string,
    over: {
      readonly issuedAt?: number;
      readonly fingerprint?: string;
      readonly limits?: Partial<ExecutionLimits>;
    } = {},
  ): Answer {
    const { issuedAt = this.now, fingerprint = 'f', limits } = over;
    const execution = { id, fingerprint, issuedAt, tell: `tell.${id}`, limits: { ...LIMITS, ...limits } };
    return this.#ask({ type: 'execution.requested', execution });
  }
  cancel(execution: string): Answer {
    return this.#ask({ type: 'execution.cancel', execution, reason: 'not wanted' });
  }
  migrate(): Answer {
    return this.#ask({ type: 'session.migrate' });
  }
  hibernate(): Answer {
    return this.#ask({ type: 'session.hibernate' });
  }
  close(): Answer {
    return this.#ask({ type: 'session.close' });
  }
  activate(): Output {
    return this.tell({ type: 'session.activated' });
  }
  /** Time passes, and the session is told. */
  pass(ms: number): Output {
    this.now += ms;
    return this.tell({ type: 'time.passed' });
  }

  /** What the runtime of the present attempt reports, as the owner reads it. */
  report(execution: string, options: ReportOptions = {}): Output {
    const live = this.context.executions.find(({ id }) => id === execution);
    const { attempt = live?.attempt?.id ?? 'none', n = (live?.attempt?.reports ?? 0) + 1 } = options;
    const { items = [], received = live?.deliveries ?? 0, waiting = false, end } = options;
    const journal = this.#stories.get(execution)?.journal;
    let mismatch = false;
    const read = items.map((item): ReportedItem => {
      if (item.kind === 'call')
        mismatch ||= journal?.contradicts(item.index, 'call', item.name, item.json) ?? false;
      if (item.kind === 'sleep')
        mismatch ||= journal?.contradicts(item.index, 'sleep', '', String(item.ms)) ?? false;
      return item.kind === 'applied' ? { ...item, ok: journal?.succeeded(item.index) } : item;
    });
    return this.tell({
      type: 'attempt.reported',
      execution,
      attempt,
      n,
      received,
      items: read,
      waiting,
      end,
      mismatch,
    });
  }
  refuse(execution: string, code = 'OVERLOADED', attempt = this.attempt(execution).id): Output {
    return this.tell({ type: 'attempt.refused', execution, attempt, code, message: 'no room' });
  }
  lose(execution: string, attempt = this.attempt(execution).id): Output {
    return this.tell({ type: 'attempt.lost', execution, attempt });
  }
  endCall(execution: string, index: number, end: ToolEnd = value()): Output {
    return this.tell({ type: 'call.ended', execution, index, end, durationMs: 5 });
  }
  loseCall(execution: string, index: number): Output {
    return this.tell({ type: 'call.lost', execution, index });
  }
  missProvider(execution: string, index: number): Output {
    return this.tell({ type: 'call.unprovided', execution, index });
  }

  // ---- what there is -------------------------------------------------------------------------------------

  execution(id: string): Execution {
    return found(
      this.context.executions.find((execution) => execution.id === id),
      `a live execution ${id}`,
    );
  }
  attempt(id: string): NonNullable<Execution['attempt']> {
    return found(this.execution(id).attempt, `an attempt of ${id}`);
  }
  open(id: string, index: number): Execution['calls'][number] {
    return found(
      this.execution(id).calls.find((open) => open.index === index),
      `an open call ${index}`,
    );
  }
  get live(): readonly string[] {
    return this.context.executions.map(({ id }) => id);
  }
  /** The effects of the last step of one type. */
  effects<T extends SessionEffect['type']>(type: T): readonly Extract<SessionEffect, { type: T }>[] {
    return this.out.effects.filter(
      (effect): effect is Extract<SessionEffect, { type: T }> => effect.type === type,
    );
  }
  /** How it ended; undefined while it lives, or if it was never accepted. */
  ended(id: string): Ended | undefined {
    return this.#stories.get(id)?.ended;
  }
  /** The code that it failed with; undefined if it has not. */
  code(id: string): string | undefined {
    const end = this.ended(id)?.end;
    return end === undefined || end.ok ? undefined : end.code;
  }
  entries(id: string): readonly JournalEntry[] {
    return found(this.#stories.get(id), `a story of ${id}`).entries;
  }
  /** Deliveries of an execution: index and code. */
  deliveries(id: string): readonly (readonly [number, string])[] {
    return this.entries(id).flatMap((entry) => (entry[0] === 'd' ? [[entry[1], entry[2]] as const] : []));
  }
  eventsOf(id: string): readonly StepEvent[] {
    return found(this.#stories.get(id), `a story of ${id}`).events;
  }
  /** The calls as the result of an ended execution tells them. */
  records(id: string): readonly ToolCallRecord[] {
    const { journal, ended } = found(this.#stories.get(id), `a story of ${id}`);
    const { execution, at } = found(ended, `an end of ${id}`);
    return journal.records(execution, at);
  }
  get accepted(): readonly string[] {
    return [...this.#stories.keys()];
  }

  // ---- checks --------------------------------------------------------------------------------------------

  #gather(): void {
    const { out } = this;
    for (const id of out.accepted) {
      expect(this.#stories.has(id) || this.#inherited.has(id), `${id} is accepted once (M1)`).toBe(false);
      this.#stories.set(id, { journal: new SessionJournal(), entries: [], events: [], ended: undefined });
    }
    for (const { execution, entry } of out.journal) {
      const story = this.#stories.get(execution);
      story?.journal.add(entry);
      story?.journal.commit();
      story?.entries.push(entry);
    }
    for (const event of out.events) {
      this.events.push(event);
      this.#stories.get(event.execution)?.events.push(event);
    }
    for (const ended of out.ended) {
      const { id } = ended.execution;
      const story = this.#stories.get(id);
      this.#inherited.delete(id);
      if (story === undefined) continue;
      expect(story.ended, `${id} ends once`).toBeUndefined();
      story.ended = ended;
    }
    for (const effect of out.effects) {
      if (effect.type !== 'offer') continue;
      must(!this.#offered.has(effect.attempt), `${effect.attempt} is offered once (D6)`);
      this.#offered.add(effect.attempt);
    }
  }

  #check(before: SessionContext, asked: boolean): void {
    must(this.#snapshot.status === 'active', 'the machine goes on');
    must(this.state !== ('deciding' as string), 'no step ends between two states');
    must(this.out.replies.length === (asked ? 1 : 0), 'whoever asks is answered once');
    this.#checkConcurrency();
    this.#checkPending();
    this.#checkTwin();
    for (const execution of this.context.executions) this.#checkExecution(execution);
    this.#checkStories();
    const { urgent, effects, ended, accepted, state, purge } = this.out;
    const haste = effects.length + ended.length + accepted.length > 0 || state !== undefined || purge;
    must(!haste || urgent, 'what must be done is committed at once (D7)');
    const { ended: over, executions, settings } = this.context;
    const waits = over !== '' || executions.length > 0 || settings.ttlMs > 0;
    must(waits === (this.nextWake !== undefined), 'whoever waits for the time is woken (D8)');
    must(this.nextWake === undefined || Number.isFinite(this.nextWake), 'a wake is a time');
    const due = over === '' ? executions.flatMap(timesOf) : [];
    must(
      due.every((at) => (this.nextWake ?? Infinity) <= at),
      'nobody is woken too late (D8)',
    );
    const working = over === '' && executions.some(({ phase }) => phase !== 'parked');
    must(hasWork(this.context) === working, 'there is work while anything is not parked');
    must(state === undefined || ended.some(({ end }) => end.ok), 'state changes with a success only');
    must(
      before.stateVersion + (state === undefined ? 0 : 1) === this.context.stateVersion,
      'state is counted',
    );
  }

  /** D2 */
  #checkConcurrency(): void {
    const { executions, settings } = this.context;
    const queued = executions.map(({ phase }) => phase === 'queued');
    const running = queued.filter((waits) => !waits).length;
    must(running <= settings.maxConcurrentExecutions, `${running} have an attempt or look for one (M2)`);
    must(!queued.slice(0, running).includes(true), 'nobody overtakes (M2)');
    must(executions.length <= settings.maxExecutions, 'no more than maxExecutions are accepted');
    must(this.context.finished.length <= settings.keepExecutions, 'no more than keepExecutions are kept');
  }

  /** D3 */
  #checkPending(): void {
    const expected: Pending[] = [];
    for (const { id, attempt, phase, calls } of this.context.executions) {
      must((phase === 'running') === (attempt !== undefined), 'whoever runs has an attempt');
      if (attempt !== undefined)
        expected.push({ id: `attempt/${attempt.id}`, type: 'attempt', execution: id, attempt: attempt.id });
      for (const { index, state } of calls) {
        if (state === 'queued') continue;
        const type = state === 'reconciling' ? 'reconcile' : 'call';
        expected.push({ id: `call/${id}/${index}`, type, execution: id, index });
      }
    }
    const byId = (one: Pending, other: Pending): number => (one.id < other.id ? -1 : 1);
    const pending = this.context.pending.toSorted(byId);
    if (!isDeepStrictEqual(pending, expected.toSorted(byId)))
      expect(pending).toEqual(expected.toSorted(byId));
  }

  /** D4 */
  #checkTwin(): void {
    must(isPlain(this.context), 'the context is plain data');
    must(this.#twin.value === this.#snapshot.value, 'a session that was read is in the same state');
    const [live, read] = [plain(this.context), plain(this.#twin.context)];
    if (!isDeepStrictEqual(live, read))
      expect(read, 'a session that was read goes the same way').toEqual(live);
    const again = plain(CODEC.decode(this.encoded).context);
    const kept = plain({ ...this.context, out: undefined });
    if (!isDeepStrictEqual({ ...(again as object), out: 0 }, { ...(kept as object), out: 0 }))
      expect(again).toEqual(kept);
  }

  /** D5: the counters and the journal. */
  #checkExecution(execution: Execution): void {
    const { id, calls, sleeps, deliveries, entries, applied: handed, phase, startTime, clock } = execution;
    must(
      calls.length + sleeps.length + deliveries === entries,
      'every call and sleep is open or has its end',
    );
    must(handed <= deliveries, 'only what was delivered is applied');
    must(phase !== 'parked' || calls.length === 0, 'nobody is parked during a call');
    const told = calls.filter(({ state }) => state !== 'queued').length;
    must(told <= execution.limits.maxConcurrentToolCalls, 'no more calls than may be under way');
    const story = this.#stories.get(id);
    if (story === undefined) return;
    const made = story.entries.filter(([kind]) => kind !== 'd');
    must(made.length === entries, 'each call and sleep is in the journal');
    must(
      made.every((entry, index) => entry[1] === index),
      'indexes are contiguous',
    );
    must(story.entries.length - made.length === deliveries, 'each delivery is in the journal');
    let last = startTime;
    const ended = new Set<number>();
    for (const entry of story.entries) {
      if (entry[0] !== 'd') continue;
      must(entry[4] >= last, 'the clock of the script never goes back');
      must(!ended.has(entry[1]), 'a call or sleep ends once (K2)');
      ended.add(entry[1]);
      last = entry[4];
    }
    must(clock >= last, 'the clock shows the last delivery');
  }

  /** D5: the events. */
  #checkStories(): void {
    const { out } = this;
    for (const id of new Set([...out.events.map(({ execution }) => execution), ...out.accepted])) {
      const story = this.#stories.get(id);
      if (story === undefined) continue;
      const types = story.events.map(({ type }) => type);
      must(types[0] === 'session_init' && types.lastIndexOf('session_init') === 0, 'it begins once');
      const final = types.indexOf('final');
      must((final !== -1) === (story.ended !== undefined), 'an end is told');
      must(final === -1 || final === types.length - 1, 'nothing is told after the end');
    }
    for (const [id, { ended }] of this.#stories)
      must((ended === undefined) === this.live.includes(id), `${id} lives until it ends`);
  }
}

/** What an execution waits for. */
const timesOf = ({ phase, placeAt, deadlineAt, sleeps, calls }: Execution): readonly number[] => [
  deadlineAt,
  ...(phase === 'placing' ? [placeAt] : []),
  ...sleeps.map(({ wakeAt }) => wakeAt),
  ...calls.flatMap(({ retryAt }) => (retryAt > 0 ? [retryAt] : [])),
];

/** Like `expect`, for what is checked thousands of times. */
function must(fact: boolean, claim: string): void {
  if (!fact) expect.fail(claim);
}

function found<T>(thing: T | undefined, what: string): T {
  if (thing === undefined) expect.fail(`there is no ${what}`);
  return thing as T;
}

/** As JSON carries it. */
const plain = (thing: unknown): unknown => JSON.parse(JSON.stringify(thing));

/** True if JSON carries all of it; an absent value counts as none. */
function isPlain(thing: unknown): boolean {
  if (thing === null || thing === undefined || typeof thing === 'string' || typeof thing === 'boolean')
    return true;
  if (typeof thing === 'number') return Number.isFinite(thing);
  if (Array.isArray(thing)) return thing.every((item) => item !== undefined && isPlain(item));
  if (typeof thing !== 'object' || Object.getPrototypeOf(thing) !== Object.prototype) return false;
  return Object.values(thing).every(isPlain);
}

function deepFreeze(thing: unknown): void {
  if (typeof thing !== 'object' || thing === null || Object.isFrozen(thing)) return;
  Object.freeze(thing);
  for (const inner of Object.values(thing)) deepFreeze(inner);
}
