import { describe, expect, it } from 'vitest';
import { initialTransition, transition } from 'xstate';
import {
  DEPTH,
  QUARANTINE_MS,
  queueLength,
  type RuntimeEffect,
  type RuntimeEvent,
  type RuntimeLimits,
  runtimeMachine,
} from '../../actors/runtime.ts';

const LIMITS: RuntimeLimits = {
  maxWorkers: 2,
  maxQueueLength: 3,
  maxConcurrentPerWorker: 16,
  quarantineAfter: 2,
};

/** `a1` is the execution 1 of tenant `a`; every execution has a script of its own. */
const submit = (id: string, at = 0): RuntimeEvent => ({
  type: 'execution.submitted',
  id,
  tenant: id.slice(0, 1),
  key: id,
  dedicated: false,
  at,
});
/** One at level 'process'. */
const submitOwn = (id: string): RuntimeEvent => ({ ...submit(id), dedicated: true }) as RuntimeEvent;
/** One that must be alone aboard from the start. */
const submitAlone = (id: string, dedicated = false): RuntimeEvent =>
  ({ ...submit(id), alone: true, dedicated }) as RuntimeEvent;
/** The script of `key` again, under another id. */
const again = (id: string, key: string, at = 0): RuntimeEvent => ({ ...submit(id, at), key }) as RuntimeEvent;
const withdraw = (id: string): RuntimeEvent => ({ type: 'execution.withdrawn', id });
const waits = (id: string, slot = 'w1'): RuntimeEvent => ({ type: 'execution.waiting', id, slot });
const runs = (id: string, slot = 'w1'): RuntimeEvent => ({ type: 'execution.running', id, slot });
const settle = (id: string, slot = 'w1', sound = true): RuntimeEvent => ({
  type: 'execution.settled',
  id,
  slot,
  sound,
});
const ready = (slot = 'w1'): RuntimeEvent => ({ type: 'worker.ready', slot });
const closing = (slot = 'w1'): RuntimeEvent => ({ type: 'worker.closing', slot });
const lose = (slot = 'w1', at = 0): RuntimeEvent => ({ type: 'worker.lost', slot, blamed: false, at });
const loseBlamed = (slot = 'w1'): RuntimeEvent => ({ type: 'worker.lost', slot, blamed: true, at: 0 });
const STARTING: RuntimeEvent = { type: 'worker.starting' };
const ABANDONED: RuntimeEvent = { type: 'worker.abandoned' };
const FAIL: RuntimeEvent = { type: 'runtime.failed', retryAfterMs: 500 };
const RECOVER: RuntimeEvent = { type: 'runtime.recovered' };
const DRAIN: RuntimeEvent = { type: 'runtime.drain' };
const CLOSE: RuntimeEvent = { type: 'runtime.close' };

const START: RuntimeEffect = { type: 'startWorker' };
const DRAINED: RuntimeEffect = { type: 'drained' };
const dispatch = (id: string, slot = 'w1'): RuntimeEffect => ({ type: 'dispatch', id, slot });
const retry = (id: string, alone: boolean, counted = false): RuntimeEffect => ({
  type: 'retry',
  id,
  alone,
  counted,
});
const fail = (id: string, code: 'WORKER_CRASHED' | 'CLOSED', retryAfterMs: number): RuntimeEffect => ({
  type: 'fail',
  id,
  code,
  retryAfterMs,
});
const refuse = (
  id: string,
  code: 'OVERLOADED' | 'QUARANTINED' | 'WORKER_CRASHED' | 'CLOSED',
  more: { readonly position?: number; readonly retryAfterMs?: number } = {},
): RuntimeEffect => ({ type: 'refuse', id, code, position: 0, retryAfterMs: 0, ...more });

/** The runtime after `events`; the effects are those of the last of them. */
function run(events: readonly RuntimeEvent[], limits: Partial<RuntimeLimits> = {}) {
  let [snapshot] = initialTransition(runtimeMachine, { ...LIMITS, ...limits });
  for (const event of events) [snapshot] = transition(runtimeMachine, snapshot, event);
  const { context } = snapshot;
  return {
    state: snapshot.value,
    effects: context.effects,
    queued: queueLength(context),
    starting: context.starting,
    aboard: Object.fromEntries(
      context.workers.map(({ slot, aboard }) => [slot, aboard.map(({ id }) => id).join(' ')]),
    ),
  };
}

