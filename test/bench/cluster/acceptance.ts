/**
 * The figures that the cluster is held to, and whether this run met them. One whose rows were not measured is left
 * open.
 */
import type { Drain, Migration, Takeover, Victim } from './failures.ts';
import type { FairnessRow, Place } from './fairness.ts';
import type { RowName, Way } from './settings.ts';
import type { Figures, ThroughputRow } from './throughput.ts';

export interface Verdict {
  readonly claim: string;
  readonly bound: string;
  /** Undefined if it was not measured. */
  readonly value: number | undefined;
  readonly met: boolean | undefined;
}

export interface Measured {
  readonly throughput: readonly ThroughputRow[] | undefined;
  readonly takeover: readonly Takeover[] | undefined;
  readonly migration: Migration | undefined;
  readonly drain: Drain | undefined;
  readonly fairness: readonly FairnessRow[] | undefined;
}

const LEAST_RATE: readonly (readonly [RowName, number])[] = [
  ['simple', 1_200],
  ['read', 900],
];
const MOST_P50_MS = 25;
const MOST_P99_MS = 120;
const LEAST_DURABLE: readonly (readonly [Way, number])[] = [
  ['master', 0.7],
  ['replica', 0.5],
];
const MOST_TAKEOVER_MS: readonly (readonly [Victim, number])[] = [
  ['broker', 8_000],
  ['broker, tuned', 3_000],
  ['runtime', 2_000],
];
const MOST_PAUSE_MS = 250;
const MOST_FLOODED = 2;
const PLACES: readonly Place[] = ['embedded', 'cluster'];

/** Judge a run. */
export function judge({
  throughput = [],
  takeover = [],
  migration,
  drain,
  fairness = [],
}: Measured): readonly Verdict[] {
  const find = (row: RowName, way: Way): Figures | undefined =>
    throughput.find((one) => one.row === row)?.ways[way];
  return [
    ...LEAST_RATE.flatMap(([row, rate]) => {
      const sample = find(row, 'stateless')?.sample;
      return [
        atLeast(`requests/s, stateless, ${row}`, rate, sample?.requestsPerSecond),
        atMost(`p50 ms, stateless, ${row}`, MOST_P50_MS, sample?.p50Ms),
        atMost(`p99 ms, stateless, ${row}`, MOST_P99_MS, sample?.p99Ms),
      ];
    }),
    ...LEAST_DURABLE.flatMap(([way, ratio]) =>
      LEAST_RATE.map(([row]) =>
        atLeast(`requests/s, durable / stateless, ack ${way}, ${row}`, ratio, find(row, way)?.toStateless),
      ),
    ),
    ...MOST_TAKEOVER_MS.map(([victim, ms]) =>
      atMost(
        `ms until every script goes on after SIGKILL of a ${victim}`,
        ms,
        takeover.find((one) => one.victim === victim)?.maxMs,
      ),
    ),
    atMost('ms of pause by a migration, p99', MOST_PAUSE_MS, migration?.pauseP99Ms),
    atLeast(
      'share of sessions that a drain moved and whose scripts ended well',
      1,
      drain && Math.min(drain.moved, drain.succeeded) / drain.sessions,
    ),
    ...PLACES.map((where) =>
      atMost(
        `p99 of a tenant beside a flood / alone, recommended admission, ${where}`,
        MOST_FLOODED,
        fairness.find(({ place, admission }) => place === where && admission === 'recommended')?.p99Ratio,
      ),
    ),
  ];
}

function atLeast(claim: string, bound: number, value: number | undefined): Verdict {
  const met = value === undefined ? undefined : value >= bound;
  return { claim, bound: `>= ${bound.toLocaleString('en-US')}`, value, met };
}

function atMost(claim: string, bound: number, value: number | undefined): Verdict {
  const met = value === undefined ? undefined : value <= bound;
  return { claim, bound: `<= ${bound.toLocaleString('en-US')}`, value, met };
}
