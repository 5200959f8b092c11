/** What a broker knows of tools: advertised over the bus by providers that come, go, disagree and lie. */
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import type { Body, Bus } from '../../src/bus/bus.ts';
import { type Hop, MemoryBusServer } from '../../src/bus/memory.ts';
import type { KnownTool, ProviderHeartbeat, ToolPage } from '../../src/protocol.ts';
import type { ToolFacts } from '../../src/session/facts.ts';
import type { BrokerNotice } from '../../src/session/notice.ts';
import { ToolDirectory } from '../../src/session/tooldirectory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { defineTool, type Tool, type ToolEffect } from '../../src/tools/define.ts';
import { ToolProvider } from '../../src/tools/provider.ts';
import { createToolRegistry } from '../../src/tools/registry.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');
const handler = (): number => 1;
const tool = (name: string, effect: ToolEffect = 'unsafe'): Tool => defineTool({ name, effect, handler });
const many = (count: number): readonly Tool[] =>
  Array.from({ length: count }, (_, n) =>
    defineTool({ name: `t${String(n).padStart(4, '0')}`, description: 'x'.repeat(2_000), handler }),
  );

function setUp(local: readonly ToolFacts[] = [], bus: { readonly maxPayloadBytes?: number } = {}) {
  const clock = new VirtualClock();
  const net = { loses: (_hop: Hop): boolean => false };
  const server = new MemoryBusServer({
    clock,
    ...bus,
    deliver: (hop) => {
      if (!net.loses(hop)) clock.soon(hop.run);
    },
  });
  const notices: BrokerNotice[] = [];
  const tools = new ToolDirectory({
    bus: server.connect('broker'),
    clock,
    subjects,
    local: (name) => local.find(({ canonicalName }) => canonicalName === name.replaceAll(':', '.')),
    notify: (notice) => void notices.push(notice),
  });
  const provide = async (id: string, ...offered: readonly Tool[]): Promise<ToolProvider> => {
    const registry = createToolRegistry({ tools: offered });
    const provider = new ToolProvider({ id, bus: server.connect(id), clock, subjects, registry });
    await provider.start();
    await clock.settle();
    return provider;
  };
  const all = tools.allowing(undefined);
  const listed = (): readonly KnownTool[] => {
    const found: KnownTool[] = [];
    for (let after: string | undefined = ''; after !== undefined; ) {
      const list = tools.list({ after });
      found.push(...list.tools);
      after = list.after;
    }
    return found;
  };
  const knownNow = (): readonly string[] => listed().map(({ name, providers }) => `${name} ${providers}`);
  return { clock, net, server, notices, tools, provide, all, knownNow };
}

/** Speaks as a provider does, and says what it is told to. */
async function impostor(bus: Bus, id: string, beat: Body, page?: unknown): Promise<void> {
  bus.subscribe(subjects.providerCmd(id), ({ respond }) => respond?.({ ok: true, value: page, epoch: 0 }));
  await bus.flush();
  bus.publish(subjects.providerHeartbeat(id), beat);
}
const beatOf = (over: Partial<Record<keyof ProviderHeartbeat, unknown>> = {}): Body => ({
  provider: 'x1',
  hash: 'h1',
  tools: 1,
  draining: false,
  intervalMs: 1_000,
  ...over,
});
const pageOf = (over: Partial<Record<keyof ToolPage, unknown>> = {}): Body => ({
  hash: 'h1',
  page: 0,
  pages: 1,
  tools: [{ name: 'odd:one', canonicalName: 'odd.one', effect: 'read', reconcilable: false }],
  ...over,
});

