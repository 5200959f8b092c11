/** An agent's task, with its events as they happen. */
// In a service of your own: from 'enclave-actors'.
import type { Enclave, ExecutionEvent } from '#enclave';
import { PICNIC_SCRIPT, type Picnic } from './picnic.ts';
import { dim, good, ms, name, row, warn } from './print.ts';

/** Run the picnic script in an Enclave that has the picnic tools, and print what happens while it happens. */
export async function planPicnic(enclave: Enclave): Promise<void> {
  const result = await enclave.run<Picnic>(PICNIC_SCRIPT, {
    input: { city: 'Lisbon', day: 'saturday' },
    onEvent: printEvent,
  });
  if (!result.success) throw new Error(`${result.error.code}: ${result.error.message}`);
  const { value, stats } = result;
  row('returned', good(`${value.park}, ${value.minutes} minutes away: "${value.invitation}"`));
  row(
    'took',
    `${ms(stats.duration)}, of which ${ms(stats.cpuTime)} of CPU; ${stats.toolCallCount} tool calls`,
  );
}

/** One line per event: its number, its type, what it says. */
function printEvent(event: ExecutionEvent): void {
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
