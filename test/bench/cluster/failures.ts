/** How long scripts stand when processes go: killed, told to migrate, told to drain. */

import { type NatsServer, startNats } from '../../support/nats.ts';
import type { Pod } from '../../support/pods.ts';
import { waitUntil } from '../../support/processes.ts';
import { type RedisServer, startRedis } from '../../support/redis.ts';
import { percentile } from '../stats.ts';
import { defineTool, provideTools } from './built.ts';
import { Cluster, type ClusterOptions } from './deployment.ts';
import { Progress } from './progress.ts';
import type { Settings } from './settings.ts';

/** The settings that the docs name for a fast takeover. */
export const TUNED = ['--lease-ttl', '1500', '--scan', '250'];

const SESSIONS = 24;
/** The time between two calls of a script: small beside what is measured. */
const PACE_MS = 20;
const MIGRATING = 8;

export type Victim = 'broker' | 'broker, tuned' | 'runtime';

/** From the SIGKILL until the scripts of the killed process's sessions went on, in ms, over all of them and all kills. */
export interface Takeover {
  readonly victim: Victim;
  readonly kills: number;
  readonly sessions: number;
  readonly p50Ms: number;
  readonly maxMs: number;
}

/** In ms. */
export interface Migration {
  readonly migrations: number;
  /** Of the script: its longest time without a new call around the move. */
  readonly pauseP50Ms: number;
  readonly pauseP99Ms: number;
  /** Of the command, until it was answered. */
  readonly commandP50Ms: number;
  readonly commandP99Ms: number;
  /** What is between two calls of a script where nothing moves. */
  readonly paceMs: number;
}

export interface Drain {
  readonly sessions: number;
  /** From SIGTERM to the end of the process. */
  readonly ms: number;
  readonly exitCode: number | null;
  /** Sessions with their owner elsewhere afterwards, and executions that then ended well. */
  readonly moved: number;
  readonly succeeded: number;
}

type Place = Pick<ClusterOptions, 'nats' | 'redis'>;

async function withServers<T>(work: (place: Place) => Promise<T>): Promise<T> {
  let nats: NatsServer | undefined;
  let redis: RedisServer | undefined;
  try {
    nats = await startNats({ config: 'max_payload: 8MB\n' });
    redis = await startRedis();
    return await work({ nats: nats.url, redis: redis.url });
  } finally {
    await redis?.stop();
    await nats?.stop();
  }
}

async function withCluster<T>(options: ClusterOptions, work: (cluster: Cluster) => Promise<T>): Promise<T> {
  const cluster = await Cluster.open(options);
  try {
    return await work(cluster);
  } finally {
    await cluster.kill();
  }
}

// --- SIGKILL

export function measureTakeover(
  { kills }: Settings,
  progress: (text: string) => void,
): Promise<readonly Takeover[]> {
  return withServers(async (place) => {
    const results: Takeover[] = [];
    for (const victim of ['broker', 'broker, tuned', 'runtime'] as const) {
      const times: number[] = [];
      for (let kill = 1; kill <= kills; kill++) {
        progress(`SIGKILL of a ${victim}, ${kill} of ${kills}`);
        const namespace = `${victim.replace(', ', '-')}-${kill}`;
        const args = victim === 'broker, tuned' ? TUNED : [];
        const options = { ...place, namespace, brokers: 2, args };
        times.push(...(await withCluster(options, (cluster) => killOne(cluster, victim))));
      }
      const figures = { p50Ms: percentile(times, 50), maxMs: Math.max(...times) };
      results.push({ victim, kills, sessions: times.length, ...figures });
    }
    return results;
  });
}

