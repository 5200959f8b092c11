/** Containment, "Realm and source": what a script finds is fixed, and nothing of it is there for the next. */
import { afterAll, describe, expect, it } from 'vitest';
import { HEAVY, LEVELS, openArena } from './arena.ts';

const arena = openArena();
afterAll(() => arena[Symbol.asyncDispose]());

/** Ways to leave something behind, and how the next script would find it. */
const LEAKS: readonly (readonly [string, string, string])[] = [
  ['a global', 'globalThis.leak = 1; var leak2 = 1; leak3 = 1', 'typeof leak + typeof leak2 + typeof leak3'],
  [
    'a property of an intrinsic',
    'Array.leak = 1; Math.leak = 1; JSON.leak = 1; Reflect.leak = 1',
    '[Array.leak, Math.leak, JSON.leak, Reflect.leak].join()',
  ],
  [
    'a method of a prototype',
    'Array.prototype.leak = 1; Object.prototype.leak = 1; Promise.prototype.leak = 1',
    '[[].leak, {}.leak, Promise.prototype.leak].join()',
  ],
  [
    'a patched prototype',
    'Array.prototype.map = () => "leak"; Map.prototype.get = () => "leak"; String.prototype.trim = () => "leak"',
    '[1].map((n) => n).join() + new Map([[1, 2]]).get(1) + " x ".trim()',
  ],
  [
    'prototypes without a name',
    '(async () => {}).constructor.prototype.leak = 1; Object.getPrototypeOf(function* () {}).leak = 1; Object.getPrototypeOf((async function* () {})()).leak = 1',
    '[(async () => {}).leak, (function* () {}).leak, (async function* () {})().leak].join()',
  ],
  [
    'prototypes of iterators',
    'for (const it of [[].values(), new Map().keys(), new Set().keys(), ""[Symbol.iterator](), "a".matchAll(/a/g), [].values().map((x) => x), Iterator.from({ next() {} })]) Object.getPrototypeOf(it).leak = 1',
    '[[].values(), new Map().keys(), new Set().keys(), ""[Symbol.iterator](), "a".matchAll(/a/g), [].values().map((x) => x), Iterator.from({ next() {} })].map((it) => it.leak).join()',
  ],
  [
    'prototypes of text segments',
    'const s = new Intl.Segmenter().segment("a"); Object.getPrototypeOf(s).leak = 1; Object.getPrototypeOf(s[Symbol.iterator]()).leak = 1',
    '(() => { const s = new Intl.Segmenter().segment("a"); return [s.leak, s[Symbol.iterator]().leak].join() })()',
  ],
  [
    'the last match',
    '/(se)(cret)/.exec("a secret"); RegExp.input = "secret"',
    'RegExp.$1 + RegExp.lastMatch + RegExp.input + RegExp["$`"]',
  ],
  [
    'our functions',
    'for (const f of [callTool, sleep, setTimeout, console.log, structuredClone, URL, TextEncoder]) { f.leak = 1; if (f.prototype) f.prototype.leak = 1 }',
    '[callTool, sleep, setTimeout, console.log, structuredClone, URL, TextEncoder].map((f) => f.leak + "" + f.prototype?.leak).join()',
  ],
  [
    'the tools object',
    'try { tools.leak = 1 } catch {} try { Object.defineProperty(tools, "leak", { value: 1 }) } catch {} try { Object.setPrototypeOf(tools, { leak: 1 }) } catch {} for (const k of ["prototype", "name", "length"]) try { Object.getOwnPropertyDescriptor(tools, k).value.leak = 1 } catch {}',
    '["leak", "prototype"].map((k) => { const d = Object.getOwnPropertyDescriptor(tools, k); return d === undefined ? "" : String(d.value?.leak) }).join()',
  ],
  [
    'the shape of the tools object',
    'try { Object.preventExtensions(tools) } catch {} try { Object.freeze(tools) } catch {}',
    'Object.isExtensible(tools) + (() => { try { return Reflect.ownKeys(tools).length + ("x" in tools) } catch { return "broken" } })()',
  ],
  [
    'the console',
    'console.group("leak"); console.group("leak"); console.count("leak"); console.time("leak"); console.leak = 1; console.log = () => {}',
    'console.leak + String(console.log)',
  ],
  [
    'the input',
    'input = { leak: 1 }; try { Object.defineProperty(globalThis, "input", { value: { leak: 1 } }) } catch {}',
    'typeof input',
  ],
  [
    'the clock and randomness',
    'for (let i = 0; i < 10; i++) Math.random(); Date.now = () => 1; Math.random = () => 4; Date.prototype.getTime = () => 5',
    'Math.random() + "" + (Date.now() > 1e12) + (new Date().getTime() > 5)',
  ],
  [
    'Error',
    'Error.stackTraceLimit = 0; Error.leak = 1; Error.prototype.name = "Leak"; TypeError.prototype.message = "leak"',
    'Error.stackTraceLimit + new Error("x").name + new TypeError().message + Error.leak',
  ],
  [
    'the methods of prototypes',
    'for (const f of [[].push, {}.valueOf, (() => 1).call, Promise.prototype.then, new Map().get, /a/.exec, new Date().getTime, Array.prototype[Symbol.unscopables]]) f.leak = 1',
    '[[].push, {}.valueOf, (() => 1).call, Promise.prototype.then, new Map().get, /a/.exec, new Date().getTime, Array.prototype[Symbol.unscopables]].map((f) => f.leak).join()',
  ],
  [
    'what all errors and argument lists share',
    'for (const e of [new Error(), (() => { try { null.x } catch (e) { return e } })()]) { const d = Object.getOwnPropertyDescriptor(e, "stack"); for (const f of [d.get, d.set]) if (f) f.leak = 1 } (function () { arguments[Symbol.iterator].leak = 1 })()',
    '(() => { const d = Object.getOwnPropertyDescriptor(new Error(), "stack"); return [d.get?.leak, d.set?.leak, (function () { return arguments[Symbol.iterator].leak })()].join() })()',
  ],
  [
    'the prototype of the global',
    'try { Object.setPrototypeOf(globalThis, { leak: 1 }) } catch {} try { Object.getPrototypeOf(globalThis).leak = 1 } catch {}',
    'typeof leak',
  ],
  [
    'classes made late',
    'void Temporal; Temporal.leak = 1; Temporal.Now.leak = 1; Temporal.Instant.prototype.leak = 1; AbortSignal.leak = 1; DOMException.prototype.leak = 1; URLSearchParams.prototype.leak = 1',
    '[Temporal.leak, Temporal.Now.leak, Temporal.Instant.prototype.leak, AbortSignal.leak, DOMException.prototype.leak, URLSearchParams.prototype.leak].join()',
  ],
  [
    'objects of Intl',
    'Intl.leak = 1; Intl.DateTimeFormat.prototype.leak = 1; Intl.NumberFormat.leak = 1',
    '[Intl.leak, Intl.DateTimeFormat.prototype.leak, Intl.NumberFormat.leak].join()',
  ],
];

