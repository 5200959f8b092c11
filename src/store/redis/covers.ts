/**
 * What this handle knows to be in the indexes, so that an ordinary commit writes none: one entry serves all
 * commits of an owner that it covers.
 */

/** What the indexes hold for one acquisition of a session, under one cover. */
export interface Cover {
  readonly owner: string;
  readonly epoch: number;
  readonly cover: string;
  /** The work index has it as the owner's, and as nobody's. */
  work: boolean;
  nobodys: boolean;
  /** The wake index has it no later than this; undefined if that is not known. */
  wake: number | undefined;
}

/** More sessions than a broker has; the one that was forgotten costs a round trip when it is needed again. */
const MAX_COVERS = 100_000;

export class Covers {
  readonly #covers = new Map<string, Cover>();

  get(session: string, owner: string, epoch: number): Cover | undefined {
    const known = this.#covers.get(session);
    return known?.owner === owner && known.epoch === epoch ? known : undefined;
  }

  set(session: string, cover: Cover): void {
    this.#covers.delete(session);
    this.#covers.set(session, cover);
    if (this.#covers.size <= MAX_COVERS) return;
    for (const oldest of this.#covers.keys()) {
      this.#covers.delete(oldest);
      break;
    }
  }

  drop(session: string): void {
    this.#covers.delete(session);
  }

  /** After a connection was lost: a fail-over may have taken entries along. */
  clear(): void {
    this.#covers.clear();
  }
}
