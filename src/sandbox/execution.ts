/**
 * One run of a script, seen from the host: its journal, its limits, its events, its end.
 *
 * It outlives attempts. When a worker is lost, or a script needs a thread of its own, the execution is started
 * again from its journal: the script makes the same calls, which are answered from the journal, and goes on
 * where it was. Tool handlers run here, in the host, and never notice.
 *
 * Invariants:
 *  X1  It ends once, and its promise resolves exactly then.
 *  X2  A handler runs at most once per call, however many attempts there are.
 *  X3  Nothing from an attempt other than the present one is listened to.
 *  X4  The code of an end comes from what the host did or measured; only a script's own errors come from the guest.
 */
import { Buffer } from 'node:buffer';
import {
  type EventPayloads,
  type EventType,
  type ExecutionEvent,
  PROTOCOL_VERSION,
} from '../../actors/events.ts';
import { type ErrorCode, executionError, type Outcome } from '../errors.ts';
import type { ResolvedLimits } from '../options.ts';
import type { ExecutionResult, ExecutionStats } from '../result.ts';
import { Journal, type NewEntry } from './journal.ts';
import type { Delivery, GuestEnd, GuestItem, Isolation, StartMessage, StopCode, Usage } from './messages.ts';

/** How long a worker may take to stop a script before it is killed, in ms. */
export const STOP_GRACE_MS = 250;

/** Evictions by others' faults after which an execution gets an isolate and a thread of its own. */
const MAX_EVICTIONS = 2;

/** Sleeps of one execution at once. */
const MAX_SLEEPS = 1_000;

/** How tools are reached. `canonical` is undefined for a name that stands for no tool the script may call. */
export interface ToolPort {
  readonly call: (
    name: string,
    argsJson: string,
    call: {
      readonly executionId: string;
      readonly callIndex: number;
      readonly idempotencyKey: string;
      readonly tenant: string | undefined;
      readonly signal: AbortSignal;
    },
  ) =>
    | Promise<
        | { readonly ok: true; readonly json: string }
        | { readonly ok: false; readonly code: string; readonly message: string }
      >
    | undefined;
}

export interface ExecutionSpec {
  readonly id: string;
  readonly source: string;
  /** JSON, or '' for none. */
  readonly input: string;
  /** Whose isolates it may use; never shown. */
  readonly tenantKey: string;
  /** The caller's own name for the tenant, for tools. */
  readonly tenant: string | undefined;
  /** Names the script for the count of its crashes. */
  readonly key: string;
  readonly isolation: Isolation;
  readonly limits: ResolvedLimits;
  readonly seed: readonly [number, number, number, number];
  readonly maxReplayBytes: number;
  readonly tools: ToolPort;
  /** Known to need a thread of its own: it gets one from the start. */
  readonly heavy: boolean;
  /** It turned out to need a thread of its own. */
  readonly onHeavy: () => void;
  readonly onEvent: ((event: ExecutionEvent) => void) | undefined;
  readonly onEnd: (result: ExecutionResult) => void;
}

/** An attempt's place in a worker. */
export interface Seat {
  readonly deliver: (deliveries: readonly Delivery[]) => void;
  /** Ask the worker to stop the script; it answers with `stopped`. */
  readonly cancel: () => void;
  /** Kill the worker because of this execution: its neighbours are innocent. */
  readonly kill: () => void;
  /** The script waits for deliveries only, or runs again. */
  readonly waiting: (waits: boolean) => void;
  /** The execution is over here. `sound`: it did not harm its worker. */
  readonly leave: (sound: boolean) => void;
  /** Start again in the same worker, on a thread of its own. */
  readonly again: () => void;
}

type Phase =
  | { readonly at: 'waiting' }
  | { readonly at: 'seated'; readonly seat: Seat }
  /** Being stopped: the end is decided, the worker has not said so yet. */
  | { readonly at: 'stopping'; readonly seat: Seat; readonly end: () => void; readonly grace: NodeJS.Timeout }
  | { readonly at: 'over' };