// A realm that is used again is where something could stay; the other levels start from the V8 snapshot each time.
describe('at level realm', () => {
  it.each(LEAKS)('the next script of the same tenant does not find %s', async (name, leave, find) => {
    const look = `return String(${find})`;
    const options = { tenant: name, isolation: 'realm', seed: 'same' } as const;
    const clean = await arena.value(look, { ...options, tenant: `${name}, clean` });
    // A hardened realm may refuse to be changed: then there is nothing to find.
    const left = await arena.attack(`${leave}\n;return 1`, options);
    if (!left.success) expect(left.error).toMatchObject({ code: 'SCRIPT_ERROR', name: 'TypeError' });
    expect(await arena.value(look, options)).toBe(clean);
    expect(await arena.value(`${HEAVY}${look}`, options)).toBe(clean);
  });
});

describe.each(LEVELS)('at level %s', (isolation) => {
  const leave = LEAKS.map(
    ([, code]) => `try { (0, eval)(${JSON.stringify(`{${code.replaceAll('const ', 'var ')}}`)}) } catch {}`,
  ).join('\n');
  const look = `return [${LEAKS.map(([, , find]) => `String(${find})`).join(', ')}]`;

  it('another tenant finds nothing at all', async () => {
    const clean = await arena.value(look, { tenant: `${isolation} c`, isolation, seed: 1 });
    await arena.enclave.run(`${leave} return 1`, { tenant: `${isolation} a`, isolation });
    expect(await arena.value(look, { tenant: `${isolation} b`, isolation, seed: 1 })).toEqual(clean);
  });

  it('the same tenant finds nothing either', async () => {
    const options = { tenant: `${isolation} again`, isolation, seed: 1 };
    const clean = await arena.value(look, { ...options, tenant: `${isolation} clean` });
    await arena.enclave.run(`${leave} return 1`, options);
    expect(await arena.value(look, options)).toEqual(clean);
  });

  it('programs that assign as programs do still work', async () => {
    const code = `
      class Mine extends Error { constructor(m) { super(m); this.name = 'Mine'; this.message = m + '!'; } }
      const plain = new Error('x'); plain.name = 'Plain'; plain.stack = 'short';
      const o = {}; o.toString = () => 'o'; o.constructor = 1; o.hasOwnProperty = 2;
      function Old() {} Old.prototype.toString = () => 'old';
      const list = [1]; list.push(2); list.map = 3; list.concat = undefined;
      class Stack extends Array { push(...a) { return super.push(...a) } }
      const s = new Stack(); s.push(1);
      return [new Mine('m').name, new Mine('m').message, plain.name, plain.stack, String(o), o.constructor, String(new Old()), list.map, s.length, Object.keys(o)]`;
    expect(await arena.value(code, { tenant: 'plain', isolation })).toEqual([
      'Mine',
      'm!',
      'Plain',
      'short',
      'o',
      1,
      'old',
      3,
      1,
      ['toString', 'constructor', 'hasOwnProperty'],
    ]);
  });
});

