/** Tools of sessions: who may call which, what their handlers are told, and what comes back. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import {
  defineTool,
  type ExecuteOptions,
  type SpawnOptions,
  type System,
  type ToolContext,
} from '../../src/index.ts';
import { closeAll, Gate, hostOf, logOf, open, until } from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

let system: System;
let gate = new Gate();
/** Arguments and contexts of the handlers that were called. */
let calls: { readonly name: string; readonly args: unknown; readonly ctx: ToolContext }[] = [];
/** Of each call of `seen`: the types of the events that were in the store when its handler was called. */
const stored: string[][] = [];
let most = 0;

const note = (name: string, act: (args: unknown, ctx: ToolContext) => unknown) => ({
  name,
  handler: (args: unknown, ctx: ToolContext) => {
    calls.push({ name, args, ctx });
    return act(args, ctx);
  },
});

const tools = [
  defineTool({ effect: 'read', ...note('users:get', (args) => args) }),
  defineTool({ effect: 'idempotent', ...note('users.put', (args) => args) }),
  defineTool(
    note('wait', async () => {
      most = Math.max(most, gate.waiting + 1);
      await gate.pass();
      return 'waited';
    }),
  ),
  defineTool(
    note('fail', () => {
      throw Object.assign(new RangeError('not today'), { secret: 'hunter2' });
    }),
  ),
  defineTool({ timeoutMs: 50, ...note('slow', () => new Promise(() => undefined)) }),
  defineTool(note('huge', () => 'x'.repeat(10_000))),
  defineTool(note('odd', () => 1n)),
  defineTool({
    name: 'typed',
    input: z.object({ n: z.number().int(), on: z.coerce.date() }),
    output: z.object({ double: z.number() }),
    handler: ({ n, on }, ctx) => {
      calls.push({ name: 'typed', args: on, ctx });
      return n === 13 ? ({ double: 'wrong' } as unknown as { double: number }) : { double: n * 2 };
    },
  }),
  defineTool(
    note('seen', async (_args, { sessionId = '' }) => {
      const page = await system.parts.store.readEvents(sessionId, 1, 100);
      stored.push((page?.events ?? []).map((event) => (JSON.parse(event) as { readonly type: string }).type));
    }),
  ),
];

beforeAll(async () => {
  system = await open({ brokers: 2, tools });
});
afterAll(closeAll);
afterEach(() => {
  gate.open();
  gate = new Gate();
  calls = [];
  stored.length = 0;
  most = 0;
});

async function run(code: string, execute?: ExecuteOptions, spawn?: SpawnOptions) {
  const session = await system.spawnSession(spawn);
  const execution = session.execute(code, execute);
  return { session, execution, result: await execution.result };
}

/** The name and message of what the calls of a script fail with. */
const caught = (code: string): string =>
  `try { await ${code}; return 'nothing' } catch (error) { return [error.name, error.message] }`;

describe('a call', () => {
  it('reaches a tool by either spelling of its name, and as a method', async () => {
    const { result } = await run(
      'return [await callTool("users:get", 1), await callTool("users.get", 2), await tools.users.get(3), await tools.users.put({ a: [null] })]',
    );
    expect(valueIn(result)).toEqual([1, 2, 3, { a: [null] }]);
    expect(result.toolCalls.map(({ name, outcome, callIndex }) => [name, outcome, callIndex])).toEqual([
      ['users:get', 'completed', 0],
      ['users.get', 'completed', 1],
      ['users.get', 'completed', 2],
      ['users.put', 'completed', 3],
    ]);
  });

  it('tells its handler who calls, for whom, and until when that is sure', async () => {
    const before = Date.now();
    const { session, execution } = await run(
      'await callTool("users.put", 1); await callTool("fail")'
        .replace('; await', '; try { await')
        .concat(' } catch {}'),
      undefined,
      { tenant: 'acme' },
    );
    const { epoch } = await session.info();
    expect(calls.map(({ name }) => name)).toEqual(['users.put', 'fail']);
    for (const [index, { ctx }] of calls.entries()) {
      expect(ctx).toMatchObject({
        executionId: execution.id,
        callIndex: index,
        idempotencyKey: `${session.id}/${execution.id}/${index}`,
        tenant: 'acme',
        sessionId: session.id,
        epoch,
      });
      expect(ctx.notAfter).toBeGreaterThan(before);
      expect(ctx.signal.aborted).toBe(false);
    }
  });

  it('tells its handler the tenant of a run likewise, and none where nobody was named', async () => {
    for (const tenant of ['acme', undefined])
      await system.run('await callTool("users.put", 1)', tenant === undefined ? {} : { tenant });
    await run('await callTool("users.put", 1)');
    expect(calls.map(({ ctx }) => ctx.tenant)).toEqual(['acme', undefined, undefined]);
  });

  it('is in the store before its handler is called, unless its tool only reads', async () => {
    valueIn((await run('await callTool("seen"); console.log("x"); await callTool("seen")')).result);
    expect(stored).toEqual([
      ['session_init', 'tool_call'],
      ['session_init', 'tool_call', 'tool_result_applied', 'stdout', 'tool_call'],
    ]);
  });

  it('is handed a copy of everything', async () => {
    const { result } = await run(
      `const args = { list: [1, { __proto__: null }], undef: undefined, date: new Date(0) };
       const got = await callTool('users.get', args);
       return [got, got !== args, Object.getPrototypeOf(got) === Object.prototype]`,
    );
    expect(valueIn(result)).toEqual([{ list: [1, {}], date: '1970-01-01T00:00:00.000Z' }, true, true]);
  });
});

