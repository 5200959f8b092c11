/** The event log (S6). */
import { expect } from 'vitest';
import { MANY, range, type Test, takeOver } from './kit.ts';

export function events(test: Test): void {
  test('are numbered from 1 without a gap', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const all: string[] = [];
    for (const count of [1, 0, 3, 2, 0, 5]) {
      const more = range(count).map((n) => `${all.length + n + 1}`);
      all.push(...more);
      await writer.write({ events: more });
      const record = await store.load(writer.session);
      expect([record?.firstSeq, record?.seq]).toEqual([1, all.length]);
    }
    expect(await store.readEvents(writer.session, 1, MANY)).toEqual({ events: all, firstSeq: 1, seq: 11 });
  });

  test('are numbered on by the next owner', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release({ events: ['1', '2'] });
    const next = await takeOver(store, writer.session, await room.broker(store));
    await next.write({ events: ['3'] });
    expect((await store.readEvents(writer.session, 1, 10))?.events).toEqual(['1', '2', '3']);
  });

  test('are read from a number on, a page at a time', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ events: range(10).map((n) => `${n + 1}`) });
    const read = async (from: number, limit: number) =>
      (await store.readEvents(writer.session, from, limit))?.events;
    expect(await read(1, 4)).toEqual(['1', '2', '3', '4']);
    expect(await read(5, 4)).toEqual(['5', '6', '7', '8']);
    expect(await read(9, 4)).toEqual(['9', '10']);
    expect(await read(10, 1)).toEqual(['10']);
  });

  test('that are not there yet are an empty page', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ events: ['1', '2'] });
    for (const from of [3, 4, 1_000])
      expect(await store.readEvents(writer.session, from, 10)).toEqual({ events: [], firstSeq: 1, seq: 2 });
  });

  test('of an unknown session are undefined', async (room) => {
    const store = await room.connect();
    expect(await store.readEvents(room.session(), 1, 10)).toBeUndefined();
  });

  test('are kept up to a bound, and reading older ones tells where they begin', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const total = room.maxEvents * 5;
    while (writer.seq < total) {
      const { seq } = writer;
      await writer.write({ events: range(Math.min(50, total - seq)).map((n) => `${seq + n + 1}`) });
      const record = await store.load(writer.session);
      const kept = writer.seq - (record?.firstSeq ?? 0) + 1;
      expect(kept).toBeGreaterThanOrEqual(Math.min(writer.seq, room.maxEvents));
      expect(kept).toBeLessThanOrEqual(room.maxEvents * 1.25);
    }
    const firstSeq = (await store.load(writer.session))?.firstSeq ?? 0;
    expect(firstSeq).toBeGreaterThan(1);
    for (const from of [1, firstSeq - 1])
      expect(await store.readEvents(writer.session, from, MANY)).toEqual({
        events: [],
        firstSeq,
        seq: total,
      });
    expect(await store.readEvents(writer.session, firstSeq, MANY)).toEqual({
      events: range(total - firstSeq + 1).map((n) => `${firstSeq + n}`),
      firstSeq,
      seq: total,
    });
    expect((await store.readEvents(writer.session, total, MANY))?.events).toEqual([`${total}`]);
  });

  test('of one commit may be more than are kept', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const total = room.maxEvents * 2;
    await writer.write({ events: range(total).map((n) => `${n + 1}`) });
    expect(await store.load(writer.session)).toMatchObject({ seq: total });
    expect((await store.readEvents(writer.session, total, 10))?.events).toEqual([`${total}`]);
    await writer.write({ events: [`${total + 1}`] });
    expect((await store.readEvents(writer.session, total, 10))?.events).toEqual([`${total}`, `${total + 1}`]);
  });

  test('that were published are remembered by number', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    for (const [appended, publishedSeq] of [
      [['1', '2', '3'], 0],
      [['4'], 3],
      [[], 4],
    ] as const) {
      await writer.write({ events: appended, publishedSeq });
      expect((await store.load(writer.session))?.publishedSeq).toBe(publishedSeq);
    }
  });
}
