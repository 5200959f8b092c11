/** Answering requests. */
import type { Message } from './bus/bus.ts';
import { isRetryable, type Outcome } from './errors.ts';
import type { Reply, ReplyError } from './protocol.ts';

/** Answer with a value. False if nobody can be told: nobody waits, or the bus is closed. Never throws. */
export function answer<T>(message: Message, epoch: number, value: T): boolean {
  return reply(message, { ok: true, value, epoch });
}

/** Answer with an error. Never throws. */
export function refuse(message: Message, epoch: number, error: ReplyError): void {
  reply(message, { ok: false, error, epoch });
}

/** The error of a request that was not obeyed, and may be sent again, here or elsewhere. */
export function refusal(code: string, message: string, details?: ReplyError['details']): ReplyError {
  return { code, message, retryable: true, outcome: 'not_started', details };
}

function reply(message: Message, body: Reply<unknown>): boolean {
  if (message.respond === undefined) return false;
  try {
    message.respond(body);
  } catch {
    return false;
  }
  return true;
}

// ---- as values -------------------------------------------------------------------------------------------

export function success<T>(value: T, epoch: number): Reply<T> {
  return { ok: true, value, epoch };
}

export function failure(
  code: string,
  message: string,
  epoch: number,
  details?: Readonly<Record<string, unknown>>,
  outcome: Outcome = 'not_started',
): Reply<never> {
  const retryable = isRetryable(code) && outcome !== 'unknown';
  return {
    ok: false,
    error: { code, message, retryable, outcome, ...(details === undefined ? {} : { details }) },
    epoch,
  };
}

/** Not the owner, or not any more. Whoever asked looks for the owner and asks again: commands carry their ids. */
export function fenced(epoch: number): Reply<never> {
  const message = 'This broker does not own the session any more';
  return { ok: false, error: { code: 'FENCED', message, retryable: true, outcome: 'unknown' }, epoch };
}
