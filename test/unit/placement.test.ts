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

  it('by turns is the one that has waited longest for an offer, wherever it ran last', () => {
    const runtimes = [
      runtime('r1', { turn: 3, free: 9 }),
      runtime('r2', { turn: 1, free: 1 }),
      runtime('r3', { turn: 2 }),
    ];
    expect(chosen(runtimes, { by: 'turns', prefer: 'r1' })).toBe('r2');
    expect(chosen(runtimes, { by: 'turns', avoid: 'r2' })).toBe('r3');
    expect(chosen([...runtimes, runtime('r4')], { by: 'turns' })).toBe('r4');
    expect(chosen(runtimes)).toBe('r1');
  });

  it('by turns has the most room of those that had none yet', () => {
    expect(chosen([runtime('r1', { free: 1 }), runtime('r2', { free: 3 })], { by: 'turns' })).toBe('r2');
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
      turn: fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined }),
    }),
    { selector: ({ id }) => id },
  );
  const anyWanted = fc.record({
    labels: anyLabels,
    versions: anyVersions,
    prefer: fc.option(anyId, { nil: undefined }),
    avoid: fc.option(anyId, { nil: undefined }),
    by: fc.constantFrom('room' as const, 'turns' as const),
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
        const second = (one: RuntimeView | undefined): unknown =>
          wanted.by === 'turns' ? (one?.turn ?? 0) : one?.id !== wanted.prefer;
        const rank = (one: RuntimeView | undefined): string =>
          `${one?.id === wanted.avoid} ${String(second(one))}`;
        expect([rank(best)]).toEqual(fitting.map(rank).toSorted().slice(0, 1));
        const equals = fitting.filter((one) => rank(one) === rank(best));
        expect(best.free).toBe(Math.max(...equals.map(({ free }) => free)));
        const backwards = choose(runtimes.toReversed(), wanted);
        expect([rank(backwards), backwards?.free]).toEqual([rank(best), best.free]);
      }),
      { numRuns: 2_000 },
    );
  });

  /** Offers made one after the other, as a broker counts them. */
  function offers(runtimes: readonly RuntimeView[], count: number): Map<string, number> {
    let views = runtimes;
    const got = new Map(runtimes.map(({ id }) => [id, 0]));
    for (let turn = 1; turn <= count; turn++) {
      const best = choose(views, { ...ANY, by: 'turns', prefer: 'r0' });
      if (best === undefined) break;
      got.set(best.id, (got.get(best.id) ?? 0) + 1);
      views = views.map((one) => (one === best ? { ...one, turn, free: one.free - 1 } : one));
    }
    return got;
  }

  it('turns are even: nobody with room is two offers behind another', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ free: fc.integer({ min: 0, max: 6 }), draining: fc.boolean() }), {
          maxLength: 6,
        }),
        fc.nat(40),
        (rooms, count) => {
          const runtimes = rooms.map((room, index) => runtime(`r${index}`, room));
          const got = offers(runtimes, count);
          const most = Math.max(0, ...got.values());
          const places = rooms.reduce((sum, { free, draining }) => sum + (draining ? 0 : free), 0);
          expect([...got.values()].reduce((sum, each) => sum + each, 0)).toBe(Math.min(count, places));
          for (const { id, free, draining } of runtimes) {
            const mine = got.get(id) ?? 0;
            expect(mine).toBeLessThanOrEqual(draining ? 0 : free);
            if (!draining && mine < free) expect(mine).toBeGreaterThanOrEqual(most - 1);
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });

  it('turns stay even between two that fit the same, whatever a third one fits', () => {
    let views = [
      runtime('a', { labels: { zone: '1' }, free: 1_000 }),
      runtime('b', { labels: { zone: '1' }, free: 1_000 }),
      runtime('c', { labels: { zone: '2' }, free: 1_000 }),
    ];
    const got: Record<string, number> = { a: 0, b: 0, c: 0 };
    for (let turn = 1; turn <= 300; turn++) {
      const labels: Record<string, string> = turn % 2 === 0 ? { zone: '1' } : {};
      const best = choose(views, { ...ANY, labels, by: 'turns' });
      if (best === undefined) expect.fail('none was chosen');
      got[best.id] = (got[best.id] ?? 0) + 1;
      views = views.map((one) => (one.id === best.id ? { ...one, turn } : one));
    }
    const { a = 0, b = 0, c = 0 } = got;
    expect(Math.abs(a - b)).toBeLessThanOrEqual(1);
    expect([a + b + c, c > 50]).toEqual([300, true]);
  });
});
