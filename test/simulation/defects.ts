/**
 * Parts that are wrong on purpose: each takes away one thing that durability rests on, by taking the place of a good
 * part from outside. The simulator must notice every one of them, or it proves nothing.
 */

import type { Clock } from '../../src/clock.ts';
import type { AcquireReply, Acquisition, Commit, CommitReply, Store } from '../../src/store/store.ts';
import type { Process } from './process.ts';
import type { SandboxDefects } from './sandbox.ts';
import type { Scheduler } from './scheduler.ts';

/** A part that is put in the place of a good one, from outside. */
export interface Defect {
  /** In the place of the store itself, shared by all brokers. */
  readonly backend?: (store: Store) => Store;
  /** In the place of one broker's handle of it. */
  readonly store?: (store: Store, process: Process, scheduler: Scheduler) => Store;
  readonly clock?: (clock: Clock) => Clock;
  readonly sandbox?: SandboxDefects;
}

export type DefectName =
  /** The store takes writes of owners that were replaced. */
  | 'fencing'
  /** The store counts a write again that is repeated. */
  | 'operation-dedup'
  /** A commit is answered before it is written. */
  | 'commit-before-effect'
  /** A new owner does not see what is pending. */
  | 'pending-on-activation'
  /** The sandbox applies deliveries in another order. */
  | 'ordered-deliveries'
  /** The sandbox hands several deliveries over at once. */
  | 'one-delivery-per-entry'
  /** The owner's clock stands still, so that its lease never ends for it. */
  | 'self-halt';

/** The methods of a store, some of them replaced. */
function storeWith(store: Store, replaced: Partial<Store>): Store {
  return {
    openIncarnation: (incarnation, ttlMs) => store.openIncarnation(incarnation, ttlMs),
    renewIncarnation: (incarnation, ttlMs) => store.renewIncarnation(incarnation, ttlMs),
    endIncarnation: (incarnation) => store.endIncarnation(incarnation),
    deadIncarnations: (limit) => store.deadIncarnations(limit),
    create: (creation) => store.create(creation),
    acquire: (acquisition) => store.acquire(acquisition),
    commit: (commit) => store.commit(commit),
    delete: (session, owner, epoch, nonce) => store.delete(session, owner, epoch, nonce),
    load: (session) => store.load(session),
    readFields: (session, names) => store.readFields(session, names),
    readJournal: (session, execution) => store.readJournal(session, execution),
    readEvents: (session, fromSeq, limit) => store.readEvents(session, fromSeq, limit),
    workOf: (owner, limit) => store.workOf(owner, limit),
    dueWakes: (now, limit) => store.dueWakes(now, limit),
    list: (cursor, limit) => store.list(cursor, limit),
    cleanIndexes: (session) => store.cleanIndexes(session),
    holdRole: (role, holder, ttlMs) => store.holdRole(role, holder, ttlMs),
    releaseRole: (role, holder) => store.releaseRole(role, holder),
    holdShare: (share) => store.holdShare(share),
    time: () => store.time(),
    close: () => store.close(),
    ...replaced,
  };
}

/** What the store knows of a session's owner. */
type Owner = Pick<Commit, 'owner' | 'epoch' | 'nonce'>;

function withoutFencing(store: Store): Store {
  const owners = new Map<string, Owner>();
  return storeWith(store, {
    acquire: async (acquisition: Acquisition): Promise<AcquireReply> => {
      const reply = await store.acquire(acquisition);
      const { session, owner, nonce } = acquisition;
      if (reply.status === 'acquired') owners.set(session, { owner, epoch: reply.record.epoch, nonce });
      return reply;
    },
    commit: async (commit: Commit): Promise<CommitReply> => {
      const reply = await store.commit(commit);
      const owner = owners.get(commit.session);
      if (reply.status !== 'fenced' || owner === undefined) return reply;
      return store.commit(await upToDate(store, { ...commit, ...owner }));
    },
  });
}

function withoutDedup(store: Store): Store {
  let again = 0;
  return storeWith(store, {
    commit: async (commit: Commit): Promise<CommitReply> => {
      const reply = await store.commit(commit);
      if (reply.status !== 'repeated') return reply;
      return store.commit(await upToDate(store, { ...commit, operation: `${commit.operation}.${++again}` }));
    },
  });
}

/** The same write, as if it came next. */
async function upToDate(store: Store, commit: Commit): Promise<Commit> {
  const record = await store.load(commit.session);
  return { ...commit, expectedVersion: record?.version ?? 0, firstSeq: (record?.seq ?? 0) + 1 };
}

const LATE_MS = 30;

function answeringEarly(store: Store, process: Process, scheduler: Scheduler): Store {
  return storeWith(store, {
    commit: (commit: Commit): Promise<CommitReply> => {
      scheduler.after(LATE_MS, process, () => void store.commit(commit).catch(() => undefined));
      return Promise.resolve({ status: 'committed', version: commit.expectedVersion + 1 });
    },
  });
}

function withoutPending(store: Store): Store {
  return storeWith(store, {
    acquire: async (acquisition: Acquisition): Promise<AcquireReply> => {
      const reply = await store.acquire(acquisition);
      if (reply.status !== 'acquired') return reply;
      const snapshot = reply.record.snapshot.replace(/"pending":\[[^\]]*\]/, '"pending":[]');
      return { ...reply, record: { ...reply.record, snapshot } };
    },
  });
}

export const DEFECTS: Readonly<Record<DefectName, Defect>> = {
  fencing: { backend: withoutFencing },
  'operation-dedup': { backend: withoutDedup },
  'commit-before-effect': { store: answeringEarly },
  'pending-on-activation': { store: withoutPending },
  'ordered-deliveries': { sandbox: { unordered: true } },
  'one-delivery-per-entry': { sandbox: { together: true } },
  'self-halt': { clock: (clock) => ({ ...clock, monotonic: () => 0 }) },
};
