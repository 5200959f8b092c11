/** The front door: arguments, signals, tenants, isolation, the end. */
import { afterAll, describe, expect, it } from 'vitest';
import {
  createWorkerPoolAdapter,
  Enclave,
  type EnclaveConfig,
  EnclaveError,
  type Isolation,
  type RunOptions,
  recommendedPoolSize,
} from '../../src/index.ts';
import { errorIn, PATIENCE, valueIn } from './ends.ts';

const gates = new Map<string, PromiseWithResolvers<void>>();
const gate = (name: string): PromiseWithResolvers<void> => {
  const known = gates.get(name) ?? Promise.withResolvers<void>();
  gates.set(name, known);
  return known;
};

const adapter = createWorkerPoolAdapter({ poolSize: 2, maxConcurrentPerWorker: 4 });
const enclave = new Enclave({
  adapter,
  toolHandler: async (name, args, ctx) => {
    if (name === 'tenant') return ctx.tenant ?? null;
    gate(`${name} called`).resolve();
    await gate(name).promise;
    return args;
  },
});
afterAll(() => enclave.dispose());

const ISOLATIONS: readonly Isolation[] = ['process', 'execution', 'context', 'realm'];

describe('misuse', () => {
  it.each<[string, unknown, string]>([
    ['an unknown option', { nope: 1 }, 'options.nope'],
    ['options that are no object', null, 'options'],
    ['an empty tenant', { tenant: '' }, 'options.tenant'],
    ['a tenant that is too long', { tenant: 'x'.repeat(257) }, 'options.tenant'],
    ['a tenant that is no string', { tenant: 7 }, 'options.tenant'],
    ['a listener that is no function', { onEvent: 1 }, 'options.onEvent'],
    ['a signal that is none', { signal: { aborted: false } }, 'options.signal'],
    ['an unknown isolation level', { isolation: 'vm' }, 'options.isolation'],
    ['a seed that is an object', { seed: {} }, 'options.seed'],
    ['a seed that is not finite', { seed: Number.NaN }, 'options.seed'],
    ['input that is no JSON', { input: 1n }, 'options.input'],
    ['input that is a function', { input: () => 1 }, 'options.input'],
    ['input over maxToolPayloadBytes', { input: 'xxx', limits: { maxToolPayloadBytes: 4 } }, 'options.input'],
    ['limits that are no object', { limits: null }, 'options.limits'],
    ['an unknown limit', { limits: { timeout: 5 } }, 'options.limits.timeout'],
    ['a limit below its range', { limits: { timeoutMs: 0 } }, 'options.limits.timeoutMs'],
    ['a limit above its range', { limits: { maxToolCalls: 100_001 } }, 'options.limits.maxToolCalls'],
    ['a limit that is no whole number', { limits: { cpuMs: 1.5 } }, 'options.limits.cpuMs'],
    ['more memory than a worker has', { limits: { memoryBytes: 1024 ** 3 } }, 'limits.memoryBytes'],
    ['an allow-list with a malformed name', { tools: ['ok', 'not a name'] }, 'tools[1]'],
  ])('rejects with INVALID_ARGUMENT naming the key: %s', async (_what, options, key) => {
    const error: unknown = await enclave.run('return 1', options as RunOptions).catch((reason) => reason);
    expect(error).toBeInstanceOf(EnclaveError);
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', outcome: 'not_started', retryable: false });
    expect((error as EnclaveError).key).toContain(key);
    expect((error as EnclaveError).message).toContain(key);
  });

  it.each([undefined, null, 5, {}])('rejects a script that is no string: %s', async (code) => {
    await expect(enclave.run(code as unknown as string)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'code',
    });
  });

  it.each<[unknown, string]>([
    [null, 'config'],
    [{ adaptor: 1 }, 'config.adaptor'],
    [{ adapter: {} }, 'config.adapter'],
    [{ isolation: 'none' }, 'config.isolation'],
    [{ limits: { cpuMs: 0 } }, 'config.limits.cpuMs'],
    [{ tools: [{ name: 'x' }] }, 'tools[0]'],
    [{ toolHandler: 'x' }, 'toolHandler'],
    [{ logger: 5 }, 'logger'],
    [{ registry: 7 }, 'registry'],
  ])('is refused by the constructor too: %j', (config, key) => {
    expect(() => new Enclave(config as EnclaveConfig)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', key: expect.stringContaining(key) }),
    );
  });

  it.each<[object, string]>([
    [{ poolsize: 1 }, 'options.poolsize'],
    [{ poolSize: 0 }, 'options.poolSize'],
    [{ poolSize: 1, minWorkers: 2 }, 'options.minWorkers'],
    [{ maxWorkerMemory: 1 }, 'options.maxWorkerMemory'],
    [{ uid: -1 }, 'options.uid'],
  ])('is refused by the adapter: %j', (options, key) => {
    expect(() => createWorkerPoolAdapter(options)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', key }),
    );
  });

  it('takes an explicit undefined for the default', async () => {
    const options: RunOptions = {
      input: undefined,
      limits: { timeoutMs: undefined },
      signal: undefined,
      tenant: undefined,
      tools: undefined,
      isolation: undefined,
      onEvent: undefined,
      seed: undefined,
    };
    expect(valueIn(await enclave.run('return typeof input', options))).toBe('undefined');
    expect(createWorkerPoolAdapter({ poolSize: undefined }).options.poolSize).toBe(
      recommendedPoolSize('mixed'),
    );
  });
});

