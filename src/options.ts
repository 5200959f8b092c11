/**
 * Every numeric option, in one place: meaning, unit, default, range and the rules between options.
 *
 * Resolution reads each key by itself, so an explicit `undefined` means "the default" and never erases one.
 * Unknown keys and values out of range are refused with a message that names the key.
 */
import os from 'node:os';
import { invalidArgument } from './errors.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

interface NumberRule {
  readonly default: number;
  readonly min: number;
  readonly max: number;
  /** `ratio`: need not be whole. */
  readonly unit: 'ms' | 'bytes' | 'count' | 'ratio';
}

/** What one execution may use. */
export interface Limits {
  /** Wall-clock time from its start in a worker, waiting for tools included, in ms. Default 30,000; 1 to 3,600,000. At the limit: EXECUTION_TIMEOUT. */
  readonly timeoutMs?: number | undefined;
  /** CPU time inside the isolate, in ms. Default 5,000; 1 to 3,600,000. At the limit: CPU_LIMIT_EXCEEDED. */
  readonly cpuMs?: number | undefined;
  /** Heap of the isolate, in bytes, rounded up to whole MiB. Default 64 MiB, or half of `maxWorkerMemory` if that is less and the workers are this process's own; 8 MiB to 4 GiB. A runtime gives no more than the `maxWorkerMemory` of its workers. At the limit: MEMORY_LIMIT_EXCEEDED. */
  readonly memoryBytes?: number | undefined;
  /** Tool calls in all. Default 100; 0 to 100,000. The call after the last allowed ends the execution: TOOL_CALL_LIMIT_EXCEEDED. */
  readonly maxToolCalls?: number | undefined;
  /** Tool handlers running at once; further calls wait in order. Default 16; 1 to 1,000. */
  readonly maxConcurrentToolCalls?: number | undefined;
  /** Source text, in bytes of UTF-8. Default 256 KiB; 1 byte to 8 MiB. Over it: SOURCE_LIMIT_EXCEEDED, nothing ran. */
  readonly maxSourceBytes?: number | undefined;
  /** The returned value as JSON, in bytes. Default 1 MiB; 1 byte to 16 MiB. Over it: RESULT_LIMIT_EXCEEDED. */
  readonly maxResultBytes?: number | undefined;
  /** Everything written to the console, in bytes of UTF-8, one at least for each line. Default 1 MiB; 0 to 16 MiB. Over it: OUTPUT_LIMIT_EXCEEDED. */
  readonly maxOutputBytes?: number | undefined;
  /** One value that crosses into or out of the script by a tool call, or as `input`, as JSON, in bytes. Default 1 MiB; 1 byte to 16 MiB. Over it: the call fails with a catchable error. */
  readonly maxToolPayloadBytes?: number | undefined;
}

export const LIMIT_RULES = {
  timeoutMs: { default: 30_000, min: 1, max: 3_600_000, unit: 'ms' },
  cpuMs: { default: 5_000, min: 1, max: 3_600_000, unit: 'ms' },
  memoryBytes: { default: 64 * MiB, min: 8 * MiB, max: 4096 * MiB, unit: 'bytes' },
  maxToolCalls: { default: 100, min: 0, max: 100_000, unit: 'count' },
  maxConcurrentToolCalls: { default: 16, min: 1, max: 1_000, unit: 'count' },
  maxSourceBytes: { default: 256 * KiB, min: 1, max: 8 * MiB, unit: 'bytes' },
  maxResultBytes: { default: MiB, min: 1, max: 16 * MiB, unit: 'bytes' },
  maxOutputBytes: { default: MiB, min: 0, max: 16 * MiB, unit: 'bytes' },
  maxToolPayloadBytes: { default: MiB, min: 1, max: 16 * MiB, unit: 'bytes' },
} as const satisfies Record<keyof Limits, NumberRule>;

/** Limits with every default filled in. */
export type ResolvedLimits = { readonly [K in keyof typeof LIMIT_RULES]: number };

