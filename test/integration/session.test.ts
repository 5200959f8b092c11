/** Sessions: how they are made, in which order they run what, and how what they run ends. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  defineTool,
  type ExecuteOptions,
  type ExecutionEvent,
  type SessionRef,
  type SpawnOptions,
  type System,
} from '../../src/index.ts';
import { closeAll, codeOf, failureOf, Gate, logOf, open, refusalOf, until } from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

let system: System;
let gate = new Gate();
const heard: unknown[] = [];

const tools = [
  defineTool({
    name: 'wait',
    handler: async (args, { signal }) => {
      heard.push(args);
      const cut = Promise.withResolvers<void>();
      signal.addEventListener('abort', () => cut.resolve());
      await Promise.race([gate.pass(), cut.promise]);
      return signal.aborted ? 'cut off' : 'waited';
    },
  }),
  defineTool({
    name: 'hear',
    effect: 'idempotent',
    handler: (args) => {
      heard.push(args);
      return args;
    },
  }),
];

beforeAll(async () => {
  system = await open({ brokers: 1, tools, keepExecutions: 3, maxExecutions: 6, parkAfterMs: 100 });
});
afterAll(closeAll);
afterEach(() => {
  gate.open();
  gate = new Gate();
  heard.length = 0;
});

const spawn = (options?: SpawnOptions): Promise<SessionRef> => system.spawnSession(options);
const WAIT = 'return await callTool("wait", input)';

/** A session whose script waits at the gate. */
async function waiting(options?: SpawnOptions, execute?: ExecuteOptions) {
  const session = await spawn(options);
  const run = session.execute(WAIT, execute);
  await until(() => gate.waiting === 1, 'the script waits');
  return { session, run };
}

describe('making a session', () => {
  it.each<[string, object]>([
    ['options.id', { id: 'no spaces' }],
    ['options.id', { id: '' }],
    ['options.labels', { labels: 'x' }],
    ['options.labels.size', { labels: { size: 1 } }],
    ['options.tools', { tools: 'wait' }],
    ['options.tools[1]', { tools: ['wait', 'no way!'] }],
    ['options.ttlMs', { ttlMs: 999 }],
    ['options.ttlMs', { ttlMs: 1_000.5 }],
    ['options.limits', { limits: 5 }],
    ['options.limits.cpuMs', { limits: { cpuMs: 0 } }],
    ['options.limits.deadlineMs', { limits: { deadlineMs: -1 } }],
    ['options.limits.cpu', { limits: { cpu: 1 } }],
    ['options.isolation', { isolation: 'none' }],
    ['options.isolation', { isolation: 'realm' }],
    ['options.state', { state: [1] }],
    ['options.state', { state: { big: 1n } }],
    ['options.state', { state: { long: 'x'.repeat(100) }, limits: { maxStateBytes: 100 } }],
    ['options.durability', { durability: 'forever' }],
    ['options.maxConcurrentExecutions', { maxConcurrentExecutions: 0 }],
    ['options.maxConcurrentExecutions', { maxConcurrentExecutions: 65 }],
    ['options.ttl', { ttl: 1_000 }],
  ])('is refused naming %s: %o', async (key, options) => {
    const { code, message, ...error } = await refusalOf(() => spawn(options));
    expect([code, error.key]).toEqual(['INVALID_ARGUMENT', key]);
    expect(message).toContain(key);
  });

  it.each(['session', 'none'] as const)(
    'is refused where the id is taken (durability %s)',
    async (durability) => {
      const { id } = await spawn({ id: `taken-${durability}`, durability });
      expect(await codeOf(() => spawn({ id }))).toBe('ALREADY_EXISTS');
      expect(await codeOf(() => spawn({ id, durability: 'none' }))).toBe('ALREADY_EXISTS');
    },
  );

  it('gives it what it was given, and an id of its own', async () => {
    const [one, other] = await Promise.all([spawn({ labels: { region: 'us' }, state: { a: 1 } }), spawn()]);
    expect(one.id).not.toBe(other.id);
    expect(await one.info()).toEqual({
      id: one.id,
      status: 'idle',
      epoch: expect.any(Number),
      owner: 'broker-1',
      runtime: undefined,
      seq: 0,
      version: expect.any(Number),
      state: { a: 1 },
      labels: { region: 'us' },
      tenant: 'default',
      durability: 'session',
      executions: [],
    });
  });

  it('is not done by naming it: every command of a session that does not exist says so', async () => {
    const nobody = system.session('nobody');
    const result = await nobody.execute('return 1').result;
    expect(errorIn(result)).toMatchObject({ code: 'NOT_FOUND', outcome: 'not_started' });
    const codes = await Promise.all(
      [
        () => nobody.info(),
        () => nobody.result('x'),
        () => nobody.close(),
        () => nobody.delete(),
        () => nobody.hibernate(),
        () => nobody.migrate(),
        () => nobody.execute('return 1').accepted,
      ].map(codeOf),
    );
    expect(codes).toEqual(codes.map(() => 'NOT_FOUND'));
    expect(await codeOf(() => system.session('no good'))).toBe('INVALID_ARGUMENT');
  });
});

