/**
 * Commands to the owner of a session, and questions to the brokers, until somebody answers.
 *
 * Invariants:
 *  R1  A command that is sent again is the same command, ids included: whoever got it before answers as before.
 *  R2  That nobody is subscribed, and that a request ran into its time-out, end in the same way: somebody is asked
 *      to see to an owner. Ownership decides, never the silence of a subject: a paused owner still listens.
 *  R3  An answer of an epoch lower than the highest that was seen counts as silence.
 *  R4  The outcome is honest: `unknown` from the moment a command is on its way until it is known that nobody got
 *      it, or an owner said what became of it.
 *  R5  Everything that waits ends when the client closes, or when its connection is given up, and none waits longer
 *      than `timeoutMs`.
 *  R6  Who gives up says why: with the last refusal, if there was one.
 */
import { type Body, type Bus, BusError, type TraceHeaders } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import { EnclaveError, isErrorCode, type Outcome } from '../errors.ts';
import type { Activated, ActivateSession, AskSession, ReplyError, SessionCommand } from '../protocol.ts';
import type { BrokerVerb, Subjects } from '../subjects.ts';
import { Patience } from './backoff.ts';
import { Epochs } from './epochs.ts';

export interface RequestsOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** Longest search for an owner or a broker, in ms. After it: UNAVAILABLE. */
  readonly timeoutMs: number;
  /** Longest wait for one answer, in ms. */
  readonly requestTimeoutMs: number;
}

export interface Answer<T> {
  readonly value: T;
  readonly epoch: number;
  /** Given by a broker, because nobody owned the session. */
  readonly unowned: boolean;
}

export interface CommandOptions {
  /** Where the command only reads: the broker's verb that answers it as well while nobody owns the session. */
  readonly otherwise?: 'session_info' | 'session_result' | undefined;
  /** Asked before each sending; `acted`: an earlier one may have been acted on. True: give up, as CANCELLED. */
  readonly stop?: ((acted: boolean) => boolean) | undefined;
  /** What it is asked for. Default: that is not traced. */
  readonly trace?: TraceHeaders | undefined;
}

/** What came back from one sending. */
type Heard<T> =
  | { readonly kind: 'answer'; readonly value: T; readonly epoch: number }
  | { readonly kind: 'refused'; readonly error: ReplyError }
  /** Nobody got it. */
  | { readonly kind: 'nobody' }
  /** Somebody may have got it. */
  | { readonly kind: 'silence' };

/** One command or question, until it is answered. */
interface Asking {
  readonly session: string;
  readonly patience: Patience;
  /** How many connections had been given up when it began. */
  readonly outage: number;
  /** Whether somebody may have acted on what was sent so far (R4). */
  acted: boolean;
  /** The last refusal that was thought to pass (R6). */
  last: ReplyError | undefined;
}

/** Refusals that another owner, or the same a little later, may not repeat. */
const PASSING: readonly string[] = ['FENCED', 'UNAVAILABLE'];
const READING: readonly SessionCommand['t'][] = ['info', 'result'];

/** Codes that say nothing about a command that may have been acted on before. A session that is not found may have run it. */
const UNDECIDED: readonly string[] = ['UNAVAILABLE', 'CLOSED', 'NOT_FOUND'];

export class Requests {
  readonly #bus: Bus;
  readonly #clock: Clock;
  readonly #subjects: Subjects;
  readonly #timeoutMs: number;
  readonly #requestTimeoutMs: number;
  readonly #epochs = new Epochs();
  /** Ends each wait that is under way (R5). */
  readonly #waits = new Set<() => void>();
  /** Cuts each pause short. */
  readonly #pauses = new Set<() => void>();
  #closed = false;
  /** Connections that were given up, and what is said of the last one. */
  #outages = 0;
  #outage: EnclaveError | undefined;

  constructor(options: RequestsOptions) {
    this.#bus = options.bus;
    this.#clock = options.clock;
    this.#subjects = options.subjects;
    this.#timeoutMs = options.timeoutMs;
    this.#requestTimeoutMs = options.requestTimeoutMs;
  }

  /**
   * Send a command to the owner of a session until it is answered. Rejects with an EnclaveError: what the owner
   * refused it with, UNAVAILABLE if none could be found in time, CLOSED, or INVALID_ARGUMENT if it is larger than
   * the bus carries.
   */
  async command<T>(
    session: string,
    command: SessionCommand,
    options: CommandOptions = {},
  ): Promise<Answer<T>> {
    const asking = this.#begin(session);
    try {
      for (;;) {
        if (options.stop?.(asking.acted) === true)
          throw new EnclaveError('CANCELLED', 'It was cancelled before anybody took it on');
        const subject = this.#subjects.sessionCmd(session);
        const heard = await this.#send<T>(subject, command, asking, true, options.trace);
        let atLeastMs = 0;
        if (heard.kind === 'answer') return { value: heard.value, epoch: heard.epoch, unowned: false };
        if (heard.kind === 'refused') atLeastMs = this.#patienceFor(heard.error, asking);
        else if (heard.kind === 'nobody' && options.otherwise !== undefined)
          return await this.#askInstead<T>(command, options.otherwise, asking);
        await this.#activate(asking, atLeastMs);
      }
    } catch (error) {
      throw this.#honest(error, asking, READING.includes(command.t));
    }
  }

