/** The table at the end. */
import type { Figure, Series } from './figures.ts';

const MiB = 1024 * 1024;
const BYTES: readonly Figure[] = ['held', 'resident', 'stored'];
const COLUMNS = [
  'process',
  'life',
  'figure',
  'samples',
  'minutes',
  'median',
  'most',
  'growth',
  'allowed',
  '',
];

/** Of each process the life that was looked at for longest, and whatever grows. */
export function table(series: readonly Series[]): string {
  const longest = new Map<string, number>();
  const key = ({ name, figure }: Series): string => `${name} ${figure}`;
  for (const one of series) longest.set(key(one), Math.max(longest.get(key(one)) ?? 0, one.judgement.spanMs));
  const rows = series
    .filter(({ judgement }) => judgement.verdict !== 'short')
    .filter((one) => one.judgement.verdict === 'grows' || longest.get(key(one)) === one.judgement.spanMs)
    .toSorted((one, other) => one.name.localeCompare(other.name))
    .map(({ name, life, figure, judgement }) => {
      const written = (value: number): string =>
        BYTES.includes(figure) ? mebibytes(value) : value.toFixed(1);
      const { samples, spanMs, median, most, growth, allowed, verdict } = judgement;
      return [
        ...[name, String(life), figure, String(samples), (spanMs / 60_000).toFixed(1)],
        ...[median, most, growth, allowed].map(written),
        verdict === 'grows' ? 'GROWS' : '',
      ];
    });
  return columns([COLUMNS, ...rows]);
}

const mebibytes = (bytes: number): string => `${(bytes / MiB).toFixed(1)} MiB`;

function columns(rows: readonly (readonly string[])[]): string {
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column > 2 ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
