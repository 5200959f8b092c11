/** Deleting takes away everything (S10). */
import { expect } from 'vitest';
import { MANY, type Test, takeOver, unique, view } from './kit.ts';

export function deleting(test: Test): void {
  test('takes away everything, index entries included', async (room) => {
    const [store, reader] = [await room.connect(), await room.connect()];
    const writer = await room.writer(store, { fields: { source: 's' }, wakeAt: 1_000 });
    await writer.write({
      fields: { state: '1' },
      journal: [{ execution: 'x1', entries: ['a'] }],
      events: ['1'],
      work: true,
      wakeAt: 2_000,
    });
    const { session, owner, epoch, nonce } = writer;
    expect(await store.delete(session, owner, epoch, nonce)).toBe(true);
    expect(await view(reader, session)).toEqual({
      record: undefined,
      fields: {},
      journals: [[], [], []],
      events: undefined,
      nobodys: false,
      owners: false,
      wakes: false,
    });
    expect(await reader.workOf(owner, MANY)).toEqual([]);
    expect(await store.acquire({ session, owner, nonce: unique() })).toEqual({ status: 'not_found' });
    await store.endIncarnation(owner);
    expect(await store.deadIncarnations(MANY)).not.toContain(owner);
  });

  test('leaves no index entry of an earlier owner', async (room) => {
    const store = await room.connect();
    const first = await room.writer(store);
    await first.write({ work: true });
    await first.release({ work: true });
    const next = await takeOver(store, first.session, await room.broker(store));
    expect(await store.delete(next.session, next.owner, next.epoch, next.nonce)).toBe(true);
    for (const owner of [first.owner, next.owner, undefined])
      expect(await store.workOf(owner, MANY)).not.toContain(first.session);
  });

  test('is refused to whoever does not own it, and changes nothing', async (room) => {
    const store = await room.connect();
    const { session, owner, epoch, nonce } = await room.writer(store, { fields: { source: 's' }, wakeAt: 5 });
    const before = await view(store, session);
    const other = await room.broker(store);
    expect(await store.delete(session, other, epoch, nonce)).toBe(false);
    expect(await store.delete(session, owner, epoch + 1, nonce)).toBe(false);
    expect(await store.delete(session, owner, epoch, 'wrong')).toBe(false);
    expect(await store.delete(room.session(), owner, epoch, nonce)).toBe(false);
    expect(await view(store, session)).toEqual(before);
  });

  test('is refused to an old owner and to one who released it', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release();
    const { session, owner, epoch, nonce } = writer;
    expect(await store.delete(session, owner, epoch, nonce)).toBe(false);
    const next = await takeOver(store, session, await room.broker(store));
    expect(await store.delete(session, owner, epoch, nonce)).toBe(false);
    await next.write();
  });

  test('fences what comes later, with epoch 0', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const last = await writer.write();
    const { session, owner, epoch, nonce } = writer;
    expect(await store.delete(session, owner, epoch, nonce)).toBe(true);
    for (const commit of [last, writer.next()]) await writer.refused(commit, { status: 'fenced', epoch: 0 });
    expect(await store.delete(session, owner, epoch, nonce)).toBe(false);
  });

  test('leaves nothing for a session that is created anew', async (room) => {
    const store = await room.connect();
    const operation = unique();
    const first = await room.writer(store, { operation, fields: { source: 's' }, wakeAt: 1_000 });
    const commit = await first.write({
      journal: [{ execution: 'x1', entries: ['a'] }],
      events: ['1', '2'],
      work: true,
      wakeAt: 1_000,
    });
    const { session, owner } = first;
    expect(await store.delete(session, owner, first.epoch, first.nonce)).toBe(true);
    const second = await room.writer(store, { session, owner, operation });
    expect(await view(store, session)).toMatchObject({
      record: { version: 1, epoch: 1, seq: 0, firstSeq: 1 },
      fields: {},
      journals: [[], [], []],
      owners: false,
      wakes: false,
    });
    await first.refused(commit, { status: 'fenced', epoch: 1 });
    // Its operations are forgotten too.
    await second.write({ operation: commit.operation, events: ['1'] });
  });
}
