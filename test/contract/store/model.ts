/**
 * Any sequence of calls by three incarnations, against a model that fits a page: each call gets the model's answer,
 * and the sessions end as the model has them.
 *
 * Beside the model, and without it, invariant I1 is asserted along the way: at most one accepted writer per
 * version, epochs never fall, events are contiguous.
 */
import fc from 'fast-check';
import { expect } from 'vitest';
import {
  type Acquisition,
  type Commit,
  type Creation,
  REMEMBERED_OPERATIONS,
  type Store,
} from '../../../src/store/store.ts';
import { LONG_MS, MANY, type Room, type Test, unique } from './kit.ts';

const INCARNATIONS = 3;
const SESSIONS = 2;
/** With two events each, no more than any store keeps. */
const STEPS = 50;
const LEAST_RUNS = 40;

/** What somebody does; indexes say who and to which session. */
type Step =
  | { readonly do: 'delete'; readonly who: number; readonly which: number }
  | { readonly do: 'create'; readonly who: number; readonly which: number }
  | { readonly do: 'acquire'; readonly who: number; readonly which: number; readonly minEpoch: number }
  | {
      readonly do: 'commit';
      readonly who: number;
      readonly which: number;
      readonly events: number;
      readonly release: boolean;
      readonly work: boolean;
      /** What its sender has wrong. A repetition is of the sender's last commit, or of an older one. */
      readonly flaw: 'none' | 'version' | 'epoch' | 'nonce' | 'repeated' | 'older';
    }
  /** It dies, and a new one takes its seat. */
  | { readonly do: 'end'; readonly who: number };

const who = fc.nat({ max: INCARNATIONS - 1 });
const which = fc.nat({ max: SESSIONS - 1 });
const commit = fc.record({
  do: fc.constant('commit' as const),
  who,
  which,
  events: fc.nat({ max: 2 }),
  release: fc.integer({ min: 0, max: 5 }).map((n) => n === 0),
  work: fc.boolean(),
  flaw: fc.constantFrom(
    'none' as const,
    'none' as const,
    'none' as const,
    'version' as const,
    'epoch' as const,
    'nonce' as const,
    'repeated' as const,
    'older' as const,
  ),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant('create' as const), who, which }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('acquire' as const),
      who,
      which,
      minEpoch: fc.oneof(fc.constant(0), fc.nat({ max: 12 })),
    }),
  },
  { weight: 12, arbitrary: commit },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('delete' as const), who, which }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('end' as const), who }) },
);

export function followsTheModel(test: Test): void {
  test('is answered as the model answers it', (room) =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: STEPS, size: 'max' }), (steps) =>
        play(room, steps),
      ),
      { numRuns: 80, interruptAfterTimeLimit: 15_000, asyncReporter: report },
    ));
}

/** A machine that is slow may cut the runs short, but not to so few that they show nothing. */
async function report(runs: fc.RunDetails<[steps: Step[]]>): Promise<void> {
  if (runs.failed) throw new Error(await fc.asyncDefaultReportMessage(runs), { cause: runs.errorInstance });
  expect(runs.numRuns, 'runs before the time was over').toBeGreaterThanOrEqual(LEAST_RUNS);
}

/** A session as it should be. */
interface Expected {
  readonly creation: string;
  owner: string | undefined;
  epoch: number;
  nonce: string;
  version: number;
  snapshot: string;
  publishedSeq: number;
  work: boolean;
  readonly events: string[];
  readonly operations: { readonly operation: string; readonly version: number }[];
}

class Model {
  readonly alive = new Set<string>();
  readonly sessions = new Map<string, Expected>();

  create({ session, operation, owner, nonce, snapshot }: Creation): object {
    const found = this.sessions.get(session);
    if (found === undefined && !this.alive.has(owner)) return { status: 'dead' };
    if (found !== undefined && found.creation !== operation) return { status: 'exists' };
    if (found === undefined)
      this.sessions.set(session, {
        creation: operation,
        owner,
        epoch: 1,
        nonce,
        version: 1,
        snapshot,
        publishedSeq: 0,
        work: false,
        events: [],
        operations: [],
      });
    return { status: 'created', epoch: 1, version: 1 };
  }

