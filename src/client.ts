/** A client as services embed it: the session API of `createSystem` over a connection that comes back by itself. */
import type { ExecutionEvent } from '../actors/events.ts';
import { checkIsolation, checkKeys } from './arguments.ts';
import { NatsLink, type NatsOptions } from './bus/nats.ts';
import { SessionClient } from './client/client.ts';
import { type AllEventsOptions, type RunOptions, resolveRun, type SpawnOptions } from './client/options.ts';
import type { SessionRef } from './client/session.ts';
import { systemClock } from './clock.ts';
import { EnclaveError, invalidArgument } from './errors.ts';
import { Fallback, type FallbackOption } from './fallback.ts';
import { memberOf } from './member.ts';
import { DEFAULT_NATS, type NatsSource, natsOptions, natsSource } from './natssource.ts';
import { mergeSessionLimits, type SessionLimitOptions } from './options.ts';
import type { JournalRead, KnownTool, SessionListed } from './protocol.ts';
import type { ExecutionResult } from './result.ts';
import type { Isolation } from './sandbox/messages.ts';
import { ID, subjectsOf } from './subjects.ts';

/** How a client comes back, having lost its connection to NATS. */
export interface ReconnectionOptions {
  /** Whether a lost connection is made again. Default true. Without: after it everything ends as CLOSED. */
  readonly enabled?: boolean | undefined;
  /** Attempts per server before it is given up, -1 for ever. Default -1; to 1,000,000. */
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

interface Connected {
  readonly link: NatsLink;
  readonly client: SessionClient;
}

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
  #connecting: Promise<Connected> | undefined;
  #connected: Connected | undefined;
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
    return this.#connected?.link.connected ?? false;
  }

  /** Connect now instead of at the first call. Rejects as UNAVAILABLE if no server answers. Safe to call again. */
  async connect(): Promise<void> {
    await this.#open();
  }

  /**
   * Run a script for which no session is kept. See `System.run`. With `fallback` it runs here while no broker can be
   * reached; without, it then ends as UNAVAILABLE with `outcome: 'not_started'`.
   */
  async run<T = unknown>(code: string, options: RunOptions = {}): Promise<ExecutionResult<T>> {
    resolveRun(code, options, { limits: this.#limits, isolation: this.#isolation });
    const local = this.#fallback;
    if (local === undefined) return (await this.#open()).client.run<T>(code, options);
    const here = (): Promise<ExecutionResult<T>> => local.run<T>(code, options);
    let client: SessionClient;
    try {
      const opened = await this.#open();
      if (!opened.link.connected) return await here();
      client = opened.client;
    } catch (error) {
      if (error instanceof EnclaveError && error.code === 'UNAVAILABLE') return here();
      throw error;
    }
    const result = await client.run<T>(code, options, { takeTimeoutMs: local.patienceMs });
    const nowhere =
      !result.success && result.error.code === 'UNAVAILABLE' && result.error.outcome === 'not_started';
    return nowhere ? here() : result;
  }

  /** Make a session. See `System.spawnSession`. */
  async spawnSession(options: SpawnOptions = {}): Promise<SessionRef> {
    return (await this.#open()).client.spawn(options);
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
    return (await this.#open()).client.tools();
  }

  /** Every session that is stored, as it was last committed: for operators. Those of durability 'none' are not among them. */
  async *sessions(): AsyncIterable<SessionListed> {
    yield* (await this.#open()).client.sessions();
  }

  /** The journal of an execution. See `System.journal`. */
  async journal(executionId: string, { sessionId }: { readonly sessionId: string }): Promise<JournalRead> {
    return (await this.#open()).client.journal(sessionId, executionId);
  }

  /** Let go: what waits ends as CLOSED; executions go on without this client. Safe to call again. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      const opened = await this.#connecting?.catch(() => undefined);
      await opened?.client.close();
      await opened?.link.close();
      await this.#fallback?.close();
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #opened(): SessionClient {
    if (this.#closing !== undefined) throw new EnclaveError('CLOSED', 'The client was closed');
    if (this.#connected === undefined)
      throw new EnclaveError('UNAVAILABLE', 'The client is not connected: await connect() first');
    return this.#connected.client;
  }

  #open(): Promise<Connected> {
    if (this.#closing !== undefined)
      return Promise.reject(new EnclaveError('CLOSED', 'The client was closed'));
    this.#connecting ??= this.#connect().catch((error: unknown) => {
      this.#connecting = undefined;
      throw error;
    });
    return this.#connecting;
  }

  async #connect(): Promise<Connected> {
    const { nats, namespace, id } = await memberOf({
      nats: this.#nats,
      role: 'client',
      namespace: this.#namespace,
      id: this.#id,
    });
    const link = await NatsLink.open(nats);
    const client = new SessionClient({
      id,
      bus: link.connect('client'),
      clock: systemClock,
      subjects: subjectsOf(namespace),
      defaults: { limits: this.#limits, isolation: this.#isolation },
      timeoutMs: this.#timeoutMs,
      runTimeoutMs: this.#timeoutMs,
    });
    await client.start();
    this.#connected = { link, client };
    return this.#connected;
  }
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
