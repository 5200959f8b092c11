/** Every option of a link to NATS: meaning, unit, default, range, and the rules between them. */
import type { NatsConnection } from '@nats-io/transport-node';
import { checkKeys } from '../../arguments.ts';
import { invalidArgument } from '../../errors.ts';
import { isSubject } from '../match.ts';
import { parseServers } from './servers.ts';

/** How soon a lost connection is tried again. Attempt `n` waits `firstMs * multiplier ** n`, at most `maxMs`, less its jitter. */
export interface NatsReconnectOptions {
  /** In ms. Default 50; 1 to 600,000. The very first attempt is made at once. */
  readonly firstMs?: number | undefined;
  /** In ms. Default 2,000; 1 to 600,000. */
  readonly maxMs?: number | undefined;
  /** Default 2; 1 to 10. */
  readonly multiplier?: number | undefined;
  /** The part of a wait that is left to chance, so that not all clients of a server that was lost come back at once. Default 0.5; 0 to 1. */
  readonly jitter?: number | undefined;
}

/** Which certificates are shown to the servers, and which of theirs are believed. */
export interface NatsTlsOptions {
  /** PEM file of the authorities to trust. Default: the platform's. */
  readonly caFile?: string | undefined;
  /** PEM file of our certificate. Default: none. */
  readonly certFile?: string | undefined;
  /** PEM file of its key. Default: none. */
  readonly keyFile?: string | undefined;
}

/**
 * A link to NATS. Either `servers` or `connection` is needed; what says how to connect goes with `servers` only.
 */
export interface NatsOptions {
  /** Urls, `nats://` or `tls://`, or lists of such, joined by commas. The port is 4222 by default; a user and password, or a token, may be part of it. */
  readonly servers?: string | readonly string[] | undefined;
  /** A connection of the user's own: how it reconnects is the user's choice, and closing the link leaves it open. */
  readonly connection?: NatsConnection | undefined;
  /**
   * Answers to requests come to `<inboxPrefix>.<random id>.<random id>`. Default
   * `enclave.<namespace>.inbox.<role>.<id>`: a server that grants each pod a prefix of its own keeps the pods from reading
   * each other's answers. Must begin with `_INBOX` or `enclave.<namespace>.inbox.`: nobody answers anywhere else.
   */
  readonly inboxPrefix?: string | undefined;
  /** Longest wait of `flush` for the server, disconnected or not, in ms. Default 5,000; 1 to 600,000. */
  readonly flushTimeoutMs?: number | undefined;
  /** Told what a handler, `onSlow` or a listener threw or rejected with, and of messages that are not JSON objects, beside what is logged and counted of them. Default: nobody. */
  readonly onError?: ((error: unknown, subject: string) => void) | undefined;
  /** Shown in the server's monitoring. Default: none. */
  readonly name?: string | undefined;
  /** Text of a .creds file, or what returns it: it is asked at every connection, so that a renewed one is used. */
  readonly credentials?: string | (() => string) | undefined;
  /** The user to connect as, with `password`. Default: the one in the url. */
  readonly user?: string | undefined;
  /** The password of `user`. Default: the one in the url. */
  readonly password?: string | undefined;
  /** A token, in the place of a user. Default: the one in the url. */
  readonly token?: string | undefined;
  /** Seed of an nkey: `SU…`. */
  readonly nkey?: string | undefined;
  /** Refuse to talk in the clear. Default: TLS is used if the server offers it or a url begins with `tls://`. */
  readonly tls?: true | NatsTlsOptions | undefined;
  /** Attempts per server to come back, before the link is closed for good. Default -1, for ever; 0 to 1,000,000. */
  readonly maxReconnectAttempts?: number | undefined;
  /** How long it waits before it connects again, having lost the connection. Default: see each. */
  readonly reconnect?: NatsReconnectOptions | undefined;
  /** The server is asked for a sign of life this often, and given up when it owes two, in ms. Default 1,000; 50 to 3,600,000. */
  readonly pingIntervalMs?: number | undefined;
  /** Longest time for one attempt to connect, in ms. Default 5,000; 1 to 600,000. */
  readonly connectTimeoutMs?: number | undefined;
  /** Have `open` wait until a server takes us, however long and whatever is wrong, wrong credentials too. Default false. */
  readonly waitOnFirstConnect?: boolean | undefined;
}

/** What a link of ours is told beside that. */
export interface NatsLinkOptions extends NatsOptions {
  /** Whether an answer may be sent to the subject that a requester named. Default: to any. */
  readonly mayAnswer?: ((reply: string) => boolean) | undefined;
}

