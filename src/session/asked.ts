/**
 * What clients ask of brokers and owners, checked: a body that is wrong gets an answer that names the field, and
 * nothing of it reaches the machine or the store.
 *
 * Invariants:
 *  Q1  What is stored can be read again: ids are ids, JSON is JSON, numbers are numbers.
 *  Q2  A client says where its result is told, and can name nothing but a client's subject: the owner may publish
 *      what a client may not.
 *  Q3  A session's id cannot be the home of stateless runs.
 */
import { checkIsolation, oneOf } from '../arguments.ts';
import type { TraceHeaders } from '../bus/bus.ts';
import { EnclaveError, invalidArgument } from '../errors.ts';
import type { SessionLimitOptions } from '../options.ts';
import type {
  ActivateSession,
  AskSession,
  CreateSession,
  Durability,
  ListSessions,
  ListTools,
  ReadEvents,
  Reply,
  RunScript,
  SessionCommand,
  SessionLimits,
} from '../protocol.ts';
import type { Isolation } from '../sandbox/messages.ts';
import { ID, type Subjects } from '../subjects.ts';
import { canonicalToolName, NAME_RULE } from '../tools/define.ts';
import { type Allowance, allowanceOf, granted } from './allowance.ts';
import { type Fields, isCount, isJson, isJsonObject, isLabels, isRecord, isText } from './shapes.ts';

/** What homes of stateless runs begin with, and sessions may not. */
export const RUN_PREFIX = 'run-';
const ID_RULE = 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -';
const MAX_CREATION_LENGTH = 128;
const MAX_TOOLS = 10_000;
const MAX_TENANT_LENGTH = 256;
const MAX_CURSOR_LENGTH = 4_096;
const MAX_TTL_MS = 30 * 86_400_000;
const MAX_CONCURRENT = 64;
const DURABILITIES: readonly Durability[] = ['none', 'session'];

/** Answer a body that passes its check; else say what is wrong with it. */
export function checked<T>(
  check: (body: unknown) => T,
  answer: (asked: T, trace: TraceHeaders | undefined) => Promise<Reply<unknown>>,
): (body: unknown, trace: TraceHeaders | undefined) => Promise<Reply<unknown>> {
  return async (body, trace) => {
    const asked = attempt(() => check(body));
    return asked.ok ? answer(asked.value, trace) : asked;
  };
}

/** What the check makes of a body, or the answer to who sent it. */
export function attempt<T>(
  check: () => T,
): { readonly ok: true; readonly value: T } | (Reply<never> & { ok: false }) {
  try {
    return { ok: true, value: check() };
  } catch (error) {
    // Anything else is what JSON can do to a check that puts a value into its message.
    const known = error instanceof EnclaveError ? error : invalidArgument('body', 'cannot be read', error);
    const { code, message, key } = known;
    return {
      ok: false,
      error: { code, message, retryable: false, outcome: 'not_started', details: { key } },
      epoch: 0,
    };
  }
}

// ---- of any broker ---------------------------------------------------------------------------------------

/** What a broker adds to what it is asked. */
interface Granted {
  readonly limits: SessionLimits;
  readonly isolation: Isolation;
}
export type NewSession = Omit<CreateSession, keyof Granted> & Granted;
export type NewRun = Omit<RunScript, keyof Granted> & Granted;

