/** What comes from outside to a broker: every message is one, or is dropped or answered by a name of what is wrong. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { MOST_LIMITS, resolveSessionLimits } from '../../src/options.ts';
import type { CreateSession, Reply, Report, RunScript, SessionCommand } from '../../src/protocol.ts';
import { allowanceOf } from '../../src/session/allowance.ts';
import {
  activateOf,
  askOf,
  attempt,
  commandOf,
  createOf,
  listSessionsOf,
  listToolsOf,
  readEventsOf,
  runOf,
} from '../../src/session/asked.ts';
import { Broker, type BrokerNotice } from '../../src/session/broker.ts';
import {
  brokerBeatOf,
  Dropped,
  isCallTaken,
  isProbeAnswer,
  isProbedCalls,
  providerMessageOf,
  replyOf,
  runtimeBeatOf,
} from '../../src/session/heard.ts';
import { reportOf, withinLimits } from '../../src/session/reports.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('t');
const ATTEMPT = 'A'.repeat(22);
const usage = { cpu: 1, heap: 2 };
const limits = resolveSessionLimits(undefined);

const report = {
  t: 'report',
  attempt: ATTEMPT,
  execution: 'e1',
  runtime: 'r1',
  n: 1,
  received: 0,
  items: [
    { kind: 'output', level: '', text: 'hello' },
    { kind: 'call', index: 0, name: 'users:get', json: '[1]' },
    { kind: 'sleep', index: 1, ms: 10 },
    { kind: 'applied', index: 0 },
  ],
  waiting: true,
  end: undefined,
} satisfies Report;
const create = {
  session: 's1',
  creation: 'c1',
  labels: { team: 'a' },
  tools: ['users.get'],
  ttlMs: 0,
  limits,
  isolation: 'context',
  durability: 'session',
  maxConcurrentExecutions: 1,
  state: '{}',
} satisfies CreateSession;
const run = {
  run: 'run-x1',
  source: 'return 1',
  input: '',
  limits,
  seed: [1, 2, 3, 4],
  isolation: 'context',
  tenant: '',
  tools: undefined,
  labels: {},
  events: false,
  tell: '',
} satisfies RunScript;
const execute = {
  t: 'execute',
  execution: 'e1',
  issuedAt: 1,
  source: 'return 1',
  input: '{"a":1}',
  limits: undefined,
  seed: [1, 2, 3, 4],
  tell: subjects.clientResult('c1'),
} satisfies SessionCommand;
const runtimeBeat = {
  runtime: 'r1',
  labels: { zone: 'a' },
  capacity: 4,
  load: 1,
  draining: false,
  versions: { engine: '1', prelude: '2', stripper: '3' },
  intervalMs: 1_000,
};
const ended = {
  t: 'ended',
  key: 's1/e1/0',
  provider: 'p1',
  end: { ok: true, json: '1' },
  durationMs: 1,
};

/** A value with one field replaced; a path such as `items.0.text`. */
function but(body: object, field: string, value: unknown): object {
  const copy = structuredClone(body) as Record<string, unknown>;
  const path = field.split('.');
  const last = path.pop() ?? '';
  let place = copy;
  for (const step of path) place = place[step] as Record<string, unknown>;
  place[last] = value;
  return copy;
}

/** The key that the check names. */
function wrongIn(check: () => unknown): unknown {
  const asked = attempt(check);
  return asked.ok ? undefined : asked.error.details?.key;
}