describe('a tool that is advertised', () => {
  it('is known by either spelling, with its effect and whether it can tell what became of a call', async () => {
    const { tools, provide, all } = setUp();
    tools.start();
    const pay = defineTool({ name: 'bank:pay', handler, reconcile: () => ({ status: 'unknown' }) });
    await provide('p1', tool('users:get', 'read'), pay);
    expect(all.find('users.get')).toMatchObject({
      canonicalName: 'users.get',
      effect: 'read',
      reconcilable: false,
    });
    expect(all.find('bank.pay')).toMatchObject({
      canonicalName: 'bank.pay',
      effect: 'unsafe',
      reconcilable: true,
    });
    expect(all.find('bank:pay')).toMatchObject({ canonicalName: 'bank.pay' });
    expect(all.find('users')).toBe('UNKNOWN_TOOL');
  });

  it('is known to a broker that comes later', async () => {
    const { tools, provide, clock, all } = setUp();
    await provide('p1', tool('a'));
    tools.start();
    await clock.settle();
    expect(all.find('a')).toMatchObject({ canonicalName: 'a' });
  });

  it('is known at the next beat if what was said of it got lost', async () => {
    const { tools, provide, clock, net, all } = setUp();
    tools.start();
    net.loses = () => true;
    await provide('p1', tool('a'));
    await clock.advance(2_500);
    expect(all.find('a')).toBe('UNKNOWN_TOOL');
    net.loses = () => false;
    await clock.advance(1_000);
    expect(all.find('a')).toMatchObject({ canonicalName: 'a' });
  });

  it('is listed with its schema, description and time, by the canonical name', async () => {
    const { tools, provide } = setUp();
    tools.start();
    await provide(
      'p1',
      defineTool({
        name: 'z:last',
        description: 'The last.',
        timeoutMs: 500,
        effect: 'idempotent',
        input: z.object({ id: z.string() }),
        handler: () => 1,
      }),
      defineTool({ name: 'odd', input: z.object({ at: z.date() }), handler: () => 1 }),
    );
    await provide('p2', tool('a'), tool('z:last', 'idempotent'));
    expect(tools.list({})).toEqual({
      after: undefined,
      tools: [
        { name: 'a', canonicalName: 'a', effect: 'unsafe', reconcilable: false, providers: 1 },
        { name: 'odd', canonicalName: 'odd', effect: 'unsafe', reconcilable: false, providers: 1 },
        {
          name: 'z:last',
          canonicalName: 'z.last',
          effect: 'idempotent',
          reconcilable: false,
          timeoutMs: 500,
          description: 'The last.',
          input: expect.objectContaining({ type: 'object', required: ['id'] }),
          providers: 2,
        } satisfies KnownTool,
      ],
    });
  });

  it('is not sent again with every beat', async () => {
    const { tools, provide, clock, server } = setUp();
    let pages = 0;
    server.connect().subscribe(subjects.providerCmd('p1'), () => void pages++);
    tools.start();
    await provide('p1', tool('a'));
    await clock.advance(20_000);
    expect(pages).toBe(1);
  });
});

describe('a long list', () => {
  it('is fetched and told in parts that a message can carry', async () => {
    const { tools, provide, clock } = setUp([], { maxPayloadBytes: 64 * 1024 });
    tools.start();
    await provide('p1', ...many(300));
    await clock.settle();
    const names: string[] = [];
    let parts = 0;
    for (let after: string | undefined = ''; after !== undefined; parts++) {
      const list = tools.list({ after });
      expect(JSON.stringify(list).length).toBeLessThan(64 * 1024);
      names.push(...list.tools.map(({ name }) => name));
      after = list.after;
    }
    expect(names).toEqual(many(300).map(({ name }) => name));
    expect(parts).toBeGreaterThan(10);
  });

  it('of which a part got lost is fetched anew', async () => {
    const { tools, provide, clock, net, knownNow } = setUp([], { maxPayloadBytes: 64 * 1024 });
    tools.start();
    let messages = 0;
    net.loses = () => ++messages === 12;
    await provide('p1', ...many(100));
    expect(knownNow()).toEqual([]);
    await clock.advance(3_000);
    expect(knownNow()).toHaveLength(100);
  });

  it('leaves out what of a tool is too long, and keeps the tool', async () => {
    const { tools, provide } = setUp();
    tools.start();
    const big = z.object(
      Object.fromEntries(Array.from({ length: 3_000 }, (_, n) => [`key${n}`, z.string()])),
    );
    await provide(
      'p1',
      defineTool({ name: 'big', description: 'y'.repeat(9_000), input: big, handler: () => 1 }),
    );
    const [listed] = tools.list({}).tools;
    expect(listed).toMatchObject({ name: 'big', description: 'y'.repeat(4_000) });
    expect(listed).not.toHaveProperty('input');
  });
});

