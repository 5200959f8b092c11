/** What a commit writes (S1, S8): record, fields, journals. */
import { expect } from 'vitest';
import { acquired, EXECUTIONS, FIELDS, MANY, range, type Test, unique, view } from './kit.ts';

export function commits(test: Test): void {
  test('writes everything in one step, readable at once by everyone', async (room) => {
    const [store, reader] = [await room.connect(), await room.connect()];
    const writer = await room.writer(store, { fields: { source: 's', input: 'i' } });
    await writer.write({
      snapshot: 'all of it',
      fields: { input: null, state: '{"n":1}' },
      journal: [
        { execution: 'x1', entries: ['a', 'b'] },
        { execution: 'x2', entries: ['c'] },
      ],
      events: ['1', '2'],
      publishedSeq: 1,
      work: true,
      wakeAt: 5,
    });
    expect(await view(reader, writer.session)).toEqual({
      record: {
        session: writer.session,
        owner: writer.owner,
        epoch: 1,
        version: 2,
        snapshot: 'all of it',
        seq: 2,
        firstSeq: 1,
        publishedSeq: 1,
      },
      fields: { source: 's', state: '{"n":1}' },
      journals: [['a', 'b'], ['c'], []],
      events: { events: ['1', '2'], firstSeq: 1, seq: 2 },
      nobodys: expect.any(Boolean),
      owners: true,
      wakes: true,
    });
  });

  test('is never seen in part by a reader', async (room) => {
    const [store, reader] = [await room.connect(), await room.connect()];
    const writer = await room.writer(store);
    let writing = true;
    const reading = (async () => {
      let last = 0;
      while (writing) {
        const record = await reader.load(writer.session);
        expect(record).toMatchObject({ snapshot: expect.any(String), seq: ((record?.version ?? 0) - 1) * 2 });
        if (record !== undefined && record.version > 1) expect(record.snapshot).toBe(`v${record.version}`);
        expect(record?.version).toBeGreaterThanOrEqual(last);
        last = record?.version ?? 0;
        const page = await reader.readEvents(writer.session, 1, MANY);
        expect(page?.events).toHaveLength(page?.seq ?? -1);
      }
    })();
    try {
      for (const _ of range(30))
        await writer.write({ snapshot: `v${writer.version + 1}`, events: ['e', 'e'] });
    } finally {
      writing = false;
      await reading;
    }
  });

  test('keeps the order of several steps that were put into it', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({
      events: ['"step 1"', '"step 2"', '"step 3"'],
      journal: [
        { execution: 'x1', entries: ['1'] },
        { execution: 'x2', entries: ['2'] },
        { execution: 'x1', entries: ['3', '4'] },
        { execution: 'x2', entries: ['5'] },
      ],
    });
    expect(await store.readEvents(writer.session, 1, 10)).toMatchObject({
      events: ['"step 1"', '"step 2"', '"step 3"'],
    });
    expect(await store.readJournal(writer.session, 'x1')).toEqual(['1', '3', '4']);
    expect(await store.readJournal(writer.session, 'x2')).toEqual(['2', '5']);
  });

  test('of many sessions at once gets each its own answer', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const writers = await Promise.all(range(60).map(() => room.writer(store, { owner })));
    const known = await writers[3]?.write();
    const replies = await Promise.all(
      writers.map((writer, n) => {
        if (n % 4 === 0) return store.commit(writer.next({ snapshot: `of ${n}`, events: [`${n}`] }));
        if (n % 4 === 1) return store.commit(writer.next({ expectedVersion: 40 + n }));
        if (n % 4 === 2) return store.commit(writer.next({ nonce: 'wrong' }));
        return store.commit(n === 3 && known !== undefined ? known : writer.next());
      }),
    );
    for (const [n, reply] of replies.entries())
      expect(reply).toEqual(
        n === 3
          ? { status: 'repeated', version: 2 }
          : [
              { status: 'committed', version: 2 },
              { status: 'conflict', version: 1 },
              { status: 'fenced', epoch: 1 },
              { status: 'committed', version: 2 },
            ][n % 4],
      );
    for (const [n, { session }] of writers.entries())
      if (n % 4 === 0) {
        expect((await store.load(session))?.snapshot).toBe(`of ${n}`);
        expect((await store.readEvents(session, 1, 10))?.events).toEqual([`${n}`]);
      }
  });

  test('of one session at once is accepted once per version', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const writer = await room.writer(store);
    const replies = await Promise.all(
      range(20).map((n) => (n % 2 === 0 ? store : other).commit(writer.next({ events: [`${n}`] }))),
    );
    expect(replies.filter(({ status }) => status === 'committed')).toHaveLength(1);
    expect(replies.filter(({ status }) => status === 'conflict')).toHaveLength(19);
    const winner = replies.findIndex(({ status }) => status === 'committed');
    expect((await store.readEvents(writer.session, 1, 10))?.events).toEqual([`${winner}`]);
  });

  test('is not changed by what its caller does to the arrays afterwards', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const [appended, entries] = [['1'], ['a']];
    const done = writer.write({ events: appended, journal: [{ execution: 'x1', entries }] });
    await done;
    appended.push('2');
    entries.push('b');
    expect((await store.readEvents(writer.session, 1, 10))?.events).toEqual(['1']);
    expect(await store.readJournal(writer.session, 'x1')).toEqual(['a']);
  });
}