describe('input', () => {
  it.each([[{ a: [1, null, 'é'] }], [0], [''], [null], [false], [[]]])(
    'reaches the script: %j',
    async (input) => {
      expect(valueIn(await enclave.run('return [input]', { input }))).toEqual([input]);
    },
  );

  it('is a copy: what the script does to it stays there', async () => {
    const input = { n: 1, __proto__: null };
    expect(valueIn(await enclave.run('input.n = 2; return input.n', { input }))).toBe(2);
    expect(input.n).toBe(1);
  });

  it('does not reach prototypes through __proto__', async () => {
    const input: unknown = JSON.parse('{"__proto__": {"polluted": true}}');
    const code = 'return [({}).polluted ?? null, input.polluted ?? null]';
    expect(valueIn(await enclave.run(code, { input }))).toEqual([null, null]);
  });
});

describe('a signal', () => {
  it('that is aborted already ends the run before it began', async () => {
    const result = await enclave.run('return 1', { signal: AbortSignal.abort() });
    expect(errorIn(result)).toMatchObject({ code: 'CANCELLED', outcome: 'not_started', retryable: false });
    expect(result.stats.attempts).toBe(0);
  });

  it('takes a waiting run out of the queue', async () => {
    const own = new Enclave({
      adapter: createWorkerPoolAdapter({ poolSize: 1, maxConcurrentPerWorker: 1 }),
      toolHandler: () => gate('queue').promise,
    });
    try {
      const first = own.run('await callTool("x"); return "first"');
      await expect.poll(() => own.stats().active, PATIENCE).toBe(1);
      const controller = new AbortController();
      const second = own.run('return 2', { signal: controller.signal });
      expect(own.stats().queueLength).toBe(1);
      controller.abort();
      expect(errorIn(await second)).toMatchObject({ code: 'CANCELLED', outcome: 'not_started' });
      expect(own.stats().queueLength).toBe(0);
      gate('queue').resolve();
      expect(valueIn(await first)).toBe('first');
    } finally {
      await own.dispose();
    }
  });

  it('ends a run that waits for a tool, in doubt, and the handler is told', async () => {
    const controller = new AbortController();
    let told = false;
    const own = new Enclave({
      adapter,
      toolHandler: (_name, _args, { signal }) => {
        signal.addEventListener('abort', () => {
          told = true;
        });
        setImmediate(() => controller.abort());
        return new Promise(() => undefined);
      },
    });
    try {
      const result = await own.run('await callTool("x")', { signal: controller.signal });
      expect(told).toBe(true);
      expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['unknown']);
      expect(errorIn(result)).toMatchObject({ code: 'CANCELLED', outcome: 'unknown', retryable: false });
    } finally {
      await own.dispose();
    }
  });

  it('ends a run that computes', async () => {
    const controller = new AbortController();
    const result = await enclave.run('console.log("here"); for (;;) {}', {
      signal: controller.signal,
      onEvent: ({ type }) => {
        if (type === 'stdout') controller.abort();
      },
    });
    expect(errorIn(result)).toMatchObject({ code: 'CANCELLED', outcome: 'completed' });
    expect(valueIn(await enclave.run('return "next"'))).toBe('next');
  });

  it('that is aborted after the end changes nothing', async () => {
    const controller = new AbortController();
    const result = await enclave.run('return 1', { signal: controller.signal });
    controller.abort();
    expect(valueIn(result)).toBe(1);
  });
});

describe('a tenant', () => {
  it('is told to tools and to nobody else', async () => {
    const code = 'return [await callTool("tenant"), Object.keys(globalThis)]';
    expect(valueIn(await enclave.run(code, { tenant: 'acme' }))).toEqual(['acme', []]);
    expect(valueIn(await enclave.run(code))).toEqual([null, []]);
  });

  it('may be called anything', async () => {
    for (const tenant of ['__proto__', 'constructor', '{"a":1}', '\u0000', 'x'.repeat(256)]) {
      expect(valueIn(await enclave.run('return await callTool("tenant")', { tenant }))).toBe(tenant);
    }
  });
});

