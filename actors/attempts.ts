/**
 * Attempts: an execution's runs on runtimes. One is placed, reports what the script does, and ends; when it is lost
 * the next one replays what was committed.
 *
 * Invariants:
 *  T1  An attempt's id is committed before it is offered, and is offered once.
 *  T2  Only reports of the present attempt count, each once and in order.
 *  T3  What an earlier attempt did and was committed is recognised, not done again; a script that does something
 *      else is nondeterministic, and ends.
 *  T4  A limit that was passed in a replay is tried once more before it is believed.
 */
import { type AttemptEnd, sameVersions, type Usage } from './attempt.ts';
import { enterCall, enterSleep } from './calls.ts';
import {
  acknowledge,
  attemptPending,
  type Draft,
  type ExecutionDraft,
  edit,
  editAttempt,
  effect,
  emit,
  pend,
} from './draft.ts';
import { fail, succeed } from './ending.ts';
import { choose, couldRun, type Labels, type RuntimeView } from './placement.ts';
import {
  bestThere,
  hasLabels,
  LEAST_LOADED,
  type Routing,
  unplaced,
  wantedLabels,
  whyUnplaced,
} from './routing.ts';
import type { Attempt, ReportedItem, SessionContext, SessionEvent } from './sessiondata.ts';

/** Waits between two looks for a runtime, in ms: doubled from the first to the last. */
const PLACE_RETRY_MS = { first: 20, last: 1_000 };
/** Codes of ends that a script brings about by itself. */
const OWN_ENDS = [
  'SCRIPT_ERROR',
  'TOOL_ERROR',
  'UNKNOWN_TOOL',
  'TOOL_NOT_ALLOWED',
  'TOOL_UNAVAILABLE',
  'TOOL_TIMEOUT',
  'OUTCOME_UNKNOWN',
  'SERIALIZATION_ERROR',
];
/** Codes of limits that a slow replay may pass without fault of its own. */
const TIME_LIMITS = ['EXECUTION_TIMEOUT', 'CPU_LIMIT_EXCEEDED'];

type Reported = Extract<SessionEvent, { type: 'attempt.reported' }>;
type Present = ExecutionDraft & { attempt: Attempt };

// ---- placing ---------------------------------------------------------------------------------------------

/** Give the next execution that may run, and does not, to a runtime. At most one: a step has one fresh id. */
export function placeNext(draft: Draft): void {
  if (draft.placed || draft.migrating || draft.ended !== '') return;
  const { now } = draft.around;
  const { maxConcurrentExecutions } = draft.settings;
  let running = 0;
  for (const { id, phase, placeAt } of draft.executions) {
    if (phase === 'queued' && running >= maxConcurrentExecutions) return;
    running++;
    if (phase === 'queued' || (phase === 'placing' && placeAt <= now)) {
      place(draft, edit(draft, id) as ExecutionDraft, draft.around.behind);
      return;
    }
  }
}

/** `behind`: others' turns come first. One that had its turn, and lost what it got, has it still. */
function place(draft: Draft, execution: ExecutionDraft, behind = false): void {
  const { now, fresh, runtimes, routing = LEAST_LOADED } = draft.around;
  // The next owner places it.
  if (draft.migrating || draft.placed) return placeAgain(execution, now);
  const wanted = wantedLabels(routing, draft.settings.labels);
  const labels = bestThere(wanted, runtimes, execution.versions);
  const runtime =
    labels === undefined || behind
      ? undefined
      : choose(
          runtimes.filter(({ id }) => !execution.refusedBy.includes(id)),
          {
            labels,
            versions: execution.versions,
            prefer: draft.runtime,
            avoid: execution.avoid,
            by: routing.strategy === 'round-robin' ? 'turns' : 'room',
          },
        );
  if (execution.placeBy === 0) execution.placeBy = now + draft.settings.placementTimeoutMs;
  if (runtime === undefined || (!execution.started && now >= execution.placeBy))
    return placeLater(draft, execution, wanted);
  const attempt: Attempt = {
    id: fresh,
    runtime: runtime.id,
    replay: execution.started,
    reports: 0,
    outputs: 0,
    entries: 0,
    applied: 0,
    waiting: false,
  };
  if (execution.startTime === 0) {
    execution.startTime = now;
    execution.clock = now;
    execution.stateVersion = draft.stateVersion;
  }
  draft.placed = true;
  execution.versions ??= runtime.versions;
  execution.phase = 'running';
  execution.attempt = attempt;
  execution.attempts++;
  draft.runtime = runtime.id;
  pend(draft, {
    id: attemptPending(attempt.id),
    type: 'attempt',
    execution: execution.id,
    attempt: attempt.id,
  });
  effect(draft, { type: 'offer', execution: execution.id, attempt: attempt.id, runtime: runtime.id }); // T1
}

