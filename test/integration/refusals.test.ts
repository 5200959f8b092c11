/** Runs that are refused or whose worker is lost, and what a caller is told to do about it. */
import { afterEach, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave, type WorkerPoolOptions } from '../../src/index.ts';
import { errorIn, PATIENCE, valueIn } from './ends.ts';

let open: Enclave | undefined;
afterEach(async () => {
  await open?.dispose();
  open = undefined;
});

/** An Enclave of one worker, with a tool `started` that settles `running` and a tool `gate` that waits for `let go`. */
function make(options: WorkerPoolOptions) {
  const running = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const enclave = new Enclave({
    adapter: createWorkerPoolAdapter({ poolSize: 1, ...options }),
    toolHandler: async (name) => {
      running.resolve();
      if (name === 'gate') await gate.promise;
      return name;
    },
  });
  open = enclave;
  return { enclave, running: running.promise, letGo: () => gate.resolve() };
}

/** SIGKILL the worker that has an execution aboard; resolves when it did. */
async function killAboard(enclave: Enclave): Promise<number> {
  const pid = await expect
    .poll(() => enclave.stats().workers.find(({ aboard }) => aboard > 0)?.pid, PATIENCE)
    .toBeDefined()
    .then(() => enclave.stats().workers.find(({ aboard }) => aboard > 0)?.pid ?? 0);
  if (pid !== 0) process.kill(pid, 'SIGKILL');
  return pid;
}

describe('a full queue', () => {
  it('refuses at once as OVERLOADED, and the accepted runs finish', async () => {
    const { enclave, running, letGo } = make({ maxQueueLength: 2, maxConcurrentPerWorker: 1 });
    const first = enclave.run('return await callTool("gate")');
    await running;
    const queued = [enclave.run('return 1'), enclave.run('return 2')];
    const refused = await enclave.run('return 3');
    expect(errorIn(refused)).toEqual({
      name: 'EnclaveError',
      code: 'OVERLOADED',
      message: expect.stringContaining('maxQueueLength 2'),
      retryable: true,
      outcome: 'not_started',
      retryAfterMs: expect.any(Number),
      details: { limit: 'queue', position: 3 },
    });
    expect(refused.stats).toMatchObject({ duration: 0, cpuTime: 0, toolCallCount: 0, attempts: 0 });
    letGo();
    expect(valueIn(await first)).toBe('gate');
    expect((await Promise.all(queued)).map(valueIn)).toEqual([1, 2]);
    expect(valueIn(await enclave.run('return 4'))).toBe(4);
  });
});

describe('a run that waits too long', () => {
  it('ends as QUEUE_TIMEOUT and never starts', async () => {
    const { enclave, running, letGo } = make({ queueTimeoutMs: 50, maxConcurrentPerWorker: 1 });
    // The start of a worker counts as waiting, so the first run comes when it is there.
    await expect
      .poll(() => enclave.stats().workers.some(({ state }) => state === 'ready'), PATIENCE)
      .toBe(true);
    const first = enclave.run('return await callTool("gate")');
    await running;
    const late = await enclave.run('return await callTool("never")');
    expect(errorIn(late)).toMatchObject({
      code: 'QUEUE_TIMEOUT',
      retryable: true,
      outcome: 'not_started',
      retryAfterMs: expect.any(Number),
    });
    expect(late.stats.queueTime).toBeGreaterThanOrEqual(45);
    expect(late.stats.attempts).toBe(0);
    expect(late.toolCalls).toEqual([]);
    letGo();
    expect(valueIn(await first)).toBe('gate');
  });
});

describe('a lost worker', () => {
  it('costs no execution: the script goes on in another, and its calls are not made again', async () => {
    let calls = 0;
    const enclave = new Enclave({
      adapter: createWorkerPoolAdapter({ poolSize: 1 }),
      toolHandler: () => ++calls,
    });
    open = enclave;
    const events: string[] = [];
    let killed = 0;
    const result = await enclave.run(
      'const a = await callTool("count"); console.log("counted"); await sleep(50); return [a, await callTool("count")]',
      {
        onEvent: ({ type }) => {
          events.push(type);
          if (type !== 'stdout') return;
          killed = enclave.stats().workers.find(({ aboard }) => aboard > 0)?.pid ?? 0;
          process.kill(killed, 'SIGKILL');
        },
      },
    );
    expect(valueIn(result)).toEqual([1, 2]);
    expect(calls).toBe(2);
    expect(result.stats.attempts).toBe(2);
    expect(events.filter((type) => type === 'stdout')).toHaveLength(1);
    expect(events).toContain('error');
    expect(enclave.stats().restarts).toBe(1);
    expect(enclave.stats().workers.map(({ pid }) => pid)).not.toContain(killed);
  });

  it('ends the run as WORKER_CRASHED in doubt when its journal could not be kept', async () => {
    const { enclave } = make({ maxReplayBytes: 0 });
    const run = enclave.run('await callTool("once"); await sleep(60_000)', {
      onEvent: ({ type }) => {
        if (type === 'tool_result_applied') void killAboard(enclave);
      },
    });
    const result = await run;
    expect(errorIn(result)).toMatchObject({
      code: 'WORKER_CRASHED',
      outcome: 'unknown',
      retryable: false,
      message: expect.stringContaining('maxReplayBytes'),
    });
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(['completed']);
  });

  it('too often makes the pool refuse as WORKER_CRASHED until it has recovered; what was aboard goes on', async () => {
    const { enclave, running, letGo } = make({ maxRestarts: 0, restartWindowMs: 600_000 });
    const run = enclave.run('return await callTool("gate")');
    await running;
    await killAboard(enclave);
    await expect.poll(() => enclave.stats().status, { ...PATIENCE, interval: 5 }).toBe('failed');
    expect(errorIn(await enclave.run('return 1'))).toMatchObject({
      code: 'WORKER_CRASHED',
      outcome: 'not_started',
      retryable: true,
      retryAfterMs: expect.any(Number),
    });
    letGo();
    expect(valueIn(await run)).toBe('gate');
    expect(enclave.stats().status).toBe('open');
    expect(valueIn(await enclave.run('return 2'))).toBe(2);
  });
});

describe('a script under which workers keep dying', () => {
  it('ends QUARANTINED, is refused again, and others are not', async () => {
    const { enclave } = make({ quarantineAfter: 2 });
    const code = 'await sleep(60_000)';
    let ended = false;
    const run = enclave.run(code).finally(() => {
      ended = true;
    });
    const killed = new Set<number>();
    await expect
      .poll(
        () => {
          for (const { pid, aboard } of enclave.stats().workers) {
            if (aboard === 0 || killed.has(pid)) continue;
            killed.add(pid);
            process.kill(pid, 'SIGKILL');
          }
          return ended;
        },
        { timeout: 20_000, interval: 10 },
      )
      .toBe(true);
    expect(errorIn(await run)).toMatchObject({ code: 'QUARANTINED', outcome: 'unknown', retryable: false });
    expect(killed.size).toBe(2);
    expect(errorIn(await enclave.run(code))).toMatchObject({
      code: 'QUARANTINED',
      outcome: 'not_started',
      retryable: false,
    });
    expect(valueIn(await enclave.run('return "innocent"'))).toBe('innocent');
  });
});
