/** How many runtimes there are to be: the machine, a model of any pool, and its host over a store in memory. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import {
  type AutoscalerEffect,
  type AutoscalerEvent,
  type AutoscalerLimits,
  autoscalerMachine,
  type PoolRuntime,
} from '../../actors/autoscaler.ts';
import { type Clock, systemClock } from '../../src/clock.ts';
import type { RuntimeHeartbeat } from '../../src/protocol.ts';
import type { Provisioner } from '../../src/provision/provisioner.ts';
import { AUTOSCALER, Autoscale } from '../../src/session/autoscale.ts';
import type { BrokerNotice } from '../../src/session/notice.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { type Store, StoreError } from '../../src/store/store.ts';
import { VirtualClock } from '../support/clock.ts';

const LIMITS: AutoscalerLimits = {
  minSize: 1,
  maxSize: 6,
  scaleUpThreshold: 0.8,
  scaleDownThreshold: 0.3,
  scaleInterval: 1_000,
};

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
interface Member extends Mutable<PoolRuntime> {
  readonly ours: boolean;
}

/** A pool, the machine that looks at it, and what it asked for; carried out when the test says so. */
class Pool {
  readonly limits: AutoscalerLimits;
  readonly members: Member[] = [];
  /** Asked for, and neither started nor failed. */
  readonly asked: number[] = [];
  /** Started, and not heard yet. */
  readonly unheard: string[] = [];
  readonly told: string[] = [];
  snapshot: SnapshotFrom<typeof autoscalerMachine>;
  now = 0;
  waiting = 0;
  capacity = 10;
  #names = 0;

  constructor(limits: Partial<AutoscalerLimits> = {}, loads: readonly number[] = []) {
    this.limits = { ...LIMITS, ...limits };
    [this.snapshot] = initialTransition(autoscalerMachine, this.limits);
    for (const load of loads) this.join(load);
  }

  join(load = 0, ours = true, id = `r${++this.#names}`): string {
    this.members.push({ id, load, capacity: this.capacity, draining: false, ours });
    return id;
  }
  get active(): readonly Member[] {
    return this.members.filter(({ draining }) => !draining);
  }
  get draining(): readonly Member[] {
    return this.members.filter(({ draining }) => draining);
  }
  member(id: string): Member {
    return this.members.find((member) => member.id === id) ?? expect.fail(`there is no ${id}`);
  }

  tell(event: AutoscalerEvent): readonly AutoscalerEffect[] {
    [this.snapshot] = transition(autoscalerMachine, this.snapshot, event);
    const { effects } = this.snapshot.context;
    for (const effect of effects) {
      if (effect.type === 'start') this.asked.push(effect.ref);
      else if (effect.type === 'drain') this.member(effect.runtime).draining = true;
      else if (effect.type === 'stop') this.remove(effect.runtime);
      else this.told.push(`${effect.from} to ${effect.to}: ${effect.reason}`);
    }
    return effects;
  }

  look(): readonly AutoscalerEffect[] {
    return this.tell({
      type: 'pool.observed',
      at: this.now,
      runtimes: this.members.map(({ id, load, capacity, draining }) => ({ id, load, capacity, draining })),
      ours: [...this.members.flatMap(({ id, ours }) => (ours ? [id] : [])), ...this.unheard],
      waiting: this.waiting,
    });
  }
  /** One interval passes; then a look. */
  next(): readonly AutoscalerEffect[] {
    this.now += this.limits.scaleInterval;
    return this.look();
  }

  /** What was asked for first is started, and not heard yet. */
  start(): string {
    const ref = this.asked.shift() ?? expect.fail('nothing was asked for');
    const id = `r${++this.#names}`;
    this.unheard.push(id);
    this.tell({ type: 'scale.started', ref, runtime: id, at: this.now });
    return id;
  }
  fail(): void {
    const ref = this.asked.shift() ?? expect.fail('nothing was asked for');
    this.tell({ type: 'scale.failed', ref, at: this.now });
  }
  /** Everything that was started is heard. */
  hear(): void {
    for (const id of this.unheard.splice(0)) this.join(0, true, id);
  }
  /** Everything asked for comes up, and every drain ends. */
  settle(): void {
    while (this.asked.length > 0) this.start();
    this.hear();
    for (const { id } of this.draining) this.leave(id);
  }
  leave(id: string): void {
    this.remove(id);
    this.tell({ type: 'scale.drained', runtime: id, at: this.now });
  }
  remove(id: string): void {
    for (const list of [this.members, this.unheard] as (Member | string)[][]) {
      const index = list.findIndex((one) => (typeof one === 'string' ? one : one.id) === id);
      if (index >= 0) list.splice(index, 1);
    }
  }
  /** The same executions on however many runtimes there are. */
  spread(load: number): void {
    const { active } = this;
    for (const [index, member] of active.entries())
      member.load = Math.floor(load / active.length) + (index < load % active.length ? 1 : 0);
  }
}

