/** The events of a session: one log for all its executions, read live, later, or from any number on. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  createWorkerPoolAdapter,
  defineTool,
  Enclave,
  type ExecutionEvent,
  type SessionRef,
  type System,
} from '../../src/index.ts';
import {
  closeAll,
  expectContiguous,
  Gate,
  logOf,
  open,
  refusalOf,
  subscribe,
  until,
} from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

let system: System;
let gate = new Gate();
const MAX_EVENTS = 40;

const tools = [
  defineTool({ name: 'echo', effect: 'read', handler: (args) => args }),
  defineTool({
    name: 'fail',
    handler: () => {
      throw new Error('no');
    },
  }),
  defineTool({ name: 'wait', handler: () => gate.pass() }),
];

beforeAll(async () => {
  system = await open({ brokers: 2, tools });
});
afterAll(closeAll);
afterEach(() => {
  gate.open();
  gate = new Gate();
});

/** What tells two streams of the same script apart, left out: ids and times. */
function shape(events: readonly ExecutionEvent[]): unknown {
  const text = JSON.stringify(events.map(({ seq, type, payload }) => [seq, type, payload]));
  return JSON.parse(
    text
      .replaceAll(/"(callId|executionId)":"[^"/]*/g, '"$1":"x')
      .replaceAll(/"(durationMs|elapsedMs)":[\d.]+/g, '"$1":0'),
  );
}

async function collect(iterable: AsyncIterable<ExecutionEvent>): Promise<ExecutionEvent[]> {
  const events: ExecutionEvent[] = [];
  for await (const event of iterable) events.push(event);
  return events;
}

const run = async (session: SessionRef, code: string): Promise<unknown> =>
  valueIn(await session.execute(code).result);

describe('the events of one execution', () => {
  const SCRIPTS: readonly (readonly [string, string, object])[] = [
    [
      'calls, output and a caught error',
      `console.log('before'); const a = await callTool('echo', { n: 1 }); console.warn('between %d', 2);
       try { await callTool('fail', [1]) } catch {} console.debug({ deep: [1] }); console.log('é'); return a`,
      {},
    ],
    [
      'an unknown tool',
      'try { await callTool("nothing", 1) } catch (e) { console.error(e.name) } return 1',
      {},
    ],
    ['an uncaught error', 'console.log(1); await callTool("fail")', {}],
    ['no syntax', 'return (', {}],
    ['no return', 'await sleep(1)', {}],
    ['a limit of CPU time', 'console.log("x"); await sleep(1); for (;;) {}', { cpuMs: 50 }],
    ['a limit of wall time', 'console.log("x"); await sleep(9_000)', { timeoutMs: 300 }],
    ['a limit of calls', 'for (let n = 0; n < 3; n++) await callTool("echo", n)', { maxToolCalls: 2 }],
  ];
  const enclave = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1 }), tools });
  afterAll(() => enclave.dispose());

  it.each(SCRIPTS)('are those of an Enclave, and name their execution: %s', async (_what, code, limits) => {
    const reference: ExecutionEvent[] = [];
    await enclave.run(code, { limits, onEvent: (event) => reference.push(event) });
    const session = await system.spawnSession();
    const execution = session.execute(code, { limits });
    const events = await collect(execution);
    expect(shape(events)).toEqual(shape(reference));
    for (const event of events)
      expect(event).toMatchObject({ protocolVersion: 2, sessionId: session.id, executionId: execution.id });
    expect(events).toEqual(await logOf(session));
  });

  it('agree with its result', async () => {
    const session = await system.spawnSession();
    const execution = session.execute('console.log("é"); await callTool("echo"); return { a: 1 }');
    const events = await collect(execution);
    const { stats, toolCalls } = await execution.result;
    expect(events.map(({ type }) => type)).toEqual([
      'session_init',
      'stdout',
      'tool_call',
      'tool_result_applied',
      'final',
    ]);
    expect(events[2]?.payload).toMatchObject({ callId: toolCalls[0]?.callId, toolName: 'echo' });
    expect(events.at(-1)?.payload).toEqual({
      ok: true,
      result: { a: 1 },
      stats: { durationMs: stats.duration, toolCallCount: 1, stdoutBytes: 3 },
    });
  });

  it('can be iterated from its beginning by whoever comes late, and more than once', async () => {
    const session = await system.spawnSession();
    const execution = session.execute('console.log(1); await callTool("wait"); console.log(2); return 3');
    await until(() => gate.waiting === 1, 'the script waits');
    const during = collect(execution);
    gate.open();
    valueIn(await execution.result);
    const after = await collect(execution);
    expect(after.map(({ type }) => type)).toEqual([
      'session_init',
      'stdout',
      'tool_call',
      'tool_result_applied',
      'stdout',
      'final',
    ]);
    expect(await during).toEqual(after);
  });

  it('come while it runs', async () => {
    const session = await system.spawnSession();
    const execution = session.execute('console.log("seen"); await callTool("wait"); return 1');
    // The tool ends only once the output was seen.
    for await (const { type } of execution) if (type === 'stdout') gate.open();
    expect(valueIn(await execution.result)).toBe(1);
  });

  it('are only its own, though others run beside it', async () => {
    const session = await system.spawnSession({ maxConcurrentExecutions: 4 });
    const executions = [1, 2, 3, 4].map((n) =>
      session.execute(`console.log(${n}); await callTool("wait"); console.log(${n}); return ${n}`),
    );
    const reading = executions.map(collect);
    await until(() => gate.waiting === 4, 'all of them wait');
    gate.open();
    for (const [index, events] of (await Promise.all(reading)).entries()) {
      expect(new Set(events.map(({ executionId }) => executionId))).toEqual(new Set([executions[index]?.id]));
      const shown = events.flatMap(({ type, payload }) => (type === 'stdout' ? [payload.chunk] : []));
      expect(shown).toEqual([`${index + 1}\n`, `${index + 1}\n`]);
      expect(events.map(({ seq }) => seq)).toEqual(events.map(({ seq }) => seq).toSorted((a, b) => a - b));
    }
    expectContiguous(await logOf(session));
  });

  it('are none for one that was refused, and its iteration ends', async () => {
    const nobody = system.session('nobody-at-all').execute('return 1');
    expect(await collect(nobody)).toEqual([]);
    expect(errorIn(await nobody.result).code).toBe('NOT_FOUND');
  });
});

