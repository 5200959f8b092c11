/**
 * What has to hold in docker/compose.yaml, and between it, nats.conf, the files that it mounts and the code. Checks take
 * parsed documents, so that misspelt copies can be checked as well.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { labelsFrom } from '../../src/env.ts';
import { quantity } from './cluster.ts';
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
  PACKAGE,
  PORT,
  REDIS_PORT,
  ROOT,
  ROUTES,
  sessionProblems,
} from './documents.ts';
import { composeProblems } from './strict.ts';

const FOLDER = 'docker';
const PODS: Readonly<Record<string, string>> = {
  'broker-1': 'broker',
  'broker-2': 'broker',
  'runtime-1': 'runtime',
  'runtime-2': 'runtime',
  'runtime-3': 'runtime',
};
const SERVICES = [...Object.keys(PODS), 'nats', 'redis', 'prometheus', 'grafana'];
const REPOSITORIES: Readonly<Record<string, RegExp>> = {
  nats: /^nats:[\d.]+-alpine$/,
  redis: /^redis:[\d.]+-alpine$/,
  prometheus: /^prom\/prometheus:v[\d.]+$/,
  grafana: /^grafana\/grafana:[\d.]+$/,
};
const NETWORKS: Readonly<Record<string, readonly string[]>> = {
  broker: ['bus', 'store', 'monitoring'],
  runtime: ['bus', 'monitoring'],
  nats: ['bus', 'edge'],
  redis: ['store'],
  prometheus: ['monitoring', 'edge'],
  grafana: ['monitoring', 'edge'],
};
const VOLUMES: Readonly<Record<string, readonly string[]>> = {
  nats: ['../nats.conf:/etc/nats/nats.conf:ro'],
  redis: ['redis:/data'],
  prometheus: [
    './prometheus/prometheus.yml:/etc/prometheus/prometheus.yml:ro',
    './prometheus/rules:/etc/prometheus/rules:ro',
    'prometheus:/prometheus',
  ],
  grafana: [
    './grafana/provisioning:/etc/grafana/provisioning:ro',
    './grafana/dashboards:/var/lib/grafana/dashboards:ro',
    'grafana:/var/lib/grafana',
  ],
};
const PUBLISHED: Readonly<Record<string, number>> = { nats: NATS.port, prometheus: 9090, grafana: 3000 };
const KEPT = ['redis', 'prometheus', 'grafana'];

/** A variable that compose takes from docker/.env, and does not start without. */
export const needed = (name: string): string => `\${${name}:?set it in docker/.env}`;

/** All that is wrong; nothing if nothing is. */
export function compositionProblems(document: Fields, examples: Fields): readonly string[] {
  const services = fieldsAt(document, 'services');
  return [
    ...composeProblems(document),
    ...equal('name', document.name, 'enclave'),
    ...equal('services', Object.keys(services).toSorted(), SERVICES.toSorted()),
    ...equal('volumes', document.volumes, Object.fromEntries(KEPT.map((name) => [name, {}]))),
    ...equal('networks', document.networks, {
      bus: { internal: true },
      store: { internal: true },
      monitoring: { internal: true },
      edge: {},
    }),
    ...Object.keys(services).flatMap((name) => {
      const service = fieldsAt(services, name);
      const role = PODS[name];
      const found = role === undefined ? theirs(name, service) : ours(name, role, service);
      return [...common(name, service), ...found].map((problem) => `${name}: ${problem}`);
    }),
    ...asked(document, examples),
  ];
}

function common(name: string, service: Fields): readonly string[] {
  const volumes = listAt(service, 'volumes').map(String);
  const port = PUBLISHED[name];
  return [
    ...equal('restart', service.restart, 'unless-stopped'),
    ...equal('capabilities', service.cap_drop, ['ALL']),
    ...equal('privileges', service.security_opt, ['no-new-privileges:true']),
    // Grafana unpacks plugins beside its program.
    ...equal('root', service.read_only, name === 'grafana' ? undefined : true),
    ...equal('networks', service.networks, NETWORKS[PODS[name] ?? name]),
    ...equal('volumes', volumes, VOLUMES[name] ?? []),
    ...volumes
      .map((each) => each.split(':')[0] ?? '')
      .filter((from) => from.startsWith('.') && !existsSync(path.join(ROOT, FOLDER, from)))
      .map((from) => `there is no ${from}`),
    ...equal('ports', service.ports, port === undefined ? undefined : [`127.0.0.1:${port}:${port}`]),
  ];
}

