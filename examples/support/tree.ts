/** The actors of an Enclave as text. */
// In a service of your own: from 'enclave-actors'.
import type { Enclave, WorkerStats } from '#enclave';
import { dim, good, mib, name } from './print.ts';

/** System, pool, workers: one line each. */
export function actorTree(enclave: Enclave): string {
  const { status, workers, queueLength, active, restarts, recycles } = enclave.stats();
  const pool = [
    `${queueLength} queued`,
    `${active} active`,
    `${restarts} ${restarts === 1 ? 'restart' : 'restarts'}`,
    `${recycles} ${recycles === 1 ? 'recycle' : 'recycles'}`,
  ].join(', ');
  return [
    name('system'),
    `└─ ${name('pool')}    ${good(status)}  ${dim(pool)}`,
    ...workers.map((worker, index) => {
      const branch = index === workers.length - 1 ? '└─' : '├─';
      return `   ${branch} ${workerLine(worker)}`;
    }),
  ].join('\n');
}

function workerLine({ id, pid, state, executions, memoryBytes }: WorkerStats): string {
  const facts = [
    `pid ${String(pid).padEnd(7)}`,
    good(state.padEnd(8)),
    `served ${String(executions).padStart(5)}`,
    mib(memoryBytes).padStart(8),
  ];
  return `${name(id.padEnd(6))} ${facts.join('  ')}`;
}
