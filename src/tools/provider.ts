/**
 * The tool provider role: runs handlers for sessions that it reaches only over the bus. It answers a call as taken,
 * and tells its end to the session's subject until whoever owns the session by then acknowledges it, so a call
 * outlives a move of its session.
 *
 * Invariants:
 *  T1  A key runs at most once at a time, and never again here once an end of it was acknowledged that says what it did.
 *  T2  An end is told again until it is acknowledged, for `keepMs` at most.
 *  T3  What was refused did not run.
 *  T4  What would be too large for the bus is left to it, so that limits do not depend on where an owner is.
 *  T5  An end is forgotten before its time only if nobody hears it, and nobody can take the place of who should.
 *  T6  There is one timer beside that of its heartbeat, and only while an end is unacknowledged (tools' own time
 *      limits aside).
 */
import {
  type Body,
  type Bus,
  BusError,
  type Message,
  type Subscription,
  type TraceHeaders,
} from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import { HeldAnswer, HOLD_MS } from '../heldanswer.ts';
import type { Losses } from '../losses.ts';
import type {
  CallEnd,
  CallTaken,
  CallTool,
  ProbedCalls,
  ProviderHeartbeat,
  ProviderMessage,
  Reply,
  ReplyError,
  ToolPage,
} from '../protocol.ts';
import { answer, refusal, refuse } from '../replies.ts';
import { PROVIDERS, type Subjects } from '../subjects.ts';
import { publishIfFits, sendToSomebody } from '../telling.ts';
import { Tombstones } from '../tombstones.ts';
import { messageAttributes, type OpenSpan, openSpan, tracing } from '../traces.ts';
import { Announcer } from './announcer.ts';
import { callOf, providerCommandOf } from './commands.ts';
import { callTool, type ToolCall, type ToolCallOptions } from './dispatch.ts';
import { Ends, type Told } from './ends.ts';
import { callEnd, reconcileCall } from './reconcile.ts';
import type { ResolvedTool, ToolRegistry } from './registry.ts';

const MiB = 1024 * 1024;
/** Calls are refused while the ends that nobody has acknowledged take up this much. */
const MAX_KEPT_BYTES = 64 * MiB;
/** How long the key of an acknowledged call is recognised, in ms. */
const TOMBSTONE_MS = 600_000;
/** An end of a stateless run that was told for so long is told as a question whether anybody hears it, in ms. */
const DOUBT_MS = 10_000;
/** When a refused owner may ask again, in ms. */
const RETRY_AFTER_MS = 100;
/** Most bytes of one UTF-16 unit of a text that is JSON within JSON. */
const MAX_BYTES_PER_UNIT = 6;

export interface ToolProviderOptions {
  /** Names this provider: no other may have it. */
  readonly id: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** Its defined tools are provided; a `toolHandler` for other names is not reached over the bus. */
  readonly registry: ToolRegistry;
  /** An end that is not acknowledged is told again after this long, or up to twice as long, in ms. Default 1,000. */
  readonly resendMs?: number | undefined;
  /** For how long, in ms. Default 300,000. Afterwards it is forgotten, and the owner's probe finds the call missing. */
  readonly keepMs?: number | undefined;
  /** Calls at once. Default 10,000. At the limit: OVERLOADED, nothing ran. */
  readonly maxRunning?: number | undefined;
  /** Told of what is refused or dropped here. Default: nobody counts. */
  readonly losses?: Losses | undefined;
  /** How long the answer to a call waits for its end, in ms. Default 25; 0: not at all. */
  readonly holdMs?: number | undefined;
}

interface Running {
  readonly session: string;
  /** Nobody takes the owner's place. */
  readonly hasNoHeirs: boolean;
  readonly controller: AbortController;
  /** The answer that it was taken on. */
  readonly taken: HeldAnswer<NonNullable<CallTaken['ended']>>;
}

export class ToolProvider {
  readonly id: string;
  readonly #bus: Bus;
  readonly #clock: Clock;
  readonly #subjects: Subjects;
  readonly #registry: ToolRegistry;
  readonly #resendMs: number;
  readonly #maxRunning: number;
  readonly #holdMs: number;
  readonly #losses: Losses | undefined;
  /** Its tools, by subject. */
  readonly #names = new Map<string, string>();
  readonly #running = new Map<string, Running>();
  readonly #ends: Ends;
  /** Keys of calls that were acknowledged. */
  readonly #done: Tombstones;
  readonly #announcer: Announcer;
  #phase: 'new' | 'open' | 'draining' | 'closed' = 'new';
  #tools: Subscription[] = [];
  #commands: Subscription[] = [];
  /** Calls may still come. */
  #called = true;
  #cancelSweep: (() => void) | undefined;
  #drained: PromiseWithResolvers<void> | undefined;
  #cancelGrace: (() => void) | undefined;

