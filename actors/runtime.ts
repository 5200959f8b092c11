/**
 * The runtime: a bounded mailbox in front of a set of workers. It decides what waits, what runs where, what is
 * tried again after a crash and what is refused. It knows nothing of processes: `src/` tells it facts and
 * carries out its effects.
 *
 * Invariants:
 *  R1  An execution that was admitted is in exactly one place: waiting, suspected, or aboard one worker; it
 *      leaves through `execution.settled`, `execution.withdrawn`, or one of the effects `quarantine` and `fail`.
 *  R2  The mailbox never holds more than `maxQueueLength` (what is tried again after a crash does not count).
 *  R3  A worker never has more aboard than `maxConcurrentPerWorker`, and gets nothing new while `depth` of those
 *      run: one runs, the next are at hand. (More may run when several resume at once.)
 *  R4  When a worker is lost with several executions aboard, each is tried again alone. Only a crash with one
 *      execution aboard counts against its script; `quarantineAfter` of those in a row, and it is refused.
 *  R5  A worker that serves one tenant at level 'process' never served and never serves another.
 *  R6  While a suspect runs, nothing else is aboard its worker.
 */
import { assign, setup } from 'xstate';
import { drop, EMPTY, type Fifo, filter, peek, push, values } from './fifo.ts';
import {
  EMPTY_MAILBOX,
  type Mailbox,
  next,
  post,
  take,
  type Waiting,
  waitingIn,
  withdraw,
} from './mailbox.ts';

export interface RuntimeLimits {
  readonly maxWorkers: number;
  readonly maxQueueLength: number;
  readonly maxConcurrentPerWorker: number;
  readonly quarantineAfter: number;
}

/** Executions of one worker that may be running or about to run. */
export const DEPTH = 6;
/** How long a script stays refused after its last crash, in ms. */
export const QUARANTINE_MS = 600_000;
/** Crash counts kept; the oldest is forgotten first. */
const MAX_CRASH_RECORDS = 1_000;
/** Tenants remembered per worker for affinity. */
const MAX_RECENT = 16;

interface Aboard extends Waiting {
  readonly phase: 'running' | 'waiting';
  readonly dedicated: boolean;
}

interface WorkerView {
  readonly slot: string;
  readonly status: 'ready' | 'closing';
  readonly aboard: readonly Aboard[];
  readonly running: number;
  /** Nothing ran in it yet. */
  readonly fresh: boolean;
  /** The one tenant that it serves (level 'process'). */
  readonly tenant: string | undefined;
  /** Kept free of new work: a suspect runs in it or waits for it to become empty. */
  readonly held: boolean;
  /** Tenants that ran here last, the latest first. */
  readonly recent: readonly string[];
}

interface CrashRecord {
  readonly count: number;
  readonly at: number;
}

export interface RuntimeContext {
  readonly limits: RuntimeLimits;
  readonly shared: Mailbox;
  /** Executions at level 'process': they wait for a worker of their tenant's own. */
  readonly dedicated: Mailbox;
  readonly suspects: Fifo<Waiting & { readonly dedicated: boolean }>;
  readonly workers: readonly WorkerView[];
  /** Slots that were asked for and are not ready yet. */
  readonly starting: number;
  readonly crashes: Readonly<Record<string, CrashRecord>>;
  /** True while the supervisor starts nothing: what waits then waits for the recovery. */
  readonly failed: boolean;
  readonly retryAfterMs: number;
  readonly effects: readonly RuntimeEffect[];
}

