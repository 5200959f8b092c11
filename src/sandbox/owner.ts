/** Who wants a script run, and what it is told: the seam between an execution and what the script's doings mean. */
import type { ErrorCode, Outcome } from '../errors.ts';
import type { NewEntry } from './journal.ts';
import type { ScriptItem } from './messages.ts';

/** How an execution ended. */
export type ExecutionEnd =
  | {
      readonly ok: true;
      readonly json: string;
      /** What `json` says. */
      readonly value: unknown;
      /** The new state as JSON; undefined if there is none or it is as it was. */
      readonly state: string | undefined;
    }
  | Failure;

export interface Failure {
  readonly ok: false;
  readonly code: ErrorCode;
  readonly message: string;
  readonly name?: string | undefined;
  readonly stack?: string | undefined;
  readonly outcome?: Outcome | undefined;
  readonly retryAfterMs?: number | undefined;
  /** What the code's docs promise, as JSON data. */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  /** Its worker was lost while it was alone aboard: the crash counts against it. */
  readonly counted?: boolean | undefined;
}

/** Who wants the script run. Everything is told in the order in which it happened (X2). */
export interface ExecutionOwner {
  /** It wrote something. `bytes`: of the text. */
  output(item: Extract<ScriptItem, { kind: 'output' }>, bytes: number): void;
  /** It made a call, which is one that may be made; `args` is JSON, or '' for none. Its end is owed, by `deliver`. */
  call(entry: NewEntry, args: string): void;
  /** It sleeps. The end is owed, by `deliver`. */
  sleep(entry: NewEntry, ms: number): void;
  /** It was handed the end of this call or sleep. */
  applied(index: number): void;
  /** Everything that one message of the worker holds has been told. `waiting`: all that was delivered was applied, and the script waits for more. */
  told(waiting: boolean): void;
  /** Its wall clock ran out; it is being stopped. */
  timedOut(elapsedMs: number): void;
  /** Its worker was lost; it will be started again. */
  restarting(): void;
  /** It is being stopped: nothing that is under way for it will be used. */
  stopping(message: string): void;
  /** It has ended, and is still in its seat. */
  ended(end: ExecutionEnd): void;
  /** It has left its seat, after `ended`. The last that is told. */
  left(): void;
}
