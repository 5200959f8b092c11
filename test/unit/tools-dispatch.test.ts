import { getEventListeners } from 'node:events';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { defineTool, type StandardSchemaV1, type ToolContext } from '../../src/tools/define.ts';
import { callTool, type ToolCallOptions } from '../../src/tools/dispatch.ts';
import { createToolRegistry, type ResolvedTool } from '../../src/tools/registry.ts';

const call = { executionId: 'e1', callIndex: 3, idempotencyKey: 'e1/3', tenant: 'acme' };

function send(tool: ResolvedTool, args = '', options: Partial<ToolCallOptions> = {}) {
  const signal = new AbortController().signal;
  return callTool(tool, args, call, { maxPayloadBytes: 1_000, signal, ...options });
}

/** A tool that does one thing, whatever its arguments. */
function tool(handler: (args: unknown, ctx: ToolContext) => unknown, timeoutMs?: number) {
  return defineTool({ name: 'users:get', handler, timeoutMs });
}

function throwing(value: unknown) {
  return tool(() => {
    throw value;
  });
}

/** A Standard Schema of no library. */
function schema(validate: (value: unknown) => unknown): StandardSchemaV1 {
  return { '~standard': { version: 1, vendor: 'test', validate: validate as never } };
}

afterEach(() => {
  vi.useRealTimers();
});

