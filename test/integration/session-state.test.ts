/** `state`: what a session keeps between its executions, and what never gets into it. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  defineTool,
  type SessionLimitOptions,
  type SessionRef,
  type SpawnOptions,
  type System,
} from '../../src/index.ts';
import { isAlive } from '../support/processes.ts';
import {
  closeAll,
  failureOf,
  Gate,
  hostOf,
  killWorkers,
  open,
  runtimeOf,
  until,
} from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

let system: System;
let gate = new Gate();

beforeAll(async () => {
  const wait = defineTool({ name: 'wait', effect: 'read', handler: () => gate.pass() });
  system = await open({ brokers: 2, runtimes: 2, tools: [wait] });
});
afterAll(closeAll);
afterEach(() => {
  gate.open();
  gate = new Gate();
});

const spawn = (options?: SpawnOptions): Promise<SessionRef> => system.spawnSession(options);
const stateOf = async (session: SessionRef): Promise<unknown> => (await session.info()).state;
async function run(session: SessionRef, code: string, limits?: SessionLimitOptions): Promise<unknown> {
  return valueIn(await session.execute(code, { limits }).result);
}

describe('the state of a session', () => {
  it('is an empty object at first, or what the session was made with', async () => {
    const [plain, given] = await Promise.all([spawn(), spawn({ state: { a: [1, { b: null }] } })]);
    expect(await run(plain, 'return [state, Object.keys(state)]')).toEqual([{}, []]);
    expect(await run(given, 'return state')).toEqual({ a: [1, { b: null }] });
  });

  it('is kept from one execution to the next: changed, deleted and deep within', async () => {
    const session = await spawn();
    await run(session, 'state.list = [{ n: 1 }]; state.gone = true; state["__proto__x"] = "data"');
    await run(session, 'state.list[0].n++; state.list.push({ n: 5 }); delete state.gone');
    expect(await stateOf(session)).toEqual({ list: [{ n: 2 }, { n: 5 }], __proto__x: 'data' });
    expect(await run(session, 'return state.list.map(({ n }) => n)')).toEqual([2, 5]);
  });

  it('can be replaced as a whole', async () => {
    const session = await spawn({ state: { old: 1 } });
    await run(session, 'state = { fresh: [1, 2] }');
    expect(await stateOf(session)).toEqual({ fresh: [1, 2] });
  });

  it('keeps a key called __proto__ as data', async () => {
    const session = await spawn();
    await run(
      session,
      `Object.assign(state, { n: 1 }); Object.defineProperty(state, '__proto__', { value: { p: 1 }, enumerable: true })`,
    );
    expect(await run(session, 'return [Object.keys(state), state.p, state.n]')).toEqual([
      ['n', '__proto__'],
      null,
      1,
    ]);
  });

  it('does not change with an execution that only reads it', async () => {
    const session = await spawn({ state: { n: 1 }, maxConcurrentExecutions: 2 });
    const reader = session.execute('await callTool("wait"); return state.n');
    await until(() => gate.waiting === 1, 'the reader waits');
    await run(session, 'state.n = 2');
    gate.open();
    // It goes on with what it began with, and nothing of it conflicts.
    expect(valueIn(await reader.result)).toBe(1);
    expect(await stateOf(session)).toEqual({ n: 2 });
  });

  it('is passed on through executions that were sent together', async () => {
    const session = await spawn();
    const runs = Array.from({ length: 20 }, () =>
      session.execute('state.n = (state.n ?? 0) + 1; return state.n'),
    );
    const values = await Promise.all(runs.map(async ({ result }) => valueIn(await result)));
    expect(values).toEqual(Array.from({ length: 20 }, (_, index) => index + 1));
    expect(await stateOf(session)).toEqual({ n: 20 });
  });

  it('is shown to the script during its execution as the script left it', async () => {
    const session = await spawn();
    const running = session.execute('state.n = 1; await callTool("wait"); return ++state.n');
    await until(() => gate.waiting === 1, 'it waits');
    expect(await stateOf(session)).toEqual({}); // Nothing is kept before the end.
    gate.open();
    expect(valueIn(await running.result)).toBe(2);
    expect(await stateOf(session)).toEqual({ n: 2 });
  });
});

describe('the state stays as it was', () => {
  const MANY = 'state.n = 2; state.more = "x".repeat(200);';

  it.each<[string, string, string, SessionLimitOptions | undefined]>([
    ['throws', 'SCRIPT_ERROR', `${MANY} throw new Error("no")`, undefined],
    ['passes its CPU limit', 'CPU_LIMIT_EXCEEDED', `${MANY} for (;;) {}`, { cpuMs: 50 }],
    [
      'passes its output limit',
      'OUTPUT_LIMIT_EXCEEDED',
      `${MANY} console.log(state.more)`,
      { maxOutputBytes: 9 },
    ],
    ['passes its deadline', 'DEADLINE_EXCEEDED', `${MANY} await callTool("wait")`, { deadlineMs: 100 }],
    ['returns too much', 'RESULT_LIMIT_EXCEEDED', `${MANY} return state.more`, { maxResultBytes: 9 }],
    ['returns no JSON', 'SERIALIZATION_ERROR', `${MANY} return 1n`, undefined],
    ['leaves too large a state', 'STATE_LIMIT_EXCEEDED', MANY, { maxStateBytes: 100 }],
    [
      'leaves too large a state in UTF-8',
      'STATE_LIMIT_EXCEEDED',
      'state.n = "é".repeat(60)',
      { maxStateBytes: 100 },
    ],
  ])('after an execution that %s (%s)', async (_what, code, script, limits) => {
    const session = await spawn({ state: { n: 1 } });
    expect(failureOf(await session.execute(script, { limits }).result)).toBe(code);
    expect(await stateOf(session)).toEqual({ n: 1 });
    expect(await run(session, 'return state')).toEqual({ n: 1 });
  });

  it.each([
    'state = 5',
    'state = null',
    'state = [1]',
    'state.x = 1n',
    'state.self = state',
    'state = () => 1',
  ])('after an execution that leaves what is no JSON object: %s', async (script) => {
    const session = await spawn({ state: { n: 1 } });
    const error = errorIn(await session.execute(script).result);
    expect([error.code, error.message]).toEqual(['SERIALIZATION_ERROR', expect.stringContaining('state')]);
    expect(await stateOf(session)).toEqual({ n: 1 });
  });

  it('after a cancelled one', async () => {
    const session = await spawn({ state: { n: 1 } });
    const running = session.execute('state.n = 2; await callTool("wait"); state.n = 3');
    await until(() => gate.waiting === 1, 'it waits');
    expect(await running.cancel()).toBe(true);
    expect(failureOf(await running.result)).toBe('CANCELLED');
    expect(await stateOf(session)).toEqual({ n: 1 });
  });

  it('after one that another overtook: STATE_CONFLICT, which may be tried again', async () => {
    const session = await spawn({ state: { n: 1 }, maxConcurrentExecutions: 2 });
    const slow = session.execute('await callTool("wait"); state.slow = state.n; return 1');
    await until(() => gate.waiting === 1, 'the slow one waits');
    await run(session, 'state.n = 2');
    gate.open();
    expect(errorIn(await slow.result)).toMatchObject({
      code: 'STATE_CONFLICT',
      outcome: 'completed',
      retryable: true,
    });
    expect(await stateOf(session)).toEqual({ n: 2 });
  });

  it('when it is as large as it may be', async () => {
    const session = await spawn();
    const limits = { maxStateBytes: 100 };
    const fits = JSON.stringify({ x: 'x'.repeat(92) });
    expect(fits.length).toBe(100);
    await run(session, 'state.x = "x".repeat(92)', limits);
    expect(failureOf(await session.execute('state.x += "x"', { limits }).result)).toBe(
      'STATE_LIMIT_EXCEEDED',
    );
    expect(JSON.stringify(await stateOf(session))).toBe(fits);
  });
});

describe('the state survives', () => {
  const KEEP = 'state.n++; return state.n';

  it('a migration, between executions and during one', async () => {
    const session = await spawn({ state: { n: 1 } });
    await session.migrate();
    expect(await run(session, KEEP)).toBe(2);
    const running = session.execute('state.n++; await callTool("wait"); return state.n++');
    await until(() => gate.waiting === 1, 'it waits');
    await session.migrate();
    gate.open();
    expect(valueIn(await running.result)).toBe(3);
    await session.migrate();
    expect(await run(session, KEEP)).toBe(5);
  });

  it('hibernation', async () => {
    const session = await spawn({ state: { n: 1 } });
    expect(await run(session, KEEP)).toBe(2);
    await session.hibernate();
    expect(hostOf(system, session.id)).toBeUndefined();
    expect(await stateOf(session)).toEqual({ n: 2 });
    expect(await run(session, KEEP)).toBe(3);
  });

  it('the worker: an attempt begins with what the execution began with', async () => {
    const session = await spawn({ state: { n: 1 }, maxConcurrentExecutions: 2 });
    const running = session.execute('await callTool("wait"); return state');
    await until(() => gate.waiting === 1, 'it waits');
    // A change of the state meanwhile is not what the replay sees.
    await run(session, 'state.other = true');
    const killed = killWorkers(system, runtimeOf(system, session.id));
    await until(() => !killed.some(isAlive), 'the worker is dead');
    gate.open();
    const result = await running.result;
    expect(result.stats.attempts).toBe(2);
    expect(valueIn(result)).toEqual({ n: 1 });
    expect(await stateOf(session)).toEqual({ n: 1, other: true });
    expect(await run(session, 'state.n++; return state')).toEqual({ n: 2, other: true });
  });

  it('that is too large to go to a runtime together with the input is refused before anything runs', async () => {
    const large = 'x'.repeat(4_000_000);
    const session = await spawn({
      limits: { maxStateBytes: 4_194_304, maxToolPayloadBytes: 16_777_216 },
      state: { large },
    });
    const refused = await session.execute('return 1', { input: large }).result;
    expect(errorIn(refused)).toMatchObject({ code: 'SOURCE_LIMIT_EXCEEDED', outcome: 'not_started' });
    expect(await run(session, 'return state.large.length')).toBe(large.length);
  });
});
