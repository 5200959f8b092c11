import { afterEach, describe, expect, it, vi } from 'vitest';
import { z } from 'zod';
import type { Body, Bus } from '../../src/bus/bus.ts';
import { type Hop, MemoryBusServer } from '../../src/bus/memory.ts';
import { nearBus } from '../../src/nearbus.ts';
import type { CallEnd, CallTool, ProviderCommand, ProviderMessage, Reply } from '../../src/protocol.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { defineTool, type Reconcile, type Tool, type ToolContext } from '../../src/tools/define.ts';
import { ToolProvider, type ToolProviderOptions } from '../../src/tools/provider.ts';
import { createToolRegistry } from '../../src/tools/registry.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');
/** Its timer. */
const HEARTBEAT = 1;
const FORGOTTEN = { ok: false, error: { code: 'OUTCOME_UNKNOWN', retryable: false, outcome: 'unknown' } };
const TAKEN = { ok: true, value: { provider: 'p1' }, epoch: 3 };

/** A tool whose calls end when the test says so. */
function slowTool(more: { readonly timeoutMs?: number } = {}) {
  const calls: {
    readonly args: unknown;
    readonly ctx: ToolContext;
    readonly end: (value: unknown) => void;
  }[] = [];
  const tool = defineTool({
    name: 'users:get',
    ...more,
    handler: (args: unknown, ctx) => new Promise((end) => calls.push({ args, ctx, end })),
  });
  return { tool, calls };
}

/** A tool that cannot be called, only asked. */
function inDoubt(
  reconcile: Reconcile | undefined,
  more: { readonly output?: z.ZodType; readonly timeoutMs?: number } = {},
) {
  const handler = vi.fn(() => 1);
  return { tool: defineTool({ name: 'users:get', ...more, handler, reconcile }), handler };
}

const open: ToolProvider[] = [];

async function setUp(
  tools: readonly Tool[],
  options: Partial<ToolProviderOptions> = {},
  bus: { maxPayloadBytes?: number } = {},
) {
  const clock = new VirtualClock();
  /** Hops that this says are lost. */
  const net = { loses: (_hop: Hop): boolean => false };
  const server = new MemoryBusServer({
    clock,
    ...bus,
    deliver: (hop) => {
      if (!net.loses(hop)) clock.soon(hop.run);
    },
  });
  const owner: Bus = server.connect('owner');
  const told: ProviderMessage[] = [];
  owner.subscribe(subjects.sessionTools('s1'), ({ body }) => void told.push(body as ProviderMessage));
  const provider = new ToolProvider({
    id: 'p1',
    bus: server.connect('provider'),
    clock,
    subjects,
    registry: createToolRegistry({ tools }),
    // What is held back has tests of its own, below.
    holdMs: 0,
    ...options,
  });
  open.push(provider);
  await provider.start();
  const request = async (subject: string, body: Body): Promise<Reply<unknown>> => {
    const reply = (await owner.request(subject, body, { timeoutMs: 500 })) as Reply<unknown>;
    await clock.settle();
    return reply;
  };
  const ask = (more: Partial<CallTool> = {}) => request(subjects.tool('users.get'), callOf(more));
  const command = async (body: ProviderCommand): Promise<void> => {
    owner.publish(subjects.providerCmd('p1'), body);
    await clock.settle();
  };
  const ack = (...keys: readonly string[]) => command({ t: 'ack', keys });
  const ends = (): readonly CallEnd[] =>
    told.flatMap((message) => (message.t === 'ended' ? [message.end] : []));
  return { clock, net, server, owner, told, ends, provider, request, ask, command, ack };
}

function callOf(more: Partial<CallTool> = {}): CallTool {
  return {
    t: 'call',
    key: 's1/x1/0',
    session: 's1',
    execution: 'x1',
    index: 0,
    name: 'users:get',
    args: '{"id":7}',
    epoch: 3,
    notAfterMs: 5_000,
    maxPayloadBytes: 1_000,
    ...more,
  };
}

afterEach(() => {
  for (const provider of open.splice(0)) provider.close();
});

