/** Attempts for sessions, in a pool of real workers: what is reported, what is handed over, how they end. */
import { afterEach, describe, expect, it } from 'vitest';
import type { AttemptEnd, Delivery, ScriptItem } from '../../actors/attempt.ts';
import {
  defaultLimits,
  resolveLimits,
  resolvePoolOptions,
  type WorkerPoolOptions,
} from '../../src/options.ts';
import { type AttemptSpec, SessionAttempt } from '../../src/sandbox/attempt.ts';
import { WorkerPool } from '../../src/sandbox/pool.ts';
import { PATIENCE } from './ends.ts';

const pools: WorkerPool[] = [];
afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()));
});

function open(options: WorkerPoolOptions = {}): WorkerPool {
  const pool = new WorkerPool(resolvePoolOptions({ poolSize: 1, ...options }));
  pools.push(pool);
  return pool;
}

/** Midsummer of a year that has long passed. */
const START = Date.UTC(2001, 5, 21);
/** More than the quantum of a worker's own thread. */
const HEAVY = 'for (let n = 0, x = 0; n < 1e8; n++) x = (x + n) | 0;';

type Options = Partial<Omit<AttemptSpec, 'limits'>> & {
  readonly source: string;
  readonly limits?: Parameters<typeof resolveLimits>[0];
};

interface Report {
  readonly items: readonly ScriptItem[];
  readonly waiting: boolean;
}

let attempts = 0;

/** An attempt and everything that it told. */
class Watched {
  readonly attempt: SessionAttempt;
  readonly reports: Report[] = [];
  readonly ends: AttemptEnd[] = [];
  /** True if something was reported after the end. */
  late = false;

  constructor(
    pool: WorkerPool,
    { limits, ...options }: Options,
    onReport: (self: Watched, report: Report) => void = () => undefined,
  ) {
    const id = `attempt-${++attempts}`;
    this.attempt = new SessionAttempt(pool, {
      id,
      input: '',
      state: undefined,
      maxStateBytes: 1_000,
      seed: [1, 2, 3, 4],
      startTime: START,
      tenantKey: 'tenant',
      key: options.source,
      isolation: 'context',
      limits: resolveLimits(limits, defaultLimits(pool.options.maxWorkerMemory)),
      alone: false,
      deliveries: [],
      maxReplayBytes: 1_000_000,
      onReport: (items, waiting) => {
        this.late ||= this.ends.length > 0;
        this.reports.push({ items, waiting });
        onReport(this, { items, waiting });
      },
      onEnd: (end) => this.ends.push(end),
      ...options,
    });
  }

  get items(): readonly ScriptItem[] {
    return this.reports.flatMap(({ items }) => items);
  }

  get waiting(): boolean {
    return this.reports.at(-1)?.waiting ?? false;
  }

  /** Resolves when it waits for more than it was handed. */
  async waits(): Promise<void> {
    await expect.poll(() => this.waiting, PATIENCE).toBe(true);
  }

  async end(): Promise<AttemptEnd> {
    await expect.poll(() => this.ends.length, PATIENCE).toBeGreaterThan(0);
    expect([this.ends.length, this.late]).toEqual([1, false]);
    return this.ends[0] as AttemptEnd;
  }

  async value(): Promise<unknown> {
    const end = await this.end();
    if (end.kind !== 'returned') throw new Error(`it ended otherwise: ${JSON.stringify(end)}`);
    return end.json === '' ? undefined : JSON.parse(end.json);
  }
}

const result = (index: number, value: unknown, time = START): Delivery => [
  index,
  '',
  JSON.stringify(value),
  time,
];
/** Gives every call its own index, a second later than the one before. */
const answer = (watched: Watched, { items }: Report): void => {
  for (const item of items)
    if (item.kind === 'call' || item.kind === 'sleep')
      watched.attempt.deliver([result(item.index, item.index, START + 1_000 * (item.index + 1))]);
};

function kill(pool: WorkerPool): void {
  const worker = pool.stats().workers.find(({ aboard }) => aboard > 0);
  // Never 0: that would be everyone here.
  if (worker !== undefined && worker.pid > 0) process.kill(worker.pid, 'SIGKILL');
}

