/**
 * Which metrics and labels a PromQL expression names, and whether there are such. Whether it is valid at all is
 * promtool's to say; this reader takes valid expressions only.
 */
import type { Registry } from 'prom-client';

/** One selector: a metric, and the labels that it is matched by. */
export interface Selector {
  readonly metric: string;
  readonly matchers: readonly { readonly label: string; readonly op: string; readonly value: string }[];
}

export interface Names {
  readonly selectors: readonly Selector[];
  /** Labels of `by`, `without`, `on`, `ignoring`, `group_left` and `group_right`. */
  readonly groupings: readonly string[];
}

/** A metric that can be asked for: the labels it has. */
export type Known = ReadonlyMap<string, { readonly labels: ReadonlySet<string> }>;

const TOKEN =
  /\s+|#.*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|\[[^\]]*\]|\d[\w.]*|[A-Za-z_:][\w:]*|[=!<>]=|[=!]~|./gy;
const GROUPINGS = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right']);
const WORDS = new Set(['and', 'or', 'unless', 'bool', 'offset', 'atan2', 'inf', 'nan', 'start', 'end']);
const isName = (token: string | undefined): token is string => /^[A-Za-z_:]/.test(token ?? '');

/** Labels that Prometheus itself puts on what it scrapes: those of prometheus.yml, and of a ServiceMonitor. */
const TARGET_LABELS = ['job', 'instance', 'namespace', 'pod', 'service', 'container', 'endpoint'];
/** Series that Prometheus itself makes. */
const OWN_SERIES: readonly (readonly [string, readonly string[]])[] = [
  ['up', []],
  ['ALERTS', ['alertname', 'alertstate', 'severity']],
];

export function namesIn(expression: string): Names {
  const tokens = (expression.match(TOKEN) ?? []).filter((token) => !/^(\s|#)/.test(token));
  const selectors: Selector[] = [];
  const groupings: string[] = [];
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] ?? '';
    if (!isName(token)) {
      // The labels of a selector without a name, which no file of ours has.
      if (token === '{') throw new Error(`a selector without a metric: ${expression}`);
      continue;
    }
    const next = tokens[at + 1];
    if (GROUPINGS.has(token.toLowerCase())) {
      if (next !== '(') continue; // A bare `group_left`.
      for (at += 2; tokens[at] !== ')' && at < tokens.length; at++)
        if (tokens[at] !== ',') groupings.push(tokens[at] ?? '');
    } else if (!WORDS.has(token.toLowerCase()) && next !== '(' && !GROUPINGS.has(next?.toLowerCase() ?? '')) {
      const matchers: { label: string; op: string; value: string }[] = [];
      if (next === '{') {
        for (at += 2; tokens[at] !== '}' && at < tokens.length; at++) {
          if (!isName(tokens[at])) continue;
          const [label = '', op = '', value = ''] = tokens.slice(at, at + 3);
          matchers.push({ label, op, value: value.slice(1, -1) });
          at += 2;
        }
      }
      selectors.push({ metric: token, matchers });
    }
  }
  return { selectors, groupings };
}

/** What an expression names that does not exist, in words. */
export function complaints(expression: string, known: Known): readonly string[] {
  const { selectors, groupings } = namesIn(expression);
  const found: string[] = [];
  const all = new Set(TARGET_LABELS);
  for (const { metric, matchers } of selectors) {
    const labels = known.get(metric)?.labels;
    if (labels === undefined) {
      found.push(`there is no metric ${metric}`);
      continue;
    }
    for (const label of labels) all.add(label);
    for (const { label } of matchers)
      if (!labels.has(label) && !TARGET_LABELS.includes(label)) found.push(`${metric} has no label ${label}`);
  }
  if (found.length === 0)
    for (const label of groupings)
      if (!all.has(label)) found.push(`no metric of the expression has the label ${label}`);
  return found;
}

/** Labels that a result of the expression may have. */
export function labelsOf(expression: string, known: Known): ReadonlySet<string> {
  const { selectors } = namesIn(expression);
  return new Set([
    ...TARGET_LABELS,
    ...selectors.flatMap(({ metric }) => [...(known.get(metric)?.labels ?? [])]),
  ]);
}

/** What may be asked for: what is registered, what is recorded, and what Prometheus makes. */
export async function knownIn(
  registry: Registry,
  records: readonly { readonly record: string; readonly expr: string }[],
): Promise<Known> {
  const known = new Map<string, { readonly labels: ReadonlySet<string> }>(
    OWN_SERIES.map(([name, labels]) => [name, { labels: new Set(labels) }]),
  );
  for (const { name, type } of await registry.getMetricsAsJSON()) {
    const labels = labelNamesOf(registry, name);
    if (String(type) !== 'histogram') known.set(name, { labels: new Set(labels) });
    else
      for (const [suffix, more] of [
        ['_bucket', ['le']],
        ['_sum', []],
        ['_count', []],
      ] as const)
        known.set(`${name}${suffix}`, { labels: new Set([...labels, ...more]) });
  }
  // A quantile is taken over `le`, and has none.
  for (const { record, expr } of records)
    known.set(record, { labels: new Set(namesIn(expr).groupings.filter((label) => label !== 'le')) });
  return known;
}

/** `getMetricsAsJSON` names a label only once it has a value; what was declared is a property of the metric. */
function labelNamesOf(registry: Registry, name: string): readonly string[] {
  const metric = registry.getSingleMetric(name) as { readonly labelNames?: readonly string[] } | undefined;
  if (metric?.labelNames === undefined) throw new Error(`prom-client shows no label names of ${name}`);
  return metric.labelNames;
}
