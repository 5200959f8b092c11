/** The span of who asked: from the call of `run` or `execute` to the result. */
import type { Bus } from '../bus/bus.ts';
import type { ExecutionResult } from '../result.ts';
import { type Attributes, messageAttributes, type OpenSpan, openSpan } from '../traces.ts';

/** A child of what the caller does. */
export function clientSpan(
  bus: Bus,
  name: 'enclave.run' | 'enclave.execute',
  subject: string,
  execution: string,
  attributes: Attributes,
): OpenSpan {
  return openSpan({
    name,
    kind: 'client',
    parent: 'active',
    attributes: {
      ...messageAttributes(bus, 'send', subject),
      'enclave.execution.id': execution,
      ...attributes,
    },
  });
}

export function endSpan(span: OpenSpan | undefined, result: ExecutionResult): void {
  if (span === undefined) return;
  span.set({
    'enclave.outcome': result.success ? 'completed' : result.error.outcome,
    'enclave.attempts': result.stats.attempts,
  });
  span.end(result.success ? undefined : result.error.code);
}
