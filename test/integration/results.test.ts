import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave } from '../../src/index.ts';
import { errorIn, valueIn } from './ends.ts';

const enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  toolHandler: (name, args, ctx) => {
    if (name === 'fail') throw new RangeError('out of order');
    if (name === 'hang') return new Promise(() => undefined);
    if (name === 'wait')
      return new Promise((resolve) => ctx.signal.addEventListener('abort', () => resolve(1)));
    return args;
  },
});
afterAll(() => enclave.dispose());

describe('a value', () => {
  it('carries the value, the id, the stats and no error', async () => {
    const before = Date.now();
    const result = await enclave.run('return { a: [1, "two", null, true] }');
    expect(result).toEqual({
      success: true,
      value: { a: [1, 'two', null, true] },
      executionId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      stats: {
        duration: expect.any(Number),
        cpuTime: expect.any(Number),
        toolCallCount: 0,
        startTime: expect.any(Number),
        endTime: expect.any(Number),
        queueTime: expect.any(Number),
        memoryUsage: expect.any(Number),
        attempts: 1,
      },
      toolCalls: [],
    });
    const { stats } = result;
    expect(stats.duration).toBeGreaterThan(0);
    expect(stats.cpuTime).toBeGreaterThan(0);
    expect(stats.cpuTime).toBeLessThan(stats.duration + 5);
    expect(stats.startTime).toBeGreaterThanOrEqual(before);
    expect(stats.endTime).toBeGreaterThanOrEqual(stats.startTime);
    expect(stats.queueTime).toBeGreaterThanOrEqual(0);
    expect(stats.memoryUsage).toBeGreaterThan(100_000);
  });

  it('is what JSON carries', async () => {
    const code = 'return [NaN, undefined, new Date(0), new Map([[1, 2]]), { gone: undefined, toJSON: 1 }]';
    expect(valueIn(await enclave.run(code))).toEqual([
      null,
      null,
      '1970-01-01T00:00:00.000Z',
      {},
      { toJSON: 1 },
    ]);
  });

  it.each(['', 'return', 'return undefined', 'return void 0'])('is undefined for %j', async (code) => {
    const result = await enclave.run(code);
    expect(result.success).toBe(true);
    expect(valueIn(result)).toBeUndefined();
  });

  it('survives a promise that the script rejects and nobody handles', async () => {
    const code = 'Promise.reject(new Error("late")); await sleep(1); return "fine"';
    expect(valueIn(await enclave.run(code))).toBe('fine');
  });
});

describe('an error of the script', () => {
  it('is a SCRIPT_ERROR with its name, message and position', async () => {
    const result = await enclave.run('const a = 1;\n  throw new TypeError("no " + a);');
    expect(errorIn(result)).toEqual({
      name: 'TypeError',
      code: 'SCRIPT_ERROR',
      message: 'no 1',
      stack: 'TypeError: no 1\n    at script.js:2:9',
      retryable: false,
      outcome: 'completed',
    });
    expect(result.toolCalls).toEqual([]);
    expect(result.stats.attempts).toBe(1);
  });

  it.each([
    ['throw null', 'null'],
    ['throw undefined', 'undefined'],
    ['throw "text"', 'text'],
    ['throw 5n', '5'],
    ['throw Symbol("s")', 'Symbol'],
    ['throw { a: 1 }', '{"a":1}'],
  ])('may be any value: %s', async (code, message) => {
    expect(errorIn(await enclave.run(code))).toMatchObject({ code: 'SCRIPT_ERROR', name: 'Error', message });
  });

  it('of a timer callback ends the run', async () => {
    const code = 'setTimeout(() => { throw new RangeError("in a timer") }, 1); await sleep(10_000)';
    expect(errorIn(await enclave.run(code))).toMatchObject({ code: 'SCRIPT_ERROR', message: 'in a timer' });
  });
});

describe('a value that JSON cannot carry', () => {
  it.each([
    'return 1n',
    'return () => 1',
    'return Symbol()',
    'const a = {}; a.a = a; return a',
    'return { toJSON() { throw new Error("no") } }',
  ])('is a SERIALIZATION_ERROR: %s', async (code) => {
    expect(errorIn(await enclave.run(code))).toMatchObject({
      name: 'EnclaveError',
      code: 'SERIALIZATION_ERROR',
      retryable: false,
      outcome: 'completed',
    });
  });
});

describe('a tool call that fails', () => {
  it('ends the run as TOOL_ERROR if the script does not catch it', async () => {
    const result = await enclave.run('await callTool("fail")');
    expect(errorIn(result)).toMatchObject({
      name: 'ToolError',
      code: 'TOOL_ERROR',
      message: 'out of order',
      retryable: false,
      outcome: 'completed',
    });
    expect(result.toolCalls).toEqual([
      {
        callId: `${result.executionId}/0`,
        callIndex: 0,
        name: 'fail',
        outcome: 'failed',
        code: 'TOOL_ERROR',
        durationMs: expect.any(Number),
      },
    ]);
    expect(result.stats.toolCallCount).toBe(1);
  });

  it.each([
    'await callTool("no such tool")',
    'await callTool(5)',
    'await callTool({ toString: () => "echo" })',
  ])('is an UNKNOWN_TOOL where the name names none: %s', async (code) => {
    expect(errorIn(await enclave.run(code))).toMatchObject({
      name: 'UnknownToolError',
      code: 'UNKNOWN_TOOL',
      retryable: false,
      outcome: 'completed',
    });
  });
});

describe('what is certain about tool calls', () => {
  it('is unknown when the run is ended under one', async () => {
    const result = await enclave.run('await callTool("hang")', { limits: { timeoutMs: 100 } });
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['unknown']);
    expect(errorIn(result)).toMatchObject({
      code: 'EXECUTION_TIMEOUT',
      outcome: 'unknown',
      retryable: false,
    });
  });

  it('is unknown for a call that the script did not wait for, and the value stands', async () => {
    const result = await enclave.run('callTool("wait"); return 1');
    expect(valueIn(result)).toBe(1);
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['unknown']);
  });

  it('is not_started for a call that still waited its turn', async () => {
    const code = 'callTool("wait"); callTool("wait"); return 1';
    const result = await enclave.run(code, { limits: { maxConcurrentToolCalls: 1 } });
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['unknown', 'not_started']);
  });

  it('is completed for calls that were answered before the script failed', async () => {
    const result = await enclave.run('await callTool("echo", 1); throw new Error("after")');
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['completed']);
    expect(errorIn(result).outcome).toBe('completed');
  });
});

it('counts what succeeded and what failed', async () => {
  const before = enclave.stats();
  await enclave.run('return 1');
  await enclave.run('throw 1');
  const after = enclave.stats();
  expect(after.succeeded - before.succeeded).toBe(1);
  expect(after.failed - before.failed).toBe(1);
  expect(after).toMatchObject({ status: 'open', queueLength: 0, active: 0, restarts: 0 });
  expect(after.workers).toHaveLength(1);
  expect(after.containment).toMatchObject({ permissionModel: true });
});
