/**
 * Sessions in the order of their wakes: a binary heap whose members know their place in it. So a wake that is
 * moved or called off costs O(log n) and leaves nothing behind, however often that happens.
 */

/** What can be in the heap: at first without a wake and at place -1. Only the heap writes these two. */
export interface Waking {
  /** When it is due, in ms since the epoch; undefined for never. */
  wakeAt: number | undefined;
  /** Its index in the heap; -1 if it is not in there. */
  place: number;
}

export class Wakes<T extends Waking> {
  readonly #heap: T[] = [];

  /** How many have a wake. */
  get size(): number {
    return this.#heap.length;
  }

  /** Set, move or call off (undefined) the wake of one. */
  set(item: T, wakeAt: number | undefined): void {
    if (item.wakeAt === wakeAt) return;
    item.wakeAt = wakeAt;
    if (wakeAt === undefined) return this.#remove(item);
    if (item.place < 0) this.#heap.push(item);
    this.#settle(item, item.place < 0 ? this.#heap.length - 1 : item.place);
  }

  /** Those due at `now`, the earliest first, `limit` at most. Costs O(limit log limit), however many there are. */
  due(now: number, limit: number): readonly T[] {
    const found: T[] = [];
    // A child is never due before its parent: the next one is a child of one that was found already.
    const next = new Wakes<Candidate<T>>();
    const consider = (place: number): void => {
      const item = this.#heap[place];
      if (item !== undefined && timeOf(item) <= now)
        next.set({ item, wakeAt: undefined, place: -1 }, timeOf(item));
    };
    consider(0);
    while (found.length < limit) {
      const earliest = next.#heap[0];
      if (earliest === undefined) break;
      next.set(earliest, undefined);
      found.push(earliest.item);
      consider(2 * earliest.item.place + 1);
      consider(2 * earliest.item.place + 2);
    }
    return found;
  }

  #remove(item: T): void {
    const { place } = item;
    const last = this.#heap.pop();
    item.place = -1;
    if (last !== undefined && last !== item) this.#settle(last, place);
  }

  /** Move one from a free place, or its own, to where it belongs. */
  #settle(item: T, from: number): void {
    const up = this.#rise(item, from);
    this.#put(item, up === from ? this.#sink(item, from) : up);
  }

  /** Make room for it above `from`, and answer where. */
  #rise(item: T, from: number): number {
    let place = from;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = this.#heap[above];
      if (parent === undefined || timeOf(parent) <= timeOf(item)) break;
      this.#put(parent, place);
      place = above;
    }
    return place;
  }

  /** Make room for it below `from`, and answer where. */
  #sink(item: T, from: number): number {
    let place = from;
    for (;;) {
      const left = this.#heap[2 * place + 1];
      const right = this.#heap[2 * place + 2];
      const child = left !== undefined && right !== undefined && timeOf(right) < timeOf(left) ? right : left;
      if (child === undefined || timeOf(child) >= timeOf(item)) return place;
      const below = child.place;
      this.#put(child, place);
      place = below;
    }
  }

  #put(item: T, place: number): void {
    this.#heap[place] = item;
    item.place = place;
  }
}

interface Candidate<T> extends Waking {
  readonly item: T;
}

function timeOf({ wakeAt }: Waking): number {
  return wakeAt ?? Number.POSITIVE_INFINITY;
}