const starts = (effects: readonly AutoscalerEffect[]): number =>
  effects.filter(({ type }) => type === 'start').length;
const drains = (effects: readonly AutoscalerEffect[]): readonly string[] =>
  effects.flatMap((effect) => (effect.type === 'drain' ? [effect.runtime] : []));

describe('a pool that is too small', () => {
  it('is made up to minSize in one step, at its first look', () => {
    const pool = new Pool({ minSize: 4 }, [0]);
    expect(starts(pool.look())).toBe(3);
    expect(pool.told).toEqual(['1 to 4: fewer than 4']);
    expect(starts(pool.look())).toBe(0);
  });

  it('is made up between two intervals', () => {
    const pool = new Pool({ minSize: 2 }, [0, 0]);
    pool.look();
    pool.leave('r1');
    pool.now += 1;
    expect(starts(pool.look())).toBe(1);
  });

  it('does not count one that drains (P2)', () => {
    const pool = new Pool({ minSize: 2 }, [0, 0]);
    pool.member('r1').draining = true;
    expect(starts(pool.look())).toBe(1);
  });
});

describe('a pool that is crowded', () => {
  it('grows above the threshold, and not at it', () => {
    expect(starts(new Pool({}, [8, 8]).look())).toBe(0);
    expect(starts(new Pool({}, [8, 9]).look())).toBe(1);
  });

  it('grows to what brings it to the threshold, at most to twice its size', () => {
    const pool = new Pool({ maxSize: 20 }, [10, 10]);
    pool.waiting = 12;
    expect(starts(pool.look())).toBe(2);
    pool.settle();
    expect(starts(pool.next())).toBe(0);
    pool.waiting = 100;
    expect(starts(pool.next())).toBe(4);
  });

  it('counts executions that wait as places in use', () => {
    const pool = new Pool({ scaleUpThreshold: 1 }, [10]);
    expect(starts(pool.look())).toBe(0);
    pool.waiting = 1;
    expect(starts(pool.next())).toBe(1);
  });

  it('never grows over maxSize (P1)', () => {
    const pool = new Pool({ maxSize: 3 }, [10, 10]);
    pool.waiting = 1_000;
    expect(starts(pool.look())).toBe(1);
    expect(starts(pool.next())).toBe(0);
    pool.settle();
    pool.spread(30);
    expect(starts(pool.next())).toBe(0);
  });

  it('counts those that are coming', () => {
    const pool = new Pool({}, [9]);
    expect(starts(pool.look())).toBe(1);
    expect(starts(pool.next())).toBe(0);
    expect(pool.snapshot.value).toBe('growing');
    pool.settle();
    pool.next();
    expect(pool.snapshot.value).toBe('steady');
  });

  it('is weighed once per interval (P5)', () => {
    const pool = new Pool({}, [5]);
    pool.look();
    pool.member('r1').load = 10;
    pool.now += 999;
    expect(starts(pool.look())).toBe(0);
    pool.now += 1;
    expect(starts(pool.look())).toBe(1);
  });

  it('may begin with nothing, when something waits', () => {
    const pool = new Pool({ minSize: 0 });
    expect(starts(pool.look())).toBe(0);
    pool.waiting = 40;
    expect(starts(pool.next())).toBe(1);
    expect(starts(pool.next())).toBe(0);
    pool.settle();
    expect(starts(pool.next())).toBe(1);
  });
});

