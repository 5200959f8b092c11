/**
 * The bus within one process. It keeps every obligation of the port, and one thing is simpler than on a
 * network: a subscription is in force as soon as it is made.
 *
 * Whatever goes from one handle to another, a message to one subscription or an answer to its requester, is a
 * *hop*. Hops are scheduled in one place, where a simulator can delay, lose or repeat them. By default that is
 * `clock.soon`: with a clock whose `soon` is a microtask, handlers that answer each other without ever waiting for
 * anything else keep timers and sockets waiting.
 *
 * Invariants:
 *  M1  A hop is made within `publish`, `request` or `respond`, and run later: nobody is called back by a call (B2).
 *      Hops are run in the order in which they were made, unless `deliver` says otherwise (B1).
 *  M2  A subscription hands over one message at a time, in the order of arrival. It is `busy` while its handler
 *      runs and while a promise of it is pending.
 *  M3  No more than `maxPending` messages wait in a subscription (B6).
 *  M4  A subscription that was let go is in no table: it counts neither as a member of its group nor as a
 *      responder. What is on its way to it still arrives if it drains, and is lost if it was unsubscribed.
 *  M5  A request is settled once, by whatever comes first: an answer, its time, or the end of its handle.
 */
import type { Clock } from '../clock.ts';
import {
  type Body,
  type Bus,
  BusError,
  type Handler,
  type Message,
  type RequestOptions,
  type SubscribeOptions,
  type Subscription,
} from './bus.ts';
import { Interest, isPattern, isSubject } from './match.ts';
import { fits } from './size.ts';

const DEFAULT_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024;
const DEFAULT_MAX_PENDING = 65_536;

/** A message on its way to one subscription, or an answer on its way to its requester. */
export interface Hop {
  readonly kind: 'message' | 'reply';
  /** Of the message; for an answer, that of the request. */
  readonly subject: string;
  readonly body: Body;
  /** Name of the sending handle, if it has one. */
  readonly from: string | undefined;
  /** Name of the receiving handle, if it has one. */
  readonly to: string | undefined;
  /** Let it arrive. A message arrives as often as this is called, of answers the first counts. */
  readonly run: () => void;
}

export interface MemoryBusServerOptions {
  readonly clock: Clock;
  /** Largest body, in bytes of its JSON text. Default 8 MiB. */
  readonly maxPayloadBytes?: number | undefined;
  /**
   * Takes every hop and decides when, whether and how often to run it, but never at once. Default: `clock.soon`.
   * The order of the port holds only if hops between the same two handles are run in order.
   */
  readonly deliver?: ((hop: Hop) => void) | undefined;
  /** Told what a handler or `onSlow` threw or rejected with. Default: it is dropped. */
  readonly onError?: ((error: unknown, subject: string) => void) | undefined;
}

/** What the roles of one process have in common: each is connected to it by a handle of its own. */
export class MemoryBusServer {
  readonly #core: Core;
  readonly #handles = new Set<MemoryBus>();

