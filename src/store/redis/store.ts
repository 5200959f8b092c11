/**
 * The store on Redis: one, one with replicas, or a Redis Cluster.
 *
 * How each obligation of the port is kept: scripts.ts (S1, S2, S6), sessions.ts (S3, S4), leases.ts (S5, S11, S13),
 * indexes.ts (S7, S10), wire.ts (S8, S9), listing.ts (S12). With ack 'master', Redis gives up what a replica
 * had not got when its master is lost: then a later answer may contradict an earlier one. With 'replica' it
 * does not.
 */
import { checkInteger } from '../checks.ts';
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
} from '../store.ts';
import { connected, examine } from './checkup.ts';
import { type Link, originOf } from './client.ts';
import { Indexes } from './indexes.ts';
import { isId, Keys } from './keys.ts';
import { Leases } from './leases.ts';
import { listSessions } from './listing.ts';
import { type RedisStoreOptions, resolveSettings, type StoreNotice } from './options.ts';
import { Sessions } from './sessions.ts';
import { type Call, Wire } from './wire.ts';

export type { RedisClient, RedisConnection } from './client.ts';
export type { RedisStoreOptions, StoreNotice } from './options.ts';
export type RedisNotice = StoreNotice;

const DEFAULT_TIMEOUT_MS = 2_000;

interface Parts {
  readonly writes: Link;
  readonly reads: Link;
  readonly wire: Wire;
  readonly keys: Keys;
}

export class RedisStore implements Store {
  readonly #links: readonly Link[];
  readonly #wire: Wire;
  readonly #keys: Keys;
  readonly #leases: Leases;
  readonly #indexes: Indexes;
  readonly #sessions: Sessions;
  readonly #listeners = new Set<(connected: boolean) => void>();
  #open = true;
  #connected = true;

