/** What several parts of a process use together: it begins with the first of them and ends with the last. */
export class Shared<K> {
  readonly #entries = new Map<K, { users: number; readonly stop: () => void }>();

  /** Those that are in use. */
  get size(): number {
    return this.#entries.size;
  }

  /** Use it. `start` begins it, and returns what ends it. Returns what lets go of it; calling that again does nothing. */
  use(key: K, start: () => () => void): () => void {
    const known = this.#entries.get(key);
    const entry = known ?? { users: 0, stop: start() };
    if (known === undefined) this.#entries.set(key, entry);
    entry.users++;
    let using = true;
    return () => {
      if (!using) return;
      using = false;
      entry.users--;
      if (entry.users > 0) return;
      this.#entries.delete(key);
      entry.stop();
    };
  }
}