const seconds = (text: unknown): number => Number(/^(\d+)s$/.exec(String(text))?.[1]);

/** Over what a drain takes by its settings, in seconds. */
const MARGIN_S = 15;

function ours(name: string, role: string, service: Fields): readonly string[] {
  const env = fieldsAt(service, 'environment');
  const broker = role === 'broker';
  const grace = Number(env.ENCLAVE_DRAIN_GRACE_MS ?? DRAIN_GRACE_MS) / 1_000;
  const healthy = { condition: 'service_healthy' };
  const redis = `redis://redis:${REDIS_PORT}`;
  return [
    ...equal('image', service.image, `enclave-actors:${PACKAGE.version}`),
    ...equal('build', service.build, { context: '..', dockerfile: 'docker/Dockerfile' }),
    ...equal('command', service.command, [role]),
    ...argumentProblems(listAt(service, 'command')),
    ...Object.keys(env)
      .filter((each) => !isVariable(each))
      .map((each) => `${each} is read by nobody`),
    ...equal('id', env.ENCLAVE_ID, name),
    ...equal('port', env.ENCLAVE_PORT, String(PORT)),
    ...equal('NATS', env.ENCLAVE_NATS_URL, `nats://nats:${NATS.port}`),
    ...equal('user', env.ENCLAVE_NATS_USER, role),
    ...equal('password', env.ENCLAVE_NATS_PASSWORD, needed(NATS.users.get(role) ?? '')),
    ...equal('Redis', env.ENCLAVE_REDIS_URL, broker ? redis : undefined),
    ...equal(
      'Redis password',
      env.ENCLAVE_REDIS_PASSWORD,
      broker ? needed('ENCLAVE_REDIS_PASSWORD') : undefined,
    ),
    ...equal('dependencies', service.depends_on, {
      nats: healthy,
      ...(broker ? { redis: healthy } : {}),
    }),
    ...must(
      seconds(service.stop_grace_period) >= (broker ? 2 : 1) * grace + MARGIN_S,
      'it is killed before it has drained',
    ),
    // The image has one that asks /livez.
    ...equal('healthcheck', service.healthcheck, undefined),
    ...roomFor(broker, service, env),
  ];
}

function roomFor(broker: boolean, service: Fields, env: Fields): readonly string[] {
  const limit = quantity(String(service.mem_limit).replace(/g$/, 'Gi'));
  if (broker) return sessionProblems(env.ENCLAVE_MAX_SESSIONS, env.NODE_OPTIONS, limit);
  const pool = Number(env.ENCLAVE_POOL_SIZE);
  const memory = Number(env.ENCLAVE_MAX_WORKER_MEMORY);
  return [
    // One worker more while one is replaced, and the parent.
    ...must((pool + 1) * memory + 2 ** 28 <= limit, 'its workers need more memory than it has'),
    ...equal('labels', labelsFrom(String(env.ENCLAVE_LABELS), 'labels'), { tier: 'standard' }),
    ...must(Number(service.pids_limit) >= 512, 'its workers are more threads than it may have'),
  ];
}

const REDIS_COMMAND =
  'exec redis-server --appendonly yes --maxmemory-policy noeviction --dir /data - <<END\nrequirepass $$REDISCLI_AUTH\nEND\n';

