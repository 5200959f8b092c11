/**
 * Our side: the public API as a service would use it, built, sized like the comparator.
 *
 * The only file here that loads the package, and `main.ts` loads it only if our side is measured. It loads what
 * `npm run build` made: a worker that starts from TypeScript spends as long again on stripping types.
 */
import type { Shape, Side, ToolHandler } from './side.ts';

const built = new URL('../../dist/src/index.js', import.meta.url);
const { createWorkerPoolAdapter, Enclave } = (await import(
  built.href
)) as typeof import('../../src/index.ts');

/** More runs than any benchmark makes: no worker is recycled unless the shape asks for it. */
const NEVER = 1_000_000_000;

/** Open an enclave with `workers` processes, started at once and kept. */
export function openOurs(shape: Shape, toolHandler: ToolHandler): Side {
  const enclave = new Enclave({
    adapter: createWorkerPoolAdapter({
      poolSize: shape.workers,
      minWorkers: shape.workers,
      maxConcurrentPerWorker: shape.maxConcurrentPerWorker,
      maxExecutionsPerWorker: shape.maxExecutionsPerWorker ?? NEVER,
    }),
    isolation: 'context',
    toolHandler: (name, args) => toolHandler(name, args),
  });
  return {
    name: 'ours',
    run: async (code, { level, tenant }) => {
      const result = await enclave.run(code, {
        isolation: level,
        ...(tenant === undefined ? {} : { tenant }),
      });
      if (!result.success) throw new Error(`${result.error.code}: ${result.error.message}`);
      return result.value;
    },
    pids: () => enclave.stats().workers.flatMap(({ pid }) => (pid === undefined ? [] : [pid])),
    close: () => enclave.dispose(),
  };
}
