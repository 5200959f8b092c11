/**
 * A subscription: what has come waits here for the handler, one message at a time.
 *
 *  N1  A message is handed over when the one before it is done: `busy` is true while the handler runs and while a
 *      promise of it is pending. No more than `maxPending` wait (B6).
 *  N2  A drain tells the server first, and hands over all that the server had sent by then (B7). If the server cannot
 *      be asked, because the connection is lost or closed, what is here is all that has come.
 *  N3  Nothing thrown in here reaches the library.
 */
import type { Body, Handler, Message, Subscription } from '../bus.ts';
import { type Msg, type Source, traceIn } from './connection.ts';
import { decode } from './text.ts';

export interface NatsSubscriptionOptions {
  readonly subject: string;
  /** The subject is a pattern, so messages have one of their own. */
  readonly wildcard: boolean;
  readonly handler: Handler;
  readonly maxPending: number;
  /** One was dropped: how many so far, and whether it is the first since there was room. */
  readonly onDrop: (dropped: number, first: boolean) => void;
  readonly report: (error: unknown, subject: string) => void;
  /** Answer a request. Throws as `publish` does. */
  readonly respond: (subject: string, reply: string, body: Body) => void;
  /** Its last handler has ended. */
  readonly onEnd: () => void;
}

interface Waiting {
  readonly message: Message;
  next: Waiting | undefined;
}

export class NatsSubscription implements Subscription {
  readonly subject: string;
  /** The server's side of it; set once it exists. */
  source: Source | undefined;
  /** The server does not allow it, and nobody has let go of it yet. */
  refused = false;
  readonly #options: NatsSubscriptionOptions;
  #state: 'open' | 'leaving' | 'ended' = 'open';
  #busy = false;
  // A linked list: taking the first of 65,536 from an array would move the others.
  #first: Waiting | undefined;
  #last: Waiting | undefined;
  #waiting = 0;
  #dropped = 0;
  #slow = false;
  readonly #drained = Promise.withResolvers<void>();

  constructor(options: NatsSubscriptionOptions) {
    this.#options = options;
    this.subject = options.subject;
  }

  /** A message has come. N3. */
  arrive(message: Msg): void {
    if (this.#state === 'ended') return;
    const full = this.#busy && this.#waiting >= this.#options.maxPending;
    if (full) return this.#drop();
    const read = this.#read(message);
    if (read === undefined) return;
    if (this.#busy) return this.#keep(read);
    this.#hand(read);
    if (this.#first !== undefined || this.#state !== 'open') this.#handOver();
  }

  unsubscribe(): void {
    this.refused = false;
    if (this.#state !== 'ended') this.source?.unsubscribe();
    this.#first = undefined;
    this.#last = undefined;
    this.#waiting = 0;
    this.end();
  }

  /** N2. */
  drain(): Promise<void> {
    this.refused = false;
    if (this.#state === 'open') {
      this.#state = 'leaving';
      void this.source?.drain().then(() => this.end());
    } else this.#settle();
    return this.#drained.promise;
  }

  /** Nothing more can come. */
  end(): void {
    this.#state = 'ended';
    this.#settle();
  }

  #settle(): void {
    if (this.#state !== 'ended' || this.#busy || this.#first !== undefined) return;
    if (!this.refused) this.#options.onEnd();
    this.#drained.resolve();
  }

  /** Undefined if it is not from one of ours; then it was reported. */
  #read(message: Msg): Message | undefined {
    const { wildcard, respond, report } = this.#options;
    // Telling the subject takes a microsecond, and without wildcards there is only one.
    const subject = wildcard ? message.subject : this.subject;
    try {
      const body = decode(message.data);
      const { reply } = message;
      if (reply === undefined || reply === '') return { subject, body, respond: undefined };
      const trace = traceIn(message);
      return { subject, body, trace, respond: (answer) => respond(subject, reply, answer) };
    } catch (error) {
      report(error, subject);
      return undefined;
    }
  }

  /** N1. */
  #keep(message: Message): void {
    const waiting: Waiting = { message, next: undefined };
    if (this.#last === undefined) this.#first = waiting;
    else this.#last.next = waiting;
    this.#last = waiting;
    this.#waiting++;
    this.#slow = false;
  }

  #drop(): void {
    const first = !this.#slow;
    this.#slow = true;
    this.#dropped++;
    try {
      this.#options.onDrop(this.#dropped, first);
    } catch (error) {
      this.#options.report(error, this.subject);
    }
  }

  /** Hand over what waits, until a handler wants to be waited for. */
  #handOver(): void {
    while (!this.#busy && this.#first !== undefined) {
      const { message, next } = this.#first;
      this.#first = next;
      if (next === undefined) this.#last = undefined;
      this.#waiting--;
      this.#hand(message);
    }
    this.#settle();
  }

  /** A handler that returns no promise costs none. */
  #hand(message: Message): void {
    this.#busy = true;
    try {
      const result = this.#options.handler(message);
      if (typeof result === 'object') return this.#await(Promise.resolve(result), message.subject);
    } catch (error) {
      this.#options.report(error, message.subject);
    }
    this.#busy = false;
  }

  #await(ending: Promise<void>, subject: string): void {
    const goOn = (): void => {
      this.#busy = false;
      this.#handOver();
    };
    ending.then(goOn, (error: unknown) => {
      this.#options.report(error, subject);
      goOn();
    });
  }
}
