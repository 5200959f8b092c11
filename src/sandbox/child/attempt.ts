/**
 * One attempt at an execution, in the worker: drives the guest entry by entry and tells the parent each step.
 *
 * Most scripts take a fraction of a millisecond, so an attempt first runs on the worker's own thread, where an
 * entry costs a few microseconds, but never longer than a quantum: an entry that passes it is stopped, its
 * isolate thrown away, and the parent starts the execution again on a thread of its own, where it may use its
 * whole budget without keeping neighbours waiting. Nothing is lost by that: an execution is a function of its
 * source, input, seed and deliveries, and the parent drops what it has already seen.
 *
 * Invariants:
 *  A1  Every attempt reports exactly one end: a step with an end, `stopped`, or `preempted`.
 *  A2  The kind of an end comes from what this process did or measured, never from the text of an error.
 *  A3  One delivery per entry; the microtasks it causes run before the next.
 *  A4  A script that was stopped on a thread of its own is said to be stopped when its thread is idle. A thread that
 *      does not come to rest (V8 cannot interrupt every builtin) is told as `stuck`, and costs this process its life.
 */

import process from 'node:process';
import { BODY_LINE_OFFSET, SCRIPT_NAME } from '../guest/prelude.ts';
import type { Delivery, StartMessage, StopCode, Usage } from '../messages.ts';
import type { EntryArgument, IsolateCache, Occupant, Room } from './isolates.ts';
import { looksLikeTypeScript, StripError, type Stripped, stripTypes } from './strip.ts';

/** Longest entry on the worker's own thread, in ms. */
const QUANTUM_MS = 25;
/** Longest `take`, in ms: it runs our own code only. */
const TAKE_MS = 1_000;
/** How long a thread may take to come to rest once its isolate is gone, in ms: longer where it gets no core. */
const REST_MS = 250;
/** How often the CPU time of threaded attempts is read, in ms. */
export const CPU_CHECK_MS = 10;

type Entry = EntryArgument[];

/** Lines and columns count from 1. */
interface SyntaxComplaint {
  readonly message: string;
  readonly line: number;
  readonly column: number;
}

export interface AttemptHost {
  readonly cache: IsolateCache;
  readonly send: (text: string) => void;
  readonly onEnd: (attempt: Attempt) => void;
  /** The script asks for something while it runs. */
  readonly onCall: (attempt: Attempt, op: string, text: string) => string;
  /** This process cannot go on. */
  readonly onCatastrophe: () => void;
  /** A thread runs on that belongs to nobody any more. */
  readonly onStuck: () => void;
  readonly maxFrameBytes: number;
}

export class Attempt {
  readonly id: number;
  readonly #start: StartMessage;
  readonly #host: AttemptHost;
  readonly #room: Room;
  readonly #occupant: Occupant;
  #entries: Entry[] = [];
  #phase: 'idle' | 'inside' | 'over' = 'idle';
  #stripped = false;
  /** CPU time of the entries that are over, and of the isolate when the present one began, in ns. */
  #cpuUsed = 0n;
  #cpuBase: bigint | undefined;
  #applied = 0;
  /** Settles when the thread leaves the present entry. */
  #entry: Promise<void> = Promise.resolve();

