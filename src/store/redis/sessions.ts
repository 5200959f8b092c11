/**
 * The steps of sessions, and what is read of them.
 *
 *  R1  Incarnations may be on another node than the session, so that no step can look at both. That is not
 *      needed: a dead incarnation stays dead (S5). So an acquisition first finds the owner dead, and then
 *      changes the record only if owner, epoch and cover are still the ones that were judged (S4). Whoever
 *      acquired it in between has raised the epoch.
 *  R2  The asker's own incarnation may die on the way. Then the record is a dead incarnation's, as if it had
 *      died just after, and the next one takes it.
 *  R3  A creation is refused by Redis if it arrives more than {@link CREATION_US} after it was sent. So entries
 *      of the wake index that have no record can be told from those whose record is still to come.
 */
import { checkAcquisition, checkCommit, checkCreation, checkInteger, checkNumbers } from '../checks.ts';
import {
  type AcquireReply,
  type Acquisition,
  type Commit,
  type CommitReply,
  type CreateReply,
  type Creation,
  type EventPage,
  REMEMBERED_OPERATIONS,
  type SessionRecord,
  StoreError,
} from '../store.ts';
import { type Cover, Covers } from './covers.ts';
import type { Indexes } from './indexes.ts';
import { isId, type Keys } from './keys.ts';
import type { Leases } from './leases.ts';
import { FIELD, HEAD, headOf, RECORD, recordOf, type SessionHead, wholeOf } from './record.ts';
import {
  ACQUIRE,
  ACQUIRED,
  COMMIT,
  COMMITTED,
  CREATE,
  CREATED,
  DELETE,
  LOOK,
  READ_EVENTS,
} from './scripts.ts';
import type { Call, Wire } from './wire.ts';

/** How long a creation may be on its way, in µs of the server's clock. */
const CREATION_US = 60_000_000;
/** How much longer than `maxEvents` a log gets before it is trimmed, so that not every commit moves it. */
const SLACK = 0.25;
/** How often a commit is covered anew in one call before it is given up. */
const MAX_COVERINGS = 16;

export class Sessions {
  readonly #wire: Wire;
  readonly #keys: Keys;
  readonly #leases: Leases;
  readonly #indexes: Indexes;
  readonly #maxEvents: number;
  readonly #covers = new Covers();

  constructor(wire: Wire, keys: Keys, leases: Leases, indexes: Indexes, maxEvents: number) {
    this.#wire = wire;
    this.#keys = keys;
    this.#leases = leases;
    this.#indexes = indexes;
    this.#maxEvents = maxEvents;
  }

  /** A connection was lost: what was in the indexes may not be there any more. */
  forgetCovers(): void {
    this.#covers.clear();
  }

  // ---- owning --------------------------------------------------------------------------------------------

  async create(call: Call, creation: Creation): Promise<CreateReply> {
    checkCreation(creation);
    const { session, operation, owner, wakeAt } = creation;
    const key = this.#keys.session(session);
    const [leftMs, looked] = await Promise.all([
      this.#leases.left(call, owner),
      this.#wire.readStep(call, LOOK, [key], []),
    ]);
    const [found, cover] = looked as [string | null, string];
    if (found !== null && found !== operation) return { status: 'exists' };
    if (found === null && leftMs === 0) return { status: 'dead' };
    if (found === null && wakeAt !== undefined)
      await beforehand(call, this.#indexes.addWake(call, session, cover, wakeAt));
    // What was found is created no more, even if it is gone meanwhile (R3).
    const notAfter = found === null ? Number(cover) + CREATION_US : 0;
    const reply = await this.#wire.write(
      call,
      CREATE,
      [key],
      [
        operation,
        this.#touch,
        notAfter,
        owner,
        creation.nonce,
        creation.snapshot,
        wakeAt ?? '',
        cover,
      ].concat(pairs(creation.fields ?? {})),
      (answer) => answer === CREATED.created,
    );
    if (reply === CREATED.exists) return { status: 'exists' };
    if (reply === CREATED.late) throw new StoreError('UNAVAILABLE', call.operation, 'it came too late');
    if (found === null)
      this.#covers.set(session, { owner, epoch: 1, cover, work: false, nobodys: false, wake: wakeAt });
    return { status: 'created', epoch: 1, version: 1 };
  }

