/**
 * How many runtimes there should be: looks at what is in use come in as facts, starts and drains go out as effects.
 * Pure: times are those of a monotonic clock, in ms, and come with the facts.
 *
 * A runtime that drains takes nothing new and is about to be gone, so it counts to no bound and to no share.
 *
 * Invariants:
 *  P1  Nothing is started that would make more than `maxSize` with what is there and what is being started.
 *  P2  Nothing is drained that would leave less than `minSize`; fewer than that are made up for in one step, at any
 *      look.
 *  P3  Only a runtime that was started here is drained, the least loaded one, one at a time: the next one only when it
 *      is gone.
 *  P4  One is drained only after {@link LOW_INTERVALS} whole intervals in which every look was below the threshold and
 *      nothing was started or drained, and only if what remains stays at or below the threshold for starting. So under
 *      an even load nothing is started after something was drained.
 *  P5  Shares are weighed at most once per interval.
 *  P6  After a failed start nothing is started for a while, which doubles with each failure in a row.
 */
import { assign, setup } from 'xstate';
import { doublingDelay } from './restart.ts';

/** Intervals of low use before a runtime is drained. */
const LOW_INTERVALS = 2;
/** Waits after failed starts, in ms. */
const RETRY_MS = { first: 1_000, last: 120_000 };
/** One that was started and not seen for so long, in ms, has failed. */
const START_TIMEOUT_MS = 60_000;

export interface AutoscalerLimits {
  readonly minSize: number;
  readonly maxSize: number;
  /** Shares of all places, from 0 to 1. */
  readonly scaleUpThreshold: number;
  readonly scaleDownThreshold: number;
  readonly scaleInterval: number;
}

/** A runtime as its last heartbeat showed it. */
export interface PoolRuntime {
  readonly id: string;
  readonly load: number;
  readonly capacity: number;
  readonly draining: boolean;
}

interface Start {
  readonly ref: number;
  /** Undefined until the provisioner has told it. */
  readonly id: string | undefined;
  readonly at: number;
}

export interface AutoscalerContext {
  readonly limits: AutoscalerLimits;
  /** Asked for, and not seen yet. */
  readonly starting: readonly Start[];
  /** The runtime that is being drained. */
  readonly leaving: string | undefined;
  /** When shares were weighed last; undefined before the first time. */
  readonly weighedAt: number | undefined;
  /** Since when every look was below the threshold; undefined if the last one was not. */
  readonly lowSince: number | undefined;
  /** Starts that failed since one succeeded. */
  readonly failures: number;
  /** Nothing is started before. */
  readonly startAt: number;
  readonly lastRef: number;
  /** What is to be done now. */
  readonly effects: readonly AutoscalerEffect[];
}

export type AutoscalerEffect =
  /** Start a runtime. Answered by `scale.started` or `scale.failed`. */
  | { readonly type: 'start'; readonly ref: number }
  /** Let it finish and end it. Answered by `scale.drained` when it is gone. */
  | { readonly type: 'drain'; readonly runtime: string }
  /** It did not come up: end it. */
  | { readonly type: 'stop'; readonly runtime: string }
  /** For an operator: `from` runtimes become `to`. */
  | { readonly type: 'tell'; readonly from: number; readonly to: number; readonly reason: string };

export type AutoscalerEvent =
  /** Whoever decides now did not before: what was seen until then was not all of it. */
  | { readonly type: 'role.taken'; readonly at: number }
  | {
      readonly type: 'pool.observed';
      readonly at: number;
      readonly runtimes: readonly PoolRuntime[];
      /** Those that were started here and are not gone, seen or not. */
      readonly ours: readonly string[];
      /** Executions that wait for room, and that one of these runtimes could take. */
      readonly waiting: number;
    }
  | { readonly type: 'scale.started'; readonly ref: number; readonly runtime: string; readonly at: number }
  | { readonly type: 'scale.failed'; readonly ref: number; readonly at: number }
  /** It is gone, however. */
  | { readonly type: 'scale.drained'; readonly runtime: string; readonly at: number };