  acquire({ session, owner, nonce, minEpoch = 0 }: Acquisition): object {
    const found = this.sessions.get(session);
    if (found === undefined) return { status: 'not_found' };
    if (found.owner !== undefined && found.owner !== owner && this.alive.has(found.owner))
      return { status: 'held', owner: found.owner, epoch: found.epoch };
    Object.assign(found, { owner, nonce, epoch: Math.max(found.epoch + 1, minEpoch) });
    return { status: 'acquired', record: this.record(session) };
  }

  commit(write: Commit): object {
    const found = this.sessions.get(write.session);
    if (found === undefined) return { status: 'fenced', epoch: 0 };
    const { owner, epoch, nonce, version } = found;
    if (owner !== write.owner || epoch !== write.epoch || nonce !== write.nonce)
      return { status: 'fenced', epoch };
    const known = found.operations
      .slice(-REMEMBERED_OPERATIONS)
      .find(({ operation }) => operation === write.operation);
    if (known !== undefined) return { status: 'repeated', version: known.version };
    if (write.expectedVersion !== version) return { status: 'conflict', version };
    found.version += 1;
    found.operations.push({ operation: write.operation, version: found.version });
    found.events.push(...write.events);
    const { snapshot, publishedSeq, work } = write;
    Object.assign(found, { snapshot, publishedSeq, work });
    if (write.release === true) found.owner = undefined;
    return { status: 'committed', version: found.version };
  }

  delete(session: string, owner: string, epoch: number, nonce: string): boolean {
    const found = this.sessions.get(session);
    if (found?.owner !== owner || found.epoch !== epoch || found.nonce !== nonce) return false;
    return this.sessions.delete(session);
  }

  record(session: string): object | undefined {
    const found = this.sessions.get(session);
    if (found === undefined) return undefined;
    const { owner, epoch, version, snapshot, publishedSeq } = found;
    return { session, owner, epoch, version, snapshot, seq: found.events.length, firstSeq: 1, publishedSeq };
  }
}

/** What a seat knows of its last acquisition of a session; the incarnation may be an older one of the seat. */
interface Memory {
  readonly owner: string;
  readonly epoch: number;
  readonly nonce: string;
  readonly done: Commit[];
}

/** What was seen of one life of a session, for I1. */
interface Witness {
  readonly writers: Map<number, string>;
  epoch: number;
}

class Play {
  readonly model = new Model();
  readonly room: Room;
  readonly store: Store;
  readonly sessions: readonly string[];
  readonly seats: string[] = [];
  readonly #memories = new Map<string, Memory>();
  readonly #witnesses = new Map<string, Witness>();

  constructor(room: Room, store: Store) {
    this.room = room;
    this.store = store;
    this.sessions = Array.from({ length: SESSIONS }, () => room.session());
  }

  async sit(seat: number): Promise<void> {
    const incarnation = this.room.incarnation();
    expect(await this.store.openIncarnation(incarnation, LONG_MS)).toBe(true);
    this.model.alive.add(incarnation);
    this.seats[seat] = incarnation;
  }

  async take(action: Step): Promise<void> {
    const owner = this.seats[action.who] ?? '';
    if (action.do === 'end') {
      this.model.alive.delete(owner);
      await this.store.endIncarnation(owner);
      return this.sit(action.who);
    }
    const session = this.sessions[action.which] ?? '';
    const key = `${action.who} ${session}`;
    if (action.do === 'create') return this.#create(key, session, owner);
    if (action.do === 'acquire') return this.#acquire(key, session, owner, action.minEpoch);
    const memory = this.#memories.get(key) ?? { owner, epoch: 1, nonce: 'never', done: [] };
    if (action.do === 'delete') {
      const { owner: as, epoch, nonce } = memory;
      const expected = this.model.delete(session, as, epoch, nonce);
      expect(await this.store.delete(session, as, epoch, nonce)).toBe(expected);
      if (expected) this.#witnesses.delete(session);
      return;
    }
    await this.#commit(this.#flawed(action, session, memory), memory);
  }

