/**
 * The guest's web globals beside Node's own: each expression of the tables is evaluated in an isolate made
 * from a V8 startup snapshot and in this process, and must come to the same.
 */
import { runInThisContext } from 'node:vm';
import ivm from 'isolated-vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { urlHost } from '../../src/sandbox/guest/urlhost.ts';
import { webSource } from '../../src/sandbox/guest/web.ts';

const INSTALL = `(() => {
  const host = { __proto__: null, url: undefined };
  ${webSource()}(globalThis, host);
  Object.defineProperty(globalThis, 'bind', { configurable: true, value: (url) => { host.url = url; } });
})();0`;

/** Run in both worlds: a text for any value, errors by class and name. */
const SHOW = `(function show(value, seen) {
  seen = seen || [];
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'bigint') return value + 'n';
  if (typeof value === 'function') return 'function';
  if (Object.is(value, -0)) return '-0';
  if (typeof value !== 'object' || value === null) return String(value);
  if (seen.includes(value)) return '#' + seen.indexOf(value);
  seen.push(value);
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  const list = (items) => Array.from(items, (item) => show(item, seen)).join(',');
  if (value instanceof Error) {
    const own = ['message', 'cause'].filter((key) => Object.hasOwn(value, key));
    return tag + ':' + value.name + (value.code ? value.code : '') + '{' + own.map((key) => key + '=' + show(value[key], seen)) + '}';
  }
  if (value instanceof Date) return 'Date ' + value.getTime();
  if (value instanceof RegExp) return String(value) + value.lastIndex;
  if (value instanceof Map) return 'Map(' + list([...value].flat()) + ')';
  if (value instanceof Set) return 'Set(' + list(value) + ')';
  if (value instanceof ArrayBuffer) return 'ArrayBuffer(' + list(new Uint8Array(value)) + ')';
  if (value instanceof DataView) return 'DataView(' + value.byteOffset + ',' + show(value.buffer, seen) + ')';
  if (ArrayBuffer.isView(value)) return tag + value.byteOffset + '(' + list(value) + ')';
  for (const kind of [Boolean, Number, String, BigInt]) if (value instanceof kind) return tag + ' ' + show(value.valueOf(), seen);
  const keys = Reflect.ownKeys(value).map((key) => String(key) + ':' + show(value[key], seen));
  const maker = Object.getPrototypeOf(value)?.constructor?.name;
  return (Array.isArray(value) ? 'Array' + value.length : tag + maker) + '{' + keys.join(',') + '}';
})`;

/** A function of the source of an expression: what it comes to, or what it throws, as text. */
const EVALUATE = `(source) => {
  const show = ${SHOW};
  try {
    return show((0, eval)('(' + source + ')'));
  } catch (error) {
    const name = error instanceof DOMException ? 'DOMException ' + error.name + error.code : error.constructor.name;
    return 'throws ' + name;
  }
}`;

let isolate: ivm.Isolate;
let context: ivm.Context;
let evaluateGuest: ivm.Reference<(source: string) => string>;
const evaluateNode = runInThisContext(EVALUATE) as (source: string) => string;
const requests: string[] = [];

function freshContext(): ivm.Context {
  const made = isolate.createContextSync();
  const url = new ivm.Callback(
    (request: string) => {
      requests.push(request);
      return urlHost(request);
    },
    { sync: true },
  );
  made.evalClosureSync('const bind = globalThis.bind; delete globalThis.bind; bind($0);', [url]);
  return made;
}

/** The JSON value of a script's last expression, in a context of its own. */
function run(script: string): unknown {
  const own = freshContext();
  try {
    return JSON.parse(own.evalSync(`JSON.stringify(${script})`, { timeout: 10_000 }) as string);
  } finally {
    own.release();
  }
}

const inGuest = (source: string): string =>
  evaluateGuest.applySync(undefined, [source], { timeout: 10_000 }) as string;

beforeAll(() => {
  isolate = new ivm.Isolate({ snapshot: ivm.Isolate.createSnapshot([{ code: INSTALL }]), memoryLimit: 128 });
  context = freshContext();
  evaluateGuest = context.evalSync(EVALUATE, { reference: true }) as typeof evaluateGuest;
});

afterAll(() => {
  isolate.dispose();
});

/** One claim per expression: the guest says what Node says. */
function agree(expressions: readonly string[]): void {
  it.each([...new Set(expressions)])('agrees with Node on %s', (source) => {
    expect(inGuest(source)).toBe(evaluateNode(source));
  });
}

const URL_PARTS =
  '[u.href,u.origin,u.protocol,u.username,u.password,u.host,u.hostname,u.port,u.pathname,u.search,u.hash,String(u),JSON.stringify(u)]';
const HREFS = [
  'http://example.com',
  'https://user:pa%20ss@example.com:8080/a/../b?x=1&y=2#frag',
  'HTTP://EXAMPLE.com:80/%7Efoo/./bar',
  'http://münchen.de/ä?ö#ü',
  'file:///C|/a/b',
  'mailto:a@b.c',
  'data:text/plain,hello world',
  'javascript:alert(1)',
  'http://[::1]:3000/',
  'http://0x7f.1/',
  ' \thttp://a/\n ',
  'http://a b/',
  '//no-base',
  'http://a:99999/',
  '',
  'blob:https://a.b/c',
  'http://a/\ud800',
];

