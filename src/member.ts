/**
 * Who a process is to the cluster: its namespace, its id and where answers to it go. Credentials made by
 * `identities/` say all of it, and the server holds a process to it; without them it is what the options say.
 */

import type { NatsLinkOptions } from './bus/nats.ts';
import { systemClock } from './clock.ts';
import { invalidArgument } from './errors.ts';
import { identityOf, type WhoIAm } from './identities/identities.ts';
import { inboxPrefix, type Role } from './identities/permissions.ts';
import { type NatsSource, natsOptions } from './natssource.ts';

export interface Member {
  readonly namespace: string;
  readonly id: string;
  /** The way to the servers, inbox included. */
  readonly nats: NatsLinkOptions;
}

export interface MemberOptions {
  readonly nats: NatsSource;
  /** The role if there are no credentials to tell it. */
  readonly role: Role;
  /** Default: the credentials', or `'default'`. */
  readonly namespace: string | undefined;
  /** Default: the credentials', or a new one. */
  readonly id: string | undefined;
}

/** Rejects with INVALID_ARGUMENT if the options contradict the credentials. */
export async function memberOf({ nats: source, role, namespace, id }: MemberOptions): Promise<Member> {
  const nats = natsOptions(source);
  const credentials = 'credentials' in nats ? nats.credentials : undefined;
  const known = credentials === undefined ? undefined : await whoOwns(credentials);
  if (known !== undefined && namespace !== undefined && namespace !== known.namespace)
    throw invalidArgument(
      'options.namespace',
      `the credentials are for "${known.namespace}", not "${namespace}"`,
    );
  if (known !== undefined && id !== undefined && id !== known.id)
    throw invalidArgument('options.id', `the credentials are those of "${known.id}", not of "${id}"`);
  const is = {
    namespace: known?.namespace ?? namespace ?? 'default',
    id: known?.id ?? id ?? newName(role),
    role: known?.role ?? role,
  };
  const mayAnswer = answers(is.namespace);
  const { inboxPrefix: inbox = inboxPrefix(is.namespace, is.role, is.id) } = nats;
  if (!mayAnswer(`${inbox}.`))
    throw invalidArgument(
      'nats.inboxPrefix',
      `must begin with _INBOX or enclave.${is.namespace}.inbox: nobody answers anywhere else`,
    );
  return {
    namespace: is.namespace,
    id: is.id,
    nats: { ...nats, inboxPrefix: inbox, mayAnswer },
  };
}

/** Undefined for credentials that were made by somebody else: they say nothing of ids. */
function whoOwns(credentials: string | (() => string)): Promise<WhoIAm | undefined> {
  const text = typeof credentials === 'string' ? credentials : credentials();
  return identityOf(text).catch(() => undefined);
}

/**
 * Answers go to inboxes and nowhere else: whoever asks names the subject of the answer, and the server lets him name
 * any. Else a client could have a broker publish in the name of a session.
 */
function answers(namespace: string): (reply: string) => boolean {
  const inbox = `enclave.${namespace}.inbox.`;
  return (reply) => reply.startsWith('_INBOX') || reply.startsWith(inbox);
}

function newName(role: Role): string {
  return `${role}-${systemClock.id().replace(/[-_]/g, '').slice(0, 10)}`;
}
