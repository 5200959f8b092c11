/**
 * JSON Schema, printed as TypeScript types.
 *
 * A model writes better calls when it can read the types of its tools. What is printed always compiles, and
 * errs on the wide side: a keyword that has no type (`pattern`, `minimum`, `not`) is left out, and a schema that
 * is not understood is `unknown`. Schemas that are referred to become type aliases, since only those can recurse.
 */

/** Prints the schemas of one text; aliases are unique within it. */
export interface TypePrinter {
  /** The type of a JSON Schema. `prefix` (an identifier) starts the names of the aliases that it needs. */
  print(schema: unknown, prefix: string): string;
  /** The aliases that printed types refer to, as statements. */
  aliases(): readonly string[];
}

/** A type's text, and how loosely its outermost operator binds. */
interface Printed {
  readonly text: string;
  readonly operator: '' | '&' | '|';
  /** What the operator joins, so that unions of unions are flat and say nothing twice. */
  readonly parts?: readonly string[];
}

/** What all schemas of one printer share, by alias. */
interface Aliases {
  readonly bodies: Map<string, string>;
  /** The aliases named in an alias's body outside every object and array: `type A = B | C`. */
  readonly direct: Map<string, Set<string>>;
}

/** One schema document: the root that `$ref` counts from. */
interface Source {
  readonly root: unknown;
  readonly prefix: string;
  readonly aliases: Aliases;
  /** The alias of each `$ref`. */
  readonly refs: Map<string, string>;
}

/** Where in a document the printer stands. */
interface Place {
  readonly source: Source;
  /** The alias whose body this is, unless an object or array lies between. */
  readonly owner: string | undefined;
  /** The schemas around this one. */
  readonly within: readonly unknown[];
}

type JsonSchema = Readonly<Record<string, unknown>>;

const UNKNOWN: Printed = { text: 'unknown', operator: '' };
const NEVER: Printed = { text: 'never', operator: '' };
const NULL: Printed = { text: 'null', operator: '' };
// Deeper than any schema a person writes.
const MAX_DEPTH = 40;
const MAX_LINE = 80;

/** A printer for the schemas of one text. */
export function createTypePrinter(): TypePrinter {
  const aliases: Aliases = { bodies: new Map(), direct: new Map() };
  return {
    print(schema, prefix) {
      const refs = new Map<string, string>();
      const { text } = print(schema, {
        source: { root: schema, prefix, aliases, refs },
        owner: undefined,
        within: [],
      });
      // A root that refers to itself has been printed as an alias too: say it once.
      return refs.get('#') ?? text;
    },
    aliases: () => [...aliases.bodies].map(([name, body]) => `type ${name} = ${body};`),
  };
}

/** A JSDoc comment and a line break, or nothing. No text can end the comment early. */
export function docComment(description: unknown): string {
  if (typeof description !== 'string') return '';
  const lines = description
    .split(/\r\n|[\n\r\u2028\u2029]/)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must go, before a comment's end is looked for.
    .map((line) => line.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f]/g, '').replaceAll('*/', '*\\/'))
    .map((line) => line.trimEnd());
  while (lines.length > 0 && lines[0] === '') lines.shift();
  while (lines.length > 0 && lines.at(-1) === '') lines.pop();
  if (lines.length === 0) return '';
  if (lines.length === 1) return `/** ${lines[0]?.trimStart()} */\n`;
  return `/**\n${lines.map((line) => ` * ${line}`.trimEnd()).join('\n')}\n */\n`;
}

/** A string literal that is safe in any source text. */
export function quoted(text: string): string {
  return JSON.stringify(text).replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029');
}

/** A member's name: as it is if that is an identifier, else quoted. `new(…)` would be a constructor. */
export function memberName(name: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(name) && name !== 'new' ? name : quoted(name);
}

/** Move every line but the first to the right. No string literal that is printed here spans lines. */
export function indent(text: string): string {
  return text.replaceAll('\n', '\n  ');
}

