/** A broker's lease: its machine, and its host over a store in memory. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import { holds, type LeaseEffect, type LeaseEvent, leaseMachine } from '../../actors/lease.ts';
import { Lease } from '../../src/session/lease.ts';
import { Incarnations } from '../../src/store/incarnations.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { type Store, StoreError } from '../../src/store/store.ts';
import { VirtualClock } from '../support/clock.ts';

const TTL = 3_000;
/** What is counted on of it. */
const COUNTED = 2_700;

class Machine {
  snapshot: SnapshotFrom<typeof leaseMachine> = initialTransition(leaseMachine, { ttlMs: TTL })[0];

  tell(event: LeaseEvent): readonly LeaseEffect[] {
    [this.snapshot] = transition(leaseMachine, this.snapshot, event);
    return this.snapshot.context.effects;
  }
  open(incarnation: string, at: number): readonly LeaseEffect[] {
    return this.tell({ type: 'lease.open', incarnation, at });
  }
  grant(incarnation: string, at: number): readonly LeaseEffect[] {
    return this.tell({ type: 'lease.granted', incarnation, at });
  }
  tick(at: number): readonly LeaseEffect[] {
    return this.tell({ type: 'lease.ticked', at });
  }
  holds(at: number): boolean {
    return holds(this.snapshot.context, at);
  }
}

/** Held since time 0. */
function held(): Machine {
  const machine = new Machine();
  machine.open('i1', 0);
  machine.grant('i1', 0);
  return machine;
}

const halt = (incarnation: string): unknown => [{ type: 'halt', incarnation, reason: expect.any(String) }];

describe('a lease', () => {
  it('is held from its grant, not from its request', () => {
    const machine = new Machine();
    expect(machine.holds(0)).toBe(false);
    expect(machine.open('i1', 0)).toEqual([{ type: 'open', incarnation: 'i1' }]);
    expect([machine.holds(1), machine.snapshot.value]).toEqual([false, 'asking']);
    machine.grant('i1', 5);
    expect([machine.holds(5), machine.snapshot.value]).toEqual([true, 'held']);
  });

  it('is opened once: a second request changes nothing', () => {
    const machine = held();
    expect(machine.open('i2', 10)).toEqual([]);
    expect(machine.snapshot.context.incarnation).toBe('i1');
  });

  it('is held for nine tenths of its ttl, counted from when the request was sent (L1)', () => {
    const machine = new Machine();
    machine.open('i1', 0);
    machine.grant('i1', 400);
    expect(machine.snapshot.context.heldUntil).toBe(COUNTED);
    for (let at = 200; at < COUNTED; at += 200) machine.tick(at);
    expect(machine.holds(COUNTED - 1)).toBe(true);
    expect(machine.holds(COUNTED)).toBe(false);
  });

  it('is given up by the tick that finds it over', () => {
    const machine = held();
    for (let at = 200; at < COUNTED; at += 200) machine.tick(at);
    expect(machine.tick(COUNTED)).toEqual(halt('i1'));
    expect(machine.snapshot.value).toBe('free');
  });

  it('that is granted too late is not held (L1)', () => {
    const machine = new Machine();
    machine.open('i1', 0);
    for (let at = 200; at < COUNTED; at += 200) machine.tick(at);
    expect(machine.grant('i1', COUNTED)).toEqual(halt('i1'));
    expect(machine.holds(COUNTED)).toBe(false);
  });

  it('whose first request has no answer is given up: its id may be used up (L2)', () => {
    const machine = new Machine();
    machine.open('i1', 0);
    expect(machine.tell({ type: 'lease.unanswered', incarnation: 'i1', at: 100 })).toEqual(halt('i1'));
    expect(machine.grant('i1', 101)).toEqual([]);
    expect([machine.holds(101), machine.snapshot.value]).toEqual([false, 'free']);
    expect(machine.open('i2', 102)).toEqual([{ type: 'open', incarnation: 'i2' }]);
  });

  it('that the store refuses is over at once', () => {
    const machine = held();
    machine.tick(1_000);
    expect(machine.tell({ type: 'lease.refused', incarnation: 'i1', at: 1_001 })).toEqual(halt('i1'));
    expect(machine.holds(1_001)).toBe(false);
  });

  it('that ended is not held again, whatever is still said of it (L2)', () => {
    const machine = held();
    machine.tick(1_000);
    machine.tell({ type: 'lease.end', at: 1_001 });
    expect(machine.grant('i1', 1_002)).toEqual([]);
    expect(machine.tick(1_003)).toEqual([]);
    machine.open('i2', 1_004);
    expect(machine.grant('i1', 1_005)).toEqual([]);
    expect(machine.tell({ type: 'lease.refused', incarnation: 'i1', at: 1_006 })).toEqual([]);
    expect(machine.tell({ type: 'lease.unanswered', incarnation: 'i1', at: 1_007 })).toEqual([]);
    expect([machine.holds(1_008), machine.snapshot.value]).toEqual([false, 'asking']);
    machine.grant('i2', 1_009);
    expect(machine.holds(1_010)).toBe(true);
  });

  it('is ended by its owner', () => {
    const machine = held();
    expect(machine.tell({ type: 'lease.end', at: 10 })).toEqual(halt('i1'));
    expect(machine.tell({ type: 'lease.end', at: 11 })).toEqual([]);
  });
});

