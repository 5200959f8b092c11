/** METRICS.md and the code say the same, both ways. Which process reports what is held by test/integration/metrics.test.ts too. */
import { Registry } from 'prom-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createSystem, Enclave, type System } from '../../src/index.ts';
import { registerMetrics } from '../../src/ops/metrics.ts';
import { declaredIn, documentedFor, documentedMetrics, documentedValues } from '../support/metricdocs.ts';
import { parseScrape } from '../support/scrape.ts';

const registry = new Registry();
let system: System;
beforeAll(async () => {
  system = await createSystem({ registry, runtimes: 1, brokers: 1, pool: { poolSize: 1 } });
});
afterAll(() => system.close());

interface Declared {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly labelNames: readonly string[];
}
const everything = new Registry();
registerMetrics(everything);
const all = everything.getMetricsAsArray() as unknown as readonly Declared[];

describe('METRICS.md', () => {
  it('has each metric of the code, as it is, and no other', () => {
    const inCode = all.map(({ name, type, labelNames, help }) => ({
      name,
      type,
      labels: [...labelNames],
      help,
    }));
    const inDocs = documentedMetrics().map(({ name, type, labels, help }) => ({ name, type, labels, help }));
    expect(inDocs.toSorted(byName)).toEqual(inCode.toSorted(byName));
    expect(new Set(inDocs.map(({ name }) => name)).size).toBe(inDocs.length);
  });

  it('says what a process with a broker and a runtime reports', async () => {
    const expected = [...new Set([...documentedFor('broker'), ...documentedFor('runtime')])].toSorted();
    expect(declaredIn(await registry.metrics())).toEqual(expected);
  });

  it('says what a process with an Enclave reports', async () => {
    const own = new Registry();
    await using enclave = new Enclave({ registry: own });
    expect(enclave.stats().status).toBe('open');
    expect(declaredIn(await own.metrics())).toEqual(documentedFor('embedded'));
  });

  it('names somebody who reports it for every metric', () => {
    const known = ['broker', 'runtime', 'provider', 'client', 'embedded'];
    for (const { name, by } of documentedMetrics()) {
      expect(by.length, name).toBeGreaterThan(0);
      expect(by.filter((each) => !known.includes(each))).toEqual([]);
    }
  });

  it('explains each value of a label that is there from the start, and of a status', async () => {
    const scraped = [...parseScrape(await registry.metrics()).keys()].flatMap((series) => {
      const [, metric = '', label = '', value = ''] =
        /^(enclave_\w+)\{(reason|status|outcome)="(\w+)"\}$/.exec(series) ?? [];
      return metric === '' ? [] : [`${metric} ${label} ${value}`];
    });
    const documented = documentedValues()
      // Of these the series come with the first of their kind.
      .filter(({ metric }) => !['enclave_executions_total', 'enclave_tool_calls_total'].includes(metric))
      .map(({ metric, label, value }) => `${metric} ${label} ${value}`);
    expect(documented.toSorted()).toEqual(scraped.toSorted());
    expect(documentedValues().every(({ meaning }) => meaning.length > 5)).toBe(true);
  });

  it('explains each outcome of executions and calls', () => {
    const outcomesOf = (name: string): readonly string[] =>
      documentedValues()
        .filter(({ metric, label }) => metric === name && label === 'outcome')
        .map(({ value }) => value)
        .toSorted();
    // The values of their types: what is missing or too much here does not compile.
    const ends: Record<Parameters<typeof endsAs>[0], true> = {
      completed: true,
      not_started: true,
      unknown: true,
    };
    const calls: Record<Parameters<typeof callsEndAs>[0], true> = {
      completed: true,
      failed: true,
      not_started: true,
      unknown: true,
    };
    expect(outcomesOf('enclave_executions_total')).toEqual(Object.keys(ends).toSorted());
    expect(outcomesOf('enclave_tool_calls_total')).toEqual(Object.keys(calls).toSorted());
  });
});

describe('the metrics', () => {
  it('are called as Prometheus has it', () => {
    for (const { name, type, help, labelNames } of all) {
      expect(name).toMatch(/^enclave_[a-z]+(?:_[a-z]+)*$/);
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
      expect(help, name).toMatch(/^[A-Z].{10,}[^.]$/);
      for (const label of labelNames) expect(label).toMatch(/^[a-z]+(?:_[a-z]+)*$/);
    }
  });

  it('have the names and labels of the guide', () => {
    const guide = {
      enclave_executions_per_second: [],
      enclave_execution_latency_seconds: [],
      enclave_queue_depth: ['runtime'],
      enclave_runtime_health: ['runtime_id'],
      enclave_worker_memory_bytes: ['worker_id'],
      enclave_active_executions: [],
    };
    const ours = Object.fromEntries(all.map(({ name, labelNames }) => [name, [...labelNames]]));
    expect(ours).toMatchObject(guide);
  });
});

const byName = (one: { readonly name: string }, other: { readonly name: string }): number =>
  one.name < other.name ? -1 : 1;

type Result = Awaited<ReturnType<Enclave['run']>>;
declare function endsAs(outcome: Extract<Result, { success: false }>['error']['outcome']): void;
declare function callsEndAs(outcome: Result['toolCalls'][number]['outcome']): void;
