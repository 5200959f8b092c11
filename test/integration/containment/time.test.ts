/** Containment, "Time": nothing that a script does outlasts its limits, and nothing outlasts the script. */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { HEAVY, openArena } from './arena.ts';

const arena = openArena();
afterAll(() => arena[Symbol.asyncDispose]());

const STOPPED = expect.stringMatching(/^(CPU_LIMIT_EXCEEDED|EXECUTION_TIMEOUT|MEMORY_LIMIT_EXCEEDED)$/);

/** True if there is such a process and it is not a zombie. */
function alive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
}

describe('the wall clock', () => {
  it.each([
    'await new Promise(() => {})',
    'await { then() {} }',
    'return { then() {} }',
    'await sleep(1e12)',
    'for await (const x of { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) });',
  ])('ends a promise that never settles: %s', async (code) => {
    const result = await arena.attack(code, { limits: { timeoutMs: 150 } });
    expect(result).toMatchObject({
      success: false,
      error: { code: 'EXECUTION_TIMEOUT', outcome: 'completed' },
    });
    expect(result.stats.duration).toBeGreaterThanOrEqual(145);
  });

  it("is the parent's: a worker that is stopped altogether is killed", async () => {
    const stopped: number[] = [];
    const result = await arena.enclave.run('await callTool("echo", "stop me"); await sleep(1e6)', {
      limits: { timeoutMs: 300 },
      onEvent: ({ type }) => {
        if (type !== 'tool_result_applied') return;
        stopped.push(...arena.pids());
        for (const pid of stopped) process.kill(pid, 'SIGSTOP');
      },
    });
    expect(result).toMatchObject({ success: false, error: { code: 'EXECUTION_TIMEOUT' } });
    expect(stopped).toHaveLength(1);
    await expect.poll(() => stopped.some(alive)).toBe(false);
    expect(await arena.value('return 1')).toBe(1);
  });
});

describe('CPU time', () => {
  it.each([
    'for (;;);',
    'await callTool("echo", 1); for (;;);',
    'await sleep(0); for (;;);',
    'for (;;) await null;',
    'try { throw 1 } finally { for (;;); }',
    'await new Promise(() => { for (;;); })',
    'async function* g() { for (;;) yield 1 } for await (const x of g());',
    'const f = () => { try { f(); } finally { f(); } }; f();',
    'const spin = () => Promise.resolve().then(spin); await spin();',
    'const spin = () => queueMicrotask(spin); spin(); await new Promise(() => {})',
    'class P extends Promise { static get [Symbol.species]() { for (;;); } } await P.resolve(1).then((x) => x);',
    '[...Array(1e5).keys()].sort(() => { for (;;); });',
    '/^(a+)+$/.test("a".repeat(40) + "b")',
    '"x".repeat(1e5).replace(/(x+x+)+y/, "")',
    'return { toJSON() { for (;;); } }',
    'console.log({ get [Symbol.toStringTag]() { for (;;); } })',
    'await callTool("echo", { toJSON() { for (;;); } })',
    'await callTool({ toString() { for (;;); } }).catch(() => 0); await sleep({ valueOf() { for (;;); } })',
    'throw new Proxy({}, { get() { for (;;); } })',
    'const e = new Error(); Object.defineProperty(e, "name", { get() { for (;;); } }); e.stack; throw e',
  ])('is limited beside wall time: %s', async (code) => {
    const result = await arena.attack(code);
    expect(result).toMatchObject({ success: false, error: { code: STOPPED, outcome: 'completed' } });
  });

  it('adds up over the entries into the isolate', async () => {
    const code = 'for (;;) { for (let i = 0; i < 3e6; i++); await callTool("echo", 1); }';
    const limits = { cpuMs: 60, timeoutMs: 20_000, maxToolCalls: 100_000 };
    expect(await arena.error(code, { limits })).toMatchObject({ code: 'CPU_LIMIT_EXCEEDED' });
  });

  it('is not used up by waiting', async () => {
    const code = 'for (let i = 0; i < 20; i++) await sleep(10); return "rested"';
    expect(await arena.value(code, { limits: { cpuMs: 100 } })).toBe('rested');
  });
});