describe('what an attempt reports', () => {
  it('is everything that the script did, in order, then its end', async () => {
    const watched = new Watched(
      open(),
      {
        source: `console.log('a'); const x = await callTool('one', { n: 1 }); console.warn(x);
                 await sleep(5); return [x, Date.now()];`,
      },
      answer,
    );
    expect(await watched.value()).toEqual([0, START + 2_000]);
    expect(watched.items).toEqual([
      { kind: 'output', level: '', text: expect.stringContaining('a') },
      { kind: 'call', index: 0, name: 'one', json: '{"n":1}' },
      { kind: 'applied', index: 0 },
      { kind: 'output', level: 'warn', text: expect.stringContaining('0') },
      { kind: 'sleep', index: 1, ms: 5 },
      { kind: 'applied', index: 1 },
    ]);
  });

  it('comes once per step, and says whether the script has all that it was handed', async () => {
    const watched = new Watched(open(), {
      source: `const both = [callTool('a'), callTool('b')]; console.log(await both[0]); return await both[1];`,
    });
    await watched.waits();
    watched.attempt.deliver([result(0, 'x')]);
    await expect.poll(() => watched.reports.length, PATIENCE).toBe(2);
    watched.attempt.deliver([result(1, 'y')]);
    expect(await watched.value()).toBe('y');
    expect(watched.reports.map(({ items, waiting }) => [items.map(({ kind }) => kind), waiting])).toEqual([
      [['call', 'call'], true],
      [['applied', 'output'], true],
      [['applied'], false],
    ]);
  });

  it('says that the script waits when it did nothing but begin to', async () => {
    const watched = new Watched(open(), { source: 'await new Promise(() => {});' });
    await watched.waits();
    expect(watched.reports).toEqual([{ items: [], waiting: true }]);
  });

  it('has the seed, the input and the clock that it was given', async () => {
    const source = 'return [Math.random(), Date.now(), input]';
    const pool = open();
    const values = await Promise.all(
      [1, 1, 2].map((word) => new Watched(pool, { source, seed: [word, 2, 3, 4], input: '{"a":1}' }).value()),
    );
    expect(values[0]).toEqual([expect.any(Number), START, { a: 1 }]);
    expect(values[1]).toEqual(values[0]);
    expect(values[2]).not.toEqual(values[0]);
  });

  it('is told once although the script is started again on a thread of its own', async () => {
    const pool = open();
    const source = `const seen = [];
      for (let i = 0; i < 4; i++) {
        console.log('before', i);
        seen.push(await callTool('t', i));
        if (i === 2) { ${HEAVY} }
        console.log('after', i);
      }
      return seen;`;
    const watched = new Watched(pool, { source }, answer);
    expect(await watched.value()).toEqual([0, 1, 2, 3]);
    expect(pool.isHeavy(source)).toBe(true); // It was.
    expect(watched.items.map((item) => (item.kind === 'output' ? item.text.trim() : item.kind))).toEqual(
      [0, 1, 2, 3].flatMap((i) => [`before ${i}`, 'call', 'applied', `after ${i}`]),
    );
  });

  it('is told once where a replay of earlier deliveries is too heavy', async () => {
    const source = `${HEAVY} console.log('a'); const x = await callTool('t'); ${HEAVY} console.log('b'); return x + await callTool('u');`;
    const pool = open();
    const watched = new Watched(pool, { source, deliveries: [result(0, 20)] }, (self, { items }) => {
      if (items.some((item) => item.kind === 'call' && item.index === 1))
        self.attempt.deliver([result(1, 1)]);
    });
    expect(await watched.value()).toBe(21);
    expect(pool.isHeavy(source)).toBe(true);
    expect(watched.items.map(({ kind }) => kind)).toEqual([
      'output',
      'call',
      'applied',
      'output',
      'call',
      'applied',
    ]);
  });

  it('goes on past maxReplayBytes', async () => {
    const source = `let sum = ''; for (let i = 0; i < 6; i++) sum += await callTool('t', i); ${HEAVY} return sum.length;`;
    const watched = new Watched(open(), { source, maxReplayBytes: 1_000 }, (self, { items }) => {
      for (const item of items)
        if (item.kind === 'call') self.attempt.deliver([result(item.index, 'x'.repeat(500))]);
    });
    expect(await watched.value()).toBe(3_000);
    expect(watched.items.filter(({ kind }) => kind === 'call').length).toBe(6);
  });
});

