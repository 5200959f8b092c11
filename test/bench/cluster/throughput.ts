/** Requests per second, latencies and CPU of every row, on every way. */
import { load } from '../load.ts';
import { interleave } from '../rounds.ts';
import { medianSample, pairwiseRatio, type Sample } from '../stats.ts';
import { type Cpu, readCpu, sum, total, used } from './cpu.ts';
import type { RowName, Settings, Way } from './settings.ts';
import { perRequest, readTraffic, type Traffic } from './traffic.ts';
import { type Contender, LANES, openWays, SCRIPTS } from './ways.ts';

export interface Figures {
  readonly sample: Sample;
  /** CPU seconds per 1,000 requests. */
  readonly cpu: Cpu;
  /** Per request. */
  readonly traffic: Traffic;
  /** Pairwise ratio of requests/s to the stateless way's; undefined if that was not measured. */
  readonly toStateless: number | undefined;
}

export interface ThroughputRow {
  readonly row: RowName;
  readonly script: string;
  readonly ways: Readonly<Partial<Record<Way, Figures>>>;
}

/** When requests of a row were on their way: µs of the monotonic clock, as in CPU profiles. */
export interface Window {
  readonly row: RowName;
  readonly way: Way;
  readonly fromUs: number;
  readonly toUs: number;
  readonly requests: number;
  /** CPU seconds meanwhile. */
  readonly cpu: Cpu;
}

export interface ThroughputResult {
  readonly rows: readonly ThroughputRow[];
  readonly windows: readonly Window[];
}

interface Round {
  readonly sample: Sample;
  readonly cpu: Cpu;
  readonly traffic: { readonly before: Traffic; readonly after: Traffic };
}

export async function measureThroughput(
  settings: Settings,
  progress: (text: string) => void,
): Promise<ThroughputResult> {
  progress('servers and pods start');
  const ways = await openWays(settings.ways, settings.profile);
  try {
    const rows: ThroughputRow[] = [];
    const windows: Window[] = [];
    for (const row of settings.rows) {
      progress(SCRIPTS[row].name);
      rows.push(await measureRow(row, await ways.contenders(row), settings, windows));
    }
    return { rows, windows };
  } finally {
    progress('pods end');
    await ways.close();
  }
}

async function measureRow(
  row: RowName,
  contenders: ReadonlyMap<Way, Contender>,
  settings: Settings,
  windows: Window[],
): Promise<ThroughputRow> {
  for (const { request } of contenders.values())
    await load(request, { concurrency: LANES, durationMs: settings.warmupMs });
  const named = new Map([...contenders].map(([way, contender]) => [way, { way, contender }]));
  const rounds = await interleave(named, settings.rounds, async ({ way, contender }): Promise<Round> => {
    const { request, processes, counted } = contender;
    const trafficBefore = await readTraffic(counted, processes);
    const before = readCpu(processes);
    const fromUs = nowUs();
    const sample = await load(request, { concurrency: LANES, durationMs: settings.sampleMs });
    const toUs = nowUs();
    const cpu = used(before, readCpu(processes));
    windows.push({ row, way, fromUs, toUs, requests: sample.count, cpu });
    const traffic = { before: trafficBefore, after: await readTraffic(counted, processes) };
    return { sample, cpu, traffic };
  });
  const figures = [...rounds].map(([way, of]) => [way, condense(of, rounds.get('stateless'))]);
  return {
    row,
    script: SCRIPTS[row].name,
    ways: Object.fromEntries(figures) as Readonly<Partial<Record<Way, Figures>>>,
  };
}

function condense(rounds: readonly Round[], stateless: readonly Round[] | undefined): Figures {
  const rates = (of: readonly Round[]) => of.map(({ sample }) => sample.requestsPerSecond);
  const requests = sum(rounds.map(({ sample }) => sample.count));
  return {
    sample: medianSample(rounds.map(({ sample }) => sample)),
    cpu: total(
      rounds.map(({ cpu }) => cpu),
      1_000 / requests,
    ),
    traffic: perRequest(
      rounds.map(({ traffic }) => traffic),
      requests,
    ),
    toStateless: stateless && pairwiseRatio(rates(rounds), rates(stateless)),
  };
}

function nowUs(): number {
  return Number(process.hrtime.bigint() / 1_000n);
}
