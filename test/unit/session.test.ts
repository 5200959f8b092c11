/** The session's machine: its shape, being put away, handed over and taken up again. */
import { describe, expect, it } from 'vitest';
import { leaseMachine } from '../../actors/lease.ts';
import { isQuiet, sessionMachine } from '../../actors/session.ts';
import { applied, call, returned, runtime, SessionDriver, sleep } from '../support/session.ts';

interface Node {
  readonly path: string;
  readonly key: string;
  readonly value: unknown;
}

/** Everything in a config, states and transitions included. */
function walk(thing: unknown, path = ''): readonly Node[] {
  if (typeof thing !== 'object' || thing === null) return [];
  return Object.entries(thing).flatMap(([key, value]) => [
    { path: `${path}/${key}`, key, value },
    ...walk(value, `${path}/${key}`),
  ]);
}

const machines = { session: sessionMachine, lease: leaseMachine };

describe.each(Object.entries(machines))('the %s machine', (_name, machine) => {
  const nodes = walk(machine.config);
  const named = (key: string): readonly Node[] => nodes.filter((node) => node.key === key);
  const { actions, guards, actors, delays } = machine.implementations;

  it('has nothing that would not survive in a snapshot', () => {
    const forbidden = ['invoke', 'after', 'history', 'spawn', 'delay', 'entry', 'exit'];
    expect(nodes.filter(({ key }) => forbidden.includes(key)).map(({ path }) => path)).toEqual([]);
    const kinds = [...allStates(machine.root)];
    expect(
      kinds.every(({ type, invoke, after }) => type !== 'history' && invoke.length + after.length === 0),
    ).toBe(true);
    expect(kinds.length).toBeGreaterThan(4);
    expect([Object.keys(actors), Object.keys(delays)]).toEqual([[], []]);
  });

  it('names every action and every guard, and has no function in its config but that of its first context', () => {
    const used = [...named('actions'), ...named('guard')];
    expect(used.length).toBeGreaterThan(3);
    expect(used.filter(({ value }) => typeof value !== 'string').map(({ path }) => path)).toEqual([]);
    expect(new Set(named('actions').map(({ value }) => value))).toEqual(new Set(Object.keys(actions)));
    expect(new Set(named('guard').map(({ value }) => value))).toEqual(new Set(Object.keys(guards)));
    expect(nodes.filter(({ value }) => typeof value === 'function').map(({ path }) => path)).toEqual([
      '/context',
    ]);
  });
});

interface StateNode {
  readonly type: string;
  readonly invoke: readonly unknown[];
  readonly after: readonly unknown[];
  readonly states: Readonly<Record<string, unknown>>;
}

function* allStates(root: unknown): Iterable<StateNode> {
  const node = root as StateNode;
  yield node;
  for (const inner of Object.values(node.states)) yield* allStates(inner);
}

/** A session whose one execution sleeps without a runtime. */
function parked(ms = 60_000): SessionDriver {
  const session = new SessionDriver();
  session.activate();
  session.request('e1');
  session.report('e1', { items: [sleep(0, ms)], waiting: true });
  return session;
}

const busy = expect.objectContaining({ ok: false, code: 'OVERLOADED', outcome: 'not_started' });

describe('hibernation', () => {
  it('is granted to a session that does nothing', () => {
    const session = new SessionDriver();
    session.activate();
    expect(session.hibernate()).toEqual({ ok: true, kind: 'done' });
    expect(session.state).toBe('hibernated');
    expect(session.out.urgent).toBe(true);
  });

  it('is granted while everything is parked, and leaves no work behind but a wake', () => {
    const session = parked();
    expect(isQuiet(session.context)).toBe(true);
    expect(session.hibernate()).toEqual({ ok: true, kind: 'done' });
    expect(session.nextWake).toBe(session.now + 60_000);
  });

  it.each(['running', 'placing', 'queued'])('is refused while an execution is %s', (phase) => {
    const session = new SessionDriver({ runtimes: phase === 'running' ? undefined : [] });
    if (phase === 'queued') session.migrate();
    session.request('e1');
    expect(session.execution('e1').phase).toBe(phase);
    expect(isQuiet(session.context)).toBe(false);
    expect(session.hibernate()).toEqual(busy);
    expect(session.context.hibernated).toBe(false);
  });

  it('is refused when a command came first', () => {
    const session = new SessionDriver();
    session.request('e1');
    expect(session.hibernate()).toEqual(busy);
    expect(session.state).toBe('executing');
  });

  it('gives way to a command that comes after it', () => {
    const session = new SessionDriver();
    session.hibernate();
    expect(session.request('e1')).toEqual({ ok: true, kind: 'accepted' });
    expect(session.state).toBe('executing');
    expect(session.effects('offer')).toHaveLength(1);
  });

  it('ends with the next owner', () => {
    const session = parked();
    session.hibernate();
    session.activate();
    expect(session.state).toBe('waiting');
  });

  it('ends when a sleep is over', () => {
    const session = parked();
    session.hibernate();
    session.pass(60_000);
    expect(session.effects('offer')).toHaveLength(1);
    expect(session.state).toBe('executing');
  });
});

