/**
 * Tools of services, over a real nats-server: providers are processes that are killed, paused and drained while they
 * run calls. Broker, runtime and client are in this process, each over a link of its own.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter } from '../../src/adapter.ts';
import { NatsLink } from '../../src/bus/nats.ts';
import { SessionClient } from '../../src/client/client.ts';
import type { SpawnOptions } from '../../src/client/options.ts';
import { systemClock as clock } from '../../src/clock.ts';
import { resolveSessionLimits, type WorkerPoolOptions } from '../../src/options.ts';
import { PoolSandbox } from '../../src/poolsandbox.ts';
import type { Reply, ToolList } from '../../src/protocol.ts';
import { provideTools } from '../../src/providetools.ts';
import type { ExecutionResult } from '../../src/result.ts';
import { RuntimeHost } from '../../src/runtime/host.ts';
import { Broker } from '../../src/session/broker.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { defineTool, type ToolContext } from '../../src/tools/define.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { waitUntil } from '../support/processes.ts';
import type { FromService, ToService } from '../support/toolservice.ts';
import { errorIn, valueIn } from './ends.ts';

const subjects = subjectsOf('test');
const SCRIPT = path.resolve(import.meta.dirname, '../support/toolservice.ts');
/** A call that has no provider fails after this, in ms. */
const PROVIDER_TIMEOUT_MS = 6_000;

let nats: NatsServer;
let link: NatsLink;
let broker: Broker;
let client: SessionClient;
let takeDown: () => Promise<void>;
let services: Service[] = [];

/** A provider's process. */
class Service {
  readonly id: string;
  readonly heard: FromService[] = [];
  readonly #process: ChildProcess;

  constructor(id: string, tools: readonly string[]) {
    this.id = id;
    this.#process = fork(SCRIPT, [nats.url, id, ...tools], { execArgv: [] });
    this.#process.on('message', (message) => void this.heard.push(message as FromService));
  }

  /** Starts one, and waits until the broker knows that it is there. */
  static async start(id: string, ...tools: readonly string[]): Promise<Service> {
    const service = new Service(id, tools);
    services.push(service);
    await service.told('ready');
    for (const tool of tools)
      await waitUntil(
        () => broker.tools.list({}).tools.some(({ name, providers }) => name === tool && providers > 0),
        `${tool} is advertised`,
      );
    return service;
  }

  /** What it told of one kind, each call once. */
  keys(t: FromService['t']): readonly string[] {
    return this.heard.flatMap((message) => (message.t === t && 'key' in message ? [message.key] : []));
  }
  told(t: FromService['t']): Promise<void> {
    return waitUntil(() => this.heard.some((message) => message.t === t), `${this.id} tells "${t}"`);
  }
  say(message: ToService): void {
    this.#process.send(message);
  }
  pause(): void {
    this.#process.kill('SIGSTOP');
  }
  resume(): void {
    this.#process.kill('SIGCONT');
  }
  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }
  async kill(): Promise<void> {
    if (!this.running) return;
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await gone;
  }
}

beforeAll(async () => {
  nats = await startNats();
  link = await NatsLink.open({ servers: nats.url });
  const store = new MemoryStore({ clock });
  broker = new Broker({
    id: 'b1',
    bus: link.connect('b1'),
    store,
    clock,
    subjects,
    tool: () => undefined,
    settings: { providerTimeoutMs: PROVIDER_TIMEOUT_MS },
  });
  const pool: WorkerPoolOptions = { poolSize: 1 };
  const adapter = createWorkerPoolAdapter(pool);
  const sandbox = new PoolSandbox(adapter.attach());
  const host = new RuntimeHost({ id: 'r1', bus: link.connect('r1'), clock, subjects, sandbox, labels: {} });
  client = new SessionClient({
    id: clock.id(),
    bus: link.connect('client'),
    clock,
    subjects,
    defaults: { limits: resolveSessionLimits(undefined, undefined, 'limits'), isolation: 'context' },
  });
  await broker.start();
  await host.start();
  await client.start();
  takeDown = async () => {
    await client.close();
    await broker.close();
    host.close();
    await adapter.detach();
    await store.close();
    await link.close();
    await nats.stop();
  };
});
afterEach(async () => {
  await Promise.all(services.map((service) => service.kill()));
  services = [];
});
afterAll(() => takeDown());

