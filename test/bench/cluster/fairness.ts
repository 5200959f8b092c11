/**
 * A quiet tenant at its share, alone and beside one that floods at twenty times as much: in one process, and in a
 * cluster; with the admission settings that CLUSTER.md recommends, and with none.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { AdmissionOptions } from '../../../src/index.ts';
import { startNats } from '../../support/nats.ts';
import { startRedis } from '../../support/redis.ts';
import { medianSample, pairwiseRatio, type Sample } from '../stats.ts';
import { createSystem } from './built.ts';
import { Cluster } from './deployment.ts';
import { floodAt, measureAt, type Run } from './paced.ts';
import type { Settings } from './settings.ts';

/** Requests a second that each tenant is meant to have. */
export const SHARE = 50;
/** How much more than that the flood sends. */
export const FLOOD = 20;
/** How long requests of the flood are about at most after its end, in ms. */
const PATIENCE_MS = 2_200;

/** As CLUSTER.md, "Many tenants", recommends it for such shares. */
export const RECOMMENDED: AdmissionOptions = { maxConcurrent: 2, ratePerSecond: SHARE, burst: 5 };

export type Place = 'embedded' | 'cluster';
export type Admitting = 'recommended' | 'none';

export interface FairnessRow {
  readonly place: Place;
  readonly admission: Admitting;
  readonly alone: Sample;
  readonly flooded: Sample;
  /** Median of the pairwise ratios flooded / alone. */
  readonly p50Ratio: number;
  readonly p99Ratio: number;
  /** Requests a second that the flood sent. */
  readonly sentPerSecond: number;
}

interface Opened {
  readonly quiet: Run;
  /** Begin to flood. The function that is returned ends that, and tells how much was sent. */
  readonly flood: () => () => Promise<number>;
  readonly close: () => Promise<unknown>;
}

export async function measureFairness(
  settings: Settings,
  progress: (text: string) => void,
): Promise<readonly FairnessRow[]> {
  const rows: FairnessRow[] = [];
  for (const place of ['embedded', 'cluster'] as const) {
    for (const admission of ['recommended', 'none'] as const) {
      progress(`${place}, admission: ${admission}`);
      rows.push(await measureRow(place, admission, settings));
    }
  }
  return rows;
}

export async function measureRow(
  place: Place,
  admission: Admitting,
  settings: Pick<Settings, 'rounds' | 'sampleMs' | 'warmupMs'>,
): Promise<FairnessRow> {
  const options = admission === 'recommended' ? RECOMMENDED : undefined;
  const opened = place === 'embedded' ? await openEmbedded(options) : await openCluster(options);
  try {
    return { place, admission, ...(await measure(opened, settings)) };
  } finally {
    await opened.close();
  }
}

async function measure(
  { quiet, flood }: Opened,
  { rounds, sampleMs, warmupMs }: Pick<Settings, 'rounds' | 'sampleMs' | 'warmupMs'>,
): Promise<Omit<FairnessRow, 'place' | 'admission'>> {
  // A p99 is one of the few slowest: short rounds, and many of them, are hit less by a slow spell of the machine.
  const lengthMs = Math.max(2 * sampleMs, 2_000);
  await measureAt(SHARE, warmupMs, quiet);
  const alone: Sample[] = [];
  const flooded: Sample[] = [];
  const sent: number[] = [];
  for (let round = 0; round < 2 * rounds; round++) {
    alone.push(await measureAt(SHARE, lengthMs, quiet));
    const stop = flood();
    // It has flooded for a while before it counts.
    await measureAt(SHARE, warmupMs / 3, quiet);
    flooded.push(await measureAt(SHARE, lengthMs, quiet));
    sent.push((await stop()) / ((lengthMs + warmupMs / 3) / 1_000));
    // What still waits of the flood is gone.
    await new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
  }
  const ratio = (figure: (sample: Sample) => number) => pairwiseRatio(flooded.map(figure), alone.map(figure));
  return {
    alone: medianSample(alone),
    flooded: medianSample(flooded),
    p50Ratio: ratio(({ p50Ms }) => p50Ms),
    p99Ratio: ratio(({ p99Ms }) => p99Ms),
    sentPerSecond: sent.reduce((sum, each) => sum + each, 0) / sent.length,
  };
}

async function openEmbedded(admission: AdmissionOptions | undefined): Promise<Opened> {
  const system = await createSystem({ admission, pool: { poolSize: 2, minWorkers: 2 } });
  return {
    quiet: (source) => system.run(source, { tenant: 'quiet' }),
    flood: () => {
      const over = new AbortController();
      const stop = floodAt(SHARE * FLOOD, (source) =>
        system.run(source, { tenant: 'flood', signal: over.signal }),
      );
      return async () => {
        over.abort();
        return stop();
      };
    },
    close: () => system.close(),
  };
}

async function openCluster(admission: AdmissionOptions | undefined): Promise<Opened> {
  const closing: (() => Promise<unknown>)[] = [];
  const close = async (): Promise<void> => {
    for (const end of closing.splice(0).reverse()) await end();
  };
  try {
    const nats = await startNats({ config: 'max_payload: 8MB\n' });
    closing.push(() => nats.stop());
    const redis = await startRedis();
    closing.push(() => redis.stop());
    const args = admission === undefined ? [] : ['--admission', JSON.stringify(admission)];
    const namespace = 'fairness';
    const cluster = await Cluster.open({ nats: nats.url, redis: redis.url, namespace, runtimes: 2, args });
    closing.push(() => cluster.kill());
    const flooder = await startFlooder(nats.url, namespace);
    closing.push(() => flooder.end());
    return {
      quiet: (source) => cluster.client.run(source, { tenant: 'quiet' }),
      flood: () => {
        flooder.say('go');
        return () => flooder.stopped();
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function startFlooder(nats: string, namespace: string) {
  const program = fileURLToPath(new URL('flooder.ts', import.meta.url));
  const child: ChildProcess = spawn(process.execPath, [program, nats, namespace, String(SHARE * FLOOD)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null) throw new Error('the flooder has no pipes');
  const lines = createInterface({ input: stdout });
  const ended = once(child, 'exit');
  const next = async (): Promise<string> => {
    const [line] = (await Promise.race([once(lines, 'line'), ended])) as [unknown];
    if (typeof line !== 'string') throw new Error('the flooder has ended');
    return line;
  };
  await next();
  const say = (word: string): void => void stdin.write(`${word}\n`);
  return {
    say,
    stopped: async (): Promise<number> => {
      const told = next();
      say('stop');
      return Number((await told).split(' ')[1]);
    },
    end: async (): Promise<void> => {
      stdin.end();
      const late = setTimeout(() => child.kill('SIGKILL'), 5_000);
      await ended;
      clearTimeout(late);
    },
  };
}