describe('what execute is given', () => {
  it.each<[string, unknown, object | undefined]>([
    ['code', 5, undefined],
    ['options.commandId', 'return 1', { commandId: 'a b' }],
    ['options.input', 'return 1', { input: 1n }],
    ['options.input', 'return 1', { input: () => 1 }],
    ['options.input', 'return 1', { input: 'xxxx', limits: { maxToolPayloadBytes: 5 } }],
    ['options.limits.timeoutMs', 'return 1', { limits: { timeoutMs: 'long' } }],
    ['options.issuedAt', 'return 1', { commandId: 'x', issuedAt: 'yesterday' }],
    ['options.signal', 'return 1', { signal: {} }],
    ['options.tenant', 'return 1', { tenant: 'x' }],
  ])('is refused at once naming %s (%j, %o)', async (key, code, options) => {
    const session = await spawn();
    const error = await refusalOf(() => session.execute(code as string, options));
    expect([error.code, error.key]).toEqual(['INVALID_ARGUMENT', key]);
    expect((await session.info()).executions).toEqual([]);
  });

  it('reaches the script: input, seed and limits', async () => {
    const session = await spawn({ limits: { maxToolCalls: 1 } });
    const script = 'await callTool("hear", 1); await callTool("hear", 2); return [input.x, Math.random()]';
    expect(failureOf(await session.execute(script).result)).toBe('TOOL_CALL_LIMIT_EXCEEDED');
    const limits = { maxToolCalls: 2 };
    const runs = [1, 1, 2].map(
      (seed) => session.execute(script, { input: { x: 'given' }, seed, limits }).result,
    );
    const [one, same, other] = (await Promise.all(runs)).map((result) => valueIn(result) as unknown[]);
    expect(one?.[0]).toBe('given');
    expect(same).toEqual(one);
    expect(other).not.toEqual(one);
  });
});

describe('executions of one session', () => {
  it('run one at a time, in the order in which they were sent', async () => {
    const session = await spawn();
    const script =
      'await callTool("hear", "begin " + input); await sleep(1); await callTool("hear", "end " + input)';
    const runs = [1, 2, 3, 4, 5].map((input) => session.execute(script, { input }));
    for (const run of runs) valueIn(await run.result);
    expect(heard).toEqual([1, 2, 3, 4, 5].flatMap((n) => [`begin ${n}`, `end ${n}`]));
  });

  it('run together up to maxConcurrentExecutions', async () => {
    const session = await spawn({ maxConcurrentExecutions: 3 });
    const runs = [1, 2, 3, 4, 5].map((input) => session.execute(WAIT, { input }));
    await until(() => gate.waiting === 3, 'three run');
    await Promise.all(runs.map(({ accepted }) => accepted));
    const { executions, status } = await session.info();
    expect(executions.map((each) => each.status)).toEqual([
      'running',
      'running',
      'running',
      'queued',
      'queued',
    ]);
    expect(status).toBe('executing');
    expect(heard.toSorted()).toEqual([1, 2, 3]);
    gate.open();
    for (const run of runs) expect(valueIn(await run.result)).toBe('waited');
    expect(heard.toSorted()).toEqual([1, 2, 3, 4, 5]);
  });

  it('are refused beyond maxExecutions, and taken again when one has ended', async () => {
    const session = await spawn();
    const runs = Array.from({ length: 6 }, () => session.execute(WAIT));
    await Promise.all(runs.map(({ accepted }) => accepted));
    const refused = errorIn(await session.execute(WAIT).result);
    expect(refused).toMatchObject({ code: 'OVERLOADED', outcome: 'not_started', retryable: true });
    expect(refused.retryAfterMs).toBeGreaterThan(0);
    gate.open();
    for (const run of runs) valueIn(await run.result);
    expect(valueIn(await session.execute('return 1').result)).toBe(1);
  });
});

