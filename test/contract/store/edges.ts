/** Texts of any kind, wrong arguments, and handles that were closed. */
import fc from 'fast-check';
import { expect } from 'vitest';
import type { Commit, Store } from '../../../src/store/store.ts';
import { acquired, LONG_MS, type Test, unique, view, type Writer } from './kit.ts';

export function texts(test: Test): void {
  /** Write a text everywhere and read it everywhere. */
  async function goesThrough(store: Store, writer: Writer, text: string): Promise<void> {
    await writer.write({
      snapshot: text,
      fields: { state: text },
      journal: [{ execution: 'x1', entries: [text, text] }],
      events: [text],
    });
    const { session, seq } = writer;
    // Compared with ===, because a difference of 1 MiB is no message.
    const same = (found: string | undefined): boolean => found === text;
    expect(same((await store.load(session))?.snapshot)).toBe(true);
    expect(same((await store.readFields(session, ['state'])).state)).toBe(true);
    expect((await store.readJournal(session, 'x1')).map(same)).toEqual([true, true]);
    expect((await store.readEvents(session, seq, 10))?.events.map(same)).toEqual([true]);
    await writer.write({ forget: ['x1'] });
  }

  test('of any characters come back as they were', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    for (const text of [
      '',
      ' ',
      '0',
      '-1e400',
      '\u0000',
      '\r\n\t\u2028\u2029\ufeff',
      '\u00e9e\u0301\u{1f600}\uffff\u{10ffff}',
      'nil',
      '{"__proto__":1}',
    ])
      await goesThrough(store, writer, text);
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary' }), (text) => goesThrough(store, writer, text)),
      { numRuns: 50 },
    );
  });

  test('of a mebibyte come back as they were', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await goesThrough(store, writer, 'x'.repeat(1_048_576));
    await goesThrough(store, writer, '\u{1f600}\u0000\u00e9'.repeat(160_000));
  });

  test('of a creation come back as they were', async (room) => {
    const store = await room.connect();
    const text = '\u{1f600}\u0000\u00e9\n'.repeat(50_000);
    const { session, release } = await room
      .writer(store, { snapshot: text, fields: { source: text } })
      .then((writer) => ({ session: writer.session, release: () => writer.release({ snapshot: text }) }));
    expect((await store.load(session))?.snapshot === text).toBe(true);
    await release();
    const owner = await room.broker(store);
    const reply = acquired(await store.acquire({ session, owner, nonce: unique() }));
    expect(reply.record.snapshot === text).toBe(true);
    expect(reply.fields.source === text).toBe(true);
  });
}

export function misuse(test: Test): void {
  const refused = async (writer: Writer, changes: Partial<Commit>, field: RegExp): Promise<void> => {
    const before = await view(writer.store, writer.session);
    const failure = await writer.store.commit(writer.next(changes)).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(RangeError);
    expect(String(failure)).toMatch(field);
    expect(await view(writer.store, writer.session)).toEqual(before);
  };

  test('events that do not follow the last one are refused, and nothing is written', async (room) => {
    const writer = await room.writer(await room.connect());
    await writer.write({ events: ['1', '2'] });
    for (const firstSeq of [0, 1, 2, 4]) {
      await refused(writer, { firstSeq, events: ['x'], work: true, wakeAt: 5, release: true }, /firstSeq/);
      await refused(writer, { firstSeq }, /firstSeq/);
    }
    await writer.write({ events: ['3'] });
  });

  test('journals of bad ids are refused, and nothing is written', async (room) => {
    const writer = await room.writer(await room.connect());
    for (const bad of ['', 'a b', 'a:b', '{a}', '../a', 'x'.repeat(65)]) {
      const entries = ['entry'];
      const journal = [
        { execution: 'x1', entries },
        { execution: bad, entries },
      ];
      await refused(writer, { journal, snapshot: 'bad' }, /journal/);
      await refused(writer, { forget: ['x1', bad], snapshot: 'bad' }, /forget/);
    }
    await writer.write();
  });

  test('what was never committed cannot have been published', async (room) => {
    const writer = await room.writer(await room.connect());
    await refused(writer, { events: ['1'], publishedSeq: 2 }, /publishedSeq/);
    await writer.write({ events: ['1'], publishedSeq: 1 });
  });

  test('bad ids and times to live are refused', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    for (const id of ['', 'a b', '{a}', 'x'.repeat(65)]) {
      await expect(store.openIncarnation(id, LONG_MS)).rejects.toThrow(RangeError);
      const rest = { operation: unique(), owner, nonce: unique(), snapshot: '', wakeAt: undefined };
      await expect(store.create({ session: id, ...rest })).rejects.toThrow(RangeError);
    }
    const id = room.incarnation();
    for (const ttlMs of [0, -1, Number.NaN]) {
      await expect(store.openIncarnation(id, ttlMs)).rejects.toThrow(RangeError);
      await expect(store.renewIncarnation(owner, ttlMs)).rejects.toThrow(RangeError);
    }
    expect(await store.openIncarnation(id, LONG_MS)).toBe(true);
  });
}

export function closing(test: Test): void {
  test('makes every method of it reject with CLOSED', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const { session, owner, epoch, nonce } = writer;
    await store.close();
    const calls = {
      openIncarnation: () => store.openIncarnation(room.incarnation(), LONG_MS),
      renewIncarnation: () => store.renewIncarnation(owner, LONG_MS),
      endIncarnation: () => store.endIncarnation(owner),
      deadIncarnations: () => store.deadIncarnations(1),
      create: () => store.create({ session, operation: 'o', owner, nonce, snapshot: '', wakeAt: undefined }),
      acquire: () => store.acquire({ session, owner, nonce }),
      commit: () => store.commit(writer.next()),
      delete: () => store.delete(session, owner, epoch, nonce),
      load: () => store.load(session),
      readFields: () => store.readFields(session, []),
      readJournal: () => store.readJournal(session, 'x1'),
      readEvents: () => store.readEvents(session, 1, 1),
      workOf: () => store.workOf(owner, 1),
      dueWakes: () => store.dueWakes(1, 1),
      cleanIndexes: () => store.cleanIndexes(session),
      holdRole: () => store.holdRole('role', owner, LONG_MS),
      releaseRole: () => store.releaseRole('role', owner),
      holdShare: () => store.holdShare({ name: 'share', holder: owner, has: 0, ttlMs: LONG_MS }),
      list: () => store.list('', 1),
      time: () => store.time(),
    } satisfies Readonly<Record<Exclude<keyof Store, 'close'>, () => Promise<unknown>>>;
    for (const [operation, call] of Object.entries(calls))
      await expect(call(), operation).rejects.toMatchObject({
        name: 'StoreError',
        code: 'CLOSED',
        operation,
      });
  });

  test('may be done twice', async (room) => {
    const store = await room.connect();
    await store.close();
    await store.close();
  });

  test('leaves other handles and what was written as they are', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const { session, owner, epoch, nonce } = await room.writer(store);
    await store.close();
    expect(await other.load(session)).toMatchObject({ owner, epoch, version: 1 });
    expect(await other.renewIncarnation(owner, LONG_MS)).toBe(true);
    expect(await other.delete(session, owner, epoch, nonce)).toBe(true);
  });
}
