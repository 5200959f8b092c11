import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  EMPTY_FAIR,
  enqueue,
  type FairQueue,
  head,
  itemsOf,
  pushedOut,
  putBack,
  serve,
  serveFitting,
  waitingOf,
  without,
} from '../../actors/fairqueue.ts';

/** `a1` is the item 1 of the flow `a`. */
const flowOf = (item: string): string => item.slice(0, 1);

function filled(items: readonly string[], weights: Readonly<Record<string, number>> = {}): FairQueue<string> {
  return items.reduce<FairQueue<string>>(
    (queue, item) => enqueue(queue, flowOf(item), weights[flowOf(item)] ?? 1, item),
    EMPTY_FAIR,
  );
}

function served(queue: FairQueue<string>, most = Number.POSITIVE_INFINITY): readonly string[] {
  const items: string[] = [];
  let rest = queue;
  for (let next = head(rest); next !== undefined && items.length < most; next = head(rest)) {
    items.push(next);
    rest = serve(rest);
  }
  return items;
}

const many = (flow: string, count: number): readonly string[] =>
  Array.from({ length: count }, (_, index) => `${flow}${index}`);

const countOf = (items: readonly string[], flow: string): number =>
  items.filter((item) => flowOf(item) === flow).length;

describe('a fair queue', () => {
  it('serves a flow of weight 3 three times as often as one of weight 1, and not all at once', () => {
    const queue = filled([...many('a', 40), ...many('b', 40)], { a: 1, b: 3 });
    const first = served(queue, 40);
    expect([countOf(first, 'a'), countOf(first, 'b')]).toEqual([10, 30]);
    for (let from = 0; from + 8 <= 40; from += 4)
      expect(countOf(first.slice(from, from + 8), 'a')).toBeGreaterThanOrEqual(1);
  });

  it('serves one that comes alone at once, however many of another wait', () => {
    let queue = filled(many('a', 1_000));
    for (let n = 0; n < 100; n++) queue = serve(queue);
    queue = enqueue(queue, 'b', 1, 'b0');
    expect(served(queue, 2)).toContain('b0');
  });

  it('gives nothing for the time in which a flow had nothing waiting', () => {
    let queue = filled([...many('a', 200), 'b0']);
    for (let n = 0; n < 100; n++) queue = serve(queue);
    for (const item of many('b', 100)) queue = enqueue(queue, 'b', 1, item);
    const next = served(queue, 40);
    expect(countOf(next, 'b')).toBeLessThanOrEqual(21);
  });

  it('does not let a light flow have more by coming back each time it was served', () => {
    let queue = filled(many('a', 1_000));
    let ofLight = 0;
    for (let n = 0; n < 220; n++) {
      if (waitingOf(queue, 'b') === 0) queue = enqueue(queue, 'b', 0.1, `b${n}`);
      if (flowOf(head(queue) ?? '') === 'b') ofLight++;
      queue = serve(queue);
    }
    expect(ofLight).toBeLessThanOrEqual(21);
    expect(ofLight).toBeGreaterThanOrEqual(19);
  });

  it('passes over what does not fit and serves what does', () => {
    const queue = filled(['a1', 'a2', 'b1']);
    const [item, rest] = serveFitting(queue, (each) => each === 'a2') ?? [];
    expect(item).toBe('a2');
    expect(itemsOf(rest ?? EMPTY_FAIR)).toEqual(['a1', 'b1']);
    expect(serveFitting(queue, () => false)).toBeUndefined();
  });

  it('serves next what was put back, and does not count it', () => {
    const queue = filled(['a1', 'a2', 'b1', 'b2']);
    const back = putBack(serve(queue), 'a', 1, 'a1');
    expect(served(back)).toEqual(served(queue));
  });

  it('makes room by the last of the flow that has most for its weight', () => {
    const queue = filled(['a1', 'a2', 'a3', 'b1', 'b2', 'b3', 'b4'], { b: 4 });
    const anyone = (): boolean => true;
    expect(pushedOut(queue, 'c', 1, anyone)).toBe('a3');
    expect(pushedOut(queue, 'c', 1, (item) => item !== 'a3')).toBe('a2');
    expect(pushedOut(queue, 'a', 1, anyone)).toBeUndefined();
    expect(pushedOut(queue, 'b', 4, anyone)).toBe('a3');
    expect(pushedOut(filled(['a1']), 'c', 1, anyone)).toBeUndefined();
  });

  it('is the same queue when nothing of it goes', () => {
    const queue = filled(['a1']);
    expect(without(queue, () => false)).toBe(queue);
    expect(serve(EMPTY_FAIR)).toBe(EMPTY_FAIR);
  });

  it('serves in the end what waits, though new flows come all the while', () => {
    let queue = filled(many('a', 5));
    let ofA = 0;
    for (let n = 0; n < 40; n++) {
      if (flowOf(head(queue) ?? '') === 'a') ofA++;
      queue = enqueue(serve(queue), `new${n}`, 1, `x${n}`);
    }
    expect(ofA).toBe(5);
  });

  it('forgets flows of which nothing is to be known', () => {
    let queue = filled(many('a', 3));
    for (let n = 0; n < 500; n++) queue = enqueue(serve(queue), `f${n}`, 1, `x${n}`);
    expect(Object.keys(queue.flows).length).toBeLessThan(140);
  });

  const flow = fc.constantFrom('a', 'b', 'c', 'd');
  type Step = { readonly op: 'in'; readonly flow: string } | { readonly op: 'out' };
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ op: fc.constant('in' as const), flow }),
    fc.record({ op: fc.constant('out' as const) }),
  );
  const weights = fc.record({
    a: fc.integer({ min: 1, max: 8 }),
    b: fc.integer({ min: 1, max: 8 }),
    c: fc.integer({ min: 1, max: 8 }),
    d: fc.integer({ min: 1, max: 8 }),
  });

  it('is work-conserving, keeps the order within a flow and starves nobody, whatever comes', () => {
    fc.assert(
      fc.property(weights, fc.array(step, { maxLength: 120 }), (of, steps) => {
        let queue: FairQueue<string> = EMPTY_FAIR;
        const model = new Map<string, string[]>();
        /** Served of others, each divided by its weight, since the first of a flow began to wait. */
        const passed = new Map<string, Map<string, number>>();
        let count = 0;
        for (const each of steps) {
          if (each.op === 'in') {
            const item = `${each.flow}${count++}`;
            queue = enqueue(queue, each.flow, of[each.flow as 'a'], item);
            const waiting = model.get(each.flow);
            if (waiting === undefined) {
              model.set(each.flow, [item]);
              passed.set(each.flow, new Map());
            } else waiting.push(item);
          } else {
            const next = head(queue);
            queue = serve(queue);
            expect(next !== undefined).toBe(model.size > 0); // F4
            if (next === undefined) continue;
            const name = flowOf(next);
            expect(model.get(name)?.shift()).toBe(next); // F1
            if (model.get(name)?.length === 0) model.delete(name);
            passed.set(name, new Map());
            for (const other of model.keys()) {
              if (other === name) continue;
              const by = passed.get(other) as Map<string, number>;
              const had = (by.get(name) ?? 0) + 1;
              by.set(name, had);
              // F2: while one waits, another gets no more than its share of that wait, and one item.
              expect(had / of[name as 'a']).toBeLessThanOrEqual(1 / of[other as 'a'] + 2 / of[name as 'a']);
            }
          }
          expect(itemsOf(queue).toSorted()).toEqual([...model.values()].flat().toSorted());
          expect(queue.size).toBe([...model.values()].flat().length);
        }
      }),
    );
  });

  it('shares by weight while all have something waiting', () => {
    fc.assert(
      fc.property(weights, fc.integer({ min: 1, max: 60 }), (of, most) => {
        const names = ['a', 'b', 'c', 'd'] as const;
        const all = served(
          filled(
            names.flatMap((name) => many(name, 60)),
            of,
          ),
          most,
        );
        for (const one of names)
          for (const other of names) {
            const apart = countOf(all, one) / of[one] - countOf(all, other) / of[other];
            expect(Math.abs(apart)).toBeLessThanOrEqual(1 / of[one] + 1 / of[other] + 1e-9); // F2
          }
      }),
    );
  });
});
