/**
 * A validator of JSON Schema, draft 2020-12: exactly the keywords that our schemas use. A schema with any other keyword is
 * refused, so that nothing in one is silently not checked.
 */
import type { JsonSchema } from '../../src/index.ts';

type Json = Readonly<Record<string, unknown>>;

const ANNOTATIONS = ['$schema', '$id', 'title', 'description'];
const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean'];
const DRAFT = 'https://json-schema.org/draft/2020-12/schema';

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isStrings = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((one) => typeof one === 'string');

/** What each keyword must look like, and which type of value it is about. */
const KEYWORDS: Readonly<
  Record<string, { readonly of: string | undefined; readonly fits: (v: unknown) => boolean }>
> = {
  type: { of: undefined, fits: (value) => TYPES.includes(value as string) },
  const: { of: undefined, fits: (value) => typeof value === 'string' || typeof value === 'number' },
  enum: { of: undefined, fits: (value) => isStrings(value) && new Set(value).size === value.length },
  pattern: { of: 'string', fits: isPattern },
  minimum: { of: 'number', fits: Number.isFinite },
  items: { of: 'array', fits: isObject },
  properties: { of: 'object', fits: isObject },
  required: { of: 'object', fits: (value) => isStrings(value) && new Set(value).size === value.length },
};

function isPattern(value: unknown): boolean {
  try {
    return typeof value === 'string' && new RegExp(value, 'u') instanceof RegExp;
  } catch {
    return false;
  }
}

/** What is wrong with a schema, each with its place; none if it is one that {@link violations} can hold values to. */
export function schemaFaults(schema: unknown, at = '#'): readonly string[] {
  if (!isObject(schema)) return [`${at} is no object`];
  const faults: string[] = [];
  const { $schema, type, items, properties, required } = schema;
  if (at === '#' && $schema !== DRAFT) faults.push(`${at}/$schema is not ${DRAFT}`);
  for (const [keyword, value] of Object.entries(schema)) {
    const where = `${at}/${keyword}`;
    if (ANNOTATIONS.includes(keyword)) {
      if (typeof value !== 'string') faults.push(`${where} is no text`);
      continue;
    }
    const rule = Object.hasOwn(KEYWORDS, keyword) ? KEYWORDS[keyword] : undefined;
    if (rule === undefined) faults.push(`${where} is no keyword that is known here`);
    else if (!rule.fits(value)) faults.push(`${where} is not well-formed`);
    else if (rule.of !== undefined && rule.of !== (type === 'integer' ? 'number' : type))
      faults.push(`${where} says nothing about a value of type ${String(type)}`);
  }
  if (isObject(items)) faults.push(...schemaFaults(items, `${at}/items`));
  if (isObject(properties)) {
    for (const [name, sub] of Object.entries(properties))
      faults.push(...schemaFaults(sub, `${at}/properties/${name}`));
  }
  for (const name of isStrings(required) ? required : [])
    if (!isObject(properties) || !Object.hasOwn(properties, name))
      faults.push(`${at}/required names ${name}, which is not described`);
  return faults;
}

export interface ValidationOptions {
  /** Refuse properties that the schema does not name, where it names any: what is not described is a violation. Default false, as the standard has it. */
  readonly closed?: boolean | undefined;
}

/** How a value breaks a schema, each with its place; none if it is valid. Throws on a schema with faults. */
export function violations(
  schema: JsonSchema,
  value: unknown,
  options: ValidationOptions = {},
): readonly string[] {
  const faults = schemaFaults(schema);
  if (faults.length > 0) throw new Error(`not a schema: ${faults.join('; ')}`);
  return [...broken(schema, value, options.closed === true, '')];
}

function* broken(schema: JsonSchema, value: unknown, closed: boolean, at: string): Generator<string> {
  const where = at === '' ? 'the value' : at;
  if (schema.type !== undefined && !isOf(schema.type, value)) {
    yield `${where} is no ${schema.type}`;
    return;
  }
  if (schema.const !== undefined && value !== schema.const) yield `${where} is not ${schema.const}`;
  if (schema.enum !== undefined && !schema.enum.some((one) => one === value))
    yield `${where} is none of ${schema.enum.join(', ')}`;
  if (
    typeof value === 'string' &&
    schema.pattern !== undefined &&
    !new RegExp(schema.pattern, 'u').test(value)
  )
    yield `${where} does not match ${schema.pattern}`;
  if (typeof value === 'number' && schema.minimum !== undefined && value < schema.minimum)
    yield `${where} is less than ${schema.minimum}`;
  if (Array.isArray(value) && schema.items !== undefined)
    for (const [index, one] of value.entries()) yield* broken(schema.items, one, closed, `${at}/${index}`);
  if (!isObject(value)) return;
  for (const name of schema.required ?? []) if (!Object.hasOwn(value, name)) yield `${at}/${name} is missing`;
  const { properties } = schema;
  if (properties === undefined) return;
  for (const [name, one] of Object.entries(value)) {
    const sub = Object.hasOwn(properties, name) ? properties[name] : undefined;
    if (sub !== undefined) yield* broken(sub, one, closed, `${at}/${name}`);
    else if (closed) yield `${at}/${name} is not described`;
  }
}

function isOf(type: NonNullable<JsonSchema['type']>, value: unknown): boolean {
  switch (type) {
    case 'object':
      return isObject(value);
    case 'array':
      return Array.isArray(value);
    case 'integer':
      return Number.isInteger(value);
    case 'number':
      return typeof value === 'number' && Number.isFinite(value);
    default:
      return typeof value === type;
  }
}
