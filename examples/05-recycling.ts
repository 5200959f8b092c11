/** Workers are replaced after so many executions, each by one that is ready, and no script is lost. */
// In a service of your own: from 'enclave-actors'.
import { createWorkerPoolAdapter, Enclave } from '#enclave';
import { runThroughRecycling } from './support/load.ts';
import { block, heading } from './support/print.ts';
import { actorTree } from './support/tree.ts';

await using enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 2, minWorkers: 2, maxExecutionsPerWorker: 50 }),
});

heading('Workers are recycled after 50 executions');
await runThroughRecycling(enclave, 4, 8);

heading('The actors afterwards');
block(actorTree(enclave));
