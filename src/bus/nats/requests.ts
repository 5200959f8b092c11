/**
 * Requests that wait for their answer, over one subscription for all of them. The library's own requests cost twice
 * as much: it makes a promise for the timer, one for the answer and one for the race between them.
 *
 *  R1  A request is settled once, by whatever comes first: an answer, the server's word that nobody listens or that
 *      we may not ask, its time, or the end of its handle.
 *  R2  A request made while we are away from the server is held back for a moment, and sent if we are back by then;
 *      else it is rejected as DISCONNECTED, and never sent. What was sent once is not sent again: it may have been
 *      carried out though its connection was lost.
 *  R3  Only who got a request can answer it: the place to answer to cannot be guessed.
 */
import { systemClock } from '../../clock.ts';
import { type Body, BusError, type RequestOptions, type TraceHeaders } from '../bus.ts';
import { type Connection, type Msg, type Source, saysNoResponders } from './connection.ts';
import { decode } from './text.ts';

/** Longest time for which a request is held back, in ms: long enough that callers who try again do not spin. */
const HOLD_MS = 250;

interface Pending {
  readonly subject: string;
  /** The handle that asked. */
  readonly owner: object;
  readonly resolve: (body: Body) => void;
  readonly reject: (error: BusError) => void;
  /** Calls the timer off. */
  cancel: () => void;
  /** R2: what is still to be sent, and when its time is over by the monotonic clock. */
  held:
    | { readonly data: Uint8Array; readonly trace: TraceHeaders | undefined; readonly until: number }
    | undefined;
}

export class Requests {
  readonly #connection: Connection;
  readonly #inbox: string;
  readonly #report: (error: unknown, subject: string) => void;
  readonly #pending = new Map<string, Pending>();
  #answers: Source | undefined;

  constructor(
    connection: Connection,
    inboxPrefix: string,
    report: (error: unknown, subject: string) => void,
  ) {
    this.#connection = connection;
    this.#inbox = `${inboxPrefix}.${systemClock.id()}.`;
    this.#report = report;
  }

  /** Send, and wait for the answer. Throws and rejects with {@link BusError}. */
  ask(owner: object, subject: string, data: Uint8Array, options: RequestOptions): Promise<Body> {
    const { timeoutMs, trace } = options;
    this.#answers ??= this.#subscribe();
    const token = systemClock.id();
    const sent = this.#connection.publish(subject, data, this.#inbox + token, trace);
    return new Promise((resolve, reject) => {
      const held = sent ? undefined : { data, trace, until: systemClock.monotonic() + timeoutMs };
      const cancel = sent ? this.#expire(token, timeoutMs) : this.#giveUp(token, timeoutMs);
      this.#pending.set(token, { subject, owner, resolve, reject, cancel, held });
    });
  }

  /** R2: we are connected again. */
  sendHeld(): void {
    for (const [token, pending] of this.#pending) {
      const { subject, held } = pending;
      if (held === undefined) continue;
      try {
        if (!this.#connection.publish(subject, held.data, this.#inbox + token, held.trace)) return;
        pending.held = undefined;
        pending.cancel();
        pending.cancel = this.#expire(token, Math.max(1, held.until - systemClock.monotonic()));
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        this.#take(token)?.reject(error);
      }
    }
  }

  /** The server does not let us publish to the subject. */
  refuse(subject: string): void {
    this.#failAll('FORBIDDEN', 'the server does not allow us to publish to it', (each) => {
      return each.subject === subject && each.held === undefined;
    });
  }

  /** A handle is closing. */
  abandon(owner: object): void {
    this.#failAll('CLOSED', 'this handle of the bus was closed', (each) => each.owner === owner);
  }

  /** The connection was closed for good. */
  end(): void {
    const why = 'there is no connection to NATS any more, so it was not sent'; // R2
    this.#failAll('DISCONNECTED', why, ({ held }) => held !== undefined);
    this.#failAll('CLOSED', 'the connection to NATS was closed', () => true);
    this.#answers = undefined;
  }

  /** Take no more answers. */
  close(): void {
    this.#answers?.unsubscribe();
    this.#answers = undefined;
  }

  #subscribe(): Source {
    return this.#connection.subscribe(`${this.#inbox}*`, {
      queue: undefined,
      onMessage: (message) => this.#answer(message),
      onRefused: () => {
        this.#answers = undefined;
        const why = `the server does not allow us to read answers on ${this.#inbox}*`;
        this.#failAll('FORBIDDEN', why, () => true);
      },
    });
  }

  #expire(token: string, ms: number): () => void {
    return systemClock.after(ms, () => this.#fail(token, 'TIMEOUT', `no answer within ${Math.ceil(ms)} ms`));
  }

  /** R2. */
  #giveUp(token: string, timeoutMs: number): () => void {
    return systemClock.after(Math.min(HOLD_MS, timeoutMs), () =>
      this.#fail(token, 'DISCONNECTED', 'there is no connection to NATS, so it was not sent'),
    );
  }

  /** An answer, or what takes its place. It is called by the library: it must not throw. */
  #answer(message: Msg): void {
    const { subject } = message;
    const token = subject.slice(this.#inbox.length);
    if (!this.#pending.has(token)) return;
    if (saysNoResponders(message))
      return this.#fail(token, 'NO_RESPONDERS', 'nobody is subscribed, so nobody got the request');
    let body: Body;
    try {
      body = decode(message.data);
    } catch (error) {
      // Not an answer: the true one may still come.
      return this.#report(error, this.#pending.get(token)?.subject ?? subject);
    }
    this.#take(token)?.resolve(body);
  }

  /** R1: the request, for the first who takes it. */
  #take(token: string): Pending | undefined {
    const pending = this.#pending.get(token);
    if (pending === undefined) return undefined;
    pending.cancel();
    this.#pending.delete(token);
    return pending;
  }

  #fail(token: string, code: BusError['code'], why: string): void {
    const pending = this.#take(token);
    pending?.reject(new BusError(code, pending.subject, why));
  }

  #failAll(code: BusError['code'], why: string, which: (pending: Pending) => boolean): void {
    for (const [token, pending] of this.#pending) if (which(pending)) this.#fail(token, code, why);
  }
}