  async acquire(call: Call, acquisition: Acquisition): Promise<AcquireReply> {
    checkAcquisition(acquisition);
    const { session, owner, expectedEpoch } = acquisition;
    while (this.#wire.hasTime(call)) {
      const [leftMs, head] = await Promise.all([this.#leases.left(call, owner), this.#head(call, session)]);
      if (leftMs === 0) return { status: 'dead' };
      if (head === undefined) return { status: 'not_found' };
      if (head.owner !== undefined && head.owner !== owner) {
        // R1: dead now is dead when the record is changed.
        const retryAfterMs = await this.#leases.left(call, head.owner);
        if (retryAfterMs > 0) return { status: 'held', owner: head.owner, epoch: head.epoch, retryAfterMs };
      }
      if (expectedEpoch !== undefined && expectedEpoch !== head.epoch)
        return { status: 'moved', epoch: head.epoch };
      const reply = await this.#take(call, acquisition, head);
      if (reply !== undefined) return reply;
    }
    throw new StoreError('UNAVAILABLE', call.operation, 'others were faster until the time was over');
  }

  /** Undefined if the record is not as it was judged. */
  async #take(
    call: Call,
    { session, owner, nonce, minEpoch = 0 }: Acquisition,
    head: SessionHead,
  ): Promise<AcquireReply | undefined> {
    const epoch = Math.max(head.epoch + 1, minEpoch);
    const cover = String(Number(head.cover) + 1);
    if (head.work) await beforehand(call, this.#indexes.addWork(call, owner, session, cover));
    const reply = await this.#wire.write(
      call,
      ACQUIRE,
      [this.#keys.session(session)],
      [head.owner ?? '', head.epoch, head.cover, owner, nonce, epoch, cover],
      (answer) => Array.isArray(answer),
    );
    if (reply === ACQUIRED.missing) return { status: 'not_found' };
    if (!Array.isArray(reply)) return undefined;
    this.#covers.set(session, { owner, epoch, cover, work: head.work, nobodys: false, wake: head.wakeAt });
    if (head.owner !== owner) this.#leave(head.owner, session, head.cover);
    const { record, fields } = wholeOf(session, reply as string[]);
    if (record === undefined) throw new StoreError('UNKNOWN', call.operation, 'the record is not whole');
    return { status: 'acquired', record, fields };
  }

  // ---- writing -------------------------------------------------------------------------------------------

  async commit(call: Call, commit: Commit): Promise<CommitReply> {
    checkCommit(commit);
    const { session, owner, epoch } = commit;
    if (!isId(session)) return { status: 'fenced', epoch: 0 };
    const sent = this.#commitArguments(commit);
    for (let covering = 0; covering < MAX_COVERINGS; covering++) {
      const cover = this.#covers.get(session, owner, epoch);
      if (cover !== undefined && !isCovered(cover, commit)) await this.#cover(call, cover, commit);
      const [status, value] = (await this.#wire.write(
        call,
        COMMIT,
        sent.keys,
        sent.args(cover),
        isPromise,
      )) as [number, string];
      if (status === COMMITTED.uncovered) {
        // I2 of indexes.ts.
        const fresh = { owner, epoch, cover: value, work: false, nobodys: false, wake: undefined };
        this.#covers.set(session, fresh);
      } else return this.#committed(commit, cover, status, Number(value));
    }
    throw new StoreError('UNAVAILABLE', call.operation, 'its index entries were cleaned again and again');
  }

  #committed(commit: Commit, cover: Cover | undefined, status: number, value: number): CommitReply {
    if (status === COMMITTED.fenced) {
      this.#covers.drop(commit.session);
      return { status: 'fenced', epoch: value };
    }
    if (status === COMMITTED.conflict) return { status: 'conflict', version: value };
    if (status === COMMITTED.repeated) return { status: 'repeated', version: value };
    if (status === COMMITTED.misnumbered) {
      checkNumbers(commit, value);
      throw new RangeError('firstSeq and publishedSeq must be numbers');
    }
    if (commit.release === true) {
      this.#covers.drop(commit.session);
      // It is nobody's now; whoever acquires it does so under a higher cover.
      if (cover?.work === true) this.#leave(commit.owner, commit.session, cover.cover);
    }
    return { status: 'committed', version: value };
  }

