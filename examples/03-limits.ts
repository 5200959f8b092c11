/** Scripts that never end or never stop taking memory are stopped; a neighbour in the same worker goes on. */
// In a service of your own: from 'enclave-actors'.
import { createWorkerPoolAdapter, Enclave } from '#enclave';
import { neighboursTool, stopTheHostile } from './support/hostile.ts';
import { heading } from './support/print.ts';

await using enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  tools: [neighboursTool],
});

heading('Four scripts in one worker');
await stopTheHostile(enclave);
