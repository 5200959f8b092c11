/**
 * What waits for a worker: one queue per tenant, served by their weights, so that a tenant with a thousand waiting
 * executions delays another's only by one.
 */
import {
  EMPTY_FAIR,
  enqueue,
  type FairQueue,
  head,
  itemsOf,
  pushedOut,
  serve,
  serveFitting,
  waitingOf,
  without,
} from './fairqueue.ts';

/** An execution that waits. */
export interface Waiting {
  readonly id: string;
  /** Whose workers and isolates it may use. */
  readonly tenant: string;
  /** Names the script for the count of its crashes: the tenant and the hash of the text. */
  readonly key: string;
  /** On whose share it waits. Default: the tenant's. */
  readonly flow?: string | undefined;
  /** How large that share is beside others. Default 1. */
  readonly weight?: number | undefined;
  /** It was aboard a worker before, and was lost with it: it makes room for nobody. Default false. */
  readonly again?: boolean | undefined;
}

export type Mailbox = FairQueue<Waiting>;

export const EMPTY_MAILBOX: Mailbox = EMPTY_FAIR;

export function post(mailbox: Mailbox, waiting: Waiting): Mailbox {
  return enqueue(mailbox, flowOf(waiting), waiting.weight ?? 1, waiting);
}

/** Whose turn it is, or undefined if nothing waits. */
export function next(mailbox: Mailbox): Waiting | undefined {
  return head(mailbox);
}

/** Take what {@link next} showed; its tenant's next turn comes when the others have had their shares. */
export function take(mailbox: Mailbox): Mailbox {
  return serve(mailbox);
}

/** The first in fair order that fits, and the mailbox without it. */
export function takeFitting(
  mailbox: Mailbox,
  fits: (waiting: Waiting) => boolean,
): readonly [Waiting, Mailbox] | undefined {
  return serveFitting(mailbox, fits);
}

/** Without one execution, wherever it waits. */
export function withdraw(mailbox: Mailbox, id: string): Mailbox {
  return without(mailbox, (waiting) => waiting.id === id);
}

/** Who makes room for one more in a full mailbox: the last of a tenant that has more than its share. Undefined: nobody. */
export function displaced(mailbox: Mailbox, newcomer: Waiting): Waiting | undefined {
  return pushedOut(mailbox, flowOf(newcomer), newcomer.weight ?? 1, ({ again }) => again !== true);
}

/** Everything that waits, tenant by tenant. */
export function waitingIn(mailbox: Mailbox): readonly Waiting[] {
  return itemsOf(mailbox);
}

/** How many wait on the same share as this one. */
export function waitingBeside(mailbox: Mailbox, waiting: Waiting): number {
  return waitingOf(mailbox, flowOf(waiting));
}

function flowOf({ flow, tenant }: Waiting): string {
  return flow ?? tenant;
}
