/** Brokers, runtimes, providers and clients over real servers, each with its own connection. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect } from '@nats-io/transport-node';
import { Redis } from 'ioredis';
import { Registry } from 'prom-client';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { initIdentities, issue } from '../../src/identities/files.ts';
import {
  type CreateSystemOptions,
  createSystem,
  createToolRegistry,
  defineTool,
  EnclaveBroker,
  type EnclaveBrokerOptions,
  EnclaveClient,
  type EnclaveClientOptions,
  EnclaveRuntime,
  type EnclaveRuntimeOptions,
  type ExecutionResult,
  provideTools,
} from '../../src/index.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { startSystem } from '../../src/system.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { childrenOf, freePort, waitUntil } from '../support/processes.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { refusalOf } from '../support/systems.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const double = defineTool({
  name: 'math:double',
  effect: 'read',
  handler: (args) => 2 * (args as { readonly n: number }).n,
});
const CALL = 'return await callTool("math:double", { n: input })';

let redis: RedisServer;
let nats: NatsServer;
beforeAll(async () => {
  [redis, nats] = await Promise.all([startRedis(), startNats()]);
});
afterAll(async () => {
  await Promise.all([redis.stop(), nats.stop()]);
});

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((one) => one.close()));
});

let namespaces = 0;
/** Each test has a namespace of its own: they share the servers. */
const newNamespace = (): string => `n${process.pid}-${++namespaces}`;

async function startBroker(
  options: Partial<EnclaveBrokerOptions>,
): Promise<{ readonly broker: EnclaveBroker; readonly port: number }> {
  const broker = new EnclaveBroker({ nats: nats.url, redis: redis.url, ...options });
  opened.push(broker);
  return { broker, port: await broker.listen(0, '127.0.0.1') };
}
async function startRuntime(options: EnclaveRuntimeOptions): Promise<EnclaveRuntime> {
  const runtime = new EnclaveRuntime({ brokerUrl: nats.url, workerPool: { size: 1 }, ...options });
  opened.push(runtime);
  await runtime.connect();
  return runtime;
}
function newClient(options: EnclaveClientOptions): EnclaveClient {
  const client = new EnclaveClient({ serverUrl: nats.url, timeout: 20_000, ...options });
  opened.push(client);
  return client;
}

/** Connections to a server that are of ours. */
const clientsOf = async (server: RedisServer): Promise<number> =>
  (await server.cli('CLIENT', 'LIST')).split('\n').filter((line) => !line.includes('cmd=client')).length;

async function get(port: number, route: string): Promise<{ readonly status: number; readonly text: string }> {
  const response = await fetch(`http://127.0.0.1:${port}${route}`);
  return { status: response.status, text: await response.text() };
}