  private constructor({ writes, reads, wire, keys }: Parts, maxEvents: number) {
    this.#links = [writes, reads];
    this.#wire = wire;
    this.#keys = keys;
    this.#leases = new Leases(wire, keys);
    this.#indexes = new Indexes(wire, keys);
    this.#sessions = new Sessions(wire, keys, this.#leases, this.#indexes, maxEvents);
    for (const link of this.#links) link.onChange = () => this.#changed();
  }

  /**
   * Connect, and look at the servers. Rejects with an EnclaveError: INVALID_ARGUMENT naming the option, or
   * `redis` where the server does not accept the credentials, is older than Redis 7 or of another kind;
   * UNAVAILABLE if none answers in time. Later it connects again by itself, for as long as it takes.
   */
  static async open(options: RedisStoreOptions): Promise<RedisStore> {
    const settings = resolveSettings(options);
    const { clock, ack, openTimeoutMs } = settings;
    const origin = originOf(options.redis);
    const commandTimeoutMs = settings.commandTimeoutMs ?? origin.commandTimeoutMs ?? DEFAULT_TIMEOUT_MS;
    const writes = origin.link('writes', commandTimeoutMs);
    const reads = origin.link('reads', commandTimeoutMs);
    try {
      await connected([writes, reads], clock, openTimeoutMs);
      const notices = await examine(reads, ack, clock, openTimeoutMs);
      const wire = new Wire(origin, { writes, reads }, { clock, ack, commandTimeoutMs });
      const keys = new Keys(origin.prefix + settings.prefix);
      const store = new RedisStore({ writes, reads, wire, keys }, settings.maxEvents);
      for (const notice of notices) settings.onNotice(notice);
      return store;
    } catch (error) {
      writes.close();
      reads.close();
      throw error;
    }
  }

  /** False while Redis cannot be reached; of a Cluster, while none of it can. */
  get connected(): boolean {
    return this.#open && this.#links.every((link) => link.connected);
  }

  /** Be told when `connected` changes. Returns a function that ends that. */
  onStatus(listener: (connected: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async openIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#leases.open(this.#begin('openIncarnation'), incarnation, ttlMs);
  }

  async renewIncarnation(incarnation: string, ttlMs: number): Promise<boolean> {
    return this.#leases.renew(this.#begin('renewIncarnation'), incarnation, ttlMs);
  }

  async endIncarnation(incarnation: string): Promise<void> {
    return this.#leases.end(this.#begin('endIncarnation'), incarnation);
  }

  async deadIncarnations(limit: number): Promise<readonly string[]> {
    const call = this.#begin('deadIncarnations');
    checkInteger('limit', limit, 0);
    const owners = await this.#indexes.owners(call);
    const left = await Promise.all(owners.map((owner) => this.#leases.left(call, owner)));
    return owners.filter((_, at) => left[at] === 0).slice(0, limit);
  }

  async create(creation: Creation): Promise<CreateReply> {
    return this.#sessions.create(this.#begin('create'), creation);
  }

  async acquire(acquisition: Acquisition): Promise<AcquireReply> {
    return this.#sessions.acquire(this.#begin('acquire'), acquisition);
  }

  async commit(commit: Commit): Promise<CommitReply> {
    return this.#sessions.commit(this.#begin('commit'), commit);
  }

  async delete(session: string, owner: string, epoch: number, nonce: string): Promise<boolean> {
    return this.#sessions.delete(this.#begin('delete'), session, owner, epoch, nonce);
  }

  async load(session: string): Promise<SessionRecord | undefined> {
    return this.#sessions.load(this.#begin('load'), session);
  }

  async readFields(session: string, names: readonly string[]): Promise<Readonly<Record<string, string>>> {
    return this.#sessions.readFields(this.#begin('readFields'), session, names);
  }

  async readJournal(session: string, execution: string): Promise<readonly string[]> {
    return this.#sessions.readJournal(this.#begin('readJournal'), session, execution);
  }

  async readEvents(session: string, fromSeq: number, limit: number): Promise<EventPage | undefined> {
    return this.#sessions.readEvents(this.#begin('readEvents'), session, fromSeq, limit);
  }

  async workOf(owner: string | undefined, limit: number): Promise<readonly string[]> {
    const call = this.#begin('workOf');
    checkInteger('limit', limit, 0);
    if (owner !== undefined && !isId(owner)) return [];
    return this.#indexes.workOf(call, owner, limit);
  }

  async dueWakes(now: number, limit: number): Promise<readonly string[]> {
    const call = this.#begin('dueWakes');
    checkInteger('limit', limit, 0);
    return this.#indexes.dueWakes(call, now, limit);
  }

  async list(cursor: string, limit: number): Promise<SessionPage> {
    return listSessions(this.#wire, this.#keys, this.#begin('list'), cursor, limit);
  }

  async cleanIndexes(session: string): Promise<void> {
    const call = this.#begin('cleanIndexes');
    if (isId(session)) await this.#indexes.clean(call, session);
  }

  async holdRole(role: string, holder: string, ttlMs: number): Promise<boolean> {
    return this.#leases.hold(this.#begin('holdRole'), role, holder, ttlMs);
  }

  async releaseRole(role: string, holder: string): Promise<void> {
    return this.#leases.release(this.#begin('releaseRole'), role, holder);
  }

  async holdShare(share: Share): Promise<ShareReply> {
    return this.#leases.share(this.#begin('holdShare'), share);
  }

  async time(): Promise<number> {
    return this.#leases.time(this.#begin('time'));
  }

  /** What is under way is answered UNKNOWN, or UNAVAILABLE if it only reads. Safe to call again. */
  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    for (const link of this.#links) link.close();
    this.#changed();
  }

  #begin(operation: string): Call {
    if (!this.#open) throw new StoreError('CLOSED', operation, 'this handle of the store was closed');
    return this.#wire.begin(operation);
  }

  #changed(): void {
    this.#sessions.forgetCovers();
    const { connected: now } = this;
    if (now === this.#connected) return;
    this.#connected = now;
    for (const listener of [...this.#listeners]) listener(now);
  }
}