describe('providers that disagree about an effect', () => {
  it.each<[readonly ToolEffect[], ToolEffect]>([
    [['read', 'unsafe'], 'unsafe'],
    [['unsafe', 'read'], 'unsafe'],
    [['read', 'idempotent'], 'idempotent'],
    [['idempotent', 'unsafe', 'read'], 'unsafe'],
  ])('%j: the strictest counts, and the operator is told once', async (effects, strictest) => {
    const { tools, provide, clock, all, notices } = setUp();
    tools.start();
    for (const [index, effect] of effects.entries()) await provide(`p${index}`, tool('a', effect));
    expect(all.find('a')).toMatchObject({ effect: strictest });
    await clock.advance(10_000);
    expect(notices.at(-1)).toEqual({ type: 'tool.conflict', tool: 'a', effects: effects.toSorted() });
    expect(notices).toHaveLength(effects.length - 1);
  });

  it('count no longer when they are gone', async () => {
    const { tools, provide, clock, all, notices } = setUp();
    tools.start();
    await provide('p1', tool('a', 'read'));
    const strict = await provide('p2', tool('a', 'unsafe'));
    strict.close();
    await clock.advance(4_000);
    tools.sweep();
    expect(all.find('a')).toMatchObject({ effect: 'read' });
    expect(notices).toHaveLength(1);
  });

  it('may be this process and another', async () => {
    const { tools, provide, all, notices } = setUp([
      { canonicalName: 'a', effect: 'idempotent', reconcilable: true },
    ]);
    tools.start();
    expect(all.find('a')).toMatchObject({ effect: 'idempotent' });
    const loose = await provide('p1', tool('a', 'read'));
    expect(all.find('a')).toEqual({ canonicalName: 'a', effect: 'idempotent', reconcilable: true });
    expect(notices).toHaveLength(1);
    loose.close();
    await provide('p2', tool('a', 'unsafe'));
    expect(all.find('a')).toEqual({ canonicalName: 'a', effect: 'unsafe', reconcilable: true });
  });

  it('still have it asked for what became of a call if one of them can tell', async () => {
    const { tools, provide, all } = setUp();
    tools.start();
    await provide('p1', tool('a'));
    await provide('p2', defineTool({ name: 'a', handler, reconcile: () => ({ status: 'unknown' }) }));
    expect(all.find('a')).toMatchObject({ reconcilable: true });
  });
});

