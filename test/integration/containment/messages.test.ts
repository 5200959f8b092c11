/**
 * Containment, "Worker messages are untrusted": a program that speaks for a worker, and lies.
 *
 * The worker's program is replaced by one that takes each script as its orders: a `source` is the body of a
 * function of `m` (the start message), `send` (an object, framed), `raw` (bytes as they are) and `ok` (end the
 * attempt with a value). Started again after its worker was lost, an execution is `threaded`.
 */
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  createWorkerPoolAdapter,
  defineTool,
  Enclave,
  type RunOptions,
  type WorkerPoolOptions,
} from '../../../src/index.ts';
import { WorkerProcess } from '../../../src/sandbox/process.ts';

const LIAR = `
const net = require('node:net');
const socket = new net.Socket({ fd: 3, readable: true, writable: true });
const die = () => process.exit(0);
for (const end of ['close', 'end', 'error']) socket.on(end, die);
const raw = (bytes) => socket.write(bytes);
const send = (message) => {
  const body = Buffer.from(typeof message === 'string' ? message : JSON.stringify(message));
  const head = Buffer.alloc(4);
  head.writeUInt32LE(body.length);
  raw(Buffer.concat([head, body]));
};
const started = [];
let held = Buffer.alloc(0);
socket.on('data', (chunk) => {
  held = Buffer.concat([held, chunk]);
  while (held.length >= 4 && held.length >= 4 + held.readUInt32LE(0)) {
    const m = JSON.parse(held.toString('utf8', 4, 4 + held.readUInt32LE(0)));
    held = held.subarray(4 + held.readUInt32LE(0));
    if (m.t === 'ping') send({ t: 'pong', n: m.n });
    if (m.t !== 'start') continue;
    started.push(m.x);
    const step = (s, n = 0) => send({ t: 'step', x: m.x, n, cpu: 0, heap: 0, s });
    const ok = (value) => step({ items: [], end: { ok: true, json: JSON.stringify(value) } });
    new Function('m', 'send', 'raw', 'ok', 'step', 'started', m.source)(m, send, raw, ok, step, started);
  }
});
send({ t: 'ready', engine: 'liar', prelude: 'liar', stripper: 'liar' });
`;

vi.mock('node:child_process', async (original) => {
  const real = await original<typeof import('node:child_process')>();
  const spawn = (_command: string, _args: readonly string[], options: object) =>
    real.spawn(process.execPath, ['--eval', LIAR], options);
  return { ...real, default: { ...real, spawn }, spawn };
});

const strays: unknown[] = [];
const note = (error: unknown): unknown => strays.push(error);
process.on('unhandledRejection', note);
process.on('uncaughtExceptionMonitor', note);
process.on('warning', note);

const handled: unknown[] = [];
function open(options: WorkerPoolOptions = {}): Enclave {
  return new Enclave({
    adapter: createWorkerPoolAdapter({ poolSize: 1, maxRestarts: 10_000, ...options }),
    limits: { timeoutMs: 5_000 },
    tools: [
      defineTool({
        name: 'echo',
        handler: (args: unknown) => {
          handled.push(args);
          return args;
        },
      }),
    ],
  });
}
const enclave = open();
beforeEach(() => {
  handled.length = 0;
});
afterAll(async () => {
  await enclave.dispose();
  expect(strays, 'nothing surfaces in the host process').toEqual([]);
});

const run = (orders: string, options: RunOptions = {}) => enclave.run(orders, options);

/** Orders that are followed the first time; started again elsewhere, the execution ends well. */
const once = (orders: string): string => `if (m.threaded) return ok('recovered');\n${orders}`;

it('an honest program is believed', async () => {
  expect(await run('ok([1])')).toMatchObject({ success: true, value: [1] });
});