export type RuntimeEvent =
  | {
      readonly type: 'execution.submitted';
      readonly id: string;
      readonly tenant: string;
      readonly key: string;
      readonly dedicated: boolean;
      readonly at: number;
    }
  /** Its caller gave up, or it may not be tried again. */
  | { readonly type: 'execution.withdrawn'; readonly id: string }
  | { readonly type: 'execution.waiting'; readonly id: string; readonly slot: string }
  | { readonly type: 'execution.running'; readonly id: string; readonly slot: string }
  /** It ended, or its worker will not be asked for it any more. `sound`: its worker survived it. */
  | {
      readonly type: 'execution.settled';
      readonly id: string;
      readonly slot: string;
      readonly sound: boolean;
    }
  | { readonly type: 'worker.starting' }
  | { readonly type: 'worker.ready'; readonly slot: string }
  | { readonly type: 'worker.closing'; readonly slot: string }
  /** Gone before it was ready. */
  | { readonly type: 'worker.abandoned' }
  /** Gone. `blamed`: the cause is known and is none of those still aboard. */
  | { readonly type: 'worker.lost'; readonly slot: string; readonly blamed: boolean; readonly at: number }
  | { readonly type: 'runtime.failed'; readonly retryAfterMs: number }
  | { readonly type: 'runtime.recovered' }
  | { readonly type: 'runtime.drain' }
  | { readonly type: 'runtime.close' };

/** What `src/` must do, in this order. */
export type RuntimeEffect =
  | { readonly type: 'dispatch'; readonly id: string; readonly slot: string }
  | {
      readonly type: 'refuse';
      readonly id: string;
      readonly code: 'OVERLOADED' | 'QUARANTINED' | 'WORKER_CRASHED' | 'CLOSED';
      readonly position: number;
      readonly retryAfterMs: number;
    }
  /** Its worker was lost; it waits for another attempt. */
  | { readonly type: 'retry'; readonly id: string; readonly alone: boolean }
  | { readonly type: 'quarantine'; readonly id: string; readonly crashes: number }
  | {
      readonly type: 'fail';
      readonly id: string;
      readonly code: 'WORKER_CRASHED' | 'CLOSED';
      readonly retryAfterMs: number;
    }
  | { readonly type: 'startWorker' }
  /** An idle worker that must make room for one of a tenant's own. */
  | { readonly type: 'retireWorker'; readonly slot: string }
  | { readonly type: 'drained' };

type Change = Partial<Omit<RuntimeContext, 'limits' | 'effects'>>;
type Step = readonly [RuntimeContext, readonly RuntimeEffect[]];

/** A context with some fields changed and no effects. */
function change(context: RuntimeContext, changes: Change): RuntimeContext {
  return { ...context, ...changes };
}

// ---- admission -------------------------------------------------------------------------------------------

function submit(
  context: RuntimeContext,
  event: Extract<RuntimeEvent, { type: 'execution.submitted' }>,
): Step {
  const { id, tenant, key, dedicated, at } = event;
  const record = context.crashes[key];
  if (
    record !== undefined &&
    record.count >= context.limits.quarantineAfter &&
    at - record.at < QUARANTINE_MS
  ) {
    return [
      context,
      [
        {
          type: 'refuse',
          id,
          code: 'QUARANTINED',
          position: 0,
          retryAfterMs: QUARANTINE_MS - (at - record.at),
        },
      ],
    ];
  }
  const queued = context.shared.size + context.dedicated.size;
  const waiting: Waiting = { id, tenant, key };
  const posted = dedicated
    ? change(context, { dedicated: post(context.dedicated, waiting) })
    : change(context, { shared: post(context.shared, waiting) });
  const [placed, effects] = place(posted);
  if (placed.shared.size + placed.dedicated.size <= context.limits.maxQueueLength) return [placed, effects];
  // R2: nothing was dispatched in its place, so what was posted last is what does not fit.
  return [context, [{ type: 'refuse', id, code: 'OVERLOADED', position: queued + 1, retryAfterMs: 0 }]];
}

// ---- placement -------------------------------------------------------------------------------------------

/** Put to work what can be put to work, and ask for the workers that are missing. */
function place(context: RuntimeContext): Step {
  const effects: RuntimeEffect[] = [];
  let now = placeSuspects(context, effects);
  now = placeDedicated(now, effects);
  for (let head = next(now.shared); head !== undefined; head = next(now.shared)) {
    const worker = choose(now, head.tenant);
    if (worker === undefined) break;
    now = board(change(now, { shared: take(now.shared) }), worker, head, false);
    effects.push({ type: 'dispatch', id: head.id, slot: worker.slot });
  }
  return askForWorkers(now, effects);
}

