/**
 * What every bus owes (B1 to B11 of `src/bus/bus.ts`), as tests that know nothing but the port.
 *
 * No test relies on how soon something happens. That something does *not* happen is shown with a fence: a message
 * sent after the one in question, between the same two handles, which has arrived.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  type Body,
  type Bus,
  BusError,
  type Handler,
  type Message,
  type TraceHeaders,
} from '../../src/bus/bus.ts';
import { systemClock } from '../../src/clock.ts';

/** A bus that was opened for a test run. */
export interface OpenBus {
  /** A new handle, independent of the others. */
  connect(): Bus | Promise<Bus>;
  close(): Promise<void>;
}

/** Run the contract against a backend. */
export function busContract(name: string, open: () => Promise<OpenBus>): void {
  describe(`the ${name} bus`, () => {
    let opened: OpenBus | undefined;
    const room = new Room(() => {
      if (opened === undefined) throw new TypeError('the bus is not open');
      return opened.connect();
    });
    beforeAll(async () => {
      opened = await open();
    });
    afterEach(() => room.leave());
    afterAll(() => opened?.close());

    const inRoom: Test = (claim, act) => it(claim, () => act(room));
    describe('delivery', () => delivery(inRoom));
    describe('order', () => order(inRoom));
    describe('queue groups', () => groups(inRoom));
    describe('wildcards', () => wildcards(inRoom));
    describe('requests', () => requests(inRoom));
    describe('responders', () => responders(inRoom));
    describe('traces', () => traces(inRoom));
    describe('large bodies', () => largeBodies(inRoom));
    describe('a slow reader', () => slowReaders(inRoom));
    describe('unsubscribing', () => unsubscribing(inRoom));
    describe('draining', () => draining(inRoom));
    describe('closing a handle', () => closing(inRoom));
    describe('subjects', () => subjects(inRoom));
  });
}

type Test = (claim: string, act: (room: Room) => Promise<void>) => void;

/** What one test opened. */
class Room {
  readonly #connect: () => Bus | Promise<Bus>;
  readonly #handles: Bus[] = [];
  readonly #gates: Gate[] = [];

  constructor(connect: () => Bus | Promise<Bus>) {
    this.#connect = connect;
  }

  async connect(): Promise<Bus> {
    const handle = await this.#connect();
    this.#handles.push(handle);
    return handle;
  }

  /** Something for a handler to wait for; opened at the end of the test at the latest. */
  gate(): Gate {
    const { promise, resolve } = Promise.withResolvers<void>();
    const gate = { passed: promise, open: resolve };
    this.#gates.push(gate);
    return gate;
  }

