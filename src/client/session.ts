/** A session, as its users hold it: a name and the way to its owner. It holds nothing that could be lost. */
import type { ExecutionEvent } from '../../actors/events.ts';
import { EnclaveError } from '../errors.ts';
import { uuidv7 } from '../ids.ts';
import type { ResolvedSessionLimits } from '../options.ts';
import type {
  Activated,
  Durability,
  ExecutionStatus,
  SessionCommand,
  SessionInfoAnswer,
  SessionStatus,
} from '../protocol.ts';
import type { ExecutionResult } from '../result.ts';
import { seedWords } from '../seed.ts';
import type { ClientContext } from './context.ts';
import { readEvents } from './events.ts';
import { type ExecutionHandle, Run } from './execution.ts';
import {
  checkEvents,
  checkId,
  checkMigrate,
  type EventsOptions,
  type ExecuteOptions,
  type MigrateOptions,
  resolveExecute,
} from './options.ts';
import { ResultPoll } from './poll.ts';

/** What is known of a session. */
export interface SessionInfo {
  readonly id: string;
  readonly status: SessionStatus;
  /** Rises with every acquisition by a broker: the fencing token. */
  readonly epoch: number;
  /** The broker that owns it, by its id, if one does. `sessions()` tells the incarnation, which is one start of a broker. */
  readonly owner: string | undefined;
  /** The runtime that runs its script, or ran the last one. */
  readonly runtime: string | undefined;
  /** Of its last event; 0 if there is none. */
  readonly seq: number;
  /** Commits so far. */
  readonly version: number;
  /** As its last successful execution left it. */
  readonly state: unknown;
  readonly labels: Readonly<Record<string, string>>;
  /** On whose behalf it is; `'default'` where nobody was named. Undefined if its broker is of an older release. */
  readonly tenant?: string | undefined;
  readonly durability: Durability;
  /** The executions that are remembered, oldest first. */
  readonly executions: readonly { readonly id: string; readonly status: ExecutionStatus }[];
}

/**
 * A session by its name. Every method finds the owner, whoever it is, and rejects with an EnclaveError: NOT_FOUND,
 * EXPIRED, CLOSED, or UNAVAILABLE if nobody answered in time. Its `outcome` is `unknown` if the command may have
 * been carried out.
 */
export class SessionRef {
  readonly id: string;
  readonly #context: ClientContext;
  readonly #limits: ResolvedSessionLimits;

  /** @internal */
  constructor(context: ClientContext, id: string, limits: ResolvedSessionLimits) {
    this.#context = context;
    this.id = id;
    this.#limits = limits;
  }

  /**
   * Run a script in this session: the body of an async function in JavaScript or TypeScript. Executions beyond
   * `maxConcurrentExecutions` wait in order.
   *
   * Delivery: the command is sent until it is acknowledged, and acted on once. Throws INVALID_ARGUMENT at once on
   * misuse; everything else is told by `result`.
   */
  execute<T = unknown>(code: string, options: ExecuteOptions = {}): ExecutionHandle<T> {
    const { clock, inbox } = this.#context;
    const { input, limits } = resolveExecute(code, options, this.#limits);
    const command: SessionCommand = {
      t: 'execute',
      execution: options.commandId ?? uuidv7(clock),
      issuedAt: options.issuedAt ?? clock.now(),
      source: code,
      input,
      limits: options.limits,
      seed: seedWords(options.seed, clock),
      tell: inbox.subject,
    };
    const run = new Run(this.#context, {
      session: this.id,
      command,
      signal: options.signal,
      refused: this.#refuseEarly(code, limits, options.signal),
    });
    // What the script returns is the caller's to know.
    return run as unknown as ExecutionHandle<T>;
  }

