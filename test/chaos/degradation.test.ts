/** What goes on, and what is refused, while Redis or NATS is away; and that both come back without a restart. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { EnclaveClient, EnclaveError, type ExecutionEvent } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import type { RedisServer } from '../support/redis.ts';
import { ChaosCluster } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { Load } from './load.ts';

let cluster: ChaosCluster;
let redis: RedisServer;
let before: readonly number[];

beforeAll(async () => {
  cluster = await ChaosCluster.start();
  if (cluster.redis.kind !== 'standalone') throw new TypeError('it is not alone');
  redis = cluster.redis.server;
  before = pids();
}, 60_000);
afterAll(() => cluster.stop());

const pids = (): readonly number[] => [...cluster.brokers, ...cluster.runtimes].map(({ pod }) => pod.pid);

async function holds(what: string, load: Load): Promise<void> {
  const executed = await load.stop();
  expect(pids()).toEqual(before);
  console.log(what, await checkInvariants(cluster, executed, IN_DOUBT));
}

/** What the readiness endpoints of all brokers say. */
async function brokersSay(checks: Readonly<Record<string, boolean>>): Promise<boolean> {
  const answers = await Promise.all(cluster.brokers.map(({ pod }) => pod.get('/readyz')));
  return answers.every(({ status, text }) => {
    const told = (JSON.parse(text) as { readonly checks: Readonly<Record<string, boolean>> }).checks;
    const ready = Object.values(told).every((well) => well);
    return (
      status === (ready ? 200 : 503) && Object.entries(checks).every(([name, well]) => told[name] === well)
    );
  });
}

const allWell = (): Promise<boolean> => brokersSay({ bus: true, store: true, lease: true });

/** The error of a promise, and how long it took, in ms. */
async function refusal(promise: Promise<unknown>): Promise<{ error: EnclaveError; tookMs: number }> {
  const from = performance.now();
  const error = await promise.then(
    () => new Error('it was not refused'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof EnclaveError)) throw error;
  return { error, tookMs: performance.now() - from };
}

/** What a client with little patience waits at most, in ms, and what a loaded machine adds. */
const TIMEOUT_MS = 1_500;
const SLACK_MS = 2_500;

let load: Load;
beforeEach(async () => {
  await waitUntil(allWell, 'every broker is ready');
  load = await Load.start(cluster, { sessions: 6 });
  await waitUntil(() => load.count > 20, 'the load runs');
}, 60_000);
// A test that failed leaves nothing broken for the next one, and no load that waits for what never comes back.
afterEach(async () => {
  if (!redis.running) await redis.restart();
  if (!cluster.nats.running) await cluster.restartNats();
  for (const pod of cluster.brokers) pod.heal();
  await load.stop();
}, 60_000);

describe('without Redis', () => {
  it('durable work is refused in time as UNAVAILABLE, stateless runs go on, and everything comes back', async () => {
    const impatient = cluster.connect({ timeout: TIMEOUT_MS });
    const session = await impatient.spawnSession();
    for (const pod of cluster.brokers) pod.harm();
    await redis.kill();

    // At once: owners still hold their leases, so that nobody knows whether they can commit it.
    const early = session.execute('return 1', { commandId: 'early' });
    expect(await early.result).toMatchObject({ success: false, error: { code: 'UNAVAILABLE' } });

    await waitUntil(() => brokersSay({ bus: true, store: false, lease: false }), 'every lease is given up');
    const from = performance.now();
    const late = await session.execute('return 1', { commandId: 'late' }).result;
    expect(performance.now() - from).toBeLessThan(TIMEOUT_MS + SLACK_MS);
    expect(late).toMatchObject({
      success: false,
      error: { code: 'UNAVAILABLE', outcome: 'not_started', retryable: true },
    });
    const { error, tookMs } = await refusal(impatient.spawnSession());
    // A broker that had asked Redis cannot say whether it is there: another one might be a second one.
    expect(error).toMatchObject({ code: 'UNAVAILABLE', retryable: error.outcome !== 'unknown' });
    expect(tookMs).toBeLessThan(TIMEOUT_MS + SLACK_MS);

    const script = "return (await callTool('ledger:look', { n: 3 })).seen";
    const runs = await Promise.all(Array.from({ length: 20 }, () => cluster.client.run(script)));
    for (const run of runs) expect(run).toMatchObject({ success: true, value: 3 });

    await redis.restart();
    for (const pod of cluster.brokers) pod.heal();
    await waitUntil(allWell, 'every broker is ready again');
    // Sent again under the same ids: whatever became of the first sending, it runs once.
    const again = ['early', 'late'].map((commandId) => session.execute('return 1', { commandId }).result);
    for (const result of await Promise.all(again))
      expect(result, JSON.stringify(result)).toMatchObject({ success: true, value: 1 });
    await waitUntil(load.everyoneGoesOn(), 'every session goes on');
    await holds('Redis away under load', load);
  }, 60_000);
});

