/** Pods that live and cannot be reached, or cannot reach others: paused ones, and those whose links are cut. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster, type ChaosPod } from './cluster.ts';
import { checkInvariants, IN_DOUBT } from './invariants.ts';
import { Load } from './load.ts';
import { Waiting } from './waiting.ts';

let cluster: ChaosCluster;
beforeAll(async () => {
  cluster = await ChaosCluster.start();
});
afterAll(() => cluster.stop());

// A test that failed leaves nothing broken for the next one.
async function heal(): Promise<void> {
  for (const pod of [...cluster.brokers, ...cluster.runtimes]) {
    pod.resume();
    await pod.mend();
  }
}

describe('a broker', () => {
  let load: Load;
  afterEach(async () => {
    await heal();
    await load.stop();
  });

  const lost = (pod: ChaosPod): number => pod.pod.logged('the lease is lost').length;

  /** It takes sessions again, in the same process. */
  async function backAgain(pod: ChaosPod, pid: number): Promise<void> {
    await waitUntil(() => pod.pod.ready(), 'it is ready again');
    expect(pod.pod.pid).toBe(pid);
    const session = await cluster.client.spawnSession();
    await waitUntil(async () => (await session.migrate({ to: pod.id })).owner === pod.id, 'it owns again');
    expect(await session.execute('return 1').result).toMatchObject({ success: true, value: 1 });
  }

  /** A broker that owns sessions of the load. */
  async function ownerUnderLoad(): Promise<{ readonly pod: ChaosPod; readonly mine: readonly string[] }> {
    load = await Load.start(cluster, { sessions: 6 });
    await waitUntil(() => load.count > 20, 'the load runs');
    const owners = await Promise.all(
      load.sessions.map(async ({ id }) => [id, await cluster.ownerOf(id)] as const),
    );
    const pod = owners.find(([, owner]) => owner !== undefined)?.[1];
    if (pod === undefined) throw new Error('nobody owns anything');
    return { pod, mine: owners.filter(([, owner]) => owner === pod).map(([id]) => id) };
  }

  const goElsewhere = (mine: readonly string[], pod: ChaosPod) => async (): Promise<boolean> => {
    const owners = await Promise.all(mine.map((id) => cluster.ownerOf(id)));
    return owners.every((owner) => owner !== undefined && owner !== pod);
  };

  async function holds(what: string): Promise<void> {
    await waitUntil(load.everyoneGoesOn(), 'the load goes on');
    const executed = await load.stop();
    console.log(what, await checkInvariants(cluster, executed, IN_DOUBT));
  }

  it('that is paused beyond its lease is succeeded, and does and answers nothing when it comes back', async () => {
    const { pod, mine } = await ownerUnderLoad();
    const { pid } = pod.pod;
    const before = lost(pod);
    // What it sends is on its way while it is paused, and comes when others own what it is about.
    pod.stallRedis();
    await waitUntil(() => pod.heldForRedis > 0, 'its requests are on their way');
    pod.pause();
    const pausedAt = Date.now();
    const store = await cluster.store();
    const taken: string[] = [];
    await waitUntil(async () => {
      for (const id of mine) {
        const { owner = pod.id } = (await store.load(id)) ?? {};
        if (!owner.startsWith(`${pod.id}-`) && owner !== pod.id) taken.push(id);
      }
      return taken.length > 0;
    }, 'others take its sessions over');
    const tookMs = Date.now() - pausedAt;
    // Its connection is still there: it is asked, too, and hears that when it comes back. A new owner may not hear yet.
    const asked = taken.map((id) => ({ id, answers: [cluster.observer.ask(id)] }));
    const answered = ({ id, answers }: (typeof asked)[number]): boolean => {
      if (answers.flat().some(({ ok }) => ok)) return true;
      answers.push(cluster.observer.ask(id));
      return false;
    };
    await waitUntil(() => asked.every(answered), 'the new owners answer');
    await pod.mend();
    pod.resume();
    await waitUntil(() => lost(pod) > before, 'it knows that its lease is lost');
    await backAgain(pod, pid);
    // Another one may have succeeded the first meanwhile.
    for (const { answers } of asked)
      for (const { ok, value } of answers.flat()) if (ok) expect(value?.broker).not.toBe(pod.id);
    console.log(
      `after SIGSTOP of a broker the first of its ${mine.length} sessions was taken over after ${tookMs} ms`,
    );
    await holds('a broker paused beyond its lease, under load');
  }, 60_000);

  it('that is cut off from NATS gives its lease up, and comes back without a restart', async () => {
    const { pod, mine } = await ownerUnderLoad();
    const { pid } = pod.pod;
    const before = lost(pod);
    pod.cutNats();
    const cutAt = performance.now();
    await waitUntil(() => lost(pod) > before, 'its lease is given up');
    const lostMs = performance.now() - cutAt;
    await waitUntil(goElsewhere(mine, pod), 'its sessions go elsewhere');
    console.log(
      `a broker without NATS gave its lease up after ${Math.round(lostMs)} ms; its sessions were elsewhere after ${Math.round(performance.now() - cutAt)} ms`,
    );
    await waitUntil(load.everyoneGoesOn(), 'the load goes on without it');
    await pod.mend();
    await backAgain(pod, pid);
    await holds('a broker cut off from NATS, under load');
  }, 60_000);

  it('that is cut off from Redis gives its sessions up; stateless runs go on; it comes back without a restart', async () => {
    const { pod, mine } = await ownerUnderLoad();
    const { pid } = pod.pod;
    const before = lost(pod);
    pod.cutRedis();
    const runs = await Promise.all(Array.from({ length: 20 }, () => cluster.client.run('return 1')));
    expect(runs.filter(({ success }) => !success)).toEqual([]);
    await waitUntil(() => lost(pod) > before, 'its lease is given up');
    await waitUntil(goElsewhere(mine, pod), 'its sessions go elsewhere');
    const later = await Promise.all(Array.from({ length: 20 }, () => cluster.client.run('return 1')));
    expect(later.filter(({ success }) => !success)).toEqual([]);
    // Whoever is asked, durable work is done.
    const made = await Promise.all(Array.from({ length: 6 }, () => cluster.client.spawnSession()));
    const results = await Promise.all(made.map((session) => session.execute('return 1').result));
    expect(results.filter(({ success }) => !success)).toEqual([]);
    await pod.mend();
    await backAgain(pod, pid);
    await holds('a broker cut off from Redis, under load');
  }, 60_000);

  it('that is cut off from everything is succeeded, and comes back without a restart', async () => {
    const { pod, mine } = await ownerUnderLoad();
    const { pid } = pod.pod;
    pod.cutNats();
    pod.cutRedis();
    await waitUntil(goElsewhere(mine, pod), 'its sessions go elsewhere');
    await waitUntil(load.everyoneGoesOn(), 'the load goes on without it');
    await pod.mend();
    await backAgain(pod, pid);
    await holds('a broker cut off from NATS and Redis, under load');
  }, 60_000);
});

