/**
 * An execution for a caller in this process: its tool handlers and timers run here, its events are told as they
 * happen, and it ends as an ExecutionResult.
 *
 * Invariant:
 *  N1  A handler runs at most once per call, however many attempts there are.
 */
import { Buffer } from 'node:buffer';
import { deliveryCode, refusalText } from '../../actors/attempt.ts';
import {
  type EventPayloads,
  type EventType,
  type ExecutionEvent,
  PROTOCOL_VERSION,
} from '../../actors/events.ts';
import { isTooDeep, MAX_NESTING } from '../../actors/nesting.ts';
import { executionError } from '../errors.ts';
import type { ExecutionResult, ExecutionStats } from '../result.ts';
import { Execution, type ExecutionSpec, MAX_SLEEPS } from './execution.ts';
import type { NewEntry } from './journal.ts';
import type { ScriptItem } from './messages.ts';
import type { ExecutionEnd, ExecutionOwner } from './owner.ts';
import { parsedOrNothing } from './text.ts';

/** How tools are reached. The answer is a code for a name that stands for no tool, or for none that the script may call. */
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
    | 'UNKNOWN_TOOL'
    | 'TOOL_NOT_ALLOWED';
}

export interface RunSpec extends Omit<ExecutionSpec, 'restarts' | 'owner'> {
  /** The caller's own name for the tenant, for tools. */
  readonly tenant: string | undefined;
  readonly tools: ToolPort;
  readonly onEvent: ((event: ExecutionEvent) => void) | undefined;
  /** Called once, after everything else. */
  readonly onEnd: (result: ExecutionResult) => void;
}

/** A call that waits for its turn, or takes it. `args` is JSON, or '' for none. */
interface MadeCall {
  readonly entry: NewEntry;
  readonly args: string;
}

export class Run implements ExecutionOwner {
  /** What the pool runs. */
  readonly execution: Execution;
  readonly #spec: RunSpec;
  #clock = 0;
  #seq = 0;
  #stdoutBytes = 0;
  #abort: AbortController | undefined;
  #runningCalls = 0;
  #queuedCalls: MadeCall[] = [];
  readonly #sleeps = new Set<NodeJS.Timeout>();
  #result: ExecutionResult | undefined;

  constructor(spec: RunSpec) {
    this.#spec = spec;
    this.execution = new Execution({ ...spec, restarts: true, owner: this });
    this.#emit('session_init', { executionId: spec.id });
  }

  // ---- what the script does ------------------------------------------------------------------------------

  output(item: Extract<ScriptItem, { kind: 'output' }>, bytes: number): void {
    if (item.level === '') {
      this.#stdoutBytes += bytes;
      this.#emit('stdout', { chunk: item.text });
    } else {
      this.#emit('log', { level: item.level, message: item.text });
    }
  }