function placeSuspects(context: RuntimeContext, effects: RuntimeEffect[]): RuntimeContext {
  let now = context;
  for (let head = peek(now.suspects); head !== undefined; head = peek(now.suspects)) {
    const suspect = head;
    const usable = now.workers.filter(
      (worker) =>
        worker.status === 'ready' &&
        (suspect.dedicated
          ? worker.tenant === suspect.tenant || worker.fresh // R5
          : worker.tenant === undefined),
    );
    const empty = usable.find((worker) => worker.aboard.length === 0);
    if (empty !== undefined) {
      now = board(
        change(now, { suspects: drop(now.suspects) }),
        { ...empty, held: true, tenant: suspect.dedicated ? suspect.tenant : undefined },
        suspect,
        suspect.dedicated,
      ); // R6
      effects.push({ type: 'dispatch', id: suspect.id, slot: empty.slot });
      continue;
    }
    // Let the least loaded worker run empty, unless one is being emptied already.
    if (!usable.some((worker) => worker.held)) {
      const [least] = usable.toSorted((a, b) => a.aboard.length - b.aboard.length);
      if (least !== undefined) now = replaceWorker(now, { ...least, held: true });
    }
    break;
  }
  return now;
}

function placeDedicated(context: RuntimeContext, effects: RuntimeEffect[]): RuntimeContext {
  let now = context;
  const skipped: Waiting[] = [];
  for (let head = next(now.dedicated); head !== undefined; head = next(now.dedicated)) {
    const { tenant } = head;
    now = change(now, { dedicated: take(now.dedicated) });
    const own = now.workers.find((worker) => worker.tenant === tenant && hasRoom(now, worker));
    const worker =
      own ??
      now.workers.find(
        (candidate) => candidate.fresh && candidate.aboard.length === 0 && hasRoom(now, candidate),
      ); // R5
    if (worker === undefined) {
      skipped.push(head);
      continue;
    }
    now = board(now, { ...worker, tenant }, head, true);
    effects.push({ type: 'dispatch', id: head.id, slot: worker.slot });
  }
  return skipped.length === 0 ? now : change(now, { dedicated: skipped.reduce(post, now.dedicated) });
}

function hasRoom(context: RuntimeContext, worker: WorkerView): boolean {
  return (
    worker.status === 'ready' &&
    !worker.held &&
    worker.running < DEPTH &&
    worker.aboard.length < context.limits.maxConcurrentPerWorker // R3
  );
}

/** The least busy worker; among equals one that is warm for the tenant, then the one with the least aboard. */
function choose(context: RuntimeContext, tenant: string): WorkerView | undefined {
  let best: WorkerView | undefined;
  let bestScore = Number.POSITIVE_INFINITY;
  for (const worker of context.workers) {
    if (worker.tenant !== undefined || !hasRoom(context, worker)) continue;
    const score = worker.running * 1e6 + (worker.recent.includes(tenant) ? 0 : 1e4) + worker.aboard.length;
    if (score < bestScore) {
      best = worker;
      bestScore = score;
    }
  }
  return best;
}

function board(
  context: RuntimeContext,
  worker: WorkerView,
  waiting: Waiting,
  dedicated: boolean,
): RuntimeContext {
  const { id, tenant, key } = waiting;
  return replaceWorker(context, {
    ...worker,
    aboard: [...worker.aboard, { id, tenant, key, dedicated, phase: 'running' }],
    running: worker.running + 1,
    fresh: false,
    recent:
      worker.recent[0] === tenant
        ? worker.recent
        : [tenant, ...worker.recent.filter((other) => other !== tenant)].slice(0, MAX_RECENT),
  });
}

