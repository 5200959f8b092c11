/**
 * One tool call, from the guest's JSON to the JSON that answers it.
 *
 * Every call of every script comes through here, so a call whose schemas and handler are synchronous is
 * answered without a timer, a listener or an inner promise. Both sides are mistrusted: the arguments were
 * written by untrusted code, and whatever the host's handler throws is reduced to a name and a message
 * before a script may see it.
 */
import { homedir } from 'node:os';
import type { StandardIssue, StandardResult, StandardSchemaV1, ToolContext } from './define.ts';
import type { ResolvedTool } from './registry.ts';

/** How a call failed, for the script and for the host's books. */
export type ToolErrorCode =
  | 'TOOL_ERROR'
  | 'INVALID_ARGUMENT'
  | 'SERIALIZATION_ERROR'
  | 'TOOL_TIMEOUT'
  | 'CANCELLED';

/** A call's end, as data. `json` is the result's text, or `''` where there is no value (undefined). */
export type ToolReply =
  | { readonly ok: true; readonly json: string }
  | { readonly ok: false; readonly code: ToolErrorCode; readonly name: string; readonly message: string };

/** What is known about a call before it has a signal of its own. */
export type ToolCall = Omit<ToolContext, 'signal'>;

/** What bounds a call. */
export interface ToolCallOptions {
  /** Longest arguments and longest result, as JSON, in bytes of UTF-8. Over it: SERIALIZATION_ERROR. */
  readonly maxPayloadBytes: number;
  /** The execution's signal. Its abort ends the call as CANCELLED at once and reaches the handler as `ctx.signal`. */
  readonly signal: AbortSignal;
  /** Calls `act` after so many ms and returns what calls it off. Default: the platform's timer. */
  readonly after?: ((ms: number, act: () => void) => () => void) | undefined;
}

/** A call under way. Once `over`, its reply is settled and nothing more may be started for it. */
interface Call {
  readonly tool: ResolvedTool;
  readonly ctx: ToolContext;
  readonly maxPayloadBytes: number;
  over: boolean;
}

/** Folders whose names no script has to know: where the host runs and where its user lives. */
const HOST_FOLDERS = [process.cwd(), homedir()]
  .filter((folder) => folder.length > 1)
  .map((folder) => `${folder}/`);

const MAX_MESSAGE_CHARS = 2_000;
const MAX_NAME_CHARS = 100;
const MAX_ISSUES = 5;
const MAX_PATH_CHARS = 200;

/**
 * Call a tool. Never throws and never rejects: every end is a {@link ToolReply}.
 *
 * - INVALID_ARGUMENT: the arguments are not JSON, or the input schema refused them; the handler did not run.
 * - TOOL_ERROR: the handler threw, or the output schema refused its result.
 * - SERIALIZATION_ERROR: a payload is over `maxPayloadBytes` (if it is the arguments, the handler did not run)
 *   or the result cannot be written as JSON.
 * - TOOL_TIMEOUT, CANCELLED: settled at once, even if the handler ignores `ctx.signal`; its late end is dropped.
 */
export function callTool(
  tool: ResolvedTool,
  argsJson: string,
  call: ToolCall,
  options: ToolCallOptions,
): Promise<ToolReply> {
  if (options.signal.aborted) return Promise.resolve(cancelled(tool));
  const controller = tool.timeoutMs === undefined ? undefined : new AbortController();
  const { executionId, callIndex, idempotencyKey, tenant, sessionId, epoch, notAfter } = call;
  const signal = controller?.signal ?? options.signal;
  const state: Call = {
    tool,
    ctx: { executionId, callIndex, idempotencyKey, tenant, sessionId, epoch, notAfter, signal },
    maxPayloadBytes: options.maxPayloadBytes,
    over: false,
  };
  const reply = perform(state, argsJson);
  return reply instanceof Promise ? bounded(state, reply, options, controller) : Promise.resolve(reply);
}

