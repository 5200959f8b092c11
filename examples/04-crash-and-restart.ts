/**
 * A worker is killed in the middle of a script. The supervisor starts another, the script goes on from its
 * journal, and the payment that it had made is not made again.
 */
// In a service of your own: from 'enclave-actors'.
import { createWorkerPoolAdapter, Enclave } from '#enclave';
import { killUnderway, paymentTools } from './support/crash.ts';
import { block, heading } from './support/print.ts';
import { actorTree } from './support/tree.ts';

await using enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  tools: paymentTools,
});

heading('A worker is killed under a script');
await killUnderway(enclave);

heading('The actors afterwards');
block(actorTree(enclave));
