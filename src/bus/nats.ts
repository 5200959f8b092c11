/**
 * The bus on NATS: what the roles of a process have in common is one link, a TCP connection that comes back by
 * itself, and each of them has a handle of its own.
 *
 * While the link is disconnected, `publish` loses its message, a request waits for a moment to be sent and is
 * rejected as DISCONNECTED then, and `flush` waits for the server up to `flushTimeoutMs`. Subscriptions are renewed
 * when the link is back, before anything else is sent.
 *
 * NO_RESPONDERS is the word of the server that we are connected to. One that was just started may say so of a
 * peer that has not come back yet.
 */
import { type Bus, BusError } from './bus.ts';
import { Connection, type ConnectionEvent } from './nats/connection.ts';
import { NatsBus, type Shared } from './nats/handle.ts';
import { type NatsLinkOptions, type ResolvedOptions, resolveOptions } from './nats/options.ts';
import { Requests } from './nats/requests.ts';

export type {
  NatsConnectionOptions,
  NatsLinkOptions,
  NatsOptions,
  NatsReconnectOptions,
  NatsTlsOptions,
} from './nats/options.ts';

/** What a link has to tell. */
export type LinkStatus =
  /** Again: subscriptions are in force at this server. */
  | { readonly type: 'connected'; readonly server: string }
  | { readonly type: 'disconnected' }
  /** A subscription began to drop messages; `dropped` so far. `handle` is the name that was given to `connect`. */
  | {
      readonly type: 'slow';
      readonly subject: string;
      readonly dropped: number;
      readonly handle: string | undefined;
    }
  /** The server does not allow it; a subscription has ended. */
  | {
      readonly type: 'refused';
      readonly operation: 'publish' | 'subscribe';
      readonly subject: string;
      readonly error: BusError;
    }
  /** What else the server complains of, such as that we read too slowly. */
  | { readonly type: 'error'; readonly error: Error }
  /** For good: every handle answers CLOSED. `error` is what ended it, unless it was `close`. */
  | { readonly type: 'closed'; readonly error: Error | undefined };

export type StatusListener = (status: LinkStatus) => void;

export class NatsLink {
  readonly #connection: Connection;
  readonly #shared: Shared;
  readonly #handles = new Set<NatsBus>();
  readonly #listeners = new Set<StatusListener>();
  #closing: Promise<void> | undefined;

  private constructor(connection: Connection, options: ResolvedOptions) {
    const report = (error: unknown, subject: string): void => {
      try {
        options.onError?.(error, subject);
      } catch {
        // There is nobody left to tell.
      }
    };
    this.#connection = connection;
    this.#shared = {
      connection,
      requests: new Requests(connection, options.inboxPrefix, report),
      flushTimeoutMs: options.flushTimeoutMs,
      mayAnswer: options.mayAnswer ?? (() => true),
      report,
      onSlow: (subject, dropped, handle) => this.#tell({ type: 'slow', subject, dropped, handle }),
    };
    connection.onEvent = (event) => this.#onEvent(event);
  }

  /**
   * Connect. Throws {@link EnclaveError} UNAVAILABLE, naming the servers, if none of them answers, and
   * INVALID_ARGUMENT for wrong options or credentials. No error holds a secret of the options.
   */
  static async open(options: NatsLinkOptions): Promise<NatsLink> {
    const resolved = resolveOptions(options, 'nats');
    const { source } = resolved;
    return new NatsLink(
      await ('hosts' in source ? Connection.open(source) : Connection.use(source)),
      resolved,
    );
  }

  /** Throw the INVALID_ARGUMENT that `open` would reject with for options that are wrong, naming them by `key`. */
  static check(options: NatsLinkOptions, key: string): void {
    resolveOptions(options, key);
  }

  /** Whether the server answered last we know. It is noticed within two to three ping intervals that it does not. */
  get connected(): boolean {
    return this.#connection.connected;
  }

  /** A new handle. Its name is told in `slow` and need not be unique; default: none. Throws {@link BusError} CLOSED. */
  connect(name?: string): Bus {
    if (this.#closing !== undefined || this.#connection.closed)
      throw new BusError('CLOSED', 'connect', 'the link to NATS was closed');
    const handle = new NatsBus(this.#shared, name, (closed) => this.#handles.delete(closed));
    this.#handles.add(handle);
    return handle;
  }

  /** Have a listener told of every change from now on. Returns what lets go of it. What it throws goes to `onError`. */
  onStatus(listener: StatusListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Close every handle, see that what they have sent has left, and close the connection; one of the user's own is
   * left open. Safe to call again.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { connection, requests, flushTimeoutMs } = this.#shared;
    await Promise.all([...this.#handles].map((handle) => handle.close()));
    requests.close();
    // Away from the server, nothing waits to leave.
    if (connection.connected) await connection.flush(flushTimeoutMs).catch(() => {});
    await connection.close();
  }

  #onEvent(event: ConnectionEvent): void {
    switch (event.type) {
      case 'connected':
        this.#shared.requests.sendHeld();
        return this.#tell({ type: 'connected', server: this.#connection.server });
      case 'refused':
        return this.#refused(event.operation, event.subject);
      case 'closed':
        this.#shared.requests.end();
        for (const handle of this.#handles) handle.end();
        return this.#tell(event);
      case 'disconnected':
      case 'error':
        return this.#tell(event);
    }
  }

  #refused(operation: 'publish' | 'subscribe', subject: string): void {
    if (operation === 'publish') this.#shared.requests.refuse(subject);
    const error = new BusError('FORBIDDEN', subject, `the server does not allow us to ${operation} to it`);
    this.#tell({ type: 'refused', operation, subject, error });
  }

  #tell(status: LinkStatus): void {
    for (const listener of this.#listeners) {
      try {
        listener(status);
      } catch (error) {
        this.#shared.report(error, status.type);
      }
    }
  }
}
