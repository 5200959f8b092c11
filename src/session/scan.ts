/**
 * Finding sessions that nobody looks after: those with work whose owner is dead or gave them up, those that an
 * acquisition left behind here, and those whose time has come.
 */
import type { Clock } from '../clock.ts';
import { type Store, StoreError } from '../store/store.ts';
import type { Hosting } from './hosting.ts';
import type { Notify } from './notice.ts';
import type { Ownership } from './ownership.ts';

/** Entries of each index that one scan takes up. */
const SCAN_LIMIT = 100;

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
      const owners = [...(await store.deadIncarnations(SCAN_LIMIT)), undefined];
      for (const owner of owners) {
        for (const session of await store.workOf(owner, SCAN_LIMIT)) await this.#takeOver(session);
      }
      for (const session of ownership.orphans) await this.#takeOver(session);
      for (const session of await store.dueWakes(clock.now(), SCAN_LIMIT)) await this.#takeOver(session);
    } catch (error) {
      if (!(error instanceof StoreError)) notify({ type: 'error', session: undefined, error });
    } finally {
      this.#underway = false;
    }
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
