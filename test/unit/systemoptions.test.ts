/** Which options a process may be given, by what it hosts, and what of them runtimes of this machine are handed. */
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { EnclaveBroker } from '../../src/broker.ts';
import { resolveSystemOptions } from '../../src/options.ts';
import type { LocalRuntimesOptions } from '../../src/provision/processes.ts';
import type { Provisioner } from '../../src/provision/provisioner.ts';
import { autoscalingOf } from '../../src/runtimepool.ts';
import { type CreateSystemOptions, checkSystemOptions } from '../../src/systemoptions.ts';

const { started } = vi.hoisted(() => ({ started: [] as unknown[] }));
vi.mock('../../src/provision/processes.ts', async (original) => ({
  ...(await original<object>()),
  LocalRuntimes: class {
    constructor(options: unknown) {
      started.push(options);
    }
    close(): Promise<void> {
      return Promise.resolve();
    }
  },
}));
beforeEach(() => {
  started.length = 0;
});

const nats = 'nats://127.0.0.1:1';
const redis = 'redis://127.0.0.1:1';
const CLIENT: CreateSystemOptions = { nats };
const RUNTIME: CreateSystemOptions = { nats, roles: ['runtime'] };
const BROKER: CreateSystemOptions = { nats, redis, roles: ['broker'] };
const own: Provisioner = {
  labels: {},
  start: () => Promise.resolve({ id: 'a' }),
  drain: () => Promise.resolve(),
  stop: () => Promise.resolve(),
  list: () => Promise.resolve([]),
  close: () => Promise.resolve(),
};

const OF_BROKERS: CreateSystemOptions = {
  redis,
  ack: 'replica',
  keyPrefix: 'a:',
  brokers: 2,
  runtimePool: {},
  provisioner: 'local',
  routingStrategy: 'round-robin',
  routingRules: [],
  tools: [],
  logContent: false,
  redactEvents: false,
  audit: true,
  leaseTtlMs: 6_000,
  scanIntervalMs: 1_000,
  sessionTimeoutMs: 0,
  maxRuns: 1,
  hibernateAfterMs: 1_000,
  parkAfterMs: 1_000,
  placementTimeoutMs: 1_000,
  maxExecutions: 1,
  keepExecutions: 1,
  maxEvents: 10,
  maxSessions: 1,
  maxConcurrentSessions: 1,
  admission: {},
};
const OF_RUNTIMES: CreateSystemOptions = {
  runtimes: 2,
  labels: { a: 'b' },
  pool: { poolSize: 1 },
  heartbeatIntervalMs: 500,
};

function refused(options: CreateSystemOptions): { readonly key?: string; readonly message?: string } {
  try {
    checkSystemOptions(options);
    return {};
  } catch (error) {
    return error as Error & { readonly key?: string };
  }
}

describe('an option for a role that the process does not have is refused by name', () => {
  it.each(Object.entries(OF_BROKERS))('%s of brokers', (key, value) => {
    for (const [process, kind] of [
      [CLIENT, 'a client'],
      [RUNTIME, 'a runtime'],
    ] as const) {
      const error = refused({ ...process, [key]: value });
      expect(error.key).toBe(`options.${key}`);
      expect(error.message).toContain(`needs the role 'broker'; this process is ${kind}`);
      expect(refused({ ...process, [key]: undefined })).toEqual({});
    }
  });

  it.each(Object.entries(OF_RUNTIMES))('%s of runtimes', (key, value) => {
    for (const process of [CLIENT, BROKER]) {
      const error = refused({ ...process, [key]: value });
      expect(error.key).toBe(`options.${key}`);
      expect(error.message).toContain("needs the role 'runtime'");
      expect(refused({ ...process, [key]: undefined })).toEqual({});
    }
    expect(refused({ ...RUNTIME, [key]: value })).toEqual({});
    expect(refused({ [key]: value })).toEqual({});
  });

  it('a drain of a client', () => {
    expect(refused({ ...CLIENT, drainGraceMs: 5 }).key).toBe('options.drainGraceMs');
    for (const process of [BROKER, RUNTIME, {}]) expect(refused({ ...process, drainGraceMs: 5 })).toEqual({});
  });

  it.each([['ack'], ['keyPrefix']])('%s of a store in memory', (key) => {
    const error = refused({ [key]: OF_BROKERS[key as 'ack'] });
    expect(error).toMatchObject({ key: `options.${key}`, message: expect.stringContaining('needs `redis`') });
  });

  it('those of workers, unless runtimes are started on this machine', () => {
    const { pool, heartbeatIntervalMs } = OF_RUNTIMES;
    const given = { ...BROKER, runtimePool: {}, pool, heartbeatIntervalMs };
    expect(refused(given)).toEqual({});
    expect(refused({ ...given, provisioner: own })).toMatchObject({ key: 'options.pool' });
  });
});

