/** What callers of the client may say, and what of it is refused. */
import type { ExecutionEvent } from '../../actors/events.ts';
import {
  checkIsolation,
  checkKeys,
  checkSignal,
  inputJson,
  isRecord,
  jsonOf,
  labelsOf,
  oneOf,
} from '../arguments.ts';
import { invalidArgument } from '../errors.ts';
import {
  mergeSessionLimits,
  type ResolvedSessionLimits,
  resolveSessionLimits,
  type SessionLimitOptions,
} from '../options.ts';
import type { CreateSession, Durability, RunScript } from '../protocol.ts';
import { ID } from '../subjects.ts';
import { canonicalToolName, NAME_RULE } from '../tools/define.ts';
import { type ClientDefaults, surely } from './context.ts';

type Isolation = CreateSession['isolation'];

/** What a new session is: fixed for its life. Whatever is out of range is INVALID_ARGUMENT naming the option. */
export interface SpawnOptions {
  /** `[A-Za-z0-9_-]{1,64}`. ALREADY_EXISTS if it is taken. Default: a new UUID version 7. */
  readonly id?: string | undefined;
  /** The caller's own words about the session, kept with it and shown by `info()`. At most 64; keys of 1 to 256 characters, values of 0 to 256. Default: none. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /**
   * The only tools that its scripts may call, by name; a call of any other is TOOL_NOT_ALLOWED. A tool need not be
   * provided yet: what is not known when a script calls it is UNKNOWN_TOOL. Default: all.
   */
  readonly tools?: readonly string[] | undefined;
  /** The session expires after this long without activity, never during an execution, in ms. 0 for never, else 1,000 to 2,592,000,000 (30 days). Default: the brokers' `sessionTimeoutMs`, which is never if they do not set it. Afterwards: EXPIRED. */
  readonly ttlMs?: number | undefined;
  /** Limits of its executions that do not set their own. One above the brokers' `maxLimits` is refused as INVALID_ARGUMENT. Default: the client's, else the brokers'. */
  readonly limits?: SessionLimitOptions | undefined;
  /** How far its executions are kept apart from others. Default: the client's, else the brokers'. `'realm'` only with `durability: 'none'`. */
  readonly isolation?: Isolation | undefined;
  /** What `state` is at first: a JSON object, at most `maxStateBytes`. Default `{}`. */
  readonly state?: object | undefined;
  /** `'session'`: it is stored, and survives its owner. `'none'`: nothing is stored, so it is lost with its owner, and can neither migrate nor hibernate. Default `'session'`. */
  readonly durability?: Durability | undefined;
  /** Executions that run at once; further ones wait. Default 1; 1 to 64. */
  readonly maxConcurrentExecutions?: number | undefined;
  /** Keep what its scripts write, pass to tools and return out of its events, published and stored: lengths and hashes are left. Default false, unless its broker does so with all. See EVENTS.md. */
  readonly redactEvents?: boolean | undefined;
  /** On whose behalf: 1 to 256 characters. What its executions count for where brokers limit tenants or share room between them. Handlers of tools are told it if it was named. Isolates are the session's own whatever this is. Default `'default'`. */
  readonly tenant?: string | undefined;
}

/** What one execution of a session is given. Whatever is out of range is INVALID_ARGUMENT naming the option. */
export interface ExecuteOptions {
  /** JSON data that the script sees as `input`. At most `maxToolPayloadBytes` as JSON. Default: undefined. */
  readonly input?: unknown;
  /** Names the execution: `[A-Za-z0-9_-]{1,64}`. As long as the session remembers it (`keepExecutions`), the same id with the same content is the same execution; with other content COMMAND_CONFLICT. Default: a new id. */
  readonly commandId?: string | undefined;
  /** When the command was first issued, in ms since the epoch. Give it with a `commandId` that may be sent again after a restart: then one that the session no longer remembers is refused as COMMAND_EXPIRED, and not run a second time. Default: now. */
  readonly issuedAt?: number | undefined;
  /** Limits of this execution, over the session's. One above the brokers' `maxLimits` is refused as INVALID_ARGUMENT. */
  readonly limits?: SessionLimitOptions | undefined;
  /** Cancels the execution when it is aborted. */
  readonly signal?: AbortSignal | undefined;
  /** Seeds `Math.random` in the script. Default: a random seed. */
  readonly seed?: string | number | undefined;
}