/** Each of these throws INVALID_ARGUMENT naming the field. */
export function createOf(body: unknown, allowance = allowanceOf({})): NewSession {
  const asked = fields<CreateSession>(body);
  id(asked.session, 'session');
  // Q3
  must(!asked.session.startsWith(RUN_PREFIX), 'session', `must not begin with ${RUN_PREFIX}`);
  const { creation } = asked;
  must(
    isText(creation) && creation !== '' && creation.length <= MAX_CREATION_LENGTH,
    'creation',
    `must be 1 to ${MAX_CREATION_LENGTH} characters`,
  );
  must(isLabels(asked.labels), 'labels', 'must be at most 64 strings of at most 256 characters');
  toolNames(asked.tools);
  const { ttlMs = 0 } = asked;
  must(isCount(ttlMs) && ttlMs <= MAX_TTL_MS, 'ttlMs', `must be 0 to ${MAX_TTL_MS} ms`);
  const limits = limitsOf(asked.limits, allowance);
  const isolation = isolationOf(asked.isolation, allowance);
  given(oneOf(asked.durability as Durability | undefined, DURABILITIES, 'durability'), 'durability');
  must(
    isolation !== 'realm' || asked.durability === 'none',
    'options.isolation',
    "'realm' needs durability 'none': what scripts leave behind in a realm that they share is not replayed",
  );
  const { maxConcurrentExecutions: concurrent } = asked;
  must(
    isCount(concurrent) && concurrent >= 1 && concurrent <= MAX_CONCURRENT,
    'maxConcurrentExecutions',
    `must be 1 to ${MAX_CONCURRENT}`,
  );
  must(
    asked.tenant === undefined || (isText(asked.tenant) && asked.tenant.length <= MAX_TENANT_LENGTH),
    'tenant',
    `must be at most ${MAX_TENANT_LENGTH} characters`,
  );
  checkFlag(asked.redactEvents, 'redactEvents');
  must(isJsonObject(asked.state), 'state', 'must be JSON of an object');
  must(
    Buffer.byteLength(asked.state) <= limits.maxStateBytes,
    'state',
    `is larger than maxStateBytes (${limits.maxStateBytes})`,
  );
  return { ...(body as unknown as CreateSession), limits, isolation };
}

export function runOf(body: unknown, subjects: Subjects, allowance = allowanceOf({})): NewRun {
  const asked = fields<RunScript>(body);
  id(asked.run, 'run');
  // Its events are published under its name: it must not be that of a session.
  must(asked.run.startsWith(RUN_PREFIX), 'run', `must begin with ${RUN_PREFIX}`);
  must(isText(asked.source), 'source', 'must be a string');
  must(isJson(asked.input), 'input', "must be JSON, or ''");
  const limits = limitsOf(asked.limits, allowance);
  checkInput(asked.input, limits);
  checkSeed(asked.seed);
  const isolation = isolationOf(asked.isolation, allowance);
  must(
    isText(asked.tenant) && asked.tenant.length <= MAX_TENANT_LENGTH,
    'tenant',
    `must be at most ${MAX_TENANT_LENGTH} characters`,
  );
  toolNames(asked.tools);
  must(isLabels(asked.labels), 'labels', 'must be at most 64 strings of at most 256 characters');
  must(typeof asked.events === 'boolean', 'events', 'must be true or false');
  checkFlag(asked.redactEvents, 'redactEvents');
  checkTell(asked.tell, subjects);
  return { ...(body as unknown as RunScript), limits, isolation };
}

/** Also of `adopt`. */
export function activateOf(body: unknown): ActivateSession {
  const asked = fields<ActivateSession>(body);
  id(asked.session, 'session');
  must(isCount(asked.minEpoch), 'minEpoch', 'must be a whole number from 0');
  return body as ActivateSession;
}

export function askOf(body: unknown): AskSession {
  const asked = fields<AskSession>(body);
  id(asked.session, 'session');
  if (asked.execution !== undefined) id(asked.execution, 'execution');
  return body as AskSession;
}

export function readEventsOf(body: unknown): ReadEvents {
  const asked = fields<ReadEvents>(body);
  id(asked.session, 'session');
  checkPage(asked);
  return body as ReadEvents;
}

export function listSessionsOf(body: unknown): ListSessions {
  const { cursor, limit } = fields<ListSessions>(body);
  must(
    cursor === undefined || (isText(cursor) && cursor.length <= MAX_CURSOR_LENGTH),
    'cursor',
    'must be what the page before said',
  );
  if (limit !== undefined) must(isCount(limit), 'limit', 'must be a whole number from 0');
  return body as ListSessions;
}

export function listToolsOf(body: unknown): ListTools {
  const { after } = fields<ListTools>(body);
  must(after === undefined || isText(after), 'after', 'must be a string');
  return body as ListTools;
}

// ---- of an owner -----------------------------------------------------------------------------------------

