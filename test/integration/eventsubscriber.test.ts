/**
 * Events as EVENTS.md promises them to a plain NATS client: on a real nats-server with the repository's `nats.conf`, a
 * real Redis and two brokers, to the subscriber of the examples, which knows nothing of ours.
 */
import path from 'node:path';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { Follower, type FollowOptions, type SessionEvent } from '../../examples/support/subscriber.ts';
import {
  createWorkerPoolAdapter,
  defineTool,
  Enclave,
  type EventType,
  type ExecutionEvent,
  eventSchemas,
  type SessionRef,
  type System,
} from '../../src/index.ts';
import { violations } from '../support/jsonschema.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { stopAll, waitUntil } from '../support/processes.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { closeAll, Gate, killWorkers, logOf, open, runtimeOf } from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

const NATS_CONF = path.resolve(import.meta.dirname, '../../nats.conf');
const TYPES = Object.keys(eventSchemas.types) as EventType[];

/** Types that any test here has seen, by where it saw them. */
const seenOnNats = new Set<string>();
const seenInProcess = new Set<string>();

let gate = new Gate();
let nats: NatsServer;
let redis: RedisServer;
let systems: readonly [System, System];
let everything: Everything;

const tools = [
  defineTool({ name: 'echo', effect: 'read', handler: (args) => args }),
  defineTool({
    name: 'fail',
    handler: () => {
      throw new Error('no');
    },
  }),
  defineTool({ name: 'wait', effect: 'idempotent', handler: () => gate.pass() }),
];

/** Who one is to the server of `nats.conf`. */
const login = (role: string, id: string) => ({
  user: role,
  inboxPrefix: `enclave.default.inbox.${role}.${id}`,
});
const passwordOf = (role: string): string => `secret-of-${role}`;
const asObserver = (url: string, id: string): FollowOptions['connection'] => ({
  servers: url,
  ...login('observer', id),
  pass: passwordOf('observer'),
});

/** Everything that is published, and every reading of the log that somebody asks for. */
class Everything {
  readonly heard: { readonly subject: string; readonly event: SessionEvent }[] = [];
  readonly asked: { readonly session: string; readonly fromSeq: number }[] = [];
  readonly nats: NatsConnection;

  static async start(url: string): Promise<Everything> {
    const connection = await connect({
      servers: url,
      ...login('broker', 'watcher'),
      pass: passwordOf('broker'),
    });
    const everything = new Everything(connection);
    await connection.flush();
    return everything;
  }

  private constructor(connection: NatsConnection) {
    this.nats = connection;
    connection.subscribe('enclave.default.session.*.event.*', {
      callback: (error, message) => {
        if (error === null) this.heard.push({ subject: message.subject, event: message.json() });
      },
    });
    connection.subscribe('enclave.default.broker.events_read', {
      callback: (error, message) => {
        if (error === null) this.asked.push(message.json());
      },
    });
  }

  of(session: string): readonly SessionEvent[] {
    return this.heard.flatMap(({ event }) => (event.sessionId === session ? [event] : []));
  }
}

/** The examples' subscriber, and all that it was given. */
class Reader {
  readonly events: SessionEvent[] = [];
  readonly missing: (readonly [number, number])[] = [];
  follower: Follower | undefined;

  async start(
    options: Pick<FollowOptions, 'connection' | 'session' | 'namespace' | 'checkMs'>,
  ): Promise<this> {
    this.follower = await Follower.start({
      // Where silence is not what is tested, nothing may depend on it.
      checkMs: 600_000,
      ...options,
      onEvent: (event) => this.events.push(event),
      onMissing: (from, to) => this.missing.push([from, to]),
    });
    readers.push(this);
    return this;
  }

  get last(): number {
    return this.events.at(-1)?.seq ?? 0;
  }
  numbers(): readonly number[] {
    return this.events.map(({ seq }) => seq);
  }
  has(type: string, text: string): boolean {
    return this.events.some((event) => event.type === type && JSON.stringify(event.payload).includes(text));
  }
}
const readers: Reader[] = [];

const upTo = (last: number, first = 1): readonly number[] =>
  Array.from({ length: last - first + 1 }, (_, index) => first + index);

/** Every event holds to its schema, to the letter: what is not described is not sent. */
function expectValid(events: readonly unknown[]): void {
  expect(events.length).toBeGreaterThan(0);
  for (const event of events) {
    const { type } = event as { readonly type: EventType };
    expect(TYPES).toContain(type);
    expect([event, violations(eventSchemas.types[type], event, { closed: true })]).toEqual([event, []]);
    expect(violations(eventSchemas.envelope, event)).toEqual([]);
  }
}

