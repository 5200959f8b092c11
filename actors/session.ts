/**
 * The session: who may run what, in which order, and what becomes of it. It is driven by the pure `transition`:
 * a fact goes in, the next context comes out, and in `context.out` what is to be committed and what is to happen
 * afterwards. So it has no invoked or spawned actors, no delayed transitions and no history: nothing of it lives
 * anywhere but in its snapshot.
 *
 * Invariants:
 *  M1  A command is accepted once. The same id again is answered as before; with other content, or when it is no
 *      longer remembered, it is refused.
 *  M2  At most `maxConcurrentExecutions` have an attempt or look for one; the others wait in order of arrival.
 *  M3  What must happen whoever owns the session is in `pending`, and leaves it only with a step that knows its end.
 *  M4  A session never ends by its ttl while it has an execution.
 *  M5  One that was closed or has expired still answers for what it did, until its tombstone has served its time.
 */
import { assign, setup } from 'xstate';
import { lose, refuse, unpark } from './attempts.ts';
import { endCall, loseCall, missProvider, passTime } from './calls.ts';
import {
  beginDraft,
  type Draft,
  type ExecutionDraft,
  edit,
  effect,
  emit,
  endDraft,
  findExecution,
  NOTHING,
  reply,
} from './draft.ts';
import { fail } from './ending.ts';
import { placeNext, seekAgain } from './placing.ts';
import { takeReport } from './reports.ts';
import type {
  Answer,
  Execution,
  NewExecution,
  SessionContext,
  SessionEvent,
  SessionSettings,
} from './sessiondata.ts';

/** Owners without progress in between before its executions are given up. */
const MAX_ACTIVATIONS = 10;

export interface SessionInput {
  readonly id: string;
  readonly settings: SessionSettings;
  /** In ms since the epoch. */
  readonly now: number;
}

export function newSession({ id, settings, now }: SessionInput): SessionContext {
  return {
    id,
    settings,
    createdAt: now,
    lastActivityAt: now,
    stateVersion: 0,
    executions: [],
    finished: [],
    horizon: 0,
    activations: 0,
    pending: [],
    runtime: undefined,
    migrating: false,
    hibernated: false,
    ended: '',
    endedAt: 0,
    out: NOTHING,
  };
}

const UNBORN = newSession({
  id: '',
  settings: {
    ttlMs: 0,
    labels: {},
    maxConcurrentExecutions: 1,
    maxExecutions: 0,
    keepExecutions: 0,
    tombstoneMs: 0,
    placementTimeoutMs: 0,
    providerTimeoutMs: 0,
    parkAfterMs: 0,
    quarantineAfter: 1,
  },
  now: 0,
});

// ---- commands --------------------------------------------------------------------------------------------

const refusal = (
  code: string,
  message: string,
  outcome: 'not_started' | 'completed' | 'unknown' = 'not_started',
  retryAfterMs?: number,
): Answer => ({ ok: false, code, message, outcome, retryAfterMs });

/** M1 */
function request(draft: Draft, event: Extract<SessionEvent, { type: 'execution.requested' }>): void {
  const { execution, ref, now } = event;
  const known = findExecution(draft, execution.id) ?? draft.finished.find(({ id }) => id === execution.id);
  if (known !== undefined) {
    if (known.fingerprint !== execution.fingerprint) {
      return reply(draft, ref, refusal('COMMAND_CONFLICT', `"${execution.id}" was another command before`));
    }
    return reply(
      draft,
      ref,
      'ok' in known ? { ok: true, kind: 'ended', execution: known.id } : { ok: true, kind: 'accepted' },
    );
  }
  if (draft.ended === 'closed') return reply(draft, ref, refusal('CLOSED', 'The session was closed'));
  if (draft.ended === 'expired')
    return reply(
      draft,
      ref,
      refusal('EXPIRED', `The session had no activity for ${draft.settings.ttlMs} ms`),
    );
  if (execution.issuedAt <= draft.horizon) {
    const message = 'The command is older than what the session remembers: it may have run';
    return reply(draft, ref, refusal('COMMAND_EXPIRED', message, 'unknown'));
  }
  const { maxExecutions } = draft.settings;
  if (draft.executions.length >= maxExecutions) {
    const message = `The session has ${maxExecutions} executions waiting or running`;
    return reply(draft, ref, refusal('OVERLOADED', message, 'not_started', 1_000));
  }
  draft.executions.push(newExecution(execution, now));
  draft.out.accepted.push(execution.id);
  draft.out.urgent = true;
  draft.lastActivityAt = now;
  draft.hibernated = false;
  emit(draft, execution.id, 'session_init', { executionId: execution.id });
  reply(draft, ref, { ok: true, kind: 'accepted' });
}