describe('deliveries', () => {
  it('may come before the script is started, and before it makes the calls', async () => {
    const watched = new Watched(open({ minWorkers: 0 }), {
      source: `const a = await callTool('a'); return a + await callTool('b');`,
      deliveries: [result(0, 1)],
    });
    watched.attempt.deliver([result(1, 2)]);
    expect(watched.reports).toEqual([]);
    expect(await watched.value()).toBe(3);
    expect(watched.reports.map(({ waiting }) => waiting)).toEqual([false]);
  });

  it('over maxReplayBytes may be there from the start', async () => {
    const watched = new Watched(open(), {
      source: `const a = await callTool('a'); ${HEAVY} return a.length;`,
      deliveries: [result(0, 'x'.repeat(2_000))],
      maxReplayBytes: 1_000,
    });
    expect(await watched.value()).toBe(2_000);
  });

  it('may be errors, which the script can catch', async () => {
    const watched = new Watched(
      open(),
      { source: `try { await callTool('a'); } catch (error) { return [error.name, error.message]; }` },
      (self, { items }) => {
        if (items.length > 0) self.attempt.deliver([[0, 'TOOL_ERROR', 'no luck', START]]);
      },
    );
    expect(await watched.value()).toEqual(['ToolError', 'no luck']);
  });

  it('after the end are ignored', async () => {
    const watched = new Watched(open(), { source: 'return 1' });
    await watched.value();
    watched.attempt.deliver([result(0, 1)]);
    watched.attempt.stop();
    expect(await watched.value()).toBe(1);
  });

  it('of which any first part is replayed lead to the same value', async () => {
    const pool = open({ poolSize: 2 });
    const source = `
      const log = [Math.random(), Date.now()];
      const parallel = ['a', 'b', 'c'].map(async (name) => { log.push(await callTool(name), Math.random()); });
      await sleep(10);
      log.push(Date.now());
      await Promise.all(parallel);
      for (let i = 0; i < 3; i++) log.push(await callTool('d', log.length), Date.now());
      console.log(log.length);
      return log;`;
    // The sleep ends between the parallel calls, which end in another order than they were made.
    const order = [1, 3, 2, 0, 4, 5, 6];
    const record = order.map((index, at) => result(index, `r${index}`, START + 100 * (at + 1)));
    /** One attempt that is handed `first` of them at once, and each of the others when it waits. */
    const play = (first: number): Watched => {
      let next = first;
      return new Watched(pool, { source, deliveries: record.slice(0, first) }, (self, { waiting }) => {
        const delivery = record[next];
        if (!waiting || delivery === undefined) return;
        next++;
        self.attempt.deliver([delivery]);
      });
    };
    const whole = play(0);
    const value = await whole.value();
    expect(value).toHaveLength(15);
    const counts = Array.from({ length: record.length }, (_, k) => k + 1);
    const others = counts.map(play);
    for (const other of others) {
      expect(await other.value()).toEqual(value);
      expect(other.items).toEqual(whole.items);
    }
  });
});

describe('an attempt that must be alone', () => {
  it('waits until nothing else is aboard, and nothing comes aboard with it', async () => {
    const pool = open();
    const source = `return await callTool('t')`;
    const before = new Watched(pool, { source });
    await before.waits();
    const lonely = new Watched(pool, { source: `${source};`, alone: true });
    const after = new Watched(pool, { source: `${source};;` });
    expect(pool.load).toBe(3);
    before.attempt.deliver([result(0, 1)]);
    await lonely.waits();
    expect([before.ends.length, after.reports.length, pool.stats().active]).toEqual([1, 0, 1]);
    lonely.attempt.deliver([result(0, 2)]);
    await after.waits();
    expect(await lonely.value()).toBe(2);
    after.attempt.deliver([result(0, 3)]);
    expect(await after.value()).toBe(3);
  });
});

