/** Leases of incarnations (S5), and epochs (S3). */
import { expect } from 'vitest';
import {
  acquired,
  eventually,
  expire,
  LONG_MS,
  range,
  SHORT_MS,
  type Test,
  takeOver,
  unique,
} from './kit.ts';

export function incarnations(test: Test): void {
  test('can be opened once for each id', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const id = room.incarnation();
    const answers = await Promise.all(
      range(10).map((n) => (n % 2 === 0 ? store : other).openIncarnation(id, LONG_MS)),
    );
    expect(answers.filter((answer) => answer)).toHaveLength(1);
    expect(await store.openIncarnation(id, LONG_MS)).toBe(false);
  });

  test('are judged by a clock that all can ask for its time', async (room) => {
    const [store, other] = [await room.connect(), await room.connect()];
    const times: number[] = [];
    for (const asked of [store, other, store, other]) times.push(await asked.time());
    expect(times.every((time) => Number.isSafeInteger(time))).toBe(true);
    expect(times).toEqual(times.toSorted((one, next) => one - next));
    const [first = 0] = times;
    await eventually(async () => expect(await other.time()).toBeGreaterThan(first));
  });

  test('cannot be opened again after their end', async (room) => {
    const store = await room.connect();
    const ended = await room.broker(store);
    await store.endIncarnation(ended);
    const expired = await room.broker(store);
    await expire(room, store, expired);
    expect(await store.openIncarnation(ended, LONG_MS)).toBe(false);
    expect(await store.openIncarnation(expired, LONG_MS)).toBe(false);
    expect(await store.renewIncarnation(ended, LONG_MS)).toBe(false);
    expect(await store.renewIncarnation(expired, LONG_MS)).toBe(false);
  });

  test('live on when they are renewed', async (room) => {
    const store = await room.connect();
    // On a slow day the first time is over before it is renewed.
    const owner = await eventually(async () => {
      const id = room.incarnation();
      expect(await store.openIncarnation(id, SHORT_MS)).toBe(true);
      expect(await store.renewIncarnation(id, LONG_MS)).toBe(true);
      return id;
    });
    const { session } = await room.writer(store, { owner });
    const witness = room.incarnation();
    expect(await store.openIncarnation(witness, SHORT_MS)).toBe(true);
    await eventually(async () => {
      const reply = await store.acquire({ session, owner: witness, nonce: unique() });
      expect(reply.status).toBe('dead');
    });
    // Opened later for as long, and over: so is the owner's first time.
    expect(await store.renewIncarnation(owner, LONG_MS)).toBe(true);
    expect((await store.load(session))?.owner).toBe(owner);
  });

  test('die when they are not renewed', async (room) => {
    const store = await room.connect();
    const owner = room.incarnation();
    expect(await store.openIncarnation(owner, SHORT_MS)).toBe(true);
    await eventually(async () => {
      const creation = { operation: unique(), owner, nonce: unique(), snapshot: '', wakeAt: undefined };
      expect((await store.create({ session: room.session(), ...creation })).status).toBe('dead');
    });
    expect(await store.renewIncarnation(owner, LONG_MS)).toBe(false);
  });

  test('are refused a late renewal, for ever', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const { session } = await room.writer(store, { owner });
    await expire(room, store, owner);
    for (const _ of range(3)) expect(await store.renewIncarnation(owner, LONG_MS)).toBe(false);
    // Neither does asking revive it.
    const successor = await room.broker(store);
    await takeOver(store, session, successor);
    expect(await store.acquire({ session, owner, nonce: unique() })).toEqual({ status: 'dead' });
    expect(await store.renewIncarnation(owner, LONG_MS)).toBe(false);
  });

  test('cannot be renewed unless they were opened', async (room) => {
    const store = await room.connect();
    const id = room.incarnation();
    expect(await store.renewIncarnation(id, LONG_MS)).toBe(false);
    // The refusal did not use the id up.
    expect(await store.openIncarnation(id, LONG_MS)).toBe(true);
  });

  test('free their sessions at once when they are ended', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const { session } = await room.writer(store, { owner });
    const successor = await room.broker(store);
    await store.endIncarnation(owner);
    expect((await takeOver(store, session, successor)).epoch).toBe(2);
    expect(await store.renewIncarnation(owner, LONG_MS)).toBe(false);
  });

  test('may be ended twice', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    await store.endIncarnation(owner);
    await store.endIncarnation(owner);
    expect(await store.renewIncarnation(owner, LONG_MS)).toBe(false);
  });
}

export function epochs(test: Test): void {
  test('rise across release, end, expiry and a second acquisition', async (room) => {
    const store = await room.connect();
    const first = await room.writer(store);
    await first.release();
    const second = await takeOver(store, first.session, await room.broker(store));
    expect(second.epoch).toBe(2);
    await store.endIncarnation(second.owner);
    const third = await takeOver(store, first.session, await room.broker(store));
    expect(third.epoch).toBe(3);
    await expire(room, store, third.owner);
    const fourth = await takeOver(store, first.session, await room.broker(store));
    expect(fourth.epoch).toBe(4);
    expect((await takeOver(store, first.session, fourth.owner)).epoch).toBe(5);
  });

  test('are not below the least one that was asked for, and rise from there', async (room) => {
    const store = await room.connect();
    const { session, owner } = await room.writer(store);
    expect((await takeOver(store, session, owner, 2)).epoch).toBe(2);
    expect((await takeOver(store, session, owner, 2)).epoch).toBe(3);
    expect((await takeOver(store, session, owner, 50)).epoch).toBe(50);
    expect((await takeOver(store, session, owner, 7)).epoch).toBe(51);
    expect((await takeOver(store, session, owner)).epoch).toBe(52);
  });

  test('stay whole numbers when they are large', async (room) => {
    const store = await room.connect();
    const { session, owner } = await room.writer(store);
    const large = 2 ** 52;
    const writer = await takeOver(store, session, owner, large);
    expect(writer.epoch).toBe(large);
    await writer.write();
    expect((await store.load(session))?.epoch).toBe(large);
  });

  test('rise by one for each of many acquisitions at once', async (room) => {
    const store = await room.connect();
    const { session, owner } = await room.writer(store);
    const replies = await Promise.all(
      range(20).map(() => store.acquire({ session, owner, nonce: unique() })),
    );
    const got = replies.map((reply) => acquired(reply).record.epoch);
    expect(got.toSorted((a, b) => a - b)).toEqual(range(20).map((n) => n + 2));
  });
}
