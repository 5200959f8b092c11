import { hash } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import type { AttemptEnd, Delivery, ScriptItem, Versions } from '../../actors/attempt.ts';
import type { Body, Bus } from '../../src/bus/bus.ts';
import { type Hop, MemoryBusServer } from '../../src/bus/memory.ts';
import { defaultLimits } from '../../src/options.ts';
import type { Offer, Reply, Report, RuntimeCommand, RuntimeHeartbeat } from '../../src/protocol.ts';
import { RuntimeHost, type RuntimeHostOptions } from '../../src/runtime/host.ts';
import type { RunningAttempt, Sandbox, SandboxSpec } from '../../src/runtime/sandbox.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { Tombstones } from '../../src/tombstones.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');
const VERSIONS: Versions = { engine: 'v8', prelude: 'p1', stripper: 's1' };
const USAGE = { cpu: 1, heap: 2 };
const RETURNED: AttemptEnd = { kind: 'returned', json: '1', state: undefined, usage: USAGE };
const LIMITS = { ...defaultLimits(256 * 1024 * 1024), deadlineMs: 60_000, maxStateBytes: 1_000 };

const output = (text: string): ScriptItem => ({ kind: 'output', level: '', text });
const call = (index: number, json = ''): ScriptItem => ({ kind: 'call', index, name: 'users:get', json });
const delivery = (index: number): Delivery => [index, '', `"${index}"`, 0];

/** An attempt in the hands of the test. */
class Script implements RunningAttempt {
  readonly spec: SandboxSpec;
  readonly given: Delivery[];
  stopped = false;

  constructor(spec: SandboxSpec) {
    this.spec = spec;
    this.given = [...spec.deliveries];
  }

  deliver(deliveries: readonly Delivery[]): void {
    this.given.push(...deliveries);
  }

  stop(): void {
    this.stopped = true;
    // A sandbox may well say so.
    this.spec.onEnd({ kind: 'stopped' });
  }
}

class TestSandbox implements Sandbox {
  versions: Versions | undefined = VERSIONS;
  capacity = 4;
  readonly scripts: Script[] = [];
  /** Run within `start`. */
  onStart: (spec: SandboxSpec) => void = () => {};

  start(spec: SandboxSpec): RunningAttempt {
    const script = new Script(spec);
    this.scripts.push(script);
    this.onStart(spec);
    return script;
  }
}

const open: RuntimeHost[] = [];

/** A host and an owner that acknowledges nothing by itself. */
async function setUp(options: Partial<RuntimeHostOptions> = {}, bus: { maxPayloadBytes?: number } = {}) {
  const clock = new VirtualClock();
  /** Hops that this says are lost. */
  const net = { loses: (_hop: Hop): boolean => false };
  const server = new MemoryBusServer({
    clock,
    ...bus,
    deliver: (hop) => {
      if (!net.loses(hop)) clock.soon(hop.run);
    },
  });
  const sandbox = new TestSandbox();
  const owner: Bus = server.connect('owner');
  const reports: Report[] = [];
  const heartbeats: RuntimeHeartbeat[] = [];
  owner.subscribe(subjects.sessionIn('s1', '*'), ({ body }) => void reports.push(body as Report));
  owner.subscribe(
    subjects.runtimeHeartbeat('r1'),
    ({ body }) => void heartbeats.push(body as RuntimeHeartbeat),
  );
  const host = new RuntimeHost({
    id: 'r1',
    bus: server.connect('runtime'),
    clock,
    subjects,
    sandbox,
    labels: { region: 'eu' },
    // What is held back has tests of its own, below.
    holdMs: 0,
    ...options,
  });
  open.push(host);
  await host.start();
  await clock.settle();
  const ask = (body: RuntimeCommand): Promise<Reply<unknown>> =>
    owner.request(subjects.runtimeCmd('r1'), body, { timeoutMs: 500 }) as Promise<Reply<unknown>>;
  const send = async (body: Body): Promise<void> => {
    owner.publish(subjects.runtimeCmd('r1'), body);
    await clock.settle();
  };
  const offer = async (attempt: string, more: Partial<Offer> = {}): Promise<Reply<unknown>> => {
    const reply = await ask(offerOf(attempt, more));
    await clock.settle();
    return reply;
  };
  const start = async (attempt = 'a1', more: Partial<Offer> = {}): Promise<Script> => {
    expect(await offer(attempt, more)).toMatchObject({ ok: true });
    return scriptOf(attempt);
  };
  const scriptOf = (attempt: string): Script => {
    const script = sandbox.scripts.find(({ spec }) => spec.id === attempt);
    if (script === undefined) throw new TypeError(`${attempt} was not started`);
    return script;
  };
  const deliver = (from: number, deliveries: readonly Delivery[], ack = 0, epoch = 1) =>
    send({ t: 'deliver', attempt: 'a1', epoch, from, deliveries, ack });
  const ack = (n: number, attempt = 'a1', epoch = 1) => send({ t: 'acks', acks: [[attempt, epoch, n]] });
  const probe = (epoch = 1, attempt = 'a1') => ask({ t: 'probe', attempt, session: 's1', epoch });
  return {
    clock,
    net,
    server,
    sandbox,
    owner,
    reports,
    heartbeats,
    host,
    ask,
    send,
    offer,
    start,
    scriptOf,
    deliver,
    ack,
    probe,
  };
}

