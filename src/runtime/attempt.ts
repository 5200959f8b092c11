/**
 * One attempt at an execution, between its owner and its sandbox.
 *
 * Invariants:
 *  A1  What its owner sent in a lower epoch than the highest that was seen is not obeyed.
 *  A2  The sandbox is given every delivery once, in the order of their numbers.
 *  A3  Reports are numbered without a gap, and what the sandbox told is in exactly one of them, in its order,
 *      unless the attempt ends as `lost`.
 *  A4  Exactly one report has an end, and it is the last one.
 *  A5  What is not acknowledged is bounded: by `maxUnacknowledgedBytes` and the last report.
 *  A6  The first report goes along with the answer to the offer, if it comes while that is held back.
 *  A7  An owner that says nothing for {@link SILENT_MS} is asked whether it still wants the attempt: one that gave it up
 *      while nobody could reach us says that it does not.
 *  A8  One whose owner nobody takes the place of is let go as soon as that one is gone: it would hold its place, and a
 *      drain, for nothing.
 */
import type { AttemptEnd, Delivery, ScriptItem } from '../../actors/attempt.ts';
import type { Clock } from '../clock.ts';
import type { HeldAnswer } from '../heldanswer.ts';
import type { Losses } from '../losses.ts';
import type { Offer, Report } from '../protocol.ts';
import { Outbox, sizeOf } from './outbox.ts';
import type { RunningAttempt, Sandbox, SandboxSpec } from './sandbox.ts';
import type { AttemptSpans } from './spans.ts';

/** What an attempt needs of its host. */
export interface AttemptPort {
  /** The runtime's id. */
  readonly runtime: string;
  readonly clock: Clock;
  readonly maxUnacknowledgedBytes: number;
  readonly losses?: Losses | undefined;
  /** Send it if possible. False only if it is larger than the bus carries. Never throws. */
  send(subject: string, report: Report): boolean;
  /** Send it, and call `onNobody` if nobody hears it. Never throws. */
  ask(subject: string, report: Report, onNobody: () => void): void;
  /** The bytes that are kept for the owner have changed by this much. */
  kept(bytes: number): void;
  /** Its script does not run any more. */
  ended(): void;
  /** Nobody can want to know of it any more. */
  orphaned(attempt: string): void;
}

const NOTHING: readonly ScriptItem[] = [];
/** A living owner may be silent for longer where there is nothing to say: then it is heard of by its answer, in ms. */
const SILENT_MS = 3_000;
const LOST: AttemptEnd = { kind: 'lost', alone: false };

export class Attempt {
  readonly id: string;
  readonly #execution: string;
  readonly #subject: string;
  /** Nobody takes its owner's place. */
  readonly #hasNoHeirs: boolean;
  readonly #port: AttemptPort;
  readonly #answer: HeldAnswer<Report>;
  /** Undefined where nobody traces. */
  readonly #spans: AttemptSpans | undefined;
  readonly #outbox = new Outbox();
  #running: RunningAttempt | undefined;
  /** `ended`: its script is over, and its owner has yet to acknowledge that. `gone`: nothing is told any more. */
  #phase: 'running' | 'ended' | 'gone' = 'running';
  #epoch: number;
  /** Deliveries received without a gap, and how many of them the latest report told of. */
  #received: number;
  #told = 0;
  /** The number of the latest report. */
  #n = 0;
  /** What the next report will tell. */
  #items = NOTHING;
  #waiting = false;
  #heardAt: number;
  /** A report is due at the end of this turn. */
  #due = false;
  /** An end was told in the place of something that no message could hold (A4). */
  #over = false;

  /** `answer`: to the offer. */
  constructor(
    offer: Offer,
    subject: string,
    port: AttemptPort,
    answer: HeldAnswer<Report>,
    spans?: AttemptSpans,
  ) {
    this.id = offer.attempt;
    this.#execution = offer.execution;
    this.#subject = subject;
    this.#hasNoHeirs = offer.home === true;
    this.#port = port;
    this.#answer = answer;
    this.#spans = spans;
    this.#epoch = offer.epoch;
    this.#received = offer.deliveries.length;
    this.#heardAt = port.clock.monotonic();
  }

  get epoch(): number {
    return this.#epoch;
  }

  get running(): boolean {
    return this.#phase === 'running';
  }

  /** Deliveries received so far, without a gap. */
  get received(): number {
    return this.#received;
  }

