/** The two indexes that find work without a client (S7). They may hold more than they must until they are cleaned. */
import { expect } from 'vitest';
import type { Store } from '../../../src/store/store.ts';
import { eventually, MANY, range, SHORT_MS, type Test, takeOver, type Writer } from './kit.ts';

export function workIndex(test: Test): void {
  test('holds the sessions with work of each owner', async (room) => {
    const store = await room.connect();
    const [mine, theirs] = [await room.broker(store), await room.broker(store)];
    const [one, two] = [await room.writer(store, { owner: mine }), await room.writer(store, { owner: mine })];
    const other = await room.writer(store, { owner: theirs });
    for (const writer of [one, two, other]) await writer.write({ work: true });
    expect((await store.workOf(mine, MANY)).toSorted()).toEqual([one.session, two.session].toSorted());
    expect(await store.workOf(theirs, MANY)).toEqual([other.session]);
    expect(await store.workOf(room.incarnation(), MANY)).toEqual([]);
  });

  test('answers no more than it is asked for', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const sessions: string[] = [];
    for (const _ of range(5)) {
      const writer = await room.writer(store, { owner });
      await writer.write({ work: true });
      sessions.push(writer.session);
    }
    const some = await store.workOf(owner, 3);
    expect(new Set(some).size).toBe(3);
    expect(sessions).toEqual(expect.arrayContaining([...some]));
  });

  test('holds a session as long as it has work, cleaned or not', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ work: true });
    await store.cleanIndexes(writer.session);
    expect(await store.workOf(writer.owner, MANY)).toEqual([writer.session]);
    await writer.write({ work: true });
    expect(await store.workOf(writer.owner, MANY)).toEqual([writer.session]);
    await writer.write({ work: false });
    await store.cleanIndexes(writer.session);
    expect(await store.workOf(writer.owner, MANY)).toEqual([]);
  });

  test('follows a session to its next owner', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ work: true });
    await store.endIncarnation(writer.owner);
    const next = await takeOver(store, writer.session, await room.broker(store));
    expect(await store.workOf(next.owner, MANY)).toEqual([writer.session]);
    await store.cleanIndexes(writer.session);
    expect(await store.workOf(writer.owner, MANY)).toEqual([]);
    expect(await store.workOf(next.owner, MANY)).toEqual([writer.session]);
  });

  test('holds what was released with work as nobody\u2019s', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ work: true });
    await writer.release({ work: true });
    expect(await store.workOf(undefined, MANY)).toContain(writer.session);
    await store.cleanIndexes(writer.session);
    expect(await store.workOf(undefined, MANY)).toContain(writer.session);
    expect(await store.workOf(writer.owner, MANY)).toEqual([]);
    const next = await takeOver(store, writer.session, await room.broker(store));
    expect(await store.workOf(next.owner, MANY)).toEqual([writer.session]);
    await store.cleanIndexes(writer.session);
    expect(await store.workOf(undefined, MANY)).not.toContain(writer.session);
  });

  test('does not hold what was released without work once it was cleaned', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ work: true });
    await writer.release({ work: false });
    await store.cleanIndexes(writer.session);
    expect(await store.workOf(undefined, MANY)).not.toContain(writer.session);
    expect(await store.workOf(writer.owner, MANY)).toEqual([]);
  });

  test('finds dead incarnations that left work behind', async (room) => {
    const store = await room.connect();
    const [idle, busy, alive, late] = [
      await room.writer(store),
      await room.writer(store),
      await room.writer(store),
      await room.writer(store),
    ];
    for (const writer of [busy, alive, late]) await writer.write({ work: true });
    expect(await store.deadIncarnations(MANY)).not.toContain(busy.owner);
    for (const { owner } of [idle, busy]) await store.endIncarnation(owner);
    expect(await store.renewIncarnation(late.owner, SHORT_MS)).toBe(true);
    await eventually(async () => expect(await store.deadIncarnations(MANY)).toContain(late.owner));
    const dead = await store.deadIncarnations(MANY);
    expect(dead).toContain(busy.owner);
    expect(dead).not.toContain(alive.owner);
    expect(await store.workOf(busy.owner, MANY)).toEqual([busy.session]);
    expect(await store.deadIncarnations(1)).toHaveLength(1);
    // Taken over, it is no longer of interest.
    for (const { session } of [busy, idle]) {
      await takeOver(store, session, alive.owner);
      await store.cleanIndexes(session);
    }
    const left = await store.deadIncarnations(MANY);
    expect(left).not.toContain(busy.owner);
    expect(left).not.toContain(idle.owner);
  });
}