function offerOf(attempt: string, more: Partial<Offer> = {}): Offer {
  return {
    t: 'offer',
    session: 's1',
    epoch: 1,
    attempt,
    execution: 'x1',
    source: 'return 1',
    input: '',
    state: '{}',
    seed: [1, 2, 3, 4],
    startTime: 5,
    limits: LIMITS,
    isolation: 'context',
    alone: false,
    replay: false,
    deliveries: [],
    versions: undefined,
    ...more,
  };
}

afterEach(() => {
  for (const host of open.splice(0)) host.close();
});

describe('an offer', () => {
  it('is accepted with the versions, and starts the script with everything it carries', async () => {
    const { offer, sandbox, host } = await setUp();
    const reply = await offer('a1', { deliveries: [delivery(0)], alone: true, input: '7', state: '{"a":1}' });
    expect(reply).toEqual({ ok: true, value: { versions: VERSIONS }, epoch: 1 });
    expect(sandbox.scripts).toHaveLength(1);
    expect(sandbox.scripts[0]?.spec).toMatchObject({
      id: 'a1',
      source: 'return 1',
      input: '7',
      state: '{"a":1}',
      maxStateBytes: 1_000,
      seed: [1, 2, 3, 4],
      startTime: 5,
      tenantKey: 's1',
      key: `s1#${hash('sha1', 'return 1', 'base64')}`,
      isolation: 'context',
      limits: LIMITS,
      alone: true,
      deliveries: [delivery(0)],
    });
    expect([host.attempts, host.load]).toEqual([1, 1]);
  });

  it('triples the times of a replay, up to an hour', async () => {
    const { start } = await setUp();
    const limits = { ...LIMITS, timeoutMs: 30_000, cpuMs: 2_000_000 };
    const script = await start('a1', { replay: true, limits });
    expect(script.spec.limits).toEqual({ ...limits, timeoutMs: 90_000, cpuMs: 3_600_000 });
  });

  it('that comes twice is accepted twice and started once', async () => {
    const { offer, sandbox, host } = await setUp();
    const first = await offer('a1');
    expect(await offer('a1')).toEqual(first);
    expect(sandbox.scripts).toHaveLength(1);
    expect(host.load).toBe(1);
  });

  it('that comes twice while the end is unacknowledged is not started again', async () => {
    const { offer, start, sandbox } = await setUp();
    (await start()).spec.onEnd(RETURNED);
    expect(await offer('a1')).toMatchObject({ ok: true });
    expect(sandbox.scripts).toHaveLength(1);
  });

  it('is refused as OVERLOADED where there is no room, and accepted when there is', async () => {
    const { offer, start, sandbox } = await setUp({ capacity: 1 });
    const script = await start('a1');
    const refused = await offer('a2');
    expect(refused).toEqual({
      ok: false,
      epoch: 1,
      error: {
        code: 'OVERLOADED',
        message: expect.any(String),
        retryable: true,
        outcome: 'not_started',
        details: { retryAfterMs: 100, load: 1, capacity: 1 },
      },
    });
    script.spec.onEnd(RETURNED);
    expect(await offer('a2')).toMatchObject({ ok: true });
    expect(sandbox.scripts).toHaveLength(2);
  });

  it('is refused as OVERLOADED while the ends of others take up too much', async () => {
    const { offer, start, ack } = await setUp({ maxUnacknowledgedBytes: 1_000 });
    const end: AttemptEnd = {
      kind: 'returned',
      json: `"${'x'.repeat(8_000)}"`,
      state: undefined,
      usage: USAGE,
    };
    (await start('a1')).spec.onEnd(end);
    expect(await offer('a2')).toMatchObject({ ok: false, error: { code: 'OVERLOADED' } });
    await ack(1);
    expect(await offer('a2')).toMatchObject({ ok: true });
  });

  it('is accepted again once such an attempt was stopped', async () => {
    const { offer, start, send, clock } = await setUp({ maxUnacknowledgedBytes: 1_000 });
    (await start('a1')).spec.onReport([output('x'.repeat(8_000))], false);
    await clock.settle();
    expect(await offer('a2')).toMatchObject({ ok: false, error: { code: 'OVERLOADED' } });
    await send({ t: 'stop', attempt: 'a1', epoch: 1 });
    expect(await offer('a2')).toMatchObject({ ok: true });
  });

  it.each([
    ['other versions', VERSIONS, { ...VERSIONS, prelude: 'p0' }],
    ['versions while its own are unknown', undefined, VERSIONS],
  ])('is refused as ENGINE_MISMATCH if it wants %s', async (_, ours, wanted) => {
    const { offer, sandbox } = await setUp();
    sandbox.versions = ours;
    const error = { code: 'ENGINE_MISMATCH', retryable: true, outcome: 'not_started' };
    expect(await offer('a1', { versions: wanted })).toMatchObject({ ok: false, error });
    expect(sandbox.scripts).toHaveLength(0);
  });

  it('is accepted if it wants the same versions', async () => {
    const { offer } = await setUp();
    expect(await offer('a1', { versions: { ...VERSIONS } })).toMatchObject({ ok: true });
  });

  it('is refused as CLOSED while the host drains', async () => {
    const { offer, start, host } = await setUp();
    await start();
    void host.drain(1_000);
    const error = { code: 'CLOSED', retryable: true, outcome: 'not_started' };
    expect(await offer('a2')).toMatchObject({ ok: false, error });
  });

  it('of an id that was probed in vain is refused as CANCELLED, until its tombstone is gone', async () => {
    const { offer, probe, clock, sandbox } = await setUp({ tombstoneMs: 10_000 });
    expect(await probe(3)).toEqual({ ok: true, value: { running: false, received: 0 }, epoch: 3 });
    const error = { code: 'CANCELLED', retryable: true, outcome: 'not_started' };
    expect(await offer('a1')).toMatchObject({ ok: false, error });
    await clock.advance(9_999);
    expect(await offer('a1')).toMatchObject({ ok: false, error });
    expect(sandbox.scripts).toHaveLength(0);
    await clock.advance(1);
    expect(await offer('a1')).toMatchObject({ ok: true });
  });

  it('of an id whose end was acknowledged, or that was stopped before it came, is refused as CANCELLED', async () => {
    const { offer, start, ack, send } = await setUp();
    (await start('a1')).spec.onEnd(RETURNED);
    await ack(1);
    expect(await offer('a1')).toMatchObject({ ok: false, error: { code: 'CANCELLED' } });
    await send({ t: 'stop', attempt: 'a2', epoch: 1 });
    expect(await offer('a2')).toMatchObject({ ok: false, error: { code: 'CANCELLED' } });
  });

  it('that nobody waits for an answer to is not started', async () => {
    const { send, sandbox } = await setUp();
    await send(offerOf('a1'));
    expect(sandbox.scripts).toHaveLength(0);
  });

  it.each([
    ['no type', {}],
    ['another type', { t: 'dance', attempt: 'a1', epoch: 1 }],
    ['no limits', { ...offerOf('a1'), limits: null }],
    ['a session that is no id', { ...offerOf('a1'), session: 'a.b' }],
    [
      'deliveries that are no array',
      { t: 'deliver', attempt: 'a1', epoch: 1, from: 1, deliveries: {}, ack: 0 },
    ],
    ['a number that is none', { t: 'acks', acks: [['a1', 1, '1']] }],
    ['an epoch that is none', { t: 'stop', attempt: 'a1', epoch: -1 }],
    ['an array', []],
  ])('or command with %s is dropped', async (_, body) => {
    const { send, owner, clock, sandbox, start } = await setUp();
    const script = await start('a1');
    const answered = owner.request(subjects.runtimeCmd('r1'), body, { timeoutMs: 100 });
    const failed = expect(answered).rejects.toMatchObject({ code: 'TIMEOUT' });
    await send(body);
    await clock.advance(100);
    await failed;
    expect(sandbox.scripts).toEqual([script]);
    expect(script.stopped).toBe(false);
  });
});

