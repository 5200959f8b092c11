/**
 * The runtime machine against a model that plays pool and workers: it carries out every effect, lets scripts
 * run, wait, end and crash at random, and holds each step against R1 to R6 of actors/runtime.ts.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import {
  DEPTH,
  isEmpty,
  QUARANTINE_MS,
  queueLength,
  type RuntimeEffect,
  type RuntimeEvent,
  type RuntimeLimits,
  runtimeMachine,
} from '../../actors/runtime.ts';

type Place = 'mailbox' | 'suspected' | 'aboard' | 'ended';

interface Run {
  readonly id: string;
  readonly tenant: string;
  readonly key: string;
  readonly dedicated: boolean;
  place: Place;
  slot: string;
  phase: 'running' | 'waiting';
  /** It was submitted as one that must be alone. */
  readonly lonely: boolean;
  /** It runs now because it was suspected. */
  alone: boolean;
  ends: number;
}

interface Worker {
  readonly slot: string;
  closing: boolean;
  /** Tenants that it served, each with the level: `dedicated` or `shared`. */
  readonly served: Set<string>;
}

/** One random step; `pick` and `other` choose among whatever there is at that moment. */
interface Step {
  readonly act: keyof typeof WEIGHTS;
  readonly pick: number;
  readonly other: number;
}

const WEIGHTS = {
  submit: 12,
  ready: 6,
  complete: 8,
  wait: 5,
  resume: 4,
  crash: 3,
  blame: 2,
  restart: 1,
  recycle: 1,
  exit: 3,
  withdraw: 2,
  elapse: 2,
  stray: 1,
  fail: 1,
  recover: 2,
} as const;

const anyStep: fc.Arbitrary<Step> = fc.record({
  act: fc.oneof(
    ...Object.entries(WEIGHTS).map(([act, weight]) => ({
      weight,
      arbitrary: fc.constant(act as keyof typeof WEIGHTS),
    })),
  ),
  pick: fc.nat(1_000),
  other: fc.nat(1_000),
});
const anySteps = fc.array(anyStep, { maxLength: 150, size: 'max' });
const anyLimits: fc.Arbitrary<RuntimeLimits> = fc.record({
  maxWorkers: fc.integer({ min: 1, max: 4 }),
  maxQueueLength: fc.integer({ min: 0, max: 12 }),
  maxConcurrentPerWorker: fc.integer({ min: 1, max: 10 }),
  quarantineAfter: fc.integer({ min: 1, max: 3 }),
});

class World {
  snapshot: SnapshotFrom<typeof runtimeMachine>;
  readonly limits: RuntimeLimits;
  readonly runs = new Map<string, Run>();
  readonly workers = new Map<string, Worker>();
  /** Workers that were asked for and are not there yet. */
  owed = 0;
  drained = 0;
  /** The supervisor has given up for a while. */
  failed = false;
  readonly #crashes = new Map<string, { count: number; at: number }>();
  /** For each tenant that waits in the shared mailbox: whose turns it has seen since its own last. */
  readonly #passed = new Map<string, Map<string, number>>();
  #clock = 0;
  #names = 0;
  /** What the machine must do with the executions of a worker that is being lost. */
  #verdicts = new Map<string, 'retry' | 'alone' | 'counted' | 'quarantine'>();
  #refusal: 'QUARANTINED' | undefined;
  readonly #dedicatedToo: boolean;

  constructor(limits: RuntimeLimits, dedicatedToo: boolean) {
    this.limits = limits;
    this.#dedicatedToo = dedicatedToo;
    this.snapshot = initialTransition(runtimeMachine, limits)[0];
  }

  tell(event: RuntimeEvent): void {
    [this.snapshot] = transition(runtimeMachine, this.snapshot, event);
    for (const effect of this.snapshot.context.effects) this.#carryOut(effect);
    this.#check();
  }

  at(...places: readonly Place[]): Run[] {
    return [...this.runs.values()].filter((run) => places.includes(run.place));
  }

