/**
 * A session's side of its attempts: offers them to runtimes, hands deliveries over, acknowledges reports, and finds
 * out whether one still lives.
 *
 * Invariants:
 *  O1  What is handed over was committed, and goes in the order of its numbers; what the runtime has not told to have
 *      received is sent again.
 *  O2  A report is acknowledged after the commit of the step that took it in, never before.
 *  O3  An attempt counts as lost only when nobody can run it any more: its runtime answers that it does not have
 *      it (and will never accept it), or obeys a later owner only, or is gone, or is silent for {@link SILENT_PROBES}
 *      probes.
 *  O4  A report counts only if it comes from the runtime that the attempt was offered to. One that comes with the
 *      answer to the offer is as good as any other.
 *  O5  A runtime that was told of more than is committed here, because a fail-over of the store lost it, is stopped:
 *      what it runs has gone on from what nobody knows.
 */
import { type Bus, BusError, isNobody, type TraceHeaders } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Offer, OfferAnswer, ProbeAnswer, Reply, Report } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import type { Acks } from './acks.ts';
import type { Directory } from './directory.ts';
import { isOfferAnswer, isProbeAnswer, replyOf } from './heard.ts';
import { reportOf } from './reports.ts';

/** Longest wait for the answer to an offer or a probe, in ms. */
const ANSWER_MS = 1_000;
/** Deliveries that are not told to have been received are sent again after this, in ms. */
const RESEND_MS = 1_000;
/** An attempt that nothing was heard of for this long is asked for, though its runtime lives, in ms. */
const QUIET_MS = 5_000;
/** Probes without an answer after which a runtime that sends no heartbeats either is taken for dead. */
const SILENT_PROBES = 3;
/** Bytes of deliveries in one message. */
const BATCH_BYTES = 256 * 1024;
/** Share of a message that an offer's texts may take: escaped they take more, and an envelope comes with them. */
const OFFER_SHARE = 0.8;

/** What an offer may carry of texts, in bytes. */
export function maxOfferBytes({ maxPayloadBytes }: Pick<Bus, 'maxPayloadBytes'>): number {
  return Math.floor(maxPayloadBytes * OFFER_SHARE);
}

export interface Link {
  readonly execution: string;
  readonly attempt: string;
  readonly runtime: string;
  state: 'offering' | 'running';
  /** Reports taken in, and those whose steps are committed. */
  taken: number;
  committed: number;
  acknowledged: number;
  /** Deliveries sent, and those that the runtime told to have received. */
  sent: number;
  received: number;
  sentAt: number;
  heardAt: number;
  probing: boolean;
  silent: number;
  /** The number of the report that had its end. */
  last: number | undefined;
}

export interface AttemptsOptions {
  readonly session: string;
  readonly epoch: number;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Directory;
  /** True while this owner may act. */
  readonly mayAct: () => boolean;
  readonly acks: Acks;
  /** True while the owner may speak, though the session's actor may have stopped. */
  readonly leaseHolds: () => boolean;
  readonly makeOffer: (execution: string, attempt: string) => Offer | undefined;
  /** What an execution is offered for. Default: that is not traced. */
  readonly trace?: ((execution: string) => TraceHeaders | undefined) | undefined;
  /** Committed deliveries of an execution after the first `count`. */
  readonly deliveries: (execution: string, count: number) => Offer['deliveries'];
  /** A report that came with the answer to the offer. */
  readonly onReport: (report: Report) => void;
  readonly onRefused: (execution: string, attempt: string, code: string, message: string) => void;
  readonly onLost: (execution: string, attempt: string) => void;
}

export class Attempts {
  readonly #options: AttemptsOptions;
  readonly #links = new Map<string, Link>();
  #stopped = false;

  constructor(options: AttemptsOptions) {
    this.#options = options;
  }

  /** Forget everything and say nothing more. */
  stop(): void {
    this.#stopped = true;
    this.#links.clear();
  }

  get(attempt: string): Link | undefined {
    return this.#links.get(attempt);
  }

  // ---- effects -------------------------------------------------------------------------------------------

