/** What everything of one client shares. */
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import { EnclaveError } from '../errors.ts';
import { MOST_LIMITS, type ResolvedSessionLimits, type SessionLimitOptions } from '../options.ts';
import type { CreateSession } from '../protocol.ts';
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

/** What is asked for where a call says nothing; what is undefined is left to the broker. */
export interface ClientDefaults {
  readonly limits?: SessionLimitOptions | undefined;
  readonly isolation?: CreateSession['isolation'];
  /** What the brokers are known to grant where nobody asks. Default: that is not known. */
  readonly known?: ResolvedSessionLimits | undefined;
}

/** The limits that surely hold: what is larger is refused here already, and the rest is for the broker to see. */
export function surely(asked: SessionLimitOptions, { known }: ClientDefaults): ResolvedSessionLimits {
  const set = Object.entries(asked).filter(([, value]) => value !== undefined);
  return { ...(known ?? MOST_LIMITS), ...Object.fromEntries(set) };
}

/** The end of a client, or of its connection, as those see it who must end with it. */
export class Closing {
  readonly #ends = new Set<(why: EnclaveError) => void>();
  #closed = false;

  get closed(): boolean {
    return this.#closed;
  }

  /** Call `end` once: as CLOSED when the client closes, or as UNAVAILABLE when its connection is given up. Returns what calls that off. */
  onClose(end: (why: EnclaveError) => void): () => void {
    this.#ends.add(end);
    return () => {
      this.#ends.delete(end);
    };
  }

  /** Safe to call again. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.giveUp(new EnclaveError('CLOSED', 'The client was closed'));
  }

  /** End everything that waits now; what comes later is not concerned. */
  giveUp(why: EnclaveError): void {
    const ends = [...this.#ends];
    this.#ends.clear();
    for (const end of ends) end(why);
  }
}
