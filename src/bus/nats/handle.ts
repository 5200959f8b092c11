/** One handle of a link: subscriptions and requests of its own, over the connection of all. */
import {
  type Body,
  type Bus,
  BusError,
  type Handler,
  type RequestOptions,
  type SubscribeOptions,
  type Subscription,
} from '../bus.ts';
import { isPattern, isSubject } from '../match.ts';
import type { Connection } from './connection.ts';
import type { Requests } from './requests.ts';
import { NatsSubscription } from './subscription.ts';
import { encode } from './text.ts';

const DEFAULT_MAX_PENDING = 65_536;
/** In UTF-16 units. A subject and its inbox must fit the 4,096 bytes of a command to the server, which cuts the connection else. */
const MAX_SUBJECT = 1_024;

/** What the handles of a link share. */
export interface Shared {
  readonly connection: Connection;
  readonly requests: Requests;
  readonly flushTimeoutMs: number;
  /** Whether an answer may go there. */
  readonly mayAnswer: (reply: string) => boolean;
  readonly report: (error: unknown, subject: string) => void;
  /** A subscription begins to drop messages. */
  readonly onSlow: (subject: string, dropped: number, handle: string | undefined) => void;
}

export class NatsBus implements Bus {
  readonly system = 'nats';
  readonly #name: string | undefined;
  readonly #shared: Shared;
  readonly #onClosed: (handle: NatsBus) => void;
  readonly #subscriptions = new Set<NatsSubscription>();
  /** Closing: handlers still end, and may publish and respond; nothing else may begin. */
  #state: 'open' | 'closing' | 'closed' = 'open';
  #closing: Promise<void> | undefined;

  constructor(shared: Shared, name: string | undefined, onClosed: (handle: NatsBus) => void) {
    this.#shared = shared;
    this.#name = name;
    this.#onClosed = onClosed;
  }

  get maxPayloadBytes(): number {
    return this.#shared.connection.maxPayloadBytes;
  }

  get connectedMs(): number {
    return this.#shared.connection.connectedMs;
  }

  publish(subject: string, body: Body): void {
    const data = this.#encode(subject, body);
    this.#shared.connection.publish(subject, data);
  }

  // Not async, which would make another promise for each.
  request(subject: string, body: Body, options: RequestOptions): Promise<Body> {
    try {
      this.#checkOpen(subject);
      const data = this.#encode(subject, body);
      return this.#shared.requests.ask(this, subject, data, options);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  subscribe(subject: string, handler: Handler, options: SubscribeOptions = {}): Subscription {
    this.#checkOpen(subject);
    if (subject.length > MAX_SUBJECT || !isPattern(subject)) throw badSubject(subject);
    const { queue, onSlow, maxPending = DEFAULT_MAX_PENDING } = options;
    if (queue !== undefined && (queue.length > MAX_SUBJECT || !isSubject(queue)))
      throw new BusError('BAD_SUBJECT', subject, 'the name of its queue group is not valid');
    const { connection, report } = this.#shared;
    const subscription: NatsSubscription = new NatsSubscription({
      subject,
      wildcard: !isSubject(subject),
      handler,
      maxPending,
      onDrop: (dropped, first) => {
        if (first) this.#shared.onSlow(subject, dropped, this.#name);
        onSlow?.(dropped);
      },
      report,
      respond: (asked, reply, answer) => this.#respond(asked, reply, answer),
      onEnd: () => this.#subscriptions.delete(subscription),
    });
    subscription.source = connection.subscribe(subject, {
      queue,
      onMessage: (message) => subscription.arrive(message),
      onRefused: () => {
        subscription.refused = true;
        subscription.end();
      },
    });
    this.#subscriptions.add(subscription);
    return subscription;
  }

  async flush(): Promise<void> {
    this.#checkOpen('flush');
    const { connection, flushTimeoutMs } = this.#shared;
    await connection.flush(flushTimeoutMs);
    // What the server refused, it refused before it answered.
    for (const { refused, subject } of this.#subscriptions)
      if (refused)
        throw new BusError('FORBIDDEN', subject, 'the server does not allow us to subscribe to it');
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The connection was closed for good: what is here is all that has come. */
  end(): void {
    for (const subscription of this.#subscriptions) subscription.end();
  }

  async #close(): Promise<void> {
    this.#state = 'closing';
    this.#shared.requests.abandon(this);
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.drain()));
    this.#state = 'closed';
    this.#onClosed(this);
  }

  #respond(subject: string, reply: string, body: Body): void {
    if (this.#state === 'closed') throw closed(subject);
    const { connection, mayAnswer, report } = this.#shared;
    if (!mayAnswer(reply))
      return report(new BusError('FORBIDDEN', reply, 'it is no inbox to answer to'), subject);
    connection.publish(reply, encode(subject, body, connection.maxPayloadBytes));
  }

  #checkOpen(subject: string): void {
    if (this.#state !== 'open' || this.#shared.connection.closed) throw closed(subject);
  }

  #encode(subject: string, body: Body): Uint8Array {
    if (this.#state === 'closed' || this.#shared.connection.closed) throw closed(subject);
    if (subject.length > MAX_SUBJECT || !isSubject(subject)) throw badSubject(subject);
    return encode(subject, body, this.#shared.connection.maxPayloadBytes);
  }
}

function closed(subject: string): BusError {
  return new BusError('CLOSED', subject, 'this handle of the bus was closed');
}

function badSubject(subject: string): BusError {
  return new BusError('BAD_SUBJECT', subject, 'not a valid subject');
}
