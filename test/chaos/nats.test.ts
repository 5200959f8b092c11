/** The nats-server is lost and comes back. */
import { afterEach, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { Load } from './load.ts';

let cluster: ChaosCluster;
afterEach(() => cluster.stop());

describe('a nats-server', () => {
  it('that is restarted under load, twice, costs nothing that was acknowledged', async () => {
    cluster = await ChaosCluster.start();
    const pids = (): readonly number[] => [...cluster.brokers, ...cluster.runtimes].map(({ pod }) => pod.pid);
    const before = pids();
    const load = await Load.start(cluster, { sessions: 6 });
    await waitUntil(() => load.count > 20, 'the load runs');
    await cluster.killNats();
    await cluster.restartNats();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on', 30_000);
    const losses = (): readonly number[] =>
      cluster.brokers.map(({ pod }) => pod.logged('the lease is lost').length);
    const ready = async (): Promise<boolean> =>
      (await Promise.all(cluster.brokers.map(({ pod }) => pod.ready()))).every((is) => is);
    await waitUntil(ready, 'every broker has a lease to lose');
    const earlier = losses();
    await cluster.killNats();
    const killedAt = performance.now();
    await waitUntil(
      () => losses().every((count, index) => count > (earlier[index] ?? 0)),
      'every broker has given its lease up',
    );
    console.log(
      `without NATS every broker had given its lease up after ${Math.round(performance.now() - killedAt)} ms`,
    );
    await cluster.restartNats();
    const restartedAt = performance.now();
    await waitUntil(load.everyoneGoesOn(), 'the load goes on', 30_000);
    console.log(
      `every session went on within ${Math.round(performance.now() - restartedAt)} ms of the restart`,
    );
    const executed = await load.stop();
    expect(pids()).toEqual(before);
    console.log('NATS restarted under load', await checkInvariants(cluster, executed, IN_DOUBT));
  }, 90_000);
});
