/** Where an attempt runs. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sameVersions } from '../../actors/attempt.ts';
import { choose, type RuntimeView, type Wanted } from '../../actors/placement.ts';
import { runtime, VERSIONS } from '../support/session.ts';

const ANY: Wanted = { labels: {}, versions: undefined, prefer: undefined, avoid: undefined };
const chosen = (runtimes: readonly RuntimeView[], wanted: Partial<Wanted> = {}): string | undefined =>
  choose(runtimes, { ...ANY, ...wanted })?.id;

describe('the runtime that is chosen', () => {
  it('has the most room', () => {
    const runtimes = [runtime('r1', { free: 2 }), runtime('r2', { free: 5 }), runtime('r3', { free: 3 })];
    expect(chosen(runtimes)).toBe('r2');
  });

  it('is the first of those with equal room', () => {
    expect(chosen([runtime('r1'), runtime('r2')])).toBe('r1');
  });

  it.each([0, -1])('is never one with %d places free', (free) => {
    expect(chosen([runtime('r1', { free })], { prefer: 'r1' })).toBeUndefined();
  });

  it('is never one that drains', () => {
    expect(chosen([runtime('r1', { draining: true })], { prefer: 'r1' })).toBeUndefined();
  });

  it('has all the labels that are wanted, and may have more', () => {
    const runtimes = [
      runtime('r1', { labels: { region: 'eu' } }),
      runtime('r2', { labels: { region: 'us', disk: 'ssd', zone: 'a' } }),
      runtime('r3', { labels: { region: 'us' }, free: 9 }),
    ];
    expect(chosen(runtimes, { labels: { region: 'us', disk: 'ssd' } })).toBe('r2');
    expect(chosen(runtimes, { labels: { region: 'asia' } })).toBeUndefined();
  });

  it('is not fooled by labels that every object has', () => {
    expect(chosen([runtime('r1')], { labels: { constructor: 'x' } })).toBeUndefined();
  });

  it('is the one that it ran on last, if that has room', () => {
    const runtimes = [runtime('r1', { free: 9 }), runtime('r2', { free: 1 })];
    expect(chosen(runtimes, { prefer: 'r2' })).toBe('r2');
    expect(chosen([runtime('r1'), runtime('r2', { free: 0 })], { prefer: 'r2' })).toBe('r1');
    expect(chosen(runtimes, { prefer: 'r7' })).toBe('r1');
  });

  it('is one to be avoided only if there is no other', () => {
    const runtimes = [runtime('r1', { free: 9 }), runtime('r2', { free: 1 })];
    expect(chosen(runtimes, { avoid: 'r1' })).toBe('r2');
    expect(chosen(runtimes, { avoid: 'r1', prefer: 'r1' })).toBe('r2');
    expect(chosen([runtime('r1')], { avoid: 'r1' })).toBe('r1');
  });

  it.each(['engine', 'prelude', 'stripper'] as const)('has the same %s as what is replayed', (part) => {
    const other = { ...VERSIONS, [part]: 'other' };
    expect(sameVersions(other, VERSIONS)).toBe(false);
    const runtimes = [runtime('r1', { versions: other, free: 9 }), runtime('r2')];
    expect(chosen(runtimes, { versions: VERSIONS })).toBe('r2');
    expect(chosen(runtimes.slice(0, 1), { versions: VERSIONS })).toBeUndefined();
    expect(chosen(runtimes)).toBe('r1');
  });

  it('may be one that has not told its versions', () => {
    expect(chosen([runtime('r1', { versions: undefined })], { versions: VERSIONS })).toBe('r1');
  });
});

describe('among any runtimes', () => {
  const anyLabels = fc.dictionary(fc.constantFrom('a', 'b'), fc.constantFrom('1', '2'));
  const anyVersions = fc.option(
    fc.constantFrom('v1', 'v2').map((engine) => ({ ...VERSIONS, engine })),
    { nil: undefined },
  );
  const anyId = fc.constantFrom('r0', 'r1', 'r2', 'r3', 'r4');
  const anyRuntimes = fc.uniqueArray(
    fc.record({
      id: anyId,
      labels: anyLabels,
      free: fc.integer({ min: -2, max: 4 }),
      draining: fc.boolean(),
      versions: anyVersions,
    }),
    { selector: ({ id }) => id },
  );
  const anyWanted = fc.record({
    labels: anyLabels,
    versions: anyVersions,
    prefer: fc.option(anyId, { nil: undefined }),
    avoid: fc.option(anyId, { nil: undefined }),
  });

  const suits = (one: RuntimeView, wanted: Wanted): boolean =>
    !one.draining &&
    one.free > 0 &&
    Object.keys(wanted.labels).every((key) => one.labels[key] === wanted.labels[key]) &&
    (one.versions === undefined ||
      wanted.versions === undefined ||
      one.versions.engine === wanted.versions.engine);

  it('one that fits is chosen if there is one, and never another; order decides between equals only', () => {
    fc.assert(
      fc.property(anyRuntimes, anyWanted, (runtimes, wanted) => {
        const fitting = runtimes.filter((one) => suits(one, wanted));
        const best = choose(runtimes, wanted);
        expect(best === undefined).toBe(fitting.length === 0);
        if (best === undefined) return;
        expect(fitting).toContain(best);
        const rank = (one: RuntimeView | undefined): string =>
          `${one?.id === wanted.avoid} ${one?.id !== wanted.prefer}`;
        expect([rank(best)]).toEqual(fitting.map(rank).toSorted().slice(0, 1));
        const equals = fitting.filter((one) => rank(one) === rank(best));
        expect(best.free).toBe(Math.max(...equals.map(({ free }) => free)));
        const backwards = choose(runtimes.toReversed(), wanted);
        expect([rank(backwards), backwards?.free]).toEqual([rank(best), best.free]);
      }),
      { numRuns: 2_000 },
    );
  });
});