describe('without NATS', () => {
  it('leases are given up, a client with a fallback runs scripts itself, and everything comes back', async () => {
    const local = cluster.connect({ fallback: 'local', timeout: TIMEOUT_MS });
    const impatient = cluster.connect({ timeout: TIMEOUT_MS });
    await Promise.all([local.connect(), impatient.connect()]);
    const session = await impatient.spawnSession();
    await cluster.killNats();
    await waitUntil(() => brokersSay({ bus: false, lease: false }), 'every lease is given up');
    // They have Redis, and nobody can reach them.
    expect(await brokersSay({ store: true })).toBe(true);

    expect(await local.run('return 6 * input', { input: 7 })).toMatchObject({ success: true, value: 42 });
    expect(await impatient.run('return 1')).toMatchObject({
      success: false,
      error: { code: 'UNAVAILABLE', outcome: 'not_started', retryable: true },
    });
    const from = performance.now();
    expect(await session.execute('return 1', { commandId: 'away' }).result).toMatchObject({
      success: false,
      error: { code: 'UNAVAILABLE', outcome: 'not_started', retryable: true },
    });
    expect(performance.now() - from).toBeLessThan(TIMEOUT_MS + SLACK_MS);
    // Sessions are never run locally.
    expect((await refusal(local.spawnSession())).error).toMatchObject({
      code: 'UNAVAILABLE',
      retryable: true,
    });

    await cluster.restartNats();
    await waitUntil(allWell, 'every broker is ready again');
    await waitUntil(() => local.connected, 'the client is connected again');
    // The tools are the cluster's: it is the cluster that runs it.
    const script = "return (await callTool('ledger:look', { n: 3 })).seen";
    await waitUntil(async () => (await local.run(script)).success, 'runs are made in the cluster again');
    expect(await session.execute('return 1', { commandId: 'away' }).result).toMatchObject({ success: true });
    await waitUntil(load.everyoneGoesOn(), 'every session goes on');
    await holds('NATS away under load', load);
  }, 60_000);

  it('a stream of events goes on where it was, without a gap', async () => {
    const [session] = load.sessions;
    if (session === undefined) throw new TypeError('there is a session');
    const reader = cluster.connect();
    await reader.connect();
    const seen: ExecutionEvent[] = [];
    const stop = new AbortController();
    const reading = (async () => {
      const events = reader.session(session.id).events({ fromSeq: 1, signal: stop.signal });
      for await (const event of events) seen.push(event);
    })();
    await waitUntil(() => seen.length > 20, 'the stream runs');
    for (let round = 0; round < 2; round++) {
      await cluster.killNats();
      await waitUntil(() => !reader.connected, 'the connection is lost');
      await cluster.restartNats();
      await waitUntil(load.everyoneGoesOn(), 'every session goes on');
    }
    const executed = await load.stop();
    const last = executed.filter((one) => one.session === session.id).at(-1);
    await waitUntil(
      () => seen.some(({ type, executionId }) => type === 'final' && executionId === last?.execution),
      'the stream has caught up',
    );
    stop.abort();
    await reading;
    expect(seen.map(({ seq }) => seq)).toEqual(seen.map((_, index) => index + 1));
    await holds('NATS restarted under a stream', load);
  }, 60_000);

  it('a client gives up after as many attempts as it was told, not before, and begins anew when it is used again', async () => {
    const attempts = { maxAttempts: 4, initialDelayMs: 100, maxDelayMs: 60_000 };
    const never = cluster.connect({ reconnection: { enabled: false }, timeout: TIMEOUT_MS });
    const quick = cluster.connect({ reconnection: { ...attempts, backoffMultiplier: 1 } });
    const slow = cluster.connect({ reconnection: { ...attempts, backoffMultiplier: 4 } });
    const lasting = cluster.connect();
    const local = cluster.connect({ reconnection: { enabled: false }, fallback: 'local' });
    const givingUp = [never, quick, slow];
    await Promise.all([...givingUp, lasting, local].map((client) => client.connect()));
    const session = await never.spawnSession();
    const told: string[] = [];
    slow.onStatus(({ type }) => void told.push(type));
    // Each of these waits when the connection is lost, and is not waited for by hand.
    const script = "await callTool('ledger:look', { n: 1 }); await sleep(60_000)";
    const running = await Promise.all(
      givingUp.map(async (client) => {
        const execution = (await client.spawnSession()).execute(script);
        await execution.accepted;
        return execution;
      }),
    );
    const run = slow.run(script);
    const early = session.execute('return 7', { commandId: 'early' });
    expect(await early.result).toMatchObject({ success: true, value: 7 });
    let lastSeq = 0;
    const stream = (async () => {
      for await (const { seq } of slow.session(session.id).events({ fromSeq: 1 })) lastSeq = seq;
    })();
    const { seq } = await session.info();
    await waitUntil(() => lastSeq === seq, 'the stream has caught up');
    await waitUntil(async () => (await slow.tools()).length > 0, 'it is in use');

    // Listened for before the server is killed: a client may give up at once.
    const gone = [...givingUp, lasting].map((client) => gaveUp(client));
    const killedAt = performance.now();
    await cluster.killNats();
    const [neverMs, quickMs, slowMs] = (await Promise.all(gone.slice(0, 3))).map((at) => at - killedAt);
    console.log(`clients gave up after ${neverMs}, ${quickMs} and ${slowMs} ms`);
    // Half of a pause is left to chance: these are the shortest that the pauses before the attempts can be together.
    expect(quickMs).toBeGreaterThanOrEqual(3 * 50);
    expect(slowMs).toBeGreaterThanOrEqual(50 + 50 + 200 + 800 - 50);
    expect(told.at(-1)).toBe('givenUp');

    for (const { result } of running)
      expect(await result).toMatchObject({
        success: false,
        error: { code: 'UNAVAILABLE', outcome: 'unknown', retryable: false },
      });
    expect(await run).toMatchObject({ success: false, error: { code: 'UNAVAILABLE', outcome: 'unknown' } });
    expect(await refusal(stream)).toMatchObject({
      error: { code: 'UNAVAILABLE', details: { fromSeq: seq + 1 } },
    });

    for (const client of givingUp) {
      expect((await refusal(client.spawnSession())).error).toMatchObject({
        code: 'UNAVAILABLE',
        outcome: 'not_started',
        retryable: true,
      });
      expect(await client.run('return 1')).toMatchObject({
        success: false,
        error: { code: 'UNAVAILABLE', outcome: 'not_started', retryable: true },
      });
    }
    const refused = await session.execute('return 1', { commandId: 'away' }).result;
    expect(refused).toMatchObject({ success: false, error: { code: 'UNAVAILABLE', outcome: 'not_started' } });
    expect(await local.run('return 1')).toMatchObject({ success: true, value: 1 });
    // Nobody could tell it at its first attempt.
    const unborn = new EnclaveClient({ serverUrl: cluster.nats.url });
    expect((await refusal(unborn.connect())).error).toMatchObject({ code: 'UNAVAILABLE', retryable: true });

    await cluster.restartNats();
    await waitUntil(allWell, 'every broker is ready again');
    for (const client of [...givingUp, lasting, unborn])
      expect(await client.run('return 1')).toMatchObject({ success: true, value: 1 });
    // What was made over the first connection goes by the second one: results too.
    const late = session.execute('return 1', { commandId: 'away' });
    expect(await late.result).toMatchObject({ success: true, value: 1 });
    expect(told.at(-1)).toBe('connected');
    await quick.close();
    expect((await refusal(quick.spawnSession())).error).toMatchObject({ code: 'CLOSED' });

    // The next outage has attempts of its own.
    const again = gaveUp(slow);
    const restartedAt = performance.now();
    await cluster.killNats();
    expect((await again) - restartedAt).toBeGreaterThanOrEqual(50 + 50 + 200 + 800 - 50);
    await cluster.restartNats();
    await waitUntil(allWell, 'every broker is ready again');
    await waitUntil(() => lasting.connected, 'who never gives up is connected again');
    await unborn.close();
    await waitUntil(load.everyoneGoesOn(), 'every session goes on');
    await holds('clients that give up', load);
  }, 90_000);
});

/** When a client gives its connection up, by `performance.now()`. */
function gaveUp(client: EnclaveClient): Promise<number> {
  return new Promise((resolve) => {
    const stop = client.onStatus(({ type }) => {
      if (type !== 'givenUp') return;
      stop();
      resolve(performance.now());
    });
  });
}