describe('a tool whose providers are gone', () => {
  it.each(['close', 'drain'] as const)('is known for ten minutes: %s', async (how) => {
    const { tools, provide, clock, all, knownNow } = setUp();
    tools.start();
    const provider = await provide('p1', tool('a', 'read'));
    if (how === 'close') {
      provider.close();
      await clock.advance(3_500);
      tools.sweep();
    } else {
      await provider.drain(0);
      await clock.settle();
    }
    expect(knownNow()).toEqual(['a 0']);
    expect(all.find('a')).toMatchObject({ effect: 'read' });
    await clock.advance(599_000);
    tools.sweep();
    expect(all.find('a')).toMatchObject({ effect: 'read' });
    await clock.advance(1_001);
    tools.sweep();
    expect(all.find('a')).toBe('UNKNOWN_TOOL');
    expect(knownNow()).toEqual([]);
  });

  it('is as it was when one comes back', async () => {
    const { tools, provide, clock, knownNow } = setUp();
    tools.start();
    (await provide('p1', tool('a'))).close();
    await clock.advance(4_000);
    tools.sweep();
    await provide('p1', tool('a'), tool('b'));
    expect(knownNow()).toEqual(['a 1', 'b 1']);
    await clock.advance(700_000);
    tools.sweep();
    expect(knownNow()).toEqual(['a 1', 'b 1']);
  });

  it('makes room when more than ten thousand are', async () => {
    const { tools, clock, server, all } = setUp([], { maxPayloadBytes: 16 * 1024 * 1024 });
    tools.start();
    const bus = server.connect();
    const list = (prefix: string, count: number): readonly object[] =>
      Array.from({ length: count }, (_, n) => `${prefix}${n}`).map((name) => ({
        name,
        canonicalName: name,
        effect: 'read',
        reconcilable: false,
      }));
    for (const [id, count] of [
      ['x1', 10],
      ['x2', 10_000],
    ] as const)
      await impostor(
        bus,
        id,
        beatOf({ provider: id, hash: id }),
        pageOf({ hash: id, tools: list(id, count) }),
      );
    await clock.settle();
    expect(all.find('x10')).toMatchObject({ effect: 'read' });
    await clock.advance(4_000);
    tools.sweep();
    expect(all.find('x10')).toBe('UNKNOWN_TOOL');
    expect(all.find('x29999')).toMatchObject({ effect: 'read' });
  });
});

describe('a provider that changes', () => {
  it('and takes the place of another of its name is asked again', async () => {
    const { tools, provide, knownNow } = setUp();
    tools.start();
    (await provide('p1', tool('a'))).close();
    await provide('p1', tool('b'));
    expect(knownNow()).toEqual(['a 0', 'b 1']);
  });

  it('is believed only under its own name', async () => {
    const { tools, clock, server, knownNow } = setUp();
    tools.start();
    const bus = server.connect();
    await impostor(bus, 'x2', beatOf({ provider: 'x1' }), pageOf());
    await clock.settle();
    expect(knownNow()).toEqual([]);
  });

  it.each<[string, Body, unknown]>([
    ['no id', beatOf({ provider: 7 }), pageOf()],
    ['no hash', beatOf({ hash: '' }), pageOf()],
    ['a beat that never comes again', beatOf({ intervalMs: 1e12 }), pageOf()],
    ['no page', beatOf(), undefined],
    ['a page that is none', beatOf(), 'page'],
    ['pages without end', beatOf(), pageOf({ pages: 1e9 })],
    ['no tools', beatOf(), pageOf({ tools: {} })],
    ['a tool that is none', beatOf(), pageOf({ tools: [null, 7, {}] })],
    [
      'a name that is another one',
      beatOf(),
      pageOf({ tools: [{ name: 'a', canonicalName: 'b', effect: 'read', reconcilable: false }] }),
    ],
    [
      'a name with a wildcard',
      beatOf(),
      pageOf({ tools: [{ name: 'a.*', canonicalName: 'a.*', effect: 'read', reconcilable: false }] }),
    ],
    [
      'an effect that there is not',
      beatOf(),
      pageOf({ tools: [{ name: 'a', canonicalName: 'a', effect: 'constructor', reconcilable: false }] }),
    ],
  ])('and tells nonsense is not listened to: %s', async (_what, beat, page) => {
    const { tools, clock, server, knownNow } = setUp();
    tools.start();
    await impostor(server.connect(), 'x1', beat, page);
    await clock.advance(2_000);
    expect(knownNow()).toEqual([]);
  });

  it('and tells sense is listened to', async () => {
    const { tools, clock, server, knownNow } = setUp();
    tools.start();
    await impostor(server.connect(), 'x1', beatOf(), pageOf());
    await clock.settle();
    expect(knownNow()).toEqual(['odd:one 1']);
  });
});

