/** The audit: one record of every execution that ends, whoever owned it, and nothing in it that its script made up. */
import { hash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect } from '@nats-io/transport-node';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import {
  type AuditRecord,
  auditSchema,
  createSystem,
  defineTool,
  EnclaveClient,
  type System,
} from '../../src/index.ts';
import { violations } from '../support/jsonschema.ts';
import { startNats } from '../support/nats.ts';
import { Parts } from '../support/parts.ts';
import { startBrokerPod, startRuntimePod } from '../support/pods.ts';
import { stopAll } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';
import { codeOf } from '../support/systems.ts';
import { errorIn, PATIENCE, valueIn } from './ends.ts';

const SECRET = 'confidential-9e11';
const tools = [
  defineTool({ name: 'letters:weigh', effect: 'read', handler: (args) => args }),
  defineTool({
    name: 'letters:lose',
    effect: 'read',
    handler: () => {
      throw new Error(SECRET);
    },
  }),
];

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((one) => one.close()));
});

/** A system that is audited, and its records. */
async function audited(): Promise<{ readonly system: System; readonly records: readonly AuditRecord[] }> {
  const records: AuditRecord[] = [];
  const write = (line: string): void => void records.push(JSON.parse(line) as AuditRecord);
  const system = await createSystem({ tools, pool: { poolSize: 1 }, audit: { write } });
  opened.push(system);
  return { system, records };
}

const sha256 = (text: string): string => hash('sha256', text, 'hex');

describe('a record', () => {
  it('says of a stateless run whose it was, which script, what it called and how it ended', async () => {
    const { system, records } = await audited();
    const script = `
      await callTool('letters:weigh', input);
      await callTool('letters.weigh', input);
      await callTool('letters:lose', 1).catch(() => 0);
      await callTool('nobody:has', 1).catch(() => 0);
      console.log(input);
      return input`;
    const result = await system.run(script, { tenant: 'acme', input: SECRET });
    expect(valueIn(result)).toBe(SECRET);
    expect(records).toHaveLength(1);
    const [record] = records;
    expect(record).toMatchObject({
      namespace: 'default',
      execution: result.executionId,
      tenant: 'acme',
      scriptSha256: sha256(script),
      scriptBytes: script.length,
      isolation: 'context',
      tools: [
        { name: 'letters.weigh', calls: 2, completed: 2, failed: 0, unknown: 0, notStarted: 0 },
        { name: 'letters.lose', calls: 1, completed: 0, failed: 1, unknown: 0, notStarted: 0 },
        { name: 'nobody.has', calls: 1, completed: 0, failed: 1, unknown: 0, notStarted: 0 },
      ],
      toolCalls: 4,
      outcome: 'completed',
      code: 'OK',
      attempts: 1,
      runtime: 'runtime-1',
      broker: 'broker-1',
      at: result.stats.endTime,
      durationMs: result.stats.duration,
    });
    expect(record).not.toHaveProperty('session');
    expect(JSON.stringify(records)).not.toContain(SECRET);
  });

  it('says of an execution of a session which session it was, and why it failed', async () => {
    const { system, records } = await audited();
    const session = await system.spawnSession({ tenant: 'acme', isolation: 'execution' });
    const result = await session.execute(`throw new Error('${SECRET}')`).result;
    expect(errorIn(result).message).toContain(SECRET);
    await expect.poll(() => records.length, PATIENCE).toBe(1);
    expect(records[0]).toMatchObject({
      session: session.id,
      execution: result.executionId,
      tenant: 'acme',
      isolation: 'execution',
      tools: [],
      code: 'SCRIPT_ERROR',
      outcome: 'completed',
    });
    expect(JSON.stringify(records)).not.toContain(SECRET);
  });

  it('fits its schema, in which every property is described', async () => {
    const { system, records } = await audited();
    await system.run('await callTool("letters:weigh"); return 1');
    await (await system.spawnSession()).execute('throw 1').result;
    await expect.poll(() => records.length, PATIENCE).toBe(2);
    for (const line of records) {
      // What pino adds.
      const {
        level: _level,
        time: _time,
        msg: _msg,
        ...record
      } = line as AuditRecord & {
        readonly level: number;
        readonly time: number;
        readonly msg: string;
      };
      expect(violations(auditSchema, record, { closed: true })).toEqual([]);
      const { execution: _execution, ...less } = record;
      expect(violations(auditSchema, less)).not.toEqual([]);
    }
  });

  it('goes to a logger of the user’s own, one line each', async () => {
    const lines: Record<string, unknown>[] = [];
    const logger = pino({ base: null }, { write: (line) => void lines.push(JSON.parse(line) as never) });
    const system = await createSystem({ pool: { poolSize: 1 }, audit: logger });
    opened.push(system);
    const { executionId } = await system.run('return 1');
    expect(lines).toEqual([
      expect.objectContaining({ msg: 'execution audited', audit: true, execution: executionId, level: 30 }),
    ]);
  });

  it('that cannot be written is told to the process’s own log, and the execution is what it was', async () => {
    const lines: Record<string, unknown>[] = [];
    const logger = pino({ base: null }, { write: (line) => void lines.push(JSON.parse(line) as never) });
    const write = (): never => {
      throw new Error('the disk is full');
    };
    const system = await createSystem({ pool: { poolSize: 1 }, logger, audit: { write } });
    opened.push(system);
    const result = await system.run('return 1');
    expect(valueIn(result)).toBe(1);
    const { executionId: execution } = result;
    expect(lines).toContainEqual(
      expect.objectContaining({ msg: 'a record of the audit could not be written', level: 50, execution }),
    );
  });

  it('is not made where nobody asks for it', async () => {
    const parts = new Parts();
    opened.push(parts);
    await parts.broker('b1');
    await parts.runtime('r1');
    expect(valueIn(await parts.client.run('return 1'))).toBe(1);
    await parts.until(() => parts.notices.some(({ type }) => type === 'execution.ended'), 'it was told');
    expect(parts.notices.filter(({ type }) => type === 'execution.audited')).toEqual([]);
  });
});