describe('an attempt whose worker is killed', () => {
  it('is lost, and to blame if it was alone aboard', async () => {
    const pool = open();
    const watched = new Watched(pool, { source: `await callTool('t')` });
    await watched.waits();
    kill(pool);
    expect(await watched.end()).toEqual({ kind: 'lost', alone: true });
    expect(pool.load).toBe(0);
  });

  it.each([
    ['and no other worker is up', 1],
    ['and another worker is idle', 2],
  ])('is lost, and not to blame if it was one of several %s', async (_, poolSize) => {
    const pool = open({ poolSize, minWorkers: poolSize });
    await expect
      .poll(() => pool.stats().workers.map(({ state }) => state), PATIENCE)
      .not.toContain('starting');
    const watched: Watched[] = [];
    for (const name of ['a', 'b', 'c']) {
      // One that waits leaves its worker the best place for the next of its tenant.
      const next = new Watched(pool, { source: `await callTool('${name}')` });
      watched.push(next);
      await next.waits();
      await expect
        .poll(() => pool.stats().workers.some(({ aboard }) => aboard === watched.length))
        .toBe(true);
    }
    kill(pool);
    for (const each of watched) expect(await each.end()).toEqual({ kind: 'lost', alone: false });
    // What the machine meant to try again alone is gone from it.
    expect(await new Watched(pool, { source: 'return 1' }).value()).toBe(1);
    expect([pool.load, pool.stats().active, pool.stats().queueLength]).toEqual([0, 0, 0]);
  });

  it('is lost with the crash that puts its script into quarantine, and the next one is refused', async () => {
    const pool = open({ quarantineAfter: 2 });
    const source = `await callTool('t')`;
    for (let crash = 0; crash < 2; crash++) {
      const watched = new Watched(pool, { source, alone: crash > 0 });
      await watched.waits();
      kill(pool);
      expect(await watched.end()).toEqual({ kind: 'lost', alone: true });
    }
    const refused = await new Watched(pool, { source }).end();
    expect(refused).toMatchObject({ kind: 'refused', code: 'QUARANTINED' });
  });

  it('reports nothing of what comes after', async () => {
    const pool = open();
    const watched = new Watched(pool, { source: `await callTool('t'); console.log('never')` });
    await watched.waits();
    kill(pool);
    watched.attempt.deliver([result(0, 1)]);
    expect(await watched.end()).toMatchObject({ kind: 'lost' });
  });
});

describe('an attempt that is stopped', () => {
  it.each([
    ['while it waits for a delivery', `await callTool('t')`],
    ['while it computes on a thread', `console.log(1); ${HEAVY} await callTool('t'); for (;;);`],
  ])('ends once as stopped %s', async (_, source) => {
    const watched = new Watched(open(), { source });
    await watched.waits();
    if (source.includes('for (;;)')) watched.attempt.deliver([result(0, 1)]);
    watched.attempt.stop();
    watched.attempt.stop();
    expect(await watched.end()).toEqual({ kind: 'stopped' });
  });

  it('ends as stopped while it waits for a worker', async () => {
    const pool = open({ minWorkers: 0 });
    const watched = new Watched(pool, { source: 'return 1' });
    watched.attempt.stop();
    expect([watched.ends, pool.load]).toEqual([[{ kind: 'stopped' }], 0]);
  });

  it('ends as stopped by its last report, and its worker lives on', async () => {
    const pool = open();
    const watched = new Watched(pool, { source: `console.log(1); return 2` }, (self) => self.attempt.stop());
    expect(await watched.end()).toEqual({ kind: 'stopped' });
    expect(await new Watched(pool, { source: 'return 3' }).value()).toBe(3);
    expect(pool.stats().restarts).toBe(0);
  });
});

