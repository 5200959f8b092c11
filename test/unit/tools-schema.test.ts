import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { createTypePrinter, docComment, memberName, quoted } from '../../src/tools/schema.ts';

/** The type of one schema, and the aliases that it needed, one per line. */
function printed(schema: unknown): string {
  const printer = createTypePrinter();
  const type = printer.print(schema, 'T');
  return [...printer.aliases(), type].join('\n');
}

const text = { type: 'string' };
const count = { type: 'number' };

describe('the type of a schema', () => {
  it.each([
    ['a string', { type: 'string', minLength: 3, format: 'email' }, 'string'],
    ['a number', count, 'number'],
    ['an integer', { type: 'integer', minimum: 0 }, 'number'],
    ['a boolean', { type: 'boolean' }, 'boolean'],
    ['null', { type: 'null' }, 'null'],
    ['several types', { type: ['string', 'null'] }, 'string | null'],
    ['a nullable type', { type: 'string', nullable: true }, 'string | null'],
    ['a nullable enum that has null', { enum: ['a', null], nullable: true }, '"a" | null'],
    ['a constant', { type: 'string', const: 'a' }, '"a"'],
    ['a constant null', { const: null }, 'null'],
    ['a constant structure', { const: { a: [1, -2.5, { b: true }] } }, '{ a: [1, -2.5, { b: true }] }'],
    ['an empty constant', { const: {} }, '{ [key: string]: never }'],
    ['an enum', { type: 'string', enum: ['a', 'b', 'a'] }, '"a" | "b"'],
    ['an empty enum', { enum: [] }, 'never'],
    ['a string with odd characters', { const: '"\\\n\u2028' }, '"\\"\\\\\\n\\u2028"'],
    ['an array', { type: 'array', items: text }, 'string[]'],
    ['an array of a union', { type: 'array', items: { anyOf: [text, count] } }, '(string | number)[]'],
    ['an array of anything', { type: 'array' }, 'unknown[]'],
    ['an array without a type', { items: text }, 'string[]'],
    ['a tuple', { type: 'array', prefixItems: [text, count], items: false }, '[string, number]'],
    ['a tuple with a rest', { type: 'array', prefixItems: [text], items: count }, '[string, ...number[]]'],
    ['an open tuple', { type: 'array', prefixItems: [text] }, '[string, ...unknown[]]'],
    ['a tuple closed by its length', { type: 'array', prefixItems: [text], maxItems: 1 }, '[string]'],
    [
      'a tuple with optional items',
      { type: 'array', prefixItems: [text, { type: ['string', 'null'] }], items: false, minItems: 1 },
      '[string, (string | null)?]',
    ],
    ['an older tuple', { items: [text], additionalItems: false }, '[string]'],
    ['a union', { anyOf: [text, count, text] }, 'string | number'],
    ['an exclusive union', { oneOf: [text, { type: 'null' }] }, 'string | null'],
    ['an intersection', { allOf: [{ anyOf: [text, count] }, text] }, '(string | number) & string'],
    ['an intersection with the impossible', { allOf: [text, false] }, 'never'],
    ['a union that says nothing of types', { type: 'string', anyOf: [{ format: 'a' }, {}] }, 'string'],
    ['anything', {}, 'unknown'],
    ['the true schema', true, 'unknown'],
    ['the false schema', false, 'never'],
    ['nothing', { not: {} }, 'never'],
    ['what is not understood', { type: 'tensor' }, 'unknown'],
    ['what is no schema', 'string', 'unknown'],
    ['no schema at all', undefined, 'unknown'],
  ])('prints %s', (_what, schema, expected) => {
    expect(printed(schema)).toBe(expected);
  });

  it.each([
    [
      'required and optional properties',
      { type: 'object', properties: { a: text, b: count }, required: ['a'] },
      '{ a: string; b?: number }',
    ],
    ['an object without a type', { properties: { a: text } }, '{ a?: string }'],
    [
      'names that are not identifiers',
      { properties: { 'a-b': text, 1: text, new: text } },
      '{ "1"?: string; "a-b"?: string; "new"?: string }',
    ],
    ['a required property that is not described', { type: 'object', required: ['a'] }, '{ a: unknown }'],
    ['an open object', { type: 'object' }, '{ [key: string]: unknown }'],
    ['an empty object', { type: 'object', additionalProperties: false }, '{ [key: string]: never }'],
    ['a record', { type: 'object', additionalProperties: count }, '{ [key: string]: number }'],
    [
      'a record by pattern',
      { patternProperties: { '^x': count }, additionalProperties: false },
      '{ [key: string]: number }',
    ],
    [
      'a record with known keys',
      { type: 'object', propertyNames: { enum: ['a', 'b'] }, additionalProperties: count, required: ['a'] },
      '{ a: number; b?: number }',
    ],
    [
      'properties beside a record, which must admit them',
      { type: 'object', properties: { a: text }, additionalProperties: count },
      '{ a?: string; [key: string]: unknown }',
    ],
    [
      'prototype names as the names they are',
      { properties: JSON.parse('{"__proto__":{"type":"string"},"constructor":{"type":"number"}}') },
      '{ __proto__?: string; constructor?: number }',
    ],
  ])('prints %s', (_what, schema, expected) => {
    expect(printed(schema)).toBe(expected);
  });

  it('puts comments and long objects on lines of their own', () => {
    const inner = { type: 'object', properties: { city: { ...text, description: 'Two\nlines' } } };
    expect(printed({ properties: { id: { ...count, description: 'Who.' }, address: inner } })).toBe(`{
  /** Who. */
  id?: number;
  address?: {
    /**
     * Two
     * lines
     */
    city?: string;
  };
}`);
  });

  it('is unknown where a schema object holds itself', () => {
    const schema: Record<string, unknown> = { type: 'array' };
    schema.items = schema;
    expect(printed(schema)).toBe('unknown[]');
  });

  it('is unknown below the deepest level that is printed', () => {
    let schema: unknown = text;
    for (let depth = 0; depth < 10_000; depth += 1) schema = { type: 'array', items: schema };
    expect(printed(schema)).toMatch(/^unknown(\[\]){41}$/);
  });
});

