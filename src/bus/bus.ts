/**
 * The bus, as a port: subjects, queue groups, requests. Brokers, runtimes, tool providers and clients talk
 * through it and through nothing else, in one process as in a cluster.
 *
 * What a backend owes, and what breaks without it (`test/contract/bus.ts` holds every backend to it):
 *
 *  B1  Messages of one publisher on one subject MUST reach one subscription in the order of their publication.
 *      Else a runtime's reports would look like gaps and be sent again for ever.
 *  B2  A message MUST NOT reach its subscriber within the call of `publish`. Else a handler would run in the
 *      middle of its caller's step.
 *  B3  Of one queue group exactly one member MUST get a message, and the members MUST share the load. Else two
 *      brokers would create one session.
 *  B4  A request that nobody subscribes to MUST be rejected as NO_RESPONDERS at once: it is the fast way to see
 *      that an owner or a runtime is gone. A subscriber that is merely slow or paused MUST count as one: it may
 *      still act on the message, so nobody may conclude that it did not.
 *  B5  What is larger than `maxPayloadBytes` MUST be refused before anything is sent, as PAYLOAD_TOO_LARGE. Else
 *      a server would cut the connection of the sender.
 *  B6  A subscription with more than `maxPending` messages waiting MUST drop what comes, tell `onSlow`, and leave
 *      other subscriptions alone. Else one slow reader would eat the memory of all.
 *  B7  `drain` MUST stop the arrival of messages, hand over those that have arrived, and resolve when their
 *      handlers have ended. Else a session could be given up with a command in its mailbox.
 *  B8  After `flush` has resolved, subscriptions made before it MUST be in force for every other process. Else
 *      a broker would answer that it owns a session before commands can reach it.
 *  B9  `publish` is at most once: a message may be lost, by a cut connection or a slow reader, and MUST NOT be
 *      thought delivered. It MUST NOT throw because nobody listens.
 *  B10 A message's body is data that both sides treat as immutable: a backend may pass it by reference.
 *  B11 A request's `trace` SHOULD reach the handler beside the body, and MUST NOT change what becomes of the request:
 *      what would not fit with it goes without. For a request without one nothing is sent. Else tracing would cost those
 *      who do not trace, or break what works without it.
 */

/** JSON data. Bytes are counted as those of its JSON text, or as at most a few per cent fewer. */
export type Body = object;

/** A place in a trace, as the headers of W3C Trace Context. A backend hands over nothing that is not well-formed. */
export interface TraceHeaders {
  readonly traceparent: string;
  readonly tracestate?: string | undefined;
}

export interface Message {
  readonly subject: string;
  readonly body: Body;
  /** Of a request: what whoever asked does it for. Undefined or missing: that is not traced. */
  readonly trace?: TraceHeaders | undefined;
  /** Answer a request. Undefined if nobody waits for an answer. What is too large is refused as by `publish`. */
  readonly respond: ((body: Body) => void) | undefined;
}

/** Takes one message. Messages wait while a promise that it returned is pending; what it throws is reported and dropped. */
export type Handler = (message: Message) => void | Promise<void>;

export interface SubscribeOptions {
  /** The queue group that shares the messages. Default: none, every message is one's own. */
  readonly queue?: string | undefined;
  /** Messages waiting for the handler. Default 65,536; at least 1. See B6. */
  readonly maxPending?: number | undefined;
  /** Called with the count of messages dropped so far, when one is dropped. */
  readonly onSlow?: ((dropped: number) => void) | undefined;
}

export interface Subscription {
  /** Take no more messages and forget those that wait. Safe to call again. */
  unsubscribe(): void;
  /** See B7. Safe to call again. */
  drain(): Promise<void>;
}

export interface RequestOptions {
  /** Longest wait for the answer, in ms; 1 to 600,000. */
  readonly timeoutMs: number;
  /** See B11. Default: none. */
  readonly trace?: TraceHeaders | undefined;
}

export interface Bus {
  /** What carries the messages, as traces name it. Default: this process. */
  readonly system?: string | undefined;
  /** Largest body, in bytes. */
  readonly maxPayloadBytes: number;
  /** For how long the server has been reached without a break, in ms; 0 while it is away. Default: always. See {@link isNobody}. */
  readonly connectedMs?: number | undefined;
  /** Send and forget (B9). Throws {@link BusError} PAYLOAD_TOO_LARGE, CLOSED or BAD_SUBJECT. */
  publish(subject: string, body: Body): void;
  /** Send and wait for one answer. Rejects with {@link BusError} NO_RESPONDERS, TIMEOUT, PAYLOAD_TOO_LARGE, CLOSED, BAD_SUBJECT, DISCONNECTED or FORBIDDEN. */
  request(subject: string, body: Body, options: RequestOptions): Promise<Body>;
  /** Subscribe to a subject; `*` stands for one token and a last `>` for one or more. Throws CLOSED or BAD_SUBJECT. */
  subscribe(subject: string, handler: Handler, options?: SubscribeOptions): Subscription;
  /** See B8. Rejects as CLOSED; as TIMEOUT if the server is away for long; as FORBIDDEN if a subscription was not allowed. */
  flush(): Promise<void>;
  /** Drain every subscription of this handle and let go of it. Safe to call again. */
  close(): Promise<void>;
}

/**
 * NO_RESPONDERS: nobody was subscribed. TIMEOUT: it was sent, and somebody may act on it, or have done so.
 * DISCONNECTED: the server was away, so it was not sent and never will be. FORBIDDEN: the server does not let us publish
 * or subscribe to the subject, or read answers.
 */
export type BusErrorCode =
  | 'NO_RESPONDERS'
  | 'TIMEOUT'
  | 'PAYLOAD_TOO_LARGE'
  | 'CLOSED'
  | 'BAD_SUBJECT'
  | 'DISCONNECTED'
  | 'FORBIDDEN';

/**
 * Why a message was not sent or not answered. Only NO_RESPONDERS, DISCONNECTED, and what was refused before it was
 * sent, mean that nobody acted on it.
 */
export class BusError extends Error {
  override readonly name = 'BusError';
  readonly code: BusErrorCode;
  readonly subject: string;

  constructor(code: BusErrorCode, subject: string, message: string) {
    super(`${subject}: ${message}`);
    this.code = code;
    this.subject = subject;
  }
}

/** Whoever lost the server with us is back so long after us at most, in ms: the longest wait between two attempts, and a little. */
export const BACK_MS = 3_000;

/** True if everybody who lost the server when we did has had the time to be back. */
export function isSettled({ connectedMs }: Pick<Bus, 'connectedMs'>): boolean {
  return connectedMs === undefined || connectedMs >= BACK_MS;
}

/**
 * Whether the failure of a request says that whom it was for is gone: nobody is subscribed, and nobody is likely to be
 * on the way back.
 */
export function isNobody(error: unknown, bus: Pick<Bus, 'connectedMs'>): boolean {
  return error instanceof BusError && error.code === 'NO_RESPONDERS' && isSettled(bus);
}
