/** The two ends of a run, unwrapped: a test that meets the other one fails with what happened instead. */
import type { ExecutionError, ExecutionResult } from '../../src/index.ts';

/** For `expect.poll`: facts may take their time on a loaded machine. */
export const PATIENCE = { timeout: 20_000 };

/** The value of a run that succeeded. */
export function valueIn<T>(result: ExecutionResult<T>): T {
  if (!result.success) throw new Error(`the run failed: ${JSON.stringify(result.error)}`);
  return result.value;
}

/** The error of a run that failed. */
export function errorIn(result: ExecutionResult): ExecutionError {
  if (result.success) throw new Error(`the run succeeded: ${JSON.stringify(result.value)}`);
  return result.error;
}
