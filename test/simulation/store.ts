/**
 * A broker's way to the store: calls take time both ways, get lost, and meet a store that is away. It knows the
 * boundaries of a commit, and lets brokers die there.
 */
import {
  type AcquireReply,
  type Acquisition,
  type Commit,
  type CommitReply,
  type CreateReply,
  type Creation,
  type EventPage,
  type SessionPage,
  type SessionRecord,
  type Share,
  type ShareReply,
  type Store,
  StoreError,
} from '../../src/store/store.ts';
import type { Faults } from './faults.ts';
import type { Ledger } from './ledger.ts';
import type { Process } from './process.ts';
import type { Random } from './random.ts';
import type { Scheduler } from './scheduler.ts';

/** Where a broker may die in the course of a commit. */
export const BOUNDARIES = [
  'before-write',
  'after-write',
  'after-reply',
  'amid-effects',
  'after-effects',
] as const;
export type Boundary = (typeof BOUNDARIES)[number];

/** Messages that leave before a death amid the effects, at most. */
const AMID_SENDS = 3;

export interface SimulatedStoreOptions {
  readonly process: Process;
  readonly scheduler: Scheduler;
  readonly random: Random;
  /** The store itself. */
  readonly backend: Store;
  readonly ledger: Ledger;
  readonly faults: Faults;
  /** Let the process die at the end of this step. */
  readonly dieAfterStep: (process: Process, why: string) => void;
  readonly note: (what: string) => void;
  /** What an observer found. */
  readonly report: (error: unknown) => void;
}

export class SimulatedStore implements Store {
  readonly #options: SimulatedStoreOptions;

  constructor(options: SimulatedStoreOptions) {
    this.#options = options;
  }

  openIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#call('open', async (store) =>
      this.#leased(incarnation, ttlMs, await store.openIncarnation(incarnation, ttlMs)),
    );
  }

  renewIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#call('renew', async (store) =>
      this.#leased(incarnation, ttlMs, await store.renewIncarnation(incarnation, ttlMs)),
    );
  }

  endIncarnation(incarnation: string): Promise<void> {
    return this.#call('end', async (store) => {
      await store.endIncarnation(incarnation);
      this.#leased(incarnation, 0, true);
    });
  }

  deadIncarnations(limit: number): Promise<readonly string[]> {
    return this.#call('dead', (store) => store.deadIncarnations(limit));
  }

  create(creation: Creation): Promise<CreateReply> {
    return this.#call(`create ${creation.session}`, async (store) => {
      const reply = await store.create(creation);
      this.#observe(() => this.#options.ledger.created(creation, reply));
      return reply;
    });
  }

  acquire(acquisition: Acquisition): Promise<AcquireReply> {
    const { note, ledger, process } = this.#options;
    return this.#call(`acquire ${acquisition.session}`, async (store) => {
      const reply = await store.acquire(acquisition);
      if (reply.status === 'acquired')
        note(
          `${acquisition.session} is ${process.id}'s in epoch ${reply.record.epoch}, version ${reply.record.version}`,
        );
      this.#observe(() => ledger.acquired(acquisition, reply));
      return reply;
    });
  }

  commit(commit: Commit): Promise<CommitReply> {
    const { note, ledger } = this.#options;
    const apply = async (store: Store): Promise<CommitReply> => {
      const reply = await store.commit(commit);
      note(`${commit.session} commit ${reply.status} ${describe(commit)}`);
      this.#observe(() => ledger.committed(commit, reply));
      return reply;
    };
    return this.#call(`commit ${commit.session} ${commit.operation.slice(-3)}`, apply, true);
  }

  delete(session: string, owner: string, epoch: number, nonce: string): Promise<boolean> {
    return this.#call(`delete ${session}`, (store) => store.delete(session, owner, epoch, nonce));
  }

  load(session: string): Promise<SessionRecord | undefined> {
    return this.#call(`load ${session}`, (store) => store.load(session));
  }

  readFields(session: string, names: readonly string[]): Promise<Readonly<Record<string, string>>> {
    return this.#call(`readFields ${session}`, (store) => store.readFields(session, names));
  }

  readJournal(session: string, execution: string): Promise<readonly string[]> {
    return this.#call(`readJournal ${session}`, (store) => store.readJournal(session, execution));
  }

  readEvents(session: string, fromSeq: number, limit: number): Promise<EventPage | undefined> {
    return this.#call(`readEvents ${session} ${fromSeq}`, (store) =>
      store.readEvents(session, fromSeq, limit),
    );
  }

  workOf(owner: string | undefined, limit: number): Promise<readonly string[]> {
    return this.#call('work', (store) => store.workOf(owner, limit));
  }

  dueWakes(now: number, limit: number): Promise<readonly string[]> {
    return this.#call('wakes', (store) => store.dueWakes(now, limit));
  }

  list(cursor: string, limit: number): Promise<SessionPage> {
    return this.#call('list', (store) => store.list(cursor, limit));
  }

  cleanIndexes(session: string): Promise<void> {
    return this.#call(`clean ${session}`, (store) => store.cleanIndexes(session));
  }

  holdRole(role: string, holder: string, ttlMs: number): Promise<boolean> {
    return this.#call(`role ${role}`, (store) => store.holdRole(role, holder, ttlMs));
  }

  time(): Promise<number> {
    return this.#call('time', (store) => store.time());
  }

  releaseRole(role: string, holder: string): Promise<void> {
    return this.#call(`role ${role}`, (store) => store.releaseRole(role, holder));
  }

  holdShare(share: Share): Promise<ShareReply> {
    return this.#call(`share ${share.name}`, (store) => store.holdShare(share));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #leased(incarnation: string, ttlMs: number, granted: boolean): boolean {
    const { ledger, process, scheduler } = this.#options;
    if (granted) ledger.leased(process.id, incarnation, scheduler.now + ttlMs);
    return granted;
  }

  #observe(look: () => void): void {
    try {
      look();
    } catch (error) {
      this.#options.report(error);
    }
  }

  /** Two legs: to the store, where the work is done in one step, and back. */
  #call<T>(operation: string, apply: (store: Store) => Promise<T>, isCommit = false): Promise<T> {
    const { process, scheduler, random, faults, note } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    if (!process.send()) return promise; // Nobody is there to wait for it.
    const fail = (code: 'UNAVAILABLE' | 'UNKNOWN', ms: number): void => {
      scheduler.after(ms, process, () => {
        note(`store ${code} for ${operation}`);
        reject(new StoreError(code, operation, 'simulated'));
      });
    };
    const fault = faults.storeFault(scheduler.now);
    if (fault === 'unavailable') {
      fail('UNAVAILABLE', random.between(0, 5));
      return promise;
    }
    if (fault === 'unknown-before') {
      fail('UNKNOWN', random.between(1, 20));
      return promise;
    }
    // The caller is told that nothing is known, and the write arrives later nevertheless.
    if (fault === 'unknown-late') fail('UNKNOWN', random.between(1, 20));
    const boundary = isCommit ? faults.boundary() : undefined;
    const lateMs = random.between(5, random.chance(0.5) ? 100 : 3_000);
    scheduler.after(fault === 'unknown-late' ? lateMs : faults.storeDelay(), undefined, () => {
      if (boundary === 'before-write') return this.#die(boundary, operation);
      void apply(this.#options.backend).then(
        (value) => {
          if (boundary === 'after-write') return this.#die(boundary, operation);
          if (fault === 'unknown-late') return;
          if (fault === 'unknown-after') return fail('UNKNOWN', random.between(1, 20));
          scheduler.after(faults.storeDelay(), process, () =>
            this.#answer(boundary, operation, () => resolve(value)),
          );
        },
        (error: unknown) => scheduler.after(faults.storeDelay(), process, () => reject(error as Error)),
      );
    });
    return promise;
  }

  #answer(boundary: Boundary | undefined, operation: string, answer: () => void): void {
    const { process, random } = this.#options;
    if (boundary === 'after-reply') process.limitSends(0);
    if (boundary === 'amid-effects') process.limitSends(random.between(1, AMID_SENDS));
    if (boundary !== undefined) this.#die(boundary, operation);
    answer();
  }

  #die(boundary: Boundary, operation: string): void {
    const { process, faults, dieAfterStep } = this.#options;
    if (!process.alive) return;
    faults.hit(boundary);
    dieAfterStep(process, `${boundary} of ${operation}`);
  }
}

function describe({ epoch, expectedVersion, events, journal = [], release }: Commit): string {
  const types = events.map((event) => (JSON.parse(event) as { readonly type: string }).type);
  const entries = journal.flatMap(({ entries }) =>
    entries.map((entry) => entry.slice(2, 3) + entry.split(',')[1]),
  );
  return `epoch ${epoch} after version ${expectedVersion} [${types.join(' ')}] [${entries.join(' ')}]${release === true ? ' released' : ''}`;
}