describe('a call', () => {
  it('is answered as taken, runs with its context, and its end is told to the session', async () => {
    const { tool, calls } = slowTool();
    const { clock, ask, told, provider } = await setUp([tool]);
    expect(await ask({ tenant: 'acme' })).toEqual(TAKEN);
    expect(provider.running).toBe(1);
    expect(calls[0]?.args).toEqual({ id: 7 });
    expect(calls[0]?.ctx).toEqual({
      executionId: 'x1',
      callIndex: 0,
      idempotencyKey: 's1/x1/0',
      tenant: 'acme',
      sessionId: 's1',
      epoch: 3,
      notAfter: clock.now() + 5_000,
      signal: expect.any(AbortSignal),
    });
    await clock.advance(250);
    expect(told).toEqual([]);
    calls[0]?.end({ name: 'Ada' });
    await clock.settle();
    const end = { ok: true, json: '{"name":"Ada"}' };
    expect(told).toEqual([{ t: 'ended', key: 's1/x1/0', provider: 'p1', end, durationMs: 250 }]);
    expect([provider.running, provider.unacknowledged]).toEqual([0, 1]);
  });

  it('of a synchronous tool is answered and told likewise', async () => {
    const { ask, ends } = await setUp([defineTool({ name: 'users:get', handler: () => 1 })]);
    expect(await ask()).toEqual(TAKEN);
    expect(ends()).toEqual([{ ok: true, json: '1' }]);
  });

  it.each([
    ['what the handler threw, by its message', 'TOOL_ERROR', '{"id":1}', /^no such user$/],
    ['arguments that break the schema', 'INVALID_ARGUMENT', '{"id":"x"}', /id: /],
    ['arguments that are not JSON', 'INVALID_ARGUMENT', '{', /not JSON/],
    ['arguments over maxPayloadBytes', 'SERIALIZATION_ERROR', `"${'x'.repeat(1_000)}"`, /over the limit/],
  ])('ends with %s', async (_, code, args, message) => {
    const handler = (): never => {
      throw new TypeError('no such user');
    };
    const { ask, ends } = await setUp([
      defineTool({ name: 'users:get', input: z.object({ id: z.number() }), handler }),
    ]);
    expect(await ask({ args })).toEqual(TAKEN);
    expect(ends()).toEqual([{ ok: false, code, message: expect.stringMatching(message) }]);
  });

  it('ends as TOOL_TIMEOUT when the time of the tool is over, by the clock', async () => {
    const { tool, calls } = slowTool({ timeoutMs: 200 });
    const { ask, ends, clock, provider } = await setUp([tool]);
    await ask();
    await clock.advance(199);
    expect(ends()).toEqual([]);
    await clock.advance(1);
    expect(ends()).toMatchObject([{ ok: false, code: 'TOOL_TIMEOUT' }]);
    expect(calls[0]?.ctx.signal.aborted).toBe(true);
    calls[0]?.end('late');
    await clock.settle();
    expect(ends()).toHaveLength(1);
    expect(provider.running).toBe(0);
  });

  it('that ends in time leaves no timer of its own', async () => {
    const { tool, calls } = slowTool({ timeoutMs: 60_000 });
    const { ask, clock, ack } = await setUp([tool]);
    await ask();
    calls[0]?.end(1);
    await clock.settle();
    await ack('s1/x1/0');
    await clock.advance(1_000);
    expect(clock.timers).toBe(HEARTBEAT);
  });

  it('that comes twice while it runs is taken twice and runs once', async () => {
    const { tool, calls } = slowTool();
    const { ask, ends, clock } = await setUp([tool]);
    await ask();
    expect(await ask({ epoch: 3 })).toEqual(TAKEN);
    expect(calls).toHaveLength(1);
    calls[0]?.end(1);
    await clock.settle();
    expect(ends()).toHaveLength(1);
  });

  it('that comes again after its end is answered by the end, and does not run again', async () => {
    const { tool, calls } = slowTool();
    const { ask, ends, clock } = await setUp([tool]);
    await ask();
    calls[0]?.end(1);
    await clock.settle();
    expect(await ask()).toEqual(TAKEN);
    expect(calls).toHaveLength(1);
    expect(ends()).toEqual([
      { ok: true, json: '1' },
      { ok: true, json: '1' },
    ]);
  });

  it('that comes again after its end was acknowledged does not run again', async () => {
    const { tool, calls } = slowTool();
    const { ask, ack, clock, ends } = await setUp([tool]);
    await ask();
    calls[0]?.end(1);
    await clock.settle();
    await ack('s1/x1/0');
    expect(await ask()).toMatchObject(FORGOTTEN);
    expect(calls).toHaveLength(1);
    expect(ends()).toHaveLength(1);
  });

  it('of each key runs by itself', async () => {
    const { tool, calls } = slowTool();
    const { ask, provider } = await setUp([tool]);
    await ask();
    await ask({ key: 's1/x1/1', index: 1 });
    expect(calls.map(({ ctx }) => ctx.idempotencyKey)).toEqual(['s1/x1/0', 's1/x1/1']);
    expect(provider.running).toBe(2);
  });

  it('over maxRunning is refused as OVERLOADED and did not run', async () => {
    const { tool, calls } = slowTool();
    const { ask, clock } = await setUp([tool], { maxRunning: 1 });
    await ask();
    expect(await ask({ key: 's1/x1/1' })).toEqual({
      ok: false,
      epoch: 3,
      error: {
        code: 'OVERLOADED',
        message: expect.any(String),
        retryable: true,
        outcome: 'not_started',
        details: { retryAfterMs: 100, running: 1, maxRunning: 1 },
      },
    });
    expect(calls).toHaveLength(1);
    calls[0]?.end(1);
    await clock.settle();
    expect(await ask({ key: 's1/x1/1' })).toEqual(TAKEN);
  });

  it('of a tool that nobody has finds no responders', async () => {
    const { request } = await setUp([slowTool().tool]);
    await expect(request(subjects.tool('users.put'), callOf())).rejects.toMatchObject({
      code: 'NO_RESPONDERS',
    });
  });

  it('runs in one provider of several', async () => {
    const first = slowTool();
    const second = slowTool();
    const { server, clock, ask } = await setUp([first.tool]);
    const registry = createToolRegistry({ tools: [second.tool] });
    const other = new ToolProvider({ id: 'p2', bus: server.connect(), clock, subjects, registry, holdMs: 0 });
    open.push(other);
    await other.start();
    for (let index = 0; index < 4; index++) await ask({ key: `s1/x1/${index}` });
    expect([first.calls.length, second.calls.length]).toEqual([2, 2]);
  });

  it('that nobody waits for an answer to does not run', async () => {
    const { tool, calls } = slowTool();
    const { owner, clock } = await setUp([tool]);
    owner.publish(subjects.tool('users.get'), callOf());
    await clock.settle();
    expect(calls).toHaveLength(0);
  });

  describe('that ends while its answer is held back', () => {
    it('is answered with its end, which is told again until it is acknowledged', async () => {
      const { ask, told, provider, clock, ack } = await setUp(
        [defineTool({ name: 'users:get', handler: () => 1 })],
        { holdMs: 25 },
      );
      const ended = { end: { ok: true, json: '1' }, durationMs: 0 };
      expect(await ask()).toEqual({ ok: true, value: { provider: 'p1', ended }, epoch: 3 });
      expect([told, provider.unacknowledged]).toEqual([[], 1]);
      await clock.advance(1_000);
      expect(told).toEqual([{ t: 'ended', key: 's1/x1/0', provider: 'p1', ...ended }]);
      await ack('s1/x1/0');
      expect(provider.unacknowledged).toBe(0);
    });

    it('is answered without an end that no message can hold, and tells why', async () => {
      const handler = (): string => 'x'.repeat(20_000);
      const { ask, ends } = await setUp(
        [defineTool({ name: 'users:get', handler })],
        { holdMs: 25 },
        { maxPayloadBytes: 10_000 },
      );
      expect(await ask({ maxPayloadBytes: 1_000_000 })).toEqual(TAKEN);
      expect(ends()).toMatchObject([{ ok: false, code: 'SERIALIZATION_ERROR' }]);
    });

    it('is answered after a moment if it lasts, and its end is told by itself', async () => {
      const { tool, calls } = slowTool();
      const { ask, clock, ends } = await setUp([tool], { holdMs: 25 });
      const asked = ask();
      let answered = false;
      void asked.then(() => {
        answered = true;
      });
      await clock.advance(24);
      expect([answered, calls.length]).toEqual([false, 1]);
      await clock.advance(1);
      expect(await asked).toEqual(TAKEN);
      calls[0]?.end(1);
      await clock.settle();
      expect(ends()).toEqual([{ ok: true, json: '1' }]);
    });

    it('is answered as taken by a provider that is closed meanwhile', async () => {
      const { tool } = slowTool();
      const { ask, clock, provider } = await setUp([tool], { holdMs: 25 });
      const asked = ask();
      await clock.advance(10);
      provider.close();
      expect(await asked).toEqual(TAKEN);
      await clock.advance(500);
      expect(clock.timers).toBe(0);
    });
  });

  describe('of a stateless run', () => {
    const end = async (home: boolean | undefined, session: string) => {
      const { tool, calls } = slowTool();
      const world = await setUp([tool]);
      await world.ask({ key: `${session}/x1/0`, session, home });
      calls[0]?.end(1);
      await world.clock.advance(9_000);
      expect(world.provider.unacknowledged).toBe(1);
      await world.clock.advance(3_000);
      return world.provider.unacknowledged;
    };

    it('has its end forgotten when nobody hears it any more, so that a drain need not wait for it', async () => {
      expect(await end(true, 'gone')).toBe(0);
    });

    it('has its end told again while its broker hears it, and for a session until its next owner does', async () => {
      expect(await end(true, 's1')).toBe(1);
      expect(await end(undefined, 'gone')).toBe(1);
    });
  });

  describe('of an owner in the same process', () => {
    const subject = subjects.tool('users.get');

    it('needs no message, is taken after the turn in which it is made, and is told of as any other', async () => {
      const { tool, calls } = slowTool();
      const { provider, clock, ends, net } = await setUp([tool], { holdMs: 25 });
      net.loses = () => true;
      const asked = provider.take(subject, callOf());
      expect(calls).toHaveLength(0);
      await clock.settle();
      expect([calls.length, provider.running]).toEqual([1, 1]);
      calls[0]?.end({ name: 'Ada' });
      const ended = { end: { ok: true, json: '{"name":"Ada"}' }, durationMs: 0 };
      expect(await asked).toEqual({ ok: true, value: { provider: 'p1', ended }, epoch: 3 });
      expect([ends(), provider.unacknowledged]).toEqual([[], 1]);
      net.loses = () => false;
      await clock.advance(1_000);
      expect(ends()).toEqual([ended.end]);
    });

    it('that lasts is answered as taken, and its end is told over the bus', async () => {
      const { tool, calls } = slowTool();
      const { provider, clock, ends } = await setUp([tool], { holdMs: 25 });
      const asked = provider.take(subject, callOf());
      await clock.advance(25);
      expect(await asked).toEqual(TAKEN);
      calls[0]?.end(1);
      await clock.settle();
      expect(ends()).toEqual([{ ok: true, json: '1' }]);
    });

    it.each([
      ['another tool', 'users.put', callOf(), {}],
      ['arguments that the bus might not carry', 'users.get', callOf({ args: `"${'x'.repeat(2_000)}"` }), {}],
      ['what is no call', 'users.get', { ...callOf(), key: 7 }, {}],
      ['a call while there is no room', 'users.get', callOf(), { maxRunning: 0 }],
    ])('is left to the bus if it is of %s', async (_, name, body, options) => {
      const { tool, calls } = slowTool();
      const { provider, clock } = await setUp([tool], options, { maxPayloadBytes: 10_000 });
      expect(provider.take(subjects.tool(name), body)).toBeUndefined();
      await clock.settle();
      expect(calls).toHaveLength(0);
    });

    it('is left to the bus while the provider drains, and refused once it is closed', async () => {
      const { tool, calls } = slowTool();
      const { provider, clock } = await setUp([tool]);
      const asked = provider.take(subject, callOf());
      provider.close();
      expect(await asked).toMatchObject({ ok: false, error: { code: 'CLOSED', retryable: true } });
      const other = await setUp([tool]);
      void other.provider.drain(1_000);
      expect(other.provider.take(subject, callOf())).toBeUndefined();
      await clock.settle();
      expect(calls).toHaveLength(0);
    });

    it('whose end the bus might not carry is told of as over the bus', async () => {
      const handler = (): string => 'x'.repeat(2_000);
      const { provider, ends, clock } = await setUp(
        [defineTool({ name: 'users:get', handler })],
        { holdMs: 25 },
        { maxPayloadBytes: 10_000 },
      );
      expect(await provider.take(subject, callOf({ maxPayloadBytes: 5_000 }))).toEqual(TAKEN);
      await clock.settle();
      expect(ends()).toMatchObject([{ ok: true }]);
    });
  });

  it.each([
    ['no key', { ...callOf(), key: undefined }],
    ['a session that is no id', callOf({ session: 'a.b' })],
    ['another type', { ...callOf(), t: 'dance' }],
    ['an epoch that is none', { ...callOf(), epoch: '3' }],
    ['an array for a body', []],
  ])('with %s is dropped', async (_, body) => {
    const { tool, calls } = slowTool();
    const { owner, clock } = await setUp([tool]);
    const answered = owner.request(subjects.tool('users.get'), body, { timeoutMs: 100 });
    const failed = expect(answered).rejects.toMatchObject({ code: 'TIMEOUT' });
    await clock.advance(100);
    await failed;
    expect(calls).toHaveLength(0);
  });
});

