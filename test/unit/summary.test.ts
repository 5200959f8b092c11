/** What a run of the tests says at its end. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Counted, MAY_BE_SKIPPED, summaryOf } from '../summary.ts';

const [allowed = ''] = Object.keys(MAY_BE_SKIPPED);
const RAN: readonly Counted[] = [
  { name: 'a > one', state: 'passed' },
  { name: 'a > two', state: 'failed' },
  { name: 'b > three', state: 'passed' },
];
const SKIPPED: Counted = { name: 'c > four', state: 'skipped' };
const EXCUSED: Counted = { name: allowed, state: 'skipped' };

describe('the summary', () => {
  it('ends with what passed and failed, after what was skipped', () => {
    expect(summaryOf(RAN, { mustRun: true })).toEqual({
      lines: ['0 skipped', '2 passed, 1 failed'],
      fails: false,
    });
    expect(summaryOf([...RAN, SKIPPED], { mustRun: false })).toEqual({
      lines: ['skipped: c > four (not in CI)', '1 skipped', '2 passed, 1 failed'],
      fails: false,
    });
  });

  it('counts a skipped test as failed where it must run, unless there is a reason', () => {
    const { lines, fails } = summaryOf([...RAN, SKIPPED, EXCUSED], { mustRun: true });
    expect(fails).toBe(true);
    expect(lines[0]).toBe('skipped: c > four (it must run here)');
    expect(lines[1]).toBe(`skipped: ${allowed} (${MAY_BE_SKIPPED[allowed]})`);
    expect(lines.slice(2)).toEqual(['2 skipped', '2 passed, 2 failed']);
    expect(summaryOf([...RAN, EXCUSED], { mustRun: true }).fails).toBe(false);
  });

  it.each(Object.keys(MAY_BE_SKIPPED))('excuses tests that there are: %s', (name) => {
    const [file = '', ...titles] = name.split(' > ');
    const full = path.join(import.meta.dirname, '../..', file);
    expect(existsSync(full)).toBe(true);
    for (const title of titles) expect(readFileSync(full, 'utf8')).toContain(`'${title}'`);
  });
});