  /** I2 of indexes.ts: what the commit needs, before the commit. */
  async #cover(call: Call, cover: Cover, { session, work, wakeAt, release }: Commit): Promise<void> {
    const adding: Promise<void>[] = [];
    if (work && release === true && !cover.nobodys)
      adding.push(this.#indexes.addWork(call, undefined, session, cover.cover));
    if (work && release !== true && !cover.work)
      adding.push(this.#indexes.addWork(call, cover.owner, session, cover.cover));
    if (wakeAt !== undefined && !(cover.wake !== undefined && cover.wake <= wakeAt))
      adding.push(this.#indexes.addWake(call, session, cover.cover, wakeAt));
    await beforehand(call, Promise.all(adding));
    if (work && release === true) cover.nobodys = true;
    if (work && release !== true) cover.work = true;
    if (wakeAt !== undefined) cover.wake = Math.min(cover.wake ?? wakeAt, wakeAt);
  }

  /** The arguments of COMMIT. Only the cover may change from one try to the next. */
  #commitArguments(commit: Commit): {
    keys: string[];
    args: (cover: Cover | undefined) => (string | number)[];
  } {
    const { session, expectedVersion, firstSeq, events, publishedSeq, wakeAt } = commit;
    const journals = journalsOf(commit);
    const forget = commit.forget ?? [];
    const fields = Object.entries(commit.fields ?? {});
    const written = fields.filter((field): field is [string, string] => field[1] !== null);
    const removed = fields.filter(([, text]) => text === null);
    const version = expectedVersion + 1;
    const seq = firstSeq - 1 + events.length;
    const isMisnumbered = !Number.isSafeInteger(publishedSeq) || publishedSeq < 0 || publishedSeq > seq;
    const journalKey = this.#keys.journals(session);
    const keys = [this.#keys.session(session), this.#keys.events(session), this.#keys.tools(session)];
    for (const [execution] of journals) keys.push(journalKey + execution);
    for (const execution of forget) keys.push(journalKey + execution);
    const tail: (string | number)[] = [...events];
    for (const [execution, entries] of journals) {
      tail.push(execution, entries.length);
      for (const entry of entries) tail.push(entry);
    }
    for (const execution of forget) tail.push(execution);
    tail.push(removed.length);
    for (const [name] of removed) tail.push(FIELD + name);
    for (const [name, text] of written) tail.push(FIELD + name, text);
    const needs = commit.work || wakeAt !== undefined;
    const args = (cover: Cover | undefined): (string | number)[] => [
      commit.owner,
      commit.epoch,
      commit.nonce,
      commit.operation,
      expectedVersion,
      version,
      `o${version % REMEMBERED_OPERATIONS}`,
      commit.snapshot,
      firstSeq - 1,
      seq,
      publishedSeq,
      isMisnumbered ? '1' : '0',
      needs ? (cover?.cover ?? '') : '-',
      commit.work ? '1' : '0',
      wakeAt ?? '',
      commit.release === true ? '1' : '0',
      this.#touch,
      this.#maxEvents,
      Math.floor(this.#maxEvents * (1 + SLACK)),
      events.length,
      journals.length,
      forget.length,
      ...tail,
    ];
    return { keys, args };
  }

  async delete(call: Call, session: string, owner: string, epoch: number, nonce: string): Promise<boolean> {
    if (!isId(session)) return false;
    const keys = [this.#keys.session(session), this.#keys.events(session), this.#keys.tools(session)];
    const args = [owner, epoch, nonce, this.#keys.journals(session)];
    const cover = await this.#wire.write(call, DELETE, keys, args, (answer) => answer !== null);
    if (cover === null) return false;
    this.#covers.drop(session);
    // S10. It is gone, whatever becomes of this; an entry that stays is found to be wrong by the next scan.
    await this.#indexes.removeAll(call, session, cover as string).catch(ignoreStoreError);
    return true;
  }

  // ---- reading -------------------------------------------------------------------------------------------

  async load(call: Call, session: string): Promise<SessionRecord | undefined> {
    if (!isId(session)) return undefined;
    const texts = await this.#wire.read(call, 'hmget', [this.#keys.session(session), ...RECORD]);
    return recordOf(session, texts as (string | null)[]);
  }

  async readFields(
    call: Call,
    session: string,
    names: readonly string[],
  ): Promise<Readonly<Record<string, string>>> {
    if (!isId(session) || names.length === 0) return {};
    const keys = names.map((name) => FIELD + name);
    const texts = (await this.#wire.read(call, 'hmget', [this.#keys.session(session), ...keys])) as (
      | string
      | null
    )[];
    const found: [string, string][] = [];
    for (const [at, name] of names.entries()) {
      const text = texts[at];
      if (typeof text === 'string') found.push([name, text]);
    }
    return Object.fromEntries(found);
  }

  async readJournal(call: Call, session: string, execution: string): Promise<readonly string[]> {
    if (!isId(session) || !isId(execution)) return [];
    const key = this.#keys.journals(session) + execution;
    return (await this.#wire.read(call, 'lrange', [key, 0, -1])) as string[];
  }

  async readEvents(
    call: Call,
    session: string,
    fromSeq: number,
    limit: number,
  ): Promise<EventPage | undefined> {
    checkInteger('limit', limit, 0);
    if (!isId(session)) return undefined;
    const keys = [this.#keys.session(session), this.#keys.events(session)];
    // Nothing is numbered lower than 1, and nothing is found from what is no number.
    const from = Number.isFinite(fromSeq) ? Math.max(0, Math.ceil(fromSeq)) : 0;
    const page = (await this.#wire.readStep(call, READ_EVENTS, keys, [from, limit])) as string[] | null;
    if (page === null) return undefined;
    const [seq, firstSeq, ...events] = page;
    return { events, firstSeq: Number(firstSeq), seq: Number(seq) };
  }

  // ---- helpers -------------------------------------------------------------------------------------------

  async #head(call: Call, session: string): Promise<SessionHead | undefined> {
    if (!isId(session)) return undefined;
    const texts = await this.#wire.read(call, 'hmget', [this.#keys.session(session), ...HEAD]);
    return headOf(texts as (string | null)[]);
  }

  /** Take an entry of a former owner away, soon; it does no harm until then. */
  #leave(owner: string | undefined, session: string, cover: string): void {
    void this.#indexes
      .removeWork(this.#wire.begin('cleanIndexes'), owner, session, cover)
      .catch(ignoreStoreError);
  }

  /** Whether a step that is answered from memory has to write something all the same (W3 of wire.ts). */
  get #touch(): '0' | '1' {
    return this.#wire.waits ? '1' : '0';
  }
}

/** Whether the indexes have all that a commit needs. */
function isCovered(cover: Cover, { work, wakeAt, release }: Commit): boolean {
  if (work && !(release === true ? cover.nobodys : cover.work)) return false;
  return wakeAt === undefined || (cover.wake !== undefined && cover.wake <= wakeAt);
}

const isPromise = (reply: unknown): boolean => {
  const [status] = reply as [number];
  return status === COMMITTED.committed || status === COMMITTED.repeated;
};

/** One list of entries for each execution, without empty ones. */
function journalsOf({ journal = [] }: Commit): readonly (readonly [string, readonly string[]])[] {
  const filled = journal.filter(({ entries }) => entries.length > 0);
  if (filled.length < 2) return filled.map(({ execution, entries }) => [execution, entries] as const);
  const all = new Map<string, string[]>();
  for (const { execution, entries } of filled) {
    const before = all.get(execution);
    if (before === undefined) all.set(execution, [...entries]);
    else for (const entry of entries) before.push(entry);
  }
  return [...all];
}

function pairs(fields: Readonly<Record<string, string>>): string[] {
  return Object.entries(fields).flatMap(([name, text]) => [FIELD + name, text]);
}

/** What a StoreError says beside the operation. */
function reasonOf({ message, operation }: StoreError): string {
  return message.slice(operation.length + 2);
}

/**
 * What comes before the step itself: whatever became of it, the step was not sent, and that is certain (S9).
 */
async function beforehand(call: Call, entries: Promise<unknown>): Promise<void> {
  try {
    await entries;
  } catch (error) {
    if (error instanceof StoreError) throw new StoreError('UNAVAILABLE', call.operation, reasonOf(error));
    throw error;
  }
}

function ignoreStoreError(error: unknown): void {
  if (!(error instanceof StoreError)) throw error;
}