  /** The last report that was acknowledged; 0 for none. */
  get acknowledged(): number {
    return this.#n - this.#outbox.size;
  }

  /** Its end was acknowledged. */
  get settled(): boolean {
    return this.#phase === 'ended' && this.#outbox.size === 0;
  }

  /** Something is kept until it is acknowledged. */
  get owes(): boolean {
    return this.#outbox.size > 0;
  }

  start(sandbox: Sandbox, spec: Omit<SandboxSpec, 'onReport' | 'onEnd' | 'onSeated'>): void {
    const spans = this.#spans;
    const running = sandbox.start({
      ...spec,
      onSeated: spans === undefined ? undefined : (worker) => spans.seated(worker),
      onReport: (items, waiting) => this.#take(items, waiting),
      onEnd: (end) => this.#end(end),
    });
    if (this.#phase === 'running') this.#running = running;
  }

  /** Whether what was sent in this epoch is obeyed; then nothing older is (A1). */
  admits(epoch: number): boolean {
    if (epoch < this.#epoch) return false;
    // Whoever owns it now has not made the offer.
    if (epoch > this.#epoch) this.#answer.give();
    this.#epoch = epoch;
    this.#heardAt = this.#port.clock.monotonic();
    return true;
  }

  // ---- what the owner says -------------------------------------------------------------------------------

  /** Deliveries, `from` being the number of the first (A2). */
  deliver(from: number, deliveries: readonly Delivery[]): void {
    if (this.#phase !== 'running') return;
    const next = this.#received + 1;
    // The next report says what was received: the owner sees what to send.
    if (from > next) return this.#tellSoon();
    const fresh = from === next ? deliveries : deliveries.slice(next - from);
    if (fresh.length > 0) {
      this.#received += fresh.length;
      this.#waiting = false;
      this.#running?.deliver(fresh);
    } else if (deliveries.length > 0 && this.#told < this.#received) {
      // Sent again because no report has told yet that they came.
      this.#tellSoon();
    }
  }

  /** Reports up to this number are committed. */
  acknowledge(n: number): void {
    const before = this.#outbox.bytes;
    this.#outbox.acknowledge(n);
    this.#port.kept(this.#outbox.bytes - before);
  }

  /** A new owner, or one that doubts: it gets everything that is not acknowledged, now. */
  reattach(): void {
    const now = this.#port.clock.monotonic();
    this.#resend(now, 0);
  }

  // ---- what the host does --------------------------------------------------------------------------------

  /** Send again what was sent `ageMs` ago or earlier. Returns for how long its owner has been silent, in ms. */
  sweep(now: number, ageMs: number): number {
    const silentMs = now - this.#heardAt;
    this.#resend(now, ageMs, silentMs >= SILENT_MS && this.#hasNoHeirs);
    if (silentMs >= SILENT_MS && this.#phase === 'running' && !this.owes) this.#ask();
    return silentMs;
  }

  /** End it without a word. */
  stop(): void {
    const { running } = this;
    this.#phase = 'gone';
    this.#answer.drop();
    this.#spans?.ended({ kind: 'stopped' });
    this.#port.kept(-this.#outbox.bytes);
    this.#outbox.clear();
    if (running) this.#leave()?.stop();
  }

  /** End it here, so that its owner has it replayed elsewhere. */
  abandon(): void {
    if (this.#phase !== 'running') return;
    this.#phase = 'ended';
    this.#spans?.ended(LOST);
    this.#leave()?.stop();
    this.#flush(LOST);
  }

  // ---- what the sandbox says -----------------------------------------------------------------------------

  #take(items: readonly ScriptItem[], waiting: boolean): void {
    if (this.#phase !== 'running') return;
    // What was published is the receivers' too: a new array each time.
    if (items.length > 0) this.#items = this.#items.length === 0 ? items : [...this.#items, ...items];
    this.#waiting = waiting;
    this.#tellSoon();
  }

  #end(end: AttemptEnd): void {
    if (this.#phase !== 'running') return;
    this.#phase = 'ended';
    this.#spans?.ended(end);
    if (end.kind === 'refused' && end.code === 'OVERLOADED') this.#port.losses?.overloaded('queue');
    this.#leave();
    this.#flush(end);
  }

  /** The script is over. */
  #leave(): RunningAttempt | undefined {
    const running = this.#running;
    this.#running = undefined;
    this.#port.ended();
    return running;
  }

  // ---- reports -------------------------------------------------------------------------------------------

  /** Once per turn, so that a script without calls costs one report, with its output and its end. */
  #tellSoon(): void {
    if (this.#due) return;
    this.#due = true;
    this.#port.clock.soon(() => {
      this.#due = false;
      // An end has brought it with it.
      if (this.#phase === 'running') this.#flush(undefined);
    });
  }

  #flush(end: AttemptEnd | undefined): void {
    const items = this.#items;
    this.#items = NOTHING;
    this.#report(items, end === undefined && this.#waiting, end, end !== undefined);
  }

  /** Make, send and keep a report. `last`: it is the attempt's last one, or a part of that. */
  #report(items: readonly ScriptItem[], waiting: boolean, end: AttemptEnd | undefined, last: boolean): void {
    const bytes = sizeOf(items, end);
    if (!last && this.owes && this.#outbox.bytes + bytes > this.#port.maxUnacknowledgedBytes)
      return this.abandon(); // A5: the owner is gone, or does not keep up.
    const report: Report = {
      t: 'report',
      attempt: this.id,
      execution: this.#execution,
      runtime: this.#port.runtime,
      n: this.#n + 1,
      received: this.#received,
      items,
      waiting,
      end,
    };
    if (!this.#send(report) && this.#shorten(report, last)) return;
    if (this.#phase === 'gone') return; // Nobody could be told that it was taken.
    this.#n++;
    this.#told = this.#received;
    this.#outbox.add(report, bytes, this.#port.clock.monotonic());
    this.#port.kept(bytes);
  }

  /** A6. False only if it is larger than the bus carries. */
  #send(report: Report): boolean {
    return this.#answer.give(report) || this.#phase === 'gone' || this.#port.send(this.#subject, report);
  }

  /** A report larger than the bus carries becomes several, or an end that says so. False if it is as short as can be. */
  #shorten({ items, waiting, end }: Report, last: boolean): boolean {
    const [item] = items;
    if (items.length + (end === undefined ? 0 : 1) > 1) {
      const half = Math.ceil(items.length / 2);
      this.#report(items.slice(0, half), false, undefined, last);
      // The first half may have ended it, by being too large itself.
      if (last ? !this.#over : this.#phase === 'running') this.#report(items.slice(half), waiting, end, last);
      return true;
    }
    if (item === undefined && end?.kind !== 'returned') return false;
    const running = this.#phase === 'running';
    const told = tooLarge(item, end);
    this.#phase = 'ended';
    this.#spans?.ended(told);
    if (running) this.#leave()?.stop();
    this.#over = true;
    this.#report(NOTHING, false, told, true);
    return true;
  }

  /** A7: what was acknowledged is answered whenever it comes, and is never taken in again. */
  #ask(): void {
    if (this.#n === 0) return;
    const report: Report = {
      t: 'report',
      attempt: this.id,
      execution: this.#execution,
      runtime: this.#port.runtime,
      n: this.#n,
      received: this.#received,
      items: NOTHING,
      waiting: this.#waiting,
      end: undefined,
    };
    if (this.#hasNoHeirs)
      this.#port.ask(this.#subject, report, () => this.#port.orphaned(this.id)); // A8
    else this.#port.send(this.#subject, report);
  }

  /** A8: `inDoubt` while there may be nobody to send it to. */
  #resend(now: number, ageMs: number, inDoubt = false): void {
    for (const report of this.#outbox.again(now, ageMs)) {
      if (inDoubt) this.#port.ask(this.#subject, report, () => this.#port.orphaned(this.id));
      else this.#port.send(this.#subject, report);
    }
  }
}

/** The end of a script that said something that no message can hold. */
function tooLarge(item: ScriptItem | undefined, end: AttemptEnd | undefined): AttemptEnd {
  const failed = (code: string, what: string): AttemptEnd => ({
    kind: 'failed',
    code,
    name: 'EnclaveError',
    message: `${what} larger than one message of the bus can be`,
    stack: '',
    usage: end?.kind === 'returned' ? end.usage : { cpu: 0, heap: 0 },
  });
  if (item === undefined) return failed('RESULT_LIMIT_EXCEEDED', 'The result and the new state are');
  if (item.kind === 'call') return failed('SERIALIZATION_ERROR', 'The arguments of a tool call are');
  return failed('OUTPUT_LIMIT_EXCEEDED', 'One line of output is');
}
