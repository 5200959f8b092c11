/** What a run resolves to. Nothing a script does rejects: whatever happened is told here. */
import type { ExecutionError } from './errors.ts';

/** One tool call of a script, as far as it is known. */
export interface ToolCallRecord {
  /** `executionId/callIndex`: what the handler got as `idempotencyKey`. */
  readonly callId: string;
  /** Position among the script's calls and sleeps, from 0. */
  readonly callIndex: number;
  readonly name: string;
  /**
   * `completed`: the handler returned. `failed`: it threw, timed out, or was refused. `unknown`: it was running
   * when the execution ended, so its effect is in doubt. `not_started`: it was never handed to the handler.
   */
  readonly outcome: 'completed' | 'failed' | 'unknown' | 'not_started';
  /**
   * Why it did not complete, absent if it did. As the script saw it: TOOL_ERROR (the handler threw), INVALID_ARGUMENT,
   * SERIALIZATION_ERROR, TOOL_TIMEOUT (its `timeoutMs` passed), UNKNOWN_TOOL (nobody has it), TOOL_NOT_ALLOWED (not
   * on the list of this script), TOOL_UNAVAILABLE (nobody offered it for a while; it did not run), OUTCOME_UNKNOWN
   * (its provider was lost). CANCELLED: the execution ended first.
   */
  readonly code?: string;
  /** Time in the handler so far, in ms. */
  readonly durationMs: number;
}

/** What an execution took. Durations and times are in ms. */
export interface ExecutionStats {
  /** From the start in a worker (in a session: from its first placement on a runtime) to the end, in ms; 0 if it never started. */
  readonly duration: number;
  /** CPU time inside the isolate in the last attempt, in ms. */
  readonly cpuTime: number;
  readonly toolCallCount: number;
  /** When it started (or was refused), in ms since the epoch. */
  readonly startTime: number;
  /** When it ended, in ms since the epoch. */
  readonly endTime: number;
  /** Time spent waiting for a worker (in a session: for its turn, and for a runtime), in ms. */
  readonly queueTime: number;
  /** Heap in use at the end, in bytes; 0 where the isolate was gone. */
  readonly memoryUsage: number;
  /** How often the script was started: more than 1 after a lost worker or a move to a thread of its own. */
  readonly attempts: number;
}

/** How a run ended. */
export type ExecutionResult<T = unknown> =
  | {
      readonly success: true;
      /** What the script returned, as JSON carries it. */
      readonly value: T;
      readonly executionId: string;
      readonly stats: ExecutionStats;
      readonly toolCalls: readonly ToolCallRecord[];
    }
  | {
      readonly success: false;
      readonly error: ExecutionError;
      readonly executionId: string;
      readonly stats: ExecutionStats;
      readonly toolCalls: readonly ToolCallRecord[];
    };

/** The result of a run that was never started, or of which no more is known than this. `now`: in ms since the epoch. */
export function unstartedResult(
  executionId: string,
  error: ExecutionError,
  now: number,
): ExecutionResult<never> {
  return {
    success: false,
    executionId,
    error,
    stats: {
      duration: 0,
      cpuTime: 0,
      toolCallCount: 0,
      startTime: now,
      endTime: now,
      queueTime: 0,
      memoryUsage: 0,
      attempts: 0,
    },
    toolCalls: [],
  };
}