function newExecution(asked: NewExecution, now: number): Execution {
  return {
    id: asked.id,
    fingerprint: asked.fingerprint,
    issuedAt: asked.issuedAt,
    acceptedAt: now,
    deadlineAt: now + asked.limits.deadlineMs,
    tell: asked.tell,
    limits: asked.limits,
    phase: 'queued',
    attempt: undefined,
    attempts: 0,
    placeAt: 0,
    placeBy: 0,
    placeTries: 0,
    refusedBy: [],
    refusal: '',
    avoid: undefined,
    started: false,
    startTime: 0,
    clock: 0,
    versions: undefined,
    stateVersion: 0,
    crashes: 0,
    alone: false,
    limitRetried: false,
    entries: 0,
    toolCalls: 0,
    calls: [],
    sleeps: [],
    deliveries: 0,
    applied: 0,
    outputs: 0,
    stdoutBytes: 0,
    doubt: false,
  };
}

/** The first commit decides between a cancel and an end; the reply says which it was. */
function cancel(draft: Draft, event: Extract<SessionEvent, { type: 'execution.cancel' }>): void {
  const execution = edit(draft, event.execution);
  if (execution === undefined) {
    const remembered = draft.finished.some(({ id }) => id === event.execution);
    return reply(
      draft,
      event.ref,
      remembered
        ? { ok: true, kind: 'cancelled', cancelled: false }
        : refusal('NOT_FOUND', `There is no execution "${event.execution}"`),
    );
  }
  fail(draft, execution, { code: 'CANCELLED', message: event.reason });
  reply(draft, event.ref, { ok: true, kind: 'cancelled', cancelled: true });
}

function close(draft: Draft, event: Extract<SessionEvent, { type: 'session.close' }>): void {
  if (draft.ended === '') {
    for (const { id } of draft.executions) {
      const execution = edit(draft, id) as ExecutionDraft;
      fail(draft, execution, { code: 'CLOSED', message: 'The session was closed' });
    }
    draft.ended = 'closed';
    draft.endedAt = event.now;
    draft.out.urgent = true;
  }
  reply(draft, event.ref, { ok: true, kind: 'done' });
}

/** True if nothing of it runs anywhere: it can be put away. */
export function isQuiet({ executions, pending }: SessionContext): boolean {
  return pending.length === 0 && executions.every(({ phase }) => phase === 'parked');
}

function hibernate(draft: Draft, event: Extract<SessionEvent, { type: 'session.hibernate' }>): void {
  if (draft.pending.length > 0 || draft.executions.some(({ phase }) => phase !== 'parked')) {
    return reply(
      draft,
      event.ref,
      refusal('OVERLOADED', 'The session has executions under way', 'not_started', 1_000),
    );
  }
  draft.hibernated = true;
  draft.out.urgent = true;
  reply(draft, event.ref, { ok: true, kind: 'done' });
}

function migrate(draft: Draft, event: Extract<SessionEvent, { type: 'session.migrate' }>): void {
  draft.migrating = true;
  draft.out.urgent = true;
  reply(draft, event.ref, { ok: true, kind: 'done' });
}

// ---- a new owner, and time -------------------------------------------------------------------------------

/** M3: everything pending is looked after again; what runs still goes on. */
function activate(draft: Draft): void {
  // A hand-over says nothing about the script; a take-over may.
  if (draft.pending.length > 0 && !draft.migrating) draft.activations++;
  draft.migrating = false;
  draft.hibernated = false;
  draft.out.urgent = true;
  if (draft.activations > MAX_ACTIVATIONS) {
    for (const { id, phase } of draft.executions) {
      if (phase === 'queued' || phase === 'parked') continue;
      fail(draft, edit(draft, id) as ExecutionDraft, {
        code: 'QUARANTINED',
        message: `${draft.activations} owners took the session over without any progress of the execution`,
      });
    }
  }
  for (const pending of draft.pending) {
    const execution = findExecution(draft, pending.execution);
    if (execution === undefined) continue;
    if (pending.type !== 'attempt') {
      effect(draft, {
        type: pending.type === 'call' ? 'locate' : 'reconcile',
        execution: execution.id,
        index: pending.index,
      });
    } else if (execution.attempt?.id === pending.attempt) {
      const { id, runtime } = execution.attempt;
      effect(draft, { type: 'probe', execution: execution.id, attempt: id, runtime });
    }
  }
  for (const { id } of draft.executions) unpark(draft, id);
}

function advance(draft: Draft): void {
  const { now } = draft.around;
  const { ttlMs, tombstoneMs } = draft.settings;
  if (draft.ended !== '') {
    if (now >= draft.endedAt + tombstoneMs) {
      draft.out.purge = true;
      draft.out.urgent = true;
    }
    return;
  }
  for (const { id, deadlineAt, limits, acceptedAt } of draft.executions) {
    if (deadlineAt > now) {
      passTime(draft, id);
      unpark(draft, id);
      continue;
    }
    emit(draft, id, 'deadline_exceeded', { elapsedMs: now - acceptedAt, budgetMs: limits.deadlineMs });
    fail(draft, edit(draft, id) as ExecutionDraft, {
      code: 'DEADLINE_EXCEEDED',
      message: `The execution did not end within deadlineMs (${limits.deadlineMs})`,
    });
  }
  // M4
  if (ttlMs > 0 && draft.executions.length === 0 && now >= draft.lastActivityAt + ttlMs) {
    draft.ended = 'expired';
    draft.endedAt = now;
    draft.out.urgent = true;
  }
}