describe('a body', () => {
  it.each([
    '}); globalThis.x = 1; (async function () {',
    '}; return 1; {',
    'return 1 }',
    '}',
    ') { } (',
    '*/ return 1 /*',
    'return 1 /*',
    'return `',
    '}) => { }); (async () => {',
    '}\n, async function () { return 1',
    '} finally { return 1',
    'enum A { B } }); (async () => {',
    'let x: number = 1 } async function body2() {',
    '<!-- \n }); return 1; ({',
    'export const a = 1',
    'import fs from "node:fs"; return fs',
    'return 1;\u2028}',
  ])('cannot close what it is wrapped in: %j', async (code) => {
    expect(await arena.error(code)).toMatchObject({ code: 'SYNTAX_ERROR', outcome: 'not_started' });
  });

  it('is a function of its own: it sees no variable of ours', async () => {
    const names = [
      'source',
      'body',
      'enter',
      'kit',
      'host',
      'global',
      'config',
      'waiting',
      'kinds',
      'fatal',
      'items',
      'trace',
      'sources',
      'scriptName',
      '__awaiter',
      'HEAD',
    ];
    expect(await arena.value(`return [${names.map((name) => `typeof ${name}`).join()}]`)).toEqual(
      names.map(() => 'undefined'),
    );
    expect(await arena.value('return [typeof this, arguments.length, this === globalThis]')).toEqual([
      'object',
      0,
      true,
    ]);
  });

  it('is capped in size, in bytes', async () => {
    const limits = { maxSourceBytes: 1_000 };
    for (const code of ['/'.repeat(1_001), `//${'\u20ac'.repeat(333)}`]) {
      expect(await arena.error(code, { limits })).toMatchObject({
        code: 'SOURCE_LIMIT_EXCEEDED',
        outcome: 'not_started',
      });
    }
  });
});