describe('an offer whose answer is held back', () => {
  const HELD = { holdMs: 25 } as const;
  const end: AttemptEnd = { kind: 'returned', json: '1', state: undefined, usage: { cpu: 1, heap: 1 } };

  it('is answered with the first report, which is sent again until it is acknowledged', async () => {
    const { ask, clock, scriptOf, reports, host, ack } = await setUp(HELD);
    const asked = ask(offerOf('a1'));
    await clock.settle();
    scriptOf('a1').spec.onReport([output('hi')], false);
    scriptOf('a1').spec.onEnd(end);
    await clock.settle();
    const report = { t: 'report', attempt: 'a1', n: 1, items: [output('hi')], end };
    expect(await asked).toMatchObject({ ok: true, value: { versions: VERSIONS, report } });
    expect(reports).toEqual([]);
    await clock.advance(1_000);
    expect(reports).toMatchObject([report]);
    expect(host.attempts).toBe(1);
    await ack(1);
    expect(host.attempts).toBe(0);
  });

  it('is answered after a moment without a report; those that follow come by themselves', async () => {
    const { ask, clock, scriptOf, reports } = await setUp(HELD);
    const asked = ask(offerOf('a1'));
    let answered = false;
    void asked.then(() => {
      answered = true;
    });
    await clock.advance(24);
    expect(answered).toBe(false);
    await clock.advance(1);
    expect(await asked).toEqual({ ok: true, value: { versions: VERSIONS }, epoch: 1 });
    scriptOf('a1').spec.onReport([output('late')], false);
    await clock.settle();
    expect(reports).toMatchObject([{ n: 1, items: [output('late')] }]);
  });

  it('is answered without a report that fits only into a message of its own, in parts', async () => {
    const { ask, clock, scriptOf, reports } = await setUp(HELD, { maxPayloadBytes: 10_000 });
    const asked = ask(offerOf('a1'));
    await clock.settle();
    scriptOf('a1').spec.onReport([output('x'.repeat(6_000)), output('y'.repeat(6_000))], false);
    await clock.settle();
    expect(await asked).toEqual({ ok: true, value: { versions: VERSIONS }, epoch: 1 });
    expect(reports.map(({ n, items }) => [n, items.length])).toEqual([
      [1, 1],
      [2, 1],
    ]);
  });

  it('is answered at once when another owner speaks, who gets the reports', async () => {
    const { ask, clock, scriptOf, reports, probe } = await setUp(HELD);
    const asked = ask(offerOf('a1'));
    await clock.settle();
    expect(await probe(2)).toMatchObject({ ok: true, value: { running: true } });
    expect(await asked).toEqual({ ok: true, value: { versions: VERSIONS }, epoch: 1 });
    scriptOf('a1').spec.onReport([output('hi')], false);
    await clock.settle();
    expect(reports).toMatchObject([{ n: 1 }]);
  });

  it('of an attempt that was stopped meanwhile is not answered, and leaves no timer', async () => {
    const { ask, clock, send, host } = await setUp(HELD);
    const timers = clock.timers;
    const refused = expect(ask(offerOf('a1'))).rejects.toMatchObject({ code: 'TIMEOUT' });
    await clock.settle();
    await send({ t: 'stop', attempt: 'a1', epoch: 1 });
    expect(host.attempts).toBe(0);
    await clock.advance(2_000);
    await refused;
    expect(clock.timers).toBe(timers);
  });
});

