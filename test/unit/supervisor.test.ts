import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import type { RestartPolicy } from '../../actors/restart.ts';
import { type RestartType, type SupervisorEvent, supervisorMachine } from '../../actors/supervisor.ts';

type Snapshot = SnapshotFrom<typeof supervisorMachine>;

interface Effect {
  readonly type: string;
  readonly params: unknown;
}

const policy: RestartPolicy = { maxRestarts: 2, restartWindowMs: 100, baseDelayMs: 50, maxDelayMs: 1_000 };

const add = (slot: string, restart: RestartType = 'transient'): SupervisorEvent => ({
  type: 'child.add',
  slot,
  restart,
});
const up = (slot: string): SupervisorEvent => ({ type: 'child.up', slot });
const retire = (slot: string): SupervisorEvent => ({ type: 'child.retire', slot });
const due = (slot: string): SupervisorEvent => ({ type: 'restart.due', slot });
const exited = (slot: string, at: number, planned?: boolean): SupervisorEvent => ({
  type: 'child.exited',
  slot,
  at,
  jitter: 0,
  planned,
});
const PROGRESSED: SupervisorEvent = { type: 'child.progressed' };
const RESUME: SupervisorEvent = { type: 'supervisor.resume' };
const STOP: SupervisorEvent = { type: 'supervisor.stop' };

const started = (slot: string): Effect => ({ type: 'startChild', params: { slot } });
const stopped = (slot: string): Effect => ({ type: 'stopChild', params: { slot } });
const scheduled = (slot: string, delayMs: number): Effect => ({
  type: 'scheduleRestart',
  params: { slot, delayMs },
});
const escalated = (retryAfterMs: number, crashes = 3): Effect => ({
  type: 'escalate',
  params: { retryAfterMs, crashes },
});

function start(given: RestartPolicy = policy): Snapshot {
  return initialTransition(supervisorMachine, { policy: given })[0];
}

function step(
  snapshot: Snapshot,
  event: SupervisorEvent,
): { readonly next: Snapshot; readonly effects: readonly Effect[] } {
  const [next, actions] = transition(supervisorMachine, snapshot, event);
  return { next, effects: actions.map(({ type, params }) => ({ type, params })) };
}

/** The supervisor after `events`; the effects are those of the last of them. */
function run(events: readonly SupervisorEvent[]) {
  let snapshot = start();
  let effects: readonly Effect[] = [];
  for (const event of events) ({ next: snapshot, effects } = step(snapshot, event));
  const { children, history, escalations } = snapshot.context;
  const statuses = Object.fromEntries(Object.entries(children).map(([slot, child]) => [slot, child.status]));
  return { state: snapshot.value, effects, statuses, history, escalations };
}

/** A child that crashes, comes back and crashes until the intensity is exceeded, from `at` on. */
const crashOut = (slot: string, at: number): readonly SupervisorEvent[] => [
  add(slot),
  exited(slot, at),
  due(slot),
  exited(slot, at + 1),
  due(slot),
  exited(slot, at + 2),
];