describe('URL', () => {
  agree(
    HREFS.map((href) => `(() => { const u = new URL(${JSON.stringify(href)}); return ${URL_PARTS}; })()`),
  );
  agree([
    ...['../x', '?q', '#h', '//o.p/q', '', 'mailto:x', '/\\a'].map(
      (href) => `new URL(${JSON.stringify(href)}, 'http://a.b/c/d?e#f').href`,
    ),
    `new URL('x', 'mailto:a').href`,
    `new URL('x', null).href`,
    `new URL('http://a', undefined).href`,
    `new URL({ toString() { return 'http://obj/' } }).href`,
    `new URL(new URL('http://a/b')).href`,
    'new URL()',
    `URL('http://a')`,
    'new URL(Symbol())',
    `URL.canParse('http://a')`,
    `URL.canParse('a')`,
    `URL.canParse('a', 'http://b')`,
    'URL.canParse()',
    `URL.parse('a', 'http://b').href`,
    `URL.parse('a')`,
    'URL.parse()',
  ]);
  const settings: readonly (readonly [string, string])[] = [
    ['href', 'http://z/?n=1'],
    ['href', 'nonsense'],
    ['protocol', 'https'],
    ['protocol', 'mailto:'],
    ['username', 'ü@'],
    ['password', 'p:w'],
    ['host', 'h:81'],
    ['host', 'a b'],
    ['hostname', 'other'],
    ['port', '443'],
    ['port', ''],
    ['port', 'x'],
    ['pathname', 'p q?'],
    ['search', '?a=ü&b=\'"'],
    ['search', ''],
    ['search', '?'],
    ['hash', 'h h'],
    ['hash', ''],
    ['origin', 'http://x'],
  ];
  agree(
    settings.map(
      ([key, value]) =>
        `(() => { const u = new URL('http://u:p@e.x:8/a?b=c#d'); const p = u.searchParams; u.${key} = ${JSON.stringify(value)}; return [${URL_PARTS}, String(p), p.size, p === u.searchParams]; })()`,
    ),
  );
  agree([
    ...[
      `append('x y', 'z&')`,
      `delete('b')`,
      `set('b', 'ü')`,
      'sort()',
      `delete('none')`,
      `append('\\ud800', '~')`,
    ].map(
      (call) =>
        `(() => { const u = new URL('http://e.x/?b=c&a=%7E#d'); u.searchParams.${call}; return [u.href, u.search, [...u.searchParams]]; })()`,
    ),
    `(() => { const u = new URL('http://a/?x=1'); const p = u.searchParams; p.delete('x'); return u.href; })()`,
    `Object.keys(URL.prototype).sort()`,
    `Object.prototype.toString.call(new URL('http://a'))`,
    `[URL.name, URL.length, URL.canParse.length, URL.parse.length]`,
    `Object.getOwnPropertyDescriptor(URL.prototype, 'href').get.name`,
    `URL.prototype.href`,
  ]);

  it('refuses what is longer than 64 KiB with a TypeError, and keeps its parameters in step', () => {
    expect(
      run(`(() => {
        const kind = (run) => { try { run(); return 'none'; } catch (error) { return error instanceof TypeError; } };
        const url = new URL('http://a/?k=v');
        const long = 'x'.repeat(70_000);
        return [
          kind(() => new URL('http://a/' + long)),
          kind(() => { url.hash = long; }),
          kind(() => url.searchParams.append('long', long)),
          kind(() => URL.canParse(long)),
          url.href,
          String(url.searchParams),
        ];
      })()`),
    ).toEqual([true, true, true, true, 'http://a/?k=v', 'k=v']);
  });
});

const QUERIES = [
  '',
  '?',
  '?a=b',
  'a=b&a=c&=d&e&f=&&=',
  'a+b=c%20d',
  '%zz=%4&%E4=%F0%9F%98%80',
  'ü=😀',
  '??a',
  'a=b=c',
  '%ef%bb%bfa=1',
  'a%00b=%0a',
];