describe('a tool that nobody is known to have', () => {
  const settledAt = async (
    clock: VirtualClock,
    sought: Promise<void> | undefined,
  ): Promise<number | undefined> => {
    const from = clock.monotonic();
    let at: number | undefined;
    void sought?.then(() => (at = clock.monotonic() - from));
    for (let ms = 0; ms < 1_000 && at === undefined; ms += 10) await clock.advance(10);
    return at;
  };

  it('is looked for, and found at once if somebody has it', async () => {
    const { tools, provide, clock, net, all } = setUp();
    tools.start();
    net.loses = () => true;
    await provide('p1', tool('a:b'));
    net.loses = () => false;
    expect(await settledAt(clock, all.seek(['a:b']))).toBeLessThanOrEqual(10);
    expect(all.find('a:b')).toMatchObject({ canonicalName: 'a.b' });
  });

  it('may be one of a provider that has just begun', async () => {
    const { tools, provide, clock, all } = setUp();
    tools.start();
    await provide('p1', tool('other'));
    const sought = all.seek(['a']);
    await clock.advance(200);
    await provide('p2', tool('a'));
    expect(await settledAt(clock, sought)).toBeLessThanOrEqual(10);
  });

  it('is given up after 300 ms, and not looked for again for a while', async () => {
    const { tools, provide, clock, all } = setUp();
    tools.start();
    await provide('p1', tool('other'));
    expect(await settledAt(clock, all.seek(['a']))).toBe(300);
    expect(all.find('a')).toBe('UNKNOWN_TOOL');
    expect(all.seek(['a'])).toBeUndefined();
    await clock.advance(10_001);
    expect(all.seek(['a'])).toBeInstanceOf(Promise);
  });

  it('is given up 50 ms after all providers have answered, once all that live were heard of', async () => {
    const { tools, provide, clock, net, all } = setUp();
    tools.start();
    await provide('p1', tool('other'));
    await provide('p2', tool('other'));
    await clock.advance(2_500);
    expect(await settledAt(clock, all.seek(['a']))).toBe(50);
    net.loses = ({ subject, to }) => subject === subjects.providerHeartbeat('p2') && to !== 'p2';
    expect(await settledAt(clock, all.seek(['b']))).toBe(300);
  });

  it('is given up at once where there is no provider at all', async () => {
    const { tools, clock, all } = setUp();
    tools.start();
    expect(await settledAt(clock, all.seek(['a']))).toBe(0);
  });

  it('is not looked for if it is known, no name, or not on the list', async () => {
    const { tools, provide } = setUp([{ canonicalName: 'here', effect: 'read', reconcilable: false }]);
    tools.start();
    await provide('p1', tool('a:b'));
    const some = tools.allowing(['a.b', 'here']);
    expect(some.seek(['a:b', 'here', 'not.listed', '', '*', 'a b', '__proto__.'])).toBeUndefined();
    expect(some.find('not.listed')).toBe('TOOL_NOT_ALLOWED');
    expect(some.find('a b')).toBe('UNKNOWN_TOOL');
    expect(some.find('here')).toMatchObject({ effect: 'read' });
    expect(tools.allowing(['to.come']).seek(['to:come'])).toBeInstanceOf(Promise);
  });

  it('is not waited for when its broker stops', async () => {
    const { tools, provide, clock, all } = setUp();
    tools.start();
    await provide('p1', tool('other'));
    const sought = all.seek(['a']);
    tools.stop();
    expect(await settledAt(clock, sought)).toBeLessThanOrEqual(10);
    expect(all.seek(['b'])).toBeUndefined();
  });

  it('is looked for by a hundred at once, and by no more', async () => {
    const { tools, provide, all } = setUp();
    tools.start();
    await provide('p1', tool('other'));
    for (let n = 0; n < 100; n++) expect(all.seek([`n${n}`])).toBeInstanceOf(Promise);
    expect(all.seek(['one.more'])).toBeUndefined();
  });
});
