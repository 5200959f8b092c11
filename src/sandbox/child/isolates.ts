/**
 * The isolates of one worker: made ahead while it is idle, kept warm per tenant, let go when they are due.
 *
 * Invariants:
 *  C1  An isolate that ran a tenant's script serves no other tenant, ever.
 *  C2  Several executions are in one isolate only if they are one tenant's, at level 'context', on the worker's
 *      own thread: each has a context of its own, and entries follow one another.
 *  C3  After a fault (time, memory, preemption) an isolate is thrown away with everything in it.
 *  C4  Kept isolates are bounded in number and in bytes; the least recently used goes first.
 *  C5  A context that cannot be made costs the isolate it was to be in, never the process: the scripts inside may
 *      have filled it, and then making a context is what V8 throws the isolate away for.
 */
import ivm from 'isolated-vm';
import { ENTER, PRELUDE, WARM_UP } from '../guest/prelude.ts';
import type { Isolation } from '../messages.ts';

const MiB = 1024 * 1024;

/** The only way into a guest: see guest/execution.ts. */
export type Enter = ivm.Reference<(...args: EntryArgument[]) => string>;

/** What an entry may hand over. */
export type EntryArgument = string | number | boolean | undefined | ivm.Callback;

/** Who is in an isolate. */
export interface Occupant {
  /** The script asks the host for something while it runs. */
  readonly onCall: (op: string, text: string) => string;
  /** V8 gave up on the isolate. */
  readonly onCatastrophe: () => void;
  /** Another occupant's fault took the isolate away. */
  readonly onEvicted: () => void;
}

/** An isolate. */
export interface Cell {
  readonly isolate: ivm.Isolate;
  readonly limitMiB: number;
  readonly hard: boolean;
  /** Its scripts have a `state`: a hardened global cannot get one later, nor lose it. Tells nothing unless `hard`. */
  stateful: boolean;
  /** The guest's one call to the host; it reaches whoever is being entered. */
  readonly call: ivm.Callback;
  /** Whose scripts run in it; undefined while it is blank. */
  tenant: string | undefined;
  readonly occupants: Set<Occupant>;
  /** Who was entered last. */
  current: Occupant | undefined;
  /** A room made ahead; at level 'realm' the one room there is. */
  spare: Room | undefined;
  /** Takes no more occupants: its heap is too full. */
  full: boolean;
  /** Heap in use when last measured, in bytes. */
  heap: number;
}

/** A context in an isolate, ready for one script. */
export interface Room {
  readonly cell: Cell;
  readonly context: ivm.Context;
  readonly enter: Enter;
}

export interface IsolateCacheOptions {
  /** Most isolates kept while nobody is in them. */
  readonly maxWarm: number;
  /** Most heap of those, in bytes. */
  readonly budgetBytes: number;
}

export class IsolateCache {
  readonly #options: IsolateCacheOptions;
  readonly #snapshot: ivm.ExternalCopy<ArrayBuffer>;
  /** Isolates of tenants, least recently used first. */
  #cells: Cell[] = [];
  #blank: Cell | undefined;
  /** The kind of isolate to make ahead: that of the last request for a fresh one. */
  #wanted: { readonly limitMiB: number; readonly hard: boolean } = { limitMiB: 64, hard: false };

  constructor(options: IsolateCacheOptions) {
    this.#options = options;
    this.#snapshot = ivm.Isolate.createSnapshot([{ code: PRELUDE, filename: 'guest' }], WARM_UP);
  }

