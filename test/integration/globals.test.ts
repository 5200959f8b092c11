/** What a script finds around it, and that a run is a function of its source, input, seed and deliveries. */
import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave, type Isolation } from '../../src/index.ts';
import { errorIn, valueIn } from './ends.ts';

const enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  toolHandler: (_name, args) => args,
});
afterAll(() => enclave.dispose());

describe.each<Isolation>(['context', 'realm'])('at level %s a script has', (isolation) => {
  it.each<[string, string, unknown]>([
    ['sleep', 'const start = Date.now(); await sleep(30); return Date.now() - start >= 29', true],
    [
      'sleep in order',
      'const o = []; await Promise.all([sleep(30).then(() => o.push(2)), sleep(1).then(() => o.push(1))]); return o',
      [1, 2],
    ],
    ['setTimeout with arguments', 'return await new Promise((done) => setTimeout(done, 1, "late"))', 'late'],
    [
      'clearTimeout',
      'const o = []; clearTimeout(setTimeout(() => o.push("never"), 1)); await sleep(20); return o',
      [],
    ],
    [
      'queueMicrotask',
      'const o = []; queueMicrotask(() => o.push(2)); o.push(1); await null; return o',
      [1, 2],
    ],
    [
      'structuredClone',
      'const a = { m: new Map([[1, new Date(5)]]) }; a.self = a; const b = structuredClone(a); return [b !== a, b.self === b, b.m.get(1).getTime()]',
      [true, true, 5],
    ],
    [
      'URL',
      'const u = new URL("../x?a=1&a=2#h", "https://u:p@exämple.org:8080/a/b/"); return [u.href, u.searchParams.getAll("a")]',
      ['https://u:p@xn--exmple-cua.org:8080/a/x?a=1&a=2#h', ['1', '2']],
    ],
    ['URLSearchParams', 'return new URLSearchParams({ q: "a b&c" }).toString()', 'q=a+b%26c'],
    [
      'TextEncoder and TextDecoder',
      'const b = new TextEncoder().encode("é€😀"); return [b.length, new TextDecoder().decode(b)]',
      [9, 'é€😀'],
    ],
    ['atob and btoa', 'return [btoa("hello"), atob("aGVsbG8=")]', ['aGVsbG8=', 'hello']],
    [
      'AbortController',
      'const c = new AbortController(); c.abort(new Error("why")); return [c.signal.aborted, c.signal.reason.message]',
      [true, 'why'],
    ],
    [
      'EventTarget',
      'const t = new EventTarget(); let n = 0; t.addEventListener("x", () => n++); t.dispatchEvent(new Event("x")); return n',
      1,
    ],
    ['Intl', 'return new Intl.NumberFormat("en").format(12345.6)', '12,345.6'],
    ['Temporal', 'return Temporal.PlainDate.from("2024-02-28").add({ days: 2 }).toString()', '2024-03-01'],
    [
      'UTC',
      'return [new Date(0).getTimezoneOffset(), Intl.DateTimeFormat().resolvedOptions().timeZone]',
      [0, 'UTC'],
    ],
    ['callTool and tools', 'return [await callTool("a", 1), await tools.a(2)]', [1, 2]],
  ])('%s', async (_name, code, value) => {
    expect(valueIn(await enclave.run(code, { isolation }))).toEqual(value);
  });

  it('nothing that reaches out of it', async () => {
    const names = [
      'process',
      'require',
      'module',
      'Buffer',
      'global',
      'fetch',
      'WebSocket',
      'WebAssembly',
      'SharedArrayBuffer',
      'Atomics',
      'WeakRef',
      'FinalizationRegistry',
      'performance',
      'ivm',
      '__enclave',
    ];
    const code = 'return input.filter((name) => name in globalThis)';
    expect(valueIn(await enclave.run(code, { input: names, isolation }))).toEqual([]);
    expect(errorIn(await enclave.run('await import("node:fs")', { isolation })).code).toBe('SCRIPT_ERROR');
  });
});

describe('a seed', () => {
  const code = 'return [Math.random(), Math.random(), Math.random()]';
  const draw = async (seed?: string | number, isolation?: Isolation) =>
    valueIn(await enclave.run<number[]>(code, { seed, isolation }));

  it('fixes Math.random, at every level', async () => {
    const first = await draw('seed');
    expect(new Set(first).size).toBe(3);
    for (const n of first) expect(n >= 0 && n < 1).toBe(true);
    for (const isolation of ['process', 'execution', 'context', 'realm'] as const) {
      expect(await draw('seed', isolation)).toEqual(first);
    }
    expect(await draw('other')).not.toEqual(first);
  });

  it('may be a number, and is another for each run by default', async () => {
    expect(await draw(7)).toEqual(await draw(7));
    expect(await draw(7)).not.toEqual(await draw(8));
    expect(await draw()).not.toEqual(await draw());
  });
});

describe('the clock', () => {
  it('stands still while the script computes', async () => {
    const code = `const at = [Date.now(), +new Date(), Temporal.Now.instant().epochMilliseconds];
      for (let i = 0; i < 5e6; i++); at.push(Date.now()); return at`;
    const times = valueIn(await enclave.run<number[]>(code));
    expect(new Set(times).size).toBe(1);
    expect(Math.abs((times[0] ?? 0) - Date.now())).toBeLessThan(60_000);
  });

  it('moves with what the script is handed', async () => {
    const code = 'const a = Date.now(); await sleep(25); return Date.now() - a';
    expect(valueIn(await enclave.run<number>(code))).toBeGreaterThanOrEqual(24);
  });
});
