/**
 * Aligned text tables, and figures as people read them.
 */

export interface Column {
  readonly title: string;
  /** Default: right, as figures are. */
  readonly align?: 'left' | 'right';
}

const GAP = '  ';
/** What stands where nothing was measured. */
const NONE = '–';
const MIB = 1024 * 1024;

/** Lay out rows under their headings; every row has a cell per column. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map(({ title }, index) =>
    Math.max(title.length, ...rows.map((row) => row[index]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    columns
      .map(({ align }, index) => {
        const cell = cells[index] ?? '';
        const width = widths[index] ?? 0;
        return align === 'left' ? cell.padEnd(width) : cell.padStart(width);
      })
      .join(GAP)
      .trimEnd();
  const rule = widths.map((width) => '-'.repeat(width)).join(GAP);
  return [line(columns.map(({ title }) => title)), rule, ...rows.map(line)].join('\n');
}

/** A whole number with thousands separated: `12,345`. */
export function whole(value: number | undefined): string {
  return value === undefined ? NONE : Math.round(value).toLocaleString('en-US');
}

/** Milliseconds, without the unit, in two decimals: `1.25`. */
export function millis(value: number | undefined): string {
  return value === undefined ? NONE : value.toFixed(2);
}

/** A ratio in two decimals: `0.93x`. */
export function ratio(value: number | undefined): string {
  return value === undefined ? NONE : `${value.toFixed(2)}x`;
}

/** Bytes as MiB, without the unit, in one decimal: `64.0`. */
export function mebibytes(value: number | undefined): string {
  return value === undefined ? NONE : (value / MIB).toFixed(1);
}
