/**
 * The examples as one show: `npm run demo`. Needs no server and takes a few seconds.
 */
// In a service of your own: from 'enclave-actors'.
import { createSystem, createWorkerPoolAdapter, Enclave } from '#enclave';
import { planPicnic } from './support/agent.ts';
import { killUnderway, paymentTools } from './support/crash.ts';
import { migrateUnderway } from './support/handover.ts';
import { neighboursTool, stopTheHostile } from './support/hostile.ts';
import { runThroughRecycling, throughput } from './support/load.ts';
import { picnicTools } from './support/picnic.ts';
import { block, dim, good, heading } from './support/print.ts';
import { cardTool, NO_TICKETS, resumeElsewhere } from './support/resume.ts';
import { actorTree } from './support/tree.ts';

const WORKERS = 2;
const RECYCLE_AFTER = 400;

await using enclave = new Enclave({
  adapter: createWorkerPoolAdapter({
    poolSize: WORKERS,
    minWorkers: WORKERS,
    maxExecutionsPerWorker: RECYCLE_AFTER,
  }),
  tools: [...picnicTools, neighboursTool, ...paymentTools],
});

heading('1  An agent plans a picnic');
await planPicnic(enclave);

heading('2  Hostile scripts are stopped, their neighbour goes on');
await stopTheHostile(enclave);

// Its workers start while the next act is on.
await using system = await createSystem({ brokers: 2, runtimes: 2, tools: [cardTool] });

heading('3  A worker is killed under a script');
await killUnderway(enclave);

heading('4  A session survives');
const session = await system.spawnSession({ state: NO_TICKETS });
await resumeElsewhere(system, session);
await migrateUnderway(session);
await system.close();

heading(`5  Workers are recycled after ${RECYCLE_AFTER} executions`);
await runThroughRecycling(enclave, 4, 8);

heading('6  The actors');
block(actorTree(enclave));

const perSecond = await throughput(enclave, 2_000, 16);
heading('7  Throughput');
block(
  `${good(`${Math.round(perSecond)} scripts/s`)} ${dim(`on ${WORKERS} workers, 16 at a time, each in a fresh context`)}`,
);
