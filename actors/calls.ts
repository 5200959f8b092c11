/**
 * Tool calls and sleeps of an execution, and what it is handed.
 *
 * Invariants:
 *  K1  A call whose tool is not `read` is dispatched only after the commit that holds its intent.
 *  K2  A call has one end: what comes for a call that is not open is dropped.
 *  K3  What ends a call or a sleep gets the next number and is committed before it is handed over.
 *  K4  In doubt means that the provider was lost. Then `read` and `idempotent` are dispatched again, `unsafe` never
 *      is: its tool is asked what became of it, and if nobody can tell it ends as OUTCOME_UNKNOWN.
 */
import { deliveryCode, refusalText, type ScriptItem } from './attempt.ts';
import {
  acknowledge,
  callPending,
  type Draft,
  type ExecutionDraft,
  edit,
  effect,
  emit,
  pend,
  record,
  withCall,
} from './draft.ts';
import { isTooDeep, MAX_NESTING } from './nesting.ts';
import type { OpenCall, ReportedItem, ToolEnd } from './sessiondata.ts';

/** Waits between two looks for a provider, in ms. */
const PROVIDER_RETRY_MS = 250;

type CallItem = Extract<ReportedItem, { kind: 'call' }>;

/** The script made a call for the first time. `last`: it has ended since, so the call is not started. */
export function enterCall(draft: Draft, execution: ExecutionDraft, item: CallItem, last: boolean): void {
  const { index, name, json, effect: kind } = item;
  execution.toolCalls++;
  record(draft, execution.id, ['c', index, name, json, kind]);
  const tooDeep = isTooDeep(json);
  emit(draft, execution.id, 'tool_call', {
    callId: `${execution.id}/${index}`,
    toolName: name,
    args: tooDeep ? undefined : parsedOrNothing(json),
  });
  if (item.refusal !== undefined)
    return deliver(draft, execution, index, item.refusal, refusalText(item.refusal, name), 0);
  if (tooDeep) {
    const message = `callTool(${name}): the arguments are nested deeper than ${MAX_NESTING} levels`;
    return deliver(draft, execution, index, 'SERIALIZATION_ERROR', message, 0);
  }
  const call: OpenCall = {
    index,
    effect: kind,
    reconcilable: item.reconcilable,
    state: 'queued',
    since: draft.around.now,
    seekingSince: 0,
    retryAt: 0,
    lost: false,
  };
  execution.calls = [...execution.calls, call];
  if (!last) startCalls(draft, execution);
}

/** The script began to sleep for the first time at this place. */
export function enterSleep(
  draft: Draft,
  execution: ExecutionDraft,
  item: Extract<ScriptItem, { kind: 'sleep' }>,
): void {
  const wakeAt = draft.around.now + item.ms;
  record(draft, execution.id, ['s', item.index, item.ms, wakeAt]);
  execution.sleeps = [...execution.sleeps, { index: item.index, wakeAt }];
}

/** Dispatch what waits for its turn. */
function startCalls(draft: Draft, execution: ExecutionDraft): void {
  let running = execution.calls.filter(({ state }) => state !== 'queued').length;
  for (const call of execution.calls) {
    if (running >= execution.limits.maxConcurrentToolCalls) return;
    if (call.state !== 'queued') continue;
    running++;
    withCall(execution, call.index, (queued) => ({ ...queued, state: 'running', since: draft.around.now }));
    dispatch(draft, execution, call);
  }
}

function dispatch(draft: Draft, execution: ExecutionDraft, { index, effect: kind }: OpenCall): void {
  const id = callPending(execution.id, index);
  pend(draft, { id, type: 'call', execution: execution.id, index });
  const what = { type: 'call', execution: execution.id, index } as const;
  if (kind === 'read') draft.out.early.push(what);
  else effect(draft, what); // K1
}

/** Its provider told how it ended. */
export function endCall(
  draft: Draft,
  execution: ExecutionDraft,
  index: number,
  end: ToolEnd,
  durationMs: number,
): void {
  const call = execution.calls.find((open) => open.index === index);
  if (call === undefined) return; // K2
  if (end.ok === 'not_started') {
    withCall(execution, index, (open) => ({ ...open, lost: false, seekingSince: 0 }));
    return redispatch(draft, execution, call);
  }
  if (end.ok === 'unknown') return endInDoubt(draft, execution, index);
  // Its provider does not know either: another owner had the end, and lost it.
  if (!end.ok && end.code === 'OUTCOME_UNKNOWN') execution.doubt = true;
  if (end.ok) settle(draft, execution, index, '', end.json, durationMs);
  else settle(draft, execution, index, deliveryCode(end.code), end.message, durationMs);
}

