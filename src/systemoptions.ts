/**
 * What a system is told: every option of `createSystem`, and the role that each is for.
 *
 *  O1  No option is taken that nothing here would come of: one that is unknown, or is for a role that this process
 *      does not have, is refused by name. `undefined` is what was not given, and is never refused.
 */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import { checkIsolation, checkKeys, checkObservers, isRecord, labelsOf, oneOf } from './arguments.ts';
import type { RedisSource } from './backends.ts';
import { invalidArgument } from './errors.ts';
import { type NatsSource, natsSource } from './natssource.ts';
import { type AuditSink, checkAudit } from './ops/audit.ts';
import { resolveSystemOptions, type SystemOptions } from './options.ts';
import { type RoutingOptions, resolveRouting } from './routing.ts';
import { type AutoscalingOptions, autoscalingOf } from './runtimepool.ts';
import type { Isolation } from './sandbox/messages.ts';
import { ID } from './subjects.ts';
import type { Tool } from './tools/define.ts';
import { createToolRegistry, type ToolRegistry } from './tools/registry.ts';

/** What a process does in a system, besides being a client of it. */
export type Role = 'broker' | 'runtime';

export const ROLES: readonly Role[] = ['broker', 'runtime'];

/** What a system is: without `nats` everything in this process, with it a part of a cluster. Everything has a default. */
export interface CreateSystemOptions extends SystemOptions, RoutingOptions, AutoscalingOptions {
  /** The NATS servers: urls, or options with credentials. Default: none, everything is in this process. */
  readonly nats?: NatsSource | undefined;
  /** Where brokers keep sessions: a `redis://` or `rediss://` url, the options of an ioredis client, or a client of your own. Default: this process's memory, which only a system without `nats` may have. */
  readonly redis?: RedisSource | undefined;
  /** What an acknowledged write has reached: `'master'`, or one `'replica'` of it too. Needs `redis`. Default `'master'`. See README, "What is guaranteed". */
  readonly ack?: 'master' | 'replica' | undefined;
  /** Begins every key in Redis; without braces. Needs `redis`. Default `enclave:<namespace>:`. */
  readonly keyPrefix?: string | undefined;
  /** What this process hosts. Default: both, or, with `nats`, neither: a client. */
  readonly roles?: readonly Role[] | undefined;
  /** Names this process: `[A-Za-z0-9_-]{1,60}`; no two of a namespace may share it. Its broker and its runtime have the name, with a number added where there are several of a kind. Default: that of the credentials, or a new one; without `nats` `broker-1`, `runtime-1` and so on. */
  readonly id?: string | undefined;
  /** What routing rules match this process's runtimes by. Default: none. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Tools made by `defineTool`, or a registry of them: every broker of this process provides them. Default: none. */
  readonly tools?: readonly Tool[] | ToolRegistry | undefined;
  /** How far executions are kept apart where a session or a run does not say: of this process's clients, and of all clients of its brokers. Default `'context'`. */
  readonly isolation?: Isolation | undefined;
  /** A pino logger. Default: silent. See OBSERVABILITY.md for its lines and their levels. */
  readonly logger?: Logger | undefined;
  /** Show scripts, arguments of tools and results in lines of the level `debug`: for development. Default false: no line holds them. */
  readonly logContent?: boolean | undefined;
  /** Keep what scripts write, pass to tools and return out of all events of this process's brokers. Default false: sessions and runs say it themselves. */
  readonly redactEvents?: boolean | undefined;
  /** Make a record of every execution that ends here, publish it, and write it to this logger or stream; `true`: only publish it. Default: no records. See OBSERVABILITY.md. */
  readonly audit?: AuditSink | undefined;
  /** A prom-client registry that gets the `enclave_*` metrics. Default: none. */
  readonly registry?: Registry | undefined;
}

/**
 * Who has a use for each option: a client too, or only a process that hosts a role. `'hosts'`: any role. `'runtimes'`:
 * the role `runtime`, or a broker that has runtimes started on this machine.
 */
const FOR = {
  namespace: 'all',
  nats: 'all',
  roles: 'all',
  id: 'all',
  limits: 'all',
  maxLimits: 'broker',
  isolation: 'all',
  logger: 'all',
  registry: 'all',
  drainGraceMs: 'hosts',
  runtimes: 'runtime',
  labels: 'runtime',
  pool: 'runtimes',
  heartbeatIntervalMs: 'runtimes',
  brokers: 'broker',
  redis: 'broker',
  ack: 'broker',
  keyPrefix: 'broker',
  runtimePool: 'broker',
  provisioner: 'broker',
  routingStrategy: 'broker',
  routingRules: 'broker',
  tools: 'broker',
  logContent: 'broker',
  redactEvents: 'broker',
  audit: 'broker',
  leaseTtlMs: 'broker',
  scanIntervalMs: 'broker',
  sessionTimeoutMs: 'broker',
  maxRuns: 'broker',
  hibernateAfterMs: 'broker',
  parkAfterMs: 'broker',
  placementTimeoutMs: 'broker',
  maxExecutions: 'broker',
  keepExecutions: 'broker',
  maxEvents: 'broker',
  maxSessions: 'broker',
  maxConcurrentSessions: 'broker',
  admission: 'broker',
} as const satisfies Record<keyof CreateSystemOptions, Role | 'all' | 'hosts' | 'runtimes'>;