describe('a pool with little to do', () => {
  it('lets one go after two whole intervals, the least loaded of its own, and the next two intervals later (P4)', () => {
    const pool = new Pool({}, [2, 1, 2, 0]);
    pool.join(0, false, 'theirs');
    const gone: (readonly string[])[] = [drains(pool.look())];
    for (let look = 0; look < 5; look++) {
      gone.push(drains(pool.next()));
      for (const { id } of pool.draining) pool.leave(id);
    }
    expect(gone).toEqual([[], [], ['r4'], [], [], ['r2']]);
    expect(pool.told).toEqual(['5 to 4: less than 30% in use', '4 to 3: less than 30% in use']);
  });

  it('keeps one that was not started here (P3)', () => {
    const pool = new Pool({});
    for (const id of ['x', 'y', 'z']) pool.join(0, false, id);
    for (let look = 0; look < 9; look++) expect(drains(pool.next())).toEqual([]);
  });

  it('begins to count anew when it was busy in between', () => {
    const pool = new Pool({}, [0, 0]);
    pool.look();
    pool.next();
    pool.spread(10);
    pool.next();
    pool.spread(0);
    expect([pool.next(), pool.next()].flatMap(drains)).toEqual([]);
    expect(drains(pool.next())).toEqual(['r1']);
  });

  it('begins to count anew under another that decides', () => {
    const pool = new Pool({}, [0, 0]);
    pool.look();
    pool.now += 10_000;
    pool.tell({ type: 'role.taken', at: pool.now });
    expect([pool.look(), pool.next()].flatMap(drains)).toEqual([]);
    expect(drains(pool.next())).toEqual(['r1']);
  });

  it('keeps minSize (P2)', () => {
    const pool = new Pool({ minSize: 2 }, [0, 0]);
    for (let look = 0; look < 9; look++) expect(drains(pool.next())).toEqual([]);
  });

  it('drains one at a time (P3)', () => {
    const pool = new Pool({}, [0, 0, 0]);
    for (let look = 0; look < 3; look++) pool.next();
    expect(pool.draining).toHaveLength(1);
    expect(pool.snapshot.value).toBe('shrinking');
    for (let look = 0; look < 9; look++) expect(drains(pool.next())).toEqual([]);
    pool.leave('r1');
    expect(drains(pool.next())).toEqual(['r2']);
  });

  it('does not count one that was told to drain, though its heartbeat does not say so yet (P2)', () => {
    const pool = new Pool({ minSize: 2 }, [0, 0, 0]);
    for (let look = 0; look < 3; look++) pool.next();
    pool.member('r1').draining = false;
    expect(starts(pool.look())).toBe(0);
    pool.members.splice(1, 1);
    expect(starts(pool.look())).toBe(1);
  });

  it('keeps what it needs to stay below the threshold for starting (P4)', () => {
    const pool = new Pool({ scaleDownThreshold: 0.7 }, [6, 6]);
    for (let look = 0; look < 9; look++) expect([drains(pool.next()), pool.asked]).toEqual([[], []]);
  });

  it('may go down to nothing', () => {
    const pool = new Pool({ minSize: 0 }, [0]);
    for (let look = 0; look < 3; look++) pool.next();
    expect(pool.draining).toHaveLength(1);
  });
});

describe('a start that fails', () => {
  it('is tried again after waits that double, and keeps nobody waiting once one came up (P6)', () => {
    const pool = new Pool({ minSize: 1, scaleInterval: 100 });
    const times: number[] = [];
    while (times.length < 6) {
      pool.look();
      if (pool.asked.length > 0) {
        times.push(pool.now);
        pool.fail();
      }
      pool.now += 100;
    }
    const waits = times.slice(1).map((time, index) => time - (times[index] ?? 0));
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 16_000]);
    pool.now += 120_000;
    pool.look();
    pool.settle();
    pool.look();
    expect(pool.snapshot.context).toMatchObject({ failures: 0, startAt: 0 });
  });

  it('counts as one with others of the same time', () => {
    const pool = new Pool({ minSize: 3 });
    pool.look();
    for (let start = 0; start < 3; start++) pool.fail();
    expect(pool.snapshot.context.failures).toBe(1);
    expect(starts(pool.next())).toBe(3);
  });

  it('may be one that came up and died before it was heard', () => {
    const pool = new Pool({ minSize: 1 });
    pool.look();
    pool.start();
    pool.unheard.splice(0);
    pool.now += 10;
    expect(starts(pool.look())).toBe(0);
    expect(pool.snapshot.context).toMatchObject({ failures: 1, starting: [] });
    pool.now += 999;
    expect(starts(pool.look())).toBe(0);
    pool.now += 1;
    expect(starts(pool.look())).toBe(1);
  });

  it('is one that is not heard for a minute: it is ended, and another is started', () => {
    const pool = new Pool({ minSize: 1 });
    pool.look();
    const id = pool.start();
    pool.now += 60_000;
    expect(pool.look()).toEqual([]);
    pool.now += 1;
    expect(pool.look()).toContainEqual({ type: 'stop', runtime: id });
    expect(starts(pool.next())).toBe(1);
  });

  it('that was given up is ended when it comes after all (P1)', () => {
    const pool = new Pool({ minSize: 1 });
    pool.look();
    pool.now += 60_001;
    pool.look();
    pool.start();
    expect(pool.snapshot.context.effects).toEqual([{ type: 'stop', runtime: 'r1' }]);
  });
});

