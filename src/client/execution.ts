/**
 * One execution of a session, as its caller holds it.
 *
 * Invariants:
 *  E1  The command goes out after the turn in which it was made, and after the event readers made in that turn are
 *      in force: `for await (const event of session.execute(code))` misses nothing.
 *  E2  `result` resolves exactly once and never rejects, whatever happens to owner, bus or client.
 *  E3  The first of these ends it: the result told, the result asked for, a refusal, the client's end.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import { EnclaveError } from '../errors.ts';
import type { Accepted, Cancelled, SessionCommand } from '../protocol.ts';
import type { ExecutionResult } from '../result.ts';
import { type OpenSpan, tracing } from '../traces.ts';
import type { ClientContext } from './context.ts';
import { type EventReader, readEvents } from './events.ts';
import { ResultPoll } from './poll.ts';
import { parseResult, refusedResult } from './results.ts';
import { clientSpan, endSpan } from './spans.ts';

/** An execution under way. Iterating over it gives its events, from `session_init` to `final`, once each and in order. */
export interface ExecutionHandle<T = unknown> extends AsyncIterable<ExecutionEvent> {
  /** The command's id: what `session.result(id)` takes, in this process or another. */
  readonly id: string;
  /**
   * How it ended. Never rejects: a refusal is a failed result with its code (OVERLOADED, CLOSED, EXPIRED, NOT_FOUND,
   * COMMAND_CONFLICT, COMMAND_EXPIRED, UNAVAILABLE, …). While it is awaited the process does not end by itself.
   */
  readonly result: Promise<ExecutionResult<T>>;
  /** Resolves once the command is acknowledged, as durably as the session is. Rejects with an EnclaveError if it is refused; nobody has to listen. */
  readonly accepted: Promise<void>;
  /**
   * End it as CANCELLED. Resolves to whether that came before its end. Before it was sent: nothing is sent.
   * Rejects with an EnclaveError if the owner cannot be asked, or no longer knows the execution (NOT_FOUND).
   */
  cancel(reason?: string): Promise<boolean>;
}

export interface RunOptions {
  readonly session: string;
  readonly command: SessionCommand & { readonly t: 'execute' };
  readonly signal: AbortSignal | undefined;
  /** Why it is not even sent. */
  readonly refused: EnclaveError | undefined;
}

const DEFAULT_REASON = 'The caller cancelled the execution';

/** @internal */
export class Run implements ExecutionHandle {
  readonly id: string;
  readonly accepted: Promise<void>;
  readonly #context: ClientContext;
  readonly #options: RunOptions;
  readonly #result: Promise<ExecutionResult>;
  readonly #poll: ResultPoll;
  readonly #readers = new Set<EventReader>();
  readonly #stopWatching: () => void;
  /** Undefined where nobody traces. */
  readonly #span: OpenSpan | undefined;
  #resolve: (result: ExecutionResult) => void = () => undefined;
  #accept: () => void = () => undefined;
  #refuse: (error: EnclaveError) => void = () => undefined;
  #state: 'new' | 'sent' | 'accepted' | 'ended' = 'new';
  #wasAccepted = false;
  #cancelled: string | undefined;