describe('a report', () => {
  it('passes as it is, in every form that a runtime makes', () => {
    const ends: readonly Report['end'][] = [
      { kind: 'returned', json: '', state: undefined, usage },
      { kind: 'returned', json: '[1]', state: '{"a":1}', usage },
      { kind: 'failed', code: 'SCRIPT_ERROR', name: 'Error', message: 'no', stack: '', usage },
      { kind: 'refused', code: 'OVERLOADED', message: 'no', retryAfterMs: 5 },
      { kind: 'lost', alone: true },
      { kind: 'stopped' },
    ];
    expect(reportOf(report, ATTEMPT)).toBe(report);
    for (const end of ends) expect(reportOf({ ...report, end }, ATTEMPT)).toMatchObject({ end });
  });

  it('of a newer runtime may say more', () => {
    expect(reportOf({ ...report, colour: 'red' }, ATTEMPT)).toMatchObject({ n: 1 });
    const end = { kind: 'failed', code: 'NEWER_CODE', name: 'E', message: '', stack: '', usage };
    expect(reportOf({ ...report, end }, ATTEMPT)).toMatchObject({ end: { code: 'NEWER_CODE' } });
  });

  it.each([
    ['t', 'ended'],
    ['attempt', 'B'.repeat(22)],
    ['execution', 'a/b'],
    ['runtime', 'r1.cmd'],
    ['n', 0],
    ['n', '1'],
    ['received', -1],
    ['received', 1.5],
    ['waiting', undefined],
    ['items', {}],
    ['items.0', null],
    ['items.0.kind', 'outputs'],
    ['items.0.level', 'fatal'],
    ['items.0.text', 1],
    ['items.1.index', -1],
    ['items.1.name', { toString: 1 }],
    ['items.1.json', undefined],
    ['items.2.ms', Number.NaN],
    ['items.2.ms', 1e300],
    ['items.2.index', '1'],
    ['items.3.index', null],
    ['end', null],
    ['end', { kind: 'won' }],
    ['end', { kind: 'returned', json: '1,"success":false', state: undefined, usage }],
    ['end', { kind: 'returned', json: '1', state: '[]', usage }],
    ['end', { kind: 'returned', json: '1', state: '{', usage }],
    ['end', { kind: 'returned', json: '1', state: undefined, usage: { cpu: -1, heap: 0 } }],
    ['end', { kind: 'failed', code: '__proto__', name: '', message: '', stack: '', usage }],
    ['end', { kind: 'failed', code: 'CANCELLED', name: '', message: 1, stack: '', usage }],
    ['end', { kind: 'refused', code: 'OVERLOADED', message: '', retryAfterMs: Number.POSITIVE_INFINITY }],
    ['end', { kind: 'lost' }],
  ])('whose %s is wrong (%j) is none', (field, value) => {
    const wrong = reportOf(but(report, field, value), ATTEMPT);
    const [first = '', index] = field.split('.');
    expect(wrong).toEqual(expect.stringMatching(`^${first}${index === undefined ? '' : `\\[${index}\\]`}`));
  });

  it('that holds more than the execution may keep ends as what passed its limit', () => {
    const small = { maxResultBytes: 4, maxStateBytes: 4 };
    const returned = { kind: 'returned', json: '1', state: '{}', usage } as const;
    expect(withinLimits(returned, small)).toBe(returned);
    expect(withinLimits({ ...returned, json: '"€"' }, small)).toMatchObject({
      code: 'RESULT_LIMIT_EXCEEDED',
    });
    expect(withinLimits({ ...returned, state: '{"a":1}' }, small)).toMatchObject({
      kind: 'failed',
      code: 'STATE_LIMIT_EXCEEDED',
    });
    expect(withinLimits(undefined, small)).toBeUndefined();
  });
});

describe('a heartbeat', () => {
  it('counts for the id in its subject and for no other', () => {
    expect(runtimeBeatOf(runtimeBeat, 'r1')).toBe(runtimeBeat);
    expect(runtimeBeatOf(runtimeBeat, 'r2')).toBe('runtime');
    const beat = { broker: 'b1', sessions: 1, draining: false, intervalMs: 1_000 };
    expect(brokerBeatOf(beat, 'b1')).toBe(beat);
    expect(brokerBeatOf(beat, 'b2')).toBe('broker');
  });

  it.each([
    ['labels', { zone: 1 }],
    ['labels', []],
    ['labels', Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`k${index}`, '']))],
    ['capacity', -1],
    ['load', '0'],
    ['draining', 0],
    ['versions', { engine: '1' }],
    ['versions', null],
    ['intervalMs', 0],
    ['intervalMs', 1e12],
  ])('whose %s is wrong (%j) is none', (field, value) => {
    expect(runtimeBeatOf(but(runtimeBeat, field, value), 'r1')).toBe(field);
  });
});