describe('a stack', () => {
  it.each([
    'throw new Error("x")\n//# sourceURL=/etc/passwd',
    'throw new Error("x")\n//@ sourceURL=evil.js',
    'throw new Error("x") //# sourceURL=evil.js',
    'throw new Error("x")\n//# sourceMappingURL=data:application/json,{}',
    'throw new Error("x")\n//# sourceURL=evil.js\n//# sourceURL=evil two.js',
    'throw new Error("x") /*\n//# sourceURL=evil.js\n*/',
  ])('names the script however it names itself: %j', async (code) => {
    expect((await arena.error(code)).stack).toBe('Error: x\n    at script.js:1:7');
  });

  it.each([
    ['eval', '(0, eval)("\\n\\n\\nnull.x\\n//# sourceURL=/host/file.js")'],
    ['new Function', 'new Function("null.x")()'],
    ['a callback of a builtin', '[1].map(() => { null.x })'],
    ['a tool', '\n\n  await callTool("fail")'],
    ['a sleep', 'await sleep(1); null.x'],
    ['the end of the stack', 'const f = () => f(); f()'],
    ['JSON', 'JSON.parse("{")'],
    ['URL', 'new URL("no url")'],
    ['structuredClone', 'structuredClone(() => 1)'],
    ['console', 'console.log({ get [Symbol.toStringTag]() { throw new Error("x") } })'],
    ['import', 'await import("node:fs")'],
    ['a promise', 'await Promise.any([Promise.reject(new Error("x"))])'],
    ['a getter', 'return { get a() { return null.x } }'],
  ])('shows lines of the script only, through %s', async (_name, code) => {
    for (const weight of ['', HEAVY]) {
      const { stack = '' } = await arena.error(`${weight}${code}`);
      for (const line of stack.split('\n').filter((text) => text.startsWith('    at ')))
        expect(line).toMatch(/^ {4}at (async )?([^()/]+ )?\(?script\.js:\d+:\d+\)?…?$/);
      expect(stack).not.toMatch(/guest|__enclave|<anonymous>|native/);
    }
  });

  it('is the same in every run, at every level, in every worker', async () => {
    const code = `const deep = (n) => n === 0 ? new Error('here').stack : deep(n - 1);
      const late = async () => { await sleep(0); return new Error('there').stack };
      return [deep(3), await late(), await callTool('fail').catch((e) => e.stack), (() => { try { null.x } catch (e) { return e.stack } })()]`;
    const first = await arena.value(code);
    for (const isolation of LEVELS) {
      expect(await arena.value(code, { isolation })).toEqual(first);
      expect(await arena.value(code, { isolation })).toEqual(first);
    }
    process.kill(arena.pids()[0] ?? 0, 'SIGKILL');
    expect(await arena.value(code)).toEqual(first);
  });

  it('tells its right line and column after the script moved to another thread', async () => {
    const error = await arena.error(`${HEAVY}\n  throw new Error("x")`);
    expect(error.stack).toBe('Error: x\n    at script.js:3:9');
  });
});

describe('dynamic import and debugger', () => {
  it('bring nothing in and stop nothing', async () => {
    const code = `const seen = []; for (const name of ['node:fs', 'fs', './x.js', '/etc/passwd', 'data:text/javascript,export default 1', 'file:///etc/passwd'])
      seen.push(await import(name).then(() => 'loaded', (e) => e.name + typeof e.code)); debugger; return seen`;
    expect(new Set((await arena.value(code)) as string[])).toEqual(new Set(['Errorundefined']));
  });
});