  constructor(options: ToolProviderOptions) {
    const { id, bus, clock, subjects, registry } = options;
    const { resendMs = 1_000, keepMs = 300_000, maxRunning = 10_000, holdMs = HOLD_MS } = options;
    this.id = id;
    this.#bus = bus;
    this.#clock = clock;
    this.#subjects = subjects;
    this.#registry = registry;
    this.#resendMs = resendMs;
    this.#maxRunning = maxRunning;
    this.#holdMs = holdMs;
    this.#losses = options.losses;
    this.#ends = new Ends(keepMs);
    this.#done = new Tombstones(clock, TOMBSTONE_MS);
    this.#announcer = new Announcer({ id, bus, clock, subjects, registry });
  }

  /** Calls whose handlers run. */
  get running(): number {
    return this.#running.size;
  }

  /** Calls that have ended and whose end is not acknowledged. */
  get unacknowledged(): number {
    return this.#ends.size;
  }

  /** Take calls. Resolves when they can reach it. */
  async start(): Promise<void> {
    if (this.#phase !== 'new') return;
    this.#phase = 'open';
    const command = (message: Message): void => this.#command(message);
    this.#commands = [
      this.#bus.subscribe(this.#subjects.providerCmd(this.id), command),
      this.#bus.subscribe(this.#subjects.providerProbe, command),
    ];
    for (const name of this.#registry.names()) this.#names.set(this.#subjects.tool(name), name);
    this.#tools = [...this.#names].map(([subject, name]) =>
      this.#bus.subscribe(subject, (message) => this.#call(name, message), {
        queue: PROVIDERS,
      }),
    );
    await this.#bus.flush();
    // Who hears of it can call it.
    if (this.#phase === 'open') this.#announcer.start();
  }

  /**
   * Take no more calls, and wait until every call has ended and every end was acknowledged, or `graceMs` have
   * passed. Call `close` afterwards.
   */
  drain(graceMs: number): Promise<void> {
    if (this.#drained !== undefined) return this.#drained.promise;
    this.#drained = Promise.withResolvers();
    const { promise, resolve } = this.#drained;
    if (this.#phase !== 'open') resolve();
    else {
      this.#phase = 'draining';
      this.#announcer.drain();
      this.#cancelGrace = this.#clock.after(graceMs, resolve, true);
      // Calls that are on their way are refused: whoever had no answer would have to take them for lost.
      const left = this.#tools.map((subscription) => subscription.drain().catch(() => {}));
      void Promise.all(left).then(() => {
        this.#called = false;
        this.#noteGone();
      });
    }
    return promise;
  }

  /** Abort every call and leave the bus. Nothing is told: owners find out by probing. */
  close(): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    for (const subscription of [...this.#tools, ...this.#commands]) subscription.unsubscribe();
    this.#cancelSweep?.();
    this.#announcer.stop();
    const running = [...this.#running.values()];
    this.#running.clear();
    this.#ends.clear();
    for (const { controller, taken } of running) {
      taken.give();
      abort(controller, 'the tool provider was closed');
    }
    this.#noteGone();
  }

  /**
   * As a call that comes over the bus, from an owner in this process. Undefined if it has to go over the bus: it is
   * none of ours, there is no room here, or it is large (T4).
   */
  take(subject: string, body: Body, trace?: TraceHeaders): Promise<Body> | undefined {
    const name = this.#names.get(subject);
    const call = name === undefined ? undefined : callOf(body);
    if (name === undefined || call === undefined || !this.#fits(call.args)) return undefined;
    if (this.#refusal() !== undefined) return undefined;
    return new Promise((resolve) => {
      const respond = (reply: Body): void => {
        const { value } = reply as Reply<CallTaken> & { readonly value?: CallTaken };
        const end = value?.ended?.end;
        const text = end?.ok === true ? end.json : end?.ok === false ? end.message : '';
        if (!this.#fits(text)) throw new BusError('PAYLOAD_TOO_LARGE', subject, 'it goes by itself');
        resolve(reply);
      };
      // Not within the call of whoever asks, as over the bus.
      this.#clock.soon(() => {
        if (this.#phase !== 'closed') return this.#call(name, { subject, body, trace, respond });
        const error = refusal('CLOSED', `tool provider ${this.id} is closed`);
        resolve({ ok: false, error, epoch: call.epoch } satisfies Reply<never>);
      });
    });
  }

  #fits(text: string): boolean {
    return text.length * MAX_BYTES_PER_UNIT < this.#bus.maxPayloadBytes;
  }

  // ---- calls ---------------------------------------------------------------------------------------------

  #call(canonicalName: string, message: Message): void {
    const call = callOf(message.body);
    const tool = this.#registry.resolve(canonicalName);
    if (call === undefined || tool === undefined) return this.#losses?.dropped('command');
    if (this.#phase === 'closed') return;
    if (this.#recognise(call)) {
      answer<CallTaken>(message, call.epoch, { provider: this.id });
      return;
    }
    // A call of another effect may have been acknowledged by an owner that never committed it, and is made again.
    const spent = call.t === 'call' && tool.effect === 'unsafe' && this.#done.has(call.key);
    const why = spent ? forgotten(call.key) : this.#refusal();
    if (why !== undefined) return refuse(message, call.epoch, why);
    if (message.respond !== undefined) this.#run(tool, call, message);
  }

  /** Whether this was asked before: then it does not run again (T1). */
  #recognise({ key, t }: CallTool): boolean {
    if (this.#running.has(key)) return true;
    const told = this.#ends.get(key);
    // That it must not be started is an answer to act upon: the call that follows it acknowledges it.
    if (told !== undefined && t === 'call' && !isFinal(told.message.end)) {
      this.#acknowledge(key);
      return false;
    }
    if (told !== undefined) this.#tell(key, told);
    return told !== undefined;
  }

  #refusal(): ReplyError | undefined {
    if (this.#phase !== 'open') return refusal('CLOSED', `tool provider ${this.id} is draining`);
    const running = this.#running.size;
    if (running < this.#maxRunning && this.#ends.bytes < MAX_KEPT_BYTES) return undefined;
    this.#losses?.overloaded('provider');
    const details = { retryAfterMs: RETRY_AFTER_MS, running, maxRunning: this.#maxRunning };
    return refusal('OVERLOADED', `tool provider ${this.id} has no room`, details);
  }

  #run(tool: ResolvedTool, message: CallTool, asked: Message): void {
    const { key, session, epoch } = message;
    const controller = new AbortController();
    const taken = new HeldAnswer<NonNullable<CallTaken['ended']>>(
      (ended) =>
        answer<CallTaken>(
          asked,
          epoch,
          ended === undefined ? { provider: this.id } : { provider: this.id, ended },
        ),
      () => {
        untold = true;
      },
    );
    const running: Running = { session, hasNoHeirs: message.home === true, controller, taken };
    let untold = false;
    taken.hold(this.#clock, this.#holdMs);
    // An owner that cannot be told that it is taken may ask another provider: then it must not run here (T3). If that
    // shows only later, the owner asks every provider, and finds it here.
    if (untold) return;
    this.#running.set(key, running);
    const startedAt = this.#clock.monotonic();
    const call: ToolCall = {
      executionId: message.execution,
      callIndex: message.index,
      idempotencyKey: key,
      tenant: message.tenant === '' ? undefined : message.tenant,
      sessionId: session,
      epoch: message.epoch,
      notAfter: this.#clock.now() + message.notAfterMs,
    };
    const options: ToolCallOptions = {
      maxPayloadBytes: message.maxPayloadBytes,
      signal: controller.signal,
      after: (ms, act) => this.#clock.after(ms, act, true),
    };
    const run = (): Promise<CallEnd> =>
      message.t === 'call'
        ? callTool(tool, message.args, call, options).then(callEnd)
        : reconcileCall(tool, message.args, call, options);
    const span = tracing() ? this.#span(tool, message, asked) : undefined;
    // The handler's own spans are children of this one.
    const end = span === undefined ? run() : span.run(run);
    void end.then((end) => {
      span?.end(failureOf(end));
      // Closed in the meantime: nothing is told.
      if (this.#running.get(key) !== running) return;
      this.#running.delete(key);
      this.#end(key, running, end, this.#clock.monotonic() - startedAt);
    });
  }

  #span(
    { canonicalName, effect }: ResolvedTool,
    { t, session, execution, index }: CallTool,
    asked: Message,
  ): OpenSpan {
    return openSpan({
      name: t === 'call' ? 'enclave.tool' : 'enclave.tool.reconcile',
      kind: 'server',
      parent: asked.trace,
      attributes: {
        ...messageAttributes(this.#bus, 'process', asked.subject),
        'enclave.tool.name': canonicalName,
        'enclave.tool.effect': effect,
        'enclave.session.id': session,
        'enclave.execution.id': execution,
        'enclave.call.index': index,
        'enclave.provider.id': this.id,
      },
    });
  }

  #end(key: string, { session, hasNoHeirs, taken }: Running, end: CallEnd, durationMs: number): void {
    const now = this.#clock.monotonic();
    const message = { t: 'ended', key, provider: this.id, end, durationMs } as const;
    if (taken.give({ end, durationMs }) || this.#send(session, message))
      this.#ends.add(key, session, message, now, hasNoHeirs);
    else {
      const shorter = { ...message, end: tooLarge(end) };
      this.#send(session, shorter);
      this.#ends.add(key, session, shorter, now, hasNoHeirs);
    }
    this.#sweepLater();
  }

  // ---- what owners say -----------------------------------------------------------------------------------

  #command(message: Message): void {
    const command = providerCommandOf(message.body);
    if (command === undefined) return this.#losses?.dropped('command');
    if (this.#phase === 'closed') return;
    switch (command.t) {
      case 'ack':
        for (const key of command.keys) this.#acknowledge(key);
        return this.#noteGone();
      case 'cancel': {
        const running = this.#running.get(command.key);
        return running && abort(running.controller, 'nobody waits for this call any more');
      }
      case 'probe': {
        const missing = command.keys.filter((key) => !this.#found(key));
        answer<ProbedCalls>(message, 0, { missing });
        return;
      }
      case 'advertise':
        answer<ProviderHeartbeat>(message, 0, this.#announcer.beat());
        return;
      case 'tools':
        answer<ToolPage>(message, 0, this.#announcer.page(command.page));
    }
  }

  #acknowledge(key: string): void {
    const told = this.#ends.delete(key);
    if (told !== undefined && isFinal(told.message.end)) this.#done.add(key);
  }

  /** Tell the session what is known here about a call. False if that is nothing. */
  #found(key: string): boolean {
    const running = this.#running.get(key);
    if (running !== undefined) this.#send(running.session, { t: 'alive', key, provider: this.id });
    const told = this.#ends.get(key);
    if (told !== undefined) this.#tell(key, told);
    return running !== undefined || told !== undefined;
  }

  #noteGone(): void {
    if (this.#phase !== 'closed' && (this.#called || this.#running.size > 0 || this.#ends.size > 0)) return;
    this.#cancelGrace?.();
    this.#drained?.resolve();
  }

  // ---- sending -------------------------------------------------------------------------------------------

  #tell(key: string, told: Told): void {
    const now = this.#clock.monotonic();
    this.#ends.sent(key, told, now);
    if (told.hasNoHeirs && now - told.endedAt >= DOUBT_MS) this.#ask(key, told);
    else this.#send(told.session, told.message);
  }

  /** T5 */
  #ask(key: string, { session, message }: Told): void {
    sendToSomebody(this.#bus, this.#subjects.sessionTools(session), message, this.#resendMs, () => {
      this.#ends.delete(key);
      this.#noteGone();
    });
  }

  /** False only if it is larger than the bus carries. */
  #send(session: string, message: ProviderMessage): boolean {
    return publishIfFits(this.#bus, this.#subjects.sessionTools(session), message);
  }

  #sweepLater(): void {
    if (this.#phase === 'closed') return;
    this.#cancelSweep ??= this.#clock.after(this.#resendMs, () => this.#sweep());
  }

  /** T2, T6. */
  #sweep(): void {
    this.#cancelSweep = undefined;
    for (const [key, told] of this.#ends.due(this.#clock.monotonic(), this.#resendMs)) this.#tell(key, told);
    if (this.#ends.size > 0) this.#sweepLater();
    this.#noteGone();
  }
}

/** It says what the call did, so that it is never made again. */
function isFinal(end: CallEnd): boolean {
  return typeof end.ok === 'boolean';
}

/** Why a call failed; undefined if it did not. */
function failureOf(end: CallEnd): string | undefined {
  if (end.ok === false) return end.code;
  return end.ok === 'unknown' ? 'OUTCOME_UNKNOWN' : undefined;
}

function tooLarge(end: CallEnd): CallEnd {
  const bytes = end.ok === true ? end.json.length : 0;
  const message = `the result, of ${bytes} characters of JSON, is larger than one message of the bus can be`;
  return { ok: false, code: 'SERIALIZATION_ERROR', message };
}

function abort(controller: AbortController, why: string): void {
  controller.abort(new DOMException(why, 'AbortError'));
}

/** T1: it ran here and its end was acknowledged; who asks again knows nothing of it, and nobody here does either. */
function forgotten(key: string): ReplyError {
  const message = `the end of ${key} was acknowledged, and is not kept`;
  return { code: 'OUTCOME_UNKNOWN', message, retryable: false, outcome: 'unknown' };
}