function askForWorkers(context: RuntimeContext, effects: RuntimeEffect[]): Step {
  const waiting = context.shared.size + context.dedicated.size + context.suspects.size;
  if (waiting === 0 || context.failed) return [context, effects];
  const live = context.workers.length + context.starting;
  const missing = Math.min(context.limits.maxWorkers - live, waiting - context.starting);
  for (let count = 0; count < missing; count++) effects.push({ type: 'startWorker' });
  if (missing > 0) return [change(context, { starting: context.starting + missing }), effects];
  if (context.starting > 0 || context.workers.some((worker) => worker.status === 'closing'))
    return [context, effects];
  // Every place is taken, none is coming, and what waits can use none of them: an idle worker makes room.
  const misfit = idleMisfit(context);
  if (misfit === undefined) return [context, effects];
  effects.push({ type: 'retireWorker', slot: misfit.slot });
  return [replaceWorker(context, { ...misfit, status: 'closing' }), effects];
}

/** An idle worker that is of no use to anything that waits, while something waits that has no worker to use. */
function idleMisfit(context: RuntimeContext): WorkerView | undefined {
  const suspects = values(context.suspects);
  const shared = context.shared.size > 0 || suspects.some((waiting) => !waiting.dedicated);
  const dedicated = [...waitingIn(context.dedicated), ...suspects.filter((waiting) => waiting.dedicated)];
  const lacksShared = shared && context.workers.every((worker) => worker.tenant !== undefined);
  const lacksOwn = dedicated.some(
    ({ tenant }) => !context.workers.some((worker) => worker.fresh || worker.tenant === tenant),
  );
  if (!lacksShared && !lacksOwn) return undefined;
  const idle = context.workers.filter((worker) => worker.aboard.length === 0);
  return idle.find((worker) => !dedicated.some(({ tenant }) => tenant === worker.tenant));
}

// ---- what happens aboard ---------------------------------------------------------------------------------

function setPhase(context: RuntimeContext, slot: string, id: string, phase: Aboard['phase']): RuntimeContext {
  const worker = context.workers.find((view) => view.slot === slot);
  const found = worker?.aboard.find((entry) => entry.id === id);
  if (worker === undefined || found === undefined || found.phase === phase) return context;
  return replaceWorker(context, {
    ...worker,
    aboard: worker.aboard.map((entry) => (entry === found ? { ...entry, phase } : entry)),
    running: worker.running + (phase === 'running' ? 1 : -1),
  });
}

function settle(
  context: RuntimeContext,
  event: Extract<RuntimeEvent, { type: 'execution.settled' }>,
): RuntimeContext {
  const worker = context.workers.find((view) => view.slot === event.slot);
  const found = worker?.aboard.find((entry) => entry.id === event.id);
  if (worker === undefined || found === undefined) return context;
  const aboard = worker.aboard.filter((entry) => entry !== found);
  const after = replaceWorker(context, {
    ...worker,
    aboard,
    running: worker.running - (found.phase === 'running' ? 1 : 0),
    held: worker.held && aboard.length > 0,
  });
  if (!event.sound || after.crashes[found.key] === undefined) return after;
  const { [found.key]: _cleared, ...crashes } = after.crashes;
  return change(after, { crashes });
}

function lose(context: RuntimeContext, event: Extract<RuntimeEvent, { type: 'worker.lost' }>): Step {
  const worker = context.workers.find((view) => view.slot === event.slot);
  if (worker === undefined) return [context, []];
  const effects: RuntimeEffect[] = [];
  let now = change(context, { workers: context.workers.filter((view) => view !== worker) });
  const [only] = worker.aboard;
  if (worker.aboard.length === 1 && only !== undefined && !event.blamed) {
    // R4: alone aboard, so this crash is its own.
    const before = now.crashes[only.key];
    const crashes = (before !== undefined && event.at - before.at < QUARANTINE_MS ? before.count : 0) + 1;
    now = change(now, { crashes: remember(now.crashes, only.key, { count: crashes, at: event.at }) });
    if (crashes >= now.limits.quarantineAfter) {
      effects.push({ type: 'quarantine', id: only.id, crashes });
    } else {
      now = suspect(now, only);
      effects.push({ type: 'retry', id: only.id, alone: true });
    }
  } else {
    for (const entry of worker.aboard) {
      if (event.blamed)
        now = entry.dedicated
          ? change(now, { dedicated: post(now.dedicated, entry) })
          : change(now, { shared: post(now.shared, entry) });
      else now = suspect(now, entry);
      effects.push({ type: 'retry', id: entry.id, alone: !event.blamed });
    }
  }
  const [placed, more] = place(now);
  return [placed, [...effects, ...more]];
}