  /** A room for one execution. `alone`: in an isolate with nobody else (C2). */
  acquire(
    isolation: Isolation,
    tenant: string,
    memoryBytes: number,
    alone: boolean,
    stateful: boolean,
    occupant: Occupant,
  ): Room {
    const limitMiB = Math.max(8, Math.ceil(memoryBytes / MiB));
    const hard = isolation === 'realm';
    const kept = isolation === 'context' || hard;
    const found = kept ? this.#find(tenant, limitMiB, hard, alone, stateful) : undefined;
    const room = (found && this.#furnished(found)) ?? furnished(this.#fresh(limitMiB, hard));
    const { cell } = room;
    cell.spare = undefined;
    cell.tenant = tenant;
    cell.stateful = stateful;
    cell.occupants.add(occupant);
    if (isolation === 'context' && !alone && !this.#cells.includes(cell)) this.#cells.push(cell);
    return room;
  }

  /** Leave a room. `sound` is false after any fault, which evicts everyone else in the isolate (C3). */
  release(room: Room, isolation: Isolation, sound: boolean, occupant: Occupant): void {
    const { cell } = room;
    cell.occupants.delete(occupant);
    const keep = sound && (isolation === 'context' || isolation === 'realm') && !cell.isolate.isDisposed;
    if (!keep) return this.#discard(cell);
    measure(cell);
    if (isolation === 'realm') {
      cell.spare = room;
    } else {
      room.enter.release();
      room.context.release();
    }
    if (cell.occupants.size > 0) return;
    if (cell.full) return this.#discard(cell);
    if (!this.#cells.includes(cell)) this.#cells.push(cell);
    this.#trim();
  }

  /** Make ahead what the next execution will want. Returns true if something was made. */
  prepare(): boolean {
    const recent = this.#cells.at(-1);
    // What waits in an isolate may have filled it: it is not disturbed for a context that nobody asked for.
    const free = recent?.occupants.size === 0 && !recent.full && !recent.hard;
    if (recent !== undefined && free && recent.spare === undefined) {
      recent.spare = this.#furnished(recent);
      return true;
    }
    if (this.#blank === undefined) {
      this.#blank = this.#make(this.#wanted.limitMiB, this.#wanted.hard);
      this.#blank.spare = furnished(this.#blank);
      return true;
    }
    return false;
  }

  /** A tenant's isolate that may take one more, now the most recently used. */
  #find(
    tenant: string,
    limitMiB: number,
    hard: boolean,
    alone: boolean,
    stateful: boolean,
  ): Cell | undefined {
    for (let index = this.#cells.length - 1; index >= 0; index--) {
      const cell = this.#cells[index];
      if (cell === undefined || cell.tenant !== tenant || cell.limitMiB !== limitMiB || cell.hard !== hard)
        continue; // C1
      if (hard && cell.stateful !== stateful) continue;
      if (cell.full || ((alone || hard) && cell.occupants.size > 0)) continue; // C2
      this.#cells.splice(index, 1);
      // Whoever must be alone takes the isolate out of the others' sight.
      if (!alone) this.#cells.push(cell);
      return cell;
    }
    return undefined;
  }

  #fresh(limitMiB: number, hard: boolean): Cell {
    this.#wanted = { limitMiB, hard };
    const blank = this.#blank;
    this.#blank = undefined;
    if (blank !== undefined && (blank.limitMiB !== limitMiB || blank.hard !== hard)) blank.isolate.dispose();
    return blank !== undefined && !blank.isolate.isDisposed ? blank : this.#make(limitMiB, hard);
  }

  #make(limitMiB: number, hard: boolean): Cell {
    const cell: Cell = {
      isolate: new ivm.Isolate({
        memoryLimit: limitMiB,
        snapshot: this.#snapshot,
        onCatastrophicError: () => {
          for (const occupant of cell.occupants) occupant.onCatastrophe();
        },
      }),
      limitMiB,
      hard,
      stateful: false,
      call: new ivm.Callback(
        (op: unknown, text: unknown) => cell.current?.onCall(String(op), String(text)) ?? '',
        {
          sync: true,
        },
      ),
      tenant: undefined,
      occupants: new Set(),
      current: undefined,
      spare: undefined,
      full: false,
      heap: 0,
    };
    return cell;
  }

  /** A room in this isolate, or undefined: then it is thrown away with everyone inside (C3, C5). */
  #furnished(cell: Cell): Room | undefined {
    try {
      return furnished(cell);
    } catch {
      this.#discard(cell);
      return undefined;
    }
  }

  #discard(cell: Cell): void {
    cell.full = true;
    const index = this.#cells.indexOf(cell);
    if (index >= 0) this.#cells.splice(index, 1);
    const evicted = [...cell.occupants];
    cell.occupants.clear();
    if (!cell.isolate.isDisposed) cell.isolate.dispose();
    for (const occupant of evicted) occupant.onEvicted();
  }

  #trim(): void {
    const idle = this.#cells.filter((cell) => cell.occupants.size === 0);
    let bytes = 0;
    for (const cell of idle) bytes += cell.heap;
    let count = idle.length;
    for (const oldest of idle) {
      if (count <= this.#options.maxWarm && (bytes <= this.#options.budgetBytes || count === 1)) return;
      count--;
      bytes -= oldest.heap;
      this.#discard(oldest); // C4
    }
  }
}

/** The room made ahead, or a new one: a fresh context from the V8 snapshot, and the way into it. */
function furnished(cell: Cell): Room {
  if (cell.spare !== undefined) return cell.spare;
  const context = cell.isolate.createContextSync();
  return { cell, context, enter: context.global.getSync(ENTER, { reference: true }) as Enter };
}

/** Read its heap. A kept isolate must leave room for the next script; throwing it away is cheaper than collecting it whole. */
function measure(cell: Cell): void {
  const heap = cell.isolate.getHeapStatisticsSync();
  cell.heap = heap.used_heap_size + heap.externally_allocated_size;
  if (cell.heap > (cell.limitMiB * MiB) / 4) cell.full = true;
}
