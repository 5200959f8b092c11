/**
 * Identities of a cluster, made without `nsc`: an operator, who trusts one account per namespace, which has one signing
 * key per role, by which the users are signed. What a user may do is the signing key's word (see permissions.ts), with
 * the user's own name filled in by the server; so a runtime is itself, and nobody else.
 *
 * Operators and accounts are plain data that hold seeds, which are secrets: keep them as files.ts does, away from the
 * machines that run the cluster. A server gets {@link serverConfig}, which has none; a process gets its own
 * credentials.
 *
 * Invariants:
 *  I1  A user's name is an id: it cannot be a wildcard, and has no dot.
 *  I2  A user has the permissions of its role and no others. They are its signing key's word, so that they change with
 *      the servers' file; a provider's are its token's own (see {@link SCOPED}).
 *  I3  Nothing here changes what it is given; what it makes is new.
 */
import { EnclaveError, invalidArgument } from '../errors.ts';
import { accountToken, newSeed, newUser, operatorToken, publicKeyOf, readUser } from './keys.ts';
import {
  checkName,
  checkRole,
  inboxPrefix,
  OWN_NAME,
  permissionsOf,
  ROLES,
  type Role,
} from './permissions.ts';

/** Whom the servers trust. Secret. */
export interface Operator {
  readonly name: string;
  readonly seed: string;
  /** The operator's own claim, signed once: a server that runs takes no other one, be it of the same operator. */
  readonly token: string;
  /** Seed of the account of the servers themselves: no user of it is ever issued here. */
  readonly systemSeed: string;
}

/** A namespace's account. Secret. */
export interface NamespaceAccount {
  readonly namespace: string;
  readonly seed: string;
  /** Seeds of the signing keys. */
  readonly signers: Readonly<Record<Role, string>>;
  /** By a user's public key: what was issued until then, in s since the epoch, is refused. */
  readonly revocations: Readonly<Record<string, number>>;
}

export interface IssueOptions {
  readonly role: Role;
  /** The id under which the process runs: of the broker, runtime, provider or client. `[A-Za-z0-9_-]{1,64}`. */
  readonly id: string;
  /** For how long it is valid, in s from now; 1 to 315,360,000. The server closes its connection then. Default: for ever. */
  readonly expiresInSeconds?: number | undefined;
  /** Now, in ms since the epoch. Default: the system's time. */
  readonly now?: number | undefined;
}

export interface Identity {
  /** The text of a `.creds` file: a token and the secret to it. */
  readonly creds: string;
  /** The user's public key, by which it can be revoked. */
  readonly key: string;
  /** In ms since the epoch; undefined for never. */
  readonly expiresAt: number | undefined;
}

/** What a process can know from its own credentials. */
export interface WhoIAm {
  readonly namespace: string;
  readonly role: Role;
  readonly id: string;
  readonly key: string;
  /** In ms since the epoch; undefined for never. */
  readonly expiresAt: number | undefined;
  /** The `inboxPrefix` that its connection must have. */
  readonly inboxPrefix: string;
}

const MAX_LIFE_S = 10 * 365 * 86_400;
/**
 * Roles whose permissions are the signing key's. In those that the server fills names into, it drops every
 * subscription that is limited to a queue group (seen in nats-server 2.9.10); a provider's calls need one.
 */
const SCOPED: readonly Role[] = ROLES.filter((role) => role !== 'provider');

/** A new operator. `name` is for people; `[A-Za-z0-9_-]{1,64}`. Rejects with INVALID_ARGUMENT. */
export async function createOperator(name = 'enclave'): Promise<Operator> {
  checkName(name, 'name');
  const seed = newSeed('operator');
  return { name, seed, token: await operatorToken(name, seed), systemSeed: newSeed('account') };
}

/** A new account for a namespace, `[A-Za-z0-9_-]{1,64}`. Servers know it once {@link serverConfig} has it. Throws INVALID_ARGUMENT. */
export function createNamespaceAccount(namespace: string): NamespaceAccount {
  checkName(namespace, 'namespace');
  const signers = Object.fromEntries(ROLES.map((role) => [role, newSeed('account')])) as Record<Role, string>;
  return { namespace, seed: newSeed('account'), signers, revocations: {} };
}

/**
 * A new identity. The servers need not be told: they know the signing key.
 *
 * @throws EnclaveError INVALID_ARGUMENT naming the option.
 */
