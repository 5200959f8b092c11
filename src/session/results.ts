/** The result of an execution of a session, as the JSON text that is stored and told. */
import type { Ended } from '../../actors/sessiondata.ts';
import { type ErrorCode, executionError } from '../errors.ts';
import type { ExecutionStats } from '../result.ts';
import type { SessionJournal } from './journal.ts';

/** JSON of an ExecutionResult. */
export function resultJson(ended: Ended, journal: SessionJournal): string {
  const { execution, at, end, usage } = ended;
  const toolCalls = journal.records(execution, at);
  const { startTime, acceptedAt } = execution;
  const stats: ExecutionStats = {
    // The next owner's clock may be behind.
    duration: startTime === 0 ? 0 : Math.max(0, at - startTime),
    cpuTime: usage.cpu,
    toolCallCount: toolCalls.length,
    startTime: startTime === 0 ? acceptedAt : startTime,
    endTime: at,
    queueTime: Math.max(0, (startTime === 0 ? at : startTime) - acceptedAt),
    memoryUsage: usage.heap,
    attempts: execution.attempts,
  };
  const rest = `"executionId":${JSON.stringify(execution.id)},"stats":${JSON.stringify(stats)},"toolCalls":${JSON.stringify(toolCalls)}}`;
  if (end.ok) {
    // The value is JSON already, checked when it came in.
    const value = end.json === '' ? '' : `"value":${end.json},`;
    return `{"success":true,${value}${rest}`;
  }
  const error = executionError(end.code as ErrorCode, {
    name: end.name,
    message: end.message,
    stack: end.stack === '' ? undefined : end.stack,
    outcome: end.outcome,
    retryAfterMs: end.retryAfterMs,
    details: end.details,
  });
  return `{"success":false,"error":${JSON.stringify(error)},${rest}`;
}
