/**
 * The reference part of EVENTS.md, made from the schemas. A test holds the page to it; `node test/support/eventdocs.ts`
 * writes it anew.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { eventSchemas, type JsonSchema } from '../../src/index.ts';

const FILE = path.resolve(import.meta.dirname, '../../EVENTS.md');
const BEGIN = '<!-- reference: written by test/support/eventdocs.ts -->';
const END = '<!-- end of reference -->';

/** The page, and the part of it between the marks. Throws if they are not there. */
export function readPage(): {
  readonly before: string;
  readonly reference: string;
  readonly after: string;
  readonly text: string;
} {
  const text = readFileSync(FILE, 'utf8');
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`${FILE} has no part for the reference`);
  return {
    before: text.slice(0, begin),
    reference: text.slice(begin + BEGIN.length, end).trim(),
    after: text.slice(end),
    text,
  };
}

/** What stands between the marks. */
export function makeReference(): string {
  const { envelope, types } = eventSchemas;
  const sections = Object.entries(types).map(([type, schema]) => {
    const payload = schema.properties?.payload ?? {};
    return `### \`${type}\`\n\n${schema.description}\n\n${table(payload)}`;
  });
  return `### The envelope\n\n${table(envelope)}\n\n${sections.join('\n\n')}`;
}

function table(schema: JsonSchema): string {
  const rows = rowsOf(schema, '').map((cells) => `| ${cells.join(' | ')} |`);
  return ['| property | type | |', '| --- | --- | --- |', ...rows].join('\n');
}

function rowsOf({ properties = {}, required = [] }: JsonSchema, prefix: string): string[][] {
  return Object.entries(properties).flatMap(([name, schema]) => {
    const optional = required.includes(name) ? '' : ', optional';
    return [
      [`\`${prefix}${name}\``, `${typeOf(schema)}${optional}`, schema.description ?? ''],
      ...rowsOf(schema, `${prefix}${name}.`),
    ];
  });
}

function typeOf({ type, const: only, enum: some, minimum }: JsonSchema): string {
  if (only !== undefined) return `\`${JSON.stringify(only)}\``;
  if (some !== undefined) return some.map((one) => `\`${JSON.stringify(one)}\``).join(', ');
  if (type === undefined) return 'any';
  return minimum === undefined ? type : `${type} from ${minimum}`;
}

if (import.meta.main) {
  const { before, after } = readPage();
  writeFileSync(FILE, `${before}${BEGIN}\n\n${makeReference()}\n\n${after}`);
}