beforeAll(async () => {
  for (const role of ['broker', 'runtime', 'provider', 'client', 'observer'])
    vi.stubEnv(`ENCLAVE_NATS_${role.toUpperCase()}_PASSWORD`, passwordOf(role));
  nats = await startNats({ config: NATS_CONF });
  vi.unstubAllEnvs();
  redis = await startRedis();
  const member = (id: string): Promise<System> =>
    open({
      nats: { servers: nats.url, ...login('broker', id), password: passwordOf('broker') },
      redis: redis.url,
      roles: ['broker', 'runtime'],
      id,
      tools,
    });
  systems = await Promise.all([member('one'), member('two')]);
  everything = await Everything.start(nats.url);
});
afterAll(async () => {
  await everything?.nats.close();
  await closeAll();
  await stopAll();
});
beforeEach(() => {
  gate = new Gate();
});
afterEach(async () => {
  gate.open();
  await Promise.all(readers.splice(0).map(({ follower }) => follower?.stop()));
});

describe('a plain subscriber whose connection is cut', () => {
  let proxy: TcpProxy;
  let session: SessionRef;
  let reader: Reader;
  const execute = (...[code, options]: Parameters<SessionRef['execute']>) => session.execute(code, options);

  /** Resolves when the reader has everything that the log has. */
  async function caughtUp(): Promise<void> {
    const { seq } = await session.info();
    await waitUntil(() => reader.last >= seq, `the subscriber has event ${seq}`);
  }

  /** Heard live. */
  async function before(): Promise<void> {
    const talk = `console.log('log'); console.debug('debug'); console.info('info'); console.warn('warn');
      console.error({ deep: [1] }); console.table([{ a: 1 }]); await sleep(20);
      const { n } = await callTool('echo', { n: 1 });
      try { await callTool('fail', [1]) } catch (error) { console.error(error.message) }
      try { await callTool('nobody:has:this') } catch (error) { console.error(error.name) }
      return { n, nothing: null }`;
    expect(valueIn(await execute(talk).result)).toEqual({ n: 1, nothing: null });
    expect(errorIn(await execute('throw new TypeError("mine")').result).code).toBe('SCRIPT_ERROR');
    expect(errorIn(await execute('return (').result).code).toBe('SYNTAX_ERROR');
  }

  /** Nobody hears this. */
  async function during(): Promise<void> {
    const late = await execute('console.log("x"); await sleep(9_000)', { limits: { timeoutMs: 300 } }).result;
    expect(errorIn(late).code).toBe('EXECUTION_TIMEOUT');
    const later = await execute('await callTool("wait")', { limits: { deadlineMs: 400 } }).result;
    expect(errorIn(later).code).toBe('DEADLINE_EXCEEDED');
    const controller = new AbortController();
    const cancelled = execute('console.log("until"); await callTool("wait")', { signal: controller.signal });
    for await (const { type } of cancelled) if (type === 'tool_call') controller.abort();
    expect(errorIn(await cancelled.result).code).toBe('CANCELLED');
    const hungry = await execute('console.log("hungry"); for (;;) {}', { limits: { cpuMs: 50 } }).result;
    expect(errorIn(hungry).code).toBe('CPU_LIMIT_EXCEEDED');
  }

  it('has the whole session: every event once, in order, as the log has them', {
    timeout: 60_000,
  }, async () => {
    const [one] = systems;
    proxy = await startProxy(nats.port);
    reader = await new Reader().start({
      connection: asObserver(proxy.url('nats'), 'reader'),
      session: 'whole',
    });
    session = await one.spawnSession({ id: 'whole' });
    await before();
    await caughtUp();

    // A script is in the middle of its output when the link is cut.
    const cutOff = execute(`console.log('heard'); await callTool('wait');
      for (let n = 0; n < 20; n++) { console.log('unheard', n); await callTool('echo', n) }
      return 'through'`);
    await waitUntil(() => gate.waiting === 1 && reader.has('stdout', 'heard'), 'the output is heard');
    await waitUntil(() => reader.has('tool_call', 'wait'), 'the call is heard');
    proxy.cut();
    const known = reader.last;
    const asked = everything.asked.length;
    gate.open();
    expect(valueIn(await cutOff.result)).toBe('through');
    gate = new Gate();
    await during();
    const { seq: missed } = await session.info();
    await waitUntil(() => everything.of('whole').at(-1)?.seq === missed, 'all was published');
    expect(reader.last).toBe(known);
    expect(missed).toBeGreaterThan(known + 40);

    await proxy.restore();
    await waitUntil(() => reader.last === missed, 'what was missed is read, though nothing follows');
    // Moved, and its runtime's workers lost, while the script runs.
    const moved = execute(
      `console.log('here'); await callTool('wait'); console.log('there'); return 'moved'`,
    );
    await waitUntil(() => gate.waiting > 0, 'the script waits');
    const { owner } = await session.info();
    await session.migrate();
    expect((await session.info()).owner).not.toBe(owner);
    const host = systems.find((system) => Object.hasOwn(system.stats(), runtimeOf(hostOf(), 'whole')));
    expect(killWorkers(host as System, runtimeOf(hostOf(), 'whole'))).not.toEqual([]);
    gate.open();
    expect(valueIn(await moved.result)).toBe('moved');
    expect(valueIn(await execute('').result)).toBeUndefined();
    await caughtUp();

    const { seq } = await session.info();
    expect(reader.numbers()).toEqual(upTo(seq));
    expect(reader.events).toEqual(await logOf(session));
    expect(reader.missing).toEqual([]);
    expectValid(reader.events);
    for (const { type } of reader.events) seenOnNats.add(type);
    // It read the log where the cut began.
    expect(everything.asked.slice(asked)).toContainEqual({
      session: 'whole',
      fromSeq: known + 1,
      limit: 500,
    });
  });

  /** The system whose broker has the session. */
  function hostOf(): System {
    const found = systems.find((system) =>
      system.parts.brokers.some(({ broker }) => broker.actor('whole') !== undefined),
    );
    if (found === undefined) throw new Error('nobody has the session');
    return found;
  }

  it('has every execution from its beginning to its end', () => {
    const executions = Map.groupBy(reader.events, ({ executionId }) => executionId);
    expect(executions.size).toBe(10);
    for (const [id, events] of executions) {
      expect(events[0]).toMatchObject({ type: 'session_init', payload: { executionId: id } });
      expect(events.filter(({ type }) => type === 'final')).toEqual([events.at(-1)]);
    }
    const ends = reader.events.flatMap(({ type, payload }) => (type === 'final' ? [payload] : []));
    expect(ends.map((end) => (end.error as { code: string } | undefined)?.code ?? 'OK')).toEqual([
      ...['OK', 'SCRIPT_ERROR', 'SYNTAX_ERROR', 'OK'],
      ...['EXECUTION_TIMEOUT', 'DEADLINE_EXCEEDED', 'CANCELLED', 'CPU_LIMIT_EXCEEDED'],
      ...['OK', 'OK'],
    ]);
  });

  it('is told nothing twice, though an owner publishes again, and out of order', async () => {
    const again = await new Reader().start({ connection: asObserver(nats.url, 'again'), session: 'whole' });
    await waitUntil(() => again.last === reader.last, 'it has read the log');
    const events = [...again.events];
    const asked = everything.asked.length;
    for (const event of events.toReversed())
      everything.nats.publish(`enclave.default.session.whole.event.${event.type}`, JSON.stringify(event));
    await everything.nats.flush();
    expect(valueIn(await execute('return "the end"').result)).toBe('the end');
    await waitUntil(() => again.has('final', 'the end'), 'what follows is heard');
    expect(again.numbers()).toEqual(upTo(events.length + 2));
    // What it has is no reason to read the log.
    expect(everything.asked.length).toBe(asked);
  });
});