describe('URLSearchParams', () => {
  agree(
    QUERIES.map(
      (q) =>
        `(() => { const p = new URLSearchParams(${JSON.stringify(q)}); return [[...p], String(p), p.size]; })()`,
    ),
  );
  agree(
    [
      `{ a: 1, b: 'x y' }`,
      `[['a', 1], ['a', 2]]`,
      `new Map([['k', 'v']])`,
      `new URLSearchParams('q=1&q=2')`,
      `[['a']]`,
      `[['a', 'b', 'c']]`,
      `['ab']`,
      '[null]',
      '5',
      'undefined',
      'null',
      'Symbol()',
      '{ [Symbol()]: 1 }',
      '{ [Symbol.iterator]: 1 }',
      `{ 'x\\uDC53': '1', 'x\\uDC5C': '2', __proto__: { no: 1 } }`,
      `Object.defineProperty({ a: 1 }, 'hidden', { value: 1 })`,
      'function f() {}',
    ].map((init) => `String(new URLSearchParams(${init}))`),
  );
  const allAscii = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code)).join('');
  agree([
    `String(new URLSearchParams([[${JSON.stringify(allAscii)}, 'é€😀\\ud800x\\udc00']]))`,
    ...[
      `[p.get('a'), p.get('z'), p.getAll('a'), p.getAll('z'), p.has('a'), p.has('a', '2'), p.has('a', 'x'), p.has('a', undefined)]`,
      `(p.set('a', 9), String(p))`,
      `(p.set('n', null), String(p))`,
      `(p.delete('a'), String(p))`,
      `(p.delete('a', '2'), String(p))`,
      `(p.delete('a', undefined), String(p))`,
      `(p.sort(), String(p))`,
      `[[...p.keys()], [...p.values()], [...p.entries()]]`,
      `(() => { const out = []; p.forEach(function (v, k, o) { out.push(v, k, o === p, this.t); }, { t: 1 }); return out; })()`,
      `(() => { const out = []; for (const [k] of p) { out.push(k); if (out.length < 9) p.append('m' + out.length, ''); } return out; })()`,
      `(() => { const out = []; for (const [k] of p) { out.push(k); p.delete(k); } return out; })()`,
      `Object.prototype.toString.call(p.keys())`,
      `Object.keys(Object.getPrototypeOf(p.keys()))`,
      `p.keys().next.call({})`,
      `p.keys().map((k) => k + k).toArray()`,
      `p[Symbol.iterator] === p.entries`,
      `p.append('one')`,
      'p.get()',
      'p.delete()',
      'p.has()',
      `p.set('a')`,
      'p.forEach()',
      'p.forEach(1)',
      'URLSearchParams.prototype.get.call({}, 1)',
    ].map((body) => `(() => { const p = new URLSearchParams('b=1&a=2&c=3&a=1'); return ${body}; })()`),
    `Object.keys(URLSearchParams.prototype).sort()`,
    `['append','delete','get','getAll','has','set','sort','forEach','entries','toString'].map((k) => [URLSearchParams.prototype[k].name, URLSearchParams.prototype[k].length])`,
    `URLSearchParams.length`,
  ]);
});

const STRINGS = [
  '',
  'abc',
  'é€😀',
  '\ud800',
  'a\udc00b',
  '\ud83d',
  '\u0000\u007f\u0080\u07ff\u0800\uffff',
  '\ufeffx',
];
const BYTES = [
  [],
  [0x61, 0x80, 0x62],
  [0xc3, 0xa9],
  [0xc3],
  [0xc0, 0x80],
  [0xe2, 0x82, 0xac],
  [0xe2, 0x82],
  [0xe2, 0x28, 0xa1],
  [0xed, 0xa0, 0x80],
  [0xf0, 0x9f, 0x98, 0x80],
  [0xf0, 0x9f, 0x98],
  [0xf0, 0x80, 0x80, 0x80],
  [0xf4, 0x90, 0x80, 0x80],
  [0xf5, 0x80],
  [0xef, 0xbb, 0xbf, 0x61],
  [0xef, 0xbb, 0xbf, 0xef, 0xbb, 0xbf],
  [0xff, 0xfe, 0xfd, 0x41],
  [0xff, 0xfe, 0x3d, 0xd8, 0x00, 0xde],
  [0x3d, 0xd8, 0x41, 0x00],
  [0x00, 0xdc],
  [0x3d, 0xd8],
  [0x41],
];