describe('an end', () => {
  it('is told again every resendMs until it is acknowledged, however often it is lost', async () => {
    const { ask, net, clock, ends, ack, provider } = await setUp([
      defineTool({ name: 'users:get', handler: () => 1 }),
    ]);
    net.loses = ({ subject }) => subject === subjects.sessionTools('s1');
    await ask();
    await clock.advance(3_000);
    expect(ends()).toEqual([]);
    net.loses = () => false;
    await clock.advance(2_000);
    expect(ends()).toHaveLength(2);
    await ack('s1/x1/0');
    expect(provider.unacknowledged).toBe(0);
    await clock.advance(5_000);
    expect(ends()).toHaveLength(2);
    expect(clock.timers).toBe(HEARTBEAT);
  });

  it('shares one timer with all others', async () => {
    const { ask, clock, told } = await setUp([defineTool({ name: 'users:get', handler: () => 1 })]);
    for (let index = 0; index < 3; index++) await ask({ key: `s1/x1/${index}` });
    expect(clock.timers).toBe(HEARTBEAT + 1);
    await clock.advance(1_000);
    expect(told.map(({ key }) => key)).toEqual([0, 1, 2, 0, 1, 2].map((index) => `s1/x1/${index}`));
  });

  it('is not told again when it was told a moment ago', async () => {
    const { ask, clock, told, owner } = await setUp([defineTool({ name: 'users:get', handler: () => 1 })]);
    for (const key of ['a', 'b']) await ask({ key });
    await clock.advance(900);
    owner.publish(subjects.providerProbe, { t: 'probe', keys: ['a'] });
    await clock.settle();
    told.length = 0;
    await clock.advance(100);
    expect(told.map(({ key }) => key)).toEqual(['b']);
    await clock.advance(1_000);
    expect(told.map(({ key }) => key)).toEqual(['b', 'a', 'b']);
  });

  it('is forgotten after keepMs, and then its call may run again', async () => {
    const { tool, calls } = slowTool();
    const { ask, clock, provider, ends } = await setUp([tool], { keepMs: 10_000 });
    await ask();
    calls[0]?.end(1);
    await clock.advance(9_999);
    expect(provider.unacknowledged).toBe(1);
    await clock.advance(1_001);
    expect(provider.unacknowledged).toBe(0);
    expect(clock.timers).toBe(HEARTBEAT);
    expect(ends()).toHaveLength(10);
    await ask();
    expect(calls).toHaveLength(2);
  });

  it('larger than the bus carries is told as SERIALIZATION_ERROR', async () => {
    const handler = (): string => 'x'.repeat(2_000);
    const { ask, ends } = await setUp(
      [defineTool({ name: 'users:get', handler })],
      {},
      { maxPayloadBytes: 1_000 },
    );
    await ask({ maxPayloadBytes: 1_000_000 });
    expect(ends()).toMatchObject([{ ok: false, code: 'SERIALIZATION_ERROR' }]);
  });
});

