/**
 * Becoming a session's owner: it is acquired in the store, loaded, hosted, and begins with a commit in its new epoch.
 *
 * Upholds H1 and H2 of broker.ts. Beyond them:
 *  W1  Several requests at once share one acquisition, and who asks during a hand-over is told what comes of it.
 *  W2  A session that the store holds to be this incarnation's, and that has no actor here, is an orphan until it is
 *      hosted or turns out to be somebody else's: no other broker looks after it while this one lives.
 *  W3  A session that a newer release stored is left to brokers that can read it, as it is.
 *  W4  An epoch is never reached from below by whoever saw a higher one. A Redis that lost acquisitions in a fail-over
 *      knows of lower ones only: whoever holds the session there takes it again, above what was seen.
 */
import { type Bus, BusError } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Activated, AdoptSession, Reply } from '../protocol.ts';
import { success } from '../replies.ts';
import type { SessionRecord, Store } from '../store/store.ts';
import type { Subjects } from '../subjects.ts';
import type { SessionActor } from './actor.ts';
import type { Directory } from './directory.ts';
import type { Hosting } from './hosting.ts';
import type { Lease } from './lease.ts';
import { loadSession } from './load.ts';
import type { Notify } from './notice.ts';
import { StoredSession } from './persistence.ts';
import { noSession, notNow, tooNew } from './responses.ts';
import type { Snapshots } from './versions.ts';

export interface OwnershipOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly store: Store;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Pick<Directory, 'brokers'>;
  readonly lease: Pick<Lease, 'incarnation' | 'holds'>;
  readonly hosting: Pick<Hosting, 'get' | 'has' | 'host' | 'drop' | 'answersFor'>;
  readonly snapshots: Pick<Snapshots, 'encode' | 'decode' | 'isNewer'>;
  /** True once the broker does nothing any more. */
  readonly isClosed: () => boolean;
  readonly notify: Notify;
}

/** Longest wait for the holder of a session to take it again, in ms. */
const ADOPT_MS = 1_000;

/** Longest wait that is advised to those who ask for a session that is held, in ms: its lease may end before its time. */
const HELD_MS = 200;

/** Silence after a notice of a session that is too new, in ms. */
const QUIET_MS = 60_000;

export class Ownership {
  readonly #options: OwnershipOptions;
  readonly #underway = new Map<string, Promise<Reply<Activated>>>();
  /** W2, each with the least epoch that it may be acquired in (W4). */
  readonly #orphans = new Map<string, number>();
  #toldTooNewAt = Number.NEGATIVE_INFINITY;

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
  async acquire(session: string, seenEpoch: number): Promise<Reply<Activated>> {
    const { store, clock, lease, hosting, snapshots } = this.#options;
    const there = hosting.get(session);
    if (there !== undefined && !there.moving) {
      const { durable, epoch } = there.actor.persistence;
      if (!durable || epoch >= seenEpoch) return this.owned(there.actor);
      there.actor.silence(); // W4
    }
    const owner = lease.incarnation;
    if (owner === undefined || hosting.has(session)) return notNow();
    const minEpoch = Math.max(seenEpoch, this.#orphans.get(session) ?? 0);
    const seen = await store.load(session);
    if (seen === undefined) return noSession(session);
    // W3. One that is ours already is taken in all the same, to be given back.
    if (seen.owner !== owner && snapshots.isNewer(seen.snapshot)) return this.#leaveAlone(session);
    const nonce = clock.id();
    const acquisition = { session, owner, nonce, minEpoch, expectedEpoch: seen.epoch };
    const reply = await this.orphanIfFailed(session, store.acquire(acquisition));
    if (reply.status === 'moved') return notNow();
    if (reply.status === 'not_found') return noSession(session);
    if (reply.status === 'dead') return notNow();
    if (reply.status === 'held') {
      const again =
        reply.epoch < minEpoch ? await this.#takenAgain(session, reply.owner, minEpoch) : undefined;
      if (again !== undefined) return again;
      const retryAfterMs = Math.min(Math.max(reply.retryAfterMs, 10), HELD_MS);
      return success({ session, broker: undefined, retryAfterMs }, 0);
    }
    this.#orphan(session); // W2
    return this.#takeIn(reply.record, reply.fields, owner, nonce, seen.owner);
  }

  /** W4: have the broker that holds it take it again. Undefined if that is not known, or does not. */
  async #takenAgain(session: string, owner: string, minEpoch: number): Promise<Reply<Activated> | undefined> {
    const { broker: own, bus, subjects, directory } = this.#options;
    const isIts = ({ broker }: { readonly broker: string }): boolean =>
      broker !== own && owner.startsWith(`${broker.slice(0, 40)}-`);
    // An id may begin with another one.
    const [holder] = directory
      .brokers()
      .filter(isIts)
      .toSorted((one, other) => other.broker.length - one.broker.length);
    if (holder === undefined) return undefined;
    try {
      const body = { t: 'adopt', session, minEpoch } satisfies AdoptSession;
      const timeoutMs = ADOPT_MS;
      const reply = await bus.request(subjects.brokerCmd(holder.broker), body, { timeoutMs });
      const taken = reply as Reply<Activated>;
      return taken.ok && typeof taken.value.broker === 'string' ? taken : undefined;
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      return undefined;
    }
  }

