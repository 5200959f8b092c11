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
 *  R5  Everything that waits ends when the client closes, and none waits longer than `timeoutMs`.
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

/** Whether somebody may have acted on what was sent so far (R4). */
interface Doubt {
  acted: boolean;
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
  #closed = false;

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
    const patience = new Patience(this.#clock, this.#timeoutMs);
    const doubt: Doubt = { acted: false };
    try {
      for (;;) {
        if (options.stop?.(doubt.acted) === true)
          throw new EnclaveError('CANCELLED', 'It was cancelled before anybody took it on');
        const subject = this.#subjects.sessionCmd(session);
        const heard = await this.#send<T>(subject, command, patience, doubt, session, options.trace);
        let atLeastMs = 0;
        if (heard.kind === 'answer') return { value: heard.value, epoch: heard.epoch, unowned: false };
        if (heard.kind === 'refused') atLeastMs = this.#patienceFor(session, heard.error, doubt);
        else if (heard.kind === 'nobody' && options.otherwise !== undefined)
          return await this.#askInstead<T>(session, command, options.otherwise, patience);
        await this.#activate(session, patience, doubt, atLeastMs);
      }
    } catch (error) {
      throw this.#honest(error, doubt, READING.includes(command.t));
    }
  }

  /** Ask any broker until one answers. `acts`: it does more than read. Rejects like {@link Requests.command}. */
  async ask<T>(verb: BrokerVerb, body: Body, acts = false): Promise<Answer<T>> {
    const doubt: Doubt = { acted: false };
    try {
      return await this.#ask<T>(verb, body, new Patience(this.#clock, this.#timeoutMs), doubt);
    } catch (error) {
      throw this.#honest(error, doubt, !acts);
    }
  }

  /** See that somebody owns the session. Rejects like {@link Requests.command}. */
  async activate(session: string): Promise<void> {
    const doubt: Doubt = { acted: false };
    try {
      await this.#activate(session, new Patience(this.#clock, this.#timeoutMs), doubt, 0);
    } catch (error) {
      throw this.#honest(error, doubt, true);
    }
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

  async #askInstead<T>(
    session: string,
    command: SessionCommand,
    verb: BrokerVerb,
    patience: Patience,
  ): Promise<Answer<T>> {
    const body: AskSession = command.t === 'result' ? { session, execution: command.execution } : { session };
    return await this.#ask<T>(verb, body, patience, { acted: false });
  }

  async #ask<T>(verb: BrokerVerb, body: Body, patience: Patience, doubt: Doubt): Promise<Answer<T>> {
    const { session = '' } = body as { readonly session?: string };
    let atLeastMs = 0;
    for (;;) {
      await this.#pause(patience, atLeastMs);
      const heard = await this.#send<T>(this.#subjects.broker(verb), body, patience, doubt, session);
      if (heard.kind === 'answer') return { value: heard.value, epoch: heard.epoch, unowned: true };
      atLeastMs = heard.kind === 'refused' ? this.#patienceFor(session, heard.error, doubt) : 0;
    }
  }

  async #activate(session: string, patience: Patience, doubt: Doubt, atLeastMs: number): Promise<void> {
    for (;;) {
      await this.#pause(patience, atLeastMs);
      const body: ActivateSession = { session, minEpoch: this.#epochs.of(session) };
      const subject = this.#subjects.broker('session_activate');
      // To activate a session does nothing that could be in doubt.
      const heard = await this.#send<Activated>(subject, body, patience, { acted: false }, session);
      if (heard.kind === 'answer' && heard.value.broker !== undefined) return;
      if (heard.kind === 'answer') atLeastMs = heard.value.retryAfterMs;
      else atLeastMs = heard.kind === 'refused' ? this.#patienceFor(session, heard.error, doubt) : 0;
    }
  }

  async #send<T>(
    subject: string,
    body: Body,
    patience: Patience,
    doubt: Doubt,
    session: string,
    trace?: TraceHeaders,
  ): Promise<Heard<T>> {
    const acted = doubt.acted;
    if (this.#closed) throw new EnclaveError('CLOSED', 'The client was closed');
    if (patience.leftMs === 0) throw unavailable(session);
    const timeoutMs = Math.max(1, Math.min(this.#requestTimeoutMs, Math.ceil(patience.leftMs)));
    doubt.acted = true;
    try {
      const heard = this.#hear<T>(
        await this.#held(this.#bus.request(subject, body, { timeoutMs, trace }), timeoutMs),
        session,
      );
      if (heard.kind === 'refused') doubt.acted = acted || heard.error.outcome === 'unknown';
      return heard;
    } catch (error) {
      if (!(error instanceof BusError) || error.code === 'BAD_SUBJECT') throw error;
      if (error.code === 'TIMEOUT') return { kind: 'silence' };
      if (error.code === 'CLOSED') throw new EnclaveError('CLOSED', 'The bus was closed', { cause: error });
      doubt.acted = acted;
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
  #patienceFor(session: string, error: ReplyError, doubt: Doubt): number {
    const { retryAfterMs } = error.details ?? {};
    if (PASSING.includes(error.code) && error.retryable)
      return typeof retryAfterMs === 'number' ? retryAfterMs : 0;
    if (error.code === 'NOT_FOUND') this.#epochs.forget(session);
    throw refused(error, doubt.acted);
  }

  async #pause(patience: Patience, atLeastMs: number): Promise<void> {
    const ms = patience.nextPauseMs(atLeastMs);
    if (ms === 0) return;
    let callOff = (): void => undefined;
    try {
      await this.#held(
        new Promise<void>((resolve) => {
          callOff = this.#clock.after(ms, resolve, true);
        }),
      );
    } finally {
      callOff();
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
  #honest(error: unknown, doubt: Doubt, reads: boolean): unknown {
    if (!(error instanceof EnclaveError)) return error;
    const inDoubt = !reads && doubt.acted && UNDECIDED.includes(error.code);
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

function unavailable(session: string): EnclaveError {
  const whom = session === '' ? 'No broker answered' : `Nobody answered for session "${session}"`;
  return new EnclaveError('UNAVAILABLE', `${whom} in time`);
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
