import os from 'node:os';
import { describe, expect, it } from 'vitest';
import { EnclaveError } from '../../src/errors.ts';
import {
  defaultLimits,
  LIMIT_RULES,
  type Limits,
  POOL_RULES,
  recommendedPoolSize,
  resolveLimits,
  resolvePoolOptions,
  type WorkerPoolOptions,
  type Workload,
} from '../../src/options.ts';

const MiB = 1024 * 1024;
const BASE = defaultLimits(256 * MiB);
const limitsOf = (given: unknown) => resolveLimits(given as Limits, BASE);
const poolOf = (given: unknown) => resolvePoolOptions(given as WorkerPoolOptions);

/** What a call throws, as data. */
function thrown(act: () => unknown): Partial<EnclaveError> | undefined {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(EnclaveError);
    const { code, key, message } = error as EnclaveError;
    return { code, ...(key === undefined ? {} : { key }), message };
  }
  return undefined;
}

const numbers = [
  ...Object.entries(LIMIT_RULES).map(([key, rule]) => ({
    key,
    name: `limits.${key}`,
    rule,
    path: 'limits',
    of: limitsOf,
    also: () => ({}),
  })),
  ...Object.entries(POOL_RULES).map(([key, rule]) => ({
    key,
    name: `options.${key}`,
    rule,
    path: 'options',
    of: poolOf,
    // The pool must be as large as what is tried for minWorkers.
    also: (value: number) => (key === 'minWorkers' ? { poolSize: Math.max(1, value) } : {}),
  })),
];

describe('every number', () => {
  it.each(numbers)('$name may be its least and its most', ({ key, rule, of, also }) => {
    for (const value of [rule.min, rule.max])
      expect(of({ [key]: value, ...also(value) })).toMatchObject({ [key]: value });
  });

  it.each(numbers)('$name may be nothing else', ({ key, rule, path, of }) => {
    const wrong = [
      rule.min - 1,
      rule.max + 1,
      rule.min + 0.5,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      '5',
      null,
    ];
    for (const value of wrong) {
      const error = thrown(() => of({ [key]: value }));
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', key: `${path}.${key}` });
      expect(error?.message).toContain(
        `${path}.${key}: must be a whole number from ${rule.min} to ${rule.max}`,
      );
    }
  });

  it.each(numbers)('$name has a default within its range', ({ key, of, rule }) => {
    const value = (of({}) as Record<string, number>)[key];
    expect(value).toBeGreaterThanOrEqual(rule.min);
    expect(value).toBeLessThanOrEqual(rule.max);
  });

  it.each(numbers)('$name given as undefined is its default', ({ key, of }) => {
    expect(of({ [key]: undefined })).toEqual(of({}));
  });
});

describe('limits', () => {
  it('are what the documentation says when nothing is said', () => {
    expect(BASE).toEqual({
      timeoutMs: 30_000,
      cpuMs: 5_000,
      memoryBytes: 64 * MiB,
      maxToolCalls: 100,
      maxConcurrentToolCalls: 16,
      maxSourceBytes: 256 * 1024,
      maxResultBytes: MiB,
      maxOutputBytes: MiB,
      maxToolPayloadBytes: MiB,
    });
  });

  it('leave half of a small worker to what is not the script', () => {
    expect(defaultLimits(96 * MiB).memoryBytes).toBe(48 * MiB);
  });

  it('are those of the base where the run says nothing, or undefined', () => {
    const base = { ...BASE, timeoutMs: 7, cpuMs: 8 };
    expect(resolveLimits({ timeoutMs: undefined, maxToolCalls: 3 }, base)).toEqual({
      ...base,
      maxToolCalls: 3,
    });
    expect(resolveLimits(undefined, base)).toBe(base);
  });

  it('name an option that they do not know, under the path of the caller', () => {
    const error = thrown(() => resolveLimits({ timeoutMS: 5 } as Limits, BASE, 'options.limits'));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', key: 'options.limits.timeoutMS' });
    expect(error?.message).toContain('timeoutMs');
  });

  it.each(['constructor', 'toString', 'hasOwnProperty'])('do not take %s for an option', (key) => {
    expect(thrown(() => limitsOf({ [key]: 5 }))).toMatchObject({ key: `limits.${key}` });
  });

  it.each([null, [], 'fast', 5])('are an object, not %j', (given) => {
    expect(thrown(() => limitsOf(given))).toMatchObject({ code: 'INVALID_ARGUMENT', key: 'limits' });
  });
});

