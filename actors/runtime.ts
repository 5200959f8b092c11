/**
 * The runtime: a bounded mailbox in front of a set of workers. It decides what waits, what runs where, what is
 * tried again after a crash and what is refused. It knows nothing of processes: `src/` tells it facts and
 * carries out its effects.
 *
 * Invariants:
 *  R1  An execution that was admitted is in exactly one place: waiting, suspected, or aboard one worker; it
 *      leaves through `execution.settled`, `execution.withdrawn`, or one of the effects `quarantine`, `fail` and
 *      `refuse`.
 *  R2  The mailbox never holds more than `maxQueueLength` (what is tried again after a crash does not count). When it
 *      is full, whoever has the most waiting for its share gives up its last for one of a tenant that has less.
 *  R3  A worker never has more aboard than `maxConcurrentPerWorker`, and gets nothing new while `depth` of those
 *      run: one runs, the next are at hand. (More may run when several resume at once.)
 *  R4  When a worker is lost with several executions aboard, each is tried again alone. Only a crash with one
 *      execution aboard counts against its script; `quarantineAfter` of those in a row, and it is refused.
 *  R5  A worker that serves one tenant at level 'process' never served and never serves another.
 *  R6  While a suspect runs, nothing else is aboard its worker. What is submitted as `alone` is a suspect.
 */
import { assign, setup } from 'xstate';
import {
  type Aboard,
  type CrashRecord,
  change,
  place,
  type RuntimeContext,
  type RuntimeEffect,
  type RuntimeLimits,
  replaceWorker,
  type Step,
  type WorkerView,
} from './dispatch.ts';
import { EMPTY, filter, push, values } from './fifo.ts';
import { displaced, EMPTY_MAILBOX, post, type Waiting, waitingIn, withdraw } from './mailbox.ts';

export { DEPTH, type RuntimeContext, type RuntimeEffect, type RuntimeLimits } from './dispatch.ts';

/** How long a script stays refused after its last crash, in ms. */
export const QUARANTINE_MS = 600_000;
/** Crash counts kept; the oldest is forgotten first. */
const MAX_CRASH_RECORDS = 1_000;

/** Facts, as `src/` tells them. */
export type RuntimeEvent =
  | {
      readonly type: 'execution.submitted';
      readonly id: string;
      readonly tenant: string;
      readonly key: string;
      /** On whose share it waits, and how large that is. Default: its tenant's, and 1. */
      readonly flow?: string | undefined;
      readonly weight?: number | undefined;
      readonly dedicated: boolean;
      /** Suspected from the start: nothing else may be aboard its worker (R6). */
      readonly alone?: boolean | undefined;
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

// ---- admission -------------------------------------------------------------------------------------------

function submit(
  context: RuntimeContext,
  event: Extract<RuntimeEvent, { type: 'execution.submitted' }>,
): Step {
  const { id, tenant, key, flow, weight, dedicated, at } = event;
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
  const waiting: Waiting = { id, tenant, key, flow, weight };
  if (event.alone === true) return submitAlone(context, { ...waiting, dedicated });
  const posted = dedicated
    ? change(context, { dedicated: post(context.dedicated, waiting) })
    : change(context, { shared: post(context.shared, waiting) });
  const [placed, effects] = place(posted);
  if (placed.shared.size + placed.dedicated.size <= context.limits.maxQueueLength) return [placed, effects];
  // R2: nothing was dispatched in its place, so what was posted last is what does not fit.
  return displace(context, waiting, dedicated);
}

/** R2: one of the same mailbox makes room for it, or it is refused. */
function displace(context: RuntimeContext, waiting: Waiting, dedicated: boolean): Step {
  const mailbox = dedicated ? context.dedicated : context.shared;
  const queued = context.shared.size + context.dedicated.size;
  const position = queued + 1;
  // While there is more than may be, because some is tried again, nobody comes in.
  const out = queued > context.limits.maxQueueLength ? undefined : displaced(mailbox, waiting);
  const refused = { type: 'refuse', code: 'OVERLOADED', position, retryAfterMs: 0 } as const;
  if (out === undefined) return [context, [{ ...refused, id: waiting.id }]];
  const after = post(withdraw(mailbox, out.id), waiting);
  return [
    change(context, dedicated ? { dedicated: after } : { shared: after }),
    [{ ...refused, id: out.id }],
  ];
}

/** One that was aboard a lost worker elsewhere takes the way of those that were lost here. */
function submitAlone(context: RuntimeContext, entry: Waiting & { readonly dedicated: boolean }): Step {
  const queued = queueLength(context);
  const [placed, effects] = place(suspect(context, entry));
  const dispatched = effects.some((effect) => effect.type === 'dispatch' && effect.id === entry.id);
  if (dispatched || queued < context.limits.maxQueueLength) return [placed, effects];
  // R2
  return [
    context,
    [{ type: 'refuse', id: entry.id, code: 'OVERLOADED', position: queued + 1, retryAfterMs: 0 }],
  ];
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
      effects.push({ type: 'retry', id: only.id, alone: true, counted: true });
    }
  } else {
    for (const entry of worker.aboard) {
      if (event.blamed) {
        const { id, tenant, key, flow, weight } = entry;
        const waiting: Waiting = { id, tenant, key, flow, weight, again: true };
        now = entry.dedicated
          ? change(now, { dedicated: post(now.dedicated, waiting) })
          : change(now, { shared: post(now.shared, waiting) });
      } else now = suspect(now, entry);
      effects.push({ type: 'retry', id: entry.id, alone: !event.blamed, counted: false });
    }
  }
  const [placed, more] = place(now);
  return [placed, [...effects, ...more]];
}

function suspect(context: RuntimeContext, entry: Waiting & { readonly dedicated: boolean }): RuntimeContext {
  const { id, tenant, key, flow, weight, dedicated } = entry;
  return change(context, { suspects: push(context.suspects, { id, tenant, key, flow, weight, dedicated }) });
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