async function killOne(cluster: Cluster, victim: Victim): Promise<readonly number[]> {
  const progress = await Progress.start(cluster.client, SESSIONS, PACE_MS);
  const infos = await Promise.all(progress.sessions.map((session) => session.info()));
  const pods = victim === 'runtime' ? cluster.runtimes : cluster.brokers;
  const hit = (pod: Pod) =>
    infos.filter((info) => (victim === 'runtime' ? info.runtime : info.owner) === pod.id).map(({ id }) => id);
  const pod = pods.toSorted((a, b) => hit(b).length - hit(a).length)[0];
  if (pod === undefined || hit(pod).length === 0) throw new Error(`no session depends on a ${victim}`);
  const killedAt = performance.now();
  await pod.kill();
  await progress.goOn(hit(pod), killedAt);
  const times = hit(pod).map((id) => progress.silence(id, killedAt).endMs);
  await progress.stop();
  return times;
}

// --- Migration

export function measureMigration(
  { migrations }: Settings,
  progress: (text: string) => void,
): Promise<Migration> {
  return withServers((place) =>
    withCluster({ ...place, namespace: 'migration', brokers: 2 }, async (cluster) => {
      const scripts = await Progress.start(cluster.client, MIGRATING, PACE_MS);
      const pauses: number[] = [];
      const commands: number[] = [];
      const paces: number[] = [];
      for (let n = 0; n < migrations; n++) {
        progress(`migration ${n + 1} of ${migrations}`);
        const session = scripts.sessions[n % MIGRATING];
        if (session === undefined) throw new Error('there is no session');
        scripts.forget();
        const quiet = performance.now();
        await scripts.goOn([session.id], quiet);
        paces.push(scripts.silence(session.id, quiet).lengthMs);
        scripts.forget();
        const begun = performance.now();
        await session.migrate();
        commands.push(performance.now() - begun);
        await scripts.goOn([session.id], performance.now());
        pauses.push(scripts.silence(session.id, begun).lengthMs);
      }
      await scripts.stop();
      return {
        migrations,
        pauseP50Ms: percentile(pauses, 50),
        pauseP99Ms: percentile(pauses, 99),
        commandP50Ms: percentile(commands, 50),
        commandP99Ms: percentile(commands, 99),
        paceMs: percentile(paces, 50),
      };
    }),
  );
}

// --- Drain

/** Worker processes of each of three runtimes: room for every script, waiting as it is. */
const WORKERS = 5;
const DRAIN_PATIENCE_MS = 60_000;

export function measureDrain({ drained }: Settings, progress: (text: string) => void): Promise<Drain> {
  return withServers((place) =>
    withCluster({ ...place, namespace: 'drain', workers: WORKERS }, async (cluster) => {
      progress(`${drained} sessions begin`);
      const gate = Promise.withResolvers<string>();
      let waiting = 0;
      const wait = defineTool({
        name: 'gate:wait',
        effect: 'read',
        handler: () => {
          waiting++;
          return gate.promise;
        },
      });
      // By this process, not by brokers: a broker that drains waits for the handlers that it runs.
      await using _tools = await provideTools(place.nats, [wait], { namespace: 'drain' });
      const spawned = Array.from({ length: drained }, () =>
        cluster.client.spawnSession({ limits: { timeoutMs: 300_000 } }),
      );
      const sessions = await Promise.all(spawned);
      const results = sessions.map(
        (session) => session.execute(`return await callTool('gate:wait');`).result,
      );
      await waitUntil(() => waiting >= drained, 'all scripts wait', DRAIN_PATIENCE_MS);
      const [first] = cluster.brokers;
      if (first === undefined) throw new Error('there is no broker');
      const second = await cluster.addBroker();
      progress('drain');
      const begun = performance.now();
      const exitCode = await first.drain();
      const ms = performance.now() - begun;
      const infos = await Promise.all(sessions.map((session) => session.info()));
      gate.resolve('open');
      const ended = await Promise.all(results);
      return {
        ...{ sessions: drained, ms, exitCode },
        moved: infos.filter(({ owner }) => owner === second.id).length,
        succeeded: ended.filter((result) => result.success && result.value === 'open').length,
      };
    }),
  );
}