describe('TextEncoder and TextDecoder', () => {
  agree(
    STRINGS.flatMap((text) => [
      `new TextEncoder().encode(${JSON.stringify(text)})`,
      ...[0, 1, 2, 3, 4, 20].map(
        (size) =>
          `(() => { const d = new Uint8Array(${size}); return [new TextEncoder().encodeInto(${JSON.stringify(text)}, d), d]; })()`,
      ),
    ]),
  );
  agree(
    BYTES.flatMap((bytes) =>
      ['utf-8', 'utf-16le', 'latin1'].flatMap((label) => [
        `new TextDecoder('${label}').decode(new Uint8Array([${bytes}]))`,
        `new TextDecoder('${label}', { ignoreBOM: true }).decode(new Uint8Array([${bytes}]))`,
        ...(label === 'latin1'
          ? []
          : [
              `new TextDecoder('${label}', { fatal: true }).decode(new Uint8Array([${bytes}]))`,
              `(() => { const d = new TextDecoder('${label}'); const out = []; for (const b of [${bytes}]) out.push(d.decode(new Uint8Array([b]), { stream: true })); out.push(d.decode()); out.push(d.decode(new Uint8Array([${bytes}]))); return out.join(''); })()`,
            ]),
      ]),
    ),
  );
  agree([
    'new TextEncoder().encode()',
    'new TextEncoder().encode(undefined)',
    'new TextEncoder().encode(null)',
    'new TextEncoder().encode(12)',
    'new TextEncoder().encoding',
    `new TextEncoder().encodeInto('a', new Uint16Array(1))`,
    `new TextEncoder().encodeInto('a')`,
    'TextEncoder.prototype.encode.call({})',
    `new TextDecoder().decode(new Uint8Array([97,98,99]).buffer)`,
    `new TextDecoder().decode(new DataView(new Uint8Array([97,98,99]).buffer, 1))`,
    `new TextDecoder().decode(new Uint8Array([97,98,99]).subarray(1, 2))`,
    `new TextDecoder().decode(new Uint16Array([97]))`,
    `new TextDecoder().decode('text')`,
    `new TextDecoder().decode([97])`,
    'new TextDecoder().decode(null)',
    'new TextDecoder().decode()',
    ...[
      ' UTF8 ',
      'Latin1',
      'ascii',
      'iso-8859-1',
      'utf-16',
      'unicode',
      'windows-1252',
      'utf-7',
      '',
      'utf-8\u00a0',
    ].map((label) => `new TextDecoder(${JSON.stringify(label)}).encoding`),
    `(({ fatal, ignoreBOM }) => [fatal, ignoreBOM])(new TextDecoder('utf-8', { fatal: 1, ignoreBOM: '' }))`,
    `new TextDecoder('utf-8', 5)`,
    `new TextDecoder().decode(new Uint8Array(20_000).fill(0xe9)).length`,
    `new TextDecoder().decode(new TextEncoder().encode('é😀'.repeat(9_000))) === 'é😀'.repeat(9_000)`,
    `[TextEncoder.length, TextDecoder.length, TextDecoder.prototype.decode.length, TextEncoder.prototype.encodeInto.length]`,
    'Object.prototype.toString.call(new TextDecoder())',
  ]);
});

describe('atob and btoa', () => {
  agree(
    [
      '',
      'YQ==',
      'YQ',
      'YWI=',
      'YWJj',
      'Y Q =\n=',
      'YQ=',
      'YQ===',
      'Y',
      '=',
      'YWJjZA',
      'YW=Jj',
      '+/+/',
      '-_',
      'YWJj=',
      'YR',
      '\u000bYQ==',
      'é',
    ].map((text) => `atob(${JSON.stringify(text)})`),
  );
  agree([
    ...['', 'a', 'ab', 'abc', 'abcd', '\u0000\u00ff', '€'].map((text) => `btoa(${JSON.stringify(text)})`),
    'atob(null)',
    'btoa(12)',
    'atob()',
    'btoa()',
    'btoa(Symbol())',
    `atob(btoa(String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i)))).length`,
    '[atob.name, atob.length, btoa.name, btoa.length]',
  ]);
});