  async leave(): Promise<void> {
    for (const gate of this.#gates.splice(0)) gate.open();
    await Promise.all(this.#handles.splice(0).map((handle) => handle.close()));
  }
}

interface Gate {
  readonly passed: Promise<void>;
  readonly open: () => void;
}

/** A subject that no other test has. */
const unique = (): string => `contract.${systemClock.id()}`;

const range = (count: number): readonly number[] => Array.from({ length: count }, (_, index) => index);

/** B11. */
function traces(it: Test): void {
  const traceparent = `00-${'4b'.repeat(16)}-${'a3'.repeat(8)}-01`;

  /** Asks once; resolves to what the handler was given as the trace. */
  const asked = async (room: Room, trace: TraceHeaders | undefined, body: Body = {}) => {
    const [from, to] = [await room.connect(), await room.connect()];
    const subject = unique();
    const heard: (TraceHeaders | undefined)[] = [];
    to.subscribe(subject, (message) => {
      heard.push(message.trace);
      message.respond?.({ n: 1 });
    });
    await to.flush();
    expect(await from.request(subject, body, { timeoutMs: 10_000, trace })).toEqual({ n: 1 });
    expect(heard).toHaveLength(1);
    return heard[0];
  };

  it('reach the handler beside the body', async (room) => {
    expect(await asked(room, { traceparent })).toEqual({ traceparent });
    const tracestate = 'vendor=1,other=a-b_c';
    expect(await asked(room, { traceparent, tracestate })).toEqual({ traceparent, tracestate });
  });

  it('are none where none was given', async (room) => {
    expect(await asked(room, undefined)).toBeUndefined();
  });

  it('do not make a request too large that is not without them', async (room) => {
    const { maxPayloadBytes } = await room.connect();
    const text = 'x'.repeat(maxPayloadBytes - '{"text":""}'.length);
    const trace = await asked(room, { traceparent }, { text });
    expect([undefined, traceparent]).toContain(trace?.traceparent);
  });

  it('are none of what is only published', async (room) => {
    const [from, to] = [await room.connect(), await room.connect()];
    const subject = unique();
    const { promise, resolve } = Promise.withResolvers<Message>();
    to.subscribe(subject, (message) => resolve(message));
    await to.flush();
    from.publish(subject, {});
    expect((await promise).trace).toBeUndefined();
  });
}

/** Let timers and sockets have their turn. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const eventually = (fact: () => void): Promise<void> => vi.waitFor(fact, { timeout: 15_000, interval: 2 });

const failure = (code: BusError['code']): unknown => expect.objectContaining({ name: 'BusError', code });

/** The `n` of a body. */
function numberOf(body: Body): number {
  return 'n' in body && typeof body.n === 'number' ? body.n : Number.NaN;
}

/** Everything that `from` sent has arrived at the subscriptions of `to`. */
async function fence(from: Bus, to: Bus): Promise<void> {
  const subject = unique();
  const { promise, resolve } = Promise.withResolvers<void>();
  const subscription = to.subscribe(subject, () => resolve());
  await to.flush();
  from.publish(subject, {});
  await promise;
  subscription.unsubscribe();
}

/** A handler that writes down the `n` of what comes. */
function recorder(): { readonly numbers: number[]; readonly record: Handler } {
  const numbers: number[] = [];
  return {
    numbers,
    record: ({ body }) => {
      numbers.push(numberOf(body));
    },
  };
}

/** Subscribe with a handler that writes down the `n` of what comes and then waits at the gate. */
function pausedAt(gate: Gate): { readonly numbers: number[]; readonly record: Handler } {
  const numbers: number[] = [];
  return {
    numbers,
    record: ({ body }) => {
      numbers.push(numberOf(body));
      return gate.passed;
    },
  };
}

const PATIENT = { timeoutMs: 20_000 };
const IMPATIENT = { timeoutMs: 100 };

function delivery(test: Test): void {
  test('passes JSON data whole', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const got: Message[] = [];
    subscriber.subscribe(subject, (message) => {
      got.push(message);
    });
    await subscriber.flush();
    const text =
      '{"text":"\\u00e9\\u20ac\\ud83d\\ude00\\n\\"\\\\","list":[1,-0.5,null,true,{"deep":[]}],"__proto__":{"own":1}}';
    const body = JSON.parse(text) as Body;
    publisher.publish(subject, body);
    await eventually(() => expect(got).toHaveLength(1));
    expect(got[0]?.subject).toBe(subject);
    expect(JSON.stringify(got[0]?.body)).toBe(JSON.stringify(body));
    expect(got[0]?.respond).toBeUndefined();
  });

  test('reaches every plain subscriber, that of the publisher too', async (room) => {
    const [publisher, other] = [await room.connect(), await room.connect()];
    const subject = unique();
    const [own, first, second] = [recorder(), recorder(), recorder()];
    publisher.subscribe(subject, own.record);
    other.subscribe(subject, first.record);
    other.subscribe(subject, second.record);
    await Promise.all([publisher.flush(), other.flush()]);
    publisher.publish(subject, { n: 7 });
    await eventually(() => expect([own.numbers, first.numbers, second.numbers]).toEqual([[7], [7], [7]]));
  });

  test('does not mind that nobody listens', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    for (const n of range(100)) publisher.publish(unique(), { n });
    await publisher.flush();
    await fence(publisher, subscriber);
  });

  test('knows a subscription everywhere once it was flushed', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    for (const n of range(50)) {
      const subject = unique();
      const { numbers, record } = recorder();
      subscriber.subscribe(subject, record);
      await subscriber.flush();
      publisher.publish(subject, { n });
      await eventually(() => expect(numbers).toEqual([n]));
    }
  });

  test('goes on after a handler threw or rejected', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const handled: number[] = [];
    subscriber.subscribe(subject, ({ body }) => {
      handled.push(numberOf(body));
      if (numberOf(body) === 0) throw new TypeError('thrown by a handler');
      return numberOf(body) === 1 ? Promise.reject(new TypeError('rejected by a handler')) : undefined;
    });
    await subscriber.flush();
    for (const n of range(4)) publisher.publish(subject, { n });
    await eventually(() => expect(handled).toEqual([0, 1, 2, 3]));
  });
}

