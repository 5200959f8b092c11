/** What a store on Redis is told, with its defaults and rules. */
import { type Clock, systemClock } from '../../clock.ts';
import { invalidArgument } from '../../errors.ts';
import type { RedisClient, RedisConnection } from './client.ts';

/** Something about the servers that puts at risk what was acknowledged. */
export interface StoreNotice {
  readonly type: 'store.warning';
  /** What it is about. */
  readonly about: 'appendonly' | 'maxmemory-policy' | 'replicas' | 'settings';
  /** What is so, and what is at risk, in a sentence or two. */
  readonly message: string;
}

export interface RedisStoreOptions {
  /**
   * Where Redis is: a `redis://` or `rediss://` url, options, or a client of your own from ioredis. Connections
   * of the store's own are made in each case; a client of yours is only copied from, and never closed or sent
   * anything.
   */
  readonly redis: string | RedisConnection | RedisClient;
  /** 1 to 64 of `A-Za-z0-9_-`. Stores of different namespaces do not see each other. */
  readonly namespace: string;
  /**
   * Begins every key; without braces. Default `enclave:<namespace>:`. A `keyPrefix` of `redis` comes before it.
   */
  readonly keyPrefix?: string | undefined;
  /**
   * When a write is acknowledged. `'master'`: Redis has carried it out; what a replica had not got when the
   * master is lost is lost. `'replica'`: one replica has it, too; while none does, writes are answered UNKNOWN.
   * Default `'master'`.
   */
  readonly ack?: 'master' | 'replica' | undefined;
  /** Events kept per session; up to a quarter more may be. At least 1. Default 10,000. */
  readonly maxEvents?: number | undefined;
  /**
   * After which time a call is answered whatever Redis does, in ms; 50 to 60,000. Default: `commandTimeout` of
   * `redis`, or 2,000.
   */
  readonly commandTimeoutMs?: number | undefined;
  /** How long `open` tries to reach Redis, in ms; 50 to 600,000. Default 10,000. */
  readonly openTimeoutMs?: number | undefined;
  /** Told of settings that put data at risk, when the store opens. Default: nobody. */
  readonly onNotice?: ((notice: StoreNotice) => void) | undefined;
  /** Default: the machine's. Leases are judged by the server's clock, not by this one. */
  readonly clock?: Clock | undefined;
}

export interface Settings {
  readonly prefix: string;
  readonly ack: 'master' | 'replica';
  readonly maxEvents: number;
  /** Undefined for the default. */
  readonly commandTimeoutMs: number | undefined;
  readonly openTimeoutMs: number;
  readonly onNotice: (notice: StoreNotice) => void;
  readonly clock: Clock;
}

/** Throws INVALID_ARGUMENT naming the option. */
export function resolveSettings(options: RedisStoreOptions): Settings {
  const { namespace, ack = 'master', onNotice = () => undefined, clock = systemClock } = options;
  if (typeof namespace !== 'string' || !/^[A-Za-z0-9_-]{1,64}$/.test(namespace))
    throw invalidArgument('namespace', 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -');
  const { keyPrefix = `enclave:${namespace}:` } = options;
  if (typeof keyPrefix !== 'string' || /[{}]/.test(keyPrefix))
    throw invalidArgument('keyPrefix', 'must be a text without braces');
  if (ack !== 'master' && ack !== 'replica')
    throw invalidArgument('ack', `must be 'master' or 'replica', not ${String(ack)}`);
  return {
    prefix: keyPrefix,
    ack,
    maxEvents: integer('maxEvents', options.maxEvents, 1, 10_000_000) ?? 10_000,
    commandTimeoutMs: integer('commandTimeoutMs', options.commandTimeoutMs, 50, 60_000),
    openTimeoutMs: integer('openTimeoutMs', options.openTimeoutMs, 50, 600_000) ?? 10_000,
    onNotice,
    clock,
  };
}

function integer(key: string, value: number | undefined, min: number, max: number): number | undefined {
  if (value !== undefined && (!Number.isInteger(value) || value < min || value > max))
    throw invalidArgument(key, `must be an integer from ${min} to ${max}`);
  return value;
}