describe('pool options', () => {
  it('are what the documentation says when nothing is said', () => {
    expect(resolvePoolOptions()).toEqual({
      poolSize: recommendedPoolSize('mixed'),
      minWorkers: 1,
      maxWorkerMemory: 256 * MiB,
      maxExecutionsPerWorker: 1_000,
      idleTimeout: 60_000,
      maxQueueLength: 1_000,
      queueTimeoutMs: 30_000,
      maxConcurrentPerWorker: 16,
      maxWarmIsolates: 16,
      maxRestarts: 50,
      restartWindowMs: 10_000,
      startTimeoutMs: 15_000,
      quarantineAfter: 3,
      maxReplayBytes: 4 * MiB,
      uid: undefined,
      gid: undefined,
    });
  });

  it("take the guide's own snippet", () => {
    const snippet = {
      poolSize: 4,
      maxWorkerMemory: 128 * MiB,
      maxExecutionsPerWorker: 1_000,
      idleTimeout: 60_000,
    };
    expect(resolvePoolOptions(snippet)).toMatchObject(snippet);
  });

  it('name an option that they do not know', () => {
    expect(thrown(() => poolOf({ poolsize: 4 }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'options.poolsize',
    });
  });

  it('refuse to keep more workers than there may be', () => {
    const error = thrown(() => resolvePoolOptions({ poolSize: 2, minWorkers: 3 }));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', key: 'options.minWorkers' });
    expect(error?.message).toContain('poolSize (2)');
  });

  it('keep as many workers as there may be', () => {
    expect(resolvePoolOptions({ poolSize: 2, minWorkers: 2 }).minWorkers).toBe(2);
  });

  it.each(['uid', 'gid'] as const)('take a whole number from 0 for %s and nothing else', (key) => {
    expect(resolvePoolOptions({ [key]: 0 })[key]).toBe(0);
    for (const id of [-1, 1.5, '0', null])
      expect(thrown(() => poolOf({ [key]: id }))).toMatchObject({ key: `options.${key}` });
  });

  it.each([null, [], 'large'])('are an object, not %j', (given) => {
    expect(thrown(() => poolOf(given))).toMatchObject({ code: 'INVALID_ARGUMENT', key: 'options' });
  });
});

describe('the recommended pool size', () => {
  it.each<{ workload: Workload; cores: number; size: number }>([
    { workload: 'cpu', cores: 8, size: 8 },
    { workload: 'io', cores: 8, size: 16 },
    { workload: 'mixed', cores: 8, size: 12 },
    { workload: 'mixed', cores: 3, size: 4 },
    { workload: 'cpu', cores: 1, size: 2 },
    { workload: 'io', cores: 1, size: 2 },
    { workload: 'mixed', cores: 1, size: 2 },
  ])('is $size for $workload on $cores cores', ({ workload, cores, size }) => {
    expect(recommendedPoolSize(workload, cores)).toBe(size);
  });

  it('counts the cores that this process may use', () => {
    expect(recommendedPoolSize('io')).toBe(Math.max(2, os.availableParallelism() * 2));
  });

  it.each(['gpu', 'constructor', '__proto__', undefined])('is refused for the workload %s', (workload) => {
    expect(thrown(() => recommendedPoolSize(workload as Workload, 4))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'workload',
    });
  });
});
