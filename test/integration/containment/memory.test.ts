/** Containment, "Memory": what the isolate's own limit does not count is refused, or seen from outside. */
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { LEVELS, openArena } from './arena.ts';

const MiB = 1024 * 1024;
const MAX_WORKER_MEMORY = 256 * MiB;
const arena = openArena({}, { maxWorkerMemory: MAX_WORKER_MEMORY });
afterAll(() => arena[Symbol.asyncDispose]());
afterEach(async () => {
  // An idle worker is measured once a second, and recycled if it holds too much.
  const largest = () => Math.max(0, ...arena.enclave.stats().workers.map(({ memoryBytes }) => memoryBytes));
  await expect
    .poll(largest, { message: 'what an attack took is given back', timeout: 10_000 })
    .toBeLessThan(MAX_WORKER_MEMORY);
});

const limits = { cpuMs: 10_000, timeoutMs: 15_000 };

describe('a script that fills its heap', () => {
  it.each([
    'const a = []; for (;;) a.push(new Array(1e5).fill(1))',
    'const m = new Map(); for (let i = 0; ; i++) m.set(i, { i })',
    'const o = {}; for (let i = 0; ; i++) o["key" + i] = [i]',
    'let a = ["x".repeat(1e6)]; for (;;) a.push(a.join("y"))',
    'let a = [1]; for (let i = 0; i < 40; i++) a = [a, a]; return a.flat(Infinity).length',
    'const held = []; for (;;) { held.push(new Array(1e4).fill(held.length)); await callTool("echo", 1); }',
    'const chain = []; for (;;) chain.push((async () => { await new Promise(() => {}) })())',
    'for (let s = "x".repeat(2 ** 20), kept = []; ; ) { s += "y"; kept.push(s.charCodeAt(9) + s); /z/.test(s); }',
  ])('ends as MEMORY_LIMIT_EXCEEDED, never as a time-out: %s', async (code) => {
    const error = await arena.error(code, { limits: { ...limits, maxToolCalls: 100_000 } });
    expect(error).toMatchObject({ code: 'MEMORY_LIMIT_EXCEEDED', outcome: 'completed' });
  });
});

describe('the watchdog outside the process', () => {
  it.each([
    'return /y/.test("x".repeat(2 ** 29 - 24))',
    'return "x".repeat(2 ** 26).split("").length',
    'return "\\uFDFA".repeat(2 ** 24).normalize("NFKD").length',
  ])('sees memory that the isolate does not count: %s', async (code) => {
    const before = await arena.value('return 1').then(arena.pids);
    expect(await arena.error(code, { limits })).toMatchObject({
      code: 'MEMORY_LIMIT_EXCEEDED',
      message: expect.stringContaining('maxWorkerMemory'),
    });
    expect(arena.pids()).not.toEqual(before);
  });
});

describe('one builtin that asks for much at once', () => {
  const ends =
    /^(MEMORY_LIMIT_EXCEEDED|CPU_LIMIT_EXCEEDED|SCRIPT_ERROR|SERIALIZATION_ERROR|RESULT_LIMIT_EXCEEDED)$/;
  it.each([
    'return "x".repeat(2 ** 30)',
    'return "x".repeat(2 ** 28)',
    'return "x".padEnd(2 ** 28, "yz").toUpperCase().length',
    'return new Array(2 ** 27).join("xyz").replaceAll("x", "yy").length',
    'return "x".repeat(2 ** 20).replaceAll("x", "y".repeat(1_000)).length',
    'const bytes = new Uint8Array(2 ** 24).fill(1); const kept = []; for (;;) kept.push(structuredClone(bytes))',
    'return encodeURIComponent("\\uffff".repeat(2 ** 24)).length',
    'return JSON.stringify("\\u0001".repeat(2 ** 26)).length',
    'return new Uint8Array(2 ** 33).length',
    'return new Float64Array(2 ** 26).fill(1.5).join().length',
    'return new ArrayBuffer(2 ** 33).byteLength',
    'const a = []; for (;;) a.push(new Uint8Array(1e7).fill(1))',
    'return new Array(2 ** 31)',
    'let o = ["x".repeat(1_000)]; for (let i = 0; i < 30; i++) o = [o, o]; return o',
    'let o = ["x".repeat(1_000)]; for (let i = 0; i < 30; i++) o = [o, o]; return await callTool("echo", o)',
    'let o = ["x".repeat(1_000)]; for (let i = 0; i < 30; i++) o = [o, o]; return structuredClone(o)',
    'const kept = []; for (;;) kept.push("x".padStart(2 ** 27 + kept.length).replace(/x$/, "y").charCodeAt(1))',
    'return 2n ** (2n ** 30n)',
    'return new TextEncoder().encode("x".repeat(2 ** 28)).length',
    'return btoa("x".repeat(2 ** 28)).length',
    'return [..."x".repeat(2 ** 27)].length',
    'return Array.from({ length: 2 ** 28 }, () => ({})).length',
    'console.log("x".repeat(2 ** 28).split("")); return 1',
  ])('fails by itself: %s', async (code) => {
    const error = await arena.error(code);
    expect(error.code).toMatch(ends);
    if (error.code === 'SCRIPT_ERROR') expect(error.name).toMatch(/^(RangeError|DOMException|TypeError)$/);
  });
});

