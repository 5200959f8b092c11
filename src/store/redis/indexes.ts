/**
 * The two indexes that find work without a client (S7). They are on other nodes than the sessions, if there are
 * several, so that no step can write both. What makes them supersets all the same:
 *
 *  I1  Every record has a *cover*, a number that only rises: at a creation (from the server's clock in µs, so
 *      that a session that is created anew begins above all that its name had before), at an acquisition, and
 *      when the indexes are cleaned. Every entry has the cover of the record for which it was written.
 *  I2  An entry is written before the commit that needs it, and the commit names the cover under which it was
 *      written. If the record's is another one by then, the commit changes nothing, and the entry is written
 *      anew.
 *  I3  To clean, the record's cover is raised first. In the same step it is read what the record needs. Every
 *      commit that relies on an entry of a lower cover was carried out before that, or is refused; so entries
 *      of lower covers that the record does not need are not needed by anybody, and are removed, however late
 *      that happens.
 *  I4  A write to an index never lowers a cover, and makes a wake later only while cleaning.
 *
 * After a fail-over that lost writes (ack 'master'), entries may be lost whose records were not: whoever owned
 * the session writes them anew, for it has lost its connection too; a session whose owner died in that same
 * moment is found when a client asks for it.
 */
import { StoreError } from '../store.ts';
import type { Keys } from './keys.ts';
import { HEAD, headOf, type SessionHead } from './record.ts';
import { ADD_WAKE, ADD_WORK, CLEAN_WAKE, CLEAN_WORK, FENCE, REMOVE_WORK } from './scripts.ts';
import type { Call, Wire } from './wire.ts';

/**
 * How old the cover of an entry must be to be removed when there is no record, in µs: one that is being created
 * has its entry before its record. Longer than a creation may be on its way, see sessions.ts.
 */
const UNCREATED_US = 120_000_000;
/** Entries that are looked at in one go. */
const PAGE = 256;
/** How often a scan goes on after entries that turned out to be wrong. */
const MAX_PAGES = 64;

export class Indexes {
  readonly #wire: Wire;
  readonly #keys: Keys;

  constructor(wire: Wire, keys: Keys) {
    this.#wire = wire;
    this.#keys = keys;
  }

  async addWork(call: Call, owner: string | undefined, session: string, cover: string): Promise<void> {
    const keys = [this.#keys.work(owner), this.#keys.owners];
    await this.#wire.write(call, ADD_WORK, keys, [session, cover, owner ?? '']);
  }

  /** Unless it was covered anew. */
  async removeWork(call: Call, owner: string | undefined, session: string, cover: string): Promise<void> {
    const keys = [this.#keys.work(owner), this.#keys.owners];
    await this.#wire.write(call, REMOVE_WORK, keys, [session, cover, owner ?? ''], () => false);
  }

  async addWake(call: Call, session: string, cover: string, wakeAt: number): Promise<void> {
    await this.#wire.write(call, ADD_WAKE, this.#keys.wake(session), [session, cover, wakeAt]);
  }

  /** All that a session has, which was deleted under this cover. */
  async removeAll(call: Call, session: string, cover: string): Promise<void> {
    await Promise.all([
      this.#cleanWork(call, [session, cover, this.#keys.workOf, '0', '', '']),
      this.#cleanWake(call, session, [session, cover, '', '']),
    ]);
  }

  /** I3. Puts right what the indexes have for a session. */
  async clean(call: Call, session: string): Promise<void> {
    const key = this.#keys.session(session);
    const [before = '', owner, work = '0', wake = '', cover = ''] = (await this.#wire.write(
      call,
      FENCE,
      [key],
      [],
    )) as readonly string[];
    // Without a session, all that is not of one that is just being created.
    if (owner === undefined) return this.removeAll(call, session, String(Number(before) - UNCREATED_US));
    await Promise.all([
      this.#cleanWork(call, [session, before, this.#keys.workOf, work, owner, cover]),
      this.#cleanWake(call, session, [session, before, wake, cover]),
    ]);
  }

  async owners(call: Call): Promise<readonly string[]> {
    return (await this.#wire.scan(call, 'smembers', [this.#keys.owners])) as string[];
  }

  /** Checked against the records; what is wrong is removed. */
  async workOf(call: Call, owner: string | undefined, limit: number): Promise<readonly string[]> {
    const key = this.#keys.work(owner);
    const found: string[] = [];
    let at = 0;
    for (let page = 0; page < MAX_PAGES && found.length < limit; page++) {
      const sessions = (await this.#wire.scan(call, 'zrange', [key, at, at + PAGE - 1])) as string[];
      const heads = await this.#heads(call, sessions);
      const right = heads.filter(([, head]) => head?.work === true && head.owner === owner);
      for (const [session] of right) found.push(session);
      // Those that stay are passed; those that are removed leave their places.
      at += sessions.length - (await this.#cleanAll(call, heads, right));
      if (sessions.length < PAGE) break;
    }
    return found.slice(0, limit);
  }

  /** Checked against the records; what is wrong is put right. */
  async dueWakes(call: Call, now: number, limit: number): Promise<readonly string[]> {
    if (limit === 0 || Number.isNaN(now)) return [];
    const range = ['-inf', now, 'BYSCORE', 'LIMIT', 0, limit];
    let found: readonly (readonly [string, SessionHead | undefined])[] = [];
    for (let page = 0; page < MAX_PAGES; page++) {
      const parts = await Promise.all(
        this.#keys.wakeParts().map(([key]) => this.#wire.scan(call, 'zrange', [key, ...range])),
      );
      const heads = await this.#heads(call, (parts as string[][]).flat());
      found = heads.filter(([, head]) => head?.wakeAt !== undefined && head.wakeAt <= now);
      const cleaned = await this.#cleanAll(call, heads, found);
      if (cleaned === 0 || found.length >= limit) break;
    }
    return found
      .toSorted(([, one], [, other]) => (one?.wakeAt ?? 0) - (other?.wakeAt ?? 0))
      .slice(0, limit)
      .map(([session]) => session);
  }

  async #heads(
    call: Call,
    sessions: readonly string[],
  ): Promise<readonly (readonly [string, SessionHead | undefined])[]> {
    return Promise.all(
      sessions.map(async (session) => {
        const texts = await this.#wire.read(call, 'hmget', [this.#keys.session(session), ...HEAD]);
        return [session, headOf(texts as (string | null)[])] as const;
      }),
    );
  }

  /**
   * All but the right ones. Answers how many were put right: those without a record may have to wait (see
   * UNCREATED_US), and if Redis cannot do it now the next scan will.
   */
  async #cleanAll(
    call: Call,
    heads: readonly (readonly [string, SessionHead | undefined])[],
    right: readonly (readonly [string, SessionHead | undefined])[],
  ): Promise<number> {
    const kept = new Set(right.map(([session]) => session));
    const wrong = heads.filter(([session]) => !kept.has(session));
    const cleaned = await Promise.all(
      wrong.map(async ([session, head]) => {
        try {
          await this.clean(call, session);
          return head !== undefined;
        } catch (error) {
          if (error instanceof StoreError) return false;
          throw error;
        }
      }),
    );
    return cleaned.filter((each) => each).length;
  }

  async #cleanWork(call: Call, args: readonly string[]): Promise<void> {
    await this.#wire.write(call, CLEAN_WORK, [this.#keys.owners], args);
  }

  async #cleanWake(call: Call, session: string, args: readonly string[]): Promise<void> {
    await this.#wire.write(call, CLEAN_WAKE, this.#keys.wake(session), args);
  }
}