/** What a stateless run may be given. */
export interface RunOptions {
  /** JSON data that the script sees as `input`. At most `maxToolPayloadBytes` as JSON. Default: undefined. */
  readonly input?: unknown;
  /** Limits of this run, over the client's, and those over the brokers'. One above the brokers' `maxLimits` is refused as INVALID_ARGUMENT. */
  readonly limits?: SessionLimitOptions | undefined;
  /** Ends the run as CANCELLED when it is aborted. */
  readonly signal?: AbortSignal | undefined;
  /** On whose behalf: 1 to 256 characters. Isolates are kept per tenant and never shared between tenants, and brokers may limit what a tenant gets. Default: one tenant for all who name none, which limits know as `'default'`. */
  readonly tenant?: string | undefined;
  /** The only tools that this script may call, by name. Default: all. */
  readonly tools?: readonly string[] | undefined;
  /** What routing rules match, as a session's labels. Default: none. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** How far it is kept apart from other runs. Default: the client's, else the brokers'. */
  readonly isolation?: Isolation | undefined;
  /** Called with the events of the execution, in order, while it happens; at most once each, and what is lost on the way is not sent again. */
  readonly onEvent?: ((event: ExecutionEvent) => void) | undefined;
  /** Keep what the script writes, passes to tools and returns out of its events, as a session's. Default false. */
  readonly redactEvents?: boolean | undefined;
  /** Seeds `Math.random` in the script. Default: a random seed. */
  readonly seed?: string | number | undefined;
}

/** From where the events of a session are read, and how long. */
export interface EventsOptions {
  /** The first event wanted; at least 1. TRUNCATED, with `details.firstSeq`, if it is no longer kept; `'first'`: the oldest that is kept. Default: the next one. */
  readonly fromSeq?: number | 'first' | undefined;
  /** Ends the iteration, without an error. */
  readonly signal?: AbortSignal | undefined;
}

/** Whose events are read, and which. */
export interface AllEventsOptions extends EventsOptions {
  /** Only this session's, with all that `session.events()` promises. Default: all sessions, live and at most once. */
  readonly sessionId?: string | undefined;
  /** Only these types; at least one. Default: all. */
  readonly types?: readonly string[] | undefined;
}

/** Where a session goes. */
export interface MigrateOptions {
  /** The broker that is to own it. Default: any other. */
  readonly to?: string | undefined;
}

const SPAWN_KEYS = [
  'id',
  'labels',
  'tools',
  'ttlMs',
  'limits',
  'isolation',
  'state',
  'durability',
  'maxConcurrentExecutions',
  'tenant',
  'redactEvents',
];
const EXECUTE_KEYS = ['input', 'commandId', 'issuedAt', 'limits', 'signal', 'seed'];
const RUN_KEYS = [
  'input',
  'limits',
  'signal',
  'tenant',
  'tools',
  'labels',
  'isolation',
  'onEvent',
  'redactEvents',
  'seed',
];
const DURABILITIES: readonly Durability[] = ['none', 'session'];
const MAX_TENANT_LENGTH = 256;
const MIN_TTL_MS = 1_000;
const MAX_TTL_MS = 30 * 86_400_000;
const MAX_CONCURRENT = 64;
const ID_RULE = 'must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -';

/** Everything of a new session but its names. */
export type SpawnRequest = Omit<CreateSession, 'session' | 'creation'>;

/** Throws INVALID_ARGUMENT naming the key. */
export function resolveSpawn(options: SpawnOptions, defaults: ClientDefaults): SpawnRequest {
  checkKeys(options, SPAWN_KEYS, 'options');
  if (options.id !== undefined) checkId(options.id, 'options.id');
  const limits = mergeSessionLimits(options.limits, defaults.limits, 'options.limits');
  const durability = oneOf(options.durability, DURABILITIES, 'options.durability') ?? 'session';
  const isolation = checkIsolation(options.isolation, 'options.isolation') ?? defaults.isolation;
  if (isolation === 'realm' && durability !== 'none') {
    throw invalidArgument(
      'options.isolation',
      "'realm' needs durability 'none': what scripts leave behind in a realm that they share is not replayed",
    );
  }
  const { maxConcurrentExecutions = 1, ttlMs, tenant } = options;
  checkTenant(tenant);
  if (ttlMs !== undefined && ttlMs !== 0)
    checkWhole(ttlMs, MIN_TTL_MS, MAX_TTL_MS, 'options.ttlMs', '0 (never), or ');
  checkWhole(maxConcurrentExecutions, 1, MAX_CONCURRENT, 'options.maxConcurrentExecutions');
  return {
    labels: labelsOf(options.labels, 'options.labels'),
    tools: toolsOf(options.tools),
    ttlMs,
    limits,
    isolation,
    durability,
    maxConcurrentExecutions,
    redactEvents: flagOf(options.redactEvents, 'options.redactEvents'),
    tenant,
    state: stateJson(options.state, surely(limits, defaults).maxStateBytes),
  };
}

/** What an execution is given, but its names and its seed. `session`: what surely holds in it. Throws INVALID_ARGUMENT naming the key. */
export function resolveExecute(
  code: string,
  options: ExecuteOptions,
  session: ResolvedSessionLimits,
): { readonly input: string; readonly limits: ResolvedSessionLimits } {
  if (typeof code !== 'string') throw invalidArgument('code', `must be a string, not ${typeof code}`);
  checkKeys(options, EXECUTE_KEYS, 'options');
  if (options.commandId !== undefined) checkId(options.commandId, 'options.commandId');
  const { issuedAt } = options;
  if (issuedAt !== undefined && (!Number.isSafeInteger(issuedAt) || issuedAt < 0))
    throw invalidArgument('options.issuedAt', 'must be a time in whole ms since the epoch');
  checkSignal(options.signal, 'options.signal');
  const limits = resolveSessionLimits(options.limits, session, 'options.limits');
  return { limits, input: inputJson(options.input, limits.maxToolPayloadBytes) };
}

