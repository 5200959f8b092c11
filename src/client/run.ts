/**
 * A stateless run, as a client sees it through: asked for once, waited for, and never sent again while it may run.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import { BusError, type Subscription, type TraceHeaders } from '../bus/bus.ts';
import { EnclaveError, type ErrorCode, isErrorCode } from '../errors.ts';
import { MOST_LIMITS } from '../options.ts';
import type { Reply, ReplyError, RunScript, RunTaken } from '../protocol.ts';
import type { ExecutionResult } from '../result.ts';
import { tracing } from '../traces.ts';
import { Patience } from './backoff.ts';
import type { ClientContext } from './context.ts';
import { ResultPoll } from './poll.ts';
import { parseResult, refusedResult } from './results.ts';
import { clientSpan, endSpan } from './spans.ts';

export interface StatelessRun {
  readonly script: RunScript;
  readonly signal: AbortSignal | undefined;
  readonly onEvent: ((event: ExecutionEvent) => void) | undefined;
  /** Longest search for a broker that takes it, in ms. */
  readonly takeTimeoutMs: number;
  /** Longest wait for its result, in ms. Default: its deadline, and a little. */
  readonly timeoutMs: number | undefined;
  /** Its deadline, where that is known before a broker tells it, in ms. */
  readonly deadlineMs: number | undefined;
}

/** What became of sending it. */
type Sent =
  | { readonly kind: 'taken'; readonly taken: RunTaken }
  | { readonly kind: 'refused'; readonly error: EnclaveError };

/** Beyond its deadline a result is waited for, in ms: it is on its way. */
const SLACK_MS = 30_000;
/** Longest wait for the answer that it was taken, in ms: a broker gives it within a tenth of that. */
const TAKE_MS = 2_000;
/** Refusals that a little later, or from another broker, may not come again. */
const PASSING: readonly string[] = ['UNAVAILABLE', 'OVERLOADED', 'FENCED'];

/** Never rejects: what went wrong is a failed result, which says what is certain. */
export async function runStateless(context: ClientContext, run: StatelessRun): Promise<ExecutionResult> {
  if (!tracing()) return seeThrough(context, run, undefined);
  const { run: id, tenant } = run.script;
  const attributes = tenant === '' ? {} : { 'enclave.tenant': tenant };
  const span = clientSpan(context.bus, 'enclave.run', context.subjects.broker('run'), id, attributes);
  try {
    const result = await seeThrough(context, run, span.headers);
    endSpan(span, result);
    return result;
  } finally {
    span.end('UNAVAILABLE'); // Unless it has ended: then this does not count.
  }
}

async function seeThrough(
  context: ClientContext,
  run: StatelessRun,
  trace: TraceHeaders | undefined,
): Promise<ExecutionResult> {
  const { script, signal, onEvent } = run;
  const stopEvents = onEvent === undefined ? undefined : await listen(context, script.run, onEvent);
  const early = context.inbox.expect(script.run);
  try {
    if (signal?.aborted === true) {
      const message = 'The caller aborted the run before it began';
      return failed(context, script, new EnclaveError('CANCELLED', message));
    }
    const sent = await send(context, run, trace);
    if (sent.kind === 'refused') return failed(context, script, sent.error);
    const { home, result } = sent.taken;
    return parseResult(result ?? early.told(home) ?? '') ?? (await wait(context, run, sent.taken));
  } finally {
    early.end();
    stopEvents?.();
  }
}

function failed(context: ClientContext, { run }: RunScript, error: EnclaveError): ExecutionResult {
  return refusedResult(context.clock, run, error);
}

/** Ask brokers until one takes it, or it is in doubt whether one did. */
async function send(
  context: ClientContext,
  { script, takeTimeoutMs, signal }: StatelessRun,
  trace: TraceHeaders | undefined,
): Promise<Sent> {
  const { closing } = context;
  const end: End = {
    why: closing.closed ? new EnclaveError('CLOSED', 'The client was closed') : undefined,
  };
  const stop = closing.onClose((why) => {
    end.why = why;
  });
  try {
    return await sendUntil(context, { script, takeTimeoutMs, signal }, end, trace);
  } finally {
    stop();
  }
}

/** Of the client, or of its connection. */
interface End {
  why: EnclaveError | undefined;
}