describe('what is published', () => {
  it('goes to the subject of its session and type, whatever it is', async () => {
    const [one] = systems;
    const kept = await one.spawnSession({ id: 'nowhere', durability: 'none' });
    expect(valueIn(await kept.execute('console.log(1); return await callTool("echo", 2)').result)).toBe(2);
    const run: ExecutionEvent[] = [];
    valueIn(await one.run('console.warn(1); return 1', { onEvent: (event) => run.push(event) }));
    const home = run[0]?.sessionId ?? '';
    expect(home).toMatch(/^run-/);
    await waitUntil(() => everything.of(home).at(-1)?.type === 'final', 'the run was heard');
    await waitUntil(() => everything.of('nowhere').at(-1)?.type === 'final', 'the session was heard');
    expect(everything.of(home)).toEqual(run);
    for (const { subject, event } of everything.heard)
      expect(subject).toBe(`enclave.default.session.${event.sessionId}.event.${event.type}`);
    expectValid(everything.heard.map(({ event }) => event));
    for (const { event } of everything.heard) seenOnNats.add(event.type);
  });

  it('is read from the owner where no store has it', async () => {
    const reader = await new Reader().start({
      connection: asObserver(nats.url, 'late'),
      session: 'nowhere',
    });
    await waitUntil(() => reader.last === 5, 'all five are read');
    expect(reader.events).toEqual(everything.of('nowhere'));
  });

  it('is answered to an observer as EVENTS.md shows it', async () => {
    const observer = await connect(asObserver(nats.url, 'asker'));
    const ask = async (body: object): Promise<unknown> =>
      (
        await observer.request('enclave.default.broker.events_read', JSON.stringify(body), { timeout: 5_000 })
      ).json();
    const [first, second] = everything.of('whole');
    expect(await ask({ session: 'whole', fromSeq: 1, limit: 2 })).toEqual({
      ok: true,
      value: {
        events: [JSON.stringify(first), JSON.stringify(second)],
        firstSeq: 1,
        seq: everything.of('whole').reduce((last, { seq }) => Math.max(last, seq), 0),
      },
      epoch: 0,
    });
    expect(await ask({ session: 'post', fromSeq: 3, limit: 500 })).toEqual({
      ok: false,
      error: {
        code: 'NOT_FOUND',
        message: 'There is no session "post"',
        retryable: false,
        outcome: 'not_started',
      },
      epoch: 0,
    });
    expect(await ask({ session: 'whole', fromSeq: 'a', limit: 1 })).toMatchObject({
      ok: false,
      error: { code: 'INVALID_ARGUMENT', retryable: false, details: { key: 'fromSeq' } },
    });
    await observer.close();
  });
});