describe('bytes that are no frames of ours', () => {
  it.each([
    ['a length over the cap', 'raw(Buffer.from([0xff, 0xff, 0xff, 0xff]))'],
    [
      'a length just over the cap',
      'const b = Buffer.alloc(4); b.writeUInt32LE(64 * 1024 * 1024 + 1); raw(b)',
    ],
    ['garbage', 'raw(require === undefined ? "" : Buffer.from("garbage and no frame"))'],
    ['lines of JSON', 'raw(\'{"t":"ready"}\\n\'.repeat(1_000))'],
    ['a flood without a newline', 'for (let i = 0; i < 200; i++) raw(Buffer.alloc(1 << 20, 120))'],
    ["what Node's ipc channel would obey", 'raw(\'{"cmd":"NODE_HANDLE","type":"net.Server","msg":{}}\\n\')'],
    ['an empty frame', 'send("")'],
    ['a frame that is no JSON', 'send("{")'],
    ['null', 'send("null")'],
    ['an unknown message', 'send({ t: "spawn", x: m.x })'],
    ['a prototype for a message', 'send(\'{"__proto__":{"t":"pong","n":1}}\')'],
    [
      'a half-good batch',
      'send({ t: "pong", n: 1 }); send({ t: "step", x: m.x, n: 0, cpu: 0, heap: 0, s: { items: [["c", 0, "echo", "1"], 5] } })',
    ],
  ])('cost the worker its life and the run nothing: %s', async (_name, orders) => {
    const code = once(orders.replace('require === undefined ? "" : ', ''));
    const before = process.memoryUsage().rss;
    const result = await run(code);
    expect(result).toMatchObject({ success: true, value: 'recovered', stats: { attempts: 2 } });
    expect(process.memoryUsage().rss - before).toBeLessThan(80 * 1024 * 1024);
    expect(handled).toEqual([]);
    expect(await run('ok(1)')).toMatchObject({ success: true, value: 1 });
  });

  it('end the script as QUARANTINED if they come every time', async () => {
    const result = await run('raw(Buffer.from([0xff, 0xff, 0xff, 0xff]))');
    expect(result).toMatchObject({ success: false, error: { code: 'QUARANTINED' } });
    expect(await run('ok(1)')).toMatchObject({ success: true, value: 1 });
  });
});

it('a message that nobody can take in costs the worker its life, and its parent nothing', async () => {
  const told = Promise.withResolvers<Error>();
  const gone = Promise.withResolvers<string>();
  const worker = new WorkerProcess({
    maxWorkerMemory: 256 * 1024 * 1024,
    maxWarmIsolates: 1,
    uid: undefined,
    gid: undefined,
    onMessage: () => {
      throw new Error('no way to take this in');
    },
    onViolation: told.resolve,
    onExit: gone.resolve,
  });
  expect((await told.promise).message).toBe('no way to take this in');
  expect(await gone.promise).toBe('SIGKILL');
  expect(worker.pid).toBeGreaterThan(0);
});