describe('an attempt of a stateless run', () => {
  it.each([
    ['waits', false],
    ['has ended', true],
  ])('that %s is let go once its broker is silent and nobody hears it', async (_, ends) => {
    const { ask, clock, sandbox, host } = await setUp();
    const asked = ask(offerOf('a1', { session: 'gone', home: true }));
    await clock.settle();
    expect(await asked).toMatchObject({ ok: true });
    sandbox.scripts[0]?.spec.onReport([output('hi')], true);
    if (ends) sandbox.scripts[0]?.spec.onEnd(RETURNED);
    await clock.advance(2_900);
    expect(host.attempts).toBe(1);
    await clock.advance(3_000);
    expect([host.attempts, host.load]).toEqual([0, 0]);
    expect(sandbox.scripts[0]?.stopped).toBe(!ends);
  });

  it('stays while its broker hears it, however silent that is', async () => {
    const { start, clock, host } = await setUp();
    (await start('a1', { home: true })).spec.onReport([output('hi')], true);
    await clock.advance(30_000);
    expect(host.attempts).toBe(1);
  });

  it('is no attempt of a session, which waits for the next owner', async () => {
    const { ask, clock, sandbox, host } = await setUp();
    const asked = ask(offerOf('a1', { session: 'gone' }));
    await clock.settle();
    await asked;
    sandbox.scripts[0]?.spec.onReport([output('hi')], true);
    await clock.advance(30_000);
    expect(host.attempts).toBe(1);
  });
});