describe('a broker, a runtime, a provider and a client', () => {
  it('run sessions and stateless scripts together', async () => {
    const namespace = newNamespace();
    await startBroker({ namespace });
    await startRuntime({ namespace });
    const tools = await provideTools(nats.url, [double], { namespace });
    opened.push(tools);
    const client = newClient({ namespace });
    const session = await client.spawnSession({ labels: { region: 'here' } });
    const run = session.execute(
      'state.n = (state.n ?? 0) + 1; return await callTool("math:double", { n: state.n })',
    );
    const types: string[] = [];
    for await (const event of run) types.push(event.type);
    expect(types).toEqual(['session_init', 'tool_call', 'tool_result_applied', 'final']);
    expect(await run.result).toMatchObject({ success: true, value: 2 });
    expect(await client.run(CALL, { input: 21 })).toMatchObject({ success: true, value: 42 });
    expect(await client.tools()).toMatchObject([
      { canonicalName: 'math.double', effect: 'read', providers: 1 },
    ]);
    const listed = [];
    for await (const each of client.sessions()) listed.push(each);
    expect(listed).toMatchObject([
      { session: session.id, status: 'idle', labels: { region: 'here' }, seq: 4 },
    ]);
  });

  it('take a registry of tools, and a Redis client of the user’s own, which stays open', async () => {
    const namespace = newNamespace();
    const own = new Redis(redis.url);
    const { broker } = await startBroker({
      namespace,
      redis: own,
      tools: createToolRegistry({ tools: [double] }),
    });
    await startRuntime({ namespace });
    expect(await newClient({ namespace }).run(CALL, { input: 2 })).toMatchObject({ value: 4 });
    await broker.close();
    expect(await own.ping()).toBe('PONG');
    own.disconnect();
  });

  it('drain in any order and hand a running session to the next broker', async () => {
    const namespace = newNamespace();
    const gate = Promise.withResolvers<void>();
    const wait = defineTool({ name: 'gate', handler: () => gate.promise.then(() => 'through') });
    const first = await startBroker({ namespace, id: 'first' });
    const service = await provideTools(nats.url, [wait], { namespace });
    opened.push(service);
    await startRuntime({ namespace });
    const client = newClient({ namespace });
    const session = await client.spawnSession();
    const run = session.execute('return await callTool("gate")');
    await run.accepted;
    await waitUntil(() => service.running === 1, 'the script waits in its tool');
    await startBroker({ namespace, id: 'second' });
    await waitUntil(async () => (await session.info()).owner === 'first', 'the first owns it');
    await waitUntil(async () => {
      const system = await first.broker.start();
      return system.brokers().length === 2;
    }, 'they know each other');
    await first.broker.drain();
    await waitUntil(async () => (await session.info()).owner === 'second', 'the second owns it');
    gate.resolve();
    expect(await run.result).toMatchObject({ success: true, value: 'through', stats: { attempts: 1 } });
  });

  it('are not known in another namespace, nor are their sessions', async () => {
    const [one, other] = [newNamespace(), newNamespace()];
    for (const namespace of [one, other]) await startBroker({ namespace });
    await startRuntime({ namespace: one });
    expect(await newClient({ namespace: one }).run('return 1')).toMatchObject({ value: 1 });
    const session = await newClient({ namespace: one }).spawnSession();
    const elsewhere = newClient({ namespace: other });
    await elsewhere.connect();
    expect((await refusalOf(() => elsewhere.session(session.id).info())).code).toBe('NOT_FOUND');
    expect(await session.info()).toMatchObject({ status: 'idle' });
    for (const [namespace, runtimes] of [
      [one, 1],
      [other, 0],
    ] as const) {
      const system = await createSystem({ nats: nats.url, namespace });
      opened.push(system);
      await waitUntil(
        () => system.brokers().length === 1 && system.runtimes().length === runtimes,
        `one broker and ${runtimes} runtimes are known`,
      );
    }
  });
});

describe('the endpoints', () => {
  it('tell whether a broker may be given work, and its metrics', async () => {
    const namespace = newNamespace();
    const { broker, port } = await startBroker({ namespace, registry: new Registry() });
    await startRuntime({ namespace });
    expect(await get(port, '/livez')).toMatchObject({ status: 200 });
    expect(await get(port, '/startupz')).toMatchObject({ status: 200 });
    const ready = await get(port, '/readyz');
    expect(ready.status).toBe(200);
    expect(JSON.parse(ready.text)).toEqual({
      ready: true,
      checks: { started: true, notDraining: true, bus: true, store: true, lease: true },
    });
    await newClient({ namespace }).run('return 1');
    const { text } = await get(port, '/metrics');
    expect(text).toContain('enclave_executions_total{outcome="completed",code="OK"} 1');
    expect((await get(port, '/nothing')).status).toBe(404);
    await broker.close();
    await expect(get(port, '/livez')).rejects.toThrow();
  });

  it('of a runtime name its workers', async () => {
    const runtime = new EnclaveRuntime({
      brokerUrl: nats.url,
      namespace: newNamespace(),
      workerPool: { size: 1 },
    });
    opened.push(runtime);
    const { text } = await get(await runtime.listen(0, '127.0.0.1'), '/readyz');
    expect(JSON.parse(text)).toMatchObject({ ready: true, checks: { workers: true, bus: true } });
  });

  it('say why a process is not ready', async () => {
    const paused = await startRedis();
    const broker = new EnclaveBroker({
      nats: nats.url,
      redis: paused.url,
      namespace: newNamespace(),
      leaseTtlMs: 1_000,
    });
    opened.push(broker);
    const port = await broker.listen(0, '127.0.0.1');
    await paused.kill();
    await waitUntil(async () => (await get(port, '/readyz')).status === 503, 'it is not ready');
    await waitUntil(async () => {
      const { checks } = JSON.parse((await get(port, '/readyz')).text) as {
        readonly checks: Readonly<Record<string, boolean>>;
      };
      return checks.store === false && checks.lease === false && checks.bus === true;
    }, 'it says that the store is away and its lease with it');
    await paused.restart();
    await waitUntil(async () => (await get(port, '/readyz')).status === 200, 'it is ready again');
    await broker.close();
    await paused.stop();
  });
});

