/** What may be said to the client, and what is refused by the name of its key. */
import { describe, expect, it } from 'vitest';
import { resolveSpawn } from '../../src/client/options.ts';
import { EnclaveError } from '../../src/errors.ts';
import { uuidv7 } from '../../src/ids.ts';
import { LIMIT_RULES, resolveSessionLimits, SESSION_LIMIT_RULES } from '../../src/options.ts';
import { seedWords } from '../../src/seed.ts';
import { LIMITS, rejection, TestClock, World } from './client-world.ts';

const DEFAULTS = {} as const;
const spawn = (options: unknown) => resolveSpawn(options as object, DEFAULTS);
const labels = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, '']));
const cyclic: Record<string, unknown> = {};
cyclic.self = cyclic;

/** The key that a call is refused for, as INVALID_ARGUMENT. */
function refusedKey(act: () => unknown): string | undefined {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(EnclaveError);
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', outcome: 'not_started' });
    return (error as EnclaveError).key;
  }
  return undefined;
}

describe('a new session', () => {
  it('has documented defaults, which an explicit undefined leaves alone', () => {
    const defaults = {
      labels: {},
      tools: undefined,
      ttlMs: undefined,
      limits: {},
      isolation: undefined,
      durability: 'session',
      maxConcurrentExecutions: 1,
      state: '{}',
    };
    expect(spawn({})).toEqual(defaults);
    expect(spawn(Object.fromEntries(Object.keys(defaults).map((key) => [key, undefined])))).toEqual(defaults);
  });

  it.each<[string, unknown]>([
    ['options', null],
    ['options', []],
    ['options', 'text'],
    ['options.colour', { colour: 'red' }],
    ['options.id', { id: '' }],
    ['options.id', { id: 'a.b' }],
    ['options.id', { id: 'x'.repeat(65) }],
    ['options.id', { id: 7 }],
    ['options.labels', { labels: null }],
    ['options.labels', { labels: ['a'] }],
    ['options.labels', { labels: labels(65) }],
    ['options.labels', { labels: { '': 'a' } }],
    ['options.labels', { labels: { ['k'.repeat(257)]: 'a' } }],
    ['options.labels.a', { labels: { a: 'v'.repeat(257) } }],
    ['options.labels.a', { labels: { a: 1 } }],
    ['options.tools', { tools: 'users' }],
    ['options.tools[1]', { tools: ['users', 'no spaces'] }],
    ['options.tools[0]', { tools: [7] }],
    ['options.ttlMs', { ttlMs: 999 }],
    ['options.ttlMs', { ttlMs: 2_592_000_001 }],
    ['options.ttlMs', { ttlMs: 1_000.5 }],
    ['options.ttlMs', { ttlMs: '1000' }],
    ['options.limits', { limits: 7 }],
    ['options.limits.deadlineMs', { limits: { deadlineMs: 0 } }],
    ['options.limits.speed', { limits: { speed: 1 } }],
    ['options.isolation', { isolation: 'none' }],
    ['options.isolation', { isolation: 'realm' }],
    ['options.isolation', { isolation: 'realm', durability: 'session' }],
    ['options.durability', { durability: 'always' }],
    ['options.state', { state: null }],
    ['options.state', { state: [1] }],
    ['options.state', { state: 'text' }],
    ['options.state', { state: cyclic }],
    ['options.state', { state: { toJSON: () => 7 } }],
    ['options.state', { state: { toJSON: () => undefined } }],
    ['options.state', { state: { a: 'é' }, limits: { maxStateBytes: 9 } }],
    ['options.maxConcurrentExecutions', { maxConcurrentExecutions: 0 }],
    ['options.maxConcurrentExecutions', { maxConcurrentExecutions: 65 }],
  ])('is refused for %s', (key, options) => {
    expect(refusedKey(() => spawn(options))).toBe(key);
  });

  it.each([
    { id: 'x'.repeat(64) },
    { labels: labels(64) },
    { labels: { ['k'.repeat(256)]: 'v'.repeat(256) } },
    { ttlMs: 0 },
    { ttlMs: 1_000 },
    { ttlMs: 2_592_000_000 },
    { isolation: 'realm', durability: 'none' },
    { state: { a: 'é' }, limits: { maxStateBytes: 10 } },
    { maxConcurrentExecutions: 64 },
  ])('may have %j', (options) => {
    expect(refusedKey(() => spawn(options))).toBeUndefined();
  });

  it('says why a durable one has no shared realm, also where that is the default', () => {
    expect(() => resolveSpawn({}, { ...DEFAULTS, isolation: 'realm' })).toThrow(/not replayed/);
  });

  it('takes "__proto__" for a label like any other', () => {
    const given = JSON.parse('{"__proto__":"a"}') as Record<string, string>;
    expect(Object.entries(spawn({ labels: given }).labels)).toEqual([['__proto__', 'a']]);
  });

  it('is refused by a rejection, before anything is sent', async () => {
    const world = new World();
    const broker = world.broker('session_create', () => ({ value: {} }));
    const client = await world.client();
    expect(await rejection(client.spawn({ ttlMs: 1 }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'options.ttlMs',
    });
    await world.clock.settle();
    expect(broker.heard).toEqual([]);
  });
});

describe('an execution', () => {
  it.each<[string, unknown, unknown]>([
    ['code', 7, {}],
    ['options', '', null],
    ['options.tenant', '', { tenant: 'a' }],
    ['options.input', '', { input: () => 1 }],
    ['options.input', '', { input: cyclic }],
    ['options.input', '', { input: 'éé', limits: { maxToolPayloadBytes: 5 } }],
    ['options.commandId', '', { commandId: 'a/b' }],
    ['options.limits.cpuMs', '', { limits: { cpuMs: 0 } }],
    ['options.signal', '', { signal: { aborted: false } }],
    ['options.seed', '', { seed: Number.NaN }],
    ['options.seed', '', { seed: {} }],
  ])('throws at once for %s', async (key, code, options) => {
    const client = await new World().client();
    expect(refusedKey(() => client.session('s').execute(code as string, options as object))).toBe(key);
  });
});

describe('everything else', () => {
  it.each<[string, (client: Awaited<ReturnType<World['client']>>) => unknown]>([
    ['id', (client) => client.session('a.b')],
    ['options.fromSeq', (client) => client.session('s').events({ fromSeq: 0 })],
    ['options.fromSeq', (client) => client.session('s').events({ fromSeq: 1.5 })],
    ['options.fromSeq', (client) => client.session('s').events({ fromSeq: 'last' as 'first' })],
    ['options.signal', (client) => client.session('s').events({ signal: {} as AbortSignal })],
    ['options.types', (client) => client.session('s').events({ types: ['final'] } as object)],
    ['options.fromSeq', (client) => client.allEvents({ fromSeq: 1 })],
    ['options.fromSeq', (client) => client.allEvents({ fromSeq: 'first' })],
    ['options.sessionId', (client) => client.allEvents({ sessionId: '*' })],
    ['options.types', (client) => client.allEvents({ types: [] })],
    ['options.types', (client) => client.allEvents({ types: 'final' as unknown as [] })],
    ['options.types[0]', (client) => client.allEvents({ types: ['>'] })],
    ['options.from', (client) => client.allEvents({ from: 1 } as object)],
  ])('throws at once for %s', async (key, act) => {
    const client = await new World().client();
    expect(refusedKey(() => act(client))).toBe(key);
  });

  it.each<[string, (client: Awaited<ReturnType<World['client']>>) => Promise<unknown>]>([
    ['options.to', (client) => client.session('s').migrate({ to: '' })],
    ['options.where', (client) => client.session('s').migrate({ where: 'b' } as object)],
    ['executionId', (client) => client.session('s').result('a b')],
    ['sessionId', (client) => client.journal('', 'e')],
    ['executionId', (client) => client.journal('s', '')],
  ])('rejects for %s', async (key, act) => {
    const client = await new World().client();
    expect(await rejection(act(client))).toMatchObject({ code: 'INVALID_ARGUMENT', key });
  });

  it('a client must have an id that can be part of a subject', async () => {
    expect(await rejection(new World().client({ id: 'a.b' }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'options.id',
    });
  });
});

describe('the limits of a session', () => {
  const own = Object.entries(SESSION_LIMIT_RULES).filter(([key]) => !Object.hasOwn(LIMIT_RULES, key));

  it('are those of a run and two more', () => {
    expect(own.map(([key]) => key)).toEqual(['deadlineMs', 'maxStateBytes']);
    expect(LIMITS).toMatchObject({ timeoutMs: 30_000, deadlineMs: 86_400_000, maxStateBytes: 262_144 });
  });

  it.each(own)('%s may be its least and its most, and nothing else', (key, rule) => {
    for (const value of [rule.min, rule.max])
      expect(resolveSessionLimits({ [key]: value })).toMatchObject({ [key]: value });
    for (const value of [rule.min - 1, rule.max + 1, 2.5, '5'])
      expect(refusedKey(() => resolveSessionLimits({ [key]: value as number }))).toBe(`limits.${key}`);
  });

  it('are taken from the base where nothing is said', () => {
    const base = resolveSessionLimits({ deadlineMs: 5 });
    expect(resolveSessionLimits({ deadlineMs: undefined, cpuMs: 9 }, base)).toEqual({ ...base, cpuMs: 9 });
    expect(resolveSessionLimits(undefined, base)).toBe(base);
  });
});

describe('chance', () => {
  it('comes from the clock: ids are new, and sort by time', async () => {
    const clock = new TestClock();
    const ids = [uuidv7(clock), uuidv7(clock)];
    await clock.advance(5);
    ids.push(uuidv7(clock));
    expect(new Set(ids).size).toBe(3);
    const times = ids.map((id) => Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16));
    expect(times).toEqual([clock.now() - 5, clock.now() - 5, clock.now()]);
    expect((ids[2] ?? '') > (ids[0] ?? '')).toBe(true);
    expect(uuidv7(new TestClock())).toBe(ids[0]);
  });

  it('of a script is the same for the same seed, and new without one', () => {
    const clock = new TestClock();
    expect(seedWords('a', clock)).toEqual(seedWords('a', clock));
    expect(seedWords(7, clock)).toEqual(seedWords('7', clock));
    expect(seedWords('a', clock)).not.toEqual(seedWords('b', clock));
    expect(seedWords(undefined, clock)).not.toEqual(seedWords(undefined, clock));
  });
});