/** What one execution of a session may use: what a run may, and what only sessions have. `timeoutMs` and `cpuMs` are per attempt. */
export interface SessionLimitOptions extends Limits {
  /** From the acceptance of an execution to its end, whatever it waits for, in ms. Default 86,400,000 (a day); 1 to 2,592,000,000 (30 days). At the limit: DEADLINE_EXCEEDED. */
  readonly deadlineMs?: number | undefined;
  /** `state` as JSON, in bytes of UTF-8. Default 256 KiB; 2 bytes to 4 MiB. Over it: STATE_LIMIT_EXCEEDED, and the state stays as it was. */
  readonly maxStateBytes?: number | undefined;
}

export const SESSION_LIMIT_RULES = {
  ...LIMIT_RULES,
  deadlineMs: { default: 86_400_000, min: 1, max: 2_592_000_000, unit: 'ms' },
  maxStateBytes: { default: 256 * KiB, min: 2, max: 4 * MiB, unit: 'bytes' },
} as const satisfies Record<keyof SessionLimitOptions, NumberRule>;

/** Limits of a session with every default filled in. */
export type ResolvedSessionLimits = { readonly [K in keyof typeof SESSION_LIMIT_RULES]: number };

/** How a worker pool is sized, bounded and supervised. */
export interface WorkerPoolOptions {
  /** Most worker processes at once (one more while a recycled worker is replaced). Default `recommendedPoolSize('mixed')`; 1 to 256. */
  readonly poolSize?: number | undefined;
  /** Workers kept even when idle. Default 1; 0 to `poolSize`. */
  readonly minWorkers?: number | undefined;
  /** Resident memory of one worker process, in bytes. Default 256 MiB; 96 MiB to 64 GiB. Over three quarters of it between executions the worker is recycled; over it during one it is killed. */
  readonly maxWorkerMemory?: number | undefined;
  /** Recycle a worker after this many executions. Default 1,000; 1 to 1,000,000,000. The replacement is ready before the old worker drains, so the last executions before a recycle may pass the number. */
  readonly maxExecutionsPerWorker?: number | undefined;
  /** Let a worker go after this long without an execution, in ms (down to `minWorkers`). Default 60,000; 1 to 86,400,000. */
  readonly idleTimeout?: number | undefined;
  /** Executions waiting for a worker. Default 1,000; 0 to 1,000,000. Over it: OVERLOADED at once. */
  readonly maxQueueLength?: number | undefined;
  /** Longest wait for a worker, in ms. Default 30,000; 1 to 3,600,000. Over it: QUEUE_TIMEOUT. */
  readonly queueTimeoutMs?: number | undefined;
  /** Executions aboard one worker at once: at most four run or are at hand, the others wait for tools. Default 16; 1 to 1,024. */
  readonly maxConcurrentPerWorker?: number | undefined;
  /** Isolates kept warm for tenants in one worker, the least recently used let go first. Default 16; 0 to 4,096. */
  readonly maxWarmIsolates?: number | undefined;
  /** Crashes of workers allowed within `restartWindowMs` before the pool gives up for a while (see `stats().status`). Default 50; 0 to 1,000,000. */
  readonly maxRestarts?: number | undefined;
  /** The window of `maxRestarts`, in ms. Default 10,000; 1 to 86,400,000. */
  readonly restartWindowMs?: number | undefined;
  /** Longest start of a worker, in ms. Default 15,000; 100 to 600,000. A worker that is not ready by then is killed and counts as a crash. */
  readonly startTimeoutMs?: number | undefined;
  /** Crashes of a worker in a row with one script alone aboard before that script is refused as QUARANTINED. Default 3; 1 to 1,000. */
  readonly quarantineAfter?: number | undefined;
  /** Tool results kept per execution so that it can go on in another worker after a crash, in bytes. Default 4 MiB; 0 to 256 MiB. An execution that passed it ends as WORKER_CRASHED instead. */
  readonly maxReplayBytes?: number | undefined;
  /** Run workers under this user id. Needs a parent that may change it (root). Default: the parent's own. */
  readonly uid?: number | undefined;
  /** Run workers under this group id. Needs a parent that may change it (root). Default: the parent's own. */
  readonly gid?: number | undefined;
}

