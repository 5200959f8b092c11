import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { canonicalToolName, defineTool, isTool, type Tool } from '../../src/tools/define.ts';

const handler = () => null;

describe('canonicalToolName', () => {
  it.each([
    ['users', 'users'],
    ['users:get', 'users.get'],
    ['users.get', 'users.get'],
    ['a:b.c:d', 'a.b.c.d'],
    ['-_9', '-_9'],
    ['constructor', 'constructor'],
    ['__proto__', '__proto__'],
    ['x'.repeat(128), 'x'.repeat(128)],
  ])('makes %s into %s', (name, canonical) => {
    expect(canonicalToolName(name)).toBe(canonical);
  });

  it.each(['', '.', 'a.', ':a', 'a..b', 'a.:b', 'a b', 'a/b', 'ä', 'a\n', 'a\0', 'x'.repeat(129)])(
    'refuses %j',
    (name) => {
      expect(canonicalToolName(name)).toBeUndefined();
    },
  );

  it('refuses an object that would turn into a name', () => {
    expect(canonicalToolName({ length: 5, toString: () => 'users' } as unknown as string)).toBeUndefined();
    expect(canonicalToolName(['users'] as unknown as string)).toBeUndefined();
  });
});

describe('defineTool', () => {
  it('fills in the defaults and freezes the tool', () => {
    const tool = defineTool({ name: 'users:get', handler });
    expect(tool).toEqual({
      name: 'users:get',
      canonicalName: 'users.get',
      description: undefined,
      input: undefined,
      output: undefined,
      effect: 'unsafe',
      timeoutMs: undefined,
      handler,
    });
    expect(Object.isFrozen(tool)).toBe(true);
    expect(isTool(tool)).toBe(true);
  });

  it('takes an explicit undefined for the default', () => {
    const given = { name: 'a', description: undefined, input: undefined, output: undefined };
    const tool = defineTool({ ...given, effect: undefined, timeoutMs: undefined, handler });
    expect(tool).toEqual(defineTool({ name: 'a', handler }));
  });

  it('takes schemas that are functions', () => {
    const validate = (value: unknown) => ({ value });
    const schema = Object.assign(() => null, {
      '~standard': { version: 1, vendor: 'test', validate } as const,
    });
    expect(defineTool({ name: 'a', input: schema, handler }).input).toBe(schema);
  });

  it.each([
    ['tool.name', { name: 'a b' }],
    ['tool.name', { name: undefined }],
    ['tool.name', { name: Symbol('a') }],
    ['tool.description', { description: 7 }],
    ['tool.input', { input: {} }],
    ['tool.input', { input: null }],
    ['tool.output', { output: { '~standard': { validate: true } } }],
    ['tool.effect', { effect: 'write' }],
    ['tool.timeoutMs', { timeoutMs: 0 }],
    ['tool.timeoutMs', { timeoutMs: 1.5 }],
    ['tool.timeoutMs', { timeoutMs: 3_600_001 }],
    ['tool.timeoutMs', { timeoutMs: '50' }],
    ['tool.handler', { handler: 'run' }],
    ['tool.handler', { handler: undefined }],
    ['tool.timeout', { timeout: 5 }],
  ])('refuses a bad %s by its key', (key, change) => {
    const definition = { name: 'a', handler, ...change } as unknown as Parameters<typeof defineTool>[0];
    expect(() => defineTool(definition)).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        key,
        message: expect.stringContaining(`${key}: `),
      }),
    );
  });

  it.each([undefined, null, 'users', []])('refuses %j as a definition', (definition) => {
    expect(() => defineTool(definition as never)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', key: 'tool' }),
    );
  });

  it('types the handler by its schemas', () => {
    const input = z.object({ id: z.string().transform(Number) });
    const output = z.object({ at: z.string().transform((text) => text.length) });
    const tools: Tool[] = [
      defineTool({
        name: 'typed',
        input,
        output,
        // Arguments as the schema hands them on, the result as the schema accepts it.
        handler: ({ id }, ctx) => ({ at: `${id.toFixed(0)}${ctx.executionId}` }),
      }),
      defineTool({ name: 'async', input, output, handler: async ({ id }) => ({ at: id.toFixed(0) }) }),
      // @ts-expect-error the output schema wants a string
      defineTool({ name: 'bad-result', output, handler: () => ({ at: 7 }) }),
      // @ts-expect-error the output schema wants a string, from a promise as well
      defineTool({ name: 'bad-promise', output, handler: async () => ({ at: 7 }) }),
      // @ts-expect-error without an input schema the arguments are unknown
      defineTool({ name: 'unchecked', handler: (args) => args.id }),
      defineTool({
        name: 'wrong-argument',
        input,
        // @ts-expect-error the input schema hands on a number
        handler: ({ id }) => id.trim(),
      }),
    ];
    expect(tools.every(isTool)).toBe(true);
  });
});

describe('isTool', () => {
  it.each([null, 'a', { name: 'a', handler }, { ...defineTool({ name: 'a', handler }) }])(
    'is false for %j, which defineTool did not make',
    (value) => {
      expect(isTool(value)).toBe(false);
    },
  );
});
