/** Numbers of which the namespace may have so many (S13). */
import { expect } from 'vitest';
import type { ShareReply } from '../../../src/store/store.ts';
import { eventually, LONG_MS, range, SHORT_MS, type Test, unique } from './kit.ts';

export function shares(test: Test): void {
  test('are granted up to the most, whoever asks at the same time', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const name = unique();
    const [one, two] = [unique(), unique()];
    // Each asker says what it was granted so far: here it does not know, and counts what it asked for.
    const asked = { [one]: 0, [two]: 0 };
    const replies: Promise<ShareReply>[] = [];
    for (const n of range(20)) {
      const [holder, handle] = n % 2 === 0 ? [one, store] : [two, other];
      const has = asked[holder] ?? 0;
      asked[holder] = has + 1;
      replies.push(handle.holdShare({ name, holder, has, ttlMs: LONG_MS, most: 7 }));
    }
    const granted = (await Promise.all(replies)).filter((reply) => reply.granted).length;
    expect(granted).toBeLessThanOrEqual(7);
    expect(granted).toBeGreaterThan(0);
    for (const holder of [one, two]) await store.holdShare({ name, holder, has: 0, ttlMs: LONG_MS });
  });

  test('that are asked for one after the other are granted to the last', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const name = unique();
    const holders = [unique(), unique()];
    const had = [0, 0];
    for (const n of range(7)) {
      const which = n % 2;
      const holder = holders[which] ?? '';
      const has = had[which] ?? 0;
      const handle = which === 0 ? store : other;
      const reply = await handle.holdShare({ name, holder, has, ttlMs: LONG_MS, most: 7 });
      expect(reply).toEqual({ granted: true, total: n + 1 });
      had[which] = has + 1;
    }
    for (const [which, holder] of holders.entries()) {
      const has = had[which] ?? 0;
      const ask = { name, holder, has, ttlMs: LONG_MS, most: 7 };
      expect(await store.holdShare(ask)).toEqual({ granted: false, total: 7 });
    }
    const [first = '', second = ''] = holders;
    expect(await store.holdShare({ name, holder: first, has: 2, ttlMs: LONG_MS })).toEqual({
      granted: true,
      total: 5,
    });
    expect(await other.holdShare({ name, holder: second, has: 3, ttlMs: LONG_MS, most: 7 })).toEqual({
      granted: true,
      total: 6,
    });
    for (const holder of holders) await store.holdShare({ name, holder, has: 0, ttlMs: LONG_MS });
  });

  test('are told, and may pass the most where nobody asked', async (room) => {
    const store = await room.connect();
    const [name, holder] = [unique(), unique()];
    expect(await store.holdShare({ name, holder, has: 9, ttlMs: LONG_MS })).toEqual({
      granted: true,
      total: 9,
    });
    const more = await store.holdShare({ name, holder: unique(), has: 0, ttlMs: LONG_MS, most: 5 });
    expect(more).toEqual({ granted: false, total: 9 });
    expect((await store.holdShare({ name, holder, has: 0, ttlMs: LONG_MS })).total).toBe(0);
  });

  test('of a holder that says nothing are free when its time is over', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const [name, dead, living] = [unique(), unique(), unique()];
    await store.holdShare({ name, holder: dead, has: 3, ttlMs: SHORT_MS });
    const ask = { name, holder: living, has: 0, ttlMs: LONG_MS, most: 3 };
    await eventually(async () => expect(await other.holdShare(ask)).toEqual({ granted: true, total: 1 }));
    await other.holdShare({ name, holder: living, has: 0, ttlMs: LONG_MS });
  });

  test('of one name are nothing to another', async (room) => {
    const store = await room.connect();
    const [one, other, holder] = [unique(), unique(), unique()];
    await store.holdShare({ name: one, holder, has: 3, ttlMs: LONG_MS });
    const reply = await store.holdShare({ name: other, holder, has: 0, ttlMs: LONG_MS, most: 1 });
    expect(reply).toEqual({ granted: true, total: 1 });
    for (const name of [one, other]) await store.holdShare({ name, holder, has: 0, ttlMs: LONG_MS });
  });

  test('are refused what makes no sense', async (room) => {
    const store = await room.connect();
    const share = { name: unique(), holder: unique(), has: 0, ttlMs: LONG_MS };
    for (const wrong of [
      { name: 'a b' },
      { holder: '' },
      { has: -1 },
      { has: 0.5 },
      { ttlMs: 0 },
      { ttlMs: Number.NaN },
      { most: -1 },
    ])
      await expect(store.holdShare({ ...share, ...wrong })).rejects.toThrow(RangeError);
  });
}