describe('a runtime', () => {
  afterEach(heal);

  it('whose link to NATS breaks and is there again at once keeps its scripts', async () => {
    const waiting = await Waiting.start(cluster);
    const runtime = await waiting.runtime();
    runtime.cutNats();
    await runtime.mend();
    const mendedAt = performance.now();
    await waitUntil(() => cluster.observer.load(runtime.id, mendedAt) !== undefined, 'it is back');
    waiting.open();
    const one = await waiting.executed();
    expect(one.result).toMatchObject({ success: true });
    expect(one.result.stats.attempts).toBe(1);
    await checkInvariants(cluster, [one]);
  }, 60_000);

  it('that stays cut off is succeeded, and when it comes back its old attempt is stopped', async () => {
    const waiting = await Waiting.start(cluster);
    const runtime = await waiting.runtime();
    runtime.cutNats();
    const cutAt = performance.now();
    await waitUntil(async () => (await waiting.runtime()) !== runtime, 'it runs elsewhere');
    console.log(
      `a script of a runtime without NATS ran elsewhere after ${Math.round(performance.now() - cutAt)} ms`,
    );
    await runtime.mend();
    const mendedAt = performance.now();
    await waitUntil(() => cluster.observer.load(runtime.id, mendedAt) === 0, 'its old attempt is gone');
    waiting.open();
    const one = await waiting.executed();
    expect(one.result).toMatchObject({ success: true });
    expect(one.result.stats.attempts).toBe(2);
    expect(waiting.calls).toHaveLength(1);
    await checkInvariants(cluster, [one]);
  }, 60_000);
});
