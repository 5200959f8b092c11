/**
 * Events without what the script wrote, passed to tools and returned: for those whose scripts handle what nobody who
 * reads events may see. Of each text its length is left, and a hash by which equal texts of one execution are known.
 *
 * The hash is keyed with the execution's seed, so that a short text cannot be found by trying: only whoever may read
 * the journal, which has the text itself, knows the seed, unless the caller chose it.
 */
import { createHmac } from 'node:crypto';
import type { EventPayloads, EventType, Redacted } from '../../actors/events.ts';

/** The payload of an event without its contents. One that has none is left as it is. */
export function redactedPayload<T extends EventType>(
  type: T,
  payload: EventPayloads[T],
  seed: readonly number[],
): EventPayloads[T];
export function redactedPayload(
  type: EventType,
  payload: EventPayloads[EventType],
  seed: readonly number[],
): EventPayloads[EventType] {
  const of = (text: string): Redacted => ({
    bytes: Buffer.byteLength(text),
    hash: createHmac('sha256', seed.join()).update(text).digest('base64url'),
  });
  switch (type) {
    case 'stdout': {
      const { chunk } = payload as EventPayloads['stdout'];
      return { chunk: '', redacted: of(chunk) };
    }
    case 'log': {
      const { level, message } = payload as EventPayloads['log'];
      return { level, message: '', redacted: of(message) };
    }
    case 'tool_call': {
      const { args, ...rest } = payload as EventPayloads['tool_call'];
      return args === undefined
        ? { ...rest, args }
        : { ...rest, args: undefined, redacted: of(textOf(args)) };
    }
    case 'error':
      return { ...(payload as EventPayloads['error']), message: '' };
    case 'final': {
      const { result, error, ...rest } = payload as EventPayloads['final'];
      // Anything may be in a message: the script's own errors, and what a tool threw.
      if (error !== undefined)
        return { ...rest, error: { code: error.code, message: '' }, redacted: of(error.message) };
      return result === undefined ? rest : { ...rest, redacted: of(textOf(result)) };
    }
    default:
      return payload;
  }
}

function textOf(value: unknown): string {
  return JSON.stringify(value) ?? '';
}