describe.each(ISOLATIONS)('at isolation level %s', (isolation) => {
  it('a run sees nothing of the run before it', async () => {
    const run = (code: string) => enclave.run(code, { isolation, tenant: `of ${isolation}` });
    await run(`
      globalThis.leak = 1; var leaked = 2; console.count(); console.group('open');
      try { Array.prototype.leak = 3 } catch {}
      try { Object.prototype.leak = 4 } catch {}
      try { JSON.stringify = () => 'stolen' } catch {}
      try { Promise.prototype.then = null } catch {}
      try { tools.leak = 5 } catch {}
      try { callTool.leak = 6 } catch {}`);
    const events: unknown[] = [];
    const result = await enclave.run(
      `console.count();
      return [typeof leak, typeof leaked, [].leak ?? 0, ({}).leak ?? 0, JSON.stringify({}), callTool.leak ?? 0, await callTool('tenant')]`,
      {
        isolation,
        tenant: `of ${isolation}`,
        onEvent: ({ type, payload }) => {
          if (type === 'stdout') events.push(payload);
        },
      },
    );
    expect(valueIn(result)).toEqual(['undefined', 'undefined', 0, 0, '{}', 0, `of ${isolation}`]);
    expect(events).toEqual([{ chunk: 'default: 1\n' }]);
  });

  it('scripts can shadow what they commonly shadow', async () => {
    const code = `
      const error = new Error('a'); error.name = 'Mine'; error.message = 'b';
      class P extends Promise {}
      const object = {}; object.toString = () => 'text';
      return [String(error), String(object), await P.resolve(1)]`;
    expect(valueIn(await enclave.run(code, { isolation }))).toEqual(['Mine: b', 'text', 1]);
  });
});

describe('isolation level process', () => {
  it('gives two tenants two processes at once', async () => {
    const run = (tenant: string) =>
      enclave.run('return await callTool(input)', { tenant, isolation: 'process', input: `p-${tenant}` });
    const runs = [run('a'), run('b')];
    await Promise.all([gate('p-a called').promise, gate('p-b called').promise]);
    expect(
      enclave
        .stats()
        .workers.map(({ aboard }) => aboard)
        .filter((aboard) => aboard > 0),
    ).toEqual([1, 1]);
    gate('p-a').resolve();
    gate('p-b').resolve();
    expect((await Promise.all(runs)).every(({ success }) => success)).toBe(true);
  });

  it('never gives a process that ran one tenant to another', async () => {
    const pidOf = async (tenant: string): Promise<number> => {
      let pid = 0;
      await enclave.run('console.log(1)', {
        tenant,
        isolation: 'process',
        onEvent: ({ type }) => {
          if (type === 'stdout') pid = enclave.stats().workers.find(({ aboard }) => aboard > 0)?.pid ?? 0;
        },
      });
      return pid;
    };
    const owners = new Map<number, string>();
    for (const tenant of ['t1', 't2', 't3', 't1']) {
      const pid = await pidOf(tenant);
      expect(pid).toBeGreaterThan(0);
      expect(owners.get(pid) ?? tenant).toBe(tenant);
      owners.set(pid, tenant);
    }
  });
});

describe('the end', () => {
  it('ends runs as CLOSED, leaves no process, and may come twice', async () => {
    const own = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1, maxConcurrentPerWorker: 1 }) });
    const aboard = own.run('await sleep(60_000)');
    await expect.poll(() => own.stats().active, PATIENCE).toBe(1);
    const queued = own.run('return 1');
    const [worker] = own.stats().workers;
    const first = own.dispose();
    expect(own.dispose()).toBe(first);
    expect(errorIn(await aboard)).toMatchObject({ code: 'CLOSED', outcome: 'completed', retryable: false });
    expect(errorIn(await queued)).toMatchObject({ code: 'CLOSED', outcome: 'not_started' });
    await first;
    expect(() => process.kill(worker?.pid ?? 0, 0)).toThrow('ESRCH');
    expect(own.stats()).toMatchObject({ status: 'closed', workers: [] });
    expect(errorIn(await own.run('return 1'))).toMatchObject({
      code: 'CLOSED',
      outcome: 'not_started',
      retryable: false,
    });
    await own[Symbol.asyncDispose]();
  });

  it('of one Enclave leaves the others on its adapter alone', async () => {
    const called = Promise.withResolvers<void>();
    const own = new Enclave({
      adapter,
      toolHandler: () => {
        called.resolve();
        return new Promise(() => undefined);
      },
    });
    const mine = own.run('await callTool("x")');
    await called.promise;
    await own.dispose();
    const result = await mine;
    expect(errorIn(result).code).toBe('CLOSED');
    expect(errorIn(result).outcome).toBe('unknown');
    expect(valueIn(await enclave.run('return "still here"'))).toBe('still here');
  });

  it('comes by itself with await using', async () => {
    let pids: number[] = [];
    {
      await using own = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1 }) });
      await own.run('return 1');
      pids = own.stats().workers.map(({ pid }) => pid);
    }
    expect(pids).toHaveLength(1);
    for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow('ESRCH');
  });
});

it('recommends the pool sizes of the guide', () => {
  expect(recommendedPoolSize('cpu', 8)).toBe(8);
  expect(recommendedPoolSize('io', 8)).toBe(16);
  expect(recommendedPoolSize('mixed', 8)).toBe(12);
  expect(recommendedPoolSize('mixed', 3)).toBe(4);
  expect(recommendedPoolSize('cpu', 1)).toBe(2);
});
