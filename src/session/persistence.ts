/**
 * Where a session's steps go: to the store, or, for a session of durability 'none', nowhere but this process.
 *
 * Either way a step is committed as a whole before its effects, so that everything else is the same for both.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { SessionStateValue } from '../../actors/session.ts';
import type { JournalEntry, SessionContext } from '../../actors/sessiondata.ts';
import type { Clock } from '../clock.ts';
import { type Commit, type EventPage, type Store, StoreError } from '../store/store.ts';
import type { Snapshots } from './versions.ts';

export interface CommitStep {
  readonly value: SessionStateValue;
  readonly context: SessionContext;
  readonly fields: Readonly<Record<string, string | null>>;
  readonly journal: ReadonlyMap<string, readonly JournalEntry[]>;
  readonly forget: readonly string[];
  readonly firstSeq: number;
  readonly events: readonly ExecutionEvent[];
  readonly publishedSeq: number;
  readonly work: boolean;
  readonly wakeAt: number | undefined;
  readonly release: boolean;
}

/** `fenced`: somebody else owns the session now, or this owner may not act any more. */
export type Committed = 'committed' | 'fenced';

export interface Persistence {
  readonly durable: boolean;
  readonly epoch: number;
  readonly version: number;
  /** Answers at once where nothing is waited for. Never rejects. */
  commit(step: CommitStep): Committed | Promise<Committed>;
  readField(name: string): Promise<string | undefined>;
  readJournal(execution: string): Promise<readonly string[]>;
  readEvents(fromSeq: number, limit: number): Promise<EventPage | undefined>;
  delete(): Promise<boolean>;
}

/** The first and the longest wait between two tries of a commit whose outcome is not known, in ms. */
const RETRY_MS = { first: 5, last: 500 };

export interface Ownership {
  readonly session: string;
  readonly owner: string;
  readonly epoch: number;
  readonly nonce: string;
  readonly version: number;
}

/** In the store: fenced by owner, epoch and nonce; a write of unknown outcome is settled by its operation id. */
export class StoredSession implements Persistence {
  readonly durable = true;
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #ownership: Ownership;
  readonly #snapshots: Pick<Snapshots, 'encode'>;
  readonly #mayAct: () => boolean;
  readonly #onError: (error: unknown) => void;
  #version: number;
  #operations = 0;

  constructor(
    store: Store,
    clock: Clock,
    snapshots: Pick<Snapshots, 'encode'>,
    ownership: Ownership,
    mayAct: () => boolean,
    onError: (error: unknown) => void,
  ) {
    this.#store = store;
    this.#clock = clock;
    this.#snapshots = snapshots;
    this.#ownership = ownership;
    this.#mayAct = mayAct;
    this.#onError = onError;
    this.#version = ownership.version;
  }

  get epoch(): number {
    return this.#ownership.epoch;
  }
  get version(): number {
    return this.#version;
  }