describe('reports', () => {
  it('of a script without calls are one, with its output and its end', async () => {
    const { start, reports, clock } = await setUp();
    const { spec } = await start();
    spec.onReport([output('a')], false);
    spec.onReport([output('b')], false);
    spec.onEnd(RETURNED);
    await clock.settle();
    expect(reports).toEqual([
      {
        t: 'report',
        attempt: 'a1',
        execution: 'x1',
        runtime: 'r1',
        n: 1,
        received: 0,
        items: [output('a'), output('b')],
        waiting: false,
        end: RETURNED,
      },
    ]);
  });

  it('tell an end that came within the start', async () => {
    const { sandbox, offer, reports, host } = await setUp();
    sandbox.onStart = (spec) => {
      spec.onReport([output('a')], false);
      spec.onEnd(RETURNED);
    };
    expect(await offer('a1')).toMatchObject({ ok: true });
    expect(reports).toMatchObject([{ n: 1, items: [output('a')], end: RETURNED }]);
    expect([host.attempts, host.load]).toEqual([1, 0]);
  });

  it('are numbered from 1 and tell items, waiting and what was received', async () => {
    const { start, reports, clock, deliver } = await setUp();
    const { spec } = await start('a1', { deliveries: [delivery(0)] });
    spec.onReport([call(1)], true);
    await clock.settle();
    await deliver(2, [delivery(1)]);
    spec.onReport([{ kind: 'applied', index: 1 }], false);
    await clock.settle();
    expect(reports).toMatchObject([
      { n: 1, received: 1, items: [call(1)], waiting: true, end: undefined },
      { n: 2, received: 2, items: [{ kind: 'applied', index: 1 }], waiting: false, end: undefined },
    ]);
  });

  it('do not say that a script waits that was handed something in the same turn', async () => {
    const { start, reports, clock, deliver } = await setUp();
    const { spec } = await start();
    const delivered = deliver(1, [delivery(0)]);
    // Told before, in the same turn: the delivery is on its way.
    spec.onReport([call(0)], true);
    await delivered;
    await clock.settle();
    expect(reports).toMatchObject([{ received: 1, items: [call(0)], waiting: false }]);
  });

  it('are not changed by what comes after them', async () => {
    const { start, reports, clock } = await setUp();
    const { spec } = await start();
    spec.onReport([output('a')], false);
    await clock.settle();
    spec.onReport([output('b')], false);
    await clock.settle();
    expect(reports.map(({ items }) => items)).toEqual([[output('a')], [output('b')]]);
  });

  it('are sent again until they are acknowledged, however often they are lost', async () => {
    const { start, reports, clock, net, ack, host } = await setUp();
    net.loses = ({ subject }) => subject.includes('.in.');
    (await start()).spec.onEnd(RETURNED);
    await clock.advance(5_000);
    expect(reports).toEqual([]);
    net.loses = () => false;
    await clock.advance(1_000);
    expect(reports).toMatchObject([{ n: 1, end: RETURNED }]);
    await clock.advance(2_000);
    expect(reports).toHaveLength(3);
    expect(reports[2]).toEqual(reports[0]);
    await ack(1);
    expect(host.attempts).toBe(0);
    await clock.advance(5_000);
    expect(reports).toHaveLength(3);
  });

  it('are sent again in their order, without those that were acknowledged', async () => {
    const { start, reports, clock, ack } = await setUp();
    const { spec } = await start();
    for (const text of ['a', 'b', 'c']) {
      spec.onReport([output(text)], false);
      await clock.settle();
    }
    await ack(1);
    reports.length = 0;
    await clock.advance(1_000);
    expect(reports.map(({ n }) => n)).toEqual([2, 3]);
  });

  it('are not sent again before their time, and by one timer for all attempts', async () => {
    const { start, reports, clock } = await setUp();
    const idle = clock.timers;
    for (const attempt of ['a1', 'a2', 'a3']) (await start(attempt)).spec.onEnd(RETURNED);
    expect(clock.timers).toBe(idle + 1);
    await clock.advance(999);
    expect(reports).toHaveLength(3);
    await clock.advance(1);
    expect(reports).toHaveLength(6);
  });

  it('are not sent again when they were sent a moment ago', async () => {
    const { start, reports, clock, probe } = await setUp();
    const { spec } = await start();
    spec.onReport([output('a')], false);
    await clock.advance(900);
    spec.onReport([output('b')], false);
    await clock.advance(100);
    expect(reports.map(({ n }) => n)).toEqual([1, 2, 1]);
    await clock.advance(900);
    await probe();
    await clock.settle();
    expect(reports.map(({ n }) => n)).toEqual([1, 2, 1, 1, 2]);
    await clock.advance(100);
    expect(reports).toHaveLength(5);
    await clock.advance(1_000);
    expect(reports).toHaveLength(7);
  });

  it('leave nothing scheduled but heartbeats once the end is acknowledged', async () => {
    const { start, clock, ack } = await setUp();
    expect(clock.timers).toBe(1);
    const { spec } = await start();
    spec.onEnd(RETURNED);
    await clock.settle();
    await ack(1);
    await clock.advance(1_000);
    expect(clock.timers).toBe(1);
  });

  it('that are acknowledged beyond the last number are forgotten, and numbers go on', async () => {
    const { start, reports, clock, ack } = await setUp();
    const { spec } = await start();
    spec.onReport([output('a')], false);
    await clock.settle();
    await ack(99);
    spec.onReport([output('b')], false);
    await clock.advance(1_000);
    expect(reports.map(({ n }) => n)).toEqual([1, 2, 2]);
  });

  it('that pile up end the attempt as lost, not alone', async () => {
    const { start, reports, clock, host } = await setUp({ maxUnacknowledgedBytes: 1_000 });
    const script = await start();
    for (let n = 0; n < 10; n++) {
      script.spec.onReport([output('x'.repeat(300))], false);
      await clock.settle();
    }
    expect(script.stopped).toBe(true);
    expect(reports.map(({ n }) => n)).toEqual([1, 2, 3]);
    expect(reports.at(-1)).toMatchObject({ items: [], end: { kind: 'lost', alone: false } });
    expect(host.load).toBe(0);
  });

  it('that are acknowledged in time do not, however many there are', async () => {
    const { start, reports, clock, ack } = await setUp({ maxUnacknowledgedBytes: 1_000 });
    const script = await start();
    for (let n = 1; n <= 10; n++) {
      script.spec.onReport([output('x'.repeat(300))], false);
      await clock.settle();
      await ack(n);
    }
    expect(script.stopped).toBe(false);
    expect(reports).toHaveLength(10);
  });

  it('with the end are told even if they pass the bound', async () => {
    const { start, reports, clock } = await setUp({ maxUnacknowledgedBytes: 1_000 });
    const { spec } = await start();
    spec.onReport([output('x'.repeat(700))], false);
    await clock.settle();
    spec.onReport([output('x'.repeat(700))], false);
    spec.onEnd(RETURNED);
    await clock.settle();
    expect(reports.map(({ end }) => end)).toEqual([undefined, RETURNED]);
  });

  it('that are all acknowledged do not keep an attempt whose owner falls silent', async () => {
    const { start, clock, host, ack } = await setUp({ orphanMs: 10_000 });
    const script = await start();
    script.spec.onReport([output('a')], true);
    await clock.settle();
    await ack(1);
    await clock.advance(9_000);
    expect([script.stopped, host.attempts]).toEqual([false, 1]);
    await clock.advance(2_000);
    expect([script.stopped, host.attempts]).toEqual([true, 0]);
  });

  it('are told again, the last of them, to an owner that says nothing, which may want the attempt no more', async () => {
    const { start, clock, host, ack, reports, send } = await setUp();
    const script = await start();
    script.spec.onReport([output('a')], true);
    await clock.settle();
    await ack(1);
    await clock.advance(2_000);
    expect(reports).toHaveLength(1);
    await clock.advance(2_000);
    expect(reports.at(-1)).toMatchObject({ attempt: 'a1', n: 1, items: [], waiting: true });
    await ack(1);
    const { length } = reports;
    await clock.advance(2_000);
    expect(reports).toHaveLength(length);
    await clock.advance(2_000);
    expect(reports.length).toBeGreaterThan(length);
    await send({ t: 'stop', attempt: 'a1', epoch: 1 });
    expect([script.stopped, host.attempts]).toEqual([true, 0]);
  });

  it('that nobody acknowledges end with the attempt after orphanMs', async () => {
    const { start, clock, host, offer, reports } = await setUp({ orphanMs: 10_000 });
    const script = await start();
    script.spec.onReport([output('a')], false);
    await clock.advance(9_000);
    expect([script.stopped, host.attempts]).toEqual([false, 1]);
    await clock.advance(1_000);
    expect([script.stopped, host.attempts]).toEqual([true, 0]);
    expect(await offer('a1')).toMatchObject({ ok: false, error: { code: 'CANCELLED' } });
    const { length } = reports;
    await clock.advance(5_000);
    expect(reports).toHaveLength(length);
  });

  it('that are acknowledged now and then keep it, and so does a probe', async () => {
    const { start, clock, ack, probe } = await setUp({ orphanMs: 10_000 });
    const script = await start();
    for (const text of ['a', 'b']) {
      script.spec.onReport([output(text)], false);
      await clock.settle();
    }
    await clock.advance(9_000);
    await ack(1);
    await clock.advance(9_000);
    await probe();
    await clock.advance(9_000);
    expect(script.stopped).toBe(false);
    await clock.advance(1_000);
    expect(script.stopped).toBe(true);
  });

  it('larger than the bus carries are cut into several, in order', async () => {
    const { start, reports, clock } = await setUp({}, { maxPayloadBytes: 1_000 });
    const { spec } = await start();
    const items = ['a', 'b', 'c', 'd', 'e'].map((letter) => output(letter.repeat(400)));
    spec.onReport(items, false);
    spec.onEnd(RETURNED);
    await clock.settle();
    expect(reports.flatMap((report) => report.items)).toEqual(items);
    expect(reports.map(({ n }) => n)).toEqual(reports.map((_, at) => at + 1));
    expect(reports.map(({ end }) => end).filter((end) => end !== undefined)).toEqual([RETURNED]);
    expect(reports.at(-1)?.end).toEqual(RETURNED);
  });

  it.each([
    ['a result', 'RESULT_LIMIT_EXCEEDED', [], { ...RETURNED, json: `"${'x'.repeat(2_000)}"` }],
    ['one line', 'OUTPUT_LIMIT_EXCEEDED', [output('a'), output('x'.repeat(2_000)), output('b')], undefined],
    ['one call', 'SERIALIZATION_ERROR', [call(0, 'x'.repeat(2_000))], RETURNED],
  ])('end the attempt as failed if %s is larger than the bus carries', async (_, code, items, end) => {
    const { start, reports, clock, host, ack } = await setUp({}, { maxPayloadBytes: 1_000 });
    const script = await start();
    script.spec.onReport(items, false);
    if (end !== undefined) script.spec.onEnd(end as AttemptEnd);
    await clock.settle();
    const ends = reports.filter((report) => report.end !== undefined);
    expect(ends).toHaveLength(1);
    expect(reports.at(-1)).toMatchObject({ end: { kind: 'failed', code } });
    expect(script.stopped).toBe(end === undefined);
    expect(host.load).toBe(0);
    await ack(reports.length);
    expect(host.attempts).toBe(0);
  });
});