/** K4 */
export function loseCall(draft: Draft, execution: ExecutionDraft, index: number): void {
  const call = execution.calls.find((open) => open.index === index);
  if (call === undefined || call.state === 'queued' || call.state === 'unprovided') return;
  // A provider had it: the search for another begins anew.
  withCall(execution, index, (open) => ({ ...open, lost: call.effect !== 'read', seekingSince: 0 }));
  if (call.effect !== 'unsafe') return redispatch(draft, execution, call);
  if (!call.reconcilable) return endInDoubt(draft, execution, index);
  withCall(execution, index, (open) => ({ ...open, state: 'reconciling', seekingSince: 0, retryAt: 0 }));
  pend(draft, {
    id: callPending(execution.id, index),
    type: 'reconcile',
    execution: execution.id,
    index,
  });
  effect(draft, { type: 'reconcile', execution: execution.id, index });
}

function redispatch(draft: Draft, execution: ExecutionDraft, call: OpenCall): void {
  withCall(execution, call.index, (open) => ({ ...open, state: 'running', retryAt: 0 }));
  dispatch(draft, execution, call);
}

function endInDoubt(draft: Draft, execution: ExecutionDraft, index: number): void {
  execution.doubt = true;
  const message = 'The provider of the tool was lost while it ran the call: what it did is not known';
  settle(draft, execution, index, 'OUTCOME_UNKNOWN', message, 0);
}

/** Nobody offers the tool just now. A call that nobody took is not in doubt: it is tried again for a while. */
export function missProvider(draft: Draft, execution: ExecutionDraft, index: number): void {
  const { now } = draft.around;
  const call = execution.calls.find((open) => open.index === index);
  if (call === undefined || (call.state !== 'running' && call.state !== 'reconciling')) return;
  const seekingSince = call.seekingSince === 0 ? now : call.seekingSince;
  if (now - seekingSince >= draft.settings.providerTimeoutMs) {
    if (call.lost) return endInDoubt(draft, execution, index);
    return settle(draft, execution, index, 'TOOL_UNAVAILABLE', 'No provider of the tool could be reached', 0);
  }
  const retryAt = now + PROVIDER_RETRY_MS;
  withCall(execution, index, (open) => ({
    ...open,
    state: open.state === 'reconciling' ? 'reconciling' : 'unprovided',
    seekingSince,
    retryAt,
  }));
}

/** Calls whose provider is to be looked for again, and sleeps that are over. */
export function passTime(draft: Draft, id: string): void {
  const { now } = draft.around;
  const due = draft.executions.find((execution) => execution.id === id);
  if (due === undefined) return;
  const calls = due.calls.filter(({ retryAt }) => retryAt > 0 && retryAt <= now);
  const sleeps = due.sleeps.filter(({ wakeAt }) => wakeAt <= now);
  if (calls.length === 0 && sleeps.length === 0) return;
  const execution = edit(draft, id) as ExecutionDraft;
  for (const call of calls) {
    withCall(execution, call.index, (open) => ({ ...open, retryAt: 0 }));
    if (call.state === 'reconciling') effect(draft, { type: 'reconcile', execution: id, index: call.index });
    else redispatch(draft, execution, call);
  }
  for (const { index } of sleeps.toSorted(
    (one, other) => one.wakeAt - other.wakeAt || one.index - other.index,
  )) {
    execution.sleeps = execution.sleeps.filter((sleep) => sleep.index !== index);
    deliver(draft, execution, index, '', '', 0);
  }
}

function settle(
  draft: Draft,
  execution: ExecutionDraft,
  index: number,
  code: string,
  payload: string,
  durationMs: number,
): void {
  execution.calls = execution.calls.filter((open) => open.index !== index);
  acknowledge(draft, callPending(execution.id, index));
  deliver(draft, execution, index, code, payload, durationMs);
  startCalls(draft, execution);
}

/** K3 */
function deliver(
  draft: Draft,
  execution: ExecutionDraft,
  index: number,
  code: string,
  payload: string,
  durationMs: number,
): void {
  execution.clock = Math.max(execution.clock, draft.around.now);
  execution.deliveries++;
  record(draft, execution.id, ['d', index, code, payload, execution.clock, durationMs]);
  draft.activations = 0;
  effect(draft, { type: 'deliver', execution: execution.id });
}

/** A call's arguments for its event. What is no JSON (no guest of ours sends it) the call itself refuses. */
function parsedOrNothing(json: string): unknown {
  try {
    return json === '' ? undefined : (JSON.parse(json) as unknown);
  } catch {
    return undefined;
  }
}