describe('a command id', () => {
  it('names one execution, however often it is sent', async () => {
    const session = await spawn();
    const send = (ref = session) => ref.execute(WAIT, { commandId: 'once', input: 'x', seed: 1 });
    const twice = [send(), send(system.session(session.id))];
    await until(() => gate.waiting === 1, 'it runs');
    gate.open();
    const results = await Promise.all(twice.map(({ result }) => result));
    expect(results[1]).toEqual(results[0]);
    expect(await send().result).toEqual(results[0]);
    expect(heard).toEqual(['x']);
    const log = await logOf(session);
    expect(log.filter(({ type }) => type === 'session_init')).toHaveLength(1);
  });

  it('is refused for another source or input, whether its execution runs or has ended', async () => {
    const { session, run } = await waiting(undefined, { commandId: 'mine', input: 1 });
    const others = () => [
      session.execute(WAIT, { commandId: 'mine', input: 2 }).result,
      session.execute('return 5', { commandId: 'mine', input: 1 }).result,
    ];
    expect((await Promise.all(others())).map(failureOf)).toEqual(['COMMAND_CONFLICT', 'COMMAND_CONFLICT']);
    gate.open();
    expect(valueIn(await run.result)).toBe('waited');
    expect((await Promise.all(others())).map(failureOf)).toEqual(['COMMAND_CONFLICT', 'COMMAND_CONFLICT']);
    expect(heard).toEqual([1]);
  });

  it('that was first sent before what is remembered is never run', async () => {
    const session = await spawn();
    for (let n = 0; n < 4; n++) valueIn(await session.execute('return 1', { commandId: `c${n}` }).result);
    expect((await session.info()).executions.map(({ id }) => id)).toEqual(['c1', 'c2', 'c3']);
    // A command from a client that has been trying for an hour.
    const late = session.execute('return await callTool("hear", "late")', {
      commandId: 'c0',
      issuedAt: Date.now() - 3_600_000,
    });
    expect(errorIn(await late.result)).toMatchObject({ code: 'COMMAND_EXPIRED', outcome: 'unknown' });
    expect(heard).toEqual([]);
  });
});

