/** What may come in at a runtime's subject, checked: anything else is nothing. */
import type { Body } from '../bus/bus.ts';
import type { AckReports, Offer, Ping, RuntimeCommand } from '../protocol.ts';
import { ID } from '../subjects.ts';

type Fields<T> = { readonly [K in keyof T]?: unknown };

export function isPing(body: Body): body is Ping {
  return (body as Fields<Ping>).t === 'ping';
}

export function isAckReports(body: Body): body is AckReports {
  const { t, acks } = body as Fields<AckReports>;
  return (
    t === 'acks' &&
    Array.isArray(acks) &&
    acks.every((each) => Array.isArray(each) && isId(each[0]) && isCount(each[1]) && isCount(each[2]))
  );
}

/** The command that a body is, or undefined. What an offer carries for the script is not looked into. */
export function commandOf(body: Body): RuntimeCommand | undefined {
  const { t, attempt, epoch } = body as Fields<RuntimeCommand>;
  if (!isId(attempt) || !isCount(epoch)) return undefined;
  const command = body as RuntimeCommand;
  switch (t) {
    case 'offer':
      return isOffer(body) ? command : undefined;
    case 'deliver': {
      const { from, deliveries, ack } = body as { from?: unknown; deliveries?: unknown; ack?: unknown };
      return isCount(from) && from >= 1 && isCount(ack) && Array.isArray(deliveries) ? command : undefined;
    }
    case 'stop':
      return command;
    case 'probe':
      return isId((body as { session?: unknown }).session) ? command : undefined;
    default:
      return undefined;
  }
}

function isOffer(body: Fields<Offer>): boolean {
  const { session, execution, source, input, state, seed, startTime, limits, deliveries, share } = body;
  return (
    isId(session) &&
    [execution, source, input, state].every((text) => typeof text === 'string') &&
    Array.isArray(seed) &&
    typeof startTime === 'number' &&
    typeof limits === 'object' &&
    limits !== null &&
    Array.isArray(deliveries) &&
    (share === undefined || isShare(share))
  );
}

function isShare(share: unknown): boolean {
  const { name, weight } = (share ?? {}) as { readonly name?: unknown; readonly weight?: unknown };
  return typeof name === 'string' && typeof weight === 'number' && weight > 0;
}

/** Ids become part of subjects. */
function isId(value: unknown): value is string {
  return typeof value === 'string' && ID.test(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}