describe('a call that succeeds', () => {
  it('hands the handler checked arguments and its context, and answers with JSON', async () => {
    const handler = vi.fn(({ id }: { id: number }) => ({ name: `user ${id}` }));
    const input = z.object({ id: z.coerce.number() });
    const get = defineTool({ name: 'users:get', input, output: z.object({ name: z.string() }), handler });
    expect(await send(get, '{"id":"7","extra":true}')).toEqual({ ok: true, json: '{"name":"user 7"}' });
    const signal = expect.any(AbortSignal);
    expect(handler).toHaveBeenCalledExactlyOnceWith({ id: 7 }, { ...call, signal });
  });

  it('waits for asynchronous schemas, handlers and thenables', async () => {
    const later = z.number().transform(async (value) => value + 1);
    const both = defineTool({ name: 'a', input: later, output: later, handler: async (value) => value * 10 });
    expect(await send(both, '1')).toEqual({ ok: true, json: '21' });
    const thenable = tool(() => ({ then: (resolve: (value: string) => void) => resolve('late') }));
    expect(await send(thenable)).toEqual({ ok: true, json: '"late"' });
  });

  it('says an absent value by an empty text, in both directions', async () => {
    const handler = vi.fn(() => undefined);
    expect(await send(tool(handler), '')).toEqual({ ok: true, json: '' });
    expect(handler).toHaveBeenCalledWith(undefined, expect.anything());
    expect(await send(tool(() => null))).toEqual({ ok: true, json: 'null' });
  });

  it('answers with what the output schema hands on, not with what the handler returned', async () => {
    const output = z.object({ name: z.string() });
    const handler = () => ({ name: 'Ada', passwordHash: 'x' });
    expect(await send(defineTool({ name: 'a', output, handler }))).toEqual({
      ok: true,
      json: '{"name":"Ada"}',
    });
  });

  it('keeps __proto__ in the arguments as plain data', async () => {
    const seen: unknown[] = [];
    await send(
      tool((args) => void seen.push(args)),
      '{"__proto__":{"admin":true}}',
    );
    const [args] = seen;
    expect(Object.keys(args as object)).toEqual(['__proto__']);
    expect(Object.getPrototypeOf(args)).toBe(Object.prototype);
    expect((args as { admin?: unknown }).admin).toBeUndefined();
  });

  it('serves the plain form of a toolHandler', async () => {
    const executeTool = async (name: string, args: unknown) => ({ name, args });
    const registry = createToolRegistry({ toolHandler: async (name, args) => executeTool(name, args) });
    const found = registry.resolve('users:get');
    expect(found && (await send(found, '[1]'))).toEqual({
      ok: true,
      json: '{"name":"users:get","args":[1]}',
    });
  });

  it('costs a synchronous tool neither timer nor listener', async () => {
    vi.useFakeTimers();
    const { signal } = new AbortController();
    const listen = vi.spyOn(signal, 'addEventListener');
    await send(
      tool(() => 1, 50),
      '',
      { signal },
    );
    expect(listen).not.toHaveBeenCalled();
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('arguments', () => {
  it('are refused with path and problem, and the handler does not run', async () => {
    const handler = vi.fn();
    const input = z.object({ id: z.number(), tags: z.array(z.string()) });
    const reply = await send(defineTool({ name: 'users:get', input, handler }), '{"tags":["a",1]}');
    expect(reply).toEqual({
      ok: false,
      code: 'INVALID_ARGUMENT',
      name: 'EnclaveError',
      message:
        'invalid arguments for tool "users:get": id: Invalid input: expected number, received undefined; ' +
        'tags[1]: Invalid input: expected string, received number',
    });
    expect(handler).not.toHaveBeenCalled();
  });

  it('are refused as a whole under (root)', async () => {
    const reply = await send(defineTool({ name: 'a', input: z.number(), handler: () => 1 }), '"x"');
    expect(reply).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('(root): ') });
  });

  it('are refused with five issues listed and the others counted', async () => {
    const input = z.object(Object.fromEntries([...'abcdefgh'].map((key) => [key, z.number()])));
    const reply = await send(defineTool({ name: 'a', input, handler: () => 1 }), '{}');
    expect(reply).toMatchObject({ message: expect.stringMatching(/ e: [^;]*; and 3 more$/) });
  });

  it('are refused with a capped message, however long their keys are', async () => {
    const input = z.record(z.string(), z.number());
    const args = JSON.stringify(Object.fromEntries([...'abcd'].map((key) => [key.repeat(50_000), 'x'])));
    const reply = await send(defineTool({ name: 'a', input, handler: () => 1 }), args, {
      maxPayloadBytes: 1e6,
    });
    expect(reply).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(reply.ok ? 0 : reply.message.length).toBeLessThanOrEqual(2_000);
  });

  it.each(['{', 'undefined', '{"a":1}}', ' '])('are refused if %j is not JSON', async (args) => {
    const handler = vi.fn();
    expect(await send(tool(handler), args)).toMatchObject({ ok: false, code: 'INVALID_ARGUMENT' });
    expect(handler).not.toHaveBeenCalled();
  });

  it.each([
    ['throws', () => JSON.parse('{')],
    ['rejects', () => Promise.reject(new Error('down'))],
    ['answers nothing', () => undefined],
    ['answers nothing later', async () => null],
    ['answers with broken issues', () => ({ issues: [null] })],
    ['answers with issues that are no list', () => ({ issues: true })],
  ])('are refused if the schema %s', async (_how, validate) => {
    const handler = vi.fn();
    const reply = await send(defineTool({ name: 'a', input: schema(validate), handler }), '1');
    expect(reply).toMatchObject({ ok: false, code: 'INVALID_ARGUMENT' });
    expect(handler).not.toHaveBeenCalled();
  });
});

describe('payloads', () => {
  it('are capped in bytes of UTF-8, both ways, with the sizes in the message', async () => {
    const echo = tool((args) => args);
    const text = JSON.stringify('ä'.repeat(10));
    expect(await send(echo, text, { maxPayloadBytes: 22 })).toEqual({ ok: true, json: text });
    expect(await send(echo, text, { maxPayloadBytes: 21 })).toMatchObject({
      code: 'SERIALIZATION_ERROR',
      message: 'the arguments of tool "users:get" are 22 bytes of JSON, over the limit of 21',
    });
    const large = tool(() => 'ä'.repeat(10));
    expect(await send(large, '', { maxPayloadBytes: 22 })).toEqual({ ok: true, json: text });
    expect(await send(large, '', { maxPayloadBytes: 21 })).toMatchObject({
      code: 'SERIALIZATION_ERROR',
      message: 'the result of tool "users:get" is 22 bytes of JSON, over the limit of 21',
    });
  });

  it('do not reach the handler if they are too large', async () => {
    const handler = vi.fn();
    await send(tool(handler), '"0123456789"', { maxPayloadBytes: 11 });
    expect(handler).not.toHaveBeenCalled();
  });

  class Account {
    self: unknown;
  }
  const cycle = new Account();
  cycle.self = cycle;
  it.each([
    ['a bigint', 1n],
    ['a cycle', cycle],
    ['a toJSON that throws', { toJSON: () => JSON.parse('{') }],
  ])('that cannot be JSON for %s end the call, without the names of host classes', async (_what, value) => {
    const reply = await send(tool(() => value));
    expect(reply).toMatchObject({ ok: false, code: 'SERIALIZATION_ERROR', name: 'EnclaveError' });
    expect(JSON.stringify(reply)).not.toContain('Account');
  });
});

describe('results', () => {
  it.each([
    ['at once', (value: unknown) => value],
    ['later', async (value: unknown) => value],
  ])(
    'that the output schema refuses %s are the tool’s error, by place and not by value',
    async (_when, give) => {
      const output = schema((value) => ({
        issues: [{ message: `bad ${JSON.stringify(value)}`, path: ['a', { key: 0 }] }],
      }));
      const reply = await send(defineTool({ name: 'a', output, handler: () => give('secret') }));
      expect(reply).toEqual({
        ok: false,
        code: 'TOOL_ERROR',
        name: 'EnclaveError',
        message: 'tool "a" returned a result that its schema refuses, at a[0]',
      });
    },
  );
});

describe('what a handler throws', () => {
  it('becomes a name and a message, and nothing else', async () => {
    const error = Object.assign(new RangeError('no such user', { cause: new Error('/srv/db') }), {
      query: 'x',
    });
    const expected = { ok: false, code: 'TOOL_ERROR', name: 'RangeError', message: 'no such user' };
    expect(await send(throwing(error))).toEqual(expected);
    expect(await send(tool(() => Promise.reject(error)))).toEqual(expected);
  });

  const evil = {
    get name(): string {
      throw new Error('name');
    },
    get message(): string {
      throw new Error('message');
    },
    toString(): string {
      throw new Error('toString');
    },
  };
  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  const nobody = 'the tool threw a value that is not an Error';
  it.each([
    ['null', null, 'Error', 'null'],
    ['undefined', undefined, 'Error', 'undefined'],
    ['a string', 'boom', 'Error', 'boom'],
    ['a symbol', Symbol('boom'), 'Error', 'Symbol(boom)'],
    ['evil getters', evil, 'Error', nobody],
    ['a revoked proxy', revoked.proxy, 'Error', nobody],
    ['fields that are no strings', { name: 7, message: {} }, 'Error', nobody],
    ['an object without prototype', Object.assign(Object.create(null), { message: 'm' }), 'Error', 'm'],
    ['an empty message', new TypeError(), 'TypeError', ''],
  ])('is read defensively: %s', async (_what, value, name, message) => {
    const expected = { ok: false, code: 'TOOL_ERROR', name, message };
    expect(await send(throwing(value))).toEqual(expected);
    expect(await send(tool(() => Promise.reject(value)))).toEqual(expected);
  });

  it('is an error of the tool as well if it hides in the result', async () => {
    const result = Object.defineProperty({}, 'then', {
      get: () => {
        throw new Error('then');
      },
    });
    expect(await send(tool(() => result))).toMatchObject({ code: 'TOOL_ERROR', message: 'then' });
  });

  it('is capped in its name and its message', async () => {
    const error = Object.assign(new Error('m'.repeat(5_000)), { name: 'n'.repeat(5_000) });
    expect(await send(throwing(error))).toMatchObject({
      name: `${'n'.repeat(99)}…`,
      message: `${'m'.repeat(1_999)}…`,
    });
  });
});

describe('time', () => {
  it('ends a call at its timeout, though the handler ignores the signal', async () => {
    vi.useFakeTimers();
    let seen: AbortSignal | undefined;
    const never = tool((_args, ctx) => {
      seen = ctx.signal;
      return new Promise(() => {});
    }, 50);
    const reply = send(never);
    await vi.advanceTimersByTimeAsync(49);
    expect(seen?.aborted).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect(await reply).toEqual({
      ok: false,
      code: 'TOOL_TIMEOUT',
      name: 'EnclaveError',
      message: 'tool "users:get" gave no answer within 50 ms',
    });
    expect(seen?.reason).toMatchObject({ name: 'TimeoutError' });
    expect(vi.getTimerCount()).toBe(0);
  });

  it('clears the timer and the listener when the handler ends first', async () => {
    vi.useFakeTimers();
    const { signal } = new AbortController();
    for (const handler of [async () => 1, async () => Promise.reject(new Error('no'))]) {
      await send(tool(handler, 60_000), '', { signal });
      expect(vi.getTimerCount()).toBe(0);
      expect(getEventListeners(signal, 'abort')).toHaveLength(0);
    }
  });

  it.each([
    ['rejection', () => Promise.reject(new Error('late'))],
    ['result', () => Promise.resolve('late')],
  ])('drops a late %s, which is never unhandled', async (_what, end) => {
    vi.useFakeTimers();
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    const validate = vi.fn((value: unknown) => ({ value }));
    const gate = Promise.withResolvers<void>();
    const slow = { name: 'a', output: schema(validate), timeoutMs: 5, handler: () => gate.promise.then(end) };
    const reply = send(defineTool(slow));
    await vi.advanceTimersByTimeAsync(5);
    expect(await reply).toMatchObject({ code: 'TOOL_TIMEOUT' });
    gate.resolve();
    vi.useRealTimers();
    // Node reports unhandled rejections when the microtasks of a turn have run.
    await new Promise((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', unhandled);
    expect(unhandled).not.toHaveBeenCalled();
    expect(validate).not.toHaveBeenCalled();
  });

  it('does not start the handler if its arguments were still being checked', async () => {
    vi.useFakeTimers();
    const gate = Promise.withResolvers<void>();
    const handler = vi.fn();
    const input = schema(async (value) => gate.promise.then(() => ({ value })));
    const reply = send(defineTool({ name: 'a', input, timeoutMs: 5, handler }), '1');
    await vi.advanceTimersByTimeAsync(5);
    expect(await reply).toMatchObject({ code: 'TOOL_TIMEOUT' });
    gate.resolve();
    await vi.advanceTimersByTimeAsync(0);
    expect(handler).not.toHaveBeenCalled();
  });
});

describe('cancelling', () => {
  const cancelledReply = { ok: false, code: 'CANCELLED', name: 'EnclaveError' };

  it.each([undefined, 60_000])(
    'ends a call at once and tells the handler why (timeoutMs %s)',
    async (timeoutMs) => {
      vi.useFakeTimers();
      const execution = new AbortController();
      let seen: AbortSignal | undefined;
      const never = tool((_args, ctx) => {
        seen = ctx.signal;
        return new Promise(() => {});
      }, timeoutMs);
      const reply = send(never, '', { signal: execution.signal });
      execution.abort('the execution ended');
      expect(await reply).toMatchObject(cancelledReply);
      expect(seen?.reason).toBe('the execution ended');
      expect(vi.getTimerCount()).toBe(0);
    },
  );

  it('is CANCELLED even if the handler rejects because of it', async () => {
    const execution = new AbortController();
    const obedient = tool(
      (_args, ctx) =>
        new Promise((_resolve, reject) => {
          ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason));
        }),
    );
    const reply = send(obedient, '', { signal: execution.signal });
    execution.abort();
    expect(await reply).toMatchObject(cancelledReply);
  });

  it('beforehand keeps the handler from starting', async () => {
    const handler = vi.fn();
    expect(await send(tool(handler), '', { signal: AbortSignal.abort() })).toMatchObject(cancelledReply);
    expect(handler).not.toHaveBeenCalled();
  });

  it('counts when the handler itself does it', async () => {
    const execution = new AbortController();
    const suicidal = tool(() => {
      execution.abort();
      return new Promise(() => {});
    });
    expect(await send(suicidal, '', { signal: execution.signal })).toMatchObject(cancelledReply);
  });
});

describe('a host path in an error', () => {
  it('of the file system does not reach the script', async () => {
    const { readFileSync } = await import('node:fs');
    const reply = await send(tool(() => readFileSync('/no/such/file.txt', 'utf8')));
    expect(reply).toMatchObject({
      ok: false,
      code: 'TOOL_ERROR',
      message: expect.stringContaining('[path]'),
    });
    expect(JSON.stringify(reply)).not.toContain('/no/such');
  });

  it('below the folder of the host does not reach the script, and a path that means something stays', async () => {
    const thrower = tool(() => {
      throw new Error(`cannot load ${process.cwd()}/secret/module.js for /users/7`);
    });
    expect(await send(thrower)).toMatchObject({ message: 'cannot load [path] for /users/7' });
  });
});
