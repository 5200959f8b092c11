/** The user's own logger and registry are used, and tell the truth. */
import { Writable } from 'node:stream';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave } from '../../src/index.ts';
import { PATIENCE } from './ends.ts';

interface Line {
  readonly level: number;
  readonly msg: string;
  readonly [key: string]: unknown;
}
const lines: Line[] = [];
const stream = new Writable({
  write(chunk: Buffer, _encoding, done) {
    for (const line of chunk.toString().split('\n')) if (line !== '') lines.push(JSON.parse(line) as Line);
    done();
  },
});
const registry = new Registry();
const enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  logger: pino({ level: 'debug' }, stream),
  registry,
  toolHandler: (_name, args) => args,
});
afterAll(() => enclave.dispose());

/** The value of a sample, by the text of its name and labels. */
async function sample(name: string): Promise<number | undefined> {
  const text = await registry.metrics();
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.slice(name.length + 1));
}

describe('the logger', () => {
  it('hears of workers that start and of workers that are lost', async () => {
    await enclave.run('return 1');
    const [worker] = enclave.stats().workers;
    expect(lines).toContainEqual(
      expect.objectContaining({ msg: 'worker ready', level: 20, worker: worker?.id, pid: worker?.pid }),
    );
    process.kill(worker?.pid ?? 0, 'SIGKILL');
    await expect
      .poll(() => lines.find(({ msg }) => msg === 'worker lost'), PATIENCE)
      .toMatchObject({ level: 40, worker: worker?.id, reason: 'crash', detail: 'SIGKILL' });
  });

  it('hears of a listener that throws', async () => {
    const { executionId } = await enclave.run('return 1', {
      onEvent: () => {
        throw new Error('the listener broke');
      },
    });
    expect(lines).toContainEqual(
      expect.objectContaining({
        level: 50,
        execution: executionId,
        type: 'final',
        err: expect.objectContaining({ message: 'the listener broke' }),
      }),
    );
  });

  it('never sees a script, its input, its arguments or its output', async () => {
    const secret = 'confidential-7f3a';
    await enclave.run(`console.log(input); await callTool('t', input); return '${secret}'`, {
      input: secret,
    });
    await enclave.run(`throw new Error('${secret}')`);
    expect(lines.length).toBeGreaterThan(0);
    expect(JSON.stringify(lines)).not.toContain(secret);
  });
});

describe('the registry', () => {
  it('counts executions by outcome and code, and measures them', async () => {
    const ok = 'enclave_executions_total{outcome="completed",code="OK"}';
    const failed = 'enclave_executions_total{outcome="completed",code="SCRIPT_ERROR"}';
    const refused = 'enclave_executions_total{outcome="not_started",code="SOURCE_LIMIT_EXCEEDED"}';
    const count = 'enclave_execution_latency_seconds_count';
    const before = await Promise.all([ok, failed, refused, count].map(sample));
    await enclave.run('return 1');
    await enclave.run('return 2');
    await enclave.run('throw 1');
    await enclave.run('return 4', { limits: { maxSourceBytes: 1 } });
    const after = await Promise.all([ok, failed, refused, count].map(sample));
    expect(after.map((value, index) => (value ?? 0) - (before[index] ?? 0))).toEqual([2, 1, 1, 4]);
  });

  it('has the metrics of the guide, under its names and labels', async () => {
    await enclave.run('return 1');
    const [worker] = enclave.stats().workers;
    expect(await sample('enclave_executions_per_second')).toBeGreaterThan(0);
    expect(await sample('enclave_queue_depth{runtime="embedded"}')).toBe(0);
    expect(await sample('enclave_runtime_health{runtime_id="embedded"}')).toBe(1);
    expect(await sample('enclave_active_executions')).toBe(0);
    expect(await sample(`enclave_worker_memory_bytes{worker_id="${worker?.id}"}`)).toBeGreaterThan(20e6);
    for (const le of [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]) {
      expect(await sample(`enclave_execution_latency_seconds_bucket{le="${le}"}`)).toBeGreaterThan(0);
    }
  });

  it('sees what is active while it is', async () => {
    const controller = new AbortController();
    const run = enclave.run('await sleep(60_000)', { signal: controller.signal });
    await expect.poll(() => sample('enclave_active_executions'), PATIENCE).toBe(1);
    controller.abort();
    await run;
    expect(await sample('enclave_active_executions')).toBe(0);
  });

  it('is shared by Enclaves, and forgets the workers of one that is gone', async () => {
    const other = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1 }), registry });
    const ok = 'enclave_executions_total{outcome="completed",code="OK"}';
    const before = (await sample(ok)) ?? 0;
    await other.run('return 1');
    await enclave.run('return 1');
    expect(await sample(ok)).toBe(before + 2);
    await other.dispose();
    expect(await sample('enclave_runtime_health{runtime_id="embedded"}')).toBe(1);
  });
});

describe('Enclaves that share a registry and a pool', () => {
  it('count every run and each retired worker once', async () => {
    const registry = new Registry();
    const adapter = createWorkerPoolAdapter({ poolSize: 1 });
    const first = new Enclave({ adapter, registry });
    const second = new Enclave({ adapter, registry });
    await Promise.all([first.run('return 1'), first.run('return 2'), second.run('return 3')]);
    const rate = await registry.getSingleMetric('enclave_executions_per_second')?.get();
    expect(rate?.values[0]?.value).toBeCloseTo(0.3);
    const [worker] = first.stats().workers;
    process.kill(worker?.pid ?? 0, 'SIGKILL');
    const retired = async () =>
      (await registry.getSingleMetric('enclave_worker_retirements_total')?.get())?.values[0]?.value;
    await expect.poll(retired, { timeout: 10_000 }).toBe(1);
    await Promise.all([first.dispose(), second.dispose()]);
  });
});
