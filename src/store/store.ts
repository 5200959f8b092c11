/**
 * The store, as a port: what must survive a broker. One record per session, its journal, its events, the brokers'
 * incarnation leases, and two indexes that find work without a client.
 *
 * What a backend owes, and what breaks without it (`test/contract/store.ts` holds every backend to it):
 *
 *  S1  A write is one step: all of a commit or none of it. Else a result could be known and its event not.
 *  S2  `commit` MUST check in this order: FENCED (owner, epoch or nonce is not the record's), then the operation
 *      id (a repeated one gets its first answer again and changes nothing), then CONFLICT (`expectedVersion`).
 *      Else a paused owner would write over its successor, or a retried write would count twice.
 *  S3  Epochs of a session MUST rise with every acquisition and MUST NOT fall below `minEpoch`, whatever expired or
 *      was released in between. Else a runtime would obey an old owner.
 *  S4  A session owned by a live incarnation MUST NOT be acquired by another. Liveness is judged by the store's
 *      own clock, in the same step.
 *  S5  An incarnation that missed its time MUST stay dead for ever: a late renewal is refused. Else an owner that
 *      slept through a take-over would believe that it still owns.
 *  S6  Event numbers of a session MUST be contiguous from 1. What is older than `maxEvents` may be trimmed; reading
 *      it MUST answer where the log begins now.
 *  S7  The work index of an owner MUST hold every session that has work in flight and is recorded as that owner's
 *      (or as nobody's); the wake index every session with a wake at that time or before. Both may hold more: a
 *      reader verifies. Else a sleeping script would never wake when its broker is gone.
 *  S8  What was answered MUST be readable at once, by everyone.
 *  S9  A call whose outcome is not known (a cut connection) MUST reject with {@link StoreError} UNKNOWN: the write
 *      may have happened, and the same operation id settles it. UNAVAILABLE means that it certainly did not.
 *  S10 Deleting MUST take away everything of the session, index entries included.
 *  S11 A role MUST have at most one holder at a time: granted to another only when its time is over by the store's
 *      own clock, or it was given up, judged in the same step as the grant. Else two brokers would scale one pool.
 *  S12 A session that exists while all pages are listed MUST be on at least one. Else an operator would not find it.
 *  S13 One more of a shared number MUST be granted only if all that its live holders told to have, and were granted since,
 *      stays within `most` with it, judged in the same step as the grant by the store's own clock. What a holder has
 *      MUST count until its time is over, or it says otherwise. Else brokers would have more sessions than allowed.
 *
 * Texts are opaque to the store. Ids of sessions, executions and incarnations, roles, shared numbers and their
 * holders are `[A-Za-z0-9_-]{1,64}`.
 */

/** Everything that may be written for a session in one step. */
export interface Commit {
  readonly session: string;
  /** The owner's incarnation, and the epoch and nonce of its acquisition. */
  readonly owner: string;
  readonly epoch: number;
  readonly nonce: string;
  /** The version of the record before this commit. */
  readonly expectedVersion: number;
  /** Names this write. The store remembers the last {@link REMEMBERED_OPERATIONS} of a session. */
  readonly operation: string;
  readonly snapshot: string;
  /** Fields to write (text) or to remove (null). */
  readonly fields?: Readonly<Record<string, string | null>> | undefined;
  /** Entries to append to journals, by execution. */
  readonly journal?: readonly JournalAppend[] | undefined;
  /** Executions whose journals are removed. */
  readonly forget?: readonly string[] | undefined;
  /** The number of the first of `events`: the last number so far and one. */
  readonly firstSeq: number;
  /** Events to append, as JSON. */
  readonly events: readonly string[];
  /** All events up to this number were published on the bus. */
  readonly publishedSeq: number;
  /** The session has work in flight: somebody must look after it if its owner dies. */
  readonly work: boolean;
  /** When somebody must look at it even if nobody owns it, in ms since the epoch; undefined for never. */
  readonly wakeAt: number | undefined;
  /** Give the session up in the same step: nobody owns it afterwards. */
  readonly release?: boolean | undefined;
}

