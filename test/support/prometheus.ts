/** Prometheus for tests: its tool, its rules as they are in docker/, and a real server. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Registry } from 'prom-client';
import { parse, stringify } from 'yaml';
import { registerMetrics } from '../../src/ops/metrics.ts';
import { binary } from './install.ts';
import { HOST, type Server, startServer } from './processes.ts';
import { type Known, knownIn } from './promql.ts';

export const DOCKER = path.resolve(import.meta.dirname, '../../docker');
export const CONFIG_FILE = path.join(DOCKER, 'prometheus/prometheus.yml');
export const RULES_FILE = path.join(DOCKER, 'prometheus/rules/enclave.yml');
export const RULE_TESTS_FILE = path.join(DOCKER, 'prometheus/rules/enclave_test.yml');

// ---- promtool --------------------------------------------------------------------------------------------

/** Run promtool. `output` is all that it printed. */
export function promtool(
  args: readonly string[],
  { input = '', cwd }: { readonly input?: string; readonly cwd?: string } = {},
): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr, error } = spawnSync(binary('promtool'), args, {
    input,
    encoding: 'utf8',
    timeout: 50_000,
    ...(cwd === undefined ? {} : { cwd }),
  });
  if (error !== undefined) throw error;
  return { status, output: stdout + stderr };
}

// ---- rules -----------------------------------------------------------------------------------------------

export interface AlertRule {
  readonly alert: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface RecordingRule {
  readonly record: string;
  readonly expr: string;
}

export interface Rules {
  readonly groups: readonly {
    readonly name: string;
    readonly rules: readonly (AlertRule | RecordingRule)[];
  }[];
}

export const readRules = (text = readFileSync(RULES_FILE, 'utf8')): Rules => parse(text) as Rules;

export const alertsOf = ({ groups }: Rules): readonly AlertRule[] =>
  groups.flatMap(({ rules }) => rules.filter((rule) => 'alert' in rule));

export const recordsOf = ({ groups }: Rules): readonly RecordingRule[] =>
  groups.flatMap(({ rules }) => rules.filter((rule) => 'record' in rule));

/** A registry with every metric that a process of any role registers. */
export function fullRegistry(): Registry {
  const registry = new Registry();
  registerMetrics(registry);
  return registry;
}

/** What expressions may ask for: what the code registers, and what the rules record. */
export const knownMetrics = (rules = readRules()): Promise<Known> =>
  knownIn(fullRegistry(), recordsOf(rules));

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** A duration as rules write it, such as `5m` or `30s`, in ms. */
export function durationMs(text: string): number {
  const [, amount = '', unit = ''] = /^(\d+)(ms|s|m|h)$/.exec(text) ?? [];
  const ms = Number(amount) * (UNITS_MS[unit] ?? Number.NaN);
  if (Number.isNaN(ms)) throw new Error(`not a duration: ${text}`);
  return ms;
}

/**
 * The rules with every `for` and every window shorter by the factor, and nothing else changed: no expression, no
 * threshold, no label. So minutes of the real file become seconds of a test.
 */
export function shortened(rules: Rules, factor: number): Rules {
  const shorter = (text: string): string => `${Math.ceil(durationMs(text) / factor)}ms`;
  return {
    groups: rules.groups.map((group) => ({
      ...group,
      rules: group.rules.map((rule) => ({
        ...rule,
        ...('for' in rule && rule.for !== undefined ? { for: shorter(rule.for) } : {}),
        expr: rule.expr.replace(/\[(\w+)\]/g, (_, window: string) => `[${shorter(window)}]`),
      })),
    })),
  };
}

// ---- the server ------------------------------------------------------------------------------------------

/** An alert that is pending or fires. */
export interface Alert {
  readonly state: 'pending' | 'firing';
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Prometheus extends Server {
  alerts(): Promise<readonly Alert[]>;
  query(expression: string): Promise<readonly Sample[]>;
  /** Whether every rule was evaluated, and without an error. */
  rulesAreWell(): Promise<boolean>;
}

export interface PrometheusOptions {
  readonly rules: Rules;
  /** Ports of loopback that are scraped, by job. */
  readonly jobs: Readonly<Record<string, readonly number[]>>;
  /** Between scrapes, and between evaluations of the rules, in ms. Default 250. */
  readonly intervalMs?: number | undefined;
}

/** Starts a Prometheus on a free port of loopback, with its data in a directory of its own. Resolves when it is ready. */
export async function startPrometheus(options: PrometheusOptions): Promise<Prometheus> {
  const server = await startServer({
    name: 'prometheus',
    command: binary('prometheus'),
    url: (port) => `http://${HOST}:${port}`,
    args: ({ port, directory }) => [
      `--config.file=${writeConfig(directory, options)}`,
      `--storage.tsdb.path=${path.join(directory, 'data')}`,
      `--web.listen-address=${HOST}:${port}`,
    ],
    ready: async ({ output }, port) =>
      output.includes('Server is ready to receive web requests') &&
      (await fetch(`http://${HOST}:${port}/-/ready`)).ok,
  });
  const get = async <T>(route: string, fields: Readonly<Record<string, string>> = {}): Promise<T> => {
    const response = await fetch(`${server.url}/api/v1/${route}?${new URLSearchParams(fields)}`, {
      signal: AbortSignal.timeout(5_000),
    });
    const answer = (await response.json()) as {
      readonly status: string;
      readonly data: T;
      readonly error?: string;
    };
    if (answer.status !== 'success') throw new Error(`${route}: ${answer.error}`);
    return answer.data;
  };
  return Object.assign(server, {
    alerts: async () => (await get<{ readonly alerts: readonly Alert[] }>('alerts')).alerts,
    query: async (query: string) => {
      const { result } = await get<{
        readonly result: readonly {
          readonly metric: Readonly<Record<string, string>>;
          readonly value: readonly [number, string];
        }[];
      }>('query', { query });
      return result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
    },
    rulesAreWell: async () => {
      const { groups } = await get<{
        readonly groups: readonly { readonly rules: readonly { readonly health: string }[] }[];
      }>('rules');
      return groups.length > 0 && groups.every(({ rules }) => rules.every(({ health }) => health === 'ok'));
    },
  });
}

function writeConfig(directory: string, { rules, jobs, intervalMs = 250 }: PrometheusOptions): string {
  mkdirSync(directory, { recursive: true });
  const every = `${intervalMs}ms`;
  const rulesFile = path.join(directory, 'rules.yml');
  writeFileSync(rulesFile, stringify(rules));
  const file = path.join(directory, 'prometheus.yml');
  writeFileSync(
    file,
    stringify({
      global: { scrape_interval: every, scrape_timeout: every, evaluation_interval: every },
      rule_files: [rulesFile],
      scrape_configs: Object.entries(jobs).map(([job, ports]) => ({
        job_name: job,
        static_configs: [{ targets: ports.map((port) => `${HOST}:${port}`) }],
      })),
    }),
  );
  return file;
}