export const POOL_RULES = {
  poolSize: { default: 0, min: 1, max: 256, unit: 'count' },
  minWorkers: { default: 1, min: 0, max: 256, unit: 'count' },
  maxWorkerMemory: { default: 256 * MiB, min: 96 * MiB, max: 65_536 * MiB, unit: 'bytes' },
  maxExecutionsPerWorker: { default: 1_000, min: 1, max: 1_000_000_000, unit: 'count' },
  idleTimeout: { default: 60_000, min: 1, max: 86_400_000, unit: 'ms' },
  maxQueueLength: { default: 1_000, min: 0, max: 1_000_000, unit: 'count' },
  queueTimeoutMs: { default: 30_000, min: 1, max: 3_600_000, unit: 'ms' },
  maxConcurrentPerWorker: { default: 16, min: 1, max: 1_024, unit: 'count' },
  maxWarmIsolates: { default: 16, min: 0, max: 4_096, unit: 'count' },
  maxRestarts: { default: 50, min: 0, max: 1_000_000, unit: 'count' },
  restartWindowMs: { default: 10_000, min: 1, max: 86_400_000, unit: 'ms' },
  startTimeoutMs: { default: 15_000, min: 100, max: 600_000, unit: 'ms' },
  quarantineAfter: { default: 3, min: 1, max: 1_000, unit: 'count' },
  maxReplayBytes: { default: 4 * MiB, min: 0, max: 256 * MiB, unit: 'bytes' },
} as const satisfies Record<Exclude<keyof WorkerPoolOptions, 'uid' | 'gid'>, NumberRule>;

export type ResolvedPoolOptions = { readonly [K in keyof typeof POOL_RULES]: number } & {
  readonly uid: number | undefined;
  readonly gid: number | undefined;
};

/** Kinds of work that {@link recommendedPoolSize} tells apart. */
export type Workload = 'cpu' | 'io' | 'mixed';

/**
 * The guide's pool sizes: CPU cores for CPU-heavy scripts, twice that for scripts that mostly wait for tools,
 * one and a half times for a mix; never less than 2.
 */
export function recommendedPoolSize(workload: Workload, cores: number = os.availableParallelism()): number {
  const factor = new Map<unknown, number>([
    ['cpu', 1],
    ['io', 2],
    ['mixed', 1.5],
  ]).get(workload);
  if (factor === undefined)
    throw invalidArgument('workload', `must be 'cpu', 'io' or 'mixed', not ${String(workload)}`);
  return Math.max(2, Math.floor(cores * factor));
}

/** Resolve limits: `given` over `base`, each value checked. Throws INVALID_ARGUMENT naming the key. */
export function resolveLimits(
  given: Limits | undefined,
  base: ResolvedLimits,
  path = 'limits',
): ResolvedLimits {
  if (given === undefined) return base;
  return resolveNumbers(LIMIT_RULES, given, path, base);
}

/** Resolve the limits of a session or of one of its executions: `given` over `base`, or over the defaults. Throws INVALID_ARGUMENT naming the key. */
export function resolveSessionLimits(
  given: SessionLimitOptions | undefined,
  base?: ResolvedSessionLimits,
  path = 'limits',
): ResolvedSessionLimits {
  if (given === undefined && base !== undefined) return base;
  return resolveNumbers(SESSION_LIMIT_RULES, given ?? {}, path, base);
}

/** The limits that were set, over others that were, each value checked; nothing is filled in. Throws INVALID_ARGUMENT naming the key. */
export function mergeSessionLimits(
  given: SessionLimitOptions | undefined,
  base: SessionLimitOptions = {},
  path = 'limits',
): SessionLimitOptions {
  const checked = resolveNumbers(SESSION_LIMIT_RULES, given ?? {}, path);
  const set = (limits: SessionLimitOptions) =>
    Object.entries(limits).filter(([, value]) => value !== undefined);
  const own = set(given ?? {}).map(([key]) => [key, checked[key as keyof ResolvedSessionLimits]]);
  return Object.fromEntries([...set(base), ...own]) as SessionLimitOptions;
}

/** The most that anybody may set: the ends of the ranges. */
export const MOST_LIMITS = Object.fromEntries(
  Object.entries(SESSION_LIMIT_RULES).map(([key, { max }]) => [key, max]),
) as ResolvedSessionLimits;

/** The limits, none of them above its ceiling. */
export function lowerLimits(
  limits: ResolvedSessionLimits,
  ceiling: ResolvedSessionLimits,
): ResolvedSessionLimits {
  const keys = Object.keys(SESSION_LIMIT_RULES) as (keyof ResolvedSessionLimits)[];
  return Object.fromEntries(
    keys.map((key) => [key, Math.min(limits[key], ceiling[key])]),
  ) as ResolvedSessionLimits;
}