  /** It is ours in the store: load it, host it, begin. */
  async #takeIn(
    record: SessionRecord,
    fields: Readonly<Record<string, string>>,
    owner: string,
    nonce: string,
    from: string | undefined,
  ): Promise<Reply<Activated>> {
    const { store, clock, lease, hosting, snapshots, isClosed, notify } = this.#options;
    const { session, epoch, version, seq, publishedSeq } = record;
    if (!lease.holds(owner)) return notNow();
    if (snapshots.isNewer(record.snapshot)) return this.#giveBack(record, owner, nonce);
    // All that may fail is read before there is an actor.
    const loaded = await loadSession(store, snapshots, record, fields);
    const unpublished =
      publishedSeq < seq ? await store.readEvents(session, publishedSeq + 1, seq - publishedSeq) : undefined;
    if (!lease.holds(owner) || hosting.has(session) || isClosed()) return notNow();
    const held = { session, owner, epoch, nonce, version };
    const mayAct = (): boolean => lease.holds(owner);
    const onError = (error: unknown): void => notify({ type: 'error', session, error });
    const persistence = new StoredSession(store, clock, snapshots, held, mayAct, onError);
    const actor = hosting.host(session, { ...loaded, persistence, owner, seq, publishedSeq });
    this.#orphans.delete(session);
    // What was given up is handed over, not taken.
    if (from !== undefined && from !== owner && loaded.snapshot.context.pending.length > 0)
      notify({ type: 'session.taken_over', session, epoch, from });
    actor.republish(unpublished?.events ?? []);
    return this.begin(actor);
  }

  /**
   * W3: its last owner stored it in a newer version after we had looked. It is released with nothing of it changed;
   * the work index has it, so that whoever can read it looks after it.
   */
  async #giveBack(record: SessionRecord, owner: string, nonce: string): Promise<Reply<Activated>> {
    const { session, epoch, version, seq, publishedSeq, snapshot } = record;
    await this.#options.store.commit({
      session,
      owner,
      epoch,
      nonce,
      expectedVersion: version,
      operation: `${nonce}.1`,
      snapshot,
      firstSeq: seq + 1,
      events: [],
      publishedSeq,
      work: true,
      wakeAt: undefined,
      release: true,
    });
    this.#orphans.delete(session);
    return this.#leaveAlone(session);
  }

  /** W3 */
  #leaveAlone(session: string): Reply<never> {
    const { clock, notify } = this.#options;
    const now = clock.monotonic();
    if (now - this.#toldTooNewAt >= QUIET_MS) {
      this.#toldTooNewAt = now;
      notify({ type: 'session.too_new', session });
    }
    return tooNew(session);
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
    return [...this.#orphans.keys()];
  }

  #orphan(session: string, minEpoch = 0): void {
    this.#orphans.set(session, Math.max(minEpoch, this.#orphans.get(session) ?? 0));
  }

  /** A write that makes the session ours: one that failed may have been carried out. */
  async orphanIfFailed<T>(session: string, write: Promise<T>): Promise<T> {
    try {
      return await write;
    } catch (error) {
      this.#orphan(session);
      throw error;
    }
  }

  /** Somebody looks after it, or there is nothing to look after. */
  settled(session: string): void {
    this.#orphans.delete(session);
  }

  /** Its actor fell silent. While the lease holds, the store may still hold it to be ours. */
  silenced(actor: SessionActor, owner: string): void {
    const { durable, epoch } = actor.persistence;
    if (durable && this.#options.lease.holds(owner)) this.#orphan(actor.id, epoch + 1);
  }
}
