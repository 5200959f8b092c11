/**
 * Virtual time, and what is to happen in it. Everything that is not within one turn of one process is a task here.
 *
 * Invariants:
 *  S1  Time never goes back; it moves to the time of the task that is run.
 *  S2  Of the tasks due at one time any may be next: chance decides, by the seed.
 *  S3  A task of a process that is gone is never run; one of a process that stands still waits until it goes on.
 */
import type { Random } from './random.ts';

/** Whose task it is. */
export interface Owner {
  readonly alive: boolean;
  readonly paused: boolean;
  /** Tasks that came due while it stood still. */
  readonly backlog: Task[];
}

export interface Task {
  due: number;
  tie: number;
  readonly owner: Owner | undefined;
  /** Undefined once called off. */
  act: (() => void) | undefined;
}

export class Scheduler {
  readonly #random: Random;
  readonly #heap: Task[] = [];
  /** In whole ms from the start of the run. */
  now = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  get size(): number {
    return this.#heap.length;
  }

  /** Do something in so many ms, on behalf of a process or of the world. */
  after(ms: number, owner: Owner | undefined, act: () => void): Task {
    const task: Task = { due: Math.ceil(this.now + Math.max(0, ms)), tie: this.#random.next(), owner, act };
    this.#push(task);
    return task;
  }

  /** Let what waited for a process happen: all of it is late. */
  release(tasks: readonly Task[]): void {
    for (const task of tasks) {
      if (task.act === undefined) continue;
      task.due = Math.max(task.due, this.now);
      task.tie = this.#random.next();
      this.#push(task);
    }
  }

  /** Run one task. False if there is none. */
  step(): boolean {
    for (let task = this.#pop(); task !== undefined; task = this.#pop()) {
      const { act, owner } = task;
      if (act === undefined || owner?.alive === false) continue; // S3
      if (task.due > this.now) this.now = task.due; // S1
      if (owner?.paused === true) {
        owner.backlog.push(task); // S3
        continue;
      }
      task.act = undefined;
      act();
      return true;
    }
    return false;
  }

  #push(task: Task): void {
    const heap = this.#heap;
    let place = heap.length;
    heap.push(task);
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = heap[above] as Task;
      if (!before(task, parent)) break;
      heap[place] = parent;
      place = above;
    }
    heap[place] = task;
  }

  #pop(): Task | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || last === first) return first;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      const left = heap[child];
      if (left === undefined) break;
      const right = heap[child + 1];
      if (right !== undefined && before(right, left)) child++;
      const least = heap[child] as Task;
      if (!before(least, last)) break;
      heap[place] = least;
      place = child;
    }
    heap[place] = last;
    return first;
  }
}

/** S2. Equal ties are as likely as a collision of 32 bits, and then the heap's own order is as good as any. */
function before(one: Task, other: Task): boolean {
  return one.due < other.due || (one.due === other.due && one.tie < other.tie);
}
