/** Workers that die, and what becomes of the scripts aboard. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import {
  createWorkerPoolAdapter,
  Enclave,
  type EnclaveConfig,
  type ExecutionEvent,
  type ExecutionResult,
  type WorkerPoolOptions,
} from '../../src/index.ts';
import { isAlive } from '../support/processes.ts';
import { errorIn, valueIn } from './ends.ts';

const opened: Enclave[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((enclave) => enclave.dispose()));
});

function open(options: WorkerPoolOptions, config: EnclaveConfig = {}): Enclave {
  const enclave = new Enclave({ adapter: createWorkerPoolAdapter(options), ...config });
  opened.push(enclave);
  return enclave;
}

function kill(pid: number, signal: 'SIGKILL' | 'SIGSTOP' = 'SIGKILL'): void {
  // Never 0: that would be everyone here.
  if (pid > 0 && isAlive(pid)) process.kill(pid, signal);
}

/** Kill whatever worker has something aboard. */
function killBusy(enclave: Enclave): void {
  for (const { pid, aboard } of enclave.stats().workers) if (aboard > 0) kill(pid);
}

/**
 * Strike one of the pool's places at random every 50 ms until it is told to stop, and kill the worker that is up
 * there; a start of 150 ms of CPU would hardly ever end otherwise. Tells how many died and the pids of all.
 */
function startKilling(enclave: Enclave, places: number) {
  const seen = new Set<number>();
  const stop = new AbortController();
  let kills = 0;
  const killing = (async () => {
    while (!stop.signal.aborted) {
      await delay(50);
      const { workers } = enclave.stats();
      for (const { pid } of workers) seen.add(pid);
      const victim = workers[Math.floor(Math.random() * places)];
      if (victim === undefined || victim.state === 'starting') continue;
      kill(victim.pid);
      kills++;
    }
  })();
  return {
    stop: async () => {
      stop.abort();
      await killing;
      return { kills, seen: [...seen] };
    },
  };
}

/** Every second one calls a tool; each is a script of its own. */
const mixed = (index: number): string =>
  index % 2 === 0 ? `return ${index}` : `return (await callTool("count", { n: ${index} })) + 0`;

/** Runs `count` scripts while workers die, and checks every end against what the tools saw. */
async function runUnderFire(count: number, options: WorkerPoolOptions & { readonly poolSize: number }) {
  const calls = new Map<number, number>();
  const enclave = open(options, {
    toolHandler: async (_name, args) => {
      const { n } = args as { n: number };
      calls.set(n, (calls.get(n) ?? 0) + 1);
      await delay(1);
      return n;
    },
  });
  const killing = startKilling(enclave, options.poolSize);
  const results = await Promise.all(Array.from({ length: count }, (_, index) => enclave.run(mixed(index))));
  const { kills, seen } = await killing.stop();
  results.forEach((result, index) => {
    checkEnd(result, index, calls.get(index) ?? 0);
  });
  return { enclave, results, kills, seen };
}

function checkEnd(result: ExecutionResult, index: number, calls: number): void {
  if (result.success) {
    expect([result.value, calls]).toEqual([index, index % 2]);
    return;
  }
  const { code, outcome, retryable } = result.error;
  expect(code).toBe('WORKER_CRASHED');
  expect(calls).toBeLessThanOrEqual(1);
  expect(outcome).toBe(result.stats.attempts === 0 ? 'not_started' : 'unknown');
  expect(retryable).toBe(outcome === 'not_started');
  if (outcome === 'not_started') expect([calls, result.toolCalls]).toEqual([0, []]);
}

describe('workers that are killed at random every 50 ms', () => {
  const PATIENT = {
    poolSize: 3,
    maxQueueLength: 5_000,
    queueTimeoutMs: 600_000,
    maxRestarts: 1_000_000,
    quarantineAfter: 1_000,
  };

  it('cost none of 2,000 runs its value, no call is made twice, no process is left', {
    timeout: 120_000,
  }, async () => {
    const { enclave, results, kills, seen } = await runUnderFire(2_000, PATIENT);
    expect(results.filter(({ success }) => !success).map(errorIn)).toEqual([]);
    expect(kills).toBeGreaterThan(5);
    expect(enclave.stats()).toMatchObject({ queueLength: 0, active: 0 });
    seen.push(...enclave.stats().workers.map(({ pid }) => pid));
    await enclave.dispose();
    expect(seen.filter(isAlive)).toEqual([]);
  });

  it('make a pool of little patience refuse, never hang, and it recovers', { timeout: 120_000 }, async () => {
    const { enclave, results } = await runUnderFire(500, { ...PATIENT, maxRestarts: 2 });
    for (const result of results) {
      if (result.success || result.error.outcome === 'unknown') continue;
      expect(result.error.retryAfterMs).toBeGreaterThan(0);
    }
    await expect.poll(() => enclave.stats().status, { timeout: 40_000 }).toBe('open');
    expect(valueIn(await enclave.run('return "well"'))).toBe('well');
  });
});