export class Execution {
  readonly spec: ExecutionSpec;
  readonly #journal: Journal;
  readonly #admittedAt = performance.now();
  #phase: Phase = { at: 'waiting' };
  #startTime = Date.now();
  #startedAt: number | undefined;
  #clock = 0;
  #attempts = 0;
  #evictions = 0;
  #threaded = false;
  #seq = 0;
  #stdoutBytes = 0;
  #outputBytes = 0;
  /** Output items of all attempts so far, and of the present one: a replay repeats what was already shown. */
  #outputsShown = 0;
  #outputsSeen = 0;
  /** Deliveries sent to the present attempt, and those that it has applied. */
  #sent = 0;
  /** Results handed to the script in all attempts so far, and in the present one. */
  #appliedShown = 0;
  #appliedSeen = 0;
  #usage: Usage = { cpu: 0, heap: 0 };
  #wall: NodeJS.Timeout | undefined;
  #abort: AbortController | undefined;
  #runningCalls = 0;
  #queuedCalls: NewEntry[] = [];
  /** True if its worker was told that it only waits. */
  #waits = false;
  /** Delivered and not yet sent. */
  #outgoing: Delivery[] = [];
  readonly #sleeps = new Set<NodeJS.Timeout>();

  constructor(spec: ExecutionSpec) {
    this.spec = spec;
    this.#journal = new Journal(spec.id, spec.maxReplayBytes);
    this.#threaded = spec.heavy;
    this.#emit('session_init', { executionId: spec.id });
  }

  get over(): boolean {
    return this.#phase.at === 'over';
  }

  get started(): boolean {
    return this.#startedAt !== undefined;
  }

  /** Time since it first got a worker, in ms. */
  get seatedMs(): number {
    return this.#startedAt === undefined ? 0 : performance.now() - this.#startedAt;
  }

  // ---- attempts ------------------------------------------------------------------------------------------

  /** Take a place in a worker. Returns the message that starts the attempt. */
  seat(seat: Seat, attempt: number): StartMessage {
    const { spec } = this;
    const { limits } = spec;
    const now = performance.now();
    if (this.#startedAt === undefined) {
      this.#startedAt = now;
      this.#startTime = Date.now();
      this.#clock = this.#startTime;
    }
    const first = this.#phase.at === 'waiting';
    this.#phase = { at: 'seated', seat };
    this.#attempts++;
    this.#journal.restart();
    this.#outgoing = []; // The start message brings them all.
    if (this.#waits) {
      this.#waits = false;
      if (!first) seat.waiting(false);
    }
    this.#outputsSeen = 0;
    this.#appliedSeen = 0;
    const { deliveries } = this.#journal;
    this.#sent = deliveries.length;
    if (!this.#journal.replayable) this.#journal.forget();
    if (first) {
      clearTimeout(this.#wall);
      this.#wall = setTimeout(() => this.#timeOut(), limits.timeoutMs);
    }
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
    if (heavy || ++this.#evictions >= MAX_EVICTIONS) this.#threaded = true;
    if (heavy) this.spec.onHeavy();
    this.#phase.seat.again();
  }

  /** Its worker is gone. Returns true if it can be started again. */
  lost(): boolean {
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
    if (!this.#journal.replayable) {
      this.#fail(
        'WORKER_CRASHED',
        'The worker was lost, and more was delivered to the script than maxReplayBytes keeps',
        { outcome: 'unknown' },
      );
      return false;
    }
    this.#emit('error', {
      code: 'WORKER_CRASHED',
      message: 'The worker was lost; the script is started again from its journal',
      recoverable: true,
    });
    return true;
  }

  // ---- what the worker says ------------------------------------------------------------------------------

