/** For examples in which a script must succeed. */
// In a service of your own: from 'enclave-actors'.
import type { ExecutionResult } from '#enclave';

/** What the script returned. Throws if it failed. */
export function returned<T>(result: ExecutionResult<T>): T {
  if (!result.success) throw new Error(`${result.error.code}: ${result.error.message}`);
  return result.value;
}