async function begin(code: string, options?: SpawnOptions) {
  const session = await client.spawn({ ttlMs: 600_000, ...options });
  const execution = session.execute(code);
  return { session, execution };
}
async function run(code: string, options?: SpawnOptions): Promise<ExecutionResult> {
  return (await begin(code, options)).execution.result;
}
const caught = (call: string): string =>
  `try { return await ${call} } catch (error) { return [error.name, error.message] }`;
/** The services that have been called, in the order given. */
const called = (...of: readonly Service[]): readonly string[] =>
  of.filter((service) => service.keys('called').length > 0).map(({ id }) => id);
/** One call, to whichever of two providers it goes: that one first. */
async function callOne(code: string, one: Service, other: Service) {
  const begun = await begin(code);
  await waitUntil(() => called(one, other).length > 0, 'one of them was called');
  const [first, second] = called(one).length > 0 ? [one, other] : [other, one];
  return { ...begun, first, second };
}

describe('a service', () => {
  it('provides tools that the broker learns of by itself, and calls are shared', async () => {
    await Service.start('p1', 'svc:who');
    await Service.start('p2', 'svc:who');
    const code = 'return await Promise.all(Array.from({ length: 40 }, () => callTool("svc:who")))';
    expect(new Set(valueIn(await run(code)) as string[])).toEqual(new Set(['p1', 'p2']));
  });

  it('that started a moment ago is found, though the broker has heard nothing of it', async () => {
    const registered = new Service('late', ['svc:who']);
    services.push(registered);
    await registered.told('ready');
    expect(valueIn(await run('return await tools.svc.who()'))).toBe('late');
  });

  it('is listed by any broker, with what it tells of its tools', async () => {
    await Service.start('l1', 'svc:pay', 'svc:nap');
    await Service.start('l2', 'svc:pay');
    await waitUntil(async () => {
      const reply = await link
        .connect('asker')
        .request(subjects.broker('tools_list'), {}, { timeoutMs: 1_000 });
      const { value } = reply as Extract<Reply<ToolList>, { ok: true }>;
      const [nap, pay] = ['svc.nap', 'svc.pay'].map((name) =>
        value.tools.find(({ canonicalName }) => canonicalName === name),
      );
      if (pay?.providers !== 2) return false;
      expect(pay).toEqual({
        name: 'svc:pay',
        canonicalName: 'svc.pay',
        effect: 'unsafe',
        reconcilable: true,
        providers: 2,
      });
      expect(nap).toMatchObject({ timeoutMs: 200, reconcilable: false, providers: 1 });
      return true;
    }, 'both are counted');
  });

  it('may be this process, over a connection of its own', async () => {
    const handler = (args: unknown, { tenant }: ToolContext): unknown => ({ got: args, tenant });
    const tool = defineTool({ name: 'own:echo', effect: 'read', handler });
    const service = await provideTools({ servers: nats.url }, [tool], { namespace: 'test' });
    expect(service).toMatchObject({ running: 0, connected: true });
    const echo = 'return await callTool("own:echo", [1])';
    expect(valueIn(await run(echo))).toEqual({ got: [1] });
    // On whose behalf, it knows of sessions and of runs.
    expect(valueIn(await run(echo, { tenant: 'acme' }))).toEqual({ got: [1], tenant: 'acme' });
    expect(valueIn(await client.run(echo, { tenant: 'acme' }))).toEqual({ got: [1], tenant: 'acme' });
    await service.close();
    await service.close();
    await service.drain(0);
  });
});

