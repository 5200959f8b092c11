/**
 * A one-for-one supervisor over children that come and go.
 *
 * It exists so that one place decides, for every exit of a child, between forgetting it, starting it again
 * after a pause, and giving up for a while. It knows slots, not processes: whoever runs it starts and stops
 * what a slot stands for and tells what happened.
 *
 * Invariants, cited where they are upheld:
 *  S1  a child is never started twice without an exit between;
 *  S2  a planned exit is never counted as a crash;
 *  S3  restarts after crashes never pass the restart intensity, one window for all children together;
 *  S4  while escalated, and once stopped, nothing is started;
 *  S5  a child that is being retired is never started again.
 */
import { assign, setup } from 'xstate';
import {
  backoffDelay,
  doublingDelay,
  NO_CRASHES,
  type RestartHistory,
  type RestartPolicy,
  recordCrash,
  recordProgress,
} from './restart.ts';

/**
 * Which exits are followed by a restart, unless the child is being retired: every one (`permanent`), only
 * crashes (`transient`), none (`temporary`).
 */
export type RestartType = 'permanent' | 'transient' | 'temporary';

/** `starting`, `up` and `retiring` children have a process; a `waiting` one has none until it is due. */
export type ChildStatus = 'starting' | 'up' | 'waiting' | 'retiring';

export interface Child {
  readonly restart: RestartType;
  readonly status: ChildStatus;
}

export interface SupervisorInput {
  readonly policy: RestartPolicy;
}

export interface SupervisorContext extends SupervisorInput {
  /** The children there are, by slot. */
  readonly children: Readonly<Record<string, Child>>;
  /** Crashes of all children together, since the last escalation. */
  readonly history: RestartHistory;
  /** Escalations since an execution last succeeded while running. */
  readonly escalations: number;
}

/** An exit, as told to the supervisor. */
export interface ChildExited {
  readonly type: 'child.exited';
  readonly slot: string;
  /** When, in ms, by a clock that never goes back. */
  readonly at: number;
  /** Random, 0 <= jitter < 1: spreads the restarts. */
  readonly jitter: number;
  /** True if the child had been asked to exit though it was not retired here. Default false: a crash. */
  readonly planned?: boolean | undefined;
}

export type SupervisorEvent =
  /** Start a new child. Ignored unless running, and while the slot still has a child. */
  | { readonly type: 'child.add'; readonly slot: string; readonly restart: RestartType }
  /** The child has started. */
  | { readonly type: 'child.up'; readonly slot: string }
  /** An execution succeeded in some child. */
  | { readonly type: 'child.progressed' }
  /** The next exit of this child is planned. One that waits for its restart is forgotten. */
  | { readonly type: 'child.retire'; readonly slot: string }
  | ChildExited
  /** The pause that `scheduleRestart` asked for is over. */
  | { readonly type: 'restart.due'; readonly slot: string }
  /** The pause that `escalate` asked for is over. */
  | { readonly type: 'supervisor.resume' }
  /** Stop every child, for good. */
  | { readonly type: 'supervisor.stop' };

/** The pause after the first escalation, in ms; it doubles with each further one without progress between. */
const ESCALATION_BASE_MS = 500;
/** The longest pause after an escalation, in ms. */
const ESCALATION_MAX_MS = 30_000;

const parts = setup({
  types: {} as { context: SupervisorContext; events: SupervisorEvent; input: SupervisorInput },
  actions: {
    startChild: (_, _params: { readonly slot: string }) => {},
    stopChild: (_, _params: { readonly slot: string }) => {},
    scheduleRestart: (_, _params: { readonly slot: string; readonly delayMs: number }) => {},
    escalate: (_, _params: { readonly retryAfterMs: number; readonly crashes: number }) => {},
    adopt: assign(({ context }, params: { readonly slot: string; readonly restart: RestartType }) =>
      withChild(context, params.slot, { restart: params.restart, status: 'starting' }),
    ),
    mark: assign(({ context }, params: { readonly slot: string; readonly status: ChildStatus }) => {
      const child = childAt(context, params.slot);
      return child === undefined
        ? context
        : withChild(context, params.slot, { ...child, status: params.status });
    }),
    forget: assign(({ context }, params: { readonly slot: string }) => {
      const { [params.slot]: _gone, ...children } = context.children;
      return { ...context, children };
    }),
    retireAll: assign(({ context }) => ({
      ...context,
      children: Object.fromEntries(
        Object.entries(context.children)
          .filter(([, child]) => child.status !== 'waiting')
          .map(([slot, child]) => [slot, { ...child, status: 'retiring' as const }]),
      ),
    })),
    countCrash: assign(({ context }, params: { readonly at: number }) => ({
      ...context,
      history: recordCrash(context.policy, context.history, params.at).history,
    })),
    countEscalation: assign(({ context }) => ({ ...context, escalations: context.escalations + 1 })),
    countProgress: assign(({ context }) => ({
      ...context,
      history: recordProgress(context.history),
      escalations: 0,
    })),
    forgetCrashes: assign(({ context }) => ({ ...context, history: NO_CRASHES })),
  },
  guards: {
    isNew: ({ context }, params: { readonly slot: string }) => childAt(context, params.slot) === undefined,
    hasStatus: ({ context }, params: { readonly slot: string; readonly status: ChildStatus }) =>
      childAt(context, params.slot)?.status === params.status,
    hasProcess: ({ context }, params: { readonly slot: string }) => runs(childAt(context, params.slot)),
    exitsForGood: ({ context }, params: ChildExited) => {
      const child = childAt(context, params.slot);
      if (child === undefined || !runs(child)) return false;
      if (child.status === 'retiring' || child.restart === 'temporary') return true;
      return params.planned === true && child.restart === 'transient';
    },
    exitsAsPlanned: ({ context }, params: ChildExited) =>
      params.planned === true && runs(childAt(context, params.slot)),
    crashesOnceTooOften: ({ context }, params: ChildExited) =>
      runs(childAt(context, params.slot)) && recordCrash(context.policy, context.history, params.at).exceeded,
    isProgress: ({ context }) => context.history.consecutive > 0 || context.escalations > 0,
  },
});

