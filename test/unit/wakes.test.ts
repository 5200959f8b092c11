import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Wakes } from '../../src/store/wakes.ts';

const fresh = (): { wakeAt: number | undefined; place: number } => ({ wakeAt: undefined, place: -1 });

it('answers as a sorted list does, whatever is set, moved and called off', () => {
  const time = fc.nat({ max: 30 });
  const step = fc.record({ item: fc.nat({ max: 19 }), at: fc.option(time, { nil: undefined }) });
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 200, size: 'max' }),
      time,
      fc.nat({ max: 25 }),
      (steps, now, limit) => {
        const wakes = new Wakes();
        const items = Array.from({ length: 20 }, fresh);
        for (const { item, at } of steps) wakes.set(items[item] ?? fresh(), at);
        const set = items.flatMap(({ wakeAt }) => (wakeAt === undefined ? [] : [wakeAt]));
        const due = set.toSorted((a, b) => a - b).filter((wakeAt) => wakeAt <= now);
        expect(wakes.size).toBe(set.length);
        expect(wakes.due(now, limit).map(({ wakeAt }) => wakeAt)).toEqual(due.slice(0, limit));
        expect(new Set(wakes.due(30, 20)).size).toBe(set.length);
      },
    ),
  );
});

it('holds one entry for each that has a wake, however often it is moved', () => {
  const wakes = new Wakes();
  const items = Array.from({ length: 10 }, fresh);
  for (let n = 0; n < 10_000; n++) wakes.set(items[n % 10] ?? fresh(), (n * 7919) % 10_007);
  expect(wakes.size).toBe(10);
  for (const item of items) wakes.set(item, undefined);
  expect(wakes.size).toBe(0);
  expect(items).toEqual(Array.from({ length: 10 }, fresh));
});