type Observed = Extract<AutoscalerEvent, { type: 'pool.observed' }>;
type Change = Partial<AutoscalerContext>;

function step(context: AutoscalerContext, event: AutoscalerEvent): AutoscalerContext {
  return { ...context, effects: [], ...take(context, event) };
}

function take(context: AutoscalerContext, event: AutoscalerEvent): Change {
  switch (event.type) {
    case 'role.taken':
      return { lowSince: undefined, weighedAt: undefined };
    case 'scale.started': {
      const { ref, runtime } = event;
      // It was given up, and another was started in its place (P1).
      if (!context.starting.some((start) => start.ref === ref))
        return { effects: [{ type: 'stop', runtime }] };
      const starting = context.starting.map((start) =>
        start.ref === ref ? { ...start, id: runtime } : start,
      );
      return { starting };
    }
    case 'scale.failed': {
      const starting = context.starting.filter(({ ref }) => ref !== event.ref);
      if (starting.length === context.starting.length) return {};
      return { starting, ...failed(context, 1, event.at) };
    }
    case 'scale.drained':
      return context.leaving === event.runtime ? { leaving: undefined } : {};
    case 'pool.observed':
      return observe(context, event);
  }
}

/** P6 */
function failed({ failures, startAt }: AutoscalerContext, count: number, at: number): Change {
  if (count === 0) return {};
  // Those that fail together are one failure.
  const all = at < startAt ? failures : failures + 1;
  return { failures: all, startAt: at + doublingDelay(RETRY_MS.first, RETRY_MS.last, all - 1) };
}

// ---- looking ---------------------------------------------------------------------------------------------

function observe(context: AutoscalerContext, event: Observed): Change {
  const settled = settle(context, event);
  const active = event.runtimes.filter(({ id, draining }) => !draining && id !== context.leaving);
  const size = active.length + settled.starting.length;
  const { minSize } = context.limits;
  if (size < minSize) {
    const more = add(settled, event.at, size, minSize - size, `fewer than ${minSize}`); // P2
    return { ...settled, lowSince: undefined, ...more };
  }
  const { weighedAt, limits } = context;
  if (weighedAt !== undefined && event.at - weighedAt < limits.scaleInterval) return settled; // P5
  return { ...settled, ...weigh(settled, event, active) };
}

type Settled = AutoscalerContext;

/** What became of those that were being started or drained. */
function settle(context: AutoscalerContext, { at, runtimes, ours }: Observed): Settled {
  const seen = new Set(runtimes.map(({ id }) => id));
  const waiting = context.starting.filter(({ id }) => id === undefined || !seen.has(id));
  // The provisioner has let go of it, or it never came up.
  const dead = waiting.filter((start) => start.id !== undefined && !ours.includes(start.id));
  const late = waiting.filter((start) => !dead.includes(start) && at - start.at > START_TIMEOUT_MS);
  const starting = waiting.filter((start) => !dead.includes(start) && !late.includes(start));
  const cameUp = waiting.length < context.starting.length;
  const stops = late.flatMap(({ id }) => (id === undefined ? [] : [{ type: 'stop' as const, runtime: id }]));
  return {
    ...context,
    starting,
    effects: stops,
    ...(cameUp ? { failures: 0, startAt: 0 } : {}),
    ...failed(context, dead.length + late.length, at),
  };
}

