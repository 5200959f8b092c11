/**
 * What the store said of sessions while things were done to the cluster, as a reader who owns nothing sees it. One look
 * after the other, so that what was seen later was so later.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { versionOf } from '../../src/session/snapshot.ts';
import { type SessionRecord, type Store, StoreError } from '../../src/store/store.ts';

/** Between two looks at the same session, in ms. */
const PAUSE_MS = 40;

export interface Seen {
  readonly epoch: number;
  /** Of the record: one more with each commit. */
  readonly version: number;
  /** The last event's number. */
  readonly seq: number;
  /** The incarnation; undefined while nobody owns it. */
  readonly owner: string | undefined;
  /** The version of its snapshot, which is that of a release. */
  readonly format: number | undefined;
}

interface Watched {
  /** By the wall clock, in ms. */
  readonly since: number;
  looks: number;
  /** Whatever differed from what was seen before it, by reign. */
  readonly reigns: Seen[][];
}

export class History {
  readonly #store: () => Promise<Pick<Store, 'load'>>;
  readonly #watched = new Map<string, Watched>();
  readonly #looking = new Set<string>();
  #reign = 0;
  #loop: Promise<void> | undefined;

  constructor(store: () => Promise<Pick<Store, 'load'>>) {
    this.#store = store;
  }

  /** Look at these from now on. What is returned ends that, after a last look. */
  watch(sessions: readonly string[]): () => Promise<void> {
    for (const session of sessions) {
      if (!this.#watched.has(session))
        this.#watched.set(session, { since: Date.now(), looks: 0, reigns: [] });
      this.#looking.add(session);
    }
    this.#loop ??= this.#look();
    return async () => {
      for (const session of sessions) this.#looking.delete(session);
      await Promise.all(sessions.map((session) => this.#lookAt(session)));
    };
  }

  /**
   * A master is gone, and with it whatever it had not given to a replica: numbers that were read there may be given
   * again. To be said before another one can be read.
   */
  beginReign(): void {
    this.#reign++;
  }

  /** When it was looked at for the first time, by the wall clock, in ms; undefined if it never was. */
  since(session: string): number | undefined {
    return this.#watched.get(session)?.since;
  }

  looks(session: string): number {
    return this.#watched.get(session)?.looks ?? 0;
  }

  /** What was seen, each reign for itself, in the order of time. */
  of(session: string): readonly (readonly Seen[])[] {
    return Object.values(this.#watched.get(session)?.reigns ?? []);
  }

  /** What was seen last; undefined if nothing was. */
  last(session: string): Seen | undefined {
    return this.of(session).at(-1)?.at(-1);
  }

  async stop(): Promise<void> {
    this.#looking.clear();
    await this.#loop;
  }

  async #look(): Promise<void> {
    while (this.#looking.size > 0) {
      await Promise.all([...this.#looking].map((session) => this.#lookAt(session)));
      await delay(PAUSE_MS);
    }
    this.#loop = undefined;
  }

  async #lookAt(session: string): Promise<void> {
    const reign = this.#reign;
    let record: SessionRecord | undefined;
    try {
      record = await (await this.#store()).load(session);
    } catch (error) {
      if (error instanceof StoreError) return; // Redis is away.
      throw error;
    }
    const watched = this.#watched.get(session);
    if (record === undefined || watched === undefined || reign !== this.#reign) return;
    const { epoch, version, seq, owner, snapshot } = record;
    const seen: Seen = { epoch, version, seq, owner, format: versionOf(snapshot) };
    watched.looks++;
    const all = (watched.reigns[reign] ??= []);
    const last = all.at(-1);
    if (last === undefined || last.version !== version || last.epoch !== epoch || last.owner !== owner)
      all.push(seen);
  }
}
