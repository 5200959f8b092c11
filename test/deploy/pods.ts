/** Deployments, StatefulSets and Services: what runs, confined how, told what, asked where. */
import { labelsFrom } from '../../src/env.ts';
import { type Check, PORTS, quantity, variablesOf } from './cluster.ts';
import { IMAGE } from './dockerfile.ts';
import {
  argumentProblems,
  at,
  DRAIN_GRACE_MS,
  equal,
  type Fields,
  fieldsAt,
  isVariable,
  listAt,
  must,
  NATS,
  PORT,
  REDIS_PORT,
  ROUTES,
  readYaml,
  same,
  sessionProblems,
} from './documents.ts';

const compose = readYaml('docker/compose.yaml');

const PROBES = {
  startupProbe: ROUTES.startup,
  livenessProbe: ROUTES.live,
  readinessProbe: ROUTES.ready,
} as const;

export const workload: Check = (document) => {
  const app = String(at(document, 'metadata', 'name'));
  const pod = fieldsAt(document, 'spec', 'template', 'spec');
  const containers = listAt(pod, 'containers');
  const [container] = containers;
  const labels = at(document, 'spec', 'template', 'metadata', 'labels');
  const spread = listAt(pod, 'topologySpreadConstraints');
  const ours = app.startsWith('enclave-');
  const named = document.kind === 'StatefulSet';
  const [name, number] = PORTS[app] ?? ['', 0];
  return [
    ...must(containers.length === 1, 'it has more or less than one container'),
    ...equal('template labels', labels, { app }),
    ...equal('selector', at(document, 'spec', 'selector'), { matchLabels: { app } }),
    ...equal('service', at(document, 'spec', 'serviceName'), named ? app : undefined),
    ...equal(
      'order of pods',
      at(document, 'spec', 'podManagementPolicy'),
      named && ours ? 'Parallel' : undefined,
    ),
    ...equal(
      'spread',
      spread.map((each) => [
        at(each, 'topologyKey'),
        at(each, 'labelSelector'),
        at(each, 'whenUnsatisfiable'),
      ]),
      (ours ? ['topology.kubernetes.io/zone', 'kubernetes.io/hostname'] : []).map((key) => [
        key,
        { matchLabels: { app } },
        'ScheduleAnyway',
      ]),
    ),
    ...must(
      spread.every((each) => at(each, 'maxSkew') === 1),
      'the skew is not 1',
    ),
    ...equal('ports', at(container, 'ports'), [{ name, containerPort: number }]),
    ...equal('container', at(container, 'name'), app.replace('enclave-', '')),
    ...confinement(app, pod, container),
    ...resources(container),
    ...variables(container, !ours),
    ...volumes(document, container),
    ...(ours ? ourPod(document, app, container) : theirPod(app, container, name)),
  ];
};

/** Of images that are not ours: nobody, and who owns /data in the image of Redis. */
const USERS: Readonly<Record<string, string>> = { nats: '65534:65534', redis: '999:1000' };

/** The Pod Security Standard "restricted", and a root that is read-only. */
function confinement(app: string, pod: Fields, container: unknown): readonly string[] {
  return [
    ...equal('token', pod.automountServiceAccountToken, false),
    ...equal('links', pod.enableServiceLinks, false),
    ...equal('runAsNonRoot', at(pod, 'securityContext', 'runAsNonRoot'), true),
    ...equal(
      'user',
      [at(pod, 'securityContext', 'runAsUser'), at(pod, 'securityContext', 'runAsGroup')].join(':'),
      USERS[app] ?? IMAGE.user,
    ),
    ...equal('fsGroup', at(pod, 'securityContext', 'fsGroup'), app === 'redis' ? 1000 : undefined),
    ...equal('seccomp', at(pod, 'securityContext', 'seccompProfile'), { type: 'RuntimeDefault' }),
    ...equal('security context', at(container, 'securityContext'), {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    }),
  ];
}

function resources(container: unknown): readonly string[] {
  return ['cpu', 'memory'].flatMap((name) => {
    const request = quantity(at(container, 'resources', 'requests', name));
    const limit = quantity(at(container, 'resources', 'limits', name));
    const others = ['requests', 'limits'].flatMap((each) =>
      Object.keys(fieldsAt(container, 'resources', each)),
    );
    return [
      ...must(request > 0 && request <= limit, `${name}: the request is not within the limit`),
      ...must(others.length === 4, `resources are ${others.join(', ')}`),
    ];
  });
}