  constructor(options: MemoryBusServerOptions) {
    const { clock, onError } = options;
    this.#core = {
      clock,
      maxPayloadBytes: options.maxPayloadBytes ?? DEFAULT_MAX_PAYLOAD_BYTES,
      interest: new Interest(),
      deliver: options.deliver ?? ((hop) => clock.soon(hop.run)),
      report: (error, subject) => {
        try {
          onError?.(error, subject);
        } catch {
          // There is nobody left to tell.
        }
      },
    };
  }

  /** A new handle. Its name is that of its hops and need not be unique; default: none. */
  connect(name?: string): Bus {
    const handle = new MemoryBus(this.#core, name, () => this.#handles.delete(handle));
    this.#handles.add(handle);
    return handle;
  }

  /** Close every handle. */
  async close(): Promise<void> {
    await Promise.all([...this.#handles].map((handle) => handle.close()));
  }
}

/** What the handles share. */
interface Core {
  readonly clock: Clock;
  readonly maxPayloadBytes: number;
  readonly interest: Interest<MemorySubscription>;
  /** The one place where hops are scheduled. */
  readonly deliver: (hop: Hop) => void;
  readonly report: (error: unknown, subject: string) => void;
}

interface Pending {
  readonly resolve: (body: Body) => void;
  readonly reject: (error: BusError) => void;
  readonly subject: string;
  /** Calls the timer off. */
  cancel: () => void;
}

class MemoryBus implements Bus {
  readonly maxPayloadBytes: number;
  readonly name: string | undefined;
  readonly #core: Core;
  readonly #onClosed: () => void;
  readonly #subscriptions = new Set<MemorySubscription>();
  readonly #pending = new Set<Pending>();
  /** Closing: handlers still end, and may publish and respond; nothing else may begin. */
  #state: 'open' | 'closing' | 'closed' = 'open';
  #closing: Promise<void> | undefined;

  constructor(core: Core, name: string | undefined, onClosed: () => void) {
    this.#core = core;
    this.name = name;
    this.#onClosed = onClosed;
    this.maxPayloadBytes = core.maxPayloadBytes;
  }

  publish(subject: string, body: Body): void {
    this.#check(subject, body);
    const receivers = this.#core.interest.match(subject);
    if (receivers.length === 0) return;
    const message: Message = { subject, body, trace: undefined, respond: undefined };
    for (const receiver of receivers) this.#send(receiver, message);
  }

  async request(subject: string, body: Body, options: RequestOptions): Promise<Body> {
    this.#checkOpen(subject);
    this.#check(subject, body);
    const receivers = this.#core.interest.match(subject);
    if (receivers.length === 0)
      throw new BusError('NO_RESPONDERS', subject, 'nobody is subscribed, so nobody got the request');
    return new Promise((resolve, reject) => {
      const pending: Pending = { resolve, reject, subject, cancel: () => {} };
      this.#pending.add(pending);
      pending.cancel = this.#core.clock.after(options.timeoutMs, () => {
        if (this.#settle(pending))
          reject(new BusError('TIMEOUT', subject, `no answer within ${options.timeoutMs} ms`));
      });
      for (const receiver of receivers) {
        const respond = (answer: Body): void => receiver.bus.#reply(this, pending, answer);
        this.#send(receiver, { subject, body, trace: options.trace, respond });
      }
    });
  }

  subscribe(subject: string, handler: Handler, options: SubscribeOptions = {}): Subscription {
    this.#checkOpen(subject);
    if (!isPattern(subject)) throw badSubject(subject);
    const { interest } = this.#core;
    const subscription: MemorySubscription = new MemorySubscription({
      core: this.#core,
      bus: this,
      subject,
      handler,
      maxPending: options.maxPending ?? DEFAULT_MAX_PENDING,
      onSlow: options.onSlow,
      onEnd: () => this.#subscriptions.delete(subscription),
    });
    subscription.leave = interest.add(subject, options.queue, subscription);
    this.#subscriptions.add(subscription);
    return subscription;
  }

  async flush(): Promise<void> {
    this.#checkOpen('flush');
    return new Promise((resolve) => this.#core.clock.soon(resolve));
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#state = 'closing';
    for (const pending of this.#pending) if (this.#settle(pending)) pending.reject(closed(pending.subject));
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.drain()));
    this.#state = 'closed';
    this.#onClosed();
  }

  #send(receiver: MemorySubscription, message: Message): void {
    this.#core.deliver({
      kind: 'message',
      subject: message.subject,
      body: message.body,
      from: this.name,
      to: receiver.bus.name,
      run: () => receiver.arrive(message),
    });
  }

  /** Answer a request that `requester` made. */
  #reply(requester: MemoryBus, pending: Pending, body: Body): void {
    this.#check(pending.subject, body);
    this.#core.deliver({
      kind: 'reply',
      subject: pending.subject,
      body,
      from: this.name,
      to: requester.name,
      run: () => {
        if (requester.#settle(pending)) pending.resolve(body);
      },
    });
  }

  /** M5: true for the first who asks. */
  #settle(pending: Pending): boolean {
    pending.cancel();
    return this.#pending.delete(pending);
  }

  #checkOpen(subject: string): void {
    if (this.#state !== 'open') throw closed(subject);
  }

  #check(subject: string, body: Body): void {
    if (this.#state === 'closed') throw closed(subject);
    if (!this.#core.interest.knows(subject) && !isSubject(subject)) throw badSubject(subject);
    if (!fits(body, this.maxPayloadBytes))
      throw new BusError('PAYLOAD_TOO_LARGE', subject, `larger than ${this.maxPayloadBytes} bytes`);
  }
}