  /** Ask any broker until one answers. `acts`: it does more than read. Rejects like {@link Requests.command}. */
  async ask<T>(verb: BrokerVerb, body: Body, acts = false): Promise<Answer<T>> {
    const { session = '' } = body as { readonly session?: string };
    const asking = this.#begin(session);
    try {
      return await this.#ask<T>(verb, body, asking);
    } catch (error) {
      throw this.#honest(error, asking, !acts);
    }
  }

  /** See that somebody owns the session. Rejects like {@link Requests.command}. */
  async activate(session: string): Promise<void> {
    const asking = this.#begin(session);
    try {
      await this.#activate(asking, 0);
    } catch (error) {
      throw this.#honest(error, asking, true);
    }
  }

  /** The connection was given up: end everything that waits with this error. What comes later is asked anew. */
  giveUp(error: EnclaveError): void {
    this.#outages++;
    this.#outage = error;
    // What was sent ends by itself, and knows whether it was.
    for (const end of [...this.#pauses]) end();
  }

  /** The session is gone, or about to be created: epochs of its name begin anew. */
  forget(session: string): void {
    this.#epochs.forget(session);
  }

  /** End everything that waits, as CLOSED. Safe to call again. */
  close(): void {
    this.#closed = true;
    for (const end of [...this.#waits]) end();
  }

  #begin(session: string): Asking {
    const patience = new Patience(this.#clock, this.#timeoutMs);
    return { session, patience, outage: this.#outages, acted: false, last: undefined };
  }

  async #askInstead<T>(command: SessionCommand, verb: BrokerVerb, asking: Asking): Promise<Answer<T>> {
    const { session } = asking;
    const body: AskSession = command.t === 'result' ? { session, execution: command.execution } : { session };
    return await this.#ask<T>(verb, body, asking);
  }

  async #ask<T>(verb: BrokerVerb, body: Body, asking: Asking): Promise<Answer<T>> {
    let atLeastMs = 0;
    for (;;) {
      await this.#pause(asking.patience, atLeastMs);
      const heard = await this.#send<T>(this.#subjects.broker(verb), body, asking, true);
      if (heard.kind === 'answer') return { value: heard.value, epoch: heard.epoch, unowned: true };
      atLeastMs = heard.kind === 'refused' ? this.#patienceFor(heard.error, asking) : 0;
    }
  }

  async #activate(asking: Asking, atLeastMs: number): Promise<void> {
    const { session, patience } = asking;
    for (;;) {
      await this.#pause(patience, atLeastMs);
      const body: ActivateSession = { session, minEpoch: this.#epochs.of(session) };
      const subject = this.#subjects.broker('session_activate');
      // To activate a session does nothing that could be in doubt.
      const heard = await this.#send<Activated>(subject, body, asking, false);
      if (heard.kind === 'answer' && heard.value.broker !== undefined) return;
      if (heard.kind === 'answer') atLeastMs = heard.value.retryAfterMs;
      else atLeastMs = heard.kind === 'refused' ? this.#patienceFor(heard.error, asking) : 0;
    }
  }

  async #send<T>(
    subject: string,
    body: Body,
    asking: Asking,
    acts: boolean,
    trace?: TraceHeaders,
  ): Promise<Heard<T>> {
    const { session, patience, acted } = asking;
    if (this.#closed) throw new EnclaveError('CLOSED', 'The client was closed');
    if (this.#outage !== undefined && asking.outage !== this.#outages) throw this.#outage;
    if (patience.leftMs === 0) throw unavailable(asking);
    const timeoutMs = Math.max(1, Math.min(this.#requestTimeoutMs, Math.ceil(patience.leftMs)));
    if (acts) asking.acted = true;
    try {
      const heard = this.#hear<T>(
        await this.#held(this.#bus.request(subject, body, { timeoutMs, trace }), timeoutMs),
        session,
      );
      if (heard.kind === 'refused' && acts) asking.acted = acted || heard.error.outcome === 'unknown';
      return heard;
    } catch (error) {
      // There is no connection, and none can be made: it was not sent.
      if (error instanceof EnclaveError && error.code === 'UNAVAILABLE') asking.acted = acted;
      if (!(error instanceof BusError) || error.code === 'BAD_SUBJECT') throw error;
      if (error.code === 'TIMEOUT') return { kind: 'silence' };
      if (error.code === 'CLOSED') throw new EnclaveError('CLOSED', 'The bus was closed', { cause: error });
      asking.acted = acted;
      if (error.code === 'NO_RESPONDERS' || error.code === 'DISCONNECTED') return { kind: 'nobody' };
      throw new EnclaveError('INVALID_ARGUMENT', `It is larger than the bus carries: ${error.message}`, {
        cause: error,
      });
    }
  }

  #hear<T>(body: Body, session: string): Heard<T> {
    const { ok, epoch, value, error } = body as Partial<Record<'ok' | 'epoch' | 'value' | 'error', unknown>>;
    if (typeof epoch !== 'number' || typeof ok !== 'boolean') return { kind: 'silence' };
    if (epoch > 0 && !this.#epochs.admit(session, epoch)) return { kind: 'silence' }; // R3
    if (ok) return { kind: 'answer', value: value as T, epoch };
    return isRefusal(error) ? { kind: 'refused', error } : { kind: 'silence' };
  }

  /** How long to wait before trying again, in ms. Throws a refusal that trying again would not change. */
  #patienceFor(error: ReplyError, asking: Asking): number {
    const { retryAfterMs } = error.details ?? {};
    if (PASSING.includes(error.code) && error.retryable) {
      asking.last = error;
      return typeof retryAfterMs === 'number' ? retryAfterMs : 0;
    }
    if (error.code === 'NOT_FOUND') this.#epochs.forget(asking.session);
    throw refused(error, asking.acted);
  }

  async #pause(patience: Patience, atLeastMs: number): Promise<void> {
    const ms = patience.nextPauseMs(atLeastMs);
    if (ms === 0) return;
    let callOff = (): void => undefined;
    let end = (): void => undefined;
    try {
      await this.#held(
        new Promise<void>((resolve) => {
          end = resolve;
          callOff = this.#clock.after(ms, resolve, true);
          this.#pauses.add(resolve);
        }),
      );
    } finally {
      callOff();
      this.#pauses.delete(end);
    }
  }

  /** Settles as the promise does, or rejects as CLOSED when the client closes first. `awakeMs`: keep the process up. */
  async #held<T>(promise: Promise<T>, awakeMs?: number): Promise<T> {
    // A bus within the process has nothing that keeps it up while an answer is waited for.
    const sleep = awakeMs === undefined ? undefined : this.#clock.after(awakeMs + 1, () => undefined, true);
    let end = (): void => undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        end = () => reject(new EnclaveError('CLOSED', 'The client was closed'));
        this.#waits.add(end);
        promise.then(resolve, reject);
        if (this.#closed) end();
      });
    } finally {
      this.#waits.delete(end);
      sleep?.();
    }
  }

  /** R4: what was neither answered nor refused by an owner is in doubt if somebody may have acted on it. */
  #honest(error: unknown, asking: Asking, reads: boolean): unknown {
    if (!(error instanceof EnclaveError)) return error;
    const inDoubt = !reads && asking.acted && UNDECIDED.includes(error.code);
    if (!inDoubt || error.outcome === 'unknown') return error;
    const { cause, key, details } = error;
    return new EnclaveError(error.code, error.message, { cause, key, details, outcome: 'unknown' });
  }
}

function isRefusal(error: unknown): error is ReplyError {
  return (
    typeof error === 'object' && error !== null && typeof (error as Partial<ReplyError>).code === 'string'
  );
}

/** R6 */
function unavailable({ session, last }: Asking): EnclaveError {
  const whom = session === '' ? 'No broker answered' : `Nobody answered for session "${session}"`;
  if (last === undefined) return new EnclaveError('UNAVAILABLE', `${whom} in time`);
  const { code, message, details } = last;
  return new EnclaveError('UNAVAILABLE', `${whom} in time: ${message}`, {
    details: { ...details, refusal: code },
  });
}

const OUTCOMES: readonly Outcome[] = ['not_started', 'completed', 'unknown'];

function refused(error: ReplyError, acted: boolean): EnclaveError {
  const { code, message, details } = error;
  const outcome = OUTCOMES.includes(error.outcome) ? error.outcome : acted ? 'unknown' : 'not_started';
  // A newer broker may know codes that this version does not.
  const key = typeof details?.key === 'string' ? details.key : undefined;
  if (isErrorCode(code)) return new EnclaveError(code, String(message), { key, outcome, details });
  return new EnclaveError('UNAVAILABLE', `${code}: ${message}`, { outcome, details: { ...details, code } });
}
