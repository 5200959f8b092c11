import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave, type Limits } from '../../src/index.ts';
import { errorIn, valueIn } from './ends.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

let atOnce = 0;
let mostAtOnce = 0;
const adapter = createWorkerPoolAdapter({ poolSize: 1 });
const enclave = new Enclave({
  adapter,
  toolHandler: async (name, args) => {
    mostAtOnce = Math.max(mostAtOnce, ++atOnce);
    await new Promise(setImmediate);
    atOnce--;
    return name === 'grow' ? 'x'.repeat(Number(args)) : args;
  },
});
/** The same pool, with every limit lowered. */
const tight = new Enclave({
  adapter,
  toolHandler: (name, args) => (name === 'grow' ? 'x'.repeat(Number(args)) : args),
  limits: {
    timeoutMs: 2_000,
    cpuMs: 200,
    memoryBytes: 16 * MiB,
    maxToolCalls: 2,
    maxConcurrentToolCalls: 1,
    maxSourceBytes: 200,
    maxResultBytes: 10,
    maxOutputBytes: 10,
    maxToolPayloadBytes: 10,
  },
});
afterAll(() => Promise.all([enclave.dispose(), tight.dispose()]));

const run = (code: string, limits?: Limits) => enclave.run(code, { limits });

/** A script of exactly so many bytes that returns 1. */
const sized = (bytes: number): string => `return 1;${'/'.repeat(bytes - 9)}`;

describe('timeoutMs', () => {
  it.each(['await sleep(60_000)', 'await new Promise(() => {})', 'for (;;) {}'])(
    'ends a script that goes on as EXECUTION_TIMEOUT: %s',
    async (code) => {
      const result = await run(code, { timeoutMs: 120 });
      expect(errorIn(result)).toMatchObject({
        code: 'EXECUTION_TIMEOUT',
        message: expect.stringContaining('timeoutMs (120)'),
        retryable: false,
        outcome: 'completed',
      });
      expect(result.stats.duration).toBeGreaterThanOrEqual(115);
    },
  );

  it('counts from the start in a worker, not from the call', async () => {
    const late = new Enclave({
      adapter: createWorkerPoolAdapter({ poolSize: 1, maxConcurrentPerWorker: 1 }),
    });
    try {
      const first = late.run('await sleep(800)');
      const result = await late.run('return 1', { limits: { timeoutMs: 600 } });
      expect(valueIn(result)).toBe(1);
      expect(result.stats.queueTime).toBeGreaterThan(600);
      expect(result.stats.duration).toBeLessThan(600);
      await first;
    } finally {
      await late.dispose();
    }
  });
});

describe('cpuMs', () => {
  it.each([
    'for (;;) {}',
    'for (;;) await null;',
    'while (true) { try { (function f() { f() })() } catch {} }',
    'await callTool("echo"); for (;;) {}',
  ])('ends a script that computes on as CPU_LIMIT_EXCEEDED: %s', async (code) => {
    const result = await run(code, { cpuMs: 100 });
    expect(errorIn(result)).toMatchObject({
      code: 'CPU_LIMIT_EXCEEDED',
      message: expect.stringContaining('cpuMs (100)'),
      retryable: false,
      outcome: 'completed',
    });
    expect(result.stats.cpuTime).toBeGreaterThanOrEqual(95);
  });

  it('does not count time that is waited', async () => {
    const result = await run('await sleep(150); return 1', { cpuMs: 50 });
    expect(valueIn(result)).toBe(1);
    expect(result.stats.cpuTime).toBeLessThan(50);
  });
});

