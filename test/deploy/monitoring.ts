/** The ServiceMonitor and the rule of prometheus-adapter: paths, ports and metrics as the code has them. */
import { parse } from 'yaml';
import { type Check, METRIC, MONITORING, NAMESPACE } from './cluster.ts';
import { at, equal, fieldsAt, listAt, METRICS, must, ROUTES } from './documents.ts';
import { AUTOSCALER } from './scaling.ts';
import { adapterProblems } from './strict.ts';

export const monitor: Check = (document, cluster) => {
  const [selector] = listAt(document, 'spec', 'selector', 'matchExpressions');
  const apps = listAt(selector, 'values');
  const endpoints = listAt(document, 'spec', 'endpoints');
  const seconds = (key: string): number => Number(/^(\d+)s$/.exec(String(at(endpoints, 0, key)))?.[1]);
  const services = apps.map((app) =>
    cluster.kind('Service').find((each) => at(each, 'metadata', 'labels', 'app') === app),
  );
  return [
    ...equal('namespace', at(document, 'metadata', 'namespace'), NAMESPACE),
    ...equal('labels', at(document, 'metadata', 'labels'), { release: 'prometheus' }),
    ...equal(
      'apps',
      [at(selector, 'key'), at(selector, 'operator'), apps],
      ['app', 'In', ['enclave-broker', 'enclave-runtime']],
    ),
    ...must(
      services.every((each) => each !== undefined),
      'it finds no Service',
    ),
    ...must(
      services.every((each) => at(each, 'spec', 'ports', 0, 'name') === at(endpoints, 0, 'port')),
      'the Services have no such port',
    ),
    ...must(endpoints.length === 1, 'it has more or less than one endpoint'),
    ...equal('path', at(endpoints, 0, 'path'), ROUTES.metrics),
    ...must(seconds('scrapeTimeout') <= seconds('interval'), 'a scrape may take longer than until the next'),
  ];
};

export const adapter: Check = (document) => {
  const data = fieldsAt(document, 'data');
  const config: unknown = parse(String(data['config.yaml']));
  const rule = at(config, 'rules', 0);
  const series = /^(\w+)\{namespace!="",pod!="",job="([\w-]+)"\}$/.exec(String(at(rule, 'seriesQuery')));
  const job = series?.[2];
  return [
    ...equal('namespace', at(document, 'metadata', 'namespace'), MONITORING),
    ...equal('files', Object.keys(data), ['config.yaml']),
    ...adapterProblems(config),
    ...equal('series', series?.[1], METRIC),
    ...must(METRICS.has(String(series?.[1])), 'no code has this metric'),
    ...equal('job', job, AUTOSCALER.scaleTargetRef.name),
    ...equal('overrides', at(rule, 'resources', 'overrides'), {
      namespace: { resource: 'namespace' },
      pod: { resource: 'pod' },
    }),
    ...equal('name', at(rule, 'name'), { matches: METRIC, as: METRIC }),
    ...equal(
      'query',
      at(rule, 'metricsQuery'),
      `sum(<<.Series>>{<<.LabelMatchers>>,job="${job}"}) by (<<.GroupBy>>)`,
    ),
  ];
};