describe('a cancel', () => {
  it('aborts the signal, and the end is told', async () => {
    const { tool, calls } = slowTool();
    const { ask, command, ends, provider } = await setUp([tool]);
    await ask();
    await command({ t: 'cancel', key: 's1/x1/0' });
    expect(calls[0]?.ctx.signal.aborted).toBe(true);
    expect(ends()).toMatchObject([{ ok: false, code: 'CANCELLED' }]);
    expect(provider.running).toBe(0);
  });

  it('of a call that is not here, and anything that is no command, are dropped', async () => {
    const { tool, calls } = slowTool();
    const { ask, command, owner, clock, ends } = await setUp([tool]);
    await ask();
    await command({ t: 'cancel', key: 's1/x1/9' });
    for (const body of [
      {},
      [],
      { t: 'ack' },
      { t: 'ack', keys: [1] },
      { t: 'cancel' },
      { t: 'probe', keys: 'a' },
    ])
      owner.publish(subjects.providerCmd('p1'), body);
    await clock.settle();
    calls[0]?.end(1);
    await clock.settle();
    expect(ends()).toEqual([{ ok: true, json: '1' }]);
  });
});

describe('a probe', () => {
  async function withThree() {
    const { tool, calls } = slowTool();
    const all = await setUp([tool]);
    await all.ask({ key: 'running' });
    await all.ask({ key: 'ended' });
    calls[1]?.end(1);
    await all.clock.settle();
    all.told.length = 0;
    return all;
  }
  const keys = ['running', 'ended', 'missing'];
  const answers = [
    { t: 'alive', key: 'running', provider: 'p1' },
    { t: 'ended', key: 'ended', provider: 'p1', end: { ok: true, json: '1' } },
  ];

  it('of this provider is answered with what is missing, and the session is told the rest', async () => {
    const { request, told } = await withThree();
    const reply = await request(subjects.providerCmd('p1'), { t: 'probe', keys });
    expect(reply).toEqual({ ok: true, value: { missing: ['missing'] }, epoch: 0 });
    expect(told).toMatchObject(answers);
  });

  it('of all providers is answered by who has something', async () => {
    const { owner, clock, told } = await withThree();
    owner.publish(subjects.providerProbe, { t: 'probe', keys });
    await clock.settle();
    expect(told).toMatchObject(answers);
  });
});

