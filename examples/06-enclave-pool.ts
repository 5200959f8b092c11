/** Enclaves to borrow: two for five callers, who are served in the order in which they came. */
// In a service of your own: from 'enclave-actors'.
import { EnclavePool } from '#enclave';
import { good, heading, row } from './support/print.ts';

await using pool = new EnclavePool(2, { toolHandler: async (name, args) => ({ name, args }) });

heading('Borrowed, used, given back');
const enclave = await pool.acquire();
try {
  const result = await enclave.run<number>('return 6 * 7');
  row('acquire', result.success ? `the script returned ${good(String(result.value))}` : result.error.code);
} finally {
  pool.release(enclave);
}

heading('Five callers, two Enclaves');
const callers = [1, 2, 3, 4, 5].map(async (n) => {
  const result = await pool.execute<number>(`await sleep(30); return ${n} ** 2`);
  row(`caller ${n}`, result.success ? good(String(result.value)) : result.error.code);
});
row('waiting', String(pool.waiting));
await Promise.all(callers);
row('idle', String(pool.idle));