describe('a start that does not come to its end', () => {
  it('is given up when the broker is closed, and leaves nothing behind', async () => {
    // It answers, and takes no writes: a lease cannot be had.
    const full = await startRedis({ args: ['--min-replicas-to-write', '1'] });
    const broker = new EnclaveBroker({ nats: nats.url, redis: full.url, namespace: newNamespace() });
    opened.push(broker);
    const port = await freePort();
    const listening = refusalOf(() => broker.listen(port, '127.0.0.1'));
    await waitUntil(async () => (await get(port, '/startupz')).status === 503, 'it says that it is starting');
    expect(await get(port, '/livez')).toMatchObject({ status: 200 });
    expect(await get(port, '/readyz')).toMatchObject({ status: 503 });
    await waitUntil(async () => (await clientsOf(full)) > 0, 'it is connected');
    await broker.drain();
    expect(await listening).toMatchObject({ code: 'CLOSED' });
    await waitUntil(async () => (await clientsOf(full)) === 0, 'it is not connected any more');
    await full.stop();
  });

  it('leaves no worker process behind', async () => {
    const full = await startRedis({ args: ['--min-replicas-to-write', '1'] });
    const before = childrenOf(process.pid);
    const started = (): readonly number[] => childrenOf(process.pid).filter((pid) => !before.includes(pid));
    const given = new AbortController();
    const options = { nats: nats.url, redis: full.url, namespace: newNamespace(), pool: { poolSize: 1 } };
    const starting = refusalOf(() => startSystem({ ...options, roles: ['broker', 'runtime'] }, given.signal));
    await waitUntil(() => started().length === 1, 'its worker is there');
    given.abort();
    expect(await starting).toMatchObject({ code: 'CLOSED' });
    await waitUntil(() => started().length === 0, 'it is gone');
    await full.stop();
  });
});

