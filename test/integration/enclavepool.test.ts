import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave, EnclavePool, type EnclavePoolOptions } from '../../src/index.ts';
import { errorIn, PATIENCE, valueIn } from './ends.ts';

const adapter = createWorkerPoolAdapter({ poolSize: 1 });
/** Keeps the workers while pools come and go. */
const keeper = new Enclave({ adapter });
afterAll(() => keeper.dispose());

const pools: EnclavePool[] = [];
afterEach(() => Promise.all(pools.splice(0).map((pool) => pool.dispose())));
function make(size: number, options?: EnclavePoolOptions): EnclavePool {
  const pool = new EnclavePool(size, { adapter }, options);
  pools.push(pool);
  return pool;
}

describe('acquire', () => {
  it('lends each Enclave to one caller at a time', async () => {
    const pool = make(2);
    const [a, b] = await Promise.all([pool.acquire(), pool.acquire()]);
    expect(a).not.toBe(b);
    expect([pool.idle, pool.waiting]).toEqual([0, 0]);
    const third = pool.acquire();
    expect(pool.waiting).toBe(1);
    pool.release(b);
    expect(await third).toBe(b);
  });

  it('serves those who wait in the order in which they came', async () => {
    const pool = make(1);
    const enclave = await pool.acquire();
    const served: number[] = [];
    const waiting = [1, 2, 3].map(async (n) => {
      const mine = await pool.acquire();
      served.push(n);
      pool.release(mine);
    });
    pool.release(enclave);
    await Promise.all(waiting);
    expect(served).toEqual([1, 2, 3]);
    expect([pool.idle, pool.waiting]).toEqual([1, 0]);
  });

  it('rejects as OVERLOADED when as many wait as may', async () => {
    const pool = make(1, { maxWaiters: 1 });
    const enclave = await pool.acquire();
    const second = pool.acquire();
    await expect(pool.acquire()).rejects.toMatchObject({
      code: 'OVERLOADED',
      retryable: true,
      retryAfterMs: expect.any(Number),
    });
    pool.release(enclave);
    expect(await second).toBe(enclave);
  });

  it('may be given up, and the next in line is not', async () => {
    const pool = make(1);
    const enclave = await pool.acquire();
    const controller = new AbortController();
    const second = pool.acquire({ signal: controller.signal });
    const third = pool.acquire();
    controller.abort();
    await expect(second).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(pool.waiting).toBe(1);
    pool.release(enclave);
    expect(await third).toBe(enclave);
    await expect(pool.acquire({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it('keeps an Enclave whose signal is aborted after it was lent', async () => {
    const pool = make(1);
    const first = await pool.acquire();
    const controller = new AbortController();
    const second = pool.acquire({ signal: controller.signal });
    pool.release(first);
    controller.abort();
    pool.release(await second);
    expect(pool.idle).toBe(1);
  });
});

describe('release', () => {
  it('twice is refused, and the Enclave is lent once', async () => {
    const pool = make(1);
    const enclave = await pool.acquire();
    pool.release(enclave);
    expect(() => pool.release(enclave)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    expect(pool.idle).toBe(1);
  });

  it('of an Enclave of somebody else is refused', () => {
    expect(() => make(1).release(keeper)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});

describe('execute', () => {
  it('runs and gives the Enclave back, whatever the script does', async () => {
    const pool = make(1);
    expect(valueIn(await pool.execute<number>('return 1'))).toBe(1);
    expect(errorIn(await pool.execute('throw new Error("x")')).code).toBe('SCRIPT_ERROR');
    expect(errorIn(await pool.execute('for (;;) {}', { limits: { cpuMs: 30 } })).code).toBe(
      'CPU_LIMIT_EXCEEDED',
    );
    expect(pool.idle).toBe(1);
  });

  it('gives the Enclave back after misuse, which rejects', async () => {
    const pool = make(1);
    await expect(pool.execute('return 1', { limits: { cpuMs: -1 } })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(pool.idle).toBe(1);
  });

  it('runs more callers than there are Enclaves', async () => {
    const pool = make(2);
    const runs = Array.from({ length: 10 }, (_, n) => pool.execute<number>('return input * 2', { input: n }));
    expect((await Promise.all(runs)).map(valueIn)).toEqual(Array.from({ length: 10 }, (_, n) => n * 2));
    expect(pool.idle).toBe(2);
  });
});

describe('dispose', () => {
  it('rejects those who wait as CLOSED and may come twice', async () => {
    const pool = make(1);
    const enclave = await pool.acquire();
    const waiting = pool.acquire();
    const first = pool.dispose();
    await expect(waiting).rejects.toMatchObject({ code: 'CLOSED' });
    expect(pool.dispose()).toBe(first);
    await first;
    await expect(pool.acquire()).rejects.toMatchObject({ code: 'CLOSED' });
    await expect(pool.execute('return 1')).rejects.toMatchObject({ code: 'CLOSED' });
    expect(errorIn(await enclave.run('return 1')).code).toBe('CLOSED');
  });

  it('ends what runs as CLOSED', async () => {
    const pool = make(1);
    const run = pool.execute('await sleep(60_000)');
    await expect.poll(() => keeper.stats().active, PATIENCE).toBe(1);
    await pool.dispose();
    expect(errorIn(await run).code).toBe('CLOSED');
  });
});

it.each<[unknown[], string]>([
  [[0], 'size'],
  [[1.5], 'size'],
  [[1_025], 'size'],
  [[1, null], 'config'],
  [[1, { nope: 1 }], 'config.nope'],
  [[1, {}, { maxWaiters: -1 }], 'options.maxWaiters'],
  [[1, {}, { maxWaiter: 1 }], 'options.maxWaiter'],
])('is refused with INVALID_ARGUMENT naming the key: %j', (args, key) => {
  const construct = EnclavePool as unknown as new (...args: unknown[]) => EnclavePool;
  expect(() => pools.push(new construct(...args))).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT', key }),
  );
});