/** Look for a runtime in another step. */
function placeAgain(execution: ExecutionDraft, at: number): void {
  execution.phase = 'placing';
  execution.placeAt = at;
}

/** Executions of a session that wait for room and that a runtime with these labels could take. */
export function waitingFor(
  { executions, settings }: SessionContext,
  labels: Labels,
  routing: Routing = LEAST_LOADED,
): number {
  const waiting = executions.filter(({ phase }) => phase === 'placing').length;
  if (waiting === 0) return 0;
  return wantedLabels(routing, settings.labels).some((wanted) => hasLabels(labels, wanted)) ? waiting : 0;
}

/** What those of a session that wait for room ask of a runtime: where this is the same, so is the answer. '' if none waits. */
export function askedOf({ executions, settings }: SessionContext): string {
  const first = executions.find(({ phase }) => phase === 'placing');
  return first === undefined ? '' : JSON.stringify([settings.labels, first.versions]);
}

/** The runtime that the first of a session's executions that wait for room would get now; undefined if none would take it. */
export function placeable(
  { executions, settings, runtime: prefer }: SessionContext,
  runtimes: readonly RuntimeView[],
  routing: Routing = LEAST_LOADED,
): string | undefined {
  const first = executions.find(({ phase }) => phase === 'placing');
  if (first === undefined) return undefined;
  const { versions, avoid } = first;
  const labels = bestThere(wantedLabels(routing, settings.labels), runtimes, versions);
  if (labels === undefined) return undefined;
  const by = routing.strategy === 'round-robin' ? 'turns' : 'room';
  return choose(runtimes, { labels, versions, prefer, avoid, by })?.id;
}

/** There may be room now: nobody waits out the time that was set before. */
export function seekAgain(draft: Draft): void {
  for (const { id, phase } of draft.executions) {
    if (phase !== 'placing') continue;
    const execution = edit(draft, id) as ExecutionDraft;
    execution.refusedBy = [];
    execution.placeAt = draft.around.now;
  }
}

/**
 * No runtime would take it now. One that never ran is given up after a while, though none that is known could ever
 * take it: one may be on its way up. One that did run waits for its deadline, unless those that are there could not
 * replay it.
 */
function placeLater(draft: Draft, execution: ExecutionDraft, wanted: readonly Labels[]): void {
  const { now, runtimes } = draft.around;
  if (!execution.started && now >= execution.placeBy) return giveUp(draft, execution, wanted);
  if (now >= execution.placeBy && onlyOthers(execution, runtimes, wanted)) {
    return fail(draft, execution, {
      code: 'ENGINE_MISMATCH',
      message: 'No runtime has the versions of engine, prelude and stripper that the script began on',
    });
  }
  const delay = Math.min(PLACE_RETRY_MS.last, PLACE_RETRY_MS.first * 2 ** Math.min(execution.placeTries, 10));
  execution.placeTries++;
  execution.refusedBy = [];
  placeAgain(execution, now + delay);
}

function giveUp(draft: Draft, execution: ExecutionDraft, wanted: readonly Labels[]): void {
  const { runtimes } = draft.around;
  const code = execution.refusal === '' ? 'NO_RUNTIME' : execution.refusal;
  const labels = bestThere(wanted, runtimes, execution.versions) ?? wanted[0] ?? {};
  const lacking = code === 'NO_RUNTIME';
  const why = lacking ? `: ${whyUnplaced(labels, runtimes)}` : '';
  return fail(draft, execution, {
    code,
    message: `No runtime took the execution within ${draft.settings.placementTimeoutMs} ms${why}`,
    retryAfterMs: PLACE_RETRY_MS.last,
    details: lacking ? { ...unplaced(labels, runtimes) } : undefined,
  });
}

/** There are runtimes where it may run, and none of them could replay it. */
function onlyOthers(
  { versions }: ExecutionDraft,
  runtimes: readonly RuntimeView[],
  wanted: readonly Labels[],
): boolean {
  const suiting = runtimes.filter((runtime) =>
    wanted.some((labels) => couldRun({ ...runtime, draining: false }, { labels, versions: undefined })),
  );
  if (versions === undefined || suiting.length === 0) return false;
  return suiting.every(
    (runtime) => runtime.versions !== undefined && !sameVersions(runtime.versions, versions),
  );
}