function order(test: Test): void {
  test('is that of publication, for each publisher', async (room) => {
    const [first, second, subscriber] = [await room.connect(), await room.connect(), await room.connect()];
    const subject = unique();
    const got = new Map<string, number[]>([
      ['first', []],
      ['second', []],
    ]);
    subscriber.subscribe(subject, ({ body }) => {
      if ('by' in body) got.get(String(body.by))?.push(numberOf(body));
    });
    await subscriber.flush();
    const count = 5_000;
    for (const n of range(count)) {
      first.publish(subject, { by: 'first', n });
      second.publish(subject, { by: 'second', n });
      if (n % 500 === 0) await turn();
    }
    await eventually(() => expect([...got.values()].map(({ length }) => length)).toEqual([count, count]));
    expect(got.get('first')).toEqual(range(count));
    expect(got.get('second')).toEqual(range(count));
  });

  test('is kept while handlers are waited for, one at a time', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const log: string[] = [];
    subscriber.subscribe(subject, async ({ body }) => {
      log.push(`begin ${numberOf(body)}`);
      await turn();
      log.push(`end ${numberOf(body)}`);
    });
    await subscriber.flush();
    for (const n of range(200)) publisher.publish(subject, { n });
    await eventually(() => expect(log).toHaveLength(400));
    expect(log).toEqual(range(200).flatMap((n) => [`begin ${n}`, `end ${n}`]));
  });

  test('is the same for requests and messages', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const { numbers, record } = recorder();
    subscriber.subscribe(subject, (message) => {
      void record(message);
      message.respond?.({});
    });
    await subscriber.flush();
    const answers: Promise<Body>[] = [];
    for (const n of range(500)) {
      if (n % 3 === 0) answers.push(publisher.request(subject, { n }, PATIENT));
      else publisher.publish(subject, { n });
    }
    await Promise.all(answers);
    await eventually(() => expect(numbers).toHaveLength(500));
    expect(numbers).toEqual(range(500));
  });

  test('is never that of the call: a handler runs after publish and request have returned', async (room) => {
    const bus = await room.connect();
    const subject = unique();
    let calling = false;
    const during: boolean[] = [];
    bus.subscribe(subject, ({ body, respond }) => {
      during.push(calling);
      const n = numberOf(body);
      if (n >= 20) return;
      calling = true;
      // From within a handler, on its own subject.
      bus.publish(subject, { n: n + 1 });
      respond?.({});
      calling = false;
    });
    await bus.flush();
    calling = true;
    bus.publish(subject, { n: 0 });
    const answer = bus.request(subject, { n: 0 }, PATIENT);
    calling = false;
    await answer;
    await eventually(() => expect(during).toHaveLength(42));
    expect(during).not.toContain(true);
  });
}

function groups(test: Test): void {
  test('hand each message to one member, and share the load', async (room) => {
    const publisher = await room.connect();
    const members = [recorder(), recorder(), recorder()];
    const subject = unique();
    const count = 3_000;
    for (const member of members) {
      const handle = await room.connect();
      handle.subscribe(subject, member.record, { queue: 'workers' });
      await handle.flush();
    }
    for (const n of range(count)) {
      publisher.publish(subject, { n });
      if (n % 500 === 0) await turn();
    }
    const all = (): readonly number[] => members.flatMap(({ numbers }) => numbers);
    await eventually(() => expect(all().length).toBeGreaterThanOrEqual(count));
    expect(all().toSorted((a, b) => a - b)).toEqual(range(count));
    for (const { numbers } of members) expect(numbers.length).toBeGreaterThanOrEqual(count / 10);
  });

  test('of different names and plain subscribers get a message each', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const [red, blue, plain] = [recorder(), recorder(), recorder()];
    for (const [queue, { record }] of [
      ['red', red],
      ['red', red],
      ['blue', blue],
      ['blue', blue],
      [undefined, plain],
    ] as const)
      subscriber.subscribe(subject, record, { queue });
    await subscriber.flush();
    for (const n of range(20)) publisher.publish(subject, { n });
    await fence(publisher, subscriber);
    for (const { numbers } of [red, blue, plain])
      expect(numbers.toSorted((a, b) => a - b)).toEqual(range(20));
  });

  test('are one, whether their members came by name or by wildcard', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const prefix = unique();
    const members = [recorder(), recorder()];
    subscriber.subscribe(`${prefix}.a`, members[0]?.record ?? (() => {}), { queue: 'workers' });
    subscriber.subscribe(`${prefix}.*`, members[1]?.record ?? (() => {}), { queue: 'workers' });
    await subscriber.flush();
    for (const n of range(300)) publisher.publish(`${prefix}.a`, { n });
    await fence(publisher, subscriber);
    const all = members.flatMap(({ numbers }) => numbers);
    expect(all.toSorted((a, b) => a - b)).toEqual(range(300));
    for (const { numbers } of members) expect(numbers.length).toBeGreaterThanOrEqual(30);
  });

  test('send nothing to a member that has left', async (room) => {
    const [publisher, staying, leaving] = [await room.connect(), await room.connect(), await room.connect()];
    const subject = unique();
    const [stays, unsubscribed, drained] = [recorder(), recorder(), recorder()];
    staying.subscribe(subject, stays.record, { queue: 'workers' });
    const first = leaving.subscribe(subject, unsubscribed.record, { queue: 'workers' });
    const second = leaving.subscribe(subject, drained.record, { queue: 'workers' });
    await Promise.all([staying.flush(), leaving.flush()]);
    first.unsubscribe();
    await second.drain();
    await leaving.flush();
    for (const n of range(100)) publisher.publish(subject, { n });
    await eventually(() => expect(stays.numbers).toEqual(range(100)));
    await fence(publisher, leaving);
    expect([unsubscribed.numbers, drained.numbers]).toEqual([[], []]);
  });
}

