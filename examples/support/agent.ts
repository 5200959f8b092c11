/** An agent's task, with its events as they happen. */
// In a service of your own: from 'enclave-actors'.
import type { Enclave } from '#enclave';
import { printEvent } from './events.ts';
import { PICNIC_SCRIPT, type Picnic } from './picnic.ts';
import { good, ms, row } from './print.ts';
import { returned } from './returned.ts';

/** Run the picnic script in an Enclave that has the picnic tools, and print what happens while it happens. */
export async function planPicnic(enclave: Enclave): Promise<void> {
  const result = await enclave.run<Picnic>(PICNIC_SCRIPT, {
    input: { city: 'Lisbon', day: 'saturday' },
    onEvent: printEvent,
  });
  const value = returned(result);
  const { stats } = result;
  row('returned', good(`${value.park}, ${value.minutes} minutes away: "${value.invitation}"`));
  row(
    'took',
    `${ms(stats.duration)}, of which ${ms(stats.cpuTime)} of CPU; ${stats.toolCallCount} tool calls`,
  );
}
