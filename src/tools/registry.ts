/**
 * Which host code a name stands for.
 *
 * The table is a Map, so that `constructor` or `__proto__` are names like any other: unknown ones, unless
 * somebody defined them. Whether a given script may call a tool is a second question, and an allow-list
 * answers it by canonical name.
 */
import { invalidArgument } from '../errors.ts';
import { canonicalToolName, isTool, NAME_RULE, type Tool, type ToolContext } from './define.ts';

/**
 * Serves every tool that was not defined by itself. `name` is what the script wrote and `args` is JSON
 * data (or undefined) that nobody has checked. What it returns becomes JSON; a promise is awaited.
 */
export type ToolHandler = (name: string, args: unknown, ctx: ToolContext) => unknown;

/** What {@link createToolRegistry} takes. */
export interface ToolRegistryOptions {
  /** Tools made by `defineTool`. Default: none. */
  readonly tools?: readonly Tool[] | undefined;
  /** Serves every valid name that is not in `tools`. Default: such names are unknown tools. */
  readonly toolHandler?: ToolHandler | undefined;
}

/** A tool as a call needs it. One that a `toolHandler` serves has no description. */
export type ResolvedTool = Omit<Tool, 'description'> & Partial<Pick<Tool, 'description'>>;

/** The tools of one host. */
export interface ToolRegistry {
  /** The tool that a name stands for, in either spelling; undefined if it stands for none. */
  resolve(name: string): ResolvedTool | undefined;
  /** The canonical names of the defined tools, in the order of their definition. */
  names(): readonly string[];
}

/** Whether a script may call the tool of this canonical name. */
export type AllowList = (canonicalName: string) => boolean;

const KEYS = ['tools', 'toolHandler'];

/**
 * Build the table of tools.
 *
 * @throws EnclaveError INVALID_ARGUMENT for an unknown key, for something that `defineTool` did not make, and
 *   for two tools whose names differ only in `.` and `:` (the message names both).
 */
export function createToolRegistry(options: ToolRegistryOptions = {}): ToolRegistry {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalidArgument('options', 'must be an object');
  }
  for (const key of Object.keys(options)) {
    if (!KEYS.includes(key)) throw invalidArgument(key, `unknown key; known ones are ${KEYS.join(', ')}`);
  }
  const { tools = [], toolHandler } = options;
  if (toolHandler !== undefined && typeof toolHandler !== 'function') {
    throw invalidArgument('toolHandler', 'must be a function');
  }
  const table = toolTable(tools);
  const names = Object.freeze([...table.keys()]);
  return {
    resolve(name) {
      const canonicalName = canonicalToolName(name);
      if (canonicalName === undefined) return undefined;
      const tool = table.get(canonicalName);
      if (tool !== undefined || toolHandler === undefined) return tool;
      return handledTool(name, canonicalName, toolHandler);
    },
    names: () => names,
  };
}

/**
 * The predicate for a `tools: [names]` option. Undefined allows every tool; an empty list allows none. Without a
 * registry names may be unknown: the list was written for other hosts too.
 *
 * @throws EnclaveError INVALID_ARGUMENT for a name that is malformed, or that the registry does not know: a
 *   list with a slip of the pen must not silently allow less, or later more, than was meant.
 */
export function createAllowList(
  names: readonly string[] | undefined,
  registry: ToolRegistry | undefined,
): AllowList {
  if (names === undefined) return () => true;
  if (!Array.isArray(names)) throw invalidArgument('tools', 'must be an array of tool names');
  const allowed = new Set(names.map((name, index) => allowedName(name, `tools[${index}]`, registry)));
  return (canonicalName) => allowed.has(canonicalName);
}

function allowedName(name: string, key: string, registry: ToolRegistry | undefined): string {
  const canonicalName = canonicalToolName(name);
  if (canonicalName === undefined) throw invalidArgument(key, NAME_RULE);
  if (registry !== undefined && registry.resolve(name) === undefined)
    throw invalidArgument(key, `there is no tool "${name}"`);
  return canonicalName;
}

function toolTable(tools: readonly Tool[]): Map<string, Tool> {
  if (!Array.isArray(tools)) throw invalidArgument('tools', 'must be an array of tools');
  const table = new Map<string, Tool>();
  for (const [index, tool] of tools.entries()) {
    const key = `tools[${index}]`;
    if (!isTool(tool)) throw invalidArgument(key, 'must be a tool made by defineTool');
    const other = table.get(tool.canonicalName);
    if (other !== undefined) {
      throw invalidArgument(key, `"${tool.name}" and "${other.name}" are the same tool, defined twice`);
    }
    table.set(tool.canonicalName, tool);
  }
  return table;
}

function handledTool(name: string, canonicalName: string, toolHandler: ToolHandler): ResolvedTool {
  return {
    name,
    canonicalName,
    input: undefined,
    output: undefined,
    effect: 'unsafe',
    timeoutMs: undefined,
    handler: (args, ctx) => toolHandler(name, args, ctx),
  };
}
