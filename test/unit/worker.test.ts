import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initialTransition, transition } from 'xstate';
import {
  isServing,
  type RetireReason,
  type WorkerEvent,
  type WorkerSnapshot,
  wasPlanned,
  workerMachine,
} from '../../actors/worker.ts';

interface Effect {
  readonly type: string;
  readonly params: unknown;
}

const READY: WorkerEvent = { type: 'worker.ready' };
const ASSIGNED: WorkerEvent = { type: 'execution.assigned' };
const SETTLED: WorkerEvent = { type: 'execution.settled' };
const MEMORY: WorkerEvent = { type: 'memory.exceeded' };
const EXITED: WorkerEvent = { type: 'process.exited' };
const drain = (reason: RetireReason): WorkerEvent => ({ type: 'worker.drain', reason });

const asked = (reason: RetireReason): Effect => ({
  type: 'requestReplacement',
  params: { slot: 'w1', reason },
});
const STOPPED: Effect = { type: 'stopProcess', params: { slot: 'w1' } };

function start(maxExecutions: number): WorkerSnapshot {
  return initialTransition(workerMachine, { slot: 'w1', maxExecutions })[0];
}

function step(
  snapshot: WorkerSnapshot,
  event: WorkerEvent,
): { readonly next: WorkerSnapshot; readonly effects: readonly Effect[] } {
  const [next, actions] = transition(workerMachine, snapshot, event);
  return { next, effects: actions.map(({ type, params }) => ({ type, params })) };
}

/** The worker after these events, and all effects on the way. */
function run(events: readonly WorkerEvent[], maxExecutions = 3) {
  let snapshot = start(maxExecutions);
  const effects: Effect[] = [];
  for (const event of events) {
    const { next, effects: more } = step(snapshot, event);
    snapshot = next;
    effects.push(...more);
  }
  return { snapshot, effects, state: snapshot.value, ...snapshot.context };
}

