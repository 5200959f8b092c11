/** The events of an execution as lines. */
// In a service of your own: from 'enclave-actors'.
import type { ExecutionEvent } from '#enclave';
import { dim, good, name, row, warn } from './print.ts';

/** One line per event: its number, its type, what it says. */
export function printEvent(event: ExecutionEvent): void {
  const text = describe(event);
  row(`${dim(String(event.seq).padStart(2))}  ${name(event.type.padEnd(20))}`, text);
}

function describe(event: ExecutionEvent): string {
  switch (event.type) {
    case 'stdout':
      return event.payload.chunk.trimEnd();
    case 'log':
      return warn(`${event.payload.level}: ${event.payload.message}`);
    case 'tool_call':
      return `${callNumber(event.payload.callId)} ${event.payload.toolName} ${dim(JSON.stringify(event.payload.args))}`;
    case 'tool_result_applied':
      return `${callNumber(event.payload.callId)} ${event.payload.ok ? good('ok') : warn('failed')}`;
    case 'final':
      return event.payload.ok ? good('ok') : warn(event.payload.error?.code ?? 'failed');
    case 'session_init':
      return dim(event.payload.executionId);
    default:
      return '';
  }
}

/** A call id is `executionId/callIndex`. */
function callNumber(callId: string): string {
  return `#${callId.slice(callId.lastIndexOf('/') + 1)}`.padEnd(3);
}
