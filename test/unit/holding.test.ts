/** Reports that wait until it is clear whether anybody has a tool. */
import { expect, it } from 'vitest';
import type { Report } from '../../src/protocol.ts';
import { Holding } from '../../src/session/holding.ts';

const report = (attempt: string, n: number): Report => ({
  t: 'report',
  attempt,
  execution: 'e1',
  runtime: 'r1',
  n,
  received: 0,
  items: [],
  waiting: false,
  end: undefined,
});

/** `waits`: reports that have to wait until they are let go. */
function holding(...waits: readonly string[]) {
  const passed: string[] = [];
  const gates = new Map(waits.map((name) => [name, Promise.withResolvers<void>()]));
  const held = new Holding({
    until: ({ attempt, n }) => gates.get(`${attempt}${n}`)?.promise,
    pass: ({ attempt, n }) => void passed.push(`${attempt}${n}`),
  });
  const letGo = async (name: string): Promise<void> => {
    gates.get(name)?.resolve();
    gates.delete(name);
    await new Promise(setImmediate);
  };
  return { held, passed, letGo };
}

it('hands on at once what need not wait', () => {
  const { held, passed } = holding();
  for (const n of [1, 2]) held.take(report('a', n));
  expect(passed).toEqual(['a1', 'a2']);
});

it('keeps the order of an attempt, and lets others pass', async () => {
  const { held, passed, letGo } = holding('a1', 'a3');
  for (const n of [1, 2, 3, 4]) held.take(report('a', n));
  held.take(report('b', 1));
  expect(passed).toEqual(['b1']);
  await letGo('a1');
  expect(passed).toEqual(['b1', 'a1', 'a2']);
  await letGo('a3');
  expect(passed).toEqual(['b1', 'a1', 'a2', 'a3', 'a4']);
  held.take(report('a', 5));
  expect(passed.at(-1)).toBe('a5');
});

it('keeps a hundred, and lets the others be sent again', async () => {
  const { held, passed, letGo } = holding('a1');
  for (let n = 1; n <= 200; n++) held.take(report('a', n));
  await letGo('a1');
  expect(passed).toEqual(Array.from({ length: 101 }, (_, n) => `a${n + 1}`));
});