describe('a client', () => {
  it('says at once what is wrong with its options', () => {
    const wrong: readonly (readonly [string, unknown])[] = [
      ['options.serverUrl', { serverUrl: 'https://broker' }],
      ['options.timeout', { timeout: 0 }],
      ['options.namespace', { namespace: 'a.b' }],
      ['options.reconnection.enabled', { reconnection: { enabled: 1 } }],
      ['options.fallback', { fallback: 'elsewhere' }],
      ['options.fallback.limits.cpuMs', { fallback: { limits: { cpuMs: 0 } } }],
      ['options.fallback.isolation', { fallback: { isolation: 'none' } }],
      ['options.fallback.speed', { fallback: { speed: 1 } }],
      ['options.limits.cpuMs', { limits: { cpuMs: 0 } }],
      ['options.speed', { speed: 1 }],
    ];
    for (const [key, options] of wrong)
      expect(() => new EnclaveClient(options as EnclaveClientOptions)).toThrow(
        expect.objectContaining({ key }),
      );
  });

  it('says that it is not connected instead of waiting for ever', async () => {
    const nowhere = newClient({ serverUrl: 'nats://127.0.0.1:1' });
    expect((await refusalOf(() => nowhere.connect())).code).toBe('UNAVAILABLE');
    expect((await refusalOf(() => nowhere.session('s').info())).code).toBe('UNAVAILABLE');
    expect(await nowhere.run('return 1')).toMatchObject({
      success: false,
      error: { code: 'UNAVAILABLE', outcome: 'not_started', retryable: true },
    });
    expect(await refusalOf(() => nowhere.run(1 as unknown as string))).toMatchObject({
      key: 'code',
      code: 'INVALID_ARGUMENT',
    });
    await nowhere.close();
    expect(await nowhere.run('return 1')).toMatchObject({
      success: false,
      error: { code: 'CLOSED', outcome: 'not_started' },
    });
  });

  it('tells a run that no broker took as not started', async () => {
    const result = await newClient({ namespace: newNamespace(), timeout: 300 }).run('return 1');
    expect(result).toMatchObject({ success: false, error: { code: 'UNAVAILABLE', outcome: 'not_started' } });
  });

  it('runs here what certainly did not start there, if it was asked to', async () => {
    const namespace = newNamespace();
    const local = newClient({ namespace, fallback: { tools: [double] } });
    expect(await local.run(CALL, { input: 3 })).toMatchObject({ success: true, value: 6 });
    const nowhere = newClient({ serverUrl: 'nats://127.0.0.1:1', fallback: 'local' });
    expect(await nowhere.run('return input', { input: 5, limits: { timeoutMs: 5_000 } })).toMatchObject({
      value: 5,
    });
    await startBroker({ namespace });
    await startRuntime({ namespace });
    const result = await local.run('return await callTool("math:double", { n: 1 })');
    // The cluster has no such tool; here there is one: so it did run there.
    expect(result).toMatchObject({ success: false, error: { code: 'UNKNOWN_TOOL' } });
  });

  it('runs here within the limits that were set: the run’s, else the fallback’s, else its own', async () => {
    const options = {
      serverUrl: 'nats://127.0.0.1:1',
      limits: { timeoutMs: 3_000, maxToolCalls: 0, memoryBytes: 4096 * 1024 * 1024 },
      isolation: 'realm',
      fallback: { tools: [double], limits: { maxToolCalls: 1 }, isolation: 'context' },
    } as const;
    const local = newClient(options);
    const codeOf = async (code: string, given = {}) => {
      const result = await local.run(code, { input: 1, ...given });
      return result.success ? result.value : result.error.code;
    };
    expect(await codeOf('await sleep(30_000)')).toBe('EXECUTION_TIMEOUT');
    expect(await codeOf('await sleep(3_100); return 1', { limits: { timeoutMs: 20_000 } })).toBe(1);
    expect(await codeOf('await sleep(30_000)', { limits: { timeoutMs: 20_000, deadlineMs: 300 } })).toBe(
      'EXECUTION_TIMEOUT',
    );
    expect(await codeOf(CALL)).toBe(2);
    expect(await codeOf(`${CALL.slice(7)}; ${CALL}`)).toBe('TOOL_CALL_LIMIT_EXCEEDED');
    // In a realm, the built-ins are frozen.
    expect(await codeOf('return Object.isFrozen(Array.prototype)')).toBe(false);
    expect(await codeOf('return Object.isFrozen(Array.prototype)', { isolation: 'realm' })).toBe(true);
    // A name on the list that only the cluster knows is not there.
    const tools = ['math:double', 'users:get'];
    expect(await codeOf(CALL, { tools })).toBe(2);
    expect(await codeOf('return await callTool("users:get")', { tools })).toBe('UNKNOWN_TOOL');
    expect(await codeOf(CALL, { tools: ['users:get'] })).toBe('TOOL_NOT_ALLOWED');
  });

  it('inherits the limits and the isolation of whichever broker takes it, and asks for no more than its ceiling', async () => {
    const namespace = newNamespace();
    await startBroker({
      namespace,
      limits: { timeoutMs: 300, maxSourceBytes: 100, maxToolPayloadBytes: 50, maxStateBytes: 50 },
      maxLimits: { timeoutMs: 20_000, deadlineMs: 60_000, cpuMs: 1_000 },
    });
    await startRuntime({ namespace });
    const client = newClient({ namespace });
    const session = await client.spawnSession({ labels: { of: 'the broker' } });
    const codeOf = (result: ExecutionResult): unknown => (result.success ? result.value : result.error.code);
    expect(codeOf(await client.run('await sleep(5_000)'))).toBe('EXECUTION_TIMEOUT');
    expect(codeOf(await session.execute('await sleep(5_000)').result)).toBe('EXECUTION_TIMEOUT');
    const long = `return 1 // ${'x'.repeat(100)}`;
    expect(codeOf(await client.run(long))).toBe('SOURCE_LIMIT_EXCEEDED');
    expect(codeOf(await session.execute(long).result)).toBe('SOURCE_LIMIT_EXCEEDED');
    const input = 'x'.repeat(50);
    for (const result of [
      await client.run('return 1', { input }),
      await session.execute('return 1', { input }).result,
    ])
      expect(result).toMatchObject({
        error: { code: 'INVALID_ARGUMENT', message: expect.stringContaining('options.input') },
      });
    expect(await refusalOf(() => client.spawnSession({ state: { input } }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'state',
    });

    // More, up to the ceiling.
    const most = { timeoutMs: 20_000, maxSourceBytes: 1_000, maxToolPayloadBytes: 1_000 };
    expect(codeOf(await client.run(`await sleep(600); ${long}`, { limits: most, input }))).toBe(1);
    const granted = { limits: most, input };
    expect(codeOf(await session.execute(`await sleep(600); ${long}`, granted).result)).toBe(1);
    const limits = { timeoutMs: 20_001 };
    const refused = {
      code: 'INVALID_ARGUMENT',
      message: 'options.limits.timeoutMs: must be at most 20000 here, not 20001',
    };
    expect(await client.run('return 1', { limits })).toMatchObject({ success: false, error: refused });
    expect(await session.execute('return 1', { limits }).result).toMatchObject({
      success: false,
      error: refused,
    });
    expect(await refusalOf(() => client.spawnSession({ limits }))).toMatchObject({
      ...refused,
      key: 'options.limits.timeoutMs',
    });
    const greedy = newClient({ namespace, limits });
    expect(await greedy.run('return 1')).toMatchObject({ success: false, error: refused });
    expect(await refusalOf(() => greedy.spawnSession())).toMatchObject(refused);
  });

  it('has a session of older days lowered to the ceiling that its next broker has', async () => {
    const namespace = newNamespace();
    const { broker } = await startBroker({ namespace });
    await startRuntime({ namespace });
    const client = newClient({ namespace });
    const session = await client.spawnSession({ limits: { timeoutMs: 20_000 } });
    await broker.close();
    await startBroker({ namespace, maxLimits: { timeoutMs: 300 } });
    expect(await session.execute('await sleep(5_000)').result).toMatchObject({
      success: false,
      error: { code: 'EXECUTION_TIMEOUT' },
    });
  });

  it('gets no more memory than the workers of the runtime have, whatever it asks for', async () => {
    const namespace = newNamespace();
    await startBroker({ namespace });
    await startRuntime({ namespace, workerPool: { size: 1, maxMemory: 128 * 1024 * 1024 } });
    const client = newClient({ namespace, timeout: 60_000 });
    const result = await client.run(
      'const kept = []; for (let i = 0; ; i++) kept.push(new Array(100_000).fill(i))',
      { limits: { memoryBytes: 4096 * 1024 * 1024, timeoutMs: 60_000, cpuMs: 60_000 } },
    );
    expect(result).toMatchObject({ success: false, error: { code: 'MEMORY_LIMIT_EXCEEDED' } });
  }, 90_000);

  it('says in time, and why, that there is no other broker to migrate to', async () => {
    const namespace = newNamespace();
    await startBroker({ namespace });
    const session = await newClient({ namespace, timeout: 20_000 }).spawnSession();
    const from = performance.now();
    expect(await refusalOf(() => session.migrate())).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'not_started',
      message: expect.stringContaining('no other broker'),
    });
    expect(performance.now() - from).toBeLessThan(10_000);
  });

  it('ends a run that takes longer than its time-out as TIMEOUT, in doubt, and has it cancelled', async () => {
    const namespace = newNamespace();
    const { broker } = await startBroker({ namespace });
    await startRuntime({ namespace });
    const result = await newClient({ namespace, timeout: 400 }).run('await sleep(60_000)');
    expect(result).toMatchObject({ success: false, error: { code: 'TIMEOUT', outcome: 'unknown' } });
    const system = await broker.start();
    await waitUntil(() => system.parts.brokers[0]?.broker.runs === 0, 'the run is gone from its broker');
  });

  it('cancels a run whose signal is aborted', async () => {
    const namespace = newNamespace();
    await startBroker({ namespace });
    await startRuntime({ namespace });
    const controller = new AbortController();
    const run = newClient({ namespace }).run('console.log("on"); await sleep(60_000)', {
      signal: controller.signal,
      onEvent: ({ type }) => {
        if (type === 'stdout') controller.abort();
      },
    });
    expect(await run).toMatchObject({ success: false, error: { code: 'CANCELLED' } });
  });

  it('has the results of what it began before a restart', async () => {
    const namespace = newNamespace();
    await startBroker({ namespace });
    await startRuntime({ namespace });
    const before = newClient({ namespace });
    const session = await before.spawnSession();
    const run = session.execute('await sleep(50); return "kept"');
    await run.accepted;
    await before.close();
    expect(await run.result).toMatchObject({ success: false, error: { code: 'CLOSED', outcome: 'unknown' } });
    const after = newClient({ namespace });
    await after.connect();
    expect(await after.session(session.id).result(run.id)).toMatchObject({ success: true, value: 'kept' });
  });
});

