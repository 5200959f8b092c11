/**
 * What this broker owes to runtimes and providers: the word that what they told is committed, so that they may
 * forget it. It can wait for a moment, and one message says it for many attempts and calls, of any session.
 *
 * Invariants:
 *  K1  Only what is committed is acknowledged, and nothing in the name of a lease that has ended: `mayAct` is asked
 *      when the message is sent.
 *  K2  What is not acknowledged is told again, and acknowledged again: nothing here need arrive.
 */
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { AckReports, ProviderCommand } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';

/** How long an acknowledgement waits for others, in ms. Far below the time after which reports are sent again. */
export const ACK_MS = 10;
/** Acknowledgements in one message. */
const MOST = 500;

type MayAct = () => boolean;
interface Owed {
  readonly epoch: number;
  readonly ack: number;
  readonly mayAct: MayAct;
}

export interface AcksOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
}

export class Acks {
  readonly #options: AcksOptions;
  /** By runtime and attempt. */
  readonly #attempts = new Map<string, Map<string, Owed>>();
  /** By provider and key of the call. */
  readonly #calls = new Map<string, Map<string, MayAct>>();
  #callOff: (() => void) | undefined;

  constructor(options: AcksOptions) {
    this.#options = options;
  }

  /** Reports of an attempt up to number `ack` are committed. */
  attempt(runtime: string, attempt: string, owed: Owed): void {
    entryOf(this.#attempts, runtime).set(attempt, owed);
    this.#soon();
  }

  /** The end of a call is committed. */
  call(provider: string, key: string, mayAct: MayAct): void {
    entryOf(this.#calls, provider).set(key, mayAct);
    this.#soon();
  }

  /** Tell everything that is owed, now. */
  flush(): void {
    this.#callOff?.();
    this.#callOff = undefined;
    const { subjects } = this.#options;
    for (const [runtime, owed] of this.#attempts) {
      const acks = [...owed].flatMap(([attempt, { epoch, ack, mayAct }]) =>
        mayAct() ? [[attempt, epoch, ack] as const] : [],
      );
      for (const some of parts(acks)) this.#publish(subjects.runtimeCmd(runtime), { t: 'acks', acks: some });
    }
    this.#attempts.clear();
    for (const [provider, owed] of this.#calls) {
      const keys = [...owed].flatMap(([key, mayAct]) => (mayAct() ? [key] : []));
      for (const some of parts(keys)) this.#publish(subjects.providerCmd(provider), { t: 'ack', keys: some });
    }
    this.#calls.clear();
  }

  #soon(): void {
    this.#callOff ??= this.#options.clock.after(ACK_MS, () => this.flush());
  }

  #publish(subject: string, body: AckReports | ProviderCommand): void {
    publishOrDrop(this.#options.bus, subject, body); // K2
  }
}

function entryOf<T>(all: Map<string, Map<string, T>>, id: string): Map<string, T> {
  let found = all.get(id);
  if (found === undefined) {
    found = new Map();
    all.set(id, found);
  }
  return found;
}

function parts<T>(all: readonly T[]): readonly (readonly T[])[] {
  if (all.length <= MOST) return all.length === 0 ? [] : [all];
  return Array.from({ length: Math.ceil(all.length / MOST) }, (_, part) =>
    all.slice(part * MOST, (part + 1) * MOST),
  );
}
