/** Which sessions have work in flight, by owner; `undefined` is nobody. Without an owner that has none. */
export class Work {
  readonly #sessions = new Map<string | undefined, Set<string>>();

  add(owner: string | undefined, session: string): void {
    const sessions = this.#sessions.get(owner);
    if (sessions === undefined) this.#sessions.set(owner, new Set([session]));
    else sessions.add(session);
  }

  remove(owner: string | undefined, session: string): void {
    const sessions = this.#sessions.get(owner);
    if (sessions?.delete(session) === true && sessions.size === 0) this.#sessions.delete(owner);
  }

  of(owner: string | undefined, limit: number): readonly string[] {
    return this.#sessions.get(owner)?.values().take(limit).toArray() ?? [];
  }

  /** Those who have any, without nobody. */
  owners(): IteratorObject<string> {
    return this.#sessions.keys().filter((owner) => owner !== undefined);
  }
}