function wildcards(test: Test): void {
  test('match whole tokens, and nothing else', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const root = unique();
    const sent = ['a', 'b', 'a.b', 'a.c', 'b.b', 'a.b.c', 'a.b.d', 'ab.c', 'A', 'a.b.c.d'];
    const expected = {
      a: ['a'],
      '*': ['a', 'b', 'A'],
      '>': sent,
      'a.*': ['a.b', 'a.c'],
      '*.b': ['a.b', 'b.b'],
      'a.>': ['a.b', 'a.c', 'a.b.c', 'a.b.d', 'a.b.c.d'],
      'a.*.c': ['a.b.c'],
      '*.*.*': ['a.b.c', 'a.b.d'],
      '*.b.>': ['a.b.c', 'a.b.d', 'a.b.c.d'],
      'a.b.c.d.>': [],
    };
    const got = new Map<string, string[]>();
    for (const pattern of Object.keys(expected)) {
      const subjects: string[] = [];
      got.set(pattern, subjects);
      subscriber.subscribe(`${root}.${pattern}`, ({ subject }) => {
        subjects.push(subject.slice(root.length + 1));
      });
    }
    await subscriber.flush();
    publisher.publish(root, {});
    for (const subject of sent) publisher.publish(`${root}.${subject}`, {});
    await fence(publisher, subscriber);
    // Order holds on one subject only.
    for (const subjects of got.values()) subjects.sort();
    expect(Object.fromEntries(got)).toEqual(
      Object.fromEntries(Object.entries(expected).map(([pattern, list]) => [pattern, list.toSorted()])),
    );
  });

  test('are forgotten with their subscription', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const root = unique();
    const [one, all] = [recorder(), recorder()];
    const subscription = subscriber.subscribe(`${root}.*.x`, one.record);
    subscriber.subscribe(`${root}.>`, all.record);
    await subscriber.flush();
    publisher.publish(`${root}.a.x`, { n: 0 });
    await fence(publisher, subscriber);
    subscription.unsubscribe();
    await subscriber.flush();
    publisher.publish(`${root}.a.x`, { n: 1 });
    await fence(publisher, subscriber);
    expect([one.numbers, all.numbers]).toEqual([[0], [0, 1]]);
  });
}