describe('deliveries', () => {
  it('are handed over in order, and those that come twice once', async () => {
    const { start, deliver } = await setUp();
    const script = await start('a1', { deliveries: [delivery(0)] });
    await deliver(2, [delivery(1), delivery(2)]);
    await deliver(2, [delivery(1), delivery(2)]);
    await deliver(1, [delivery(0), delivery(1), delivery(2), delivery(3)]);
    expect(script.given).toEqual([0, 1, 2, 3].map(delivery));
  });

  it('behind a gap are ignored, and a report tells what was received', async () => {
    const { start, deliver, reports } = await setUp();
    const script = await start();
    await deliver(1, [delivery(0)]);
    await deliver(3, [delivery(2)]);
    expect(script.given).toEqual([delivery(0)]);
    expect(reports).toMatchObject([{ n: 1, received: 1, items: [], waiting: false, end: undefined }]);
    await deliver(2, [delivery(1), delivery(2)]);
    expect(script.given).toEqual([0, 1, 2].map(delivery));
  });

  it('that come again are answered by a report, once, if none told that they came', async () => {
    const { start, deliver, reports } = await setUp();
    await start();
    await deliver(1, [delivery(0)]);
    expect(reports).toEqual([]);
    await deliver(1, [delivery(0)]);
    expect(reports).toMatchObject([{ n: 1, received: 1, items: [] }]);
    await deliver(1, [delivery(0)]);
    expect(reports).toHaveLength(1);
  });

  it('bring acknowledgements with them, even behind a gap', async () => {
    const { start, deliver, reports, clock } = await setUp();
    const { spec } = await start();
    spec.onReport([call(0)], true);
    await clock.settle();
    await deliver(5, [delivery(4)], 1);
    await clock.advance(1_000);
    expect(reports.map(({ n }) => n)).toEqual([1, 2, 2]);
  });

  it('of a lower epoch are dropped, with their acknowledgement', async () => {
    const { start, deliver, probe, reports, clock } = await setUp();
    const script = await start();
    script.spec.onReport([call(0)], true);
    await clock.settle();
    await probe(2);
    await deliver(1, [delivery(0)], 1, 1);
    expect(script.given).toEqual([]);
    reports.length = 0;
    await clock.advance(1_000);
    expect(reports).toMatchObject([{ n: 1 }]);
    await deliver(1, [delivery(0)], 1, 2);
    expect(script.given).toEqual([delivery(0)]);
  });

  it('of a higher epoch are taken, and lower ones dropped from then on', async () => {
    const { start, deliver, ack, send, reports, clock } = await setUp();
    const script = await start();
    await deliver(1, [delivery(0)], 0, 4);
    script.spec.onReport([output('a')], false);
    await clock.settle();
    await ack(1, 'a1', 3);
    await send({ t: 'stop', attempt: 'a1', epoch: 3 });
    expect(script.stopped).toBe(false);
    await clock.advance(1_000);
    expect(reports).toHaveLength(2);
  });

  it('for an attempt that has ended, or is not here, are dropped', async () => {
    const { start, deliver, send, reports } = await setUp();
    const script = await start();
    script.spec.onEnd(RETURNED);
    await deliver(1, [delivery(0)]);
    await deliver(9, [delivery(0)]);
    await send({ t: 'deliver', attempt: 'a9', epoch: 1, from: 1, deliveries: [delivery(0)], ack: 0 });
    expect(script.given).toEqual([]);
    expect(reports).toHaveLength(1);
  });
});