describe('while the host formats an error', () => {
  const spin = 'get() { for (;;); }';
  const evil = `const e = new Error("x"); for (const key of ["stack", "message", "name"]) Object.defineProperty(e, key, { ${spin} });`;
  it.each([
    `${evil} throw e`,
    `${evil} Promise.reject(e); await new Promise(() => {})`,
    `Promise.reject(new Proxy(new Error(), { ${spin}, getPrototypeOf() { for (;;); } })); await new Promise(() => {})`,
    `Promise.reject({ get stack() { for (;;); }, get message() { for (;;); }, get name() { for (;;); } }); await new Promise(() => {})`,
    `Object.defineProperty(TypeError.prototype, "name", { ${spin} }); null.x`,
  ])('a getter of the script cannot run for ever: %s', async (code) => {
    expect(await arena.error(code)).toMatchObject({ code: STOPPED });
  });

  it('no Error.prepareStackTrace of the script is called', async () => {
    const code = `
      const set = [];
      for (const way of [
        (f) => { Error.prepareStackTrace = f; },
        (f) => Object.defineProperty(Error, 'prepareStackTrace', { value: f }),
        (f) => Object.defineProperty(Error, 'prepareStackTrace', { get: () => f }),
        () => { delete Error.prepareStackTrace; },
        (f) => { Error = class extends Error { static prepareStackTrace = f }; },
        (f) => { TypeError.prepareStackTrace = f; },
      ]) try { way(() => { for (;;); }); set.push(1) } catch { set.push(0) }
      null.x`;
    expect(await arena.error(code)).toMatchObject({ code: 'SCRIPT_ERROR', name: 'TypeError' });
  });
});

describe('a builtin that cannot be interrupted', () => {
  it.each([
    '[].indexOf.call({ length: 2 ** 53 - 1 }, 1)',
    'await callTool("echo", 1); [].includes.call({ length: 2 ** 53 - 1 }, 1)',
    'let n = 3n; for (;;) n *= n;',
    'return String((3n ** 100_000_000n) % 7n)',
    'return new Array(2 ** 32 - 1).fill(0).length',
  ])('costs the worker, not its neighbours: %s', async (code) => {
    expect(await arena.error(code)).toMatchObject({ code: STOPPED });
  });

  it('ends in the death of its process', async () => {
    expect(await arena.value('return 1')).toBe(1);
    const before = arena.pids();
    expect(await arena.error('[].lastIndexOf.call({ length: 2 ** 53 - 1 }, 1)')).toMatchObject({
      code: STOPPED,
    });
    await expect.poll(() => before.some(alive)).toBe(false);
  });
});

describe('parsing', () => {
  it('a text made for a slow pattern holds up nobody', async () => {
    // Beside a comment, all of it is JavaScript that parses in a moment.
    const result = await arena.attack(`return 1; // ${'a<'.repeat(100_000)}`);
    expect(result).toMatchObject({ success: true, value: 1 });
  });

  it.each([
    ['parentheses', '('.repeat(100_000)],
    ['brackets of a type', `let x: ${'['.repeat(100_000)}`],
    ['type arguments', `let x: ${'A<'.repeat(100_000)}1`],
    ['closed brackets', `let x: number = ${'['.repeat(60_000)}${']'.repeat(60_000)}; return 1`],
  ])('nesting too deep for a parser is refused before anything runs: %s', async (_name, code) => {
    expect(await arena.error(code)).toMatchObject({ code: 'SYNTAX_ERROR', outcome: 'not_started' });
    expect(await arena.value('enum After { Works = 3 } return After.Works')).toBe(3);
  });
});

describe('what an execution leaves behind', () => {
  it.each(['', HEAVY])('ends with it: late calls, late output, late work (%#)', async (weight) => {
    const late: unknown[] = [];
    const ended = Promise.withResolvers<void>();
    const code = `${weight}
      for (const ms of [0, 1, 5, 20]) void (async () => { await sleep(ms); for (;;) { console.log("late"); await callTool("echo", "late"); } })();
      setTimeout(() => { for (;;); }, 2);
      return "done"`;
    const options = {
      tenant: 'leaver',
      onEvent: ({ type }: { type: string }) => {
        if (type === 'final') ended.resolve();
        else late.push(type);
      },
    };
    arena.calls.length = 0;
    expect(await arena.value(code, options)).toBe('done');
    await ended.promise;
    for (let round = 0; round < 5; round++) {
      expect(await arena.value('await sleep(10); return 1', { tenant: 'leaver' })).toBe(1);
    }
    expect(late).toEqual(['session_init']);
    expect(arena.calls.filter(({ args }) => args === 'late')).toEqual([]);
  });

  it.each([
    'void (async () => { await sleep(0); throw new Error("late"); })(); return 1',
    'void Promise.reject(new Error("late")); return 1',
    'void callTool("fail"); return 1',
    'void callTool("nothing"); return 1',
    'const p = callTool("echo", 1); p.then(() => { throw null }); await p; return 1',
    `${HEAVY} void Promise.reject(new Error("late")); return 1`,
  ])('a late rejection never surfaces in the next execution: %s', async (code) => {
    expect(await arena.value(code)).toBe(1);
    for (let round = 0; round < 3; round++) {
      expect(await arena.value('await sleep(2); return "calm"')).toBe('calm');
    }
  });

  it.each([
    'const spin = () => Promise.resolve().then(spin); spin(); return 1',
    'const spin = () => queueMicrotask(spin); spin(); return 1',
  ])('microtasks without end do not take its value away: %s', async (code) => {
    const result = await arena.attack(code);
    if (result.success) expect(result.value).toBe(1);
    else expect(result.error).toMatchObject({ code: STOPPED });
  });
});