  constructor(context: ClientContext, options: RunOptions) {
    this.#context = context;
    this.#options = options;
    this.id = options.command.execution;
    if (tracing()) {
      const subject = context.subjects.sessionCmd(options.session);
      const attributes = { 'enclave.session.id': options.session };
      this.#span = clientSpan(context.bus, 'enclave.execute', subject, this.id, attributes);
    }
    this.#result = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.accepted = new Promise((resolve, reject) => {
      this.#accept = resolve;
      this.#refuse = reject;
    });
    this.accepted.catch(() => undefined);
    this.#poll = new ResultPoll(context, {
      session: options.session,
      execution: this.id,
      onResult: (result) => this.#finish(result),
      onLost: (error) => this.#fail(inDoubt(error)),
    });
    this.#stopWatching = this.#watch();
    if (options.refused === undefined) context.clock.soon(() => void this.#send());
    else this.#fail(options.refused);
  }

  get result(): Promise<ExecutionResult> {
    this.#poll.stayAwake();
    return this.#result;
  }

  async cancel(reason = DEFAULT_REASON): Promise<boolean> {
    if (this.#state === 'ended') return false;
    if (this.#state !== 'accepted') {
      this.#cancelled ??= reason;
      try {
        await this.accepted;
      } catch (error) {
        return error instanceof EnclaveError && error.code === 'CANCELLED';
      }
      // The result may have come with the acknowledgement.
      if (this.#hasEnded()) return false;
    }
    const command = { t: 'cancel', execution: this.id, reason } as const;
    const { value } = await this.#context.requests.command<Cancelled>(this.#options.session, command);
    return value.cancelled;
  }

  [Symbol.asyncIterator](): AsyncIterator<ExecutionEvent> {
    let reader: EventReader | undefined;
    reader = readEvents(this.#context, this.#options.session, {
      start: this.#state === 'new' ? 'init' : 'first',
      execution: this.id,
      onEnd: () => {
        if (reader !== undefined) this.#readers.delete(reader);
      },
    });
    if (this.#hasEnded()) this.#release(reader);
    else this.#readers.add(reader);
    return reader;
  }

  async #send(): Promise<void> {
    if (this.#state !== 'new') return;
    await Promise.all([...this.#readers].map(({ ready }) => ready)); // E1
    if (this.#hasEnded()) return;
    this.#state = 'sent';
    const { session, command } = this.#options;
    try {
      const { value } = await this.#context.requests.command<Accepted>(session, command, {
        stop: (acted) => this.#hasEnded() || (this.#cancelled !== undefined && !acted),
        trace: this.#span?.headers,
      });
      this.#acknowledged(value);
    } catch (error) {
      this.#fail(error);
    }
  }

  #acknowledged({ result }: Accepted): void {
    if (this.#hasEnded()) return;
    this.#state = 'accepted';
    this.#wasAccepted = true;
    const ended = result === undefined ? undefined : parseResult(result);
    if (ended !== undefined) this.#finish(ended);
    else this.#poll.start();
    this.#accept();
  }

  #finish(result: ExecutionResult): void {
    if (this.#hasEnded()) return;
    // A result proves that the command was acknowledged, even if the acknowledgement was lost.
    this.#wasAccepted = true;
    this.#end(result);
    this.#accept();
  }

  #fail(error: unknown): void {
    if (this.#hasEnded()) return;
    const known =
      error instanceof EnclaveError
        ? error
        : new EnclaveError('UNAVAILABLE', 'The bus failed', { cause: error, outcome: 'unknown' });
    this.#end(refusedResult(this.#context.clock, this.id, known));
    this.#refuse(known);
  }

  #end(result: ExecutionResult): void {
    this.#state = 'ended';
    this.#poll.stop();
    this.#stopWatching();
    endSpan(this.#span, result);
    for (const reader of this.#readers) this.#release(reader);
    this.#resolve(result);
  }

  /** No more events will come than those that are in the log; of a command that was refused there are none. */
  #release(reader: EventReader): void {
    if (this.#wasAccepted) reader.finish();
    else reader.end();
  }

  #watch(): () => void {
    const { signal } = this.#options;
    const abort = (): void => {
      this.cancel('The caller aborted the execution').catch(() => undefined);
    };
    signal?.addEventListener('abort', abort, { once: true });
    const stopClosing = this.#context.closing.onClose((why) => {
      // One that is on its way is ended by its own rejection, which knows what is in doubt.
      if (this.#state === 'new') this.#fail(why);
      else if (this.#state === 'accepted') this.#fail(inDoubt(why));
    });
    return () => {
      signal?.removeEventListener('abort', abort);
      stopClosing();
    };
  }

  #hasEnded(): boolean {
    return this.#state === 'ended';
  }
}

/** It had been acknowledged, so it may have run, whatever is said of it now. */
function inDoubt(error: EnclaveError): EnclaveError {
  const { code, message, details } = error;
  return new EnclaveError(code, message, { cause: error, details, outcome: 'unknown' });
}