describe('migration', () => {
  it('lets scripts and tools run on, and places nothing more', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    session.request('e1');
    expect(session.migrate()).toEqual({ ok: true, kind: 'done' });
    expect(session.state).toBe('migrating');
    expect(session.out.effects).toEqual([]);
    session.request('e2');
    expect(session.effects('offer')).toEqual([]);
    session.report('e1', { items: [call(0)] });
    expect(session.effects('call')).toHaveLength(1);
    session.pass(1_000);
    session.tell({ type: 'runtimes.changed' });
    expect(session.execution('e2').phase).toBe('queued');
  });

  it.each([
    ['lost', (session: SessionDriver) => session.lose('e1')],
    ['refused', (session: SessionDriver) => session.refuse('e1')],
    ['crashed', (session: SessionDriver) => session.report('e1', { end: { kind: 'lost', alone: true } })],
    ['stopped', (session: SessionDriver) => session.report('e1', { end: { kind: 'stopped' } })],
  ])('leaves an attempt that is %s meanwhile to the next owner', (_what, end) => {
    const session = new SessionDriver();
    session.request('e1');
    session.migrate();
    end(session);
    expect(session.effects('offer')).toEqual([]);
    expect(session.execution('e1').phase).toBe('placing');
    session.now += 1_000;
    session.activate();
    expect(session.effects('offer')).toHaveLength(1);
  });

  it('leaves a parked execution whose sleep is over to the next owner', () => {
    const session = parked();
    session.migrate();
    session.pass(60_000);
    expect(session.execution('e1').phase).toBe('parked');
    session.activate();
    expect(session.effects('offer')).toMatchObject([{ execution: 'e1' }]);
    session.report('e1', { items: [sleep(0, 60_000), applied(0)], end: returned() });
    expect(session.ended('e1')?.end.ok).toBe(true);
  });

  it('of a parked execution whose sleep goes on leaves it parked', () => {
    const session = parked();
    session.migrate();
    session.activate();
    expect(session.execution('e1').phase).toBe('parked');
    expect(session.out.effects).toEqual([]);
  });
});

describe('a new owner', () => {
  it('looks after everything that is pending', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    session.request('e1');
    session.request('e2');
    const items = [call(0), call(1, { effect: 'read' }), call(2, { reconcilable: true })];
    session.report('e1', { items, waiting: true });
    session.loseCall('e1', 2);
    const { out } = session;
    expect(out.effects).toEqual([{ type: 'reconcile', execution: 'e1', index: 2 }]);
    const attempts = ['e1', 'e2'].map((id) => session.attempt(id));
    session.activate();
    expect(session.out.effects).toHaveLength(5);
    expect(session.effects('probe')).toEqual(
      attempts.map(({ id, runtime: on }, index) => ({
        type: 'probe',
        execution: `e${index + 1}`,
        attempt: id,
        runtime: on,
      })),
    );
    expect(session.effects('locate').map(({ index }) => index)).toEqual([0, 1]);
    expect(session.effects('reconcile').map(({ index }) => index)).toEqual([2]);
    expect(session.out.early).toEqual([]);
  });

  it('does not offer an attempt again, nor dispatch a call', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [call(0)], waiting: true });
    session.activate();
    expect([...session.effects('offer'), ...session.effects('call')]).toEqual([]);
    expect(session.state).toBe('waiting');
  });

  it('goes on with the attempt that still runs', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [call(0)], waiting: true });
    session.activate();
    session.endCall('e1', 0);
    session.report('e1', { items: [applied(0)], end: returned('2') });
    expect(session.ended('e1')).toMatchObject({ end: { ok: true, json: '2' }, execution: { attempts: 1 } });
  });

  it('places what waits', () => {
    const session = new SessionDriver({ runtimes: [] });
    session.request('e1');
    session.runtimes = [runtime('r9')];
    session.now += 20;
    session.activate();
    expect(session.effects('offer')).toMatchObject([{ runtime: 'r9' }]);
  });
});

describe('owners without progress', () => {
  it('give an execution up: the tenth still tries, the next quarantines it', () => {
    const session = new SessionDriver();
    session.request('e1');
    for (let owner = 1; owner <= 10; owner++) session.activate();
    expect(session.live).toEqual(['e1']);
    session.activate();
    expect(session.code('e1')).toBe('QUARANTINED');
    expect(session.effects('probe')).toEqual([]);
    expect(session.effects('stop')).toHaveLength(1);
  });

  it('let what never ran have its turn', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.request('e2');
    for (let owner = 1; owner <= 11; owner++) session.activate();
    expect(session.code('e1')).toBe('QUARANTINED');
    expect(session.execution('e2').phase).toBe('running');
  });

  it.each([
    ['a new call', (session: SessionDriver) => session.report('e1', { items: [call(0)] })],
    ['a new sleep', (session: SessionDriver) => session.report('e1', { items: [sleep(0, 50)] })],
    ['the end of another execution', (session: SessionDriver) => session.cancel('e2')],
  ])('are counted from zero after %s', (_what, progress) => {
    const session = new SessionDriver();
    session.request('e1');
    session.request('e2');
    for (let owner = 1; owner <= 9; owner++) session.activate();
    progress(session);
    for (let owner = 1; owner <= 10; owner++) session.activate();
    expect(session.live).toContain('e1');
  });

  it('are counted from zero after a delivery', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [call(0)], waiting: true });
    for (let owner = 1; owner <= 9; owner++) session.activate();
    session.endCall('e1', 0);
    expect(session.context.activations).toBe(0);
  });

  it('are not counted after a replay of what was known', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [call(0)], waiting: true });
    for (let owner = 1; owner <= 9; owner++) session.activate();
    session.lose('e1');
    session.report('e1', { items: [call(0)], waiting: true });
    expect(session.context.activations).toBe(9);
  });

  it('do not count while nothing is under way', () => {
    const session = parked();
    for (let owner = 1; owner <= 20; owner++) session.activate();
    expect(session.live).toEqual(['e1']);
    expect(session.context.activations).toBe(0);
  });
});