describe('a call that fails', () => {
  it.each<[string, string, unknown]>([
    ['its handler throws', 'callTool("fail")', ['ToolError', 'not today']],
    [
      'there is no such tool',
      'callTool("nothing.here")',
      ['UnknownToolError', expect.stringContaining('nothing.here')],
    ],
    [
      'its name is a word of the language',
      'callTool("constructor")',
      ['UnknownToolError', expect.anything()],
    ],
    ['it takes too long', 'callTool("slow")', ['ToolTimeoutError', expect.stringMatching(/50/)]],
    [
      'its arguments are not what its schema wants',
      'callTool("typed", { n: 1.5, on: 0 })',
      [expect.any(String), expect.stringMatching(/\bn\b/)],
    ],
    [
      'its result is not what its schema promises',
      'callTool("typed", { n: 13, on: 0 })',
      [expect.any(String), expect.stringMatching(/double/)],
    ],
    ['its result is no JSON', 'callTool("odd")', [expect.any(String), expect.anything()]],
    ['its arguments are no JSON', 'callTool("users.get", 1n)', [expect.any(String), expect.anything()]],
  ])('because %s is an error that the script can catch', async (_why, call, error) => {
    const { result } = await run(caught(call));
    expect(valueIn(result)).toEqual(error);
    expect(JSON.stringify(result)).not.toMatch(/hunter2|integration|node:|\.test\.ts/);
  });

  it('because its result is too large is one, too', async () => {
    const { result } = await run(caught('callTool("huge")'), { limits: { maxToolPayloadBytes: 1_000 } });
    expect(valueIn(result)).toEqual([expect.any(String), expect.stringMatching(/1[,_]?000|large/i)]);
  });

  it.each([
    ['callTool("fail")', 'TOOL_ERROR'],
    ['callTool("slow")', 'TOOL_TIMEOUT'],
    ['callTool("nothing")', 'UNKNOWN_TOOL'],
    ['callTool("typed", {})', 'INVALID_ARGUMENT'],
    ['callTool("odd")', 'SERIALIZATION_ERROR'],
  ])('ends a script that does not catch it: %s', async (call, code) => {
    const { result } = await run(`await ${call}`);
    expect(errorIn(result)).toMatchObject({ code, outcome: 'completed', retryable: false });
    expect(result.toolCalls.map(({ outcome, code: of }) => [outcome, of])).toEqual([['failed', code]]);
    expect(result.stats.attempts).toBe(1);
  });

  it('after timeoutMs aborts the signal of its handler', async () => {
    valueIn((await run(caught('callTool("slow")'))).result);
    expect(calls.map(({ ctx }) => ctx.signal.aborted)).toEqual([true]);
  });

  it('by a schema is handed what the schema made of its arguments', async () => {
    const { result } = await run('return await callTool("typed", { n: 4, on: "2024-01-01" })');
    expect(valueIn(result)).toEqual({ double: 8 });
    expect(calls[0]?.args).toEqual(new Date('2024-01-01'));
  });
});

