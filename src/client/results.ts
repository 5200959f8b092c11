/** Results as the client sees them: read from JSON, or made for an execution that was refused. */
import type { Clock } from '../clock.ts';
import { type EnclaveError, executionError } from '../errors.ts';
import { type ExecutionResult, unstartedResult } from '../result.ts';

/** Read what an owner or a broker says a result is; undefined if it is none. */
export function parseResult(json: string): ExecutionResult | undefined {
  try {
    const result = JSON.parse(json) as Partial<ExecutionResult> | null;
    return typeof result?.success === 'boolean' ? (result as ExecutionResult) : undefined;
  } catch {
    return undefined;
  }
}

/** The result of an execution of which no result is known: it was refused, or what became of it cannot be told. */
export function refusedResult(
  clock: Clock,
  executionId: string,
  error: EnclaveError,
): ExecutionResult<never> {
  const { retryAfterMs } = error;
  const { retryAfterMs: _, ...details } = error.details;
  const shown = executionError(error.code, {
    message: error.message,
    outcome: error.outcome,
    retryAfterMs,
    // What was passed, and the place in line.
    ...(error.code === 'OVERLOADED' && typeof details.limit === 'string' ? { details } : {}),
  });
  return unstartedResult(executionId, shown, clock.now());
}