describe('a reconciliation', () => {
  const reconcile = { t: 'reconcile' } as const;

  it.each([
    ['completed', { status: 'completed', value: { name: 'Ada' } }, { ok: true, json: '{"name":"Ada"}' }],
    ['completed without a result', { status: 'completed', value: undefined }, { ok: true, json: '' }],
    ['not started', { status: 'not_started' }, { ok: 'not_started' }],
    ['unknown', { status: 'unknown' }, { ok: 'unknown' }],
    ['unknown if the status is none of these', { status: 'perhaps' }, { ok: 'unknown' }],
    ['unknown if a result is missing', { status: 'completed' }, { ok: 'unknown' }],
    [
      'unknown if the result is too large',
      { status: 'completed', value: 'x'.repeat(1_001) },
      { ok: 'unknown' },
    ],
    ['unknown if the answer is nothing', undefined, { ok: 'unknown' }],
  ])('is told as %s', async (_, answer, end) => {
    const asked = vi.fn(async () => answer);
    const { tool, handler } = inDoubt(asked as unknown as Reconcile);
    const { ask, told, ends } = await setUp([tool]);
    expect(await ask(reconcile)).toEqual(TAKEN);
    expect(ends()).toEqual([end]);
    expect(told[0]).toMatchObject({ t: 'ended', key: 's1/x1/0', provider: 'p1' });
    expect(handler).not.toHaveBeenCalled();
    const ctx = expect.objectContaining({ idempotencyKey: 's1/x1/0', sessionId: 's1', epoch: 3 });
    expect(asked).toHaveBeenCalledExactlyOnceWith({ key: 's1/x1/0', args: { id: 7 } }, ctx);
  });

  it('is unknown if the tool cannot be asked, throws, or breaks its own schema', async () => {
    const output = z.object({ name: z.string() });
    const broken = (): never => {
      throw new TypeError('down');
    };
    for (const { tool } of [
      inDoubt(undefined),
      inDoubt(broken),
      inDoubt(() => Promise.reject(new TypeError('down'))),
      inDoubt(() => ({ status: 'completed', value: { name: 7 } }), { output }),
    ]) {
      const { ask, ends } = await setUp([tool]);
      expect(await ask(reconcile)).toEqual(TAKEN);
      expect(ends()).toEqual([{ ok: 'unknown' }]);
    }
  });

  it('hands on what the output schema makes of the result', async () => {
    const value = { name: 'Ada', passwordHash: 'x' };
    const output = z.object({ name: z.string() });
    const { ask, ends } = await setUp([inDoubt(() => ({ status: 'completed', value }), { output }).tool]);
    await ask(reconcile);
    expect(ends()).toEqual([{ ok: true, json: '{"name":"Ada"}' }]);
  });

  it('is unknown when the time of the tool is over', async () => {
    const { tool } = inDoubt(() => new Promise(() => {}), { timeoutMs: 100 });
    const { ask, ends, clock } = await setUp([tool]);
    await ask(reconcile);
    await clock.advance(100);
    expect(ends()).toEqual([{ ok: 'unknown' }]);
  });

  it('of a call that runs here is taken, and answered by its end', async () => {
    const asked = vi.fn(() => ({ status: 'not_started' }) as const);
    let end: (value: unknown) => void = () => {};
    const handler = () => new Promise((resolve) => (end = resolve));
    const { ask, ends, clock } = await setUp([defineTool({ name: 'users:get', handler, reconcile: asked })]);
    await ask();
    expect(await ask(reconcile)).toEqual(TAKEN);
    end(1);
    await clock.settle();
    expect(ends()).toEqual([{ ok: true, json: '1' }]);
    expect(asked).not.toHaveBeenCalled();
  });

  it.each([true, false])(
    'that found it not started lets the call run (acknowledged: %s)',
    async (acknowledged) => {
      const { tool, handler } = inDoubt(() => ({ status: 'not_started' }));
      const { ask, ack, ends, clock } = await setUp([tool]);
      await ask(reconcile);
      if (acknowledged) await ack('s1/x1/0');
      expect(await ask()).toEqual(TAKEN);
      expect(handler).toHaveBeenCalledOnce();
      expect(ends()).toEqual([{ ok: 'not_started' }, { ok: true, json: '1' }]);
      await clock.advance(1_000);
      expect(ends().at(-1)).toEqual({ ok: true, json: '1' });
    },
  );

  it('that found it completed does not let the call run', async () => {
    const { tool, handler } = inDoubt(() => ({ status: 'completed', value: 2 }));
    const { ask, ack } = await setUp([tool]);
    await ask(reconcile);
    await ack('s1/x1/0');
    expect(await ask()).toMatchObject(FORGOTTEN);
    expect(handler).not.toHaveBeenCalled();
  });

  it.each(['read', 'idempotent'] as const)('is refused for a tool of effect %s', (effect) => {
    const given = { name: 'a', effect, handler: () => 1, reconcile: () => ({ status: 'unknown' }) as const };
    expect(() => defineTool(given)).toThrow(expect.objectContaining({ key: 'tool.reconcile' }));
    expect(() => defineTool({ ...given, reconcile: undefined })).not.toThrow();
  });

  it('is refused unless it is a function', () => {
    const given = { name: 'a', handler: () => 1, reconcile: 1 as unknown as Reconcile };
    expect(() => defineTool(given)).toThrow(expect.objectContaining({ key: 'tool.reconcile' }));
  });
});

