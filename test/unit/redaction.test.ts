/** What is left of an event that is redacted. */
import { describe, expect, it } from 'vitest';
import { type EventPayloads, type EventType, eventSchemas } from '../../src/index.ts';
import { redactedPayload } from '../../src/session/redaction.ts';
import { violations } from '../support/jsonschema.ts';

const SECRET = 'confidential-22d0';
const SEED = [1, 2, 3, 4];
const STATS = { durationMs: 1, toolCallCount: 0, stdoutBytes: 0 };

const FULL: { readonly [T in EventType]: EventPayloads[T] } = {
  session_init: { executionId: 'e1' },
  stdout: { chunk: `${SECRET}\n` },
  log: { level: 'warn', message: SECRET },
  tool_call: { callId: 'e1/0', toolName: 'a:b', args: { text: SECRET } },
  tool_result_applied: { callId: 'e1/0', ok: true },
  deadline_exceeded: { elapsedMs: 1, budgetMs: 1 },
  error: { code: 'X', message: SECRET, recoverable: true },
  final: { ok: true, result: [SECRET], stats: STATS },
};
const TYPES = Object.keys(FULL) as EventType[];

const redact = <T extends EventType>(type: T, payload: EventPayloads[T], seed = SEED): EventPayloads[T] =>
  redactedPayload(type, payload, seed);

describe('a redacted event', () => {
  it.each(TYPES)('%s holds nothing of its content, and fits its schema', (type) => {
    const payload = redact(type, FULL[type]);
    expect(JSON.stringify(payload)).not.toContain(SECRET);
    const event = { protocolVersion: 2, sessionId: 's', seq: 1, executionId: 'e1', type, payload };
    const wire = JSON.parse(JSON.stringify(event)) as object;
    expect(violations(eventSchemas.types[type], wire, { closed: true })).toEqual([]);
  });

  it('keeps what is not content', () => {
    expect(redact('session_init', FULL.session_init)).toEqual(FULL.session_init);
    expect(redact('tool_result_applied', FULL.tool_result_applied)).toEqual(FULL.tool_result_applied);
    expect(redact('deadline_exceeded', FULL.deadline_exceeded)).toEqual(FULL.deadline_exceeded);
    expect(redact('tool_call', FULL.tool_call)).toMatchObject({ callId: 'e1/0', toolName: 'a:b' });
    expect(redact('log', FULL.log)).toMatchObject({ level: 'warn', message: '' });
    expect(redact('final', FULL.final)).toMatchObject({ ok: true, stats: STATS });
  });

  it('tells the length of what is missing, in bytes', () => {
    const bytes = (payload: { readonly redacted?: { readonly bytes: number } }) => payload.redacted?.bytes;
    expect(bytes(redact('stdout', { chunk: 'käse\n' }))).toBe(6);
    expect(bytes(redact('tool_call', { callId: 'e1/0', toolName: 'a', args: { a: 1 } }))).toBe(7);
    expect(bytes(redact('final', { ok: true, result: 'abc', stats: STATS }))).toBe(5);
  });

  it('has the code of an error and not its message', () => {
    const error = { code: 'SCRIPT_ERROR', message: SECRET };
    expect(redact('final', { ok: false, error, stats: STATS })).toEqual({
      ok: false,
      error: { code: 'SCRIPT_ERROR', message: '' },
      redacted: { bytes: SECRET.length, hash: expect.stringMatching(/^[\w-]{43}$/) },
      stats: STATS,
    });
  });

  it('of which nothing is missing says so', () => {
    expect(redact('final', { ok: true, stats: STATS })).toEqual({ ok: true, stats: STATS });
    const call = { callId: 'e1/0', toolName: 'a', args: undefined };
    expect(redact('tool_call', call)).not.toHaveProperty('redacted');
  });
});

describe('the hash', () => {
  const hashOf = (chunk: string, seed = SEED) => redact('stdout', { chunk }, seed).redacted?.hash;

  it('is the same for the same text of one execution, and for no other', () => {
    expect(hashOf('a')).toBe(hashOf('a'));
    expect(hashOf('a')).not.toBe(hashOf('b'));
    expect(hashOf('a')).not.toBe(hashOf('a', [1, 2, 3, 5]));
  });
});
