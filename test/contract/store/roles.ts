/** Roles of which there is one (S11). */
import { expect } from 'vitest';
import { eventually, LONG_MS, range, SHORT_MS, type Test, unique } from './kit.ts';

export function roles(test: Test): void {
  test('have one holder, whoever asks at the same time', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const role = unique();
    const holders = range(10).map(unique);
    const answers = await Promise.all(
      holders.map((holder, n) => (n % 2 === 0 ? store : other).holdRole(role, holder, LONG_MS)),
    );
    expect(answers.filter((answer) => answer)).toHaveLength(1);
    // The one who has it has it still, and nobody else.
    const again = await Promise.all(holders.map((holder) => other.holdRole(role, holder, LONG_MS)));
    expect(again).toEqual(answers);
    for (const holder of holders) await store.releaseRole(role, holder);
  });

  test('are renewed by their holder, through any handle', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const [role, holder] = [unique(), unique()];
    // On a slow day the first time is over before it is renewed, and the second grant is as good.
    expect(await store.holdRole(role, holder, SHORT_MS)).toBe(true);
    expect(await other.holdRole(role, holder, LONG_MS)).toBe(true);
    const witness = unique();
    expect(await store.holdRole(witness, holder, SHORT_MS)).toBe(true);
    await eventually(async () => expect(await other.holdRole(witness, unique(), SHORT_MS)).toBe(true));
    // Granted later for as long, and over: so would be the holder's first time.
    expect(await other.holdRole(role, unique(), LONG_MS)).toBe(false);
    await store.releaseRole(role, holder);
  });

  test('may be renewed for a shorter time', async (room) => {
    const store = await room.connect();
    const [role, holder, next] = [unique(), unique(), unique()];
    expect(await store.holdRole(role, holder, LONG_MS)).toBe(true);
    expect(await store.holdRole(role, holder, SHORT_MS)).toBe(true);
    await eventually(async () => expect(await store.holdRole(role, next, LONG_MS)).toBe(true));
    await store.releaseRole(role, next);
  });

  test('go to another when their time is over, and the first cannot renew them then', async (room) => {
    const store = await room.connect();
    const [role, holder, next] = [unique(), unique(), unique()];
    expect(await store.holdRole(role, holder, SHORT_MS)).toBe(true);
    await eventually(async () => expect(await store.holdRole(role, next, LONG_MS)).toBe(true));
    expect(await store.holdRole(role, holder, LONG_MS)).toBe(false);
    await store.releaseRole(role, next);
  });

  test('are free at once when they are given up', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const [role, holder, next] = [unique(), unique(), unique()];
    expect(await store.holdRole(role, holder, LONG_MS)).toBe(true);
    await other.releaseRole(role, holder);
    expect(await other.holdRole(role, next, LONG_MS)).toBe(true);
    await other.releaseRole(role, next);
  });

  test('are given up by their holder only', async (room) => {
    const store = await room.connect();
    const [role, holder, next] = [unique(), unique(), unique()];
    expect(await store.holdRole(role, holder, LONG_MS)).toBe(true);
    await store.releaseRole(role, next);
    expect(await store.holdRole(role, next, LONG_MS)).toBe(false);
    await store.releaseRole(role, holder);
    // Nobody has it any more, and that may be said twice.
    await store.releaseRole(role, holder);
    expect(await store.holdRole(role, next, LONG_MS)).toBe(true);
    await store.releaseRole(role, next);
  });

  test('are apart from each other, and from incarnations of the same name', async (room) => {
    const store = await room.connect();
    const [role, another, holder, next] = [unique(), unique(), unique(), unique()];
    expect(await store.openIncarnation(role, LONG_MS)).toBe(true);
    expect(await store.holdRole(role, holder, LONG_MS)).toBe(true);
    expect(await store.holdRole(another, next, LONG_MS)).toBe(true);
    await store.releaseRole(role, holder);
    expect(await store.renewIncarnation(role, LONG_MS)).toBe(true);
    expect(await store.holdRole(another, holder, LONG_MS)).toBe(false);
    await store.endIncarnation(role);
    await store.releaseRole(another, next);
  });

  test('are refused to bad names and times to live', async (room) => {
    const store = await room.connect();
    for (const bad of ['', 'a b', '{a}', 'x'.repeat(65)]) {
      await expect(store.holdRole(bad, 'h', LONG_MS)).rejects.toThrow(/role/);
      await expect(store.holdRole('r', bad, LONG_MS)).rejects.toThrow(/holder/);
      await expect(store.releaseRole(bad, 'h')).rejects.toThrow(RangeError);
      await expect(store.releaseRole('r', bad)).rejects.toThrow(RangeError);
    }
    for (const ttlMs of [0, -1, Number.NaN])
      await expect(store.holdRole(unique(), 'h', ttlMs)).rejects.toThrow(RangeError);
  });
}
