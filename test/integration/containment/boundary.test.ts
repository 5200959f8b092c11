/** Containment, "The boundary": what crosses is text made by us, whatever the script did to its realm. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, defineTool, Enclave, type ExecutionEvent } from '../../../src/index.ts';
import { HEAVY, LEVELS, openArena } from './arena.ts';

const arena = openArena();
afterAll(() => arena[Symbol.asyncDispose]());

describe('patched intrinsics', () => {
  const lie = '() => { throw new Error("patched") }';
  it.each([
    [
      'Promise',
      `for (const k of ["then", "catch", "finally"]) Promise.prototype[k] = ${lie}; Promise.resolve = ${lie}; globalThis.Promise = ${lie}`,
    ],
    [
      'Promise[Symbol.species]',
      'Object.defineProperty(Promise, Symbol.species, { get() { return class { constructor(f) { f((v) => v, (v) => v) } } } })',
    ],
    [
      'Map',
      `for (const k of ["get", "set", "has", "delete", "clear", "forEach"]) Map.prototype[k] = ${lie}; globalThis.Map = ${lie}`,
    ],
    [
      'WeakMap',
      `for (const k of ["get", "set", "has", "delete"]) WeakMap.prototype[k] = ${lie}; globalThis.WeakMap = ${lie}`,
    ],
    [
      'Array',
      `for (const k of ["push", "pop", "shift", "join", "map", "slice", "concat", "forEach"]) Array.prototype[k] = ${lie}; Array.isArray = ${lie}`,
    ],
    [
      'Symbol.iterator',
      `Array.prototype[Symbol.iterator] = ${lie}; String.prototype[Symbol.iterator] = ${lie}; Map.prototype[Symbol.iterator] = ${lie}`,
    ],
    ['JSON', `JSON.stringify = ${lie}; JSON.parse = ${lie}; globalThis.JSON = undefined`],
    [
      'String',
      `for (const k of ["slice", "charCodeAt", "replaceAll", "repeat", "toString", "valueOf"]) String.prototype[k] = ${lie}; globalThis.String = ${lie}`,
    ],
    [
      'Function',
      `for (const k of ["call", "apply", "bind", "toString"]) Function.prototype[k] = ${lie}; globalThis.Function = ${lie}`,
    ],
    [
      'Reflect',
      `for (const k of Object.keys(Object.getOwnPropertyDescriptors(Reflect))) Reflect[k] = ${lie}`,
    ],
    [
      'Object',
      `for (const k of ["defineProperty", "getOwnPropertyDescriptor", "freeze", "getPrototypeOf", "keys"]) Object[k] = ${lie}`,
    ],
    [
      'Object.prototype setters',
      `for (const k of ["0", "1", "2", "resolve", "reject", "value", "ok", "json", "end", "items", "writable", "enumerable"]) Object.defineProperty(Object.prototype, k, { __proto__: null, configurable: true, set() { throw new Error("set " + k) }, get() { return undefined } })`,
    ],
    ['Object.prototype.then', 'Object.prototype.then = undefined'],
    [
      'toJSON everywhere',
      'for (const C of [Object, Array, String, Number, Boolean, BigInt]) C.prototype.toJSON = function () { return this }',
    ],
    [
      'Error',
      `Error.prototype.toString = ${lie}; Object.defineProperty(Error.prototype, "name", { get: ${lie} }); globalThis.Error = ${lie}; Error.captureStackTrace = ${lie}`,
    ],
    ['SyntaxError', `Object.defineProperty(SyntaxError, Symbol.hasInstance, { value: () => true })`],
    [
      'Proxy and globals',
      'for (const k of ["Proxy", "Symbol", "Number", "Math", "RegExp", "Date", "TypeError"]) globalThis[k] = undefined',
    ],
    [
      'RegExp',
      `RegExp.prototype.exec = ${lie}; RegExp.prototype[Symbol.replace] = ${lie}; RegExp.prototype[Symbol.split] = ${lie}`,
    ],
    [
      'the global object',
      'for (const k of Object.getOwnPropertyNames(globalThis)) try { delete globalThis[k] } catch {}',
    ],
    [
      'the prototype of the global object',
      'try { Object.setPrototypeOf(globalThis, new Proxy({}, { get() { throw 1 }, has() { throw 2 } })) } catch {}',
    ],
  ])('break the script only: %s', async (_name, patch) => {
    const before = await arena.value('return 1').then(arena.pids);
    // The functions that the script itself needs are taken first.
    const code = `const call = callTool, nap = sleep; ${patch}; const first = await call("echo", 7); await nap(0); return [first, typeof nap]`;
    expect(await arena.value(code)).toEqual([7, 'function']);
    expect(arena.pids()).toEqual(before);
  });

  it('that `await` asks for do not reach the promises of tool calls', async () => {
    const before = await arena.value('return 1').then(arena.pids);
    const code = `Object.defineProperty(Promise.prototype, 'constructor', { get() { return class { static get [Symbol.species]() { return Array } } } });
      await callTool('echo', 1); return 1`;
    expect(await arena.value(code)).toBe(1);
    expect(arena.pids()).toEqual(before);
  });

  it.each([
    [
      'strings',
      'String.prototype.replaceAll = String.prototype.repeat = () => ({ length: 0, toString: () => "", toJSON: () => ({ a: 1 }) })',
    ],
    ['undefined strings', 'String.prototype.replaceAll = String.prototype.repeat = () => undefined'],
    [
      'tags',
      'Object.prototype.toString = () => "[object Map]"; Map.prototype.forEach = (f) => { for (let i = 0; i < 3; i++) f({}, {}) }',
    ],
    [
      'dates',
      'Date.prototype.getTime = () => 0; Date.prototype.toISOString = () => ({ length: -1e9 }); Number.isFinite = () => true',
    ],
    ['keys', 'Reflect.ownKeys = () => ({ length: 1e3, 0: { toString() { throw 1 } } })'],
    [
      'arrays',
      'Array.isArray = () => true; Object.defineProperty(Array.prototype, "length", { writable: false })',
    ],
    ['symbols', 'Symbol.prototype.toString = () => ({ length: -1e9, toString: () => "s" })'],
    ['apply', 'Reflect.apply = (f, self, args) => ({ toJSON: () => 1 })'],
  ])('do not let the console break the protocol: %s', async (_name, patch) => {
    const before = await arena.value('return 1').then(arena.pids);
    const code = `${patch};
      for (const say of ["group", "log", "warn", "error", "table", "trace", "count", "time", "timeEnd", "assert", "dir", "groupEnd"])
        for (const value of ["a\\nb", { a: [1] }, new Date(0), Symbol("s"), new Map([[1, 2]]), 10n])
          try { console[say](value, value); console[say]("%s %o %j\\n", value, value, value) } catch {}
      return 1`;
    const limits = { cpuMs: 5_000, timeoutMs: 10_000 };
    expect(await arena.value(code, { limits })).toBe(1);
    expect(await arena.value(`${HEAVY}${code}`, { limits })).toBe(1);
    expect(arena.pids()).toEqual(before);
    expect(arena.enclave.stats().restarts).toBe(0);
  });

  it.each(['0', '1n', 'undefined', '({ length: 0, toJSON: () => 7 })', 'Symbol()'])(
    'do not make a line of the console anything but text: %s',
    async (value) => {
      const before = await arena.value('return 1').then(arena.pids);
      const lines: ExecutionEvent[] = [];
      const code = `
        Object.defineProperty(BigInt.prototype, 'length', { value: -1e12 });
        BigInt.prototype.toJSON = () => ['x'];
        String.prototype.repeat = String.prototype.replaceAll = () => ${value};
        console.groupEnd();
        for (const say of ['warn', 'trace', 'assert', 'log']) try { console[say]('') } catch {}
        return 1`;
      for (const weight of ['', HEAVY]) {
        const result = await arena.attack(weight + code, { onEvent: (event) => lines.push(event) });
        expect(result).toMatchObject({ success: true, value: 1 });
      }
      for (const { type, payload } of lines) {
        if (type === 'log') expect(payload.message).toEqual(expect.any(String));
      }
      expect(arena.pids()).toEqual(before);
      expect(arena.enclave.stats().restarts).toBe(0);
    },
  );
});

describe('a returned value', () => {
  it.each([
    ['return new Float16Array(2)', { 0: 0, 1: 0 }],
    ['return { then(r) { r(42) } }', 42],
    ['return { then(r, j) { r(1); r(2); j(3); throw 4 } }', 1],
    ['return { toJSON: () => ({ toJSON: () => 1, a: 2 }) }', { a: 2 }],
    ['return new Proxy([1, 2], { get: (t, k) => k === "length" ? 3 : t[k] })', [1, 2, null]],
    ['return JSON.parse(\'{"__proto__": {"polluted": 1}}\')', JSON.parse('{"__proto__": {"polluted": 1}}')],
    ['return [new Error("x"), /x/, new Map([[1, 2]]), new Uint8Array(2).buffer]', [{}, {}, {}, {}]],
    ['return JSON.rawJSON("1e999")', Number.POSITIVE_INFINITY],
    ['return { get a() { return console.log("seen") ?? 1 } }', { a: 1 }],
    ['return "\\ud800\\u2028\\u0000"', '\ud800\u2028\u0000'],
  ])('crosses as JSON: %s', async (code, value) => {
    expect(await arena.value(code)).toEqual(value);
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
  });

  it.each([
    'const a = {}; a.a = a; return a',
    'return 1n',
    'return Symbol()',
    'return () => 1',
    'return callTool',
    'return class {}',
    'return tools.echo',
    'return { toJSON() { throw null } }',
    'return { toJSON() { throw { get message() { throw 1 } } } }',
    'return new Proxy({}, { ownKeys() { throw new Error("trap") } })',
    'return { toJSON: () => undefined }',
    'return { a: { get b() { throw new Error("no") } } }',
  ])('that is no JSON is a SERIALIZATION_ERROR: %s', async (code) => {
    expect(await arena.error(code)).toMatchObject({ code: 'SERIALIZATION_ERROR', outcome: 'completed' });
  });

  it.each([
    ['in the guest', 'return "x".repeat(2_000)'],
    ['in bytes, not in characters', 'return "\\u20ac".repeat(700)'],
    ['after toJSON', 'return { toJSON: () => "x".repeat(2_000) }'],
    ['with escapes', 'return "\\u0001".repeat(400)'],
    ['on a thread of its own', `${HEAVY} return "x".repeat(2_000)`],
  ])('over the limit is refused: %s', async (_name, code) => {
    const error = await arena.error(code, { limits: { maxResultBytes: 2_000 } });
    expect(error.code).toBe('RESULT_LIMIT_EXCEEDED');
  });

  it.each(['', HEAVY])('is handed over whole up to 1,000 levels, and refused beyond (%#)', async (weight) => {
    const nested = (levels: number): string =>
      `${weight} let a = []; for (let i = 1; i < ${levels}; i++) a = [a]; return a`;
    let depth = 0;
    for (let at = await arena.value(nested(1_000)); Array.isArray(at); at = at[0]) depth++;
    expect(depth).toBe(1_000);
    for (const levels of [1_001, 20_000]) {
      expect(await arena.error(nested(levels))).toMatchObject({
        code: 'SERIALIZATION_ERROR',
        message: 'The returned value is nested deeper than 1000 levels',
      });
    }
  });
});

describe('a thrown value', () => {
  it.each([
    ['null', 'null'],
    ['undefined', 'undefined'],
    ['10n ** 20n', '100000000000000000000'],
    ['Symbol("s")', 'Symbol'],
    ['Object.create(null)', '{}'],
    ['() => 1', '() => 1'],
    ['new Proxy({}, { get() { throw 1 } })', ''],
    ['new Proxy(() => {}, { apply() { throw 1 }, get() { throw 2 } })', expect.any(String)],
    ['{ name: {}, message: {}, stack: {} }', '{"name":{},"message":{},"stack":{}}'],
    ['{ get message() { throw new Error("inner") } }', ''],
    ['{ toString() { throw 1 }, [Symbol.toPrimitive]() { throw 2 } }', '{}'],
    [
      'Object.assign(new Error("m"), { code: "MEMORY_LIMIT_EXCEEDED", retryable: true, outcome: "not_started" })',
      'm',
    ],
  ])('is described without being trusted: %s', async (thrown, message) => {
    expect(await arena.error(`throw ${thrown}`)).toMatchObject({
      code: 'SCRIPT_ERROR',
      message,
      retryable: false,
      outcome: 'completed',
    });
  });

  it('is cut to a bounded length', async () => {
    const code =
      'throw Object.assign(new Error("m".repeat(1e6)), { name: "n".repeat(1e6), stack: "s".repeat(1e6) })';
    const error = await arena.error(code);
    expect(JSON.stringify(error).length).toBeLessThan(20_000);
  });

  it.each([
    'throw new Error("Script execution timed out.")',
    'throw new Error("Isolate was disposed during execution due to memory limit")',
    'throw Object.assign(new Error("x"), { name: "EnclaveError", kind: "TOOL_ERROR" })',
    'const e = await callTool("fail").catch((e) => e); throw Object.assign(new Error(e.message), { name: e.name, stack: e.stack })',
    'const e = await callTool("fail").catch((e) => e); throw Object.create(e)',
    'const e = await callTool("fail").catch((e) => e); throw new Proxy(e, {})',
  ])('is never another kind of error by its text: %s', async (code) => {
    expect((await arena.error(code)).code).toBe('SCRIPT_ERROR');
  });
});

describe('a limit that the guest sees first', () => {
  const cases = [
    ['OUTPUT_LIMIT_EXCEEDED', 'console.log("x".repeat(100))', { maxOutputBytes: 1_000 }],
    ['TOOL_CALL_LIMIT_EXCEEDED', 'void callTool("echo", 1).catch(() => 0)', { maxToolCalls: 3 }],
  ] as const;
  for (const [code, act, limits] of cases) {
    it.each([
      ['returns', `for (let i = 0; i < 50; i++) try { ${act} } catch {} return "escaped"`],
      ['returns, heavy', `${HEAVY} for (let i = 0; i < 50; i++) try { ${act} } catch {} return "escaped"`],
      [
        'throws, heavy',
        `${HEAVY} for (let i = 0; i < 50; i++) try { ${act} } catch {} throw new Error("escaped")`,
      ],
      [
        'waits, heavy',
        `${HEAVY} for (let i = 0; i < 50; i++) try { ${act} } catch {} await new Promise(() => {})`,
      ],
      [
        'in toJSON',
        `return { toJSON() { for (let i = 0; i < 50; i++) try { ${act} } catch {} return "escaped" } }`,
      ],
      [
        'in toJSON, heavy',
        `${HEAVY} return { toJSON() { for (let i = 0; i < 50; i++) try { ${act} } catch {} return "escaped" } }`,
      ],
    ])(`ends the run as ${code} though the script caught it and %s`, async (_name, script) => {
      expect(await arena.error(script, { limits })).toMatchObject({ code });
    });
  }
});

describe('the library', () => {
  it.each(LEVELS)('is out of reach at level %s', async (isolation) => {
    const code = `
      const seen = new Set(), hits = [];
      const walk = (value, path, depth) => {
        if ((typeof value !== 'object' && typeof value !== 'function') || value === null || seen.has(value) || depth > 12) return;
        seen.add(value);
        for (const named of [value, value.constructor]) {
          const name = typeof named === 'function' ? Object.getOwnPropertyDescriptor(named, 'name')?.value : '';
          if (/^(Reference|ExternalCopy|Callback|Isolate|Context|Module|Script|InspectorSession|ivm)$/.test(name)) hits.push(path);
        }
        walk(Object.getPrototypeOf(value), path + '.[[p]]', depth + 1);
        for (const key of Reflect.ownKeys(value)) {
          if (path === '' && key === 'tools') continue;
          const d = Object.getOwnPropertyDescriptor(value, key) ?? {};
          for (const held of [d.value, d.get, d.set]) walk(held, path + '.' + String(key), depth + 1);
        }
      };
      walk(globalThis, '', 0);
      const reach = (f) => { try { return typeof f() } catch { return 'threw' } };
      const sloppy = new Function('return function f() { return f.caller }')();
      return [
        hits,
        Object.getOwnPropertyNames(globalThis).filter((name) => /ivm|enclave|^_/i.test(name)),
        ['process', 'require', 'module', 'global', 'Buffer', 'fetch', 'setInterval', 'ivm', '__enclave'].filter((name) => { try { return typeof (0, eval)(name) !== 'undefined' } catch { return false } }),
        [callTool, sleep, console.log, tools.echo, setTimeout].map((f) => { try { return f.constructor.constructor('return this')() === globalThis } catch { return 'refused' } }),
        [(async () => {}), function* () {}, async function* () {}, () => {}].map((f) => { try { return typeof f.constructor('return this') } catch { return 'refused' } }),
        reach(() => { let e; try { null.x } catch (x) { e = x } return e.constructor.constructor('return process')() }),
        JSON.stringify({ toJSON: sloppy }) === undefined || sloppy() === null,
        reach(() => (function () { return arguments.callee.caller })().constructor('return process')()),
      ]`;
    const value = (await arena.value(code, { isolation })) as unknown[];
    expect(value[0]).toEqual([]);
    expect(value[1]).toEqual([]);
    expect(value[2]).toEqual([]);
    expect(value.slice(3)).toEqual([
      [true, true, true, 'refused', true],
      ['function', 'function', 'function', 'function'],
      'threw',
      true,
      'threw',
    ]);
  });

  it.each([
    'console.log("y")',
    'new URL("http://a/b")',
    'atob("aaaa")',
    'structuredClone([1])',
    'new Date()',
    'callTool({})',
  ])('shows nothing of itself in an error at the edge of the stack: %s', async (act) => {
    for (const weight of ['', HEAVY]) {
      const code = `${weight} let met; const dive = () => { try { ${act} } catch (e) { met ??= e } dive() }; try { dive() } catch (e) { met ??= e } throw met`;
      const error = await arena.error(code, {
        limits: { maxOutputBytes: 16 * 1024 * 1024, cpuMs: 10_000, timeoutMs: 20_000 },
      });
      expect(error.name).toMatch(/^(RangeError|TypeError)$/);
      for (const frame of (error.stack ?? '').split('\n').slice(1))
        expect(frame).toMatch(/^ {4}at (async )?(\S+ )?\(?script\.js:\d+:(?!1\D)\d+\)?…?$/);
    }
  });
});

describe('tools', () => {
  it.each([
    '"constructor"',
    '"__proto__"',
    '"hasOwnProperty"',
    '"toString"',
    '"echo "',
    '"echo.constructor"',
    '"prototype"',
    '""',
    '"x".repeat(1e6)',
    '{ toString: () => "echo" }',
    '["echo"]',
    'new String("echo")',
    'Symbol("echo")',
    'null',
    'undefined',
    '1n',
  ])('that have no such name are unknown: %s', async (name) => {
    arena.calls.length = 0;
    const seen =
      'return [e.name, typeof e.message, e.message.length < 600, Object.getPrototypeOf(e) === Error.prototype]';
    const code = `try { await callTool(${name}, "forged") } catch (e) { ${seen} }`;
    expect(await arena.value(code)).toEqual(['UnknownToolError', 'string', true, true]);
    expect(await arena.error(`await callTool(${name}, "forged")`)).toMatchObject({ code: 'UNKNOWN_TOOL' });
    expect(arena.calls.filter(({ args }) => args === 'forged')).toEqual([]);
  });

  it.each(['__proto__', 'constructor', 'toString', 'valueOf', 'prototype', 'then', 'call', 'apply', 'bind'])(
    'are not reached through members of `tools`: %s',
    async (name) => {
      const code = `try { const t = tools.${name}; if (typeof t !== "function") return "none"; await t("forged"); return "called" } catch (e) { return e.name }`;
      expect(await arena.value(code)).toMatch(/^(none|UnknownToolError)$/);
    },
  );

  it('fail in the script as a new Error with a capped message and nothing else', async () => {
    const code = `
      const e = await callTool("fail").catch((error) => error);
      return [e instanceof Error, Object.getPrototypeOf(e) === Error.prototype, Reflect.ownKeys(e).sort().map(String), e.name, e.message.length, "cause" in e, e.secret, String(e.stack).split("\\n    at ").slice(1)]`;
    const [isError, own, keys, name, length, cause, secret, frames] = (await arena.value(code)) as unknown[];
    expect([isError, own, keys, name, cause, secret]).toEqual([
      true,
      true,
      ['message', 'name', 'stack'],
      'ToolError',
      false,
      null,
    ]);
    expect(length).toBeLessThanOrEqual(2_100);
    for (const frame of frames as string[]) expect(frame).toMatch(/script\.js:\d+:\d+/);
  });

  it('hand over data only, whatever keys it has', async () => {
    const code =
      'const v = await tools.evil.then; const r = await callTool("evil:then"); return [r, typeof v]';
    expect(await arena.value(code)).toEqual([{ then: 1, constructor: 2, toJSON: 3 }, 'undefined']);
  });

  it.each([
    ['{ toJSON: () => ({ a: 1 }) }', { a: 1 }],
    [
      'JSON.parse(\'{"__proto__": {"admin": true}, "constructor": 1}\')',
      JSON.parse('{"__proto__": {"admin": true}, "constructor": 1}'),
    ],
    ['[undefined, NaN, () => 1]', [null, null, null]],
    ['new Proxy({ a: 1 }, {})', { a: 1 }],
    [
      '(globalThis.Object.prototype.toJSON = function () { return { forged: this === Object.prototype } }, { b: 2 })',
      { forged: false },
    ],
  ])('get arguments as JSON: %s', async (args, seen) => {
    arena.calls.length = 0;
    await arena.value(`await callTool("echo", ${args}).catch(() => 0); return 1`);
    const own = arena.calls.filter(({ args: given }) => typeof given === 'object');
    expect(own).toEqual([{ name: 'echo', args: seen }]);
    expect(Object.hasOwn(Object.prototype, 'admin')).toBe(false);
  });

  it.each([
    '(() => { const a = []; a.push(a); return a })()',
    '1n',
    'Symbol()',
    '() => 1',
    '{ toJSON() { throw null } }',
    '"x".repeat(2 ** 21)',
  ])('refuse arguments that are no JSON or too large: %s', async (args) => {
    const code = `return await callTool("echo", ${args}).then(() => "called", (e) => e.name)`;
    expect(await arena.value(code)).toBe('EnclaveError');
    expect(await arena.error(`await callTool("echo", ${args})`)).toMatchObject({
      code: 'SERIALIZATION_ERROR',
    });
  });

  it('refuse arguments that are nested deeper than 1,000 levels, whatever stack the script has', async () => {
    const seen: ExecutionEvent[] = [];
    const code = `${HEAVY} let a = []; for (let i = 1; i < 20_000; i++) a = [a];
      return await callTool("echo", a).then(() => "called", (e) => [e.name, e.message])`;
    expect(await arena.value(code, { onEvent: (event) => seen.push(event) })).toEqual([
      'EnclaveError',
      'callTool(echo): the arguments are nested deeper than 1000 levels',
    ]);
    for (const event of seen) expect(() => JSON.stringify(event)).not.toThrow();
  });

  it('refuse arguments that are too large in bytes, though there is no such tool', async () => {
    const code = 'return await callTool("nope", "\u20ac".repeat(1_048_570)).catch((e) => e.message)';
    expect(await arena.value(code)).toBe(
      'callTool(nope): the arguments are larger than maxToolPayloadBytes (1048576)',
    );
  });

  it('leave nothing of their arguments in the host', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const held = (): number => {
      collect();
      return process.memoryUsage().heapUsed;
    };
    const before = held();
    const code = `const big = "x".repeat(1_048_570);
      for (let i = 0; i < 40; i++) await callTool("nope", big).catch(() => 0);
      await callTool("look")`;
    const grown: number[] = [];
    await using own = new Enclave({
      adapter: createWorkerPoolAdapter({ poolSize: 1 }),
      tools: [defineTool({ name: 'look', handler: () => void grown.push(held() - before) })],
    });
    expect(await own.run(code)).toMatchObject({ success: true });
    expect(grown[0]).toBeLessThan(20 * 1024 * 1024);
  });

  it('are counted before they are queued', async () => {
    arena.calls.length = 0;
    const code =
      'await Promise.allSettled(Array.from({ length: 50 }, (_, i) => callTool("echo", "n" + i))); return "escaped"';
    const error = await arena.error(code, { limits: { maxToolCalls: 5, maxConcurrentToolCalls: 1 } });
    expect(error.code).toBe('TOOL_CALL_LIMIT_EXCEEDED');
    expect(arena.calls.filter(({ args }) => String(args).startsWith('n')).length).toBeLessThanOrEqual(5);
  });

  it('made at the edge of the stack do not mix up the calls after them', async () => {
    const code = `
      const edge = () => { try { void callTool("echo", 0).catch(() => 0); sleep(0) } catch {} };
      const dive = (n) => { if (n > 0) dive(n - 1); else edge() };
      let top = 100; const probe = () => { top++; probe() }; try { probe() } catch {}
      for (let n = Math.floor(top / 4); n < top * 2 && n < 60_000; n += 97) try { dive(n) } catch {}
      return await callTool("echo", 5)`;
    const result = await arena.attack(code, {
      limits: { maxToolCalls: 100_000, cpuMs: 3_000, timeoutMs: 20_000 },
    });
    expect(result).toMatchObject({ success: true, value: 5 });
  });
});

describe('sleeps and timers', () => {
  it.each([
    'for (;;) void sleep(1e9)',
    'for (;;) setTimeout(() => {}, 1e9)',
    `${HEAVY} for (;;) void sleep(1e9)`,
  ])('are bounded in number, like everything that the host keeps for a script: %s', async (code) => {
    const before = process.memoryUsage().heapUsed;
    let peak = 0;
    const sampling = setInterval(() => {
      peak = Math.max(peak, process.memoryUsage().heapUsed - before);
    }, 2);
    const limits = { memoryBytes: 64 * 1024 * 1024, cpuMs: 5_000, timeoutMs: 10_000 };
    const result = await arena.enclave.run(code, { tenant: 'sleeper', limits });
    clearInterval(sampling);
    expect(result.success).toBe(false);
    expect(peak).toBeLessThan(24 * 1024 * 1024);
  });
});

describe('output', () => {
  it('is capped as it is produced and never more than the limit is handed on', async () => {
    for (const weight of ['', HEAVY]) {
      const events: ExecutionEvent[] = [];
      const error = await arena.error(
        `${weight} for (;;) { console.log("x".repeat(999)); console.warn("\\u20ac".repeat(50)) }`,
        {
          limits: { maxOutputBytes: 50_000 },
          onEvent: (event) => events.push(event),
        },
      );
      expect(error.code).toBe('OUTPUT_LIMIT_EXCEEDED');
      let bytes = 0;
      for (const { type, payload } of events) {
        if (type === 'stdout') bytes += Buffer.byteLength(payload.chunk);
        if (type === 'log') bytes += Buffer.byteLength(payload.message);
      }
      expect(bytes).toBeLessThanOrEqual(50_000);
      expect(bytes).toBeGreaterThan(40_000);
    }
  });

  it.each([
    'for (;;) console.warn("")',
    'for (;;) { for (let i = 0; i < 1_000; i++) console.error(""); await sleep(0) }',
    `${HEAVY} for (;;) console.info("")`,
  ])('of nothing costs a byte a line: %s', async (code) => {
    let lines = 0;
    const error = await arena.error(code, {
      limits: { maxOutputBytes: 5_000, cpuMs: 10_000, timeoutMs: 20_000 },
      onEvent: ({ type }) => {
        if (type === 'log') lines++;
      },
    });
    expect(error.code).toBe('OUTPUT_LIMIT_EXCEEDED');
    expect(lines).toBe(5_000);
  });

  it('of nothing is too much where nothing may be written', async () => {
    expect(await arena.error('console.warn("")', { limits: { maxOutputBytes: 0 } })).toMatchObject({
      code: 'OUTPUT_LIMIT_EXCEEDED',
    });
    expect(await arena.value('return 1', { limits: { maxOutputBytes: 0 } })).toBe(1);
  });

  it.each([
    ['', 'OUTPUT_LIMIT_EXCEEDED', 'console.log("\\x01".repeat(12 * 2 ** 20)); return 1'],
    [HEAVY, 'OUTPUT_LIMIT_EXCEEDED', '/* URL */ console.log("\\x01".repeat(12 * 2 ** 20)); return 1'],
  ])('that no message holds ends the script, not its worker (%#)', async (weight, code, script) => {
    await using big = openArena({}, { maxWorkerMemory: 2048 * 1024 * 1024 });
    const limits = {
      maxOutputBytes: 16 * 1024 * 1024,
      maxResultBytes: 16 * 1024 * 1024,
      memoryBytes: 512 * 1024 * 1024,
      cpuMs: 20_000,
      timeoutMs: 30_000,
    };
    const result = await big.attack(weight + script, { limits });
    if (code === 'OUTPUT_LIMIT_EXCEEDED') expect(result).toMatchObject({ success: false, error: { code } });
    expect(big.enclave.stats().restarts).toBe(0);
  });

  it.each([
    'console.log("x".repeat(2 ** 28))',
    'console.log(new Array(2 ** 24).fill("xxxxxxxx"))',
    'console.log(new Proxy({}, { ownKeys: () => Array.from({ length: 1e5 }, (_, i) => "k" + i), getOwnPropertyDescriptor: () => ({ value: "v".repeat(1e4), enumerable: true, configurable: true }) }))',
    'console.log("%s".repeat(1e5), ..."y".repeat(1e4)); for (;;) console.log("z".repeat(1e5))',
    'console.log({ get [Symbol.toStringTag]() { return "t".repeat(1e7) } }); for (;;) console.log("z".repeat(1e5))',
    'let deep = {}; for (let i = 0; i < 1e5; i++) deep = { deep, also: deep }; for (;;) console.log(deep)',
    'for (;;) console.group("g")',
    'for (let i = 0; ; i++) console.count("label" + i)',
    'for (;;) console.trace({})',
  ])('of any shape stays within its limit: %s', async (code) => {
    const result = await arena.attack(`${code}; return 1`, {
      limits: { maxOutputBytes: 100_000, cpuMs: 2_000 },
    });
    if (result.success) expect(result.value).toBe(1);
    else
      expect(result.error.code).toMatch(
        /^(OUTPUT_LIMIT_EXCEEDED|MEMORY_LIMIT_EXCEEDED|CPU_LIMIT_EXCEEDED|SCRIPT_ERROR)$/,
      );
  });
});