describe('the renewal of a lease', () => {
  it('is asked for after a third of the ttl, once at a time', () => {
    const machine = held();
    for (const at of [250, 500, 750, 999]) expect(machine.tick(at)).toEqual([]);
    expect(machine.tick(1_000)).toEqual([{ type: 'renew', incarnation: 'i1' }]);
    expect(machine.tick(1_200)).toEqual([]);
    machine.grant('i1', 1_300);
    expect(machine.snapshot.context).toMatchObject({ heldUntil: 1_000 + COUNTED, renewAt: 2_000 });
    expect(machine.tick(1_900)).toEqual([]);
    expect(machine.tick(2_000)).toEqual([{ type: 'renew', incarnation: 'i1' }]);
  });

  it('that has no answer is asked for again at the next tick, while the lease lasts', () => {
    const machine = held();
    machine.tick(1_000);
    expect(machine.tell({ type: 'lease.unanswered', incarnation: 'i1', at: 1_500 })).toEqual([]);
    expect(machine.holds(1_500)).toBe(true);
    expect(machine.tick(1_700)).toEqual([{ type: 'renew', incarnation: 'i1' }]);
    expect(machine.snapshot.context.heldUntil).toBe(COUNTED);
  });

  it('counts once: the same grant again changes nothing', () => {
    const machine = held();
    machine.tick(1_000);
    machine.grant('i1', 1_010);
    const { context } = machine.snapshot;
    machine.grant('i1', 1_900);
    expect(machine.snapshot.context).toEqual(context);
  });
});

describe('a main loop that stood still (L3)', () => {
  it('for a third of the ttl keeps its lease', () => {
    const machine = held();
    expect(machine.holds(1_000)).toBe(true);
    expect(machine.tick(1_000)).toEqual([{ type: 'renew', incarnation: 'i1' }]);
  });

  it('for longer holds nothing, even before its next tick', () => {
    const machine = held();
    expect(machine.holds(1_001)).toBe(false);
    expect(machine.tick(1_001)).toEqual(halt('i1'));
    expect(machine.snapshot.value).toBe('free');
  });

  it('for longer loses its lease though the answer to its renewal came before its tick', () => {
    const machine = held();
    machine.tick(1_000);
    expect(machine.grant('i1', 2_001)).toEqual(halt('i1'));
    expect(machine.holds(2_001)).toBe(false);
  });

  it('is not excused by an answer: only a tick counts as one', () => {
    const machine = held();
    machine.tick(1_000);
    machine.grant('i1', 1_900);
    expect(machine.holds(2_000)).toBe(true);
    expect(machine.holds(2_001)).toBe(false);
  });
});

// ---- the host --------------------------------------------------------------------------------------------

/** What becomes of a request: how long it is under way to the store and back, in ms, or lost before or after. */
interface Fate {
  readonly there: number;
  readonly back: number;
  readonly lost: '' | 'request' | 'answer';
}
const PROMPT: Fate = { there: 0, back: 0, lost: '' };