describe('a message for an execution that this worker was not given', () => {
  it.each([
    ['one that never was', 'x: 999_999_999'],
    ['the next', 'x: m.x + 1'],
    ['the one before', 'x: m.x - 1'],
    ['attempt 0', 'x: 0'],
  ])('is dropped: %s', async (_name, x) => {
    const orders = `
      const end = { ok: true, json: '"forged"' };
      send({ t: 'step', ${x}, n: 0, cpu: 0, heap: 0, s: { items: [["c", 0, "echo", "1"]], end } });
      send({ t: 'items', ${x}, items: [["c", 0, "echo", "1"]] });
      send({ t: 'stopped', ${x}, code: 'MEMORY_LIMIT_EXCEEDED', message: '', stack: '', cpu: 0, heap: 0 });
      send({ t: 'preempted', ${x}, heavy: true });
      ok('own')`;
    expect(await run(orders)).toMatchObject({ success: true, value: 'own', stats: { attempts: 1 } });
    expect(handled).toEqual([]);
  });

  it('is dropped though another worker was given it', async () => {
    await using pair = open({ poolSize: 2, minWorkers: 2, maxConcurrentPerWorker: 1 });
    const ready = (): number => pair.stats().workers.filter(({ state }) => state === 'ready').length;
    await expect.poll(ready, { timeout: 10_000 }).toBe(2);
    // The victim waits on one worker while the other speaks in its name, for every attempt there could be.
    const victim = pair.run('setTimeout(() => ok("mine"), 500)');
    const forger = pair.run(`
      for (let x = 0; x < m.x + 100; x++) if (x !== m.x) {
        send({ t: 'step', x, n: 0, cpu: 0, heap: 0, s: { items: [["c", 0, "echo", "forged"]], end: { ok: true, json: '"forged"' } } });
        send({ t: 'stopped', x, code: 'CANCELLED', message: '', stack: '', cpu: 0, heap: 0 });
      }
      ok("forger")`);
    expect(await forger).toMatchObject({ success: true, value: 'forger' });
    expect(await victim).toMatchObject({ success: true, value: 'mine', stats: { attempts: 1 } });
    expect(handled).toEqual([]);
  });

  it('is dropped when the execution has ended', async () => {
    const orders = `ok('first'); ok('second'); step({ items: [["c", 0, "echo", "1"]] }); send({ t: 'preempted', x: m.x, heavy: true })`;
    const events: string[] = [];
    const result = await run(orders, { onEvent: ({ type }) => events.push(type) });
    expect(result).toMatchObject({ success: true, value: 'first' });
    expect(
      await run(
        'for (const x of started) if (x !== m.x) send({ t: "step", x, n: 0, cpu: 0, heap: 0, s: { items: [], end: { ok: true, json: "7" } } }); ok(2)',
      ),
    ).toMatchObject({ value: 2 });
    expect(events).toEqual(['session_init', 'final']);
    expect(handled).toEqual([]);
  });
});

describe('a program that says it is ready again', () => {
  it('is one worker all the same, and its death is the death of one', async () => {
    await using own = open();
    const again = { t: 'ready', engine: '', prelude: '', stripper: '' };
    expect(await own.run(`for (let i = 0; i < 5; i++) send(${JSON.stringify(again)}); ok(1)`)).toMatchObject({
      value: 1,
    });
    expect(own.stats().workers).toHaveLength(1);
    for (let round = 0; round < 6; round++) {
      const [worker] = own.stats().workers;
      if (worker !== undefined) process.kill(worker.pid, 'SIGKILL');
      // More than one, so that one of them is placed on a worker that is only remembered.
      const results = await Promise.all([own.run('ok(2)'), own.run('ok(2)'), own.run('ok(2)')]);
      for (const result of results) expect(result).toMatchObject({ success: true, value: 2 });
    }
    expect(own.stats().active).toBe(0);
  });
});

