/** The dashboard and the provisioning of docker/grafana, held against promtool and the metrics that the code registers. */
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { DASHBOARD_FILE, type Dashboard, expressionsOf, readDashboard, sent } from '../support/dashboard.ts';
import { DOCKER, durationMs, fullRegistry, knownMetrics, promtool } from '../support/prometheus.ts';
import { complaints, type Known, labelsOf, namesIn } from '../support/promql.ts';

const GRAFANA = path.join(DOCKER, 'grafana');
// biome-ignore lint/suspicious/noTemplateCurlyInString: so Grafana names its variables
const DATA_SOURCE = { type: 'prometheus', uid: '${datasource}' };

const text = readFileSync(DASHBOARD_FILE, 'utf8');
const dashboard = readDashboard(text);
const panels = dashboard.panels.filter(({ type }) => type !== 'row');
const yaml = (file: string): unknown => parse(readFileSync(path.join(GRAFANA, file), 'utf8'));

let known: Known;
beforeAll(async () => {
  known = await knownMetrics();
});

const complaintsOf = (of: Dashboard): readonly string[] =>
  expressionsOf(of).flatMap(({ at, expr }) => complaints(expr, known).map((what) => `${at}: ${what}`));

describe('the dashboard', () => {
  it('asks for PromQL that is valid', () => {
    const rules = expressionsOf(dashboard).map(({ expr }, index) => ({ record: `panel:${index}`, expr }));
    expect(rules.length).toBeGreaterThan(30);
    const directory = mkdtempSync(path.join(tmpdir(), 'enclave-dashboard-'));
    try {
      const file = path.join(directory, 'rules.yml');
      const check = (given: typeof rules): ReturnType<typeof promtool> => {
        writeFileSync(file, stringify({ groups: [{ name: 'dashboard', rules: given }] }));
        return promtool(['check', 'rules', '--lint=none', file]);
      };
      const checked = check(rules);
      expect(checked.status, checked.output).toBe(0);
      // The check itself would see one that is not.
      for (const { record, expr } of rules.slice(0, 2))
        expect(check([{ record, expr: `sum(rate(${expr}))` }]).status).not.toBe(0);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it('names only metrics and labels that the code registers or the rules record', () => {
    expect(complaintsOf(dashboard)).toEqual([]);
  });

  it('does not pass with a metric or a label that is misspelt', () => {
    for (const [before, after] of [
      ['enclave_tool_calls_total', 'enclave_tool_call_total'],
      ['enclave_commit_latency_seconds_bucket', 'enclave_commit_latency_seconds'],
      ['enclave:execution_latency_seconds:p95', 'enclave:execution_latency_seconds:p96'],
      ['by (status)', 'by (state)'],
      ['label_values(enclave_draining,', 'label_values(enclave_drained,'],
      ['ALERTS{alertstate=', 'ALERTS{state='],
    ] as const) {
      const mutated = text.replaceAll(before, after);
      expect(mutated).not.toBe(text);
      expect(complaintsOf(readDashboard(mutated)), `${before} became ${after}`).not.toEqual([]);
    }
  });

  it('shows every metric that the code registers', async () => {
    const shown = new Set(
      expressionsOf(dashboard).flatMap(({ expr }) => namesIn(expr).selectors.map(({ metric }) => metric)),
    );
    const suffixes = ['', '_bucket', '_sum', '_count'];
    for (const { name } of await fullRegistry().getMetricsAsJSON())
      expect(
        suffixes.some((suffix) => shown.has(`${name}${suffix}`)),
        `${name} is on the dashboard`,
      ).toBe(true);
  });

  it('uses labels in its legends that the results have', () => {
    for (const { title, targets = [] } of panels)
      for (const { expr, legendFormat } of targets) {
        const { groupings } = namesIn(sent(expr));
        const grouped = /\bby \(/.test(expr);
        const labels = grouped ? new Set(groupings) : labelsOf(sent(expr), known);
        for (const [, label = ''] of legendFormat.matchAll(/\{\{(\w+)\}\}/g))
          expect([...labels], title).toContain(label);
      }
  });

  it('has panels with ids of their own that do not lie upon each other, with a unit and a data source that is there', () => {
    const ids = dashboard.panels.map(({ id }) => id);
    expect(ids).toHaveLength(new Set(ids).size);
    const taken = new Map<string, string>();
    for (const { title, type, gridPos } of dashboard.panels)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.get(`${x} ${y}`), `${title} (${type})`).toBeUndefined();
          expect(x).toBeLessThan(24);
          taken.set(`${x} ${y}`, title);
        }
    for (const { title, description, fieldConfig, datasource, targets = [] } of panels) {
      expect(description, title).toMatch(/\.$/);
      expect(fieldConfig?.defaults.unit, title).toMatch(/^\w+$/);
      expect(datasource, title).toEqual(DATA_SOURCE);
      expect(targets.length, title).toBeGreaterThan(0);
      for (const target of targets) expect(target.datasource, title).toEqual(DATA_SOURCE);
      expect(targets.map(({ refId }) => refId)).toHaveLength(new Set(targets.map(({ refId }) => refId)).size);
    }
    expect(dashboard.templating.list).toContainEqual(
      expect.objectContaining({ name: 'datasource', type: 'datasource', query: 'prometheus' }),
    );
  });

  it('draws the latency as a heat map of buckets', () => {
    const heatmap = panels.find(({ type }) => type === 'heatmap');
    expect(heatmap?.targets).toMatchObject([
      {
        format: 'heatmap',
        legendFormat: '{{le}}',
        expr: expect.stringMatching(/^sum by \(le\) \(increase\(enclave_execution_latency_seconds_bucket\{/),
      },
    ]);
  });
});

describe('the provisioning', () => {
  it('knows the Prometheus of compose as its data source, and its scrape interval', () => {
    const { datasources } = yaml('provisioning/datasources/prometheus.yaml') as {
      readonly datasources: readonly {
        readonly type: string;
        readonly url: string;
        readonly isDefault: boolean;
        readonly jsonData: { readonly timeInterval: string };
      }[];
    };
    const { services } = parse(readFileSync(path.join(DOCKER, 'compose.yaml'), 'utf8'), { merge: true }) as {
      readonly services: Readonly<Record<string, unknown>>;
    };
    const { global } = parse(readFileSync(path.join(DOCKER, 'prometheus/prometheus.yml'), 'utf8')) as {
      readonly global: { readonly scrape_interval: string };
    };
    expect(datasources).toMatchObject([{ type: 'prometheus', isDefault: true }]);
    const [source] = datasources;
    const url = new URL(source?.url ?? '');
    expect(url.port).toBe('9090');
    expect(Object.keys(services)).toContain(url.hostname);
    expect(durationMs(source?.jsonData.timeInterval ?? '')).toBe(durationMs(global.scrape_interval));
  });

  it('takes the dashboards from where compose mounts them', () => {
    const { providers } = yaml('provisioning/dashboards/enclave.yaml') as {
      readonly providers: readonly { readonly type: string; readonly options: { readonly path: string } }[];
    };
    const { services } = parse(readFileSync(path.join(DOCKER, 'compose.yaml'), 'utf8'), { merge: true }) as {
      readonly services: Readonly<Record<string, { readonly volumes?: readonly unknown[] }>>;
    };
    const mounts = (services.grafana?.volumes ?? []).map(mountOf);
    expect(providers).toMatchObject([{ type: 'file' }]);
    const directory = providers[0]?.options.path ?? '';
    expect(mounts).toContainEqual({ from: './grafana/dashboards', to: directory });
    expect(mounts).toContainEqual({ from: './grafana/provisioning', to: '/etc/grafana/provisioning' });
    expect(globSync('dashboards/*', { cwd: GRAFANA })).toEqual(['dashboards/enclave.json']);
  });
});

/** A volume in either of the forms of compose. */
function mountOf(volume: unknown): { readonly from: string; readonly to: string } {
  if (typeof volume === 'string') {
    const [from = '', to = ''] = volume.split(':');
    return { from, to };
  }
  const { source, target } = volume as { readonly source: string; readonly target: string };
  return { from: source, to: target };
}
