/**
 * A session's side of its tool calls: dispatches them to providers, finds out which of them lost their provider, and
 * acknowledges ends that are committed.
 *
 * Invariants:
 *  P1  A call is dispatched only while its owner may act, checked in the same tick, and never after its end was
 *      taken in.
 *  P2  A provider's word is acknowledged only after the commit of the step that took it in.
 *  P3  A call counts as lost only if its provider is gone or says that it does not have it, or if every provider is
 *      known, and is gone or says so, or if no provider at all answers for it. A provider is gone if nobody is where
 *      it was, twice. That nothing is heard while the bus cannot be reached is no sign of anything, nor soon after:
 *      providers that lost it as well may be on their way back.
 */
import { type Bus, BusError, isNobody, isSettled } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { CallEnd, CallTaken, CallTool, ProbedCalls, ProviderMessage } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import type { OpenSpan } from '../traces.ts';
import type { Acks } from './acks.ts';
import { isCallTaken, isProbedCalls, replyOf } from './heard.ts';
import type { ExecutionSpans } from './spans.ts';

/** Failures of a request after which it is certain that nobody got it. */
const UNTAKEN: readonly string[] = ['NO_RESPONDERS', 'DISCONNECTED', 'BAD_SUBJECT'];
/** Longest wait for a provider to take a call on, in ms. */
const TAKE_MS = 1_000;
/**
 * How often providers are asked whether a call is theirs, and how long they have after each time, in ms: a message
 * may be lost, and one that is not asked tells an end again within two seconds.
 */
const LOCATE_TIMES = 5;
const LOCATE_MS = 500;
/** More providers than this are not asked one by one. */
const MAX_ASKED = 100;
/** A provider is asked for a call that it has had for this long, in ms. */
const CHECK_MS = 2_000;
/** Answers missing in a row after which a provider is taken for gone. */
const SILENT_CHECKS = 5;
/** How often nobody is where a provider was before it is taken for gone, and how long after each time it is asked again, in ms. */
const GONE_CHECKS = 2;
const GONE_MS = 250;
/** The end of a call's span whose provider is gone. */
const LOST = 'LOST';

/** What is known of where a call is. */
type Found = 'missing' | 'gone' | 'maybe';

interface Call {
  readonly execution: string;
  readonly index: number;
  readonly key: string;
  provider: string | undefined;
  checkedAt: number;
  checking: boolean;
  silent: number;
  /** How often in a row nobody was where its provider was. */
  gone: number;
  /** Nobody waits for it any more. */
  cancelled: boolean;
  /** From its dispatch here to its end; undefined where nobody traces. */
  span: OpenSpan | undefined;
}

export interface ToolCallsOptions {
  readonly session: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly mayAct: () => boolean;
  readonly acks: Acks;
  /** True while the owner may speak, though the session's actor may have stopped. */
  readonly leaseHolds: () => boolean;
  /** The providers that there are; undefined while others may be there that were not heard of. */
  readonly providers: () => readonly string[] | undefined;
  /** The message that dispatches a call; undefined if it is not open any more (P1). */
  readonly makeCall: (execution: string, index: number, t: 'call' | 'reconcile') => CallTool | undefined;
  /** The subject of the call's tool. */
  readonly subjectOf: (call: CallTool) => string;
  /** Where the traces of calls are kept. Default: nobody traces. */
  readonly spans?: Pick<ExecutionSpans, 'call' | 'headers'> | undefined;
  /** True if the call has no end yet, as far as was decided. */
  readonly isOpen: (execution: string, index: number) => boolean;
  /** True if everything that was decided is committed. */
  readonly isCommitted: () => boolean;
  readonly onLost: (execution: string, index: number) => void;
  readonly onUnprovided: (execution: string, index: number) => void;
  readonly onEnded: (
    execution: string,
    index: number,
    message: Extract<ProviderMessage, { t: 'ended' }>,
  ) => void;
}

export class ToolCalls {
  readonly #options: ToolCallsOptions;
  readonly #calls = new Map<string, Call>();
  /** Owed to providers after the next commit, and the calls among them that were taken in since the last one. */
  #acks = new Map<string, string[]>();
  readonly #ending = new Set<string>();
  #stopped = false;

  constructor(options: ToolCallsOptions) {
    this.#options = options;
  }