/** The reply, or TOOL_TIMEOUT, or CANCELLED, whichever comes first. `reply` itself never rejects. */
function bounded(
  call: Call,
  reply: Promise<ToolReply>,
  { signal, after = platformTimer }: ToolCallOptions,
  controller: AbortController | undefined,
): Promise<ToolReply> {
  const { tool } = call;
  return new Promise((resolve) => {
    let callOff: (() => void) | undefined;
    const settle = (end: ToolReply): void => {
      if (call.over) return;
      call.over = true;
      callOff?.();
      signal.removeEventListener('abort', cancel);
      resolve(end);
    };
    const cancel = (): void => {
      settle(cancelled(tool));
      controller?.abort(signal.reason);
    };
    if (signal.aborted) return cancel();
    signal.addEventListener('abort', cancel, { once: true });
    if (tool.timeoutMs !== undefined) {
      callOff = after(tool.timeoutMs, () => {
        const message = `tool "${tool.name}" gave no answer within ${tool.timeoutMs} ms`;
        settle(failure('TOOL_TIMEOUT', message));
        controller?.abort(new DOMException(message, 'TimeoutError'));
      });
    }
    void reply.then(settle);
  });
}

function platformTimer(ms: number, act: () => void): () => void {
  const timer = setTimeout(act, ms);
  return () => clearTimeout(timer);
}

/** Parse, check, run, check, write: synchronous for as long as every step is. Neither throws nor rejects. */
function perform(call: Call, argsJson: string): ToolReply | Promise<ToolReply> {
  const { tool } = call;
  const tooLarge = overCap(call, argsJson, 'arguments');
  if (tooLarge !== undefined) return tooLarge;
  let args: unknown;
  try {
    // JSON.parse makes `__proto__` an own property like any other, and nothing here copies it anywhere.
    args = argsJson === '' ? undefined : JSON.parse(argsJson);
  } catch {
    return failure('INVALID_ARGUMENT', `the arguments of tool "${tool.name}" are not JSON`);
  }
  if (tool.input === undefined) return invoke(call, args);
  const proceed = (result: StandardResult<unknown>): ToolReply | Promise<ToolReply> => {
    if (result.issues) return refusedArguments(tool, result.issues);
    return invoke(call, result.value);
  };
  const result = validate(tool.input, args);
  return result instanceof Promise ? result.then(proceed) : proceed(result);
}

function invoke(call: Call, args: unknown): ToolReply | Promise<ToolReply> {
  // An asynchronous check may have outlived the call: then the handler must not start.
  if (call.over) return cancelled(call.tool);
  try {
    const value = call.tool.handler(args, call.ctx);
    if (!isThenable(value)) return finish(call, value);
    return Promise.resolve(value).then((settled) => finish(call, settled), thrown);
  } catch (error) {
    return thrown(error);
  }
}

function finish(call: Call, value: unknown): ToolReply | Promise<ToolReply> {
  const { tool } = call;
  if (call.over) return cancelled(tool);
  if (tool.output === undefined) return serialise(call, value);
  const proceed = (result: StandardResult<unknown>): ToolReply => {
    if (result.issues) return refusedResult(tool, result.issues);
    return serialise(call, result.value);
  };
  const result = validate(tool.output, value);
  return result instanceof Promise ? result.then(proceed) : proceed(result);
}

/** Run a schema. One that throws or rejects has refused the value, without saying why. */
function validate(
  schema: StandardSchemaV1,
  value: unknown,
): StandardResult<unknown> | Promise<StandardResult<unknown>> {
  try {
    const result: unknown = schema['~standard'].validate(value);
    return isThenable(result)
      ? Promise.resolve(result).then(standardResult, unchecked)
      : standardResult(result);
  } catch {
    return unchecked();
  }
}

function standardResult(result: unknown): StandardResult<unknown> {
  return typeof result === 'object' && result !== null ? (result as StandardResult<unknown>) : unchecked();
}

function unchecked(): StandardResult<unknown> {
  return { issues: [{ message: 'could not be checked' }] };
}

function serialise(call: Call, value: unknown): ToolReply {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    // The first line says why; the others draw the cycle, with the host's class names.
    const [why] = describe(error).message.split('\n', 1);
    return failure(
      'SERIALIZATION_ERROR',
      `the result of tool "${call.tool.name}" cannot be written as JSON: ${why}`,
    );
  }
  if (json === undefined) {
    if (value === undefined) return { ok: true, json: '' };
    return failure(
      'SERIALIZATION_ERROR',
      `the result of tool "${call.tool.name}" is a ${typeof value}, which is not JSON`,
    );
  }
  return overCap(call, json, 'result') ?? { ok: true, json };
}