// ---- any pool --------------------------------------------------------------------------------------------

const ACTS = {
  look: 10,
  interval: 6,
  start: 5,
  hear: 5,
  fail: 2,
  gone: 3,
  die: 1,
  drainElsewhere: 1,
  foreign: 1,
  load: 6,
  wait: 3,
  role: 1,
} as const;
const anyAct = fc.record({
  act: fc.oneof(
    ...Object.entries(ACTS).map(([act, weight]) => ({
      weight,
      arbitrary: fc.constant(act as keyof typeof ACTS),
    })),
  ),
  pick: fc.nat(1_000),
});
const anyLimits = fc
  .record({
    minSize: fc.integer({ min: 0, max: 4 }),
    more: fc.integer({ min: 0, max: 5 }),
    up: fc.integer({ min: 20, max: 100 }),
    down: fc.nat({ max: 99 }),
  })
  .map(({ minSize, more, up, down }) => ({
    minSize,
    maxSize: Math.max(1, minSize + more),
    scaleUpThreshold: up / 100,
    scaleDownThreshold: (Math.min(down, 99) / 100) * (up / 100),
  }));

/** P1 to P3 and P6 after a step. */
function check(
  pool: Pool,
  before: readonly Member[],
  pending: number,
  effects: readonly AutoscalerEffect[],
): void {
  const { minSize, maxSize } = pool.limits;
  const started = starts(effects);
  const active = before.filter(({ draining }) => !draining).length;
  if (started > 0) expect(active + pending + started, 'P1').toBeLessThanOrEqual(maxSize);
  if (started > 0) expect(pool.now, 'P6').toBeGreaterThanOrEqual(pool.snapshot.context.startAt);
  const drained = drains(effects);
  expect(drained.length, 'P3').toBeLessThanOrEqual(1);
  for (const id of drained) {
    expect(active - 1, 'P2').toBeGreaterThanOrEqual(minSize);
    const ours = before.filter(({ ours, draining }) => ours && !draining);
    const mine = ours.find((one) => one.id === id) ?? expect.fail('P3: it is not ours');
    expect(mine.load, 'P3').toBe(Math.min(...ours.map(({ load }) => load)));
    expect(started, 'nothing is started where something is drained').toBe(0);
  }
}

function play(pool: Pool, act: keyof typeof ACTS, pick: number): void {
  const some = <T>(things: readonly T[]): T | undefined => things[pick % Math.max(1, things.length)];
  switch (act) {
    case 'look':
    case 'interval': {
      pool.now += act === 'look' ? pick % 1_000 : 1_000;
      const before = pool.members.map((member) => ({ ...member }));
      const heard = new Set(before.map(({ id }) => id));
      const pending = pool.asked.length + pool.unheard.filter((id) => !heard.has(id)).length;
      return check(pool, before, pending, pool.look());
    }
    case 'start':
      if (pool.asked.length > 0) pool.start();
      return;
    case 'hear':
      return pool.hear();
    case 'fail':
      if (pool.asked.length > 0) pool.fail();
      return;
    case 'gone': {
      const { leaving } = pool.snapshot.context;
      if (leaving !== undefined) pool.leave(leaving);
      return;
    }
    case 'die': {
      const member = some(pool.members);
      if (member !== undefined && member.id !== pool.snapshot.context.leaving)
        pool.members.splice(pool.members.indexOf(member), 1);
      else pool.unheard.splice(0, 1);
      return;
    }
    case 'drainElsewhere': {
      const member = some(pool.active.filter(({ ours }) => !ours));
      if (member !== undefined) member.draining = true;
      return;
    }
    case 'foreign':
      pool.join(pick % 11, false);
      return;
    case 'load': {
      const member = some(pool.active);
      if (member !== undefined) member.load = pick % 11;
      return;
    }
    case 'wait':
      pool.waiting = pick % 3 === 0 ? pick % 30 : 0;
      return;
    case 'role':
      pool.tell({ type: 'role.taken', at: pool.now });
      return;
  }
}

