import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { toolDeclarations } from '../../src/tools/declarations.ts';
import { defineTool, type StandardSchemaV1, type Tool } from '../../src/tools/define.ts';

const handler = () => null as never;
const TSC = fileURLToPath(import.meta.resolve('typescript/package.json')).replace('package.json', 'bin/tsc');

/** What the compiler says of a source text: nothing, or its complaints. */
async function compile(source: string): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'declarations-'));
  const file = path.join(folder, 'script.ts');
  const flags = ['--noEmit', '--strict', '--target', 'esnext', '--types', '', '--pretty', 'false'];
  try {
    await writeFile(file, source);
    return await new Promise((resolve) => {
      execFile(process.execPath, [TSC, ...flags, file], { cwd: folder }, (error, stdout, stderr) => {
        resolve(error === null ? '' : `${stdout}${stderr}` || error.message);
      });
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

function jsonSchemaTool(name: string, schema: Record<string, unknown>): Tool {
  const jsonSchema = { input: () => schema, output: () => schema };
  const validate = (value: unknown) => ({ value });
  const input: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate, jsonSchema } };
  return defineTool({ name, input, output: input, handler });
}

const getUser = defineTool({
  name: 'users:get',
  description: 'Finds a user.',
  input: z.object({ id: z.number().describe('Who.'), fields: z.array(z.string()).default([]) }),
  output: z.object({ name: z.string(), age: z.number().default(0) }),
  handler,
});

describe('toolDeclarations', () => {
  it('prints both ways to call a tool, with its comment', () => {
    expect(toolDeclarations([getUser])).toBe(`/** Finds a user. */
declare function callTool(name: "users:get", args: {
  /** Who. */
  id: number;
  fields?: string[];
}): Promise<{ name: string; age: number }>;
declare const tools: {
  users: {
    /** Finds a user. */
    get(args: {
      /** Who. */
      id: number;
      fields?: string[];
    }): Promise<{ name: string; age: number }>;
  };
};
`);
  });

  it('prints unknown for what has no JSON Schema, and a group that is a tool as a call signature', () => {
    const bare: StandardSchemaV1 = {
      '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value }) },
    };
    const tools = [
      defineTool({ name: 'jobs', input: bare, output: z.date(), handler }),
      defineTool({ name: 'jobs.run-all', handler }),
      defineTool({ name: 'jobs.new', input: z.string(), handler }),
    ];
    expect(
      toolDeclarations(tools),
    ).toBe(`declare function callTool(name: "jobs", args: unknown): Promise<unknown>;
declare function callTool(name: "jobs.run-all", args?: unknown): Promise<unknown>;
declare function callTool(name: "jobs.new", args: string): Promise<unknown>;
declare const tools: {
  jobs: {
    (args: unknown): Promise<unknown>;
    "run-all"(args?: unknown): Promise<unknown>;
    "new"(args: string): Promise<unknown>;
  };
};
`);
  });

  it('is empty without tools', () => {
    expect(toolDeclarations([])).toBe('');
  });

  it('refuses two tools of one name', () => {
    const twin = defineTool({ name: 'users.get', handler });
    expect(() => toolDeclarations([getUser, twin])).toThrow('"users.get" and "users:get"');
  });

  it('compiles, and types the calls that a script makes', async () => {
    const Tree = z.object({
      label: z.string(),
      get children() {
        return z.array(Tree);
      },
    });
    const Money = z.object({ cents: z.int() }).meta({ id: 'Money' });
    const tools = [
      getUser,
      defineTool({ name: 'users', description: 'All */ of them.\n/* really', handler }),
      defineTool({ name: 'tree.grow', input: Tree, output: Tree, handler }),
      defineTool({ name: 'pay', input: z.object({ from: Money, to: Money }), output: Money, handler }),
      defineTool({ name: '1:new.constructor', input: z.tuple([z.string(), z.number().optional()]), handler }),
      defineTool({ name: '__proto__', input: z.record(z.string(), z.enum(['a', '\u2028"'])), handler }),
      jsonSchemaTool('iterator', {
        $ref: '#/$defs/a',
        $defs: { a: { type: 'array', items: { $ref: '#' } } },
      }),
      jsonSchemaTool('-', {
        properties: { a: { type: 'string' } },
        additionalProperties: { type: 'number' },
      }),
      jsonSchemaTool('knot', {
        properties: { a: { $ref: '#/$defs/a' } },
        $defs: {
          a: { anyOf: [{ properties: { b: { $ref: '#/$defs/b' } } }, { $ref: '#/$defs/b' }] },
          b: { oneOf: [{ $ref: '#/$defs/a' }, { allOf: [{ $ref: '#/$defs/b' }, { type: 'string' }] }] },
        },
      }),
    ];
    const script = `
async function script(): Promise<string> {
  const user = await callTool("users:get", { id: 7 });
  const same = await tools.users.get({ id: 7, fields: ["name"] });
  const everyone: unknown = await tools.users();
  const grown = await tools.tree.grow({ label: "a", children: [{ label: "b", children: [] }] });
  const paid: number = (await tools.pay({ from: { cents: 1 }, to: { cents: 2 } })).cents;
  await tools["1"]["new"].constructor(["a"]);
  await tools["-"]({ a: "x", b: 7 });
  // @ts-expect-error the id is a number
  await tools.users.get({ id: "7" });
  // @ts-expect-error there is no such tool
  await callTool("users:put", { id: 7 });
  // @ts-expect-error the children are trees
  await callTool("tree.grow", { label: "a", children: ["b"] });
  return user.name + same.age.toFixed() + grown.children[0]?.children[0]?.label + paid + everyone;
}
void script;
`;
    expect(await compile(toolDeclarations(tools) + script)).toBe('');
  });

  it('is checked by a compiler that does complain', async () => {
    expect(await compile(`${toolDeclarations([getUser])}void tools.users.put();\n`)).toContain('put');
  });
});
