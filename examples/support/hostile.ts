/** Scripts that must be stopped, beside one that must not notice. */
// In a service of your own: from 'enclave-actors'.
import { defineTool, type Enclave, type ExecutionResult, type Tool } from '#enclave';
import { bad, good, ms, row } from './print.ts';

const HOSTILE = [
  {
    title: 'endless loop',
    code: 'for (;;) {}',
    limits: { cpuMs: 400 },
    expected: 'CPU_LIMIT_EXCEEDED',
  },
  {
    title: 'memory bomb',
    code: 'const hoard: number[][] = []; for (;;) hoard.push(new Array(10_000).fill(hoard.length));',
    limits: { memoryBytes: 32 * 1024 * 1024 },
    expected: 'MEMORY_LIMIT_EXCEEDED',
  },
  {
    title: 'endless wait',
    code: 'await new Promise(() => {});',
    limits: { timeoutMs: 600 },
    expected: 'EXECUTION_TIMEOUT',
  },
];

/** The neighbour works for as long as the hostile scripts are there, then says how often it beat. */
const NEIGHBOUR = `let beats = 0;
while (await tools.neighbours.present()) { beats++; await sleep(20); }
return beats;`;

let present = 0;

/** Tells a script whether hostile scripts are still running beside it. */
export const neighboursTool: Tool = defineTool({
  name: 'neighbours:present',
  effect: 'read',
  handler: () => present > 0,
});

/** Run the hostile scripts and their neighbour at once, in an Enclave that has {@link neighboursTool}. */
export async function stopTheHostile(enclave: Enclave): Promise<void> {
  present = HOSTILE.length;
  const neighbour = enclave.run<number>(NEIGHBOUR, { tenant: 'neighbour', limits: { maxToolCalls: 10_000 } });
  await Promise.all(
    HOSTILE.map(async ({ title, code, limits, expected }) => {
      const result = await enclave.run(code, { tenant: 'hostile', limits });
      present--;
      printEnd(title, result, expected);
    }),
  );
  const calm = await neighbour;
  if (!calm.success) throw new Error(`the neighbour ended as ${calm.error.code}: ${calm.error.message}`);
  row('neighbour', `${good('finished')}, ${calm.value} heartbeats meanwhile`);
}

function printEnd(title: string, result: ExecutionResult, expected: string): void {
  const code = result.success ? 'a value' : result.error.code;
  if (code !== expected) throw new Error(`${title} ended as ${code}, not as ${expected}`);
  const { duration, cpuTime } = result.stats;
  row(title, `${bad(code.padEnd(23))} after ${ms(duration)}, ${ms(cpuTime)} of CPU`);
}