it('tells onError of the options of NATS what cannot be read, in every role', async () => {
  const namespace = newNamespace();
  const told = new Map<string, string[]>();
  const natsOf = (who: string) => ({
    servers: nats.url,
    onError: (_error: unknown, subject: string) => void told.set(who, [...(told.get(who) ?? []), subject]),
  });
  const registry = new Registry();
  await startBroker({ namespace, nats: natsOf('broker'), registry });
  await startRuntime({ namespace, id: 'r1', brokerUrl: natsOf('runtime') });
  opened.push(await provideTools(natsOf('provider'), [double], { namespace }));
  const subjects = subjectsOf(namespace);
  const stranger = await connect({ servers: nats.url });
  for (const subject of [subjects.providerProbe, subjects.runtimeCmd('r1')])
    stranger.publish(subject, 'no JSON');
  await waitUntil(() => told.size === 3, 'all of them were told');
  expect(Object.fromEntries(told)).toEqual({
    broker: [subjects.providerProbe],
    provider: [subjects.providerProbe],
    runtime: [subjects.runtimeCmd('r1')],
  });
  // What is counted is counted beside it.
  expect(await registry.metrics()).toContain('enclave_dead_letters_total{reason="unreadable"} 1');
  await stranger.close();
}, 60_000);

describe('createSystem', () => {
  it.each<[string, CreateSystemOptions]>([
    ['options.redis', { nats: 'nats://127.0.0.1', roles: ['broker'] }],
    ['options.redis', { nats: 'nats://127.0.0.1', roles: ['runtime'], redis: 'redis://127.0.0.1' }],
    ['options.roles', { roles: ['runtime'] }],
    ['options.roles[0]', { roles: ['owner' as 'broker'] }],
    ['options.ack', { ack: 'all' as 'master' }],
    ['options.runtimePool', { runtimePool: {} }],
    [
      'options.runtimePool.minSize',
      {
        nats: 'nats://127.0.0.1',
        redis: 'redis://127.0.0.1',
        roles: ['broker'],
        runtimePool: { minSize: 3, maxSize: 2 },
      },
    ],
    ['options.provisioner', { provisioner: 'local' }],
    ['options.id', { id: 'a b' }],
    ['options.labels.a', { labels: { a: 1 as unknown as string } }],
  ])('refuses what contradicts itself, naming %s', async (key, options) => {
    expect(await refusalOf(() => createSystem(options))).toMatchObject({ code: 'INVALID_ARGUMENT', key });
  });

  it('is a client, if it is given nothing but the way to the servers', async () => {
    const namespace = newNamespace();
    await startBroker({ namespace, id: 'b1' });
    await startRuntime({ namespace, id: 'r1', labels: { tier: 'standard', region: undefined } });
    const system = await createSystem({ nats: nats.url, namespace });
    opened.push(system);
    expect(await system.run('return 7')).toMatchObject({ value: 7 });
    await waitUntil(
      () => system.brokers().length === 1 && system.runtimes().length === 1,
      'it hears of both',
    );
    expect(system.brokers()).toMatchObject([{ id: 'b1' }]);
    expect(system.runtimes()).toMatchObject([{ id: 'r1', labels: { tier: 'standard' } }]);
  });

  it.each([['inbox.mine'], ['enclave.other.inbox.client.c1']])(
    'refuses an inbox where nobody answers: %s',
    async (inboxPrefix) => {
      const options = { nats: { servers: nats.url, inboxPrefix }, namespace: newNamespace() };
      expect(await refusalOf(() => createSystem(options))).toMatchObject({
        code: 'INVALID_ARGUMENT',
        key: 'nats.inboxPrefix',
      });
    },
  );

  it('does not let a user say who may be answered', async () => {
    const given = { servers: nats.url, mayAnswer: () => true };
    for (const [key, open] of [
      ['options.nats.mayAnswer', () => createSystem({ nats: given })],
      ['options.serverUrl.mayAnswer', async () => new EnclaveClient({ serverUrl: given })],
      ['options.brokerUrl.mayAnswer', async () => new EnclaveRuntime({ brokerUrl: given })],
      ['nats.mayAnswer', () => provideTools(given, [double])],
    ] as const)
      expect(await refusalOf(open)).toMatchObject({ code: 'INVALID_ARGUMENT', key });
  });

  it('says whom it cannot reach, without the secrets of the url', async () => {
    const refused = await refusalOf(() => createSystem({ nats: 'nats://me:secret@127.0.0.1:1' }));
    expect(refused.code).toBe('UNAVAILABLE');
    expect(refused.message).toContain('127.0.0.1:1');
    expect(refused.message).not.toContain('secret');
  });
});