  stop(): void {
    this.#stopped = true;
    for (const { span } of this.#calls.values()) span?.end();
    this.#calls.clear();
    this.#acks.clear();
    this.#ending.clear();
  }

  // ---- effects -------------------------------------------------------------------------------------------

  async dispatch(execution: string, index: number, t: 'call' | 'reconcile'): Promise<void> {
    const { bus, makeCall, subjectOf, spans, onUnprovided, onEnded } = this.#options;
    if (!this.#acts()) return; // P1
    const message = makeCall(execution, index, t);
    if (message === undefined) return; // P1
    const call = this.#open(execution, index);
    try {
      const subject = subjectOf(message);
      call.span = spans?.call(message, subject);
      const trace = call.span?.headers ?? spans?.headers(execution);
      const body = await bus.request(subject, message, { timeoutMs: TAKE_MS, trace });
      const taken = replyOf<CallTaken>(body, isCallTaken);
      // Somebody has it, and nobody knows who.
      if (taken === undefined) throw new BusError('TIMEOUT', subject, 'no answer to a call');
      if (taken.ok && taken.value.ended !== undefined && this.#acts()) {
        const { provider, ended } = taken.value;
        return this.hear({ t: 'ended', key: call.key, provider, ...ended });
      }
      if (call.cancelled && taken.ok) return this.#tellCancelled(call, taken.value.provider);
      if (!this.#current(call)) return;
      if (taken.ok) {
        call.provider = taken.value.provider;
      } else if (taken.error.retryable) {
        this.#forget(call, taken.error.code);
        onUnprovided(execution, index);
      } else {
        const { code, message: text } = taken.error;
        const end = { ok: false as const, code, message: text };
        call.span?.end(code);
        onEnded(execution, index, { t: 'ended', key: call.key, provider: '', end, durationMs: 0 });
      }
    } catch (error) {
      if (!this.#current(call)) return;
      const code = error instanceof BusError ? error.code : 'TIMEOUT';
      if (code === 'PAYLOAD_TOO_LARGE') {
        this.#forget(call, 'SERIALIZATION_ERROR');
        const end = {
          ok: false as const,
          code: 'SERIALIZATION_ERROR',
          message: 'The arguments are larger than a message may be',
        };
        return onEnded(execution, index, { t: 'ended', key: call.key, provider: '', end, durationMs: 0 });
      }
      if (!UNTAKEN.includes(code)) return this.locate(execution, index); // Somebody may have it.
      this.#forget(call, code);
      onUnprovided(execution, index);
    }
  }

  /** Ask every provider for it; nobody's call is lost (P3). */
  locate(execution: string, index: number): void {
    void this.#seek(this.#open(execution, index), LOCATE_TIMES);
  }

  async #seek(call: Call, times: number): Promise<void> {
    const { bus, clock, subjects, onLost } = this.#options;
    const reached = await bus.flush().then(
      () => true,
      () => false,
    );
    if (!this.#current(call) || call.provider !== undefined) return;
    this.#publish(subjects.providerProbe, { t: 'probe', keys: [call.key] });
    let found: Found = 'maybe';
    void this.#look(call).then((answer) => {
      found = answer;
    });
    // A call that an owner before this one made may still be on its way to a provider.
    clock.after(LOCATE_MS, () => {
      if (!this.#current(call) || call.provider !== undefined) return;
      const left = reached && isSettled(bus) ? times - 1 : times; // P3
      call.gone = found === 'gone' ? call.gone + 1 : 0;
      const isMissing = found === 'missing' || call.gone >= GONE_CHECKS;
      if (left > 0 && !isMissing) return void this.#seek(call, left);
      this.#forget(call, LOST);
      onLost(call.execution, call.index);
    });
  }

  /** Whether anybody has it. `gone`: nobody is where one of the providers was, and the others do not have it (P3). */
  async #look({ key }: Call): Promise<Found> {
    const { bus, subjects } = this.#options;
    const ids = this.#options.providers();
    if (ids === undefined || ids.length > MAX_ASKED) return 'maybe';
    const answers = ids.map(async (id): Promise<Found> => {
      try {
        const question = { t: 'probe', keys: [key] };
        const body = await bus.request(subjects.providerCmd(id), question, { timeoutMs: LOCATE_MS });
        const reply = replyOf<ProbedCalls>(body, isProbedCalls);
        return reply?.ok === true && reply.value.missing.includes(key) ? 'missing' : 'maybe';
      } catch (error) {
        return isNobody(error, bus) ? 'gone' : 'maybe';
      }
    });
    const found = await Promise.all(answers);
    if (found.includes('maybe')) return 'maybe';
    return found.includes('gone') ? 'gone' : 'missing';
  }

  /** Nobody waits for it any more. */
  cancel(execution: string, index: number): void {
    const key = this.#key(execution, index);
    const call = this.#calls.get(key);
    if (call === undefined) return;
    this.#forget(call, 'CANCELLED');
    call.cancelled = true;
    if (call.provider !== undefined) this.#tellCancelled(call, call.provider);
  }

  #tellCancelled({ key }: Call, provider: string): void {
    this.#publish(this.#options.subjects.providerCmd(provider), { t: 'cancel', key });
  }

  // ---- what comes ----------------------------------------------------------------------------------------

  hear(message: ProviderMessage): void {
    const { key, provider } = message;
    if (this.#ending.has(key)) return; // P2: its acknowledgement follows the commit.
    const [, execution = '', index = ''] = key.split('/');
    const open = this.#options.isOpen(execution, Number(index));
    if (message.t === 'alive') {
      if (open) (this.#calls.get(key) ?? this.#open(execution, Number(index))).provider = provider;
    } else if (open) {
      this.#calls.get(key)?.span?.end(failureOf(message.end));
      this.#options.onEnded(execution, Number(index), message);
    } else {
      // Its end is known, or will be when what was decided is committed (P2): then the provider may forget it.
      this.#owe(provider, key);
      if (this.#options.isCommitted()) this.acknowledge();
    }
  }

  /** A call's end was taken in: its provider is told after the commit (P2). */
  settled(execution: string, index: number, provider: string): void {
    const key = this.#key(execution, index);
    this.#calls.delete(key);
    if (provider === '') return;
    this.#ending.add(key);
    this.#owe(provider, key);
  }

  /** Everything that was taken in is committed (P2). */
  acknowledge(): void {
    if (this.#acks.size === 0) return;
    const acks = this.#acks;
    this.#acks = new Map();
    this.#ending.clear();
    const { acks: owed, leaseHolds } = this.#options;
    for (const [provider, keys] of acks) for (const key of keys) owed.call(provider, key, leaseHolds);
  }

  #owe(provider: string, key: string): void {
    const keys = this.#acks.get(provider);
    if (keys === undefined) this.#acks.set(provider, [key]);
    else keys.push(key);
  }

  /** Ask the providers of calls that take long whether they still have them. */
  sweep(): void {
    const now = this.#options.clock.monotonic();
    if (!this.#acts()) return;
    for (const call of this.#calls.values()) {
      if (call.provider === undefined || call.checking || now - call.checkedAt < CHECK_MS) continue;
      call.checkedAt = now;
      void this.#check(call, call.provider);
    }
  }

  async #check(call: Call, provider: string): Promise<void> {
    const { bus, clock, subjects, onLost } = this.#options;
    call.checking = true;
    let missing = false;
    try {
      const subject = subjects.providerCmd(provider);
      const body = await bus.request(subject, { t: 'probe', keys: [call.key] }, { timeoutMs: TAKE_MS });
      const reply = replyOf<ProbedCalls>(body, isProbedCalls);
      if (reply === undefined) throw new BusError('TIMEOUT', subject, 'no answer to a probe');
      call.silent = 0;
      call.gone = 0;
      missing = reply.ok && reply.value.missing.includes(call.key);
    } catch (error) {
      const code = error instanceof BusError ? error.code : undefined;
      if (code === 'TIMEOUT') call.silent++; // P3
      call.gone = isNobody(error, bus) ? call.gone + 1 : 0;
      missing = call.gone >= GONE_CHECKS || call.silent >= SILENT_CHECKS;
    }
    call.checking = false;
    if (!this.#current(call)) return;
    if (!missing) {
      if (call.gone > 0)
        clock.after(GONE_MS, () => {
          if (this.#current(call) && !call.checking) void this.#check(call, provider);
        });
      return;
    }
    this.#forget(call, LOST);
    onLost(call.execution, call.index);
  }

  // ---- inside --------------------------------------------------------------------------------------------

  #open(execution: string, index: number): Call {
    const key = this.#key(execution, index);
    const call: Call = {
      execution,
      index,
      key,
      provider: undefined,
      checkedAt: this.#options.clock.monotonic(),
      checking: false,
      silent: 0,
      gone: 0,
      cancelled: false,
      // One that is looked for goes on as it was.
      span: this.#calls.get(key)?.span,
    };
    this.#calls.set(key, call);
    return call;
  }

  /** It is not under way any more; `code`: why. */
  #forget({ key, span }: Call, code: string): void {
    span?.end(code);
    this.#calls.delete(key);
  }

  #key(execution: string, index: number): string {
    return `${this.#options.session}/${execution}/${index}`;
  }

  #acts(): boolean {
    return !this.#stopped && this.#options.mayAct();
  }

  #current(call: Call): boolean {
    return this.#acts() && this.#calls.get(call.key) === call;
  }

  #publish(subject: string, body: object): void {
    // What did not arrive is asked for again.
    if (this.#acts()) publishOrDrop(this.#options.bus, subject, body);
  }
}

/** Why a call failed; undefined if it did not. */
function failureOf(end: CallEnd): string | undefined {
  if (end.ok === false) return end.code;
  return end.ok === 'unknown' ? 'OUTCOME_UNKNOWN' : undefined;
}
