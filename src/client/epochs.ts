/**
 * The highest epoch that this client has seen of each session. An answer of a lower one comes from an owner that
 * has been replaced and does not know it yet, or that was slow.
 *
 * Bounded: of more than 10,000 sessions the longest unused is forgotten, which costs no more than the belief in one
 * such answer. Commits are fenced by the store, not here.
 */
const MAX_SESSIONS = 10_000;

export class Epochs {
  readonly #highest = new Map<string, number>();

  /** 0 if none was seen. */
  of(session: string): number {
    return this.#highest.get(session) ?? 0;
  }

  /** Take note of an answer's epoch. False: it is lower than one that was seen, so the answer is to be dropped. */
  admit(session: string, epoch: number): boolean {
    const highest = this.of(session);
    if (epoch < highest) return false;
    this.#highest.delete(session);
    this.#highest.set(session, epoch);
    if (this.#highest.size > MAX_SESSIONS) {
      const [oldest] = this.#highest.keys();
      if (oldest !== undefined) this.#highest.delete(oldest);
    }
    return true;
  }

  /** The session is gone, or about to be created: epochs of its name begin anew. */
  forget(session: string): void {
    this.#highest.delete(session);
  }
}
