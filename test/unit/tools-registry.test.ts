import { describe, expect, it, vi } from 'vitest';
import { defineTool, type ToolContext } from '../../src/tools/define.ts';
import { createAllowList, createToolRegistry, type ToolRegistryOptions } from '../../src/tools/registry.ts';

const tool = (name: string) => defineTool({ name, handler: () => name });

const ctx: ToolContext = {
  executionId: 'e',
  callIndex: 0,
  idempotencyKey: 'k',
  signal: new AbortController().signal,
  tenant: undefined,
};

function refusal(key: string, text: string) {
  return expect.objectContaining({ code: 'INVALID_ARGUMENT', key, message: expect.stringContaining(text) });
}

describe('createToolRegistry', () => {
  it('finds a tool by either spelling of its name', () => {
    const get = tool('users:get');
    const registry = createToolRegistry({ tools: [get] });
    expect(registry.resolve('users:get')).toBe(get);
    expect(registry.resolve('users.get')).toBe(get);
    expect(registry.names()).toEqual(['users.get']);
  });

  it('keeps a tool apart from the group of the same name', () => {
    const registry = createToolRegistry({ tools: [tool('users'), tool('users.get')] });
    expect(registry.resolve('users')?.name).toBe('users');
    expect(registry.resolve('users:get')?.name).toBe('users.get');
  });

  it('refuses two tools of one name and names both', () => {
    const tools = [tool('x'), tool('users:get'), tool('users.get')];
    expect(() => createToolRegistry({ tools })).toThrow(refusal('tools[2]', '"users.get" and "users:get"'));
  });

  it.each(['constructor', '__proto__', 'hasOwnProperty', 'toString', '', 'a b', 'users.'])(
    'knows no tool %j that nobody defined',
    (name) => {
      expect(createToolRegistry({ tools: [tool('users')] }).resolve(name)).toBeUndefined();
    },
  );

  it('finds a tool that was defined under a prototype name', () => {
    const proto = tool('__proto__');
    expect(createToolRegistry({ tools: [proto] }).resolve('__proto__')).toBe(proto);
  });

  it('hands every other valid name to the toolHandler, as the script wrote it', async () => {
    const toolHandler = vi.fn(async (name: string, args: unknown) => ({ name, args }));
    const defined = tool('users:get');
    const registry = createToolRegistry({ tools: [defined], toolHandler });
    const resolved = registry.resolve('mail:send.now');
    expect(resolved).toMatchObject({
      name: 'mail:send.now',
      canonicalName: 'mail.send.now',
      effect: 'unsafe',
    });
    expect(await resolved?.handler({ to: 'a' }, ctx)).toEqual({ name: 'mail:send.now', args: { to: 'a' } });
    expect(toolHandler).toHaveBeenCalledExactlyOnceWith('mail:send.now', { to: 'a' }, ctx);
    expect(registry.resolve('constructor')?.canonicalName).toBe('constructor');
    expect(registry.resolve('users.get')).toBe(defined);
    expect(registry.resolve('not a name')).toBeUndefined();
    expect(registry.names()).toEqual(['users.get']);
  });

  it('has no tools if none are given', () => {
    expect(createToolRegistry().names()).toEqual([]);
    expect(createToolRegistry({ tools: undefined, toolHandler: undefined }).resolve('a')).toBeUndefined();
  });

  it.each([
    ['options', null],
    ['tool', { tool: [] }],
    ['tools', { tools: {} }],
    ['tools[0]', { tools: [{ name: 'a', handler: () => null }] }],
    ['toolHandler', { toolHandler: 'run' }],
  ])('refuses bad %s by its key', (key, options) => {
    expect(() => createToolRegistry(options as unknown as ToolRegistryOptions)).toThrow(refusal(key, ''));
  });
});

describe('createAllowList', () => {
  const registry = createToolRegistry({ tools: [tool('users:get'), tool('mail.send')] });

  it('allows everything where there is no list, and nothing where the list is empty', () => {
    expect(createAllowList(undefined, registry)('mail.send')).toBe(true);
    expect(createAllowList([], registry)('mail.send')).toBe(false);
  });

  it('allows by canonical name, however the list spells it', () => {
    for (const name of ['users:get', 'users.get']) {
      const allows = createAllowList([name], registry);
      expect(allows('users.get')).toBe(true);
      expect(allows('mail.send')).toBe(false);
    }
  });

  it('does not allow a group by a name within it, nor the reverse', () => {
    const both = createToolRegistry({ tools: [tool('users'), tool('users.get')] });
    expect(createAllowList(['users'], both)('users.get')).toBe(false);
    expect(createAllowList(['users.get'], both)('users')).toBe(false);
  });

  it('refuses unknown and malformed names by their place', () => {
    expect(() => createAllowList(['users.get', 'users.got'], registry)).toThrow(
      refusal('tools[1]', 'no tool "users.got"'),
    );
    expect(() => createAllowList(['users..get'], registry)).toThrow(refusal('tools[0]', 'segments'));
    expect(() => createAllowList([7] as never, registry)).toThrow(refusal('tools[0]', 'segments'));
    expect(() => createAllowList('users.get' as never, registry)).toThrow(refusal('tools', 'array'));
  });

  it('takes unknown names, but no malformed ones, where a toolHandler serves them', () => {
    const open = createToolRegistry({ toolHandler: () => null });
    expect(createAllowList(['any:thing'], open)('any.thing')).toBe(true);
    expect(createAllowList(['any:thing'], open)('other')).toBe(false);
    expect(() => createAllowList(['any thing'], open)).toThrow(refusal('tools[0]', 'segments'));
  });
});