function weigh(context: Settled, event: Observed, active: readonly PoolRuntime[]): Change {
  const { at, waiting } = event;
  const { scaleUpThreshold: up, scaleDownThreshold: down, maxSize } = context.limits;
  const size = active.length + context.starting.length;
  const used = sum(active, ({ load }) => load) + waiting;
  const seen = sum(active, ({ capacity }) => capacity);
  // One that is being started will be like the others.
  const each = active.length === 0 ? 0 : seen / active.length;
  const places = seen + each * context.starting.length;
  const share = places === 0 ? 0 : used / places;
  const weighed = { weighedAt: at };
  const crowded = places === 0 ? used > 0 && context.starting.length === 0 : share > up;
  if (crowded) {
    const needed = each === 0 ? size + 1 : Math.ceil(used / (each * up));
    // At most twice as many: what is in use at one moment says little about the next.
    const more = Math.min(Math.max(needed - size, 1), Math.max(size, 1), maxSize - size);
    return { ...weighed, lowSince: undefined, ...add(context, at, size, more, `${percent(share)} in use`) };
  }
  if (waiting > 0 || share >= down || context.starting.length > 0) return { ...weighed, lowSince: undefined };
  const lowSince = context.lowSince ?? at;
  if (at - lowSince < LOW_INTERVALS * context.limits.scaleInterval) return { ...weighed, lowSince };
  return { ...weighed, lowSince, ...remove(context, event, active, used, seen) };
}

/** P1, P6. May add nothing. */
function add(context: Settled, at: number, from: number, count: number, reason: string): Change {
  if (count <= 0 || at < context.startAt) return {};
  const refs = Array.from({ length: count }, (_, index) => context.lastRef + 1 + index);
  return {
    lowSince: undefined,
    lastRef: context.lastRef + count,
    starting: [...context.starting, ...refs.map((ref) => ({ ref, id: undefined, at }))],
    effects: [
      ...context.effects,
      ...refs.map((ref) => ({ type: 'start' as const, ref })),
      { type: 'tell', from, to: from + count, reason },
    ],
  };
}

/** P2, P3, P4. May remove nothing. */
function remove(
  context: Settled,
  { ours }: Observed,
  active: readonly PoolRuntime[],
  used: number,
  places: number,
): Change {
  const { minSize, scaleUpThreshold, scaleDownThreshold } = context.limits;
  const [least] = active
    .filter(({ id }) => ours.includes(id))
    .toSorted((one, other) => one.load - other.load || (one.id < other.id ? -1 : 1));
  if (least === undefined || context.leaving !== undefined || active.length <= minSize) return {};
  // Without the last one there is no place at all.
  if (used > (places - least.capacity) * scaleUpThreshold) return {};
  return {
    lowSince: undefined,
    leaving: least.id,
    effects: [
      ...context.effects,
      { type: 'drain', runtime: least.id },
      {
        type: 'tell',
        from: active.length,
        to: active.length - 1,
        reason: `less than ${percent(scaleDownThreshold)} in use`,
      },
    ],
  };
}

function sum<T>(things: readonly T[], of: (thing: T) => number): number {
  return things.reduce((total, thing) => total + of(thing), 0);
}

const percent = (share: number): string => `${Math.round(share * 100)}%`;

export const autoscalerMachine = setup({
  types: {} as { context: AutoscalerContext; events: AutoscalerEvent; input: AutoscalerLimits },
  actions: { decide: assign(({ context, event }) => step(context, event)) },
  guards: {
    growing: ({ context }) => context.starting.length > 0,
    shrinking: ({ context }) => context.leaving !== undefined,
  },
}).createMachine({
  id: 'autoscaler',
  context: ({ input }) => ({
    limits: input,
    starting: [],
    leaving: undefined,
    weighedAt: undefined,
    lowSince: undefined,
    failures: 0,
    startAt: 0,
    lastRef: 0,
    effects: [],
  }),
  initial: 'steady',
  on: { '*': { actions: 'decide', target: '.deciding' } },
  states: {
    /** Passed through within a step. */
    deciding: {
      always: [
        { guard: 'growing', target: 'growing' },
        { guard: 'shrinking', target: 'shrinking' },
        { target: 'steady' },
      ],
    },
    steady: {},
    /** Something was started and is not there yet. */
    growing: {},
    /** Something drains. */
    shrinking: {},
  },
});