  async offer(execution: string, attempt: string, runtime: string): Promise<void> {
    const { bus, subjects, directory, makeOffer } = this.#options;
    const offer = this.#acts() ? makeOffer(execution, attempt) : undefined;
    if (offer === undefined) return;
    const link = this.#open(execution, attempt, runtime, 'offering');
    link.sent = offer.deliveries.length;
    let answer: Reply<OfferAnswer> | undefined;
    try {
      const trace = this.#options.trace?.(execution);
      const body = await bus.request(subjects.runtimeCmd(runtime), offer, { timeoutMs: ANSWER_MS, trace });
      answer = replyOf(body, isOfferAnswer);
    } catch (error) {
      if (!this.#current(link)) return;
      const code = error instanceof BusError ? error.code : 'UNAVAILABLE';
      // It may have been accepted: only the runtime can tell.
      if (code === 'TIMEOUT') return this.probe(execution, attempt, runtime);
      if (code === 'NO_RESPONDERS') directory.drop(runtime);
      const permanent = code === 'PAYLOAD_TOO_LARGE' ? 'RESULT_LIMIT_EXCEEDED' : 'NO_RUNTIME';
      return this.#refused(link, permanent, `The runtime ${runtime} could not be reached`);
    }
    if (!this.#current(link)) return;
    if (answer?.ok === true) {
      this.#accepted(link);
      const report = reportOf(answer.value.report, attempt);
      // One that is none comes again, by its own subject, where it is dropped and told of.
      if (typeof report !== 'string') this.#options.onReport(report);
      return;
    }
    if (answer?.ok === false && answer.error.code === 'OVERLOADED') directory.noteFull(runtime);
    else directory.noteOffer(runtime, -1);
    // Whatever it does: what it reports on an attempt that is not its own is not heard.
    if (answer === undefined)
      return this.#refused(link, 'NO_RUNTIME', `The runtime ${runtime} gave an answer that is none`);
    this.#refused(link, answer.error.code, answer.error.message);
  }

  /** Ask whether it still runs; if so take it over. */
  async probe(execution: string, attempt: string, runtime: string): Promise<void> {
    const { bus, subjects, session, epoch, directory, clock } = this.#options;
    const link = this.#links.get(attempt) ?? this.#open(execution, attempt, runtime, 'offering');
    if (link.probing || !this.#acts()) return;
    link.probing = true;
    try {
      const body = await bus.request(
        subjects.runtimeCmd(runtime),
        { t: 'probe', attempt, session, epoch },
        { timeoutMs: ANSWER_MS },
      );
      const answer = replyOf<ProbeAnswer>(body, isProbeAnswer);
      if (answer === undefined)
        throw new BusError('TIMEOUT', subjects.runtimeCmd(runtime), 'no answer to a probe');
      link.probing = false;
      if (!this.#current(link)) return;
      link.silent = 0;
      if (answer.ok && answer.value.running) {
        if (this.#isAhead(link, answer.value)) {
          this.#tell(runtime, { t: 'stop', attempt, epoch });
          return this.#lost(link); // O5
        }
        link.received = Math.max(link.received, answer.value.received);
        link.sent = Math.max(link.sent, link.received);
        return this.#accepted(link);
      }
      // It is not there, or a later owner spoke to it. If that one lives, the next commit here is fenced, and nothing is
      // done; if the store forgot it in a fail-over, nobody else will begin the script again.
      this.#lost(link); // O3
    } catch (error) {
      link.probing = false;
      if (!this.#current(link)) return;
      // Cut off ourselves, we know nothing of it.
      if (!(error instanceof BusError && error.code === 'DISCONNECTED')) link.silent++;
      if (isNobody(error, bus)) {
        directory.drop(runtime);
        return this.#lost(link); // O3
      }
      if (link.silent >= SILENT_PROBES && !directory.isThere(runtime)) return this.#lost(link); // O3
      clock.after(ANSWER_MS / 2, () => {
        if (this.#current(link)) void this.probe(execution, attempt, runtime);
      });
    }
  }

  /** O5 */
  #isAhead({ execution, taken }: Link, { received, acknowledged = 0 }: ProbeAnswer): boolean {
    return acknowledged > taken || received > this.#options.deliveries(execution, 0).length;
  }

  /** Hand over what was committed and not sent. */
  deliver(execution: string): void {
    for (const link of this.#links.values()) {
      if (link.execution === execution && link.state === 'running') this.#send(link);
    }
  }

  /** A runtime's process seems to be gone: ask after everything that it has. */
  runtimeGone(runtime: string): void {
    for (const { execution, attempt, runtime: its, state } of [...this.#links.values()])
      if (its === runtime && state === 'running') void this.probe(execution, attempt, runtime);
  }

  /** Let go of it: its end is known, or does not matter any more. */
  release(attempt: string, runtime: string): void {
    const link = this.#links.get(attempt);
    if (this.#links.delete(attempt)) this.#options.directory.noteOffer(runtime, -1);
    // It has stopped by itself, and is forgotten as soon as it knows that this is known.
    if (link?.last !== undefined && link.committed >= link.last) return this.#ack(link);
    this.#tell(runtime, { t: 'stop', attempt, epoch: this.#options.epoch });
  }

  // ---- what comes ----------------------------------------------------------------------------------------

  /** Whether a report is to be taken in now. Answers those that come too early, twice, or from somewhere else. */
  admit(report: Report): Link | undefined {
    const { clock, epoch } = this.#options;
    const link = this.#links.get(report.attempt);
    if (link === undefined) {
      this.#tell(report.runtime, { t: 'stop', attempt: report.attempt, epoch });
      return undefined;
    }
    if (report.runtime !== link.runtime) return undefined; // O4
    link.heardAt = clock.monotonic();
    link.silent = 0;
    if (report.received > link.received) link.received = report.received;
    if (link.state === 'offering') this.#accepted(link);
    if (report.n <= link.taken) {
      if (report.n <= link.committed) this.#ack(link);
      return undefined;
    }
    if (report.n !== link.taken + 1) return undefined;
    link.taken = report.n;
    if (report.end !== undefined) link.last = report.n;
    return link;
  }

  /** The steps that took in these reports are committed (O2). */
  committed(attempt: string, n: number): void {
    const link = this.#links.get(attempt);
    if (link !== undefined && n > link.committed) link.committed = n;
  }

  /** Acknowledge what a delivery did not acknowledge already. */
  acknowledge(): void {
    for (const link of this.#links.values()) {
      if (link.committed <= link.acknowledged) continue;
      link.acknowledged = link.committed;
      this.#ack(link);
    }
  }

  #ack({ runtime, attempt, committed: ack }: Link): void {
    const { acks, epoch, leaseHolds } = this.#options;
    acks.attempt(runtime, attempt, { epoch, ack, mayAct: leaseHolds });
  }

  /** Send again what was lost, and ask after those that are silent. */
  sweep(): void {
    const { clock, directory, deliveries } = this.#options;
    const now = clock.monotonic();
    if (!this.#acts()) return;
    for (const link of this.#links.values()) {
      if (link.state !== 'running') continue;
      const overdue = directory.isOverdue(link.runtime) && now - link.heardAt > ANSWER_MS;
      if (overdue || now - link.heardAt > QUIET_MS) {
        link.heardAt = now;
        void this.probe(link.execution, link.attempt, link.runtime);
      }
      if (now - link.sentAt < RESEND_MS || link.received >= link.sent) continue;
      if (deliveries(link.execution, link.received).length === 0) continue;
      link.sent = link.received;
      this.#send(link);
    }
  }

  // ---- inside --------------------------------------------------------------------------------------------

  #open(execution: string, attempt: string, runtime: string, state: Link['state']): Link {
    const now = this.#options.clock.monotonic();
    const link: Link = {
      execution,
      attempt,
      runtime,
      state,
      taken: 0,
      committed: 0,
      acknowledged: 0,
      sent: 0,
      received: 0,
      sentAt: now,
      heardAt: now,
      probing: false,
      silent: 0,
      last: undefined,
    };
    this.#links.set(attempt, link);
    return link;
  }

  /** After a take-over: what the owner before this one had taken in and committed. */
  restore(execution: string, attempt: string, runtime: string, reports: number): void {
    const link = this.#open(execution, attempt, runtime, 'offering');
    link.taken = reports;
    link.committed = reports;
  }

  #accepted(link: Link): void {
    if (link.state === 'running') return;
    link.state = 'running';
    link.heardAt = this.#options.clock.monotonic();
    this.#send(link);
  }

  #send(link: Link): void {
    const { deliveries, epoch, clock } = this.#options;
    const waiting = deliveries(link.execution, link.sent);
    let from = 0;
    while (from < waiting.length) {
      let to = from;
      for (let bytes = 0; to < waiting.length && (to === from || bytes < BATCH_BYTES); to++)
        bytes += waiting[to]?.[2].length ?? 0;
      link.acknowledged = link.committed;
      this.#tell(link.runtime, {
        t: 'deliver',
        attempt: link.attempt,
        epoch,
        from: link.sent + 1,
        deliveries: waiting.slice(from, to),
        ack: link.committed,
      });
      link.sent += to - from;
      link.sentAt = clock.monotonic();
      from = to;
    }
  }

  #refused(link: Link, code: string, message: string): void {
    this.#links.delete(link.attempt);
    this.#options.onRefused(link.execution, link.attempt, code, message);
  }

  #lost(link: Link): void {
    this.#links.delete(link.attempt);
    this.#options.onLost(link.execution, link.attempt);
  }

  #acts(): boolean {
    return !this.#stopped && this.#options.mayAct();
  }

  #current(link: Link): boolean {
    return this.#acts() && this.#links.get(link.attempt) === link;
  }

  #tell(runtime: string, body: object): void {
    const { bus, subjects } = this.#options;
    // What did not arrive is sent again.
    if (this.#acts()) publishOrDrop(bus, subjects.runtimeCmd(runtime), body);
  }
}