describe('the log of a session', () => {
  it('numbers the events of all executions on, without a gap, whoever owns it', async () => {
    const session = await system.spawnSession();
    for (let n = 0; n < 4; n++) {
      await run(session, `console.log(${n}); return await callTool('echo', ${n})`);
      if (n === 1) await session.migrate();
      if (n === 2) await session.hibernate();
    }
    const log = await logOf(session);
    expect(log).toHaveLength(20);
    expectContiguous(log);
    expect((await session.info()).seq).toBe(20);
  });

  it('can be read from any number on', async () => {
    const session = await system.spawnSession();
    await run(session, 'console.log(1); return 1');
    await run(session, 'console.log(2); return 2');
    const log = await logOf(session);
    const events: ExecutionEvent[] = [];
    for await (const event of session.events({ fromSeq: 4 })) {
      events.push(event);
      if (event.seq === 6) break;
    }
    expect(events).toEqual(log.slice(3));
  });

  it('is followed live by one who came late and one who came early, with the same events', async () => {
    const session = await system.spawnSession();
    const early = subscribe(session);
    await run(session, 'console.log(1); return 1');
    const late = subscribe(session);
    const fresh: ExecutionEvent[] = [];
    const reader = session.events()[Symbol.asyncIterator]();
    const reading = (async () => {
      for (let next = await reader.next(); next.done !== true; next = await reader.next())
        fresh.push(next.value);
    })();
    await until(() => late.events.length === 3, 'the late one has caught up');
    await run(session, 'console.log(2); return 2');
    await run(session, 'console.log(3); return 3');
    await until(() => early.events.length === 9 && late.events.length === 9, 'both have everything');
    expect(early.events).toEqual(await logOf(session));
    expect(late.events).toEqual(early.events);
    // Who does not say from where gets what is new: here at least the last two executions, from one point on.
    await until(() => fresh.at(-1)?.seq === 9, 'the third has the last event');
    expect(fresh).toEqual(early.events.slice(9 - fresh.length));
    await Promise.all([early.stop(), late.stop(), reader.return?.()]);
    await reading;
  });

  it('ends to be followed when the signal is aborted: before, while waiting and between two events', async () => {
    const session = await system.spawnSession();
    await run(session, 'return 1');
    expect(await collect(session.events({ fromSeq: 1, signal: AbortSignal.abort() }))).toEqual([]);
    const waiting = new AbortController();
    const seen: number[] = [];
    const following = (async () => {
      for await (const { seq } of session.events({ fromSeq: 1, signal: waiting.signal })) seen.push(seq);
    })();
    await until(() => seen.length === 2, 'it waits for more');
    waiting.abort();
    await following;
    const between = new AbortController();
    for await (const { seq } of session.events({ fromSeq: 1, signal: between.signal })) {
      seen.push(seq);
      between.abort();
    }
    expect(seen).toEqual([1, 2, 1]);
  });

  it('is refused to be read from where there is nothing to read', async () => {
    const session = await system.spawnSession();
    for (const fromSeq of [0, -1, 1.5]) {
      const error = await refusalOf(() => session.events({ fromSeq }));
      expect([error.code, error.key]).toEqual(['INVALID_ARGUMENT', 'options.fromSeq']);
    }
    const nobody = system.session('nobody').events({ fromSeq: 1 })[Symbol.asyncIterator]();
    expect((await refusalOf(() => nobody.next())).code).toBe('NOT_FOUND');
  });

  it('can be read by type', async () => {
    const session = await system.spawnSession();
    await run(session, 'console.log(1); console.warn(2); await callTool("echo"); return 1');
    const types: string[] = [];
    const wanted = { sessionId: session.id, fromSeq: 1, types: ['log', 'tool_call', 'final'] };
    for await (const { type } of system.events(wanted)) {
      types.push(type);
      if (type === 'final') break;
    }
    expect(types).toEqual(['log', 'tool_call', 'final']);
  });
});