describe('structuredClone', () => {
  agree(
    [
      '1',
      '-0',
      'NaN',
      `'text'`,
      '10n',
      'true',
      'null',
      'undefined',
      `{ a: 1, b: { c: [1, , 3] }, [Symbol()]: 1 }`,
      '[, 1, ,]',
      'Object.assign([1], { extra: 2, length: 4 })',
      'new Date(5)',
      'new Date(NaN)',
      'Object.assign(/a(b)/dgimsuy, { lastIndex: 3 })',
      '/[a--b]/v',
      `new Map([[{ k: 1 }, new Set([1, 'x'])], ['m', new Map()]])`,
      'new Set([[1], [1]])',
      `new TypeError('t', { cause: { deep: [1] } })`,
      `Object.assign(new Error('e'), { name: 'RangeError', extra: 1 })`,
      `Object.assign(new Error('e'), { name: 'Custom' })`,
      `new (class Own extends SyntaxError {})('x')`,
      `new AggregateError([1], 'many')`,
      'new Error()',
      `new DOMException('m', 'AbortError')`,
      'new Uint8Array([1, 2, 3]).buffer',
      'new Uint8Array([1, 2, 3, 4]).subarray(1, 3)',
      ...['Int8', 'Uint8Clamped', 'Int16', 'Uint16', 'Int32', 'Uint32', 'Float16', 'Float32', 'Float64'].map(
        (kind) => `new ${kind}Array([1, 2])`,
      ),
      'new BigInt64Array([1n, -2n])',
      'new BigUint64Array([1n])',
      'new DataView(new ArrayBuffer(4), 1, 2)',
      '(() => { const b = new ArrayBuffer(2); return [b, new Uint8Array(b), new Uint8Array(b, 1)]; })()',
      'Object(1)',
      `Object('boxed')`,
      'Object(false)',
      'Object(7n)',
      'Object(Symbol())',
      '(() => { const a = { l: [] }; a.self = a; a.l.push(a.l, a); return a; })()',
      '(() => { const m = new Map(); m.set(m, m); return m; })()',
      '(() => { const e = new Error("c"); e.cause = e; return e; })()',
      `JSON.parse('{"__proto__":{"polluted":1}}')`,
      'new (class Point { constructor() { this.x = 1; } get y() { return 2; } })()',
      '{ get computed() { return [1]; } }',
      'Object.defineProperty({ a: 1 }, "hidden", { value: 1 })',
      'Object.create({ inherited: 1 })',
      'Object.create(null, { own: { value: 1, enumerable: true } })',
      'Object.create(Map.prototype)',
      'Object.create(Date.prototype)',
      'Object.create(Error.prototype)',
      'RegExp.prototype',
      '(() => { const o = {}; Object.defineProperty(o, "a", { enumerable: true, get() { delete o.b; return 1; } }); o.b = 2; return o; })()',
      'Math',
      '() => 1',
      'Symbol()',
      '{ f() {} }',
      '[Symbol()]',
      'new WeakMap()',
      'new WeakSet()',
      'Promise.resolve(1)',
      '(function* () {})()',
      '[].values()',
      'new Map().entries()',
      'new Intl.NumberFormat()',
      `Temporal.PlainDate.from('2020-01-01')`,
      'new DisposableStack()',
      `new URL('http://a')`,
      'new URLSearchParams()',
      'new (class extends Map { x = 1 })([[1, 2]])',
      '(() => { const b = new ArrayBuffer(1); b.transfer(); return b; })()',
      '(() => { const b = new ArrayBuffer(1), v = new Uint8Array(b); b.transfer(); return v; })()',
    ].map((value) => `structuredClone(${value})`),
  );
  agree([
    'structuredClone()',
    'structuredClone(undefined)',
    'structuredClone(1, 5)',
    'structuredClone(1, null)',
    'structuredClone([1], { transfer: [] })',
    'structuredClone([1], { transfer: undefined })',
    `(() => { const log = []; const o = { get a() { log.push('a'); return { get b() { log.push('b'); return 1; } }; }, get c() { log.push('c'); return 1; } }; structuredClone(o); return log; })()`,
    `(() => { const error = new Error('e'); return structuredClone(error).stack === error.stack; })()`,
    `(() => { const o = { a: {} }; const c = structuredClone([o, o.a, o]); return [c[0] === c[2], c[0].a === c[1], c[0] === o]; })()`,
  ]);

  it('clones 100,000 levels without using the stack', () => {
    expect(
      run(`(() => {
        let deep = {};
        for (let level = 0; level < 100_000; level++) deep = { deep };
        let copy = structuredClone(deep);
        let levels = 0;
        while (copy.deep) { copy = copy.deep; levels++; }
        return levels;
      })()`),
    ).toBe(100_000);
  });

  it('refuses to transfer', () => {
    expect(inGuest('structuredClone(1, { transfer: [new ArrayBuffer(1)] })')).toBe(
      'throws DOMException DataCloneError25',
    );
  });
});

