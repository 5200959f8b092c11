/**
 * One execution of a script in the pool, seen from the host: its place, its journal, its limits, its end. What the
 * script does is told to its owner, who says what it is handed: `run.ts` serves a caller in this process,
 * `attempt.ts` a session that lives elsewhere.
 *
 * It outlives attempts in a worker. When a script needs a thread of its own, or a worker is lost, the execution is
 * started again from its journal: the script makes the same calls, which are answered from the journal, and goes on
 * where it was. Its owner never notices.
 *
 * Invariants:
 *  X1  It ends once, and its owner is told exactly then; afterwards it is told nothing.
 *  X2  Its owner is told of everything once and in order, however many attempts there are.
 *  X3  Nothing from an attempt other than the present one is listened to.
 *  X4  The code of an end comes from what the host did or measured; only a script's own errors come from the guest.
 */
import { Buffer } from 'node:buffer';
import { isTooDeep, MAX_NESTING } from '../../actors/nesting.ts';
import type { ErrorCode, Outcome } from '../errors.ts';
import type { ResolvedLimits } from '../options.ts';
import { Journal, type NewEntry } from './journal.ts';
import type { Delivery, GuestEnd, Isolation, ScriptItem, StartMessage, StopCode, Usage } from './messages.ts';
import type { ExecutionEnd, ExecutionOwner, Failure } from './owner.ts';
import type { Seat } from './seat.ts';
import { plainState, scriptFrames } from './text.ts';

/** How long a worker may take to stop a script before it is killed, in ms. */
const STOP_GRACE_MS = 250;

/** Sleeps of one execution at once. The guest refuses more; a worker that lets more through is not ours any more. */
export const MAX_SLEEPS = 1_000;

/** Evictions by others' faults after which an execution gets an isolate and a thread of its own. */
const MAX_EVICTIONS = 2;

/** Whose turn an execution takes, and how large that one's share is beside others. */
export interface Share {
  readonly name: string;
  readonly weight: number;
}

export interface ExecutionSpec {
  readonly id: string;
  readonly source: string;
  /** JSON, or '' for none. */
  readonly input: string;
  /** JSON of an object that the script sees as `state`. Default: no such global. */
  readonly state?: string | undefined;
  /** What the script leaves in `state` as JSON, in bytes at most. */
  readonly maxStateBytes?: number | undefined;
  /** Whose isolates it may use; never shown. */
  readonly tenantKey: string;
  /** On whose share it waits for a worker, and how large that is. Default: `tenantKey`'s, and 1. */
  readonly share?: Share | undefined;
  /** Names the script for the count of its crashes. */
  readonly key: string;
  readonly isolation: Isolation;
  readonly limits: ResolvedLimits;
  readonly seed: readonly [number, number, number, number];
  /** What the script's clock starts at, in ms since the epoch. Default: when it first gets a worker. */
  readonly startTime?: number | undefined;
  readonly maxReplayBytes: number;
  /** Nothing else may be aboard its worker. Default false. */
  readonly alone?: boolean | undefined;
  /** Start it again after its worker was lost. */
  readonly restarts: boolean;
  /** Known to need a thread of its own: it gets one from the start. */
  readonly heavy: boolean;
  /** It turned out to need a thread of its own. */
  readonly onHeavy: () => void;
  /** It was given to a worker, for the first time or again. Default: nobody wants to know. */
  readonly onSeated?: ((worker: string) => void) | undefined;
  readonly owner: ExecutionOwner;
}

type Phase =
  | { readonly at: 'waiting' }
  | { readonly at: 'seated'; readonly seat: Seat }
  /** Being stopped: the end is decided, the worker has not said so yet. */
  | { readonly at: 'stopping'; readonly seat: Seat; readonly end: () => void; readonly grace: NodeJS.Timeout }
  | { readonly at: 'over' };

export class Execution {
  readonly spec: ExecutionSpec;
  readonly journal: Journal;
  readonly admittedAt = performance.now();
  readonly #owner: ExecutionOwner;
  #phase: Phase = { at: 'waiting' };
  #startTime: number;
  #startedAt: number | undefined;
  #attempts = 0;
  #evictions = 0;
  #threaded = false;
  #outputBytes = 0;
  /** Output items of all attempts so far, and of the present one: a replay repeats what was already shown. */
  #outputsShown = 0;
  #outputsSeen = 0;
  /** Deliveries sent to the present attempt. */
  #sent = 0;
  /** Results handed to the script in all attempts so far, and in the present one. */
  #appliedShown = 0;
  #appliedSeen = 0;
  #usage: Usage = { cpu: 0, heap: 0 };
  #wall: NodeJS.Timeout | undefined;
  /** True if its worker was told that it only waits. */
  #waits = false;
  /** Delivered and not yet sent. */
  #outgoing: Delivery[] = [];