function requests(test: Test): void {
  test('each get their own answer, in whatever order those come', async (room) => {
    const [client, other, server] = [await room.connect(), await room.connect(), await room.connect()];
    const subject = unique();
    const waiting: Message[] = [];
    const count = 500;
    server.subscribe(subject, (message) => {
      waiting.push(message);
      if (waiting.length < 2 * count) return;
      // Neither first come, first served, nor the other way round; 7 and 1,000 have no common divisor.
      for (const index of range(waiting.length)) {
        const { body, respond } = waiting[(index * 7) % waiting.length] ?? message;
        respond?.({ echo: body });
      }
    });
    await server.flush();
    const asked = [client, other].flatMap((handle, by) =>
      range(count).map((n) => ({ body: { by, n }, answer: handle.request(subject, { by, n }, PATIENT) })),
    );
    const answers = await Promise.all(asked.map(({ answer }) => answer));
    expect(answers).toEqual(asked.map(({ body }) => ({ echo: body })));
  });

  test('can be answered by a handler that takes its time', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    server.subscribe(subject, async ({ body, respond }) => {
      await turn();
      respond?.({ n: numberOf(body) + 1 });
    });
    await server.flush();
    const answers = await Promise.all(range(20).map((n) => client.request(subject, { n }, PATIENT)));
    expect(answers.map(numberOf)).toEqual(range(20).map((n) => n + 1));
  });

  test('go to everyone who gets messages, and the first answer wins', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const asked: string[] = [];
    server.subscribe(subject, async ({ respond }) => {
      asked.push('slow');
      await gate.passed;
      respond?.({ by: 'slow' });
    });
    for (const member of ['member', 'member']) {
      server.subscribe(
        subject,
        ({ respond }) => {
          asked.push(member);
          respond?.({ by: member });
          respond?.({ by: 'an afterthought' });
        },
        { queue: 'workers' },
      );
    }
    await server.flush();
    expect(await client.request(subject, {}, PATIENT)).toEqual({ by: 'member' });
    await fence(client, server);
    expect(asked.toSorted()).toEqual(['member', 'slow']);
    const next = client.request(subject, {}, PATIENT);
    gate.open();
    expect(['member', 'slow']).toContain(((await next) as { readonly by: unknown }).by);
  });

  test('end as TIMEOUT, and a later answer does no harm', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const late = Promise.withResolvers<void>();
    server.subscribe(subject, async ({ body, respond }) => {
      const n = numberOf(body);
      if (n === 0) await gate.passed;
      respond?.({ n });
      if (n === 0) late.resolve();
    });
    await server.flush();
    await expect(client.request(subject, { n: 0 }, IMPATIENT)).rejects.toEqual(failure('TIMEOUT'));
    gate.open();
    await late.promise;
    for (const n of [1, 2, 3]) expect(await client.request(subject, { n }, PATIENT)).toEqual({ n });
  });

  test('end as TIMEOUT if nobody answers', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    server.subscribe(subject, () => {});
    await server.flush();
    const before = systemClock.monotonic();
    await expect(client.request(subject, {}, IMPATIENT)).rejects.toEqual(failure('TIMEOUT'));
    // Timers may be a little early by the other clock.
    expect(systemClock.monotonic() - before).toBeGreaterThanOrEqual(IMPATIENT.timeoutMs * 0.9);
  });
}

function responders(test: Test): void {
  const rejectsAtOnce = async (bus: Bus, subject: string): Promise<void> => {
    const before = systemClock.monotonic();
    await expect(bus.request(subject, {}, PATIENT)).rejects.toEqual(failure('NO_RESPONDERS'));
    expect(systemClock.monotonic() - before).toBeLessThan(PATIENT.timeoutMs / 4);
  };

  test('that do not exist are reported at once', async (room) => {
    const client = await room.connect();
    await rejectsAtOnce(client, unique());
  });

  test('that have gone are reported at once', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    for (const leave of ['unsubscribe', 'drain', 'close'] as const) {
      const handle = leave === 'close' ? await room.connect() : server;
      const subject = unique();
      const subscription = handle.subscribe(subject, ({ respond }) => respond?.({}));
      await handle.flush();
      await client.request(subject, {}, PATIENT);
      await (leave === 'close' ? handle.close() : subscription[leave]());
      await server.flush();
      await rejectsAtOnce(client, subject);
    }
  });

  test('that are still draining count as gone', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const { numbers, record } = pausedAt(gate);
    const subscription = server.subscribe(subject, record);
    await server.flush();
    client.publish(subject, { n: 0 });
    await eventually(() => expect(numbers).toEqual([0]));
    const drained = subscription.drain();
    await server.flush();
    await rejectsAtOnce(client, subject);
    gate.open();
    await drained;
  });

  test('that are paused count, and still get the message', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const { numbers, record } = pausedAt(gate);
    server.subscribe(subject, record);
    await server.flush();
    client.publish(subject, { n: 0 });
    await eventually(() => expect(numbers).toEqual([0]));
    await expect(client.request(subject, { n: 1 }, IMPATIENT)).rejects.toEqual(failure('TIMEOUT'));
    expect(numbers).toEqual([0]);
    gate.open();
    await eventually(() => expect(numbers).toEqual([0, 1]));
  });

  test('may have subscribed by wildcard or in a group', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    server.subscribe(`${subject}.*`, ({ respond }) => respond?.({ by: 'wildcard' }));
    server.subscribe(subject, ({ respond }) => respond?.({ by: 'group' }), { queue: 'workers' });
    await server.flush();
    expect(await client.request(`${subject}.a`, {}, PATIENT)).toEqual({ by: 'wildcard' });
    expect(await client.request(subject, {}, PATIENT)).toEqual({ by: 'group' });
    await rejectsAtOnce(client, `${subject}.a.b`);
  });
}