describe('a subscriber that the log cannot help', () => {
  const SUBJECT = 'enclave.lost.broker.events_read';
  let plain: NatsServer;
  let broker: NatsConnection;
  /** What the log has; read by the subscriber through a broker that the test plays. */
  let log: SessionEvent[];
  let firstSeq: number;
  let tooLarge: number | undefined;
  let asked: number[];

  const event = (seq: number): SessionEvent => ({
    protocolVersion: 2,
    sessionId: 's',
    seq,
    executionId: 'e',
    type: 'stdout',
    payload: { chunk: `${seq}` },
  });
  const publish = (...numbers: readonly number[]): void => {
    for (const seq of numbers)
      broker.publish('enclave.lost.session.s.event.stdout', JSON.stringify(event(seq)));
  };
  const read = async (): Promise<Reader> =>
    new Reader().start({ connection: { servers: plain.url }, namespace: 'lost', session: 's' });

  beforeAll(async () => {
    plain = await startNats();
    broker = await connect({ servers: plain.url });
    broker.subscribe(SUBJECT, {
      callback: (error, message) => {
        if (error !== null) return;
        const { fromSeq, limit } = message.json<{ readonly fromSeq: number; readonly limit: number }>();
        asked.push(fromSeq);
        if (fromSeq === tooLarge) {
          const refused = { code: 'RESULT_LIMIT_EXCEEDED', message: 'too large', retryable: false };
          message.respond(JSON.stringify({ ok: false, error: refused, epoch: 0 }));
          return;
        }
        const kept =
          fromSeq < firstSeq ? [] : log.filter(({ seq }) => seq >= fromSeq).slice(0, Math.min(limit, 2));
        const value = { events: kept.map((one) => JSON.stringify(one)), firstSeq, seq: log.at(-1)?.seq ?? 0 };
        message.respond(JSON.stringify({ ok: true, value, epoch: 0 }));
      },
    });
    await broker.flush();
  });
  afterAll(() => broker?.close());
  beforeEach(() => {
    log = [];
    firstSeq = 1;
    tooLarge = undefined;
    asked = [];
  });

  it('reads it page by page', async () => {
    log = upTo(7).map(event);
    const reader = await read();
    await waitUntil(() => reader.last === 7, 'it has all');
    expect(reader.numbers()).toEqual(upTo(7));
    expect(asked).toEqual([1, 3, 5, 7]);
  });

  it('waits for a log that is behind what it heard', async () => {
    const reader = await read();
    await waitUntil(() => asked.length > 0, 'it has asked');
    publish(2, 3);
    await waitUntil(() => asked.length > 3, 'it asks again');
    expect(reader.events).toEqual([]);
    log = upTo(3).map(event);
    await waitUntil(() => reader.last === 3, 'it has all');
    expect(reader.numbers()).toEqual([1, 2, 3]);
  });

  it('is told what is no longer kept, and gives what it heard of it', async () => {
    log = upTo(9).map(event);
    firstSeq = 10;
    const reader = await read();
    await waitUntil(() => reader.missing.length > 0, 'it says what is gone');
    expect(reader.missing).toEqual([[1, 9]]);
    publish(12);
    log = [event(14)];
    firstSeq = 14;
    await waitUntil(() => reader.last === 14, 'it goes on');
    expect(reader.missing).toEqual([
      [1, 9],
      [10, 11],
      [13, 13],
    ]);
    expect(reader.numbers()).toEqual([12, 14]);
  });

  it('asks it after a while of silence: the last event may be what was lost', async () => {
    const reader = await new Reader().start({
      connection: { servers: plain.url },
      namespace: 'lost',
      session: 's',
      checkMs: 50,
    });
    publish(1);
    await waitUntil(() => reader.last === 1, 'it hears one');
    log = upTo(2).map(event);
    await waitUntil(() => reader.last === 2, 'it has the one that was not published');
    expect(reader.numbers()).toEqual([1, 2]);
  });

  it('is told by a real broker what it no longer keeps', async () => {
    const settings = { nats: plain.url, redis: redis.url, keyPrefix: 'short:', namespace: 'short' };
    const system = await open({ ...settings, roles: ['broker', 'runtime'], maxEvents: 10 });
    const session = await system.spawnSession({ id: 's' });
    valueIn(await session.execute('for (let n = 0; n < 50; n++) { console.log(n); await sleep(1) }').result);
    const options = { connection: { servers: plain.url }, namespace: 'short', session: 's' };
    const reader = await new Reader().start(options);
    await waitUntil(() => reader.last === 52, 'it has the last event');
    const [first = 0] = reader.numbers();
    expect(reader.missing).toEqual([[1, first - 1]]);
    expect(reader.numbers()).toEqual(upTo(52, first));
    expect(reader.events.length).toBeGreaterThanOrEqual(10);
    expectValid(reader.events);
  });

  it('passes over an event that does not fit into an answer', async () => {
    log = upTo(5).map(event);
    tooLarge = 3;
    const reader = await read();
    await waitUntil(() => reader.last === 5, 'it goes on');
    expect(reader.missing).toEqual([[3, 3]]);
    expect(reader.numbers()).toEqual([1, 2, 4, 5]);
  });
});