const decisions: readonly {
  readonly claim: string;
  readonly events: readonly SupervisorEvent[];
  readonly state?: string;
  readonly statuses: Readonly<Record<string, string>>;
  readonly effects: readonly Effect[];
}[] = [
  { claim: 'starts a child', events: [add('a')], statuses: { a: 'starting' }, effects: [started('a')] },
  {
    claim: 'does not start a second child in the same slot',
    events: [add('a'), add('a')],
    statuses: { a: 'starting' },
    effects: [],
  },
  {
    claim: 'takes a slot named like an inherited property for what it is',
    events: [add('constructor')],
    statuses: { constructor: 'starting' },
    effects: [started('constructor')],
  },
  { claim: 'knows that a child is up', events: [add('a'), up('a')], statuses: { a: 'up' }, effects: [] },
  { claim: 'ignores a child that it does not know', events: [up('a')], statuses: {}, effects: [] },
  {
    claim: 'restarts a child at once after its first crash',
    events: [add('a'), up('a'), exited('a', 0)],
    statuses: { a: 'waiting' },
    effects: [scheduled('a', 0)],
  },
  {
    claim: 'pauses before the restart after a second crash in a row, whichever child it is',
    events: [add('a'), add('b'), exited('a', 0), exited('b', 1)],
    statuses: { a: 'waiting', b: 'waiting' },
    effects: [scheduled('b', 25)],
  },
  {
    claim: 'does not pause when something succeeded between two crashes',
    events: [add('a'), add('b'), exited('a', 0), PROGRESSED, exited('b', 1)],
    statuses: { a: 'waiting', b: 'waiting' },
    effects: [scheduled('b', 0)],
  },
  {
    claim: 'starts a waiting child when its pause is over',
    events: [add('a'), exited('a', 0), due('a')],
    statuses: { a: 'starting' },
    effects: [started('a')],
  },
  {
    claim: 'ignores the end of a pause that it has heard before',
    events: [add('a'), exited('a', 0), due('a'), due('a')],
    statuses: { a: 'starting' },
    effects: [],
  },
  {
    claim: 'counts an exit that is told twice once',
    events: [add('a'), exited('a', 0), exited('a', 0)],
    statuses: { a: 'waiting' },
    effects: [],
  },
  {
    claim: 'only marks a child that is retired',
    events: [add('a'), up('a'), retire('a')],
    statuses: { a: 'retiring' },
    effects: [],
  },
  {
    claim: 'does not take a retiring child for one that has just started',
    events: [add('a'), retire('a'), up('a')],
    statuses: { a: 'retiring' },
    effects: [],
  },
  {
    claim: 'forgets a retired child when it exits',
    events: [add('a', 'permanent'), up('a'), retire('a'), exited('a', 0)],
    statuses: {},
    effects: [],
  },
  {
    claim: 'forgets a child that is retired while it waits, and does not start it again',
    events: [add('a'), exited('a', 0), retire('a'), due('a')],
    statuses: {},
    effects: [],
  },
  {
    claim: 'gives a slot to a new child after the old one has exited',
    events: [add('a'), retire('a'), exited('a', 0), add('a')],
    statuses: { a: 'starting' },
    effects: [started('a')],
  },
  {
    claim: 'escalates at one crash too many, stops who is left and forgets who waits',
    events: [
      add('x'),
      add('y'),
      up('y'),
      add('z'),
      retire('z'),
      add('w'),
      exited('w', 9),
      ...crashOut('a', 10).slice(0, 4),
    ],
    state: 'escalated',
    statuses: { x: 'retiring', y: 'retiring', z: 'retiring' },
    effects: [escalated(500), stopped('x'), stopped('y'), stopped('z')],
  },
  {
    claim: 'starts nothing while escalated',
    events: [add('w'), exited('w', 9), ...crashOut('a', 10).slice(0, 4), add('b'), due('w')],
    state: 'escalated',
    statuses: {},
    effects: [],
  },
  {
    claim: 'forgets a child that exits while escalated',
    events: [add('x'), ...crashOut('a', 10), exited('x', 11)],
    state: 'escalated',
    statuses: {},
    effects: [],
  },
  {
    claim: 'starts children again once it has resumed',
    events: [...crashOut('a', 10), RESUME, add('a')],
    statuses: { a: 'starting' },
    effects: [started('a')],
  },
  {
    claim: 'begins a new window when it resumes',
    events: [...crashOut('a', 10), RESUME, add('a'), exited('a', 13)],
    statuses: { a: 'waiting' },
    effects: [scheduled('a', 0)],
  },
  {
    claim: 'stops every child that has a process, and forgets the others',
    events: [add('a'), add('b'), up('b'), add('c'), exited('c', 0), add('d'), retire('d'), STOP],
    state: 'stopped',
    statuses: { a: 'retiring', b: 'retiring', d: 'retiring' },
    effects: [stopped('a'), stopped('b'), stopped('d')],
  },
  {
    claim: 'stops who is left when it is stopped while escalated, and does not resume',
    events: [add('x'), ...crashOut('a', 10), STOP, RESUME],
    state: 'stopped',
    statuses: { x: 'retiring' },
    effects: [],
  },
  {
    claim: 'hears its children exit after it was stopped',
    events: [add('a', 'permanent'), STOP, exited('a', 0)],
    state: 'stopped',
    statuses: {},
    effects: [],
  },
];

