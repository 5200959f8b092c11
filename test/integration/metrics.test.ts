/** Metrics of brokers and runtimes as processes of their own: what Prometheus scrapes is what happened. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { connect } from '@nats-io/transport-node';
import { Registry } from 'prom-client';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  createSystem,
  createWorkerPoolAdapter,
  defineTool,
  Enclave,
  EnclaveClient,
  provideTools,
} from '../../src/index.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { declaredIn, documentedFor } from '../support/metricdocs.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import {
  type BrokerPodOptions,
  POD_TOOLS,
  type Pod,
  type RuntimePodOptions,
  startBrokerPod,
  startRuntimePod,
} from '../support/pods.ts';
import { childrenOf, stopAll, temporaryDirectory, waitUntil } from '../support/processes.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { namesIn, parseScrape, type Scrape, scrape } from '../support/scrape.ts';

let redis: RedisServer;
let nats: NatsServer;
beforeAll(async () => {
  [redis, nats] = await Promise.all([startRedis(), startNats()]);
});
afterAll(() => stopAll());

const opened: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((one) => one.stop()));
});

let namespaces = 0;
/** A namespace of its own, with its client and the directory of its tools' gates. */
class Cluster {
  readonly client: EnclaveClient;
  readonly namespace = `m${process.pid}-${++namespaces}`;
  readonly #env: Readonly<Record<string, string>>;
  readonly #directory = temporaryDirectory();

  constructor() {
    const { namespace } = this;
    this.#env = { ENCLAVE_NAMESPACE: namespace, ENCLAVE_TEST_DIR: this.#directory };
    const client = new EnclaveClient({ serverUrl: nats.url, namespace, timeout: 20_000 });
    opened.push({ stop: () => client.close() });
    this.client = client;
  }

  async broker(options: Partial<BrokerPodOptions> = {}): Promise<Pod> {
    const { url } = nats;
    const pod = await startBrokerPod({
      nats: url,
      redis: redis.url,
      tools: POD_TOOLS,
      ...options,
      env: this.#env,
    });
    opened.push(pod);
    return pod;
  }