export async function issueIdentity(account: NamespaceAccount, options: IssueOptions): Promise<Identity> {
  const { role, id, expiresInSeconds, now = Date.now() } = options;
  checkRole(role);
  checkName(id, 'id'); // I1
  if (
    expiresInSeconds !== undefined &&
    !(Number.isInteger(expiresInSeconds) && expiresInSeconds >= 1 && expiresInSeconds <= MAX_LIFE_S)
  )
    throw invalidArgument(
      'expiresInSeconds',
      `must be a whole number from 1 to ${MAX_LIFE_S}, not ${String(expiresInSeconds)}`,
    );
  const expires = expiresInSeconds === undefined ? undefined : Math.floor(now / 1_000) + expiresInSeconds;
  const user = await newUser({
    name: id,
    account: publicKeyOf(account.seed),
    signerSeed: account.signers[role],
    // I2
    permissions: SCOPED.includes(role) ? undefined : permissionsOf(role, account.namespace, id),
    tags: [`namespace:${account.namespace}`, `role:${role}`],
    expires,
  });
  return { ...user, expiresAt: expires === undefined ? undefined : expires * 1_000 };
}

/**
 * The account with an identity revoked, by its public key: everything issued to that key until `now`, in ms since the
 * epoch. It counts once the servers have the new {@link serverConfig}: send them SIGHUP; a connection that is open
 * is closed then.
 *
 * @throws EnclaveError INVALID_ARGUMENT for what is no user's public key.
 */
export function revokeIdentity(account: NamespaceAccount, key: string, now = Date.now()): NamespaceAccount {
  if (!/^U[A-Z2-7]{55}$/.test(key)) throw invalidArgument('key', "must be a user's public key");
  return { ...account, revocations: { ...account.revocations, [key]: Math.ceil(now / 1_000) } };
}

/**
 * Who the owner of these credentials is.
 *
 * @throws EnclaveError INVALID_ARGUMENT (key `creds`) for what are no credentials made here.
 */
export async function identityOf(creds: string): Promise<WhoIAm> {
  const user = await readUser(creds).catch((cause: unknown) => {
    throw invalidArgument('creds', 'are no credentials', cause);
  });
  const tag = (name: string): string =>
    user.tags.find((each) => each.startsWith(`${name}:`))?.slice(name.length + 1) ?? '';
  const namespace = tag('namespace');
  const role = tag('role') as Role;
  try {
    checkName(namespace, 'namespace');
    checkRole(role);
    checkName(user.name, 'id');
  } catch (cause) {
    throw invalidArgument('creds', 'do not name a namespace, a role and an id', cause);
  }
  return {
    namespace,
    role,
    id: user.name,
    key: user.key,
    expiresAt: user.expires === undefined ? undefined : user.expires * 1_000,
    inboxPrefix: inboxPrefix(namespace, role, user.name),
  };
}

/**
 * What a nats-server needs to know of operator and accounts, as text to `include` in its configuration. It holds no
 * secret.
 *
 * @throws EnclaveError INVALID_ARGUMENT for two accounts of one namespace.
 */
export async function serverConfig(
  operator: Operator,
  accounts: readonly NamespaceAccount[],
): Promise<string> {
  const system = publicKeyOf(operator.systemSeed);
  const lines = [
    '# Made by the command that issues identities: it is written anew whenever an account changes.',
    `operator: ${operator.token}`,
    `system_account: ${system}`,
    'resolver: MEMORY',
    'resolver_preload: {',
    `  ${system}: ${await tokenOf(operator, 'system', operator.systemSeed, [], {})}`,
  ];
  const seen = new Set<string>();
  for (const { namespace, seed, signers, revocations } of accounts) {
    if (seen.has(namespace))
      throw invalidArgument('accounts', `has the namespace "${namespace}" more than once`);
    seen.add(namespace);
    const scoped = ROLES.map((role) => ({
      seed: signers[role],
      role,
      permissions: SCOPED.includes(role) ? permissionsOf(role, namespace, OWN_NAME) : undefined,
    }));
    lines.push(
      `  # Namespace ${namespace}`,
      `  ${publicKeyOf(seed)}: ${await tokenOf(operator, namespace, seed, scoped, revocations)}`,
    );
  }
  return `${[...lines, '}'].join('\n')}\n`;
}

function tokenOf(
  operator: Operator,
  name: string,
  seed: string,
  signers: Parameters<typeof accountToken>[0]['signers'],
  revocations: NamespaceAccount['revocations'],
): Promise<string> {
  return accountToken({ name, seed, operatorSeed: operator.seed, signers, revocations });
}

/** @internal The seeds of what was read from a file, checked: a typing error must not surface in a server. */
export function checkSeeds(operator: Operator, accounts: readonly NamespaceAccount[]): void {
  try {
    for (const seed of [operator.seed, operator.systemSeed]) publicKeyOf(seed);
    for (const { seed, signers } of accounts)
      for (const each of [seed, ...ROLES.map((role) => signers[role])]) publicKeyOf(each);
  } catch (cause) {
    throw new EnclaveError('SERIALIZATION_ERROR', 'The identities hold something that is no seed', { cause });
  }
}
