/**
 * An attempt at an execution of a session, whose journal, tools and timers live elsewhere: what the script does is
 * only reported, and what it is handed comes by `deliver`.
 *
 * Invariants:
 *  S1  Every item is reported once and in order, whatever happens to the script in here: a script that is started
 *      again on a thread of its own does again what was reported, and is not heard until it goes on.
 *  S2  The end is told once, after the last report; nothing is reported after it.
 *  S3  A lost worker ends it: the journal that counts is its owner's, who starts another attempt.
 */
import type { AttemptEnd, Delivery, ScriptItem } from '../../actors/attempt.ts';
import type { ResolvedLimits } from '../options.ts';
import { Execution, MAX_SLEEPS } from './execution.ts';
import type { NewEntry } from './journal.ts';
import type { Isolation } from './messages.ts';
import type { ExecutionEnd, ExecutionOwner, Failure } from './owner.ts';
import type { WorkerPool } from './pool.ts';

export interface AttemptSpec {
  /** The attempt's id. Nobody had it before. */
  readonly id: string;
  readonly source: string;
  /** JSON, or '' for none. */
  readonly input: string;
  /** JSON of an object that the script sees as `state`; undefined: it has no such global. */
  readonly state: string | undefined;
  /** What the script leaves in `state` as JSON, in bytes of UTF-8. Over it: STATE_LIMIT_EXCEEDED. */
  readonly maxStateBytes: number;
  /** Seeds `Math.random` in the script. */
  readonly seed: readonly [number, number, number, number];
  /** What the script's clock starts at, in ms since the epoch. Deliveries move it on. */
  readonly startTime: number;
  /** Whose warm isolates it may use; never shown to the script. */
  readonly tenantKey: string;
  /** On whose share it waits for a worker, and how large that is. Default: `tenantKey`'s, and 1. */
  readonly share?: { readonly name: string; readonly weight: number } | undefined;
  /** Names the script for the count of its crashes and for what is known of its weight. */
  readonly key: string;
  readonly isolation: Isolation;
  /** `timeoutMs` counts from the start in a worker. `maxConcurrentToolCalls` is the owner's business. */
  readonly limits: ResolvedLimits;
  /** Nothing else may be aboard its worker. */
  readonly alone: boolean;
  /** What earlier attempts were handed, in order. More may follow by `deliver`. */
  readonly deliveries: readonly Delivery[];
  /** Results kept here, in bytes, so that the script can be started again on a thread of its own. Beyond it the script runs on one. */
  readonly maxReplayBytes: number;
  /**
   * What the script did since the last report, in order (S1): once per step of the script, and in between where it
   * writes much. The array is the owner's. `waiting`: the script was handed everything that was delivered so far
   * and waits for more; then `items` may be empty.
   */
  readonly onReport: (items: readonly ScriptItem[], waiting: boolean) => void;
  /** It was given to a worker, for the first time or again. Default: nobody wants to know. */
  readonly onSeated?: ((worker: string) => void) | undefined;
  /** How it ended (S2). May be called before the constructor returns: `refused`. */
  readonly onEnd: (end: AttemptEnd) => void;
}

/** What an attempt needs of its pool. */
export type AttemptPool = Pick<WorkerPool, 'submit' | 'cancel' | 'isHeavy' | 'noteHeavy'>;

/** One attempt in a pool of workers. It is submitted as it is made. */
export class SessionAttempt {
  readonly #pool: AttemptPool;
  readonly #execution: Execution;

  constructor(pool: AttemptPool, spec: AttemptSpec) {
    this.#pool = pool;
    const { onReport, onEnd, deliveries, ...rest } = spec;
    const reporter = new Reporter(onReport, onEnd);
    this.#execution = new Execution({
      ...rest,
      restarts: false, // S3
      // What took its worker along elsewhere runs where it can be stopped from outside.
      heavy: spec.alone || pool.isHeavy(spec.key),
      onHeavy: () => pool.noteHeavy(spec.key),
      owner: reporter,
    });
    reporter.execution = this.#execution;
    this.deliver(deliveries);
    pool.submit(this.#execution);
  }

  /** Hand these to the script, in order, after all that were delivered before. Ignored once it has ended. */
  deliver(deliveries: readonly Delivery[]): void {
    const { journal } = this.#execution;
    for (const delivery of deliveries) this.#execution.deliver(journal.entryAt(delivery[0]), delivery);
  }

  /** End it as `stopped`, unless it has ended: at once where it waits for a worker, else when its worker obeyed or was killed. */
  stop(): void {
    this.#pool.cancel(this.#execution, 'The attempt was stopped');
  }
}

/** Collects what the script does until its worker's message is read to the end. */
class Reporter implements ExecutionOwner {
  execution: Execution | undefined;
  readonly #onReport: AttemptSpec['onReport'];
  readonly #onEnd: AttemptSpec['onEnd'];
  #items: ScriptItem[] = [];
  /** Sleeps that the script has not been woken from. */
  readonly #sleeping = new Set<number>();
  #end: AttemptEnd | undefined;

  constructor(onReport: AttemptSpec['onReport'], onEnd: AttemptSpec['onEnd']) {
    this.#onReport = onReport;
    this.#onEnd = onEnd;
  }

  output(item: Extract<ScriptItem, { kind: 'output' }>): void {
    this.#items.push(item);
  }

  call({ index, name }: NewEntry, args: string): void {
    this.#items.push({ kind: 'call', index, name, json: args });
  }

  sleep({ index }: NewEntry, ms: number): void {
    this.#sleeping.add(index);
    if (this.#sleeping.size > MAX_SLEEPS) {
      this.execution?.stop('INVALID_ARGUMENT', `The script started more than ${MAX_SLEEPS} sleeps at once`);
      return;
    }
    this.#items.push({ kind: 'sleep', index, ms });
  }

  applied(index: number): void {
    this.#sleeping.delete(index);
    this.#items.push({ kind: 'applied', index });
  }

  told(waiting: boolean): void {
    if (this.#end !== undefined || (this.#items.length === 0 && !waiting)) return;
    const items = this.#items;
    this.#items = [];
    this.#onReport(items, waiting);
  }

  timedOut(): void {}

  restarting(): void {}

  stopping(): void {}

  ended(end: ExecutionEnd): void {
    const { usage = { cpu: 0, heap: 0 }, started = false } = this.execution ?? {};
    if (end.ok) this.#end = { kind: 'returned', json: end.json, state: end.state, usage };
    else this.#end = started ? ran(end, usage) : neverRan(end);
  }

  /** Told when its seat is free, so that its owner may fill it at once. */
  left(): void {
    if (this.#end !== undefined) this.#onEnd(this.#end); // S2
  }
}

/** The end of one that was in a worker. None of the first four codes can come from a script. */
function ran(failure: Failure, usage: Extract<AttemptEnd, { kind: 'failed' }>['usage']): AttemptEnd {
  const { code, name = 'EnclaveError', message, stack = '' } = failure;
  switch (code) {
    case 'CANCELLED':
      return { kind: 'stopped' };
    case 'WORKER_CRASHED':
    case 'CLOSED':
      return { kind: 'lost', alone: failure.counted ?? false };
    case 'QUARANTINED': // Whether it crashed too often is for its owner to say, who counts in all pools.
      return { kind: 'lost', alone: true };
    default:
      return { kind: 'failed', code, name, message, stack, usage };
  }
}

function neverRan({ code, message, retryAfterMs = 0 }: Failure): AttemptEnd {
  return code === 'CANCELLED' ? { kind: 'stopped' } : { kind: 'refused', code, message, retryAfterMs };
}
