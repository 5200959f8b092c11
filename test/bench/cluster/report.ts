/** The results as text, a section each. */
import type { Machine } from '../machine.ts';
import { type Column, millis, ratio, table, whole } from '../table.ts';
import type { Verdict } from './acceptance.ts';
import { ROLES, sum } from './cpu.ts';
import type { Drain, Migration, Takeover } from './failures.ts';
import { type FairnessRow, FLOOD, SHARE } from './fairness.ts';
import type { Profiled } from './profile.ts';
import { type Settings, WAYS, type Way } from './settings.ts';
import type { ThroughputRow } from './throughput.ts';

const left = (title: string): Column => ({ title, align: 'left' });
const right = (title: string): Column => ({ title });
const section = (title: string, body: string) => `\n${title}\n\n${body}`;

const TITLES: Readonly<Record<Way, string>> = {
  nats: 'bare NATS request-reply',
  commits: 'bare fenced Redis commits',
  enclave: 'embedded: Enclave.run',
  memory: 'embedded: session in memory',
  stateless: 'cluster: stateless',
  master: "cluster: durable, ack 'master'",
  replica: "cluster: durable, ack 'replica'",
};

export function reportMachine(machine: Machine, { rounds, sampleMs, profile }: Settings): string {
  const memory = (machine.memoryBytes / 1024 ** 3).toFixed(1);
  return [
    `machine   ${machine.cores} cores, ${machine.cpu}, ${memory} GiB, ${machine.platform}`,
    `versions  Node ${machine.node}, isolated-vm ${machine.isolatedVm}`,
    `method    medians of ${rounds} interleaved rounds of ${sampleMs} ms; 16 at once; level 'context'; all on this machine`,
    ...(profile === undefined ? [] : ['          under the CPU profiler: slower than without']),
  ].join('\n');
}

const linesOf = (rows: readonly ThroughputRow[]) =>
  rows.flatMap(({ script, ways }) =>
    WAYS.flatMap((way) => {
      const figures = ways[way];
      return figures === undefined ? [] : [{ script, way, figures }];
    }),
  );

export function reportThroughput(rows: readonly ThroughputRow[]): string {
  const columns = [left('script'), left('way'), ...['req/s', 'p50 ms', 'p99 ms', '/ stateless'].map(right)];
  const cells = linesOf(rows).map(({ script, way, figures: { sample, toStateless } }) => [
    ...[script, TITLES[way], whole(sample.requestsPerSecond)],
    ...[millis(sample.p50Ms), millis(sample.p99Ms), ratio(toStateless)],
  ]);
  return section('Throughput and latency (broker, 3 runtimes of 1 worker)', table(columns, cells));
}

/** Where the CPU goes, and how many requests a second it allows if nothing else were in the way. */
export function reportCpu(rows: readonly ThroughputRow[], cores: number): string {
  const columns = [
    left('script'),
    left('way'),
    ...ROLES.map(right),
    right('all'),
    right('req/s at full use'),
  ];
  const cells = linesOf(rows).map(({ script, way, figures: { cpu } }) => {
    const all = sum(ROLES.map((role) => cpu[role]));
    return [
      ...[script, TITLES[way], ...ROLES.map((role) => seconds(cpu[role]))],
      ...[seconds(all), whole((1_000 / all) * cores)],
    ];
  });
  const title = `CPU seconds per 1,000 requests (${cores} cores; client: this process; bare NATS: broker is the responder)`;
  return section(title, table(columns, cells));
}

/** Messages, commands and writing calls to the system, each per request. */
export function reportTraffic(rows: readonly ThroughputRow[]): string {
  const writers = ROLES.filter((role) => role !== 'workers');
  const columns = [
    left('script'),
    left('way'),
    right('NATS msgs'),
    right('bytes'),
    right('Redis commands'),
  ].concat(
    right('bytes'),
    writers.map((role) => right(`writes: ${role}`)),
  );
  const cells = linesOf(rows).map(({ script, way, figures: { traffic } }) => [
    ...[script, TITLES[way], count(traffic.natsMessages), whole(traffic.natsBytes)],
    ...[count(traffic.redisCommands), whole(traffic.redisBytes)],
    ...writers.map((role) => count(traffic.writes[role])),
  ]);
  const title =
    'Per request: messages into NATS, commands of Redis (those of scripts included), writes to sockets and files';
  return section(title, table(columns, cells));
}