describe('cancelling', () => {
  it('before it was sent sends nothing', async () => {
    const session = await spawn();
    const run = session.execute(WAIT);
    expect(await run.cancel()).toBe(true);
    expect(errorIn(await run.result)).toMatchObject({ code: 'CANCELLED', outcome: 'not_started' });
    expect((await session.info()).executions).toEqual([]);
  });

  it('ends an execution that runs, and aborts its call', async () => {
    const { session, run } = await waiting();
    expect(await run.cancel('not needed')).toBe(true);
    const result = await run.result;
    expect(errorIn(result)).toMatchObject({ code: 'CANCELLED', message: 'not needed', outcome: 'unknown' });
    expect(result.toolCalls).toMatchObject([{ name: 'wait', outcome: 'unknown' }]);
    expect(valueIn(await session.execute('return "next"').result)).toBe('next');
    await until(() => system.parts.brokers[0]?.provider.running === 0, 'its handler has ended');
  });

  it('ends one that waits behind another, which never starts', async () => {
    const { session, run } = await waiting();
    const queued = session.execute(WAIT, { input: 'queued' });
    await queued.accepted;
    expect(await queued.cancel()).toBe(true);
    expect(errorIn(await queued.result)).toMatchObject({ code: 'CANCELLED', outcome: 'not_started' });
    gate.open();
    valueIn(await run.result);
    expect(heard).toEqual([undefined]);
  });

  it('ends a script that never pauses, and its worker serves on', async () => {
    const session = await spawn();
    const run = session.execute('console.log("spinning"); for (;;) {}', { limits: { cpuMs: 60_000 } });
    for await (const { type } of run) if (type === 'stdout') await run.cancel();
    expect(failureOf(await run.result)).toBe('CANCELLED');
    expect(valueIn(await session.execute('return 1').result)).toBe(1);
  });

  it('comes too late once it has ended, and says so', async () => {
    const session = await spawn();
    const run = session.execute('return 1');
    valueIn(await run.result);
    expect(await run.cancel()).toBe(false);
    expect(valueIn(await session.result(run.id))).toBe(1);
  });

  it('is what an aborted signal does, before and during', async () => {
    const session = await spawn();
    const before = session.execute('return 1', { signal: AbortSignal.abort() });
    expect(errorIn(await before.result)).toMatchObject({ code: 'CANCELLED', outcome: 'not_started' });
    const controller = new AbortController();
    const during = session.execute(WAIT, { signal: controller.signal });
    await until(() => gate.waiting === 1, 'the script waits');
    controller.abort();
    expect(failureOf(await during.result)).toBe('CANCELLED');
  });
});

describe('time limits', () => {
  it('deadlineMs bounds an execution from its acceptance on, queued or running', async () => {
    const { session, run } = await waiting(undefined, { limits: { deadlineMs: 1_000 } });
    const queued = session.execute(WAIT, { input: 'never', limits: { deadlineMs: 150 } });
    expect(errorIn(await queued.result)).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcome: 'not_started' });
    expect(errorIn(await run.result)).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcome: 'unknown' });
    const types = (await logOf(session)).filter(({ executionId }) => executionId === run.id);
    expect(types.map(({ type }) => type)).toEqual([
      'session_init',
      'tool_call',
      'deadline_exceeded',
      'final',
    ]);
    expect(heard).toEqual([undefined]);
  });

  it('timeoutMs bounds an attempt, waiting for tools included', async () => {
    const session = await spawn();
    const run = session.execute(WAIT, { limits: { timeoutMs: 500 } });
    const events: ExecutionEvent[] = [];
    for await (const event of run) events.push(event);
    expect(errorIn(await run.result)).toMatchObject({ code: 'EXECUTION_TIMEOUT', outcome: 'unknown' });
    expect(events.map(({ type }) => type)).toContain('deadline_exceeded');
  });

  it('a session expires after ttlMs without activity, never during an execution, and its results stay', async () => {
    const session = await spawn({ ttlMs: 1_000 });
    const run = session.execute('await sleep(1_300); return "longer than that"');
    expect(valueIn(await run.result)).toBe('longer than that');
    expect((await session.info()).status).toBe('idle');
    await until(async () => (await session.info()).status === 'expired', 'it has expired');
    expect(failureOf(await session.execute('return 1').result)).toBe('EXPIRED');
    expect(valueIn(await session.result(run.id))).toBe('longer than that');
  });
});

describe('a sleep longer than parkAfterMs', () => {
  const SLEEP =
    'console.log("once"); const start = Date.now(); await sleep(400); return Date.now() - start >= 400';

  it('ends the attempt, and the script goes on in another one', async () => {
    const session = await spawn();
    const run = session.execute(SLEEP);
    const result = await run.result;
    expect(valueIn(result)).toBe(true);
    expect(result.stats.attempts).toBe(2);
    expect((await logOf(session)).map(({ type }) => type)).toEqual(['session_init', 'stdout', 'final']);
  });

  it('goes on while the session hibernates', async () => {
    const session = await spawn();
    const run = session.execute(SLEEP);
    await until(async () => (await session.info()).executions[0]?.status === 'parked', 'it is parked');
    await session.hibernate();
    expect(await session.info()).toMatchObject({ status: 'hibernated', owner: undefined });
    expect(valueIn(await run.result)).toBe(true);
    expect((await session.info()).status).toBe('idle');
  });

  it('lets the isolate go, and can be cancelled', async () => {
    const session = await spawn();
    const run = session.execute('await sleep(3_600_000)');
    await until(async () => (await session.info()).executions[0]?.status === 'parked', 'it is parked');
    await until(() => system.stats()['runtime-1']?.active === 0, 'nothing runs in the pool');
    await until(() => system.parts.runtimes[0]?.host.attempts === 0, 'the runtime has nothing of it');
    expect(await run.cancel()).toBe(true);
    expect(errorIn(await run.result)).toMatchObject({ code: 'CANCELLED', outcome: 'completed' });
  });
});