/**
 * The machine. Effects, provided by whoever runs it:
 * `startChild {slot}` start it, then tell `child.up` or `child.exited`;
 * `stopChild {slot}` have it end, then tell `child.exited`; may be asked again of a child that is stopping;
 * `scheduleRestart {slot, delayMs}` tell `restart.due` after that pause;
 * `escalate {retryAfterMs, crashes}` tell `supervisor.resume` after that pause; `crashes` lay in the window.
 */
export const supervisorMachine = parts
  .extend({
    actions: {
      // Apart from the others because only here does the compiler know their names.
      stopChildren: parts.enqueueActions(({ context, enqueue }) => {
        for (const slot of Object.keys(context.children)) enqueue({ type: 'stopChild', params: { slot } });
      }),
    },
  })
  .createMachine({
    id: 'supervisor',
    context: ({ input }) => ({ policy: input.policy, children: {}, history: NO_CRASHES, escalations: 0 }),
    initial: 'running',
    states: {
      running: {
        on: {
          'child.add': {
            guard: { type: 'isNew', params: ({ event }) => event }, // S1
            actions: [
              { type: 'adopt', params: ({ event }) => event },
              { type: 'startChild', params: ({ event }) => ({ slot: event.slot }) },
            ],
          },
          'child.up': {
            guard: { type: 'hasStatus', params: ({ event }) => ({ slot: event.slot, status: 'starting' }) },
            actions: { type: 'mark', params: ({ event }) => ({ slot: event.slot, status: 'up' }) },
          },
          'child.progressed': { guard: 'isProgress', actions: 'countProgress' },
          'child.retire': [
            {
              guard: { type: 'hasProcess', params: ({ event }) => event },
              actions: { type: 'mark', params: ({ event }) => ({ slot: event.slot, status: 'retiring' }) },
            },
            // S5: it has no process whose exit could be awaited, and must not get one.
            { actions: { type: 'forget', params: ({ event }) => event } },
          ],
          'child.exited': [
            {
              guard: { type: 'exitsForGood', params: ({ event }) => event }, // S2, S5
              actions: { type: 'forget', params: ({ event }) => event },
            },
            {
              guard: { type: 'exitsAsPlanned', params: ({ event }) => event }, // S2
              actions: [
                { type: 'mark', params: ({ event }) => ({ slot: event.slot, status: 'waiting' }) },
                { type: 'scheduleRestart', params: ({ event }) => ({ slot: event.slot, delayMs: 0 }) },
              ],
            },
            {
              guard: { type: 'crashesOnceTooOften', params: ({ event }) => event }, // S3
              target: 'escalated',
              actions: [
                { type: 'countCrash', params: ({ event }) => event },
                'countEscalation',
                { type: 'forget', params: ({ event }) => event },
                'retireAll', // S4: what waited is forgotten, what runs is not started again
                {
                  type: 'escalate',
                  params: ({ context }) => ({
                    retryAfterMs: doublingDelay(
                      ESCALATION_BASE_MS,
                      ESCALATION_MAX_MS,
                      context.escalations - 1,
                    ),
                    crashes: context.history.crashes.length,
                  }),
                },
                'stopChildren',
              ],
            },
            {
              guard: { type: 'hasProcess', params: ({ event }) => event }, // an exit told twice counts once
              actions: [
                { type: 'countCrash', params: ({ event }) => event },
                { type: 'mark', params: ({ event }) => ({ slot: event.slot, status: 'waiting' }) },
                {
                  type: 'scheduleRestart',
                  params: ({ context, event }) => ({
                    slot: event.slot,
                    delayMs: backoffDelay(context.policy, context.history.consecutive, event.jitter),
                  }),
                },
              ],
            },
          ],
          'restart.due': {
            guard: { type: 'hasStatus', params: ({ event }) => ({ slot: event.slot, status: 'waiting' }) }, // S1
            actions: [
              { type: 'mark', params: ({ event }) => ({ slot: event.slot, status: 'starting' }) },
              { type: 'startChild', params: ({ event }) => ({ slot: event.slot }) },
            ],
          },
          'supervisor.stop': { target: 'stopped', actions: ['retireAll', 'stopChildren'] },
        },
      },
      // S4: neither state below answers child.add or restart.due. Every child left is retiring, so an exit is
      // planned (S2); and what a child still finishes while it drains is no sign that new ones would do better.
      escalated: {
        on: {
          'child.exited': { actions: { type: 'forget', params: ({ event }) => event } },
          'supervisor.resume': { target: 'running', actions: 'forgetCrashes' },
          'supervisor.stop': { target: 'stopped', actions: 'stopChildren' },
        },
      },
      // Not final: a machine that is done would no longer hear its children exit.
      stopped: {
        on: {
          'child.exited': { actions: { type: 'forget', params: ({ event }) => event } },
        },
      },
    },
  });

function childAt(context: SupervisorContext, slot: string): Child | undefined {
  // A slot may be named like a property that every object inherits.
  return Object.hasOwn(context.children, slot) ? context.children[slot] : undefined;
}

function withChild(context: SupervisorContext, slot: string, child: Child): SupervisorContext {
  return { ...context, children: { ...context.children, [slot]: child } };
}

function runs(child: Child | undefined): boolean {
  return child !== undefined && child.status !== 'waiting';
}