function closed(subject: string): BusError {
  return new BusError('CLOSED', subject, 'this handle of the bus was closed');
}

function badSubject(subject: string): BusError {
  return new BusError('BAD_SUBJECT', subject, 'not a valid subject');
}

interface Waiting {
  readonly message: Message;
  next: Waiting | undefined;
}

interface MemorySubscriptionOptions {
  readonly core: Core;
  readonly bus: MemoryBus;
  readonly subject: string;
  readonly handler: Handler;
  readonly maxPending: number;
  readonly onSlow: ((dropped: number) => void) | undefined;
  readonly onEnd: () => void;
}

class MemorySubscription implements Subscription {
  readonly bus: MemoryBus;
  /** Takes it out of the table; set once it is in there. */
  leave: () => void = () => {};
  readonly #options: MemorySubscriptionOptions;
  #state: 'open' | 'leaving' | 'ended' = 'open';
  #busy = false;
  // A linked list: taking the first of 65,536 from an array would move the others.
  #first: Waiting | undefined;
  #last: Waiting | undefined;
  #waiting = 0;
  #dropped = 0;
  #drained: PromiseWithResolvers<void> | undefined;

  constructor(options: MemorySubscriptionOptions) {
    this.#options = options;
    this.bus = options.bus;
  }

  /** A message has come. */
  arrive(message: Message): void {
    if (this.#state === 'ended') return;
    if (this.#busy) return this.#keep(message);
    this.#hand(message);
    if (this.#first !== undefined || this.#state !== 'open') this.#handOver();
  }

  unsubscribe(): void {
    this.#leave();
    this.#first = undefined;
    this.#last = undefined;
    this.#waiting = 0;
    this.#end();
  }

  drain(): Promise<void> {
    if (this.#drained === undefined) {
      this.#drained = Promise.withResolvers();
      this.#leave();
      // Queued behind what is on its way, as a message would be.
      this.#options.core.clock.soon(() => this.#end());
    }
    return this.#drained.promise;
  }

  /** M4. */
  #leave(): void {
    if (this.#state !== 'open') return;
    this.#state = 'leaving';
    this.leave();
  }

  #end(): void {
    this.#state = 'ended';
    this.#settle();
  }

  #settle(): void {
    if (this.#state !== 'ended' || this.#busy || this.#first !== undefined) return;
    this.#options.onEnd();
    this.#drained?.resolve();
  }

  /** M3. */
  #keep(message: Message): void {
    if (this.#waiting >= this.#options.maxPending) return this.#drop();
    const waiting: Waiting = { message, next: undefined };
    if (this.#last === undefined) this.#first = waiting;
    else this.#last.next = waiting;
    this.#last = waiting;
    this.#waiting++;
  }

  #drop(): void {
    this.#dropped++;
    try {
      this.#options.onSlow?.(this.#dropped);
    } catch (error) {
      this.#options.core.report(error, this.#options.subject);
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

  /** M2. A handler that returns no promise costs none. */
  #hand(message: Message): void {
    this.#busy = true;
    try {
      const result = this.#options.handler(message);
      if (typeof result === 'object') return this.#await(Promise.resolve(result), message.subject);
    } catch (error) {
      this.#options.core.report(error, message.subject);
    }
    this.#busy = false;
  }

  #await(ending: Promise<void>, subject: string): void {
    const goOn = (): void => {
      this.#busy = false;
      this.#handOver();
    };
    ending.then(goOn, (error: unknown) => {
      this.#options.core.report(error, subject);
      goOn();
    });
  }
}
