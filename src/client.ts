/** A client as services embed it: the session API of `createSystem` over a connection that comes back by itself. */
import type { ExecutionEvent } from '../actors/events.ts';
import { checkIsolation, checkKeys } from './arguments.ts';
import { type LinkStatus, NatsLink, type NatsOptions } from './bus/nats.ts';
import { SessionClient } from './client/client.ts';
import { type AllEventsOptions, type RunOptions, resolveRun, type SpawnOptions } from './client/options.ts';
import { refusedResult } from './client/results.ts';
import type { SessionRef } from './client/session.ts';
import { systemClock } from './clock.ts';
import { EnclaveError, invalidArgument } from './errors.ts';
import { Fallback, type FallbackOption } from './fallback.ts';
import { uuidv7 } from './ids.ts';
import { LastingBus } from './lastingbus.ts';
import { type Member, memberOf } from './member.ts';
import { DEFAULT_NATS, type NatsSource, natsOptions, natsSource } from './natssource.ts';
import { mergeSessionLimits, type SessionLimitOptions } from './options.ts';
import type { JournalRead, KnownTool, SessionListed } from './protocol.ts';
import type { ExecutionResult } from './result.ts';
import type { Isolation } from './sandbox/messages.ts';
import { ID, subjectsOf } from './subjects.ts';

/** How a client comes back, having lost its connection to NATS. */
export interface ReconnectionOptions {
  /** Whether a lost connection is made again by itself. Default true. Without: it is given up at once. */
  readonly enabled?: boolean | undefined;
  /** Attempts per server and outage before the connection is given up, -1 for ever. Default -1; to 1,000,000. Then what waits ends as UNAVAILABLE, event streams too, and the next call connects anew. With the default pauses 5 attempts last 0.4 to 0.8 s and 10 last 4.6 to 9.2 s where servers refuse at once; each further one 1 to 2 s. */
  readonly maxAttempts?: number | undefined;
  /** The pause between attempts grows by this. Default 2; 1 to 10. */
  readonly backoffMultiplier?: number | undefined;
  /** The first pause, in ms; up to half of each is left to chance. Default 50; 1 to 600,000. */
  readonly initialDelayMs?: number | undefined;
  /** The longest pause, in ms. Default 2,000; 1 to 600,000. */
  readonly maxDelayMs?: number | undefined;
}

/** Where the brokers are, who this client is to them, and how long it waits. Everything has a default. */
export interface EnclaveClientOptions {
  /** The NATS servers that the brokers use: `nats://` or `tls://` urls, or options with credentials. Default `nats://127.0.0.1:4222`. */
  readonly serverUrl?: NatsSource | undefined;
  /** Default: that of the credentials, or `'default'`. */
  readonly namespace?: string | undefined;
  /** Names this client: no other that lives may have it. Default: that of the credentials, or a new one. */
  readonly id?: string | undefined;
  /** Whether, how often and how soon it connects again, having lost the connection. Default: see each. */
  readonly reconnection?: ReconnectionOptions | undefined;
  /** Longest wait for the answer to a command, and for the result of `run`, in ms. Default 60,000; 1 to 86,400,000. After it UNAVAILABLE or TIMEOUT, with what is certain as `outcome`. The result of an execution of a session is waited for as long as it runs. */
  readonly timeout?: number | undefined;
  /** Limits of the sessions that it makes and of its runs where they do not set their own. One above the brokers' `maxLimits` is refused as INVALID_ARGUMENT. Default: the brokers'. */
  readonly limits?: SessionLimitOptions | undefined;
  /** How far executions are kept apart where a session or a run does not say. Default: the brokers'. */
  readonly isolation?: Isolation | undefined;
  /**
   * What `run` does while no broker can be reached: `'local'` runs the script in worker processes of this service,
   * without tools; an Enclave's options do so with theirs. Only what certainly did not start in the cluster. Default:
   * it fails as UNAVAILABLE. Sessions are never run locally.
   */
  readonly fallback?: FallbackOption | undefined;
}

const KEYS = ['serverUrl', 'namespace', 'id', 'reconnection', 'timeout', 'limits', 'isolation', 'fallback'];
const RECONNECTION_KEYS = ['enabled', 'maxAttempts', 'backoffMultiplier', 'initialDelayMs', 'maxDelayMs'];
const DEFAULT_TIMEOUT_MS = 60_000;
const MAX_TIMEOUT_MS = 86_400_000;