/** A script alone aboard that takes its worker with it, and the worker that comes next. */
const crashAlone = (id: string, at: number): readonly RuntimeEvent[] => [lose(id, at), ready(id)];
const many = (count: number, tenant = 'a'): readonly string[] =>
  Array.from({ length: count }, (_, index) => `${tenant}${index + 1}`);

interface Row {
  readonly claim: string;
  readonly limits?: Partial<RuntimeLimits>;
  readonly events: readonly RuntimeEvent[];
  readonly effects: readonly RuntimeEffect[];
  readonly queued?: number;
  readonly state?: string;
}

const admission: readonly Row[] = [
  {
    claim: 'asks for a worker when there is none',
    events: [submit('a1')],
    effects: [START],
    queued: 1,
  },
  {
    claim: 'asks for one worker per execution that waits, up to maxWorkers',
    events: [submit('a1'), submit('a2'), submit('a3')],
    effects: [],
    queued: 3,
  },
  {
    claim: 'does not ask for a worker while one is on its way for the only execution',
    events: [STARTING, submit('a1')],
    effects: [],
    queued: 1,
  },
  {
    claim: 'dispatches at once when a worker is free',
    events: [ready(), submit('a1')],
    effects: [dispatch('a1')],
  },
  {
    claim: 'refuses what does not fit into the queue and says how many would be ahead',
    events: [submit('a1'), submit('a2'), submit('a3'), submit('a4')],
    effects: [refuse('a4', 'OVERLOADED', { position: 4 })],
    queued: 3,
  },
  {
    claim: 'admits with a queue of no length what can run at once',
    limits: { maxQueueLength: 0 },
    events: [ready(), submit('a1')],
    effects: [dispatch('a1')],
  },
  {
    claim: 'admits again once something was withdrawn',
    events: [submit('a1'), submit('a2'), submit('a3'), withdraw('a2'), submit('a4')],
    effects: [],
    queued: 3,
  },
  {
    claim: 'keeps what is tried again after a crash though the queue is full',
    limits: { maxWorkers: 1, maxQueueLength: 1, maxConcurrentPerWorker: 2 },
    events: [ready(), submit('a1'), submit('a2'), submit('a3'), loseBlamed()],
    effects: [retry('a1', false), retry('a2', false), START],
    queued: 3,
  },
];