describe('draining', () => {
  async function isOver(draining: Promise<void>, clock: VirtualClock): Promise<boolean> {
    let over = false;
    void draining.then(() => (over = true));
    await clock.settle();
    return over;
  }

  it('takes no call, and ends when every call has ended and every end was acknowledged', async () => {
    const { tool, calls } = slowTool();
    const { ask, ack, provider, clock } = await setUp([tool]);
    await ask();
    const draining = provider.drain(60_000);
    await expect(ask({ key: 's1/x1/1' })).rejects.toMatchObject({ code: 'NO_RESPONDERS' });
    calls[0]?.end(1);
    expect(await isOver(draining, clock)).toBe(false);
    await ack('s1/x1/0');
    expect(await isOver(draining, clock)).toBe(true);
    expect(calls).toHaveLength(1);
  });

  it('refuses a call that was on its way as CLOSED', async () => {
    const { tool, calls } = slowTool();
    const { owner, provider, clock } = await setUp([tool]);
    const asked = owner.request(subjects.tool('users.get'), callOf(), { timeoutMs: 500 });
    const draining = provider.drain(60_000);
    const error = { code: 'CLOSED', retryable: true, outcome: 'not_started' };
    expect(await asked).toMatchObject({ ok: false, error });
    expect(calls).toHaveLength(0);
    expect(await isOver(draining, clock)).toBe(true);
  });

  it('is not over before no call can come any more: one that got no answer would count as lost', async () => {
    const clock = new VirtualClock();
    const real = new MemoryBusServer({ clock }).connect('provider');
    const left = Promise.withResolvers<void>();
    const bus: Bus = {
      ...nearBus(real, { take: () => undefined }),
      subscribe: (subject, handler, how) => {
        const own = real.subscribe(subject, handler, how);
        return { unsubscribe: () => own.unsubscribe(), drain: () => left.promise.then(() => own.drain()) };
      },
    };
    const { provider } = await setUp([slowTool().tool], { bus, clock });
    const draining = provider.drain(60_000);
    expect(await isOver(draining, clock)).toBe(false);
    left.resolve();
    expect(await isOver(draining, clock)).toBe(true);
  });

  it('ends when the grace is over, and calls go on until it is closed', async () => {
    const { tool, calls } = slowTool();
    const { ask, ends, provider, clock } = await setUp([tool]);
    await ask();
    const draining = provider.drain(500);
    await clock.advance(499);
    expect(await isOver(draining, clock)).toBe(false);
    await clock.advance(1);
    expect(await isOver(draining, clock)).toBe(true);
    expect(calls[0]?.ctx.signal.aborted).toBe(false);
    calls[0]?.end(1);
    await clock.settle();
    expect(ends()).toHaveLength(1);
  });
});