/** A schema is the conjunction of its keywords, so its type is the intersection of theirs. */
function print(schema: unknown, place: Place): Printed {
  if (schema === false) return NEVER;
  // A schema object that holds itself (no JSON does, but an object may) would have no end.
  if (!isRecord(schema) || place.within.length > MAX_DEPTH || place.within.includes(schema)) return UNKNOWN;
  if (schema.not === true || (isRecord(schema.not) && Object.keys(schema.not).length === 0)) return NEVER;
  const inner: Place = { ...place, within: [...place.within, schema] };
  const parts: Printed[] = [];
  if (typeof schema.$ref === 'string') parts.push(printReference(schema.$ref, inner));
  if (Array.isArray(schema.allOf)) parts.push(...schema.allOf.map((part) => print(part, inner)));
  for (const members of [schema.anyOf, schema.oneOf]) {
    if (Array.isArray(members)) parts.push(union(members.map((member) => print(member, inner))));
  }
  parts.push(printOwn(schema, inner));
  const whole = intersection(parts);
  // OpenAPI 3.0's way to say it.
  return schema.nullable === true ? union([whole, NULL]) : whole;
}

/** What a schema says by itself: a fixed value, one of several, or a type. */
function printOwn(schema: JsonSchema, place: Place): Printed {
  const depth = place.within.length;
  if (Object.hasOwn(schema, 'const')) return literal(schema.const, depth);
  if (Array.isArray(schema.enum)) return union(schema.enum.map((value) => literal(value, depth)));
  return union(typesOf(schema).map((type) => printType(type, schema, place)));
}

/** The `type` keyword as a list; where it was left out, what the other keywords are about. */
function typesOf(schema: JsonSchema): readonly unknown[] {
  if (Array.isArray(schema.type)) return schema.type;
  if (schema.type !== undefined) return [schema.type];
  if (schema.properties ?? schema.patternProperties ?? schema.additionalProperties) return ['object'];
  if (schema.prefixItems ?? schema.items) return ['array'];
  return [undefined];
}

function printType(type: unknown, schema: JsonSchema, place: Place): Printed {
  switch (type) {
    case 'string':
    case 'number':
    case 'boolean':
    case 'null':
      return { text: type, operator: '' };
    case 'integer':
      return { text: 'number', operator: '' };
    case 'array':
      return printArray(schema, { ...place, owner: undefined });
    case 'object':
      return printObject(schema, { ...place, owner: undefined });
    default:
      return UNKNOWN;
  }
}

function printArray(schema: JsonSchema, place: Place): Printed {
  // Draft 2020-12 calls them prefixItems and items; older drafts items and additionalItems.
  const [first, rest] = Array.isArray(schema.items)
    ? [schema.items, schema.additionalItems]
    : [schema.prefixItems, schema.items];
  if (!Array.isArray(first)) return { text: `${operand(print(rest, place))}[]`, operator: '' };
  // Without minItems a tuple is taken to be whole: that is what its author had in mind.
  const required = typeof schema.minItems === 'number' ? schema.minItems : first.length;
  const items = first.map((item, index) => {
    const printed = print(item, place);
    return index < required ? printed.text : `${operand(printed)}?`;
  });
  const closed = rest === false || (typeof schema.maxItems === 'number' && schema.maxItems <= first.length);
  if (!closed) items.push(`...${operand(print(rest, place))}[]`);
  return { text: `[${items.join(', ')}]`, operator: '' };
}

function printObject(schema: JsonSchema, place: Place): Printed {
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  const properties = isRecord(schema.properties) ? schema.properties : {};
  const others = otherProperties(schema, place);
  const keys = isRecord(schema.propertyNames) ? schema.propertyNames.enum : undefined;
  const names = new Set<unknown>([
    ...Object.keys(properties),
    ...required,
    ...(Array.isArray(keys) ? keys : []),
  ]);
  const members: string[] = [];
  for (const name of names) {
    if (typeof name !== 'string') continue;
    const property = Object.hasOwn(properties, name) ? properties[name] : undefined;
    const type = property === undefined ? (others ?? UNKNOWN) : print(property, place);
    const comment = isRecord(property) ? docComment(property.description) : '';
    members.push(`${comment}${memberName(name)}${required.has(name) ? '' : '?'}: ${type.text}`);
  }
  if (members.length === 0) members.push(`[key: string]: ${(others ?? UNKNOWN).text}`);
  // An index signature must admit the named members too, so beside those only the widest one always compiles.
  else if (others !== undefined && others !== NEVER && !Array.isArray(keys))
    members.push('[key: string]: unknown');
  return { text: block(members), operator: '' };
}

/** The type of properties that are not named; undefined where the schema does not speak of them. */
function otherProperties(schema: JsonSchema, place: Place): Printed | undefined {
  const { additionalProperties, patternProperties } = schema;
  const types = isRecord(patternProperties)
    ? Object.values(patternProperties).map((pattern) => print(pattern, place))
    : [];
  if (additionalProperties !== undefined) types.push(print(additionalProperties, place));
  return types.length === 0 ? undefined : union(types);
}

