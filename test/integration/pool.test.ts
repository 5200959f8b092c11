/** The pool with real workers: many tenants, a flood, workers that come and go as planned, and its end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, describe, expect, it } from 'vitest';
import {
  createWorkerPoolAdapter,
  Enclave,
  type EnclaveConfig,
  type WorkerPoolOptions,
} from '../../src/index.ts';
import { isAlive } from '../support/processes.ts';
import { errorIn, valueIn } from './ends.ts';

const MiB = 1024 * 1024;

const opened: Enclave[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((enclave) => enclave.dispose()));
});

function open(options: WorkerPoolOptions, config: EnclaveConfig = {}): Enclave {
  const enclave = new Enclave({ adapter: createWorkerPoolAdapter(options), ...config });
  opened.push(enclave);
  return enclave;
}

const pids = (enclave: Enclave): readonly number[] => enclave.stats().workers.map(({ pid }) => pid);
describe('200 tenants in turn on 2 workers', () => {
  /** Leaves its mark wherever a script can, and looks for one of another's. */
  const SCRIPT = `
    const found = [globalThis.mark, Array.prototype.mark, Object.mark].filter((mark) => mark !== undefined);
    globalThis.mark = Array.prototype.mark = Object.mark = input;
    const kept = Array.from({ length: 2_000 }, (_, index) => ({ index, text: input + index }));
    globalThis.kept = kept;
    return { found, last: kept.at(-1).text };`;

  it('take bounded memory, and none sees that isolates were let go', { timeout: 120_000 }, async () => {
    const enclave = open({ poolSize: 2, minWorkers: 2, maxWarmIsolates: 4 });
    const memory = (): number =>
      enclave.stats().workers.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
    const visit = async (tenant: string): Promise<void> => {
      const result = await enclave.run(SCRIPT, { tenant, input: tenant });
      expect(valueIn(result)).toEqual({ found: [], last: `${tenant}1999` });
    };
    const turn = async (from: number, to: number): Promise<void> => {
      for (let tenant = from; tenant < to; tenant += 2)
        await Promise.all([visit(`t${tenant}`), visit(`t${tenant + 1}`)]);
    };
    await turn(0, 40);
    const after40 = memory();
    await turn(40, 200);
    // Kept, the other 160 isolates would take well over 2 MiB each.
    expect(memory() - after40).toBeLessThan(100 * MiB);
    // The first tenants' isolates are gone; they cannot tell.
    await turn(0, 10);
    expect(enclave.stats()).toMatchObject({ restarts: 0, recycles: 0, failed: 0, succeeded: 210 });
    for (const worker of enclave.stats().workers) expect(worker.memoryBytes).toBeLessThan(256 * MiB);
  });
});

describe('a flood of 10,000 runs against a queue of 100', () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const heap = (): number => {
    collect();
    return process.memoryUsage().heapUsed;
  };

  it('is refused at once but for what fits, which finishes, and leaves no trace', {
    timeout: 120_000,
  }, async () => {
    const enclave = open({ poolSize: 2, minWorkers: 2, maxQueueLength: 100 });
    const flood = async (): Promise<{ readonly accepted: number; readonly refusedAtOnce: number }> => {
      let [values, refused] = [0, 0];
      const ends = Array.from({ length: 10_000 }, async (_, index) => {
        const result = await enclave.run(`return ${index}`);
        if (result.success) {
          expect(result.value).toBe(index);
          values++;
          return;
        }
        const { code, outcome, retryable, retryAfterMs = 0 } = result.error;
        expect([code, outcome, retryable]).toEqual(['OVERLOADED', 'not_started', true]);
        expect(retryAfterMs).toBeGreaterThanOrEqual(10);
        refused++;
      });
      // No worker can be heard before the event loop turns.
      await new Promise(process.nextTick);
      const refusedAtOnce = refused;
      await Promise.all(ends);
      expect([values + refused, refused]).toEqual([10_000, refusedAtOnce]);
      return { accepted: values, refusedAtOnce };
    };
    expect(valueIn(await enclave.run('return 0'))).toBe(0);
    const first = await flood();
    // The queue, and what both workers take at once.
    expect(first.accepted).toBeGreaterThanOrEqual(100);
    expect(first.accepted).toBeLessThanOrEqual(100 + 2 * 16);
    const before = heap();
    await flood();
    await flood();
    expect(heap() - before).toBeLessThan(4 * MiB);
    expect(valueIn(await enclave.run('return "next"'))).toBe('next');
    expect(enclave.stats()).toMatchObject({ queueLength: 0, active: 0, restarts: 0 });
  });
});

