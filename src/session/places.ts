/**
 * How many sessions all brokers of the namespace have together, and whether there may be one more. The store keeps what
 * each broker has; a broker that is gone is forgotten with its time.
 *
 * Invariants:
 *  P1  One question is under way at a time: each says how many this broker has, and what comes late must not take back
 *      what was granted after it.
 *  P2  A session that was granted a place counts from then on, until it is here or came to nothing.
 */
import type { Clock } from '../clock.ts';
import type { Losses } from '../losses.ts';
import { type Store, StoreError } from '../store/store.ts';
import type { Lease } from './lease.ts';

/** What brokers share. */
const NAME = 'sessions';

export interface PlacesOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly lease: Pick<Lease, 'incarnation'>;
  /** Sessions of all brokers; 0 for no limit, and then nobody is asked. */
  readonly most: number;
  /** What a broker told counts for so long, in ms. */
  readonly ttlMs: number;
  /** Sessions here that count, and whether one is here. */
  readonly here: { readonly counted: number; has(session: string): boolean };
  readonly losses: Pick<Losses, 'overloaded'>;
}

export class Places {
  readonly #options: PlacesOptions;
  /** Sessions that were granted a place, and may not be here yet (P2). */
  readonly #granted = new Set<string>();
  #underway: Promise<unknown> = Promise.resolve();
  #telling = false;
  /** What the store was told last, of whom, and when. */
  #told: { readonly holder: string; readonly has: number; readonly at: number } | undefined;

  constructor(options: PlacesOptions) {
    this.#options = options;
  }

  get limited(): boolean {
    return this.#options.most > 0;
  }

  /**
   * Do what adds a session, if there is a place for it. Undefined: there is none, and nothing was done. Rejects with what
   * `add` rejects with, or a StoreError if nobody could be asked.
   */
  async within<T>(session: string, add: () => Promise<T>): Promise<T | undefined> {
    if (!this.limited || this.#options.here.has(session) || this.#granted.has(session)) return add();
    if (!(await this.#ask(session))) {
      this.#options.losses.overloaded('sessions');
      return undefined;
    }
    try {
      return await add();
    } finally {
      this.#granted.delete(session);
    }
  }

  /** Say what there is here, if that has changed or was said long ago. Never rejects: it is said again. */
  sweep(): void {
    const { clock, ttlMs, lease } = this.#options;
    const holder = lease.incarnation;
    if (!this.limited || this.#telling || holder === undefined) return;
    const told = this.#told;
    const isNew = told?.holder !== holder || told.has !== this.#has;
    if (!isNew && clock.monotonic() - told.at < ttlMs / 4) return;
    this.#telling = true;
    void this.#ask(undefined)
      .catch((error: unknown) => {
        if (!(error instanceof StoreError)) throw error;
      })
      .finally(() => {
        this.#telling = false;
      });
  }

  /** Nothing of this broker counts any more. Rejects with a StoreError if the store cannot be told. */
  async end(): Promise<void> {
    const { store } = this.#options;
    await this.#underway; // P1
    const told = this.#told;
    if (told === undefined) return;
    this.#told = undefined;
    await store.holdShare({ name: NAME, holder: told.holder, has: 0, ttlMs: this.#options.ttlMs });
  }

  get #has(): number {
    const { here } = this.#options;
    let coming = 0;
    for (const session of this.#granted) if (!here.has(session)) coming++;
    return here.counted + coming;
  }

  /** P1. With a session: may it come? Without: only tell. */
  #ask(session: string | undefined): Promise<boolean> {
    const asked = this.#underway.then(() => this.#tell(session));
    this.#underway = asked.catch(() => undefined);
    return asked;
  }

  async #tell(session: string | undefined): Promise<boolean> {
    const { store, clock, lease, ttlMs, most } = this.#options;
    const holder = lease.incarnation;
    if (holder === undefined) throw new StoreError('UNAVAILABLE', 'holdShare', 'the lease is not held');
    const has = this.#has;
    const share = { name: NAME, holder, has, ttlMs };
    const { granted } = await store.holdShare(session === undefined ? share : { ...share, most });
    const more = session !== undefined && granted;
    if (more) this.#granted.add(session);
    this.#told = { holder, has: has + (more ? 1 : 0), at: clock.monotonic() };
    return granted;
  }
}