async function sendUntil(
  context: ClientContext,
  { script, takeTimeoutMs, signal }: Pick<StatelessRun, 'script' | 'takeTimeoutMs' | 'signal'>,
  end: End,
  trace: TraceHeaders | undefined,
): Promise<Sent> {
  const { bus, subjects, clock } = context;
  const patience = new Patience(clock, takeTimeoutMs);
  let last: EnclaveError | undefined;
  for (let atLeastMs = 0; ; ) {
    await pause(context, patience.nextPauseMs(atLeastMs));
    if (end.why !== undefined) return { kind: 'refused', error: end.why };
    if (signal?.aborted === true)
      return { kind: 'refused', error: new EnclaveError('CANCELLED', 'The caller aborted the run') };
    if (patience.leftMs === 0) {
      last ??= new EnclaveError('UNAVAILABLE', 'No broker took the run in time');
      return { kind: 'refused', error: last };
    }
    try {
      const reply = (await bus.request(subjects.broker('run'), script, {
        timeoutMs: TAKE_MS,
        trace,
      })) as Reply<RunTaken>;
      if (reply.ok) return { kind: 'taken', taken: reply.value };
      last = refusal(reply.error);
      if (!PASSING.includes(last.code) || last.outcome === 'unknown') return { kind: 'refused', error: last };
      atLeastMs = last.retryAfterMs ?? 0;
    } catch (error) {
      const told = inDoubt(error, end.why);
      if (told !== undefined) return { kind: 'refused', error: told };
      atLeastMs = 0;
    }
  }
}

/** Undefined: nobody got it. `why`: the client, or its connection, has ended meanwhile. */
function inDoubt(error: unknown, why: EnclaveError | undefined): EnclaveError | undefined {
  // There is no connection, and none can be made: it was not sent.
  if (error instanceof EnclaveError) return error;
  if (!(error instanceof BusError))
    return new EnclaveError('UNAVAILABLE', 'The bus failed', { cause: error, outcome: 'unknown' });
  switch (error.code) {
    case 'NO_RESPONDERS':
    case 'DISCONNECTED':
      return undefined;
    case 'TIMEOUT':
      if (why !== undefined) return new EnclaveError(why.code, why.message, { outcome: 'unknown' });
      // Whoever got it may run it: a stateless run is never sent again by itself.
      return new EnclaveError('TIMEOUT', 'No broker said whether it took the run', { outcome: 'unknown' });
    case 'CLOSED':
      return new EnclaveError('CLOSED', 'The client was closed', { outcome: 'unknown', cause: error });
    default:
      return new EnclaveError('INVALID_ARGUMENT', error.message, { cause: error });
  }
}

function refusal({ code, message, outcome, details }: ReplyError): EnclaveError {
  return isErrorCode(code)
    ? new EnclaveError(code, String(message), { outcome, details })
    : new EnclaveError('UNAVAILABLE', `${code}: ${message}`, { outcome, details: { ...details, code } });
}

/** It runs: wait for its result, which is told, or asked for if that is lost. */
function wait(context: ClientContext, run: StatelessRun, taken: RunTaken): Promise<ExecutionResult> {
  const { clock, closing, requests } = context;
  const { script, signal } = run;
  const { home } = taken;
  // An older broker does not tell it: it takes the most that there is.
  const deadlineMs = taken.deadlineMs ?? run.deadlineMs ?? MOST_LIMITS.deadlineMs;
  const timeoutMs = run.timeoutMs ?? deadlineMs + SLACK_MS;
  return new Promise((resolve) => {
    const end = (result: ExecutionResult): void => {
      poll.stop();
      callOff();
      stopClosing();
      signal?.removeEventListener('abort', abort);
      resolve(result);
    };
    const fail = (code: ErrorCode, message: string): void =>
      end(failed(context, script, new EnclaveError(code, message, { outcome: 'unknown' })));
    const cancel = (reason: string): void => {
      const command = { t: 'cancel', execution: script.run, reason } as const;
      requests.command(home, command).catch(() => undefined); // Its result says what came of it.
    };
    const abort = (): void => cancel('The caller aborted the run');
    const poll = new ResultPoll(context, {
      session: home,
      execution: script.run,
      onResult: end,
      onLost: (error) =>
        error.code === 'CLOSED'
          ? fail('CLOSED', 'The client was closed')
          : fail('UNAVAILABLE', 'The broker that ran it is gone, and its result with it'),
    });
    const callOff = clock.after(timeoutMs, () => {
      cancel('Nobody waits for the run any more');
      fail('TIMEOUT', `The run did not end within ${timeoutMs} ms`);
    });
    const stopClosing = closing.onClose(({ code, message }) => fail(code, message));
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted === true) abort();
    poll.stayAwake();
    poll.start();
  });
}

async function listen(
  { bus, subjects }: ClientContext,
  run: string,
  onEvent: (event: ExecutionEvent) => void,
): Promise<() => void> {
  let subscription: Subscription;
  try {
    subscription = bus.subscribe(subjects.sessionEvent(run, '*'), ({ body }) =>
      onEvent(body as ExecutionEvent),
    );
    await bus.flush();
  } catch {
    // Events may be lost; what is wrong with the bus is told when the run is sent.
    return () => undefined;
  }
  // The result may overtake the last events, which were sent before it: they are on their way.
  return () => void subscription.drain().catch(() => undefined);
}

/** Ends early when the client closes. */
function pause({ clock, closing }: ClientContext, ms: number): Promise<void> {
  if (ms === 0) return Promise.resolve();
  return new Promise((resolve) => {
    const end = (): void => {
      callOff();
      stop();
      resolve();
    };
    const callOff = clock.after(ms, end, true);
    const stop = closing.onClose(end);
  });
}