describe('how a script ends', () => {
  it.each<[string, string, object, ExecuteOptions['limits']]>([
    ['no syntax', 'return (', { code: 'SYNTAX_ERROR', outcome: 'not_started' }, undefined],
    [
      'a thrown error',
      '\nthrow new TypeError("no")',
      {
        code: 'SCRIPT_ERROR',
        name: 'TypeError',
        message: 'no',
        stack: expect.stringContaining('script.js:2:'),
      },
      undefined,
    ],
    [
      'an unknown tool',
      'await callTool("nothing")',
      { code: 'UNKNOWN_TOOL', outcome: 'completed' },
      undefined,
    ],
    ['too much CPU time', 'for (;;) {}', { code: 'CPU_LIMIT_EXCEEDED' }, { cpuMs: 100 }],
    [
      'too much memory',
      'const all = []; for (;;) all.push(new Array(10_000).fill({}))',
      { code: 'MEMORY_LIMIT_EXCEEDED' },
      { memoryBytes: 16 * 1024 * 1024 },
    ],
    [
      'too large a result',
      'return "x".repeat(100)',
      { code: 'RESULT_LIMIT_EXCEEDED' },
      { maxResultBytes: 50 },
    ],
    [
      'too much output',
      'console.log("x".repeat(100))',
      { code: 'OUTPUT_LIMIT_EXCEEDED' },
      { maxOutputBytes: 50 },
    ],
    ['a result that is no JSON', 'return 1n', { code: 'SERIALIZATION_ERROR' }, undefined],
    ['too long a source', 'return 1234567890', { code: 'SOURCE_LIMIT_EXCEEDED' }, { maxSourceBytes: 10 }],
  ])('is told by its code: %s', async (_what, code, error, limits) => {
    const session = await spawn();
    const run = session.execute(code, { limits });
    expect(errorIn(await run.result)).toMatchObject({ retryable: false, ...error });
    expect(valueIn(await session.execute('return "well"').result)).toBe('well');
  });

  it('is remembered: whoever asks later, by whatever reference, gets the same result', async () => {
    const { session, run } = await waiting();
    const asking = system.session(session.id).result(run.id);
    gate.open();
    const result = await run.result;
    expect(await asking).toEqual(result);
    expect(await session.result(run.id)).toEqual(result);
    expect(await codeOf(() => session.result('another'))).toBe('NOT_FOUND');
    for (let n = 0; n < 3; n++) valueIn(await session.execute('return 1').result);
    expect(await codeOf(() => session.result(run.id))).toBe('NOT_FOUND');
  });

  it('is an empty value for a script that returns nothing, and TypeScript is taken', async () => {
    const session = await spawn();
    expect(valueIn(await session.execute('').result)).toBeUndefined();
    expect(valueIn(await session.execute('const n: number = 1; return n as unknown').result)).toBe(1);
  });
});

describe('two sessions', () => {
  it('share nothing, and neither do two executions of one but its state', async () => {
    const [one, other] = await Promise.all([spawn(), spawn()]);
    valueIn(
      await one.execute('globalThis.left = 1; Array.prototype.left = 1; state.left = 1; return 1').result,
    );
    const look = 'return [typeof left, typeof [].left, typeof state.left]';
    expect(valueIn(await other.execute(look).result)).toEqual(['undefined', 'undefined', 'undefined']);
    expect(valueIn(await one.execute(look).result)).toEqual(['undefined', 'undefined', 'number']);
  });

  it('run at the same time', async () => {
    const sessions = await Promise.all([spawn(), spawn(), spawn()]);
    const runs = sessions.map((session) => session.execute(WAIT));
    await until(() => gate.waiting === 3, 'all of them run');
    gate.open();
    for (const run of runs) expect(valueIn(await run.result)).toBe('waited');
  });
});