describe('the list of tools of a session', () => {
  it('is all that its scripts can call, by whatever spelling', async () => {
    const { session, result } = await run(
      `const ends = [];
       for (const name of ['users.get', 'users:get', 'users.put', 'fail'])
         try { await callTool(name, 1); ends.push('ok') } catch (error) { ends.push(error.name) }
       return ends`,
      undefined,
      { tools: ['users:get'] },
    );
    expect(valueIn(result)).toEqual(['ok', 'ok', 'ToolNotAllowedError', 'ToolNotAllowedError']);
    expect(calls.map(({ name }) => name)).toEqual(['users:get', 'users:get']);
    await session.migrate(); // The list goes with it.
    expect(errorIn(await session.execute('await callTool("fail")').result).code).toBe('TOOL_NOT_ALLOWED');
    await session.hibernate();
    expect(errorIn(await session.execute('await callTool("fail")').result).code).toBe('TOOL_NOT_ALLOWED');
  });

  it('may name tools that nobody offers yet', async () => {
    const { result } = await run('return await callTool("users.get", 1)', undefined, {
      tools: ['to.come', 'users:get'],
    });
    expect(valueIn(result)).toBe(1);
    const later = await run('await callTool("to:come")', undefined, { tools: ['to.come'] });
    expect(errorIn(later.result).code).toBe('UNKNOWN_TOOL');
  });

  it('does not tell which other tools there are', async () => {
    const { result } = await run(
      `const ends = [];
       for (const name of ['fail', 'nothing.here'])
         try { await callTool(name) } catch (error) { ends.push([error.name, error.message.replace(name, '')]) }
       return ends`,
      undefined,
      { tools: ['users:get'] },
    );
    const [one, other] = valueIn(result) as readonly unknown[];
    expect(one).toEqual(other);
  });

  it('may be empty', async () => {
    const { result } = await run('await callTool("users.get")', undefined, { tools: [] });
    expect(errorIn(result).code).toBe('TOOL_NOT_ALLOWED');
    expect(calls).toEqual([]);
  });
});

describe('many calls', () => {
  it('run together up to maxConcurrentToolCalls, and further ones in order', async () => {
    const session = await system.spawnSession({ limits: { maxConcurrentToolCalls: 3 } });
    const execution = session.execute(
      'return (await Promise.all([0, 1, 2, 3, 4, 5, 6].map((n) => callTool("wait", n)))).length',
    );
    await until(() => gate.waiting === 3, 'three of them run');
    expect(calls.map(({ args }) => args).toSorted()).toEqual([0, 1, 2]);
    gate.open();
    expect(valueIn(await execution.result)).toBe(7);
    expect(most).toBeLessThanOrEqual(3);
    expect(calls.map(({ args }) => args).toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it('go to the provider in the process of their owner', async () => {
    const session = await system.spawnSession({ limits: { maxConcurrentToolCalls: 32 } });
    const execution = session.execute(
      'await Promise.all(Array.from({ length: 32 }, (_, n) => callTool("wait", n))); return 1',
    );
    await until(() => gate.waiting === 32, 'all of them run');
    const { owner } = await session.info();
    const running = system.parts.brokers.filter(({ provider }) => provider.running > 0);
    expect(running.map(({ broker }) => broker.id)).toEqual([owner]);
    gate.open();
    expect(valueIn(await execution.result)).toBe(1);
    await until(
      () => system.parts.brokers.every(({ provider }) => provider.running + provider.unacknowledged === 0),
      'nothing is left of them',
    );
  });

  it('beyond maxToolCalls end the script, and the call too many is not made', async () => {
    const { result } = await run('for (let n = 0; ; n++) try { await callTool("users.get", n) } catch {}', {
      limits: { maxToolCalls: 3 },
    });
    expect(errorIn(result)).toMatchObject({ code: 'TOOL_CALL_LIMIT_EXCEEDED', outcome: 'completed' });
    expect(calls.map(({ args }) => args)).toEqual([0, 1, 2]);
    expect(result.toolCalls).toHaveLength(3);
  });
});

describe('calls that a script did not wait for', () => {
  it('are in doubt if they ran, and their handlers are told', async () => {
    const { session, result } = await run('callTool("wait"); await callTool("users.get"); return 1');
    expect(valueIn(result)).toBe(1);
    expect(result.toolCalls.map(({ name, outcome }) => [name, outcome])).toEqual([
      ['wait', 'unknown'],
      ['users.get', 'completed'],
    ]);
    await until(
      () => calls.find(({ name }) => name === 'wait')?.ctx.signal.aborted === true,
      'its handler has been told',
    );
    gate.open();
    expect(valueIn(await session.execute('return 2').result)).toBe(2);
    expect(hostOf(system, session.id)?.broker.actor(session.id)?.context.pending).toEqual([]);
  });

  it('are not started if they were made with the last breath', async () => {
    const { session, result } = await run('await callTool("users.get"); callTool("wait"); return 1');
    expect(valueIn(result)).toBe(1);
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['completed', 'not_started']);
    expect((await logOf(session)).filter(({ type }) => type === 'tool_call')).toHaveLength(2);
    valueIn(await session.execute('return 2').result);
    expect(calls.map(({ name }) => name)).toEqual(['users:get']);
  });
});