/** An object type: on one line if it is short and has no comments. */
function block(members: readonly string[]): string {
  const line = `{ ${members.join('; ')} }`;
  if (line.length <= MAX_LINE && !line.includes('\n')) return line;
  return `{${members.map((member) => `\n  ${indent(member)};`).join('')}\n}`;
}

/** The alias of what a reference points to, printed when it is first met. */
function printReference(ref: string, place: Place): Printed {
  const { source, owner } = place;
  const { bodies, direct } = source.aliases;
  const target = pointedAt(source.root, ref);
  if (target === undefined) return UNKNOWN;
  const known = source.refs.get(ref);
  const alias = known ?? freeName(`${source.prefix}${pascalCase(ref.split('/').at(-1) ?? '')}`, bodies);
  if (owner !== undefined) {
    // `type A = A | …` does not compile, at whatever remove; within an object or array it does.
    if (reaches(direct, alias, owner)) return UNKNOWN;
    direct.get(owner)?.add(alias);
  }
  if (known === undefined) {
    source.refs.set(ref, alias);
    direct.set(alias, new Set());
    bodies.set(alias, '');
    bodies.set(alias, print(target, { source, owner: alias, within: [] }).text);
  }
  return { text: alias, operator: '' };
}

function reaches(direct: Aliases['direct'], from: string, to: string): boolean {
  return from === to || [...(direct.get(from) ?? [])].some((next) => reaches(direct, next, to));
}

/** Follow a JSON pointer within the document: `#`, `#/$defs/Name`. Anything else is not followed. */
function pointedAt(root: unknown, ref: string): unknown {
  if (ref === '#') return root;
  if (!ref.startsWith('#/')) return undefined;
  let at: unknown = root;
  for (const token of ref.slice(2).split('/')) {
    const key = decoded(token).replaceAll('~1', '/').replaceAll('~0', '~');
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, key)) return undefined;
    at = (at as JsonSchema)[key];
  }
  return at;
}

function decoded(token: string): string {
  try {
    return decodeURIComponent(token);
  } catch {
    return token;
  }
}

/** Words joined with capitals, with what no identifier may hold left out. */
export function pascalCase(text: string): string {
  return text
    .split(/[^A-Za-z0-9]+/)
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join('');
}

function freeName(name: string, taken: ReadonlyMap<string, unknown>): string {
  for (let count = 1; ; count += 1) {
    const candidate = count === 1 ? name : `${name}_${count}`;
    if (!taken.has(candidate)) return candidate;
  }
}

function literal(value: unknown, depth: number): Printed {
  if (depth > MAX_DEPTH) return UNKNOWN;
  if (typeof value === 'string') return { text: quoted(value), operator: '' };
  if (value === null || typeof value === 'boolean' || Number.isFinite(value)) {
    return { text: String(value), operator: '' };
  }
  if (Array.isArray(value)) {
    return { text: `[${value.map((item) => literal(item, depth + 1).text).join(', ')}]`, operator: '' };
  }
  if (!isRecord(value)) return UNKNOWN;
  const members = Object.entries(value).map(
    ([key, item]) => `${memberName(key)}: ${literal(item, depth + 1).text}`,
  );
  return { text: members.length === 0 ? '{ [key: string]: never }' : block(members), operator: '' };
}

function union(members: readonly Printed[]): Printed {
  if (members.some((member) => member.text === 'unknown')) return UNKNOWN;
  return joined(
    members.filter((member) => member.text !== 'never'),
    '|',
    NEVER,
  );
}

function intersection(members: readonly Printed[]): Printed {
  if (members.some((member) => member.text === 'never')) return NEVER;
  return joined(
    members.filter((member) => member.text !== 'unknown'),
    '&',
    UNKNOWN,
  );
}

function joined(members: readonly Printed[], operator: '&' | '|', none: Printed): Printed {
  const parts = new Set(
    members.flatMap((member) => {
      if (member.operator === operator) return member.parts ?? [];
      return operator === '&' ? operand(member) : member.text;
    }),
  );
  const [first] = members;
  if (first === undefined) return none;
  if (members.length === 1 || parts.size === 1) return first;
  return { text: [...parts].join(` ${operator} `), operator, parts: [...parts] };
}

function operand({ text, operator }: Printed): string {
  return operator === '' ? text : `(${text})`;
}

function isRecord(value: unknown): value is JsonSchema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