const placement: readonly Row[] = [
  {
    claim: 'gives a new worker everything that waits',
    events: [submit('a1'), submit('b1'), ready()],
    effects: [dispatch('a1'), dispatch('b1')],
  },
  {
    claim: 'prefers the worker that runs less',
    events: [ready('w1'), ready('w2'), submit('a1'), submit('b1')],
    effects: [dispatch('b1', 'w2')],
  },
  {
    claim: 'prefers the worker that is warm for the tenant among those that run as much',
    events: [
      ready('w1'),
      ready('w2'),
      submit('a1'),
      submit('b1'),
      settle('a1', 'w1'),
      settle('b1', 'w2'),
      submit('b2'),
    ],
    effects: [dispatch('b2', 'w2')],
  },
  {
    claim: `leaves in the queue what would be more than ${DEPTH} running in one worker`,
    limits: { maxWorkers: 1 },
    events: [ready(), ...many(DEPTH + 1).map((id) => submit(id))],
    effects: [],
    queued: 1,
  },
  {
    claim: 'fills the place of an execution that waits for a tool',
    limits: { maxWorkers: 1 },
    events: [ready(), ...many(DEPTH + 1).map((id) => submit(id)), waits('a1')],
    effects: [dispatch(`a${DEPTH + 1}`)],
  },
  {
    claim: 'takes no more aboard than maxConcurrentPerWorker though all of them wait for tools',
    limits: { maxWorkers: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('a2'), waits('a1')],
    effects: [],
    queued: 1,
  },
  {
    claim: 'does not free a place twice for an execution that is said to wait twice',
    limits: { maxWorkers: 1, maxQueueLength: 9 },
    events: [ready(), ...many(DEPTH + 2).map((id) => submit(id)), waits('a1'), waits('a1')],
    effects: [],
    queued: 1,
  },
  {
    claim: 'takes the place back when the execution runs again',
    limits: { maxWorkers: 1 },
    events: [ready(), ...many(DEPTH).map((id) => submit(id)), waits('a1'), runs('a1'), submit('b1')],
    effects: [],
    queued: 1,
  },
  {
    claim: 'gives a closing worker nothing more',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), closing(), submit('a2')],
    effects: [],
    queued: 1,
  },
  {
    claim: 'asks for a worker in the place of one that is gone',
    limits: { maxWorkers: 1 },
    events: [ready(), closing(), submit('a1'), lose()],
    effects: [START],
    queued: 1,
  },
  {
    claim: 'serves a late tenant before the second execution of an early one',
    limits: { maxWorkers: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('a2'), submit('a3'), submit('b1'), settle('a1'), settle('a2')],
    effects: [dispatch('b1')],
    queued: 1,
  },
  {
    claim: 'forgets a worker that was abandoned before it was ready',
    limits: { maxWorkers: 1 },
    events: [submit('a1'), ABANDONED, submit('a2')],
    effects: [START],
    queued: 2,
  },
  { claim: 'ignores the end of what is not aboard', events: [ready(), settle('a1')], effects: [] },
  { claim: 'ignores the loss of a worker that it does not know', events: [lose('w9')], effects: [] },
];

const own: readonly Row[] = [
  {
    claim: 'gives a tenant of its own a fresh worker, not one that served others',
    events: [ready('w1'), submit('a1'), settle('a1'), ready('w2'), submitOwn('b1')],
    effects: [dispatch('b1', 'w2')],
  },
  {
    claim: 'gives it the worker that it has already',
    events: [ready('w1'), ready('w2'), submitOwn('a1'), submitOwn('a2')],
    effects: [dispatch('a2', 'w1')],
  },
  {
    claim: "gives no one else that tenant's worker",
    events: [ready('w1'), submitOwn('a1'), settle('a1'), submit('b1')],
    effects: [START],
    queued: 1,
  },
  {
    claim: 'lets an idle worker go for a tenant of its own when every place is taken',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), settle('a1'), submitOwn('b1')],
    effects: [{ type: 'retireWorker', slot: 'w1' }],
    queued: 1,
  },
  {
    claim: "lets a tenant's idle worker go for the others when every place is taken",
    limits: { maxWorkers: 1 },
    events: [ready(), submitOwn('a1'), settle('a1'), submit('b1')],
    effects: [{ type: 'retireWorker', slot: 'w1' }],
    queued: 1,
  },
  {
    claim: 'tries a suspect at level process again in a worker that stays its own',
    limits: { maxWorkers: 1 },
    events: [ready('w1'), submitOwn('a1'), lose('w1'), ready('w2'), settle('a1', 'w2'), submit('b1')],
    effects: [{ type: 'retireWorker', slot: 'w2' }],
    queued: 1,
  },
  {
    claim: 'tries both suspects of one tenant again, one after the other, in the same worker',
    limits: { maxWorkers: 1 },
    events: [ready('w1'), submitOwn('a1'), submitOwn('a2'), lose('w1'), ready('w2'), settle('a1', 'w2')],
    effects: [dispatch('a2', 'w2')],
  },
];

