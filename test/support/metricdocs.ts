/** METRICS.md, read: its tables against what processes report. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

export interface DocumentedMetric {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly help: string;
  readonly by: readonly string[];
}

export interface DocumentedValue {
  readonly metric: string;
  readonly label: string;
  readonly value: string;
  readonly meaning: string;
}

const TEXT = readFileSync(path.resolve(import.meta.dirname, '../../METRICS.md'), 'utf8');

/** The rows of the table with this head, as their cells. */
function rowsOf(head: string): readonly (readonly string[])[] {
  const [, after] = TEXT.split(`${head}\n`);
  if (after === undefined) throw new Error(`METRICS.md has no table ${head}`);
  const lines = after.split('\n').slice(1);
  return lines.slice(0, lines.indexOf('')).map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim().replaceAll('`', '')),
  );
}

const listOf = (text: string): readonly string[] => (text === '' ? [] : text.split(', '));

export function documentedMetrics(): readonly DocumentedMetric[] {
  return rowsOf('| name | type | labels | meaning | reported by |').map(
    ([name = '', type = '', labels = '', help = '', by = '']) => ({
      name,
      type,
      labels: listOf(labels),
      help,
      by: listOf(by),
    }),
  );
}

export function documentedValues(): readonly DocumentedValue[] {
  return rowsOf('| metric | label | value | meaning |').map(
    ([metric = '', label = '', value = '', meaning = '']) => ({ metric, label, value, meaning }),
  );
}

/** Names of the metrics that a process of this kind reports, as documented. */
export function documentedFor(reporter: string): readonly string[] {
  return documentedMetrics()
    .filter(({ by }) => by.includes(reporter))
    .map(({ name }) => name)
    .toSorted();
}

/** The metrics that a scrape declares. */
export function declaredIn(text: string): readonly string[] {
  return [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name = '']) => name).toSorted();
}