const lifecycle: readonly {
  readonly claim: string;
  readonly events: readonly WorkerEvent[];
  readonly after: {
    readonly state: string;
    readonly served?: number;
    readonly aboard?: number;
    readonly reason?: RetireReason | undefined;
  };
  readonly effects?: readonly Effect[];
}[] = [
  { claim: 'is starting until it says that it is ready', events: [], after: { state: 'starting' } },
  { claim: 'is ready with nothing aboard', events: [READY], after: { state: 'ready', aboard: 0 } },
  {
    claim: 'is busy with an execution aboard',
    events: [READY, ASSIGNED],
    after: { state: 'busy', aboard: 1 },
  },
  {
    claim: 'stays busy until the last execution has settled',
    events: [READY, ASSIGNED, ASSIGNED, SETTLED],
    after: { state: 'busy', aboard: 1, served: 1 },
  },
  {
    claim: 'is ready again when the last has settled',
    events: [READY, ASSIGNED, ASSIGNED, SETTLED, SETTLED],
    after: { state: 'ready', aboard: 0, served: 2 },
  },
  {
    claim: 'takes nothing aboard while it starts',
    events: [ASSIGNED],
    after: { state: 'starting', aboard: 0 },
  },
  {
    claim: 'ignores a settlement when nothing is aboard',
    events: [READY, SETTLED],
    after: { state: 'ready', aboard: 0, served: 0 },
  },
  {
    claim: 'asks for a replacement after its last execution and is ready for more',
    events: [READY, ASSIGNED, SETTLED, ASSIGNED, SETTLED, ASSIGNED, SETTLED],
    after: { state: 'ready', served: 3, reason: 'executions' },
    effects: [asked('executions')],
  },
  {
    claim: 'goes on serving while it waits for its replacement, and asks only once',
    events: [
      READY,
      ASSIGNED,
      ASSIGNED,
      ASSIGNED,
      ASSIGNED,
      SETTLED,
      SETTLED,
      SETTLED,
      SETTLED,
      MEMORY,
      ASSIGNED,
    ],
    after: { state: 'busy', aboard: 1, served: 4, reason: 'executions' },
    effects: [asked('executions')],
  },
  {
    claim: 'asks for a replacement when its memory is over the limit, once, and goes on serving',
    events: [READY, MEMORY, MEMORY, ASSIGNED, SETTLED, ASSIGNED, SETTLED, ASSIGNED, SETTLED],
    after: { state: 'ready', served: 3, reason: 'memory' },
    effects: [asked('memory')],
  },
  {
    claim: 'asks for no replacement while it starts',
    events: [MEMORY, READY],
    after: { state: 'ready', reason: undefined },
    effects: [],
  },
  {
    claim: 'takes a late measurement of its memory as it is',
    events: [READY, ASSIGNED, MEMORY],
    after: { state: 'busy', aboard: 1, reason: 'memory' },
    effects: [asked('memory')],
  },
  {
    claim: 'stops at once when it drains with nothing aboard',
    events: [READY, drain('idle')],
    after: { state: 'draining', reason: 'idle' },
    effects: [STOPPED],
  },
  {
    claim: 'stops at once when it drains before it was ready, and is not ready afterwards',
    events: [drain('shutdown'), READY],
    after: { state: 'draining', reason: 'shutdown' },
    effects: [STOPPED],
  },
  {
    claim: 'drains with executions aboard without stopping',
    events: [READY, ASSIGNED, ASSIGNED, drain('shutdown'), SETTLED],
    after: { state: 'draining', aboard: 1, served: 1 },
    effects: [],
  },
  {
    claim: 'stops when the last execution aboard has settled',
    events: [READY, ASSIGNED, ASSIGNED, drain('shutdown'), SETTLED, SETTLED],
    after: { state: 'draining', aboard: 0, served: 2, reason: 'shutdown' },
    effects: [STOPPED],
  },
  {
    claim: 'takes nothing aboard while it drains',
    events: [READY, ASSIGNED, drain('shutdown'), ASSIGNED],
    after: { state: 'draining', aboard: 1 },
  },
  {
    claim: 'asks for no replacement while it drains',
    events: [READY, ASSIGNED, ASSIGNED, ASSIGNED, drain('shutdown'), SETTLED, SETTLED, MEMORY, SETTLED],
    after: { state: 'draining', served: 3, reason: 'shutdown' },
    effects: [STOPPED],
  },
  {
    claim: 'drains once, for the first reason, and stops once',
    events: [READY, drain('heap'), drain('shutdown'), SETTLED],
    after: { state: 'draining', served: 0, reason: 'heap' },
    effects: [STOPPED],
  },
  {
    claim: 'drains for the reason it is given, though it was due for another',
    events: [READY, MEMORY, drain('shutdown')],
    after: { state: 'draining', reason: 'shutdown' },
    effects: [asked('memory'), STOPPED],
  },
  {
    claim: 'keeps what a crash took with it',
    events: [READY, ASSIGNED, ASSIGNED, SETTLED, EXITED, SETTLED, ASSIGNED],
    after: { state: 'exited', aboard: 1, served: 1, reason: undefined },
    effects: [],
  },
  {
    claim: 'does nothing more once it has exited',
    events: [READY, EXITED, MEMORY, drain('shutdown'), READY, ASSIGNED],
    after: { state: 'exited', aboard: 0, reason: undefined },
    effects: [],
  },
];

describe('a worker', () => {
  it.each(lifecycle)('$claim', ({ events, after, effects = [] }) => {
    const worker = run(events);
    expect(worker).toMatchObject(after);
    expect(worker.effects).toEqual(effects);
  });

  it.each([
    { claim: 'while it starts', events: [], serving: false },
    { claim: 'when it is ready', events: [READY], serving: true },
    { claim: 'when it is busy', events: [READY, ASSIGNED], serving: true },
    { claim: 'when it is due', events: [READY, MEMORY], serving: true },
    { claim: 'while it drains', events: [READY, ASSIGNED, drain('idle')], serving: false },
    { claim: 'once it has exited', events: [READY, EXITED], serving: false },
  ])('serves: $serving $claim', ({ events, serving }) => {
    expect(isServing(run(events).snapshot)).toBe(serving);
  });
});