/** Throws INVALID_ARGUMENT naming the first limit that was set above its ceiling. `where`: whose ceiling that is. */
export function checkCeiling(
  given: SessionLimitOptions,
  ceiling: ResolvedSessionLimits,
  path: string,
  where: string,
): void {
  for (const [key, most] of Object.entries(ceiling)) {
    const value = given[key as keyof SessionLimitOptions];
    if (value !== undefined && value > most)
      throw invalidArgument(`${path}.${key}`, `must be at most ${most} ${where}, not ${value}`);
  }
}

/** The limits of an execution for which nothing was said, in workers of the given size. */
export function defaultLimits(maxWorkerMemory: number): ResolvedLimits {
  const limits = resolveNumbers(LIMIT_RULES, {}, 'limits');
  return { ...limits, memoryBytes: Math.min(limits.memoryBytes, Math.floor(maxWorkerMemory / 2)) };
}

/** Resolve pool options. Throws INVALID_ARGUMENT naming the key or the pair of keys that contradict each other. */
export function resolvePoolOptions(given: WorkerPoolOptions = {}): ResolvedPoolOptions {
  checkRecord(given, 'options');
  const { uid, gid, ...numbers } = given;
  const resolved = resolveNumbers(
    { ...POOL_RULES, poolSize: { ...POOL_RULES.poolSize, default: recommendedPoolSize('mixed') } },
    numbers,
    'options',
  );
  const minWorkers =
    given.minWorkers === undefined ? Math.min(resolved.minWorkers, resolved.poolSize) : resolved.minWorkers;
  if (minWorkers > resolved.poolSize) {
    throw invalidArgument('options.minWorkers', `${minWorkers} is more than poolSize (${resolved.poolSize})`);
  }
  for (const [key, id] of Object.entries({ uid, gid })) {
    if (id !== undefined && (!Number.isInteger(id) || id < 0)) {
      throw invalidArgument(
        `options.${key}`,
        `must be a user or group id (a whole number from 0), not ${String(id)}`,
      );
    }
  }
  return { ...resolved, minWorkers, uid, gid };
}

function resolveNumbers<R extends Record<string, NumberRule>>(
  rules: R,
  given: { readonly [K in keyof R]?: number | undefined },
  path: string,
  base?: { readonly [K in keyof R]: number },
): { readonly [K in keyof R]: number } {
  checkRecord(given, path);
  for (const key of Object.keys(given)) {
    if (!Object.hasOwn(rules, key)) {
      throw invalidArgument(
        `${path}.${key}`,
        `unknown option; known ones are ${Object.keys(rules).join(', ')}`,
      );
    }
  }
  const resolved: Record<string, number> = {};
  for (const [key, rule] of Object.entries(rules)) {
    const value = given[key];
    if (value === undefined) {
      resolved[key] = base?.[key] ?? rule.default;
    } else if (!isWithin(rule, value)) {
      const unit = rule.unit === 'ms' || rule.unit === 'bytes' ? ` ${rule.unit}` : '';
      const number = rule.unit === 'ratio' ? 'number' : 'whole number';
      throw invalidArgument(
        `${path}.${key}`,
        `must be a ${number} from ${rule.min} to ${rule.max}${unit}, not ${String(value)}`,
      );
    } else {
      resolved[key] = value;
    }
  }
  return resolved as { readonly [K in keyof R]: number };
}

function isWithin({ min, max, unit }: NumberRule, value: unknown): value is number {
  if (typeof value !== 'number' || !(unit === 'ratio' || Number.isInteger(value))) return false;
  return value >= min && value <= max;
}

function checkRecord(value: unknown, path: string): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidArgument(path, 'must be an object');
  }
}

// ---- systems ---------------------------------------------------------------------------------------------

/** What one tenant gets at each broker. */
export interface TenantOptions {
  /** Its share beside others where several wait: for room in a runtime, and there for a worker. Default 1; 0.001 to 1,000. */
  readonly weight?: number | undefined;
  /** Executions that it may have at one broker, those that wait included. Default: that of all tenants. 1 to 1,000,000. Over it: OVERLOADED. */
  readonly maxConcurrent?: number | undefined;
  /** Executions that it may begin a second at one broker. Default: that of all tenants. 0.001 to 1,000,000. Over it: OVERLOADED. */
  readonly ratePerSecond?: number | undefined;
  /** How many of them at once, after a time without any. Default: that of all tenants if the rate is theirs, else a second's worth, at least 1. 1 to 1,000,000. */
  readonly burst?: number | undefined;
}