describe('closing', () => {
  it('aborts handlers, tells nothing and leaves the bus', async () => {
    const { tool, calls } = slowTool({ timeoutMs: 60_000 });
    const { ask, request, told, provider, clock } = await setUp([tool]);
    await ask({ key: 'ended' });
    calls[0]?.end(1);
    await clock.settle();
    await ask({ key: 'running' });
    told.length = 0;
    provider.close();
    provider.close();
    expect(clock.timers).toBe(0);
    expect(calls[1]?.ctx.signal.aborted).toBe(true);
    calls[1]?.end(2);
    await clock.advance(5_000);
    expect(told).toEqual([]);
    expect([provider.running, provider.unacknowledged, clock.timers]).toEqual([0, 0, 0]);
    await expect(ask()).rejects.toMatchObject({ code: 'NO_RESPONDERS' });
    const probe = request(subjects.providerCmd('p1'), { t: 'probe', keys: [] });
    await expect(probe).rejects.toMatchObject({ code: 'NO_RESPONDERS' });
  });

  it('survives a bus that was closed before', async () => {
    const { tool, calls } = slowTool();
    const { ask, server, provider, clock } = await setUp([tool]);
    await ask();
    await server.close();
    calls[0]?.end(1);
    await clock.advance(3_000);
    expect(provider.unacknowledged).toBe(1);
  });
});