describe('the end of a session', () => {
  it('by close ends what it runs, refuses what comes, and keeps its results', async () => {
    const { session, run } = await waiting();
    const queued = session.execute(WAIT);
    await queued.accepted;
    await session.close();
    expect(errorIn(await run.result)).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
    expect(errorIn(await queued.result)).toMatchObject({ code: 'CLOSED', outcome: 'not_started' });
    expect(errorIn(await session.execute('return 1').result)).toMatchObject({
      code: 'CLOSED',
      outcome: 'not_started',
    });
    expect((await session.info()).status).toBe('closed');
    expect(failureOf(await session.result(run.id))).toBe('CLOSED');
    await session.close();
    expect(await codeOf(() => spawn({ id: session.id }))).toBe('ALREADY_EXISTS');
  });

  it('by delete leaves nothing, and its id can be taken anew', async () => {
    const { session, run } = await waiting({ state: { old: true } });
    await session.delete();
    expect(failureOf(await run.result)).toBe('CLOSED');
    expect(await codeOf(() => session.info())).toBe('NOT_FOUND');
    expect(failureOf(await session.execute('return 1').result)).toBe('NOT_FOUND');
    const anew = await spawn({ id: session.id });
    expect(await anew.info()).toMatchObject({ seq: 0, state: {}, executions: [] });
    expect(valueIn(await anew.execute('return state').result)).toEqual({});
    expect((await logOf(anew)).map(({ seq }) => seq)).toEqual([1, 2]);
  });
});

describe("a session of durability 'none'", () => {
  it('runs, keeps state and events, and answers for its results', async () => {
    const session = await spawn({ durability: 'none', isolation: 'realm' });
    const run = session.execute('console.log("hi"); state.n = 1; return 1');
    expect(valueIn(await run.result)).toBe(1);
    expect(valueIn(await session.execute('return state').result)).toEqual({ n: 1 });
    expect(valueIn(await session.result(run.id))).toBe(1);
    expect(await session.info()).toMatchObject({ durability: 'none', state: { n: 1 }, seq: 5 });
    expect(await logOf(session)).toHaveLength(5);
  });

  it('cannot leave its broker, and is lost with it', async () => {
    const own = await open({ brokers: 2, leaseTtlMs: 500 });
    const session = await own.spawnSession({ durability: 'none' });
    expect(await codeOf(() => session.migrate())).toBe('INVALID_ARGUMENT');
    expect(await codeOf(() => session.hibernate())).toBe('INVALID_ARGUMENT');
    own.parts.brokers.find(({ broker }) => broker.actor(session.id) !== undefined)?.broker.abandon();
    expect(await codeOf(() => session.info())).toBe('NOT_FOUND');
    expect(failureOf(await session.execute('return 1').result)).toBe('NOT_FOUND');
  });
});

describe('a value that is nested very deeply', () => {
  // So long that the script has a thread of its own, with a stack that is larger than ours.
  const DEEP =
    'let n = 0; for (let i = 0; i < 3e7; i++) n += i; let v = 1; for (let i = 0; i < 9e3; i++) v = { 0: v };';

  it.each([false, true])('harms nobody: events redacted %s', async (redactEvents) => {
    const session = await spawn({ redactEvents });
    const returned = await session.execute(`${DEEP} return v`).result;
    expect(failureOf(returned)).toBe('SERIALIZATION_ERROR');
    const passed = await session.execute(
      `${DEEP} try { await callTool('hear', v) } catch (error) { return error.code ?? error.name + error.message }`,
    ).result;
    expect(passed).toMatchObject({ success: true, toolCalls: [{ code: 'SERIALIZATION_ERROR' }] });
    const run = await system.run(`${DEEP} return v`);
    expect(failureOf(run)).toBe('SERIALIZATION_ERROR');
    expect(heard).toEqual([]);
    expect(await session.execute('return 1').result).toMatchObject({ value: 1 });
  });
});