const crashes: readonly Row[] = [
  {
    claim: 'tries everyone again alone when a worker is lost with several aboard',
    events: [ready(), submit('a1'), submit('b1'), lose()],
    effects: [retry('a1', true), retry('b1', true), START, START],
    queued: 2,
  },
  {
    claim: 'runs a suspect alone in its worker',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), submit('b1'), lose(), submit('c1'), ready('w2')],
    effects: [dispatch('a1', 'w2')],
    queued: 2,
  },
  {
    claim: 'runs the next suspect when the one before it has ended',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), submit('b1'), lose(), submit('c1'), ready('w2'), settle('a1', 'w2')],
    effects: [dispatch('b1', 'w2')],
    queued: 1,
  },
  {
    claim: 'goes on with the others when no suspect is left',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), lose(), submit('c1'), ready('w2'), settle('a1', 'w2')],
    effects: [dispatch('c1', 'w2')],
  },
  {
    claim: 'lets a worker run empty for a suspect',
    events: [ready('w1'), ready('w2'), submit('a1'), submit('b1'), lose('w1'), submit('c1')],
    effects: [],
    queued: 2,
  },
  {
    claim: 'gives a worker that runs empty for a suspect nothing new before it is empty',
    events: [
      ready('w1'),
      ready('w2'),
      ...['a1', 'b1', 'c1', 'd1'].map((id) => submit(id)),
      lose('w1'),
      settle('b1', 'w2'),
      submit('e1'),
    ],
    effects: [],
    queued: 3,
  },
  {
    claim: 'tries neighbours again at once, with others, when it is known who was to blame',
    events: [ready('w1'), submit('a1'), submit('b1'), settle('a1', 'w1', false), loseBlamed('w1')],
    effects: [retry('b1', false), START],
    queued: 1,
  },
  {
    claim: 'counts no crash against a script that another one was blamed for',
    limits: { quarantineAfter: 1 },
    events: [ready('w1'), submit('a1'), loseBlamed('w1')],
    effects: [retry('a1', false), START],
    queued: 1,
  },
  {
    claim: 'quarantines a script after quarantineAfter crashes alone in a row',
    events: [ready('x1'), submit('x1'), ...crashAlone('x1', 0), lose('x1', 1)],
    effects: [{ type: 'quarantine', id: 'x1', crashes: 2 }],
  },
  {
    claim: 'refuses a quarantined script from then on and says for how long',
    events: [
      ready('x1'),
      submit('x1'),
      ...crashAlone('x1', 0),
      ...crashAlone('x1', 1),
      again('x2', 'x1', 11),
    ],
    effects: [refuse('x2', 'QUARANTINED', { retryAfterMs: QUARANTINE_MS - 10 })],
  },
  {
    claim: 'admits another script of the same tenant',
    events: [ready('x1'), submit('x1'), ...crashAlone('x1', 0), ...crashAlone('x1', 1), submit('x2', 11)],
    effects: [dispatch('x2', 'x1')],
  },
  {
    claim: 'admits a quarantined script again when its time is over',
    events: [
      ready('x1'),
      submit('x1'),
      ...crashAlone('x1', 0),
      ...crashAlone('x1', 1),
      again('x2', 'x1', 1 + QUARANTINE_MS),
    ],
    effects: [dispatch('x2', 'x1')],
  },
  {
    claim: 'begins to count anew when the quarantine is over',
    events: [
      ready('x1'),
      submit('x1'),
      ...crashAlone('x1', 0),
      ...crashAlone('x1', 1),
      again('x2', 'x1', 1 + QUARANTINE_MS),
      lose('x1', 2 + QUARANTINE_MS),
    ],
    effects: [retry('x2', true, true), START],
    queued: 1,
  },
  {
    claim: 'begins to count anew after a success of the same script',
    events: [
      ready('x1'),
      submit('x1'),
      ...crashAlone('x1', 0),
      settle('x1', 'x1'),
      again('x2', 'x1'),
      lose('x1', 1),
    ],
    effects: [retry('x2', true, true), START],
    queued: 1,
  },
  {
    claim: 'counts on after an end that is no success',
    events: [
      ready('x1'),
      submit('x1'),
      ...crashAlone('x1', 0),
      settle('x1', 'x1', false),
      again('x2', 'x1'),
      lose('x1', 1),
    ],
    effects: [{ type: 'quarantine', id: 'x2', crashes: 2 }],
  },
  {
    claim: 'withdraws a suspect',
    events: [ready(), submit('a1'), lose(), withdraw('a1'), ready('w2')],
    effects: [],
  },
];