  aboard(slot: string): Run[] {
    return this.at('aboard').filter((run) => run.slot === slot);
  }

  // ---- effects -------------------------------------------------------------------------------------------

  #carryOut(effect: RuntimeEffect): void {
    switch (effect.type) {
      case 'dispatch':
        return this.#dispatch(this.#run(effect.id), effect.slot);
      case 'startWorker':
        expect(this.failed).toBe(false); // A worker that is asked for now would never come.
        this.owed++;
        return expect(this.workers.size + this.owed).toBeLessThanOrEqual(this.limits.maxWorkers);
      case 'retireWorker': {
        const worker = this.#worker(effect.slot);
        expect([worker.closing, this.aboard(effect.slot)]).toEqual([false, []]);
        worker.closing = true;
        return;
      }
      case 'refuse': {
        const run = this.#run(effect.id);
        const expected = this.#refusal ?? (this.snapshot.value === 'open' ? 'OVERLOADED' : effect.code);
        expect([run.place, effect.code]).toEqual([run.lonely ? 'suspected' : 'mailbox', expected]);
        this.runs.delete(effect.id); // It was never admitted.
        return;
      }
      case 'retry': {
        const verdict = this.#verdicts.get(effect.id);
        expect(effect.counted ? 'counted' : effect.alone ? 'alone' : 'retry').toBe(verdict);
        if (effect.counted) expect(effect.alone).toBe(true); // R4
        this.#verdicts.delete(effect.id);
        const run = this.#run(effect.id);
        run.place = effect.alone ? 'suspected' : 'mailbox';
        if (!effect.alone) this.#startsToWait(run);
        return;
      }
      case 'quarantine':
        expect(this.#verdicts.get(effect.id)).toBe('quarantine');
        this.#verdicts.delete(effect.id);
        return this.#end(this.#run(effect.id));
      case 'fail':
        this.#verdicts.delete(effect.id);
        return this.#end(this.#run(effect.id));
      case 'drained':
        this.drained++;
    }
  }