describe('a log that is full', () => {
  it('loses its oldest events: reading them says TRUNCATED and where it begins', async () => {
    const own = await open({ maxEvents: MAX_EVENTS });
    const session = await own.spawnSession();
    const first = session.execute('return 0');
    valueIn(await first.result);
    for (let n = 0; n < 10; n++) await run(session, 'for (let n = 0; n < 8; n++) console.log(n)');
    const { seq } = await session.info();
    expect(seq).toBe(2 + 10 * 10);
    const reader = session.events({ fromSeq: 1 })[Symbol.asyncIterator]();
    const error = (await refusalOf(() => reader.next())) as {
      code?: string;
      details?: { firstSeq?: number };
    };
    expect(error.code).toBe('TRUNCATED');
    const firstSeq = error.details?.firstSeq ?? 0;
    expect(seq - firstSeq + 1).toBeGreaterThanOrEqual(MAX_EVENTS);
    expect(seq - firstSeq + 1).toBeLessThanOrEqual(MAX_EVENTS * 1.25);
    const kept: number[] = [];
    for await (const event of session.events({ fromSeq: firstSeq })) {
      kept.push(event.seq);
      if (event.seq === seq) break;
    }
    expect(kept).toEqual(Array.from({ length: seq - firstSeq + 1 }, (_, index) => firstSeq + index));
    // The handle's events are gone with it; its result is not.
    expect(await collect(first)).toEqual([]);
    expect(valueIn(await session.result(first.id))).toBe(0);
  });
});

describe('much output', () => {
  it('is complete and in order: 10,000 lines, in far fewer commits', async () => {
    const session = await system.spawnSession();
    const lines = 10_000;
    const execution = session.execute(
      `for (let n = 0; n < ${lines}; n++) n % 10 === 0 ? console.warn('line ' + n) : console.log('line ' + n); return 'done'`,
    );
    const events = await collect(execution);
    expect(valueIn(await execution.result)).toBe('done');
    const shown = events.flatMap(({ type, payload }) =>
      type === 'stdout' ? [payload.chunk] : type === 'log' ? [payload.message] : [],
    );
    const text = shown.map((part) => (part.endsWith('\n') ? part : `${part}\n`)).join('');
    expect(text).toBe(Array.from({ length: lines }, (_, n) => `line ${n}\n`).join(''));
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_event, index) => index + 1));
    expect(events.at(-1)?.payload).toMatchObject({ ok: true });
    expect((await session.info()).version).toBeLessThan(lines / 20);
  });

  it('beyond its limit ends the script, and what came before is there', async () => {
    const session = await system.spawnSession();
    const execution = session.execute('for (let n = 0; ; n++) console.log("line " + n)', {
      limits: { maxOutputBytes: 10_000 },
    });
    const events = await collect(execution);
    expect(errorIn(await execution.result).code).toBe('OUTPUT_LIMIT_EXCEEDED');
    const bytes = events.reduce(
      (sum, { type, payload }) => sum + (type === 'stdout' ? payload.chunk.length : 0),
      0,
    );
    expect(bytes).toBeLessThanOrEqual(10_000);
    expect(bytes).toBeGreaterThan(9_000);
  });
});