describe('what a provider says', () => {
  it('passes as it is, in every form', () => {
    for (const end of [
      { ok: true, json: '' },
      { ok: true, json: '{"a":1}' },
      { ok: false, code: 'TOOL_ERROR', message: '' },
      { ok: 'unknown' },
      { ok: 'not_started' },
    ])
      expect(providerMessageOf({ ...ended, end }, 's1')).toMatchObject({ end });
    expect(providerMessageOf({ t: 'alive', key: 's1/e1/12', provider: 'p1' }, 's1')).toMatchObject({
      t: 'alive',
    });
  });

  it.each([
    ['t', 'report'],
    ['key', 's2/e1/0'],
    ['key', 's1/e1'],
    ['key', 's1/e1/0/1'],
    ['key', 's1/e1/01'],
    ['key', 's1/e1/1e3'],
    ['key', 7],
    ['provider', 'p1.>'],
    ['provider', ''],
    ['end', { ok: true, json: '{' }],
    ['end', { ok: false, message: '' }],
    ['end', { ok: 1 }],
    ['end', null],
    ['durationMs', Number.NaN],
  ])('whose %s is wrong (%j) is nothing', (field, value) => {
    expect(providerMessageOf(but(ended, field, value), 's1')).toBe(field);
  });
});

describe('an answer', () => {
  it('is one if it and its value are', () => {
    const taken = { ok: true, epoch: 1, value: { provider: 'p1' } };
    expect(replyOf(taken, isCallTaken)).toBe(taken);
    expect(replyOf({ ...taken, value: { provider: 'p.1' } }, isCallTaken)).toBeUndefined();
    expect(replyOf({ ...taken, value: { running: true, received: -1 } }, isProbeAnswer)).toBeUndefined();
    expect(replyOf({ ...taken, value: { missing: [1] } }, isProbedCalls)).toBeUndefined();
    expect(replyOf({ ok: false, epoch: 1 }, isCallTaken)).toBeUndefined();
    expect(replyOf({ ok: true, value: taken.value }, isCallTaken)).toBeUndefined();
    const error = { code: 'OVERLOADED', message: '', retryable: true, outcome: 'not_started' };
    expect(replyOf({ ok: false, epoch: 1, error }, isCallTaken)).toMatchObject({ error });
  });
});