/** What a broker takes on. Each broker counts for itself: two brokers take on twice as much. */
export interface AdmissionOptions {
  /** Of every tenant that does not have its own: executions at once. 1 to 1,000,000. Default: no limit. */
  readonly maxConcurrent?: number | undefined;
  /** Of every tenant that does not have its own: executions begun a second. 0.001 to 1,000,000. Default: no limit. */
  readonly ratePerSecond?: number | undefined;
  /** Of every tenant that does not have its own. Default: a second's worth, at least 1. 1 to 1,000,000. */
  readonly burst?: number | undefined;
  /** Executions that wait at a broker for room in a runtime, of all tenants. No tenant has more of them than are still free, times its weight: one alone gets half. Default 2,000; 1 to 1,000,000. Over it: OVERLOADED. */
  readonly maxWaiting?: number | undefined;
  /** By name; at most 10,000. `default` is whoever names none. */
  readonly tenants?: Readonly<Record<string, TenantOptions>> | undefined;
}

const TENANT_RULES = {
  weight: { default: 1, min: 0.001, max: 1_000, unit: 'ratio' },
  maxConcurrent: { default: 0, min: 1, max: 1_000_000, unit: 'count' },
  ratePerSecond: { default: 0, min: 0.001, max: 1_000_000, unit: 'ratio' },
  burst: { default: 0, min: 1, max: 1_000_000, unit: 'count' },
} as const satisfies Record<keyof TenantOptions, NumberRule>;

const ADMISSION_RULES = {
  maxConcurrent: TENANT_RULES.maxConcurrent,
  ratePerSecond: TENANT_RULES.ratePerSecond,
  burst: TENANT_RULES.burst,
  maxWaiting: { default: 2_000, min: 1, max: 1_000_000, unit: 'count' },
} as const satisfies Record<Exclude<keyof AdmissionOptions, 'tenants'>, NumberRule>;

const MAX_TENANTS = 10_000;
const MAX_TENANT_LENGTH = 256;

/** What one tenant gets; undefined where it is not limited. */
export interface ResolvedTenant {
  readonly weight: number;
  readonly maxConcurrent: number | undefined;
  readonly ratePerSecond: number | undefined;
  /** At least 1. */
  readonly burst: number;
}

export interface ResolvedAdmission {
  readonly maxWaiting: number;
  /** Of those that have no rules of their own. */
  readonly others: ResolvedTenant;
  readonly tenants: ReadonlyMap<string, ResolvedTenant>;
}

/** Resolve what a broker takes on. Throws INVALID_ARGUMENT naming the key. */
export function resolveAdmission(given: AdmissionOptions = {}, path = 'admission'): ResolvedAdmission {
  checkRecord(given, path);
  const { tenants = {}, ...all } = given;
  const { maxWaiting, ...numbers } = resolveNumbers(ADMISSION_RULES, all, path);
  if (given.burst !== undefined && given.ratePerSecond === undefined)
    throw invalidArgument(`${path}.burst`, 'needs a ratePerSecond');
  const others = tenantOf({ ...numbers, weight: TENANT_RULES.weight.default });
  checkRecord(tenants, `${path}.tenants`);
  const names = Object.keys(tenants);
  if (names.length > MAX_TENANTS)
    throw invalidArgument(`${path}.tenants`, `must be at most ${MAX_TENANTS}, not ${names.length}`);
  const resolved = new Map<string, ResolvedTenant>();
  for (const name of names) {
    const key = `${path}.tenants.${name}`;
    if (name === '' || name.length > MAX_TENANT_LENGTH)
      throw invalidArgument(key, `its name must be 1 to ${MAX_TENANT_LENGTH} characters`);
    const own = tenants[name] ?? {};
    const ownRate = own.ratePerSecond !== undefined;
    if (own.burst !== undefined && !ownRate && others.ratePerSecond === undefined)
      throw invalidArgument(`${key}.burst`, 'needs a ratePerSecond');
    const base = { ...numbers, weight: TENANT_RULES.weight.default };
    // A burst belongs to the rate that it was said with.
    resolved.set(
      name,
      tenantOf(resolveNumbers(TENANT_RULES, own, key, ownRate ? { ...base, burst: 0 } : base)),
    );
  }
  return { maxWaiting, others, tenants: resolved };
}