describe('calls that no script of ours makes', () => {
  it.each([
    ['arguments that are no JSON', '[["c", 0, "echo", "no json"]]'],
    ['a name that is no name', '[["c", 0, "__proto__", ""]]'],
    ['a name as long as a book', '[["c", 0, "x".repeat(1e6), ""]]'],
    ['an index out of order', '[["c", 7, "echo", "1"]]'],
    ['an index twice', '[["c", 0, "echo", "1"], ["c", 0, "echo", "2"]]'],
    ['a sleep beyond all timers', '[["s", 0, 1e300]]'],
    ['a prototype in the arguments', '[["c", 0, "echo", \'{"__proto__":{"polluted":1}}\']]'],
  ])('do not harm the host: %s', async (_name, items) => {
    // With and without a listener: events read the arguments too.
    for (const options of [{}, { onEvent: () => undefined }]) {
      const result = await run(`step({ items: ${items} }); setTimeout(() => ok('end'), 50)`, {
        limits: { timeoutMs: 500 },
        ...options,
      });
      if (result.success) expect(result.value).toMatch(/^(end|recovered)$/);
      else
        expect(result.error.code).toMatch(
          /^(NONDETERMINISTIC_REPLAY|WORKER_CRASHED|QUARANTINED|EXECUTION_TIMEOUT)$/,
        );
    }
    expect(strays.splice(0), 'nothing surfaces in the host process').toEqual([]);
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
    expect(await run('ok(1)')).toMatchObject({ success: true, value: 1 });
  });

  it('are limited by the host too', async () => {
    const items = 'Array.from({ length: 1_000 }, (_, i) => ["c", i, "echo", "1"])';
    const result = await run(`step({ items: ${items} })`, { limits: { maxToolCalls: 10 } });
    expect(result).toMatchObject({ success: false, error: { code: 'TOOL_CALL_LIMIT_EXCEEDED' } });
    expect(handled.length).toBeLessThanOrEqual(10);
  });

  it('of output are limited by the host too', async () => {
    let bytes = 0;
    const orders = 'setInterval(() => send({ t: "items", x: m.x, items: [["o", "x".repeat(1e5)]] }), 1)';
    const result = await run(orders, {
      limits: { maxOutputBytes: 250_000 },
      onEvent: ({ type, payload }) => {
        if (type === 'stdout') bytes += payload.chunk.length;
      },
    });
    expect(result).toMatchObject({ success: false, error: { code: 'OUTPUT_LIMIT_EXCEEDED' } });
    expect(bytes).toBeLessThanOrEqual(250_000);
  });
});

describe('an end that no script of ours has', () => {
  it.each([
    ['a value that is no JSON', '{ ok: true, json: "{" }', 'SERIALIZATION_ERROR'],
    [
      'a value over the limit',
      '{ ok: true, json: JSON.stringify("x".repeat(2e6)) }',
      'RESULT_LIMIT_EXCEEDED',
    ],
    [
      'a name that is a code',
      '{ ok: false, code: "SCRIPT_ERROR", name: "EXECUTION_TIMEOUT", message: "m", stack: "" }',
      'SCRIPT_ERROR',
    ],
  ])('is told as what it is: %s', async (_name, end, code) => {
    const result = await run(`step({ items: [], end: ${end} })`);
    expect(result).toMatchObject({ success: false, error: { code, retryable: false } });
  });

  it('does not make its texts as long as a frame', async () => {
    const text = '"x".repeat(4e6)';
    const result = await run(
      `step({ items: [], end: { ok: false, code: "SCRIPT_ERROR", name: ${text}, message: ${text}, stack: ${text} } })`,
    );
    expect(JSON.stringify(result).length).toBeLessThan(40_000);
  });

  it('of an execution that nobody cancelled is not CANCELLED', async () => {
    const result = await run(
      once(`send({ t: 'stopped', x: m.x, code: 'CANCELLED', message: 'no', stack: '', cpu: 0, heap: 0 })`),
    );
    if (!result.success) expect(result.error.code).not.toBe('CANCELLED');
  });
});

describe('a program that does not obey', () => {
  it('is killed when it does not stop a script in time', async () => {
    const [before] = enclave.stats().workers;
    const result = await run('setInterval(() => 0, 1_000)', { limits: { timeoutMs: 100 } });
    expect(result).toMatchObject({ success: false, error: { code: 'EXECUTION_TIMEOUT' } });
    await expect.poll(() => enclave.stats().workers.map(({ pid }) => pid)).not.toContain(before?.pid);
    expect(await run('ok(1)')).toMatchObject({ success: true, value: 1 });
  });

  it('gains no more than its time by asking to be started again', async () => {
    const result = await run(`send({ t: 'preempted', x: m.x, heavy: true })`, { limits: { timeoutMs: 300 } });
    expect(result.success).toBe(false);
    expect(result.stats.duration).toBeLessThan(2_000);
    expect(await run('ok(1)')).toMatchObject({ success: true, value: 1 });
  });
});