function suspect(context: RuntimeContext, entry: Aboard): RuntimeContext {
  const { id, tenant, key, dedicated } = entry;
  return change(context, { suspects: push(context.suspects, { id, tenant, key, dedicated }) });
}

function remember(
  crashes: Readonly<Record<string, CrashRecord>>,
  key: string,
  record: CrashRecord,
): Readonly<Record<string, CrashRecord>> {
  const { [key]: _old, ...others } = crashes;
  const keys = Object.keys(others);
  if (keys.length >= MAX_CRASH_RECORDS) delete (others as Record<string, CrashRecord>)[keys[0] as string];
  return { ...others, [key]: record };
}

function replaceWorker(context: RuntimeContext, worker: WorkerView): RuntimeContext {
  return change(context, {
    workers: context.workers.map((view) => (view.slot === worker.slot ? worker : view)),
  });
}

/** Give up everything that is not aboard a worker. */
function abandonWaiting(
  context: RuntimeContext,
  code: 'WORKER_CRASHED' | 'CLOSED',
  retryAfterMs: number,
): Step {
  const waiting = [
    ...waitingIn(context.shared),
    ...waitingIn(context.dedicated),
    ...values(context.suspects),
  ];
  return [
    change(context, { shared: EMPTY_MAILBOX, dedicated: EMPTY_MAILBOX, suspects: EMPTY, retryAfterMs }),
    waiting.map(({ id }) => ({ type: 'fail', id, code, retryAfterMs })),
  ];
}

/** True if no execution is waiting or aboard. */
export function isEmpty(context: RuntimeContext): boolean {
  return (
    context.shared.size + context.dedicated.size + context.suspects.size === 0 &&
    context.workers.every((worker) => worker.aboard.length === 0)
  );
}

/** Executions that wait for a worker. */
export function queueLength(context: RuntimeContext): number {
  return context.shared.size + context.dedicated.size + context.suspects.size;
}

/** The facts that mean the same in every state that still has executions. */
function step(context: RuntimeContext, event: RuntimeEvent): Step {
  switch (event.type) {
    case 'execution.submitted':
      return submit(context, event);
    case 'execution.withdrawn':
      return place(
        change(context, {
          shared: withdraw(context.shared, event.id),
          dedicated: withdraw(context.dedicated, event.id),
          suspects: filter(context.suspects, (waiting) => waiting.id !== event.id),
        }),
      );
    case 'execution.waiting':
      return place(setPhase(context, event.slot, event.id, 'waiting'));
    case 'execution.running':
      return [setPhase(context, event.slot, event.id, 'running'), []];
    case 'execution.settled':
      return place(settle(context, event));
    case 'worker.starting':
      return [change(context, { starting: context.starting + 1 }), []];
    case 'worker.abandoned':
      return [change(context, { starting: Math.max(0, context.starting - 1) }), []];
    case 'worker.ready': {
      const view: WorkerView = {
        slot: event.slot,
        status: 'ready',
        aboard: [],
        running: 0,
        fresh: true,
        tenant: undefined,
        held: false,
        recent: [],
      };
      return place(
        change(context, { workers: [...context.workers, view], starting: Math.max(0, context.starting - 1) }),
      );
    }
    case 'worker.closing': {
      const worker = context.workers.find((view) => view.slot === event.slot);
      return worker === undefined
        ? [context, []]
        : place(replaceWorker(context, { ...worker, status: 'closing' }));
    }
    case 'worker.lost':
      return lose(context, event);
    default:
      return [context, []];
  }
}

