/**
 * What the command line chose: how long to measure, and which part of it.
 *
 * `--only` takes names of sides, sections or levels, by commas or given several times; a kind of which no
 * name is given is not narrowed.
 */
import { parseArgs } from 'node:util';
import type { Level, SideName } from './side.ts';

export const SIDES = ['bare', 'ours'] as const satisfies readonly SideName[];
export const SECTIONS = [
  'throughput',
  'start',
  'memory',
  'recycling',
  'flood',
  'durability',
  'hibernation',
] as const;
export const LEVELS = ['execution', 'context', 'realm'] as const satisfies readonly Level[];

export type Section = (typeof SECTIONS)[number];

export interface Settings {
  readonly json: boolean;
  readonly quick: boolean;
  /** Rounds per figure. Default 5, or 3 with `--quick`; at least 1. Under 5 the figures are hints, no more. */
  readonly rounds: number;
  /** Length of one round of load, in ms. */
  readonly sampleMs: number;
  /** Length of one round of the recycling load, in ms: workers are replaced several times in it. */
  readonly recyclingMs: number;
  /** Requests under way at once, a row each. `--quick` leaves out the longest queue. */
  readonly concurrencies: readonly number[];
  /** Length of the load before a row's first round, in ms; not counted. */
  readonly warmupMs: number;
  /** Length of the load before the first row, in ms; not counted. */
  readonly steadyMs: number;
  readonly sides: readonly SideName[];
  readonly sections: readonly Section[];
  readonly levels: readonly Level[];
}

const DEFAULT_ROUNDS = 5;
const QUICK_ROUNDS = 3;

/** Read the command line. Throws on anything unknown, by name. */
export function readSettings(args: readonly string[]): Settings {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      only: { type: 'string', multiple: true, default: [] },
    },
  });
  const rounds = Number(values.rounds ?? (values.quick ? QUICK_ROUNDS : DEFAULT_ROUNDS));
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds: ${values.rounds} is not a count`);
  const names = values.only.flatMap((list) => list.split(','));
  const known: readonly string[] = [...SIDES, ...SECTIONS, ...LEVELS];
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`--only: ${unknown} is none of ${known.join(', ')}`);
  return {
    json: values.json,
    quick: values.quick,
    rounds,
    sampleMs: values.quick ? 80 : 400,
    recyclingMs: values.quick ? 600 : 1000,
    warmupMs: values.quick ? 100 : 300,
    steadyMs: values.quick ? 500 : 2_000,
    concurrencies: values.quick ? [1, 16] : [1, 16, 64],
    sides: narrow(SIDES, names),
    sections: narrow(SECTIONS, names),
    levels: narrow(LEVELS, names),
  };
}

function narrow<T extends string>(all: readonly T[], names: readonly string[]): readonly T[] {
  const chosen = all.filter((name) => names.includes(name));
  return chosen.length === 0 ? all : chosen;
}