describe('with the users of nats.conf', () => {
  const passwords = ['BROKER', 'RUNTIME', 'PROVIDER', 'CLIENT', 'OBSERVER'].map(
    (role) => [`ENCLAVE_NATS_${role}_PASSWORD`, `p-${role.toLowerCase()}`] as const,
  );
  let guarded: NatsServer;
  beforeAll(async () => {
    for (const [name, password] of passwords) process.env[name] = password;
    guarded = await startNats({ config: path.join(ROOT, 'nats.conf') });
  });
  afterAll(async () => {
    for (const [name] of passwords) delete process.env[name];
    await guarded.stop();
  });
  const as = (role: string) => ({ servers: guarded.url, user: role, password: `p-${role}` });

  it('everything works that must, and an answer goes to an inbox only', async () => {
    await startBroker({ nats: as('broker') });
    await startRuntime({ brokerUrl: as('runtime') });
    opened.push(await provideTools(as('provider'), [double]));
    const client = newClient({ serverUrl: as('client') });
    expect(await client.run(CALL, { input: 4 })).toMatchObject({ success: true, value: 8 });
    const session = await client.spawnSession();
    expect(await session.execute(CALL, { input: 5 }).result).toMatchObject({ success: true, value: 10 });

    const observer = await connect({ servers: guarded.url, user: 'observer', pass: 'p-observer' });
    const heard: string[] = [];
    observer.subscribe('enclave.default.session.*.event.*', {
      callback: (_, { subject }) => void heard.push(subject),
    });
    await observer.flush();
    const forger = await connect({ servers: guarded.url, user: 'client', pass: 'p-client' });
    const forged = `enclave.default.session.${session.id}.event.final`;
    const question = JSON.stringify({ session: session.id });
    forger.publish('enclave.default.broker.session_info', question, { reply: forged });
    await forger.flush();
    // What is published after it, and by the same broker, has arrived.
    await session.execute('return 1').result;
    await waitUntil(
      () => heard.filter((subject) => subject.endsWith('final')).length >= 1,
      'an end is heard',
    );
    expect(heard.filter((subject) => subject === forged)).toHaveLength(1);
    await Promise.all([observer.close(), forger.close()]);
  });
});

