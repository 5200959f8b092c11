/**
 * Waiting for the result of an execution that was acknowledged: told by its owner at most once, and asked for
 * after 1 s, then after 2, 4, 5, 5 s and so on, because what was told may be lost.
 */
import { EnclaveError, isRetryable } from '../errors.ts';
import type { ResultAnswer } from '../protocol.ts';
import type { ExecutionResult } from '../result.ts';
import type { ClientContext } from './context.ts';
import { parseResult } from './results.ts';

const FIRST_MS = 1_000;
const MOST_MS = 5_000;

export interface ResultPollOptions {
  readonly session: string;
  readonly execution: string;
  /** Called once, unless stopped before. */
  readonly onResult: (result: ExecutionResult) => void;
  /** Called once instead: nobody can tell the result any more. NOT_FOUND if nobody knows the execution. */
  readonly onLost: (error: EnclaveError) => void;
}

export class ResultPoll {
  readonly #context: ClientContext;
  readonly #options: ResultPollOptions;
  readonly #stopListening: () => void;
  #callOff = (): void => undefined;
  #dueAt = 0;
  #asked = 0;
  #awake = false;
  #waiting = false;
  #activated = false;
  #stopped = false;

  /** Listens from now on; asks once `start` is called. */
  constructor(context: ClientContext, options: ResultPollOptions) {
    this.#context = context;
    this.#options = options;
    this.#stopListening = context.inbox.listen(options.session, options.execution, (json) => {
      const result = parseResult(json);
      if (result !== undefined) this.#end(() => options.onResult(result));
    });
  }

  /** Ask after this long, in ms, and again and again. 0: at once. */
  start(ms = FIRST_MS): void {
    if (this.#stopped) return;
    if (ms === 0) {
      void this.#ask();
      return;
    }
    this.#dueAt = this.#context.clock.monotonic() + ms;
    this.#arm(ms);
  }

  /** From now on somebody waits for the result: the process must not end by itself. */
  stayAwake(): void {
    if (this.#awake) return;
    this.#awake = true;
    if (!this.#waiting || this.#stopped) return;
    this.#callOff();
    this.#arm(Math.max(0, this.#dueAt - this.#context.clock.monotonic()));
  }

  /** Safe to call again. */
  stop(): void {
    this.#stopped = true;
    this.#stopListening();
    this.#callOff();
  }

  #arm(ms: number): void {
    this.#waiting = true;
    this.#callOff = this.#context.clock.after(
      ms,
      () => {
        this.#waiting = false;
        void this.#ask();
      },
      this.#awake,
    );
  }

  async #ask(): Promise<void> {
    const { session, execution } = this.#options;
    try {
      const answer = await this.#context.requests.command<ResultAnswer>(
        session,
        { t: 'result', execution },
        { otherwise: 'session_result' },
      );
      const { status, result } = answer.value;
      if (status === 'unknown') {
        const message = `Session "${session}" does not know execution "${execution}"`;
        throw new EnclaveError('NOT_FOUND', message, { outcome: 'unknown' });
      }
      if (status === 'ended') return this.#conclude(result);
      // Nobody may have noticed yet that its owner is gone. Once is enough: brokers look for such work themselves.
      if (answer.unowned && !this.#activated) {
        this.#activated = true;
        await this.#context.requests.activate(session);
      }
    } catch (error) {
      const known =
        error instanceof EnclaveError
          ? error
          : new EnclaveError('CLOSED', 'The bus failed', { cause: error });
      if (!isRetryable(known.code)) return this.#end(() => this.#options.onLost(known));
    }
    this.start(Math.min(MOST_MS, FIRST_MS * 2 ** ++this.#asked));
  }

  #conclude(json: string | undefined): void {
    const result = parseResult(json ?? '');
    const unreadable = new EnclaveError('SERIALIZATION_ERROR', 'The stored result cannot be read', {
      outcome: 'unknown',
    });
    this.#end(() => {
      if (result === undefined) this.#options.onLost(unreadable);
      else this.#options.onResult(result);
    });
  }

  #end(tell: () => void): void {
    if (this.#stopped) return;
    this.stop();
    tell();
  }
}