export function wakeIndex(test: Test): void {
  /** Those of the due wakes that a test knows, with the index cleaned. */
  async function due(store: Store, now: number, writers: readonly Writer[]): Promise<readonly string[]> {
    for (const { session } of writers) await store.cleanIndexes(session);
    return store.dueWakes(now, MANY);
  }

  test('holds what is due, the earliest first', async (room) => {
    const store = await room.connect();
    const times = [3_000, 1_000, 5_000, 2_000, 4_000];
    const writers = await Promise.all(times.map((wakeAt) => room.writer(store, { wakeAt })));
    const sessions = writers.map(({ session }) => session);
    const [three, one, five, two, four] = sessions;
    expect(await store.dueWakes(999, MANY)).toEqual([]);
    expect(await store.dueWakes(1_000, MANY)).toEqual([one]);
    expect(await store.dueWakes(3_500, MANY)).toEqual([one, two, three]);
    expect(await store.dueWakes(9_000, MANY)).toEqual([one, two, three, four, five]);
    expect(await store.dueWakes(9_000, 2)).toEqual([one, two]);
  });

  test('holds wakes that a commit sets, moves and calls off', async (room) => {
    const store = await room.connect();
    const [one, two] = [await room.writer(store), await room.writer(store)];
    const both = [one, two];
    expect(await due(store, Date.now() * 2, both)).toEqual([]);
    await one.write({ wakeAt: 1_000 });
    await two.write({ wakeAt: 2_000 });
    expect(await due(store, 5_000, both)).toEqual([one.session, two.session]);
    // Later: until it is cleaned, the index may know the old time too.
    await one.write({ wakeAt: 3_000 });
    expect(await store.dueWakes(5_000, MANY)).toEqual(expect.arrayContaining([one.session, two.session]));
    expect(await due(store, 5_000, both)).toEqual([two.session, one.session]);
    expect(await due(store, 2_500, both)).toEqual([two.session]);
    // Earlier: known at once.
    await one.write({ wakeAt: 500 });
    expect(await store.dueWakes(500, MANY)).toEqual([one.session]);
    expect(await due(store, 5_000, both)).toEqual([one.session, two.session]);
    await one.write({ wakeAt: undefined });
    expect(await due(store, Date.now() * 2, both)).toEqual([two.session]);
  });

  test('keeps a wake whoever owns the session', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release({ wakeAt: 1_000 });
    expect(await due(store, 1_000, [writer])).toEqual([writer.session]);
    const next = await takeOver(store, writer.session, await room.broker(store));
    expect(await due(store, 1_000, [writer])).toEqual([writer.session]);
    await store.endIncarnation(next.owner);
    expect(await due(store, 1_000, [writer])).toEqual([writer.session]);
  });

  test('keeps the order of many wakes that are moved about', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const writers = await Promise.all(range(20).map(() => room.writer(store, { owner })));
    const times = new Map<string, number>();
    for (const round of range(4))
      for (const [n, writer] of writers.entries()) {
        // A permutation of 20 places for each round, without equal times.
        const wakeAt = ((n * 7 + round * 3) % 20) * 100 + 100;
        const called = (n + round) % 5 === 0;
        await writer.write({ wakeAt: called ? undefined : wakeAt });
        if (called) times.delete(writer.session);
        else times.set(writer.session, wakeAt);
      }
    const expected = [...times].toSorted(([, a], [, b]) => a - b);
    expect(await due(store, 1_050, writers)).toEqual(
      expected.filter(([, at]) => at <= 1_050).map(([session]) => session),
    );
    expect(await due(store, 5_000, writers)).toEqual(expected.map(([session]) => session));
  });
}