describe('a worker', () => {
  it('is recycled after its number of executions, and nothing is lost', async () => {
    const enclave = open(
      { poolSize: 2, maxExecutionsPerWorker: 25 },
      { toolHandler: (_name, args) => Promise.resolve(args) },
    );
    let next = 0;
    const values: unknown[] = [];
    const caller = async (): Promise<void> => {
      while (next < 200) {
        const index = next++;
        values.push(valueIn(await enclave.run('return await callTool("echo", input)', { input: index })));
      }
    };
    await Promise.all(Array.from({ length: 8 }, caller));
    expect(values.toSorted((a, b) => Number(a) - Number(b))).toEqual(values.map((_, index) => index));
    await expect.poll(() => enclave.stats().recycles, { timeout: 10_000 }).toBeGreaterThanOrEqual(2);
    expect(enclave.stats()).toMatchObject({ restarts: 0, failed: 0, succeeded: 200 });
  });

  it('is let go when it is idle, down to none, and comes back', async () => {
    const enclave = open({ poolSize: 2, minWorkers: 0, idleTimeout: 50 });
    expect(enclave.stats().workers).toEqual([]);
    await enclave.run('return 1');
    const [first = 0] = pids(enclave);
    await expect.poll(() => pids(enclave), { timeout: 10_000 }).toEqual([]);
    expect(isAlive(first)).toBe(false);
    expect(valueIn(await enclave.run('return 2'))).toBe(2);
    expect(enclave.stats().restarts).toBe(0);
  });

  it('is kept when it is idle and one of minWorkers', async () => {
    const enclave = open({ poolSize: 2, minWorkers: 1, idleTimeout: 50, maxConcurrentPerWorker: 1 });
    await Promise.all([enclave.run('await sleep(50)'), enclave.run('await sleep(50)')]);
    await expect.poll(() => pids(enclave).length, { timeout: 10_000 }).toBe(1);
    const [kept] = pids(enclave);
    valueIn(await enclave.run('return 1'));
    expect(pids(enclave)).toEqual([kept]);
  });

  it('that served a tenant of its own makes room for the others', async () => {
    const enclave = open({ poolSize: 1 });
    expect(valueIn(await enclave.run('return 1', { tenant: 'own', isolation: 'process' }))).toBe(1);
    expect(valueIn(await enclave.run('return 2', { tenant: 'other' }))).toBe(2);
    expect(enclave.stats().restarts).toBe(0);
  });
});

describe('a run that waits for a worker longer than queueTimeoutMs', () => {
  it('ends as QUEUE_TIMEOUT without a start, and its place is free again', async () => {
    const gate = Promise.withResolvers<void>();
    const enclave = open(
      { poolSize: 1, maxConcurrentPerWorker: 1, maxQueueLength: 1, queueTimeoutMs: 100 },
      { toolHandler: () => gate.promise },
    );
    await expect.poll(() => enclave.stats().workers[0]?.state, { timeout: 10_000 }).toBe('ready');
    const first = enclave.run('await callTool("gate")');
    const late = await enclave.run('return 1');
    expect(errorIn(late)).toMatchObject({ code: 'QUEUE_TIMEOUT', outcome: 'not_started', retryable: true });
    expect(late.stats).toMatchObject({ attempts: 0 });
    const next = enclave.run('return 2');
    gate.resolve();
    expect(valueIn(await first)).toBeUndefined();
    expect(valueIn(await next)).toBe(2);
  });
});

