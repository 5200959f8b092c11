/** The JSON Schemas of the events: what they take and refuse, and that EVENTS.md says the same. */
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { permissionsOf, ROLES } from '../../src/identities/permissions.ts';
import { type EventPayloads, type EventType, eventSchemas, type JsonSchema } from '../../src/index.ts';
import { readEventsOf } from '../../src/session/asked.ts';
import { redactedPayload } from '../../src/session/redaction.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { makeReference, readPage } from '../support/eventdocs.ts';
import { schemaFaults, violations } from '../support/jsonschema.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const TYPES = Object.keys(eventSchemas.types) as EventType[];
const ALL = { event: eventSchemas.envelope, ...eventSchemas.types };
const CLOSED = { closed: true };

const STATS = { durationMs: 12.5, toolCallCount: 2, stdoutBytes: 0 };

const GOOD: { readonly [T in EventType]: readonly EventPayloads[T][] } = {
  session_init: [{ executionId: 'e1' }],
  stdout: [{ chunk: 'hello\n' }, { chunk: '' }],
  log: [
    { level: 'debug', message: 'a' },
    { level: 'info', message: '' },
    { level: 'warn', message: 'b' },
    { level: 'error', message: 'c' },
  ],
  tool_call: [
    { callId: 'e1/0', toolName: 'users:get', args: { id: 7 } },
    { callId: 'e1/10', toolName: 'users.get', args: [] },
    { callId: 'e-_1/3', toolName: 'x', args: null },
    { callId: 'e1/0', toolName: 'x', args: undefined },
  ],
  tool_result_applied: [
    { callId: 'e1/0', ok: true },
    { callId: 'e1/1', ok: false },
  ],
  deadline_exceeded: [{ elapsedMs: 300, budgetMs: 300 }],
  error: [{ code: 'WORKER_CRASHED', message: 'lost', recoverable: true }],
  final: [
    { ok: true, result: { deep: [1] }, stats: STATS },
    { ok: true, result: null, stats: STATS },
    { ok: true, stats: STATS },
    { ok: false, error: { code: 'SCRIPT_ERROR', message: '' }, stats: STATS },
  ],
};

const BAD: { readonly [T in EventType]: readonly object[] } = {
  session_init: [{}, { executionId: 1 }, { executionId: null }],
  stdout: [{}, { chunk: 1 }, { chunk: ['a'] }, { text: 'a' }],
  log: [
    { level: 'info' },
    { message: 'a' },
    { level: 'fatal', message: 'a' },
    { level: 'info', message: {} },
  ],
  tool_call: [
    { callId: 'e1/0' },
    { toolName: 'x' },
    { callId: 'e1', toolName: 'x' },
    { callId: 'e1/-1', toolName: 'x' },
    { callId: 'e1/01', toolName: 'x' },
    { callId: 'a/b/0', toolName: 'x' },
    { callId: 'e1/0\n', toolName: 'x' },
    { callId: 'e1/0', toolName: null },
  ],
  tool_result_applied: [{ callId: 'e1/0' }, { ok: true }, { callId: 'e1/0', ok: 'true' }],
  deadline_exceeded: [
    { elapsedMs: 1 },
    { budgetMs: 1 },
    { elapsedMs: -1, budgetMs: 1 },
    { elapsedMs: '1', budgetMs: 1 },
  ],
  error: [
    { code: 'X', message: 'a' },
    { code: 'lower', message: 'a', recoverable: true },
    { code: 'X', message: 'a', recoverable: 1 },
  ],
  final: [
    { ok: true },
    { stats: STATS },
    { ok: 1, stats: STATS },
    { ok: true, stats: { ...STATS, toolCallCount: 1.5 } },
    { ok: true, stats: { ...STATS, stdoutBytes: -1 } },
    { ok: true, stats: { durationMs: 1, toolCallCount: 1 } },
    { ok: false, error: 'SCRIPT_ERROR', stats: STATS },
    { ok: false, error: { code: 'SCRIPT_ERROR' }, stats: STATS },
    { ok: false, error: [], stats: STATS },
  ],
};

const envelope = { protocolVersion: 2, sessionId: 's1', seq: 1, executionId: 'e1' };

/** As it comes over the wire. */
function eventOf(type: string, payload: object, others: object = {}): Readonly<Record<string, unknown>> {
  return JSON.parse(JSON.stringify({ ...envelope, type, payload, ...others })) as Record<string, unknown>;
}