/** What the services that are not ours are told, by name. */
const ENVIRONMENTS: Readonly<Record<string, Fields>> = {
  nats: Object.fromEntries([...NATS.users.values()].map((each) => [each, needed(each)])),
  redis: { REDISCLI_AUTH: needed('ENCLAVE_REDIS_PASSWORD') },
  grafana: {
    GF_SECURITY_ADMIN_PASSWORD: needed('GRAFANA_ADMIN_PASSWORD'),
    GF_ANALYTICS_REPORTING_ENABLED: 'false',
    GF_ANALYTICS_CHECK_FOR_UPDATES: 'false',
  },
};
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  nats: ['--config', '/etc/nats/nats.conf'],
  redis: ['sh', '-c', REDIS_COMMAND],
};
const HEALTH: Readonly<Record<string, readonly string[]>> = {
  nats: ['CMD', 'wget', '-q', '--spider', `http://${NATS.monitor}/healthz`],
  redis: ['CMD', 'redis-cli', '-e', 'ping'],
};
const USERS: Readonly<Record<string, string>> = { nats: '65534:65534', redis: 'redis' };

function theirs(name: string, service: Fields): readonly string[] {
  const health = fieldsAt(service, 'healthcheck');
  const asked = HEALTH[name] !== undefined;
  return [
    ...must(
      REPOSITORIES[name]?.test(String(service.image)) ?? false,
      `the image is ${String(service.image)}`,
    ),
    ...equal('build', service.build, undefined),
    ...equal('environment', service.environment, ENVIRONMENTS[name]),
    ...equal('command', service.command, COMMANDS[name]),
    ...equal('health', health.test, HEALTH[name]),
    ...must(!asked || Number(health.retries) * seconds(health.interval) >= 30, 'it has too little time'),
    ...must(!asked || seconds(health.timeout) > 0, 'it has no time to answer'),
    ...equal('user', service.user, USERS[name]),
    ...equal('dependencies', service.depends_on, name === 'grafana' ? ['prometheus'] : undefined),
  ];
}

/** What docker/.env is asked for, its example has, empty. */
function asked(document: Fields, examples: Fields): readonly string[] {
  const names = [...JSON.stringify(document).matchAll(/(?<!\$)\$\{(\w+)/g)].map(([, name = '']) => name);
  return [
    ...equal('.env.example', Object.keys(examples).toSorted(), [...new Set(names)].toSorted()),
    ...must(
      Object.values(examples).every((value) => value === ''),
      '.env.example: a password that works',
    ),
  ];
}

/** Whether Prometheus scrapes every pod, on its port, under the job that the rules know. */
export function scrapeProblems(config: Fields): readonly string[] {
  const jobs = listAt(config, 'scrape_configs');
  const targets = jobs.map((job) => [
    at(job, 'job_name'),
    listAt(job, 'static_configs').flatMap((each) => listAt(each, 'targets')),
  ]);
  const wanted = ['broker', 'runtime'].map((role) => [
    `enclave-${role}`,
    Object.keys(PODS)
      .filter((name) => PODS[name] === role)
      .map((name) => `${name}:${PORT}`),
  ]);
  return [
    ...equal('targets', targets, wanted),
    ...jobs.flatMap((job) => equal('path', at(job, 'metrics_path') ?? '/metrics', ROUTES.metrics)),
    ...listAt(config, 'rule_files').flatMap((file) => {
      const mounted = String(file).replace('/etc/prometheus/', '');
      return must(
        mounted.startsWith('rules/') && existsSync(path.join(ROOT, FOLDER, 'prometheus', mounted)),
        `there is no ${mounted}`,
      );
    }),
    ...must(listAt(config, 'rule_files').length > 0, 'there are no rules'),
  ];
}

/** Whether Grafana finds Prometheus, and the dashboards where compose mounts them. */
export function grafanaProblems(datasources: Fields, dashboards: Fields): readonly string[] {
  const [source] = listAt(datasources, 'datasources');
  const [provider] = listAt(dashboards, 'providers');
  return [
    ...equal('type', at(source, 'type'), 'prometheus'),
    ...equal('url', at(source, 'url'), `http://prometheus:${PUBLISHED.prometheus}`),
    ...equal('path', at(provider, 'options', 'path'), '/var/lib/grafana/dashboards'),
    ...equal('provider', at(provider, 'type'), 'file'),
  ];
}
