/**
 * One connection to NATS, as the rest of the bus needs it. The only module that knows the client library.
 *
 * What the library does, and what is done about it:
 *
 *  C1  Data that it is given while it is away from the server is lost if the next attempt to connect fails, and is
 *      sent late if that succeeds. So nothing is given to it while it is away: a message is lost at once (B9),
 *      and a request is held back by its owner, who knows whether anybody still waits.
 *  C2  A flush is rejected, at the next attempt to connect, when its connection is lost, and is left pending when
 *      the connection is closed. Here it is done again on the next connection, up to its time (B8).
 *  C3  A peer that does not read is given up by the pings, but the library then waits until what it has written is
 *      read, which may be never. So its socket is destroyed. Likewise one that is connecting when we close.
 *  C4  What a callback throws ends the library's reading of the socket without a word. So no callback throws.
 *  C5  It asks how long to wait more than once per attempt, so the answer depends on nothing but the count of
 *      attempts.
 *  C6  The digits of a password in a url are taken for the port. So it never sees a url, only hosts and ports.
 */
import {
  AuthorizationError,
  type ConnectionOptions,
  connect,
  credsAuthenticator,
  headers,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
  nkeyAuthenticator,
  PermissionViolationError,
  type Status,
  type Subscription,
} from '@nats-io/transport-node';
import { systemClock } from '../../clock.ts';
import { EnclaveError, invalidArgument } from '../../errors.ts';
import { BusError, type TraceHeaders } from '../bus.ts';
import { traceBytes, traceOf } from '../trace.ts';
import type { Backoff, Identity, ResolvedServer } from './options.ts';

export type { Msg };

/** Pings that may be unanswered. Two: an event loop that was held up for one interval looks like one lost ping. */
const MAX_PINGS_OUT = 2;
/** Of a server that has not told us, in bytes. */
const DEFAULT_MAX_PAYLOAD_BYTES = 1_048_576;
/** Time for the name of a host to be looked up, in ms. */
const LOOKUP_MS = 1_000;
const NO_RESPONDERS = 503;

export type ConnectionEvent =
  | { readonly type: 'connected' }
  | { readonly type: 'disconnected' }
  /** The server did not allow it. */
  | { readonly type: 'refused'; readonly operation: 'publish' | 'subscribe'; readonly subject: string }
  | { readonly type: 'error'; readonly error: Error }
  /** For good; with what ended it, unless we did. */
  | { readonly type: 'closed'; readonly error: Error | undefined };

/** A subscription of the library. */
export interface Source {
  unsubscribe(): void;
  /** Resolves when everything has come that the server had sent before it knew; never rejects. */
  drain(): Promise<void>;
}

export interface SourceOptions {
  readonly queue: string | undefined;
  readonly onMessage: (message: Msg) => void;
  /** The server refused it, so it has ended. */
  readonly onRefused: () => void;
}

/** Whether it is the server's word that nobody is subscribed. */
export function saysNoResponders(message: Msg): boolean {
  return message.data.length === 0 && message.headers?.code === NO_RESPONDERS;
}

/** The trace that a message came with. */
export function traceIn({ headers: sent }: Msg): TraceHeaders | undefined {
  return sent === undefined ? undefined : traceOf(sent.get(TRACEPARENT), sent.get(TRACESTATE));
}

const TRACEPARENT = 'traceparent';
const TRACESTATE = 'tracestate';

interface Flush {
  /** Ask the server, if we are connected. */
  readonly attempt: () => void;
  readonly reject: (error: BusError) => void;
}

export class Connection {
  /** Told of everything but messages; set by the owner right after the connection was made. */
  onEvent: (event: ConnectionEvent) => void = () => {};
  readonly #nc: NatsConnection;
  readonly #own: boolean;
  readonly #status: AsyncIterable<Status>;
  readonly #attempts: Attempts | undefined;
  readonly #flushes = new Set<Flush>();
  /** What waits for the connection to be lost or closed. */
  readonly #drains = new Set<() => void>();
  /** Of the last connection that was made. */
  #used: Transport | undefined;
  #connected = true;
  #connectedAt = systemClock.monotonic();
  #closed = false;
  #maxPayloadBytes = DEFAULT_MAX_PAYLOAD_BYTES;

