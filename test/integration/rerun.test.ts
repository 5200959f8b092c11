/** Rerun: what an execution did is shown again from its journal, and nobody outside notices. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { defineTool, type RerunReport, type System } from '../../src/index.ts';
import { PoolSandbox } from '../../src/poolsandbox.ts';
import type { JournalRead } from '../../src/protocol.ts';
import { rerun } from '../../src/runtime/rerun.ts';
import { isAlive } from '../support/processes.ts';
import {
  closeAll,
  codeOf,
  Gate,
  journalIn,
  killWorkers,
  open,
  runtimeOf,
  until,
} from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

let system: System;
let gate = new Gate();
let handled = 0;

beforeAll(async () => {
  const tools = [
    defineTool({
      name: 'echo',
      effect: 'read',
      handler: (args) => {
        handled++;
        return args;
      },
    }),
    defineTool({
      name: 'fail',
      handler: () => {
        handled++;
        throw new RangeError('not today');
      },
    }),
    defineTool({
      name: 'wait',
      handler: () => {
        handled++;
        return gate.pass();
      },
    }),
  ];
  system = await open({ brokers: 2, runtimes: 2, tools, parkAfterMs: 100 });
});
afterAll(closeAll);
afterEach(() => {
  gate.open();
  gate = new Gate();
});

const SCRIPT = `
  state.visits = (state.visits ?? 0) + 1;
  console.log('visit', state.visits, Math.random(), Date.now());
  const all = await Promise.all([1, 2, 3].map((n) => callTool('echo', { n, chance: Math.random() })));
  await sleep(5);
  let caught = '';
  try { await callTool('fail') } catch (error) { caught = error.name + ': ' + error.message }
  console.warn(new Date().toISOString());
  const last = await callTool(Math.random() < 2 ? 'echo' : 'fail', input);
  return { all, caught, last, visits: state.visits, at: Date.now(), chance: Math.random() };`;

/** Rerun it, and see that nobody was called. */
async function again(session: string, execution: string): Promise<RerunReport> {
  const before = handled;
  const report = await system.rerun(execution, { sessionId: session });
  expect(handled).toBe(before);
  return report;
}

const steps = ({ trace }: RerunReport) =>
  trace.map((step) => ('index' in step ? `${step.type} ${step.index}` : `${step.type} ${step.level}`));

describe('the rerun of an execution', () => {
  it('that succeeded is the same, and its trace is complete', async () => {
    const session = await system.spawnSession({ state: { visits: 4 } });
    const run = session.execute(SCRIPT, { input: { given: true }, seed: 3 });
    const result = await run.result;
    const value = valueIn(result) as { readonly visits: number };
    expect(value.visits).toBe(5);
    // The state has moved on since.
    valueIn(await session.execute('state.visits = 100').result);
    const before = await session.info();
    const report = await again(session.id, run.id);
    expect(report).toMatchObject({ verdict: 'same', difference: undefined, end: { ok: true, value } });
    expect(report.recorded).toEqual(result);
    expect(steps(report).filter((step) => !step.startsWith('handed'))).toEqual([
      'output log',
      'call 0',
      'call 1',
      'call 2',
      'sleep 3',
      'call 4',
      'output warn',
      'call 5',
    ]);
    expect(
      steps(report)
        .filter((step) => step.startsWith('handed'))
        .toSorted(),
    ).toEqual([0, 1, 2, 3, 4, 5].map((index) => `handed ${index}`));
    const handedOf = (wanted: number) =>
      report.trace.find((step) => step.type === 'handed' && step.index === wanted);
    expect(handedOf(4)).toMatchObject({
      code: expect.stringMatching(/./),
      value: expect.stringContaining('not today'),
    });
    expect(handedOf(5)).toMatchObject({ code: '', value: { given: true } });
    // Nothing of it is left in the session.
    expect(await session.info()).toEqual(before);
  });

  it('that failed is the same failure', async () => {
    const session = await system.spawnSession();
    const run = session.execute('await callTool("echo", 1); null.x');
    const error = errorIn(await run.result);
    const report = await again(session.id, run.id);
    expect(report.verdict).toBe('same');
    expect(report.end).toEqual({ ok: false, code: 'SCRIPT_ERROR', message: error.message });
  });

  it.each([
    ['no syntax', 'return (', undefined],
    ['a limit of CPU time', 'console.log(1); for (;;) {}', { cpuMs: 50 }],
    ['an uncaught tool error', 'await callTool("fail")', undefined],
    ['an unknown tool', 'await callTool("nothing")', undefined],
    ['a limit of calls', 'for (;;) await callTool("echo", 1)', { maxToolCalls: 2 }],
  ])('that failed by %s is the same failure', async (_what, code, limits) => {
    const session = await system.spawnSession();
    const run = session.execute(code, { limits });
    const error = errorIn(await run.result);
    const report = await again(session.id, run.id);
    expect([report.verdict, report.difference]).toEqual(['same', undefined]);
    expect(report.end).toMatchObject({ ok: false, code: error.code });
  });

  it('that was cancelled is incomplete: it waits where it waited', async () => {
    const session = await system.spawnSession();
    const run = session.execute('console.log(1); await callTool("echo", 1); await callTool("wait")');
    await until(() => gate.waiting === 1, 'the script waits');
    await run.cancel();
    errorIn(await run.result);
    const report = await again(session.id, run.id);
    expect(report).toMatchObject({ verdict: 'incomplete', difference: undefined, end: undefined });
    expect(steps(report)).toEqual(['output log', 'call 0', 'handed 0', 'call 1']);
  });

  it('that still runs is incomplete, and does not disturb it', async () => {
    const session = await system.spawnSession();
    const run = session.execute('return await callTool("wait")');
    await until(() => gate.waiting === 1, 'the script waits');
    const report = await again(session.id, run.id);
    expect(report).toMatchObject({ verdict: 'incomplete', recorded: undefined });
    gate.open();
    expect((await run.result).success).toBe(true);
  });

  it('that took several attempts, migrated and was parked is the same', async () => {
    const session = await system.spawnSession();
    const run = session.execute(
      'const r = [Math.random()]; await callTool("wait"); await sleep(150); r.push(Math.random(), Date.now()); return r',
    );
    await until(() => gate.waiting === 1, 'the script waits');
    await session.migrate();
    const killed = killWorkers(system, runtimeOf(system, session.id));
    await until(() => !killed.some(isAlive), 'the worker is dead');
    gate.open();
    const result = await run.result;
    expect(result.stats.attempts).toBe(3);
    await session.hibernate();
    const report = await again(session.id, run.id);
    expect(report).toMatchObject({ verdict: 'same', end: { ok: true, value: valueIn(result) } });
  });

  it('that nobody knows is refused', async () => {
    const session = await system.spawnSession();
    expect(await codeOf(() => system.rerun('unknown', { sessionId: session.id }))).toBe('NOT_FOUND');
    expect(await codeOf(() => system.rerun('unknown', { sessionId: 'nobody' }))).toBe('NOT_FOUND');
    expect(await codeOf(() => system.rerun('not an id', { sessionId: session.id }))).toBe('INVALID_ARGUMENT');
  });
});

