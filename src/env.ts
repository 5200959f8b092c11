/**
 * The environment variables that the command line reads, all of them here: the library itself reads none.
 *
 * Each stands for the option of the same name in the documentation of the command; an option given by hand wins.
 */
import { readFileSync } from 'node:fs';
import type { NatsOptions } from './bus/nats.ts';
import { EnclaveError } from './errors.ts';

/** Name, and what it means. */
export const ENVIRONMENT = {
  ENCLAVE_NATS_URL: 'NATS servers, separated by commas. Default nats://127.0.0.1:4222',
  ENCLAVE_NATS_CREDS: 'file with NATS credentials (.creds)',
  ENCLAVE_NATS_USER: 'NATS user',
  ENCLAVE_NATS_PASSWORD: 'NATS password',
  ENCLAVE_NATS_TOKEN: 'NATS token',
  ENCLAVE_NATS_TLS: '1: refuse to talk to NATS in the clear',
  ENCLAVE_NATS_CA: 'PEM file of the authorities to trust with TLS',
  ENCLAVE_NATS_CERT: 'PEM file of this process’s certificate',
  ENCLAVE_NATS_KEY: 'PEM file of its key',
  ENCLAVE_NATS_INBOX_PREFIX: 'begins the subjects of answers to this process',
  ENCLAVE_REDIS_URL:
    'Redis of the brokers; nodes of a Redis Cluster separated by commas; or redis+sentinel://sentinel,sentinel/master. rediss speaks TLS. Default redis://127.0.0.1:6379',
  ENCLAVE_REDIS_PASSWORD: 'Redis password, if it is not in the url',
  ENCLAVE_REDIS_SENTINEL_PASSWORD: 'password of the sentinels, if they have one',
  ENCLAVE_REDIS_ACK: 'master or replica: what an acknowledged write has reached',
  ENCLAVE_REDIS_KEY_PREFIX: 'begins every key in Redis',
  ENCLAVE_NAMESPACE: 'the tenant boundary. Default default',
  ENCLAVE_ID: 'names this process; no two may share it. Default a new name',
  ENCLAVE_PORT: 'port of /livez, /readyz, /startupz and /metrics',
  ENCLAVE_HOST: 'address that the port is opened on. Default all',
  ENCLAVE_LABELS: 'labels of a runtime: key=value,key=value',
  ENCLAVE_POOL_SIZE: 'worker processes of a runtime',
  ENCLAVE_MAX_WORKER_MEMORY: 'resident memory of one worker, in bytes',
  ENCLAVE_UID: 'user that the workers of a runtime run as',
  ENCLAVE_GID: 'group that the workers of a runtime run as',
  ENCLAVE_WORKER_POOL: 'what else its workers are told: JSON of the options of workerPool, or @file',
  ENCLAVE_HEARTBEAT_MS: 'between the heartbeats of a runtime, in ms',
  ENCLAVE_TOOLS: 'module of the tools that a broker provides',
  ENCLAVE_LEASE_TTL_MS: 'life of a broker’s lease, in ms',
  ENCLAVE_SCAN_MS: 'how often a broker looks for sessions without an owner, in ms',
  ENCLAVE_HIBERNATE_AFTER_MS: 'a session with nothing to do is put away after this, in ms',
  ENCLAVE_PARK_AFTER_MS: 'a script that sleeps for longer holds no isolate meanwhile, in ms',
  ENCLAVE_DRAIN_GRACE_MS: 'how long a drain waits, in ms',
  ENCLAVE_SESSION_TIMEOUT_MS: 'sessions expire after this long without activity, in ms',
  ENCLAVE_PLACEMENT_TIMEOUT_MS: 'how long an execution that never ran waits for a runtime, in ms',
  ENCLAVE_MAX_RUNS: 'stateless runs in one broker',
  ENCLAVE_MAX_EXECUTIONS: 'executions of a session that wait or run',
  ENCLAVE_KEEP_EXECUTIONS: 'ended executions that a session remembers',
  ENCLAVE_MAX_EVENTS: 'events kept per session',
  ENCLAVE_MAX_SESSIONS: 'sessions with an actor in one broker',
  ENCLAVE_MAX_CONCURRENT_SESSIONS: 'sessions with an actor in all brokers of the namespace',
  ENCLAVE_ADMISSION: 'what a broker takes on for each tenant: JSON, or @file',
  ENCLAVE_ROUTING: 'which runtimes a session may use: JSON, or @file',
  ENCLAVE_RUNTIME_POOL: 'how many runtimes a broker keeps on its machine: JSON, or @file',
  ENCLAVE_RUNTIME_WORKERS: 'the workers of each of those runtimes: JSON, or @file',
  ENCLAVE_AUDIT: 'file that a broker adds a line to for every execution that ends; - is the standard output',
  ENCLAVE_REDACT_EVENTS: '1: a broker keeps what scripts write, pass to tools and return out of events',
  ENCLAVE_LOG_CONTENT: '1: a broker shows scripts, arguments and results at the level debug; for development',
  ENCLAVE_LOG_LEVEL: 'trace, debug, info, warn, error or silent. Default info',
} as const;