/** When the session must be told of the time next, in ms since the epoch: 0 for at once, undefined for never. */
export function nextWake(context: SessionContext): number | undefined {
  const { settings, executions, ended, endedAt, lastActivityAt } = context;
  if (ended !== '') return endedAt + settings.tombstoneMs;
  if (executions.length === 0) return settings.ttlMs > 0 ? lastActivityAt + settings.ttlMs : undefined;
  let wake = Number.POSITIVE_INFINITY;
  let running = 0;
  for (const execution of executions) {
    // A step places one at most: another may have to follow at once.
    if (execution.phase === 'queued' && running < settings.maxConcurrentExecutions) return 0;
    running++;
    wake = Math.min(wake, execution.deadlineAt);
    if (execution.phase === 'placing') wake = Math.min(wake, execution.placeAt);
    for (const { wakeAt } of execution.sleeps) wake = Math.min(wake, wakeAt);
    for (const { retryAt } of execution.calls) if (retryAt > 0) wake = Math.min(wake, retryAt);
  }
  return wake;
}

/** True if somebody must look after it should its owner die. */
export function hasWork({ executions, ended }: SessionContext): boolean {
  return ended === '' && executions.some(({ phase }) => phase !== 'parked');
}

// ---- a step ----------------------------------------------------------------------------------------------

function take(draft: Draft, event: SessionEvent): void {
  switch (event.type) {
    case 'session.activated':
      return activate(draft);
    case 'execution.requested':
      return request(draft, event);
    case 'execution.cancel':
      return cancel(draft, event);
    case 'attempt.reported':
      return takeReport(draft, event);
    case 'attempt.refused':
      return refuse(draft, event);
    case 'attempt.lost':
      return lose(draft, event.execution, event.attempt, undefined);
    case 'call.ended':
    case 'call.lost':
    case 'call.unprovided': {
      const execution = edit(draft, event.execution);
      if (execution === undefined) return;
      if (event.type === 'call.ended')
        return endCall(draft, execution, event.index, event.end, event.durationMs);
      if (event.type === 'call.lost') return loseCall(draft, execution, event.index);
      return missProvider(draft, execution, event.index);
    }
    case 'runtimes.changed':
      return seekAgain(draft);
    case 'time.passed':
      return advance(draft);
    case 'session.migrate':
      return migrate(draft, event);
    case 'session.hibernate':
      return hibernate(draft, event);
    case 'session.close':
      return close(draft, event);
  }
}

function step(context: SessionContext, event: SessionEvent): SessionContext {
  const draft = beginDraft(context, event);
  take(draft, event);
  placeNext(draft);
  return endDraft(draft);
}

const running = ({ executions }: SessionContext): boolean => executions.length > 0;
const onlyWaiting = ({ executions }: SessionContext): boolean =>
  executions.every(({ phase, attempt }) => phase === 'parked' || attempt?.waiting === true);

export const sessionMachine = setup({
  types: {} as { context: SessionContext; events: SessionEvent; input: SessionInput },
  actions: {
    /** Take a fact in; what comes of it is left in `context.out`. */
    decide: assign(({ context, event }) => step(context, event)),
  },
  guards: {
    closed: ({ context }) => context.ended === 'closed',
    expired: ({ context }) => context.ended === 'expired',
    migrating: ({ context }) => context.migrating,
    hibernated: ({ context }) => context.hibernated,
    waiting: ({ context }) => running(context) && onlyWaiting(context),
    executing: ({ context }) => running(context) && !onlyWaiting(context),
    idle: ({ context }) => !running(context),
  },
}).createMachine({
  id: 'session',
  // The pure transition makes an initial state that nobody looks at, each time and without an input.
  context: ({ input }: { input: SessionInput | undefined }) =>
    input === undefined ? UNBORN : newSession(input),
  initial: 'starting',
  on: { '*': { actions: 'decide', target: '.deciding' } },
  states: {
    /** Made, and nobody has acquired it yet. */
    starting: {},
    /** Passed through within a step: where it goes follows from what it knows. */
    deciding: {
      always: [
        { guard: 'closed', target: 'closed' },
        { guard: 'expired', target: 'expired' },
        { guard: 'migrating', target: 'migrating' },
        { guard: 'hibernated', target: 'hibernated' },
        { guard: 'idle', target: 'idle' },
        { guard: 'waiting', target: 'waiting' },
        { guard: 'executing', target: 'executing' },
      ],
    },
    idle: {},
    executing: {},
    /** Every execution waits for tools, or sleeps. */
    waiting: {},
    /** Put away: no actor, no isolate; the next command or wake brings it back. */
    hibernated: {},
    /** Being handed to another broker. Scripts and tools run on. */
    migrating: {},
    closed: {},
    expired: {},
  },
});

export type SessionStateValue =
  | 'starting'
  | 'idle'
  | 'executing'
  | 'waiting'
  | 'hibernated'
  | 'migrating'
  | 'closed'
  | 'expired';