const count = (value: number): string => (value === 0 ? '–' : value.toFixed(1));
const seconds = (value: number): string => (value === 0 ? '–' : value.toFixed(3));

export function reportTakeover(results: readonly Takeover[]): string {
  const columns = [left('killed'), ...['kills', 'scripts', 'p50 ms', 'longest ms'].map(right)];
  const cells = results.map(({ victim, kills, sessions, p50Ms, maxMs }) => [
    ...[victim, whole(kills), whole(sessions), whole(p50Ms), whole(maxMs)],
  ]);
  return section('SIGKILL: until the scripts that depended on it go on', table(columns, cells));
}

export function reportMigration(result: Migration): string {
  const columns = ['migrations', 'pause p50 ms', 'p99 ms', 'command p50 ms', 'p99 ms', 'pace ms'].map(right);
  const { migrations, pauseP50Ms, pauseP99Ms, commandP50Ms, commandP99Ms, paceMs } = result;
  const cells = [
    whole(migrations),
    ...[pauseP50Ms, pauseP99Ms, commandP50Ms, commandP99Ms, paceMs].map(millis),
  ];
  return section('Migration by hand of sessions that execute', table(columns, [cells]));
}

export function reportDrain({ sessions, ms, exitCode, moved, succeeded }: Drain): string {
  const columns = ['sessions', 'ms', 'exit code', 'moved', 'ended well'].map(right);
  const cells = [whole(sessions), whole(ms), String(exitCode), whole(moved), whole(succeeded)];
  return section('Drain of a broker whose sessions execute', table(columns, [cells]));
}

/** What a flood costs a tenant that keeps to its share. */
export function reportFairness(rows: readonly FairnessRow[]): string {
  const columns = [left('where'), left('admission')].concat(
    ['alone p50 ms', 'p99 ms', 'flooded p50 ms', 'p99 ms', 'p50 ratio', 'p99 ratio', 'flood req/s'].map(
      right,
    ),
  );
  const cells = rows.map(({ place, admission, alone, flooded, p50Ratio, p99Ratio, sentPerSecond }) => [
    ...[place, admission, millis(alone.p50Ms), millis(alone.p99Ms)],
    ...[millis(flooded.p50Ms), millis(flooded.p99Ms), ratio(p50Ratio), ratio(p99Ratio)],
    whole(sentPerSecond),
  ]);
  return section(
    `A tenant at its share of ${SHARE} simple scripts a second, beside one that floods at ${FLOOD} times that`,
    table(columns, cells),
  );
}

/** Each criterion and whether it was met. Under five rounds the heading says that it proves nothing. */
export function reportVerdicts(verdicts: readonly Verdict[], { rounds, profile }: Settings): string {
  const columns = [left('acceptance'), right('value'), left('bound'), left('met')];
  const word = (met: boolean | undefined) => (met === undefined ? 'not measured' : met ? 'yes' : 'NO');
  const figure = (value: number | undefined) =>
    value === undefined || value >= 100 ? whole(value) : millis(value);
  const cells = verdicts.map(({ claim, value, bound, met }) => [claim, figure(value), bound, word(met)]);
  const hint = profile !== undefined ? 'under the profiler' : rounds < 5 ? `${rounds} rounds, not 5` : '';
  return section(hint === '' ? 'Acceptance' : `Acceptance (a hint only: ${hint})`, table(columns, cells));
}

/** Of each role's CPU per request: packages, then functions by their own time, then ours by all of it. */
export function reportProfiles(profiles: readonly Profiled[], most: number): string {
  return profiles
    .map(({ row, way, role, cpuUs, packages, own, inclusive }) => {
      const lists = [
        ['by package', packages],
        ['own time', own],
        ['with what is called', inclusive],
      ] as const;
      const parts = lists.map(([title, entries]) => {
        const lines = entries
          .slice(0, most)
          .map(({ name, us }) => `    ${us.toFixed(1).padStart(8)}  ${name}`);
        return [`  ${title}`, ...lines].join('\n');
      });
      const title = `${row}, ${way}, ${role}: ${cpuUs.toFixed(0)} µs of CPU per request`;
      return section(title, parts.join('\n'));
    })
    .join('\n');
}