  constructor(spec: ExecutionSpec) {
    this.spec = spec;
    this.#owner = spec.owner;
    this.journal = new Journal(spec.id, spec.maxReplayBytes);
    this.#startTime = spec.startTime ?? Date.now();
    this.#threaded = spec.heavy;
  }

  get over(): boolean {
    return this.#phase.at === 'over';
  }

  get started(): boolean {
    return this.#startedAt !== undefined;
  }

  /** When it first got a worker, by the monotonic clock, in ms. */
  get startedAt(): number | undefined {
    return this.#startedAt;
  }

  /** Time since it first got a worker, in ms. */
  get seatedMs(): number {
    return this.#startedAt === undefined ? 0 : performance.now() - this.#startedAt;
  }

  /** What the script's clock started at, in ms since the epoch. */
  get startTime(): number {
    return this.#startTime;
  }

  /** How often it was started. */
  get attempts(): number {
    return this.#attempts;
  }

  /** As last measured. */
  get usage(): Usage {
    return this.#usage;
  }

  // ---- attempts ------------------------------------------------------------------------------------------

  /** Take a place in a worker. Returns the message that starts the attempt. */
  seat(seat: Seat, attempt: number): StartMessage {
    const { spec } = this;
    if (this.#startedAt === undefined) {
      this.#startedAt = performance.now();
      this.#startTime = spec.startTime ?? Date.now();
    }
    const first = this.#phase.at === 'waiting';
    this.#phase = { at: 'seated', seat };
    spec.onSeated?.(seat.worker);
    this.#attempts++;
    this.journal.restart();
    this.#outgoing = []; // The start message brings them all.
    if (this.#waits) {
      this.#waits = false;
      if (!first) seat.waiting(false);
    }
    this.#outputsSeen = 0;
    this.#appliedSeen = 0;
    const { deliveries } = this.journal;
    this.#sent = deliveries.length;
    if (!this.journal.replayable) {
      this.#threaded = true; // What cannot be started again must not be preempted.
      this.journal.forget();
    }
    if (first) {
      clearTimeout(this.#wall);
      this.#wall = setTimeout(() => this.#timeOut(), spec.limits.timeoutMs);
    }
    return this.#startMessage(attempt, deliveries);
  }

  #startMessage(attempt: number, deliveries: readonly Delivery[]): StartMessage {
    const { spec } = this;
    const { limits, state } = spec;
    return {
      t: 'start',
      x: attempt,
      isolation: spec.isolation,
      tenant: spec.tenantKey,
      source: spec.source,
      input: spec.input,
      cpuMs: limits.cpuMs,
      memoryBytes: limits.memoryBytes,
      threaded: this.#threaded,
      deliveries,
      config: {
        seed: spec.seed,
        time: this.#startTime,
        maxToolCalls: limits.maxToolCalls,
        maxResultBytes: limits.maxResultBytes,
        maxOutputBytes: limits.maxOutputBytes,
        maxToolPayloadBytes: limits.maxToolPayloadBytes,
        stream: this.#threaded,
        ...(state === undefined ? undefined : { state, maxStateBytes: spec.maxStateBytes }),
      },
    };
  }

