/** What was acknowledged, after the master of Redis was killed under load. */
import { connect } from '@nats-io/transport-node';
import { afterEach, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import type { ChaosCluster } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { caughtUp, followSlowly, killMaster, replicated, startLossy } from './losses.ts';
import { Waiting } from './waiting.ts';

let cluster: ChaosCluster;
afterEach(() => cluster.stop());

const pids = (): readonly number[] => [...cluster.brokers, ...cluster.runtimes].map(({ pod }) => pod.pid);

describe("with ack 'replica'", () => {
  it('nothing acknowledged is lost, also when the replica is behind', async () => {
    cluster = await startLossy('replica');
    const before = pids();
    for (const lagMs of [0, 500]) {
      const { losses, executed } = await killMaster(cluster, lagMs);
      console.log(`ack 'replica', ${lagMs} ms behind`, losses);
      expect(losses).toMatchObject({ lostCommands: 0, lostResults: 0, lostEvents: 0 });
      expect(losses.acknowledged).toBeGreaterThan(20);
      await checkInvariants(cluster, executed, IN_DOUBT);
    }
    expect(pids()).toEqual(before);
  }, 90_000);
});

/** The epochs of a session that runtimes are told, in order. */
async function told(
  session: string,
): Promise<{ readonly epochs: readonly number[]; readonly stop: () => Promise<void> }> {
  const connection = await connect({ servers: cluster.nats.url });
  const epochs: number[] = [];
  connection.subscribe('enclave.default.runtime.*.cmd', {
    callback: (error, message) => {
      if (error !== null) return;
      const body = message.json<{ readonly session?: string; readonly epoch: number }>();
      if (body.session === session) epochs.push(body.epoch);
    },
  });
  await connection.flush();
  return { epochs, stop: () => connection.close() };
}

describe("with ack 'master'", () => {
  it('what a master took along is owned again above what clients have seen, and what it concerned goes on', async () => {
    cluster = await startLossy('master');
    const redis = replicated(cluster);
    const before = pids();
    const link = await followSlowly(redis);
    const waiting = await Waiting.start(cluster, 'gate:put');
    const session = cluster.client.session(waiting.session);
    const { epochs, stop } = await told(waiting.session);
    const { epoch: first } = await session.info();
    await caughtUp(redis);
    // Two acquisitions of which the replica never hears.
    link.stall('fromTarget');
    await session.migrate();
    const { epoch } = await session.migrate();
    expect(epoch).toBe(first + 2);
    await waitUntil(() => epochs.includes(epoch), 'the runtime has heard of the last owner');
    await redis.master.kill();
    cluster.history.beginReign();
    await link.stop();
    await redis.failOver();
    await redis.rejoin();
    waiting.open();
    const { result } = await waiting.executed();
    expect(result).toMatchObject({ success: true, value: [1, waiting.input, waiting.input, waiting.input] });
    const after = await session.info();
    // A broker that knew nothing of the lost epochs may have tried a lower one meanwhile: runtimes refuse that.
    expect(after.epoch).toBeGreaterThan(epoch);
    expect(await session.execute('return state.n').result).toMatchObject({ success: true, value: 1 });
    expect(pids()).toEqual(before);
    await stop();
  }, 60_000);

  it('a script goes on whose last owner was lost together with all that the store knew of it', async () => {
    cluster = await startLossy('master');
    const redis = replicated(cluster);
    const link = await followSlowly(redis);
    const waiting = await Waiting.start(cluster, 'gate:put');
    const owner = await waiting.owner();
    const { epochs, stop } = await told(waiting.session);
    await caughtUp(redis);
    link.stall('fromTarget');
    // Nobody but the runtime knows of these epochs afterwards.
    const mover = cluster.connect();
    await mover.connect();
    await mover.session(waiting.session).migrate();
    const { owner: last, epoch } = await mover.session(waiting.session).migrate();
    expect(last).toBe(owner.id);
    await waitUntil(() => epochs.includes(epoch), 'the runtime has heard of the last owner');
    await Promise.all([mover.close(), waiting.forsake(), owner.kill(), redis.master.kill()]);
    cluster.history.beginReign();
    await link.stop();
    await redis.failOver();
    await redis.rejoin();
    waiting.open();
    const { result } = await waiting.executed();
    expect(result).toMatchObject({ success: true, value: [1, waiting.input, waiting.input, waiting.input] });
    await stop();
  }, 60_000);
});
