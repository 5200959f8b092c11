/** A worker is killed under a script, and the script goes on. */
import { z } from 'zod';
// In a service of your own: from 'enclave-actors'.
import { defineTool, type Enclave, type ExecutionEvent, type Tool } from '#enclave';
import { bad, good, row } from './print.ts';

const SCRIPT = `const payment = await tools.payments.charge({ order: input.order, cents: 1999 });
console.log('charged, payment', payment.id);
await sleep(200); // The worker is killed here.
const receipt = await tools.receipts.write({ payment: payment.id });
return receipt;`;

let charges = 0;

/** Two tools that must not happen twice. */
export const paymentTools: readonly Tool[] = [
  defineTool({
    name: 'payments:charge',
    input: z.object({ order: z.int(), cents: z.int().positive() }),
    handler: () => {
      charges++;
      return { id: `p-${1000 + charges}` };
    },
  }),
  defineTool({
    name: 'receipts:write',
    input: z.object({ payment: z.string() }),
    handler: ({ payment }) => `receipt for ${payment}`,
  }),
];

/** Kill the worker in the middle of a script, in an Enclave that has {@link paymentTools}. */
export async function killUnderway(enclave: Enclave): Promise<void> {
  charges = 0;
  let killed = 0;
  const onEvent = (event: ExecutionEvent): void => {
    if (event.type === 'stdout') {
      row('script', event.payload.chunk.trimEnd());
      killed = killWorkerAboard(enclave);
    } else if (event.type === 'error') {
      row('pool', event.payload.message);
    }
  };
  const { restarts } = enclave.stats();
  const result = await enclave.run<string>(SCRIPT, { input: { order: 7 }, onEvent });
  if (!result.success) throw new Error(`${result.error.code}: ${result.error.message}`);
  row('script', good(`finished: "${result.value}"`));
  const after = enclave.stats();
  const alive = after.workers.some(({ pid }) => pid === killed);
  row(
    'supervisor',
    `restarts: ${after.restarts - restarts}; worker ${killed} is ${alive ? 'still there' : 'gone'}`,
  );
  row('payments', `charged: ${charges}; attempts of the script: ${result.stats.attempts}`);
}

/** SIGKILL the worker that has a script aboard: no handler, no warning, no last words. */
function killWorkerAboard(enclave: Enclave): number {
  const worker = enclave.stats().workers.find(({ aboard }) => aboard > 0);
  if (worker === undefined) throw new Error('no worker has a script aboard');
  process.kill(worker.pid, 'SIGKILL');
  row('SIGKILL', bad(`worker ${worker.id}, process ${worker.pid}`));
  return worker.pid;
}
