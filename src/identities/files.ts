/**
 * Identities kept in a directory: what the command line does with them.
 *
 * ```
 * <dir>/identities.json          operator, accounts and who was issued what; secret
 * <dir>/identities.conf          for the servers; no secret
 * <dir>/creds/<ns>.<role>.<id>.creds   one per identity; secret to its process
 * ```
 *
 * Invariants:
 *  F1  What holds a secret can be read by its owner only, from the moment it is there.
 *  F2  One change at a time: the new `identities.json` is written beside the old one, its name is the lock, and it
 *      takes the old one's place in one step.
 */
import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { EnclaveError, invalidArgument } from '../errors.ts';
import {
  checkSeeds,
  createNamespaceAccount,
  createOperator,
  issueIdentity,
  type NamespaceAccount,
  type Operator,
  revokeIdentity,
  serverConfig,
} from './identities.ts';
import { checkName, checkRole, type Role } from './permissions.ts';

/** One that was issued: enough to revoke it, and no secret. */
export interface Issued {
  readonly namespace: string;
  readonly role: Role;
  readonly id: string;
  /** The user's public key. */
  readonly key: string;
  /** In ms since the epoch. */
  readonly issuedAt: number;
  readonly expiresAt: number | undefined;
  readonly revokedAt: number | undefined;
}

/** What `identities.json` holds. */
export interface Identities {
  readonly format: 1;
  readonly operator: Operator;
  readonly accounts: readonly NamespaceAccount[];
  readonly issued: readonly Issued[];
}

export interface IssueRequest {
  readonly namespace: string;
  readonly role: Role;
  readonly id: string;
  /** As of {@link issueIdentity}. */
  readonly expiresInSeconds?: number | undefined;
}

const FORMAT = 1;
const STATE = 'identities.json';
const NEXT = 'identities.json.next';
const CONFIG = 'identities.conf';
const CREDS = 'creds';
const SECRET_FILE = 0o600;
const SECRET_DIRECTORY = 0o700;

/**
 * Begin: an operator, and an account for each namespace. Returns the path of the file for the servers.
 *
 * @throws EnclaveError ALREADY_EXISTS if the directory has identities: a new operator would lock out all of them.
 *   INVALID_ARGUMENT for a namespace that breaks its rule.
 */
export async function initIdentities(
  dir: string,
  namespaces: readonly string[] = ['default'],
): Promise<string> {
  for (const namespace of namespaces) checkName(namespace, 'namespace');
  await mkdir(path.join(dir, CREDS), { recursive: true, mode: SECRET_DIRECTORY });
  return change(dir, async (before) => {
    if (before !== undefined)
      throw new EnclaveError('ALREADY_EXISTS', `${path.join(dir, STATE)} is there already`);
    const accounts = [...new Set(namespaces)].map(createNamespaceAccount);
    const after: Identities = { format: FORMAT, operator: await createOperator(), accounts, issued: [] };
    return { after, result: path.join(dir, CONFIG) };
  });
}

/**
 * Add a namespace. Servers know it once they have the new file.
 *
 * @throws EnclaveError ALREADY_EXISTS, INVALID_ARGUMENT, or NOT_FOUND if nothing was begun there.
 */
export async function addNamespace(dir: string, namespace: string): Promise<void> {
  checkName(namespace, 'namespace');
  await change(dir, async (before) => {
    const known = begun(dir, before);
    if (known.accounts.some((account) => account.namespace === namespace))
      throw new EnclaveError('ALREADY_EXISTS', `There is a namespace "${namespace}" already`);
    const accounts = [...known.accounts, createNamespaceAccount(namespace)];
    return { after: { ...known, accounts }, result: undefined };
  });
}

/**
 * Issue an identity. Returns the path of its credentials. The same again replaces the file; what was in it stays valid
 * until it is revoked.
 *
 * @throws EnclaveError NOT_FOUND for a namespace that there is not, or if nothing was begun there. INVALID_ARGUMENT
 *   naming the option.
 */
export async function issue(dir: string, request: IssueRequest): Promise<string> {
  const { namespace, role, id } = request;
  return change(dir, async (before) => {
    const known = begun(dir, before);
    const now = Date.now();
    const { creds, key, expiresAt } = await issueIdentity(accountOf(known, namespace), { ...request, now });
    const file = credsFile(dir, namespace, role, id);
    await writeSecret(file, creds);
    const issued: Issued = { namespace, role, id, key, issuedAt: now, expiresAt, revokedAt: undefined };
    return { after: { ...known, issued: [...known.issued, issued] }, result: file };
  });
}

