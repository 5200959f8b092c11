/**
 * The results as text, a section each.
 */
import type { Verdict } from './acceptance.ts';
import type { FloodResult } from './flood.ts';
import type { Machine } from './machine.ts';
import type { MemoryResult } from './memory.ts';
import type { RecyclingResult } from './recycling.ts';
import { WAIT_MS } from './scripts.ts';
import type { DurabilityRow, HibernationResult } from './sessions.ts';
import type { Settings } from './settings.ts';
import type { StartResult } from './start.ts';
import { type Column, mebibytes, millis, ratio, table, whole } from './table.ts';
import type { RowResult } from './throughput.ts';

const left = (title: string): Column => ({ title, align: 'left' });
const right = (title: string): Column => ({ title });
const section = (title: string, body: string) => `\n${title}\n\n${body}`;

/** The machine and how it was measured. */
export function reportMachine(machine: Machine, settings: Settings): string {
  const memory = (machine.memoryBytes / 1024 ** 3).toFixed(1);
  return [
    `machine   ${machine.cores} cores, ${machine.cpu}, ${memory} GiB, ${machine.platform}`,
    `versions  Node ${machine.node}, isolated-vm ${machine.isolatedVm}`,
    `method    medians of ${settings.rounds} interleaved rounds of ${settings.sampleMs} ms; ratios are medians of pairwise ratios, ours / bare`,
  ].join('\n');
}

/** Requests/s and latencies of both sides, a line per combination. */
export function reportThroughput(rows: readonly RowResult[]): string {
  const columns = [left('level'), left('script'), right('at once')].concat(
    ['req/s', 'p50 ms', 'p99 ms'].flatMap((unit) => [right(`bare ${unit}`), right('ours'), right('ratio')]),
  );
  const cells = rows.map(({ level, script, concurrency, bare, ours, ratio: by }) => [
    level,
    script,
    whole(concurrency),
    ...[whole(bare?.requestsPerSecond), whole(ours?.requestsPerSecond), ratio(by?.requestsPerSecond)],
    ...[millis(bare?.p50Ms), millis(ours?.p50Ms), ratio(by?.p50)],
    ...[millis(bare?.p99Ms), millis(ours?.p99Ms), ratio(by?.p99)],
  ]);
  return section('Throughput and latency (2 workers, up to 16 aboard each)', table(columns, cells));
}

export function reportStart({ bareMs, oursMs, ratio: by }: StartResult): string {
  const columns = [left(''), right('bare ms'), right('ours ms'), right('ratio')];
  const cells = [['one worker, to its first result', millis(bareMs), millis(oursMs), ratio(by)]];
  return section('Cold start', table(columns, cells));
}

export function reportMemory({ idleWorker, warmTenant }: MemoryResult): string {
  const columns = [left(''), right('private MiB'), right('resident MiB')];
  const cells = [
    ['idle worker, bare', idleWorker.bare] as const,
    ['idle worker, ours', idleWorker.ours] as const,
    ['each warm tenant, context, ours', warmTenant.context] as const,
    ['each warm tenant, realm, ours', warmTenant.realm] as const,
  ].map(([name, bytes]) => [name, mebibytes(bytes?.privateBytes), mebibytes(bytes?.residentBytes)]);
  return section('Memory', table(columns, cells));
}

export function reportRecycling(results: readonly RecyclingResult[]): string {
  const columns = [
    left('script'),
    right('workers seen'),
    ...['req/s', 'p50 ms', 'p99 ms'].flatMap((unit) => [
      right(`never ${unit}`),
      right('after 50'),
      right('ratio'),
    ]),
  ];
  const cells = results.map(({ script, never, after50, ratio: by, workersSeen }) => [
    script,
    whole(workersSeen),
    ...[whole(never.requestsPerSecond), whole(after50.requestsPerSecond), ratio(by.requestsPerSecond)],
    ...[millis(never.p50Ms), millis(after50.p50Ms), ratio(by.p50)],
    ...[millis(never.p99Ms), millis(after50.p99Ms), ratio(by.p99)],
  ]);
  const title = `Recycling, ours: maxExecutionsPerWorker 50 against none (context, 16 at once; 'waiting' has a tool of ${WAIT_MS} ms)`;
  return section(title, table(columns, cells));
}

export function reportFlood({ bare, ours }: FloodResult): string {
  const columns = [
    left('side'),
    ...[right('alone p50 ms'), right('flooded p50 ms'), right('ratio')],
    ...[right('alone p99 ms'), right('flooded p99 ms')],
  ];
  const cells = [['bare', bare] as const, ['ours', ours] as const].map(([name, side]) => [
    name,
    ...[millis(side?.alone.p50Ms), millis(side?.flooded.p50Ms), ratio(side?.slowdown)],
    ...[millis(side?.alone.p99Ms), millis(side?.flooded.p99Ms)],
  ]);
  return section(
    'A small tenant while another floods (simple, context, 1 against 128)',
    table(columns, cells),
  );
}

export function reportDurability(rows: readonly DurabilityRow[]): string {
  const columns = [
    left('script'),
    ...['Enclave.run', "'none'", "'session'"].map((name) => right(`${name} req/s`)),
    right("'none' / run"),
    right("'session' / 'none'"),
    ...["'none'", "'session'"].map((name) => right(`${name} p50 ms`)),
  ];
  const cells = rows.map(({ script, samples, durable, none }) => [
    script,
    whole(samples.run.requestsPerSecond),
    whole(samples.none.requestsPerSecond),
    whole(samples.session.requestsPerSecond),
    ratio(none.requestsPerSecond),
    ratio(durable.requestsPerSecond),
    millis(samples.none.p50Ms),
    millis(samples.session.p50Ms),
  ]);
  return section('Durability: 16 sessions at once, memory store (2 workers, context)', table(columns, cells));
}

export function reportHibernation(result: HibernationResult): string {
  const columns = ['sessions', 'stored bytes each', 'beyond that', 'warm ms', 'waking ms', 'waking p99'].map(
    right,
  );
  const { sessions, storedBytes, beyondBytes, warmMs, wakeMs, wakeP99Ms } = result;
  const cells = [
    [
      whole(sessions),
      whole(storedBytes),
      whole(beyondBytes),
      millis(warmMs),
      millis(wakeMs),
      millis(wakeP99Ms),
    ],
  ];
  return section('Hibernated sessions', table(columns, cells));
}

/** Each criterion and whether it was met. Under five rounds the heading says that it proves nothing. */
export function reportVerdicts(verdicts: readonly Verdict[], { rounds }: Settings): string {
  const columns = [left('acceptance'), right('ratio'), left('bound'), left('met')];
  const word = (met: boolean | undefined) => (met === undefined ? 'not measured' : met ? 'yes' : 'NO');
  const cells = verdicts.map(({ claim, ratio: by, bound, met }) => [claim, ratio(by), bound, word(met)]);
  const title = rounds < 5 ? `Acceptance (a hint only: ${rounds} rounds, not 5)` : 'Acceptance';
  return section(title, table(columns, cells));
}
