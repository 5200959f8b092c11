/** A store whose commits are measured. It passes everything on as it is. */
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
} from '../store/store.ts';
import type { CommitOutcome } from './metrics/catalog.ts';
import type { OnCommit } from './metrics/commits.ts';
import type { Monotonic } from './metrics/executions.ts';

export class MeteredStore implements Store {
  readonly #store: Store;
  readonly #now: Monotonic;
  readonly #onCommit: OnCommit;

  constructor(store: Store, now: Monotonic, onCommit: OnCommit) {
    this.#store = store;
    this.#now = now;
    this.#onCommit = onCommit;
  }

  commit(commit: Commit): Promise<CommitReply> {
    const onCommit = this.#onCommit;
    const now = this.#now;
    const startedAt = now();
    const reply = this.#store.commit(commit);
    // Beside the answer, not before it: the owner waits for nothing of ours.
    reply.then(
      ({ status }) => onCommit(status, now() - startedAt),
      (error: unknown) => onCommit(failureOf(error), now() - startedAt),
    );
    return reply;
  }

  openIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#store.openIncarnation(incarnation, ttlMs);
  }
  renewIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#store.renewIncarnation(incarnation, ttlMs);
  }
  endIncarnation(incarnation: string): Promise<void> {
    return this.#store.endIncarnation(incarnation);
  }
  deadIncarnations(limit: number): Promise<readonly string[]> {
    return this.#store.deadIncarnations(limit);
  }
  create(creation: Creation): Promise<CreateReply> {
    return this.#store.create(creation);
  }
  acquire(acquisition: Acquisition): Promise<AcquireReply> {
    return this.#store.acquire(acquisition);
  }
  delete(session: string, owner: string, epoch: number, nonce: string): Promise<boolean> {
    return this.#store.delete(session, owner, epoch, nonce);
  }
  load(session: string): Promise<SessionRecord | undefined> {
    return this.#store.load(session);
  }
  readFields(session: string, names: readonly string[]): Promise<Readonly<Record<string, string>>> {
    return this.#store.readFields(session, names);
  }
  readJournal(session: string, execution: string): Promise<readonly string[]> {
    return this.#store.readJournal(session, execution);
  }
  readEvents(session: string, fromSeq: number, limit: number): Promise<EventPage | undefined> {
    return this.#store.readEvents(session, fromSeq, limit);
  }
  workOf(owner: string | undefined, limit: number): Promise<readonly string[]> {
    return this.#store.workOf(owner, limit);
  }
  dueWakes(now: number, limit: number): Promise<readonly string[]> {
    return this.#store.dueWakes(now, limit);
  }
  list(cursor: string, limit: number): Promise<SessionPage> {
    return this.#store.list(cursor, limit);
  }
  cleanIndexes(session: string): Promise<void> {
    return this.#store.cleanIndexes(session);
  }
  holdRole(role: string, holder: string, ttlMs: number): Promise<boolean> {
    return this.#store.holdRole(role, holder, ttlMs);
  }
  releaseRole(role: string, holder: string): Promise<void> {
    return this.#store.releaseRole(role, holder);
  }
  holdShare(share: Share): Promise<ShareReply> {
    return this.#store.holdShare(share);
  }
  time(): Promise<number> {
    return this.#store.time();
  }
  close(): Promise<void> {
    return this.#store.close();
  }
}

function failureOf(error: unknown): CommitOutcome {
  if (!(error instanceof StoreError)) return 'error';
  switch (error.code) {
    case 'UNAVAILABLE':
      return 'unavailable';
    case 'UNKNOWN':
      return 'unknown';
    case 'CLOSED':
      return 'closed';
  }
}