/** A broker with its lease; a network between it and the store that a test disturbs; the store's own view. */
class Place {
  readonly clock = new VirtualClock();
  readonly store = new MemoryStore({ clock: this.clock });
  /** Which incarnations live, by the same requests at the same times. */
  readonly #book = new Incarnations(this.clock);
  readonly log: string[] = [];
  readonly requests: string[] = [];
  readonly ids: string[] = [];
  /** Incarnations that were ended in the store. */
  readonly ended: string[] = [];
  readonly lease: Lease;
  fate: () => Fate = () => PROMPT;

  constructor() {
    const ask = (what: 'open' | 'renew', incarnation: string, ttlMs: number): Promise<boolean> =>
      this.#ask(what, incarnation, ttlMs);
    const handle = this.store.handle();
    const end = handle.endIncarnation.bind(handle);
    const store: Store = Object.assign(handle, {
      endIncarnation: (incarnation: string) => {
        this.ended.push(incarnation);
        return end(incarnation);
      },
      openIncarnation: (incarnation: string, ttlMs: number) => ask('open', incarnation, ttlMs),
      renewIncarnation: (incarnation: string, ttlMs: number) => ask('renew', incarnation, ttlMs),
    });
    this.lease = new Lease({
      store,
      clock: this.clock,
      broker: 'b1',
      ttlMs: TTL,
      onHeld: (incarnation) => {
        this.ids.push(incarnation);
        this.log.push(`held ${this.ids.length}`);
      },
      onLost: (incarnation, reason) => this.log.push(`lost ${this.ids.indexOf(incarnation) + 1}: ${reason}`),
    });
  }

  async #ask(what: 'open' | 'renew', incarnation: string, ttlMs: number): Promise<boolean> {
    this.requests.push(`${what} ${Math.round(this.clock.monotonic())}`);
    const { there, back, lost } = this.fate();
    await this.#wait(there);
    let granted = false;
    if (lost !== 'request') {
      if (what === 'open') {
        granted = await this.store.openIncarnation(incarnation, ttlMs);
        this.#book.open(incarnation, ttlMs);
      } else {
        granted = await this.store.renewIncarnation(incarnation, ttlMs);
        this.#book.renew(incarnation, ttlMs);
      }
    }
    await this.#wait(back);
    if (lost !== '') throw new StoreError('UNAVAILABLE', what, 'no answer');
    return granted;
  }

  #wait(ms: number): Promise<void> {
    if (ms === 0) return Promise.resolve();
    return new Promise((resolve) => this.clock.after(ms, resolve));
  }

  /** The incarnation that acts is alive for the store. */
  check(): void {
    const { incarnation } = this.lease;
    expect(this.lease.holds()).toBe(incarnation !== undefined);
    if (incarnation === undefined) return expect(this.lease.leftMs()).toBe(0);
    const left = this.#book.leftMs(incarnation);
    expect(left, 'whoever acts is alive for the store').toBeGreaterThan(0);
    expect(this.lease.leftMs()).toBeLessThanOrEqual(left);
  }
}

