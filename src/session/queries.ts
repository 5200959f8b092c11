/** What any broker can tell of any session, whoever owns it: from its actor, from the store, or by asking its owner. */
import { type Bus, BusError } from '../bus/bus.ts';
import type { AskSession, EventsRead, ListSessions, ReadEvents, Reply, SessionsListed } from '../protocol.ts';
import { failure, success } from '../replies.ts';
import type { Store } from '../store/store.ts';
import type { Subjects } from '../subjects.ts';
import { infoOf, journalOf } from './commands.ts';
import type { Hosting } from './hosting.ts';
import { listed, storedInfo } from './load.ts';
import type { Ownership } from './ownership.ts';
import { noSession, notNow, tooNew } from './responses.ts';
import type { Snapshots } from './versions.ts';

/** Longest page of events, in bytes of JSON. */
const PAGE_BYTES = 256 * 1024;
/** Longest wait for the owner's answer, in ms. */
const FORWARD_MS = 1_000;

export interface QueriesOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly store: Store;
  readonly subjects: Subjects;
  readonly hosting: Pick<Hosting, 'get'>;
  readonly ownership: Pick<Ownership, 'activate'>;
  readonly snapshots: Pick<Snapshots, 'decode' | 'isNewer'>;
}

export class Queries {
  readonly #options: QueriesOptions;

  constructor(options: QueriesOptions) {
    this.#options = options;
  }

  async info({ session }: AskSession): Promise<Reply<unknown>> {
    const { broker, store, hosting, snapshots } = this.#options;
    const actor = hosting.get(session)?.actor;
    if (actor !== undefined) {
      while (actor.committing) await actor.committed();
      return success(infoOf(actor, broker), actor.persistence.epoch);
    }
    const record = await store.load(session);
    if (record === undefined) return noSession(session);
    if (snapshots.isNewer(record.snapshot)) return tooNew(session);
    const { state = '{}' } = await store.readFields(session, ['state']);
    return success(storedInfo(snapshots.decode(record.snapshot), record, state), record.epoch);
  }

  /** Sessions in the store, as they were last committed. Those of durability 'none' are not among them. */
  async list({ cursor = '', limit = 100 }: Partial<ListSessions>): Promise<Reply<unknown>> {
    if (typeof cursor !== 'string' || !Number.isInteger(limit) || limit < 1 || limit > 1_000)
      return failure('INVALID_ARGUMENT', 'limit: must be a whole number from 1 to 1,000', 0);
    const { store, snapshots } = this.#options;
    const page = await store.list(cursor, limit);
    const loaded = await Promise.all(page.sessions.map((session) => store.load(session)));
    const records = loaded.filter((record) => record !== undefined);
    const newer = records.find(({ snapshot }) => snapshots.isNewer(snapshot));
    if (newer !== undefined) return tooNew(newer.session);
    const sessions = records.map((record) => listed(snapshots.decode(record.snapshot), record));
    return success({ sessions, cursor: page.cursor } satisfies SessionsListed, 0);
  }

  async result({ session, execution = '' }: AskSession): Promise<Reply<unknown>> {
    const { store, snapshots } = this.#options;
    const name = `result:${execution}`;
    // The record first: a commit between the two reads can only make a result of what was running.
    const record = await store.load(session);
    const { [name]: result } = await store.readFields(session, [name]);
    if (result !== undefined) return success({ status: 'ended', result }, 0);
    if (record === undefined) return noSession(session);
    if (snapshots.isNewer(record.snapshot)) return tooNew(session);
    const { executions, finished } = snapshots.decode(record.snapshot).context;
    const isKnown = [...executions, ...finished].some(({ id }) => id === execution);
    return success({ status: isKnown ? 'running' : 'unknown', result: undefined }, record.epoch);
  }

  async events({ session, fromSeq, limit }: ReadEvents): Promise<Reply<unknown>> {
    const { store, hosting } = this.#options;
    const most = Math.min(Math.max(1, limit), 1_000);
    const page = await (hosting.get(session)?.actor.persistence.readEvents(fromSeq, most) ??
      store.readEvents(session, fromSeq, most));
    if (page === undefined) return this.#forward(session, { t: 'events', fromSeq, limit: most });
    let bytes = 0;
    const events = page.events.filter((event, index) => (bytes += event.length) <= PAGE_BYTES || index === 0);
    return success({ ...page, events } satisfies EventsRead, 0);
  }

  async journal({ session, execution = '' }: AskSession): Promise<Reply<unknown>> {
    const { hosting, ownership } = this.#options;
    const hosted = hosting.get(session);
    if (hosted !== undefined) return journalOf(hosted.actor, execution);
    const reply = await ownership.activate(session, 0);
    if (!reply.ok)
      return reply.error.code === 'NOT_FOUND' ? this.#forward(session, { t: 'journal', execution }) : reply;
    const now = hosting.get(session);
    return now === undefined
      ? this.#forward(session, { t: 'journal', execution })
      : journalOf(now.actor, execution);
  }

  /** Ask the owner itself: a session of durability 'none' is known to it alone. */
  async #forward(session: string, body: object): Promise<Reply<unknown>> {
    const { bus, subjects } = this.#options;
    try {
      const timeoutMs = FORWARD_MS;
      return (await bus.request(subjects.sessionCmd(session), body, { timeoutMs })) as Reply<unknown>;
    } catch (error) {
      if (error instanceof BusError && error.code === 'NO_RESPONDERS') return noSession(session);
      return notNow();
    }
  }
}