describe('without NATS', () => {
  /** Objects within a process; a subscriber would get them as JSON. */
  const overTheWire = (events: readonly ExecutionEvent[]): readonly ExecutionEvent[] =>
    JSON.parse(JSON.stringify(events)) as ExecutionEvent[];

  it('the events of a system in memory hold to the schemas', async () => {
    const system = await open({ tools });
    const session = await system.spawnSession();
    const limits = { timeoutMs: 200 };
    valueIn(
      await session.execute('console.log(1); console.warn(2); await callTool("echo"); return []').result,
    );
    errorIn(await session.execute('await sleep(9_000)', { limits }).result);
    errorIn(await session.execute('await callTool("fail", { a: 1 })').result);
    const events = overTheWire(await logOf(session));
    expectValid(events);
    for (const { type } of events) seenInProcess.add(type);
    // Sessions replay what was lost without a word.
    expect([...seenInProcess].toSorted()).toEqual(TYPES.filter((type) => type !== 'error').toSorted());
  });

  it('the events of an Enclave do, which tells of a lost worker', async () => {
    const events: ExecutionEvent[] = [];
    const enclave = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1 }), tools });
    const running = enclave.run('console.log("a"); await callTool("wait"); console.error("b"); return 1', {
      onEvent: (event) => events.push(event),
    });
    await waitUntil(() => gate.waiting === 1, 'the script waits');
    for (const { pid, aboard } of enclave.stats().workers) if (aboard > 0) process.kill(pid, 'SIGKILL');
    await waitUntil(() => events.some(({ type }) => type === 'error'), 'the loss is told');
    gate.open();
    expect(valueIn(await running)).toBe(1);
    await enclave.dispose();
    expectValid(overTheWire(events));
    for (const { type } of events) seenInProcess.add(type);
  });
});

it('every type there is was seen, and on NATS every one but `error`, which only an Enclave sends', () => {
  expect([...seenInProcess].toSorted()).toEqual(TYPES.toSorted());
  expect([...seenOnNats].toSorted()).toEqual(TYPES.filter((type) => type !== 'error').toSorted());
});
