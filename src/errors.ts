/**
 * Every failure this package reports, by code.
 *
 * Two shapes carry a code. {@link EnclaveError} is thrown: for misuse (a bad argument, a bad option), and by what has
 * no result to tell it in, such as the making of a session (ALREADY_EXISTS, OVERLOADED, UNAVAILABLE and so on).
 * {@link ExecutionError} is data inside a result: whatever a script, its limits or its worker did. Text that comes from a sandbox is data in both and is never turned back into a class.
 */

/**
 * What is certain about an execution that did not succeed.
 *
 * - `not_started`: no statement of the script ran.
 * - `completed`: the script ran and ended, or was stopped, and nothing is in doubt: every tool call that it
 *   made has a known end (see `toolCalls`).
 * - `unknown`: it ran, and something is in doubt: a tool call was under way when it was ended, or its worker
 *   was lost and it was not tried again.
 */
export type Outcome = 'not_started' | 'completed' | 'unknown';

/** Whether the same may succeed when it is simply sent again later. */
const RETRYABLE = {
  SYNTAX_ERROR: false,
  SCRIPT_ERROR: false,
  TOOL_ERROR: false,
  UNKNOWN_TOOL: false,
  TOOL_NOT_ALLOWED: false,
  TOOL_UNAVAILABLE: true,
  TOOL_TIMEOUT: false,
  EXECUTION_TIMEOUT: false,
  CPU_LIMIT_EXCEEDED: false,
  MEMORY_LIMIT_EXCEEDED: false,
  TOOL_CALL_LIMIT_EXCEEDED: false,
  OUTPUT_LIMIT_EXCEEDED: false,
  RESULT_LIMIT_EXCEEDED: false,
  SERIALIZATION_ERROR: false,
  SOURCE_LIMIT_EXCEEDED: false,
  INVALID_ARGUMENT: false,
  CANCELLED: false,
  OVERLOADED: true,
  QUEUE_TIMEOUT: true,
  WORKER_CRASHED: true,
  QUARANTINED: false,
  CLOSED: false,
  NONDETERMINISTIC_REPLAY: false,
  NOT_FOUND: false,
  ALREADY_EXISTS: false,
  UNAVAILABLE: true,
  NO_RUNTIME: true,
  COMMAND_CONFLICT: false,
  COMMAND_EXPIRED: false,
  STATE_CONFLICT: true,
  STATE_LIMIT_EXCEEDED: false,
  DEADLINE_EXCEEDED: false,
  ENGINE_MISMATCH: false,
  EXPIRED: false,
  TRUNCATED: false,
  OUTCOME_UNKNOWN: false,
  FENCED: true,
  TIMEOUT: true,
} as const;

/** A failure's code: what callers match on. */
export type ErrorCode = keyof typeof RETRYABLE;

/** Whether a text, such as a code that came over the bus, is one of the codes that this version knows. */
export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(RETRYABLE, text);
}

/** A failed execution, as data. */
export interface ExecutionError {
  /** The error's name as the script saw it (`TypeError`), or `EnclaveError` where the script threw nothing. */
  readonly name: string;
  readonly code: ErrorCode;
  readonly message: string;
  /** The script's own frames only, with its own lines and columns. */
  readonly stack?: string;
  /** True if sending the same run again later may succeed and cannot do things twice. Always false when `outcome` is `unknown`: then an execution may be sent again under the same `commandId` only. */
  readonly retryable: boolean;
  readonly outcome: Outcome;
  /** Where waiting helps (OVERLOADED, QUEUE_TIMEOUT, QUARANTINED, a refused WORKER_CRASHED): how long, in ms. */
  readonly retryAfterMs?: number;
  /**
   * What the code's own docs promise, as JSON data. NO_RUNTIME of a session: the labels `wanted` of a runtime, the
   * `runtimes` that were `known` then (at most 10 of them) with their `labels`, how much room each had (`free`), and
   * whether it was `draining`. OVERLOADED of a limit: which `limit` was passed (`rate`, `concurrency` or `queue`), and
   * the `position` that there would have been in line, counted from 1; from a broker also the `tenant`.
   */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** The parts of an {@link ExecutionError} that have no default. */
export interface ErrorParts {
  readonly name?: string | undefined;
  readonly message: string;
  readonly stack?: string | undefined;
  readonly outcome: Outcome;
  readonly retryAfterMs?: number | undefined;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
}

/** Whether an error of this code may go away by itself; false for a code of somebody else's. */
export function isRetryable(code: string): boolean {
  return Object.hasOwn(RETRYABLE, code) && RETRYABLE[code as ErrorCode];
}

/** Build the error part of a result. An outcome in doubt is never retryable: a retry might do things twice. */
export function executionError(code: ErrorCode, parts: ErrorParts): ExecutionError {
  return {
    name: parts.name ?? 'EnclaveError',
    code,
    message: parts.message,
    ...(parts.stack === undefined ? {} : { stack: parts.stack }),
    // The code may be one of a newer version's.
    retryable: isRetryable(code) && parts.outcome !== 'unknown',
    outcome: parts.outcome,
    ...(parts.retryAfterMs === undefined ? {} : { retryAfterMs: parts.retryAfterMs }),
    ...(parts.details === undefined ? {} : { details: parts.details }),
  };
}

/** Thrown where there is no result to tell it in. `code` says what is wrong; of misuse, `message` names the argument. */
export class EnclaveError extends Error {
  override readonly name = 'EnclaveError';
  readonly code: ErrorCode;
  /** True if the same call may succeed later and cannot do things twice: always false when `outcome` is `unknown`. Then only what carries its own id (a `commandId`, a session's `id`) may be sent again, with that id. */
  readonly retryable: boolean;
  readonly outcome: Outcome;
  /** Where waiting helps (OVERLOADED, UNAVAILABLE): how long, in ms. */
  readonly retryAfterMs?: number;
  /** The option or argument that was wrong, where there is one. */
  readonly key: string | undefined;
  /** What the code's own docs promise, as JSON data: `firstSeq` of TRUNCATED, `fromSeq` of an event stream that ended as UNAVAILABLE, `refusal` (a code) of an UNAVAILABLE before which somebody refused. `retryAfterMs` is here as well. Else empty. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: {
      readonly cause?: unknown;
      readonly key?: string | undefined;
      readonly outcome?: Outcome | undefined;
      readonly details?: Readonly<Record<string, unknown>> | undefined;
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.outcome = options.outcome ?? 'not_started';
    this.retryable = isRetryable(code) && this.outcome !== 'unknown';
    this.key = options.key;
    this.details = options.details ?? {};
    const { retryAfterMs } = this.details;
    if (typeof retryAfterMs === 'number') this.retryAfterMs = retryAfterMs;
  }
}

/** An {@link EnclaveError} for an argument or option that breaks a rule. */
export function invalidArgument(key: string, rule: string, cause?: unknown): EnclaveError {
  return new EnclaveError('INVALID_ARGUMENT', `${key}: ${rule}`, {
    key,
    ...(cause === undefined ? {} : { cause }),
  });
}
