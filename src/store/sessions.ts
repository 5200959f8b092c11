/**
 * The sessions of a memory store. Nothing here waits, so that each method is one step (S1, S4, S8).
 *
 * The port allows indexes that hold more than they must (S7); these hold exactly what they must.
 */
import { checkAcquisition, checkCommit, checkCreation, checkInteger, checkNumbers } from './checks.ts';
import type { Incarnations } from './incarnations.ts';
import { versionOf } from './operations.ts';
import { isOwned, Row, recordOf, write } from './row.ts';
import type {
  AcquireReply,
  Acquisition,
  Commit,
  CommitReply,
  CreateReply,
  Creation,
  EventPage,
  SessionPage,
  SessionRecord,
} from './store.ts';
import { Wakes } from './wakes.ts';
import { Work } from './work.ts';

export class Sessions {
  readonly #incarnations: Incarnations;
  readonly #maxEvents: number;
  readonly #rows = new Map<string, Row>();
  readonly #work = new Work();
  readonly #wakes = new Wakes<Row>();

  constructor(incarnations: Incarnations, maxEvents: number) {
    checkInteger('maxEvents', maxEvents, 1);
    this.#incarnations = incarnations;
    this.#maxEvents = maxEvents;
  }

  create(creation: Creation): CreateReply {
    checkCreation(creation);
    const found = this.#rows.get(creation.session);
    if (found !== undefined)
      return found.creation === creation.operation
        ? { status: 'created', epoch: 1, version: 1 }
        : { status: 'exists' };
    if (!this.#incarnations.isAlive(creation.owner)) return { status: 'dead' };
    const row = new Row(creation);
    this.#rows.set(row.session, row);
    this.#wakes.set(row, creation.wakeAt);
    return { status: 'created', epoch: row.epoch, version: row.version };
  }

  acquire(acquisition: Acquisition): AcquireReply {
    checkAcquisition(acquisition);
    const { session, owner, nonce, minEpoch = 0, expectedEpoch } = acquisition;
    if (!this.#incarnations.isAlive(owner)) return { status: 'dead' };
    const row = this.#rows.get(session);
    if (row === undefined) return { status: 'not_found' };
    if (row.owner !== undefined && row.owner !== owner) {
      const retryAfterMs = this.#incarnations.leftMs(row.owner);
      // S4.
      if (retryAfterMs > 0) return { status: 'held', owner: row.owner, epoch: row.epoch, retryAfterMs };
    }
    if (expectedEpoch !== undefined && expectedEpoch !== row.epoch)
      return { status: 'moved', epoch: row.epoch };
    if (row.work) this.#moveWork(row, row.owner, owner);
    row.owner = owner;
    row.nonce = nonce;
    // S3.
    row.epoch = Math.max(row.epoch + 1, minEpoch);
    return { status: 'acquired', record: recordOf(row), fields: Object.fromEntries(row.fields ?? []) };
  }

  commit(commit: Commit): CommitReply {
    checkCommit(commit);
    const row = this.#rows.get(commit.session);
    if (row === undefined) return { status: 'fenced', epoch: 0 };
    // S2: in this order.
    if (!isOwned(row, commit.owner, commit.epoch, commit.nonce))
      return { status: 'fenced', epoch: row.epoch };
    const before = versionOf(row.operations, row.version, commit.operation);
    if (before !== undefined) return { status: 'repeated', version: before };
    if (commit.expectedVersion !== row.version) return { status: 'conflict', version: row.version };
    checkNumbers(commit, row.seq);
    // S1: from here on nothing fails.
    const worked = row.work;
    write(row, commit, this.#maxEvents);
    if (worked !== row.work || row.owner === undefined) {
      if (worked) this.#work.remove(commit.owner, row.session);
      if (row.work) this.#work.add(row.owner, row.session);
    }
    this.#wakes.set(row, commit.wakeAt);
    return { status: 'committed', version: row.version };
  }

  delete(session: string, owner: string, epoch: number, nonce: string): boolean {
    const row = this.#rows.get(session);
    if (row === undefined || !isOwned(row, owner, epoch, nonce)) return false;
    // S10.
    this.#rows.delete(session);
    this.#work.remove(owner, session);
    this.#wakes.set(row, undefined);
    return true;
  }

  load(session: string): SessionRecord | undefined {
    const row = this.#rows.get(session);
    return row === undefined ? undefined : recordOf(row);
  }

  readFields(session: string, names: readonly string[]): Readonly<Record<string, string>> {
    const fields = this.#rows.get(session)?.fields;
    const found: [string, string][] = [];
    for (const name of names) {
      const text = fields?.get(name);
      if (text !== undefined) found.push([name, text]);
    }
    return Object.fromEntries(found);
  }

  readJournal(session: string, execution: string): readonly string[] {
    return this.#rows.get(session)?.journals?.get(execution)?.slice() ?? [];
  }

  readEvents(session: string, fromSeq: number, limit: number): EventPage | undefined {
    checkInteger('limit', limit, 0);
    const row = this.#rows.get(session);
    if (row === undefined) return undefined;
    const { log } = row;
    if (log === undefined) return { events: [], firstSeq: 1, seq: 0 };
    return { events: log.read(fromSeq, limit), firstSeq: log.firstSeq, seq: log.seq };
  }

  /** S12. The cursor is the last session of the page before: names are listed in their order. */
  list(cursor: string, limit: number): SessionPage {
    checkInteger('limit', limit, 1);
    const sessions = [...this.#rows.keys()]
      .filter((session) => session > cursor)
      .toSorted()
      .slice(0, limit);
    return { sessions, cursor: sessions.length < limit ? '' : (sessions.at(-1) ?? '') };
  }

  workOf(owner: string | undefined, limit: number): readonly string[] {
    checkInteger('limit', limit, 0);
    return this.#work.of(owner, limit);
  }

  dueWakes(now: number, limit: number): readonly string[] {
    checkInteger('limit', limit, 0);
    return this.#wakes.due(now, limit).map(({ session }) => session);
  }

  deadIncarnations(limit: number): readonly string[] {
    checkInteger('limit', limit, 0);
    return this.#work
      .owners()
      .filter((owner) => !this.#incarnations.isAlive(owner))
      .take(limit)
      .toArray();
  }

  #moveWork({ session }: Row, from: string | undefined, to: string): void {
    this.#work.remove(from, session);
    this.#work.add(to, session);
  }
}
