/** How a broker answers: every request gets a reply, also when what answers it fails, and when it cannot be done. */
import type { Answer } from '../../actors/sessiondata.ts';
import { BusError, type Message, type TraceHeaders } from '../bus/bus.ts';
import type { Reply } from '../protocol.ts';
import { failure } from '../replies.ts';
import { StoreError } from '../store/store.ts';
import type { Refused } from './admission.ts';
import type { Notify } from './notice.ts';

/** Answer a message with what comes of it. Never throws; a failure is told to the operator and to whoever asked. */
export type Respond = (
  message: Message,
  answer: (body: object, trace: TraceHeaders | undefined) => Promise<Reply<unknown>>,
) => void;

export function responder({
  isClosed,
  notify,
}: {
  /** True once nothing may be said any more. */
  readonly isClosed: () => boolean;
  readonly notify: Notify;
}): Respond {
  const respond = (message: Message, reply: Reply<unknown>): void => {
    if (isClosed()) return;
    try {
      message.respond?.(reply);
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      if (error.code === 'PAYLOAD_TOO_LARGE')
        message.respond?.(failure('RESULT_LIMIT_EXCEEDED', 'The answer is larger than a message may be', 0));
    }
  };
  return (message, answer) => {
    void answer(message.body, message.trace).then(
      (reply) => respond(message, reply),
      (error: unknown) => {
        notify({ type: 'error', session: undefined, error });
        respond(message, unavailable(error));
      },
    );
  };
}

/** Every request may be sent again: commands carry their ids, and the rest changes nothing. */
function unavailable(error: unknown): Reply<never> {
  const message = error instanceof StoreError ? 'The store could not answer' : 'The broker failed to answer';
  const reply = failure('UNAVAILABLE', message, 0, { retryAfterMs: 100 }, 'unknown');
  return reply.ok ? reply : { ...reply, error: { ...reply.error, retryable: true } };
}

/** Its lease does not hold, or it is about to leave, or the session is: ask again. */
export function notNow(): Reply<never> {
  return failure('UNAVAILABLE', 'The broker cannot own sessions just now', 0, { retryAfterMs: 50 });
}

/** Nobody to hand a session to. `settled`: everybody is known, so that asking again in a moment would not change it. */
export function nobodyElse(epoch: number, settled: boolean): Reply<never> {
  const reply = failure('UNAVAILABLE', 'There is no other broker', epoch, { retryAfterMs: 250 });
  return reply.ok || !settled ? reply : { ...reply, error: { ...reply.error, retryable: false } };
}

/** It was stored by a newer release of the broker than this one: others can read it. */
export function tooNew(session: string): Reply<never> {
  const message = `A newer release stored session "${session}"; this broker cannot read it, others can`;
  return failure('UNAVAILABLE', message, 0, { retryAfterMs: 50 });
}

/** It may not come in now: it did not start. */
export function overLimit(
  { limit, message, retryAfterMs, position }: Refused,
  tenant: string,
  epoch: number,
): Reply<never> {
  return failure('OVERLOADED', message, epoch, { retryAfterMs, tenant, limit, position });
}

/** All brokers together have as many sessions as they may. */
export function noPlace(): Reply<never> {
  return failure('OVERLOADED', 'There are as many sessions (maxConcurrentSessions) as there may be', 0, {
    retryAfterMs: 1_000,
  });
}

export function noSession(session: string): Reply<never> {
  return failure('NOT_FOUND', `There is no session "${session}"`, 0);
}

/** The machine's refusal as a reply. */
export function refused(answer: Extract<Answer, { ok: false }>, epoch: number): Reply<never> {
  const { code, message, outcome, retryAfterMs } = answer;
  return failure(code, message, epoch, retryAfterMs === undefined ? undefined : { retryAfterMs }, outcome);
}