describe('any pool', () => {
  it('keeps its bounds whatever happens (P1, P2, P3, P6)', () => {
    fc.assert(
      fc.property(anyLimits, fc.array(anyAct, { maxLength: 120, size: 'max' }), (limits, acts) => {
        const pool = new Pool(limits);
        for (const { act, pick } of acts) play(pool, act, pick);
      }),
      { numRuns: 1_000 },
    );
  });

  it('under an even load comes to rest, starts nothing once it has drained, and has the right size then (P4)', () => {
    fc.assert(
      fc.property(
        anyLimits,
        fc.nat({ max: 8 }),
        fc.nat({ max: 100 }),
        fc.integer({ min: 1, max: 12 }),
        (limits, size, load, capacity) => {
          const pool = new Pool(limits);
          pool.capacity = capacity;
          for (let member = 0; member < size; member++) pool.join();
          let drained = 0;
          let quiet = 0;
          for (let look = 0; look < 120; look++) {
            const places = pool.active.length * capacity;
            pool.waiting = Math.max(0, load - places);
            pool.spread(Math.min(load, places));
            const effects = pool.next();
            if (drained > 0) expect(starts(effects), 'no flapping').toBe(0);
            drained += drains(effects).length;
            quiet = effects.length === 0 ? quiet + 1 : 0;
            pool.settle();
          }
          expect(quiet, 'it comes to rest').toBeGreaterThan(20);
          const { minSize, maxSize, scaleUpThreshold } = pool.limits;
          const count = pool.active.length;
          expect(count).toBeGreaterThanOrEqual(minSize);
          if (count > maxSize) expect(count).toBeLessThanOrEqual(size);
          const crowded = load > count * capacity * scaleUpThreshold;
          if (crowded) expect(count).toBeGreaterThanOrEqual(maxSize);
        },
      ),
      { numRuns: 500 },
    );
  });
});

// ---- the host --------------------------------------------------------------------------------------------

/** Runtimes that only exist: started and drained when the test lets them. */
class FakeProvisioner implements Provisioner {
  readonly labels: Readonly<Record<string, string>> = { kind: 'pooled' };
  readonly up = new Map<string, () => void>();
  started = 0;
  fails = false;
  readonly draining: string[] = [];

  async start(): Promise<{ readonly id: string }> {
    if (this.fails) throw new Error('no machine is left');
    const id = `p${++this.started}`;
    this.up.set(id, () => undefined);
    return { id };
  }
  drain(id: string): Promise<void> {
    this.draining.push(id);
    return new Promise((resolve) => this.up.set(id, resolve));
  }
  async stop(id: string): Promise<void> {
    this.end(id);
  }
  end(id: string): void {
    const ended = this.up.get(id);
    this.up.delete(id);
    ended?.();
  }
  async list(): Promise<readonly string[]> {
    return [...this.up.keys()];
  }
  async close(): Promise<void> {
    for (const id of [...this.up.keys()]) this.end(id);
  }
}

const POOL = { ...LIMITS, minSize: 2, scaleInterval: 10_000 };

/** Brokers of one namespace, each with a provisioner of its own, that see the same runtimes. */
class Place {
  readonly clock = new VirtualClock();
  readonly store = new MemoryStore({ clock: this.clock });
  readonly notices: BrokerNotice[] = [];
  load = 0;
  waiting = 0;
  readonly others: RuntimeHeartbeat[] = [];
  readonly provisioners: FakeProvisioner[] = [];

  broker(
    id: string,
    over: { readonly store?: Store; readonly clock?: Clock; readonly isOpen?: () => boolean } = {},
  ) {
    const provisioner = new FakeProvisioner();
    this.provisioners.push(provisioner);
    const autoscale = new Autoscale({
      broker: id,
      store: this.store,
      clock: this.clock,
      pool: POOL,
      provisioner,
      directory: { runtimes: () => this.runtimes(), demand: () => this.waiting },
      isOpen: () => true,
      notify: (notice) => this.notices.push(notice),
      ...over,
    });
    autoscale.start();
    return { autoscale, provisioner };
  }