  async #create(key: string, session: string, owner: string): Promise<void> {
    const creation = {
      session,
      operation: unique(),
      owner,
      nonce: unique(),
      snapshot: unique(),
      wakeAt: undefined,
    };
    const reply = await this.store.create(creation);
    expect(reply).toEqual(this.model.create(creation));
    if (reply.status !== 'created') return;
    this.#memories.set(key, { owner, epoch: 1, nonce: creation.nonce, done: [] });
    this.#witnesses.set(session, { writers: new Map(), epoch: 1 });
  }

  async #acquire(key: string, session: string, owner: string, minEpoch: number): Promise<void> {
    const acquisition = { session, owner, nonce: unique(), minEpoch };
    const reply = await this.store.acquire(acquisition);
    expect(reply).toMatchObject(this.model.acquire(acquisition));
    if (reply.status !== 'acquired') return;
    const { epoch } = reply.record;
    const witness = this.#witnesses.get(session);
    expect(epoch).toBeGreaterThan(witness?.epoch ?? Number.POSITIVE_INFINITY);
    expect(epoch).toBeGreaterThanOrEqual(minEpoch);
    if (witness !== undefined) witness.epoch = epoch;
    const done = this.#memories.get(key)?.done ?? [];
    this.#memories.set(key, { owner, epoch, nonce: acquisition.nonce, done });
  }

  /** The commit that a seat sends. */
  #flawed(action: Extract<Step, { do: 'commit' }>, session: string, memory: Memory): Commit {
    const { flaw } = action;
    if (flaw === 'repeated' || flaw === 'older') {
      const old = memory.done.at(flaw === 'repeated' ? -1 : -REMEMBERED_OPERATIONS - 1);
      // With the latest epoch and nonce, as one sends it who has taken the session over in between.
      if (old !== undefined) return { ...old, owner: memory.owner, epoch: memory.epoch, nonce: memory.nonce };
    }
    const { version = 1, events = [] } = this.model.sessions.get(session) ?? {};
    return {
      session,
      owner: memory.owner,
      epoch: flaw === 'epoch' ? memory.epoch - 1 : memory.epoch,
      nonce: flaw === 'nonce' ? 'wrong' : memory.nonce,
      expectedVersion: flaw === 'version' ? version - 1 : version,
      operation: unique(),
      snapshot: unique(),
      firstSeq: events.length + 1,
      events: Array.from({ length: action.events }, (_, n) => `${events.length + 1 + n} ${unique()}`),
      publishedSeq: events.length,
      work: action.work,
      wakeAt: undefined,
      release: action.release,
    };
  }

  async #commit(write: Commit, memory: Memory): Promise<void> {
    const reply = await this.store.commit(write);
    expect(reply).toEqual(this.model.commit(write));
    if (reply.status !== 'committed') return;
    memory.done.push(write);
    const witness = this.#witnesses.get(write.session);
    expect(witness?.writers.has(reply.version)).toBe(false);
    expect(write.epoch).toBe(witness?.epoch);
    witness?.writers.set(reply.version, write.owner);
  }

  /** The sessions are as the model has them. */
  async compare(): Promise<void> {
    for (const session of this.sessions) {
      const expected = this.model.sessions.get(session);
      expect(await this.store.load(session)).toEqual(this.model.record(session));
      const page = await this.store.readEvents(session, 1, MANY);
      expect(page?.events).toEqual(expected?.events);
      for (const [at, event] of (page?.events ?? []).entries())
        expect(Number.parseInt(event, 10)).toBe(at + 1);
      await this.store.cleanIndexes(session);
      for (const owner of [...this.seats, undefined])
        expect((await this.store.workOf(owner, MANY)).includes(session)).toBe(
          expected?.work === true && expected.owner === owner,
        );
    }
  }
}

async function play(room: Room, steps: readonly Step[]): Promise<void> {
  const game = new Play(room, await room.connect());
  for (let seat = 0; seat < INCARNATIONS; seat++) await game.sit(seat);
  for (const each of steps) await game.take(each);
  await game.compare();
}