  async commit(step: CommitStep): Promise<Committed> {
    let commit: Commit;
    try {
      commit = this.#commitOf(step);
    } catch (error) {
      // What cannot be written is not committed, and this owner would never get past it.
      this.#onError(error);
      return 'fenced';
    }
    for (let wait = RETRY_MS.first; ; wait = Math.min(wait * 2, RETRY_MS.last)) {
      try {
        const reply = await this.#store.commit(commit);
        // CONFLICT under our own epoch and nonce: this owner's idea of the session is wrong, so it is none.
        if (reply.status === 'fenced' || reply.status === 'conflict') return 'fenced';
        this.#version = reply.version;
        return 'committed';
      } catch (error) {
        if (!(error instanceof StoreError) || error.code === 'CLOSED' || !this.#mayAct()) return 'fenced';
        await new Promise<void>((resolve) => this.#clock.after(wait, resolve));
      }
    }
  }

  #commitOf(step: CommitStep): Commit {
    const { session, owner, epoch, nonce } = this.#ownership;
    return {
      session,
      owner,
      epoch,
      nonce,
      expectedVersion: this.#version,
      operation: `${nonce}.${++this.#operations}`,
      snapshot: this.#snapshots.encode(step.value, step.context, epoch),
      fields: step.fields,
      journal: [...step.journal].map(([execution, entries]) => ({
        execution,
        entries: entries.map((entry) => JSON.stringify(entry)),
      })),
      forget: step.forget,
      firstSeq: step.firstSeq,
      events: step.events.map((event) => JSON.stringify(event)),
      publishedSeq: step.publishedSeq,
      work: step.work,
      // One with work is found by that.
      wakeAt: step.work ? undefined : step.wakeAt,
      release: step.release,
    };
  }

  async readField(name: string): Promise<string | undefined> {
    return (await this.#store.readFields(this.#ownership.session, [name]))[name];
  }

  readJournal(execution: string): Promise<readonly string[]> {
    return this.#store.readJournal(this.#ownership.session, execution);
  }

  readEvents(fromSeq: number, limit: number): Promise<EventPage | undefined> {
    return this.#store.readEvents(this.#ownership.session, fromSeq, limit);
  }

  delete(): Promise<boolean> {
    const { session, owner, epoch, nonce } = this.#ownership;
    return this.#store.delete(session, owner, epoch, nonce);
  }
}

/** Events kept in memory for a session of durability 'none'. */
const MAX_EPHEMERAL_EVENTS = 1_000;

/** In this process only: what survives workers and runtimes, and not its broker. */
export class EphemeralSession implements Persistence {
  readonly durable = false;
  readonly epoch = 1;
  #version = 1;
  #events: ExecutionEvent[] = [];
  #firstSeq = 1;
  readonly #fields = new Map<string, string>();
  readonly #journals = new Map<string, JournalEntry[]>();

  get version(): number {
    return this.#version;
  }

  commit(step: CommitStep): Committed {
    this.#version++;
    for (const event of step.events) this.#events.push(event);
    if (this.#events.length > MAX_EPHEMERAL_EVENTS * 1.25) {
      const surplus = this.#events.length - MAX_EPHEMERAL_EVENTS;
      this.#events = this.#events.slice(surplus);
      this.#firstSeq += surplus;
    }
    for (const [name, text] of Object.entries(step.fields)) {
      if (text === null) this.#fields.delete(name);
      else this.#fields.set(name, text);
    }
    for (const [execution, entries] of step.journal) {
      const journal = this.#journals.get(execution);
      if (journal === undefined) this.#journals.set(execution, [...entries]);
      else journal.push(...entries);
    }
    for (const execution of step.forget) this.#journals.delete(execution);
    return 'committed';
  }

  readField(name: string): Promise<string | undefined> {
    return Promise.resolve(this.#fields.get(name));
  }

  readJournal(execution: string): Promise<readonly string[]> {
    return Promise.resolve((this.#journals.get(execution) ?? []).map((entry) => JSON.stringify(entry)));
  }

  readEvents(fromSeq: number, limit: number): Promise<EventPage> {
    const from = Math.max(0, fromSeq - this.#firstSeq);
    const events = fromSeq < this.#firstSeq ? [] : this.#events.slice(from, from + limit);
    return Promise.resolve({
      events: events.map((event) => JSON.stringify(event)),
      firstSeq: this.#firstSeq,
      seq: this.#firstSeq + this.#events.length - 1,
    });
  }

  delete(): Promise<boolean> {
    return Promise.resolve(true);
  }
}

/** Of a stateless run: everything that is asked for again is in its actor. */
export class Unstored implements Persistence {
  readonly durable = false;
  readonly epoch = 1;
  #version = 1;

  get version(): number {
    return this.#version;
  }

  commit(): Committed {
    this.#version++;
    return 'committed';
  }

  readField(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  readJournal(): Promise<readonly string[]> {
    return Promise.resolve([]);
  }

  readEvents(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  delete(): Promise<boolean> {
    return Promise.resolve(true);
  }
}
