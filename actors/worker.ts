/**
 * The life of one worker process, from its start to its exit.
 *
 * It exists so that a planned recycle cannot be mistaken for a crash and cannot drop an execution. A worker
 * that is *due* (it served its number, or its memory stays high) only asks for a replacement and goes on
 * serving; it *drains* when it is told to, and its process is stopped when nothing is aboard any more.
 *
 * Invariants, cited where they are upheld:
 *  W1  a replacement is asked for at most once;
 *  W2  the process is stopped at most once, and only while nothing is aboard;
 *  W3  executions come aboard only while the worker is ready or busy;
 *  W4  `served` counts each execution that came aboard and settled, once;
 *  W5  an exit is planned only if this machine had asked for it (W2); every other exit is a crash.
 */
import { assign, type SnapshotFrom, setup } from 'xstate';

/**
 * Why a worker is let go, always as planned: it served its number of executions, its process kept too much
 * memory, nobody needed it, the pool closes, or the heap of its isolates stayed full.
 */
export type RetireReason = 'executions' | 'memory' | 'idle' | 'shutdown' | 'heap';

export interface WorkerInput {
  /** The name under which the supervisor knows this process. */
  readonly slot: string;
  /** Executions after which the worker is due for a recycle. A whole number from 1. */
  readonly maxExecutions: number;
}

export interface WorkerContext extends WorkerInput {
  /** Executions that came aboard and settled, however they ended. */
  readonly served: number;
  /** Executions aboard now. After a crash: those that the crash took with it. */
  readonly aboard: number;
  /** Why the worker is due or draining; undefined while it is neither, and after a crash. */
  readonly reason: RetireReason | undefined;
}

export type WorkerEvent =
  /** The process has started and said so. */
  | { readonly type: 'worker.ready' }
  /** An execution was given to this worker. Ignored unless the worker is ready or busy. */
  | { readonly type: 'execution.assigned' }
  /** An execution aboard has ended. Ignored when none is aboard. */
  | { readonly type: 'execution.settled' }
  /** The process was measured over its limit while nothing ran. Ignored while it starts. */
  | { readonly type: 'memory.exceeded' }
  /** Finish what is aboard, then stop: the replacement is ready, or none is needed. */
  | { readonly type: 'worker.drain'; readonly reason: RetireReason }
  /** The process is gone. */
  | { readonly type: 'process.exited' };

/**
 * The machine. Effects, provided by whoever runs it:
 * `requestReplacement {slot, reason}` start another worker, then send this one `worker.drain`;
 * `stopProcess {slot}` end the process, which has nothing aboard.
 */
export const workerMachine = setup({
  types: {} as { context: WorkerContext; events: WorkerEvent; input: WorkerInput },
  actions: {
    requestReplacement: (_, _params: { readonly slot: string; readonly reason: RetireReason }) => {},
    stopProcess: (_, _params: { readonly slot: string }) => {},
    board: assign(({ context }) => ({ ...context, aboard: context.aboard + 1 })),
    settle: assign(({ context }) => ({
      ...context,
      aboard: context.aboard - 1,
      served: context.served + 1, // W4
    })),
    noteReason: assign(({ context }, params: { readonly reason: RetireReason }) => ({
      ...context,
      reason: params.reason,
    })),
    forgetReason: assign(({ context }) => ({ ...context, reason: undefined })),
  },
  guards: {
    isNotYetDue: ({ context }) => context.reason === undefined,
    isServingItsLast: ({ context }) =>
      context.reason === undefined && context.served + 1 >= context.maxExecutions,
    isEmpty: ({ context }) => context.aboard === 0,
    isLastAboard: ({ context }) => context.aboard === 1,
    hasAboard: ({ context }) => context.aboard > 0,
  },
}).createMachine({
  id: 'worker',
  context: ({ input }) => ({ ...input, served: 0, aboard: 0, reason: undefined }),
  initial: 'starting',
  on: {
    'memory.exceeded': {
      guard: 'isNotYetDue', // W1
      actions: [
        { type: 'noteReason', params: { reason: 'memory' } },
        { type: 'requestReplacement', params: ({ context }) => ({ slot: context.slot, reason: 'memory' }) },
      ],
    },
    'worker.drain': [
      {
        guard: 'isEmpty', // W2
        target: '.draining',
        actions: [
          { type: 'noteReason', params: ({ event }) => ({ reason: event.reason }) },
          { type: 'stopProcess', params: ({ context }) => ({ slot: context.slot }) },
        ],
      },
      {
        target: '.draining',
        actions: { type: 'noteReason', params: ({ event }) => ({ reason: event.reason }) },
      },
    ],
    'process.exited': { target: '.exited', actions: 'forgetReason' }, // W5: a crash, due or not
  },
  states: {
    // W3: starting, draining and exited have no answer to execution.assigned.
    starting: {
      on: {
        'worker.ready': 'ready',
        'memory.exceeded': {}, // it has served nothing that a replacement would not need as well
      },
    },
    ready: {
      on: { 'execution.assigned': { target: 'busy', actions: 'board' } },
    },
    busy: {
      always: { guard: 'isEmpty', target: 'ready' },
      on: {
        'execution.assigned': { actions: 'board' },
        'execution.settled': [
          {
            guard: 'isServingItsLast', // W1
            actions: [
              'settle',
              { type: 'noteReason', params: { reason: 'executions' } },
              {
                type: 'requestReplacement',
                params: ({ context }) => ({ slot: context.slot, reason: 'executions' }),
              },
            ],
          },
          { actions: 'settle' },
        ],
      },
    },
    draining: {
      on: {
        'worker.drain': {}, // W2: it drains once, for the first reason
        'execution.settled': [
          {
            guard: 'isLastAboard', // W2: nothing comes aboard here (W3), so this happens once
            actions: ['settle', { type: 'stopProcess', params: ({ context }) => ({ slot: context.slot }) }],
          },
          { guard: 'hasAboard', actions: 'settle' }, // W4
        ],
        'process.exited': [
          { guard: 'isEmpty', target: 'exited' }, // W5: it was asked to, so the reason stands
          { target: 'exited', actions: 'forgetReason' },
        ],
      },
    },
    exited: {
      type: 'final',
      // W1, W2, W5: an actor that is done hears nothing, but the pure `transition` would still ask the root.
      on: { '*': {} },
    },
  },
});

export type WorkerSnapshot = SnapshotFrom<typeof workerMachine>;

/** Whether an execution may be given to this worker now (W3). */
export function isServing(snapshot: WorkerSnapshot): boolean {
  return snapshot.value === 'ready' || snapshot.value === 'busy';
}

/**
 * Whether an exit in this state is planned (W5): the worker drains, nothing is aboard, so it was stopped.
 * The answer is the same just before and at any time after `process.exited`.
 */
export function wasPlanned(snapshot: WorkerSnapshot): boolean {
  if (snapshot.value === 'exited') return snapshot.context.reason !== undefined;
  return snapshot.value === 'draining' && snapshot.context.aboard === 0;
}