export function fieldsAndJournals(test: Test): void {
  test('fields are written, replaced and removed', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store, { fields: { source: 's' } });
    await writer.write({ fields: { input: 'i', state: '1' } });
    expect(await store.readFields(writer.session, FIELDS)).toEqual({ source: 's', input: 'i', state: '1' });
    await writer.write({ fields: { state: '2', input: null, source: '' } });
    expect(await store.readFields(writer.session, FIELDS)).toEqual({ source: '', state: '2' });
    await writer.write({ fields: { input: null } });
    await writer.write();
    expect(await store.readFields(writer.session, FIELDS)).toEqual({ source: '', state: '2' });
  });

  test('fields are read by name, and those that there are not are left out', async (room) => {
    const store = await room.connect();
    const { session } = await room.writer(store, { fields: { source: 's', state: '1' } });
    expect(await store.readFields(session, ['state'])).toEqual({ state: '1' });
    expect(await store.readFields(session, ['input', 'constructor'])).toEqual({});
    expect(await store.readFields(session, [])).toEqual({});
    expect(await store.readFields(room.session(), ['state'])).toEqual({});
  });

  test('fields may have the names of properties', async (room) => {
    const store = await room.connect();
    const fields = Object.fromEntries([
      ['__proto__', 'p'],
      ['constructor', 'c'],
    ]);
    const writer = await room.writer(store, { fields });
    expect(Object.entries(await store.readFields(writer.session, FIELDS)).toSorted()).toEqual([
      ['__proto__', 'p'],
      ['constructor', 'c'],
    ]);
    await writer.release();
    const owner = await room.broker(store);
    const reply = await store.acquire({ session: writer.session, owner, nonce: unique() });
    expect(Object.entries(acquired(reply).fields).toSorted()).toEqual([
      ['__proto__', 'p'],
      ['constructor', 'c'],
    ]);
  });

  test('journals are appended to and read in order', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    for (const n of range(12))
      await writer.write({ journal: [{ execution: n % 3 === 0 ? 'x2' : 'x1', entries: [`${n}`, `${n}b`] }] });
    const journal = (wanted: (n: number) => boolean) =>
      range(12)
        .filter(wanted)
        .flatMap((n) => [`${n}`, `${n}b`]);
    expect(await store.readJournal(writer.session, 'x1')).toEqual(journal((n) => n % 3 !== 0));
    expect(await store.readJournal(writer.session, 'x2')).toEqual(journal((n) => n % 3 === 0));
    expect(await store.readJournal(writer.session, 'x3')).toEqual([]);
    expect(await store.readJournal(room.session(), 'x1')).toEqual([]);
  });

  test('an empty append changes no journal', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ journal: [{ execution: 'x1', entries: [] }] });
    expect(await store.readJournal(writer.session, 'x1')).toEqual([]);
    await writer.write({ journal: [{ execution: 'x1', entries: ['a'] }] });
    await writer.write({ journal: [{ execution: 'x1', entries: [] }] });
    expect(await store.readJournal(writer.session, 'x1')).toEqual(['a']);
  });

  test('journals are forgotten one by one', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ journal: EXECUTIONS.map((execution) => ({ execution, entries: ['a'] })) });
    await writer.write({ forget: ['x1', 'x3', 'never'] });
    const journals = await Promise.all(EXECUTIONS.map((each) => store.readJournal(writer.session, each)));
    expect(journals).toEqual([[], ['a'], []]);
  });

  test('a journal that one commit both appends to and forgets is gone', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ journal: [{ execution: 'x1', entries: ['a'] }], forget: ['x1'] });
    expect(await store.readJournal(writer.session, 'x1')).toEqual([]);
  });

  test('journals of one session are nothing to another', async (room) => {
    const store = await room.connect();
    const [one, other] = [await room.writer(store), await room.writer(store)];
    await one.write({ journal: [{ execution: 'x1', entries: ['a'] }] });
    await other.write({ forget: ['x1'] });
    expect(await store.readJournal(one.session, 'x1')).toEqual(['a']);
    expect(await store.readJournal(other.session, 'x1')).toEqual([]);
  });
}
