/**
 * What the command line chose: how long to measure, and which part of it.
 *
 * `--only` takes names of sections, rows or ways, by commas or given several times; a kind of which no name is given
 * is not narrowed.
 */
import { parseArgs } from 'node:util';

export const SECTIONS = ['throughput', 'takeover', 'migration', 'drain', 'fairness'] as const;
export const ROWS = ['simple', 'read', 'unsafe'] as const;
/** What requests go to: the first four are there to be compared with. */
export const WAYS = ['nats', 'commits', 'enclave', 'memory', 'stateless', 'master', 'replica'] as const;

export type Section = (typeof SECTIONS)[number];
export type RowName = (typeof ROWS)[number];
export type Way = (typeof WAYS)[number];

export interface Settings {
  readonly json: boolean;
  readonly quick: boolean;
  /** Rounds per figure. Default 5, or 2 with `--quick`; at least 1. Under 5 the figures are hints, no more. */
  readonly rounds: number;
  /** Length of one round of load, in ms. */
  readonly sampleMs: number;
  /** Length of the load on each way before a row's first round, in ms; not counted. */
  readonly warmupMs: number;
  /** Kills per kind of process. */
  readonly kills: number;
  /** Sessions moved by hand. */
  readonly migrations: number;
  /** Sessions of the broker that is drained. */
  readonly drained: number;
  /** Where CPU profiles go. Default: none are made. */
  readonly profile: string | undefined;
  readonly sections: readonly Section[];
  readonly rows: readonly RowName[];
  readonly ways: readonly Way[];
}

const DEFAULT_ROUNDS = 5;
const QUICK_ROUNDS = 2;

/** Read the command line. Throws on anything unknown, by name. */
export function readSettings(args: readonly string[]): Settings {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      profile: { type: 'string' },
      only: { type: 'string', multiple: true, default: [] },
    },
  });
  const { quick, json, profile } = values;
  const rounds = Number(values.rounds ?? (quick ? QUICK_ROUNDS : DEFAULT_ROUNDS));
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds: ${values.rounds} is not a count`);
  const names = values.only.flatMap((list) => list.split(','));
  const known: readonly string[] = [...SECTIONS, ...ROWS, ...WAYS];
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`--only: ${unknown} is none of ${known.join(', ')}`);
  return {
    json,
    quick,
    rounds,
    sampleMs: quick ? 500 : 2_000,
    warmupMs: quick ? 1_000 : 3_000,
    kills: quick ? 1 : 3,
    migrations: quick ? 20 : 100,
    drained: quick ? 50 : 200,
    profile,
    sections: narrow(SECTIONS, names),
    rows: narrow(ROWS, names),
    ways: narrow(WAYS, names),
  };
}

function narrow<T extends string>(all: readonly T[], names: readonly string[]): readonly T[] {
  const chosen = all.filter((name) => names.includes(name));
  return chosen.length === 0 ? all : chosen;
}
