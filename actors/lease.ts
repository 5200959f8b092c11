/**
 * A broker's incarnation lease: whether this process may act as an owner. Pure: times are those of its own
 * monotonic clock, in ms, and come with the facts.
 *
 * Invariants:
 *  L1  It is held only until the time that the last granted request promised, counted from when that request was
 *      *sent*, less a margin.
 *  L2  A lease that ended is not held again: the process opens a new incarnation.
 *  L3  A main loop that did not tick for a third of the ttl gives the lease up: it may have slept through its end.
 */
import { assign, setup } from 'xstate';

/** Share of the ttl that an owner does not count on. */
const MARGIN = 0.1;

export interface LeaseContext {
  readonly ttlMs: number;
  /** Undefined before the first is opened. */
  readonly incarnation: string | undefined;
  /** When the request under way was sent; undefined if none is. */
  readonly askedAt: number | undefined;
  readonly heldUntil: number;
  readonly renewAt: number;
  readonly tickedAt: number;
  /** What is to be done now. */
  readonly effects: readonly LeaseEffect[];
}

export type LeaseEffect =
  | { readonly type: 'open'; readonly incarnation: string }
  | { readonly type: 'renew'; readonly incarnation: string }
  /** Nothing may be done or answered in its name any more. */
  | { readonly type: 'halt'; readonly incarnation: string; readonly reason: string };

export type LeaseEvent =
  | { readonly type: 'lease.open'; readonly incarnation: string; readonly at: number }
  /** The store's answer to the request under way. */
  | { readonly type: 'lease.granted'; readonly incarnation: string; readonly at: number }
  | { readonly type: 'lease.refused'; readonly incarnation: string; readonly at: number }
  /** There was no answer. */
  | { readonly type: 'lease.unanswered'; readonly incarnation: string; readonly at: number }
  | { readonly type: 'lease.ticked'; readonly at: number }
  | { readonly type: 'lease.end'; readonly at: number };

type Change = Partial<LeaseContext>;

function step(context: LeaseContext, event: LeaseEvent): LeaseContext {
  return { ...context, effects: [], ...take(context, event) };
}

function take(context: LeaseContext, event: LeaseEvent): Change {
  const { at } = event;
  switch (event.type) {
    case 'lease.open':
      if (context.incarnation !== undefined) return {};
      return {
        incarnation: event.incarnation,
        askedAt: at,
        heldUntil: 0,
        tickedAt: at,
        effects: [{ type: 'open', incarnation: event.incarnation }],
      };
    case 'lease.granted': {
      if (event.incarnation !== context.incarnation || context.askedAt === undefined) return {};
      const heldUntil = context.askedAt + context.ttlMs * (1 - MARGIN); // L1
      if (at >= heldUntil) return give(context, 'the answer came too late');
      if (stoodStill(context, at)) return give(context, 'the main loop stood still'); // L3
      return { askedAt: undefined, heldUntil, renewAt: context.askedAt + context.ttlMs / 3 };
    }
    case 'lease.refused':
      if (event.incarnation !== context.incarnation) return {};
      return give(context, 'the store refused it');
    case 'lease.unanswered':
      if (event.incarnation !== context.incarnation) return {};
      if (context.heldUntil === 0) return give(context, 'the store did not answer'); // L2: the id may be used up
      return { askedAt: undefined };
    case 'lease.ticked': {
      const { incarnation } = context;
      if (incarnation === undefined) return {};
      if (stoodStill(context, at)) return give(context, 'the main loop stood still'); // L3
      if (context.heldUntil > 0 && at >= context.heldUntil)
        return give(context, 'it was not renewed in time');
      if (context.askedAt !== undefined || at < context.renewAt) return { tickedAt: at };
      return { tickedAt: at, askedAt: at, effects: [{ type: 'renew', incarnation }] };
    }
    case 'lease.end':
      return context.incarnation === undefined ? {} : give(context, 'it was ended');
  }
}

function stoodStill({ heldUntil, tickedAt, ttlMs }: LeaseContext, at: number): boolean {
  return heldUntil > 0 && at - tickedAt > ttlMs / 3;
}

function give(context: LeaseContext, reason: string): Change {
  const { incarnation } = context;
  return {
    incarnation: undefined,
    askedAt: undefined,
    heldUntil: 0,
    effects: incarnation === undefined ? [] : [{ type: 'halt', incarnation, reason }],
  };
}

/** Whether it may act now. */
export function holds({ incarnation, heldUntil, tickedAt, ttlMs }: LeaseContext, at: number): boolean {
  return incarnation !== undefined && at < heldUntil && at - tickedAt <= ttlMs / 3;
}

export const leaseMachine = setup({
  types: {} as { context: LeaseContext; events: LeaseEvent; input: { readonly ttlMs: number } },
  actions: { decide: assign(({ context, event }) => step(context, event)) },
  guards: {
    held: ({ context }) => context.incarnation !== undefined && context.heldUntil > 0,
    asking: ({ context }) => context.incarnation !== undefined && context.heldUntil === 0,
    free: ({ context }) => context.incarnation === undefined,
  },
}).createMachine({
  id: 'lease',
  context: ({ input }) => ({
    ttlMs: input.ttlMs,
    incarnation: undefined,
    askedAt: undefined,
    heldUntil: 0,
    renewAt: 0,
    tickedAt: 0,
    effects: [],
  }),
  initial: 'free',
  on: { '*': { actions: 'decide', target: '.deciding' } },
  states: {
    /** Passed through within a step. */
    deciding: {
      always: [
        { guard: 'held', target: 'held' },
        { guard: 'asking', target: 'asking' },
        { guard: 'free', target: 'free' },
      ],
    },
    free: {},
    asking: {},
    held: {},
  },
});