describe('what a client asks', () => {
  it('passes as it is', () => {
    expect(createOf(create)).toEqual(create);
    expect(runOf(run, subjects)).toEqual(run);
    expect(commandOf(execute, subjects)).toBe(execute);
    expect(commandOf({ ...execute, tell: '' }, subjects)).toMatchObject({ t: 'execute' });
  });

  it.each([
    ['session', 'a.b'],
    ['session', 'run-1'],
    ['creation', ''],
    ['labels', { a: {} }],
    ['tools', ['a b']],
    ['tools', 'users.get'],
    ['ttlMs', -1],
    ['limits', undefined],
    ['isolation', 'none'],
    ['durability', 'forever'],
    ['maxConcurrentExecutions', 1_000_000],
    ['state', '[]'],
    ['state', '{"a":'],
  ])('to create a session whose %s is wrong (%j) is refused by its name', (field, value) => {
    expect(wrongIn(() => createOf(but(create, field, value)))).toMatch(new RegExp(`^${field}`));
  });

  it('gets what it does not say from the broker, and no more than the broker grants', () => {
    const base = resolveSessionLimits({ timeoutMs: 5, cpuMs: 9 });
    const most = resolveSessionLimits({ cpuMs: 7 }, MOST_LIMITS);
    const allowance = allowanceOf({ limits: base, most, isolation: 'execution' });
    const silent = { limits: {}, isolation: undefined };
    const granted = { limits: { ...base, cpuMs: 7 }, isolation: 'execution' };
    expect(createOf({ ...create, ...silent }, allowance)).toMatchObject(granted);
    expect(runOf({ ...run, ...silent }, subjects, allowance)).toMatchObject(granted);
    for (const cpuMs of [7, 8]) {
      const asked = { limits: { cpuMs }, isolation: 'process' };
      const answers = [
        () => createOf({ ...create, ...asked }, allowance),
        () => runOf({ ...run, ...asked }, subjects, allowance),
      ];
      for (const answer of answers)
        if (cpuMs === 7) expect(answer()).toMatchObject({ limits: { ...base, cpuMs }, isolation: 'process' });
        else expect(wrongIn(answer)).toBe('options.limits.cpuMs');
    }
    const realm = allowanceOf({ isolation: 'realm' });
    expect(wrongIn(() => createOf({ ...create, isolation: undefined, durability: 'session' }, realm))).toBe(
      'options.isolation',
    );
  });

  // Its events are published under its name.
  it.each([
    ['run', 'session-1'],
    ['run', 'run-a.b'],
    ['source', undefined],
    ['input', 'x'],
    ['seed', '1234'],
    ['tenant', {}],
    ['events', 1],
    ['tell', subjects.brokerCmd('b1')],
  ])('to run a script with a wrong %s (%j) is refused by its name', (field, value) => {
    expect(wrongIn(() => runOf(but(run, field, value), subjects))).toBe(field);
  });

  it('names the limit that is wrong', () => {
    expect(wrongIn(() => createOf({ ...create, limits: { ...limits, memoryBytes: 1e15 } }))).toBe(
      'limits.memoryBytes',
    );
    expect(wrongIn(() => createOf({ ...create, limits: { ...limits, toString: 1 } }))).toBe(
      'limits.toString',
    );
  });

  it.each([
    ['execution', 'a/b', 'commandId'],
    ['issuedAt', '1', 'issuedAt'],
    ['source', 1, 'source'],
    ['input', '{', 'input'],
    // It is written into JSON as it is.
    ['seed', ['1],"x":[1', 2, 3, 4], 'seed'],
    ['seed', [1, 2, 3], 'seed'],
    ['seed', [1, 2, 3, Number.NaN], 'seed'],
    ['tell', undefined, 'tell'],
    ['tell', subjects.sessionEvent('s1', 'final'), 'tell'],
    ['tell', subjects.runtimeCmd('r1'), 'tell'],
    ['tell', 'enclave.other.client.c1.result', 'tell'],
    ['tell', subjects.clientResult('a.b'), 'tell'],
    ['t', 'explode', 't'],
    ['t', { toString: 1, valueOf: 1 }, 'body'],
  ])('to execute with a wrong %s (%j) is refused by its name', (field, value, named) => {
    expect(wrongIn(() => commandOf(but(execute, field, value), subjects))).toBe(named);
  });

  it.each([
    [{ t: 'cancel', execution: 'e1' }, 'reason'],
    [{ t: 'cancel', execution: '', reason: '' }, 'execution'],
    [{ t: 'result' }, 'execution'],
    [{ t: 'events', fromSeq: '1', limit: 1 }, 'fromSeq'],
    [{ t: 'events', fromSeq: 1 }, 'limit'],
    [{ t: 'migrate', to: '*' }, 'to'],
    [{ t: 'migrate', fromEpoch: -1 }, 'fromEpoch'],
  ])('%j is refused as its %s', (command, named) => {
    expect(wrongIn(() => commandOf(command, subjects))).toBe(named);
  });
});