describe('EnclaveBroker', () => {
  it.each([['labels'], ['roles'], ['brokers'], ['runtimes']])('knows no %s', (key) => {
    const given = { redis, [key]: key === 'labels' ? {} : 1 };
    expect(() => new EnclaveBroker(given)).toThrow(`options.${key}: unknown option`);
  });

  it('hears sessionTimeout and sessionTimeoutMs, and not both', () => {
    expect(() => new EnclaveBroker({ redis, sessionTimeout: 5, sessionTimeoutMs: 5 })).toThrow(
      'give one of them',
    );
    expect(() => new EnclaveBroker({ redis, sessionTimeout: -1 })).toThrow('options.sessionTimeoutMs');
    expect(() => new EnclaveBroker({ redis, sessionTimeoutMs: -1 })).toThrow('options.sessionTimeoutMs');
    expect(() => new EnclaveBroker({ redis, sessionTimeoutMs: 5 })).not.toThrow();
  });
});

describe('runtimes that are started on this machine', () => {
  /** What they are started with. */
  function handed(options: CreateSystemOptions): LocalRuntimesOptions {
    const given = { ...BROKER, runtimePool: {}, ...options };
    checkSystemOptions(given);
    autoscalingOf(given)?.keep(resolveSystemOptions(given));
    return started[0] as LocalRuntimesOptions;
  }

  it('are told of their workers, their heartbeats and their drain what a runtime of this process would be', () => {
    const pool = {
      poolSize: 3,
      maxWorkerMemory: 2 ** 28,
      idleTimeout: 5,
      queueTimeoutMs: undefined,
      uid: 99,
    };
    const { poolSize, drainGraceMs, env } = handed({ pool, heartbeatIntervalMs: 500, drainGraceMs: 7 });
    expect({ poolSize, drainGraceMs }).toEqual({ poolSize: 3, drainGraceMs: 7 });
    expect(env).toEqual({
      ENCLAVE_MAX_WORKER_MEMORY: String(2 ** 28),
      ENCLAVE_WORKER_POOL: '{"idleTimeout":5,"uid":99}',
      ENCLAVE_HEARTBEAT_MS: '500',
    });
  });

  it('have the labels of the pool', () => {
    expect(handed({ runtimePool: { labels: { tier: 'big' } } }).labels).toEqual({ tier: 'big' });
    expect(refused({ ...BROKER, runtimePool: { labels: { 'a=b': 'c' } } }).key).toBe(
      'options.runtimePool.labels.a=b',
    );
    expect(refused({ ...BROKER, runtimePool: { labels: { a: 'b' } }, provisioner: own }).key).toBe(
      'options.runtimePool.labels',
    );
  });

  it.each([
    [true, {}],
    [{}, {}],
    [
      { caFile: 'ca.pem', certFile: 'c.pem', keyFile: 'k.pem' },
      { ENCLAVE_NATS_CA: 'ca.pem', ENCLAVE_NATS_CERT: 'c.pem', ENCLAVE_NATS_KEY: 'k.pem' },
    ],
  ] as const)('do not talk in the clear where this process does not: %o', (tls, files) => {
    const { env, natsUrl } = handed({ nats: { servers: ['a', 'b'], tls, inboxPrefix: '_INBOX.me' } });
    expect(natsUrl).toBe('a,b');
    expect(env).toMatchObject({ ENCLAVE_NATS_TLS: '1', ENCLAVE_NATS_INBOX_PREFIX: '_INBOX.me', ...files });
  });
});