describe('an attempt that the pool does not take', () => {
  it('is refused with a time to wait when the queue is full', async () => {
    const pool = open({ maxConcurrentPerWorker: 1, maxQueueLength: 0 });
    const refused = await new Watched(pool, { source: 'return 1' }).end(); // No worker is up yet.
    expect(refused).toMatchObject({
      kind: 'refused',
      code: 'OVERLOADED',
      message: expect.stringContaining('maxQueueLength'),
    });
    expect(refused.kind === 'refused' && refused.retryAfterMs).toBeGreaterThan(0);
  });

  it('is refused when no worker was free in time', async () => {
    const pool = open({ maxConcurrentPerWorker: 1, queueTimeoutMs: 50 });
    await expect.poll(() => pool.versions, PATIENCE).toBeDefined(); // So the first starts at once.
    const first = new Watched(pool, { source: `await callTool('t')` });
    await first.waits();
    const second = new Watched(pool, { source: 'return 1' });
    expect(await second.end()).toMatchObject({ kind: 'refused', code: 'QUEUE_TIMEOUT' });
  });

  it('is refused by a closed pool, and lost if it runs when the pool closes', async () => {
    const pool = open();
    const running = new Watched(pool, { source: `await callTool('t')` });
    await running.waits();
    const closing = pool.close();
    expect(await running.end()).toEqual({ kind: 'lost', alone: false });
    expect(await new Watched(pool, { source: 'return 1' }).end()).toMatchObject({
      kind: 'refused',
      code: 'CLOSED',
    });
    await closing;
  });
});

describe('an attempt that passes a limit', () => {
  it.each<[string, Options]>([
    ['EXECUTION_TIMEOUT', { source: `await callTool('t')`, limits: { timeoutMs: 100 } }],
    ['CPU_LIMIT_EXCEEDED', { source: 'for (;;);', limits: { cpuMs: 50 } }],
    ['TOOL_CALL_LIMIT_EXCEEDED', { source: `callTool('a'); callTool('b')`, limits: { maxToolCalls: 1 } }],
    ['OUTPUT_LIMIT_EXCEEDED', { source: `console.log('x'.repeat(200))`, limits: { maxOutputBytes: 100 } }],
    ['RESULT_LIMIT_EXCEEDED', { source: `return 'x'.repeat(200)`, limits: { maxResultBytes: 100 } }],
    ['SYNTAX_ERROR', { source: 'return (' }],
    ['SCRIPT_ERROR', { source: 'throw new TypeError("no")' }],
  ])('fails as %s', async (code, options) => {
    const end = await new Watched(open(), options).end();
    expect(end).toMatchObject({ kind: 'failed', code, message: expect.stringMatching(/./) });
    expect(end.kind === 'failed' && end.usage.cpu).toBeGreaterThanOrEqual(0);
  });
});