describe('whatever JSON comes', () => {
  const checks: readonly (readonly [string, (body: unknown) => unknown])[] = [
    ['a report', (body) => reportOf(body, ATTEMPT)],
    ['a heartbeat of a runtime', (body) => runtimeBeatOf(body, 'r1')],
    ['a heartbeat of a broker', (body) => brokerBeatOf(body, 'b1')],
    ['what a provider says', (body) => providerMessageOf(body, 's1')],
    ['an answer', (body) => replyOf(body, isProbeAnswer)],
    ['a creation', (body) => attempt(() => createOf(body))],
    ['a run', (body) => attempt(() => runOf(body, subjects))],
    ['a command', (body) => attempt(() => commandOf(body, subjects))],
    ['an activation', (body) => attempt(() => activateOf(body))],
    ['a question', (body) => attempt(() => askOf(body))],
    ['a page of events', (body) => attempt(() => readEventsOf(body))],
    ['a page of sessions', (body) => attempt(() => listSessionsOf(body))],
    ['a page of tools', (body) => attempt(() => listToolsOf(body))],
  ];
  const fields = (body: object): fc.Arbitrary<object> =>
    fc
      .tuple(fc.constantFrom(...Object.keys(body)), fc.jsonValue())
      .map(([field, value]) => ({ ...body, [field]: value }));
  const bodies = fc.oneof(
    fc.jsonValue(),
    ...[report, create, run, execute, runtimeBeat, ended].map(fields),
    fields({ ...report, items: [] }),
    fc.jsonValue().map((item) => ({ ...report, items: [item] })),
    fc
      .record({ kind: fc.constantFrom('returned', 'failed', 'refused', 'lost'), json: fc.jsonValue() })
      .map((end) => ({ ...report, end })),
  );

  it.each(checks)('it is %s, or is not, and nothing is thrown', (_, check) => {
    fc.assert(
      fc.property(bodies, (body) => {
        check(body);
      }),
      { numRuns: 400 },
    );
  });
});

describe('dropped messages', () => {
  it('are told once a second, with their count', async () => {
    const clock = new VirtualClock();
    const notices: BrokerNotice[] = [];
    const dropped = new Dropped(clock, (notice) => notices.push(notice));
    for (let index = 0; index < 100; index++) dropped.note('enclave.t.x', 'n');
    await clock.advance(1_000);
    dropped.note('enclave.t.y', 't');
    expect(notices).toEqual([
      { type: 'message.dropped', subject: 'enclave.t.x', field: 'n', count: 1 },
      { type: 'message.dropped', subject: 'enclave.t.y', field: 't', count: 100 },
    ]);
  });
});