/** Everything of a stateless run but its name, its seed and where its result goes. */
export type RunRequest = Omit<RunScript, 'run' | 'seed' | 'tell'>;

/** Throws INVALID_ARGUMENT naming the key. */
export function resolveRun(code: string, options: RunOptions, defaults: ClientDefaults): RunRequest {
  if (typeof code !== 'string') throw invalidArgument('code', `must be a string, not ${typeof code}`);
  checkKeys(options, RUN_KEYS, 'options');
  const { tenant = '', onEvent, signal } = options;
  checkTenant(options.tenant);
  if (onEvent !== undefined && typeof onEvent !== 'function')
    throw invalidArgument('options.onEvent', 'must be a function');
  checkSignal(signal, 'options.signal');
  const limits = mergeSessionLimits(options.limits, defaults.limits, 'options.limits');
  return {
    source: code,
    input: inputJson(options.input, surely(limits, defaults).maxToolPayloadBytes),
    limits,
    isolation: checkIsolation(options.isolation, 'options.isolation') ?? defaults.isolation,
    tenant,
    tools: toolsOf(options.tools),
    labels: labelsOf(options.labels, 'options.labels'),
    events: onEvent !== undefined,
    redactEvents: flagOf(options.redactEvents, 'options.redactEvents'),
  };
}

/** Throws INVALID_ARGUMENT naming the key. */
export function checkEvents(options: EventsOptions): void {
  checkKeys(options, ['fromSeq', 'signal'], 'options');
  checkFrom(options);
}

/** Throws INVALID_ARGUMENT naming the key. */
export function checkAllEvents(options: AllEventsOptions): void {
  checkKeys(options, ['sessionId', 'types', 'fromSeq', 'signal'], 'options');
  const { sessionId, types, fromSeq } = options;
  if (sessionId !== undefined) checkId(sessionId, 'options.sessionId');
  else if (fromSeq !== undefined)
    throw invalidArgument('options.fromSeq', 'needs a sessionId: events are numbered per session');
  checkFrom(options);
  if (types === undefined) return;
  if (!Array.isArray(types) || types.length === 0)
    throw invalidArgument('options.types', 'must be an array of event types');
  for (const [index, type] of types.entries()) checkId(type, `options.types[${index}]`);
}

/** Throws INVALID_ARGUMENT naming the key. */
export function checkMigrate(options: MigrateOptions): void {
  checkKeys(options, ['to'], 'options');
  if (options.to !== undefined) checkId(options.to, 'options.to');
}

/** Throws INVALID_ARGUMENT naming `key`, unless it may be part of a subject. */
export function checkId(id: unknown, key: string): void {
  if (typeof id !== 'string' || !ID.test(id)) throw invalidArgument(key, ID_RULE);
}

function checkTenant(tenant: unknown): void {
  if (tenant === undefined) return;
  if (typeof tenant !== 'string' || tenant === '' || tenant.length > MAX_TENANT_LENGTH)
    throw invalidArgument('options.tenant', `must be a string of 1 to ${MAX_TENANT_LENGTH} characters`);
}

function checkFrom({ fromSeq, signal }: EventsOptions): void {
  if (fromSeq !== undefined && fromSeq !== 'first')
    checkWhole(fromSeq, 1, Number.MAX_SAFE_INTEGER, 'options.fromSeq', "'first', or ");
  checkSignal(signal, 'options.signal');
}

function checkWhole(value: unknown, min: number, max: number, key: string, or = ''): void {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
    throw invalidArgument(key, `must be ${or}a whole number from ${min} to ${max}, not ${String(value)}`);
}

/** Undefined for false, which is what it is where nothing is said. */
function flagOf(value: boolean | undefined, key: string): true | undefined {
  if (value !== undefined && typeof value !== 'boolean') throw invalidArgument(key, 'must be true or false');
  return value === true ? true : undefined;
}

function toolsOf(tools: readonly string[] | undefined): readonly string[] | undefined {
  if (tools === undefined) return undefined;
  if (!Array.isArray(tools)) throw invalidArgument('options.tools', 'must be an array of tool names');
  const names = tools.map((name: string, index) => {
    const canonical = canonicalToolName(name);
    if (canonical === undefined) throw invalidArgument(`options.tools[${index}]`, NAME_RULE);
    return canonical;
  });
  return [...new Set(names)];
}

function stateJson(state: unknown, maxBytes: number): string {
  if (state === undefined) return '{}';
  if (!isRecord(state)) throw invalidArgument('options.state', 'must be a JSON object');
  const json = jsonOf(state, 'options.state');
  if (!json.startsWith('{')) throw invalidArgument('options.state', 'must be a JSON object');
  if (Buffer.byteLength(json) > maxBytes)
    throw invalidArgument('options.state', `is larger than maxStateBytes (${maxBytes})`);
  return json;
}