describe('a script that goes on in another worker', () => {
  const SCRIPT = `
    const seen = [];
    for (let step = 1; step <= 4; step++) {
      seen.push([step, Math.random(), Date.now()]);
      console.log(JSON.stringify(seen.at(-1)));
      console.warn('warned ' + step);
      await callTool('step', { step });
    }
    return seen;`;

  it('sees the same time and chance, shows its output once, and makes each call once', async () => {
    const steps: number[] = [];
    const deadly = new Set([2, 4]);
    const enclave: Enclave = open(
      { poolSize: 1 },
      {
        toolHandler: async (_name, args) => {
          const { step } = args as { step: number };
          steps.push(step);
          if (deadly.has(step)) killBusy(enclave);
          return step;
        },
      },
    );
    const events: ExecutionEvent[] = [];
    const result = await enclave.run(SCRIPT, { seed: 7, onEvent: (event) => events.push(event) });
    const value = valueIn(result) as [number, number, number][];
    // More if a busy machine made it move to a thread of its own.
    expect(result.stats.attempts).toBeGreaterThanOrEqual(3);
    expect(steps).toEqual([1, 2, 3, 4]);
    expect(result.toolCalls.map(({ outcome }) => outcome)).toEqual(steps.map(() => 'completed'));
    const shown = events.flatMap(({ type, payload }) => (type === 'stdout' ? [payload.chunk] : []));
    expect(
      shown
        .join('')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as unknown),
    ).toEqual(value);
    const warned = events.flatMap(({ type, payload }) => (type === 'log' ? [payload.message.trimEnd()] : []));
    expect(warned).toEqual(['warned 1', 'warned 2', 'warned 3', 'warned 4']);
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, index) => index + 1));
    for (const type of ['session_init', 'final'])
      expect(events.filter((each) => each.type === type)).toHaveLength(1);
    for (const type of ['tool_call', 'tool_result_applied'])
      expect(events.filter((each) => each.type === type)).toHaveLength(4);
    expect(events.filter(({ type }) => type === 'error')).toHaveLength(2);
    // The same chance as in a run that nothing happened to.
    deadly.clear();
    const undisturbed = valueIn(await enclave.run(SCRIPT, { seed: 7 })) as typeof value;
    expect(undisturbed.map(([, random]) => random)).toEqual(value.map(([, random]) => random));
  });

  it('is handed the ends of parallel calls in the order of the first time', async () => {
    let killed = false;
    const enclave: Enclave = open(
      { poolSize: 1 },
      {
        toolHandler: async (_name, args) => {
          const { ms, deadly } = args as { ms: number; deadly?: boolean };
          await delay(ms);
          if (deadly === true && !killed) {
            killed = true;
            killBusy(enclave);
          }
          return ms;
        },
      },
    );
    const SPRINT = `
      const order = [];
      await Promise.all([60, 5, 30].map(async (ms) => order.push(await callTool('wait', { ms }))));
      await callTool('wait', { ms: 0, deadly: true });
      return order;`;
    const result = await enclave.run(SPRINT);
    expect([killed, valueIn(result)]).toEqual([true, [5, 30, 60]]);
    expect(result.stats.attempts).toBeGreaterThanOrEqual(2);
  });

  it('is not started again when more was delivered to it than maxReplayBytes', async () => {
    const enclave: Enclave = open(
      { poolSize: 1, maxReplayBytes: 1_000 },
      {
        toolHandler: async (name) => {
          if (name === 'die') killBusy(enclave);
          return 'x'.repeat(1_000);
        },
      },
    );
    const events: string[] = [];
    const large = await enclave.run('await callTool("large"); await callTool("die"); return 1', {
      onEvent: ({ type }) => events.push(type),
    });
    expect(errorIn(large)).toMatchObject({ code: 'WORKER_CRASHED', outcome: 'unknown', retryable: false });
    expect(events).not.toContain('error'); // That would announce another start.
    expect(large.toolCalls.map(({ name }) => name)).toEqual(['large', 'die']);
    expect(valueIn(await enclave.run('return 2'))).toBe(2);
  });
});

