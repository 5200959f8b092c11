/**
 * The isolates of one worker: made ahead while it is idle, kept warm per tenant, let go when they are due.
 *
 * Invariants:
 *  C1  An isolate serves one execution at a time, so its CPU time, its memory and its microtasks are that
 *      execution's alone.
 *  C2  An isolate that ran a tenant's script serves no other tenant, ever.
 *  C3  After a fault (time, memory, preemption) an isolate is thrown away.
 *  C4  Kept isolates are bounded in number and in bytes; the least recently used goes first.
 */
import ivm from 'isolated-vm';
import { ENTER, PRELUDE, WARM_UP } from '../guest/prelude.ts';
import type { Isolation } from '../messages.ts';

const MiB = 1024 * 1024;

/** The only way into a guest: see guest/execution.ts. */
export type Enter = ivm.Reference<(...args: EntryArgument[]) => string>;

/** What an entry may hand over. */
export type EntryArgument = string | number | boolean | ivm.Callback;

/** An isolate with a context that is ready for one script. */
export interface Cell {
  readonly isolate: ivm.Isolate;
  readonly limitMiB: number;
  readonly hard: boolean;
  /** The guest's one call to the host. */
  readonly call: ivm.Callback;
  context: ivm.Context | undefined;
  enter: Enter | undefined;
  /** Whose scripts ran in it; undefined while it is blank. */
  tenant: string | undefined;
  /** Heap in use after its last script, in bytes. */
  heap: number;
}

export interface IsolateCacheOptions {
  readonly maxWarm: number;
  readonly budgetBytes: number;
  /** The guest's one call to the host. */
  readonly onCall: (cell: Cell, op: string, text: string) => string;
  readonly onCatastrophe: (cell: Cell, message: string) => void;
}

export class IsolateCache {
  readonly #options: IsolateCacheOptions;
  readonly #snapshot: ivm.ExternalCopy<ArrayBuffer>;
  /** Kept cells, least recently used first. */
  #warm: Cell[] = [];
  #blank: Cell | undefined;
  /** The kind of cell to prepare ahead: that of the last request for a fresh one. */
  #wanted: { readonly limitMiB: number; readonly hard: boolean } = { limitMiB: 64, hard: false };

  constructor(options: IsolateCacheOptions) {
    this.#options = options;
    this.#snapshot = ivm.Isolate.createSnapshot([{ code: PRELUDE, filename: 'guest' }], WARM_UP);
  }

  /** A cell for one execution: warm where the level allows it, else blank, else new. */
  acquire(isolation: Isolation, tenant: string, memoryBytes: number): Cell {
    const limitMiB = Math.max(8, Math.ceil(memoryBytes / MiB));
    const hard = isolation === 'realm';
    const cell =
      (isolation === 'context' || hard ? this.#takeWarm(tenant, limitMiB, hard) : undefined) ??
      this.#takeBlank(limitMiB, hard);
    cell.tenant = tenant;
    if (cell.context === undefined) this.#furnish(cell);
    return cell;
  }

  /** Give a cell back after a script. `sound` is false after any fault. */
  release(cell: Cell, isolation: Isolation, sound: boolean): void {
    const keep =
      sound &&
      (isolation === 'context' || isolation === 'realm') &&
      this.#options.maxWarm > 0 &&
      !cell.isolate.isDisposed;
    if (!keep) return dispose(cell); // C3
    const heap = cell.isolate.getHeapStatisticsSync();
    cell.heap = heap.used_heap_size + heap.externally_allocated_size;
    // A kept isolate must leave room for the next script; throwing it away is cheaper than a full collection.
    if (cell.heap > (cell.limitMiB * MiB) / 4) return dispose(cell);
    if (isolation === 'context') {
      cell.enter?.release();
      cell.context?.release();
      cell.enter = undefined;
      cell.context = undefined;
    }
    this.#warm.push(cell);
    this.#trim();
  }

  /** Make ahead what the next execution will want. Returns true if something was made. */
  prepare(): boolean {
    const recent = this.#warm.at(-1);
    if (recent !== undefined && recent.context === undefined) {
      this.#furnish(recent);
      return true;
    }
    if (this.#blank === undefined) {
      this.#blank = this.#make(this.#wanted.limitMiB, this.#wanted.hard);
      this.#furnish(this.#blank);
      return true;
    }
    return false;
  }

  #takeWarm(tenant: string, limitMiB: number, hard: boolean): Cell | undefined {
    for (let index = this.#warm.length - 1; index >= 0; index--) {
      const cell = this.#warm[index];
      if (cell === undefined || cell.tenant !== tenant || cell.limitMiB !== limitMiB || cell.hard !== hard)
        continue; // C2
      this.#warm.splice(index, 1);
      return cell;
    }
    return undefined;
  }

  #takeBlank(limitMiB: number, hard: boolean): Cell {
    this.#wanted = { limitMiB, hard };
    const blank = this.#blank;
    if (blank !== undefined && blank.limitMiB === limitMiB && blank.hard === hard) {
      this.#blank = undefined;
      return blank;
    }
    if (blank !== undefined) {
      dispose(blank);
      this.#blank = undefined;
    }
    return this.#make(limitMiB, hard);
  }

  #make(limitMiB: number, hard: boolean): Cell {
    const cell: Cell = {
      isolate: new ivm.Isolate({
        memoryLimit: limitMiB,
        snapshot: this.#snapshot,
        onCatastrophicError: (message) => this.#options.onCatastrophe(cell, message),
      }),
      limitMiB,
      hard,
      call: new ivm.Callback(
        (op: unknown, text: unknown) => this.#options.onCall(cell, String(op), String(text)),
        { sync: true },
      ),
      context: undefined,
      enter: undefined,
      tenant: undefined,
      heap: 0,
    };
    return cell;
  }

  /** A fresh context from the V8 snapshot, and the way into it. */
  #furnish(cell: Cell): void {
    cell.context = cell.isolate.createContextSync();
    cell.enter = cell.context.global.getSync(ENTER, { reference: true }) as Enter;
  }

  #trim(): void {
    let bytes = 0;
    for (const cell of this.#warm) bytes += cell.heap;
    while (
      this.#warm.length > this.#options.maxWarm ||
      (bytes > this.#options.budgetBytes && this.#warm.length > 1)
    ) {
      const oldest = this.#warm.shift();
      if (oldest === undefined) return;
      bytes -= oldest.heap;
      dispose(oldest); // C4
    }
  }
}

/** Throw an isolate away, whatever runs in it. */
export function dispose(cell: Cell): void {
  if (!cell.isolate.isDisposed) cell.isolate.dispose();
}