describe('the schemas', () => {
  it.each(Object.entries(ALL))('are JSON Schemas that stand alone: %s', (_name, schema) => {
    expect(schemaFaults(schema)).toEqual([]);
    expect(JSON.parse(JSON.stringify(schema))).toEqual(schema);
    expect(JSON.stringify(schema)).not.toContain('$ref');
  });

  it('have names of their own', () => {
    const ids = Object.values<JsonSchema>(ALL).map(({ $id }) => $id);
    expect(new Set(ids).size).toBe(TYPES.length + 1);
    expect(ids).toContain('urn:enclave-actors:event:2:final');
  });

  it('are there for the types that the code has, and for no others', () => {
    const source = readFileSync(path.join(ROOT, 'actors/events.ts'), 'utf8');
    const body = /export interface EventPayloads \{\n([\s\S]*?)\n\}/.exec(source)?.[1] ?? '';
    const declared = [...body.matchAll(/^ {2}(\w+): \{/gm)].map(([, type]) => type);
    expect(declared.length).toBeGreaterThan(0);
    expect(declared.toSorted()).toEqual(TYPES.toSorted());
  });

  describe.each(TYPES)('%s', (type) => {
    const schema = eventSchemas.types[type];

    it.each(GOOD[type].map((payload) => [JSON.stringify(payload), payload] as const))(
      'takes %s',
      (_text, payload) => {
        const event = eventOf(type, payload);
        expect(violations(schema, event, CLOSED)).toEqual([]);
        expect(violations(eventSchemas.envelope, event, { closed: false })).toEqual([]);
      },
    );

    it.each(BAD[type].map((payload) => [JSON.stringify(payload), payload] as const))(
      'refuses %s',
      (_text, payload) => {
        const found = violations(schema, eventOf(type, payload));
        expect(found).toHaveLength(1);
        expect(found[0]).toContain('/payload');
      },
    );

    it('takes what a later version adds, and tells whoever asks', () => {
      for (const payload of GOOD[type]) {
        const event = eventOf(type, { ...payload, added: 1 }, { alsoAdded: 2 });
        expect(violations(schema, event)).toEqual([]);
        expect(violations(schema, event, CLOSED)).toEqual([
          '/payload/added is not described',
          '/alsoAdded is not described',
        ]);
      }
    });

    it('takes no event of another type', () => {
      for (const other of TYPES.filter((one) => one !== type))
        expect(violations(schema, eventOf(other, GOOD[other][0] ?? {}))).toContain(`/type is not ${type}`);
    });

    it.each([
      ['protocolVersion', 1],
      ['protocolVersion', '2'],
      ['protocolVersion', undefined],
      ['sessionId', 'a.b'],
      ['sessionId', ''],
      ['sessionId', 'x'.repeat(65)],
      ['sessionId', undefined],
      ['seq', 0],
      ['seq', 1.5],
      ['seq', '1'],
      ['seq', undefined],
      ['executionId', 'a/b'],
      ['executionId', null],
      ['payload', undefined],
      ['payload', []],
      ['payload', null],
    ])('refuses an envelope with %s: %j', (property, value) => {
      const [payload = {}] = GOOD[type];
      const found = violations(schema, eventOf(type, payload, { [property]: value }));
      expect(found).toHaveLength(1);
      expect(found[0]).toContain(`/${property}`);
    });

    it('takes an event that names no execution', () => {
      const [payload = {}] = GOOD[type];
      expect(violations(schema, eventOf(type, payload, { executionId: undefined }), CLOSED)).toEqual([]);
    });
  });

  it('take an event of an unknown type, and one without a number, as envelopes', () => {
    const { envelope: any } = eventSchemas;
    expect(violations(any, eventOf('heartbeat', {}, { seq: undefined }))).toEqual([]);
    expect(violations(any, eventOf('tool_progress', { callId: 'e1/0' }))).toEqual([]);
    expect(violations(any, eventOf('Tool.progress', {}))).toHaveLength(1);
    expect(violations(any, eventOf('stdout', {}, { seq: 0 }))).toEqual(['/seq is less than 1']);
    expect(violations(any, 'stdout')).toEqual(['the value is no object']);
  });
});

describe('the validator of the tests', () => {
  const $schema = 'https://json-schema.org/draft/2020-12/schema';

  it.each([
    [{ type: 'object' }],
    [{ $schema, type: 'text' }],
    [{ $schema, oneOf: [] }],
    [{ $schema, type: 'string', pattern: '(' }],
    [{ $schema, type: 'string', minimum: 1 }],
    [{ $schema, type: 'string', enum: ['a', 'a'] }],
    [{ $schema, type: 'object', required: ['a'] }],
    [{ $schema, type: 'object', properties: { a: { constructor: 1 } } }],
    [{ $schema, type: 'object', properties: { a: true } }],
  ])('refuses a schema that it would not hold a value to: %j', (schema) => {
    expect(schemaFaults(schema)).toHaveLength(1);
    expect(() => violations(schema as JsonSchema, {})).toThrow('not a schema');
  });

  it('looks at own properties only', () => {
    const schema: JsonSchema = {
      $schema,
      type: 'object',
      properties: { toString: { type: 'string' } as JsonSchema },
      required: ['toString'],
    };
    expect(violations(schema, {})).toEqual(['/toString is missing']);
    expect(violations(schema, { toString: 'a', valueOf: 1 }, CLOSED)).toEqual(['/valueOf is not described']);
  });
});

describe('EVENTS.md', () => {
  const page = readPage();
  const blocks = [...page.text.matchAll(/```json\n([\s\S]*?)\n```/g)].map(
    ([, json = '']) => JSON.parse(json) as Readonly<Record<string, unknown>>,
  );

  it('describes every type and every property as the schemas do: node test/support/eventdocs.ts writes it', () => {
    expect(page.reference).toBe(makeReference());
  });

  it('says which types are never sent', () => {
    const [, never = ''] = /### Never sent today\n([\s\S]*?)\n###/.exec(page.text) ?? [];
    for (const type of ['tool_progress', 'partial_result', 'heartbeat']) {
      expect(never).toContain(`\`${type}\``);
      expect(TYPES).not.toContain(type);
    }
    // What a session sends is decided in actors/, and nowhere else.
    const emitted = globSync('actors/*.ts', { cwd: ROOT }).flatMap((file) =>
      [...readFileSync(path.join(ROOT, file), 'utf8').matchAll(/\bemit\(draft, [\w.]+, '(\w+)'/g)].map(
        ([, type]) => type,
      ),
    );
    expect([...new Set(emitted)].toSorted()).toEqual(TYPES.filter((type) => type !== 'error').toSorted());
    expect(never).toContain('`error` is sent by an `Enclave` only');
  });

  it('shows an event, a request and answers as they are', () => {
    const [event, redacted, request, answer, refusal] = blocks;
    expect(blocks).toHaveLength(5);
    for (const shown of [event, redacted])
      expect(violations(eventSchemas.types[shown?.type as EventType], shown, CLOSED)).toEqual([]);
    // They are the same event.
    const payload = event?.payload as EventPayloads['tool_call'];
    const { args: _args, ...left } = redactedPayload('tool_call', payload, [1, 2, 3, 4]);
    expect(redacted?.payload).toEqual(left);
    expect(readEventsOf(request)).toBe(request);
    const value = answer?.value as { readonly events: readonly string[] } | undefined;
    expect(value?.events).toHaveLength(1);
    for (const json of value?.events ?? []) {
      const one = JSON.parse(json) as { readonly type: EventType };
      expect(violations(eventSchemas.types[one.type], one, CLOSED)).toEqual([]);
    }
    expect(Object.keys(refusal?.error as object)).toEqual(['code', 'message', 'retryable', 'outcome']);
    // The bytes that it counts.
    expect(page.text).toContain(`_INBOX.me ${JSON.stringify(request).length}\n`);
    expect(page.text).toContain(`_INBOX.me 2 ${JSON.stringify(answer).length}\n`);
  });

  it('lists subjects as they are, with the roles that may use them', () => {
    const listed = [...page.text.matchAll(/^\| `(enclave\.[^`]+)` \| ([^|]+) \|/gm)].map(
      ([, subject = '', roles = '']) => [subject, roles.replace(' (its own)', '')] as const,
    );
    const s = subjectsOf('<ns>');
    const heard = [
      s.sessionEvent('<id>', '<type>'),
      s.audit,
      s.clientResult('<id>'),
      s.brokerHeartbeat('<id>'),
      s.runtimeHeartbeat('<id>'),
      s.providerHeartbeat('<id>'),
    ];
    const asked = (
      ['events_read', 'sessions_list', 'session_info', 'session_result', 'tools_list'] as const
    ).map((verb) => s.broker(verb));
    expect(listed.map(([subject]) => subject)).toEqual([...heard, ...asked]);
    for (const [subject, roles] of listed) {
      const real = subject.replace('<ns>', 'ns').replace('<id>', 'me').replace('<type>', 'log');
      const may = ROLES.filter((role) => {
        const { subscribe, publish } = permissionsOf(role, 'ns', 'me');
        const { allow } = asked.includes(subject) ? publish : subscribe;
        return allow.some((pattern) => covers(pattern, real));
      });
      expect([subject, roles.split(', ').toSorted()]).toEqual([subject, may.toSorted()]);
    }
  });
});

function covers(pattern: string, subject: string): boolean {
  const parts = pattern.split('.');
  const tokens = subject.split('.');
  if (parts.at(-1) === '>') return parts.slice(0, -1).every((part, index) => part === tokens[index]);
  return (
    parts.length === tokens.length && parts.every((part, index) => part === '*' || part === tokens[index])
  );
}