describe('events and signals', () => {
  agree([
    ...[
      `t.addEventListener('x', f); t.addEventListener('x', f); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', f, true); t.addEventListener('x', f); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', f, { once: true }); t.dispatchEvent(new Event('x')); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', f); t.removeEventListener('x', f, true); t.dispatchEvent(new Event('x')); t.removeEventListener('x', f); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', { handleEvent(e) { log.push(this !== t, e.type); } }); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', (e) => { e.stopImmediatePropagation(); log.push(1); }); t.addEventListener('x', f); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', (e) => e.preventDefault()); log.push(t.dispatchEvent(new Event('x')), t.dispatchEvent(new Event('x', { cancelable: true })));`,
      `t.addEventListener('x', (e) => e.preventDefault(), { passive: true }); log.push(t.dispatchEvent(new Event('x', { cancelable: true })));`,
      `t.addEventListener('x', () => { t.addEventListener('x', f); }); t.dispatchEvent(new Event('x')); log.push('-'); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', () => { t.removeEventListener('x', f); }); t.addEventListener('x', f); t.dispatchEvent(new Event('x'));`,
      `const c = new AbortController(); t.addEventListener('x', f, { signal: c.signal }); t.dispatchEvent(new Event('x')); c.abort(); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', f, { signal: AbortSignal.abort() }); t.dispatchEvent(new Event('x'));`,
      `t.addEventListener('x', f, { signal: {} });`,
      't.dispatchEvent({})',
      `t.addEventListener('x')`,
      `t.addEventListener('x', null)`,
      `const e = new Event('z', { bubbles: true }); log.push(e.type, e.bubbles, e.cancelable, e.composed, e.target, e.currentTarget, e.eventPhase, e.isTrusted, e.defaultPrevented, e.composedPath()); t.addEventListener('z', (e) => log.push(e.target === t, e.currentTarget === t, e.eventPhase, e.composedPath().length)); t.dispatchEvent(e); log.push(e.target === t, e.currentTarget, e.eventPhase);`,
    ].map(
      (body) =>
        `(() => { const log = []; const t = new EventTarget(); const f = function (e) { log.push(e.type, this === t); }; ${body}; return log; })()`,
    ),
    'new Event()',
    `new Event('x', 5)`,
    `new Event(null).type`,
    `[Event.AT_TARGET, Event.length, EventTarget.length]`,
    `EventTarget.prototype.addEventListener.length`,
    `Object.prototype.toString.call(new Event('x'))`,
  ]);
  agree([
    'new AbortSignal()',
    'AbortSignal.abort().reason',
    'AbortSignal.abort(null).reason',
    'AbortSignal.abort(5).throwIfAborted()',
    'AbortSignal.any()',
    'AbortSignal.any([1])',
    'AbortSignal.any([]).aborted',
    ...[
      'c.abort(); log.push(s.aborted, s.reason, s.reason instanceof DOMException)',
      `c.abort('why'); c.abort('again'); log.push(s.reason)`,
      `s.onabort = (e) => log.push(e.type, e.isTrusted, e.target === s); s.addEventListener('abort', () => log.push('l')); c.abort(); c.abort()`,
      `s.addEventListener('abort', () => log.push('l')); s.onabort = () => log.push('h'); s.onabort = () => log.push('h2'); c.abort()`,
      `s.onabort = () => log.push('h'); s.onabort = null; c.abort(); log.push(s.onabort)`,
      's.onabort = 5; log.push(s.onabort)',
      's.throwIfAborted(); log.push(c.signal === s)',
      `const any = AbortSignal.any([s, new AbortController().signal]); s.addEventListener('abort', () => log.push(any.aborted)); any.addEventListener('abort', () => log.push('any', any.reason)); c.abort(1)`,
      `const d = AbortSignal.any([AbortSignal.any([s])]); c.abort(2); log.push(d.reason)`,
      `log.push(AbortSignal.any([s, AbortSignal.abort(3)]).reason)`,
      `log.push(s instanceof EventTarget, String(s), String(c))`,
    ].map(
      (body) =>
        `(() => { const log = []; const c = new AbortController(); const s = c.signal; ${body}; return log; })()`,
    ),
  ]);

  it('goes on with the other listeners after one threw', () => {
    expect(
      run(`(() => {
        const log = [];
        const target = new EventTarget();
        target.addEventListener('x', () => { log.push(1); });
        target.addEventListener('x', { handleEvent: (event) => log.push(event.type) });
        target.addEventListener('x', () => { log.push(2); });
        return [target.dispatchEvent(new Event('x')), log];
      })()`),
    ).toEqual([true, [1, 'x', 2]]);
  });

  it('reports an error of a listener as an uncaught one', () => {
    const own = freshContext();
    own.evalSync(`globalThis.log = []; globalThis.target = new EventTarget();
      target.addEventListener('x', () => { throw new Error('of a listener'); });
      target.addEventListener('x', () => log.push('second'));0`);
    expect(() => own.evalSync(`log.push(target.dispatchEvent(new Event('x')));0`)).toThrow('of a listener');
    expect(own.evalSync('log.join()')).toBe('second,true');
    own.release();
  });
});

describe('queueMicrotask and DOMException', () => {
  agree([
    'queueMicrotask(1)',
    'queueMicrotask.name + queueMicrotask.length',
    'queueMicrotask(() => 1)',
    'new DOMException()',
    `new DOMException('m', 'NotFoundError')`,
    `new DOMException(undefined, undefined).name`,
    `new DOMException('m', '__proto__').code`,
    `new DOMException('m', 'AbortError') instanceof Error`,
    `Error.isError(new DOMException())`,
    `Object.prototype.toString.call(new DOMException())`,
    `String(new DOMException('m', 'AbortError'))`,
    `DOMException.length`,
    `DOMException.prototype.name`,
    `DOMException('x')`,
  ]);

  it('runs microtasks in the order of promise reactions', () => {
    const own = freshContext();
    own.evalSync(`globalThis.log = [];
      Promise.resolve().then(() => log.push('then 1'));
      queueMicrotask(function () { log.push(this === undefined || this === globalThis ? 'micro' : 'bound'); });
      Promise.resolve().then(() => log.push('then 2'));
      log.push('sync');0`);
    expect(own.evalSync('log.join()')).toBe('sync,then 1,micro,then 2');
    own.release();
  });
});

describe('where Node leaves the standard', () => {
  it.each([
    ['structuredClone(new AbortController())', 'throws DOMException DataCloneError25'],
    ['structuredClone(AbortSignal.abort())', 'throws DOMException DataCloneError25'],
    ['structuredClone(new URLSearchParams().entries())', 'throws DOMException DataCloneError25'],
    ['structuredClone.length', '1'],
    ['new structuredClone(1)', 'throws TypeError'],
    ['new queueMicrotask(() => 1)', 'throws TypeError'],
    ['Event.prototype.BUBBLING_PHASE', '3'],
    [
      `(() => { const t = new EventTarget(); let name; t.addEventListener('x', (e) => { try { t.dispatchEvent(e); } catch (error) { name = error.name; } }); t.dispatchEvent(new Event('x')); return name; })()`,
      '"InvalidStateError"',
    ],
  ])('follows the standard on %s', (source, expected) => {
    expect(inGuest(source)).toBe(expected);
  });
});