export function commandOf(body: unknown, subjects: Subjects): SessionCommand {
  const asked = fields<SessionCommand>(body) as { readonly [field: string]: unknown };
  switch (asked.t) {
    case 'execute':
      id(asked.execution, 'commandId');
      must(isCount(asked.issuedAt), 'issuedAt', 'must be a time in whole ms since the epoch');
      must(isText(asked.source), 'source', 'must be a string');
      must(isJson(asked.input), 'input', "must be JSON, or ''");
      checkSeed(asked.seed);
      checkTell(asked.tell, subjects);
      break;
    case 'cancel':
      id(asked.execution, 'execution');
      must(isText(asked.reason), 'reason', 'must be a string');
      break;
    case 'result':
    case 'journal':
      id(asked.execution, 'execution');
      break;
    case 'events':
      checkPage(asked);
      break;
    case 'migrate':
      if (asked.to !== undefined) id(asked.to, 'to');
      if (asked.fromEpoch !== undefined)
        must(isCount(asked.fromEpoch), 'fromEpoch', 'must be a whole number from 0');
      break;
    case 'info':
    case 'hibernate':
    case 'close':
    case 'delete':
      break;
    default:
      throw invalidArgument('t', `There is no command "${String(asked.t).slice(0, 64)}"`);
  }
  return body as SessionCommand;
}

// ---- fields ----------------------------------------------------------------------------------------------

function fields<T>(body: unknown): Fields<T> {
  if (!isRecord(body)) throw invalidArgument('body', 'must be an object');
  return body as Fields<T>;
}

function must(holds: boolean, key: string, rule: string): asserts holds {
  if (!holds) throw invalidArgument(key, rule);
}

function id(value: unknown, key: string): asserts value is string {
  must(isText(value) && ID.test(value), key, ID_RULE);
}

function given(value: unknown, key: string): void {
  must(value !== undefined, key, 'must be given');
}

function limitsOf(limits: unknown, { limits: base, most }: Allowance): SessionLimits {
  must(isRecord(limits), 'limits', 'must be an object');
  return granted(limits as SessionLimitOptions, base, most, 'limits');
}

function isolationOf(isolation: unknown, allowance: Allowance): Isolation {
  return checkIsolation(isolation as Isolation | undefined, 'isolation') ?? allowance.isolation;
}

/** What clients cannot see where they do not know the limit. */
export function checkInput(input: string, { maxToolPayloadBytes }: SessionLimits): void {
  must(
    Buffer.byteLength(input) <= maxToolPayloadBytes,
    'options.input',
    `is larger than maxToolPayloadBytes (${maxToolPayloadBytes})`,
  );
}

function checkFlag(value: unknown, key: string): void {
  must(value === undefined || typeof value === 'boolean', key, 'must be true or false');
}

function toolNames(tools: unknown): void {
  if (tools === undefined) return;
  must(Array.isArray(tools) && tools.length <= MAX_TOOLS, 'tools', `must be at most ${MAX_TOOLS} names`);
  for (const [index, name] of tools.entries())
    must(canonicalToolName(name as string) === name, `tools[${index}]`, NAME_RULE);
}

function checkSeed(seed: unknown): void {
  must(
    Array.isArray(seed) && seed.length === 4 && seed.every((part) => Number.isFinite(part)),
    'seed',
    'must be 4 numbers',
  );
}

function checkPage({ fromSeq, limit }: { readonly fromSeq?: unknown; readonly limit?: unknown }): void {
  must(isCount(fromSeq), 'fromSeq', 'must be a whole number from 0');
  must(isCount(limit), 'limit', 'must be a whole number from 0');
}

/** Q2 */
function checkTell(tell: unknown, subjects: Subjects): void {
  const [before = '', after = ''] = subjects.clientResult('*').split('*');
  must(isText(tell), 'tell', 'must be a string');
  if (tell === '') return;
  const client = tell.slice(before.length, tell.length - after.length);
  must(
    tell.startsWith(before) && tell.endsWith(after) && ID.test(client),
    'tell',
    `must be ${subjects.clientResult('<id>')}`,
  );
}
