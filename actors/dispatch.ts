/**
 * Where executions run: the part of the runtime's decisions that puts what waits aboard workers.
 *
 * The invariants R3, R5 and R6 that it upholds stand at the top of runtime.ts.
 */
import { drop, type Fifo, peek } from './fifo.ts';
import { type Mailbox, next, take, takeFitting, type Waiting, waitingIn } from './mailbox.ts';

export interface RuntimeLimits {
  readonly maxWorkers: number;
  readonly maxQueueLength: number;
  readonly maxConcurrentPerWorker: number;
  readonly quarantineAfter: number;
}

/** Executions of one worker that may be running or about to run. */
export const DEPTH = 4;
/** Tenants remembered per worker for affinity. */
const MAX_RECENT = 16;

/** An execution in a worker. */
export interface Aboard extends Waiting {
  readonly phase: 'running' | 'waiting';
  readonly dedicated: boolean;
  /** A suspect: nothing else may come aboard. */
  readonly alone: boolean;
}

/** What the runtime knows of a worker that is ready. */
export interface WorkerView {
  readonly slot: string;
  readonly status: 'ready' | 'closing';
  readonly aboard: readonly Aboard[];
  readonly running: number;
  /** Nothing ran in it yet. */
  readonly fresh: boolean;
  /** The one tenant that it serves (level 'process'). */
  readonly tenant: string | undefined;
  /** Kept free of new work: a suspect runs in it, or one waits for it to become empty. */
  readonly held: boolean;
  /** Tenants that ran here last, the latest first. */
  readonly recent: readonly string[];
}

/** Crashes in a row of one script that was alone aboard. */
export interface CrashRecord {
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

/** What `src/` must do, in this order. */
export type RuntimeEffect =
  | { readonly type: 'dispatch'; readonly id: string; readonly slot: string }
  | {
      readonly type: 'refuse';
      readonly id: string;
      readonly code: 'OVERLOADED' | 'QUARANTINED' | 'WORKER_CRASHED' | 'CLOSED';
      /** OVERLOADED: the place that it would have had among what waits, counted from 1. Else 0. */
      readonly position: number;
      readonly retryAfterMs: number;
    }
  /** Its worker was lost; it waits for another attempt, `alone` if it is suspected. `counted`: the crash counts against it. */
  | { readonly type: 'retry'; readonly id: string; readonly alone: boolean; readonly counted: boolean }
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

/** Some fields of a context. */
export type Change = Partial<Omit<RuntimeContext, 'limits' | 'effects'>>;
/** A context and what must be done. */
export type Step = readonly [RuntimeContext, readonly RuntimeEffect[]];

/** A context with some fields changed and no effects. */
export function change(context: RuntimeContext, changes: Change): RuntimeContext {
  return { ...context, ...changes };
}

/** Put to work what can be put to work, and ask for the workers that are missing. */
export function place(context: RuntimeContext): Step {
  const effects: RuntimeEffect[] = [];
  let now = placeSuspects(context, effects);
  now = placeDedicated(now, effects);
  for (let head = next(now.shared); head !== undefined; head = next(now.shared)) {
    const worker = choose(now, head.tenant);
    if (worker === undefined) break;
    now = board(change(now, { shared: take(now.shared) }), worker, head, false, false);
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
        true,
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
  return now.suspects.size === 0 ? letGo(now) : now;
}

/** Nothing waits for an empty worker any more: those that were being emptied serve on. */
function letGo(context: RuntimeContext): RuntimeContext {
  const emptied = (worker: WorkerView): boolean => worker.held && !worker.aboard.some(({ alone }) => alone);
  if (!context.workers.some(emptied)) return context;
  return change(context, {
    workers: context.workers.map((worker) => (emptied(worker) ? { ...worker, held: false } : worker)),
  });
}

function placeDedicated(context: RuntimeContext, effects: RuntimeEffect[]): RuntimeContext {
  let now = context;
  for (;;) {
    const fits = (waiting: Waiting): boolean => ownWorker(now, waiting.tenant) !== undefined;
    const taken = now.dedicated.size === 0 ? undefined : takeFitting(now.dedicated, fits);
    if (taken === undefined) return now;
    const [waiting, dedicated] = taken;
    const { tenant } = waiting;
    const worker = ownWorker(now, tenant) as WorkerView;
    now = board(change(now, { dedicated }), { ...worker, tenant }, waiting, true, false);
    effects.push({ type: 'dispatch', id: waiting.id, slot: worker.slot });
  }
}

/** R5: one of the tenant's own with room, else one that nobody has used. */
function ownWorker(context: RuntimeContext, tenant: string): WorkerView | undefined {
  return (
    context.workers.find((worker) => worker.tenant === tenant && hasRoom(context, worker)) ??
    context.workers.find((worker) => worker.fresh && worker.aboard.length === 0 && hasRoom(context, worker))
  );
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
  alone: boolean,
): RuntimeContext {
  const { id, tenant, key, flow, weight } = waiting;
  return replaceWorker(context, {
    ...worker,
    aboard: [...worker.aboard, { id, tenant, key, flow, weight, dedicated, alone, phase: 'running' }],
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
  const suspect = peek(context.suspects); // Those behind it have no use for a worker before it had one.
  const shared = context.shared.size > 0 || suspect?.dedicated === false;
  const own = waitingIn(context.dedicated);
  const dedicated = suspect?.dedicated === true ? [...own, suspect] : own;
  const lacksShared = shared && context.workers.every((worker) => worker.tenant !== undefined);
  const lacksOwn = dedicated.some(
    ({ tenant }) => !context.workers.some((worker) => worker.fresh || worker.tenant === tenant),
  );
  if (!lacksShared && !lacksOwn) return undefined;
  const idle = context.workers.filter((worker) => worker.aboard.length === 0);
  return idle.find((worker) => !dedicated.some(({ tenant }) => tenant === worker.tenant));
}

/** The context with one worker's view replaced. */
export function replaceWorker(context: RuntimeContext, worker: WorkerView): RuntimeContext {
  return change(context, {
    workers: context.workers.map((view) => (view.slot === worker.slot ? worker : view)),
  });
}
