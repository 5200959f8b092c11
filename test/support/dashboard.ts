/** The dashboard of docker/grafana, and what it asks of Prometheus. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { DOCKER } from './prometheus.ts';

export const DASHBOARD_FILE = path.join(DOCKER, 'grafana/dashboards/enclave.json');

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly datasource?: unknown;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
  readonly targets?: readonly {
    readonly refId: string;
    readonly datasource: unknown;
    readonly expr: string;
    readonly legendFormat: string;
    readonly format?: string;
  }[];
}

export interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly panels: readonly Panel[];
  readonly annotations: { readonly list: readonly { readonly name: string; readonly expr: string }[] };
  readonly templating: {
    readonly list: readonly {
      readonly name: string;
      readonly type: string;
      readonly query: unknown;
      readonly definition?: string;
    }[];
  };
}

export const readDashboard = (text = readFileSync(DASHBOARD_FILE, 'utf8')): Dashboard =>
  JSON.parse(text) as Dashboard;

/** What Grafana sends: its variables replaced as it replaces them. */
export const sent = (expr: string): string =>
  expr.replaceAll('$__rate_interval', '1m').replaceAll('$instance', '.*');

/** Every expression, with where it stands. */
export function expressionsOf({ panels, annotations, templating }: Dashboard): readonly {
  readonly at: string;
  readonly expr: string;
}[] {
  return [
    ...panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr }) => ({ at: title, expr: sent(expr) })),
    ),
    ...annotations.list.map(({ name, expr }) => ({ at: name, expr: sent(expr) })),
    ...templating.list.flatMap(({ name, definition }) => {
      const [, metric = '', label = ''] = /^label_values\((\w+), (\w+)\)$/.exec(definition ?? '') ?? [];
      return definition === undefined ? [] : [{ at: name, expr: `count by (${label}) (${metric})` }];
    }),
  ];
}
