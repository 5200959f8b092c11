/** The page of the audit against its schema, and where records go. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { systemClock } from '../../src/clock.ts';
import { type AuditRecord, auditSchema, type JsonSchema } from '../../src/index.ts';
import { auditor } from '../../src/ops/audit.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { schemaFaults, violations } from '../support/jsonschema.ts';

const PAGE = path.resolve(import.meta.dirname, '../../OBSERVABILITY.md');
const RECORD: AuditRecord = {
  at: 5,
  namespace: 'default',
  session: 's1',
  execution: 'e1',
  tenant: 'default',
  scriptSha256: 'ab'.repeat(32),
  scriptBytes: 8,
  isolation: 'context',
  tools: [{ name: 'a.b', calls: 1, completed: 1, failed: 0, unknown: 0, notStarted: 0 }],
  toolCalls: 1,
  outcome: 'completed',
  code: 'OK',
  durationMs: 1,
  queueMs: 0,
  attempts: 1,
  runtime: 'r1',
  broker: 'b1',
};

describe('the schema of the audit', () => {
  it('stands alone, and takes a record', () => {
    expect(schemaFaults(auditSchema)).toEqual([]);
    expect(violations(auditSchema, RECORD, { closed: true })).toEqual([]);
  });

  it.each([
    ['no execution', { execution: undefined }],
    ['a hash that is none', { scriptSha256: 'ab' }],
    ['an outcome that is none', { outcome: 'maybe' }],
    ['tools that are no list', { tools: {} }],
    ['a tool without a name', { tools: [{ calls: 1 }] }],
    ['half a call', { toolCalls: 0.5 }],
  ])('refuses a record with %s', (_what, wrong) => {
    const record = JSON.parse(JSON.stringify({ ...RECORD, ...wrong })) as object;
    expect(violations(auditSchema, record)).not.toEqual([]);
  });

  it('says what OBSERVABILITY.md says', () => {
    const text = readFileSync(PAGE, 'utf8');
    const [, part = ''] =
      /<!-- reference of the audit -->([\s\S]*?)<!-- end of reference -->/.exec(text) ?? [];
    const rows = [...part.matchAll(/^\| `([^`]+)` \| (.*) \|$/gm)].map(([, name, words]) => [name, words]);
    expect(rows).toEqual(rowsOf(auditSchema, ''));
  });
});

function rowsOf({ properties = {} }: JsonSchema, prefix: string): string[][] {
  return Object.entries(properties).flatMap(([name, schema]) => [
    [`${prefix}${name}`, schema.description ?? ''],
    ...(schema.items === undefined ? [] : rowsOf(schema.items, `${prefix}${name}[].`)),
  ]);
}

describe('a record', () => {
  const subjects = subjectsOf('test');

  it('is written, then published', async () => {
    const server = new MemoryBusServer({ clock: systemClock });
    const bus = server.connect();
    const told: unknown[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    bus.subscribe(subjects.audit, ({ body }) => {
      told.push(body);
      resolve();
    });
    auditor({ write: (line) => told.push(JSON.parse(line)) }, bus, subjects, undefined)(RECORD);
    await promise;
    expect(told).toMatchObject([{ ...RECORD, msg: 'execution audited' }, RECORD]);
    await server.close();
  });

  it('is written by a broker whose bus is closed, and does not stop it', async () => {
    const server = new MemoryBusServer({ clock: systemClock });
    const bus = server.connect();
    await bus.close();
    const lines: string[] = [];
    auditor(
      pino({ base: null }, { write: (line) => void lines.push(line) }),
      bus,
      subjects,
      undefined,
    )(RECORD);
    expect(lines).toHaveLength(1);
    await server.close();
  });
});