/** 0 stands for what was not said. */
function tenantOf({
  weight,
  maxConcurrent,
  ratePerSecond,
  burst,
}: Record<keyof TenantOptions, number>): ResolvedTenant {
  return {
    weight,
    maxConcurrent: maxConcurrent === 0 ? undefined : maxConcurrent,
    ratePerSecond: ratePerSecond === 0 ? undefined : ratePerSecond,
    burst: burst === 0 ? Math.max(1, Math.ceil(ratePerSecond)) : burst,
  };
}

/** How a system of this process is made up, and what bounds its sessions. */
export interface SystemOptions {
  /** The first word of every subject and key: the tenant boundary. `[A-Za-z0-9_-]{1,64}`. Default: that of the credentials, or `'default'`. */
  readonly namespace?: string | undefined;
  /** Brokers in this process: they own sessions. Default 1; 1 to 16. With more than one, sessions can migrate. */
  readonly brokers?: number | undefined;
  /** Runtimes in this process: they run scripts, each in a worker pool of its own. Default 1; 1 to 16. */
  readonly runtimes?: number | undefined;
  /** Of each runtime's worker pool, those that `runtimePool` starts on this machine included. Default: `poolSize` is `recommendedPoolSize('mixed')` shared among the runtimes, at least 1 each. */
  readonly pool?: WorkerPoolOptions | undefined;
  /** Limits of every execution for which its session, or the call, does not set its own: of this process's clients, and of all clients of its brokers. */
  readonly limits?: SessionLimitOptions | undefined;
  /** The most that clients of this process's brokers may set as limits of sessions, executions and runs. What is set above it is refused as INVALID_ARGUMENT; what is inherited, from `limits`, a default or an older session, is lowered to it. An execution that was accepted keeps its limits. Default: the ends of the ranges. */
  readonly maxLimits?: SessionLimitOptions | undefined;
  /** Life of a broker's lease, in ms. Default 6,000; 500 to 600,000. A broker that is gone without a word is succeeded after it; one whose main loop stands still for a third of it gives its sessions up. */
  readonly leaseTtlMs?: number | undefined;
  /** How often a broker looks for sessions that nobody looks after, in ms. Default 1,000; 50 to 60,000. */
  readonly scanIntervalMs?: number | undefined;
  /** Between the heartbeats of this process's runtimes and of those that `runtimePool` starts on this machine, in ms. Default 1,000; 50 to 60,000. The loss of a runtime's process is noticed within about a second whatever this is. */
  readonly heartbeatIntervalMs?: number | undefined;
  /** How long a drain waits for scripts, stateless runs and tool handlers, in ms. Default 30,000; 0 to 3,600,000. What still runs then is given back: executions of sessions go on elsewhere. */
  readonly drainGraceMs?: number | undefined;
  /** Sessions that do not set `ttlMs` expire after this long without activity, in ms. Default 0, which is never; to 2,592,000,000 (30 days). */
  readonly sessionTimeoutMs?: number | undefined;
  /** Stateless runs in one broker. Default 10,000; 1 to 1,000,000. Over it: OVERLOADED. */
  readonly maxRuns?: number | undefined;
  /** A session without activity is put away after this, in ms. Default 30,000; 100 to 86,400,000. */
  readonly hibernateAfterMs?: number | undefined;
  /** A sleep longer than this lets the isolate go, in ms. Default 10,000; 100 to 86,400,000. */
  readonly parkAfterMs?: number | undefined;
  /** How long an execution that never ran waits for a runtime, in ms. Default 30,000; 1 to 86,400,000. Over it: NO_RUNTIME, or what the runtimes refused it with. */
  readonly placementTimeoutMs?: number | undefined;
  /** Executions of a session that wait or run. Default 100; 1 to 10,000. Over it: OVERLOADED. */
  readonly maxExecutions?: number | undefined;
  /** Ended executions that a session remembers, with their results and journals. Default 32; 1 to 10,000. A command older than these is refused as COMMAND_EXPIRED. */
  readonly keepExecutions?: number | undefined;
  /** Events kept per session; up to a quarter more may be. Default 10,000; 10 to 1,000,000. Reading older ones: TRUNCATED. */
  readonly maxEvents?: number | undefined;
  /** Sessions with an actor in one broker. Default 100,000; 1 to 10,000,000. Over it: OVERLOADED. */
  readonly maxSessions?: number | undefined;
  /**
   * Sessions with an actor at all brokers of the namespace together, those that were closed or have expired not
   * counted; those that hibernate have none. At the limit no session is created, and none is woken for a client:
   * OVERLOADED. One that has work is taken up all the same. 1 to 10,000,000. Default: no limit.
   */
  readonly maxConcurrentSessions?: number | undefined;
  /** What a broker takes on for each tenant. Default: no limits but `maxWaiting`. */
  readonly admission?: AdmissionOptions | undefined;
}

