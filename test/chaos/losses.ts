/**
 * What a master of Redis takes along when it is killed under load: `node test/chaos/losses.ts 20` kills it so often
 * with `--ack replica`, where nothing that was acknowledged may be lost, and some times with `--ack master`.
 */
import type { ExecutionEvent } from '../../src/index.ts';
import { HOST, waitUntil } from '../support/processes.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';
import type { ReplicatedRedis } from '../support/redis.ts';
import { ChaosCluster, TUNED } from './cluster.ts';
import { checkInvariants, IN_DOUBT, isSame, isTold, logOf } from './invariants.ts';
import { Load, type Loaded } from './load.ts';

export type Ack = 'master' | 'replica';

/** What was told to somebody, and how much of that is not in the log. */
export interface Losses {
  /** Commands whose `accepted` resolved. */
  readonly acknowledged: number;
  readonly lostCommands: number;
  /** Results that were told, failures included; not: that nobody knows. */
  readonly told: number;
  readonly lostResults: number;
  /** Events that an observer heard: each was committed before. */
  readonly published: number;
  readonly lostEvents: number;
  /** Of all these, those that were told before the replica had all that there was. */
  readonly lostThoughReplicated: number;
  /** How long before the kill the first lost event was heard, in ms. */
  readonly reachedBackMs: number;
  /** Executions whose outcome nobody knows. */
  readonly inDoubt: number;
  /** From the kill until every session had begun and ended another execution, in ms. */
  readonly pauseMs: number;
}

export function startLossy(ack: Ack): Promise<ChaosCluster> {
  return ChaosCluster.start({ redis: 'replicated', brokerArgs: [...TUNED, '--ack', ack] });
}

export function replicated({ redis }: ChaosCluster): ReplicatedRedis {
  if (redis.kind !== 'replicated') throw new TypeError('its Redis has no replica');
  return redis.server;
}

/** Have the replica follow its master over a link that can be held up. Resolves when it has all there is. */
export async function followSlowly(redis: ReplicatedRedis): Promise<TcpProxy> {
  const link = await startProxy(redis.master.port);
  await redis.replicas[0]?.cli('REPLICAOF', HOST, String(link.port));
  await waitUntil(() => link.connections > 0, 'the replica follows over the link');
  await caughtUp(redis);
  return link;
}

/** Resolves when the replica had all that there was. */
export async function caughtUp({ master, replicas }: ReplicatedRedis): Promise<void> {
  const [replica] = replicas;
  await waitUntil(async () => {
    const told = await master.cli('INFO', 'replication');
    const heard = (await replica?.cli('INFO', 'replication')) ?? '';
    const written = Number(/master_repl_offset:(\d+)/.exec(told)?.[1]);
    return told.includes('state=online') && Number(/slave_repl_offset:(\d+)/.exec(heard)?.[1]) >= written;
  }, 'the replica has what its master has');
}

/**
 * Kill the master under load, fail over to its replica, have a replica again.
 * @param lagMs What the master wrote so long before its end has not reached the replica. 0: whatever had not.
 */
export async function killMaster(
  cluster: ChaosCluster,
  lagMs = 0,
): Promise<{ readonly losses: Losses; readonly executed: readonly Loaded[] }> {
  const redis = replicated(cluster);
  const link = lagMs === 0 ? undefined : await followSlowly(redis);
  const load = await Load.start(cluster, { sessions: 6 });
  await waitUntil(() => load.count > 20, 'the load runs');
  const replicatedAt = performance.now();
  await caughtUp(redis);
  await waitUntil(load.everyoneGoesOn(), 'the load goes on with what the replica may not have');
  link?.stall('fromTarget');
  const until = performance.now() + lagMs;
  await waitUntil(() => performance.now() >= until, 'the replica is behind');
  for (const pod of cluster.brokers) pod.harm();
  await redis.master.kill();
  const killedAt = performance.now();
  cluster.history.beginReign();
  await link?.stop();
  await redis.failOver();
  // With 'replica' nothing is acknowledged before there is one again.
  await redis.rejoin();
  for (const pod of cluster.brokers) pod.heal();
  await waitUntil(load.everyoneGoesOn(), 'every session goes on', 60_000);
  const pauseMs = Math.round(performance.now() - killedAt);
  const executed = await load.stop();
  return {
    losses: { ...(await lossesOf(cluster, executed, { replicatedAt, killedAt })), pauseMs },
    executed,
  };
}