export interface JournalAppend {
  readonly execution: string;
  readonly entries: readonly string[];
}

export type CommitReply =
  | { readonly status: 'committed'; readonly version: number }
  /** This operation was committed before; `version` is what it made then. */
  | { readonly status: 'repeated'; readonly version: number }
  /** Somebody else owns the session, or nobody; `epoch` is the record's. A deleted session answers epoch 0. */
  | { readonly status: 'fenced'; readonly epoch: number }
  | { readonly status: 'conflict'; readonly version: number };

/** What is known of a session without its journal and events. */
export interface SessionRecord {
  readonly session: string;
  /** The owner's incarnation; undefined if nobody owns it. */
  readonly owner: string | undefined;
  readonly epoch: number;
  readonly version: number;
  readonly snapshot: string;
  /** The last event's number; 0 if there is none. */
  readonly seq: number;
  /** The first event that is still there; `seq` + 1 if none is. */
  readonly firstSeq: number;
  readonly publishedSeq: number;
}

export interface Creation {
  readonly session: string;
  /** Names this creation: repeating it is answered as the first time. */
  readonly operation: string;
  readonly owner: string;
  readonly nonce: string;
  readonly snapshot: string;
  readonly fields?: Readonly<Record<string, string>> | undefined;
  readonly wakeAt: number | undefined;
}

export type CreateReply =
  /** Version 1, epoch 1, no events. */
  | { readonly status: 'created'; readonly epoch: number; readonly version: number }
  | { readonly status: 'exists' }
  /** The owner's incarnation is not alive. */
  | { readonly status: 'dead' };

export interface Acquisition {
  readonly session: string;
  /** The incarnation that wants it. It may hold it already: then it gets a new epoch and nonce. */
  readonly owner: string;
  readonly nonce: string;
  /** The new epoch is higher than the record's and not lower than this. Default 0. */
  readonly minEpoch?: number | undefined;
  /**
   * The epoch of the record that the asker has seen: at another one nothing changes. Default: any. A broker always
   * gives it, so that a request whose answer was lost cannot be carried out late and fence the broker's own actor.
   */
  readonly expectedEpoch?: number | undefined;
}

export type AcquireReply =
  | {
      readonly status: 'acquired';
      readonly record: SessionRecord;
      readonly fields: Readonly<Record<string, string>>;
    }
  /** A live incarnation owns it: ask again after `retryAfterMs`, when its lease may have ended. */
  | {
      readonly status: 'held';
      readonly owner: string;
      readonly epoch: number;
      readonly retryAfterMs: number;
    }
  /** Its epoch is not the expected one: somebody acquired it in between. */
  | { readonly status: 'moved'; readonly epoch: number }
  /** The incarnation that wants it is not alive. */
  | { readonly status: 'dead' }
  | { readonly status: 'not_found' };

export interface EventPage {
  /** As JSON, in order, from the number asked for. */
  readonly events: readonly string[];
  /** The first event that is still there, and the last. */
  readonly firstSeq: number;
  readonly seq: number;
}

export interface SessionPage {
  readonly sessions: readonly string[];
  readonly cursor: string;
}

/** What a holder has of something that the namespace may have a bounded number of. */
export interface Share {
  readonly name: string;
  readonly holder: string;
  /** How many it has, those included that it was granted and has not begun. At least 0. */
  readonly has: number;
  /** How long that counts from now, by the store's clock. */
  readonly ttlMs: number;
  /** It wants one more, if no more than so many are had by all then. Default: it only tells what it has. */
  readonly most?: number | undefined;
}

export interface ShareReply {
  /** False if it wanted one more and may not have it. */
  readonly granted: boolean;
  /** What all have now, one that was granted included. */
  readonly total: number;
}