  call(entry: NewEntry, args: string): void {
    const refusal = this.#refusalOf(entry.name, args);
    if (this.#spec.onEvent !== undefined) {
      this.#emit('tool_call', {
        callId: this.#callId(entry),
        toolName: entry.name,
        // What is no JSON (no guest of ours sends it) the call itself refuses.
        args: refusal === undefined ? parsedOrNothing(args) : undefined,
      });
    }
    if (refusal !== undefined) return this.#deliver(entry, 'SERIALIZATION_ERROR', refusal);
    const call: MadeCall = { entry, args };
    if (this.#runningCalls >= this.#spec.limits.maxConcurrentToolCalls) this.#queuedCalls.push(call);
    else this.#startCall(call);
  }

  /** Why no tool is handed these arguments: before they wait for one, which may not be there. */
  #refusalOf(name: string, args: string): string | undefined {
    const { maxToolPayloadBytes } = this.#spec.limits;
    // A UTF-16 unit takes one to three bytes; the guest counted units.
    if (args.length * 3 > maxToolPayloadBytes && Buffer.byteLength(args) > maxToolPayloadBytes)
      return `callTool(${name}): the arguments are larger than maxToolPayloadBytes (${maxToolPayloadBytes})`;
    if (isTooDeep(args))
      return `callTool(${name}): the arguments are nested deeper than ${MAX_NESTING} levels`;
    return undefined;
  }

  sleep(entry: NewEntry, ms: number): void {
    if (this.#sleeps.size >= MAX_SLEEPS) {
      return this.execution.stop(
        'INVALID_ARGUMENT',
        `The script started more than ${MAX_SLEEPS} sleeps at once`,
      );
    }
    this.execution.journal.start(entry, performance.now());
    const timer = setTimeout(() => {
      this.#sleeps.delete(timer);
      this.#deliver(entry, '', '');
    }, ms);
    this.#sleeps.add(timer);
  }

  applied(index: number): void {
    if (this.#spec.onEvent === undefined) return;
    const entry = this.execution.journal.entryAt(index);
    if (entry?.kind !== 'call') return;
    this.#emit('tool_result_applied', { callId: this.#callId(entry), ok: entry.state === 'completed' });
  }

  /** Everything is told at once. */
  told(): void {}

  timedOut(elapsedMs: number): void {
    this.#emit('deadline_exceeded', { elapsedMs, budgetMs: this.#spec.limits.timeoutMs });
  }

  restarting(): void {
    this.#emit('error', {
      code: 'WORKER_CRASHED',
      message: 'The worker was lost; the script is started again from its journal',
      recoverable: true,
    });
  }

  stopping(message: string): void {
    this.#abort?.abort(new Error(message));
  }

  // ---- what it is handed ---------------------------------------------------------------------------------

  #startCall({ entry, args }: MadeCall): void {
    const { id, tenant, tools } = this.#spec;
    this.#abort ??= new AbortController();
    const reply = tools.call(entry.name, args, {
      executionId: id,
      callIndex: entry.index,
      idempotencyKey: this.#callId(entry),
      tenant,
      signal: this.#abort.signal,
    });
    if (typeof reply === 'string') return this.#deliver(entry, reply, refusalText(reply, entry.name));
    this.#runningCalls++;
    this.execution.journal.start(entry, performance.now());
    void reply.then((end) => {
      this.#runningCalls--;
      // Cancelled by the end of the execution: what the handler did is not known, and stays so.
      if (this.execution.over || (!end.ok && end.code === 'CANCELLED')) return;
      if (end.ok) this.#deliver(entry, '', end.json);
      else this.#deliver(entry, deliveryCode(end.code), end.message);
      this.#startWaiting();
    });
  }

  /** A call that is refused at once leaves its place to the one after it. */
  #startWaiting(): void {
    while (this.#runningCalls < this.#spec.limits.maxConcurrentToolCalls && !this.execution.over) {
      const next = this.#queuedCalls.shift();
      if (next === undefined) return;
      this.#startCall(next);
    }
  }

  #deliver(entry: NewEntry, code: string, payload: string): void {
    this.#clock = Math.max(this.#clock, this.execution.startTime, Date.now());
    this.execution.deliver(entry, [entry.index, code, payload, this.#clock]);
  }

  #callId(entry: NewEntry): string {
    return `${this.#spec.id}/${entry.index}`;
  }

  // ---- the end -------------------------------------------------------------------------------------------

  ended(end: ExecutionEnd): void {
    const result = this.#resultOf(end);
    this.#queuedCalls = [];
    for (const timer of this.#sleeps) clearTimeout(timer);
    if (this.#runningCalls > 0) this.#abort?.abort(new Error('The execution has ended'));
    this.#emitFinal(result);
    this.#result = result;
  }

  left(): void {
    if (this.#result !== undefined) this.#spec.onEnd(this.#result);
  }

  #resultOf(end: ExecutionEnd): ExecutionResult {
    const { execution } = this;
    const { journal, startedAt, usage } = execution;
    const now = performance.now();
    const executionId = this.#spec.id;
    const toolCalls = journal.records(now);
    const stats: ExecutionStats = {
      duration: startedAt === undefined ? 0 : now - startedAt,
      cpuTime: usage.cpu,
      toolCallCount: toolCalls.length,
      startTime: execution.startTime,
      endTime: Date.now(),
      queueTime: (startedAt ?? now) - execution.admittedAt,
      memoryUsage: usage.heap,
      attempts: execution.attempts,
    };
    if (end.ok) return { success: true, value: end.value, executionId, stats, toolCalls };
    const outcome =
      end.outcome ?? (!execution.started ? 'not_started' : journal.inDoubt ? 'unknown' : 'completed');
    const error = executionError(end.code, { ...end, outcome });
    return { success: false, error, executionId, stats, toolCalls };
  }

  #emitFinal(result: ExecutionResult): void {
    if (this.#spec.onEvent === undefined) return;
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
    if (this.#spec.onEvent === undefined) return;
    this.#seq++;
    this.#spec.onEvent({
      protocolVersion: PROTOCOL_VERSION,
      sessionId: this.#spec.id,
      seq: this.#seq,
      type,
      payload,
    } as ExecutionEvent);
  }
}
