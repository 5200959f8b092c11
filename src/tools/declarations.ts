/**
 * The tools of a host as TypeScript declarations, for the prompt of a model that writes scripts.
 *
 * A script may reach a tool in two ways, `callTool("users:get", args)` and `tools.users.get(args)`; both are
 * declared. Types are those that the script deals in: what an input schema accepts, what an output schema
 * hands on.
 */
import type { StandardSchemaV1, Tool } from './define.ts';
import { createToolRegistry } from './registry.ts';
import { createTypePrinter, docComment, indent, memberName, pascalCase, quoted } from './schema.ts';

/** A tool's printed parts, the same in both forms. */
interface Signature {
  readonly tool: Tool;
  readonly comment: string;
  /** The parameter that carries the arguments. */
  readonly parameter: string;
  readonly result: string;
}

/** A segment of the names: a tool, a group of tools, or both (`users` beside `users.get`). */
interface Branch {
  signature: Signature | undefined;
  readonly children: Map<string, Branch>;
}

/**
 * Print declarations for tools, in the order given, with their descriptions as JSDoc. The text compiles by
 * itself. A schema that offers no JSON Schema is printed as `unknown`; without tools the text is empty.
 *
 * @throws EnclaveError INVALID_ARGUMENT for what `createToolRegistry` refuses, such as two tools of one name.
 */
export function toolDeclarations(tools: readonly Tool[]): string {
  createToolRegistry({ tools });
  if (tools.length === 0) return '';
  const printer = createTypePrinter();
  const signatures = tools.map((tool): Signature => {
    // No name of the language's own library starts with Tool.
    const prefix = `Tool${pascalCase(tool.canonicalName)}`;
    return {
      tool,
      comment: docComment(tool.description),
      parameter:
        tool.input === undefined
          ? 'args?: unknown'
          : `args: ${printer.print(jsonSchema(tool.input, 'input'), `${prefix}Args`)}`,
      result: `Promise<${printer.print(jsonSchema(tool.output, 'output'), `${prefix}Result`)}>`,
    };
  });
  const blocks = [
    ...printer.aliases(),
    ...signatures.map(overload),
    `declare const tools: ${members(tree(signatures))};`,
  ];
  return `${blocks.join('\n')}\n`;
}

/** One side of a schema as JSON Schema, or undefined where its library cannot say it. */
export function jsonSchema(
  schema: StandardSchemaV1 | undefined,
  side: 'input' | 'output',
): Record<string, unknown> | undefined {
  try {
    return schema?.['~standard'].jsonSchema?.[side]({ target: 'draft-2020-12' });
  } catch {
    // The standard lets it throw, and a date or a transform has no JSON Schema.
    return undefined;
  }
}

function overload({ tool, comment, parameter, result }: Signature): string {
  return `${comment}declare function callTool(name: ${quoted(tool.name)}, ${parameter}): ${result};`;
}

function tree(signatures: readonly Signature[]): Branch {
  const root: Branch = { signature: undefined, children: new Map() };
  for (const signature of signatures) {
    let branch = root;
    for (const segment of signature.tool.canonicalName.split('.')) {
      let child = branch.children.get(segment);
      if (child === undefined)
        branch.children.set(segment, (child = { signature: undefined, children: new Map() }));
      branch = child;
    }
    branch.signature = signature;
  }
  return root;
}

/** The type of a group. A tool that is a group as well is its call signature. */
function members({ signature, children }: Branch): string {
  const own = signature === undefined ? [] : [callable('', signature)];
  const others = [...children].map(([segment, branch]) => member(memberName(segment), branch));
  return `{${[...own, ...others].map((text) => `\n  ${indent(text)};`).join('')}\n}`;
}

function member(name: string, branch: Branch): string {
  const { signature, children } = branch;
  if (signature !== undefined && children.size === 0) return callable(name, signature);
  return `${name}: ${members(branch)}`;
}

function callable(name: string, { comment, parameter, result }: Signature): string {
  return `${comment}${name}(${parameter}): ${result}`;
}