describe('a supervisor', () => {
  it.each(decisions)('$claim', ({ events, state = 'running', statuses, effects }) => {
    expect(run(events)).toMatchObject({ state, effects });
    expect(run(events).statuses).toEqual(statuses);
  });

  it('asks the children who are left to stop when it is stopped while escalated', () => {
    expect(run([add('x'), ...crashOut('a', 10), STOP]).effects).toEqual([stopped('x')]);
  });

  it.each<{ restart: RestartType; exit: string; planned?: boolean; restarts: boolean }>([
    { restart: 'permanent', exit: 'a crash', restarts: true },
    { restart: 'permanent', exit: 'a planned exit', planned: true, restarts: true },
    { restart: 'transient', exit: 'a crash', restarts: true },
    { restart: 'transient', exit: 'a planned exit', planned: true, restarts: false },
    { restart: 'temporary', exit: 'a crash', restarts: false },
    { restart: 'temporary', exit: 'a planned exit', planned: true, restarts: false },
  ])('restarts a $restart child after $exit: $restarts', ({ restart, planned, restarts }) => {
    const after = run([add('a', restart), up('a'), exited('a', 0, planned)]);
    expect(after.effects).toEqual(restarts ? [scheduled('a', 0)] : []);
    expect(after.statuses).toEqual(restarts ? { a: 'waiting' } : {});
  });

  it('does not count the exit of a temporary child', () => {
    expect(run([add('a', 'temporary'), exited('a', 0)]).history).toEqual({ crashes: [], consecutive: 0 });
  });

  it('waits twice as long at each escalation without progress, up to 30 seconds', () => {
    let snapshot = start();
    const waits: Effect[] = [];
    for (let round = 0; round < 8; round += 1) {
      for (const event of [...crashOut('a', round), RESUME]) {
        const { next, effects } = step(snapshot, event);
        snapshot = next;
        waits.push(...effects.filter((effect) => effect.type === 'escalate'));
      }
    }
    expect(waits).toEqual(
      [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].map((ms) => escalated(ms)),
    );
  });

  it('forgets its escalations on progress after it has resumed, not before', () => {
    const twice = (between: readonly SupervisorEvent[]) =>
      run([...crashOut('a', 0), ...between, ...crashOut('a', 10)]).effects;
    expect(twice([RESUME, PROGRESSED])).toEqual([escalated(500)]);
    expect(twice([PROGRESSED, RESUME])).toEqual([escalated(1_000)]);
  });

  it('changes nothing on progress when nothing has crashed', () => {
    const { next: before } = step(start(), add('a'));
    expect(step(before, PROGRESSED).next.context).toBe(before.context);
  });
});

const slots = ['a', 'b', 'c', 'd'];
const anySlot = fc.constantFrom(...slots);

/** An event, and how long after the one before it comes. */
const anyEvent = fc
  .record({
    gap: fc.nat({ max: 30 }),
    slot: anySlot,
    jitter: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    restart: fc.constantFrom<RestartType>('permanent', 'transient', 'temporary'),
    planned: fc.constantFrom(undefined, undefined, false, true),
    type: fc.oneof(
      { weight: 6, arbitrary: fc.constant('child.add' as const) },
      { weight: 4, arbitrary: fc.constant('child.up' as const) },
      { weight: 9, arbitrary: fc.constant('child.exited' as const) },
      { weight: 7, arbitrary: fc.constant('restart.due' as const) },
      { weight: 2, arbitrary: fc.constant('child.retire' as const) },
      { weight: 2, arbitrary: fc.constant('child.progressed' as const) },
      { weight: 2, arbitrary: fc.constant('supervisor.resume' as const) },
    ),
  })
  .map((drawn) => ({ gap: drawn.gap, event: (at: number) => eventOf(drawn, at) }));

function eventOf(
  drawn: {
    readonly type: Exclude<SupervisorEvent['type'], 'supervisor.stop'>;
    readonly slot: string;
    readonly jitter: number;
    readonly restart: RestartType;
    readonly planned: boolean | undefined;
  },
  at: number,
): SupervisorEvent {
  const { type, slot, jitter, restart, planned } = drawn;
  switch (type) {
    case 'child.add':
      return { type, slot, restart };
    case 'child.exited':
      return { type, slot, at, jitter, planned };
    case 'child.progressed':
    case 'supervisor.resume':
      return { type };
    default:
      return { type, slot };
  }
}

const anyHistory = fc.array(anyEvent, { maxLength: 80 });
const anyPolicy = fc.record({
  maxRestarts: fc.nat({ max: 4 }),
  restartWindowMs: fc.integer({ min: 1, max: 120 }),
  baseDelayMs: fc.constant(10),
  maxDelayMs: fc.constant(100),
});