describe('a broker among hostile neighbours', () => {
  let broker: Broker;
  let server: MemoryBusServer;
  let notices: BrokerNotice[];
  const clock = new VirtualClock();

  beforeEach(async () => {
    notices = [];
    server = new MemoryBusServer({
      clock,
      onError: (error) => {
        throw error;
      },
    });
    const store = new MemoryStore({ clock });
    broker = new Broker({
      id: 'b1',
      bus: server.connect(),
      store,
      clock,
      subjects,
      tool: () => undefined,
      // That its runtime is there is no news here.
      onNotice: (notice) => void (notice.type === 'runtime.heard' || notices.push(notice)),
    });
    await broker.start();
  });
  afterEach(async () => {
    broker.abandon();
    await server.close();
  });

  const ask = async (subject: string, body: unknown): Promise<Reply<unknown>> => {
    const reply = server.connect().request(subject, body as object, { timeoutMs: 1_000 });
    await clock.settle();
    return (await reply) as Reply<unknown>;
  };
  const says = async (subject: string, body: object): Promise<void> => {
    server.connect().publish(subject, body);
    await clock.settle();
  };
  /** A session with an execution offered to `r1`, which accepts it. Resolves with the attempt. */
  const offered = async (): Promise<string> => {
    const runtime = server.connect();
    let attempt = '';
    runtime.subscribe(subjects.runtimeCmd('r1'), ({ body, respond }) => {
      const command = body as { readonly t: string; readonly attempt: string };
      if (command.t === 'offer') attempt = command.attempt;
      respond?.({ ok: true, value: { versions: undefined }, epoch: 1 });
    });
    await says(subjects.runtimeHeartbeat('r1'), { ...runtimeBeat, versions: undefined });
    expect(await ask(subjects.broker('session_create'), create)).toMatchObject({ ok: true });
    expect(await ask(subjects.sessionCmd('s1'), execute)).toMatchObject({ ok: true });
    await clock.advance(100);
    expect(attempt).not.toBe('');
    return attempt;
  };
  const finished = async (): Promise<unknown> => {
    const reply = await ask(subjects.sessionCmd('s1'), { t: 'result', execution: 'e1' });
    return reply.ok && (reply.value as { status: string }).status;
  };

  it.each([
    ['session_create', 'session'],
    ['session_activate', 'session'],
    ['session_info', 'session'],
    ['session_result', 'session'],
    ['events_read', 'session'],
    ['journal_read', 'session'],
    ['run', 'run'],
  ] as const)('answers %s of nothing by the name of the %s', async (verb, key) => {
    const refusal = { code: 'INVALID_ARGUMENT', retryable: false, details: { key } };
    expect(await ask(subjects.broker(verb), {})).toMatchObject({ ok: false, error: refusal });
    expect(await ask(subjects.broker(verb), [])).toMatchObject({
      ok: false,
      error: { details: { key: 'body' } },
    });
    expect(notices).toEqual([]);
  });

  it('takes a report from the runtime that has the attempt, and from no other', async () => {
    const attempt = await offered();
    const end = { kind: 'returned', json: '7', state: undefined, usage };
    const real = { ...report, attempt, items: [], waiting: false, end };
    await says(subjects.sessionIn('s1', attempt), { ...real, runtime: 'r2' });
    expect(await finished()).toBe('running');
    // Under the subject of another attempt, and under that of providers.
    await says(subjects.sessionIn('s1', ATTEMPT), real);
    await says(subjects.sessionTools('s1'), real);
    expect(await finished()).toBe('running');
    await says(subjects.sessionIn('s1', attempt), real);
    expect(await finished()).toBe('ended');
  });

  it('drops a result that is no JSON, and goes on', async () => {
    const attempt = await offered();
    const end = { kind: 'returned', json: '}{', state: undefined, usage };
    const real = { ...report, attempt, items: [], waiting: false };
    await says(subjects.sessionIn('s1', attempt), { ...real, end });
    expect(await finished()).toBe('running');
    expect(notices).toEqual([
      { type: 'message.dropped', subject: subjects.sessionIn('s1', attempt), field: 'end.json', count: 1 },
    ]);
    await says(subjects.sessionIn('s1', attempt), { ...real, end: { ...end, json: '{}' } });
    expect(await finished()).toBe('ended');
  });

  it('does not take the end of a call from where runtimes speak', async () => {
    const attempt = await offered();
    const call = { kind: 'call', index: 0, name: 'nobody:has', json: '' };
    await says(subjects.sessionIn('s1', attempt), { ...report, attempt, items: [call] });
    await says(subjects.sessionIn('s1', attempt), ended);
    await clock.advance(1_000);
    expect(notices).toEqual(
      expect.arrayContaining([
        { type: 'message.dropped', subject: subjects.sessionIn('s1', attempt), field: 't', count: 1 },
      ]),
    );
  });

  it('does not believe a heartbeat in the name of another', async () => {
    await says(subjects.runtimeHeartbeat('r2'), { ...runtimeBeat, runtime: 'r1' });
    await says(subjects.runtimeHeartbeat('r3'), { runtime: 'r3' });
    expect(broker.directory.runtimes()).toEqual([]);
    await says(subjects.runtimeHeartbeat('r1'), runtimeBeat);
    expect(broker.directory.runtimes()).toEqual([runtimeBeat]);
  });

  it('lives through anything that is said to a session', async () => {
    const attempt = await offered();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(
          subjects.sessionIn('s1', attempt),
          subjects.sessionTools('s1'),
          subjects.runtimeHeartbeat('r9'),
        ),
        fc.oneof(
          fc.jsonValue(),
          fc.jsonValue().map((end) => ({ ...report, attempt, items: [], end })),
          fc.jsonValue().map((item) => ({ ...report, attempt, items: [item] })),
        ),
        async (subject, body) => {
          await says(subject, body as object);
        },
      ),
      { numRuns: 200 },
    );
    expect(await finished()).toBe('running');
    expect(notices.filter(({ type }) => type !== 'message.dropped')).toEqual([]);
  });
});