export const SYSTEM_RULES = {
  brokers: { default: 1, min: 1, max: 16, unit: 'count' },
  runtimes: { default: 1, min: 1, max: 16, unit: 'count' },
  leaseTtlMs: { default: 6_000, min: 500, max: 600_000, unit: 'ms' },
  scanIntervalMs: { default: 1_000, min: 50, max: 60_000, unit: 'ms' },
  heartbeatIntervalMs: { default: 1_000, min: 50, max: 60_000, unit: 'ms' },
  drainGraceMs: { default: 30_000, min: 0, max: 3_600_000, unit: 'ms' },
  sessionTimeoutMs: { default: 0, min: 0, max: 2_592_000_000, unit: 'ms' },
  maxRuns: { default: 10_000, min: 1, max: 1_000_000, unit: 'count' },
  hibernateAfterMs: { default: 30_000, min: 100, max: 86_400_000, unit: 'ms' },
  parkAfterMs: { default: 10_000, min: 100, max: 86_400_000, unit: 'ms' },
  placementTimeoutMs: { default: 30_000, min: 1, max: 86_400_000, unit: 'ms' },
  maxExecutions: { default: 100, min: 1, max: 10_000, unit: 'count' },
  keepExecutions: { default: 32, min: 1, max: 10_000, unit: 'count' },
  maxEvents: { default: 10_000, min: 10, max: 1_000_000, unit: 'count' },
  maxSessions: { default: 100_000, min: 1, max: 10_000_000, unit: 'count' },
  maxConcurrentSessions: { default: 0, min: 1, max: 10_000_000, unit: 'count' },
} as const satisfies Record<
  Exclude<keyof SystemOptions, 'namespace' | 'pool' | 'limits' | 'maxLimits' | 'admission'>,
  NumberRule
>;

export type ResolvedSystemOptions = { readonly [K in keyof typeof SYSTEM_RULES]: number } & {
  readonly namespace: string;
  /** Where nothing was said: none is above `maxLimits`. */
  readonly limits: ResolvedSessionLimits;
  readonly maxLimits: ResolvedSessionLimits;
  /** Of each runtime's pool. */
  readonly pool: WorkerPoolOptions;
  readonly admission: ResolvedAdmission;
};