function variables(container: unknown, theirs: boolean): readonly string[] {
  const entries = listAt(container, 'env');
  return entries.flatMap((entry) => {
    const name = String(at(entry, 'name'));
    const secret = at(entry, 'valueFrom', 'secretKeyRef');
    const field = at(entry, 'valueFrom', 'fieldRef');
    return [
      ...must(theirs ? name === 'REDISCLI_AUTH' : isVariable(name), `${name} is read by nobody`),
      ...must(
        secret === undefined || variablesOf(at(secret, 'name')).includes(String(at(secret, 'key'))),
        `${name}: no Secret holds it`,
      ),
      ...must(field === undefined || same(field, { fieldPath: 'metadata.name' }), `${name}: of no use`),
      ...must(
        [at(entry, 'value'), secret, field].filter((each) => each !== undefined).length === 1,
        `${name}: has not one value`,
      ),
    ];
  });
}

/** Where a pod finds its own credentials, and no others. */
const CREDENTIALS = '/etc/enclave/identity.creds';

function volumes(document: Fields, container: unknown): readonly string[] {
  const mounts = listAt(container, 'volumeMounts').map((each) => [
    at(each, 'name'),
    at(each, 'mountPath'),
    at(each, 'readOnly') ?? false,
    ...(at(each, 'subPathExpr') === undefined ? [] : [at(each, 'subPathExpr')]),
  ]);
  const there = [
    ...listAt(document, 'spec', 'template', 'spec', 'volumes').map((each) => [
      at(each, 'name'),
      at(each, 'configMap', 'name') ?? at(each, 'secret', 'secretName'),
    ]),
    ...listAt(document, 'spec', 'volumeClaimTemplates').map((each) => [
      at(each, 'metadata', 'name'),
      ...listAt(each, 'spec', 'accessModes'),
      quantity(at(each, 'spec', 'resources', 'requests', 'storage')) > 0,
    ]),
  ];
  const wanted: Readonly<Record<string, unknown>> = {
    nats: [[['config', '/etc/nats', true]], [['config', 'nats']]],
    redis: [[['data', '/data', false]], [['data', 'ReadWriteOnce', true]]],
  };
  const name = String(at(document, 'metadata', 'name'));
  const role = name.replace('enclave-', '');
  const own = [
    [['identities', CREDENTIALS, true, `default.${role}.$(ENCLAVE_ID).creds`]],
    [['identities', `${name}-identities`]],
  ];
  if (name !== role && document.kind === 'StatefulSet') return equal('volumes', [mounts, there], own);
  return equal('volumes', [mounts, there], wanted[name] ?? [[], []]);
}

/** The value of a variable, or what it is taken from. */
const env = (container: unknown, name: string): unknown => {
  const entry = listAt(container, 'env').find((each) => at(each, 'name') === name);
  return (
    at(entry, 'value') ?? at(entry, 'valueFrom', 'secretKeyRef', 'key') ?? at(entry, 'valueFrom', 'fieldRef')
  );
};

/** How long a broker may need to hand its sessions over, or a process to end, in seconds. */
const MARGIN_S = 15;