/** It does not run there any more. */
function endAttempt(draft: Draft, execution: Present, avoid: string | undefined): ExecutionDraft {
  acknowledge(draft, attemptPending(execution.attempt.id));
  const ended = execution as ExecutionDraft;
  ended.attempt = undefined;
  ended.avoid = avoid;
  return ended;
}

/** It was not started there: another runtime is asked at once, the same ones after a while. */
export function refuse(draft: Draft, event: Extract<SessionEvent, { type: 'attempt.refused' }>): void {
  const execution = editAttempt(draft, event.execution, event.attempt);
  if (execution === undefined) return;
  const { runtime } = execution.attempt;
  const ended = endAttempt(draft, execution, runtime);
  ended.refusal = event.code;
  ended.refusedBy = [...ended.refusedBy, runtime];
  ended.attempts--;
  draft.out.urgent = true;
  place(draft, ended);
}

/** Its runtime, or its worker, is gone: what was committed is replayed elsewhere. */
export function lose(draft: Draft, id: string, attempt: string, alone: boolean | undefined): void {
  const execution = editAttempt(draft, id, attempt);
  if (execution === undefined) return;
  const ended = endAttempt(draft, execution, execution.attempt.runtime);
  if (alone !== undefined) ended.alone = true;
  if (alone === true) {
    ended.crashes++;
    if (ended.crashes >= draft.settings.quarantineAfter) {
      return fail(draft, ended, {
        code: 'QUARANTINED',
        message: `The script crashed its worker ${ended.crashes} times while it was alone`,
      });
    }
  }
  begin(ended); // Nobody can say that it did not.
  place(draft, ended);
}

/** In the place of an attempt's entries: it made another call than before, or more than it may. */
const ANOTHER = -1;
const TOO_MANY = -2;

// ---- reports ---------------------------------------------------------------------------------------------

export function takeReport(draft: Draft, event: Reported): void {
  const execution = editAttempt(draft, event.execution, event.attempt);
  if (execution === undefined || event.n !== execution.attempt.reports + 1) return; // T2
  if (event.end?.kind !== 'refused') begin(execution);
  const attempt = { ...execution.attempt, reports: event.n, waiting: false };
  execution.attempt = attempt;
  if (event.mismatch) return nondeterministic(draft, execution);
  for (const item of event.items) {
    if (!takeItem(draft, execution, attempt, item, isLast(execution, event.end))) break;
  }
  if (attempt.entries === ANOTHER) return nondeterministic(draft, execution);
  if (attempt.entries === TOO_MANY) {
    const message = `The script made more than ${execution.limits.maxToolCalls} tool calls`;
    return fail(draft, execution, { code: 'TOOL_CALL_LIMIT_EXCEEDED', message });
  }
  if (event.end !== undefined) return takeEnd(draft, execution, event.end);
  if (!event.waiting || event.received < execution.deliveries) return;
  if (attempt.entries < execution.entries) return nondeterministic(draft, execution); // T3
  attempt.waiting = true;
  park(draft, execution);
}

/** A runtime runs it: if it must be placed again, the time for that begins anew. */
function begin(execution: ExecutionDraft): void {
  execution.started = true;
  execution.placeBy = 0;
  execution.placeTries = 0;
  execution.refusedBy = [];
}

/** True if the execution ends with this end of its attempt. */
function isLast(execution: Present, end: AttemptEnd | undefined): boolean {
  return end?.kind === 'returned' || (end?.kind === 'failed' && !isRetried(execution, end.code));
}

/** T4 */
function isRetried({ attempt, limitRetried }: Present, code: string): boolean {
  return TIME_LIMITS.includes(code) && attempt.replay && !limitRetried;
}

type Counters = { -readonly [K in keyof Attempt]: Attempt[K] };