describe('failures that a script can tell apart', () => {
  it.each<[string, string, string]>([
    ['nobody has it', 'callTool("no:such")', 'UnknownToolError'],
    ['it is no name', 'callTool("a b")', 'UnknownToolError'],
    ['it is not on the list', 'callTool("svc:read")', 'ToolNotAllowedError'],
    ['it takes too long', 'callTool("svc:nap")', 'ToolTimeoutError'],
  ])('%s: %s', async (_why, call, name) => {
    await Service.start('f1', 'svc:nap', 'svc:read');
    const tools = ['svc:nap', 'no:such', 'svc:who'];
    expect(valueIn(await run(caught(call), { tools }))).toEqual([name, expect.any(String)]);
  });

  it('all its providers are gone: it waits for one, and is found by the next', async () => {
    const gone = await Service.start('g1', 'svc:who');
    await gone.kill();
    const { execution } = await begin('return await callTool("svc:who")');
    await Service.start('g2', 'svc:who');
    expect(valueIn(await execution.result)).toBe('g2');
  });

  it('all its providers are gone and none comes: unavailable, and it did not run', async () => {
    const gone = await Service.start('g3', 'svc:send');
    await gone.kill();
    const result = await run(caught('callTool("svc:send")'));
    expect(valueIn(result)).toEqual(['ToolUnavailableError', expect.any(String)]);
    expect(result.toolCalls).toMatchObject([{ outcome: 'failed', code: 'TOOL_UNAVAILABLE' }]);
    expect(errorIn(await run('await callTool("svc:send")'))).toMatchObject({
      code: 'TOOL_UNAVAILABLE',
      outcome: 'completed',
    });
  });

  it('the execution was cancelled: its handler is told, and the call says so', async () => {
    const service = await Service.start('c1', 'svc:send');
    const { execution } = await begin('await callTool("svc:send")');
    await service.told('called');
    await execution.cancel();
    const result = await execution.result;
    expect(errorIn(result).code).toBe('CANCELLED');
    expect(result.toolCalls).toMatchObject([{ outcome: 'unknown', code: 'CANCELLED' }]);
    await service.told('aborted');
  });
});

describe('a provider that is killed while it runs a call', () => {
  it.each(['svc:read', 'svc:put'])('of %s: another one runs it again, with the same key', async (tool) => {
    const [one, other] = [await Service.start('k1', tool), await Service.start('k2', tool)];
    const { execution, first, second } = await callOne(`return await callTool("${tool}")`, one, other);
    await first.kill();
    second.say({ t: 'release', tool });
    const result = await execution.result;
    expect(valueIn(result)).toEqual({ by: second.id });
    expect(second.keys('called')).toEqual(first.keys('called'));
    expect(result.toolCalls).toMatchObject([{ outcome: 'completed' }]);
  });

  it('of an unsafe tool: nobody knows what it did, and it is not run again', async () => {
    const tool = 'svc:send';
    const [one, other] = [await Service.start('k3', tool), await Service.start('k4', tool)];
    const { execution, first, second } = await callOne(caught(`callTool("${tool}")`), one, other);
    await first.kill();
    const result = await execution.result;
    expect(valueIn(result)).toEqual(['OutcomeUnknownError', expect.any(String)]);
    expect(result.toolCalls).toMatchObject([{ outcome: 'unknown', code: 'OUTCOME_UNKNOWN' }]);
    expect(second.keys('called')).toEqual([]);
  });

  it.each([
    ['completed', { by: 'record of' }],
    ['not_started', { by: '' }],
    ['unknown', ['OutcomeUnknownError', expect.any(String)]],
  ] as const)('of a tool that can tell: another one is asked, and says %s', async (status, value) => {
    const tool = 'svc:pay';
    const [one, other] = [await Service.start('k5', tool), await Service.start('k6', tool)];
    for (const service of [one, other]) service.say({ t: 'answer', status });
    const { execution, first, second } = await callOne(caught(`callTool("${tool}")`), one, other);
    await first.kill();
    second.say({ t: 'release', tool });
    const end = valueIn(await execution.result);
    if (status === 'unknown') expect(end).toEqual(value);
    else expect(end).toEqual({ by: status === 'completed' ? `record of ${second.id}` : second.id });
    expect(second.keys('asked')).toEqual(first.keys('called'));
    expect(second.keys('called')).toEqual(status === 'not_started' ? first.keys('called') : []);
  });

  it('and was the only one: the call is run by the next that comes', async () => {
    const only = await Service.start('k7', 'svc:put');
    const { execution } = await begin('return await callTool("svc:put")');
    await only.told('called');
    await only.kill();
    const next = await Service.start('k8', 'svc:put');
    next.say({ t: 'release', tool: 'svc:put' });
    expect(valueIn(await execution.result)).toEqual({ by: 'k8' });
    expect(next.keys('called')).toEqual(only.keys('called'));
  });
});

