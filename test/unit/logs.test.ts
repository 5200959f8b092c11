/** What stands in a log line, and at which level. */
import { type Logger, pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { BusError } from '../../src/bus/bus.ts';
import type { LinkStatus } from '../../src/bus/nats.ts';
import { childOf, linesTo, logBroker, logLink, logPool, logStore, logUntaken } from '../../src/ops/logs.ts';
import type { BrokerNotice } from '../../src/session/notice.ts';
import { StoreError } from '../../src/store/store.ts';

type Line = Readonly<Record<string, unknown>>;

const LEVELS: Readonly<Record<number, string>> = { 20: 'debug', 30: 'info', 40: 'warn', 50: 'error' };
const PASSWORD = 'hunter2-c0ffee';
const SCRIPT = 'return "script text"';

/** A logger, and its lines. */
function listen(level = 'debug'): { readonly logger: Logger; readonly lines: Line[] } {
  const lines: Line[] = [];
  const write = (text: string): void => void lines.push(JSON.parse(text) as Line);
  return { logger: pino({ level, base: null }, { write }), lines };
}

const of = { session: 's1', execution: 'e1' };
const ENDED = {
  type: 'execution.ended',
  ...of,
  result: '{"value":"secret result"}',
  outcome: 'completed',
  code: 'OK',
  latencyMs: 5,
  tenant: 'acme',
  source: SCRIPT,
} as const satisfies BrokerNotice;
const CALLED = {
  type: 'tool.ended',
  ...of,
  tool: 'letters:send',
  outcome: 'failed',
  code: 'TOOL_ERROR',
  durationMs: 1,
  args: '"secret argument"',
} as const satisfies BrokerNotice;

/** Every notice of a broker, and the level that it is worth. */
const NOTICES: readonly (readonly [level: string, notice: BrokerNotice])[] = [
  ['warn', { type: 'lease.lost', incarnation: 'b1.x', reason: 'it was not renewed in time' }],
  ['info', { type: 'session.taken_over', session: 's1', epoch: 2, from: 'b0.x' }],
  ['debug', { type: 'session.fenced', session: 's1' }],
  ['warn', { type: 'session.too_new', session: 's1' }],
  ['debug', { type: 'session.handed_over', session: 's1', to: 'b2' }],
  ['debug', ENDED],
  ['debug', { type: 'execution.replayed', ...of, reason: 'runtime_lost' }],
  ['debug', CALLED],
  ['info', { type: 'runtime.heard', runtime: 'r1' }],
  ['info', { type: 'runtime.gone', runtime: 'r1', drained: true }],
  ['warn', { type: 'runtime.gone', runtime: 'r1', drained: false }],
  ['warn', { type: 'tool.conflict', tool: 'a', effects: ['read', 'unsafe'] }],
  ['info', { type: 'runtimes.scaled', from: 1, to: 2, reason: 'load' }],
  ['warn', { type: 'scaling.failed', reason: 'no room' }],
  ['warn', { type: 'message.dropped', subject: 'a.b', field: 't', count: 3 }],
  ['warn', { type: 'error', session: 's1', error: new StoreError('UNAVAILABLE', 'load', 'away') }],
  ['error', { type: 'error', session: undefined, error: new TypeError('a defect') }],
];

describe('the lines of a broker', () => {
  it.each(NOTICES)('%s: %o', (level, notice) => {
    const { logger, lines } = listen();
    logBroker(logger, 'b1')(notice);
    expect(lines).toHaveLength(1);
    expect(LEVELS[Number(lines[0]?.level)]).toBe(level);
    expect(lines[0]).toMatchObject({ broker: 'b1', msg: expect.any(String) });
    for (const field of ['session', 'execution', 'runtime', 'code', 'tenant'] as const)
      expect(lines[0]?.[field]).toBe((notice as Line)[field]);
  });

  it('have the same words for the same fact, whatever it is about', () => {
    const { logger, lines } = listen();
    const log = logBroker(logger, 'b1');
    for (const id of ['r1', 'r2']) log({ type: 'runtime.heard', runtime: id });
    expect(lines.map(({ msg }) => msg)).toEqual(['runtime is there', 'runtime is there']);
    expect(lines.map(({ runtime }) => runtime)).toEqual(['r1', 'r2']);
  });

  it('grow at info with processes, not with executions', () => {
    const { logger, lines } = listen('info');
    const log = logBroker(logger, 'b1');
    for (let n = 0; n < 100; n++) {
      log(ENDED);
      log(CALLED);
      log({ type: 'execution.replayed', ...of, reason: 'given_back' });
    }
    expect(lines).toEqual([]);
  });

  it('hold a script, arguments and results only if the operator asks for them', () => {
    const quiet = listen();
    const open = listen();
    for (const notice of [ENDED, CALLED]) {
      logBroker(quiet.logger, 'b1')(notice);
      logBroker(open.logger, 'b1', { content: true })(notice);
    }
    expect(JSON.stringify(quiet.lines)).not.toMatch(/secret|script text/);
    expect(open.lines[0]).toMatchObject({ source: SCRIPT, result: ENDED.result });
    expect(open.lines[1]).toMatchObject({ args: CALLED.args });
  });

  it('say nothing of records of the audit, which have a log of their own', () => {
    const { logger, lines } = listen();
    logBroker(logger, 'b1')({ type: 'execution.audited', record: {} as never });
    expect(lines).toEqual([]);
  });
});

describe('errors in a line', () => {
  const url = `redis://user:${PASSWORD}@10.0.0.1:6379/0`;

  it('show kind, code, message and stack, and those of their causes', () => {
    const { logger, lines } = listen();
    const cause = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED', port: 6379 });
    const error = new BusError('TIMEOUT', 'a.b', 'no answer');
    error.cause = cause;
    childOf(logger, {}).warn({ err: error }, 'failed');
    expect(lines[0]?.err).toMatchObject({
      type: 'BusError',
      code: 'TIMEOUT',
      subject: 'a.b',
      message: 'a.b: no answer',
      stack: expect.stringContaining('logs.test.ts'),
      cause: { message: 'connect ECONNREFUSED', code: 'ECONNREFUSED', port: 6379 },
    });
  });

  it('show no credentials of urls, in messages, stacks, causes or fields', () => {
    const { logger, lines } = listen();
    const child = childOf(logger, { broker: 'b1' });
    const error = new Error(`cannot reach ${url}`, { cause: new Error(`nats://tok-${PASSWORD}@host`) });
    child.warn({ err: error, url, reason: `gave up on ${url}` }, 'failed');
    const text = JSON.stringify(lines);
    expect(text).not.toContain(PASSWORD);
    expect(text).toContain('redis://[redacted]@10.0.0.1:6379/0');
  });

  it.each([
    ['a user and a password', `nats://me:${PASSWORD}@h:4222`],
    ['a token', `nats://${PASSWORD}@h:4222`],
    ['a password alone', `redis://:${PASSWORD}@h`],
    ['a password with an @', `redis://u:p@${PASSWORD}@h`],
    ['several urls', `nats://a:${PASSWORD}@h1,nats://b:${PASSWORD}@h2`],
    ['upper case', `TLS://me:${PASSWORD}@h`],
  ])('show no %s', (_what, text) => {
    const { logger, lines } = listen();
    childOf(logger, {}).info({ text }, 'a line');
    expect(JSON.stringify(lines)).not.toContain(PASSWORD);
    expect(lines[0]?.text).toContain('@h');
  });

  it('show none of the properties that strangers hang on errors', () => {
    const { logger, lines } = listen();
    const error = Object.assign(new Error('it failed'), {
      options: { password: PASSWORD },
      args: [PASSWORD],
    });
    childOf(logger, {}).error({ err: error }, 'failed');
    expect(JSON.stringify(lines)).not.toContain(PASSWORD);
  });

  it('may be anything that was thrown', () => {
    const { logger, lines } = listen();
    const log = logBroker(logger, 'b1');
    for (const error of ['text', undefined, null, { a: 1 }, Object.create(null)])
      log({ type: 'error', session: undefined, error });
    expect(lines).toHaveLength(5);
  });
});

describe('the lines of a pool', () => {
  it('are errors only where somebody must act', () => {
    const { logger, lines } = listen();
    const pool = logPool(logger.child({ runtime: 'r1' }));
    pool.workerReady('w1', 7, 1.5);
    pool.workerRetired('w1', 'memory', '');
    pool.workerRetired('w1', 'crash', 'SIGKILL');
    pool.escalated(1_000, 3);
    pool.violation('w1', new Error('not JSON'));
    expect(lines.map(({ level }) => LEVELS[Number(level)])).toEqual([
      'debug',
      'debug',
      'warn',
      'error',
      'error',
    ]);
    expect(lines.every(({ runtime }) => runtime === 'r1')).toBe(true);
  });
});

describe('the lines of a connection to NATS', () => {
  const STATUSES: readonly (readonly [string, LinkStatus])[] = [
    ['info', { type: 'connected', server: 'h:4222' }],
    ['warn', { type: 'disconnected' }],
    ['warn', { type: 'slow', subject: 'a', dropped: 1, handle: 'b1' }],
    [
      'error',
      { type: 'refused', operation: 'publish', subject: 'a', error: new BusError('FORBIDDEN', 'a', 'no') },
    ],
    ['warn', { type: 'error', error: new Error('slow') }],
    ['error', { type: 'closed', error: new Error('gone') }],
  ];

  it.each(STATUSES)('%s: %o', (level, status) => {
    const { logger, lines } = listen();
    logLink(logger)(status);
    expect(lines.map((line) => LEVELS[Number(line.level)])).toEqual([level]);
  });

  it('say nothing of a connection that we close', () => {
    const { logger, lines } = listen();
    logLink(logger)({ type: 'closed', error: undefined });
    expect(lines).toEqual([]);
  });

  it('warn of messages that nobody can read, and of a store that is set up wrongly', () => {
    const { logger, lines } = listen();
    logUntaken(logger)(new TypeError('dropped a message of 3 bytes that is not JSON'), 'a.b');
    logStore(logger)({ setting: 'appendonly', value: 'no' });
    expect(lines.map(({ level }) => level)).toEqual([40, 40]);
  });
});

describe('lines for a stream', () => {
  it('are JSON, one a write, without the names of process and host', () => {
    const written: string[] = [];
    linesTo({ write: (line) => written.push(line) }).info({ a: 1 }, 'told');
    expect(written).toHaveLength(1);
    expect(written[0]?.endsWith('\n')).toBe(true);
    expect(Object.keys(JSON.parse(written[0] ?? '') as Line)).toEqual(['level', 'time', 'a', 'msg']);
  });
});
