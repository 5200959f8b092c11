import { afterAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import {
  createWorkerPoolAdapter,
  defineTool,
  Enclave,
  type ToolContext,
  toolDeclarations,
} from '../../src/index.ts';
import { errorIn, valueIn } from './ends.ts';

const contexts: ToolContext[] = [];
const greet = defineTool({
  name: 'people:greet',
  description: 'Greets somebody.',
  input: z.object({ who: z.string().trim(), times: z.int().default(1) }),
  output: z.string(),
  handler: ({ who, times }, ctx) => {
    contexts.push(ctx);
    return `Hello, ${who}!`.repeat(times);
  },
});
const liar = defineTool({
  name: 'liar',
  output: z.object({ n: z.number() }),
  handler: () => ({ n: 'secret' }) as unknown as { n: number },
});
const slow = defineTool({ name: 'slow', timeoutMs: 30, handler: () => new Promise(() => undefined) });
const tools = [greet, liar, slow];

const handled: [string, unknown][] = [];
const adapter = createWorkerPoolAdapter({ poolSize: 1 });
const closed = new Enclave({ adapter, tools });
const open = new Enclave({
  adapter,
  tools,
  toolHandler: (name, args) => {
    handled.push([name, args]);
    if (name === 'throws') {
      throw Object.assign(new RangeError(`cannot read ${import.meta.filename}`.slice(0, 11)), {
        secret: 'hidden',
        cause: new Error('deeper'),
      });
    }
    if (name === 'throws-null') throw null;
    if (name === 'nothing') return undefined;
    if (name === 'circular') {
      const circle: { self?: unknown } = {};
      circle.self = circle;
      return circle;
    }
    return args;
  },
});
afterAll(() => Promise.all([closed.dispose(), open.dispose()]));

describe('a typed tool', () => {
  it.each([
    'return await callTool("people:greet", { who: " Ada " })',
    'return await callTool("people.greet", { who: "Ada" })',
    'return await tools.people.greet({ who: "Ada" })',
    'const { people } = tools; return await people["greet"]({ who: "Ada" })',
  ])('is called by either spelling, with what its schema hands on: %s', async (code) => {
    expect(valueIn(await closed.run(code))).toBe('Hello, Ada!');
  });

  it('tells its handler which call it serves', async () => {
    contexts.length = 0;
    const code = 'for (const who of ["a", "b"]) await tools.people.greet({ who })';
    const { executionId, toolCalls } = await closed.run(code, { tenant: 'acme' });
    expect(contexts).toEqual(
      [0, 1].map((callIndex) => ({
        executionId,
        callIndex,
        idempotencyKey: `${executionId}/${callIndex}`,
        signal: expect.any(AbortSignal),
        tenant: 'acme',
      })),
    );
    expect(toolCalls.map(({ callId }) => callId)).toEqual(
      contexts.map(({ idempotencyKey }) => idempotencyKey),
    );
  });

  it('refuses arguments that its schema refuses, and says what and where', async () => {
    contexts.length = 0;
    const code = 'return await tools.people.greet({ who: 5 }).catch(({ name, message }) => [name, message])';
    const [name, message] = valueIn(await closed.run<[string, string]>(code));
    expect(name).toBe('EnclaveError');
    expect(message).toMatch(/invalid arguments for tool "people:greet": who: .*string/);
    expect(contexts).toEqual([]);
    expect(errorIn(await closed.run('await tools.people.greet()')).code).toBe('INVALID_ARGUMENT');
  });

  it('refuses a result that its schema refuses, and says where but not what', async () => {
    const { code, message } = errorIn(await closed.run('await tools.liar()'));
    expect(code).toBe('TOOL_ERROR');
    expect(message).toContain('at n');
    expect(message).not.toContain('secret');
  });

  it('fails when its own time is up, and the script may go on', async () => {
    const code = 'return await tools.slow().catch((error) => "went on: " + error.message)';
    expect(valueIn(await closed.run(code))).toContain('went on: tool "slow" gave no answer within 30 ms');
    expect(errorIn(await closed.run('await tools.slow()')).code).toBe('TOOL_TIMEOUT');
  });
});

describe('a tool handler', () => {
  it('serves what is not defined, by the name that the script wrote', async () => {
    handled.length = 0;
    const code = 'return [await callTool("a:b", [1]), await tools.a.b({ x: 2 }), await callTool("c")]';
    expect(valueIn(await open.run(code))).toEqual([[1], { x: 2 }, null]);
    expect(handled).toEqual([
      ['a:b', [1]],
      ['a.b', { x: 2 }],
      ['c', undefined],
    ]);
    expect(valueIn(await open.run('return await tools.people.greet({ who: "Eve" })'))).toBe('Hello, Eve!');
    expect(handled).toHaveLength(3);
  });

  it.each(['constructor', '__proto__', 'hasOwnProperty', 'toString'])(
    'is the only one that serves the name %s',
    async (name) => {
      const code = 'return await callTool(input, 1)';
      expect(errorIn(await closed.run(code, { input: name })).code).toBe('UNKNOWN_TOOL');
      expect(valueIn(await open.run(code, { input: name }))).toBe(1);
    },
  );

  it('may answer with nothing', async () => {
    expect(valueIn(await open.run('return typeof await callTool("nothing")'))).toBe('undefined');
  });

  it('shows the script the message of what it throws and nothing else', async () => {
    const code = `try { await callTool('throws') } catch (error) {
      return [error instanceof Error, error.name, error.message, Object.keys(error), error.cause ?? null, error.stack];
    }`;
    const [isError, name, message, keys, cause, stack] = valueIn(await open.run<unknown[]>(code));
    expect([isError, name, message, keys, cause]).toEqual([true, 'ToolError', 'cannot read', [], null]);
    expect(stack).not.toMatch(/node:|\.ts/);
  });

  it('that throws null fails the call all the same', async () => {
    expect(errorIn(await open.run('await callTool("throws-null")'))).toMatchObject({ code: 'TOOL_ERROR' });
  });

  it('that answers with what is not JSON fails the call', async () => {
    expect(errorIn(await open.run('await callTool("circular")')).code).toBe('SERIALIZATION_ERROR');
  });
});

describe('arguments that are not JSON', () => {
  it.each(['1n', '() => 1', 'Symbol()', '(() => { const a = {}; a.a = a; return a })()'])(
    'fail the call before it is made: %s',
    async (args) => {
      const result = await open.run(`await callTool("echo", ${args})`);
      expect(errorIn(result).code).toBe('SERIALIZATION_ERROR');
      expect(result.toolCalls).toEqual([]);
    },
  );
});

describe('parallel calls', () => {
  it('are answered to the promise that asked', async () => {
    const code = 'return await Promise.all([...Array(50).keys()].map((i) => callTool("echo", i)))';
    expect(valueIn(await open.run(code))).toEqual([...Array(50).keys()]);
  });

  it('do not wait for one that was refused', async () => {
    const code = `const names = ['echo', 'nothing', 'nothing', 'echo'];
      const ends = await Promise.allSettled(names.map((name, i) => callTool(name, i)));
      return ends.map(({ status }) => status)`;
    const result = await open.run(code, {
      tools: ['echo'],
      limits: { maxConcurrentToolCalls: 1, timeoutMs: 5_000 },
    });
    expect(valueIn(result)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
  });

  it('may be raced', async () => {
    const code = 'return await Promise.race([callTool("slow"), callTool("echo", "first")])';
    expect(valueIn(await open.run(code))).toBe('first');
  });
});

describe('an allow-list', () => {
  it('lets only its tools be called, in either spelling', async () => {
    const call = (name: string, allowed: string[]) =>
      open.run('return await callTool(input, { who: "A" })', { input: name, tools: allowed });
    expect(valueIn(await call('people:greet', ['people.greet']))).toBe('Hello, A!');
    expect(valueIn(await call('people.greet', ['people:greet']))).toBe('Hello, A!');
    handled.length = 0;
    expect(errorIn(await call('echo', ['people:greet'])).code).toBe('TOOL_NOT_ALLOWED');
    expect(errorIn(await call('people:greet', [])).code).toBe('TOOL_NOT_ALLOWED');
    expect(handled).toEqual([]);
  });

  it('with a tool that does not exist is refused', async () => {
    await expect(closed.run('return 1', { tools: ['people:greeet'] })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('people:greeet'),
    });
  });
});

it('declares tools as TypeScript that names both ways to call them', () => {
  const text = toolDeclarations([greet]);
  expect(text).toContain('/** Greets somebody. */');
  expect(text).toContain(
    'declare function callTool(name: "people:greet", args: { who: string; times?: number }): Promise<string>;',
  );
  expect(text).toContain('greet(args: { who: string; times?: number }): Promise<string>');
});