  #dispatch(run: Run, slot: string): void {
    const worker = this.#worker(slot);
    const neighbours = this.aboard(slot);
    expect(['mailbox', 'suspected']).toContain(run.place); // R1: never while it is aboard, never after its end.
    expect(worker.closing).toBe(false);
    expect(neighbours.length).toBeLessThan(this.limits.maxConcurrentPerWorker); // R3
    expect(neighbours.filter(({ phase }) => phase === 'running').length).toBeLessThan(DEPTH); // R3
    expect(neighbours.some(({ alone }) => alone)).toBe(false); // R6
    const suspected = run.place === 'suspected';
    if (suspected) expect(neighbours).toEqual([]); // R6
    worker.served.add(run.dedicated ? `dedicated ${run.tenant}` : 'shared');
    if ([...worker.served].some((name) => name !== 'shared')) expect(worker.served.size).toBe(1); // R5
    if (!suspected && !run.dedicated) this.#takesItsTurn(run);
    Object.assign(run, { place: 'aboard', slot, phase: 'running', alone: suspected });
  }

  #end(run: Run): void {
    run.ends++;
    expect(run.ends).toBe(1); // R1
    run.place = 'ended';
    this.#passed.delete(this.#waits(run.tenant) ? '' : run.tenant);
  }

  // ---- fairness ------------------------------------------------------------------------------------------

  #waits(tenant: string): boolean {
    return this.at('mailbox').some((run) => run.tenant === tenant && !run.dedicated);
  }

  #startsToWait(run: Run): void {
    if (!run.dedicated && !this.#passed.has(run.tenant)) this.#passed.set(run.tenant, new Map());
  }

  #takesItsTurn(run: Run): void {
    run.place = 'aboard';
    for (const [tenant, passed] of this.#passed) {
      if (tenant === run.tenant) continue;
      const turns = (passed.get(run.tenant) ?? 0) + 1;
      expect(turns).toBe(1);
      passed.set(run.tenant, turns);
    }
    if (this.#waits(run.tenant)) this.#passed.set(run.tenant, new Map());
    else this.#passed.delete(run.tenant);
  }

  // ---- facts ---------------------------------------------------------------------------------------------

  take({ act, pick, other }: Step): void {
    const some = <T>(among: readonly T[]): T | undefined => among[pick % Math.max(1, among.length)];
    const worker = some([...this.workers.values()]);
    switch (act) {
      case 'submit':
        return this.submit(pick, other);
      case 'ready':
        return this.ready();
      case 'complete': {
        const run = some(this.at('aboard'));
        return run === undefined ? undefined : this.settle(run, other % 5 > 0);
      }
      case 'wait':
      case 'resume': {
        const phase = act === 'wait' ? 'waiting' : 'running';
        const run = some(this.at('aboard').filter((each) => each.phase !== phase));
        if (run === undefined) return;
        run.phase = phase;
        return this.tell({ type: `execution.${phase}`, id: run.id, slot: run.slot });
      }
      case 'crash':
        return worker === undefined ? undefined : this.lose(worker, false);
      case 'blame': {
        const run = some(this.at('aboard'));
        if (run === undefined) return;
        const { slot } = run;
        this.#worker(slot).closing = true;
        this.tell({ type: 'worker.closing', slot });
        this.settle(run, false);
        return this.lose(this.#worker(slot), true);
      }
      case 'restart': // A worker did not come up, and its supervisor tries again.
        if (this.owed === 0) return;
        this.tell({ type: 'worker.starting' });
        return this.tell({ type: 'worker.abandoned' });
      case 'recycle': // The replacement is there before the old one closes.
        if (this.failed || worker === undefined || worker.closing || this.owed > 0) return;
        this.owed++;
        this.tell({ type: 'worker.starting' });
        this.ready();
        worker.closing = true;
        return this.tell({ type: 'worker.closing', slot: worker.slot });
      case 'exit': {
        const empty = [...this.workers.values()].find(
          ({ slot, closing }) => closing && this.aboard(slot).length === 0,
        );
        return empty === undefined ? undefined : this.lose(empty, false);
      }
      case 'withdraw': {
        const run = some(this.at('mailbox', 'suspected'));
        if (run === undefined) return;
        this.#end(run);
        return this.tell({ type: 'execution.withdrawn', id: run.id });
      }
      case 'elapse':
        this.#clock += other % 2 === 0 ? QUARANTINE_MS : 1_000;
        return;
      case 'stray': // Words about what is not there.
        this.tell({ type: 'execution.settled', id: 'nobody', slot: worker?.slot ?? 'nowhere', sound: true });
        this.tell({ type: 'execution.waiting', id: 'nobody', slot: worker?.slot ?? 'nowhere' });
        this.tell({ type: 'worker.closing', slot: 'nowhere' });
        return this.tell({ type: 'worker.lost', slot: 'nowhere', blamed: false, at: this.#clock });
      case 'fail':
        return worker === undefined ? undefined : this.fail(worker);
      case 'recover':
        return this.recover();
    }
  }

  submit(pick: number, other: number): void {
    const tenant = ['a', 'b', 'c', '__proto__'][pick % 4] ?? '';
    const lonely = Math.floor(other / 3) % 4 === 0;
    const run: Run = {
      id: `x${++this.#names}`,
      tenant,
      key: `${tenant}#${other % 3}`,
      dedicated: this.#dedicatedToo && Math.floor(pick / 4) % 3 === 0,
      place: lonely ? 'suspected' : 'mailbox',
      slot: '',
      phase: 'running',
      lonely,
      alone: false,
      ends: 0,
    };
    this.runs.set(run.id, run);
    const crashed = this.#crashes.get(run.key);
    const refused = crashed !== undefined && crashed.count >= this.limits.quarantineAfter;
    this.#refusal = refused && this.#clock - crashed.at < QUARANTINE_MS ? 'QUARANTINED' : undefined;
    if (this.snapshot.value !== 'open') this.#refusal = undefined;
    const before = new Map([...this.#passed].map(([name, passed]) => [name, new Map(passed)]));
    if (!lonely) this.#startsToWait(run);
    const { id, key, dedicated } = run;
    this.tell({ type: 'execution.submitted', id, tenant, key, dedicated, alone: lonely, at: this.#clock });
    if (this.#refusal !== undefined) expect(this.runs.has(id)).toBe(false);
    if (!this.runs.has(id)) {
      this.#passed.clear();
      for (const [name, passed] of before) this.#passed.set(name, passed);
    }
    this.#refusal = undefined;
    // R2: what is admitted while nothing more fits was dispatched at once.
    if (this.runs.get(id)?.place === 'mailbox')
      expect(this.at('mailbox').length).toBeLessThanOrEqual(this.limits.maxQueueLength);
    if (lonely && this.runs.get(id)?.place === 'suspected')
      expect(this.at('mailbox', 'suspected').length).toBeLessThanOrEqual(this.limits.maxQueueLength);
  }

  ready(): void {
    if (this.owed === 0) return;
    this.owed--;
    const slot = `w${++this.#names}`;
    this.workers.set(slot, { slot, closing: false, served: new Set() });
    this.tell({ type: 'worker.ready', slot });
  }

  settle(run: Run, sound: boolean): void {
    const { slot } = run;
    this.#end(run);
    if (sound) this.#crashes.delete(run.key);
    this.tell({ type: 'execution.settled', id: run.id, slot, sound });
  }

  lose(worker: Worker, blamed: boolean): void {
    const { slot } = worker;
    const aboard = this.aboard(slot);
    this.workers.delete(slot);
    const [only] = aboard;
    for (const { id } of aboard) this.#verdicts.set(id, blamed ? 'retry' : 'alone');
    if (only !== undefined && aboard.length === 1 && !blamed) {
      const before = this.#crashes.get(only.key);
      const counts = before !== undefined && this.#clock - before.at < QUARANTINE_MS;
      const count = (counts ? before.count : 0) + 1;
      this.#crashes.set(only.key, { count, at: this.#clock });
      this.#verdicts.set(only.id, count >= this.limits.quarantineAfter ? 'quarantine' : 'counted'); // R4
    }
    for (const run of aboard) run.place = 'ended'; // Until the machine says otherwise.
    this.tell({ type: 'worker.lost', slot, blamed, at: this.#clock });
    expect([...this.#verdicts]).toEqual([]);
  }

  /** One crash too many: nothing is started for a while, and every worker that is left ends when it is empty. */
  fail(worker: Worker): void {
    if (this.failed) return;
    this.failed = true;
    this.tell({ type: 'runtime.failed', retryAfterMs: 500 });
    expect(this.at('mailbox', 'suspected')).toEqual([]);
    for (; this.owed > 0; this.owed--) this.tell({ type: 'worker.abandoned' });
    this.lose(worker, false);
    for (const left of this.workers.values()) {
      left.closing = true;
      this.tell({ type: 'worker.closing', slot: left.slot });
    }
  }

  recover(): void {
    if (!this.failed) return;
    this.failed = false;
    this.tell({ type: 'runtime.recovered' });
  }

  /** Let everything that was asked for happen, until nothing more does. */
  settleEverything(): void {
    for (let round = 0; round < 10_000; round++) {
      const [run] = this.at('aboard');
      const idle = [...this.workers.values()].find(
        ({ slot, closing }) => closing && this.aboard(slot).length === 0,
      );
      if (run !== undefined) this.settle(run, true);
      else if (idle !== undefined) this.lose(idle, false);
      else if (this.failed) this.recover();
      else if (this.owed > 0) this.ready();
      else return;
    }
    throw new Error('It never ends');
  }

  // ---- what holds after every step -----------------------------------------------------------------------

  #check(): void {
    const { context } = this.snapshot;
    expect(queueLength(context)).toBe(this.at('mailbox', 'suspected').length); // R1
    expect(context.suspects.size).toBe(this.at('suspected').length);
    const seen = Object.fromEntries(
      context.workers.map(({ slot, aboard }) => [slot, aboard.map(({ id }) => id)]),
    );
    if (this.snapshot.value === 'closed') return;
    const real = [...this.workers.keys()].map(
      (slot) => [slot, this.aboard(slot).map(({ id }) => id)] as const,
    );
    for (const [slot, ids] of real) expect(seen[slot]?.toSorted()).toEqual(ids.toSorted()); // R1
    expect(Object.keys(seen).length).toBe(real.length);
    if (context.suspects.size === 0 && !context.failed)
      for (const { held, slot } of context.workers)
        expect(held).toBe(this.aboard(slot).some(({ alone }) => alone)); // Nothing is kept free for nobody.
    for (const { aboard, running } of context.workers)
      expect(running).toBe(aboard.filter(({ phase }) => phase === 'running').length);
  }

  #run(id: string): Run {
    const run = this.runs.get(id);
    if (run === undefined) throw new Error(`An effect speaks of ${id}, which was refused or never submitted`);
    return run;
  }

  #worker(slot: string): Worker {
    const worker = this.workers.get(slot);
    if (worker === undefined) throw new Error(`An effect speaks of the worker ${slot}, which is not there`);
    return worker;
  }
}

function play(limits: RuntimeLimits, steps: readonly Step[], dedicatedToo: boolean): World {
  const world = new World(limits, dedicatedToo);
  for (const step of steps) world.take(step);
  return world;
}

const everyRunEndedOnce = (world: World): void => {
  for (const run of world.runs.values()) expect([run.id, run.place, run.ends]).toEqual([run.id, 'ended', 1]);
};

describe('whatever scripts and workers do', () => {
  it.each([
    { tenants: 'that share workers', dedicatedToo: false },
    { tenants: 'of which some have workers of their own', dedicatedToo: true },
  ])(
    'R1 to R6 hold and everything that was admitted ends once, with tenants $tenants',
    ({ dedicatedToo }) => {
      fc.assert(
        fc.property(anyLimits, anySteps, (limits, steps) => {
          const world = play(limits, steps, dedicatedToo);
          world.settleEverything();
          everyRunEndedOnce(world);
          expect(isEmpty(world.snapshot.context)).toBe(true);
        }),
        { numRuns: 400 },
      );
    },
  );

  it('a drain ends when the last execution does, not before, and admits nothing', () => {
    fc.assert(
      fc.property(anyLimits, anySteps, anySteps, (limits, steps, more) => {
        const world = play(limits, steps, false);
        world.tell({ type: 'runtime.drain' });
        const drained = (): readonly unknown[] => [world.snapshot.value, world.drained];
        for (const step of more) {
          const before = world.runs.size;
          world.take(step);
          expect(world.runs.size).toBe(before);
          expect(drained()).toEqual(isEmpty(world.snapshot.context) ? ['drained', 1] : ['draining', 0]);
        }
        world.settleEverything();
        everyRunEndedOnce(world);
        expect(drained()).toEqual(['drained', 1]);
      }),
      { numRuns: 150 },
    );
  });

  it('a close fails everything that is inside, once, and nothing starts after it', () => {
    fc.assert(
      fc.property(anyLimits, anySteps, (limits, steps) => {
        const world = play(limits, steps, false);
        const slots = [...world.workers.keys()];
        const aboard = world.at('aboard');
        world.tell({ type: 'runtime.close' });
        everyRunEndedOnce(world);
        const owed = world.owed;
        for (const { id, slot } of aboard) world.tell({ type: 'execution.settled', id, slot, sound: false });
        for (const slot of slots) world.tell({ type: 'worker.lost', slot, blamed: false, at: 0 });
        world.tell({ type: 'runtime.close' });
        world.submit(0, 0);
        everyRunEndedOnce(world);
        expect([world.snapshot.value, world.owed]).toEqual(['closed', owed]);
      }),
      { numRuns: 150 },
    );
  });
});
