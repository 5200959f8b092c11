/**
 * Who may publish and subscribe to what: one table, from which the scoped signing keys of `identities.ts` are made,
 * and against which `nats.conf` is held by a test.
 *
 * Invariants:
 *  R1  What a role may say under its own id names that id in the subject: nobody else may say it.
 *  R2  A role answers requests through the server's record of who asked (`responses`), so that it needs no right to
 *      publish to anybody's inbox.
 *  R3  Every role has its answers sent to an inbox under its own role and id. All but a broker may subscribe to that
 *      inbox alone; a broker may read every inbox of its namespace: what is in one was answered by a broker, and the
 *      runtimes that a broker starts, or a command that is run beside it, use its login with inboxes of their own roles.
 *  R4  Nothing outside of `enclave.<namespace>.` is allowed to anybody.
 */
import { invalidArgument } from '../errors.ts';
import { ID, PROVIDERS, subjectsOf } from '../subjects.ts';

/**
 * What a process is to the cluster. One that has several roles, such as a broker with runtimes of its own, needs the
 * identity of a broker: it may do everything in its namespace, and it has Redis anyway.
 *
 * - `broker`: everything within the namespace, the inboxes of all roles included.
 * - `runtime`: takes offers made to it, reports on attempts, sends its own heartbeat.
 * - `provider`: advertises and serves tools, tells the ends of calls.
 * - `client`: asks brokers and owners, reads events, is told its own results.
 * - `observer`: reads events and fills gaps with `events_read`, and hears the audit; nothing else.
 */
export type Role = 'broker' | 'runtime' | 'provider' | 'client' | 'observer';

export const ROLES: readonly Role[] = ['broker', 'runtime', 'provider', 'client', 'observer'];

export interface Permissions {
  readonly publish: { readonly allow: readonly string[]; readonly deny: readonly string[] };
  readonly subscribe: { readonly allow: readonly string[] };
  /** Answers to requests that came: so many to each, and not later than this after it came. Undefined: none. */
  readonly responses: { readonly max: number; readonly ttlMs: number } | undefined;
}

/** In the place of an id: the name of the user, filled in by the server. It must be a whole token of a subject. */
export const OWN_NAME = '{{name()}}';
/** In the place of an id: every id. For users that share one password, and so are one to the server. */
export const ANY_ID = '*';

/**
 * Owners wait one second for a runtime or a provider to answer, and drop what comes later. A process that was
 * stopped for longer than this and goes on is refused by the server, which costs it nothing.
 */
const RESPONSES = { max: 1, ttlMs: 60_000 } as const;

/** Where answers to the requests of an identity go: the `inboxPrefix` of its connection (R3). */
export function inboxPrefix(namespace: string, role: Role, id: string): string {
  return `enclave.${namespace}.inbox.${role}.${id}`;
}

/**
 * What a role may do under an id: a real one, {@link OWN_NAME} or {@link ANY_ID}.
 *
 * @throws EnclaveError INVALID_ARGUMENT for a namespace, role or id that breaks its rule.
 */
export function permissionsOf(role: Role, namespace: string, id: string): Permissions {
  checkName(namespace, 'namespace');
  checkRole(role);
  if (id !== OWN_NAME && id !== ANY_ID) checkName(id, 'id');
  const subjects = subjectsOf(namespace);
  const inbox = `${inboxPrefix(namespace, role, id)}.>`;
  const everybodysEvents = subjects.sessionEvent('*', '*');
  switch (role) {
    case 'broker': {
      const everything = `enclave.${namespace}.>`;
      return allow([everything], [everything]);
    }
    case 'runtime':
      return {
        // Whose attempt it is cannot be said by a subject: an attempt's id is told to its runtime alone, and nobody
        // can guess it. The subject of providers has a name that everybody knows, so it is denied.
        publish: {
          allow: [subjects.runtimeHeartbeat(id), subjects.sessionIn('*', '*')],
          deny: [subjects.sessionTools('*')],
        },
        subscribe: { allow: [subjects.runtimeCmd(id), subjects.runtimeProbe, inbox] },
        responses: RESPONSES,
      };
    case 'provider':
      return {
        ...allow(
          [subjects.sessionTools('*'), subjects.providerHeartbeat(id)],
          // In the queue group only: a call reaches one provider, and cannot be overheard.
          [`${subjects.tool('>')} ${PROVIDERS}`, subjects.providerCmd(id), subjects.providerProbe, inbox],
        ),
        responses: RESPONSES,
      };
    case 'client':
      return allow(
        [`enclave.${namespace}.broker.*`, subjects.sessionCmd('*')],
        [subjects.clientResult(id), everybodysEvents, inbox],
      );
    case 'observer':
      return allow([subjects.broker('events_read')], [everybodysEvents, subjects.audit, inbox]);
  }
}

function allow(publish: readonly string[], subscribe: readonly string[]): Permissions {
  return { publish: { allow: publish, deny: [] }, subscribe: { allow: subscribe }, responses: undefined };
}

/** @internal Names and namespaces are parts of subjects: a wildcard or a dot in one would open those of others. */
export function checkName(value: string, key: string): void {
  if (typeof value !== 'string' || !ID.test(value))
    throw invalidArgument(key, 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -');
}

/** @internal */
export function checkRole(role: Role): void {
  if (!ROLES.includes(role))
    throw invalidArgument('role', `must be one of ${ROLES.join(', ')}, not ${String(role)}`);
}
