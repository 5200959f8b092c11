/**
 * The store on Redis where a network, a disk and replicas come in: what the contract cannot ask of every backend.
 *
 * Servers are real. A write that was acknowledged is one whose promise was fulfilled.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { Redis } from 'ioredis';
import { afterEach, describe, expect, it } from 'vitest';
import { slotOf } from '../../src/store/redis/keys.ts';
import { RedisStore, type RedisStoreOptions, type StoreNotice } from '../../src/store/redis/store.ts';
import { type Commit, StoreError } from '../../src/store/store.ts';
import { MANY, range, takeOver, unique, Writer } from '../contract/store/kit.ts';
import { freePort, HOST, waitUntil } from '../support/processes.ts';
import { startProxy } from '../support/proxy.ts';
import { startRedis, startRedisCluster, startReplicatedRedis } from '../support/redis.ts';

const LONG_MS = 600_000;
/** Short, so that tests of silence are. */
const TIMEOUT_MS = 400;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).toReversed()) await clean();
});

/** Have it stopped after the test. */
function kept<T extends { stop(): Promise<void> }>(server: T): T {
  cleanups.push(() => server.stop());
  return server;
}

async function openStore(
  redis: RedisStoreOptions['redis'],
  options: Partial<RedisStoreOptions> = {},
): Promise<RedisStore> {
  const store = await RedisStore.open({
    redis,
    namespace: 'test',
    commandTimeoutMs: TIMEOUT_MS,
    ...options,
  });
  cleanups.push(() => store.close());
  return store;
}

/** A new session and who writes to it. */
async function writerOf(store: RedisStore, session: string = unique()): Promise<Writer> {
  const owner = unique();
  expect(await store.openIncarnation(owner, LONG_MS)).toBe(true);
  const hold = { session, owner, nonce: unique() };
  const creation = { ...hold, operation: unique(), snapshot: 'created', wakeAt: undefined };
  expect(await store.create(creation)).toMatchObject({ status: 'created' });
  return new Writer(store, { ...hold, epoch: 1 }, { version: 1, seq: 0, publishedSeq: 0 });
}

