/**
 * The scaling guide's single-server snippets. Everything between the two rules is the guide's own text; only
 * the import is another.
 */
import os from 'node:os';
// In a service of your own: from 'enclave-actors'.
import { createWorkerPoolAdapter, Enclave, EnclavePool, recommendedPoolSize } from '#enclave';
import { good, heading, row } from './support/print.ts';

/** The guide leaves this function to its reader. */
async function executeTool(name: string, args: unknown): Promise<unknown> {
  return { tool: name, args };
}

// ---- Worker Pool -----------------------------------------------------------------------------------------

const enclave = new Enclave({
  adapter: createWorkerPoolAdapter({
    // Number of worker processes
    poolSize: 4,

    // Memory limit per worker
    maxWorkerMemory: 128 * 1024 * 1024, // 128MB

    // Restart workers after N executions (memory leak prevention)
    maxExecutionsPerWorker: 1000,

    // Worker idle timeout
    idleTimeout: 60000,
  }),

  toolHandler: async (name, args) => {
    return executeTool(name, args);
  },
});

// ---- Pool Sizing Guidelines ------------------------------------------------------------------------------

const cpuCount = os.cpus().length;
const poolSize = Math.max(2, Math.floor(cpuCount * 1.5));

// ----------------------------------------------------------------------------------------------------------

heading('Worker pool');
const result = await enclave.run(`return await callTool('users:get', { id: 7 })`);
row('run', result.success ? good(JSON.stringify(result.value)) : result.error.code);
await enclave.dispose();

heading('Pool sizing');
row('the guide says', `${poolSize} workers for mixed work on ${cpuCount} cores`);
row('we say', `${recommendedPoolSize('mixed')} for mixed, ${recommendedPoolSize('io')} for I/O-heavy`);

heading('Enclave pooling');
const pool = new EnclavePool(2, { toolHandler: async (name, args) => executeTool(name, args) });
const values = await Promise.all([1, 2, 3].map((n) => pool.execute(`return ${n} + ${n}`)));
row('execute', values.map((end) => (end.success ? good(String(end.value)) : end.error.code)).join(', '));
await pool.dispose();