  runtimes(): readonly RuntimeHeartbeat[] {
    return [
      ...this.others,
      ...this.provisioners.flatMap(({ up, draining }) =>
        [...up.keys()].map((id) => this.beat(id, { draining: draining.includes(id), load: this.load })),
      ),
    ];
  }
  beat(id: string, over: Partial<RuntimeHeartbeat> = {}): RuntimeHeartbeat {
    return {
      runtime: id,
      labels: { kind: 'pooled' },
      capacity: 10,
      load: 0,
      draining: false,
      versions: undefined,
      intervalMs: 1_000,
      ...over,
    };
  }
  scaled(): readonly string[] {
    return this.notices.flatMap((notice) =>
      notice.type === 'runtimes.scaled' ? [`${notice.from} to ${notice.to}`] : [],
    );
  }
}

describe('the host of the autoscaler', () => {
  it('starts what is missing, once runtimes had the time to be heard (C2)', async () => {
    const place = new Place();
    const { provisioner } = place.broker('b1');
    await place.clock.advance(5_999);
    expect(provisioner.started).toBe(0);
    await place.clock.advance(2_001);
    expect(provisioner.started).toBe(2);
    expect(place.scaled()).toEqual(['0 to 2']);
  });

  it('starts nothing where enough are there, and does not look at those with other labels (C3)', async () => {
    const place = new Place();
    place.others.push(place.beat('x'), place.beat('y', { labels: {} }));
    const { provisioner } = place.broker('b1');
    await place.clock.advance(8_000);
    expect(provisioner.started).toBe(1);
  });

  it('grows and shrinks with the load, and drains before it ends', async () => {
    const place = new Place();
    const { provisioner } = place.broker('b1');
    await place.clock.advance(8_000);
    place.load = 10;
    place.waiting = 5;
    await place.clock.advance(10_000);
    expect([...provisioner.up.keys()]).toEqual(['p1', 'p2', 'p3', 'p4']);
    place.load = 0;
    place.waiting = 0;
    await place.clock.advance(60_000);
    expect(provisioner.draining).toEqual(['p1']);
    provisioner.end('p1');
    await place.clock.advance(60_000);
    expect(provisioner.draining).toEqual(['p1', 'p2']);
    provisioner.end('p2');
    await place.clock.advance(100_000);
    expect(place.scaled()).toEqual(['0 to 2', '2 to 4', '4 to 3', '3 to 2']);
  });

  it('tells of a start that failed, and tries again', async () => {
    const place = new Place();
    const { provisioner } = place.broker('b1');
    provisioner.fails = true;
    await place.clock.advance(8_000);
    expect(place.notices).toContainEqual({ type: 'scaling.failed', reason: 'no machine is left' });
    provisioner.fails = false;
    await place.clock.advance(4_000);
    expect(provisioner.started).toBe(2);
  });

  it('is one of several: the others do nothing', async () => {
    const place = new Place();
    const brokers = ['b1', 'b2', 'b3'].map((id) => place.broker(id));
    await place.clock.advance(20_000);
    expect(brokers.map(({ provisioner }) => provisioner.started)).toEqual([2, 0, 0]);
    expect(brokers.map(({ autoscale }) => autoscale.decides)).toEqual([true, false, false]);
  });

  it('is succeeded at once when it stops, and when its time is over when it dies', async () => {
    const place = new Place();
    const [first, second, third] = [place.broker('b1'), place.broker('b2'), place.broker('b3')];
    await place.clock.advance(8_000);
    await first.autoscale.stop();
    await first.provisioner.close();
    await place.clock.advance(2_000);
    expect([second.provisioner.started, second.autoscale.decides]).toEqual([2, true]);
    second.autoscale.abandon();
    await second.provisioner.close();
    await place.clock.advance(8_000);
    expect(third.provisioner.started).toBe(0);
    await place.clock.advance(4_000);
    expect(third.provisioner.started).toBe(2);
    await first.autoscale.stop();
    expect(await place.store.holdRole(AUTOSCALER, 'another', 1_000)).toBe(false);
  });

  it('that has the role again counts low use from then on', async () => {
    const place = new Place();
    let refused = false;
    const store = place.store.handle();
    const sometimes = {
      holdRole: (role: string, holder: string, ttlMs: number) =>
        refused ? Promise.resolve(false) : store.holdRole(role, holder, ttlMs),
      releaseRole: (role: string, holder: string) => store.releaseRole(role, holder),
    } as Store;
    const { provisioner } = place.broker('b1', { store: sometimes });
    place.others.push(place.beat('x'));
    place.load = 10;
    await place.clock.advance(20_000);
    expect(provisioner.started).toBe(1);
    place.others.push(place.beat('y'));
    await place.clock.advance(10_000);
    place.load = 0;
    await place.clock.advance(12_000);
    refused = true;
    await place.clock.advance(30_000);
    refused = false;
    await place.clock.advance(19_000);
    expect(provisioner.draining).toEqual([]);
    await place.clock.advance(6_000);
    expect(provisioner.draining).toEqual(['p1']);
  });

  it('is not the one before it, though it has its name', async () => {
    const place = new Place();
    place.broker('b1').autoscale.abandon();
    await place.store.holdRole(AUTOSCALER, 'b1', 60_000);
    const { provisioner } = place.broker('b1');
    await place.clock.advance(20_000);
    expect(provisioner.started).toBe(0);
  });

  it('decides nothing while the store is away, or the broker is not open', async () => {
    const place = new Place();
    let away = true;
    let open = false;
    const store = place.store.handle();
    const flaky = {
      holdRole: (role: string, holder: string, ttlMs: number) =>
        away
          ? Promise.reject(new StoreError('UNAVAILABLE', 'holdRole', 'away'))
          : store.holdRole(role, holder, ttlMs),
      releaseRole: (role: string, holder: string) => store.releaseRole(role, holder),
    } as Store;
    const { provisioner } = place.broker('b1', { store: flaky, isOpen: () => open });
    await place.clock.advance(20_000);
    open = true;
    await place.clock.advance(20_000);
    expect(provisioner.started).toBe(0);
    away = false;
    await place.clock.advance(2_000);
    expect(provisioner.started).toBe(2);
    expect(place.notices.filter(({ type }) => type === 'scaling.failed')).toEqual([]);
  });

  it('decides nothing on an answer that came when the time granted was over (C1)', async () => {
    const place = new Place();
    const store = place.store.handle();
    let late = 9_000;
    const slow = {
      holdRole: async (role: string, holder: string, ttlMs: number) => {
        const granted = await store.holdRole(role, holder, ttlMs);
        await new Promise<void>((resolve) => place.clock.after(late, resolve));
        return granted;
      },
      releaseRole: (role: string, holder: string) => store.releaseRole(role, holder),
    } as Store;
    const { provisioner } = place.broker('b1', { store: slow });
    await place.clock.advance(40_000);
    expect(provisioner.started).toBe(0);
    late = 8_000;
    await place.clock.advance(40_000);
    expect(provisioner.started).toBe(2);
  });

  it('decides nothing before runtimes were heard again, when this process stood still or the bus was away (C2)', async () => {
    const place = new Place();
    const there = [place.beat('x'), place.beat('y')];
    place.others.push(...there);
    let open = true;
    let late = 0;
    const clock: Clock = {
      ...systemClock,
      now: () => place.clock.now(),
      monotonic: () => place.clock.monotonic(),
      after: (ms, act) => place.clock.after(ms + late, act),
      id: () => place.clock.id(),
    };
    const { provisioner } = place.broker('b1', { clock, isOpen: () => open });
    await place.clock.advance(9_000);
    late = 30_000;
    await place.clock.advance(2_000);
    // Nobody was heard meanwhile, and they are again soon after.
    late = 0;
    place.others.splice(0);
    await place.clock.advance(32_000);
    place.others.push(...there);
    await place.clock.advance(20_000);
    open = false;
    place.others.splice(0);
    await place.clock.advance(20_000);
    open = true;
    await place.clock.advance(4_000);
    expect(provisioner.started).toBe(0);
    await place.clock.advance(6_000);
    expect(provisioner.started).toBe(2);
  });

  it('leaves no timer behind', async () => {
    const place = new Place();
    const { autoscale } = place.broker('b1');
    await place.clock.advance(8_000);
    await autoscale.stop();
    expect(place.clock.timers).toBe(0);
  });
});