/** Options with a connection of the user's own. */
export type NatsConnectionOptions = NatsOptions & { readonly connection: NatsConnection };

const RULES = {
  flushTimeoutMs: { default: 5_000, min: 1, max: 600_000, whole: true },
  maxReconnectAttempts: { default: -1, min: -1, max: 1_000_000, whole: true },
  pingIntervalMs: { default: 1_000, min: 50, max: 3_600_000, whole: true },
  connectTimeoutMs: { default: 5_000, min: 1, max: 600_000, whole: true },
} as const satisfies Record<string, NumberRule>;

const RECONNECT_RULES = {
  firstMs: { default: 50, min: 1, max: 600_000, whole: true },
  maxMs: { default: 2_000, min: 1, max: 600_000, whole: true },
  multiplier: { default: 2, min: 1, max: 10, whole: false },
  jitter: { default: 0.5, min: 0, max: 1, whole: false },
} as const satisfies Record<keyof NatsReconnectOptions, NumberRule>;

interface NumberRule {
  readonly default: number;
  readonly min: number;
  readonly max: number;
  readonly whole: boolean;
}

/** Of a link for which none was made out of who we are. */
const DEFAULT_INBOX_PREFIX = '_INBOX';
/** A subject and its inbox must fit the 4,096 bytes of a command to the server, which cuts the connection else. */
const MAX_INBOX_PREFIX = 256;
const TLS_KEYS = ['caFile', 'certFile', 'keyFile'] as const satisfies (keyof NatsTlsOptions)[];
const COMMON_KEYS = ['inboxPrefix', 'flushTimeoutMs', 'onError'] as const satisfies (keyof NatsOptions)[];
/** What says how to connect. */
const SERVER_KEYS = [
  ...(['servers', 'name', 'credentials', 'user', 'password', 'token', 'nkey', 'tls'] as const),
  ...([
    'waitOnFirstConnect',
    'maxReconnectAttempts',
    'reconnect',
    'pingIntervalMs',
    'connectTimeoutMs',
  ] as const),
] as const satisfies (keyof NatsOptions)[];

export type Backoff = { readonly [K in keyof typeof RECONNECT_RULES]: number };

/** Who we are to the server. */
export type Identity =
  | { readonly kind: 'nobody' }
  | { readonly kind: 'credentials'; readonly read: () => string }
  | { readonly kind: 'user'; readonly user: string; readonly password: string | undefined }
  | { readonly kind: 'token'; readonly token: string }
  | { readonly kind: 'nkey'; readonly seed: string };

/** What concerns the bus, and where its connection comes from. */
export interface ResolvedOptions {
  readonly inboxPrefix: string;
  readonly flushTimeoutMs: number;
  readonly mayAnswer: ((reply: string) => boolean) | undefined;
  readonly onError: ((error: unknown, subject: string) => void) | undefined;
  readonly source: NatsConnection | ResolvedServer;
}

export interface ResolvedServer {
  /** `host:port` of each. */
  readonly hosts: readonly string[];
  readonly name: string | undefined;
  readonly identity: Identity;
  readonly tls: NatsTlsOptions | undefined;
  readonly maxReconnectAttempts: number;
  readonly backoff: Backoff;
  readonly pingIntervalMs: number;
  readonly connectTimeoutMs: number;
  readonly waitOnFirstConnect: boolean;
}

/** Throws INVALID_ARGUMENT naming what is wrong, which it calls `key`; no message of it holds a secret. */
export function resolveOptions(given: NatsLinkOptions, key: string): ResolvedOptions {
  const { mayAnswer, ...options } = given;
  checkKeys(options, ['connection', ...SERVER_KEYS, ...COMMON_KEYS], key);
  const { connection, inboxPrefix = DEFAULT_INBOX_PREFIX, onError } = options;
  if (typeof inboxPrefix !== 'string' || inboxPrefix.length > MAX_INBOX_PREFIX || !isSubject(inboxPrefix))
    throw invalidArgument(
      `${key}.inboxPrefix`,
      `must be a subject of at most ${MAX_INBOX_PREFIX} characters`,
    );
  if (onError !== undefined && typeof onError !== 'function')
    throw invalidArgument(`${key}.onError`, 'must be a function');
  return {
    inboxPrefix,
    mayAnswer,
    onError,
    flushTimeoutMs: numberOf(options.flushTimeoutMs, RULES.flushTimeoutMs, `${key}.flushTimeoutMs`),
    source: connection === undefined ? serverOf(options, key) : ownConnection(connection, options, key),
  };
}

