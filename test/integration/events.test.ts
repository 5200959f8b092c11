import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave, type ExecutionEvent, type RunOptions } from '../../src/index.ts';
import { errorIn, valueIn } from './ends.ts';

const enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  toolHandler: (name, args) => {
    if (name === 'fail') throw new Error('no');
    return args;
  },
});
afterAll(() => enclave.dispose());

async function record(code: string, options: RunOptions = {}) {
  const events: ExecutionEvent[] = [];
  const result = await enclave.run(code, { ...options, onEvent: (event) => events.push(event) });
  return { events, result };
}

/** What the console of a script wrote, as `stdout` text or `[level, message]`. */
async function written(code: string): Promise<unknown[]> {
  const { events, result } = await record(code);
  valueIn(result);
  return events.flatMap((event): unknown[] => {
    if (event.type === 'stdout') return [event.payload.chunk];
    return event.type === 'log' ? [[event.payload.level, event.payload.message]] : [];
  });
}

describe('the events of a run', () => {
  it('tell what happened in order, numbered from 1 without a gap', async () => {
    const { events, result } = await record(
      `console.log('before'); const a = await callTool('echo', { n: 1 }); console.warn('between');
      try { await callTool('fail') } catch {} console.log('after'); return a`,
    );
    const { executionId } = result;
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_event, index) => index + 1));
    expect(events.map(({ type, payload }) => [type, payload])).toEqual([
      ['session_init', { executionId }],
      ['stdout', { chunk: 'before\n' }],
      ['tool_call', { callId: `${executionId}/0`, toolName: 'echo', args: { n: 1 } }],
      ['tool_result_applied', { callId: `${executionId}/0`, ok: true }],
      ['log', { level: 'warn', message: 'between' }],
      ['tool_call', { callId: `${executionId}/1`, toolName: 'fail', args: undefined }],
      ['tool_result_applied', { callId: `${executionId}/1`, ok: false }],
      ['stdout', { chunk: 'after\n' }],
      [
        'final',
        {
          ok: true,
          result: { n: 1 },
          stats: { durationMs: result.stats.duration, toolCallCount: 2, stdoutBytes: 13 },
        },
      ],
    ]);
    for (const event of events) expect(event).toMatchObject({ protocolVersion: 2, sessionId: executionId });
  });

  it('come while the script runs', async () => {
    const gate = Promise.withResolvers<void>();
    const own = new Enclave({
      adapter: createWorkerPoolAdapter({ poolSize: 1 }),
      toolHandler: () => gate.promise,
    });
    try {
      // The tool answers only once the output was seen.
      const result = await own.run('console.log("seen"); await callTool("gate"); return 1', {
        onEvent: ({ type }) => {
          if (type === 'stdout') gate.resolve();
        },
      });
      expect(valueIn(result)).toBe(1);
    } finally {
      await own.dispose();
    }
  });

  it('come from a script that never pauses, too', async () => {
    const controller = new AbortController();
    const types: string[] = [];
    const result = await enclave.run('console.log("computing"); for (;;) {}', {
      signal: controller.signal,
      onEvent: ({ type }) => {
        types.push(type);
        if (type === 'stdout') controller.abort();
      },
    });
    expect(errorIn(result).code).toBe('CANCELLED');
    expect(types).toEqual(['session_init', 'stdout', 'final']);
  });

  it.each([
    ['a thrown error', 'throw new TypeError("x")', { code: 'SCRIPT_ERROR', message: 'x' }, undefined],
    ['no syntax', 'return (', { code: 'SYNTAX_ERROR', message: expect.any(String) }, undefined],
    ['a limit', 'for (;;) {}', { code: 'CPU_LIMIT_EXCEEDED', message: expect.any(String) }, { cpuMs: 50 }],
  ])('end with the error after %s', async (_what, code, error, limits) => {
    const { events } = await record(code, { limits });
    expect(events.at(0)?.type).toBe('session_init');
    expect(events.at(-1)).toMatchObject({ seq: events.length, type: 'final', payload: { ok: false, error } });
    expect(events.filter(({ type }) => type === 'final')).toHaveLength(1);
  });

  it('say that the deadline passed before they end', async () => {
    const { events } = await record('await sleep(60_000)', { limits: { timeoutMs: 60 } });
    expect(events.map(({ type }) => type)).toEqual(['session_init', 'deadline_exceeded', 'final']);
    expect(events[1]?.payload).toEqual({ elapsedMs: expect.any(Number), budgetMs: 60 });
  });

  it('are not repeated when the script is started again on a thread of its own', async () => {
    const { events, result } = await record(
      'console.log("once"); await callTool("echo"); let n = 0; while (n < 3e8) n++; console.log("twice"); return n',
    );
    expect(valueIn(result)).toBe(3e8);
    expect(result.stats.attempts).toBe(2);
    expect(events.map(({ type }) => type)).toEqual([
      'session_init',
      'stdout',
      'tool_call',
      'tool_result_applied',
      'stdout',
      'final',
    ]);
    expect(events.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('do no harm to a run when their listener throws', async () => {
    let calls = 0;
    const result = await enclave.run('console.log(1); await callTool("echo"); console.log(2); return 3', {
      onEvent: () => {
        calls++;
        throw new Error('listener');
      },
    });
    expect(valueIn(result)).toBe(3);
    expect(calls).toBe(6);
  });
});

describe('the console', () => {
  it('writes log to stdout and the levels as log events', async () => {
    const code = `console.log('a', 1, null, undefined, true, 5n, Symbol('s')); console.info('i'); console.warn('w');
      console.error('e'); console.debug('d'); console.trace('t')`;
    expect(await written(code)).toEqual([
      'a 1 null undefined true 5n Symbol(s)\n',
      ['info', 'i'],
      ['warn', 'w'],
      ['error', 'e'],
      ['debug', 'd'],
      ['debug', 'Trace: t'],
    ]);
  });

  it.each<[string, string]>([
    ['"%s is %d, %i and %f", "x", 4.5, 4.5, "1.5"', 'x is 4.5, 4 and 1.5'],
    ['"%j %o %O", { a: 1 }, [1], { b: "c" }', `{"a":1} [ 1 ] { b: 'c' }`],
    ['"100%% %c styled", "color: red"', '100%  styled'],
    ['"%s"', '%s'],
    ['"rest", { a: [1, { b: 2 }] }', 'rest { a: [ 1, { b: 2 } ] }'],
    ['new Map([[1, { a: 2 }]]), new Set(["x"])', "Map(1) { 1 => { a: 2 } } Set(1) { 'x' }"],
    [
      'new Date(0), /x/g, () => 1, class A {}',
      '1970-01-01T00:00:00.000Z /x/g [Function (anonymous)] [Function: A]',
    ],
    ['[[], {}, "it\'s"]', "[ [], {}, 'it\\'s' ]"],
    ['(() => { const a = {}; a.a = a; return a })()', '{ a: [Circular] }'],
    ['new (class P { x = 1 })()', 'P { x: 1 }'],
    ['{ get a() { throw 1 } }', '{ a: [Getter] }'],
    ['', ''],
  ])('formats console.log(%s)', async (args, text) => {
    expect(await written(`console.log(${args})`)).toEqual([`${text}\n`]);
  });

  it('counts, groups, asserts and times', async () => {
    const code = `console.count(); console.count('k'); console.count(); console.countReset(); console.count();
      console.group('G'); console.log('in\\nside'); console.groupEnd(); console.log('out');
      console.assert(1 === 1, 'silent'); console.assert(false, 'said'); console.assert(false);
      console.time('t'); console.timeEnd('t'); console.dir({ d: 1 }); console.table([1])`;
    expect(await written(code)).toEqual([
      'default: 1\n',
      'k: 1\n',
      'default: 2\n',
      'default: 1\n',
      'G\n',
      '  in\n  side\n',
      'out\n',
      ['error', 'Assertion failed: said'],
      ['error', 'Assertion failed'],
      't: 0ms\n',
      '{ d: 1 }\n',
      '[ 1 ]\n',
    ]);
  });

  it('prints errors with the frames of the script only', async () => {
    expect(await written('console.error(new TypeError("x"))')).toEqual([
      ['error', 'TypeError: x\n    at script.js:1:15'],
    ]);
  });

  it('cuts what is endless', async () => {
    const [text] = await written(
      'console.log(Array(1e6).fill(1)); console.log(((n) => { let o = {}; for (; n--; ) o = { o }; return o })(50))',
    );
    expect(String(text).length).toBeLessThan(1_000);
  });
});