/** Feed the drawn events, with their times, to a supervisor and show each step to `check`. */
function follow(
  given: RestartPolicy,
  drawn: readonly { readonly gap: number; readonly event: (at: number) => SupervisorEvent }[],
  check: (seen: {
    readonly at: number;
    readonly event: SupervisorEvent;
    readonly before: Snapshot;
    readonly after: Snapshot;
    readonly effects: readonly Effect[];
  }) => void,
  tail: readonly SupervisorEvent[] = [],
): void {
  let snapshot = start(given);
  let at = 0;
  for (const { gap, event } of [...drawn, ...tail.map((last) => ({ gap: 1, event: () => last }))]) {
    at += gap;
    const told = event(at);
    const { next, effects } = step(snapshot, told);
    check({ at, event: told, before: snapshot, after: next, effects });
    snapshot = next;
  }
}

const slotsOf = (effects: readonly Effect[], type: string): readonly string[] =>
  effects.filter((effect) => effect.type === type).map((effect) => (effect.params as { slot: string }).slot);

describe('whatever happens to its children', () => {
  it('a child is never started twice without an exit between', () => {
    fc.assert(
      fc.property(anyPolicy, anyHistory, (given, drawn) => {
        const running = new Set<string>();
        follow(given, drawn, ({ event, effects }) => {
          if (event.type === 'child.exited') running.delete(event.slot);
          for (const slot of slotsOf(effects, 'startChild')) {
            expect(running.has(slot)).toBe(false);
            running.add(slot);
          }
        });
      }),
      { numRuns: 300 },
    );
  });

  it('restarts after crashes never pass the intensity within any window', () => {
    fc.assert(
      fc.property(anyPolicy, anyHistory, (given, drawn) => {
        let restarts: number[] = [];
        follow(given, drawn, ({ at, event, before, effects }) => {
          if (event.type === 'supervisor.resume' && before.value === 'escalated') restarts = [];
          if (event.type !== 'child.exited' || event.planned === true) return;
          restarts.push(...slotsOf(effects, 'scheduleRestart').map(() => at));
          const within = restarts.filter((time) => at - time <= given.restartWindowMs);
          expect(within.length).toBeLessThanOrEqual(given.maxRestarts);
        });
      }),
      { numRuns: 300 },
    );
  });

  it('it escalates exactly when the crashes in the window are more than it bears', () => {
    fc.assert(
      fc.property(anyPolicy, anyHistory, (given, drawn) => {
        let crashes: number[] = [];
        follow(given, drawn, ({ at, event, before, effects }) => {
          if (event.type === 'supervisor.resume' && before.value === 'escalated') crashes = [];
          const child = event.type === 'child.exited' ? before.context.children[event.slot] : undefined;
          const crashed =
            event.type === 'child.exited' &&
            event.planned !== true &&
            (child?.status === 'starting' || child?.status === 'up') &&
            child.restart !== 'temporary';
          if (crashed) crashes.push(at);
          const within = crashes.filter((time) => at - time <= given.restartWindowMs);
          const tooMany = crashed && within.length > given.maxRestarts;
          expect(effects.some((effect) => effect.type === 'escalate')).toBe(tooMany);
        });
      }),
      { numRuns: 300 },
    );
  });

  it('a planned exit never counts', () => {
    fc.assert(
      fc.property(anyPolicy, anyHistory, (given, drawn) => {
        follow(given, drawn, ({ event, before, after }) => {
          if (event.type !== 'child.exited') return;
          const retiring = before.context.children[event.slot]?.status === 'retiring';
          if (!retiring && event.planned !== true) return;
          expect(after.context.history).toBe(before.context.history);
          expect(after.value).toBe(before.value);
        });
      }),
      { numRuns: 300 },
    );
  });

  it('nothing is started, or due to be, while it is escalated or after it was stopped', () => {
    fc.assert(
      fc.property(anyPolicy, anyHistory, anyHistory, (given, drawn, later) => {
        const at = drawn.reduce((sum, { gap }) => sum + gap, 0);
        const tail = [STOP, ...later.map(({ event }) => event(at))];
        let stoppedYet = false;
        follow(
          given,
          drawn,
          ({ event, before, after, effects }) => {
            if (before.value === 'escalated' || stoppedYet) {
              expect(slotsOf(effects, 'startChild')).toEqual([]);
              expect(slotsOf(effects, 'scheduleRestart')).toEqual([]);
            }
            if (event.type === 'supervisor.stop') {
              stoppedYet = true;
              expect([...slotsOf(effects, 'stopChild')].sort()).toEqual(
                Object.keys(after.context.children).sort(),
              );
            }
            if (stoppedYet) expect(after.value).toBe('stopped');
          },
          tail,
        );
        expect(stoppedYet).toBe(true);
      }),
      { numRuns: 200 },
    );
  });
});
