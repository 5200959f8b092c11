/** What may come in at a tool provider's subjects, checked: anything else is nothing. */
import type { CallTool, ProviderCommand } from '../protocol.ts';
import { ID } from '../subjects.ts';

type Fields<T> = { readonly [K in keyof T]?: unknown };

/** The call that a body is, or undefined. Whether its arguments are JSON is for the call itself to find out. */
export function callOf(body: object): CallTool | undefined {
  const { t, key, session, execution, index, args, epoch, notAfterMs, maxPayloadBytes, tenant } =
    body as Fields<CallTool>;
  const wellFormed =
    (t === 'call' || t === 'reconcile') &&
    [key, execution, args].every((text) => typeof text === 'string') &&
    [index, epoch, notAfterMs, maxPayloadBytes].every(Number.isFinite) &&
    (tenant === undefined || typeof tenant === 'string') &&
    // It becomes part of a subject.
    typeof session === 'string' &&
    ID.test(session);
  return wellFormed ? (body as CallTool) : undefined;
}

/** The command that a body is, or undefined. */
export function providerCommandOf(body: object): ProviderCommand | undefined {
  const { t, key, keys, page } = body as { readonly [name in 't' | 'key' | 'keys' | 'page']?: unknown };
  return isWellFormed() ? (body as ProviderCommand) : undefined;

  function isWellFormed(): boolean {
    switch (t) {
      case 'cancel':
        return typeof key === 'string';
      case 'ack':
      case 'probe':
        return Array.isArray(keys) && keys.every((each) => typeof each === 'string');
      case 'tools':
        return Number.isSafeInteger(page);
      default:
        return t === 'advertise';
    }
  }
}
