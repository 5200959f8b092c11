/** Who may write, and what is answered to the others: FENCED, then the operation id, then CONFLICT (S2). */
import { expect } from 'vitest';
import { type Commit, REMEMBERED_OPERATIONS } from '../../../src/store/store.ts';
import { MANY, type Room, range, type Test, takeOver, unique, type Writer } from './kit.ts';

export function fencing(test: Test): void {
  /** A session whose first writer was followed by a second. */
  async function succession(room: Room): Promise<{ old: Writer; now: Writer; last: Commit }> {
    const store = await room.connect();
    const old = await room.writer(store);
    const last = await old.write({ events: ['1'] });
    await store.endIncarnation(old.owner);
    return { old, now: await takeOver(store, old.session, await room.broker(store)), last };
  }

  test('refuses an old owner even when it knows the version', async (room) => {
    const { old, now } = await succession(room);
    const changes = { snapshot: 'stolen', events: ['2'], fields: { state: 'stolen' }, work: true };
    await old.refused(old.next(changes), { status: 'fenced', epoch: 2 });
    await now.write();
    await old.refused(old.next({ ...changes, expectedVersion: now.version }), {
      status: 'fenced',
      epoch: 2,
    });
  });

  test('refuses each of a wrong owner, epoch and nonce by itself', async (room) => {
    const { old, now } = await succession(room);
    const fenced = { status: 'fenced', epoch: 2 } as const;
    await now.refused(now.next({ owner: old.owner }), fenced);
    await now.refused(now.next({ epoch: old.epoch }), fenced);
    await now.refused(now.next({ epoch: now.epoch + 1 }), fenced);
    await now.refused(now.next({ nonce: old.nonce }), fenced);
    await now.write();
  });

  test('comes before a known operation', async (room) => {
    const { old, now, last } = await succession(room);
    await old.refused(last, { status: 'fenced', epoch: 2 });
    await old.refused({ ...last, nonce: now.nonce, epoch: now.epoch }, { status: 'fenced', epoch: 2 });
    // The operation is still known: its new owner may ask for it.
    await now.refused(now.next({ operation: last.operation }), { status: 'repeated', version: 2 });
  });

  test('comes before a wrong version and before a wrong number of events', async (room) => {
    const { old } = await succession(room);
    await old.refused(old.next({ expectedVersion: 99, firstSeq: 99, events: ['99'] }), {
      status: 'fenced',
      epoch: 2,
    });
  });

  test('lets one of two owners write at each version', async (room) => {
    const { old, now } = await succession(room);
    for (const _ of range(10)) {
      const mine = now.next();
      const theirs = old.next({ expectedVersion: mine.expectedVersion });
      const [first, second] = await Promise.all([now.store.commit(mine), old.store.commit(theirs)]);
      expect(first.status).toBe('committed');
      expect(second.status).toBe('fenced');
      now.version += 1;
    }
  });

  test('refuses a session that there is not, with epoch 0', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const commit = writer.next({ session: room.session() });
    expect(await store.commit(commit)).toEqual({ status: 'fenced', epoch: 0 });
    expect(await store.load(commit.session)).toBeUndefined();
  });
}

export function operations(test: Test): void {
  test('a wrong version is a conflict that changes nothing', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ events: ['1'], fields: { state: 'a' } });
    for (const expectedVersion of [0, 1, 3]) {
      const changes = { expectedVersion, events: ['2'], fields: { state: 'b' }, work: true, wakeAt: 5 };
      await writer.refused(writer.next(changes), { status: 'conflict', version: 2 });
    }
    await writer.refused(writer.next({ expectedVersion: 1, release: true }), {
      status: 'conflict',
      version: 2,
    });
    await writer.write();
  });

  test('a conflict comes before a wrong number of events', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const stale = writer.next({ events: ['1'] });
    await writer.write({ events: ['1', '2'] });
    await writer.refused(stale, { status: 'conflict', version: 2 });
  });

  test('an operation that was refused is not remembered', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const commit = writer.next();
    await writer.refused({ ...commit, expectedVersion: 7 }, { status: 'conflict', version: 1 });
    await writer.refused({ ...commit, nonce: 'wrong' }, { status: 'fenced', epoch: 1 });
    expect(await store.commit(commit)).toEqual({ status: 'committed', version: 2 });
  });

  test('a repeated operation gets its first answer and changes nothing', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const commit = await writer.write({
      events: ['1', '2'],
      fields: { state: 'a' },
      journal: [{ execution: 'x1', entries: ['entry'] }],
      work: true,
      wakeAt: 5,
    });
    await writer.refused(commit, { status: 'repeated', version: 2 });
    await writer.write({ events: ['3'], work: false });
    // Its version, its numbers and its flags are wrong by now.
    await writer.refused(commit, { status: 'repeated', version: 2 });
    expect(await store.readEvents(writer.session, 1, MANY)).toEqual({
      events: ['1', '2', '3'],
      firstSeq: 1,
      seq: 3,
    });
  });

  test('one operation sent many times at once is committed once', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const commit = writer.next({ events: ['1'] });
    const replies = await Promise.all(range(10).map(() => store.commit(commit)));
    expect(replies.filter(({ status }) => status === 'committed')).toHaveLength(1);
    expect(replies.filter(({ status }) => status === 'repeated')).toHaveLength(9);
    for (const reply of replies) expect(reply).toMatchObject({ version: 2 });
    expect(await store.readEvents(writer.session, 1, MANY)).toMatchObject({ events: ['1'], seq: 1 });
  });

  test('the last operations are remembered, each with its version', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const done: Commit[] = [];
    for (const _ of range(REMEMBERED_OPERATIONS * 3)) {
      done.push(await writer.write({ events: ['e'] }));
      for (const commit of done.slice(-REMEMBERED_OPERATIONS))
        expect(await store.commit(commit)).toEqual({
          status: 'repeated',
          version: commit.expectedVersion + 1,
        });
    }
    expect((await store.load(writer.session))?.seq).toBe(writer.seq);
  });

  test('operations are remembered across a change of owner', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const commit = await writer.write();
    await writer.release();
    const next = await takeOver(store, writer.session, await room.broker(store));
    await next.refused(next.next({ operation: commit.operation }), { status: 'repeated', version: 2 });
  });

  test('operations of one session are nothing to another', async (room) => {
    const store = await room.connect();
    const [one, other] = [await room.writer(store), await room.writer(store)];
    const operation = unique();
    await one.write({ operation });
    await other.write({ operation });
  });
}