describe('memory that no limit counts', () => {
  it.each(LEVELS)('cannot be had at level %s', async (isolation) => {
    const code = `
      const names = ['WebAssembly', 'SharedArrayBuffer', 'Atomics'];
      const reached = new Set();
      const walk = (value) => {
        if ((typeof value !== 'object' && typeof value !== 'function') || value === null || reached.has(value)) return;
        reached.add(value);
        walk(Object.getPrototypeOf(value));
        for (const key of Reflect.ownKeys(value)) {
          const { value: held, get, set } = Object.getOwnPropertyDescriptor(value, key) ?? {};
          walk(held), walk(get), walk(set);
        }
      };
      for (const key of Reflect.ownKeys(globalThis)) if (key !== 'tools') walk(globalThis[key]);
      const found = [...reached].filter((value) => typeof value === 'function' && /^(Memory|SharedArrayBuffer|Module|Instance)$/.test(Object.getOwnPropertyDescriptor(value, 'name')?.value));
      return [names.filter((name) => name in globalThis), found.length, reached.size > 500, typeof ArrayBuffer.prototype.resize]`;
    expect(await arena.value(code, { isolation })).toEqual([[], 0, true, 'undefined']);
  });

  it.each([
    'new ArrayBuffer(8, { maxByteLength: 2 ** 30 })',
    'new ArrayBuffer(8, { get maxByteLength() { return this.n = (this.n ?? 0) + 1, this.n > 1 ? 2 ** 30 : 8 } })',
    'Reflect.construct(ArrayBuffer, [8, { maxByteLength: 2 ** 30 }])',
    'new (class extends ArrayBuffer { constructor() { super(8, { maxByteLength: 2 ** 30 }) } })()',
    'new (new Uint8Array(8).buffer.constructor)(8, { maxByteLength: 2 ** 30 })',
    'new (structuredClone(new ArrayBuffer(8)).constructor)(8, { maxByteLength: 2 ** 30 })',
    'new (Object.getPrototypeOf(ArrayBuffer.prototype.slice.call(new ArrayBuffer(8), 1)).constructor)(8, { maxByteLength: 9 })',
    'new ArrayBuffer(8, Object.assign(() => {}, { maxByteLength: 2 ** 30 }))',
  ])('no ArrayBuffer is resizable: %s', async (code) => {
    const value = await arena.value(
      `try { const b = ${code}; return b.resizable || b.maxByteLength !== b.byteLength } catch (e) { return e.name }`,
    );
    expect(value).toEqual(expect.toSatisfy((seen: unknown) => seen === false || seen === 'RangeError'));
  });
});

describe('a kept isolate', () => {
  it('is not filled by the contexts of the executions before', async () => {
    const options = { tenant: 'regular', limits: { memoryBytes: 16 * MiB } };
    const sizes: number[] = [];
    for (let round = 0; round < 1_000; round++) {
      const result = await arena.enclave.run('return 1', options);
      expect(result.success).toBe(true);
      sizes.push(result.stats.memoryUsage);
    }
    expect(Math.max(...sizes)).toBeLessThan(12 * MiB);
  }, 60_000);

  it('is thrown away when what it holds leaves too little for the next script', async () => {
    const options = { tenant: 'hoarder', isolation: 'realm', limits: { memoryBytes: 32 * MiB } } as const;
    for (let round = 0; round < 10; round++) {
      const code =
        'const kept = []; for (let i = 0; i < 12; i++) kept.push(new Array(1e5).fill(i)); return kept.length';
      expect(await arena.value(code, options)).toBe(12);
    }
  });
});