describe('state', () => {
  /** The state that a script leaves, as it is reported. */
  const left = async (options: Options, pool = open()): Promise<string | undefined> => {
    const end = await new Watched(pool, { state: '{"n":1}', ...options }, answer).end();
    if (end.kind !== 'returned') throw new Error(`it ended otherwise: ${JSON.stringify(end)}`);
    return end.state;
  };

  it('is what was given, and what the script makes of it is reported', async () => {
    expect(await left({ source: 'state.n += 1; state.list = [state.n]' })).toBe('{"n":2,"list":[2]}');
    expect(await left({ source: 'state = { fresh: true }' })).toBe('{"fresh":true}');
    expect(await left({ source: 'globalThis.state = { fresh: true }' })).toBe('{"fresh":true}');
    expect(await left({ source: 'state = new (class A { x = 1 })()' })).toBe('{"x":1}');
  });

  it('is not reported if the script leaves it as it was', async () => {
    expect(await left({ source: 'state.n = 2; state.n = 1; return state.n' })).toBe(undefined);
    expect(await left({ source: 'state = { n: 1 }' })).toBe(undefined);
  });

  it('survives a start on a thread of its own, and is told from inside one', async () => {
    const source = `state.n++; await callTool('t'); ${HEAVY} state.n++; callTool('left running'); return 1;`;
    const pool = open();
    expect(await left({ source }, pool)).toBe('{"n":3}');
    expect(pool.isHeavy(source)).toBe(true);
    expect(await left({ source }, pool)).toBe('{"n":3}');
  });

  it('of TypeScript is the same', async () => {
    expect(await left({ source: 'const by: number = 4; state.n += by;' })).toBe('{"n":5}');
  });

  it.each([
    ['undefined', 'state = undefined'],
    ['null', 'state = null'],
    ['a function', 'state = () => 1'],
    ['a number', 'state = 5'],
    ['a string', 'state = "{}"'],
    ['an array', 'state = [{}]'],
    ['a cycle', 'state.self = state'],
    ['a toJSON that throws', 'state.toJSON = () => { throw new Error("mine"); }'],
    ['a toJSON that makes no object', 'state.toJSON = () => []'],
  ])('that is %s fails the script', async (_, source) => {
    const end = await new Watched(open(), { source, state: '{}' }).end();
    expect(end).toMatchObject({
      kind: 'failed',
      code: 'SERIALIZATION_ERROR',
      message: expect.stringContaining('`state`'),
    });
  });

  it.each([
    ['in UTF-16 units', 'state.text = "x".repeat(1_000)'],
    ['in bytes only', 'state.text = "\\u20ac".repeat(500)'],
  ])('over maxStateBytes %s fails the script', async (_, source) => {
    const end = await new Watched(open(), { source, state: '{}', maxStateBytes: 1_000 }).end();
    expect(end).toMatchObject({ kind: 'failed', code: 'STATE_LIMIT_EXCEEDED' });
  });

  it('of exactly maxStateBytes is kept', async () => {
    const source = 'state.t = "\\u20ac".repeat(100)';
    expect(await left({ source, state: '{}', maxStateBytes: 308 })).toHaveLength(108);
    const end = await new Watched(open(), { source, state: '{}', maxStateBytes: 307 }).end();
    expect(end).toMatchObject({ kind: 'failed', code: 'STATE_LIMIT_EXCEEDED' });
  });

  it('does not come out of a script that fails', async () => {
    const end = await new Watched(open(), {
      source: 'state.n = 2; throw new Error("no")',
      state: '{}',
    }).end();
    expect(end).toMatchObject({ kind: 'failed', code: 'SCRIPT_ERROR' });
    expect(end).not.toHaveProperty('state');
  });

  it('is no concern of what a script does to intrinsics', async () => {
    const source = `JSON.stringify = () => 'broken'; String.prototype.charCodeAt = () => 0;
      Object.prototype.toJSON = undefined; Object.defineProperty = null; state.n = 7;`;
    expect(await left({ source })).toBe('{"n":7}');
  });

  it('is not there where none was given', async () => {
    const source = `return [typeof state, 'state' in globalThis]`;
    expect(await new Watched(open(), { source }).value()).toEqual(['undefined', false]);
  });

  it('does not leak into the next script of a realm', async () => {
    const pool = open();
    const isolation = 'realm';
    const look = `return [typeof state, 'state' in globalThis]`;
    expect(await left({ source: 'state.secret = 1; state = { ...state }', isolation }, pool)).toBe(
      '{"n":1,"secret":1}',
    );
    const next = new Watched(pool, { source: 'return state', state: '{}', isolation });
    expect(await next.value()).toEqual({});
    expect(await new Watched(pool, { source: look, isolation }).value()).toEqual(['undefined', false]);
    expect(await left({ source: 'state.n++', isolation }, pool)).toBe('{"n":2}');
    expect(await new Watched(pool, { source: look, isolation }).value()).toEqual(['undefined', false]);
  });
});

describe('a pool', () => {
  it('tells what its workers run on once one is up, and how much they take', async () => {
    const pool = open({ poolSize: 2, maxConcurrentPerWorker: 8, minWorkers: 0 });
    expect([pool.versions, pool.capacity, pool.load]).toEqual([undefined, 16, 0]);
    const watched = new Watched(pool, { source: 'return 1' });
    expect(pool.load).toBe(1);
    await watched.value();
    expect(pool.versions).toEqual({
      engine: expect.stringContaining(`v8 ${process.versions.v8}, icu ${process.versions.icu}, `),
      prelude: expect.stringMatching(/^[0-9a-f]{16}$/),
      stripper: 'amaro',
    });
    expect(pool.load).toBe(0);
  });
});