const alone: readonly Row[] = [
  {
    claim: 'counts the crash of the only one aboard, and says so',
    events: [ready(), submit('a1'), lose()],
    effects: [retry('a1', true, true), START],
    queued: 1,
  },
  {
    claim: 'dispatches what must be alone to an empty worker at once',
    events: [ready('w1'), ready('w2'), submit('a1'), submitAlone('b1')],
    effects: [dispatch('b1', 'w2')],
  },
  {
    claim: 'puts nothing aboard with what was submitted alone',
    limits: { maxWorkers: 1 },
    events: [ready(), submitAlone('a1'), submit('b1')],
    effects: [],
    queued: 1,
  },
  {
    claim: 'goes on with the others when what was submitted alone has ended',
    limits: { maxWorkers: 1 },
    events: [ready(), submitAlone('a1'), submit('b1'), settle('a1')],
    effects: [dispatch('b1')],
  },
  {
    claim: 'lets a worker run empty for what must be alone',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), submitAlone('b1'), submit('c1')],
    effects: [],
    queued: 2,
  },
  {
    claim: 'dispatches what must be alone when the worker has run empty',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), submitAlone('b1'), submit('c1'), settle('a1')],
    effects: [dispatch('b1')],
    queued: 1,
  },
  {
    claim: 'fills a worker again when what it was emptied for is withdrawn',
    limits: { maxWorkers: 1 },
    events: [ready(), submit('a1'), submitAlone('b1'), submit('c1'), withdraw('b1')],
    effects: [dispatch('c1')],
  },
  {
    claim: 'fills a worker again when what it was emptied for found another',
    events: [
      ready('w1'),
      ready('w2'),
      ...['a1', 'b1', 'c1', 'd1'].map((id) => submit(id)),
      submitAlone('e1'), // w1 is being emptied for it.
      settle('b1', 'w2'),
      settle('d1', 'w2'),
      submit('f1'),
    ],
    effects: [dispatch('f1', 'w1')],
  },
  {
    claim: 'asks for a worker for what must be alone',
    events: [submitAlone('a1')],
    effects: [START],
    queued: 1,
  },
  {
    claim: 'gives what must be alone at level process a worker of its own',
    limits: { maxWorkers: 2 },
    events: [ready('w1'), submit('b1'), settle('b1', 'w1'), submitAlone('a1', true), ready('w2')],
    effects: [dispatch('a1', 'w2')],
  },
  {
    claim: 'lets an idle worker make room although a suspect further back could use it',
    limits: { maxWorkers: 1 },
    events: [
      ready(),
      submitAlone('a1', true),
      submitAlone('b1', true),
      submitAlone('a2', true),
      settle('a1'),
    ],
    effects: [{ type: 'retireWorker', slot: 'w1' }],
    queued: 2,
  },
  {
    claim: 'refuses what must be alone when the queue is full',
    limits: { maxWorkers: 1, maxQueueLength: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('b1'), submitAlone('c1')],
    effects: [refuse('c1', 'OVERLOADED', { position: 2 })],
    queued: 1,
  },
  {
    claim: 'takes what must be alone although nothing may wait, if a worker is empty',
    limits: { maxQueueLength: 0 },
    events: [ready(), submitAlone('a1')],
    effects: [dispatch('a1')],
  },
  {
    claim: 'refuses what must be alone if its script is in quarantine',
    limits: { quarantineAfter: 1 },
    events: [ready('x1'), submit('x1'), lose('x1'), { ...again('x2', 'x1'), alone: true } as RuntimeEvent],
    effects: [refuse('x2', 'QUARANTINED', { retryAfterMs: QUARANTINE_MS })],
  },
];