  constructor(start: StartMessage, host: AttemptHost) {
    this.id = start.x;
    this.#start = start;
    this.#host = host;
    this.#occupant = {
      onCall: (op, text) => host.onCall(this, op, text),
      onCatastrophe: () => {
        this.#outOfMemory();
        host.onCatastrophe();
      },
      onEvicted: () => this.#preempt(false),
    };
    this.#room = host.cache.acquire(
      start.isolation,
      start.tenant,
      start.memoryBytes,
      start.threaded,
      start.config.state !== undefined,
      this.#occupant,
    );
  }

  /** True if a thread of its own runs the script, and nothing but `checkCpu` bounds its CPU time. */
  get threaded(): boolean {
    return this.#start.threaded;
  }

  begin(): void {
    const { source } = this.#start;
    if (looksLikeTypeScript(source)) return this.#beginStripped();
    this.#enqueueBegin({ code: source, map: undefined });
    this.#pump();
  }

  deliver(deliveries: readonly Delivery[]): void {
    if (this.#phase === 'over') return;
    for (const delivery of deliveries) this.#entries.push(['deliver', ...delivery]);
    this.#pump();
  }

  /** Stop the script wherever it is. */
  cancel(): void {
    this.#stop('CANCELLED', '');
  }

  /** A threaded script has ended, though something that it started may still run: that ends here. */
  endedInside(end: string): void {
    if (this.#phase === 'over') return;
    if (!this.fits(end)) return this.#stopForSize();
    const cpu = this.#cpu();
    const rest = this.#rest();
    this.#end(false);
    this.#host.send(
      `{"t":"step","x":${this.id},"n":${this.#applied},"cpu":${cpu},"heap":0,"s":{"items":[],"end":${end}}}`,
    );
    void rest?.then((rests) => rests || this.#host.onStuck()); // A4
  }

  /** Whether a message may hold this text: escapes make it longer than the limits say. */
  fits(text: string): boolean {
    const { maxFrameBytes } = this.#host;
    return text.length * 3 <= maxFrameBytes || Buffer.byteLength(text) + 200 <= maxFrameBytes;
  }

  /** What a threaded script wrote at once does not fit. */
  wroteTooMuch(): void {
    this.#stop('OUTPUT_LIMIT_EXCEEDED', 'What the script wrote at once is larger than a message may be');
  }

  /** V8 gave up on the isolate: it is as good as gone, and so is this process. */
  #outOfMemory(): void {
    if (this.#phase === 'over') return;
    if (this.#room.cell.occupants.size > 1) return; // Whose fault it was, a start of each alone will tell.
    this.#phase = 'over';
    this.#host.send(
      JSON.stringify({
        t: 'stopped',
        x: this.id,
        code: 'MEMORY_LIMIT_EXCEEDED',
        message: `The script used more memory than its isolate could give (memoryBytes ${this.#start.memoryBytes})`,
        stack: '',
        cpu: Number(this.#cpuUsed) / 1e6,
        heap: 0,
      }),
    );
  }

  /** Stop a threaded script that has used up its CPU time. */
  checkCpu(): void {
    if (this.#phase === 'inside' && this.#cpu() >= this.#start.cpuMs) this.#stopForCpu();
  }

  #enqueueBegin(stripped: Stripped): void {
    const { config, input, deliveries } = this.#start;
    const full = stripped.map === undefined ? config : { ...config, map: stripped.map };
    const { call, hard } = this.#room.cell;
    const stateful = config.state !== undefined;
    // Only a threaded script streams, and only `URL` asks the host.
    const needsHost = this.#start.threaded || hard || stripped.code.includes('URL');
    this.#entries = [
      ['begin', stripped.code, input, JSON.stringify(full), needsHost ? call : undefined, hard, stateful],
    ];
    for (const delivery of deliveries) this.#entries.push(['deliver', ...delivery]);
  }

  #beginStripped(): void {
    this.#stripped = true;
    try {
      this.#enqueueBegin(stripTypes(this.#start.source));
    } catch (error) {
      if (!(error instanceof StripError)) throw error;
      return this.#stopForSyntax(error);
    }
    this.#pump();
  }

  /** Run waiting entries, one after the other, then report. */
  #pump(): void {
    if (this.#phase !== 'idle') return;
    for (let entry = this.#entries.shift(); entry !== undefined; entry = this.#entries.shift()) {
      if (entry[0] === 'deliver') this.#applied++;
      if (this.#start.threaded) return this.#enterThreaded(entry);
      if (!this.#enterNow(entry)) return;
    }
    this.#report();
  }

  #enterNow(entry: Entry): boolean {
    const { cell, enter } = this.#room;
    const left = this.#start.cpuMs - this.#cpu();
    const timeout = Math.max(1, Math.min(QUANTUM_MS, Math.ceil(left)));
    const began = performance.now();
    cell.current = this.#occupant;
    this.#cpuBase = cell.isolate.cpuTime;
    try {
      enter.applySync(undefined, entry, { timeout });
    } catch {
      if (cell.isolate.isDisposed) return this.#stopForMemory();
      if (performance.now() - began >= timeout - 1) {
        if (this.#cpu() >= this.#start.cpuMs) return this.#stopForCpu();
        return this.#preempt(true);
      }
      // A rejection that nobody handled: it ends nothing by itself (README, "Inside a script").
    }
    this.#settleCpu();
    return true;
  }

  #enterThreaded(entry: Entry): void {
    const { cell, enter } = this.#room;
    this.#phase = 'inside';
    cell.current = this.#occupant;
    this.#cpuBase = cell.isolate.cpuTime;
    const next = (): void => {
      if (this.#phase === 'over') return;
      this.#phase = 'idle';
      this.#settleCpu();
      if (cell.isolate.isDisposed) this.#stopForMemory();
      else this.#pump();
    };
    // Rejected: the isolate was disposed (then `next` sees it), or nobody handled a rejection of the script's.
    this.#entry = Promise.resolve(enter.apply(undefined, entry)).then(next, next);
  }

  /**
   * Leave this attempt to be started again: because it passed the quantum (`heavy`), or because somebody else's
   * fault took the isolate away.
   */
  #preempt(heavy: boolean): false {
    if (this.#phase === 'over') return false;
    this.#end(false);
    this.#host.send(`{"t":"preempted","x":${this.id},"heavy":${heavy}}`);
    return false;
  }

  #report(): void {
    let taken: string;
    try {
      taken = this.#room.enter.applySync(undefined, ['take'], { timeout: TAKE_MS });
    } catch {
      if (this.#room.cell.isolate.isDisposed) this.#stopForMemory();
      else this.#stopForCpu();
      return;
    }
    const status = taken[0];
    if (status === 'H') {
      this.#preempt(true);
      return;
    }
    if (status === 'X') {
      this.#stop(
        'SYNTAX_ERROR',
        'The text is too deeply nested to be parsed',
        'SyntaxError: too deeply nested',
      );
      return;
    }
    if (status === 'S') {
      if (this.#stripped) this.#stopForSyntax(undefined);
      else this.#beginStripped();
      return;
    }
    if (status !== 'E' && this.#cpu() >= this.#start.cpuMs) {
      this.#stopForCpu();
      return;
    }
    if (!this.fits(taken)) {
      // On a thread of its own it hands over what it does piece by piece.
      if (this.#start.threaded) this.#stopForSize();
      else this.#preempt(true);
      return;
    }
    const cpu = this.#cpu();
    const over = status === 'E';
    const heap = over ? this.#end(true) : 0;
    this.#host.send(
      `{"t":"step","x":${this.id},"n":${this.#applied},"cpu":${cpu},"heap":${heap},"s":${taken.slice(1)}}`,
    );
  }

  #stopForMemory(): false {
    // Others may have been in the isolate, and what was written since the last step is lost with it. On a thread
    // of its own the script shows whose memory it was, and what it writes is told at once.
    if (!this.#start.threaded) return this.#preempt(true);
    this.#stop('MEMORY_LIMIT_EXCEEDED', `The script used more than memoryBytes (${this.#start.memoryBytes})`);
    return false;
  }

  #stopForSize(): void {
    this.#stop(
      'RESULT_LIMIT_EXCEEDED',
      'What the script handed over at once is larger than a message may be',
    );
  }

  #stopForCpu(): false {
    this.#stop('CPU_LIMIT_EXCEEDED', `The script used more than cpuMs (${this.#start.cpuMs}) of CPU time`);
    return false;
  }

  /** Report the better of two complaints: the parser that came further understood more of the text. */
  #stopForSyntax(stripError: StripError | undefined): void {
    const native = this.#nativeSyntaxError();
    const further =
      native === undefined ||
      (stripError !== undefined &&
        (stripError.line > native.line ||
          (stripError.line === native.line && stripError.column > native.column)));
    const found = (further ? stripError : native) ?? { message: 'Invalid syntax', line: 1, column: 1 };
    const { message, line, column } = this.#withinSource(found);
    const text = `${message} (${SCRIPT_NAME}:${line}:${column})`;
    this.#stop('SYNTAX_ERROR', text, `SyntaxError: ${message}\n    at ${SCRIPT_NAME}:${line}:${column}`);
  }

  /** A parser that reached the wrapper's closing brace missed something at the end of the text. */
  #withinSource(found: SyntaxComplaint): SyntaxComplaint {
    const lines = this.#start.source.split('\n');
    if (found.line <= lines.length) return found;
    return {
      message: 'Unexpected end of input',
      line: lines.length,
      column: (lines.at(-1)?.length ?? 0) + 1,
    };
  }

  #nativeSyntaxError(): SyntaxComplaint | undefined {
    try {
      this.#room.cell.isolate.compileScriptSync(
        `(async function anonymous(\n) {\n${this.#start.source}\n})`,
        {
          filename: SCRIPT_NAME,
          lineOffset: -BODY_LINE_OFFSET,
        },
      );
    } catch (error) {
      const found = /^(.*) \[script\.js:(\d+):(\d+)\]$/s.exec(error instanceof Error ? error.message : '');
      if (found !== null)
        return { message: found[1] ?? '', line: Number(found[2]), column: Number(found[3]) };
    }
    return undefined;
  }

  #stop(code: StopCode, message: string, stack = ''): void {
    if (this.#phase === 'over') return; // A1
    const usage: Usage = { cpu: this.#cpu(), heap: 0 };
    const sound = code === 'SYNTAX_ERROR';
    const rest = this.#rest();
    this.#end(sound);
    const stopped = JSON.stringify({ t: 'stopped', x: this.id, code, message, stack, ...usage });
    if (rest === undefined) return this.#host.send(stopped);
    void rest.then((rests) => {
      this.#host.send(stopped);
      if (!rests) this.#host.onStuck(); // A4
    });
  }

  /** Whether the thread comes to rest in time, now that its isolate goes; undefined if it rests already. */
  #rest(): Promise<boolean> | undefined {
    if (this.#phase !== 'inside') return undefined;
    return new Promise((resolve) => {
      const before = process.cpuUsage();
      const look = (): void => {
        const { user, system } = process.cpuUsage(before);
        // On a machine that is this busy it may just not have had its turn.
        if ((user + system) / 1_000 < REST_MS / 2) timer = setTimeout(look, REST_MS);
        else setImmediate(() => resolve(false)); // What came meanwhile is read first.
      };
      let timer = setTimeout(look, REST_MS);
      void this.#entry.then(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }

  /** Leave the isolate: kept if it is sound, else thrown away. Returns the heap in use, in bytes. */
  #end(sound: boolean): number {
    this.#settleCpu();
    this.#phase = 'over';
    this.#entries = [];
    this.#host.cache.release(this.#room, this.#start.isolation, sound, this.#occupant);
    this.#host.onEnd(this);
    return this.#room.cell.heap;
  }

  /** The present entry is over: book its CPU time. */
  #settleCpu(): void {
    if (this.#cpuBase === undefined) return;
    this.#cpuUsed += this.#cpuSinceEntry();
    this.#cpuBase = undefined;
  }

  #cpuSinceEntry(): bigint {
    try {
      return this.#cpuBase === undefined ? 0n : this.#room.cell.isolate.cpuTime - this.#cpuBase;
    } catch {
      return 0n; // Disposed: what was booked stands.
    }
  }

  /** CPU time of this attempt so far, in ms. */
  #cpu(): number {
    return Number(this.#cpuUsed + this.#cpuSinceEntry()) / 1e6;
  }
}