describe('a probe', () => {
  it('finds a running attempt, and gets everything unacknowledged at once', async () => {
    const { start, probe, reports, clock } = await setUp();
    const { spec } = await start();
    spec.onReport([output('a')], false);
    await clock.settle();
    spec.onReport([output('b')], true);
    await clock.settle();
    reports.length = 0;
    expect(await probe(7)).toEqual({
      ok: true,
      value: { running: true, received: 0, acknowledged: 0 },
      epoch: 7,
    });
    await clock.settle();
    expect(reports.map(({ n }) => n)).toEqual([1, 2]);
  });

  it('finds an attempt whose end is unacknowledged, and gets its end', async () => {
    const { start, probe, reports, clock } = await setUp();
    (await start()).spec.onEnd(RETURNED);
    await clock.settle();
    reports.length = 0;
    expect(await probe()).toMatchObject({ value: { running: true } });
    await clock.settle();
    expect(reports).toMatchObject([{ n: 1, end: RETURNED }]);
  });

  it('does not find one whose end was acknowledged', async () => {
    const { start, probe, ack } = await setUp();
    (await start()).spec.onEnd(RETURNED);
    await ack(1);
    expect(await probe()).toMatchObject({ value: { running: false } });
  });

  it('of a lower epoch is answered FENCED with the higher one', async () => {
    const { start, probe, offer } = await setUp();
    await start();
    await probe(5);
    const fenced = { ok: false, epoch: 5, error: { code: 'FENCED', details: { epoch: 5 } } };
    expect(await probe(4)).toMatchObject(fenced);
    expect(await offer('a1', { epoch: 4 })).toMatchObject(fenced);
  });
});

describe('a stop', () => {
  it('ends the script, and nothing more is told', async () => {
    const { start, send, reports, clock, host, offer } = await setUp();
    const script = await start();
    script.spec.onReport([output('a')], false);
    await send({ t: 'stop', attempt: 'a1', epoch: 1 });
    expect(script.stopped).toBe(true);
    expect([host.attempts, host.load]).toEqual([0, 0]);
    script.spec.onReport([output('b')], false);
    const { length } = reports;
    await clock.advance(5_000);
    expect(reports).toHaveLength(length);
    expect(await offer('a1')).toMatchObject({ ok: false, error: { code: 'CANCELLED' } });
  });
});

