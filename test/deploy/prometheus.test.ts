/** The configuration, rules and alerts of docker/prometheus, held against promtool, the code and ALERTS.md. */
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Registry } from 'prom-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { DEFAULT_BROKER_PORT } from '../../src/broker.ts';
import { isErrorCode } from '../../src/errors.ts';
import { POOL_RULES } from '../../src/options.ts';
import {
  alertsOf,
  CONFIG_FILE,
  DOCKER,
  durationMs,
  fullRegistry,
  knownMetrics,
  promtool,
  RULE_TESTS_FILE,
  RULES_FILE,
  type Rules,
  readRules,
  recordsOf,
  shortened,
} from '../support/prometheus.ts';
import { complaints, type Known, namesIn } from '../support/promql.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

interface RuleTests {
  readonly tests: readonly {
    readonly name: string;
    readonly input_series: readonly { readonly series: string }[];
    readonly alert_rule_test?: readonly {
      readonly alertname: string;
      readonly exp_alerts: readonly unknown[];
    }[];
    readonly promql_expr_test?: readonly {
      readonly expr: string;
      readonly exp_samples: readonly { readonly labels: string }[];
    }[];
  }[];
}

const rulesText = readFileSync(RULES_FILE, 'utf8');
const rules = readRules(rulesText);
const alerts = alertsOf(rules);
const records = recordsOf(rules);
const ruleTests = parse(readFileSync(RULE_TESTS_FILE, 'utf8')) as RuleTests;