describe('what differs from run to run', () => {
  const code = `
    const p = (v) => { try { return String(v()) } catch (e) { return e.name } };
    const zone = (o) => [o.locale, o.timeZone, o.calendar, o.numberingSystem].join();
    return [
      ...Array.from({ length: 5 }, () => Math.random()),
      zone(new Intl.DateTimeFormat().resolvedOptions()), new Intl.NumberFormat().resolvedOptions().locale, new Intl.Collator().resolvedOptions().locale,
      new Date(2020, 0, 1).toISOString(), new Date(2020, 6, 1).getTimezoneOffset(), new Date(0).toString(), new Date(0).toLocaleString(), (1234.5).toLocaleString(),
      ['ä', 'a', 'z', 'Z'].sort((a, b) => a.localeCompare(b)).join(''), 'İI'.toLocaleLowerCase(),
      p(() => Temporal.Now.timeZoneId()), Object.getOwnPropertyNames(globalThis).join(), p(() => new Error('s').stack),
    ]`;

  it.each(LEVELS)('is fixed at level %s: randomness, zone, locale, globals, stacks', async (isolation) => {
    const one = (await arena.value(code, { isolation, seed: 'a', tenant: 'one' })) as unknown[];
    expect(await arena.value(code, { isolation, seed: 'a', tenant: 'one' })).toEqual(one);
    expect(await arena.value(code, { isolation, seed: 'a', tenant: 'two' })).toEqual(one);
    expect(await arena.value(`${HEAVY}${code}`, { isolation, seed: 'a', tenant: 'two' })).toEqual([
      ...one.slice(0, -1),
      expect.stringContaining('script.js'),
    ]);
    expect(one.slice(5, 9)).toEqual(['en-US,UTC,gregory,latn', 'en-US', 'en-US', '2020-01-01T00:00:00.000Z']);
    expect(one[9]).toBe(0);
  });

  it('is another sequence for another seed, and for none', async () => {
    const draw = 'return [Math.random(), Math.random()]';
    const seen = new Set<string>();
    for (const seed of ['a', 'b', 1, 2, 1.5, '', undefined, undefined, undefined]) {
      const [first, second] = (await arena.value(draw, seed === undefined ? {} : { seed })) as [
        number,
        number,
      ];
      for (const drawn of [first, second]) {
        expect(drawn).toBeGreaterThanOrEqual(0);
        expect(drawn).toBeLessThan(1);
      }
      expect(first).not.toBe(second);
      seen.add(String(first));
    }
    expect(seen.size).toBe(9);
  });

  it('is the same time from every clock, which stands still between deliveries and never goes back', async () => {
    const before = Date.now();
    const code = `
      const clocks = () => [
        Date.now(), new Date().getTime(), +new Date(), Date.parse(new Date().toISOString()), Reflect.construct(Date, []).getTime(), new (class extends Date {})().getTime(),
        Temporal.Now.instant().epochMilliseconds, Temporal.Now.zonedDateTimeISO().epochMilliseconds, Temporal.Now.zonedDateTimeISO('Asia/Tokyo').epochMilliseconds,
        Temporal.Now.plainDateTimeISO().toZonedDateTime('UTC').epochMilliseconds,
      ];
      const texts = () => [
        Date() === new Date().toString(),
        new Intl.DateTimeFormat('en', { dateStyle: 'full', timeStyle: 'long' }).format() === new Intl.DateTimeFormat('en', { dateStyle: 'full', timeStyle: 'long' }).format(Date.now()),
        JSON.stringify(new Intl.DateTimeFormat('en', { timeStyle: 'long', fractionalSecondDigits: undefined }).formatToParts()) === JSON.stringify(new Intl.DateTimeFormat('en', { timeStyle: 'long' }).formatToParts(Date.now())),
        new Intl.DateTimeFormat('en', { fractionalSecondDigits: 3, second: 'numeric' }).format(undefined) === new Intl.DateTimeFormat('en', { fractionalSecondDigits: 3, second: 'numeric' }).format(Date.now()),
        new Date().toLocaleString() === new Date(Date.now()).toLocaleString(),
        (typeof Event === 'function' ? new Event('x').timeStamp : 0) % 1 === 0,
      ];
      const times = [clocks()];
      for (let i = 0; i < 2e6; i++);
      times.push(clocks());
      await null; await Promise.resolve();
      times.push(clocks());
      await sleep(30);
      times.push(clocks());
      await callTool('echo', 1);
      times.push(clocks());
      return [times, texts()]`;
    const [times, texts] = (await arena.value(code)) as [number[][], boolean[]];
    for (const clocks of times) expect(new Set(clocks).size).toBe(1);
    const [start = 0, spun, awaited, slept = 0, called = 0] = times.map(([time]) => time);
    expect([spun, awaited]).toEqual([start, start]);
    expect(start).toBeGreaterThanOrEqual(before);
    expect(slept).toBeGreaterThanOrEqual(start + 29);
    expect(called).toBeGreaterThanOrEqual(slept);
    expect(called).toBeLessThanOrEqual(Date.now());
    expect(texts).toEqual(texts.map(() => true));
  });

  it.each(LEVELS)(
    'is nowhere to be read off: collector, threads, high resolution clocks (%s)',
    async (isolation) => {
      const names = [
        'WeakRef',
        'FinalizationRegistry',
        'performance',
        'SharedArrayBuffer',
        'Atomics',
        'WebAssembly',
        'gc',
        'setInterval',
        'setImmediate',
        'crypto',
        'process',
        'Worker',
        'ShadowRealm',
      ];
      const code = `return [${names.map((name) => `typeof ${name}`).join()}, 'measureUserAgentSpecificMemory' in globalThis]`;
      expect(await arena.value(code, { isolation })).toEqual([...names.map(() => 'undefined'), false]);
    },
  );
});
