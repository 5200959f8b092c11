/** What the store contract's tests are written with: a room of handles and incarnations, and the writer of a session. */
import { expect, vi } from 'vitest';
import { systemClock } from '../../../src/clock.ts';
import type { AcquireReply, Commit, CommitReply, Creation, Store } from '../../../src/store/store.ts';

/** A store that was opened for a test run. Nobody else uses it meanwhile. */
export interface OpenStore {
  /** A new handle, independent of the others. */
  connect(): Promise<Store>;
  /** Events kept per session, as the store was told, at least 100; up to a quarter more may be. */
  readonly maxEvents: number;
  close(): Promise<void>;
}

export type Test = (claim: string, act: (room: Room) => Promise<void>) => void;

/** Longer than any test: such a lease ends when the test says so. */
export const LONG_MS = 600_000;
/** For a lease that a test waits to see ended. */
export const SHORT_MS = 80;
/** More than a test has of anything. */
export const MANY = 100_000;

export const unique = (): string => systemClock.id();

export const range = (count: number): readonly number[] => Array.from({ length: count }, (_, index) => index);

/** Wait for a fact. */
export const eventually = <T>(fact: () => Promise<T>): Promise<T> =>
  vi.waitFor(fact, { timeout: 15_000, interval: 5 });

/** What one test opened, and cleans up, so that the indexes hold nothing of the last test. */
export class Room {
  readonly maxEvents: number;
  readonly #opened: OpenStore;
  readonly #handles: Store[] = [];
  readonly #incarnations: string[] = [];
  readonly #sessions: string[] = [];

  constructor(opened: OpenStore) {
    this.#opened = opened;
    this.maxEvents = opened.maxEvents;
  }

  async connect(): Promise<Store> {
    const store = await this.#opened.connect();
    this.#handles.push(store);
    return store;
  }

  /** A new id of an incarnation that is not open. */
  incarnation(): string {
    const id = unique();
    this.#incarnations.push(id);
    return id;
  }

  /** A new id of a session that there is not. */
  session(): string {
    const id = unique();
    this.#sessions.push(id);
    return id;
  }

  /** A live incarnation. */
  async broker(store: Store): Promise<string> {
    const incarnation = this.incarnation();
    expect(await store.openIncarnation(incarnation, LONG_MS)).toBe(true);
    return incarnation;
  }

  /** A new session with a writer, owned by a live incarnation: by default, a new one. */
  async writer(store: Store, changes: Partial<Creation> = {}): Promise<Writer> {
    const creation = {
      session: this.session(),
      operation: unique(),
      owner: changes.owner ?? (await this.broker(store)),
      nonce: unique(),
      snapshot: 'created',
      wakeAt: undefined,
      ...changes,
    };
    expect(await store.create(creation)).toEqual({ status: 'created', epoch: 1, version: 1 });
    return new Writer(store, { ...creation, epoch: 1 }, { version: 1, seq: 0, publishedSeq: 0 });
  }

  async leave(): Promise<void> {
    const store = await this.#opened.connect();
    for (const incarnation of this.#incarnations) await store.endIncarnation(incarnation);
    const owner = unique();
    await store.openIncarnation(owner, LONG_MS);
    for (const session of this.#sessions) {
      const reply = await store.acquire({ session, owner, nonce: 'cleaner' });
      if (reply.status === 'acquired') await store.delete(session, owner, reply.record.epoch, 'cleaner');
    }
    await store.endIncarnation(owner);
    await Promise.all([store, ...this.#handles].map((handle) => handle.close()));
  }
}

/** One acquisition of a session. */
export interface Hold {
  readonly session: string;
  readonly owner: string;
  readonly epoch: number;
  readonly nonce: string;
}

interface Position {
  readonly version: number;
  readonly seq: number;
  readonly publishedSeq: number;
}

/** Writes to a session as its owner, and knows where it is. */
export class Writer implements Hold {
  readonly store: Store;
  readonly session: string;
  readonly owner: string;
  readonly epoch: number;
  readonly nonce: string;
  version: number;
  seq: number;
  publishedSeq: number;

  constructor(store: Store, { session, owner, epoch, nonce }: Hold, position: Position) {
    this.store = store;
    this.session = session;
    this.owner = owner;
    this.epoch = epoch;
    this.nonce = nonce;
    this.version = position.version;
    this.seq = position.seq;
    this.publishedSeq = position.publishedSeq;
  }

  /** The next commit, if nothing else is said. */
  next(changes: Partial<Commit> = {}): Commit {
    return {
      session: this.session,
      owner: this.owner,
      epoch: this.epoch,
      nonce: this.nonce,
      expectedVersion: this.version,
      operation: unique(),
      snapshot: `after ${this.version}`,
      firstSeq: this.seq + 1,
      events: [],
      publishedSeq: this.publishedSeq,
      work: false,
      wakeAt: undefined,
      ...changes,
    };
  }

  /** Make the next commit, which succeeds. */
  async write(changes: Partial<Commit> = {}): Promise<Commit> {
    const commit = this.next(changes);
    expect(await this.store.commit(commit)).toEqual({ status: 'committed', version: this.version + 1 });
    this.version += 1;
    this.seq += commit.events.length;
    this.publishedSeq = commit.publishedSeq;
    return commit;
  }

  /** Give the session up. */
  async release(changes: Partial<Commit> = {}): Promise<void> {
    await this.write({ release: true, ...changes });
  }

  /** Make a commit that is answered so and changes nothing that can be read. */
  async refused(commit: Commit, reply: CommitReply): Promise<void> {
    const before = await view(this.store, this.session);
    expect(await this.store.commit(commit)).toEqual(reply);
    expect(await view(this.store, this.session)).toEqual(before);
  }
}

/** Acquire a session that is free, as another incarnation or again. */
export async function takeOver(
  store: Store,
  session: string,
  owner: string,
  minEpoch?: number,
): Promise<Writer> {
  const nonce = unique();
  const reply = acquired(await store.acquire({ session, owner, nonce, minEpoch }));
  return new Writer(store, { session, owner, nonce, epoch: reply.record.epoch }, reply.record);
}

/** Let the lease of a live incarnation run out, and see that it has. */
export async function expire(room: Room, store: Store, incarnation: string): Promise<void> {
  const witness = await room.writer(store, { owner: incarnation });
  const successor = await room.broker(store);
  expect(await store.renewIncarnation(incarnation, SHORT_MS)).toBe(true);
  await eventually(() => takeOver(store, witness.session, successor));
}

/** The reply to an acquisition that succeeded. */
export function acquired(reply: AcquireReply): Extract<AcquireReply, { status: 'acquired' }> {
  if (reply.status !== 'acquired') expect.fail(`acquire answered ${JSON.stringify(reply)}`);
  return reply;
}

/** The texts of everything that the tests write, by the names that they use. */
export const FIELDS = ['source', 'input', 'state', '__proto__', 'constructor'];
export const EXECUTIONS = ['x1', 'x2', 'x3'];

/** All that can be read of a session. */
export async function view(store: Store, session: string): Promise<unknown> {
  const record = await store.load(session);
  return {
    record,
    fields: await store.readFields(session, FIELDS),
    journals: await Promise.all(EXECUTIONS.map((execution) => store.readJournal(session, execution))),
    events: await store.readEvents(session, record?.firstSeq ?? 1, MANY),
    nobodys: (await store.workOf(undefined, MANY)).includes(session),
    owners: record?.owner !== undefined && (await store.workOf(record.owner, MANY)).includes(session),
    wakes: (await store.dueWakes(Number.MAX_SAFE_INTEGER, MANY)).includes(session),
  };
}
