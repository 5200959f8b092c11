/**
 * What a tool is: a host function that scripts may call, with its name, its schemas and its effect.
 *
 * A definition is checked once, here, so that nothing on the path of a call has to doubt it. Schemas are
 * taken by the vendor-neutral Standard Schema interface; no schema library is imported.
 */
import { invalidArgument } from '../errors.ts';

/** A schema of any library that implements Standard Schema, version 1 (https://standardschema.dev). */
export interface StandardSchemaV1<Input = unknown, Output = Input> {
  readonly '~standard': StandardSchemaProps<Input, Output>;
}

/** The part of a schema that the standard fixes. `jsonSchema` is the companion standard and may be absent. */
export interface StandardSchemaProps<Input, Output> {
  readonly version: 1;
  readonly vendor: string;
  readonly validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>;
  /** Exists for type inference only; never a value. */
  readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  readonly jsonSchema?: StandardJsonSchema | undefined;
}

/** Both sides of a schema as JSON Schema. Either may throw if the schema cannot be said in it. */
export interface StandardJsonSchema {
  readonly input: (options: { readonly target: 'draft-2020-12' }) => Record<string, unknown>;
  readonly output: (options: { readonly target: 'draft-2020-12' }) => Record<string, unknown>;
}

/** A validation's end: a value, or the issues that refused it. */
export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly StandardIssue[] };

/** One thing that is wrong with a value, and where. */
export interface StandardIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** The type that a schema accepts. */
export type SchemaInput<S extends StandardSchemaV1> = NonNullable<S['~standard']['types']>['input'];

/** The type that a schema hands on. */
export type SchemaOutput<S extends StandardSchemaV1> = NonNullable<S['~standard']['types']>['output'];

/**
 * What a tool does to the world, which decides what happens to a call whose end is in doubt.
 *
 * - `read`: nothing; it may be called again.
 * - `idempotent`: it may be called again with the same `ctx.idempotencyKey`.
 * - `unsafe`: it is never called again for the same call.
 */
export type ToolEffect = 'read' | 'idempotent' | 'unsafe';

/** What a handler knows about the call that it serves. */
export interface ToolContext {
  /** The execution that called. */
  readonly executionId: string;
  /** Which call of that execution this is. */
  readonly callIndex: number;
  /** The same for every attempt at this call, and for no other call. */
  readonly idempotencyKey: string;
  /** Aborted when nobody waits for the result any more: the execution ended, or `timeoutMs` passed. */
  readonly signal: AbortSignal;
  /** The tenant on whose behalf the script runs, as `run` or `spawnSession` named it; undefined where nobody was named. */
  readonly tenant: string | undefined;
  /** The session whose script called; undefined in a run that has none. */
  readonly sessionId?: string | undefined;
  /** The fencing token of the session's owner when it sent the call: it rises with every owner. Undefined without a session. */
  readonly epoch?: number | undefined;
  /**
   * Until when that owner was surely the only one, in ms since the epoch by this machine's clock. Something that
   * must not happen under two owners is to be refused afterwards. Undefined without a session.
   */
  readonly notAfter?: number | undefined;
}

/** A call whose end nobody knows: its provider was lost. */
export interface CallInDoubt {
  /** The `ctx.idempotencyKey` that its handler was given, if it was called. */
  readonly key: string;
  /** What the script sent, as JSON data that no schema has checked. */
  readonly args: unknown;
}

/**
 * What became of a call in doubt.
 *
 * - `completed`: it took effect, and this is its result.
 * - `not_started`: it took no effect and never will.
 * - `unknown`: nobody can tell. The script gets OUTCOME_UNKNOWN.
 */
export type Reconciled =
  | { readonly status: 'completed'; readonly value: unknown }
  | { readonly status: 'not_started' }
  | { readonly status: 'unknown' };

/** Finds out what became of a call. Anything but a {@link Reconciled}, and whatever it throws, counts as `unknown`. */
export type Reconcile = (call: CallInDoubt, ctx: ToolContext) => Reconciled | PromiseLike<Reconciled>;

/** What {@link defineTool} takes. */
export interface ToolDefinition<I extends StandardSchemaV1, O extends StandardSchemaV1> {
  /** Segments of `[A-Za-z0-9_-]` joined by `.` or `:`; 1 to 128 characters. `users:get` and `users.get` are the same tool. */
  readonly name: string;
  /** For the people and models that write scripts. Default: none. */
  readonly description?: string | undefined;
  /** What the arguments must be. Default: any JSON value, or nothing. A script that breaks it is told what and where. */
  readonly input?: I | undefined;
  /** What the result must be, before it becomes JSON. Default: anything. A script is told where it was broken, not by which value. */
  readonly output?: O | undefined;
  /** Default `unsafe`. */
  readonly effect?: ToolEffect | undefined;
  /** Longest time for one call, asynchronous validation included, in ms. Default: as long as the execution may last; 1 to 3,600,000. At the limit the call fails as TOOL_TIMEOUT and `ctx.signal` is aborted. */
  readonly timeoutMs?: number | undefined;
  /** Does the work. What it returns becomes JSON; what it throws becomes an error in the script, by name and message alone. */
  readonly handler: (args: SchemaOutput<I>, ctx: ToolContext) => SchemaInput<O> | PromiseLike<SchemaInput<O>>;
  /**
   * Asked what became of a call whose provider was lost, perhaps more than once and in another process than the
   * call's. A provider that seems lost may be cut off and still run the handler: who answers `not_started` must know
   * that it will take no effect any more, say by a note where the handler looks first. Bounded by `timeoutMs` like a call; a `completed` value must pass `output`.
   * For effect `unsafe` only: calls of the others are repeated. Default: such a call ends as OUTCOME_UNKNOWN.
   */
  readonly reconcile?: Reconcile | undefined;
}

