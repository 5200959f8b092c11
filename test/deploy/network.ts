/** The Ingress and the NetworkPolicies: who may reach whom, and on which port. */
import { type Check, MONITORING, PORTS } from './cluster.ts';
import { at, equal, fieldsAt, listAt, must, ROUTES } from './documents.ts';

/** The guide's annotations. */
const AFFINITY = {
  'nginx.ingress.kubernetes.io/affinity': 'cookie',
  'nginx.ingress.kubernetes.io/session-cookie-name': 'enclave-session',
  'nginx.ingress.kubernetes.io/session-cookie-max-age': '3600',
};

export const ingress: Check = (document, cluster) => {
  const rules = listAt(document, 'spec', 'rules');
  const paths = rules.flatMap((rule) => listAt(rule, 'http', 'paths'));
  return [
    ...equal('annotations', at(document, 'metadata', 'annotations'), AFFINITY),
    ...equal('class', at(document, 'spec', 'ingressClassName'), 'nginx'),
    ...must(
      rules.length === 1 && rules.every((rule) => /^[a-z.]+$/.test(String(at(rule, 'host')))),
      'the host is none',
    ),
    ...equal(
      'paths',
      paths.map((each) => [at(each, 'path'), at(each, 'pathType')]),
      [[ROUTES.ready, 'Exact']],
    ),
    ...paths.flatMap((each) => {
      const to = cluster.named('Service', at(each, 'backend', 'service', 'name'));
      const ports = listAt(to, 'spec', 'ports').map((port) => at(port, 'name'));
      return [
        ...equal('service', at(to, 'metadata', 'name'), 'enclave-broker'),
        ...must(ports.includes(at(each, 'backend', 'service', 'port', 'name')), 'it leads to no port'),
      ];
    }),
  ];
};

/** Who may reach whom, and on which port. */
const DNS = 'kube-system/k8s-app=kube-dns';
const INGRESS: Readonly<Record<string, readonly string[]>> = {
  'enclave-runtime': [`${MONITORING}/`],
  'enclave-broker': [`${MONITORING}/`, 'ingress-nginx/'],
  nats: ['app=enclave-broker', 'app=enclave-runtime', 'enclave-client=true'],
  redis: ['app=enclave-broker'],
};
const EGRESS: Readonly<Record<string, readonly string[]>> = {
  'enclave-runtime': ['app=nats:4222', `${DNS}:53`],
  'enclave-broker': ['app=nats:4222', 'app=redis:6379', `${DNS}:53`],
  nats: [],
  redis: [],
};

export const policy: Check = (document) => {
  const app = String(at(document, 'metadata', 'name'));
  const [port] = PORTS[app] ?? [''];
  const ingresses = listAt(document, 'spec', 'ingress');
  const egresses = listAt(document, 'spec', 'egress').map(
    (rule) =>
      `${listAt(rule, 'to').map(peer).join(' ')}:${[...new Set(listAt(rule, 'ports').map((each) => at(each, 'port')))].join()}`,
  );
  const protocols = listAt(document, 'spec', 'egress').map((rule) =>
    listAt(rule, 'ports').map((each) => at(each, 'protocol')),
  );
  return [
    ...equal('pods', at(document, 'spec', 'podSelector'), { matchLabels: { app } }),
    ...equal('types', at(document, 'spec', 'policyTypes'), ['Ingress', 'Egress']),
    ...equal(
      'who comes in',
      ingresses.flatMap((rule) => listAt(rule, 'from').map(peer)),
      INGRESS[app],
    ),
    ...equal(
      'where',
      ingresses.map((rule) => at(rule, 'ports')),
      [[{ port, protocol: 'TCP' }]],
    ),
    ...must(Array.isArray(at(document, 'spec', 'egress')), 'there is no egress'),
    ...equal('who is reached', egresses, EGRESS[app]),
    ...equal(
      'protocols',
      protocols,
      (EGRESS[app] ?? []).map((to) => (to.endsWith(':53') ? ['UDP', 'TCP'] : ['TCP'])),
    ),
  ];
};

/** `namespace/`, `key=value` or both. */
function peer(value: unknown): string {
  const namespaces = fieldsAt(value, 'namespaceSelector', 'matchLabels');
  const pods = fieldsAt(value, 'podSelector', 'matchLabels');
  const { 'kubernetes.io/metadata.name': namespace, ...others } = namespaces;
  return [
    ...Object.entries(others).map(([key, each]) => `?${key}=${String(each)}/`),
    ...(namespace === undefined ? [] : [`${String(namespace)}/`]),
    ...Object.entries(pods).map(([key, each]) => `${key}=${String(each)}`),
  ].join('');
}
