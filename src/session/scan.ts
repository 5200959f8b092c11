/**
 * Finding sessions that nobody looks after: those with work whose owner is dead or gave them up, those that an
 * acquisition left behind here, and those whose time has come.
 */
import type { Clock } from '../clock.ts';
import { type Store, StoreError } from '../store/store.ts';
import type { Hosting } from './hosting.ts';
import type { Notify } from './notice.ts';
import type { Ownership } from './ownership.ts';

/** Entries of an index that are read at once. */
const PAGE = 100;
/** Sessions that are taken over at once: each costs the store and the main loop a little. */
const AT_ONCE = 16;

export interface ScanOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly hosting: Pick<Hosting, 'get' | 'has'>;
  readonly ownership: Pick<Ownership, 'activate' | 'isUnderway' | 'orphans' | 'settled'>;
  /** True while the broker takes sessions on and its lease holds. */
  readonly mayOwn: () => boolean;
  /** True while the broker takes sessions on. */
  readonly isOpen: () => boolean;
  readonly notify: Notify;
}

export class Scan {
  readonly #options: ScanOptions;
  #underway = false;

  constructor(options: ScanOptions) {
    this.#options = options;
  }

  /** One at a time; a call meanwhile does nothing. Never rejects: what the store could not tell, the next one finds. */
  async run(): Promise<void> {
    const { store, clock, ownership, mayOwn, notify } = this.#options;
    if (!mayOwn() || this.#underway) return;
    this.#underway = true;
    try {
      const owners = [...(await store.deadIncarnations(PAGE)), undefined];
      for (const owner of owners) await this.#all(() => store.workOf(owner, PAGE));
      await this.#takeOverAll(ownership.orphans);
      await this.#all(() => store.dueWakes(clock.now(), PAGE));
    } catch (error) {
      if (!(error instanceof StoreError)) notify({ type: 'error', session: undefined, error });
    } finally {
      this.#underway = false;
    }
  }

  /** Page after page, for as long as what is taken over makes room for others. */
  async #all(read: () => Promise<readonly string[]>): Promise<void> {
    const seen = new Set<string>();
    for (;;) {
      const page = await read();
      const fresh = page.filter((session) => !seen.has(session));
      for (const session of fresh) seen.add(session);
      await this.#takeOverAll(fresh);
      if (page.length < PAGE || fresh.length === 0 || !this.#options.mayOwn()) return;
    }
  }

  /** In an order of its own: brokers that scan at the same time should not all try the same ones. */
  async #takeOverAll(sessions: readonly string[]): Promise<void> {
    const from = sessions.length === 0 ? 0 : this.#anyNumber() % sessions.length;
    const left = [...sessions.slice(from), ...sessions.slice(0, from)];
    const worker = async (): Promise<void> => {
      for (let session = left.shift(); session !== undefined; session = left.shift())
        await this.#takeOver(session);
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, left.length) }, worker));
  }

  #anyNumber(): number {
    const id = this.#options.clock.id();
    return id.charCodeAt(0) * 128 + id.charCodeAt(1);
  }

  async #takeOver(session: string): Promise<void> {
    const { store, hosting, ownership, isOpen } = this.#options;
    if (hosting.has(session) || ownership.isUnderway(session) || !isOpen()) return;
    const reply = await ownership.activate(session, 0);
    if (!reply.ok) {
      if (reply.error.code !== 'NOT_FOUND') return;
      ownership.settled(session);
      return store.cleanIndexes(session);
    }
    ownership.settled(session);
    if (reply.value.broker === undefined) return;
    hosting.get(session)?.actor.tell((around) => ({ type: 'time.passed', ...around }));
  }
}
