import { describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../src/clock.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { storeContract } from './store.ts';

const MAX_EVENTS = 100;

storeContract('memory', async () => {
  const store = new MemoryStore({ clock: systemClock, maxEvents: MAX_EVENTS });
  return { connect: async () => store.handle(), maxEvents: MAX_EVENTS, close: () => store.close() };
});

describe('the clock of the memory store', () => {
  /** A store whose time the test sets. */
  async function timed() {
    let time = 1_000.5;
    const clock: Clock = { ...systemClock, monotonic: () => time };
    const store = new MemoryStore({ clock });
    for (const owner of ['a', 'b']) await store.openIncarnation(owner, 100);
    const rest = { operation: 'o', nonce: 'n', snapshot: '', wakeAt: undefined };
    await store.create({ session: 's', owner: 'a', ...rest });
    await store.renewIncarnation('b', 10_000);
    return {
      store,
      passes: (ms: number) => {
        time += ms;
      },
      take: () => store.acquire({ session: 's', owner: 'b', nonce: 'm' }),
    };
  }

  it('ends a lease when its time is over, and not before', async () => {
    const { store, passes, take } = await timed();
    passes(99.75);
    expect(await take()).toEqual({ status: 'held', owner: 'a', epoch: 1, retryAfterMs: 1 });
    passes(0.25);
    expect(await take()).toMatchObject({ status: 'acquired' });
    expect(await store.renewIncarnation('a', 100)).toBe(false);
  });

  it('says how long a holder has left, rounded up', async () => {
    const { passes, take } = await timed();
    expect(await take()).toMatchObject({ retryAfterMs: 100 });
    passes(20.5);
    expect(await take()).toMatchObject({ retryAfterMs: 80 });
  });

  it('counts a renewal from when it is made', async () => {
    const { store, passes, take } = await timed();
    passes(60);
    expect(await store.renewIncarnation('a', 100)).toBe(true);
    passes(99);
    expect(await take()).toMatchObject({ status: 'held', retryAfterMs: 1 });
    expect(await store.renewIncarnation('a', 5)).toBe(true);
    passes(5);
    expect(await take()).toMatchObject({ status: 'acquired' });
  });
});

describe('the options of the memory store', () => {
  it.each([0, -1, 1.5, Number.NaN])('refuse maxEvents %d', (maxEvents) => {
    expect(() => new MemoryStore({ clock: systemClock, maxEvents })).toThrow(/maxEvents/);
  });

  it('keep one event if they say so', async () => {
    const store = new MemoryStore({ clock: systemClock, maxEvents: 1 });
    await store.openIncarnation('a', 1_000_000);
    const hold = { session: 's', owner: 'a', nonce: 'n', snapshot: '', wakeAt: undefined };
    await store.create({ ...hold, operation: 'o' });
    const rest = { epoch: 1, publishedSeq: 0, work: false };
    for (const n of [1, 2, 3]) {
      const write = {
        ...hold,
        ...rest,
        expectedVersion: n,
        operation: `o${n}`,
        firstSeq: n,
        events: [`${n}`],
      };
      expect(await store.commit(write)).toEqual({ status: 'committed', version: n + 1 });
      expect(await store.readEvents('s', n, 10)).toEqual({ events: [`${n}`], firstSeq: n, seq: n });
    }
  });
});
