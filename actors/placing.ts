/**
 * Placing: when an execution gets a runtime, and what becomes of it while none takes it.
 *
 * Upholds T1 of attempts.ts: an attempt's id is made in the step that is committed before it is offered.
 */
import { sameVersions } from './attempt.ts';
import { attemptPending, type Draft, type ExecutionDraft, edit, effect, pend } from './draft.ts';
import { fail } from './ending.ts';
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
import type { Attempt, Execution, SessionContext } from './sessiondata.ts';

/** Waits between two looks for a runtime, in ms: doubled from the first to the last. */
const PLACE_RETRY_MS = { first: 20, last: 1_000 };

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
export function place(draft: Draft, execution: ExecutionDraft, behind = false): void {
  const { now, fresh, runtimes, routing = LEAST_LOADED } = draft.around;
  // The next owner places it.
  if (draft.migrating || draft.placed) return placeAgain(execution, now);
  const wanted = wantedLabels(routing, draft.settings.labels);
  const runtime = behind
    ? undefined
    : runtimeFor(execution, execution.refusedBy, draft.runtime, runtimes, routing, wanted);
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

/** The runtime that would take an execution now; undefined if there is none. `refusedBy`: those that are not asked. */
function runtimeFor(
  { versions, avoid }: Pick<Execution, 'versions' | 'avoid'>,
  refusedBy: readonly string[],
  prefer: string | undefined,
  runtimes: readonly RuntimeView[],
  routing: Routing,
  wanted: readonly Labels[],
): RuntimeView | undefined {
  const labels = bestThere(wanted, runtimes, versions);
  if (labels === undefined) return undefined;
  const asked = refusedBy.length === 0 ? runtimes : runtimes.filter(({ id }) => !refusedBy.includes(id));
  const by = routing.strategy === 'round-robin' ? 'turns' : 'room';
  return choose(asked, { labels, versions, prefer, avoid, by });
}

/** Look for a runtime in another step. */
export function placeAgain(execution: ExecutionDraft, at: number): void {
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
  return runtimeFor(first, [], prefer, runtimes, routing, wantedLabels(routing, settings.labels))?.id;
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
