/** The way into sessions: creates them, finds them, listens to them. Speaks to brokers and owners over the bus alone. */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { EnclaveError } from '../errors.ts';
import { uuidv7 } from '../ids.ts';
import type {
  AskSession,
  CreateSession,
  JournalRead,
  KnownTool,
  SessionListed,
  SessionsListed,
  ToolList,
} from '../protocol.ts';
import type { ExecutionResult } from '../result.ts';
import { seedWords } from '../seed.ts';
import type { Subjects } from '../subjects.ts';
import { type ClientContext, type ClientDefaults, Closing, surely } from './context.ts';
import { readEvents } from './events.ts';
import { feedOf } from './feed.ts';
import { Inbox } from './inbox.ts';
import {
  type AllEventsOptions,
  checkAllEvents,
  checkId,
  type RunOptions,
  resolveRun,
  resolveSpawn,
  type SpawnOptions,
} from './options.ts';
import { Requests } from './request.ts';
import { runStateless } from './run.ts';
import { SessionRef } from './session.ts';

export interface SessionClientOptions {
  /** Of this client, `[A-Za-z0-9_-]{1,64}`; no two that live may have the same. */
  readonly id: string;
  /** Stays open when the client closes. */
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly defaults: ClientDefaults;
  /** Longest search for an owner or a broker, in ms. Default 30,000. After it: UNAVAILABLE. */
  readonly timeoutMs?: number | undefined;
  /** Longest wait for the result of a stateless run, in ms. Default: its `deadlineMs`, and 30,000. After it: TIMEOUT. */
  readonly runTimeoutMs?: number | undefined;
  /** Longest wait for one answer, in ms. Default 1,000. After it somebody is asked to see to an owner, and the same command is sent again. */
  readonly requestTimeoutMs?: number | undefined;
}

export class SessionClient {
  readonly #context: ClientContext;
  readonly #timeoutMs: number;
  readonly #runTimeoutMs: number | undefined;

  /** @throws EnclaveError INVALID_ARGUMENT for an id that breaks its rule. */
  constructor(options: SessionClientOptions) {
    const { id, bus, clock, subjects, defaults, timeoutMs = 30_000, requestTimeoutMs = 1_000 } = options;
    checkId(id, 'options.id');
    this.#timeoutMs = timeoutMs;
    this.#runTimeoutMs = options.runTimeoutMs;
    this.#context = {
      bus,
      clock,
      subjects,
      defaults,
      requests: new Requests({ bus, clock, subjects, timeoutMs, requestTimeoutMs }),
      inbox: new Inbox(bus, subjects.clientResult(id)),
      closing: new Closing(),
    };
  }

  /** Resolves when results can be told to this client. Rejects with a BusError CLOSED. */
  start(): Promise<void> {
    return this.#context.inbox.start();
  }

  /**
   * Create a session. Delivery: sent until a broker answers, created once. Rejects with an EnclaveError:
   * INVALID_ARGUMENT naming the option, ALREADY_EXISTS, OVERLOADED, or UNAVAILABLE if no broker answered in time.
   */
  async spawn(options: SpawnOptions = {}): Promise<SessionRef> {
    const { clock, requests, defaults } = this.#context;
    const request = resolveSpawn(options, defaults);
    const session = options.id ?? uuidv7(clock);
    const body: CreateSession = { session, creation: clock.id(), ...request };
    // It may be the name of a session that is gone, whose epochs were higher.
    requests.forget(session);
    await requests.ask<unknown>('session_create', body, true);
    return new SessionRef(this.#context, session, surely(request.limits, defaults));
  }

  /**
   * Run a script for which no session is kept: the body of an async function in JavaScript or TypeScript.
   *
   * Delivery: taken by one broker, and started again only by that one, after a runtime was lost. Never sent again while
   * it may run: if its broker is lost it ends as UNAVAILABLE, after a time-out as TIMEOUT, both with `outcome:
   * 'unknown'`. Rejects with an EnclaveError INVALID_ARGUMENT on misuse; whatever else happens is in the result.
   */
  async run<T = unknown>(
    code: string,
    options: RunOptions = {},
    { takeTimeoutMs = this.#timeoutMs }: { readonly takeTimeoutMs?: number } = {},
  ): Promise<ExecutionResult<T>> {
    const { clock, inbox, defaults } = this.#context;
    const request = resolveRun(code, options, defaults);
    const { deadlineMs } = request.limits;
    const result = await runStateless(this.#context, {
      script: {
        ...request,
        run: `run-${uuidv7(clock)}`,
        seed: seedWords(options.seed, clock),
        tell: inbox.subject,
      },
      signal: options.signal,
      onEvent: options.onEvent,
      takeTimeoutMs,
      timeoutMs: this.#runTimeoutMs,
      deadlineMs: deadlineMs ?? defaults.known?.deadlineMs,
    });
    // What the script returns is the caller's to know.
    return result as ExecutionResult<T>;
  }

  /** A session that exists, by its id. Nothing is asked: whether it does is told by the first command. */
  session(id: string): SessionRef {
    checkId(id, 'id');
    // It may have been made by another client, at another broker.
    return new SessionRef(this.#context, id, surely({}, {}));
  }

  /**
   * Events of one session, as by `session.events()`, or live ones of all: at most once, in order within one session
   * and type, and OVERLOADED for a reader behind whom more than 10,000 wait.
   */
  allEvents(options: AllEventsOptions = {}): AsyncIterable<ExecutionEvent> {
    checkAllEvents(options);
    const { sessionId, fromSeq, types, signal } = options;
    const context = this.#context;
    return {
      [Symbol.asyncIterator]: () =>
        sessionId === undefined
          ? feedOf(context, { types, signal })
          : readEvents(context, sessionId, { start: fromSeq ?? 'now', types, signal }),
    };
  }

  /** Every session in the store, as it was last committed; for operators. Those of durability 'none' are not among them. */
  async *sessions(): AsyncIterable<SessionListed> {
    for (let cursor = ''; ; ) {
      const { value } = await this.#context.requests.ask<SessionsListed>('sessions_list', { cursor });
      yield* value.sessions;
      cursor = value.cursor;
      if (cursor === '') return;
    }
  }

  /** The tools that scripts may call, as their providers advertise them. */
  async tools(): Promise<readonly KnownTool[]> {
    const found: KnownTool[] = [];
    for (let after: string | undefined; ; ) {
      const { value } = await this.#context.requests.ask<ToolList>('tools_list', { after });
      found.push(...value.tools);
      after = value.after;
      if (after === undefined) return found;
    }
  }

  /** What a rerun of an execution needs. Rejects with an EnclaveError, such as NOT_FOUND. */
  async journal(sessionId: string, executionId: string): Promise<JournalRead> {
    checkId(sessionId, 'sessionId');
    checkId(executionId, 'executionId');
    const body: AskSession = { session: sessionId, execution: executionId };
    const { value } = await this.#context.requests.ask<JournalRead>('journal_read', body);
    return value;
  }

  /**
   * The connection was given up: what waits ends as UNAVAILABLE, with what is certain as `outcome`, and iterations
   * throw it. What is asked later goes by whatever the bus has then.
   */
  giveUp(error: EnclaveError): void {
    this.#context.requests.giveUp(error);
    this.#context.closing.giveUp(error);
  }

  /**
   * Let go: what waits ends as CLOSED, iterations end, executions go on without this client. The bus stays open.
   * Safe to call again.
   */
  async close(): Promise<void> {
    this.#context.closing.close();
    this.#context.requests.close();
    this.#context.inbox.close();
  }
}
