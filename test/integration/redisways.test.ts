/** Other ways to Redis than the url of one server: over TLS, and by way of a Sentinel. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { redisOf } from '../../src/commands/values.ts';
import { RedisStore, type RedisStoreOptions } from '../../src/store/redis/store.ts';
import { unique } from '../contract/store/kit.ts';
import { Certificates } from '../support/certificates.ts';
import {
  freePort,
  HOST,
  removeDirectory,
  type Server,
  stopAll,
  temporaryDirectory,
  waitUntil,
} from '../support/processes.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { startSentinel } from '../support/sentinel.ts';
import { refusalOf } from '../support/systems.ts';

const LONG_MS = 600_000;

const stores: RedisStore[] = [];
afterEach(async () => {
  await Promise.all(stores.splice(0).map((store) => store.close()));
});
afterAll(stopAll);

async function openStore(redis: RedisStoreOptions['redis']): Promise<RedisStore> {
  const store = await RedisStore.open({
    redis,
    namespace: 'test',
    commandTimeoutMs: 500,
    openTimeoutMs: 2_000,
  });
  stores.push(store);
  return store;
}

/** A session that is acknowledged. */
async function createIn(store: RedisStore): Promise<string> {
  const [session, owner] = [unique(), unique()];
  expect(await store.openIncarnation(owner, LONG_MS)).toBe(true);
  const creation = { session, owner, nonce: unique(), operation: unique(), snapshot: 's', wakeAt: undefined };
  expect(await store.create(creation)).toMatchObject({ status: 'created' });
  return session;
}

describe('a Redis that speaks TLS', () => {
  const directory = temporaryDirectory();
  const certificates = new Certificates(directory);
  const text = (name: string): string => certificates.text(name);
  let port: number;
  beforeAll(async () => {
    port = await freePort();
    const [cert, key, ca] = ['server.pem', 'server.key', 'ca.pem'].map((name) => certificates.file(name));
    const files = ['--tls-cert-file', `${cert}`, '--tls-key-file', `${key}`, '--tls-ca-cert-file', `${ca}`];
    await startRedis({ args: ['--tls-port', `${port}`, ...files] });
  });
  afterAll(() => removeDirectory(directory));

  it('is asked by options of ioredis', async () => {
    const tls = { ca: text('ca.pem'), cert: text('client.pem'), key: text('client.key') };
    const store = await openStore({ host: HOST, port, tls });
    const session = await createIn(store);
    expect(await store.load(session)).toMatchObject({ snapshot: 's' });
  });

  it.each([
    [
      'shows no certificate that we trust',
      'self-signed',
      () => ({ cert: text('client.pem'), key: text('client.key') }),
    ],
    ['wants one of us', 'certificate required', () => ({ ca: text('ca.pem') })],
  ])('is not used if it %s, and the error says so', async (_, why, tlsOf) => {
    const refused = await refusalOf(() => openStore({ host: HOST, port, tls: tlsOf() }));
    expect(refused).toMatchObject({ code: 'UNAVAILABLE', message: expect.stringContaining(why) });
  });
});

describe('a master that a Sentinel knows', () => {
  let master: RedisServer;
  let replica: RedisServer;
  let sentinel: Server;

  const isReplicaOf = async (one: RedisServer, other: RedisServer): Promise<boolean> => {
    const state = await one.cli('INFO', 'replication');
    return state.includes('master_link_status:up') && state.includes(`master_port:${other.port}\r`);
  };
  const isMaster = async (one: RedisServer): Promise<boolean> =>
    (await one.cli('INFO', 'replication')).includes('role:master');

  beforeAll(async () => {
    const args = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1'];
    [master, replica] = await Promise.all([startRedis({ args }), startRedis({ args })]);
    await replica.cli('REPLICAOF', HOST, String(master.port));
    await waitUntil(() => isReplicaOf(replica, master), 'the replica follows');
    sentinel = await startSentinel('sessions', master);
    await waitUntil(() => sentinel.output.includes('+slave'), 'the Sentinel knows the replica');
  });

  it('is found, and its successor when it is gone', async () => {
    const store = await openStore({ sentinels: [{ host: HOST, port: sentinel.port }], name: 'sessions' });
    const session = await createIn(store);
    const byUrl = await openStore(redisOf(`redis+sentinel://${HOST}:${sentinel.port}/sessions`, '--redis'));
    expect(await byUrl.load(session)).toMatchObject({ snapshot: 's' });
    await waitUntil(
      async () => (await replica.cli('KEYS', `*session:{${session}}`)) !== '',
      'the replica has it',
    );
    await master.kill();
    await waitUntil(() => isMaster(replica), 'the replica is master');
    await waitUntil(async () => (await createIn(store)) !== '', 'the store writes again');
    expect(await store.load(session)).toMatchObject({ snapshot: 's' });
  });
});