function largeBodies(test: Test): void {
  /** Larger than the cap by more than it may be miscounted, as one string, as many, or in bytes only. */
  const tooLarge = ({ maxPayloadBytes }: Bus): readonly Body[] => {
    const bytes = Math.ceil(maxPayloadBytes * 1.1);
    return [
      { data: 'x'.repeat(bytes) },
      { data: '\u20ac'.repeat(Math.ceil(bytes / 3)) },
      { list: Array.from({ length: Math.ceil(bytes / 1_000) }, () => ({ text: 'y'.repeat(1_000) })) },
    ];
  };

  test('pass up to the cap', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    server.subscribe(subject, ({ body, respond }) => respond?.(body));
    await server.flush();
    const body = { data: 'x'.repeat(client.maxPayloadBytes - 64) };
    const answer = await client.request(subject, body, PATIENT);
    expect('data' in answer && answer.data === body.data).toBe(true);
  });

  test('above the cap are refused by publish and request, and the bus goes on', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const { numbers, record } = recorder();
    server.subscribe(subject, (message) => {
      void record(message);
      message.respond?.({});
    });
    await server.flush();
    for (const body of tooLarge(client)) {
      expect(() => client.publish(subject, body)).toThrow(failure('PAYLOAD_TOO_LARGE'));
      expect(() => client.publish(unique(), body)).toThrow(failure('PAYLOAD_TOO_LARGE'));
      await expect(client.request(subject, body, PATIENT)).rejects.toEqual(failure('PAYLOAD_TOO_LARGE'));
    }
    await client.request(subject, { n: 1 }, PATIENT);
    expect(numbers).toEqual([1]);
  });

  test('above the cap are refused by respond, and the request can still be answered', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const refused: unknown[] = [];
    server.subscribe(subject, ({ respond }) => {
      for (const body of tooLarge(server)) {
        try {
          respond?.(body);
        } catch (error) {
          refused.push(error instanceof BusError ? error.code : error);
        }
      }
      respond?.({ ok: false });
    });
    await server.flush();
    expect(await client.request(subject, {}, PATIENT)).toEqual({ ok: false });
    expect(refused).toEqual(Array(3).fill('PAYLOAD_TOO_LARGE'));
  });
}

function slowReaders(test: Test): void {
  test('loses what does not fit, is told, and holds up nobody else', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const slow = pausedAt(gate);
    const [neighbour, other] = [recorder(), recorder()];
    const told: number[] = [];
    subscriber.subscribe(subject, slow.record, { maxPending: 100, onSlow: (dropped) => told.push(dropped) });
    subscriber.subscribe(subject, neighbour.record);
    const elsewhere = await room.connect();
    elsewhere.subscribe(subject, other.record);
    await Promise.all([subscriber.flush(), elsewhere.flush()]);

    for (const n of range(1_000)) publisher.publish(subject, { n });
    await eventually(() => expect([neighbour.numbers.length, other.numbers.length]).toEqual([1_000, 1_000]));
    await fence(publisher, subscriber);
    expect(slow.numbers).toEqual([0]);

    gate.open();
    await eventually(() => expect(slow.numbers.length).toBeGreaterThanOrEqual(100));
    await fence(publisher, subscriber);
    // The one in its handler may count as waiting or not.
    expect([100, 101]).toContain(slow.numbers.length);
    // The newest are dropped, not the oldest.
    expect(slow.numbers).toEqual(range(slow.numbers.length));
    expect(told).toEqual(range(1_000 - slow.numbers.length).map((index) => index + 1));
    expect(neighbour.numbers).toEqual(range(1_000));
    expect(other.numbers).toEqual(range(1_000));
  });

  test('gets messages again once it has caught up', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const { numbers, record } = pausedAt(gate);
    let dropped = 0;
    subscriber.subscribe(subject, record, { maxPending: 1, onSlow: (count) => (dropped = count) });
    await subscriber.flush();
    for (const n of range(10)) publisher.publish(subject, { n });
    await eventually(() => expect(dropped).toBeGreaterThanOrEqual(8));
    gate.open();
    // The gate stays open, so one message at a time is never too much.
    await eventually(() => expect(numbers.length + dropped).toBe(10));
    for (const n of range(10)) {
      publisher.publish(subject, { n: 100 + n });
      await eventually(() => expect(numbers.at(-1)).toBe(100 + n));
    }
    expect(numbers.slice(-10)).toEqual(range(10).map((n) => 100 + n));
  });

  test('is not held to be one while messages only arrive fast', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const { numbers, record } = recorder();
    const told: number[] = [];
    subscriber.subscribe(subject, record, { maxPending: 10, onSlow: (dropped) => told.push(dropped) });
    await subscriber.flush();
    for (const n of range(2_000)) publisher.publish(subject, { n });
    await eventually(() => expect(numbers).toHaveLength(2_000));
    expect(told).toEqual([]);
  });
}

