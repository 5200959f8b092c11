/**
 * A bus that outlives its links: when one was given up, the next thing that is asked opens another.
 *
 * Invariants:
 *  L1  Subscriptions are made again on every link, before anything is sent over it.
 *  L2  What a link took along with it may have been sent: it ends as TIMEOUT, unless it is certain that it was not.
 *  L3  What needs a link and cannot have one rejects with the EnclaveError of whoever opens it. Then nothing was sent.
 */
import {
  type Body,
  type Bus,
  BusError,
  type Handler,
  type RequestOptions,
  type SubscribeOptions,
  type Subscription,
} from './bus/bus.ts';

/** Of a bus that was never connected, in bytes. */
const DEFAULT_MAX_PAYLOAD_BYTES = 1_048_576;

/** A subscription that is made on every link. */
interface Kept {
  readonly make: (bus: Bus) => Subscription;
  made: Subscription | undefined;
}

export class LastingBus implements Bus {
  readonly system = 'nats';
  readonly #open: () => Promise<void>;
  readonly #kept = new Set<Kept>();
  #bus: Bus | undefined;
  #maxPayloadBytes = DEFAULT_MAX_PAYLOAD_BYTES;
  #closed = false;

  /** @param open Has `use` called before it resolves, or rejects with an EnclaveError. */
  constructor(open: () => Promise<void>) {
    this.#open = open;
  }

  get maxPayloadBytes(): number {
    this.#maxPayloadBytes = this.#bus?.maxPayloadBytes ?? this.#maxPayloadBytes;
    return this.#maxPayloadBytes;
  }

  /** From now on everything goes over this one (L1). */
  use(bus: Bus): void {
    this.#bus = bus;
    for (const kept of this.#kept) kept.made = kept.make(bus);
  }

  /** The link that is there was given up. */
  drop(): void {
    this.#maxPayloadBytes = this.maxPayloadBytes;
    this.#bus = undefined;
    for (const kept of this.#kept) kept.made = undefined;
  }

  publish(subject: string, body: Body): void {
    if (this.#closed) throw closed(subject);
    try {
      this.#bus?.publish(subject, body);
    } catch (error) {
      // It is lost, as it may be (B9).
      if (!isClosed(error)) throw error;
    }
  }

  async request(subject: string, body: Body, options: RequestOptions): Promise<Body> {
    const bus = await this.#reach(subject);
    try {
      return await bus.request(subject, body, options);
    } catch (error) {
      if (this.#closed || !isClosed(error)) throw error;
      throw new BusError('TIMEOUT', subject, 'the connection to NATS was given up before an answer came'); // L2
    }
  }

  subscribe(subject: string, handler: Handler, options?: SubscribeOptions): Subscription {
    if (this.#closed) throw closed(subject);
    const kept: Kept = { make: (bus) => bus.subscribe(subject, handler, options), made: undefined };
    if (this.#bus !== undefined) kept.made = kept.make(this.#bus);
    this.#kept.add(kept);
    return {
      unsubscribe: () => {
        this.#kept.delete(kept);
        kept.made?.unsubscribe();
      },
      drain: async () => {
        this.#kept.delete(kept);
        await kept.made?.drain();
      },
    };
  }

  async flush(): Promise<void> {
    await (await this.#reach('flush')).flush();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#kept.clear();
    await this.#bus?.close();
  }

  /** L3 */
  async #reach(subject: string): Promise<Bus> {
    if (this.#closed) throw closed(subject);
    if (this.#bus === undefined) await this.#open();
    if (this.#bus === undefined) throw new BusError('DISCONNECTED', subject, 'the connection was lost again');
    return this.#bus;
  }
}

function isClosed(error: unknown): boolean {
  return error instanceof BusError && error.code === 'CLOSED';
}

function closed(subject: string): BusError {
  return new BusError('CLOSED', subject, 'this handle of the bus was closed');
}