describe('memoryBytes', () => {
  const BOMB = 'const hoard = []; for (;;) hoard.push(new Array(10_000).fill(hoard.length));';

  it('ends a script that hoards as MEMORY_LIMIT_EXCEEDED', async () => {
    expect(errorIn(await run(BOMB, { memoryBytes: 16 * MiB }))).toMatchObject({
      code: 'MEMORY_LIMIT_EXCEEDED',
      retryable: false,
      outcome: 'completed',
    });
  });

  it('is 64 MiB by default: 30 MiB fit, and not where less is allowed', async () => {
    const code =
      'const hoard = []; for (let i = 0; i < 400; i++) hoard.push(new Array(10_000).fill(i + 0.5)); return hoard.length;';
    expect(valueIn(await run(code))).toBe(400);
    expect(errorIn(await run(code, { memoryBytes: 16 * MiB })).code).toBe('MEMORY_LIMIT_EXCEEDED');
  });

  it('does not disturb the next run', async () => {
    await run(BOMB);
    expect(valueIn(await run('return "fine"'))).toBe('fine');
  });
});

describe('maxToolCalls', () => {
  const code = 'for (let i = 0; i < input; i++) await callTool("echo"); return "done"';
  const calls = (input: number, limits?: Limits) => enclave.run(code, { input, limits });

  it('is 100 by default', async () => {
    expect(valueIn(await calls(100))).toBe('done');
    const result = await calls(101);
    expect(errorIn(result)).toMatchObject({
      code: 'TOOL_CALL_LIMIT_EXCEEDED',
      retryable: false,
      outcome: 'completed',
    });
    expect(result.stats.toolCallCount).toBe(100);
  });

  it('may be raised and may be none', async () => {
    expect(valueIn(await calls(150, { maxToolCalls: 150 }))).toBe('done');
    expect(errorIn(await calls(1, { maxToolCalls: 0 })).code).toBe('TOOL_CALL_LIMIT_EXCEEDED');
  });

  it('cannot be caught', async () => {
    const caught = 'for (;;) { try { await callTool("echo") } catch {} }';
    expect(errorIn(await run(caught, { maxToolCalls: 3 })).code).toBe('TOOL_CALL_LIMIT_EXCEEDED');
  });
});

describe('maxConcurrentToolCalls', () => {
  const code = 'await Promise.all([...Array(40).keys()].map((i) => callTool("echo", i)))';

  it.each([
    [undefined, 16],
    [1, 1],
    [30, 30],
  ])('set to %s lets %i handlers run at once', async (maxConcurrentToolCalls, expected) => {
    mostAtOnce = 0;
    const result = await run(code, { maxConcurrentToolCalls });
    expect(result.success).toBe(true);
    expect(result.stats.toolCallCount).toBe(40);
    expect(mostAtOnce).toBe(expected);
  });
});

describe('maxSourceBytes', () => {
  it('is 256 KiB by default', async () => {
    expect(valueIn(await run(sized(256 * KiB)))).toBe(1);
    const result = await run(sized(256 * KiB + 1));
    expect(errorIn(result)).toMatchObject({
      code: 'SOURCE_LIMIT_EXCEEDED',
      retryable: false,
      outcome: 'not_started',
    });
    expect(result.stats.attempts).toBe(0);
  });

  it('counts bytes of UTF-8, not characters', async () => {
    const code = 'return "ééééé"';
    expect(valueIn(await run(code, { maxSourceBytes: 19 }))).toBe('ééééé');
    expect(errorIn(await run(code, { maxSourceBytes: 18 })).code).toBe('SOURCE_LIMIT_EXCEEDED');
  });
});

describe('maxResultBytes', () => {
  it('is 1 MiB by default', async () => {
    const code = 'return "x".repeat(input)';
    const fits = await enclave.run<string>(code, { input: MiB - 2 });
    expect(valueIn(fits)).toHaveLength(MiB - 2);
    expect(errorIn(await enclave.run(code, { input: MiB - 1 }))).toMatchObject({
      code: 'RESULT_LIMIT_EXCEEDED',
      retryable: false,
      outcome: 'completed',
    });
  });

  it('counts bytes of UTF-8, not characters', async () => {
    expect(valueIn(await run('return "éééé"', { maxResultBytes: 10 }))).toBe('éééé');
    expect(errorIn(await run('return "ééééé"', { maxResultBytes: 10 })).code).toBe('RESULT_LIMIT_EXCEEDED');
  });
});

