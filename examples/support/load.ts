/** Many short scripts: through workers that are recycled on the way, or simply as fast as they go. */
// In a service of your own: from 'enclave-actors'.
import type { Enclave } from '#enclave';
import { bad, good, row } from './print.ts';

/** Far more than any number of recycles asked for here takes. */
const MAX_SCRIPTS = 100_000;

/** Run scripts, `concurrency` at a time, until `recycles` workers were replaced; print what became of all. */
export async function runThroughRecycling(
  enclave: Enclave,
  recycles: number,
  concurrency: number,
): Promise<void> {
  const before = enclave.stats();
  const seen = new Set<number>();
  let asked = 0;
  let right = 0;
  await inParallel(concurrency, async () => {
    while (enclave.stats().recycles < before.recycles + recycles && asked < MAX_SCRIPTS) {
      if (await doubles(enclave, asked++)) right++;
      for (const { pid } of enclave.stats().workers) seen.add(pid);
    }
  });
  const after = enclave.stats();
  const lost = asked - right;
  row('scripts', `${asked} run, ${lost === 0 ? good('0 lost') : bad(`${lost} lost`)}`);
  row('workers', `${after.recycles - before.recycles} recycled, ${seen.size} processes seen`);
  row('crashes', String(after.restarts - before.restarts));
  if (lost > 0) throw new Error(`${lost} scripts were lost`);
}

/** Run scripts for `durationMs` and return how many ended per second. */
export async function throughput(enclave: Enclave, durationMs: number, concurrency: number): Promise<number> {
  const start = performance.now();
  const end = start + durationMs;
  let ended = 0;
  await inParallel(concurrency, async () => {
    while (performance.now() < end) {
      if (!(await doubles(enclave, ended))) throw new Error('a script went wrong');
      ended++;
    }
  });
  return ended / ((performance.now() - start) / 1_000);
}

/** One short script with a text of its own. True if its result is right. */
async function doubles(enclave: Enclave, n: number): Promise<boolean> {
  const result = await enclave.run<number>(`let twice: number = ${n}; twice += ${n}; return twice;`);
  return result.success && result.value === 2 * n;
}

async function inParallel(concurrency: number, work: () => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: concurrency }, work));
}
