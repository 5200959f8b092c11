/** Limits of tenants at brokers, whose turn it is when there is room, and how many sessions all brokers have. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  createSystem,
  defineTool,
  EnclaveBroker,
  EnclaveClient,
  type ExecutionResult,
  type SessionRef,
  type System,
} from '../../src/index.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { closeAll, Gate, open, refusalOf, until } from '../support/systems.ts';

afterEach(closeAll);

let gate: Gate;
const hold = defineTool({ name: 'hold', effect: 'read', handler: () => gate.pass() });
const HOLD = 'await callTool("hold"); return input';

const errorOf = (result: ExecutionResult) => (result.success ? undefined : result.error);

describe('a limit of a tenant', () => {
  it('refuses an execution of a session and says which limit, where in line and when again', async () => {
    gate = new Gate();
    const system = await open({ tools: [hold], admission: { tenants: { acme: { maxConcurrent: 1 } } } });
    const session = await system.spawnSession({ tenant: 'acme', maxConcurrentExecutions: 4 });
    expect((await session.info()).tenant).toBe('acme');
    const first = session.execute(HOLD, { input: 1 });
    await first.accepted;
    const refused = await session.execute('return 2').result;
    expect(errorOf(refused)).toMatchObject({
      code: 'OVERLOADED',
      outcome: 'not_started',
      retryable: true,
      retryAfterMs: expect.any(Number),
      details: { tenant: 'acme', limit: 'concurrency', position: 1 },
    });
    // Another tenant has its own, and the same tenant has one, whatever the session.
    const other = await system.spawnSession({ tenant: 'other' });
    expect((await other.execute('return 3').result).success).toBe(true);
    const second = await system.spawnSession({ tenant: 'acme' });
    expect(errorOf(await second.execute('return 4').result)?.details).toMatchObject({ tenant: 'acme' });
    gate.open();
    expect(await first.result).toMatchObject({ success: true, value: 1 });
    expect((await session.execute('return 5').result).success).toBe(true);
  });

  it('does not count the same command again', async () => {
    gate = new Gate();
    const admission = { ratePerSecond: 0.001, burst: 2, maxConcurrent: 1 };
    const system = await open({ tools: [hold], admission });
    const session = await system.spawnSession();
    const options = { commandId: 'once', issuedAt: Date.now(), input: 7 };
    const sent = [session.execute(HOLD, options), session.execute(HOLD, options)];
    await Promise.all(sent.map(({ accepted }) => accepted));
    sent.push(session.execute(HOLD, options));
    await sent[2]?.accepted;
    gate.open();
    for (const { result } of sent) expect(await result).toMatchObject({ success: true, value: 7 });
    expect(await session.execute(HOLD, options).result).toMatchObject({ success: true, value: 7 });
    // Of two tokens one is left.
    expect((await session.execute('return 1').result).success).toBe(true);
    const refused = errorOf(await session.execute('return 2').result);
    expect(refused).toMatchObject({ code: 'OVERLOADED', details: { tenant: 'default', limit: 'rate' } });
    expect(refused?.retryAfterMs).toBe(60_000);
  });

  it('lets a stateless run come in when it may, because its client waits for as long as it was told', async () => {
    const system = await open({ admission: { tenants: { slow: { ratePerSecond: 5, burst: 1 } } } });
    const begun = performance.now();
    const results = await Promise.all([1, 2, 3].map((n) => system.run(`return ${n}`, { tenant: 'slow' })));
    expect(results.every(({ success }) => success)).toBe(true);
    // Two of them waited for a token each, at 200 ms apiece.
    expect(performance.now() - begun).toBeGreaterThanOrEqual(399);
  });
});

describe('room in runtimes', () => {
  it('goes to tenants in turn: one that comes late waits for one of the other, not for all', async () => {
    gate = new Gate();
    const order: string[] = [];
    const note = defineTool({
      name: 'note',
      effect: 'read',
      handler: (who) => void order.push(String(who)),
    });
    const pool = { poolSize: 1, maxConcurrentPerWorker: 1 };
    const system = await open({ tools: [hold, note], pool, heartbeatIntervalMs: 50 });
    const run = (tenant: string, n: number) =>
      system.run('await callTool("note", input); return 1', { tenant, input: `${tenant}${n}` });
    const first = system.run(HOLD, { tenant: 'flood' });
    await until(() => gate.waiting === 1, 'the only place is taken');
    const { broker } = system.parts.brokers[0] ?? expect.fail();
    const flood = Array.from({ length: 20 }, (_, n) => run('flood', n));
    await until(() => broker.waiting === 20, 'the flood waits');
    const quiet = run('quiet', 0);
    await until(() => broker.waiting === 21, 'the other one waits too');
    gate.open();
    await Promise.all([first, quiet, ...flood]);
    expect(order).toHaveLength(21);
    expect(order.indexOf('quiet0')).toBeLessThanOrEqual(1);
    expect(order.filter((who) => who !== 'quiet0')).toEqual(
      Array.from({ length: 20 }, (_, n) => `flood${n}`),
    );
  });

  it('is shared by weight', async () => {
    gate = new Gate();
    const order: string[] = [];
    const note = defineTool({ name: 'note', effect: 'read', handler: (who) => void order.push(String(who)) });
    const system = await open({
      tools: [hold, note],
      pool: { poolSize: 1, maxConcurrentPerWorker: 1 },
      admission: { tenants: { big: { weight: 3 } } },
      heartbeatIntervalMs: 50,
    });
    const first = system.run(HOLD);
    await until(() => gate.waiting === 1, 'the only place is taken');
    const { broker } = system.parts.brokers[0] ?? expect.fail();
    const all = ['big', 'small'].flatMap((tenant) =>
      Array.from({ length: 12 }, () =>
        system.run('await callTool("note", input); return 1', { tenant, input: tenant }),
      ),
    );
    await until(() => broker.waiting === 24, 'all of them wait');
    gate.open();
    await Promise.all([first, ...all]);
    expect(order.slice(0, 12).filter((who) => who === 'big')).toHaveLength(9);
  });

  it('has a bounded line before it', async () => {
    gate = new Gate();
    const system = await open({
      tools: [hold],
      pool: { poolSize: 1, maxConcurrentPerWorker: 1 },
      admission: { maxWaiting: 4 },
    });
    const session = await system.spawnSession({ tenant: 'a', maxConcurrentExecutions: 8 });
    const all = [session.execute(HOLD)];
    await until(() => gate.waiting === 1, 'the only place is taken');
    const { broker } = system.parts.brokers[0] ?? expect.fail();
    for (const count of [1, 2]) {
      all.push(session.execute(HOLD));
      await until(() => broker.waiting === count, 'it waits');
    }
    expect(errorOf(await session.execute(HOLD).result)).toMatchObject({
      code: 'OVERLOADED',
      details: { tenant: 'a', limit: 'queue', position: 1 },
    });
    const other = await system.spawnSession({ tenant: 'b' });
    all.push(other.execute(HOLD));
    await until(() => broker.waiting === 3, 'there was room for another tenant');
    gate.open();
    for (const { result } of all) expect((await result).success).toBe(true);
  });
});

describe('maxConcurrentSessions', () => {
  const made = (results: readonly PromiseSettledResult<SessionRef>[]) =>
    results.filter(({ status }) => status === 'fulfilled').length;

  async function holds(systems: readonly System[], most: number): Promise<SessionRef[]> {
    const asked = Array.from({ length: 6 * most }, (_, n) => {
      const system = systems[n % systems.length] ?? expect.fail();
      return system.spawnSession();
    });
    const results = await Promise.allSettled(asked);
    expect(made(results)).toBe(most);
    for (const result of results)
      if (result.status === 'rejected')
        expect(result.reason).toMatchObject({
          code: 'OVERLOADED',
          outcome: 'not_started',
          details: { retryAfterMs: 1_000 },
        });
    return results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  }

  it('holds for all brokers together, and what closes makes room', async () => {
    const system = await open({ brokers: 2, maxConcurrentSessions: 5 });
    const [session] = await holds([system], 5);
    await session?.close();
    await until(async () => {
      const next = await system.spawnSession().catch(() => undefined);
      return next !== undefined;
    }, 'there is room for one more');
    expect(await refusalOf(() => system.spawnSession())).toMatchObject({ code: 'OVERLOADED' });
  });

  it('counts none that hibernates, and wakes one for a client only if there is room', async () => {
    const system = await open({ maxConcurrentSessions: 1 });
    const one = await system.spawnSession();
    await one.hibernate();
    let other: SessionRef | undefined;
    await until(async () => {
      other = await system.spawnSession().catch(() => undefined);
      return other !== undefined;
    }, 'its place is free');
    expect(errorOf(await one.execute('return 1').result)).toMatchObject({
      code: 'OVERLOADED',
      outcome: 'not_started',
    });
    await other?.close();
    await until(
      async () => (await one.execute('return 2').result).success,
      'it wakes when the other one is closed',
    );
  });

  it('takes up what has work, whatever the count', async () => {
    const system = await open({ maxConcurrentSessions: 1, parkAfterMs: 100, hibernateAfterMs: 100 });
    const sleeper = await system.spawnSession();
    const execution = sleeper.execute('await sleep(3000); return "slept"');
    await until(async () => (await sleeper.info()).status === 'hibernated', 'it sleeps, put away');
    await until(async () => (await system.spawnSession().catch(() => undefined)) !== undefined, 'room');
    expect(await execution.result).toMatchObject({ success: true, value: 'slept' });
  });

  it('answers a creation that is repeated at the limit as the first time', async () => {
    const system = await open({ maxConcurrentSessions: 1 });
    await system.spawnSession({ id: 'same' });
    expect(await refusalOf(() => system.spawnSession({ id: 'same' }))).toMatchObject({
      code: 'ALREADY_EXISTS',
    });
    expect(await refusalOf(() => system.spawnSession({ id: 'new' }))).toMatchObject({ code: 'OVERLOADED' });
  });

  describe('over real servers', () => {
    let redis: RedisServer;
    let nats: NatsServer;
    beforeAll(async () => {
      [redis, nats] = await Promise.all([startRedis(), startNats()]);
    });
    afterAll(async () => {
      await Promise.all([redis.stop(), nats.stop()]);
    });

    it('holds for brokers of two processes, and the share of one that died is free again', async () => {
      const namespace = `admission-${process.pid}`;
      const servers = { nats: nats.url, redis: redis.url, namespace };
      const options = { ...servers, maxConcurrentSessions: 6, leaseTtlMs: 1_000, scanIntervalMs: 100 };
      const brokers = await Promise.all(
        ['b1', 'b2'].map(async (id) => {
          const broker = new EnclaveBroker({ ...options, id });
          return { broker, system: await broker.start() };
        }),
      );
      const client = new EnclaveClient({ serverUrl: nats.url, namespace, timeout: 20_000 });
      await client.connect();
      try {
        const results = await Promise.allSettled(
          Array.from({ length: 40 }, () => client.spawnSession({ durability: 'none' })),
        );
        expect(made(results)).toBe(6);
        const [first, second] = brokers;
        const lost = first?.system.parts.brokers[0]?.broker.sessions ?? 0;
        expect(lost + (second?.system.parts.brokers[0]?.broker.sessions ?? 0)).toBe(6);
        expect(lost).toBeGreaterThan(0);
        // It dies: nothing is told.
        first?.system.parts.brokers[0]?.broker.abandon();
        let again = 0;
        await until(async () => {
          const next = await client.spawnSession({ durability: 'none' }).catch(() => undefined);
          if (next !== undefined) again++;
          return again === lost;
        }, 'the share of the dead broker is free');
        expect(await refusalOf(() => client.spawnSession())).toMatchObject({ code: 'OVERLOADED' });
      } finally {
        await client.close();
        for (const { broker } of brokers) await broker.close();
      }
    });
  });
});

it('is refused where it makes no sense', async () => {
  expect(await refusalOf(() => createSystem({ admission: { burst: 2 } }))).toMatchObject({
    code: 'INVALID_ARGUMENT',
    key: 'options.admission.burst',
  });
  expect(await refusalOf(() => createSystem({ maxConcurrentSessions: 0 }))).toMatchObject({
    code: 'INVALID_ARGUMENT',
    key: 'options.maxConcurrentSessions',
  });
});