describe('a provider that is paused while it runs a call', () => {
  it('for a moment goes on, and the call is not run again', async () => {
    const tool = 'svc:send';
    const [one, other] = [await Service.start('s1', tool), await Service.start('s2', tool)];
    const { execution, first, second } = await callOne(`return await callTool("${tool}")`, one, other);
    first.pause();
    first.say({ t: 'release', tool });
    await waitUntil(
      () => broker.tools.list({}).tools.some(({ name, providers }) => name === tool && providers === 1),
      'it is missed',
    );
    first.resume();
    expect(valueIn(await execution.result)).toEqual({ by: first.id });
    expect(second.keys('called')).toEqual([]);
  });

  it('for long has lost it: another one runs it, and what the first says later changes nothing', async () => {
    const tool = 'svc:put';
    const [one, other] = [await Service.start('s3', tool), await Service.start('s4', tool)];
    const code = `const first = await callTool("${tool}"); return [first, await callTool("svc:who")]`;
    const who = await Service.start('s5', 'svc:who');
    const { execution, first, second } = await callOne(code, one, other);
    const [key] = first.keys('called');
    first.pause();
    second.say({ t: 'release', tool });
    const result = await execution.result;
    expect(valueIn(result)).toEqual([{ by: second.id }, who.id]);
    expect(second.keys('called')).toEqual([key]);
    first.say({ t: 'release', tool });
    first.resume();
    await first.told('ended');
    // It told an end that nobody waits for: it is acknowledged, and the provider can leave without waiting.
    first.say({ t: 'drain', graceMs: 15_000 });
    await first.told('drained');
    expect(await execution.result).toEqual(result);
  });

  it('for long, unsafe: what it did is not known, and its end comes too late', async () => {
    const tool = 'svc:send';
    const [one, other] = [await Service.start('s6', tool), await Service.start('s7', tool)];
    const { execution, first, second } = await callOne(caught(`callTool("${tool}")`), one, other);
    first.pause();
    const result = await execution.result;
    expect(valueIn(result)).toEqual(['OutcomeUnknownError', expect.any(String)]);
    expect(second.keys('called')).toEqual([]);
    first.say({ t: 'release', tool });
    first.resume();
    await first.told('ended');
    expect(first.keys('called')).toHaveLength(1);
  });
});

describe('a provider that drains', () => {
  it('ends what it has and is given nothing new', async () => {
    const tool = 'svc:send';
    const [one, other] = [await Service.start('d1', tool), await Service.start('d2', tool)];
    const { execution, first, second } = await callOne(`return await callTool("${tool}")`, one, other);
    first.say({ t: 'drain', graceMs: 20_000 });
    await waitUntil(
      () => broker.tools.list({}).tools.some(({ name, providers }) => name === tool && providers === 1),
      'it says so',
    );
    second.say({ t: 'release', tool });
    const more = await run(`return await Promise.all(Array.from({ length: 20 }, () => callTool("${tool}")))`);
    expect(valueIn(more)).toEqual(Array.from({ length: 20 }, () => ({ by: second.id })));
    expect(first.running).toBe(true);
    first.say({ t: 'release', tool });
    expect(valueIn(await execution.result)).toEqual({ by: first.id });
    await first.told('drained');
    await waitUntil(() => !first.running, 'it ends by itself');
  });

  it('and does not get done within its grace loses what it has', async () => {
    const tool = 'svc:put';
    const [one, other] = [await Service.start('d3', tool), await Service.start('d4', tool)];
    const { execution, first, second } = await callOne(`return await callTool("${tool}")`, one, other);
    first.say({ t: 'drain', graceMs: 100 });
    await first.told('drained');
    expect(first.keys('aborted')).toEqual(first.keys('called'));
    second.say({ t: 'release', tool });
    expect(valueIn(await execution.result)).toEqual({ by: second.id });
    expect(second.keys('called')).toEqual(first.keys('called'));
  });
});

describe('provideTools', () => {
  const tool = defineTool({ name: 'a', handler: () => 1 });
  it.each<[string, () => unknown]>([
    ['tools', () => provideTools(nats.url, 'tools' as never)],
    ['tools[0]', () => provideTools(nats.url, [{} as never])],
    ['tools[1]', () => provideTools(nats.url, [tool, tool])],
    ['options.id', () => provideTools(nats.url, [tool], { id: 'a.b' })],
    ['options.namespace', () => provideTools(nats.url, [tool], { namespace: '*' })],
    ['options.drainMs', () => provideTools(nats.url, [tool], { drainMs: -1 })],
    ['options.grace', () => provideTools(nats.url, [tool], { grace: 1 } as never)],
  ])('refuses what is wrong, and names it: %s', async (key, provide) => {
    await expect(provide()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', key });
  });

  it('rejects as UNAVAILABLE where there is no server', async () => {
    await expect(provideTools('nats://127.0.0.1:9', [tool])).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });
});