/** A checked, frozen tool. Made by {@link defineTool}. */
export interface Tool {
  /** The name as it was defined. */
  readonly name: string;
  /** The name with its segments joined by `.`: what identifies the tool. */
  readonly canonicalName: string;
  readonly description: string | undefined;
  readonly input: StandardSchemaV1 | undefined;
  readonly output: StandardSchemaV1 | undefined;
  readonly effect: ToolEffect;
  readonly timeoutMs: number | undefined;
  /** Takes only what `input` handed on. */
  readonly handler: (args: unknown, ctx: ToolContext) => unknown;
  readonly reconcile?: Reconcile | undefined;
}

const EFFECTS: readonly ToolEffect[] = ['read', 'idempotent', 'unsafe'];
const KEYS = ['name', 'description', 'input', 'output', 'effect', 'timeoutMs', 'handler', 'reconcile'];
const MAX_TIMEOUT_MS = 3_600_000;
const MAX_NAME_LENGTH = 128;
// The two classes have no character in common, so matching takes linear time.
const NAME = /^[\w-]+(?:[.:][\w-]+)*$/;

/** What a name must look like, for messages. */
export const NAME_RULE = `must be segments of A-Z, a-z, 0-9, _ and - joined by . or :, at most ${MAX_NAME_LENGTH} characters`;

/** The one spelling of a tool's name (`users:get` becomes `users.get`), or undefined if it is not a tool name. */
export function canonicalToolName(name: string): string | undefined {
  // Names come from untrusted code: an object with a toString is not a name.
  if (typeof name !== 'string' || name.length > MAX_NAME_LENGTH || !NAME.test(name)) return undefined;
  return name.includes(':') ? name.replaceAll(':', '.') : name;
}

/**
 * Define a tool. The handler's arguments and result are typed by the schemas and checked by them on the host.
 *
 * @throws EnclaveError INVALID_ARGUMENT, naming the key that is wrong.
 */
export function defineTool<
  I extends StandardSchemaV1 = StandardSchemaV1,
  O extends StandardSchemaV1 = StandardSchemaV1,
>(definition: ToolDefinition<I, O>): Tool {
  if (typeof definition !== 'object' || definition === null || Array.isArray(definition)) {
    throw invalidArgument('tool', 'must be an object');
  }
  const { name, description, input, output, effect, timeoutMs, handler, reconcile } = definition;
  const canonicalName = canonicalToolName(name);
  if (canonicalName === undefined) {
    throw invalidArgument('tool.name', `${NAME_RULE}, not ${quote(name)}`);
  }
  const refuse = (key: string, rule: string) => invalidArgument(`tool.${key}`, `${rule} (tool "${name}")`);
  for (const key of Object.keys(definition)) {
    if (!KEYS.includes(key)) throw refuse(key, `unknown key; known ones are ${KEYS.join(', ')}`);
  }
  if (description !== undefined && typeof description !== 'string') {
    throw refuse('description', 'must be a string');
  }
  for (const [key, schema] of Object.entries({ input, output })) {
    if (schema !== undefined && !isSchema(schema)) {
      throw refuse(key, "must be a Standard Schema (an object with '~standard'.validate)");
    }
  }
  if (effect !== undefined && !EFFECTS.includes(effect)) {
    throw refuse('effect', `must be one of ${EFFECTS.join(', ')}, not ${quote(effect)}`);
  }
  if (timeoutMs !== undefined && !isTimeout(timeoutMs)) {
    throw refuse(
      'timeoutMs',
      `must be a whole number from 1 to ${MAX_TIMEOUT_MS} ms, not ${quote(timeoutMs)}`,
    );
  }
  if (typeof handler !== 'function') throw refuse('handler', 'must be a function');
  if (reconcile !== undefined && typeof reconcile !== 'function') {
    throw refuse('reconcile', 'must be a function');
  }
  if (reconcile !== undefined && (effect ?? 'unsafe') !== 'unsafe') {
    throw refuse('reconcile', `is for effect unsafe: a call of effect ${effect} is repeated instead`);
  }
  return Object.freeze({
    name,
    canonicalName,
    description,
    input,
    output,
    effect: effect ?? 'unsafe',
    timeoutMs,
    // The dispatcher passes only what `input` handed on, which is what the handler's own type asks for.
    handler: handler as Tool['handler'],
    reconcile,
  });
}

/** Whether a value is what {@link defineTool} returns, rather than a definition that nobody checked. */
export function isTool(value: unknown): value is Tool {
  if (typeof value !== 'object' || value === null || !Object.isFrozen(value)) return false;
  const tool = value as Partial<Tool>;
  return (
    typeof tool.name === 'string' &&
    tool.canonicalName === canonicalToolName(tool.name) &&
    typeof tool.handler === 'function'
  );
}

function isSchema(value: unknown): value is StandardSchemaV1 {
  // Some libraries make schemas that are functions.
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return false;
  const standard: unknown = (value as { '~standard'?: unknown })['~standard'];
  return (
    typeof standard === 'object' &&
    standard !== null &&
    typeof (standard as { validate?: unknown }).validate === 'function'
  );
}

function isTimeout(value: unknown): boolean {
  return Number.isInteger(value) && Number(value) >= 1 && Number(value) <= MAX_TIMEOUT_MS;
}

/** A value for a message: strings in quotes and cut short, objects by their type only. */
function quote(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, MAX_NAME_LENGTH));
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}
