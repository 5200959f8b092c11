/**
 * Attempts: an execution's runs on runtimes. One is placed (placing.ts), reports what the script does (reports.ts), and
 * ends; when it is lost the next one replays what was committed.
 *
 * Invariants:
 *  T1  An attempt's id is committed before it is offered, and is offered once.
 *  T2  Only reports of the present attempt count, each once and in order.
 *  T3  What an earlier attempt did and was committed is recognised, not done again; a script that does something
 *      else is nondeterministic, and ends.
 *  T4  A limit that was passed in a replay is tried once more before it is believed.
 */
import {
  acknowledge,
  attemptPending,
  type Draft,
  type ExecutionDraft,
  edit,
  editAttempt,
  effect,
} from './draft.ts';
import { fail } from './ending.ts';
import { place, placeAgain } from './placing.ts';
import type { Attempt, SessionEvent } from './sessiondata.ts';

/** An execution that has an attempt. */
export type Present = ExecutionDraft & { attempt: Attempt };

/** A runtime runs it: if it must be placed again, the time for that begins anew. */
export function begin(execution: ExecutionDraft): void {
  execution.started = true;
  execution.placeBy = 0;
  execution.placeTries = 0;
  execution.refusedBy = [];
}

/** It does not run there any more. */
export function endAttempt(draft: Draft, execution: Present, avoid: string | undefined): ExecutionDraft {
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

/** A script that only sleeps, and for long, needs no isolate meanwhile. */
export function park(draft: Draft, execution: Present): void {
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