/** The code that a call is refused with, and how long that took. */
async function refusal(act: Promise<unknown>): Promise<{ code: string; ms: number }> {
  const begun = performance.now();
  const error = await act.then(
    (value) => expect.fail(`it was answered: ${JSON.stringify(value)}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof StoreError)) throw error;
  return { code: error.code, ms: performance.now() - begun };
}

/** Send a commit until it is answered, as an owner does. */
async function settle(store: RedisStore, commit: Commit): Promise<string> {
  let status = '';
  await waitUntil(async () => {
    status = (await store.commit(commit)).status;
    return true;
  }, 'the commit is answered');
  return status;
}

const connected = (store: RedisStore): Promise<void> =>
  waitUntil(() => store.connected, 'the store is connected');

describe('a Redis that is paused', () => {
  it('leaves writes UNKNOWN and reads UNAVAILABLE, in time, and the operation settles them', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const writer = await writerOf(store);
    const commit = writer.next({ events: ['1'] });
    redis.pause();
    const refused = await Promise.all([
      refusal(store.commit(commit)),
      refusal(store.renewIncarnation(writer.owner, LONG_MS)),
      refusal(store.load(writer.session)),
      refusal(store.readEvents(writer.session, 1, 10)),
    ]);
    expect(refused.map(({ code }) => code)).toEqual(['UNKNOWN', 'UNKNOWN', 'UNAVAILABLE', 'UNAVAILABLE']);
    // The bound is the time-out; the rest is for a machine under load.
    for (const { ms } of refused) expect(ms).toBeLessThan(TIMEOUT_MS + 1_000);
    // Whatever is asked for as long as it lasts is answered in time, too.
    for (const _ of range(3))
      expect((await refusal(store.commit(commit))).ms).toBeLessThan(TIMEOUT_MS + 1_000);
    redis.resume();
    expect(['committed', 'repeated']).toContain(await settle(store, commit));
    expect(await settle(store, commit)).toBe('repeated');
    expect(await store.readEvents(writer.session, 1, 10)).toMatchObject({ events: ['1'], seq: 1 });
  });

  it('is told by the status of the store, which comes back by itself', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const told: boolean[] = [];
    const end = store.onStatus((is) => told.push(is));
    await redis.kill();
    await waitUntil(() => !store.connected, 'the store has noticed');
    expect(await refusal(store.load('s'))).toMatchObject({ code: 'UNAVAILABLE' });
    await redis.restart();
    await connected(store);
    expect(told).toEqual([false, true]);
    end();
    await store.close();
    await store.close();
    expect(store.connected).toBe(false);
    expect(told).toEqual([false, true]);
  });
});

describe('a Redis that is killed', () => {
  it('has all that was acknowledged when it comes back', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const writers = await Promise.all(range(8).map(() => writerOf(store)));
    let killed = false;
    const inDoubt = await Promise.all(
      writers.map(async (writer) => {
        for (;;) {
          const commit = writer.next({ events: [`${writer.seq + 1}`], work: true });
          try {
            expect(await store.commit(commit)).toEqual({ status: 'committed', version: writer.version + 1 });
            writer.version++;
            writer.seq++;
          } catch {
            if (killed) return commit;
          }
          if (!killed && writer.seq >= 20) {
            killed = true;
            void redis.kill();
          }
        }
      }),
    );
    await waitUntil(() => !redis.running, 'it is gone');
    await redis.restart();
    for (const [at, writer] of writers.entries()) {
      const commit = inDoubt[at] as Commit;
      await waitUntil(async () => (await store.load(writer.session)) !== undefined, 'it can be read');
      expect((await store.load(writer.session))?.version).toBeGreaterThanOrEqual(writer.version);
      expect(['committed', 'repeated']).toContain(await settle(store, commit));
      const numbers = range(writer.seq + 1).map((n) => `${n + 1}`);
      expect((await store.readEvents(writer.session, 1, MANY))?.events).toEqual(numbers);
      expect(await store.workOf(writer.owner, MANY)).toEqual([writer.session]);
    }
  });

  it('fences an owner that comes back after a take-over', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const writer = await writerOf(store);
    await store.endIncarnation(writer.owner);
    await redis.kill();
    await redis.restart();
    await connected(store);
    const owner = unique();
    await waitUntil(() => store.openIncarnation(owner, LONG_MS), 'an incarnation is open');
    const next = await takeOver(store, writer.session, owner);
    await writer.refused(writer.next(), { status: 'fenced', epoch: 2 });
    await next.write();
  });
});

describe('a link that is cut', () => {
  it('after the commit was carried out leaves it UNKNOWN, and it is committed once', async () => {
    const redis = kept(await startRedis());
    const proxy = kept(await startProxy(redis.port));
    const store = await openStore(proxy.url('redis'), { commandTimeoutMs: 5_000 });
    const direct = await openStore(redis.url);
    const writer = await writerOf(store);
    // Redis knows the script by now: it takes one message.
    await writer.write();
    const commit = writer.next({ events: ['1'] });
    proxy.stall('fromTarget');
    const doubted = refusal(store.commit(commit));
    await waitUntil(async () => (await direct.load(writer.session))?.version === 3, 'it was carried out');
    proxy.cut();
    expect((await doubted).code).toBe('UNKNOWN');
    expect((await refusal(store.commit(commit))).code).toBe('UNAVAILABLE');
    proxy.resume();
    await proxy.restore();
    expect(await settle(store, commit)).toBe('repeated');
    expect(await direct.readEvents(writer.session, 1, 10)).toMatchObject({ events: ['1'], seq: 1 });
  });

  it('before the commit arrived leaves it UNKNOWN, and it is committed once', async () => {
    const redis = kept(await startRedis());
    const proxy = kept(await startProxy(redis.port));
    const store = await openStore(proxy.url('redis'), { commandTimeoutMs: 5_000 });
    const writer = await writerOf(store);
    const commit = writer.next({ events: ['1'] });
    proxy.stall('toTarget');
    const doubted = refusal(store.commit(commit));
    proxy.cut();
    expect((await doubted).code).toBe('UNKNOWN');
    proxy.resume();
    await proxy.restore();
    expect(await settle(store, commit)).toBe('committed');
    expect(await store.readEvents(writer.session, 1, 10)).toMatchObject({ events: ['1'], seq: 1 });
  });

  it('during an acquisition leaves it UNKNOWN, and the expected epoch settles it', async () => {
    const redis = kept(await startRedis());
    const proxy = kept(await startProxy(redis.port));
    const store = await openStore(proxy.url('redis'), { commandTimeoutMs: 5_000 });
    const writer = await writerOf(store);
    await writer.release();
    const owner = unique();
    await store.openIncarnation(owner, LONG_MS);
    const ask = { session: writer.session, owner, nonce: unique(), expectedEpoch: 1 };
    // What it reads is answered, and what it writes waits at the server.
    await redis.cli('CLIENT', 'PAUSE', '60000', 'WRITE');
    const doubted = refusal(store.acquire(ask));
    await waitUntil(
      async () => /blocked_clients:1\b/.test(await redis.cli('INFO', 'clients')),
      'the last step has arrived',
    );
    proxy.cut();
    expect((await doubted).code).toBe('UNKNOWN');
    await redis.cli('CLIENT', 'UNPAUSE');
    await proxy.restore();
    await connected(store);
    const again = await store.acquire(ask);
    if (again.status !== 'acquired') expect(again).toEqual({ status: 'moved', epoch: 2 });
    // Carried out once, whether or not it was heard of.
    expect(await store.load(writer.session)).toMatchObject({ owner, epoch: 2 });
    expect(await store.acquire(ask)).toEqual({ status: 'moved', epoch: 2 });
  });

  it('that holds all packets is replaced', async () => {
    const redis = kept(await startRedis());
    const proxy = kept(await startProxy(redis.port));
    const store = await openStore(proxy.url('redis'));
    const writer = await writerOf(store);
    proxy.stall();
    expect((await refusal(store.commit(writer.next()))).code).toBe('UNKNOWN');
    await waitUntil(() => !store.connected, 'the store has given the connection up');
    expect((await refusal(store.commit(writer.next()))).code).toBe('UNAVAILABLE');
    proxy.resume();
    await connected(store);
    await settle(store, writer.next());
  });
});

describe("ack 'replica'", () => {
  it('acknowledges nothing while the replica is paused, also what is repeated', async () => {
    const redis = kept(await startReplicatedRedis());
    const store = await openStore(redis.url, { ack: 'replica', commandTimeoutMs: 1_000 });
    const writer = await writerOf(store);
    await writer.write({ events: ['1'] });
    redis.pauseReplica();
    const commit = writer.next({ events: ['2'], work: true });
    for (const _ of range(3))
      expect(['UNKNOWN', 'UNAVAILABLE']).toContain((await refusal(store.commit(commit))).code);
    const plain = writer.next({ events: ['2'] });
    for (const _ of range(3)) expect((await refusal(store.commit(plain))).code).toBe('UNKNOWN');
    const creation = { session: unique(), operation: unique(), owner: writer.owner, nonce: unique() };
    const create = () => store.create({ ...creation, snapshot: '', wakeAt: undefined });
    for (const _ of range(2)) expect((await refusal(create())).code).toBe('UNKNOWN');
    // Over another connection, which has made none of these writes, it is no more certain.
    redis.proxy.cut();
    await waitUntil(() => !store.connected, 'the store has noticed');
    await redis.proxy.restore();
    await connected(store);
    expect((await refusal(store.commit(plain))).code).toBe('UNKNOWN');
    // It is there, and was not acknowledged: reading is no promise.
    expect(await store.load(writer.session)).toMatchObject({ version: 3 });
    await redis.resumeReplica();
    expect(await settle(store, plain)).toBe('repeated');
    expect(await create()).toMatchObject({ status: 'created' });
  });

  it('has all that was acknowledged after a fail-over under load, with replicas that had fallen behind', async () => {
    const redis = kept(await startReplicatedRedis({ replicas: 2 }));
    const store = await openStore(redis.url, { ack: 'replica', commandTimeoutMs: 2_000 });
    const { acknowledged, writers } = await loseTheMaster(redis, store, 500);
    for (const [at, writer] of writers.entries()) {
      const seen = await store.load(writer.session);
      expect(seen?.version).toBeGreaterThanOrEqual(acknowledged[at] ?? 0);
    }
    // And it goes on.
    for (const writer of writers) {
      const { version = 0, seq = 0 } = (await store.load(writer.session)) ?? {};
      expect(await settle(store, writer.next({ expectedVersion: version, firstSeq: seq + 1 }))).toBe(
        'committed',
      );
    }
  });
});

/** Commit in 16 sessions, have the replicas paused for the last part, kill the master and fail over. */
async function loseTheMaster(
  redis: Awaited<ReturnType<typeof startReplicatedRedis>>,
  store: RedisStore,
  pausedMs: number,
) {
  const writers = await Promise.all(range(16).map(() => writerOf(store)));
  let loaded = true;
  let total = 0;
  const load = writers.map(async (writer) => {
    while (loaded) {
      const reply = await store.commit(writer.next({ events: ['e'] })).catch(() => undefined);
      if (reply === undefined) return;
      writer.version++;
      writer.seq++;
      total++;
    }
  });
  await waitUntil(() => total > 2_000, 'there were commits');
  for (const index of redis.replicas.keys()) redis.pauseReplica(index);
  const until = performance.now() + pausedMs;
  await waitUntil(() => performance.now() > until, 'the pause has lasted');
  await redis.master.kill();
  loaded = false;
  await Promise.all(load);
  const acknowledged = writers.map(({ version }) => version);
  for (const replica of redis.replicas) replica.resume();
  await redis.failOver();
  await connected(store);
  return { writers, acknowledged, total };
}

describe('a Redis Cluster', () => {
  it('that loses a master goes on after its fail-over, with what was acknowledged by replicas', async () => {
    const cluster = kept(await startRedisCluster());
    const store = await openStore(
      { cluster: cluster.addresses },
      { ack: 'replica', commandTimeoutMs: 1_000 },
    );
    const writers = await Promise.all(range(12).map(() => writerOf(store)));
    for (const writer of writers) await writer.write({ events: ['1'], work: true });
    const session = writers[0]?.session ?? '';
    const master = await cluster.masterOf(`enclave:test:session:{${session}}`);
    await master.kill();
    const commits = writers.map((writer) => writer.next({ events: ['2'] }));
    const answers = await Promise.all(
      commits.map((commit) =>
        store.commit(commit).then(
          ({ status }) => status,
          (error: StoreError) => error.code,
        ),
      ),
    );
    for (const answer of answers) expect(['committed', 'UNKNOWN', 'UNAVAILABLE']).toContain(answer);
    expect(answers[0]).not.toBe('committed');
    // The replica is master now, and has none of its own until the old master is back.
    await cluster.waitForFailOver();
    await master.restart();
    for (const [at, commit] of commits.entries()) {
      expect(['committed', 'repeated']).toContain(await settle(store, commit));
      expect(await store.readEvents(writers[at]?.session ?? '', 1, 10)).toMatchObject({ events: ['1', '2'] });
    }
    // The last commits had no work, and the first ones' entries were found to be wrong.
    for (const { owner } of writers) expect(await store.workOf(owner, MANY)).toEqual([]);
  }, 60_000);

  it('lists every session after a fail-over, too', async () => {
    const cluster = kept(await startRedisCluster());
    const store = await openStore(
      { cluster: cluster.addresses },
      { ack: 'replica', commandTimeoutMs: 1_000 },
    );
    const writers = await Promise.all(range(30).map(() => writerOf(store)));
    const sessions = writers.map(({ session }) => session).toSorted();
    const listed = async (): Promise<readonly string[]> => {
      const found: string[] = [];
      for (let cursor = ''; ; ) {
        const page = await store.list(cursor, 4);
        found.push(...page.sessions);
        cursor = page.cursor;
        if (cursor === '') return [...new Set(found)].toSorted();
      }
    };
    expect(await listed()).toEqual(sessions);
    await cluster.killMaster();
    // Either all of them, or an error: never some of them.
    await waitUntil(async () => {
      const found = await listed();
      expect.soft(found).toEqual(sessions);
      return true;
    }, 'they are listed again');
  }, 60_000);

  it('that pauses a master answers in time and goes on after its fail-over', async () => {
    const cluster = kept(await startRedisCluster());
    const store = await openStore({ cluster: cluster.addresses }, { commandTimeoutMs: 1_000 });
    const writer = await writerOf(store);
    await writer.write({ events: ['1'] });
    const master = await cluster.masterOf(`enclave:test:session:{${writer.session}}`);
    master.pause();
    const commit = writer.next({ events: ['2'] });
    const first = await refusal(store.commit(commit));
    expect(first.code).toBe('UNKNOWN');
    expect(first.ms).toBeLessThan(3_000);
    expect(['committed', 'repeated']).toContain(await settle(store, commit));
    master.resume();
    expect(await store.readEvents(writer.session, 1, 10)).toMatchObject({ events: ['1', '2'] });
  }, 60_000);

  it('has the keys of a session in one slot, under the names of the guide', async () => {
    const cluster = kept(await startRedisCluster());
    const store = await openStore({ cluster: cluster.addresses }, { keyPrefix: '' });
    const writer = await writerOf(store, 'abc');
    await writer.write({ events: ['1'], journal: [{ execution: 'x1', entries: ['a'] }] });
    const keys = ['session:{abc}', 'session:{abc}:events', 'session:{abc}:tools', 'session:{abc}:tools:x1'];
    const [slot] = keys.map(slotOf);
    const node = await cluster.masterOf('session:{abc}');
    for (const key of keys) {
      expect(slotOf(key)).toBe(slot);
      expect(await node.cli('CLUSTER', 'KEYSLOT', key)).toBe(String(slot));
      expect(await node.cli('EXISTS', key)).toBe('1');
    }
    expect(await node.cli('TYPE', 'session:{abc}')).toBe('hash');
    expect(await node.cli('TYPE', 'session:{abc}:events')).toBe('stream');
    expect((await node.cli('XRANGE', 'session:{abc}:events', '-', '+')).split('\n')).toEqual([
      '1-0',
      'e',
      '1',
    ]);
    expect(await node.cli('HGET', 'session:{abc}', 'owner')).toBe(writer.owner);
  });

  it('whose slots move is followed', async () => {
    const cluster = kept(await startRedisCluster());
    const store = await openStore({ cluster: cluster.addresses }, { keyPrefix: '' });
    const writer = await writerOf(store, 'moving');
    await writer.write({ events: ['1'], journal: [{ execution: 'x1', entries: ['a'] }] });
    const slot = String(slotOf('session:{moving}'));
    const from = await cluster.masterOf('session:{moving}');
    const masters = await cluster.masters();
    const to = masters.find((node) => node !== from) ?? from;
    const [fromId, toId] = await Promise.all([from.cli('CLUSTER', 'MYID'), to.cli('CLUSTER', 'MYID')]);
    await to.cli('CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId);
    await from.cli('CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId);
    for (const key of (await from.cli('CLUSTER', 'GETKEYSINSLOT', slot, '100')).split('\n'))
      await from.cli('MIGRATE', to.host, String(to.port), key, '0', '5000');
    // ASK: the slot is still the first one's, and its keys are at the second.
    await writer.write({ events: ['2'] });
    expect(await store.load('moving')).toMatchObject({ seq: 2 });
    // A key that is not there might still be on its way.
    const early = writer.next({ journal: [{ execution: 'x2', entries: ['a'] }] });
    expect((await refusal(store.commit(early))).code).toBe('UNAVAILABLE');
    for (const node of [to, from, ...masters.filter((each) => each !== to && each !== from)])
      await node.cli('CLUSTER', 'SETSLOT', slot, 'NODE', toId);
    // MOVED.
    await writer.write({ events: ['3'] });
    expect(await store.readEvents('moving', 1, 10)).toMatchObject({ events: ['1', '2', '3'] });
  });
});

describe('the scripts', () => {
  it('are sent again when Redis has forgotten them', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const writer = await writerOf(store);
    for (const _ of range(3)) {
      await redis.cli('SCRIPT', 'FLUSH');
      await writer.write({ events: ['e'], work: true });
    }
    expect(await store.readEvents(writer.session, 1, 10)).toMatchObject({ seq: 3 });
  });

  it('change nothing when Redis has no memory left, which is certain', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const writer = await writerOf(store);
    await redis.cli('CONFIG', 'SET', 'maxmemory', '1');
    const commit = writer.next({ events: ['1'], journal: [{ execution: 'x1', entries: ['a'] }] });
    expect((await refusal(store.commit(commit))).code).toBe('UNAVAILABLE');
    expect(await store.load(writer.session)).toMatchObject({ version: 1, seq: 0 });
    await redis.cli('CONFIG', 'SET', 'maxmemory', '0');
    expect(await store.commit(commit)).toMatchObject({ status: 'committed' });
  });
});

describe('the indexes', () => {
  it('lose nothing to a cleaner that works at the same time', async () => {
    const cluster = kept(await startRedisCluster());
    const store = await openStore({ cluster: cluster.addresses });
    const cleaner = await openStore({ cluster: cluster.addresses });
    const writers = await Promise.all(range(6).map(() => writerOf(store)));
    let writing = true;
    const cleaning = (async () => {
      while (writing) for (const { session } of writers) await cleaner.cleanIndexes(session);
    })();
    try {
      await Promise.all(
        writers.map(async (writer) => {
          for (const n of range(40)) {
            await writer.write({ work: n % 2 === 0, wakeAt: n % 3 === 0 ? undefined : 1_000 + n });
            expect((await cleaner.workOf(writer.owner, MANY)).includes(writer.session)).toBe(n % 2 === 0);
            expect((await cleaner.dueWakes(5_000, MANY)).includes(writer.session)).toBe(n % 3 !== 0);
          }
        }),
      );
    } finally {
      writing = false;
      await cleaning;
    }
  });

  it('need no write of their own for an ordinary commit', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url);
    const writer = await writerOf(store);
    const commit = (n: number) => writer.write({ work: n % 2 === 0, wakeAt: 1_000_000 + n });
    /** How often each command ran, those within scripts included. */
    const counts = async (): Promise<ReadonlyMap<string, number>> =>
      new Map(
        [...(await redis.cli('INFO', 'commandstats')).matchAll(/^cmdstat_(\S+?):calls=(\d+)/gm)].map(
          ([, name = '', calls]) => [name, Number(calls)],
        ),
      );
    for (const n of range(4)) await commit(n);
    const before = await counts();
    for (const n of range(20)) await commit(n + 4);
    const after = await counts();
    const ran = Object.fromEntries(
      [...after].map(([name, calls]) => [name, calls - (before.get(name) ?? 0)]).filter(([, calls]) => calls),
    );
    // A commit is one script, which reads the head of the record and writes its fields; the rest is our own looking.
    expect(ran).toEqual({ evalsha: 20, hmget: 20, hset: 20, info: 1 });
  });

  it('show what an idle owner left behind to nobody, however much it is', async () => {
    const redis = kept(await startRedis());
    const store = await openStore(redis.url, { commandTimeoutMs: 10_000 });
    const owner = unique();
    await store.openIncarnation(owner, LONG_MS);
    const busy: string[] = [];
    for (const n of range(600)) {
      const hold = { session: unique(), owner, nonce: unique() };
      await store.create({ ...hold, operation: 'c', snapshot: '', wakeAt: undefined });
      const writer = new Writer(store, { ...hold, epoch: 1 }, { version: 1, seq: 0, publishedSeq: 0 });
      await writer.write({ work: true });
      if (n % 100 === 99) busy.push(hold.session);
      else await writer.write({ work: false });
    }
    await store.endIncarnation(owner);
    expect((await store.workOf(owner, 100)).toSorted()).toEqual(busy.toSorted());
    expect(Number(await redis.cli('ZCARD', `enclave:test:work:{work}:${owner}`))).toBe(busy.length);
  });
});

describe('what a store is opened with', () => {
  it('may be a client of the user\u2019s own, which is left as it is', async () => {
    const redis = kept(await startRedis({ password: 'secret' }));
    const client = new Redis(redis.url, { keyPrefix: 'app:', maxRetriesPerRequest: 3 });
    cleanups.push(() => client.disconnect());
    const store = await openStore(client);
    const writer = await writerOf(store);
    await writer.write();
    expect(await redis.cli('EXISTS', `app:enclave:test:session:{${writer.session}}`)).toBe('1');
    await store.close();
    expect(await client.ping()).toBe('PONG');
    expect(client.options).toMatchObject({
      keyPrefix: 'app:',
      maxRetriesPerRequest: 3,
      enableOfflineQueue: true,
    });
  });

  it('may be a Cluster client of the user\u2019s own, or options as in the guide', async () => {
    const cluster = kept(await startRedisCluster());
    const client = new Redis.Cluster([...cluster.addresses], { scaleReads: 'slave' });
    cleanups.push(() => client.disconnect());
    const [one, other] = [
      await openStore(client),
      await openStore({
        cluster: cluster.addresses.slice(0, 1),
        scaleReads: 'slave',
        redisOptions: { enableReadyCheck: true },
        maxRetriesPerRequest: 3,
        lazyConnect: true,
      }),
    ];
    const writer = await writerOf(one);
    await writer.write({ snapshot: 'seen' });
    expect(await other.load(writer.session)).toMatchObject({ snapshot: 'seen' });
    expect(await client.get('nothing')).toBeNull();
  });

  it('may be options as in the guide', async () => {
    const redis = kept(await startRedis({ password: 'secret' }));
    const { host, port } = redis;
    const store = await openStore({
      host,
      port,
      password: 'secret',
      maxRetriesPerRequest: 3,
      enableReadyCheck: true,
      lazyConnect: true,
    });
    await writerOf(store);
    expect(store.connected).toBe(true);
  });

  it.each([
    [undefined],
    [null],
    [7],
    [[]],
    ['localhost:6379'],
    [{ connect: () => undefined }],
    [{ cluster: [] }],
  ])('is refused if it is %j', async (redis) => {
    const opening = RedisStore.open({ redis: redis as unknown as string, namespace: 'test' });
    await expect(opening).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: expect.stringMatching(/^redis/),
    });
  });

  it.each([
    ['ack', { ack: 'both' as 'master' }],
    ['keyPrefix', { keyPrefix: '{a}' }],
    ['maxEvents', { maxEvents: 0 }],
    ['commandTimeoutMs', { commandTimeoutMs: Number.NaN }],
    ['namespace', { namespace: 'a b' }],
  ])('names %s if that is wrong', async (key, options) => {
    const opening = RedisStore.open({ redis: 'redis://localhost:1', namespace: 'test', ...options });
    await expect(opening).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', key });
  });

  it('keeps namespaces apart', async () => {
    const redis = kept(await startRedis());
    const [one, other] = [await openStore(redis.url), await openStore(redis.url, { namespace: 'other' })];
    const writer = await writerOf(one);
    await writer.write({ work: true, wakeAt: 1 });
    await one.endIncarnation(writer.owner);
    expect(await other.load(writer.session)).toBeUndefined();
    expect(await other.deadIncarnations(MANY)).toEqual([]);
    expect(await other.dueWakes(5, MANY)).toEqual([]);
    expect(await other.list('', 10)).toEqual({ sessions: [], cursor: '' });
    expect(await other.openIncarnation(writer.owner, LONG_MS)).toBe(true);
    expect(await one.deadIncarnations(MANY)).toEqual([writer.owner]);
  });
});

describe('a server that will not do', () => {
  /** Everything that an error shows, also when it is printed with all that hangs on it. */
  const shown = (error: unknown): string =>
    JSON.stringify(error, (_, value: unknown) =>
      value instanceof Error
        ? { ...value, message: value.message, stack: value.stack, cause: value.cause }
        : value,
    );

  it('because of wrong credentials is named, and the password is not', async () => {
    const redis = kept(await startRedis({ password: 'right' }));
    for (const wrong of [
      { host: redis.host, port: redis.port, password: 'hunter2' },
      `redis://:hunter2@${HOST}:${redis.port}`,
      { host: redis.host, port: redis.port },
    ]) {
      const error = await RedisStore.open({ redis: wrong, namespace: 'test' }).catch(
        (reason: unknown) => reason,
      );
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', key: 'redis' });
      expect(shown(error)).toMatch(/WRONGPASS|NOAUTH/);
      expect(shown(error)).not.toContain('hunter2');
    }
  });

  it('because it is too old is named with its version', async () => {
    const port = await freePort();
    const old = await oldRedis(port);
    cleanups.push(() => old.close());
    const error = await RedisStore.open({ redis: `redis://${HOST}:${port}`, namespace: 'test' }).catch(
      (reason: unknown) => reason,
    );
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', key: 'redis' });
    expect(shown(error)).toContain('Redis 6.2.14');
  });

  it('because it is not there is named in time', async () => {
    const port = await freePort();
    const options = { namespace: 'test', openTimeoutMs: 300 };
    const error = await RedisStore.open({ redis: `redis://:hunter2@${HOST}:${port}`, ...options }).catch(
      (reason: unknown) => reason,
    );
    expect(error).toMatchObject({ code: 'UNAVAILABLE', retryable: true });
    expect(shown(error)).toContain('ECONNREFUSED');
    expect(shown(error)).not.toContain('hunter2');
  });

  it('because it is part of a Cluster is named', async () => {
    const redis = kept(
      await startRedis({ args: ['--cluster-enabled', 'yes', '--cluster-port', `${await freePort()}`] }),
    );
    await expect(openStore(redis.url)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('Cluster'),
    });
  });

  it('is told of by notices if only its settings put data at risk', async () => {
    const careless = kept(
      await startRedis({
        appendonly: false,
        args: ['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru'],
      }),
    );
    const careful = kept(await startRedis({ args: ['--rename-command', 'CONFIG', ''] }));
    const noticesOf = async (url: string, ack: 'master' | 'replica') => {
      const notices: StoreNotice[] = [];
      await openStore(url, { ack, onNotice: (notice) => notices.push(notice) });
      expect(notices.every(({ type, message }) => type === 'store.warning' && message.length > 20)).toBe(
        true,
      );
      return notices.map(({ about }) => about);
    };
    expect(await noticesOf(careless.url, 'replica')).toEqual(['appendonly', 'maxmemory-policy', 'replicas']);
    expect(await noticesOf(careful.url, 'master')).toEqual(['settings']);
    const replicated = kept(await startReplicatedRedis());
    expect(await noticesOf(replicated.url, 'replica')).toEqual([]);
  });
});

/** Enough of a Redis 6 to be recognised: it knows INFO. */
function oldRedis(port: number): Promise<Server> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      // One answer for each command, and each begins with the number of its parts.
      for (const command of data.toString().split(/(?=\*\d+\r\n)/)) {
        const info = '# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n';
        if (/\binfo\b/i.test(command)) socket.write(`$${info.length}\r\n${info}\r\n`);
        else socket.write("-ERR unknown command 'HELLO'\r\n");
      }
    });
  });
  const close = server.close.bind(server);
  server.close = (done) => {
    for (const socket of sockets) socket.destroy();
    return close(done);
  };
  return new Promise((resolve) => server.listen({ port, host: HOST }, () => resolve(server)));
}