  async runtime(options: Partial<RuntimePodOptions> = {}): Promise<Pod> {
    const pod = await startRuntimePod({ nats: nats.url, ...options, env: this.#env });
    opened.push(pod);
    return pod;
  }

  /** Calls of `gate:pass` that have come so far. */
  waiting(): number {
    try {
      return readFileSync(path.join(this.#directory, 'gate.waiting.log'), 'utf8').trim().split('\n').length;
    } catch {
      return 0;
    }
  }

  open(): void {
    writeFileSync(path.join(this.#directory, 'gate.open'), '');
  }
}

const WAIT = 'return await callTool("gate:pass", {})';
const health = (pod: Pod): string => `enclave_runtime_health{runtime_id="${pod.id}"}`;

/** Waits until a series has this value; undefined: until it is not there. */
async function see(pod: Pod, series: string, value: number | undefined): Promise<Scrape> {
  let found: Scrape = new Map();
  await waitUntil(
    async () => {
      found = await scrape(pod);
      return found.get(series) === value;
    },
    `${pod.id} reports ${series} ${String(value)}`,
  ).catch((error: Error) => {
    throw new Error(`${error.message}; it was ${String(found.get(series))}`);
  });
  return found;
}

/** Everything that both brokers counted of a series. */
async function sum(series: string, pods: readonly Pod[]): Promise<number> {
  const found = await Promise.all(pods.map(scrape));
  return found.reduce((total, values) => total + (values.get(series) ?? 0), 0);
}

/** The series of a metric that are there. */
const seriesOf = (found: Scrape, name: string): readonly string[] =>
  [...found.keys()].filter((series) => series.startsWith(`${name}{`)).toSorted();

describe('a broker', () => {
  it('counts each execution and call once, with what it cost', async () => {
    const cluster = new Cluster();
    const broker = await cluster.broker();
    const runtime = await cluster.runtime();
    const { client } = cluster;
    for (const code of ['return 1', 'return 2', 'throw new Error("no")', 'return +']) await client.run(code);
    await client.run('return await callTool("ledger:look", { n: 1 })');
    await client.run('await callTool("nobody:knows", {}).catch(() => undefined)');
    await client.run('return await callTool("slow:look", { ms: 30 })');
    const session = await client.spawnSession();
    expect(await session.execute('return 3').result).toMatchObject({ success: true });
    const found = await scrape(broker);
    expect(
      Object.fromEntries(
        [...found].filter(([series]) => /^enclave_(?:exec.*|tool_calls)_total/.test(series)),
      ),
    ).toEqual({
      'enclave_executions_total{outcome="completed",code="OK"}': 6,
      'enclave_executions_total{outcome="completed",code="SCRIPT_ERROR"}': 1,
      'enclave_executions_total{outcome="not_started",code="SYNTAX_ERROR"}': 1,
      'enclave_tool_calls_total{tool="ledger.look",outcome="completed"}': 1,
      'enclave_tool_calls_total{tool="slow.look",outcome="completed"}': 1,
      // Scripts may write any name.
      'enclave_tool_calls_total{tool="other",outcome="failed"}': 1,
    });
    expect(found.get('enclave_execution_latency_seconds_count')).toBe(8);
    expect(found.get('enclave_tool_call_latency_seconds_count')).toBe(2);
    expect(found.get('enclave_tool_call_latency_seconds_sum')).toBeGreaterThanOrEqual(0.03);
    expect(found.get('enclave_executions_per_second')).toBeGreaterThan(0);
    // It was made, it accepted a script, and the script ended.
    expect(found.get('enclave_commits_total{outcome="committed"}')).toBe(3);
    expect(found.get('enclave_commit_latency_seconds_count')).toBe(3);
    expect(found.get('enclave_sessions{status="idle"}')).toBe(1);
    expect(found.get('enclave_sessions{status="executing"}')).toBe(0);
    expect(found.get('enclave_waiting_executions')).toBe(0);
    expect(found.get('enclave_bus_connected')).toBe(1);
    expect(found.get('enclave_store_connected')).toBe(1);
    expect(found.get('enclave_draining')).toBe(0);
    expect(found.get('enclave_event_loop_lag_seconds')).toBeLessThan(5);
    // A sum over all pods must count them once.
    const elsewhere = namesIn(await scrape(runtime));
    for (const name of [
      'enclave_executions_total',
      'enclave_tool_calls_total',
      'enclave_sessions',
      'enclave_store_connected',
    ])
      expect(elsewhere.has(name)).toBe(false);
    expect(namesIn(found).has('enclave_worker_memory_bytes')).toBe(false);
    expect(namesIn(found).has('enclave_active_executions')).toBe(false);
  }, 60_000);

  it('counts what it refuses, by what was full', async () => {
    const cluster = new Cluster();
    const broker = await cluster.broker();
    const session = await cluster.client.spawnSession();
    // There is no runtime: they wait.
    const waiting = Array.from({ length: 100 }, () => session.execute('return 1'));
    await Promise.all(waiting.map((run) => run.accepted));
    expect(await session.execute('return 1').result).toMatchObject({ error: { code: 'OVERLOADED' } });
    const found = await scrape(broker);
    expect(found.get('enclave_mailbox_rejections_total{reason="session"}')).toBe(1);
    expect(found.get('enclave_mailbox_rejections_total{reason="runs"}')).toBe(0);
    // One of a session at a time.
    expect(found.get('enclave_waiting_executions')).toBe(1);
    expect(found.get('enclave_sessions{status="executing"}')).toBe(1);
    await cluster.runtime();
    await Promise.all(waiting.map((run) => run.result));
    await see(broker, 'enclave_executions_total{outcome="completed",code="OK"}', 100);
    await see(broker, 'enclave_waiting_executions', 0);
  }, 60_000);

  it('knows a runtime that is lost from one that has drained', async () => {
    const cluster = new Cluster();
    const broker = await cluster.broker();
    const [first, second] = [await cluster.runtime(), await cluster.runtime()];
    await see(broker, health(first), 1);
    await see(broker, health(second), 1);
    await cluster.client.spawnSession({ id: 'waits' });
    const run = cluster.client.session('waits').execute(WAIT);
    await waitUntil(() => cluster.waiting() === 1, 'the script waits in its tool');
    const { runtime } = await cluster.client.session('waits').info();
    const [its, other] = runtime === first.id ? [first, second] : [second, first];
    await its.kill();
    await see(broker, health(its), 0);
    await see(broker, 'enclave_replays_total{reason="runtime_lost"}', 1);
    cluster.open();
    expect(await run.result).toMatchObject({ success: true, stats: { attempts: 2 } });
    const after = await see(broker, 'enclave_executions_total{outcome="completed",code="OK"}', 1);
    expect(after.get('enclave_tool_calls_total{tool="gate.pass",outcome="completed"}')).toBe(1);
    expect(after.get('enclave_replays_total{reason="given_back"}')).toBe(0);
    expect(after.get(health(other))).toBe(1);
    await its.start();
    await see(broker, health(its), 1);
    expect(await other.drain()).toBe(0);
    await see(broker, health(other), undefined);
    expect((await scrape(broker)).get(health(its))).toBe(1);
  }, 60_000);
});

describe('two brokers', () => {
  it('count what moves on purpose, and what one takes from the other', async () => {
    const cluster = new Cluster();
    const args = ['--lease-ttl', '1500', '--scan', '250'];
    const brokers = [await cluster.broker({ args }), await cluster.broker({ args })];
    await cluster.runtime();
    const session = await cluster.client.spawnSession();
    const run = session.execute('return await callTool("gate:put", {})');
    await waitUntil(() => cluster.waiting() === 1, 'the script waits in its tool');
    const ownerOf = async (): Promise<Pod> => {
      const { owner } = await session.info();
      const pod = brokers.find(({ id }) => id === owner);
      if (pod === undefined) throw new Error(`nobody owns it`);
      return pod;
    };
    const first = await ownerOf();
    const second = brokers.find((pod) => pod !== first) as Pod;
    await waitUntil(() => session.migrate({ to: second.id }).then(() => true), 'they know each other');
    expect((await scrape(first)).get('enclave_migrations_total')).toBe(1);
    expect((await scrape(second)).get('enclave_migrations_total')).toBe(0);
    expect(await sum('enclave_lease_takeovers_total', brokers)).toBe(0);
    second.pause();
    await see(first, 'enclave_lease_takeovers_total', 1);
    second.resume();
    await waitUntil(async () => {
      const found = await scrape(second);
      const losses = seriesOf(found, 'enclave_lease_losses_total');
      return losses.reduce((total, series) => total + (found.get(series) ?? 0), 0) === 1;
    }, 'it lost its lease');
    cluster.open();
    expect(await run.result).toMatchObject({ success: true, value: { passed: 'gate' } });
    expect(await sum('enclave_executions_total{outcome="completed",code="OK"}', brokers)).toBe(1);
    // The provider that was paused tells of its call too.
    expect(await sum('enclave_tool_calls_total{tool="gate.put",outcome="completed"}', brokers)).toBe(1);
    expect(await sum('enclave_migrations_total', brokers)).toBe(1);
  }, 60_000);
});

describe('a runtime', () => {
  it('reports its work, and its workers while they are there', async () => {
    const cluster = new Cluster();
    const broker = await cluster.broker();
    const runtime = await cluster.runtime();
    const runs = [cluster.client.run(WAIT), cluster.client.run(WAIT)];
    await waitUntil(() => cluster.waiting() === 2, 'both scripts wait in their tools');
    const busy = await scrape(runtime);
    expect(busy.get('enclave_active_executions')).toBe(2);
    expect(busy.get(`enclave_queue_depth{runtime="${runtime.id}"}`)).toBe(0);
    expect(busy.get(health(runtime))).toBe(1);
    expect(busy.get('enclave_bus_connected')).toBe(1);
    expect(busy.get('enclave_draining')).toBe(0);
    const workers = seriesOf(busy, 'enclave_worker_memory_bytes');
    expect(workers).toEqual(['enclave_worker_memory_bytes{worker_id="w1"}']);
    expect(busy.get(workers[0] ?? '')).toBeGreaterThan(20e6);
    process.kill(childrenOf(runtime.pid)[0] ?? Number.NaN, 'SIGKILL');
    await see(runtime, 'enclave_worker_retirements_total{reason="crash"}', 1);
    await see(broker, 'enclave_replays_total{reason="given_back"}', 2);
    // It is started again in its slot, or in another: one worker is reported, and it lives.
    await waitUntil(
      async () => seriesOf(await scrape(runtime), 'enclave_worker_memory_bytes').length === 1,
      'one worker is reported',
    );
    cluster.open();
    for (const result of await Promise.all(runs)) expect(result).toMatchObject({ success: true });
    await see(runtime, 'enclave_active_executions', 0);
    const done = await scrape(broker);
    expect(done.get('enclave_executions_total{outcome="completed",code="OK"}')).toBe(2);
    expect(done.get('enclave_replays_total{reason="runtime_lost"}')).toBe(0);
  }, 60_000);

  it('counts as unhealthy while nobody can reach it', async () => {
    const own = await startNats();
    opened.push(own);
    const runtime = await startRuntimePod({ nats: own.url });
    opened.push(runtime);
    await see(runtime, health(runtime), 1);
    await own.kill();
    await see(runtime, health(runtime), 0);
    await see(runtime, 'enclave_bus_connected', 0);
    await own.restart();
    await see(runtime, health(runtime), 1);
  }, 60_000);
});

describe('what is no message', () => {
  it('is counted by whoever dropped it', async () => {
    const cluster = new Cluster();
    const broker = await cluster.broker();
    const runtime = await cluster.runtime();
    const link = await connect({ servers: nats.url });
    opened.push({ stop: () => link.close() });
    const subjects = subjectsOf(cluster.namespace);
    const nonsense = JSON.stringify({ t: 'dance' });
    link.publish(subjects.runtimeCmd(runtime.id), nonsense);
    link.publish(subjects.providerProbe, nonsense);
    link.publish(subjects.runtimeHeartbeat('nobody'), nonsense);
    const letters = (what: string): string => `enclave_dead_letters_total{reason="${what}"}`;
    await see(runtime, letters('command'), 1);
    const found = await see(broker, letters('heartbeat'), 1);
    expect(found.get(letters('report'))).toBe(0);
    // Of the provider of its tools.
    await see(broker, letters('command'), 1);
    expect([...found.keys()].filter((series) => series.includes('nobody'))).toEqual([]);
    link.publish(subjects.runtimeCmd(runtime.id), 'no JSON');
    await see(runtime, letters('unreadable'), 1);
  }, 60_000);
});

describe('what is documented', () => {
  it('is what brokers, runtimes, providers and clients report, and nothing else', async () => {
    const cluster = new Cluster();
    const declared = async (pod: Pod) => declaredIn((await pod.get('/metrics')).text);
    expect(await declared(await cluster.broker())).toEqual(documentedFor('broker'));
    expect(await declared(await cluster.runtime())).toEqual(documentedFor('runtime'));
    const [ofTools, ofClient] = [new Registry(), new Registry()];
    const { namespace } = cluster;
    const tools = await provideTools(nats.url, [defineTool({ name: 'a', handler: () => 1 })], {
      namespace,
      registry: ofTools,
    });
    opened.push({ stop: () => tools.close() });
    expect(declaredIn(await ofTools.metrics())).toEqual(documentedFor('provider'));
    const client = await createSystem({ nats: nats.url, namespace, registry: ofClient });
    opened.push({ stop: () => client.close() });
    expect(declaredIn(await ofClient.metrics())).toEqual(documentedFor('client'));
    expect(parseScrape(await ofTools.metrics()).get('enclave_bus_connected')).toBe(1);
  }, 60_000);
});

describe('a system within one process', () => {
  it('counts the calls that its scripts left behind, and shares its registry with another one', async () => {
    const registry = new Registry();
    const forever = defineTool({ name: 'never:ends', handler: () => new Promise(() => undefined) });
    const pool = { poolSize: 1 };
    await using system = await createSystem({ registry, pool, tools: [forever] });
    const limits = { maxConcurrentToolCalls: 1 };
    const session = await system.spawnSession({ durability: 'none', limits });
    const run = session.execute(
      'await Promise.all([callTool("never:ends", {}), callTool("never:ends", {})])',
    );
    const found = async (): Promise<Scrape> => parseScrape(await registry.metrics());
    await waitUntil(async () => (await found()).get('enclave_sessions{status="waiting"}') === 1, 'it waits');
    await run.cancel();
    expect(await run.result).toMatchObject({ success: false, error: { code: 'CANCELLED' } });
    const cancelled = await found();
    expect(
      seriesOf(cancelled, 'enclave_tool_calls_total').map((series) => [series, cancelled.get(series)]),
    ).toEqual([
      ['enclave_tool_calls_total{tool="never.ends",outcome="not_started"}', 1],
      ['enclave_tool_calls_total{tool="never.ends",outcome="unknown"}', 1],
    ]);
    expect(cancelled.get('enclave_executions_total{outcome="unknown",code="CANCELLED"}')).toBe(1);
    // Nothing of it is stored.
    expect(cancelled.get('enclave_commits_total{outcome="committed"}')).toBe(0);
    const other = await createSystem({ registry, pool, namespace: 'other' });
    await Promise.all([system.run('return 1'), other.run('return 2')]);
    const both = await found();
    expect(both.get('enclave_executions_total{outcome="completed",code="OK"}')).toBe(2);
    expect(seriesOf(both, 'enclave_worker_memory_bytes')).toHaveLength(2);
    await other.close();
    const left = await found();
    expect(seriesOf(left, 'enclave_worker_memory_bytes')).toHaveLength(1);
    expect(left.get('enclave_sessions{status="idle"}')).toBe(1);
    expect(left.get('enclave_bus_connected')).toBe(1);
  }, 60_000);
});

describe('an Enclave', () => {
  it('reports no worker that it has retired', async () => {
    const registry = new Registry();
    const adapter = createWorkerPoolAdapter({ poolSize: 1, maxExecutionsPerWorker: 1 });
    await using enclave = new Enclave({ adapter, registry });
    await enclave.run('return 1');
    const found = async (): Promise<Scrape> => parseScrape(await registry.metrics());
    await waitUntil(
      async () => (await found()).get('enclave_worker_retirements_total{reason="executions"}') === 1,
      'its first worker is gone',
    );
    const series = seriesOf(await found(), 'enclave_worker_memory_bytes');
    expect(series).not.toContain('enclave_worker_memory_bytes{worker_id="w1"}');
  });
});
