/**
 * What waits for a worker: one queue per tenant, served in turn, so that a tenant with a thousand waiting
 * executions delays another's only by one.
 */
import { drop, EMPTY, type Fifo, filter, peek, push, values } from './fifo.ts';

/** An execution that waits. */
export interface Waiting {
  readonly id: string;
  readonly tenant: string;
  /** Names the script for the count of its crashes: the tenant and the hash of the text. */
  readonly key: string;
}

export interface Mailbox {
  readonly size: number;
  /** Tenants with something waiting, in the order of their turns. */
  readonly turns: Fifo<string>;
  readonly queues: Readonly<Record<string, Fifo<Waiting>>>;
}

export const EMPTY_MAILBOX: Mailbox = { size: 0, turns: EMPTY, queues: {} };

export function post(mailbox: Mailbox, waiting: Waiting): Mailbox {
  const key = slot(waiting.tenant);
  const queue = mailbox.queues[key];
  return {
    size: mailbox.size + 1,
    turns: queue === undefined ? push(mailbox.turns, waiting.tenant) : mailbox.turns,
    queues: { ...mailbox.queues, [key]: push(queue ?? EMPTY, waiting) },
  };
}

/** Whose turn it is, or undefined if nothing waits. */
export function next(mailbox: Mailbox): Waiting | undefined {
  const tenant = peek(mailbox.turns);
  return tenant === undefined ? undefined : peek(mailbox.queues[slot(tenant)] ?? EMPTY);
}

/** Take what {@link next} showed; its tenant's next turn comes after everyone else's. */
export function take(mailbox: Mailbox): Mailbox {
  const tenant = peek(mailbox.turns);
  if (tenant === undefined) return mailbox;
  const rest = drop(mailbox.queues[slot(tenant)] ?? EMPTY);
  const turns = drop(mailbox.turns);
  if (rest.size > 0) {
    return {
      size: mailbox.size - 1,
      turns: push(turns, tenant),
      queues: { ...mailbox.queues, [slot(tenant)]: rest },
    };
  }
  const { [slot(tenant)]: _empty, ...queues } = mailbox.queues;
  return { size: mailbox.size - 1, turns, queues };
}

/** Without one execution, wherever it waits. */
export function withdraw(mailbox: Mailbox, id: string): Mailbox {
  for (const [key, queue] of Object.entries(mailbox.queues)) {
    const rest = filter(queue, (waiting) => waiting.id !== id);
    if (rest === queue) continue;
    if (rest.size > 0)
      return { ...mailbox, size: mailbox.size - 1, queues: { ...mailbox.queues, [key]: rest } };
    const { [key]: _empty, ...queues } = mailbox.queues;
    return { size: mailbox.size - 1, turns: filter(mailbox.turns, (tenant) => slot(tenant) !== key), queues };
  }
  return mailbox;
}

/** Everything that waits, tenant by tenant. */
export function waitingIn(mailbox: Mailbox): readonly Waiting[] {
  return values(mailbox.turns).flatMap((tenant) => values(mailbox.queues[slot(tenant)] ?? EMPTY));
}

/** A tenant's key in `queues`: prefixed, so that no tenant is called `__proto__`. */
function slot(tenant: string): string {
  return `t:${tenant}`;
}