function overCap(call: Call, json: string, what: 'arguments' | 'result'): ToolReply | undefined {
  const { tool, maxPayloadBytes } = call;
  // A UTF-16 unit takes one to three bytes, so most texts need not be counted.
  if (json.length * 3 <= maxPayloadBytes) return undefined;
  const bytes = Buffer.byteLength(json);
  if (bytes <= maxPayloadBytes) return undefined;
  const verb = what === 'result' ? 'is' : 'are';
  return failure(
    'SERIALIZATION_ERROR',
    `the ${what} of tool "${tool.name}" ${verb} ${bytes} bytes of JSON, over the limit of ${maxPayloadBytes}`,
  );
}

function refusedArguments(tool: ResolvedTool, issues: readonly StandardIssue[]): ToolReply {
  const list = listed(issues, (issue) => `${pathOf(issue)}: ${textAt(issue, 'message') ?? 'invalid'}`);
  return failure('INVALID_ARGUMENT', `invalid arguments for tool "${tool.name}": ${list}`);
}

/** Names the places only: some libraries quote the refused value, and a result is not yet the script's to see. */
function refusedResult(tool: ResolvedTool, issues: readonly StandardIssue[]): ToolReply {
  const list = listed(issues, pathOf);
  return failure('TOOL_ERROR', `tool "${tool.name}" returned a result that its schema refuses, at ${list}`);
}

function listed(issues: readonly StandardIssue[], print: (issue: StandardIssue) => string): string {
  try {
    const shown = issues.slice(0, MAX_ISSUES).map(print).join('; ');
    return issues.length > MAX_ISSUES ? `${shown}; and ${issues.length - MAX_ISSUES} more` : shown;
  } catch {
    return '(no details)';
  }
}

/** `items[0].id`; `(root)` for the value itself. */
function pathOf(issue: StandardIssue): string {
  let text = '';
  for (const segment of issue.path ?? []) {
    const key = typeof segment === 'object' ? segment.key : segment;
    if (typeof key === 'number') text += `[${key}]`;
    else text += text === '' ? String(key) : `.${String(key)}`;
    if (text.length > MAX_PATH_CHARS) break;
  }
  return text === '' ? '(root)' : cut(text, MAX_PATH_CHARS);
}

function cancelled(tool: ResolvedTool): ToolReply {
  return failure('CANCELLED', `the call of tool "${tool.name}" was cancelled`);
}

function thrown(error: unknown): ToolReply {
  const { name, message } = describe(error);
  return { ok: false, code: 'TOOL_ERROR', name, message: cut(message, MAX_MESSAGE_CHARS) };
}

function failure(code: ToolErrorCode, message: string): ToolReply {
  return { ok: false, code, name: 'EnclaveError', message: cut(message, MAX_MESSAGE_CHARS) };
}

/** What a thrown value says about itself. It may be anything, `null` and objects with evil getters included. */
function describe(value: unknown): { readonly name: string; readonly message: string } {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) {
    return { name: 'Error', message: String(value) };
  }
  return {
    name: cut(textAt(value, 'name') || 'Error', MAX_NAME_CHARS),
    message: withoutPaths(value, textAt(value, 'message') ?? 'the tool threw a value that is not an Error'),
  };
}

/** A message without the host's file names: those that a system error carries, and those below the host's own folders. */
function withoutPaths(error: object, message: string): string {
  let text = message;
  for (const key of ['path', 'dest'] as const) {
    const path = textAt(error, key);
    if (path !== undefined && path.length > 1) text = text.replaceAll(path, '[path]');
  }
  return text.replace(/(?:file:\/\/)?\/[^\s'"`:()]+/g, (path) =>
    path.includes('/node_modules/') || HOST_FOLDERS.some((folder) => path.includes(folder)) ? '[path]' : path,
  );
}

function textAt(value: object, key: 'name' | 'message' | 'path' | 'dest'): string | undefined {
  try {
    const text: unknown = (value as Record<string, unknown>)[key];
    return typeof text === 'string' ? text : undefined;
  } catch {
    return undefined;
  }
}

function cut(text: string, maxChars: number): string {
  return text.length <= maxChars ? text : `${text.slice(0, maxChars - 1)}…`;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    ((typeof value === 'object' && value !== null) || typeof value === 'function') &&
    typeof (value as { then?: unknown }).then === 'function'
  );
}
