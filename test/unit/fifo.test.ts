import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { drop, EMPTY, type Fifo, filter, peek, push, values } from '../../actors/fifo.ts';

const of = (...items: readonly number[]): Fifo<number> => items.reduce<Fifo<number>>(push, EMPTY);

describe('a fifo', () => {
  it('is empty at first', () => {
    expect([EMPTY.size, peek(EMPTY), values(EMPTY)]).toEqual([0, undefined, []]);
  });

  it('shows the oldest value and keeps it', () => {
    const queue = of(1, 2, 3);
    expect([peek(queue), peek(queue), queue.size]).toEqual([1, 1, 3]);
  });

  it('drops the oldest value', () => {
    expect(values(drop(of(1, 2, 3)))).toEqual([2, 3]);
  });

  it('stays empty when something is dropped from it', () => {
    expect(drop(EMPTY)).toBe(EMPTY);
  });

  it('is the same queue after a filter that takes nothing away', () => {
    const queue = of(1, 2, 3);
    expect(filter(queue, () => true)).toBe(queue);
  });

  it('holds undefined like any other value', () => {
    const queue = push(push<number | undefined>(EMPTY, undefined), 1);
    expect([queue.size, peek(drop(queue))]).toEqual([2, 1]);
  });

  it('takes a hundred thousand values without deep recursion', () => {
    let queue: Fifo<number> = EMPTY;
    for (let value = 0; value < 100_000; value++) queue = push(queue, value);
    queue = drop(drop(queue));
    expect([queue.size, peek(queue), values(queue).at(-1)]).toEqual([99_998, 2, 99_999]);
  });

  type Operation =
    | { readonly op: 'push'; readonly value: number }
    | { readonly op: 'drop' }
    | { readonly op: 'filter'; readonly divisor: number };
  const operation: fc.Arbitrary<Operation> = fc.oneof(
    { weight: 3, arbitrary: fc.record({ op: fc.constant('push' as const), value: fc.nat(20) }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant('drop' as const) }) },
    fc.record({ op: fc.constant('filter' as const), divisor: fc.integer({ min: 2, max: 5 }) }),
  );

  it('does what an array does, and leaves every earlier queue whole', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        let queue: Fifo<number> = EMPTY;
        let model: readonly number[] = [];
        const earlier: { readonly queue: Fifo<number>; readonly model: readonly number[] }[] = [];
        for (const next of operations) {
          earlier.push({ queue, model });
          if (next.op === 'push') [queue, model] = [push(queue, next.value), [...model, next.value]];
          else if (next.op === 'drop') [queue, model] = [drop(queue), model.slice(1)];
          else {
            const keep = (value: number): boolean => value % next.divisor !== 0;
            [queue, model] = [filter(queue, keep), model.filter(keep)];
          }
          expect([queue.size, peek(queue), values(queue)]).toEqual([model.length, model[0], model]);
        }
        for (const then of earlier) expect(values(then.queue)).toEqual(then.model);
      }),
    );
  });
});
