import { describe, expect, it } from 'vitest';
import { isTooDeep, MAX_NESTING } from '../../actors/nesting.ts';

const arrays = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
const objects = (depth: number): string => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
/** So long that it is looked through. */
const LONG = 'x'.repeat(3 * MAX_NESTING);

describe('JSON', () => {
  it.each([
    ['arrays', arrays],
    ['objects', objects],
  ])('may be nested as deep as the limit, with %s', (_, made) => {
    expect(isTooDeep(made(MAX_NESTING))).toBe(false);
    expect(isTooDeep(made(MAX_NESTING + 1))).toBe(true);
    expect(isTooDeep(made(100_000))).toBe(true);
  });

  it('may be as wide as it likes', () => {
    expect(isTooDeep(JSON.stringify(Array.from({ length: 5_000 }, () => [{}, []])))).toBe(false);
  });

  it.each([
    ['brackets', '['.repeat(5_000)],
    ['a quote', `${LONG}"${'['.repeat(5_000)}`],
    ['a backslash before a quote', `${LONG}\\"${'{'.repeat(5_000)}`],
    ['a backslash at its end', `${LONG}\\`],
    ['two backslashes at its end', `${LONG}\\\\`],
  ])('may have texts with %s', (_, text) => {
    expect(isTooDeep(JSON.stringify([text, { [text]: text }]))).toBe(false);
    expect(isTooDeep(`[${JSON.stringify(text)},${arrays(MAX_NESTING)}]`)).toBe(true);
  });

  it('is judged in linear time, whatever is in its texts', () => {
    const escapes = JSON.stringify('\\"'.repeat(500_000));
    expect(isTooDeep(`[${escapes}]`)).toBe(false);
    expect(isTooDeep(`"${'\\'.repeat(2_000_000)}`)).toBe(false);
  });
});