describe('a script that kills every worker that it runs in', () => {
  // Each call is a new one: what was called before a crash is answered from the journal.
  const DEADLY = 'for (let n = 0; ; n++) await callTool("die", { n })';

  it.each(['context', 'process'] as const)(
    'ends QUARANTINED at level %s, and its neighbours aboard do not',
    async (isolation) => {
      const aboard: number[] = [];
      const deaths: unknown[] = [];
      const fire = Promise.withResolvers<void>();
      const enclave: Enclave = open(
        { poolSize: 1, quarantineAfter: 3 },
        {
          isolation,
          toolHandler: async (name, args) => {
            if (name === 'die') {
              deaths.push(args);
              killBusy(enclave);
              fire.resolve();
              return null;
            }
            aboard.push((args as { n: number }).n);
            await fire.promise; // They are aboard until the first crash.
            return args;
          },
        },
      );
      const neighbours = [1, 2, 3].map((n) => enclave.run(`return await callTool("wait", { n: ${n} })`));
      await expect.poll(() => aboard.length, { timeout: 10_000 }).toBe(3);
      const deadly = await enclave.run(DEADLY);
      expect(errorIn(deadly)).toMatchObject({ code: 'QUARANTINED', outcome: 'unknown', retryable: false });
      // Once in company, then three times alone.
      expect(deaths).toEqual([{ n: 0 }, { n: 1 }, { n: 2 }, { n: 3 }]);
      for (const [index, result] of (await Promise.all(neighbours)).entries()) {
        expect(valueIn(result)).toEqual({ n: index + 1 });
        expect(result.stats.attempts).toBeGreaterThanOrEqual(2);
      }
      expect(aboard).toEqual([1, 2, 3]);
      const refused = await enclave.run(DEADLY);
      expect(errorIn(refused)).toMatchObject({ code: 'QUARANTINED', outcome: 'not_started' });
      expect(errorIn(refused).retryAfterMs).toBeGreaterThan(0);
      expect(deaths).toHaveLength(4);
      expect(valueIn(await enclave.run('return "another"'))).toBe('another');
    },
  );
});

describe('a worker that does not come up', () => {
  it('is killed after startTimeoutMs, counts as a crash, and another takes its place', async () => {
    const enclave = open({ poolSize: 1, minWorkers: 0, startTimeoutMs: 1_500 });
    const run = enclave.run('return 1');
    const [{ pid = 0, state = '' } = {}] = enclave.stats().workers;
    expect(state).toBe('starting');
    kill(pid, 'SIGSTOP');
    expect(valueIn(await run)).toBe(1);
    expect(enclave.stats().restarts).toBeGreaterThanOrEqual(1);
    expect(isAlive(pid)).toBe(false);
  });

  it('does not stay promised when the pool gives up while it starts', async () => {
    let gate = Promise.withResolvers<void>();
    const enclave = open(
      { poolSize: 2, minWorkers: 1, maxRestarts: 0, maxConcurrentPerWorker: 1, startTimeoutMs: 60_000 },
      { toolHandler: () => gate.promise },
    );
    const first = enclave.run('await callTool("gate"); return 1');
    await expect.poll(() => enclave.stats().active, { timeout: 10_000 }).toBe(1);
    const second = enclave.run('return 2');
    const starting = enclave.stats().workers.find(({ state }) => state === 'starting');
    kill(starting?.pid ?? 0, 'SIGSTOP');
    killBusy(enclave);
    expect(errorIn(await second)).toMatchObject({ code: 'WORKER_CRASHED', outcome: 'not_started' });
    expect(enclave.stats().status).toBe('failed');
    expect(errorIn(await enclave.run('return 3')).retryAfterMs).toBeGreaterThan(0);
    await expect.poll(() => enclave.stats().status, { timeout: 10_000 }).toBe('open');
    gate.resolve();
    expect(valueIn(await first)).toBe(1);
    // Both places can be filled again.
    gate = Promise.withResolvers();
    const both = [1, 2].map((n) => enclave.run(`await callTool("gate"); return ${n}`));
    await expect.poll(() => enclave.stats().active, { timeout: 10_000 }).toBe(2);
    gate.resolve();
    expect((await Promise.all(both)).map(valueIn)).toEqual([1, 2]);
  });
});