function unsubscribing(test: Test): void {
  test('stops the messages, forgets those that wait, and may be done again', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const [paused, neighbour] = [pausedAt(gate), recorder()];
    const subscription = subscriber.subscribe(subject, paused.record);
    subscriber.subscribe(subject, neighbour.record);
    await subscriber.flush();
    for (const n of range(10)) publisher.publish(subject, { n });
    await eventually(() => expect(neighbour.numbers).toHaveLength(10));
    await fence(publisher, subscriber);
    subscription.unsubscribe();
    subscription.unsubscribe();
    gate.open();
    for (const n of range(10)) publisher.publish(subject, { n: 10 + n });
    await eventually(() => expect(neighbour.numbers).toEqual(range(20)));
    await fence(publisher, subscriber);
    expect(paused.numbers).toEqual([0]);
    await subscription.drain();
  });

  test('may be done by the handler itself', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const { numbers, record } = recorder();
    const subscription = subscriber.subscribe(subject, (message) => {
      subscription.unsubscribe();
      return record(message);
    });
    await subscriber.flush();
    for (const n of range(10)) publisher.publish(subject, { n });
    await fence(publisher, subscriber);
    expect(numbers).toEqual([0]);
    await subscription.drain();
  });
}

function draining(test: Test): void {
  test('under load hands over what had arrived, all of it, and nothing later', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const begun: number[] = [];
    let ended = 0;
    const subscription = subscriber.subscribe(subject, async ({ body }) => {
      begun.push(numberOf(body));
      await turn();
      ended++;
    });
    await subscriber.flush();
    let sent = 0;
    let publishing = true;
    const load = (async () => {
      while (publishing) {
        for (let burst = 0; burst < 20; burst++) publisher.publish(subject, { n: sent++ });
        await turn();
      }
    })();
    await eventually(() => expect(begun.length).toBeGreaterThanOrEqual(50));
    const arrived = sent;
    await fence(publisher, subscriber);

    await subscription.drain();
    const handled = begun.length;
    expect(ended).toBe(handled);
    expect(handled).toBeGreaterThanOrEqual(arrived);
    const drainedAt = sent;
    await eventually(() => expect(sent).toBeGreaterThan(drainedAt + 200));
    publishing = false;
    await load;
    await fence(publisher, subscriber);
    expect(begun).toEqual(range(handled));
  });

  test('hands over what the publisher had flushed', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    for (let round = 0; round < 20; round++) {
      const subject = unique();
      const { numbers, record } = recorder();
      const subscription = subscriber.subscribe(subject, record);
      await subscriber.flush();
      for (const n of range(50)) publisher.publish(subject, { n });
      await publisher.flush();
      await subscription.drain();
      expect(numbers).toEqual(range(50));
    }
  });

  test('waits for the handler that runs, and may be asked for again', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const log: string[] = [];
    const subscription = subscriber.subscribe(subject, async ({ body }) => {
      log.push(`begin ${numberOf(body)}`);
      await gate.passed;
      await turn();
      log.push(`end ${numberOf(body)}`);
    });
    await subscriber.flush();
    for (const n of range(3)) publisher.publish(subject, { n });
    await eventually(() => expect(log).toEqual(['begin 0']));
    await fence(publisher, subscriber);
    const drained = Promise.all([subscription.drain(), subscription.drain()]).then(() => log.push('drained'));
    await subscriber.flush();
    await fence(publisher, subscriber);
    expect(log).toEqual(['begin 0']);
    gate.open();
    await drained;
    expect(log).toEqual(['begin 0', 'end 0', 'begin 1', 'end 1', 'begin 2', 'end 2', 'drained']);
    await subscription.drain();
  });

  test('of one leaves the others', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const subject = unique();
    const [goes, stays] = [recorder(), recorder()];
    const subscription = subscriber.subscribe(subject, goes.record);
    subscriber.subscribe(subject, stays.record);
    await subscriber.flush();
    publisher.publish(subject, { n: 0 });
    await fence(publisher, subscriber);
    await subscription.drain();
    publisher.publish(subject, { n: 1 });
    await fence(publisher, subscriber);
    expect([goes.numbers, stays.numbers]).toEqual([[0], [0, 1]]);
  });
}