  /** What is known of it now. Does not wake a session that hibernates. */
  async info(): Promise<SessionInfo> {
    const { value } = await this.#context.requests.command<SessionInfoAnswer>(
      this.id,
      { t: 'info' },
      { otherwise: 'session_info' },
    );
    const { session, broker, state, ...rest } = value;
    return { ...rest, id: session, owner: broker, state: JSON.parse(state) as unknown };
  }

  /**
   * Its events, once each, in order, without a gap; the log fills in what is lost on the way. Listens from the call
   * of `[Symbol.asyncIterator]`; ends when `signal` is aborted or the client closes. The iterator throws TRUNCATED,
   * with `details.firstSeq`, if what comes next is no longer kept. A slow reader loses nothing that is kept.
   */
  events(options: EventsOptions = {}): AsyncIterable<ExecutionEvent> {
    checkEvents(options);
    const { fromSeq, signal } = options;
    return {
      [Symbol.asyncIterator]: () => readEvents(this.#context, this.id, { start: fromSeq ?? 'now', signal }),
    };
  }

  /**
   * Hand it to another broker. What it runs goes on. Resolves to the new owner. Rejects as NOT_FOUND if there is no session, or no
   * broker `to`, and as INVALID_ARGUMENT for a session of durability 'none'.
   */
  async migrate(options: MigrateOptions = {}): Promise<{ readonly epoch: number; readonly owner: string }> {
    checkMigrate(options);
    const before = await this.info();
    const { value, epoch } = await this.#command<Activated | undefined>({
      t: 'migrate',
      to: options.to,
      fromEpoch: before.epoch,
    });
    if (typeof value?.broker === 'string') return { epoch, owner: value.broker };
    await this.#context.requests.activate(this.id);
    const info = await this.info();
    if (info.owner === undefined)
      throw new EnclaveError('UNAVAILABLE', `Session "${this.id}" was given up and has no owner yet`, {
        outcome: 'completed',
      });
    return { epoch: info.epoch, owner: info.owner };
  }

  /**
   * The result of an execution, whoever began it; waits while it runs, and keeps the process up meanwhile. Rejects
   * as NOT_FOUND if the session does not know the execution, or no longer.
   */
  async result<T = unknown>(executionId: string): Promise<ExecutionResult<T>> {
    checkId(executionId, 'executionId');
    const result = await new Promise<ExecutionResult>((resolve, reject) => {
      const { closing } = this.#context;
      const closed = (why: EnclaveError): void => {
        poll.stop();
        reject(why);
      };
      const stopClosing = closing.onClose(closed);
      const poll = new ResultPoll(this.#context, {
        session: this.id,
        execution: executionId,
        onResult: (found) => {
          stopClosing();
          resolve(found);
        },
        onLost: (error) => {
          stopClosing();
          reject(error);
        },
      });
      poll.stayAwake();
      if (closing.closed) closed(new EnclaveError('CLOSED', 'The client was closed'));
      else poll.start(0);
    });
    return result as ExecutionResult<T>;
  }

  /**
   * Let go of everything it holds in memory. It wakes by the next command. Rejects as OVERLOADED, with `retryAfterMs`, while it has
   * executions under way, and as INVALID_ARGUMENT for a session of durability 'none', which is nowhere else.
   */
  async hibernate(): Promise<void> {
    await this.#command({ t: 'hibernate' });
  }

  /** End it: what runs is cancelled, and nothing is accepted any more. Its results stay for a while. */
  async close(): Promise<void> {
    await this.#command({ t: 'close' });
  }

  /** End it and forget everything of it. */
  async delete(): Promise<void> {
    try {
      await this.#command({ t: 'delete' });
    } catch (error) {
      // The answer to an earlier sending was lost: it is gone because we said so.
      const done = error instanceof EnclaveError && error.code === 'NOT_FOUND' && error.outcome === 'unknown';
      if (!done) throw error;
    }
    this.#context.requests.forget(this.id);
  }

  #command<T>(command: SessionCommand) {
    return this.#context.requests.command<T>(this.id, command);
  }

  #refuseEarly(
    code: string,
    { maxSourceBytes }: ResolvedSessionLimits,
    signal: AbortSignal | undefined,
  ): EnclaveError | undefined {
    if (this.#context.closing.closed) return new EnclaveError('CLOSED', 'The client was closed');
    if (signal?.aborted === true)
      return new EnclaveError('CANCELLED', 'The caller aborted the execution before it began');
    if (code.length <= maxSourceBytes / 3) return undefined;
    const bytes = Buffer.byteLength(code);
    if (bytes <= maxSourceBytes) return undefined;
    const message = `The source is ${bytes} bytes, more than maxSourceBytes (${maxSourceBytes})`;
    return new EnclaveError('SOURCE_LIMIT_EXCEEDED', message);
  }
}
