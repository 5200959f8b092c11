/**
 * JSON Schemas (draft 2020-12) of the events, as data: for subscribers in any language, and for docs and tests.
 *
 * They are typed after `actors/events.ts`: a type or a property that is added there, or changes its JSON type, does
 * not compile before it is described here. They are open: what a later version adds still fits, so a subscriber that
 * validates need not be upgraded first.
 */
import {
  type EventPayloads,
  type EventType,
  type LogLevel,
  PROTOCOL_VERSION,
  type Redacted,
} from '../actors/events.ts';
import type { AuditRecord } from './session/audit.ts';
import { ID } from './subjects.ts';

/** The part of JSON Schema that is used here. */
export interface JsonSchema {
  readonly $schema?: string;
  readonly $id?: string;
  readonly title?: string;
  readonly description?: string;
  readonly type?: 'object' | 'array' | 'string' | 'number' | 'integer' | 'boolean';
  readonly const?: string | number;
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
}

/** Every event as JSON Schema (draft 2020-12), plain data. */
export interface EventSchemas {
  /** What every event has, of whatever type: also of one that a later version adds. */
  readonly envelope: JsonSchema;
  /** Whole events, envelope and payload, by type. Each stands alone: no `$ref`. */
  readonly types: { readonly [T in EventType]: JsonSchema };
}

// ---- schemas that must agree with types ------------------------------------------------------------------

interface Text<V extends string> {
  readonly type: 'string';
  readonly description: string;
  readonly enum?: readonly V[];
  readonly pattern?: string;
}
interface Quantity {
  readonly type: 'number' | 'integer';
  readonly description: string;
  readonly minimum: number;
}
interface Flag {
  readonly type: 'boolean';
  readonly description: string;
}
/** Any JSON. */
interface Anything {
  readonly description: string;
}
interface Fields<V> {
  readonly type: 'object';
  readonly description: string;
  readonly properties: { readonly [K in keyof V]-?: Shape<Exclude<V[K], undefined>> };
  /** What is not here may be missing: also what is `unknown`, because JSON has no undefined. */
  readonly required: readonly (keyof V & string)[];
}
interface List<I> {
  readonly type: 'array';
  readonly description: string;
  readonly items: Fields<I>;
}
type Shape<V> = unknown extends V
  ? Anything
  : [V] extends [string]
    ? Text<V>
    : [V] extends [number]
      ? Quantity
      : [V] extends [boolean]
        ? Flag
        : [V] extends [readonly (infer I)[]]
          ? List<I>
          : Fields<V>;

const ms = (description: string): Quantity => ({ type: 'number', minimum: 0, description });
const count = (description: string): Quantity => ({ type: 'integer', minimum: 0, description });
const text = (description: string): Text<string> => ({ type: 'string', description });
const flag = (description: string): Flag => ({ type: 'boolean', description });
const code = (description: string): Text<string> => ({
  type: 'string',
  pattern: '^[A-Z][A-Z0-9_]*$',
  description,
});

const LEVELS = Object.keys({
  debug: true,
  info: true,
  warn: true,
  error: true,
} satisfies Record<LogLevel, true>) as readonly LogLevel[];

const CALL_ID = {
  type: 'string',
  pattern: '^[A-Za-z0-9_-]{1,64}/(0|[1-9][0-9]*)$',
  description:
    'Names the call: `<executionId>/<index>`. Sleeps are counted too, so an index may be left out.',
} as const;

/** `text`: what is not shown. */
const redacted = (text: string): Fields<Redacted> => ({
  type: 'object',
  description: `Only with \`redactEvents\`: what is left of ${text}.`,
  properties: {
    bytes: count('Its length, as UTF-8.'),
    hash: {
      type: 'string',
      pattern: '^[A-Za-z0-9_-]{43}$',
      description: 'HMAC-SHA-256 of it, keyed with the seed of the execution, in base64url.',
    },
  },
  required: ['bytes', 'hash'],
});

