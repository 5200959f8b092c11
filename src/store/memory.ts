/**
 * The store within one process: nothing survives it. It keeps every obligation of the port; what a network does to
 * a call (S9) never happens here.
 *
 * Each method does its whole work when it is called, in one step, and answers in a microtask.
 */
import type { Clock } from '../clock.ts';
import { Incarnations } from './incarnations.ts';
import { Roles } from './roles.ts';
import { Sessions } from './sessions.ts';
import { Shares } from './shares.ts';
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
} from './store.ts';

const DEFAULT_MAX_EVENTS = 10_000;

export interface MemoryStoreOptions {
  /** The store's own clock: the leases of incarnations are judged by its monotonic time. */
  readonly clock: Clock;
  /** Events kept per session, at least 1; up to a quarter more may be. Default 10,000. */
  readonly maxEvents?: number | undefined;
}

/** What the handles of one store share. */
interface Core {
  readonly incarnations: Incarnations;
  readonly roles: Roles;
  readonly shares: Shares;
  readonly sessions: Sessions;
  readonly clock: Clock;
}

/** Async throughout, so that what is thrown is a rejection. */
class Handle implements Store {
  readonly #core: Core;
  #open = true;

  constructor(core: Core) {
    this.#core = core;
  }

  async openIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#use('openIncarnation').incarnations.open(incarnation, ttlMs);
  }

  async renewIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#use('renewIncarnation').incarnations.renew(incarnation, ttlMs);
  }

  async endIncarnation(incarnation: string): Promise<void> {
    this.#use('endIncarnation').incarnations.end(incarnation);
  }

  async deadIncarnations(limit: number): Promise<readonly string[]> {
    return this.#use('deadIncarnations').sessions.deadIncarnations(limit);
  }

  async create(creation: Creation): Promise<CreateReply> {
    return this.#use('create').sessions.create(creation);
  }

  async acquire(acquisition: Acquisition): Promise<AcquireReply> {
    return this.#use('acquire').sessions.acquire(acquisition);
  }

  async commit(commit: Commit): Promise<CommitReply> {
    return this.#use('commit').sessions.commit(commit);
  }

  async delete(session: string, owner: string, epoch: number, nonce: string): Promise<boolean> {
    return this.#use('delete').sessions.delete(session, owner, epoch, nonce);
  }

  async load(session: string): Promise<SessionRecord | undefined> {
    return this.#use('load').sessions.load(session);
  }

  async readFields(session: string, names: readonly string[]): Promise<Readonly<Record<string, string>>> {
    return this.#use('readFields').sessions.readFields(session, names);
  }

  async readJournal(session: string, execution: string): Promise<readonly string[]> {
    return this.#use('readJournal').sessions.readJournal(session, execution);
  }

  async readEvents(session: string, fromSeq: number, limit: number): Promise<EventPage | undefined> {
    return this.#use('readEvents').sessions.readEvents(session, fromSeq, limit);
  }

  async workOf(owner: string | undefined, limit: number): Promise<readonly string[]> {
    return this.#use('workOf').sessions.workOf(owner, limit);
  }

  async dueWakes(now: number, limit: number): Promise<readonly string[]> {
    return this.#use('dueWakes').sessions.dueWakes(now, limit);
  }

  async list(cursor: string, limit: number): Promise<SessionPage> {
    return this.#use('list').sessions.list(cursor, limit);
  }

  async cleanIndexes(_session: string): Promise<void> {
    // These indexes hold nothing that is wrong.
    this.#use('cleanIndexes');
  }

  async holdRole(role: string, holder: string, ttlMs: number): Promise<boolean> {
    return this.#use('holdRole').roles.hold(role, holder, ttlMs);
  }

  async releaseRole(role: string, holder: string): Promise<void> {
    this.#use('releaseRole').roles.release(role, holder);
  }

  async holdShare(share: Share): Promise<ShareReply> {
    return this.#use('holdShare').shares.hold(share);
  }

  async time(): Promise<number> {
    return this.#use('time').clock.now();
  }

  async close(): Promise<void> {
    this.#open = false;
  }

  #use(operation: string): Core {
    if (!this.#open) throw new StoreError('CLOSED', operation, 'this handle of the store was closed');
    return this.#core;
  }
}

/** A store in memory, and a first handle to it. */
export class MemoryStore extends Handle {
  readonly #core: Core;

  constructor({ clock, maxEvents = DEFAULT_MAX_EVENTS }: MemoryStoreOptions) {
    const incarnations = new Incarnations(clock);
    const sessions = new Sessions(incarnations, maxEvents);
    const core = { incarnations, roles: new Roles(clock), shares: new Shares(clock), sessions, clock };
    super(core);
    this.#core = core;
  }

  /** Another handle to the same sessions, for another broker of this process; closed on its own. */
  handle(): Store {
    return new Handle(this.#core);
  }
}