/** What a client has to tell of its connection. */
export type ClientStatus =
  /** For the first time, or again. */
  | { readonly type: 'connected' }
  /** It is tried again, as `reconnection` says. */
  | { readonly type: 'disconnected' }
  /** All attempts failed: what waited has ended as UNAVAILABLE, and the next call connects anew. `error` says why. */
  | { readonly type: 'givenUp'; readonly error: EnclaveError };

/**
 * Speaks to the brokers of a namespace. Commands are sent again under their own ids until they are answered, event
 * streams go on where they were, and results of executions that were begun before a restart can be had by their ids.
 *
 * The constructor throws an EnclaveError INVALID_ARGUMENT naming the option that is wrong.
 */
export class EnclaveClient implements AsyncDisposable {
  readonly #nats: NatsOptions;
  readonly #namespace: string | undefined;
  readonly #id: string | undefined;
  readonly #timeoutMs: number;
  readonly #limits: SessionLimitOptions;
  readonly #isolation: Isolation | undefined;
  readonly #fallback: Fallback | undefined;
  readonly #listeners = new Set<(status: ClientStatus) => void>();
  /** Outlives every link, and so does what was made with it: sessions, waiting results. */
  readonly #bus = new LastingBus(async () => void (await this.#open()));
  #member: Member | undefined;
  #client: SessionClient | undefined;
  /** Both undefined once the link was given up. */
  #connecting: Promise<SessionClient> | undefined;
  #link: NatsLink | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: EnclaveClientOptions = {}) {
    checkKeys(options, KEYS, 'options');
    const {
      serverUrl = DEFAULT_NATS,
      namespace,
      id,
      reconnection = {},
      timeout = DEFAULT_TIMEOUT_MS,
    } = options;
    for (const [key, name] of Object.entries({ namespace, id }))
      if (name !== undefined && (typeof name !== 'string' || !ID.test(name)))
        throw invalidArgument(`options.${key}`, 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -');
    if (!Number.isInteger(timeout) || timeout < 1 || timeout > MAX_TIMEOUT_MS)
      throw invalidArgument('options.timeout', `must be a whole number from 1 to ${MAX_TIMEOUT_MS} ms`);
    this.#nats = {
      ...natsOptions(natsSource(serverUrl, 'options.serverUrl')),
      ...reconnecting(reconnection),
    };
    NatsLink.check(this.#nats, 'options.serverUrl');
    this.#namespace = namespace;
    this.#id = id;
    this.#timeoutMs = timeout;
    this.#limits = mergeSessionLimits(options.limits, undefined, 'options.limits');
    this.#isolation = checkIsolation(options.isolation, 'options.isolation');
    const own = { limits: this.#limits, isolation: this.#isolation };
    this.#fallback = options.fallback === undefined ? undefined : new Fallback(options.fallback, own);
  }

  /** True while the server can be reached. */
  get connected(): boolean {
    return this.#link?.connected ?? false;
  }

  /** Connect now instead of at the first call. Rejects as UNAVAILABLE if no server answers. Safe to call again. */
  async connect(): Promise<void> {
    await this.#open();
  }

  /**
   * Run a script for which no session is kept. See `System.run`. With `fallback` it runs here while no broker can be
   * reached. Without, and where no server can be, it ends as UNAVAILABLE with `outcome: 'not_started'`; after `close`
   * as CLOSED. Rejects only with an EnclaveError INVALID_ARGUMENT, naming the argument or what the servers refuse.
   */
  async run<T = unknown>(code: string, options: RunOptions = {}): Promise<ExecutionResult<T>> {
    resolveRun(code, options, { limits: this.#limits, isolation: this.#isolation });
    const local = this.#fallback;
    try {
      const client = await this.#open();
      if (local === undefined) return await client.run<T>(code, options);
      if (!this.connected) return await local.run<T>(code, options);
      const result = await client.run<T>(code, options, { takeTimeoutMs: local.patienceMs });
      const nowhere =
        !result.success && result.error.code === 'UNAVAILABLE' && result.error.outcome === 'not_started';
      return nowhere ? await local.run<T>(code, options) : result;
    } catch (error) {
      if (!(error instanceof EnclaveError) || error.code === 'INVALID_ARGUMENT') throw error;
      if (error.code === 'UNAVAILABLE' && local !== undefined) return local.run<T>(code, options);
      return refusedResult(systemClock, `run-${uuidv7(systemClock)}`, error);
    }
  }

  /** Make a session. See `System.spawnSession`. */
  async spawnSession(options: SpawnOptions = {}): Promise<SessionRef> {
    return (await this.#open()).spawn(options);
  }

  /** A session that exists, by its id. Throws UNAVAILABLE before `connect`, or any other call, has resolved. */
  session(id: string): SessionRef {
    return this.#opened().session(id);
  }

  /** Events of one session, or live ones of all. Throws UNAVAILABLE before `connect`, or any other call, has resolved. */
  events(options: AllEventsOptions = {}): AsyncIterable<ExecutionEvent> {
    return this.#opened().allEvents(options);
  }

  /** The tools that scripts may call, as their providers advertise them. */
  async tools(): Promise<readonly KnownTool[]> {
    return (await this.#open()).tools();
  }

  /** Every session that is stored, as it was last committed: for operators. Those of durability 'none' are not among them. */
  async *sessions(): AsyncIterable<SessionListed> {
    yield* (await this.#open()).sessions();
  }

  /** The journal of an execution. See `System.journal`. */
  async journal(executionId: string, { sessionId }: { readonly sessionId: string }): Promise<JournalRead> {
    return (await this.#open()).journal(sessionId, executionId);
  }

  /** Have a listener told of every change of the connection from now on. Returns what lets go of it. What it throws is dropped. */
  onStatus(listener: (status: ClientStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Let go: what waits ends as CLOSED; executions go on without this client. Safe to call again. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#connecting?.catch(() => undefined);
      await this.#client?.close();
      await this.#bus.close();
      await this.#link?.close();
      await this.#fallback?.close();
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #opened(): SessionClient {
    if (this.#closing !== undefined) throw closed();
    if (this.#client === undefined)
      throw new EnclaveError('UNAVAILABLE', 'The client is not connected: await connect() first');
    return this.#client;
  }

  #open(): Promise<SessionClient> {
    if (this.#closing !== undefined) return Promise.reject(closed());
    this.#connecting ??= this.#connect().catch((error: unknown) => {
      this.#connecting = undefined;
      throw error;
    });
    return this.#connecting;
  }

  async #connect(): Promise<SessionClient> {
    // The name stays, and with it the subject where results are told.
    this.#member ??= await memberOf({
      nats: this.#nats,
      role: 'client',
      namespace: this.#namespace,
      id: this.#id,
    });
    const { nats, namespace, id } = this.#member;
    const link = await NatsLink.open(nats);
    link.onStatus((status) => this.#onLink(link, status));
    this.#bus.use(link.connect('client'));
    this.#link = link;
    const client = new SessionClient({
      id,
      bus: this.#bus,
      clock: systemClock,
      subjects: subjectsOf(namespace),
      defaults: { limits: this.#limits, isolation: this.#isolation },
      timeoutMs: this.#timeoutMs,
      runTimeoutMs: this.#timeoutMs,
    });
    this.#client ??= client;
    try {
      await this.#client.start();
    } catch (cause) {
      await link.close();
      throw new EnclaveError('UNAVAILABLE', 'The connection to NATS was lost while it was made', { cause });
    }
    this.#tell({ type: 'connected' });
    return this.#client;
  }

  #onLink(link: NatsLink, status: LinkStatus): void {
    if (status.type === 'connected' || status.type === 'disconnected') this.#tell({ type: status.type });
    if (status.type !== 'closed' || link !== this.#link) return;
    this.#link = undefined;
    this.#connecting = undefined;
    this.#bus.drop();
    if (this.#closing !== undefined) return;
    const cause = status.error;
    const why = cause === undefined ? '' : `: ${cause.message}`;
    const error = new EnclaveError('UNAVAILABLE', `The connection to NATS was given up${why}`, { cause });
    this.#client?.giveUp(error);
    this.#tell({ type: 'givenUp', error });
  }

  #tell(status: ClientStatus): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(status);
      } catch {
        // There is nobody left to tell.
      }
    }
  }
}

function closed(): EnclaveError {
  return new EnclaveError('CLOSED', 'The client was closed');
}

function reconnecting(given: ReconnectionOptions): Pick<NatsOptions, 'maxReconnectAttempts' | 'reconnect'> {
  checkKeys(given, RECONNECTION_KEYS, 'options.reconnection');
  const { enabled = true, maxAttempts = -1, backoffMultiplier, initialDelayMs, maxDelayMs } = given;
  if (typeof enabled !== 'boolean')
    throw invalidArgument('options.reconnection.enabled', 'must be true or false');
  return {
    maxReconnectAttempts: enabled ? maxAttempts : 0,
    reconnect: { multiplier: backoffMultiplier, firstMs: initialDelayMs, maxMs: maxDelayMs },
  };
}