function ownConnection(connection: NatsConnection, options: NatsOptions, key: string): NatsConnection {
  const extra = SERVER_KEYS.find((each) => options[each] !== undefined);
  if (extra !== undefined)
    throw invalidArgument(`${key}.${extra}`, 'says how to connect, but `connection` is connected already');
  if (typeof connection !== 'object' || connection === null || typeof connection.publish !== 'function')
    throw invalidArgument(`${key}.connection`, 'must be a NatsConnection');
  return connection;
}

function serverOf(options: NatsOptions, key: string): ResolvedServer {
  const { reconnect = {}, waitOnFirstConnect = false } = options;
  if (options.servers === undefined) throw invalidArgument(`${key}.servers`, 'is missing');
  const servers = parseServers(options.servers, `${key}.servers`);
  checkKeys(reconnect, Object.keys(RECONNECT_RULES), `${key}.reconnect`);
  if (typeof waitOnFirstConnect !== 'boolean')
    throw invalidArgument(`${key}.waitOnFirstConnect`, 'must be true or false');
  const part = (name: keyof Backoff): number =>
    numberOf(reconnect[name], RECONNECT_RULES[name], `${key}.reconnect.${name}`);
  const own = (name: keyof typeof RULES): number => numberOf(options[name], RULES[name], `${key}.${name}`);
  return {
    hosts: servers.hosts,
    name: textOf(options.name, `${key}.name`),
    identity: identityOf(
      {
        ...options,
        user: options.user ?? servers.user,
        password: options.password ?? servers.password,
        token: options.token ?? servers.token,
      },
      key,
    ),
    tls: tlsOf(options.tls, servers.tls, `${key}.tls`),
    maxReconnectAttempts: own('maxReconnectAttempts'),
    backoff: {
      firstMs: part('firstMs'),
      maxMs: part('maxMs'),
      multiplier: part('multiplier'),
      jitter: part('jitter'),
    },
    pingIntervalMs: own('pingIntervalMs'),
    connectTimeoutMs: own('connectTimeoutMs'),
    waitOnFirstConnect,
  };
}

function identityOf(options: NatsOptions, key: string): Identity {
  const { credentials } = options;
  if (credentials !== undefined && typeof credentials !== 'string' && typeof credentials !== 'function')
    throw invalidArgument(`${key}.credentials`, 'must be the text of a .creds file, or what returns it');
  const user = textOf(options.user, `${key}.user`);
  const password = textOf(options.password, `${key}.password`);
  const token = textOf(options.token, `${key}.token`);
  const seed = textOf(options.nkey, `${key}.nkey`);
  if (password !== undefined && user === undefined) throw invalidArgument(`${key}.password`, 'needs a user');
  const given: Identity[] = [];
  if (credentials !== undefined) {
    const read = typeof credentials === 'function' ? credentials : () => credentials;
    given.push({ kind: 'credentials', read });
  }
  if (user !== undefined) given.push({ kind: 'user', user, password });
  if (token !== undefined) given.push({ kind: 'token', token });
  if (seed !== undefined) given.push({ kind: 'nkey', seed });
  if (given.length > 1)
    throw invalidArgument(key, `has more than one identity: ${given.map(({ kind }) => kind).join(', ')}`);
  return given[0] ?? { kind: 'nobody' };
}

function tlsOf(
  tls: true | NatsTlsOptions | undefined,
  byUrl: boolean,
  key: string,
): NatsTlsOptions | undefined {
  if (tls === undefined || tls === true) return tls === true || byUrl ? {} : undefined;
  checkKeys(tls, TLS_KEYS, key);
  const files: Record<string, string> = {};
  for (const name of TLS_KEYS) {
    const file = textOf(tls[name], `${key}.${name}`);
    if (file !== undefined) files[name] = file;
  }
  return files;
}

function textOf(value: string | undefined, key: string): string | undefined {
  if (value !== undefined && (typeof value !== 'string' || value === ''))
    throw invalidArgument(key, 'must be a text that is not empty');
  return value;
}

function numberOf(value: number | undefined, rule: NumberRule, key: string): number {
  if (value === undefined) return rule.default;
  const valid = rule.whole ? Number.isSafeInteger(value) : Number.isFinite(value);
  if (!valid || value < rule.min || value > rule.max)
    throw invalidArgument(
      key,
      `must be a ${rule.whole ? 'whole ' : ''}number from ${rule.min} to ${rule.max}, not ${String(value)}`,
    );
  return value;
}