/** Every option of a system. */
export const SYSTEM_KEYS: readonly string[] = Object.keys(FOR);

/** What a process hosts, by its options. */
export function rolesOf({ roles, nats }: CreateSystemOptions): readonly Role[] {
  return roles ?? (nats === undefined ? ROLES : []);
}

/** Check every option without starting anything. Throws INVALID_ARGUMENT naming the one that is wrong. */
export function checkSystemOptions(options: CreateSystemOptions): void {
  checkKeys(options, SYSTEM_KEYS, 'options');
  const { roles, nats, redis, id, keyPrefix, ack } = options;
  if (roles !== undefined && !Array.isArray(roles))
    throw invalidArgument('options.roles', "must be an array of 'broker' and 'runtime'");
  for (const [index, role] of (roles ?? []).entries()) oneOf(role, ROLES, `options.roles[${index}]`);
  if (nats !== undefined) natsSource(nats, 'options.nats');
  const hosted = rolesOf(options);
  if (nats === undefined && hosted.length < ROLES.length)
    throw invalidArgument('options.roles', 'a system within one process needs both roles');
  checkUse(options, hosted);
  oneOf(ack, ['master', 'replica'], 'options.ack');
  if (id !== undefined && (typeof id !== 'string' || !ID.test(id) || id.length > 60))
    throw invalidArgument('options.id', 'must be 1 to 60 characters of A-Z, a-z, 0-9, _ and -');
  labelsOf(options.labels, 'options.labels');
  if (hosted.includes('broker') && nats !== undefined && redis === undefined)
    throw invalidArgument(
      'options.redis',
      'a broker over NATS needs it: others must be able to take its sessions over',
    );
  if (redis !== undefined && typeof redis !== 'string' && !isRecord(redis))
    throw invalidArgument('options.redis', 'must be a url, options of ioredis, or a client of ioredis');
  if (keyPrefix !== undefined && (typeof keyPrefix !== 'string' || /[{}]/.test(keyPrefix)))
    throw invalidArgument('options.keyPrefix', 'must be a text without braces');
  checkIsolation(options.isolation, 'options.isolation');
  checkObservers(options, 'options');
  checkAudit(options.audit, 'options.audit');
  for (const key of ['redactEvents', 'logContent'] as const)
    if (options[key] !== undefined && typeof options[key] !== 'boolean')
      throw invalidArgument(`options.${key}`, 'must be true or false');
  resolveSystemOptions(options, hosted.includes('runtime'));
  resolveRouting(options);
  toolsOf(options.tools);
  if (options.runtimePool !== undefined && nats === undefined)
    throw invalidArgument('options.runtimePool', 'needs `nats`: runtimes that are started join by it');
  if (options.runtimePool !== undefined) autoscalingOf(options)?.check();
  else if (options.provisioner !== undefined)
    throw invalidArgument('options.provisioner', 'needs a runtimePool');
}

/** O1 */
function checkUse(options: CreateSystemOptions, hosted: readonly Role[]): void {
  const { redis, runtimePool, provisioner = 'local' } = options;
  const startsRuntimes = hosted.includes('broker') && runtimePool !== undefined && provisioner === 'local';
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const whom = FOR[key as keyof typeof FOR];
    const [used, needs] =
      whom === 'hosts'
        ? [hosted.length > 0, "the role 'broker' or 'runtime'"]
        : whom === 'runtimes'
          ? [
              hosted.includes('runtime') || startsRuntimes,
              "the role 'runtime', or runtimes that `runtimePool` starts on this machine",
            ]
          : [whom === 'all' || hosted.includes(whom), `the role '${whom}'`];
    if (!used)
      throw invalidArgument(
        `options.${key}`,
        `needs ${needs}; this process is ${hosted.length === 0 ? 'a client' : `a ${hosted.join(' and a ')}`}`,
      );
  }
  for (const key of ['ack', 'keyPrefix'] as const)
    if (options[key] !== undefined && redis === undefined)
      throw invalidArgument(
        `options.${key}`,
        "needs `redis`: without it sessions are in this process's memory",
      );
}

/** Throws INVALID_ARGUMENT. */
export function toolsOf(tools: readonly Tool[] | ToolRegistry | undefined): ToolRegistry {
  const registry = tools as Partial<ToolRegistry> | undefined;
  if (typeof registry?.resolve === 'function' && typeof registry.names === 'function')
    return tools as ToolRegistry;
  return createToolRegistry({ tools: tools as readonly Tool[] | undefined });
}