describe('heartbeats', () => {
  it('come at once when a broker asks every runtime to show itself', async () => {
    const { owner, clock, heartbeats } = await setUp({ heartbeatMs: 60_000 });
    heartbeats.length = 0;
    owner.publish(subjects.runtimeProbe, { t: 'advertise' });
    await clock.settle();
    expect(heartbeats).toMatchObject([{ runtime: 'r1', intervalMs: 60_000 }]);
  });

  it('come when it starts and every heartbeatMs', async () => {
    const { heartbeats, clock } = await setUp({ heartbeatMs: 500 });
    expect(heartbeats).toEqual([
      {
        runtime: 'r1',
        labels: { region: 'eu' },
        capacity: 4,
        load: 0,
        draining: false,
        versions: VERSIONS,
        intervalMs: 500,
      },
    ]);
    await clock.advance(1_000);
    expect(heartbeats).toHaveLength(3);
  });

  it('come at once when it is full, and when it no longer is', async () => {
    const { heartbeats, start, clock } = await setUp({ capacity: 2 });
    await start('a1');
    expect(heartbeats).toHaveLength(1);
    const script = await start('a2');
    expect(heartbeats.at(-1)).toMatchObject({ load: 2, capacity: 2 });
    expect(heartbeats).toHaveLength(2);
    await clock.advance(100);
    script.spec.onEnd(RETURNED);
    await clock.settle();
    expect(heartbeats.at(-1)).toMatchObject({ load: 1 });
    expect(heartbeats).toHaveLength(3);
  });

  it('stay few when it is full and not full all the time, and the last one is right', async () => {
    const { heartbeats, start, clock } = await setUp({ capacity: 1 });
    for (let n = 0; n < 50; n++) (await start(`a${n}`)).spec.onEnd(RETURNED);
    await clock.advance(100);
    expect(heartbeats.length).toBeLessThan(5);
    expect(heartbeats.at(-1)).toMatchObject({ load: 0 });
  });

  it('stop with it', async () => {
    const { heartbeats, clock, host } = await setUp();
    host.close();
    await clock.advance(5_000);
    expect(heartbeats).toHaveLength(1);
    expect(clock.timers).toBe(0);
  });
});

describe('draining', () => {
  /** Resolves to whether it has ended by now. */
  async function isOver(draining: Promise<void>, clock: VirtualClock): Promise<boolean> {
    let over = false;
    void draining.then(() => (over = true));
    await clock.settle();
    return over;
  }

  it('is told at once, and ends when every attempt has ended and was acknowledged', async () => {
    const { start, host, heartbeats, clock, ack } = await setUp();
    const script = await start();
    const draining = host.drain(60_000);
    expect(await isOver(draining, clock)).toBe(false);
    expect(heartbeats.at(-1)).toMatchObject({ draining: true, load: 1 });
    script.spec.onEnd(RETURNED);
    expect(await isOver(draining, clock)).toBe(false);
    await ack(1);
    expect(await isOver(draining, clock)).toBe(true);
    expect(await isOver(host.drain(1), clock)).toBe(true);
  });

  it('ends at once if there is nothing', async () => {
    const { host, clock } = await setUp();
    expect(await isOver(host.drain(60_000), clock)).toBe(true);
  });

  it('reports what is left as lost when the grace is over', async () => {
    const { start, host, reports, clock } = await setUp();
    const script = await start('a1');
    (await start('a2')).spec.onEnd(RETURNED);
    script.spec.onReport([output('a')], false);
    const draining = host.drain(500);
    await clock.advance(499);
    expect(await isOver(draining, clock)).toBe(false);
    await clock.advance(1);
    expect(await isOver(draining, clock)).toBe(true);
    expect(script.stopped).toBe(true);
    expect(reports.filter(({ end }) => end?.kind === 'lost')).toMatchObject([
      { attempt: 'a1', n: 2, end: { kind: 'lost', alone: false } },
    ]);
    expect(reports.find(({ attempt }) => attempt === 'a2')?.end).toEqual(RETURNED);
  });

  it('ends with a close', async () => {
    const { start, host, clock } = await setUp();
    await start();
    const draining = host.drain(60_000);
    host.close();
    expect(await isOver(draining, clock)).toBe(true);
    expect(clock.timers).toBe(0);
  });
});

describe('closing', () => {
  it('stops every attempt, tells nothing and leaves the bus', async () => {
    const { start, host, reports, clock, offer } = await setUp();
    const script = await start();
    script.spec.onReport([output('a')], false);
    await clock.settle();
    script.spec.onReport([output('b')], false);
    host.close();
    host.close();
    expect(script.stopped).toBe(true);
    expect(clock.timers).toBe(0);
    await clock.advance(5_000);
    expect(reports).toHaveLength(1);
    expect(host.attempts).toBe(0);
    await expect(offer('a2')).rejects.toMatchObject({ code: 'NO_RESPONDERS' });
  });

  it('survives a bus that was closed before', async () => {
    const { start, server, clock, host } = await setUp();
    const { spec } = await start();
    await server.close();
    spec.onReport([output('a')], false);
    await clock.advance(3_000);
    expect(host.attempts).toBe(1);
  });
});

describe('tombstones', () => {
  it('last for their time, counted from the latest message', async () => {
    const clock = new VirtualClock();
    const tombstones = new Tombstones(clock, 1_000);
    tombstones.add('a');
    await clock.advance(600);
    tombstones.add('a');
    tombstones.add('b');
    await clock.advance(600);
    expect(['a', 'b', 'c'].map((id) => tombstones.has(id))).toEqual([true, true, false]);
    await clock.advance(400);
    expect(['a', 'b'].map((id) => tombstones.has(id))).toEqual([false, false]);
  });

  it('are bounded in number, and the oldest goes first', () => {
    const tombstones = new Tombstones(new VirtualClock(), 1_000, 2);
    for (const id of ['a', 'b', 'a', 'c']) tombstones.add(id);
    expect(['a', 'b', 'c'].map((id) => tombstones.has(id))).toEqual([true, false, true]);
  });
});
