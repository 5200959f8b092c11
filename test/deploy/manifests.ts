/**
 * What has to hold among the manifests of docker/kubernetes, and between them and the code. Every check takes parsed
 * documents and returns what is wrong, so that misspelt copies can be checked as well.
 */
import { existsSync, globSync } from 'node:fs';
import path from 'node:path';
import { type Check, Cluster, FOLDER, type Manifest, NAMESPACE, SECRETS } from './cluster.ts';
import { at, equal, listAt, must, PACKAGE, ROOT, same } from './documents.ts';
import { adapter, monitor } from './monitoring.ts';
import { ingress, policy } from './network.ts';
import { service, workload } from './pods.ts';
import { autoscaler, budget, quota } from './scaling.ts';
import { kustomizationProblems, manifestProblems } from './strict.ts';

/** All that is wrong with some of them, by default with all; nothing if nothing is. */
export function problemsOf(all: readonly Manifest[], some = all): readonly string[] {
  const cluster = new Cluster(all);
  return some.flatMap((manifest) => {
    const { file, document } = manifest;
    const found = file.endsWith('/kustomization.yaml')
      ? [...kustomizationProblems(document), ...kustomization(manifest)]
      : [...manifestProblems(document), ...metadata(manifest), ...ofKind(manifest, cluster)];
    return found.map((problem) => `${file} ${String(document.kind)}: ${problem}`);
  });
}

function ofKind({ document }: Manifest, cluster: Cluster): readonly string[] {
  const check = CHECKS[String(document.kind)];
  return check === undefined ? ['nothing checks this kind'] : check(document, cluster);
}

/** Names as they are written in the guide, or are new here: other files and operators know them by these. */
const NAMES: Readonly<Record<string, readonly string[]>> = {
  ConfigMap: ['enclave-adapter-rules'],
  Namespace: [NAMESPACE],
  ResourceQuota: ['enclave-quota'],
  Deployment: ['enclave-broker', 'enclave-runtime'],
  StatefulSet: ['nats', 'redis'],
  Service: ['enclave-broker', 'enclave-runtime', 'nats', 'redis'],
  HorizontalPodAutoscaler: ['enclave-runtime-hpa'],
  PodDisruptionBudget: ['enclave-broker-pdb', 'enclave-runtime-pdb'],
  Ingress: ['enclave-broker'],
  NetworkPolicy: ['enclave-broker', 'enclave-runtime', 'nats', 'redis'],
  ServiceMonitor: ['enclave'],
};

function metadata({ file, document }: Manifest): readonly string[] {
  const name = String(at(document, 'metadata', 'name'));
  const kind = String(document.kind);
  // With identities the Deployments are StatefulSets.
  const names = [...(NAMES[kind] ?? []), ...(kind === 'StatefulSet' ? (NAMES.Deployment ?? []) : [])];
  const labelled = ['Deployment', 'StatefulSet', 'Service'].includes(kind);
  const namespace = at(document, 'metadata', 'namespace');
  return [
    ...must(names.includes(name), `no ${kind} is called ${name}`),
    ...must(!labelled || same(at(document, 'metadata', 'labels'), { app: name }), `its label is not ${name}`),
    // Kustomize sets it elsewhere.
    ...must(
      file.includes('/monitoring/') === (namespace !== undefined),
      `the namespace is ${String(namespace)}`,
    ),
  ];
}

const PATCHES = [
  ...['broker', 'runtime'].map((role) => ({
    path: `patches/${role}.yaml`,
    target: { kind: 'Deployment', name: `enclave-${role}` },
    options: { allowKindChange: true },
  })),
  { path: 'patches/hpa.yaml', target: { kind: 'HorizontalPodAutoscaler', name: 'enclave-runtime-hpa' } },
];

function kustomization({ file, document }: Manifest): readonly string[] {
  const folder = path.posix.dirname(file);
  const resources = listAt(document, 'resources').map(String);
  const exists = (name: string): boolean =>
    existsSync(path.join(ROOT, folder, name.endsWith('.yaml') ? name : `${name}/kustomization.yaml`));
  const beside = globSync('*.{yaml,yml,json}', { cwd: path.join(ROOT, folder) });
  const unlisted = beside.filter((name) => name !== 'kustomization.yaml' && !resources.includes(name));
  const base = folder === `${FOLDER}/base`;
  const demo = folder === `${FOLDER}/overlays/demo`;
  const identities = folder === `${FOLDER}/overlays/identities`;
  const secrets = listAt(document, 'secretGenerator');
  return [
    ...resources.filter((name) => !exists(name)).map((name) => `there is no ${name}`),
    ...unlisted.map((name) => `${name} is not listed`),
    ...must(new Set(resources).size === resources.length, 'a resource is listed twice'),
    ...must(folder !== FOLDER || same(resources, ['base', 'monitoring']), 'it is not all of it'),
    ...must(!demo || resources.includes('../../base'), 'it does not begin with base'),
    ...must(!identities || same(resources, ['../../base']), 'it is not of base'),
    ...equal('namespace', document.namespace, base || demo || identities ? NAMESPACE : undefined),
    ...equal('patches', document.patches, identities ? PATCHES : undefined),
    ...equal(
      'labels',
      document.labels,
      base ? [{ pairs: { 'app.kubernetes.io/part-of': 'enclave' } }] : undefined,
    ),
    ...equal(
      'images',
      document.images,
      base ? [{ name: 'enclave-actors', newTag: PACKAGE.version }] : undefined,
    ),
    ...equal(
      'secrets',
      secrets.map((each) => [at(each, 'name'), at(each, 'envs', 0)]),
      base ? Object.entries(SECRETS) : [],
    ),
    ...equal(
      'configMapGenerator',
      document.configMapGenerator,
      demo ? [{ name: 'nats', files: ['nats.conf'] }] : undefined,
    ),
  ];
}

const namespace: Check = (document) =>
  equal('labels', at(document, 'metadata', 'labels'), {
    'pod-security.kubernetes.io/enforce': 'restricted',
    'pod-security.kubernetes.io/enforce-version': 'latest',
  });

const CHECKS: Readonly<Record<string, Check>> = {
  ConfigMap: adapter,
  Namespace: namespace,
  ResourceQuota: quota,
  Deployment: workload,
  StatefulSet: workload,
  Service: service,
  HorizontalPodAutoscaler: autoscaler,
  PodDisruptionBudget: budget,
  Ingress: ingress,
  NetworkPolicy: policy,
  ServiceMonitor: monitor,
};

/** Whether every name that is written in {@link NAMES} is there, once. */
export function missing(all: readonly Manifest[]): readonly string[] {
  const there = all.map(
    ({ document }) => `${String(document.kind)} ${String(at(document, 'metadata', 'name'))}`,
  );
  const wanted = Object.entries(NAMES).flatMap(([kind, names]) => names.map((name) => `${kind} ${name}`));
  return wanted.filter((each) => there.filter((one) => one === each).length !== 1);
}
