/**
 * Becoming a session's owner: it is acquired in the store, loaded, hosted, and begins with a commit in its new epoch.
 *
 * Upholds H1 and H2 of broker.ts. Beyond them:
 *  W1  Several requests at once share one acquisition, and who asks during a hand-over is told what comes of it.
 *  W2  A session that the store holds to be this incarnation's, and that has no actor here, is an orphan until it is
 *      hosted or turns out to be somebody else's: no other broker looks after it while this one lives.
 */
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Activated, Reply } from '../protocol.ts';
import { success } from '../replies.ts';
import type { SessionRecord, Store } from '../store/store.ts';
import type { SessionActor } from './actor.ts';
import type { Hosting } from './hosting.ts';
import type { Lease } from './lease.ts';
import { loadSession } from './load.ts';
import type { Notify } from './notice.ts';
import { StoredSession } from './persistence.ts';
import { noSession, notNow } from './responses.ts';

export interface OwnershipOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly store: Store;
  readonly clock: Clock;
  readonly lease: Pick<Lease, 'incarnation' | 'holds'>;
  readonly hosting: Pick<Hosting, 'get' | 'has' | 'host' | 'drop' | 'answersFor'>;
  /** True once the broker does nothing any more. */
  readonly isClosed: () => boolean;
  readonly notify: Notify;
}

export class Ownership {
  readonly #options: OwnershipOptions;
  readonly #underway = new Map<string, Promise<Reply<Activated>>>();
  /** W2 */
  readonly #orphans = new Set<string>();

  constructor(options: OwnershipOptions) {
    this.#options = options;
  }

  /** Own it, unless somebody else does (W1). Answers with the owner, if it is known. */
  activate(session: string, minEpoch: number): Promise<Reply<Activated>> {
    return this.#underway.get(session) ?? this.during(session, this.acquire(session, minEpoch));
  }

  isUnderway(session: string): boolean {
    return this.#underway.has(session);
  }

  /** W1: until it is known what comes of a hand-over, who asks for the session waits for that. */
  during(session: string, outcome: Promise<Reply<Activated>>): Promise<Reply<Activated>> {
    const told = outcome.finally(() => {
      if (this.#underway.get(session) === told) this.#underway.delete(session);
    });
    this.#underway.set(session, told);
    return told;
  }

  /** As {@link activate}, for who holds the place of W1 already. */
  async acquire(session: string, minEpoch: number): Promise<Reply<Activated>> {
    const { store, clock, lease, hosting } = this.#options;
    const there = hosting.get(session);
    if (there !== undefined && !there.moving) return this.owned(there.actor);
    const owner = lease.incarnation;
    if (owner === undefined || there !== undefined) return notNow();
    const seen = await store.load(session);
    if (seen === undefined) return noSession(session);
    const nonce = clock.id();
    const acquisition = { session, owner, nonce, minEpoch, expectedEpoch: seen.epoch };
    const reply = await this.orphanIfFailed(session, store.acquire(acquisition));
    if (reply.status === 'moved') return notNow();
    if (reply.status === 'not_found') return noSession(session);
    if (reply.status === 'dead') return notNow();
    if (reply.status === 'held') {
      const retryAfterMs = Math.min(Math.max(reply.retryAfterMs, 10), 1_000);
      return success({ session, broker: undefined, retryAfterMs }, 0);
    }
    this.#orphans.add(session); // W2
    return this.#takeIn(reply.record, reply.fields, owner, nonce, seen.owner);
  }

  /** It is ours in the store: load it, host it, begin. */
  async #takeIn(
    record: SessionRecord,
    fields: Readonly<Record<string, string>>,
    owner: string,
    nonce: string,
    from: string | undefined,
  ): Promise<Reply<Activated>> {
    const { store, clock, lease, hosting, isClosed, notify } = this.#options;
    const { session, epoch, version, seq, publishedSeq } = record;
    if (!lease.holds(owner)) return notNow();
    // All that may fail is read before there is an actor.
    const loaded = await loadSession(store, record, fields);
    const unpublished =
      publishedSeq < seq ? await store.readEvents(session, publishedSeq + 1, seq - publishedSeq) : undefined;
    if (!lease.holds(owner) || hosting.has(session) || isClosed()) return notNow();
    const persistence = new StoredSession(store, clock, { session, owner, epoch, nonce, version }, () =>
      lease.holds(owner),
    );
    const actor = hosting.host(session, { ...loaded, persistence, owner, seq, publishedSeq });
    this.#orphans.delete(session);
    // What was given up is handed over, not taken.
    if (from !== undefined && from !== owner && loaded.snapshot.context.pending.length > 0)
      notify({ type: 'session.taken_over', session, epoch, from });
    actor.republish(unpublished?.events ?? []);
    return this.begin(actor);
  }

  /** H1, H2: its subscriptions are in force and a step of its epoch is committed before anybody is told. */
  async begin(actor: SessionActor): Promise<Reply<Activated>> {
    const { bus, hosting } = this.#options;
    try {
      await bus.flush();
    } catch (error) {
      hosting.drop(actor);
      actor.silence();
      throw error;
    }
    actor.activate();
    await actor.idle();
    return actor.stopped ? notNow() : this.owned(actor);
  }

  /** The answer that it is ours. */
  async owned(actor: SessionActor): Promise<Reply<Activated>> {
    if (actor.status === 'starting') await actor.idle();
    if (!this.#options.hosting.answersFor(actor)) return notNow();
    const { broker } = this.#options;
    return success({ session: actor.id, broker, retryAfterMs: 0 }, actor.persistence.epoch);
  }

  // ---- orphans (W2) --------------------------------------------------------------------------------------

  get orphans(): readonly string[] {
    return [...this.#orphans];
  }

  /** A write that makes the session ours: one that failed may have been carried out. */
  async orphanIfFailed<T>(session: string, write: Promise<T>): Promise<T> {
    try {
      return await write;
    } catch (error) {
      this.#orphans.add(session);
      throw error;
    }
  }

  /** Somebody looks after it, or there is nothing to look after. */
  settled(session: string): void {
    this.#orphans.delete(session);
  }

  /** Its actor fell silent. While the lease holds, the store may still hold it to be ours. */
  silenced(actor: SessionActor, owner: string): void {
    if (actor.persistence.durable && this.#options.lease.holds(owner)) this.#orphans.add(actor.id);
  }
}
