/** Keys and signed tokens of NATS. The only module that imports `@nats-io/nkeys` and `@nats-io/jwt`. */
import {
  type Account,
  encodeAccount,
  encodeOperator,
  encodeUser,
  fmtCreds,
  newScopedSigner,
  parseCreds,
} from '@nats-io/jwt';
import { createAccount, createOperator, createUser, fromSeed } from '@nats-io/nkeys';
import type { Permissions } from './permissions.ts';

const NS_PER_MS = 1_000_000;
/** Everything that an account may do; an account without limits of its own could do nothing. */
const UNLIMITED = {
  subs: -1,
  data: -1,
  payload: -1,
  imports: 0,
  exports: 0,
  wildcards: true,
  conn: -1,
  leaf: 0,
} as const;

/** A new secret: the seed of a key pair. */
export function newSeed(kind: 'operator' | 'account'): string {
  const pair = kind === 'operator' ? createOperator() : createAccount();
  return new TextDecoder().decode(pair.getSeed());
}

/** The public key of a seed. Throws what nkeys throws for what is no seed. */
export function publicKeyOf(seed: string): string {
  return pairOf(seed).getPublicKey();
}

export function operatorToken(name: string, seed: string): Promise<string> {
  return encodeOperator(name, pairOf(seed));
}

export interface AccountClaims {
  readonly name: string;
  readonly seed: string;
  readonly operatorSeed: string;
  /** What the users may do that each of them signs; undefined: what their own tokens say. */
  readonly signers: readonly {
    readonly seed: string;
    readonly role: string;
    readonly permissions: Permissions | undefined;
  }[];
  /** By a user's public key: what was issued until then, in s since the epoch, does not count any more. */
  readonly revocations: Readonly<Record<string, number>>;
}

export function accountToken(claims: AccountClaims): Promise<string> {
  const { name, seed, operatorSeed, signers, revocations } = claims;
  const account: Partial<Account> = {
    limits: UNLIMITED,
    signing_keys: signers.map(({ seed: signer, role, permissions }) =>
      permissions === undefined
        ? publicKeyOf(signer)
        : newScopedSigner(publicKeyOf(signer), role, claimsOf(permissions)),
    ),
    ...(Object.keys(revocations).length > 0 ? { revocations: { ...revocations } } : {}),
  };
  return encodeAccount(name, pairOf(seed), account, { signer: pairOf(operatorSeed) });
}

function claimsOf({ publish, subscribe, responses }: Permissions): Parameters<typeof newScopedSigner>[2] {
  return {
    pub: { allow: [...publish.allow], deny: [...publish.deny] },
    sub: { allow: [...subscribe.allow], deny: [] },
    ...(responses === undefined ? {} : { resp: { max: responses.max, ttl: responses.ttlMs * NS_PER_MS } }),
  };
}

export interface UserClaims {
  readonly name: string;
  /** Public key of the account. */
  readonly account: string;
  readonly signerSeed: string;
  /** What it may do; undefined if its signer says so: then it must not. */
  readonly permissions: Permissions | undefined;
  readonly tags: readonly string[];
  /** In s since the epoch; undefined for never. */
  readonly expires: number | undefined;
}

/** A new user: its credentials as text, which hold its secret, and its public key. */
export async function newUser(claims: UserClaims): Promise<{ readonly creds: string; readonly key: string }> {
  const { name, account, signerSeed, permissions, tags, expires } = claims;
  const pair = createUser();
  const token = await encodeUser(
    name,
    pair,
    account,
    { tags: [...tags], ...(permissions === undefined ? {} : claimsOf(permissions)) },
    {
      scopedUser: permissions === undefined,
      signer: pairOf(signerSeed),
      ...(expires === undefined ? {} : { exp: expires }),
    },
  );
  return { creds: new TextDecoder().decode(fmtCreds(token, pair)), key: pair.getPublicKey() };
}

export interface UserRead {
  readonly name: string;
  readonly key: string;
  readonly tags: readonly string[];
  readonly expires: number | undefined;
}

/** What credentials say. Rejects for what are none, or were changed. */
export async function readUser(creds: string): Promise<UserRead> {
  const { uc } = await parseCreds(new TextEncoder().encode(creds));
  return { name: uc.name, key: uc.sub, tags: uc.nats.tags ?? [], expires: uc.exp };
}

function pairOf(seed: string): ReturnType<typeof fromSeed> {
  return fromSeed(new TextEncoder().encode(seed));
}