const PAYLOADS: { readonly [T in EventType]: Fields<EventPayloads[T]> } = {
  session_init: {
    type: 'object',
    description: 'The execution was accepted. Its first event.',
    properties: { executionId: text('The execution.') },
    required: ['executionId'],
  },
  stdout: {
    type: 'object',
    description: 'The script wrote with `console.log` and its kin.',
    properties: {
      chunk: text("The text, its newline included. Redacted: ''."),
      redacted: redacted('the text'),
    },
    required: ['chunk'],
  },
  log: {
    type: 'object',
    description: 'The script wrote with `console.debug`, `info`, `warn`, `error` or `trace`.',
    properties: {
      level: { type: 'string', enum: LEVELS, description: 'How grave it is.' },
      message: text("The text. Redacted: ''."),
      redacted: redacted('the text'),
    },
    required: ['level', 'message'],
  },
  tool_call: {
    type: 'object',
    description: 'The script called a tool.',
    properties: {
      callId: CALL_ID,
      toolName: text('The tool, as the script wrote it.'),
      args: { description: 'The arguments, any JSON. Missing if there are none, or redacted.' },
      redacted: redacted('the JSON of the arguments'),
    },
    required: ['callId', 'toolName'],
  },
  tool_result_applied: {
    type: 'object',
    description: 'The script was handed the end of a call.',
    properties: { callId: CALL_ID, ok: flag('True for a result, false for an error.') },
    required: ['callId', 'ok'],
  },
  deadline_exceeded: {
    type: 'object',
    description: 'A limit of time, `timeoutMs` or `deadlineMs`, ended the execution. Its `final` follows.',
    properties: {
      elapsedMs: ms('How long it took, in ms.'),
      budgetMs: ms('How long it might take, in ms.'),
    },
    required: ['elapsedMs', 'budgetMs'],
  },
  error: {
    type: 'object',
    description: 'Something went wrong that did not end the execution, such as a lost worker.',
    properties: {
      code: code('What it was.'),
      message: text('What it was, for people.'),
      recoverable: flag('True if the execution goes on.'),
    },
    required: ['code', 'message', 'recoverable'],
  },
  final: {
    type: 'object',
    description: 'The execution ended. Its last event.',
    properties: {
      ok: flag('True if the script returned.'),
      result: {
        description: 'What it returned, any JSON. Missing if it returned nothing, failed, or is redacted.',
      },
      error: {
        type: 'object',
        description: 'Why it failed. Missing if it returned.',
        properties: {
          code: code('One of the codes of README, "Results".'),
          message: text("For people. Redacted: ''."),
        },
        required: ['code', 'message'],
      },
      redacted: redacted('the JSON of the result, or of the message of the error'),
      stats: {
        type: 'object',
        description: 'What it used.',
        properties: {
          durationMs: ms('From its start on a runtime to its end, in ms.'),
          toolCallCount: count('Tool calls that it made.'),
          stdoutBytes: count('Bytes of its `stdout` events, as UTF-8.'),
        },
        required: ['durationMs', 'toolCallCount', 'stdoutBytes'],
      },
    },
    required: ['ok', 'stats'],
  },
};

// ---- whole events ----------------------------------------------------------------------------------------

const DRAFT = 'https://json-schema.org/draft/2020-12/schema';
const ID_PATTERN = ID.source;

const ENVELOPE = {
  protocolVersion: { type: 'integer', const: PROTOCOL_VERSION, description: 'The version of the protocol.' },
  sessionId: {
    type: 'string',
    pattern: ID_PATTERN,
    description: 'The session; of a run without a session, the execution.',
  },
  seq: {
    type: 'integer',
    minimum: 1,
    description: 'Numbers the events of a session from 1, without a gap, over all its executions.',
  },
  executionId: {
    type: 'string',
    pattern: ID_PATTERN,
    description: 'The execution of the session. Missing in the events of an Enclave only.',
  },
  type: {
    type: 'string',
    pattern: '^[a-z][a-z0-9_]*$',
    description: 'The type, also the last token of the subject.',
  },
  payload: { type: 'object', description: 'What happened.' },
} as const satisfies Record<string, JsonSchema>;