describe('the records of a durable session', () => {
  it('are told again by the broker that takes it over, which may be the first to tell them', async () => {
    const parts = new Parts();
    opened.push(parts);
    const first = await parts.broker('b1', { audit: true });
    await parts.runtime('r1');
    const session = await parts.session();
    const { executionId } = await session.execute('return 1').result;
    const records = () =>
      parts.notices.flatMap((notice) => (notice.type === 'execution.audited' ? [notice.record] : []));
    await parts.until(() => records().length === 1, 'the first owner has told it');
    // Nobody can tell whether that was heard: the owner dies before it could write down that it told.
    await first.halt();
    await parts.broker('b2', { audit: true });
    expect(valueIn(await session.execute('return 2').result)).toBe(2);
    await parts.until(() => records().length === 3, 'the second owner has told both');
    expect(records().map(({ execution }) => execution === executionId)).toEqual([true, true, false]);
    expect(records()[1]).toEqual(records()[0]);
    expect(records()[2]?.broker).toBe('b2');
  });
});

describe('enclave broker --audit', () => {
  it('adds a line to the file and publishes a message for each execution', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'enclave-audit-'));
    const file = path.join(folder, 'kept', 'audit.log');
    try {
      const [nats, redis] = await Promise.all([startNats(), startRedis()]);
      const args = ['--audit', file, '--redact-events'];
      const broker = await startBrokerPod({ nats: nats.url, redis: redis.url, args });
      const runtime = await startRuntimePod({ nats: nats.url });
      const wire = await connect({ servers: nats.url });
      const heard: AuditRecord[] = [];
      wire.subscribe('enclave.default.audit', {
        callback: (_error, message) => void heard.push(message.json()),
      });
      const events: string[] = [];
      wire.subscribe('enclave.default.session.*.event.*', {
        callback: (_error, message) => void events.push(message.string()),
      });
      await wire.flush();
      const client = new EnclaveClient({ serverUrl: nats.url });
      opened.push(client, wire);
      const { executionId } = await client.run('return input', { input: SECRET });
      const session = await client.spawnSession();
      const ended = await session.execute('console.log(input); return input', { input: SECRET }).result;
      await expect.poll(() => heard.length, PATIENCE).toBe(2);
      expect(await runtime.drain()).toBe(0);
      expect(await broker.drain()).toBe(0);
      const lines = readFileSync(file, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as AuditRecord);
      const told = [
        { execution: executionId, broker: broker.id, runtime: runtime.id },
        { execution: ended.executionId, session: session.id },
      ];
      expect(lines).toMatchObject(told);
      expect(heard).toMatchObject(told);
      await expect.poll(() => events.some((text) => text.includes('"final"')), PATIENCE).toBe(true);
      for (const text of [events.join(''), broker.output, runtime.output, JSON.stringify(lines)])
        expect(text).not.toContain(SECRET);
    } finally {
      await Promise.all(opened.splice(0).map((one) => one.close()));
      await stopAll();
      rmSync(folder, { recursive: true, force: true });
    }
  }, 60_000);
});

describe('the option', () => {
  it.each([[1], ['file'], [{}], [null]])('refuses %o', async (audit) => {
    const options = { audit } as unknown as Parameters<typeof createSystem>[0];
    expect(await codeOf(() => createSystem(options))).toBe('INVALID_ARGUMENT');
  });

  it('is refused where no broker is, for nothing would come of it', async () => {
    const options = { nats: 'nats://127.0.0.1:1', roles: ['runtime'], audit: true } as const;
    expect(await codeOf(() => createSystem(options))).toBe('INVALID_ARGUMENT');
  });
});