  /**
   * The worker gave up this attempt: the script is too `heavy` for the worker's own thread and needs one of its
   * own, or it was in an isolate that another script's fault took away.
   */
  preempted(heavy: boolean): void {
    if (this.#phase.at === 'stopping') return this.#phase.end();
    if (this.#phase.at !== 'seated') return;
    // On a thread of its own nothing takes an isolate away, so no worker of ours says so.
    if (this.journal.forgotten) return this.#failLost(false);
    if (heavy || ++this.#evictions >= MAX_EVICTIONS) this.#threaded = true;
    if (heavy) this.spec.onHeavy();
    this.#phase.seat.again();
  }

  /** Its worker is gone. `counted`: the crash counts against it. Returns true if it can be started again. */
  lost(counted: boolean): boolean {
    switch (this.#phase.at) {
      case 'over':
        return false;
      case 'stopping':
        this.#phase.end();
        return false;
      default:
    }
    clearTimeout(this.#wall);
    this.#phase = { at: 'waiting' };
    this.#threaded = true; // Whatever killed the worker, this script runs where it can be stopped from outside.
    if (!this.spec.restarts || !this.journal.replayable) {
      this.#failLost(counted);
      return false;
    }
    this.#owner.restarting();
    return true;
  }

  #failLost(counted: boolean): void {
    this.#fail({
      ok: false,
      code: 'WORKER_CRASHED',
      message: 'The worker was lost, and more was delivered to the script than maxReplayBytes keeps',
      outcome: 'unknown',
      counted,
    });
  }

  // ---- what the worker says ------------------------------------------------------------------------------

  items(items: readonly ScriptItem[]): void {
    if (this.#phase.at !== 'seated') return;
    this.#takeItems(items);
    if (!this.over) this.#owner.told(false);
  }

  step(items: readonly ScriptItem[], applied: number, end: GuestEnd | undefined, usage: Usage): void {
    if (this.#phase.at === 'stopping' && end !== undefined) {
      // It ended before it could be stopped, but after its time: the decision stands.
      return this.#phase.end();
    }
    if (this.#phase.at !== 'seated') return;
    this.#usage = usage;
    const sound = this.#takeItems(items);
    const { behind } = this.journal;
    const before = this.#present();
    if (before.at === 'over') return; // X1: its owner closed everything while it was told.
    this.#owner.told(sound && end === undefined && !behind && applied >= this.#sent);
    const after = this.#present();
    if (after !== before) {
      // Its owner had enough of it: a script that has ended will not say that it was stopped.
      if (after.at === 'stopping' && end !== undefined) after.end();
      return;
    }
    if (!sound) return;
    if (end !== undefined) return this.#finish(end);
    if (behind) return this.#nondeterministic();
    if (applied >= this.#sent) this.#waitSoon();
  }

  #present(): Phase {
    return this.#phase;
  }

  /** Tell that the script waits, unless what it waits for comes in this turn of the event loop. */
  #waitSoon(): void {
    const sent = this.#sent;
    setImmediate(() => {
      if (this.#phase.at !== 'seated' || this.#sent !== sent || this.#waits) return;
      this.#waits = true;
      this.#phase.seat.waiting(true);
    });
  }

  stopped(code: StopCode, message: string, stack: string, usage: Usage): void {
    if (this.#phase.at === 'over') return;
    this.#usage = usage;
    if (this.#phase.at === 'stopping') return this.#phase.end();
    // Nobody asked for that: the attempt is over, the execution is not.
    if (code === 'CANCELLED') return this.preempted(false);
    if (code !== 'SYNTAX_ERROR') return this.#fail({ ok: false, code, message }, true);
    this.#fail({ ok: false, code, message, name: 'SyntaxError', stack, outcome: 'not_started' }, true);
  }

  // ---- what the script does ------------------------------------------------------------------------------

  /** Tell the owner what is new. Returns false if it was too much, or is not what the script did before. */
  #takeItems(items: readonly ScriptItem[]): boolean {
    for (const item of items) {
      if (item.kind === 'output') {
        if (!this.#takeOutput(item)) return false;
        continue;
      }
      if (item.kind === 'applied') {
        this.#noteApplied(item.index);
        continue;
      }
      const entry = this.journal.enter(item);
      if (entry === undefined) continue;
      if (entry === 'mismatch') {
        this.#nondeterministic();
        return false;
      }
      if (item.kind === 'sleep') this.#owner.sleep(entry, item.ms);
      else if (!this.#admitCall(entry, item.json)) return false;
    }
    return true;
  }

  #takeOutput(item: Extract<ScriptItem, { kind: 'output' }>): boolean {
    this.#outputsSeen++;
    if (this.#outputsSeen <= this.#outputsShown) return true;
    this.#outputsShown = this.#outputsSeen;
    const bytes = Buffer.byteLength(item.text);
    this.#outputBytes += Math.max(1, bytes); // An empty line costs too, or there would be no end of them.
    if (this.#outputBytes > this.spec.limits.maxOutputBytes) {
      this.stop('OUTPUT_LIMIT_EXCEEDED', 'The script wrote more than maxOutputBytes to the console');
      return false;
    }
    this.#owner.output(item, bytes);
    return true;
  }

  #admitCall(entry: NewEntry, args: string): boolean {
    const { maxToolCalls } = this.spec.limits;
    if (this.journal.callCount > maxToolCalls) {
      this.stop(
        'TOOL_CALL_LIMIT_EXCEEDED',
        `The script made more than maxToolCalls (${maxToolCalls}) tool calls`,
      );
      return false;
    }
    this.#owner.call(entry, args);
    return true;
  }

  #noteApplied(index: number): void {
    this.#appliedSeen++;
    if (this.#appliedSeen <= this.#appliedShown) return;
    this.#appliedShown = this.#appliedSeen;
    this.#owner.applied(index);
  }

  // ---- what it is handed ---------------------------------------------------------------------------------

  /** Hand this to the script, after everything that was delivered before. It may wait for a worker, or be over. */
  deliver(entry: NewEntry | undefined, delivery: Delivery): void {
    if (this.#phase.at === 'over') return;
    this.journal.deliver(entry, delivery, performance.now());
    if (this.#phase.at !== 'seated') return;
    if (!this.journal.replayable) {
      // What cannot be started again must not be preempted: it moves while it still can be.
      if (!this.#threaded) {
        this.#threaded = true;
        return this.#phase.seat.again();
      }
      this.journal.forget();
    }
    this.#sent++;
    this.#outgoing.push(delivery);
    if (this.#outgoing.length === 1) process.nextTick(() => this.#handOver());
  }

  /** Send what was delivered in this turn of the event loop, in one message. */
  #handOver(): void {
    const deliveries = this.#outgoing;
    this.#outgoing = [];
    if (this.#phase.at !== 'seated' || deliveries.length === 0) return;
    if (this.#waits) {
      this.#waits = false;
      this.#phase.seat.waiting(false);
    }
    this.#phase.seat.deliver(deliveries);
  }

  // ---- ends that the host decides ------------------------------------------------------------------------

  /** End an execution that is not in a worker. */
  refuse(code: ErrorCode, message: string, retryAfterMs?: number, details?: Failure['details']): void {
    this.#fail({ ok: false, code, message, retryAfterMs, details });
  }

  /** End it now with what is known: its worker is being killed because of it, or everything closes. */
  end(code: ErrorCode, message: string, outcome?: Outcome): void {
    // What was decided first stands.
    if (this.#phase.at === 'stopping') return this.#phase.end();
    this.#fail({ ok: false, code, message, outcome });
  }

  #timeOut(): void {
    const { timeoutMs } = this.spec.limits;
    this.#owner.timedOut(Math.round(this.seatedMs));
    this.stop('EXECUTION_TIMEOUT', `The script ran longer than timeoutMs (${timeoutMs})`);
  }

  /** Stop the script wherever it is, and end; a worker that does not obey within {@link STOP_GRACE_MS} is killed. */
  stop(code: ErrorCode, message: string): void {
    if (this.#phase.at === 'waiting') return this.#fail({ ok: false, code, message });
    if (this.#phase.at !== 'seated') return;
    const { seat } = this.#phase;
    const end = (): void => this.#fail({ ok: false, code, message }, true);
    const grace = setTimeout(() => {
      seat.kill();
      this.#fail({ ok: false, code, message });
    }, STOP_GRACE_MS);
    this.#phase = { at: 'stopping', seat, end, grace };
    this.#owner.stopping(message);
    seat.cancel();
  }

  #nondeterministic(): void {
    this.stop(
      'NONDETERMINISTIC_REPLAY',
      'Started again from its journal, the script made other calls than before',
    );
  }

  // ---- the end -------------------------------------------------------------------------------------------

  #finish(end: GuestEnd): void {
    if (!end.ok) {
      const stack = end.stack === '' ? undefined : scriptFrames(end.stack);
      const { code, message, name } = end;
      return this.#fail({ ok: false, code, message, name, stack }, true);
    }
    const { limits, state: found, maxStateBytes = 0 } = this.spec;
    const refuse = (code: ErrorCode, message: string): void => this.#fail({ ok: false, code, message }, true);
    if (Buffer.byteLength(end.json) > limits.maxResultBytes) {
      return refuse(
        'RESULT_LIMIT_EXCEEDED',
        `The returned value is larger than maxResultBytes (${limits.maxResultBytes})`,
      );
    }
    // The script's thread may have more stack than whoever writes or walks the value.
    if (isTooDeep(end.json)) {
      return refuse('SERIALIZATION_ERROR', `The returned value is nested deeper than ${MAX_NESTING} levels`);
    }
    let value: unknown;
    try {
      value = end.json === '' ? undefined : JSON.parse(end.json);
    } catch {
      return refuse('SERIALIZATION_ERROR', 'The returned value is not JSON');
    }
    const state = found === undefined || end.state === found ? undefined : end.state;
    if (state !== undefined) {
      if (Buffer.byteLength(state) > maxStateBytes)
        return refuse('STATE_LIMIT_EXCEEDED', `\`state\` is larger than maxStateBytes (${maxStateBytes})`);
      if (isTooDeep(state)) {
        return refuse('SERIALIZATION_ERROR', `\`state\` is nested deeper than ${MAX_NESTING} levels`);
      }
      if (!plainState(state)) return refuse('SERIALIZATION_ERROR', '`state` is not a JSON object');
    }
    this.#close({ ok: true, json: end.json, value, state }, true);
  }

  #fail(failure: Failure, sound = false): void {
    this.#close(failure, sound);
  }

  /** `sound`: it did not harm its worker. */
  #close(end: ExecutionEnd, sound: boolean): void {
    const phase = this.#phase;
    if (phase.at === 'over') return; // X1
    if (phase.at === 'stopping') clearTimeout(phase.grace);
    clearTimeout(this.#wall);
    this.#phase = { at: 'over' };
    this.#owner.ended(end);
    if (phase.at === 'seated' || phase.at === 'stopping') phase.seat.leave(sound);
    this.#owner.left();
  }
}