/** Resolve a system's options; what else is given is for others to check. `runs`: it has workers of its own, which its limits must fit. Throws INVALID_ARGUMENT naming the key. */
export function resolveSystemOptions(given: SystemOptions, runs = true): ResolvedSystemOptions {
  checkRecord(given, 'options');
  const { namespace = 'default', pool = {}, limits, maxLimits, admission } = given;
  if (typeof namespace !== 'string' || !/^[A-Za-z0-9_-]{1,64}$/.test(namespace))
    throw invalidArgument('options.namespace', 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -');
  checkRecord(pool, 'options.pool');
  const numbers = Object.entries(given).filter(([key]) => Object.hasOwn(SYSTEM_RULES, key));
  const resolved = resolveNumbers(SYSTEM_RULES, Object.fromEntries(numbers), 'options');
  const poolSize = pool.poolSize ?? Math.max(1, Math.floor(recommendedPoolSize('mixed') / resolved.runtimes));
  const { maxWorkerMemory } = resolvePoolOptions({ ...pool, poolSize });
  const defaults = runs ? sessionDefaults(maxWorkerMemory) : undefined;
  const ceiling = resolveSessionLimits(maxLimits, MOST_LIMITS, 'options.maxLimits');
  const resolvedLimits = resolveSessionLimits(limits, defaults, 'options.limits');
  checkCeiling(limits ?? {}, ceiling, 'options.limits', '(options.maxLimits)');
  if (runs && resolvedLimits.memoryBytes > maxWorkerMemory) {
    throw invalidArgument(
      'options.limits.memoryBytes',
      `${resolvedLimits.memoryBytes} is more than pool.maxWorkerMemory (${maxWorkerMemory}), which holds for the whole worker process`,
    );
  }
  return {
    ...resolved,
    namespace,
    limits: lowerLimits(resolvedLimits, ceiling),
    maxLimits: ceiling,
    pool: { ...pool, poolSize },
    admission: resolveAdmission(admission, 'options.admission'),
  };
}

function sessionDefaults(maxWorkerMemory: number): ResolvedSessionLimits {
  return { ...resolveSessionLimits(undefined), ...defaultLimits(maxWorkerMemory) };
}

// ---- the pool of runtimes --------------------------------------------------------------------------------

/** How many runtimes a broker keeps, of those that it starts and stops itself. */
export interface RuntimePoolOptions {
  /** Runtimes there are at least, in all; fewer are made up for at once. Default 1; 0 to 1,000. */
  readonly minSize?: number | undefined;
  /** Runtimes there are at most, those that drain not counted. Default 10, or `minSize` if that is more; 1 to 1,000, and not less than `minSize`. */
  readonly maxSize?: number | undefined;
  /** Share of all places in use, executions that wait for one included, above which runtimes are added. Default 0.8; 0.05 to 1, and more than `scaleDownThreshold`. */
  readonly scaleUpThreshold?: number | undefined;
  /** Share of all places in use below which one runtime is drained, once it was so for three looks in a row. Default 0.3, or half of `scaleUpThreshold` if that is less; 0 to 0.95. */
  readonly scaleDownThreshold?: number | undefined;
  /** How often the shares are looked at, in ms. Default 30,000; 100 to 3,600,000. */
  readonly scaleInterval?: number | undefined;
  /** What the runtimes that are started on this machine have, for routing rules; those of the namespace that have these are the pool that is kept. Names hold no `=`, and neither holds a comma or begins or ends with a space. Not with a provisioner of your own, which has its own. Default: none, and the pool is every runtime of the namespace. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

export const RUNTIME_POOL_RULES = {
  minSize: { default: 1, min: 0, max: 1_000, unit: 'count' },
  maxSize: { default: 10, min: 1, max: 1_000, unit: 'count' },
  scaleUpThreshold: { default: 0.8, min: 0.05, max: 1, unit: 'ratio' },
  scaleDownThreshold: { default: 0.3, min: 0, max: 0.95, unit: 'ratio' },
  scaleInterval: { default: 30_000, min: 100, max: 3_600_000, unit: 'ms' },
} as const satisfies Record<Exclude<keyof RuntimePoolOptions, 'labels'>, NumberRule>;

export type ResolvedRuntimePool = { readonly [K in keyof typeof RUNTIME_POOL_RULES]: number };

/** Resolve how many runtimes there are to be; their labels are for who starts them. Throws INVALID_ARGUMENT naming the key or the pair that contradict each other. */
export function resolveRuntimePool(
  given: RuntimePoolOptions = {},
  path = 'runtimePool',
): ResolvedRuntimePool {
  checkRecord(given, path);
  const { labels: _, ...numbers } = given;
  const resolved = resolveNumbers(RUNTIME_POOL_RULES, numbers, path);
  const { minSize, scaleUpThreshold: up } = resolved;
  const maxSize = given.maxSize ?? Math.max(resolved.maxSize, minSize);
  const down = given.scaleDownThreshold ?? Math.min(resolved.scaleDownThreshold, up / 2);
  if (minSize > maxSize)
    throw invalidArgument(`${path}.minSize`, `${minSize} is more than maxSize (${maxSize})`);
  if (down >= up)
    throw invalidArgument(
      `${path}.scaleDownThreshold`,
      `${down} is not less than scaleUpThreshold (${up}): runtimes would come and go`,
    );
  return { ...resolved, maxSize, scaleDownThreshold: down };
}