describe('with an identity for each process', () => {
  let folder: string;
  let guarded: NatsServer;
  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), 'enclave-identities-'));
    const included = await initIdentities(folder, ['acme']);
    const config = path.join(folder, 'server.conf');
    writeFileSync(config, `include "${path.relative(folder, included)}"\n`);
    guarded = await startNats({ config });
  });
  afterAll(async () => {
    await guarded.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const as = async (role: 'broker' | 'runtime' | 'client' | 'provider', id: string) => ({
    servers: guarded.url,
    credentials: readFileSync(await issue(folder, { namespace: 'acme', role, id }), 'utf8'),
  });

  it('each process is who its credentials say, and nobody need name it', async () => {
    await startBroker({ nats: await as('broker', 'b1') });
    await startRuntime({ brokerUrl: await as('runtime', 'r1') });
    opened.push(await provideTools(await as('provider', 'p1'), [double]));
    const client = newClient({ serverUrl: await as('client', 'c1') });
    const session = await client.spawnSession();
    expect(await session.execute(CALL, { input: 6 }).result).toMatchObject({ success: true, value: 12 });
    expect(await session.info()).toMatchObject({ owner: 'b1', runtime: 'r1' });
    expect(await client.run(CALL, { input: 7 })).toMatchObject({ success: true, value: 14 });
  });

  it('a name or namespace that contradicts the credentials is refused', async () => {
    const nats = await as('runtime', 'r2');
    const named = new EnclaveRuntime({ brokerUrl: nats, id: 'r3' });
    expect(await refusalOf(() => named.connect())).toMatchObject({ key: 'options.id' });
    const elsewhere = new EnclaveRuntime({ brokerUrl: nats, namespace: 'other' });
    expect(await refusalOf(() => elsewhere.connect())).toMatchObject({ key: 'options.namespace' });
  });
});