describe('the globals as a whole', () => {
  const NAMES = [
    'URL',
    'URLSearchParams',
    'TextEncoder',
    'TextDecoder',
    'atob',
    'btoa',
    'structuredClone',
    'AbortController',
    'AbortSignal',
    'Event',
    'EventTarget',
    'queueMicrotask',
    'DOMException',
  ];

  it('defines every name as built-ins are defined', () => {
    const shapes = run(`${JSON.stringify(NAMES)}.map((name) => {
      const { value, ...flags } = Object.getOwnPropertyDescriptor(globalThis, name);
      return { ...flags, name: value.name };
    })`);
    expect(shapes).toEqual(
      NAMES.map((name) => ({ writable: true, enumerable: false, configurable: true, name })),
    );
  });

  it('adds nothing else to the global', () => {
    const bare = isolate.createContextSync();
    const plain = new ivm.Isolate({ memoryLimit: 16 });
    const names = 'JSON.stringify(Reflect.ownKeys(globalThis).map(String))';
    const before = JSON.parse(plain.createContextSync().evalSync(names) as string) as string[];
    const after = JSON.parse(bare.evalSync(names) as string) as string[];
    plain.dispose();
    bare.release();
    expect(after.filter((name) => !before.includes(name)).sort()).toEqual([...NAMES, 'bind'].sort());
  });

  it('asks the host nothing before a script runs', () => {
    requests.length = 0;
    freshContext().release();
    expect(requests).toEqual([]);
  });

  it('has no URL while no host is bound', () => {
    const bare = isolate.createContextSync();
    expect(
      bare.evalSync(
        `try { new URL('http://a'); } catch (error) { error instanceof TypeError && error.message }`,
      ),
    ).toBe('Invalid URL');
    bare.release();
  });
});

describe('a hostile script', () => {
  /** Replaces every method and getter of the intrinsics by one that collects what it is given. */
  const TRAPS = `
    const caught = [];
    const kept = { ownKeys: Reflect.ownKeys, describe: Reflect.getOwnPropertyDescriptor, define: Reflect.defineProperty, apply: Reflect.apply };
    let watching = false;
    let count = 0;
    const note = (value) => { if (watching) caught[count++] = value; };
    const wrap = (fn) => function (...args) {
      note(this);
      for (let i = 0; i < args.length; i++) note(args[i]);
      return kept.apply(fn, this, args);
    };
    const owners = [Object, Function, Array, String, JSON, Reflect, Map, Set, RegExp, Date, Promise, Error, ArrayBuffer, Uint8Array, Number]
      .flatMap((owner) => [owner, owner.prototype]).concat([Object.getPrototypeOf(Uint8Array), Object.getPrototypeOf(Uint8Array.prototype), Object.getPrototypeOf([].values())]);
    for (const owner of owners) {
      if (!owner) continue;
      for (const key of kept.ownKeys(owner)) {
        const property = kept.describe(owner, key);
        if (key === 'constructor' || !property.configurable) continue;
        const kind = typeof property.value === 'function' ? 'value' : property.get ? 'get' : '';
        if (kind !== '') kept.define(owner, key, { __proto__: null, ...property, [kind]: wrap(property[kind]) });
      }
    }
    for (const key of ['ok', 'href', 'base', 'op', 'key', 'value', 'url', 'get', 'set', 'then', 'toJSON', 'search', 'enumerable', 'capture', '0', '1', '2']) {
      kept.define(Object.prototype, key, {
        __proto__: null,
        configurable: true,
        get() { note(this); return undefined; },
        set(value) {
          note(value);
          kept.define(this, key, { __proto__: null, value, writable: true, configurable: true, enumerable: true });
        },
      });
    }`;

  /**
   * How often the traps saw the host's function or the object that holds it. The script is given the function
   * as `planted`, only to know it again. `late`: the globals are made after the traps are set.
   */
  const sightings = (late: boolean, extra = ''): unknown => {
    const own = isolate.createContextSync();
    const url = new ivm.Callback(urlHost, { sync: true });
    own.evalClosureSync(
      late
        ? `const host = { __proto__: null, url: $0 };
           globalThis.planted = $0;
           globalThis.install = () => { ${webSource()}(globalThis, host); };`
        : 'const bind = globalThis.bind; delete globalThis.bind; bind($0); globalThis.planted = $0;',
      [url],
    );
    try {
      return JSON.parse(
        own.evalSync(`(() => {
          const stringify = JSON.stringify;
          ${TRAPS}
          watching = true;
          const asked = [];
          const attempt = (use) => { try { asked[asked.length] = use(); } catch (error) { note(error); } };
          ${late ? 'attempt(install);' : ''}
          attempt(() => { const url = new URL('a?b=c', 'http://x'); url.searchParams.append('d', 'e'); url.hash = 'f'; return String(url); });
          attempt(() => new URL('nonsense'));
          attempt(() => URL.parse('http://y/').href);
          attempt(() => [...new URLSearchParams({ a: 'b' })]);
          attempt(() => structuredClone({ a: [new Map([[1, new Date()]])] }));
          attempt(() => new TextDecoder().decode(new TextEncoder().encode('x')));
          attempt(() => { const c = new AbortController(); c.signal.addEventListener('abort', () => {}); c.abort(); });
          ${extra}
          watching = false;
          let seen = 0;
          for (let i = 0; i < count; i++) {
            const value = caught[i];
            if (value === null || (typeof value !== 'object' && typeof value !== 'function')) continue;
            if (value === planted || kept.describe(value, 'url')?.value === planted) seen++;
          }
          return stringify({ seen, watched: count > 0, worked: asked[${late ? 1 : 0}] === 'http://x/a?b=c&d=e#f' });
        })()`) as string,
      );
    } finally {
      own.release();
    }
  };

  it.each([
    ['after', false],
    ['before', true],
  ])('sees no function of the host, whatever it patches %s the globals are made', (_when, late) => {
    expect(sightings(late)).toEqual({ seen: 0, watched: true, worked: true });
    // The detector itself, shown what it looks for.
    expect(sightings(late, '[planted].includes({ url: planted }); note(planted);')).toMatchObject({
      seen: 2,
    });
  });

  it('cannot change what is asked of the host', () => {
    requests.length = 0;
    run(`(() => {
      const real = JSON.stringify;
      JSON.stringify = () => 'forged';
      String.prototype.toJSON = () => 'forged';
      Object.prototype.toJSON = () => 'forged';
      String.prototype.toWellFormed = () => ({ forged: true });
      const url = new URL({ toString: () => 'http://a/"},{"x' }, 'http://b');
      url.hash = '","key":"href';
      delete Object.prototype.toJSON;
      JSON.stringify = real;
      return null;
    })()`);
    expect(requests.map((request) => JSON.parse(request) as unknown)).toEqual([
      { op: 'parse', href: 'http://a/"},{"x', base: 'http://b' },
      { op: 'set', href: 'http://a/%22%7D,%7B%22x', key: 'hash', value: '","key":"href' },
    ]);
  });

  it('gets a plain TypeError without host text when the host throws', () => {
    const own = isolate.createContextSync();
    const broken = new ivm.Callback(
      (): string => {
        throw new Error('/secret/path');
      },
      { sync: true },
    );
    own.evalClosureSync('const bind = globalThis.bind; delete globalThis.bind; bind($0);', [broken]);
    const seen = own.evalSync(
      `try { new URL('http://a'); } catch (error) { JSON.stringify([error.constructor === TypeError, error.message, String(error.stack), Reflect.ownKeys(error)]) }`,
    ) as string;
    own.release();
    expect(seen).toContain('Invalid URL');
    expect(seen).not.toContain('secret');
    expect((JSON.parse(seen) as unknown[]).slice(0, 2)).toEqual([true, 'Invalid URL']);
  });

  it('survives recursion to the end of the stack inside every global', () => {
    expect(
      run(`(() => {
        const uses = [
          () => new URL('http://a/?b').searchParams.append('c', 'd'),
          () => structuredClone([{}]),
          () => new TextDecoder().decode(new TextEncoder().encode('é')),
          () => new EventTarget().dispatchEvent(new Event('x')),
          () => atob(btoa('x')),
        ];
        for (const use of uses) {
          const dive = () => { try { dive(); } catch { use(); } };
          try { dive(); } catch {}
        }
        return [new URL('http://ok/').href, structuredClone([1])];
      })()`),
    ).toEqual(['http://ok/', [1]]);
  });
});