export type Variable = keyof typeof ENVIRONMENT;

/** The value of a variable; undefined if it is unset or empty. */
export function fromEnv(name: Variable): string | undefined {
  const value = process.env[name];
  return value === undefined || value === '' ? undefined : value;
}

/** True for 1 or true, false for 0 or false; undefined if it is unset. Throws INVALID_ARGUMENT naming the variable. */
export function flagFromEnv(name: Variable): boolean | undefined {
  const text = fromEnv(name);
  if (text === undefined) return undefined;
  if (!['0', '1', 'true', 'false'].includes(text))
    throw new EnclaveError('INVALID_ARGUMENT', `${name}: must be 1 or 0, not "${text}"`, { key: name });
  return text === '1' || text === 'true';
}

/** Throws INVALID_ARGUMENT naming `key`. */
export function wholeNumber(text: string, key: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new EnclaveError('INVALID_ARGUMENT', `${key}: must be a whole number, not "${text}"`, { key });
  return value;
}

/** `key=value,key=value`. Throws INVALID_ARGUMENT naming `key`. */
export function labelsFrom(text: string, key: string): Readonly<Record<string, string>> {
  const labels: Record<string, string> = {};
  for (const part of text.split(',').filter((each) => each.trim() !== '')) {
    const at = part.indexOf('=');
    if (at < 1)
      throw new EnclaveError('INVALID_ARGUMENT', `${key}: must be key=value,key=value, not "${text}"`, {
        key,
      });
    labels[part.slice(0, at).trim()] = part.slice(at + 1).trim();
  }
  return labels;
}

/** The NATS connection that the environment describes. `url` wins over the variable. */
export function natsFromEnv(url: string | undefined): NatsOptions {
  const creds = fromEnv('ENCLAVE_NATS_CREDS');
  const caFile = fromEnv('ENCLAVE_NATS_CA');
  const certFile = fromEnv('ENCLAVE_NATS_CERT');
  const keyFile = fromEnv('ENCLAVE_NATS_KEY');
  const files = [caFile, certFile, keyFile].some((file) => file !== undefined);
  return {
    servers: url ?? fromEnv('ENCLAVE_NATS_URL') ?? 'nats://127.0.0.1:4222',
    // Read at every connection, so that a renewed file is used.
    credentials: creds === undefined ? undefined : () => readFileSync(creds, 'utf8'),
    user: fromEnv('ENCLAVE_NATS_USER'),
    password: fromEnv('ENCLAVE_NATS_PASSWORD'),
    token: fromEnv('ENCLAVE_NATS_TOKEN'),
    inboxPrefix: fromEnv('ENCLAVE_NATS_INBOX_PREFIX'),
    tls: files ? { caFile, certFile, keyFile } : flagFromEnv('ENCLAVE_NATS_TLS') === true ? true : undefined,
  };
}
