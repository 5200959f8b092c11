/** The autoscaler, the budgets and the quota: the guide's numbers, and whether they fit together. */
import { type Check, METRIC, quantity } from './cluster.ts';
import { at, equal, type Fields, fieldsAt, listAt, METRICS, must } from './documents.ts';

/** The guide's words. */
export const AUTOSCALER = {
  scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'enclave-runtime' },
  minReplicas: 2,
  maxReplicas: 20,
  metrics: [
    { type: 'Resource', resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: 70 } } },
    { type: 'Pods', pods: { metric: { name: METRIC }, target: { type: 'AverageValue', averageValue: 10 } } },
  ],
};
const QUOTA = {
  'requests.cpu': '20',
  'requests.memory': '40Gi',
  'limits.cpu': '40',
  'limits.memory': '80Gi',
  pods: '50',
};

export const autoscaler: Check = (document, cluster) => {
  const { behavior, ...guide } = fieldsAt(document, 'spec');
  // The guide's Deployment, or what an overlay makes of it.
  const kind = cluster.workload('enclave-runtime')?.kind ?? 'Deployment';
  const target = cluster.named(String(kind), at(guide, 'scaleTargetRef', 'name'));
  const down = at(behavior, 'scaleDown');
  const drain = Number(at(target, 'spec', 'template', 'spec', 'terminationGracePeriodSeconds'));
  return [
    ...equal('the spec', guide, {
      ...AUTOSCALER,
      scaleTargetRef: { ...AUTOSCALER.scaleTargetRef, kind },
    }),
    ...must(METRICS.has(METRIC), `no code has the metric ${METRIC}`),
    ...must(target !== undefined, 'it scales nothing'),
    ...equal('scale-down', at(down, 'policies', 0, 'type'), 'Pods'),
    ...must(
      listAt(down, 'policies').length === 1 && at(down, 'policies', 0, 'value') === 1,
      'several go at once',
    ),
    ...must(
      Number(at(down, 'policies', 0, 'periodSeconds')) >= drain,
      'one goes before the last has drained',
    ),
    ...must(Number(at(down, 'stabilizationWindowSeconds')) >= 60, 'it goes up and down'),
    ...equal(
      'scale-up',
      listAt(behavior, 'scaleUp', 'policies').map((each) => at(each, 'type')),
      ['Percent', 'Pods'],
    ),
    ...equal('selectPolicy', at(behavior, 'scaleUp', 'selectPolicy'), 'Max'),
  ];
};

export const budget: Check = (document, cluster) => {
  const app = String(at(document, 'metadata', 'name')).replace(/-pdb$/, '');
  const wanted = app === 'enclave-runtime' ? { minAvailable: 2 } : { maxUnavailable: 1 };
  return [
    ...equal('the spec', document.spec, { ...wanted, selector: { matchLabels: { app } } }),
    ...must(cluster.workload(app) !== undefined, 'it protects nothing'),
  ];
};

/** The guide's; and all that may run at once fits in. */
export const quota: Check = (document, cluster) => {
  const hard = fieldsAt(document, 'spec', 'hard');
  const most = (each: Fields): number => {
    const app = at(each, 'metadata', 'name');
    const count = app === 'enclave-runtime' ? AUTOSCALER.maxReplicas : Number(at(each, 'spec', 'replicas'));
    if (each.kind !== 'Deployment') return count;
    return count + Number(at(each, 'spec', 'strategy', 'rollingUpdate', 'maxSurge'));
  };
  const workloads = cluster.kind('Deployment', 'StatefulSet');
  const sum = (...keys: readonly string[]): number =>
    workloads.reduce(
      (total, each) =>
        total +
        most(each) * quantity(at(each, 'spec', 'template', 'spec', 'containers', 0, 'resources', ...keys)),
      0,
    );
  const pods = workloads.reduce((total, each) => total + most(each), 0);
  return [
    ...equal('the quota', hard, QUOTA),
    ...must(pods <= quantity(hard.pods), `there may be ${pods} pods`),
    ...['requests', 'limits'].flatMap((of) =>
      ['cpu', 'memory'].flatMap((name) =>
        must(sum(of, name) <= quantity(hard[`${of}.${name}`]), `${of}.${name} may come to ${sum(of, name)}`),
      ),
    ),
  ];
};
