/**
 * How an execution of a session ends, and what is remembered of it.
 *
 * Invariants:
 *  N1  What is decided first stands: an execution that ended is not there any more.
 *  N2  `state` changes only with the end of an execution that returned, and only if nobody changed it meanwhile.
 *  N3  A command leaves the memory only by moving the horizon past it, so that it can never run a second time.
 */
import type { Usage } from './attempt.ts';
import {
  acknowledge,
  attemptPending,
  callPending,
  type Draft,
  type ExecutionDraft,
  effect,
  emit,
} from './draft.ts';
import { isTooDeep, MAX_NESTING } from './nesting.ts';
import type { Ended, Execution, OpenCall } from './sessiondata.ts';

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly name?: string | undefined;
  readonly stack?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  /** Default: what is known of its calls. */
  readonly outcome?: 'not_started' | undefined;
  /** What the code's docs promise, as JSON data. */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
}

const NO_USAGE: Usage = { cpu: 0, heap: 0 };

/** True if nobody knows what an open call has done. */
export function isInDoubt({ state, lost }: OpenCall): boolean {
  return lost || state === 'running' || state === 'reconciling';
}

/** What is certain about an execution that ends now without a value. */
function outcomeOf(execution: Execution): 'not_started' | 'completed' | 'unknown' {
  if (execution.doubt || execution.calls.some(isInDoubt)) return 'unknown';
  if (execution.started) return 'completed';
  // It was offered, and nobody knows how far it came.
  return execution.attempt === undefined ? 'not_started' : 'unknown';
}

export function succeed(
  draft: Draft,
  execution: ExecutionDraft,
  json: string,
  state: string | undefined,
  usage: Usage,
): void {
  const deep = isTooDeep(json) ? 'The returned value' : isTooDeep(state ?? '') ? '`state`' : undefined;
  if (deep !== undefined) {
    const message = `${deep} is nested deeper than ${MAX_NESTING} levels`;
    return fail(draft, execution, { code: 'SERIALIZATION_ERROR', message }, usage);
  }
  if (state !== undefined) {
    if (draft.stateVersion !== execution.stateVersion) {
      return fail(
        draft,
        execution,
        { code: 'STATE_CONFLICT', message: 'Another execution changed the state of the session meanwhile' },
        usage,
      );
    }
    draft.stateVersion++;
    draft.out.state = state; // N2
  }
  finish(draft, execution, { ok: true, json }, usage);
}

export function fail(
  draft: Draft,
  execution: ExecutionDraft,
  failure: Failure,
  usage: Usage = NO_USAGE,
): void {
  const {
    code,
    message,
    name = 'EnclaveError',
    stack = '',
    retryAfterMs,
    outcome = outcomeOf(execution),
    details,
  } = failure;
  finish(draft, execution, { ok: false, code, message, name, stack, outcome, retryAfterMs, details }, usage);
}

function finish(draft: Draft, execution: ExecutionDraft, end: Ended['end'], usage: Usage): void {
  const { now } = draft.around;
  const { id, attempt } = execution;
  draft.executions = draft.executions.filter((other) => other.id !== id); // N1
  draft.lastActivityAt = now;
  draft.activations = 0;
  draft.out.ended.push({ execution: { ...execution }, at: now, end, usage });
  emit(draft, id, 'final', {
    ok: end.ok,
    ...(end.ok
      ? { result: end.json === '' ? undefined : (JSON.parse(end.json) as unknown) }
      : { error: { code: end.code, message: end.message } }),
    stats: {
      durationMs: execution.startTime === 0 ? 0 : Math.max(0, now - execution.startTime),
      toolCallCount: execution.toolCalls,
      stdoutBytes: execution.stdoutBytes,
    },
  });
  for (const call of execution.calls) {
    acknowledge(draft, callPending(id, call.index));
    if (call.state !== 'queued') effect(draft, { type: 'cancelCall', execution: id, index: call.index });
  }
  if (attempt !== undefined) {
    acknowledge(draft, attemptPending(attempt.id));
    effect(draft, { type: 'stop', execution: id, attempt: attempt.id, runtime: attempt.runtime });
  }
  draft.finished = [
    ...draft.finished,
    { id, fingerprint: execution.fingerprint, issuedAt: execution.issuedAt, ok: end.ok },
  ];
  forgetOldest(draft);
  effect(draft, { type: 'tell', execution: id, subject: execution.tell });
}

/** N3 */
function forgetOldest(draft: Draft): void {
  const surplus = draft.finished.length - draft.settings.keepExecutions;
  if (surplus <= 0) return;
  for (const { id, issuedAt } of draft.finished.slice(0, surplus)) {
    draft.out.forget.push(id);
    draft.horizon = Math.max(draft.horizon, issuedAt);
  }
  draft.finished = draft.finished.slice(surplus);
}
