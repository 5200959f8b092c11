/** The clock of a broker, which follows the store's: the invariants of src/storeclock.ts. */
import { describe, expect, it } from 'vitest';
import type { Clock } from '../../src/clock.ts';
import { StoreClock } from '../../src/storeclock.ts';

/** A machine and a store whose times the test sets; a question takes `tripMs`. */
function world({ wall = 0, store = 1_000_000, tripMs = 2 } = {}) {
  const set = { wall, monotonic: 50, store, tripMs, away: false };
  const timers: { readonly ms: number; readonly act: () => void }[] = [];
  const machine: Clock = {
    now: () => set.wall,
    monotonic: () => set.monotonic,
    after: (ms, act) => {
      const timer = { ms, act };
      timers.push(timer);
      return () => void timers.splice(timers.indexOf(timer), 1);
    },
    soon: (act) => queueMicrotask(act),
    id: () => 'id',
  };
  const pass = (ms: number): void => {
    set.monotonic += ms;
    set.store += ms;
  };
  const clock = new StoreClock(machine, {
    time: async () => {
      if (set.away) throw new Error('away');
      pass(set.tripMs / 2);
      const time = set.store;
      pass(set.tripMs / 2);
      return time;
    },
  });
  /** What was to be done next is done. */
  const next = async (): Promise<number> => {
    const timer = timers.shift();
    timer?.act();
    await new Promise((resolve) => setImmediate(resolve));
    return timer?.ms ?? 0;
  };
  return { set, clock, pass, next, timers };
}

describe('the clock of a broker', () => {
  it('is the machine’s before the store was asked', () => {
    const { clock } = world({ wall: 123 });
    expect(clock.now()).toBe(123);
  });

  it('is the store’s, less than the doubt of one question away, whatever the machine’s wall clock says', async () => {
    const { clock, set, pass } = world({ wall: -300_000, tripMs: 20 });
    await clock.start();
    expect(Math.abs(clock.now() - set.store)).toBeLessThanOrEqual(11);
    pass(5_000);
    set.wall = 999;
    expect(Math.abs(clock.now() - set.store)).toBeLessThanOrEqual(11);
  });

  it('does not go to and fro with the questions', async () => {
    const { clock, set, next } = world({ tripMs: 20 });
    await clock.start();
    const offset = clock.now() - set.store;
    set.store += 5;
    await next();
    expect(clock.now() - set.store).toBe(offset - 5);
  });

  it('follows a store whose clock was set', async () => {
    const { clock, set, next } = world();
    await clock.start();
    set.store += 60_000;
    expect(await next()).toBe(10_000);
    expect(Math.abs(clock.now() - set.store)).toBeLessThanOrEqual(2);
  });

  it('asks a store that is away again, soon, and takes no word for it that was long on its way', async () => {
    const { clock, set, next } = world({ wall: 123 });
    set.away = true;
    await clock.start();
    set.away = false;
    set.tripMs = 600;
    expect(await next()).toBe(1_000);
    expect(clock.now()).toBe(123);
    set.tripMs = 2;
    expect(await next()).toBe(1_000);
    expect(Math.abs(clock.now() - set.store)).toBeLessThanOrEqual(2);
  });

  it('asks no more once it is stopped', async () => {
    const { clock, timers } = world();
    await clock.start();
    clock.stop();
    expect(timers).toEqual([]);
  });
});