const endings: readonly Row[] = [
  {
    claim: 'gives up what waits when workers crash too often, and leaves what is aboard',
    limits: { maxWorkers: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('b1'), FAIL],
    effects: [fail('b1', 'WORKER_CRASHED', 500)],
    state: 'failed',
  },
  {
    claim: 'refuses with the pause while it has failed',
    events: [FAIL, submit('a1')],
    effects: [refuse('a1', 'WORKER_CRASHED', { retryAfterMs: 500 })],
    state: 'failed',
  },
  {
    claim: 'admits again when it has recovered',
    events: [FAIL, RECOVER, submit('a1')],
    effects: [START],
    queued: 1,
  },
  {
    claim: 'is drained at once when it is empty',
    events: [ready(), DRAIN],
    effects: [DRAINED],
    state: 'drained',
  },
  {
    claim: 'refuses what comes while it drains',
    events: [ready(), submit('a1'), DRAIN, submit('a2')],
    effects: [refuse('a2', 'CLOSED')],
    state: 'draining',
  },
  {
    claim: 'still dispatches what waited when the drain began',
    limits: { maxWorkers: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('a2'), DRAIN, settle('a1')],
    effects: [dispatch('a2')],
    state: 'draining',
  },
  {
    claim: 'is drained when the last execution has ended',
    events: [ready(), submit('a1'), DRAIN, settle('a1')],
    effects: [DRAINED],
    state: 'drained',
  },
  {
    claim: 'says only once that it is drained',
    events: [ready(), DRAIN, RECOVER],
    effects: [],
    state: 'drained',
  },
  {
    claim: 'fails everything when it is closed, what waits before what is aboard',
    limits: { maxWorkers: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('b1'), CLOSE],
    effects: [fail('b1', 'CLOSED', 0), fail('a1', 'CLOSED', 0)],
    state: 'closed',
  },
  {
    claim: 'fails nothing twice',
    events: [ready(), submit('a1'), CLOSE, CLOSE],
    effects: [],
    state: 'closed',
  },
  {
    claim: 'refuses what comes after it was closed',
    events: [CLOSE, submit('a1')],
    effects: [refuse('a1', 'CLOSED')],
    state: 'closed',
  },
  {
    claim: 'leaves no effect behind for a fact that means nothing to it',
    limits: { maxWorkers: 1, maxConcurrentPerWorker: 1 },
    events: [ready(), submit('a1'), submit('a2'), DRAIN, settle('a1'), DRAIN],
    effects: [],
    state: 'draining',
  },
];

describe('a runtime', () => {
  it.each([...admission, ...placement, ...own, ...crashes, ...alone, ...endings])(
    '$claim',
    ({ limits, events, effects, queued = 0, state = 'open' }) => {
      expect(run(events, limits)).toMatchObject({ effects, queued, state });
    },
  );

  it('lets a tenant in between only once, however much another has waiting', () => {
    const flood = many(20);
    const before = [ready(), ...flood.map((id) => submit(id)), submit('b1'), submit('c1')];
    const limits = { maxWorkers: 1, maxConcurrentPerWorker: 1, maxQueueLength: 50 };
    const order: string[] = [];
    let events: readonly RuntimeEvent[] = before;
    for (let next = 'a1'; order.length < 4; ) {
      events = [...events, settle(next)];
      const [effect] = run(events, limits).effects;
      next = effect?.type === 'dispatch' ? effect.id : '';
      order.push(next);
    }
    expect(order).toEqual(['a2', 'b1', 'c1', 'a3']);
  });

  it('asks for no worker while it has failed, and for those that are missing when it has recovered', () => {
    const lost = [ready(), submit('a1'), FAIL, lose()];
    expect(run(lost).effects).not.toContainEqual(START);
    expect(run(lost).starting).toBe(0);
    const recovered = run([...lost, RECOVER]);
    expect(recovered.starting).toBe(recovered.queued);
  });

  it('remembers a thousand crashing scripts, not more', () => {
    const keys = Array.from({ length: 1_001 }, (_, index) => `k${index}`);
    const limits = { quarantineAfter: 1 };
    const events = keys.flatMap((key) => [ready(key), submit(key), lose(key)]);
    expect(run([...events, again('z', 'k1000')], limits).effects).toEqual([
      refuse('z', 'QUARANTINED', { retryAfterMs: QUARANTINE_MS }),
    ]);
    expect(run([...events, again('z', 'k0')], limits).effects).toEqual([START]);
  });
});