/** Take one item in. `last`: the script has ended, and nothing is begun for it. False if it went another way than before. */
function takeItem(
  draft: Draft,
  execution: Present,
  attempt: Counters,
  item: ReportedItem,
  last: boolean,
): boolean {
  switch (item.kind) {
    case 'output': {
      attempt.outputs++;
      if (attempt.outputs <= execution.outputs) return true;
      execution.outputs = attempt.outputs;
      if (item.level === '') {
        execution.stdoutBytes += utf8Length(item.text);
        emit(draft, execution.id, 'stdout', { chunk: item.text });
      } else {
        emit(draft, execution.id, 'log', { level: item.level, message: item.text });
      }
      return true;
    }
    case 'applied': {
      attempt.applied++;
      if (attempt.applied <= execution.applied || attempt.applied > execution.deliveries) return true;
      execution.applied = attempt.applied;
      if (item.ok !== undefined)
        emit(draft, execution.id, 'tool_result_applied', {
          callId: `${execution.id}/${item.index}`,
          ok: item.ok,
        });
      return true;
    }
    default: {
      if (item.index !== attempt.entries) {
        attempt.entries = ANOTHER; // T3
        return false;
      }
      attempt.entries++;
      if (item.index < execution.entries) return true;
      execution.entries++;
      draft.activations = 0;
      // The guest counts as well; a runtime that fell is not believed.
      if (item.kind === 'call' && execution.toolCalls >= execution.limits.maxToolCalls) {
        attempt.entries = TOO_MANY;
        return false;
      }
      if (item.kind === 'sleep') enterSleep(draft, execution, item);
      else enterCall(draft, execution, item, last);
      return true;
    }
  }
}

function nondeterministic(draft: Draft, execution: ExecutionDraft): void {
  fail(draft, execution, {
    code: 'NONDETERMINISTIC_REPLAY',
    message: 'Replayed from its journal, the script made other calls than before',
  });
}

function takeEnd(draft: Draft, execution: Present, end: AttemptEnd): void {
  switch (end.kind) {
    case 'returned':
      if (execution.attempt.entries < execution.entries) return nondeterministic(draft, execution); // T3
      return succeed(draft, execution, end.json, end.state, end.usage);
    case 'failed':
      return takeFailure(draft, execution, end, end.usage);
    case 'refused':
      return refuse(draft, {
        type: 'attempt.refused',
        execution: execution.id,
        attempt: execution.attempt.id,
        code: end.code,
        message: end.message,
        ...draft.around,
      });
    case 'lost':
      return lose(draft, execution.id, execution.attempt.id, end.alone);
    case 'stopped':
      // Nobody here asked for it: an owner before this one did, or the runtime is going away.
      return lose(draft, execution.id, execution.attempt.id, undefined);
  }
}

function takeFailure(
  draft: Draft,
  execution: Present,
  end: Extract<AttemptEnd, { kind: 'failed' }>,
  usage: Usage,
): void {
  const { code, name, message, stack } = end;
  // A limit may cut a replay short; what the script itself did cannot come earlier than before (T3).
  if (OWN_ENDS.includes(code) && execution.attempt.entries < execution.entries)
    return nondeterministic(draft, execution);
  if (isRetried(execution, code)) {
    execution.limitRetried = true; // T4
    return place(draft, endAttempt(draft, execution, execution.attempt.runtime));
  }
  if (code === 'EXECUTION_TIMEOUT') {
    const { timeoutMs } = execution.limits;
    emit(draft, execution.id, 'deadline_exceeded', { elapsedMs: timeoutMs, budgetMs: timeoutMs });
  }
  // A script that could not be compiled did nothing.
  const outcome = code === 'SYNTAX_ERROR' ? 'not_started' : undefined;
  fail(draft, execution, { code, name, message, stack, outcome }, usage);
}

/** A script that only sleeps, and for long, needs no isolate meanwhile. */
function park(draft: Draft, execution: Present): void {
  if (execution.calls.length > 0 || execution.sleeps.length === 0) return;
  const wakeAt = Math.min(...execution.sleeps.map((sleep) => sleep.wakeAt));
  if (wakeAt - draft.around.now <= draft.settings.parkAfterMs) return;
  const { id, runtime } = execution.attempt;
  effect(draft, { type: 'stop', execution: execution.id, attempt: id, runtime });
  const parked = endAttempt(draft, execution, undefined);
  parked.phase = 'parked';
}

/** A parked execution has something to be handed: it is replayed. */
export function unpark(draft: Draft, id: string): void {
  const parked = draft.executions.find((execution) => execution.id === id);
  if (parked?.phase !== 'parked' || draft.migrating) return;
  if (parked.deliveries <= parked.applied) return;
  const execution = edit(draft, id) as ExecutionDraft;
  draft.hibernated = false;
  placeAgain(execution, draft.around.now);
}

function utf8Length(text: string): number {
  let bytes = text.length;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code < 0x80) continue;
    // A pair of surrogates is four bytes for two units; anything else over 0x7ff three for one.
    bytes += code < 0x800 || (code >= 0xd800 && code <= 0xdfff) ? 1 : 2;
  }
  return bytes;
}