const SHARED_EVENTS = [
  'execution.withdrawn',
  'execution.waiting',
  'execution.running',
  'execution.settled',
  'worker.starting',
  'worker.abandoned',
  'worker.ready',
  'worker.closing',
  'worker.lost',
] as const;

function asContext([context, effects]: Step): RuntimeContext {
  return { ...context, effects };
}

export const runtimeMachine = setup({
  types: {} as { context: RuntimeContext; events: RuntimeEvent; input: RuntimeLimits },
  actions: {
    /** Take a fact in; what must be done is left in `context.effects`. */
    decide: assign(({ context, event }) => asContext(step(context, event))),
    /** A fact taken in while nothing may be admitted. */
    refuseFailed: assign(({ context, event }) =>
      event.type === 'execution.submitted'
        ? asContext([
            context,
            [
              {
                type: 'refuse',
                id: event.id,
                code: 'WORKER_CRASHED',
                position: 0,
                retryAfterMs: context.retryAfterMs,
              },
            ],
          ])
        : context,
    ),
    refuseClosed: assign(({ context, event }) =>
      event.type === 'execution.submitted'
        ? asContext([
            context,
            [{ type: 'refuse', id: event.id, code: 'CLOSED', position: 0, retryAfterMs: 0 }],
          ])
        : context,
    ),
    abandonCrashed: assign(({ context, event }) =>
      event.type === 'runtime.failed'
        ? asContext(abandonWaiting({ ...context, failed: true }, 'WORKER_CRASHED', event.retryAfterMs))
        : context,
    ),
    abandonClosed: assign(({ context }) => {
      const [after, effects] = abandonWaiting(context, 'CLOSED', 0);
      const aboard = after.workers.flatMap((worker) =>
        worker.aboard.map(({ id }) => ({ type: 'fail', id, code: 'CLOSED', retryAfterMs: 0 }) as const),
      );
      return asContext([change(after, { workers: [], starting: 0 }), [...effects, ...aboard]]);
    }),
    clearEffects: assign(({ context }) => ({ ...context, effects: [] })),
    announceDrained: assign(({ context }) => ({
      ...context,
      effects: [...context.effects, { type: 'drained' }] as const,
    })),
    placeAgain: assign(({ context }) => asContext(place({ ...context, failed: false }))),
  },
  guards: {
    isEmpty: ({ context }) => isEmpty(context),
  },
}).createMachine({
  id: 'runtime',
  context: ({ input }) => ({
    limits: input,
    shared: EMPTY_MAILBOX,
    dedicated: EMPTY_MAILBOX,
    suspects: EMPTY,
    workers: [],
    starting: 0,
    crashes: {},
    failed: false,
    retryAfterMs: 0,
    effects: [],
  }),
  initial: 'open',
  states: {
    open: {
      on: {
        'execution.submitted': { actions: 'decide' },
        'runtime.failed': { target: 'failed', actions: 'abandonCrashed' },
        'runtime.drain': { target: 'draining', actions: 'clearEffects' },
      },
    },
    failed: {
      on: {
        'execution.submitted': { actions: 'refuseFailed' },
        'runtime.recovered': { target: 'open', actions: 'placeAgain' },
        'runtime.drain': { target: 'draining', actions: 'clearEffects' },
      },
    },
    draining: {
      always: { guard: 'isEmpty', target: 'drained' },
      on: {
        'execution.submitted': { actions: 'refuseClosed' },
        'runtime.failed': { actions: 'abandonCrashed' },
        'runtime.recovered': { actions: 'placeAgain' },
      },
    },
    drained: {
      entry: 'announceDrained',
      on: { 'execution.submitted': { actions: 'refuseClosed' } },
    },
    closed: {
      on: { 'execution.submitted': { actions: 'refuseClosed' } },
    },
  },
  on: {
    ...Object.fromEntries(SHARED_EVENTS.map((type) => [type, { actions: 'decide' as const }])),
    'runtime.close': { target: '.closed', actions: 'abandonClosed' },
    // A fact that the present state does not answer has no effects, not those of the fact before.
    '*': { actions: 'clearEffects' },
  },
});
