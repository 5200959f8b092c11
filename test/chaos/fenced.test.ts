/** What a broker wrote before it was paused comes when another one owns the session. */
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import type { RedisServer } from '../support/redis.ts';
import { ChaosCluster, type ChaosPod } from './cluster.ts';
import { checkInvariants, logOf } from './invariants.ts';
import { Waiting } from './waiting.ts';

const PATIENT = path.join(import.meta.dirname, 'patient.ts');

let cluster: ChaosCluster;
afterEach(() => cluster.stop());

const READING: Readonly<Record<string, readonly [string, ...string[]]>> = {
  string: ['GET'],
  hash: ['HGETALL'],
  list: ['LRANGE', '0', '-1'],
  set: ['SMEMBERS'],
  zset: ['ZRANGE', '0', '-1'],
  stream: ['XRANGE', '-', '+'],
};

/** The texts of all keys of a session. */
async function everythingOf(redis: RedisServer, session: string): Promise<string> {
  const keys = (await redis.cli('KEYS', `*{${session}}*`)).split('\n').filter((key) => key !== '');
  const texts = keys.map(async (key) => {
    const [command, ...rest] = READING[await redis.cli('TYPE', key)] ?? ['GET'];
    return redis.cli(command, key, ...rest);
  });
  return (await Promise.all(texts)).join('\n');
}

describe('a write of a broker that is paused', () => {
  /** Longer than what happens before the pause. */
  const LEASE_MS = 3_000;
  it('that comes when another one owns the session is refused, and nothing of it is stored', async () => {
    cluster = await ChaosCluster.start({
      brokers: 0,
      runtimes: 1,
      brokerArgs: ['--lease-ttl', String(LEASE_MS), '--scan', '250'],
    });
    const pod = await cluster.addBroker({ program: PATIENT });
    await cluster.addService();
    const waiting = await Waiting.start(cluster, 'service:send');
    const other = await cluster.addBroker();
    const session = cluster.client.session(waiting.session);
    await waitUntil(
      async () => (await session.migrate({ to: pod.id })).owner === pod.id,
      'the paused one owns it',
    );
    const store = await cluster.store();
    // Until it was on its way while the session was certainly not another's yet.
    for (let turn = 1; ; turn++) {
      const before = await store.load(waiting.session);
      const command = `lost-${turn}-${waiting.input}`;
      const asking = cluster.connect();
      await asking.connect();
      pod.stallRedis();
      asking
        .session(waiting.session)
        .execute(`return '${command}'`, { commandId: command })
        .accepted.catch(() => undefined);
      await waitUntil(() => pod.holdsForRedis(command), 'a commit is on its way');
      // Nobody sends it again: what becomes of this command is what becomes of this write.
      await asking.close();
      pod.pause();
      const { owner, epoch } = (await store.load(waiting.session)) ?? {};
      if (owner === before?.owner && epoch === before?.epoch) {
        await onlyRefused(pod, waiting, command, epoch ?? 0);
        break;
      }
      // The machine was so busy that the lease was over before the pause.
      if (turn === 3) throw new Error('the machine is too busy to pause anything in time');
      await pod.mend();
      pod.resume();
      await waitUntil(
        async () => (await session.migrate({ to: pod.id })).owner === pod.id,
        'the paused one owns it again',
      );
    }
    expect((await waiting.owner()).id).toBe(other.id);
    waiting.open();
    const one = await waiting.executed();
    expect(one.result.stats.attempts).toBe(1);
    expect(waiting.calls).toHaveLength(1);
    const { takeovers } = await checkInvariants(cluster, [one]);
    expect(takeovers).toBeGreaterThan(0);
  }, 90_000);

  /** The pod is paused, and holds a commit of the command in its link: let that go when the session is another's. */
  async function onlyRefused(pod: ChaosPod, waiting: Waiting, command: string, epoch: number): Promise<void> {
    const store = await cluster.store();
    const { redis } = cluster;
    if (redis.kind !== 'standalone') throw new TypeError('it is not alone');
    await waitUntil(
      async () => ((await store.load(waiting.session))?.epoch ?? 0) > epoch,
      'another one takes the session over',
    );
    await pod.mend();
    await waitUntil(() => pod.heldForRedis === 0, 'what was on its way goes on');
    pod.resume();
    await waitUntil(
      async () => (await pod.metric('enclave_fenced_writes_total')) > 0,
      'the write is refused and counted',
    );
    const stored = await everythingOf(redis.server, waiting.session);
    expect(stored).toContain(waiting.execution);
    expect(stored).not.toContain(command);
    expect((await logOf(cluster, waiting.session)).join()).not.toContain(command);
    const known = (await cluster.client.session(waiting.session).info()).executions;
    expect(known.map(({ id }) => id)).not.toContain(command);
  }
});