/** Operations remembered per session, the latest. An owner has one write under way at a time. */
export const REMEMBERED_OPERATIONS = 8;

export interface Store {
  /**
   * Begin an incarnation: a broker process's lease, alive for `ttlMs` from now by the store's clock unless it is
   * renewed. Answers false if the id was used before, for ever.
   */
  openIncarnation(incarnation: string, ttlMs: number): Promise<boolean>;
  /** Alive for `ttlMs` from now. Answers false if it is dead (S5). */
  renewIncarnation(incarnation: string, ttlMs: number): Promise<boolean>;
  /** End it now. Its sessions can be acquired at once. */
  endIncarnation(incarnation: string): Promise<void>;
  /** Incarnations that have work in the work index and are dead. Its reader takes their sessions over. */
  deadIncarnations(limit: number): Promise<readonly string[]>;

  create(creation: Creation): Promise<CreateReply>;
  acquire(acquisition: Acquisition): Promise<AcquireReply>;
  commit(commit: Commit): Promise<CommitReply>;
  /** Take away everything of a session. Answers false unless owner, epoch and nonce are the record's. */
  delete(session: string, owner: string, epoch: number, nonce: string): Promise<boolean>;

  /** The record as it is, whoever owns it; undefined if there is none. */
  load(session: string): Promise<SessionRecord | undefined>;
  /** Fields of a session by name; those that there are not are left out. */
  readFields(session: string, names: readonly string[]): Promise<Readonly<Record<string, string>>>;
  /** The entries of an execution's journal, in order; empty if there is none. */
  readJournal(session: string, execution: string): Promise<readonly string[]>;
  /** Events from a number on. From before `firstSeq`: an empty page that says where the log begins (S6). Undefined: no such session. */
  readEvents(session: string, fromSeq: number, limit: number): Promise<EventPage | undefined>;

  /** Sessions with work in flight that are recorded as `owner`'s, or as nobody's if undefined. A superset (S7). */
  workOf(owner: string | undefined, limit: number): Promise<readonly string[]>;
  /** Sessions whose wake is due at `now`, the earliest first. A superset (S7). */
  dueWakes(now: number, limit: number): Promise<readonly string[]>;
  /** Sessions there are, a page at a time: one that exists all the while is on some page, and may be on two (S12). `cursor` '' begins; '' in the answer: this was the last page. */
  list(cursor: string, limit: number): Promise<SessionPage>;
  /** Index entries that turned out to be wrong: they are checked against the record and removed if they are. */
  cleanIndexes(session: string): Promise<void>;

  /**
   * Have a role of which there is one in the namespace, for `ttlMs` from now by the store's clock: whoever has it has
   * it renewed, and one that nobody has is granted to whoever asks. Answers false while another has it (S11).
   */
  holdRole(role: string, holder: string, ttlMs: number): Promise<boolean>;
  /** Give it up now, for another to have. Nothing happens if `holder` does not have it. */
  releaseRole(role: string, holder: string): Promise<void>;

  /** Tell what a holder has of a shared number, and ask for one more (S13). One that has none and wants none is forgotten. */
  holdShare(share: Share): Promise<ShareReply>;

  /** The store's own wall clock, in whole ms since the epoch: what brokers tell the time by, so that they agree on it. */
  time(): Promise<number>;

  close(): Promise<void>;
}

/** A store that could not answer. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  /** UNAVAILABLE: nothing was written. UNKNOWN: it may have been (S9). CLOSED: this handle was closed. */
  readonly code: 'UNAVAILABLE' | 'UNKNOWN' | 'CLOSED';
  readonly operation: string;

  constructor(code: 'UNAVAILABLE' | 'UNKNOWN' | 'CLOSED', operation: string, message: string) {
    super(`${operation}: ${message}`);
    this.code = code;
    this.operation = operation;
  }
}