function closing(test: Test): void {
  test('rejects its pending requests as CLOSED', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const asked: Message[] = [];
    server.subscribe(subject, (message) => {
      asked.push(message);
      return gate.passed;
    });
    await server.flush();
    const outcomes = Promise.allSettled(range(3).map((n) => client.request(subject, { n }, PATIENT)));
    await eventually(() => expect(asked).toHaveLength(1));
    await client.close();
    expect(await outcomes).toEqual(Array(3).fill({ status: 'rejected', reason: failure('CLOSED') }));
    // An answer to nobody does no harm.
    asked[0]?.respond?.({});
    gate.open();
    await fence(server, server);
  });

  test('hands over what had arrived, and answers it', async (room) => {
    const [client, server] = [await room.connect(), await room.connect()];
    const subject = unique();
    const gate = room.gate();
    const log: string[] = [];
    server.subscribe(subject, async ({ body, respond }) => {
      log.push(`begin ${numberOf(body)}`);
      await gate.passed;
      respond?.({ n: numberOf(body) });
    });
    await server.flush();
    const answers = Promise.all(range(3).map((n) => client.request(subject, { n }, PATIENT)));
    await fence(client, server);
    expect(log).toEqual(['begin 0']);
    const closed = server.close().then(() => log.push('closed'));
    await fence(client, client);
    gate.open();
    expect((await answers).map(numberOf)).toEqual([0, 1, 2]);
    await closed;
    expect(log).toEqual(['begin 0', 'begin 1', 'begin 2', 'closed']);
  });

  test('refuses every further use as CLOSED, but to be closed again', async (room) => {
    const bus = await room.connect();
    const [late] = await answerLater(room, bus);
    await bus.close();
    await bus.close();
    expect(() => bus.publish(unique(), {})).toThrow(failure('CLOSED'));
    expect(() => bus.subscribe(unique(), () => {})).toThrow(failure('CLOSED'));
    await expect(bus.request(unique(), {}, PATIENT)).rejects.toEqual(failure('CLOSED'));
    await expect(bus.flush()).rejects.toEqual(failure('CLOSED'));
    expect(() => late?.respond?.({})).toThrow(failure('CLOSED'));
  });

  /** A request that `server` has got and not answered. */
  async function answerLater(room: Room, server: Bus): Promise<readonly Message[]> {
    const client = await room.connect();
    const subject = unique();
    const asked: Message[] = [];
    server.subscribe(subject, (message) => {
      asked.push(message);
    });
    await server.flush();
    await expect(client.request(subject, {}, IMPATIENT)).rejects.toEqual(failure('TIMEOUT'));
    return asked;
  }

  test('leaves the other handles alone', async (room) => {
    const [closes, client, server] = [await room.connect(), await room.connect(), await room.connect()];
    const subject = unique();
    const [gone, stays] = [recorder(), recorder()];
    closes.subscribe(subject, gone.record);
    server.subscribe(subject, stays.record);
    const answering = `${subject}.answer`;
    const gate = room.gate();
    server.subscribe(answering, async ({ respond }) => {
      await gate.passed;
      respond?.({ ok: true });
    });
    await Promise.all([closes.flush(), server.flush()]);
    const answer = client.request(answering, {}, PATIENT);
    client.publish(subject, { n: 0 });
    await fence(client, closes);
    await closes.close();
    client.publish(subject, { n: 1 });
    gate.open();
    expect(await answer).toEqual({ ok: true });
    await eventually(() => expect([gone.numbers, stays.numbers]).toEqual([[0], [0, 1]]));
  });
}

function subjects(test: Test): void {
  const never = [
    '',
    '.',
    '.a',
    'a.',
    'a..b',
    'a b',
    ' a',
    'a\tb',
    'a\r\nPING',
    'a\n',
    'a\u0000b',
    'a\u00a0b',
  ];
  const patterns = ['*', '>', 'a.*', 'a.>', '*.a'];
  const malformed = ['>.a', 'a.>.b', 'a*', 'a.*b', 'a.b>', '**', 'a.>>'];

  test('that are malformed are refused', async (room) => {
    const bus = await room.connect();
    for (const subject of [...never, ...patterns, ...malformed]) {
      expect(() => bus.publish(subject, {}), subject).toThrow(failure('BAD_SUBJECT'));
      await expect(bus.request(subject, {}, PATIENT), subject).rejects.toEqual(failure('BAD_SUBJECT'));
    }
    for (const subject of [...never, ...malformed])
      expect(() => bus.subscribe(subject, () => {}), subject).toThrow(failure('BAD_SUBJECT'));
    await fence(bus, bus);
  });

  test('may be published to when a wildcard subscribed, but not be the wildcard', async (room) => {
    const [publisher, subscriber] = [await room.connect(), await room.connect()];
    const root = unique();
    const { numbers, record } = recorder();
    subscriber.subscribe(`${root}.*`, record);
    await subscriber.flush();
    expect(() => publisher.publish(`${root}.*`, { n: 0 })).toThrow(failure('BAD_SUBJECT'));
    publisher.publish(`${root}.A-z_0`, { n: 1 });
    await fence(publisher, subscriber);
    expect(numbers).toEqual([1]);
  });
}