describe('the rerun of a journal that was tampered with', () => {
  let journal: JournalRead;
  beforeAll(async () => {
    const session = await system.spawnSession();
    const run = session.execute(SCRIPT, { input: 'x', seed: 3 });
    valueIn(await run.result);
    journal = await journalIn(system, session.id, run.id);
  });

  const play = (change: Partial<JournalRead>): Promise<RerunReport> => {
    const [runtime] = system.parts.runtimes;
    if (runtime === undefined) throw new Error('there is no runtime');
    return rerun(new PoolSandbox(runtime.pool), systemClock, { ...journal, ...change });
  };

  it('is the same while it was not', async () => {
    expect(await play({})).toMatchObject({ verdict: 'same' });
  });

  it('names the call that is another one', async () => {
    const calls = journal.calls.map((call, index) => (index === 1 ? { ...call, args: '{"n":9}' } : call));
    const { verdict, difference } = await play({ calls });
    expect(verdict).toBe('different');
    expect(difference).toMatch(
      /^at index 1 it made call echo\(\{"n":2,.*the journal has call echo\(\{"n":9\}\)$/,
    );
  });

  it('names the sleep that is another one', async () => {
    const calls = journal.calls.map((call, index) => (index === 3 ? { ...call, args: '7' } : call));
    const { difference } = await play({ calls });
    expect(difference).toBe('at index 3 it made sleep (5); the journal has sleep (7)');
  });

  it('names the call that the journal does not have', async () => {
    const report = await play({ calls: journal.calls.slice(0, 4) });
    expect(report.verdict).toBe('different');
    expect(report.difference).toMatch(/^at index 4 it made call fail\(\); the journal has nothing$/);
  });

  it('counts the calls that it did not make', async () => {
    const more = { index: 6, kind: 'call', name: 'echo', args: '1' } as const;
    const { verdict, difference } = await play({ calls: [...journal.calls, more] });
    expect([verdict, difference]).toEqual(['different', 'it made 6 calls and sleeps; then it made 7']);
  });

  it.each<[string, (journal: JournalRead) => Partial<JournalRead>]>([
    [
      'what a call returned',
      ({ deliveries }) => ({
        deliveries: deliveries.map(([index, code, payload, time]) => [
          index,
          code,
          index === 5 ? '"y"' : payload,
          time,
        ]),
      }),
    ],
    ['its seed', () => ({ seed: [1, 2, 3, 4] })],
    ['its input', () => ({ input: '"y"' })],
    ['its state', () => ({ state: '{"visits":7}' })],
    [
      'its start',
      ({ deliveries }) => ({ deliveries: deliveries.map(([i, c, p, time]) => [i, c, p, time + 1]) }),
    ],
  ])('is different if %s is', async (_what, change) => {
    const { verdict, difference } = await play(change(journal));
    expect(verdict).toBe('different');
    expect(difference).toMatch(/another value|at index \d/);
  });

  it('is incomplete without the last delivery', async () => {
    const report = await play({ deliveries: journal.deliveries.slice(0, -1) });
    expect(report).toMatchObject({ verdict: 'incomplete', end: undefined });
    expect(steps(report).at(-1)).toBe('call 5');
  });

  it.each(['engine', 'prelude', 'stripper'] as const)('is not run on another %s', async (part) => {
    const versions = { engine: '', prelude: '', stripper: '', ...journal.versions, [part]: 'another' };
    const report = await play({ versions });
    expect(report).toMatchObject({ verdict: 'engine_mismatch', trace: [], end: undefined });
    expect(report.difference).toContain(`${part} another`);
  });
});