  items(items: readonly GuestItem[]): void {
    if (this.#phase.at === 'seated') this.#takeItems(items);
  }

  step(items: readonly GuestItem[], applied: number, end: GuestEnd | undefined, usage: Usage): void {
    if (this.#phase.at === 'stopping' && end !== undefined) {
      // It ended before it could be stopped, but after its time: the decision stands.
      return this.#phase.end();
    }
    if (this.#phase.at !== 'seated') return;
    this.#usage = usage;
    if (!this.#takeItems(items)) return;
    if (end !== undefined) return this.#finish(end);
    if (this.#journal.behind) return this.#nondeterministic();
    if (applied >= this.#sent) this.#waitSoon();
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
    if (code === 'SYNTAX_ERROR')
      this.#fail(code, message, { name: 'SyntaxError', stack, outcome: 'not_started', sound: true });
    else this.#fail(code, message, { sound: true });
  }

  // ---- ends that the host decides ------------------------------------------------------------------------

  /** End an execution that is not in a worker. */
  refuse(code: ErrorCode, message: string, retryAfterMs?: number): void {
    this.#fail(code, message, { ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });
  }

  /** End it now with what is known: its worker is being killed because of it, or everything closes. */
  end(code: ErrorCode, message: string, outcome?: Outcome): void {
    // What was decided first stands.
    if (this.#phase.at === 'stopping') return this.#phase.end();
    this.#fail(code, message, { sound: false, ...(outcome === undefined ? {} : { outcome }) });
  }

  /** Stop it wherever it is; a worker that does not obey within {@link STOP_GRACE_MS} is killed. */
  stop(code: 'CANCELLED' | 'CLOSED', reason: string): void {
    this.#stop(code, reason);
  }

  #timeOut(): void {
    const { timeoutMs } = this.spec.limits;
    const elapsedMs = Math.round(performance.now() - (this.#startedAt ?? performance.now()));
    this.#emit('deadline_exceeded', { elapsedMs, budgetMs: timeoutMs });
    this.#stop('EXECUTION_TIMEOUT', `The script ran longer than timeoutMs (${timeoutMs})`);
  }

  /** Stop the script and end; a worker that does not obey within the grace is killed. */
  #stop(code: ErrorCode, message: string): void {
    if (this.#phase.at === 'waiting') return this.#fail(code, message, {});
    if (this.#phase.at !== 'seated') return;
    const { seat } = this.#phase;
    const end = (): void => this.#fail(code, message, { sound: true });
    const grace = setTimeout(() => {
      seat.kill();
      this.#fail(code, message, { sound: false });
    }, STOP_GRACE_MS);
    this.#phase = { at: 'stopping', seat, end, grace };
    this.#abort?.abort(new Error(message));
    seat.cancel();
  }

  // ---- tool calls ----------------------------------------------------------------------------------------

  #takeItems(items: readonly GuestItem[]): boolean {
    for (const item of items) {
      if (item.kind === 'output') {
        if (!this.#takeOutput(item)) return false;
        continue;
      }
      if (item.kind === 'applied') {
        this.#noteApplied(item.index);
        continue;
      }
      const entry = this.#journal.enter(item);
      if (entry === undefined) continue;
      if (entry === 'mismatch') {
        this.#nondeterministic();
        return false;
      }
      if (item.kind === 'sleep') this.#sleep(entry, item.ms);
      else if (!this.#admitCall(entry)) return false;
    }
    return true;
  }

  #takeOutput(item: Extract<GuestItem, { kind: 'output' }>): boolean {
    this.#outputsSeen++;
    if (this.#outputsSeen <= this.#outputsShown) return true;
    this.#outputsShown = this.#outputsSeen;
    const bytes = Buffer.byteLength(item.text);
    this.#outputBytes += bytes;
    if (this.#outputBytes > this.spec.limits.maxOutputBytes) {
      this.#stop('OUTPUT_LIMIT_EXCEEDED', 'The script wrote more than maxOutputBytes to the console');
      return false;
    }
    if (item.level === '') {
      this.#stdoutBytes += bytes;
      this.#emit('stdout', { chunk: item.text });
    } else {
      this.#emit('log', { level: item.level, message: item.text });
    }
    return true;
  }

  #admitCall(entry: NewEntry): boolean {
    const { limits } = this.spec;
    if (this.#journal.callCount > limits.maxToolCalls) {
      this.#stop(
        'TOOL_CALL_LIMIT_EXCEEDED',
        `The script made more than maxToolCalls (${limits.maxToolCalls}) tool calls`,
      );
      return false;
    }
    if (this.spec.onEvent !== undefined) {
      this.#emit('tool_call', {
        callId: this.#callId(entry),
        toolName: entry.name,
        args: parsedOrNothing(entry.args),
      });
    }
    if (this.#runningCalls >= limits.maxConcurrentToolCalls) this.#queuedCalls.push(entry);
    else this.#startCall(entry);
    return true;
  }

  #startCall(entry: NewEntry): void {
    const { spec } = this;
    this.#abort ??= new AbortController();
    const reply = spec.tools.call(entry.name, entry.args, {
      executionId: spec.id,
      callIndex: entry.index,
      idempotencyKey: this.#callId(entry),
      tenant: spec.tenant,
      signal: this.#abort.signal,
    });
    if (reply === undefined) return this.#deliver(entry, 'UNKNOWN_TOOL', `There is no tool "${entry.name}"`);
    this.#runningCalls++;
    this.#journal.start(entry, performance.now());
    void reply.then((end) => {
      this.#runningCalls--;
      // Cancelled by the end of the execution: what the handler did is not known, and stays so.
      if (this.over || (!end.ok && end.code === 'CANCELLED')) return;
      if (end.ok) this.#deliver(entry, '', end.json);
      else this.#deliver(entry, guestCode(end.code), end.message);
      const next = this.#queuedCalls.shift();
      if (next !== undefined && !this.over) this.#startCall(next);
    });
  }

  #sleep(entry: NewEntry, ms: number): void {
    // The guest refuses more than this; a worker that lets more through is not ours any more.
    if (this.#sleeps.size >= MAX_SLEEPS) {
      return this.#stop('INVALID_ARGUMENT', `The script started more than ${MAX_SLEEPS} sleeps at once`);
    }
    this.#journal.start(entry, performance.now());
    const timer = setTimeout(() => {
      this.#sleeps.delete(timer);
      this.#deliver(entry, '', '');
    }, ms);
    this.#sleeps.add(timer);
  }

  #deliver(entry: NewEntry, code: string, payload: string): void {
    this.#clock = Math.max(this.#clock, Date.now());
    const delivery: Delivery = [entry.index, code, payload, this.#clock];
    this.#journal.deliver(entry, delivery, performance.now());
    if (this.#phase.at !== 'seated') return;
    if (!this.#journal.replayable && !this.#threaded) {
      // What cannot be started again must not be preempted: it moves while it still can be.
      this.#threaded = true;
      return this.#phase.seat.again();
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

  #noteApplied(index: number): void {
    this.#appliedSeen++;
    if (this.#appliedSeen <= this.#appliedShown) return;
    this.#appliedShown = this.#appliedSeen;
    if (this.spec.onEvent === undefined) return;
    const entry = this.#journal.entryAt(index);
    if (entry?.kind !== 'call') return;
    this.#emit('tool_result_applied', { callId: this.#callId(entry), ok: entry.state === 'completed' });
  }

  #callId(entry: NewEntry): string {
    return `${this.spec.id}/${entry.index}`;
  }

  // ---- the end -------------------------------------------------------------------------------------------

  #nondeterministic(): void {
    this.#stop(
      'NONDETERMINISTIC_REPLAY',
      'Started again from its journal, the script made other calls than before',
    );
  }

  #finish(end: GuestEnd): void {
    if (!end.ok) {
      const stack = end.stack === '' ? {} : { stack: scriptFrames(end.stack) };
      return this.#fail(end.code, end.message, { name: end.name, ...stack, sound: true });
    }
    if (Buffer.byteLength(end.json) > this.spec.limits.maxResultBytes) {
      return this.#fail(
        'RESULT_LIMIT_EXCEEDED',
        `The returned value is larger than maxResultBytes (${this.spec.limits.maxResultBytes})`,
        { sound: true },
      );
    }
    let value: unknown;
    try {
      value = end.json === '' ? undefined : JSON.parse(end.json);
    } catch {
      return this.#fail('SERIALIZATION_ERROR', 'The returned value is not JSON', { sound: true });
    }
    this.#close(true, (executionId, stats, toolCalls) => ({
      success: true,
      value,
      executionId,
      stats,
      toolCalls,
    }));
  }

  #fail(
    code: ErrorCode,
    message: string,
    how: {
      readonly name?: string;
      readonly stack?: string;
      readonly outcome?: Outcome;
      readonly retryAfterMs?: number;
      readonly sound?: boolean;
    },
  ): void {
    if (this.#phase.at === 'over') return; // X1
    const outcome =
      how.outcome ?? (!this.started ? 'not_started' : this.#journal.inDoubt ? 'unknown' : 'completed');
    const error = executionError(code, {
      name: how.name,
      message,
      stack: how.stack,
      outcome,
      retryAfterMs: how.retryAfterMs,
    });
    this.#close(how.sound ?? false, (executionId, stats, toolCalls) => ({
      success: false,
      error,
      executionId,
      stats,
      toolCalls,
    }));
  }

  #close(
    sound: boolean,
    build: (id: string, stats: ExecutionStats, toolCalls: ExecutionResult['toolCalls']) => ExecutionResult,
  ): void {
    const phase = this.#phase;
    if (phase.at === 'over') return; // X1
    if (phase.at === 'stopping') clearTimeout(phase.grace);
    clearTimeout(this.#wall);
    const now = performance.now();
    const toolCalls = this.#journal.records(now);
    this.#phase = { at: 'over' };
    this.#queuedCalls = [];
    for (const timer of this.#sleeps) clearTimeout(timer);
    if (this.#runningCalls > 0) this.#abort?.abort(new Error('The execution has ended'));
    const result = build(
      this.spec.id,
      {
        duration: this.#startedAt === undefined ? 0 : now - this.#startedAt,
        cpuTime: this.#usage.cpu,
        toolCallCount: toolCalls.length,
        startTime: this.#startTime,
        endTime: Date.now(),
        queueTime: (this.#startedAt ?? now) - this.#admittedAt,
        memoryUsage: this.#usage.heap,
        attempts: this.#attempts,
      },
      toolCalls,
    );
    this.#emitFinal(result);
    if (phase.at === 'seated' || phase.at === 'stopping') phase.seat.leave(sound);
    this.spec.onEnd(result);
  }

  #emitFinal(result: ExecutionResult): void {
    if (this.spec.onEvent === undefined) return;
    const stats = {
      durationMs: result.stats.duration,
      toolCallCount: result.stats.toolCallCount,
      stdoutBytes: this.#stdoutBytes,
    };
    this.#emit(
      'final',
      result.success
        ? { ok: true, result: result.value, stats }
        : { ok: false, error: { code: result.error.code, message: result.error.message }, stats },
    );
  }

  #emit<T extends EventType>(type: T, payload: EventPayloads[T]): void {
    if (this.spec.onEvent === undefined) return;
    this.#seq++;
    this.spec.onEvent({
      protocolVersion: PROTOCOL_VERSION,
      sessionId: this.spec.id,
      seq: this.#seq,
      type,
      payload,
    } as ExecutionEvent);
  }
}

/** A call's arguments for its event. What is no JSON (no guest of ours sends it) the call itself refuses. */
function parsedOrNothing(json: string): unknown {
  try {
    return json === '' ? undefined : (JSON.parse(json) as unknown);
  } catch {
    return undefined;
  }
}

/** The codes that the guest tells apart; every other failure of a tool is a TOOL_ERROR to it. */
function guestCode(code: string): string {
  return code === 'INVALID_ARGUMENT' || code === 'SERIALIZATION_ERROR' || code === 'UNKNOWN_TOOL'
    ? code
    : 'TOOL_ERROR';
}

/**
 * A stack that V8 formatted by itself (no stack was left to format it with) names the guest's own functions and
 * counts its lines: only its message is kept.
 */
function scriptFrames(stack: string): string {
  return /^\s+at .*\bguest:\d+/m.test(stack) ? stack.replace(/\n\s+at [\s\S]*$/, '') : stack;
}