describe('maxOutputBytes', () => {
  it('is 1 MiB by default', async () => {
    const code = 'console.log("x".repeat(input))';
    expect((await enclave.run(code, { input: MiB - 1 })).success).toBe(true);
    expect(errorIn(await enclave.run(code, { input: MiB }))).toMatchObject({
      code: 'OUTPUT_LIMIT_EXCEEDED',
      retryable: false,
      outcome: 'completed',
    });
  });

  it('is the sum of everything that is written, in bytes of UTF-8', async () => {
    const code = 'console.log("ab"); console.error("é"); console.warn("cde")';
    expect((await run(code, { maxOutputBytes: 8 })).success).toBe(true);
    expect(errorIn(await run(code, { maxOutputBytes: 7 })).code).toBe('OUTPUT_LIMIT_EXCEEDED');
  });

  it('cannot be caught', async () => {
    const code = 'for (;;) { try { console.log("x") } catch {} await sleep(0) }';
    expect(errorIn(await run(code, { maxOutputBytes: 0 })).code).toBe('OUTPUT_LIMIT_EXCEEDED');
  });
});

describe('maxToolPayloadBytes', () => {
  const tryIt = (call: string) =>
    `try { return (${call}, await ${call}).length } catch (error) { return error.message }`;

  it('is 1 MiB by default, for arguments and results', async () => {
    expect(valueIn(await run(`return (await callTool("echo", "x".repeat(${MiB - 2}))).length`))).toBe(
      MiB - 2,
    );
    expect(valueIn(await run(`return (await callTool("grow", ${MiB - 2})).length`))).toBe(MiB - 2);
    for (const call of [`callTool("echo", "x".repeat(${MiB - 1}))`, `callTool("grow", ${MiB - 1})`]) {
      expect(valueIn(await run(tryIt(call)))).toMatch(/larger than|over the limit/);
    }
  });

  it.each([
    ['arguments', 'callTool("echo", "x".repeat(9))'],
    ['arguments in bytes of UTF-8', 'callTool("echo", "ééééé")'],
    ['a result', 'callTool("grow", 9)'],
  ])('refuses %s that pass it with an error that can be caught', async (_what, call) => {
    const limits = { maxToolPayloadBytes: 10 };
    expect(valueIn(await run(tryIt(call), limits))).toMatch(/larger than|over the limit/);
    expect(errorIn(await run(`await ${call}`, limits)).code).toBe('SERIALIZATION_ERROR');
  });
});

describe('limits of the Enclave', () => {
  it.each<[string, string, Limits?]>([
    ['EXECUTION_TIMEOUT', 'await sleep(60_000)'],
    ['CPU_LIMIT_EXCEEDED', 'for (;;) {}'],
    ['MEMORY_LIMIT_EXCEEDED', 'return new Array(8e6).fill(1.5).length', { timeoutMs: 30_000, cpuMs: 20_000 }],
    ['TOOL_CALL_LIMIT_EXCEEDED', 'for (;;) await callTool("echo")'],
    ['SOURCE_LIMIT_EXCEEDED', sized(201)],
    ['RESULT_LIMIT_EXCEEDED', 'return "123456789"'],
    ['OUTPUT_LIMIT_EXCEEDED', 'console.log("1234567890")'],
    ['SERIALIZATION_ERROR', 'await callTool("echo", "123456789")'],
  ])('hold for a run that sets none: %s', async (code, source, others) => {
    expect(errorIn(await tight.run(source, { limits: others })).code).toBe(code);
  });

  it('give way to those of a run, one by one', async () => {
    expect(valueIn(await tight.run('return "1234567890"', { limits: { maxResultBytes: 12 } }))).toBe(
      '1234567890',
    );
    const code = 'console.log("1234567890")';
    expect(errorIn(await tight.run(code, { limits: { maxResultBytes: 12 } })).code).toBe(
      'OUTPUT_LIMIT_EXCEEDED',
    );
  });
});