let known: Known;
let directory: string;
beforeAll(async () => {
  known = await knownMetrics();
  directory = mkdtempSync(path.join(tmpdir(), 'enclave-rules-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Run the unit tests of the rules on other rules. */
function testRules(text: string): ReturnType<typeof promtool> {
  writeFileSync(path.join(directory, 'enclave.yml'), text);
  writeFileSync(path.join(directory, 'enclave_test.yml'), readFileSync(RULE_TESTS_FILE));
  return promtool(['test', 'rules', 'enclave_test.yml'], { cwd: directory });
}

const complaintsOfRules = ({ groups }: Rules): readonly string[] =>
  groups.flatMap((group) => group.rules.flatMap(({ expr }) => complaints(expr, known)));

/** The expressions that the unit tests of the rules ask for, but for the guide's own, which has no such series. */
const GUIDES = 'histogram_quantile(0.99, enclave_execution_latency_seconds)';
const complaintsOfTests = ({ tests }: RuleTests): readonly string[] =>
  tests
    .flatMap(({ input_series, promql_expr_test = [] }) => [
      ...input_series.map(({ series }) => series),
      ...promql_expr_test.map(({ expr }) => expr).filter((expr) => expr !== GUIDES),
    ])
    .flatMap((expression) => complaints(expression, known));

describe('the configuration', () => {
  it('is valid, and so are its rules', () => {
    const checked = promtool(['check', 'config', '--lint-fatal', CONFIG_FILE]);
    expect(checked.output).toContain(`${alerts.length + records.length} rules found`);
    expect(checked.status, checked.output).toBe(0);
  });

  it('scrapes the brokers and runtimes on the port that they serve, by the names of the jobs in the rules', () => {
    const { scrape_configs } = parse(readFileSync(CONFIG_FILE, 'utf8')) as {
      readonly scrape_configs: readonly {
        readonly job_name: string;
        readonly metrics_path?: string;
        readonly static_configs: readonly { readonly targets: readonly string[] }[];
      }[];
    };
    const targets = Object.fromEntries(
      scrape_configs.map(({ job_name, static_configs }) => [
        job_name,
        static_configs.flatMap((each) => each.targets),
      ]),
    );
    const at = (name: string): string => `${name}:${DEFAULT_BROKER_PORT}`;
    expect(targets).toEqual({
      'enclave-broker': ['broker-1', 'broker-2'].map(at),
      'enclave-runtime': ['runtime-1', 'runtime-2', 'runtime-3'].map(at),
    });
    expect(scrape_configs.every(({ metrics_path }) => metrics_path === undefined)).toBe(true);
    const asked = alerts.flatMap(({ expr }) =>
      namesIn(expr).selectors.flatMap(({ matchers }) =>
        matchers.filter(({ label }) => label === 'job').map(({ value }) => value),
      ),
    );
    expect(new Set(asked)).toEqual(new Set(Object.keys(targets)));
  });

  it('scrapes the services of compose, each of them on the port that it is told to open', () => {
    const { services } = parse(readFileSync(path.join(DOCKER, 'compose.yaml'), 'utf8'), { merge: true }) as {
      readonly services: Readonly<
        Record<string, { readonly environment?: Readonly<Record<string, unknown>> } | undefined>
      >;
    };
    const pods = Object.keys(services).filter((name) => /^(broker|runtime)-\d+$/.test(name));
    const scraped = [...readFileSync(CONFIG_FILE, 'utf8').matchAll(/- ([\w-]+):(\d+)$/gm)];
    expect(scraped.map(([, name]) => name).toSorted()).toEqual(pods.toSorted());
    for (const [, name = '', port] of scraped)
      expect(String(services[name]?.environment?.ENCLAVE_PORT), name).toBe(port);
  });

  it('has windows of at least four scrapes', () => {
    const { global } = parse(readFileSync(CONFIG_FILE, 'utf8')) as {
      readonly global: { readonly scrape_interval: string };
    };
    const windows = [...rulesText.matchAll(/\[(\w+)\]/g)].map(([, window = '']) => durationMs(window));
    expect(windows.length).toBeGreaterThan(10);
    expect(Math.min(...windows)).toBeGreaterThanOrEqual(4 * durationMs(global.scrape_interval));
  });
});

describe('the rules', () => {
  it('are valid, with names of their own', () => {
    const checked = promtool(['check', 'rules', '--lint=all', '--lint-fatal', RULES_FILE]);
    expect(checked.status, checked.output).toBe(0);
    const names = [...alerts.map(({ alert }) => alert), ...records.map(({ record }) => record)];
    expect(names).toHaveLength(new Set(names).size);
  });

  it('pass their unit tests', () => {
    const tested = promtool(['test', 'rules', RULE_TESTS_FILE]);
    expect(tested.status, tested.output).toBe(0);
  }, 60_000);

  it('have unit tests in which each alert fires and does not fire, and each record has a value', () => {
    const verdicts = ruleTests.tests.flatMap(({ alert_rule_test = [] }) => alert_rule_test);
    for (const { alert } of alerts) {
      const own = verdicts.filter(({ alertname }) => alertname === alert);
      expect(
        own.some(({ exp_alerts }) => exp_alerts.length > 0),
        `${alert} fires`,
      ).toBe(true);
      expect(
        own.some(({ exp_alerts }) => exp_alerts.length === 0),
        `${alert} does not fire`,
      ).toBe(true);
    }
    const valued = ruleTests.tests
      .flatMap(({ promql_expr_test = [] }) => promql_expr_test)
      .filter(({ exp_samples }) => exp_samples.length > 0)
      .flatMap(({ expr }) => namesIn(expr).selectors.map(({ metric }) => metric));
    for (const { record } of records) expect(valued).toContain(record);
  });

  it('fail their unit tests when a threshold, a duration, a label or a severity is another', () => {
    const mutations: readonly (readonly [string, string])[] = [
      ['enclave_queue_depth > 100', 'enclave_queue_depth > 101'],
      ['sum(enclave_waiting_executions) > 100', 'sum(enclave_waiting_executions) > 101'],
      ['or sum(enclave_waiting_executions) > 100', 'or on () sum(enclave_waiting_executions) > 100'],
      ['[5m]))) > 5', '[5m]))) > 50'],
      ['for: 2m', 'for: 3m'],
      ['severity: critical', 'severity: warning'],
      ['reason="crash"', 'reason=~"crash|killed"'],
      ['unless on (job, instance) (enclave_draining == 1 or', 'unless on (job, instance) ('],
      ['enclave_store_connected == 0', 'enclave_store_connected == 1'],
      ['code!="OK"', 'code="OK"'],
    ];
    for (const [before, after] of mutations) {
      const mutated = rulesText.replace(before, after);
      expect(mutated).not.toBe(rulesText);
      expect(testRules(mutated).status, `${before} became ${after}`).not.toBe(0);
    }
    expect(testRules(rulesText).status).toBe(0);
  }, 120_000);

  it('name only metrics and labels that the code registers, and so do their unit tests', () => {
    expect(complaintsOfRules(rules)).toEqual([]);
    expect(complaintsOfTests(ruleTests)).toEqual([]);
  });

  it('do not pass with a metric or a label that is misspelt', () => {
    for (const [before, after] of [
      ['enclave_queue_depth > 100', 'enclave_queue_depht > 100'],
      ['enclave_execution_latency_seconds_bucket', 'enclave_execution_latency_seconds'],
      ['by (code)', 'by (cod)'],
      ['{reason="crash"}', '{cause="crash"}'],
      ['enclave:runtimes_healthy:count == 0', 'enclave:runtime_healthy:count == 0'],
    ] as const) {
      const mutated = rulesText.replace(before, after);
      expect(mutated).not.toBe(rulesText);
      expect(complaintsOfRules(readRules(mutated)), `${before} became ${after}`).not.toEqual([]);
    }
    const text = readFileSync(RULE_TESTS_FILE, 'utf8');
    const mutated = text.replace('enclave_fenced_writes_total{', 'enclave_fenced_write_total{');
    expect(complaintsOfTests(parse(mutated) as RuleTests)).toEqual([
      'there is no metric enclave_fenced_write_total',
    ]);
  });

  it('match values that labels can have', async () => {
    const registry = fullRegistry();
    const values = await initialValues(registry);
    const expressions = [
      ...alerts.map(({ expr }) => expr),
      ...records.map(({ expr }) => expr),
      ...ruleTests.tests.flatMap(({ input_series }) => input_series.map(({ series }) => series)),
    ];
    const matched = expressions.flatMap((expr) => namesIn(expr).selectors);
    const checked = matched.flatMap(({ metric, matchers }) =>
      matchers.flatMap(({ label, value }) => {
        const possible = values.get(`${metric}.${label}`);
        if (label === 'code') expect(value === 'OK' || isErrorCode(value), value).toBe(true);
        else if (possible !== undefined) expect([...possible]).toContain(value);
        return label === 'code' || possible !== undefined ? [value] : [];
      }),
    );
    expect(checked).toContain('crash');
    expect(checked).toContain('SCRIPT_ERROR');
  });

  it('see the first increment of every counter whose growth is an alert', async () => {
    const counters = alerts
      .filter(({ expr }) => expr.includes('increase('))
      .flatMap(({ expr }) => namesIn(expr).selectors.map(({ metric }) => metric));
    expect(counters.length).toBeGreaterThan(3);
    const metrics = await fullRegistry().getMetricsAsJSON();
    for (const counter of counters) {
      const values = metrics.find(({ name }) => name === counter)?.values ?? [];
      expect(values.length, `${counter} is 0 from the start`).toBeGreaterThan(0);
    }
  });

  it('warn of crashes at half of what a pool takes', () => {
    const { expr } = alerts.find(({ alert }) => alert === 'WorkerRestartsNearLimit') ?? { expr: '' };
    expect(Number(/> (\d+)$/.exec(expr.trim())?.[1])).toBe(POOL_RULES.maxRestarts.default / 2);
    const { description } =
      alerts.find(({ alert }) => alert === 'WorkerRestartsNearLimit')?.annotations ?? {};
    const { maxRestarts, restartWindowMs } = POOL_RULES;
    expect(description).toContain(
      `After ${maxRestarts.default} within ${restartWindowMs.default / 1_000} s it refuses`,
    );
  });
});

/** The values that labels have in series which are there from the start, by `metric.label`. */
async function initialValues(registry: Registry): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const values = new Map<string, Set<string>>();
  for (const { name, values: series } of await registry.getMetricsAsJSON())
    for (const { labels } of series)
      for (const [label, value] of Object.entries(labels)) {
        const key = `${name}.${label}`;
        values.set(key, (values.get(key) ?? new Set()).add(String(value)));
      }
  return values;
}

describe('the alerts of the guide', () => {
  it('have its names, thresholds, durations, severities and summaries', () => {
    const guides = rules.groups.find(({ name }) => name === 'enclave');
    expect(guides?.rules).toMatchObject([
      {
        alert: 'HighExecutionLatency',
        expr: expect.stringMatching(
          /^histogram_quantile\(0\.99, .*enclave_execution_latency_seconds_bucket.*\) > 5$/,
        ),
        for: '5m',
        labels: { severity: 'warning' },
        annotations: { summary: 'High execution latency detected' },
      },
      {
        alert: 'QueueBacklog',
        // Its own first, and the queue of brokers, who hold what waits in a cluster.
        expr: 'enclave_queue_depth > 100\n  or sum(enclave_waiting_executions) > 100\n',
        for: '2m',
        labels: { severity: 'critical' },
        annotations: { summary: 'Execution queue backlog' },
      },
      {
        alert: 'RuntimeUnhealthy',
        expr: expect.stringContaining('enclave_runtime_health == 0'),
        for: '1m',
        labels: { severity: 'critical' },
        annotations: { summary: 'Runtime pod unhealthy' },
      },
    ]);
  });

  it('have one expression that can never fire as the guide prints it, which its unit test shows', () => {
    const shown = ruleTests.tests
      .flatMap(({ promql_expr_test = [] }) => promql_expr_test)
      .find(({ expr }) => expr === GUIDES);
    expect(shown?.exp_samples).toEqual([]);
    expect(complaints(GUIDES, known)).toEqual(['there is no metric enclave_execution_latency_seconds']);
  });
});

describe('every alert', () => {
  it('has a severity, a summary, a description and a place in the runbook', () => {
    const headings = headingsOf('RUNBOOK.md').map(anchorOf);
    for (const { alert, labels, annotations } of alerts) {
      expect(['critical', 'warning'], alert).toContain(labels.severity);
      expect(Object.keys(annotations).toSorted(), alert).toEqual(['description', 'runbook_url', 'summary']);
      expect(annotations.runbook_url).toBe(`RUNBOOK.md#${alert.toLowerCase()}`);
      expect(headings, `RUNBOOK.md has no heading of ${alert}`).toContain(alert.toLowerCase());
    }
  });

  it('uses labels in its words that its expression gives it', () => {
    for (const { alert, expr, annotations } of alerts) {
      const { selectors, groupings } = namesIn(expr);
      const given = new Set([
        'job',
        'instance',
        ...groupings,
        ...selectors.flatMap(({ metric }) => [...(known.get(metric)?.labels ?? [])]),
      ]);
      for (const [, label = ''] of Object.values(annotations)
        .join(' ')
        .matchAll(/\$labels\.(\w+)/g))
        expect([...given], alert).toContain(label);
    }
  });

  it('is in ALERTS.md with its severity and duration, and nothing else is', () => {
    const sections = sectionsOf(readFileSync(path.join(ROOT, 'ALERTS.md'), 'utf8'));
    expect(sections.map(({ name }) => name)).toEqual(alerts.map(({ alert }) => alert));
    for (const { name, text } of sections) {
      const rule = alerts.find(({ alert }) => alert === name);
      const wait = rule?.for === undefined ? 'at once' : `after ${rule.for}`;
      expect(text, name).toContain(`\`${rule?.labels.severity}\`, ${wait}.`);
      expect(text, name).toMatch(/\*\*Means\*\* .+/);
      expect(text, name).toMatch(/\*\*Do\*\* .+/);
      expect(text, name).toContain(`[runbook](RUNBOOK.md#${name.toLowerCase()})`);
    }
  });

  it('and every metric in ALERTS.md exists', () => {
    const named = readFileSync(path.join(ROOT, 'ALERTS.md'), 'utf8').matchAll(/\benclave[_:][a-z0-9_:]*\w/g);
    const guides = ['enclave_execution_latency_seconds'];
    const names = [...named].map(([name]) => name);
    expect(names.length).toBeGreaterThan(5);
    for (const name of names) expect([...known.keys(), ...guides]).toContain(name);
    for (const { record } of records) expect(names).toContain(record);
  });
});

describe('the rules of the live test', () => {
  it('are the real ones with shorter durations', () => {
    const text = stringify(shortened(rules, 60));
    expect(text).toContain('for: 5000ms');
    expect(text).toContain('[5000ms]');
    // Made longer again, they are the real ones.
    const back = text.replace(/\b(\d+)ms\b/g, (_, ms: string) => written(Number(ms) * 60));
    expect(parse(back)).toEqual(rules);
  });
});

const written = (ms: number): string => (ms % 60_000 === 0 ? `${ms / 60_000}m` : `${ms / 1_000}s`);

/** Headings of a page, without their marks. */
function headingsOf(page: string): readonly string[] {
  const file = path.join(ROOT, page);
  if (!existsSync(file)) return [];
  return [...readFileSync(file, 'utf8').matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => heading);
}

/** As GitHub makes it. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replace(/\s/g, '-');

/** The parts of ALERTS.md that begin with `### Name`. */
function sectionsOf(text: string): readonly { readonly name: string; readonly text: string }[] {
  return text
    .split(/^(?=#{1,3} )/m)
    .filter((part) => part.startsWith('### '))
    .map((part) => ({ name: part.slice(4, part.indexOf('\n')).trim(), text: part }));
}

it('no rules lie beside these that nobody checks', () => {
  const files = globSync('**/*.{yml,yaml}', { cwd: path.join(DOCKER, 'prometheus') }).toSorted();
  expect(files).toEqual(['prometheus.yml', 'rules/enclave.yml', 'rules/enclave_test.yml']);
});
