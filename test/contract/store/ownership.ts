/** How a session gets an owner and loses it (S4). */
import { expect } from 'vitest';
import { systemClock } from '../../../src/clock.ts';
import { REMEMBERED_OPERATIONS, type Store } from '../../../src/store/store.ts';
import {
  acquired,
  eventually,
  FIELDS,
  type Room,
  range,
  SHORT_MS,
  type Test,
  takeOver,
  unique,
  view,
} from './kit.ts';

export function creating(test: Test): void {
  const creationOf = (room: Room, owner: string) => ({
    session: room.session(),
    operation: unique(),
    owner,
    nonce: unique(),
    snapshot: 'first',
    fields: { source: 'return 1', state: '{}' },
    wakeAt: undefined,
  });

  test('makes a session at version 1 and epoch 1, without events', async (room) => {
    const [store, reader] = [await room.connect(), await room.connect()];
    const creation = creationOf(room, await room.broker(store));
    expect(await store.create(creation)).toEqual({ status: 'created', epoch: 1, version: 1 });
    expect(await reader.load(creation.session)).toEqual({
      session: creation.session,
      owner: creation.owner,
      epoch: 1,
      version: 1,
      snapshot: 'first',
      seq: 0,
      firstSeq: 1,
      publishedSeq: 0,
    });
    expect(await reader.readFields(creation.session, FIELDS)).toEqual(creation.fields);
    expect(await reader.readEvents(creation.session, 1, 10)).toEqual({ events: [], firstSeq: 1, seq: 0 });
  });

  test('makes its creator the owner, who can commit at once', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write();
  });

  test('answers the same operation as the first time, and changes nothing', async (room) => {
    const store = await room.connect();
    const creation = creationOf(room, await room.broker(store));
    await store.create(creation);
    const before = await view(store, creation.session);
    expect(await store.create({ ...creation, snapshot: 'second' })).toEqual({
      status: 'created',
      epoch: 1,
      version: 1,
    });
    expect(await view(store, creation.session)).toEqual(before);
  });

  test('answers the same operation so when many commits came between', async (room) => {
    const store = await room.connect();
    const operation = unique();
    const writer = await room.writer(store, { operation });
    for (const _ of range(REMEMBERED_OPERATIONS * 2)) await writer.write();
    const { session, owner, nonce } = writer;
    expect(
      await store.create({ session, operation, owner, nonce, snapshot: 'created', wakeAt: undefined }),
    ).toEqual({ status: 'created', epoch: 1, version: 1 });
    await writer.write();
  });

  test('answers another operation that the session exists, and changes nothing', async (room) => {
    const store = await room.connect();
    const creation = creationOf(room, await room.broker(store));
    await store.create(creation);
    const before = await view(store, creation.session);
    const other = { ...creation, operation: unique(), owner: await room.broker(store), nonce: unique() };
    expect(await store.create(other)).toEqual({ status: 'exists' });
    expect(await view(store, creation.session)).toEqual(before);
  });

  test('succeeds for one of many at once', async (room) => {
    const store = await room.connect();
    const session = room.session();
    const owners = await Promise.all(range(10).map(() => room.broker(store)));
    const replies = await Promise.all(
      owners.map((owner) => store.create({ ...creationOf(room, owner), session })),
    );
    expect(replies.filter(({ status }) => status === 'created')).toHaveLength(1);
    expect(replies.filter(({ status }) => status === 'exists')).toHaveLength(9);
    const winner = owners[replies.findIndex(({ status }) => status === 'created')];
    expect((await store.load(session))?.owner).toBe(winner);
  });

  test('is refused to a dead incarnation, and to one that was never opened', async (room) => {
    const store = await room.connect();
    const dead = await room.broker(store);
    await store.endIncarnation(dead);
    for (const owner of [dead, room.incarnation()]) {
      const creation = creationOf(room, owner);
      expect(await store.create(creation)).toEqual({ status: 'dead' });
      expect(await store.load(creation.session)).toBeUndefined();
    }
  });
}