const schemaOf = (type: EventType): JsonSchema => ({
  $schema: DRAFT,
  $id: `urn:enclave-actors:event:${PROTOCOL_VERSION}:${type}`,
  title: type,
  description: PAYLOADS[type].description,
  type: 'object',
  properties: {
    ...ENVELOPE,
    type: { type: 'string', const: type, description: ENVELOPE.type.description },
    payload: PAYLOADS[type],
  },
  required: ['protocolVersion', 'sessionId', 'seq', 'type', 'payload'],
});

/**
 * The events that brokers publish and `events_read` returns, as JSON Schemas of draft 2020-12; also those of an
 * Enclave's `onEvent` once they are JSON. Plain data: `JSON.stringify(eventSchemas.types.final)` is a schema file.
 */
export const eventSchemas: EventSchemas = {
  envelope: {
    $schema: DRAFT,
    $id: `urn:enclave-actors:event:${PROTOCOL_VERSION}`,
    title: 'event',
    description:
      'What every event has. Without `seq` it is not stored, and nothing is missed by ignoring it.',
    type: 'object',
    properties: ENVELOPE,
    required: ['protocolVersion', 'sessionId', 'type', 'payload'],
  },
  types: Object.fromEntries(
    (Object.keys(PAYLOADS) as EventType[]).map((type) => [type, schemaOf(type)]),
  ) as EventSchemas['types'],
};

// ---- the audit -------------------------------------------------------------------------------------------

const OUTCOMES: readonly AuditRecord['outcome'][] = ['completed', 'not_started', 'unknown'];
const ISOLATIONS = Object.keys({
  process: true,
  execution: true,
  context: true,
  realm: true,
} satisfies Record<AuditRecord['isolation'], true>) as readonly AuditRecord['isolation'][];
const id = (description: string): Text<string> => ({ type: 'string', pattern: ID_PATTERN, description });

const AUDIT: Fields<AuditRecord> = {
  type: 'object',
  description: 'An execution that has ended.',
  properties: {
    at: ms('When it ended, in ms since the epoch, by the clock of its broker.'),
    namespace: id('The namespace.'),
    session: id('The session. Missing for a run without one.'),
    execution: id('The execution.'),
    tenant: text('On whose behalf it was.'),
    scriptSha256: {
      type: 'string',
      pattern: '^[0-9a-f]{64}$',
      description: 'SHA-256 of the script as UTF-8, in hex.',
    },
    scriptBytes: count('Length of the script as UTF-8.'),
    isolation: { type: 'string', enum: ISOLATIONS, description: 'How it was kept apart from others.' },
    tools: {
      type: 'array',
      description: 'The tools that it called, those with the most calls first; at most 100.',
      items: {
        type: 'object',
        description: 'Calls of a tool.',
        properties: {
          name: text('The canonical name; `(invalid)` for all that are no names.'),
          calls: count('Calls of it.'),
          completed: count('Those that returned.'),
          failed: count('Those that failed, or were refused.'),
          unknown: count('Those of which nobody knows what they did.'),
          notStarted: count('Those that were not made before the execution ended.'),
        },
        required: ['name', 'calls', 'completed', 'failed', 'unknown', 'notStarted'],
      },
    },
    toolCalls: count('Calls of all tools.'),
    outcome: { type: 'string', enum: OUTCOMES, description: 'What is certain about it.' },
    code: code('The code of the error, or `OK`.'),
    durationMs: ms('From its first placement on a runtime to its end, in ms; 0 if it was never placed.'),
    queueMs: ms('From its acceptance to its first placement, or to its end, in ms.'),
    attempts: count('Times that it was offered to a runtime.'),
    runtime: id('The runtime that it was on at its end. Missing if it was on none.'),
    broker: id('The broker that committed its end.'),
  },
  required: [
    'at',
    'namespace',
    'execution',
    'tenant',
    'scriptSha256',
    'scriptBytes',
    'isolation',
    'tools',
    'toolCalls',
    'outcome',
    'code',
    'durationMs',
    'queueMs',
    'attempts',
    'broker',
  ],
};

/** The records of the audit, as a JSON Schema of draft 2020-12. Open, as those of events are. */
export const auditSchema: JsonSchema = {
  $schema: DRAFT,
  $id: 'urn:enclave-actors:audit:1',
  title: 'audit',
  ...AUDIT,
};
