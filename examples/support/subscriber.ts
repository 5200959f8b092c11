/**
 * Follows one session with a plain NATS client and nothing of ours: every event once, in order, without a gap. It is
 * written from EVENTS.md, whose steps are marked (1) to (6).
 */
import { connect, type NatsConnection, type NodeConnectionOptions } from '@nats-io/transport-node';

export interface SessionEvent {
  readonly protocolVersion: number;
  readonly sessionId: string;
  readonly seq: number;
  readonly executionId?: string;
  readonly type: string;
  readonly payload: Readonly<Record<string, unknown>>;
}

export interface FollowOptions {
  /** Of the NATS client: servers, who one is, `inboxPrefix`. */
  readonly connection: NodeConnectionOptions;
  readonly namespace?: string;
  readonly session: string;
  /** The first event wanted: one after the last that was seen. Default 1. */
  readonly fromSeq?: number;
  readonly onEvent: (event: SessionEvent) => void;
  /** After this long without news the log is asked whether something was lost, in ms. Default 5,000. */
  readonly checkMs?: number;
  /** These events are no longer kept, or larger than a message can be. */
  readonly onMissing?: (from: number, to: number) => void;
}

interface Page {
  readonly events: readonly string[];
  readonly firstSeq: number;
  readonly seq: number;
}
type Reply =
  | { readonly ok: true; readonly value: Page }
  | {
      readonly ok: false;
      readonly error: {
        readonly code: string;
        readonly message: string;
        readonly retryable: boolean;
        readonly details?: { readonly retryAfterMs?: number };
      };
    };

/** Before the log is asked again for what it does not show yet, in ms. */
const LAG_MS = 100;
/** Most events that wait for their turn. */
const MAX_EARLY = 10_000;

export class Follower {
  readonly #nats: NatsConnection;
  readonly #options: FollowOptions;
  readonly #subject: string;
  /** What came before its turn. */
  readonly #early = new Map<number, SessionEvent>();
  /** The number of the event that is given next. */
  #next: number;
  /** The highest number that was heard of. */
  #highest = 0;
  #doubtful = true;
  #wake = (): void => undefined;
  #ended = Promise.resolve();

  /** Resolves when events are heard. */
  static async start(options: FollowOptions): Promise<Follower> {
    const nats = await connect({ maxReconnectAttempts: -1, reconnectTimeWait: 100, ...options.connection });
    const follower = new Follower(nats, options);
    // (2) A connection that is cut here subscribes again when it is back.
    await nats.flush().catch(() => undefined);
    follower.#ended = follower.#mind();
    return follower;
  }

  private constructor(nats: NatsConnection, options: FollowOptions) {
    const { namespace = 'default', session, fromSeq = 1 } = options;
    this.#nats = nats;
    this.#options = options;
    this.#next = fromSeq;
    this.#subject = `enclave.${namespace}.broker.events_read`;
    // (1)
    nats.subscribe(`enclave.${namespace}.session.${session}.event.*`, {
      callback: (error, message) => {
        if (error === null) this.#hear(message.json<SessionEvent>());
      },
    });
    void this.#watch();
  }

  /** The number to go on with as `fromSeq`. */
  get next(): number {
    return this.#next;
  }

  /** Resolves when nothing is given any more. Rejects with what made it impossible to go on. */
  async stop(): Promise<void> {
    await this.#nats.close();
    this.#wake();
    await this.#ended;
  }

  /** (3) (4) */
  #hear(event: SessionEvent): void {
    if (event.seq === undefined || event.seq < this.#next) return;
    this.#highest = Math.max(this.#highest, event.seq);
    if (this.#early.size >= MAX_EARLY) this.#early.clear(); // The log has them.
    this.#early.set(event.seq, event);
    this.#give();
    if (this.#early.size > 0) this.#doubt();
  }

  #give(): void {
    for (let event = this.#early.get(this.#next); event !== undefined; event = this.#early.get(this.#next)) {
      this.#early.delete(this.#next++);
      this.#options.onEvent(event);
    }
  }

  /** (5) What was published while the connection was cut is lost. */
  async #watch(): Promise<void> {
    for await (const { type } of this.#nats.status()) if (type === 'reconnect') this.#doubt();
  }

  #doubt(): void {
    this.#doubtful = true;
    this.#wake();
  }

  async #mind(): Promise<void> {
    const { checkMs = 5_000 } = this.#options;
    while (!this.#nats.isClosed()) {
      if (this.#doubtful) await this.#fill();
      else if (!(await this.#rest(checkMs))) this.#doubtful = true; // (5)
    }
  }

  /** (4) Read a page of the log. */
  async #fill(): Promise<void> {
    this.#doubtful = false;
    const reply = await this.#ask();
    if (reply === undefined) return this.#later(LAG_MS);
    if (!reply.ok) {
      const { code, message, retryable, details } = reply.error;
      if (code === 'NOT_FOUND') return; // Nobody has made the session yet, or it was deleted.
      if (code === 'RESULT_LIMIT_EXCEEDED') return this.#pass(this.#next + 1);
      if (!retryable) throw new Error(`${code}: ${message}`);
      return this.#later(details?.retryAfterMs ?? LAG_MS);
    }
    const { events, firstSeq, seq } = reply.value;
    const trimmed = firstSeq > this.#next;
    if (trimmed) this.#pass(firstSeq);
    for (const json of events) this.#hear(JSON.parse(json) as SessionEvent);
    this.#highest = Math.max(this.#highest, seq);
    if (this.#next > this.#highest) return;
    // There are more pages; or an event was heard that the log does not show yet.
    if (events.length > 0 || trimmed) this.#doubtful = true;
    else await this.#later(LAG_MS);
  }

  /** (6) Nobody can tell what was before this one any more, but what was heard. */
  #pass(firstSeq: number): void {
    const heard = [...this.#early.keys()].filter((seq) => seq < firstSeq);
    for (const seq of heard.toSorted((one, other) => one - other)) {
      this.#miss(seq - 1);
      this.#give();
    }
    this.#miss(firstSeq - 1);
    this.#give();
    this.#doubt();
  }

  #miss(last: number): void {
    if (last < this.#next) return;
    this.#options.onMissing?.(this.#next, last);
    this.#next = last + 1;
  }

  /** Undefined if nobody answered. */
  async #ask(): Promise<Reply | undefined> {
    const body = JSON.stringify({ session: this.#options.session, fromSeq: this.#next, limit: 500 });
    try {
      return (await this.#nats.request(this.#subject, body, { timeout: 2_000 })).json<Reply>();
    } catch {
      return undefined;
    }
  }

  async #later(ms: number): Promise<void> {
    await this.#rest(ms);
    this.#doubtful = true;
  }

  /** False if nothing happened meanwhile. */
  #rest(ms: number): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms, false);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}