export function acquiring(test: Test): void {
  test('gives the record and all fields', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store, { fields: { source: 'a', state: '{}' } });
    await writer.write({ fields: { input: 'i' }, events: ['1', '2', '3'], publishedSeq: 2 });
    await writer.release({ snapshot: 'last' });
    const owner = await room.broker(store);
    const reply = await store.acquire({ session: writer.session, owner, nonce: unique() });
    expect(reply).toEqual({
      status: 'acquired',
      record: {
        session: writer.session,
        owner,
        epoch: 2,
        version: 3,
        snapshot: 'last',
        seq: 3,
        firstSeq: 1,
        publishedSeq: 2,
      },
      fields: { source: 'a', state: '{}', input: 'i' },
    });
    expect(await store.load(writer.session)).toEqual(acquired(reply).record);
  });

  test('at another epoch than the expected one is moved, and changes nothing', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const owner = await room.broker(store);
    await writer.release();
    const ask = { session: writer.session, owner, nonce: unique(), expectedEpoch: 1 };
    expect(acquired(await store.acquire(ask)).record.epoch).toBe(2);
    const before = await view(store, writer.session);
    // The same request once more, as one that was on its way for long: even its own incarnation does not get it twice.
    expect(await store.acquire(ask)).toEqual({ status: 'moved', epoch: 2 });
    expect(await store.acquire({ ...ask, expectedEpoch: 3 })).toEqual({ status: 'moved', epoch: 2 });
    expect(await view(store, writer.session)).toEqual(before);
    expect(acquired(await store.acquire({ ...ask, expectedEpoch: 2 })).record.epoch).toBe(3);
  });

  test('succeeds for one of ten incarnations at once', async (room) => {
    const stores = await Promise.all(range(3).map(() => room.connect()));
    const [store] = stores as [Store];
    for (const _ of range(5)) {
      const writer = await room.writer(store);
      await writer.release();
      const owners = await Promise.all(range(10).map(() => room.broker(store)));
      const replies = await Promise.all(
        owners.map((owner, n) =>
          (stores[n % stores.length] ?? store).acquire({ session: writer.session, owner, nonce: unique() }),
        ),
      );
      const winners = owners.filter((_owner, n) => replies[n]?.status === 'acquired');
      expect(winners).toHaveLength(1);
      for (const reply of replies)
        if (reply.status !== 'acquired')
          expect(reply).toMatchObject({ status: 'held', owner: winners[0], epoch: 2 });
      expect(await store.load(writer.session)).toMatchObject({ owner: winners[0], epoch: 2 });
    }
  });

  test('answers who holds it and for how long, and changes nothing', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const before = await view(store, writer.session);
    const other = await room.broker(store);
    const renewedAt = systemClock.monotonic();
    expect(await store.renewIncarnation(writer.owner, 60_000)).toBe(true);
    const reply = await store.acquire({ session: writer.session, owner: other, nonce: unique() });
    const elapsedMs = systemClock.monotonic() - renewedAt;
    expect(reply).toMatchObject({ status: 'held', owner: writer.owner, epoch: 1 });
    if (reply.status !== 'held') return;
    // Two clocks need not run at quite the same pace.
    expect(reply.retryAfterMs).toBeLessThanOrEqual(60_010);
    expect(reply.retryAfterMs).toBeGreaterThanOrEqual(60_000 - elapsedMs - 10);
    expect(await view(store, writer.session)).toEqual(before);
    await writer.write();
  });

  test('succeeds when the holder has expired, with a higher epoch', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.write({ snapshot: 'left behind', events: ['1'] });
    const successor = await room.broker(store);
    expect(await store.renewIncarnation(writer.owner, SHORT_MS)).toBe(true);
    const next = await eventually(() => takeOver(store, writer.session, successor));
    expect(next.epoch).toBe(2);
    expect(await store.load(writer.session)).toMatchObject({
      owner: successor,
      epoch: 2,
      version: 2,
      snapshot: 'left behind',
      seq: 1,
    });
    await writer.refused(writer.next(), { status: 'fenced', epoch: 2 });
    await next.write();
  });

  test('gives its holder a new epoch and nonce', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const again = await takeOver(store, writer.session, writer.owner);
    expect(again.epoch).toBe(2);
    await writer.refused(writer.next(), { status: 'fenced', epoch: 2 });
    await again.write();
  });

  test('is refused to a dead incarnation, and to one that was never opened', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release();
    const dead = await room.broker(store);
    await store.endIncarnation(dead);
    for (const owner of [dead, room.incarnation()]) {
      const reply = await store.acquire({ session: writer.session, owner, nonce: unique() });
      expect(reply).toEqual({ status: 'dead' });
    }
    expect((await store.load(writer.session))?.owner).toBeUndefined();
  });

  test('of an unknown session answers so', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    expect(await store.acquire({ session: room.session(), owner, nonce: unique() })).toEqual({
      status: 'not_found',
    });
  });
}

export function releasing(test: Test): void {
  test('gives the session up in the same step', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release({ snapshot: 'asleep', events: ['1'] });
    expect(await store.load(writer.session)).toMatchObject({
      owner: undefined,
      epoch: 1,
      version: 2,
      snapshot: 'asleep',
      seq: 1,
    });
  });

  test('fences the one who released it, also for what it did before', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    const before = await writer.write();
    const release = writer.next({ release: true });
    expect(await store.commit(release)).toMatchObject({ status: 'committed' });
    writer.version += 1;
    for (const commit of [writer.next(), before, release])
      await writer.refused(commit, { status: 'fenced', epoch: 1 });
  });

  test('lets another acquire it at once', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release();
    const next = await takeOver(store, writer.session, await room.broker(store));
    expect(next.epoch).toBe(2);
    await next.write();
  });

  test('lets the same one acquire it again', async (room) => {
    const store = await room.connect();
    const writer = await room.writer(store);
    await writer.release();
    const again = await takeOver(store, writer.session, writer.owner);
    expect(again.epoch).toBe(2);
    await again.write();
  });
}