  private constructor(nc: NatsConnection, attempts: Attempts | undefined) {
    this.#nc = nc;
    this.#own = attempts !== undefined;
    this.#attempts = attempts;
    attempts?.reset();
    this.#learn();
    this.#status = nc.status();
    void this.#watch();
    void nc.closed().then((error) => this.#end(error instanceof Error ? error : undefined));
  }

  /** Throws {@link EnclaveError} UNAVAILABLE if no server answers, INVALID_ARGUMENT if the credentials are wrong. */
  static async open(options: ResolvedServer): Promise<Connection> {
    const attempts = new Attempts(options.backoff);
    try {
      return new Connection(await connect(libraryOptions(options, attempts)), attempts);
    } catch (cause) {
      const where = options.hosts.join(', ');
      if (cause instanceof AuthorizationError)
        throw invalidArgument('nats', `the server at ${where} refuses the credentials`, cause);
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new EnclaveError('UNAVAILABLE', `no NATS server takes us at ${where}: ${why}`, { cause });
    }
  }

  /** Use a connection of the user's own. Throws {@link EnclaveError} INVALID_ARGUMENT if it is closed. */
  static async use(nc: NatsConnection): Promise<Connection> {
    if (nc.isClosed() || nc.isDraining()) throw invalidArgument('nats.connection', 'is closed or draining');
    const connection = new Connection(nc, undefined);
    // The library does not say whether it is connected; only this is refused at once if it is not.
    const away = nc.rtt().then(
      () => false,
      () => true,
    );
    if (await Promise.race([away, new Promise<false>((resolve) => setImmediate(resolve, false))]))
      connection.#connected = false;
    return connection;
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** Since the connection was made or found again, in ms; 0 while it is lost. */
  get connectedMs(): number {
    return this.#connected ? systemClock.monotonic() - this.#connectedAt : 0;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Of the server that we are connected to, or were. */
  get maxPayloadBytes(): number {
    return this.#maxPayloadBytes;
  }

  /** `host:port`. */
  get server(): string {
    return this.#nc.getServer();
  }

  /** C1. Returns whether it was given to the library. Throws {@link BusError}. */
  publish(subject: string, data: Uint8Array, reply?: string, trace?: TraceHeaders): boolean {
    if (this.#closed) throw closed(subject);
    if (!this.#connected) return false;
    try {
      const traced = trace && this.#headersOf(trace, data.length);
      const options = reply === undefined ? undefined : { reply };
      this.#nc.publish(subject, data, traced === undefined ? options : { ...options, headers: traced });
      return true;
    } catch (error) {
      // A user may have closed it, or it may now be connected to a server with a smaller limit.
      if (this.#nc.isClosed() || this.#nc.isDraining()) throw closed(subject);
      throw new BusError('PAYLOAD_TOO_LARGE', subject, error instanceof Error ? error.message : 'refused');
    }
  }

  /** B11: undefined if the server takes no headers, or they would make the message too large for it. */
  #headersOf(trace: TraceHeaders, bytes: number): MsgHdrs | undefined {
    if (this.#nc.info?.headers !== true || bytes + traceBytes(trace) > this.#maxPayloadBytes)
      return undefined;
    const { traceparent, tracestate } = trace;
    const made = headers();
    made.set(TRACEPARENT, traceparent);
    if (tracestate !== undefined) made.set(TRACESTATE, tracestate);
    return made;
  }

  /** Throws {@link BusError} CLOSED. */
  subscribe(subject: string, options: SourceOptions): Source {
    if (this.#closed || this.#nc.isClosed() || this.#nc.isDraining()) throw closed(subject);
    const { queue, onMessage, onRefused } = options;
    const source = this.#nc.subscribe(subject, {
      ...(queue === undefined ? {} : { queue }),
      callback: (error, message) => (error === null ? onMessage(message) : onRefused()),
    });
    return {
      unsubscribe: () => {
        if (!source.isClosed()) source.unsubscribe();
      },
      drain: () => this.#drain(source),
    };
  }

  /** C2. Rejects with {@link BusError} TIMEOUT or CLOSED. */
  async flush(timeoutMs: number): Promise<void> {
    if (this.#closed) throw closed('flush');
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const attempt = (): void => {
      // One that fails is attempted again when we are connected again.
      if (this.#connected) this.#nc.flush().then(resolve, () => {});
    };
    const flush: Flush = { attempt, reject };
    this.#flushes.add(flush);
    const cancel = systemClock.after(timeoutMs, () =>
      reject(new BusError('TIMEOUT', 'flush', `the server did not answer within ${timeoutMs} ms`)),
    );
    try {
      attempt();
      await promise;
    } finally {
      cancel();
      this.#flushes.delete(flush);
    }
  }

  /** Let go of it; one of our own is closed. */
  async close(): Promise<void> {
    if (this.#closed) return;
    if (this.#own) {
      this.#attempts?.stop();
      await this.#nc.close();
      this.#transport()?.discard?.();
      // One whose host is being looked up now will have its socket a little later.
      systemClock.after(LOOKUP_MS, () => this.#transport()?.discard?.());
    } else {
      (this.#status as { readonly stop?: () => void }).stop?.();
    }
    this.#end(undefined);
  }

  /** C2: the library may know very late that its connection is lost. */
  async #drain(source: Subscription): Promise<void> {
    const { promise: lost, resolve } = Promise.withResolvers<void>();
    this.#drains.add(resolve);
    // It rejects if it has ended already.
    if (this.#connected) await Promise.race([source.drain().catch(() => {}), lost]);
    this.#drains.delete(resolve);
    if (!source.isClosed()) source.unsubscribe();
  }

  async #watch(): Promise<void> {
    for await (const status of this.#status) this.#onStatus(status);
  }

  #onStatus(status: Status): void {
    switch (status.type) {
      case 'disconnect':
        return this.#disconnect();
      case 'staleConnection':
        this.#disconnect();
        // Not the present one: the library may be at its next attempt already.
        return this.#used?.discard?.();
      case 'reconnect':
        this.#attempts?.reset();
        this.#learn();
        this.#connected = true;
        this.#connectedAt = systemClock.monotonic();
        this.onEvent({ type: 'connected' });
        for (const { attempt } of this.#flushes) attempt();
        return;
      case 'error':
        return this.onEvent(eventOf(status.error));
    }
  }

  #disconnect(): void {
    if (!this.#connected) return;
    this.#connected = false;
    for (const lost of this.#drains) lost();
    this.onEvent({ type: 'disconnected' });
  }

  #end(error: Error | undefined): void {
    if (this.#closed) return;
    this.#connected = false;
    this.#closed = true;
    for (const lost of this.#drains) lost();
    for (const { reject } of this.#flushes) reject(closed('flush'));
    this.onEvent({ type: 'closed', error });
  }

  #learn(): void {
    this.#maxPayloadBytes = this.#nc.info?.max_payload ?? this.#maxPayloadBytes;
    this.#used = this.#own ? this.#transport() : undefined;
  }

  /** C3. The library offers no way, so this reaches into it, and does nothing if it has changed there. */
  #transport(): Transport | undefined {
    return (this.#nc as { readonly protocol?: { readonly transport?: Transport } }).protocol?.transport;
  }
}

/** The library's hold on one socket. */
interface Transport {
  /** Destroys the socket. */
  readonly discard?: () => void;
}

function eventOf(error: Error): ConnectionEvent {
  if (!(error instanceof PermissionViolationError)) return { type: 'error', error };
  const { operation, subject } = error;
  return { type: 'refused', operation: operation === 'subscription' ? 'subscribe' : 'publish', subject };
}

function closed(subject: string): BusError {
  return new BusError('CLOSED', subject, 'the connection to NATS was closed');
}

/** C5. Attempts to connect since the connection was lost, and the wait before the next. */
class Attempts {
  readonly #backoff: Backoff;
  #waitMs: number;
  #count = 0;
  #stopped = false;

  constructor(backoff: Backoff) {
    this.#backoff = backoff;
    this.#waitMs = this.#next();
  }

  get waitMs(): number {
    return this.#waitMs;
  }

  /** Another one is made. Throws once they are to stop, which the library takes as the end of all. */
  count(): void {
    if (this.#stopped) throw new TypeError('the link is closed');
    this.#count++;
    this.#waitMs = this.#next();
  }

  reset(): void {
    this.#count = 0;
    this.#waitMs = this.#next();
  }

  /** C3: the library would go on with an attempt that begins while it is being closed. */
  stop(): void {
    this.#stopped = true;
  }

  #next(): number {
    const { firstMs, maxMs, multiplier, jitter } = this.#backoff;
    const grown = Math.min(maxMs, firstMs * multiplier ** Math.max(0, this.#count - 1));
    return Math.ceil(grown * (1 - jitter * Math.random()));
  }
}

function libraryOptions(options: ResolvedServer, attempts: Attempts): ConnectionOptions {
  const { hosts, name, identity, tls, maxReconnectAttempts } = options;
  return {
    servers: [...hosts],
    ...(name === undefined ? {} : { name }),
    ...identityOptions(identity),
    ...(tls === undefined ? {} : { tls: { ...tls } as NonNullable<ConnectionOptions['tls']> }),
    reconnect: maxReconnectAttempts !== 0,
    maxReconnectAttempts,
    // A server that was just started may not know its accounts yet; the count of attempts decides.
    ignoreAuthErrorAbort: true,
    reconnectDelayHandler: () => attempts.waitMs,
    // Called once for each attempt; the choice of the server is the library's.
    reconnectToServer: () => {
      attempts.count();
      return null;
    },
    pingInterval: options.pingIntervalMs,
    maxPingOut: MAX_PINGS_OUT,
    timeout: options.connectTimeoutMs,
    waitOnFirstConnect: options.waitOnFirstConnect,
    // They cost a stack per call.
    noAsyncTraces: true,
  };
}

function identityOptions(identity: Identity): ConnectionOptions {
  switch (identity.kind) {
    case 'nobody':
      return {};
    case 'credentials':
      return { authenticator: credsAuthenticator(() => Buffer.from(identity.read())) };
    case 'user':
      return { user: identity.user, ...(identity.password === undefined ? {} : { pass: identity.password }) };
    case 'token':
      return { token: identity.token };
    case 'nkey':
      return { authenticator: nkeyAuthenticator(Buffer.from(identity.seed)) };
  }
}