/**
 * Revoke everything that was issued to an identity so far, and remove its credentials. It counts once the servers
 * have the new file and got SIGHUP. Returns how many were revoked.
 *
 * @throws EnclaveError NOT_FOUND if nothing that counts was issued to it. INVALID_ARGUMENT naming the option.
 */
export async function revoke(dir: string, request: Omit<IssueRequest, 'expiresInSeconds'>): Promise<number> {
  const { namespace, role, id } = request;
  checkName(namespace, 'namespace');
  checkRole(role);
  checkName(id, 'id');
  return change(dir, async (before) => {
    const known = begun(dir, before);
    const now = Date.now();
    const isIts = (one: Issued): boolean =>
      one.namespace === namespace && one.role === role && one.id === id && one.revokedAt === undefined;
    const revoked = known.issued.filter(isIts);
    if (revoked.length === 0)
      throw new EnclaveError('NOT_FOUND', `Nothing is issued to the ${role} "${id}" of "${namespace}"`);
    const account = revoked.reduce(
      (one, { key }) => revokeIdentity(one, key, now),
      accountOf(known, namespace),
    );
    const accounts = known.accounts.map((other) => (other.namespace === namespace ? account : other));
    const issued = known.issued.map((one) => (isIts(one) ? { ...one, revokedAt: now } : one));
    await rm(credsFile(dir, namespace, role, id), { force: true });
    return { after: { ...known, accounts, issued }, result: revoked.length };
  });
}

/** Who was issued what, the oldest first. @throws EnclaveError NOT_FOUND if nothing was begun there. */
export async function listIssued(dir: string): Promise<readonly Issued[]> {
  return begun(dir, await read(dir)).issued;
}

function credsFile(dir: string, namespace: string, role: Role, id: string): string {
  return path.join(dir, CREDS, `${namespace}.${role}.${id}.creds`);
}

function accountOf({ accounts }: Identities, namespace: string): NamespaceAccount {
  const account = accounts.find((each) => each.namespace === namespace);
  if (account === undefined) throw new EnclaveError('NOT_FOUND', `There is no namespace "${namespace}"`);
  return account;
}

function begun(dir: string, identities: Identities | undefined): Identities {
  if (identities === undefined)
    throw new EnclaveError('NOT_FOUND', `${path.join(dir, STATE)} is not there: nothing was begun`);
  return identities;
}

/** F2 */
async function change<T>(
  dir: string,
  act: (before: Identities | undefined) => Promise<{ readonly after: Identities; readonly result: T }>,
): Promise<T> {
  const next = path.join(dir, NEXT);
  const file = await open(next, 'wx', SECRET_FILE).catch((cause: unknown) => {
    const code = errorCode(cause);
    if (code === 'EEXIST')
      throw new EnclaveError(
        'UNAVAILABLE',
        `${next} is there: another change is under way, or was broken off`,
        {
          cause,
        },
      );
    if (code === 'ENOENT')
      throw new EnclaveError('NOT_FOUND', `There is no directory ${dir}: nothing was begun`, { cause });
    throw invalidArgument('dir', `${dir} cannot be written to`, cause);
  });
  try {
    const { after, result } = await act(await read(dir));
    await file.writeFile(`${JSON.stringify(after, undefined, 2)}\n`);
    await file.sync();
    const config = await serverConfig(after.operator, after.accounts);
    await rename(next, path.join(dir, STATE));
    await writeFile(path.join(dir, CONFIG), config);
    return result;
  } catch (error) {
    await rm(next, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

async function read(dir: string): Promise<Identities | undefined> {
  const file = path.join(dir, STATE);
  let identities: Identities;
  try {
    identities = JSON.parse(await readFile(file, 'utf8')) as Identities;
  } catch (cause) {
    if (errorCode(cause) === 'ENOENT') return undefined;
    throw new EnclaveError('SERIALIZATION_ERROR', `${file} cannot be read`, { cause });
  }
  if ((identities as { format?: unknown } | null)?.format !== FORMAT)
    throw new EnclaveError('SERIALIZATION_ERROR', `${file} has another format than ${FORMAT}`);
  checkSeeds(identities.operator, identities.accounts);
  return identities;
}

/** F1: a file that was there may have been open to others, so it is made anew. */
async function writeSecret(file: string, text: string): Promise<void> {
  await rm(file, { force: true });
  await writeFile(file, text, { mode: SECRET_FILE, flag: 'wx' });
}

function errorCode(error: unknown): unknown {
  return (error as { readonly code?: unknown } | null)?.code;
}
