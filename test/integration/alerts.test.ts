/**
 * A real Prometheus with the real rules watches processes of a cluster: the guide's three alerts fire when there is
 * reason to, and resolve. Every `for` and every window is a sixtieth of what the rules file says (minutes are seconds);
 * expressions and thresholds are the file's own.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EnclaveClient } from '../../src/index.ts';
import { POOL_RULES } from '../../src/options.ts';
import { expressionsOf, readDashboard } from '../support/dashboard.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { POD_TOOLS, type Pod, startBrokerPod, startRuntimePod } from '../support/pods.ts';
import { HOST, waitUntil } from '../support/processes.ts';
import {
  type Alert,
  knownMetrics,
  type Prometheus,
  promtool,
  readRules,
  shortened,
  startPrometheus,
} from '../support/prometheus.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';

const FACTOR = 60;
const PATIENCE_MS = 60_000;
/** Longer than the threshold of HighExecutionLatency. */
const SLOW = 'await sleep(5_200); return 1';
/** Never waits long enough to be put away. */
const ENDLESS = 'for (;;) await sleep(1_000)';
/** As many workers as a runtime of docker/kubernetes has, and the executions that it takes with them. */
const WORKERS = shippedWorkers();
const ROOM = WORKERS * POOL_RULES.maxConcurrentPerWorker.default;

let nats: NatsServer;
let redis: RedisServer;
let broker: Pod;
let runtime: Pod;
let roomy: Pod;
let prometheus: Prometheus;
let client: EnclaveClient;

beforeAll(async () => {
  [nats, redis] = await Promise.all([startNats(), startRedis()]);
  [broker, runtime, roomy] = await Promise.all([
    startBrokerPod({ nats: nats.url, redis: redis.url, tools: POD_TOOLS }),
    startRuntimePod({ nats: nats.url }),
    startRuntimePod({ nats: nats.url, poolSize: WORKERS }),
  ]);
  prometheus = await startPrometheus({
    rules: shortened(readRules(), FACTOR),
    jobs: { 'enclave-broker': [broker.port], 'enclave-runtime': [runtime.port, roomy.port] },
  });
  client = new EnclaveClient({ serverUrl: nats.url, timeout: PATIENCE_MS });
  await client.connect();
}, 60_000);

afterAll(async () => {
  await client?.close();
  await prometheus?.stop();
  await Promise.all([broker, runtime, roomy].map((pod) => pod?.stop()));
  await Promise.all([nats, redis].map((server) => server?.stop()));
}, 60_000);

const firing = async (name: string): Promise<readonly Alert[]> =>
  (await prometheus.alerts()).filter(({ labels, state }) => labels.alertname === name && state === 'firing');
/** Rules are evaluated four times a second: to ask much more often would only cost the cluster its processor. */
const until = (fact: () => Promise<boolean>, what: string): Promise<void> =>
  waitUntil(
    async () => {
      if (await fact()) return true;
      await delay(50);
      return false;
    },
    what,
    PATIENCE_MS,
  );
/** Resolves to the alerts of this name once there are some, and they are what is waited for. */
async function fires(
  name: string,
  also: (alerts: readonly Alert[]) => boolean = () => true,
): Promise<readonly Alert[]> {
  let alerts: readonly Alert[] = [];
  await until(async () => {
    alerts = await firing(name);
    return alerts.length > 0 && also(alerts);
  }, `${name} fires`);
  return alerts;
}
/** It is neither firing nor pending. */
const resolves = (name: string): Promise<void> =>
  until(
    async () => (await prometheus.alerts()).every(({ labels }) => labels.alertname !== name),
    `${name} resolves`,
  );
const value = async (expression: string): Promise<number | undefined> =>
  (await prometheus.query(expression))[0]?.value;

describe('Prometheus', () => {
  it('scrapes every process and evaluates every rule, and no alert of the guide fires', async () => {
    await until(async () => (await value('sum(up)')) === 3, 'all are scraped');
    await until(() => prometheus.rulesAreWell(), 'every rule is evaluated');
    await until(async () => (await value('enclave:runtimes_healthy:count')) === 2, 'both are well');
    expect(await client.run('return 1')).toMatchObject({ success: true });
    await until(async () => ((await value('enclave:executions:rate1m')) ?? 0) > 0, 'a run is counted');
    // The first evaluations may have come before the first scrapes.
    for (const name of ['HighExecutionLatency', 'QueueBacklog', 'RuntimeUnhealthy', 'NoRuntime'])
      await resolves(name);
  }, 60_000);
});

