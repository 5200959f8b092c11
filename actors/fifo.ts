/**
 * A persistent first-in-first-out queue: every operation returns a new queue and leaves the old one whole.
 *
 * Two linked lists, so that adding and taking cost O(1) amortised however long the queue is (Okasaki,
 * "Purely Functional Data Structures", section 5.2).
 */

interface Link<T> {
  readonly value: T;
  readonly next: Link<T> | undefined;
}

export interface Fifo<T> {
  readonly size: number;
  readonly front: Link<T> | undefined;
  /** Newest first. */
  readonly back: Link<T> | undefined;
}

export const EMPTY: Fifo<never> = { size: 0, front: undefined, back: undefined };

/** Add at the end. */
export function push<T>(queue: Fifo<T>, value: T): Fifo<T> {
  return queue.front === undefined
    ? { size: queue.size + 1, front: { value, next: undefined }, back: queue.back }
    : { size: queue.size + 1, front: queue.front, back: { value, next: queue.back } };
}

/** Add before the oldest. */
export function unshift<T>(queue: Fifo<T>, value: T): Fifo<T> {
  return { size: queue.size + 1, front: { value, next: queue.front }, back: queue.back };
}

/** The oldest value, or undefined. */
export function peek<T>(queue: Fifo<T>): T | undefined {
  return queue.front?.value;
}

/** Without the oldest value. */
export function drop<T>(queue: Fifo<T>): Fifo<T> {
  if (queue.front === undefined) return queue;
  const rest = queue.front.next;
  if (rest !== undefined) return { size: queue.size - 1, front: rest, back: queue.back };
  let front: Link<T> | undefined;
  for (let link = queue.back; link !== undefined; link = link.next)
    front = { value: link.value, next: front };
  return { size: queue.size - 1, front, back: undefined };
}

/** All values, oldest first. */
export function values<T>(queue: Fifo<T>): readonly T[] {
  const result: T[] = [];
  for (let link = queue.front; link !== undefined; link = link.next) result.push(link.value);
  const newest: T[] = [];
  for (let link = queue.back; link !== undefined; link = link.next) newest.push(link.value);
  return result.concat(newest.reverse());
}

/** Without the values that do not pass. Costs O(n). */
export function filter<T>(queue: Fifo<T>, keep: (value: T) => boolean): Fifo<T> {
  const kept = values(queue).filter(keep);
  if (kept.length === queue.size) return queue;
  return kept.reduce<Fifo<T>>(push, EMPTY);
}
