/** Creating sessions: the same creation again is answered as the first time, another one of the same id is refused. */
import { newSession } from '../../actors/session.ts';
import type { SessionSettings } from '../../actors/sessiondata.ts';
import type { Clock } from '../clock.ts';
import type { Losses } from '../losses.ts';
import type { Reply } from '../protocol.ts';
import { failure } from '../replies.ts';
import type { Store } from '../store/store.ts';
import { ID } from '../subjects.ts';
import type { NewSession } from './asked.ts';
import type { Hosting } from './hosting.ts';
import type { Lease } from './lease.ts';
import type { Ownership } from './ownership.ts';
import { EphemeralSession } from './persistence.ts';
import type { Places } from './places.ts';
import { noPlace, notNow } from './responses.ts';
import type { Snapshots } from './versions.ts';

/** Of a session, for its life. */
const SETTINGS = {
  ttlMs: 0,
  maxExecutions: 100,
  keepExecutions: 32,
  tombstoneMs: 600_000,
  placementTimeoutMs: 30_000,
  providerTimeoutMs: 30_000,
  parkAfterMs: 10_000,
  quarantineAfter: 3,
} as const;

/** What a broker may set otherwise for the sessions that it creates. */
export type CreationSettings = Partial<
  Omit<SessionSettings, 'labels' | 'tenant' | 'maxConcurrentExecutions'>
>;

/** Of what is kept for no client: a stateless run. */
export function settingsOf(settings: CreationSettings | undefined): SessionSettings {
  return { ...SETTINGS, ...settings, ttlMs: 0, labels: {}, maxConcurrentExecutions: 1 };
}

export interface CreationOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly lease: Pick<Lease, 'incarnation'>;
  readonly hosting: Pick<Hosting, 'get' | 'host' | 'size'>;
  readonly ownership: Pick<Ownership, 'activate' | 'begin' | 'orphanIfFailed'>;
  readonly snapshots: Pick<Snapshots, 'encode'>;
  readonly settings: CreationSettings | undefined;
  /** Sessions with an actor here. Over it: OVERLOADED. */
  readonly maxSessions: number;
  /** Of all brokers. */
  readonly places: Pick<Places, 'within'>;
  /** True while the broker takes sessions on. */
  readonly isOpen: () => boolean;
  readonly losses: Losses;
}

export class Creation {
  readonly #options: CreationOptions;

  constructor(options: CreationOptions) {
    this.#options = options;
  }

  async create(asked: NewSession): Promise<Reply<unknown>> {
    const { lease, hosting, maxSessions, isOpen, losses } = this.#options;
    const owner = lease.incarnation;
    if (owner === undefined || !isOpen()) return notNow();
    if (typeof asked.session !== 'string' || !ID.test(asked.session))
      return failure('INVALID_ARGUMENT', 'id: must be 1 to 64 of A-Z, a-z, 0-9, _ and -', 0);
    if (hosting.size >= maxSessions) {
      losses.overloaded('sessions');
      return failure('OVERLOADED', 'The broker has as many sessions as it takes', 0, { retryAfterMs: 1_000 });
    }
    const known = hosting.get(asked.session);
    if (known !== undefined)
      return known.actor.persistence.durable ? this.#createdBefore(asked) : exists(asked.session);
    const made = await this.#options.places.within(asked.session, () =>
      asked.durability === 'none' ? this.#ephemeral(asked, owner) : this.#stored(asked, owner),
    );
    return made ?? this.#noPlace(asked);
  }

  /** There is no place for another session; what was created before is answered as then. */
  async #noPlace(asked: NewSession): Promise<Reply<unknown>> {
    if ((await this.#options.store.load(asked.session)) !== undefined) return this.#createdBefore(asked);
    return noPlace();
  }

  #newContext(asked: NewSession): ReturnType<typeof newSession> {
    const { clock, settings } = this.#options;
    const { session: id, labels, maxConcurrentExecutions, tenant } = asked;
    const ttlMs = asked.ttlMs ?? settings?.ttlMs ?? SETTINGS.ttlMs;
    return newSession({
      id,
      settings: {
        ...SETTINGS,
        ...settings,
        ttlMs,
        labels,
        maxConcurrentExecutions,
        // Absent where nobody is named: such a session is stored as releases before this one did.
        ...(tenant === undefined || tenant === '' ? undefined : { tenant }),
      },
      now: clock.now(),
    });
  }

  /** Of durability 'none': in this process only. */
  async #ephemeral(asked: NewSession, owner: string): Promise<Reply<unknown>> {
    const { store, hosting, ownership } = this.#options;
    const { session, state, tools, isolation, limits, redactEvents } = asked;
    const context = this.#newContext(asked);
    if ((await store.load(session)) !== undefined) return exists(session);
    const actor = hosting.host(session, {
      persistence: new EphemeralSession(),
      snapshot: { value: 'starting', context },
      state,
      meta: { tools, isolation, limits, redactEvents },
      live: new Map(),
      seq: 0,
      publishedSeq: 0,
      owner,
    });
    return ownership.begin(actor);
  }

  async #stored(asked: NewSession, owner: string): Promise<Reply<unknown>> {
    const { store, clock, ownership, snapshots } = this.#options;
    const { session, creation, state, tools, isolation, limits, redactEvents } = asked;
    const context = this.#newContext(asked);
    const { ttlMs } = context.settings;
    const nonce = clock.id();
    const created = store.create({
      session,
      operation: creation,
      owner,
      nonce,
      snapshot: snapshots.encode('starting', context, 1),
      fields: { state, meta: JSON.stringify({ creation, tools, isolation, limits, redactEvents }) },
      wakeAt: ttlMs > 0 ? clock.now() + ttlMs : undefined,
    });
    const reply = await ownership.orphanIfFailed(session, created);
    if (reply.status === 'dead') return notNow();
    if (reply.status === 'exists') return this.#createdBefore(asked);
    return ownership.activate(session, 0);
  }

  /** The same creation again is answered as the first time. */
  async #createdBefore({ session, creation }: NewSession): Promise<Reply<unknown>> {
    const { store, ownership } = this.#options;
    const { meta } = await store.readFields(session, ['meta']);
    if (meta === undefined || (JSON.parse(meta) as { creation?: string }).creation !== creation)
      return exists(session);
    return ownership.activate(session, 0);
  }
}

function exists(session: string): Reply<never> {
  return failure('ALREADY_EXISTS', `There is a session "${session}" already`, 0);
}