describe('the host of a lease', () => {
  it('opens one, renews it every third of its ttl, and never loses it', async () => {
    const place = new Place();
    place.lease.start();
    expect(place.lease.holds()).toBe(false);
    await place.clock.advance(30_000);
    expect(place.log).toEqual(['held 1']);
    expect(place.lease.incarnation).toBe(place.ids[0]);
    expect(place.ids[0]).toMatch(/^b1-[A-Za-z0-9_-]{22}$/);
    expect(place.requests.slice(0, 4)).toEqual(['open 0', 'renew 1000', 'renew 2000', 'renew 3000']);
  });

  it('knows for whom it holds', async () => {
    const place = new Place();
    place.lease.start();
    await place.clock.advance(0);
    expect(place.lease.holds(place.ids[0])).toBe(true);
    expect(place.lease.holds('b1-another')).toBe(false);
    expect(place.lease.leftMs()).toBe(COUNTED);
  });

  it('tries another id when the first has no answer', async () => {
    const place = new Place();
    place.fate = () => ({ there: 0, back: 0, lost: place.requests.length === 1 ? 'answer' : '' });
    place.lease.start();
    await place.clock.advance(1_000);
    expect(place.requests.slice(0, 2)).toEqual(['open 0', 'open 400']);
    expect(place.log.at(-1)).toBe('held 1');
    expect(place.lease.holds()).toBe(true);
  });

  it('loses it when renewals fail, and opens a new one afterwards', async () => {
    const place = new Place();
    place.lease.start();
    await place.clock.advance(500);
    place.fate = () => ({ there: 0, back: 0, lost: 'request' });
    await place.clock.advance(3_000);
    expect(place.log).toContain('lost 1: it was not renewed in time');
    expect(place.lease.holds()).toBe(false);
    place.fate = () => PROMPT;
    await place.clock.advance(1_000);
    expect(place.lease.holds()).toBe(true);
    expect(place.ids).toHaveLength(2);
    expect(place.ids[1]).not.toBe(place.ids[0]);
  });

  it('ends what it lost in the store, as soon as it holds again: nobody need wait for that to run out', async () => {
    const place = new Place();
    place.lease.start();
    await place.clock.advance(100);
    place.fate = () => ({ there: 0, back: 0, lost: 'request' });
    await place.clock.advance(3_000);
    expect([place.lease.holds(), place.ended]).toEqual([false, []]);
    place.fate = () => PROMPT;
    await place.clock.advance(1_000);
    expect(place.lease.holds()).toBe(true);
    expect(place.ended).toEqual([place.ids[0]]);
  });

  it('loses it when the store has ended it, and opens a new one', async () => {
    const place = new Place();
    place.lease.start();
    await place.clock.advance(0);
    await place.store.endIncarnation(place.ids[0] ?? '');
    await place.clock.advance(2_000);
    expect(place.log).toEqual(['held 1', 'lost 1: the store refused it', 'held 2']);
  });

  it('gives it up in the store when it ends, and opens no other', async () => {
    const place = new Place();
    place.lease.start();
    await place.clock.advance(500);
    await place.lease.end();
    expect(place.lease.holds()).toBe(false);
    expect(await place.store.renewIncarnation(place.ids[0] ?? '', TTL)).toBe(false);
    await place.clock.advance(10_000);
    expect(place.log).toEqual(['held 1', 'lost 1: it was ended']);
    expect(place.clock.timers).toBe(0);
  });

  it('stopped as a process that dies leaves it to run out', async () => {
    const place = new Place();
    place.lease.start();
    await place.clock.advance(500);
    place.lease.stop();
    expect(place.lease.holds()).toBe(false);
    expect(await place.store.renewIncarnation(place.ids[0] ?? '', TTL)).toBe(true);
  });

  it('stopped while it asks takes no notice of the answer', async () => {
    const place = new Place();
    place.fate = () => ({ there: 0, back: 100, lost: '' });
    place.lease.start();
    await place.clock.advance(50);
    place.lease.stop();
    await place.clock.advance(1_000);
    expect(place.lease.holds()).toBe(false);
    expect(place.ids).toEqual([]);
  });
});

describe('whoever holds a lease', () => {
  const anyDelay = fc.oneof({ weight: 3, arbitrary: fc.nat(100) }, { weight: 2, arbitrary: fc.nat(4_000) });
  const anyFate: fc.Arbitrary<Fate> = fc.record({
    there: anyDelay,
    back: anyDelay,
    lost: fc.oneof(
      { weight: 4, arbitrary: fc.constant('' as const) },
      { weight: 1, arbitrary: fc.constantFrom('request' as const, 'answer' as const) },
    ),
  });

  it('is alive for the store, however late or lost the answers are', async () => {
    let held = 0;
    let lost = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyFate, { maxLength: 30 }),
        fc.integer({ min: 1, max: 97 }),
        async (fates, stride) => {
          const place = new Place();
          place.fate = () => fates[place.requests.length - 1] ?? PROMPT;
          place.lease.start();
          for (let time = 0; time < 150; time++) {
            await place.clock.advance(stride);
            place.check();
          }
          const { incarnation } = place.lease;
          if (incarnation !== undefined)
            expect(await place.store.renewIncarnation(incarnation, TTL)).toBe(true);
          expect(new Set(place.ids).size).toBe(place.ids.length);
          held += place.ids.length;
          lost += place.log.length - place.ids.length;
        },
      ),
      { numRuns: 60 },
    );
    expect(held).toBeGreaterThan(20);
    expect(lost).toBeGreaterThan(5);
  });
});
