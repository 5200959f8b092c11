/** What everything of one client shares. */
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { CreateSession, SessionLimits } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import type { Inbox } from './inbox.ts';
import type { Requests } from './request.ts';

export interface ClientContext {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly requests: Requests;
  readonly inbox: Inbox;
  readonly defaults: ClientDefaults;
  readonly closing: Closing;
}

/** What holds where nothing was said. */
export interface ClientDefaults {
  readonly limits: SessionLimits;
  readonly isolation: CreateSession['isolation'];
}

/** The end of a client, as those see it who must end with it. */
export class Closing {
  readonly #ends = new Set<() => void>();
  #closed = false;

  get closed(): boolean {
    return this.#closed;
  }

  /** Call `end` once when the client closes. Returns what calls that off. */
  onClose(end: () => void): () => void {
    this.#ends.add(end);
    return () => {
      this.#ends.delete(end);
    };
  }

  /** Safe to call again. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const end of [...this.#ends]) end();
    this.#ends.clear();
  }
}