describe('a drain of the pool', () => {
  it('lets what is inside end, refuses what comes, and resolves for everyone who asked', async () => {
    const gate = Promise.withResolvers<void>();
    const adapter = createWorkerPoolAdapter({ poolSize: 1, maxConcurrentPerWorker: 1 });
    const enclave = new Enclave({ adapter, toolHandler: () => gate.promise });
    opened.push(enclave);
    const pool = adapter.attach();
    const inside = [enclave.run('await callTool("gate"); return 1'), enclave.run('return 2')];
    let drained = 0;
    const drains = [pool.drain(), pool.drain()].map((drain) => drain.then(() => drained++));
    expect(errorIn(await enclave.run('return 3'))).toMatchObject({ code: 'CLOSED', outcome: 'not_started' });
    expect([drained, enclave.stats().status]).toEqual([0, 'draining']);
    gate.resolve();
    expect((await Promise.all(inside)).map(valueIn)).toEqual([1, 2]);
    await Promise.all([...drains, pool.drain()]);
    expect(enclave.stats()).toMatchObject({ status: 'drained', succeeded: 2 });
    await adapter.detach();
  });
});

describe('a dispose', () => {
  it('ends what waits, runs and sleeps as CLOSED, and leaves no process', async () => {
    const enclave = open(
      { poolSize: 1, maxConcurrentPerWorker: 2 },
      { toolHandler: () => new Promise(() => undefined) },
    );
    const started = Promise.withResolvers<void>();
    const runs = [
      enclave.run('console.log("!"); await callTool("never")', {
        onEvent: ({ type }) => type === 'tool_call' && started.resolve(),
      }),
      enclave.run('await sleep(60_000)'),
      enclave.run('return 1'),
    ];
    await started.promise;
    const before = pids(enclave);
    await enclave.dispose();
    const ends = (await Promise.all(runs)).map(errorIn);
    expect(ends.map(({ code }) => code)).toEqual(['CLOSED', 'CLOSED', 'CLOSED']);
    expect(ends.map(({ outcome }) => outcome)).toEqual(['unknown', 'completed', 'not_started']);
    expect(before.filter(isAlive)).toEqual([]);
    expect(pids(enclave)).toEqual([]);
  });

  it('of one of two Enclaves ends its runs and no run of the other', async () => {
    const adapter = createWorkerPoolAdapter({ poolSize: 1 });
    const called: (() => void)[] = [];
    const toolHandler = () => new Promise<void>((resolve) => called.push(resolve));
    const [one, other] = [new Enclave({ adapter, toolHandler }), new Enclave({ adapter, toolHandler })];
    opened.push(one, other);
    const runs = [one.run('await callTool("gate")'), other.run('await callTool("gate"); return 2')] as const;
    await expect.poll(() => called.length, { timeout: 10_000 }).toBe(2);
    expect(pids(one)).toEqual(pids(other));
    await one.dispose();
    expect(errorIn(await runs[0]).code).toBe('CLOSED');
    for (const letGo of called) letGo();
    expect(valueIn(await runs[1])).toBe(2);
    expect(other.stats()).toMatchObject({ status: 'open', restarts: 0 });
  });
});

describe('an Enclave that nobody disposed of', () => {
  it.each([
    { claim: 'that was never used', use: '' },
    {
      claim: 'that is idle after many runs',
      use: `const runs = Array.from({ length: 8 }, () => enclave.run('await sleep(20); return 1'));
            console.log((await Promise.all(runs)).filter(({ success }) => success).length);`,
    },
    {
      claim: 'whose worker was killed',
      use: `await enclave.run('return 1');
            process.kill(enclave.stats().workers[0].pid, 'SIGKILL');
            console.log((await enclave.run('return 1')).success);`,
    },
  ])('$claim keeps no process alive', { timeout: 60_000 }, async ({ use }) => {
    const entry = path.resolve(import.meta.dirname, '../../src/index.ts');
    const program = `import { createWorkerPoolAdapter, Enclave } from ${JSON.stringify(entry)};
      const adapter = createWorkerPoolAdapter({ poolSize: 2, maxConcurrentPerWorker: 1, startTimeoutMs: 600_000 });
      const enclave = new Enclave({ adapter });
      ${use}
      console.log('pids', ...enclave.stats().workers.map(({ pid }) => pid));`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: 30_000,
      killSignal: 'SIGKILL',
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
    expect([code, signal]).toEqual([0, null]);
    const workers = /^pids(.*)$/m.exec(output)?.[1]?.trim().split(' ').map(Number) ?? [];
    expect(workers.length).toBeGreaterThan(0);
    await expect.poll(() => workers.filter(isAlive), { timeout: 10_000 }).toEqual([]);
  });
});