/** What was told, and the log. Times are those of `performance.now()`: when a replica had all that there was, and when its master was killed. */
export async function lossesOf(
  cluster: ChaosCluster,
  executed: readonly Loaded[],
  { replicatedAt, killedAt }: { readonly replicatedAt: number; readonly killedAt: number },
): Promise<Omit<Losses, 'pauseMs'>> {
  let lostThoughReplicated = 0;
  const lost = (toldAt: number | undefined): void => {
    if (toldAt !== undefined && toldAt < replicatedAt) lostThoughReplicated++;
  };
  const sum = { acknowledged: 0, lostCommands: 0, told: 0, lostResults: 0, published: 0, lostEvents: 0 };
  let reachedBackMs = 0;
  for (const session of new Set(executed.map((each) => each.session))) {
    const log = await logOf(cluster, session);
    const events = log.map((text) => JSON.parse(text) as ExecutionEvent);
    for (const one of executed.filter((each) => each.session === session)) {
      const own = events.filter(({ executionId }) => executionId === one.execution);
      if (one.acknowledged) {
        sum.acknowledged++;
        if (!own.some(({ type }) => type === 'session_init')) {
          sum.lostCommands++;
          lost(one.acknowledgedAt);
        }
      }
      if (!isTold(one)) continue;
      sum.told++;
      if (own.some((event) => isSame(event, one))) continue;
      sum.lostResults++;
      lost(one.endedAt);
    }
    for (const { seq, text, at } of cluster.observer.heard(session)) {
      sum.published++;
      if (log[seq - 1] === text) continue;
      sum.lostEvents++;
      lost(at);
      reachedBackMs = Math.max(reachedBackMs, Math.round(killedAt - at));
    }
  }
  const inDoubt = executed.filter(
    ({ result }) => !result.success && result.error.outcome === 'unknown',
  ).length;
  return { ...sum, lostThoughReplicated, reachedBackMs, inDoubt };
}

// ---- the measurement -------------------------------------------------------------------------------------

/** Replicas are behind in every other round with 'replica': then nothing may be acknowledged meanwhile. */
const LAG_MS = 500;

async function measure(ack: Ack, rounds: number, lagOf: (round: number) => number): Promise<number> {
  const cluster = await startLossy(ack);
  const pids = (): string => [...cluster.brokers, ...cluster.runtimes].map(({ pod }) => pod.pid).join();
  const before = pids();
  let bad = 0;
  try {
    for (let round = 1; round <= rounds; round++) {
      const { losses, executed } = await killMaster(cluster, lagOf(round));
      const { lostCommands, lostResults, lostEvents } = losses;
      const lost = lostCommands + lostResults + lostEvents;
      if (lost > 0) bad++;
      else await checkInvariants(cluster, executed, IN_DOUBT);
      const restarted = pids() === before ? '' : ', A POD ENDED';
      process.stdout.write(
        `ack ${ack}, ${lagOf(round)} ms behind, round ${round} of ${rounds}: ` +
          `lost ${lostCommands} of ${losses.acknowledged} acknowledged commands, ` +
          `${lostResults} of ${losses.told} told results, ${lostEvents} of ${losses.published} events` +
          `${lostEvents === 0 ? '' : `, back to ${losses.reachedBackMs} ms before the kill`}; ` +
          `${losses.inDoubt} in doubt, ${losses.pauseMs} ms until all went on${restarted}\n`,
      );
    }
  } finally {
    await cluster.stop();
  }
  process.stdout.write(`ack ${ack}: nothing acknowledged was lost in ${rounds - bad} of ${rounds} rounds\n`);
  return bad;
}

if (import.meta.main) {
  const rounds = Number(process.argv[2] ?? 20);
  const masters = Number(process.argv[3] ?? 5);
  const bad = await measure('replica', rounds, (round) => (round % 2 === 0 ? LAG_MS : 0));
  await measure('master', masters, () => LAG_MS);
  await measure('master', masters, () => 0);
  process.exitCode = bad === 0 ? 0 : 1;
}