describe('urlHost', () => {
  it('answers the parts of a URL', () => {
    expect(JSON.parse(urlHost('{"op":"parse","href":"b","base":"http://a/"}'))).toMatchObject({
      ok: true,
      href: 'http://a/b',
      origin: 'http://a',
    });
  });

  it.each([
    ['no JSON', '{'],
    ['null', 'null'],
    ['a number', '5'],
    ['an unknown operation', '{"op":"fetch","href":"http://a"}'],
    ['no href', '{"op":"parse"}'],
    ['a base that is no string', '{"op":"parse","href":"http://a","base":5}'],
    ['a key that is no part', '{"op":"set","href":"http://a","key":"__proto__","value":"x"}'],
    ['a part that cannot be set', '{"op":"set","href":"http://a","key":"origin","value":"x"}'],
    ['a value that is no string', '{"op":"set","href":"http://a","key":"hash","value":{}}'],
    ['a URL that does not parse', '{"op":"set","href":"a","key":"hash","value":"x"}'],
    ['a request over 64 KiB', JSON.stringify({ op: 'parse', href: `http://a/${'x'.repeat(65_536)}` })],
  ])('refuses %s', (_what, request) => {
    expect(urlHost(request)).toBe('{"ok":false}');
  });

  it('refuses what is not a string', () => {
    for (const request of [undefined, null, 5, {}, { length: 3 }]) {
      expect(urlHost(request as never)).toBe('{"ok":false}');
    }
  });

  it('takes a request of exactly 64 KiB', () => {
    const empty = JSON.stringify({ op: 'parse', href: 'http://a/' });
    const request = JSON.stringify({ op: 'parse', href: `http://a/${'x'.repeat(65_536 - empty.length)}` });
    expect(request.length).toBe(65_536);
    expect(JSON.parse(urlHost(request))).toMatchObject({ ok: true });
  });
});
