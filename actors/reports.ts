/**
 * Reports: what a runtime tells that the script of an attempt did, and how the attempt ended.
 *
 * Upholds T2 to T4 of attempts.ts.
 */
import type { AttemptEnd, Usage } from './attempt.ts';
import { begin, endAttempt, lose, type Present, park, refuse } from './attempts.ts';
import { enterCall, enterSleep } from './calls.ts';
import { type Draft, type ExecutionDraft, editAttempt, emit } from './draft.ts';
import { fail, succeed } from './ending.ts';
import { place } from './placing.ts';
import type { Attempt, ReportedItem, SessionEvent } from './sessiondata.ts';

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

export function takeReport(draft: Draft, event: Reported): void {
  const execution = editAttempt(draft, event.execution, event.attempt);
  if (execution === undefined || event.n !== execution.attempt.reports + 1) return; // T2
  if (event.end?.kind !== 'refused') begin(execution);
  const attempt = { ...execution.attempt, reports: event.n, waiting: false };
  execution.attempt = attempt;
  if (event.mismatch) return nondeterministic(draft, execution);
  for (const item of event.items) {
    const taken = takeItem(draft, execution, attempt, item, isLast(execution, event.end));
    if (taken === 'another') return nondeterministic(draft, execution);
    if (taken === 'tooMany') {
      const message = `The script made more than ${execution.limits.maxToolCalls} tool calls`;
      return fail(draft, execution, { code: 'TOOL_CALL_LIMIT_EXCEEDED', message });
    }
  }
  if (event.end !== undefined) return takeEnd(draft, execution, event.end);
  if (!event.waiting || event.received < execution.deliveries) return;
  if (attempt.entries < execution.entries) return nondeterministic(draft, execution); // T3
  attempt.waiting = true;
  park(draft, execution);
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

/**
 * Take one item in. `last`: the script has ended, and nothing is begun for it. 'another': it made another call than
 * before; 'tooMany': more than it may.
 */
function takeItem(
  draft: Draft,
  execution: Present,
  attempt: Counters,
  item: ReportedItem,
  last: boolean,
): 'taken' | 'another' | 'tooMany' {
  switch (item.kind) {
    case 'output': {
      attempt.outputs++;
      if (attempt.outputs <= execution.outputs) return 'taken';
      execution.outputs = attempt.outputs;
      if (item.level === '') {
        execution.stdoutBytes += utf8Length(item.text);
        emit(draft, execution.id, 'stdout', { chunk: item.text });
      } else {
        emit(draft, execution.id, 'log', { level: item.level, message: item.text });
      }
      return 'taken';
    }
    case 'applied': {
      attempt.applied++;
      if (attempt.applied <= execution.applied || attempt.applied > execution.deliveries) return 'taken';
      execution.applied = attempt.applied;
      if (item.ok !== undefined)
        emit(draft, execution.id, 'tool_result_applied', {
          callId: `${execution.id}/${item.index}`,
          ok: item.ok,
        });
      return 'taken';
    }
    default: {
      if (item.index !== attempt.entries) return 'another'; // T3
      attempt.entries++;
      if (item.index < execution.entries) return 'taken';
      execution.entries++;
      draft.activations = 0;
      // The guest counts as well; a runtime that fell is not believed.
      if (item.kind === 'call' && execution.toolCalls >= execution.limits.maxToolCalls) return 'tooMany';
      if (item.kind === 'sleep') enterSleep(draft, execution, item);
      else enterCall(draft, execution, item, last);
      return 'taken';
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