function ourPod(document: Fields, app: string, container: unknown): readonly string[] {
  const role = app.replace('enclave-', '');
  const named = document.kind === 'StatefulSet';
  const user = env(container, 'ENCLAVE_NATS_USER');
  const grace = Number(env(container, 'ENCLAVE_DRAIN_GRACE_MS') ?? DRAIN_GRACE_MS) / 1_000;
  // A broker waits for stateless runs, then for tool handlers.
  const drain = role === 'broker' ? 2 * grace : grace;
  const pool = Number(env(container, 'ENCLAVE_POOL_SIZE'));
  const memory = Number(env(container, 'ENCLAVE_MAX_WORKER_MEMORY'));
  return [
    ...equal('image', at(container, 'image'), 'enclave-actors'),
    ...must(at(container, 'command') === undefined, 'it goes past the init of the image'),
    ...argumentProblems(listAt(container, 'args')),
    ...equal('role', at(container, 'args', 0), role),
    ...equal('id', env(container, 'ENCLAVE_ID'), { fieldPath: 'metadata.name' }),
    ...equal('port', env(container, 'ENCLAVE_PORT'), String(PORT)),
    ...equal('NATS', env(container, 'ENCLAVE_NATS_URL'), `nats://nats:${NATS.port}`),
    ...(named
      ? [
          ...equal('credentials', env(container, 'ENCLAVE_NATS_CREDS'), CREDENTIALS),
          ...equal('user', user, undefined),
          ...equal('password', env(container, 'ENCLAVE_NATS_PASSWORD'), undefined),
        ]
      : [
          ...equal('user', user, role),
          ...must(NATS.users.has(String(user)), `nats.conf has no user ${String(user)}`),
          ...equal('password', env(container, 'ENCLAVE_NATS_PASSWORD'), NATS.users.get(String(user))),
        ]),
    ...equal(
      'Redis',
      env(container, 'ENCLAVE_REDIS_URL'),
      role === 'broker' ? `redis://redis:${REDIS_PORT}` : undefined,
    ),
    ...equal(
      'Redis password',
      env(container, 'ENCLAVE_REDIS_PASSWORD'),
      role === 'broker' ? 'ENCLAVE_REDIS_PASSWORD' : undefined,
    ),
    ...must(
      Number(at(document, 'spec', 'template', 'spec', 'terminationGracePeriodSeconds')) >= drain + MARGIN_S,
      'it is killed before it has drained',
    ),
    ...Object.entries(PROBES).flatMap(([probe, route]) =>
      equal(probe, at(container, probe, 'httpGet'), { path: route, port: 'http' }),
    ),
    ...equal(
      'rollout',
      at(document, 'spec', 'strategy', 'rollingUpdate'),
      named ? undefined : { maxSurge: 1, maxUnavailable: 0 },
    ),
    ...(role === 'broker'
      ? [
          ...must(Number(at(document, 'spec', 'replicas')) >= 2, 'nobody takes its sessions over'),
          ...sessionProblems(
            env(container, 'ENCLAVE_MAX_SESSIONS'),
            env(container, 'NODE_OPTIONS'),
            quantity(at(container, 'resources', 'limits', 'memory')),
          ),
        ]
      : [
          ...equal('replicas', at(document, 'spec', 'replicas'), undefined),
          ...equal('labels', labelsFrom(String(env(container, 'ENCLAVE_LABELS')), 'labels'), {
            tier: 'standard',
          }),
          ...must(
            // One worker more while one is replaced, and the parent.
            (pool + 1) * memory + 2 ** 28 <= quantity(at(container, 'resources', 'limits', 'memory')),
            'its workers need more memory than it has',
          ),
        ]),
  ];
}

function theirPod(app: string, container: unknown, port: string): readonly string[] {
  const command = JSON.stringify([
    at(container, 'command'),
    at(container, 'args'),
    at(container, 'readinessProbe', 'exec'),
  ]);
  return [
    ...equal('image', at(container, 'image'), at(compose, 'services', app, 'image')),
    ...equal('liveness', at(container, 'livenessProbe', 'tcpSocket'), { port }),
    ...must(
      app === 'nats'
        ? command ===
            `[null,["--config","/etc/nats/nats.conf"],{"command":["wget","-q","--spider","http://${NATS.monitor}/healthz"]}]`
        : /^\[\["sh","-c","exec redis-server .*\\nrequirepass \$REDISCLI_AUTH\\nEND\\n"\],null,\{"command":\["redis-cli","-e","ping"\]\}\]$/.test(
            command,
          ),
      `it runs ${command}`,
    ),
    ...equal(
      'envFrom',
      at(container, 'envFrom'),
      app === 'nats' ? [{ secretRef: { name: 'enclave-nats' } }] : undefined,
    ),
    ...must(
      app !== 'nats' || same([...NATS.users.values()].toSorted(), variablesOf('enclave-nats').toSorted()),
      'a password is missing',
    ),
    ...equal(
      'passwords',
      listAt(container, 'env').map((each) => at(each, 'name')),
      app === 'redis' ? ['REDISCLI_AUTH'] : [],
    ),
  ];
}

export const service: Check = (document, cluster) => {
  const name = String(at(document, 'metadata', 'name'));
  const [port, number] = PORTS[name] ?? ['', 0];
  return [
    ...must(cluster.workload(at(document, 'spec', 'selector', 'app')) !== undefined, 'it selects no pods'),
    ...equal('selector', at(document, 'spec', 'selector'), { app: name }),
    ...equal('ports', at(document, 'spec', 'ports'), [{ name: port, port: number, targetPort: port }]),
    ...equal('clusterIP', at(document, 'spec', 'clusterIP'), name === 'enclave-runtime' ? 'None' : undefined),
  ];
};