describe('HighExecutionLatency', () => {
  it('fires while scripts take more than 5 s, and resolves when they no longer do', async () => {
    const over = new AbortController();
    const runs: Promise<unknown>[] = [];
    const submit = (): void => {
      runs.push(client.run(SLOW, { signal: over.signal, limits: { timeoutMs: PATIENCE_MS } }));
    };
    submit();
    const timer = setInterval(submit, 500);
    try {
      const [alert] = await fires('HighExecutionLatency');
      expect(alert?.labels.severity).toBe('warning');
      expect(alert?.annotations.summary).toBe('High execution latency detected');
    } finally {
      clearInterval(timer);
      over.abort();
      await Promise.allSettled(runs);
    }
    await resolves('HighExecutionLatency');
  }, 90_000);
});

describe('RuntimeUnhealthy', () => {
  it('fires for a runtime that was killed, once as a target and once by its id, and resolves when it is back', async () => {
    await runtime.kill();
    const alerts = await fires(
      'RuntimeUnhealthy',
      (alerts) =>
        alerts.some(({ labels }) => labels.instance === `${HOST}:${runtime.port}`) &&
        alerts.some(({ labels }) => labels.runtime_id === runtime.id),
    );
    expect(alerts.every(({ labels }) => labels.severity === 'critical')).toBe(true);
    expect(alerts.some(({ labels }) => labels.runtime_id === roomy.id)).toBe(false);
    await runtime.start();
    await resolves('RuntimeUnhealthy');
    await until(async () => (await value('enclave:runtimes_healthy:count')) === 2, 'both are well again');
  }, 90_000);
});

describe('QueueBacklog', () => {
  it('fires while more than 100 executions wait for runtimes of the shipped size, and resolves when they are gone', async () => {
    const over = new AbortController();
    // What the two runtimes take, and more than 100 that they refuse.
    const flood = ROOM + POOL_RULES.maxConcurrentPerWorker.default + 120;
    const runs = Array.from({ length: flood }, (_, number) =>
      client.run(ENDLESS, {
        signal: over.signal,
        tenant: `tenant-${number % 8}`,
        limits: { timeoutMs: PATIENCE_MS },
      }),
    );
    try {
      const alerts = await fires('QueueBacklog');
      expect(alerts).toHaveLength(1);
      expect(alerts[0]?.labels).toMatchObject({ severity: 'critical' });
      expect(alerts[0]?.labels).not.toHaveProperty('runtime');
      expect(await value('sum(enclave_waiting_executions)')).toBeGreaterThan(100);
      // Why the queue of a runtime alone would never be over 100.
      expect(await value('max(enclave_queue_depth)')).toBeLessThanOrEqual(ROOM);
      expect(ROOM).toBeLessThan(100);
    } finally {
      over.abort();
      await Promise.allSettled(runs);
    }
    await resolves('QueueBacklog');
    await expect.poll(() => value('enclave:executions_queued:sum'), { timeout: PATIENCE_MS }).toBe(0);
    // No set of labels that came up on the way made an expression ambiguous.
    expect(await prometheus.rulesAreWell()).toBe(true);
  }, 90_000);
});

describe('when all of this has happened', () => {
  it('every query of the dashboard is answered with data', async () => {
    const session = await client.spawnSession();
    const ran = session.execute('return await callTool("ledger:look", { n: 1 })');
    expect(await ran.result).toMatchObject({ success: true, value: { seen: 1 } });
    for (const { at, expr } of expressionsOf(readDashboard())) {
      // Nothing need fire any more.
      if (/^ALERTS\{/.test(expr)) await prometheus.query(expr);
      else
        await until(
          async () => (await prometheus.query(expr)).length > 0,
          `there is data for ${at}: ${expr}`,
        );
    }
  }, 90_000);

  it('promtool finds nothing wrong with the form of the metrics, and the catalogue lacks none of them', async () => {
    const known = await knownMetrics();
    for (const pod of [broker, roomy]) {
      const { text } = await pod.get('/metrics');
      expect(promtool(['check', 'metrics'], { input: text }), pod.role).toEqual({ status: 0, output: '' });
      const names = [...text.matchAll(/^([a-z]\w*)(?:\{| )/gm)].map(([, name = '']) => name);
      expect(names.length).toBeGreaterThan(5);
      for (const name of names) expect([...known.keys()]).toContain(name);
    }
  });
});

function shippedWorkers(): number {
  const file = path.resolve(import.meta.dirname, '../../docker/kubernetes/base/runtime.yaml');
  return Number(/name: ENCLAVE_POOL_SIZE\n +value: "(\d+)"/.exec(readFileSync(file, 'utf8'))?.[1]);
}
