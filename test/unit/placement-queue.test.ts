/** Whose turn it is when there is room in a runtime, among the executions that wait at a broker. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { RuntimeView } from '../../actors/placement.ts';
import type { Routing } from '../../actors/routing.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import type { Clock } from '../../src/clock.ts';
import { PlacementQueue, type Waiter } from '../../src/session/queue.ts';
import { runtime, SessionDriver } from '../support/session.ts';

let soon: (() => void)[];
let now: number;
let turns: string[];
let runtimes: RuntimeView[];
let reserved: string[];
let weights: Record<string, number>;
const routing: Routing = { strategy: 'label-match', rules: undefined };

beforeEach(() => {
  soon = [];
  now = 0;
  turns = [];
  runtimes = [];
  reserved = [];
  weights = {};
});

const clock: Clock = {
  now: () => now,
  monotonic: () => now,
  after: () => () => undefined,
  soon: (act) => void soon.push(act),
  id: () => 'id',
};

function make(): PlacementQueue {
  return new PlacementQueue({
    clock,
    directory: {
      routing,
      view: () =>
        runtimes.map((each) => ({
          ...each,
          free: each.free - reserved.filter((id) => id === each.id).length,
        })),
      reserve: (id) => {
        reserved.push(id);
        let held = true;
        return () => {
          if (!held) return;
          held = false;
          reserved.splice(reserved.indexOf(id), 1);
        };
      },
    },
    weightOf: (tenant) => weights[tenant] ?? 1,
  });
}

function settle(): void {
  for (let act = soon.shift(); act !== undefined; act = soon.shift()) act();
}

/** A session of which one execution waits for room. */
class Waits implements Waiter {
  readonly name: string;
  readonly tenant: string;
  context: SessionContext;
  hears = true;

  constructor(name: string, labels: Readonly<Record<string, string>> = {}) {
    this.name = name;
    this.tenant = name.slice(0, 1);
    const session = new SessionDriver({ runtimes: [], settings: { labels } });
    session.request('e1');
    expect(session.context.executions[0]?.phase).toBe('placing');
    this.context = session.context;
  }

  turn(): boolean {
    if (this.hears) turns.push(this.name);
    return this.hears;
  }

  /** It took its turn, and the place that was kept. */
  placed(queue: PlacementQueue): void {
    queue.take(this);
    const executions = this.context.executions.map((each) => ({ ...each, phase: 'running' as const }));
    this.context = { ...this.context, executions };
    const [first] = runtimes;
    if (first !== undefined) runtimes = [{ ...first, free: first.free - 1 }, ...runtimes.slice(1)];
    queue.note(this, false);
    queue.taken(this, false);
  }
}

function waiting(queue: PlacementQueue, ...names: readonly string[]): Map<string, Waits> {
  const all = new Map<string, Waits>();
  for (const name of names) {
    const waiter = new Waits(name);
    all.set(name, waiter);
    queue.note(waiter, false);
  }
  return all;
}

describe('the queue before runtimes', () => {
  it('gives nobody a turn while there is no room, and as many as there are places when there is', () => {
    const queue = make();
    const all = waiting(queue, 'a1', 'a2', 'a3', 'b1');
    settle();
    expect([turns, queue.size, queue.of('a'), queue.of('b')]).toEqual([[], 4, 3, 1]);
    runtimes = [runtime('r1', { free: 2 })];
    queue.changed();
    settle();
    expect(turns).toEqual(['a1', 'b1']);
    expect(reserved).toEqual(['r1', 'r1']); // U3
    for (const name of turns) all.get(name)?.placed(queue);
    settle();
    expect([turns, queue.size, reserved]).toEqual([['a1', 'b1'], 2, []]);
  });

  it('serves by weight', () => {
    weights = { b: 3 };
    const queue = make();
    waiting(queue, ...Array.from({ length: 8 }, (_, n) => [`a${n}`, `b${n}`]).flat());
    runtimes = [runtime('r1', { free: 8 })];
    queue.changed();
    settle();
    expect(turns.filter((name) => name.startsWith('b'))).toHaveLength(6);
  });

  it('has whoever comes wait behind those who wait, and nobody behind himself', () => {
    const queue = make();
    const late = new Waits('b1');
    expect(queue.isBehind(late)).toBe(false);
    const all = waiting(queue, 'a1');
    expect(queue.isBehind(late)).toBe(true); // U1
    const [first] = all.values();
    expect(queue.isBehind(first ?? late)).toBe(false);
  });

  it('passes over what no runtime with room would take, and does not forget it', () => {
    const queue = make();
    const gpu = [new Waits('a1', { gpu: 'yes' }), new Waits('a2', { gpu: 'yes' })];
    for (const waiter of gpu) queue.note(waiter, false);
    waiting(queue, 'a3', 'b1');
    runtimes = [runtime('r1', { free: 5 }), runtime('r2', { free: 0, labels: { gpu: 'yes' } })];
    queue.changed();
    settle();
    expect(turns).toEqual(['a3', 'b1']); // U2
    // Nobody is held up by those who wait for something else.
    const late = new Waits('c1');
    expect(queue.isBehind(late)).toBe(false);
    queue.changed();
    expect(queue.isBehind(late)).toBe(true);
    settle();
    expect(queue.isBehind(late)).toBe(false);
    runtimes = [runtime('r2', { free: 1, labels: { gpu: 'yes' } })];
    queue.changed();
    settle();
    expect(turns).toEqual(['a3', 'b1', 'a1']);
  });

  it('has one whose turn came to nothing first again', () => {
    const queue = make();
    const all = waiting(queue, 'a1', 'a2', 'b1');
    runtimes = [runtime('r1', { free: 1 })];
    queue.changed();
    settle();
    expect(turns).toEqual(['a1']);
    const first = all.get('a1');
    if (first === undefined) return expect.fail();
    runtimes = [];
    queue.take(first);
    queue.note(first, false);
    queue.taken(first, true);
    settle();
    runtimes = [runtime('r1', { free: 2 })];
    queue.changed();
    settle();
    expect(turns).toEqual(['a1', 'a1', 'b1']); // U3
  });

  it('lets a place go that was kept for one who left or does not hear', () => {
    const queue = make();
    const all = waiting(queue, 'a1', 'b1', 'c1');
    const deaf = all.get('b1');
    if (deaf === undefined) return expect.fail();
    deaf.hears = false;
    runtimes = [runtime('r1', { free: 1 })];
    queue.changed();
    settle();
    expect([turns, reserved]).toEqual([['a1'], ['r1']]);
    queue.leave(all.get('a1') as Waits);
    settle();
    expect([turns, reserved, queue.size]).toEqual([['a1', 'c1'], ['r1'], 1]);
  });

  it('knows how long a turn takes of late', () => {
    const queue = make();
    const all = waiting(queue, ...Array.from({ length: 200 }, (_, n) => `a${n}`));
    runtimes = [runtime('r1', { free: 0 })];
    for (let n = 0; n < 150; n++) {
      now += 10;
      runtimes = [runtime('r1', { free: 1 })];
      queue.changed();
      settle();
      all.get(turns.at(-1) ?? '')?.placed(queue);
    }
    expect(queue.turnMs('a')).toBeGreaterThan(9);
    expect(queue.turnMs('a')).toBeLessThanOrEqual(10);
    // With one more tenant there, each has half.
    expect(queue.turnMs('b') / queue.turnMs('a')).toBeCloseTo(2);
  });
});
