/**
 * The ratios that the project holds itself to, and whether this run met them.
 *
 * A criterion is the worst of the rows that it speaks of; one whose rows were not all measured is left open.
 */

import type { Results } from './results.ts';
import { ONE_CALL, type Script, SIMPLE, TEN_CALLS } from './scripts.ts';
import type { Level } from './side.ts';
import type { RowResult } from './throughput.ts';

const LEAST_THROUGHPUT = 0.8;
const LEAST_REALM_GAIN = 3;
const MOST_LATENCY = 1.5;
const LEAST_RECYCLING = 0.8;
const LEAST_DURABLE = 0.6;
const MOST_HIBERNATED_BYTES = 2_048;
const MOST_WAKING_MS = 5;
const LOADED = 16;

export interface Verdict {
  readonly claim: string;
  readonly bound: string;
  /** Undefined if the rows were not measured. */
  readonly ratio: number | undefined;
  readonly met: boolean | undefined;
}

/** Judge a run. */
export function judge(results: Results): readonly Verdict[] {
  const rows = results.throughput ?? [];
  const recycling = results.recycling?.find(({ script }) => script === SIMPLE.name);
  return [
    ...(['execution', 'context'] as const).flatMap((level) =>
      [SIMPLE, ONE_CALL].map((script) =>
        atLeast(
          `requests/s, ours / bare: ${level}, ${script.name}, ${LOADED} at once`,
          LEAST_THROUGHPUT,
          find(rows, level, script, LOADED)?.ratio?.requestsPerSecond,
        ),
      ),
    ),
    atLeast(
      `requests/s, ours, realm / context: simple, ${LOADED} at once`,
      LEAST_REALM_GAIN,
      realmGain(rows),
    ),
    ...(['execution', 'context', 'realm'] as const).map((level) =>
      atMost(
        `p50, ours / bare: ${level}, 1 at once, worst of three scripts`,
        MOST_LATENCY,
        worstP50(rows, level),
      ),
    ),
    atLeast(
      `requests/s, ours, recycling after 50 / never: simple, ${LOADED} at once`,
      LEAST_RECYCLING,
      recycling?.ratio.requestsPerSecond,
    ),
    ...['simple', 'one call, unsafe'].map((script) =>
      atLeast(
        `requests/s, 'session' / 'none': ${script}, ${LOADED} at once`,
        LEAST_DURABLE,
        results.durability?.find((row) => row.script === script)?.durable.requestsPerSecond,
      ),
    ),
    atMost(
      'bytes of a hibernated session beyond what is stored',
      MOST_HIBERNATED_BYTES,
      results.hibernation?.beyondBytes,
    ),
    atMost(
      'ms that waking adds to an execution, medians',
      MOST_WAKING_MS,
      results.hibernation && results.hibernation.wakeMs - results.hibernation.warmMs,
    ),
  ];
}

function find(
  rows: readonly RowResult[],
  level: Level,
  script: Script,
  concurrency: number,
): RowResult | undefined {
  return rows.find(
    (row) => row.level === level && row.script === script.name && row.concurrency === concurrency,
  );
}

function realmGain(rows: readonly RowResult[]): number | undefined {
  const realm = find(rows, 'realm', SIMPLE, LOADED)?.ours;
  const context = find(rows, 'context', SIMPLE, LOADED)?.ours;
  return realm && context && realm.requestsPerSecond / context.requestsPerSecond;
}

function worstP50(rows: readonly RowResult[], level: Level): number | undefined {
  const ratios = [SIMPLE, ONE_CALL, TEN_CALLS].map((script) => find(rows, level, script, 1)?.ratio?.p50);
  const known = ratios.filter((ratio) => ratio !== undefined);
  return known.length === ratios.length ? Math.max(...known) : undefined;
}

function atLeast(claim: string, bound: number, ratio: number | undefined): Verdict {
  return { claim, bound: `>= ${bound}`, ratio, met: ratio === undefined ? undefined : ratio >= bound };
}

function atMost(claim: string, bound: number, ratio: number | undefined): Verdict {
  return { claim, bound: `<= ${bound}`, ratio, met: ratio === undefined ? undefined : ratio <= bound };
}