describe('a reference', () => {
  it('becomes an alias, printed once', () => {
    const user = { type: 'object', properties: { id: count }, required: ['id'] };
    const schema = {
      properties: { a: { $ref: '#/$defs/user' }, b: { $ref: '#/$defs/user' } },
      $defs: { user },
    };
    expect(printed(schema)).toBe('type TUser = { id: number };\n{ a?: TUser; b?: TUser }');
  });

  it('may recurse, to a definition and to the root', () => {
    const $defs = { node: { properties: { next: { $ref: '#/$defs/node' } } } };
    expect(printed({ $ref: '#/$defs/node', $defs })).toBe('type TNode = { next?: TNode };\nTNode');
    expect(printed({ type: 'array', items: { $ref: '#' } })).toBe('type T = T[];\nT');
  });

  it('is unknown where an alias would be its own meaning', () => {
    const a = { anyOf: [{ properties: { b: { $ref: '#/$defs/b' } } }, { $ref: '#/$defs/b' }] };
    const b = { anyOf: [{ $ref: '#/$defs/a' }, text] };
    expect(printed({ $ref: '#/$defs/a', $defs: { a, b } })).toBe(
      'type TA = unknown;\ntype TB = TA | string;\nTA',
    );
    expect(printed({ $ref: '#/$defs/a', $defs: { a: { $ref: '#/$defs/a' } } })).toBe(
      'type TA = unknown;\nTA',
    );
  });

  it('is followed by JSON pointer, through own properties only', () => {
    const $defs = { 'a/b c': text };
    expect(printed({ $ref: '#/$defs/a~1b%20c', $defs })).toBe('type TA1b20c = string;\nTA1b20c');
    for (const $ref of ['#/$defs/none', '#/constructor', '#anchor', 'https://example.com/x', '#/%']) {
      expect(printed({ $ref, $defs })).toBe('unknown');
    }
  });

  it('keeps apart what differs, within a text', () => {
    const printer = createTypePrinter();
    for (const type of ['string', 'number']) {
      printer.print({ $ref: '#/$defs/x', $defs: { x: { type } } }, 'T');
    }
    expect(printer.aliases()).toEqual(['type TX = string;', 'type TX_2 = number;']);
  });

  it('keeps what stands beside it', () => {
    const schema = { $ref: '#/$defs/a', properties: { b: text }, $defs: { a: { properties: { a: text } } } };
    expect(printed(schema)).toBe('type TA = { a?: string };\nTA & { b?: string }');
  });
});

describe('what zod prints as JSON Schema', () => {
  it.each([
    [z.object({ id: z.int(), name: z.string().optional() }), '{ id: number; name?: string }'],
    [z.looseObject({ id: z.int() }), '{ id: number; [key: string]: unknown }'],
    [z.tuple([z.string(), z.number().optional()]), '[string, number?]'],
    [z.record(z.enum(['a', 'b']), z.number()), '{ a: number; b: number }'],
    [z.array(z.union([z.string(), z.null()])), '(string | null)[]'],
    [
      z.discriminatedUnion('kind', [
        z.object({ kind: z.literal('a') }),
        z.object({ kind: z.literal('b'), n: z.number() }),
      ]),
      '{ kind: "a" } | { kind: "b"; n: number }',
    ],
  ])('becomes a type (%#)', (schema, expected) => {
    expect(printed(schema['~standard'].jsonSchema.input({ target: 'draft-2020-12' }))).toBe(expected);
  });
});

describe('docComment', () => {
  it.each([
    ['a line', 'Finds a user. ', '/** Finds a user. */\n'],
    ['lines', '\r\nFinds\r\n\n  a user\u2028now\n', '/**\n * Finds\n *\n *   a user\n * now\n */\n'],
    ['a comment’s end', 'a */ b */', '/** a *\\/ b *\\/ */\n'],
    ['an end that a control character hides', 'a *\u0000/ b', '/** a *\\/ b */\n'],
    ['a slash', '/', '/** / */\n'],
    ['no text', ' \n ', ''],
    ['no string', 7, ''],
  ])('prints %s', (_what, description, expected) => {
    expect(docComment(description)).toBe(expected);
  });
});

describe('names and strings', () => {
  it('are quoted only where they must be', () => {
    expect(['a', '$_1', 'class', 'new', '1a', 'a-b', '', 'ä'].map(memberName)).toEqual([
      'a',
      '$_1',
      'class',
      '"new"',
      '"1a"',
      '"a-b"',
      '""',
      '"ä"',
    ]);
    expect(quoted('"\u2029')).toBe('"\\"\\u2029"');
  });
});