describe('an exit', () => {
  it.each([
    { claim: 'while it starts', events: [], planned: false },
    { claim: 'when it is ready', events: [READY], planned: false },
    { claim: 'when it is busy', events: [READY, ASSIGNED], planned: false },
    { claim: 'when it is due but not draining', events: [READY, MEMORY], planned: false },
    {
      claim: 'while it drains with something aboard',
      events: [READY, ASSIGNED, drain('executions')],
      planned: false,
    },
    { claim: 'after it was stopped', events: [READY, drain('executions')], planned: true },
    {
      claim: 'after the last aboard has settled',
      events: [READY, ASSIGNED, drain('memory'), SETTLED],
      planned: true,
    },
    { claim: 'after it was stopped while it started', events: [drain('shutdown')], planned: true },
  ])('$claim is planned: $planned, before and after it is told', ({ events, planned }) => {
    const { snapshot } = run(events);
    expect(wasPlanned(snapshot)).toBe(planned);
    const { next } = step(snapshot, EXITED);
    expect(next.value).toBe('exited');
    expect(wasPlanned(next)).toBe(planned);
    expect(wasPlanned(step(next, EXITED).next)).toBe(planned);
  });
});

const anyEvent: fc.Arbitrary<WorkerEvent> = fc.oneof(
  { weight: 2, arbitrary: fc.constant(READY) },
  { weight: 8, arbitrary: fc.constant(ASSIGNED) },
  { weight: 8, arbitrary: fc.constant(SETTLED) },
  { weight: 2, arbitrary: fc.constant(MEMORY) },
  { weight: 1, arbitrary: fc.constant(EXITED) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<RetireReason>('executions', 'memory', 'idle', 'shutdown', 'heap').map(drain),
  },
);

describe('whatever happens to a worker', () => {
  it('each execution aboard is served once, and replacement and stop are asked for at most once', () => {
    fc.assert(
      fc.property(
        fc.array(anyEvent, { maxLength: 60 }),
        fc.integer({ min: 1, max: 6 }),
        (events, maxExecutions) => {
          let snapshot = start(maxExecutions);
          let boarded = 0;
          let settled = 0;
          let stopped = false;
          const effects: string[] = [];
          for (const event of events) {
            const { next, effects: more } = step(snapshot, event);
            const over = snapshot.value === 'exited';
            if (event.type === 'execution.assigned' && isServing(snapshot)) boarded += 1;
            if (event.type === 'execution.settled' && boarded > settled && !over) settled += 1;
            for (const { type } of more) {
              effects.push(type);
              if (type === 'stopProcess') {
                stopped = true;
                expect(next.context.aboard).toBe(0);
              } else {
                expect(isServing(next)).toBe(true);
              }
            }
            if (event.type === 'process.exited' && !over) expect(wasPlanned(next)).toBe(stopped);
            if (stopped) expect(isServing(next)).toBe(false);
            snapshot = next;
            expect(snapshot.context.served).toBe(settled);
            expect(snapshot.context.aboard).toBe(boarded - settled);
          }
          expect(new Set(effects).size).toBe(effects.length);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('a drained worker is stopped as soon as everything aboard has settled', () => {
    fc.assert(
      fc.property(
        fc.array(
          anyEvent.filter((event) => event.type !== 'process.exited'),
          { maxLength: 40 },
        ),
        (events) => {
          const { aboard } = run([...events, drain('shutdown')]);
          const after = run([...events, drain('shutdown'), ...Array<WorkerEvent>(aboard).fill(SETTLED)]);
          expect(after.effects.filter((effect) => effect.type === 'stopProcess')).toEqual([STOPPED]);
          expect(after.aboard).toBe(0);
        },
      ),
    );
  });
});
