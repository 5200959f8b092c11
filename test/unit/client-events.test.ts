/** Events: every one once, in order, whatever the bus loses or repeats. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ExecutionEvent } from '../../actors/events.ts';
import { PAGE } from '../../src/client/events.ts';
import type { SessionCommand } from '../../src/protocol.ts';
import { Log, refusal, rejection, resultJson, slowBus, World } from './client-world.ts';

const seqs = (events: readonly ExecutionEvent[]): readonly number[] => events.map(({ seq }) => seq);
const range = (from: number, to: number): readonly number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

/** Reads so many events, or to the end. */
async function read(
  events: AsyncIterable<ExecutionEvent>,
  count = Number.POSITIVE_INFINITY,
): Promise<ExecutionEvent[]> {
  const found: ExecutionEvent[] = [];
  for await (const event of events) if (found.push(event) >= count) break;
  return found;
}

async function begin() {
  const world = new World();
  const log = new Log('s');
  const broker = world.serve(log);
  const client = await world.client();
  const add = (...parameters: Parameters<Log['add']>): void => world.publish(log.add(...parameters));
  return { world, log, broker, client, session: client.session('s'), add };
}

describe('the events of a session', () => {
  it('are those from the log, then live ones', async () => {
    const { world, log, session, add } = await begin();
    for (let n = 0; n < 3; n++) log.add('stdout');
    const found = read(session.events({ fromSeq: 2 }), 4);
    await world.clock.settle();
    add('stdout');
    add('final');
    expect(seqs(await world.clock.until(found))).toEqual([2, 3, 4, 5]);
    expect(world.clock.time).toBe(0);
  });

  it('are the next ones by default', async () => {
    const { world, log, session, add } = await begin();
    for (let n = 0; n < 3; n++) log.add('stdout');
    const found = read(session.events(), 2);
    await world.clock.settle();
    add('stdout');
    add('stdout');
    expect(seqs(await world.clock.until(found))).toEqual([4, 5]);
  });

  it('come from many pages of the log', async () => {
    const { world, log, session, broker } = await begin();
    for (let n = 0; n < 2 * PAGE + 7; n++) log.add('stdout');
    const found = await world.clock.until(read(session.events({ fromSeq: 1 }), 2 * PAGE + 7));
    expect(seqs(found)).toEqual(range(1, 2 * PAGE + 7));
    expect(broker.heard).toHaveLength(3);
  });

  it('come once and in order, when the bus repeats, swaps and loses some', async () => {
    const { world, log, session } = await begin();
    const found = read(session.events({ fromSeq: 1 }), 6);
    await world.clock.settle();
    const [one, two, three, four, five, six] = range(1, 6).map(() => log.add('stdout')) as [
      ExecutionEvent,
      ExecutionEvent,
      ExecutionEvent,
      ExecutionEvent,
      ExecutionEvent,
      ExecutionEvent,
    ];
    for (const event of [one, one, three, two, five, five, one, six]) world.publish(event);
    void four; // Lost.
    expect(seqs(await world.clock.until(found))).toEqual([1, 2, 3, 4, 5, 6]);
    expect(world.clock.time).toBe(0);
  });

  it('come once and in order, whatever the bus does with them', async () => {
    const published = fc.array(fc.tuple(fc.nat({ max: 9 }), fc.boolean()), { maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(published, fc.integer({ min: 1, max: 11 }), async (order, fromSeq) => {
        const { world, log, session, client } = await begin();
        const events = range(1, 10).map(() => log.add('stdout'));
        const found = read(session.events({ fromSeq }), 12 - fromSeq);
        for (const [index, wait] of order) {
          world.publish(events[index] as ExecutionEvent);
          if (wait) await world.clock.settle();
        }
        log.add('final');
        expect(seqs(await world.clock.until(found))).toEqual(range(fromSeq, 11));
        await client.close();
      }),
      { numRuns: 100 },
    );
  });

  it('include a last one that was lost: the log is asked after five silent seconds', async () => {
    const { world, log, session } = await begin();
    const found = read(session.events({ fromSeq: 1 }), 1);
    await world.clock.settle();
    log.add('stdout');
    expect(seqs(await world.clock.until(found))).toEqual([1]);
    expect(world.clock.time).toBe(5_000);
  });

  it('wait for the log, when it lags behind what was published', async () => {
    const { world, log, session, broker } = await begin();
    const found = read(session.events({ fromSeq: 1 }), 2);
    await world.clock.settle();
    const hidden = new Log('s');
    const first = hidden.add('stdout');
    world.publish(hidden.add('stdout'));
    await world.clock.advance(250);
    expect(broker.heard.length).toBeGreaterThan(2);
    log.events.push(first);
    log.seq = 1;
    expect(seqs(await world.clock.until(found))).toEqual([1, 2]);
  });

  it('that are no longer kept are told as TRUNCATED', async () => {
    const { world, log, session } = await begin();
    for (let n = 0; n < 9; n++) log.add('stdout');
    log.trim(7);
    const error = await rejection(world.clock.until(read(session.events({ fromSeq: 6 }))));
    expect(error).toMatchObject({ code: 'TRUNCATED', details: { firstSeq: 7 } });
    expect(seqs(await world.clock.until(read(session.events({ fromSeq: 7 }), 3)))).toEqual([7, 8, 9]);
  });

  it('are those that are still kept, for a reader who wants the first', async () => {
    const { world, log, client, session, add } = await begin();
    for (let n = 0; n < 9; n++) log.add('stdout');
    log.trim(7);
    const found = read(session.events({ fromSeq: 'first' }), 4);
    const also = read(client.allEvents({ sessionId: 's', fromSeq: 'first', types: ['final'] }), 1);
    await world.clock.settle();
    add('final');
    expect(seqs(await world.clock.until(found))).toEqual([7, 8, 9, 10]);
    expect(seqs(await world.clock.until(also))).toEqual([10]);
  });

  it('are TRUNCATED for a reader whom the trimming has overtaken', async () => {
    const { world, log, session, add } = await begin();
    const events = session.events({ fromSeq: 1 })[Symbol.asyncIterator]();
    add('stdout');
    expect((await world.clock.until(events.next())).value).toMatchObject({ seq: 1 });
    log.add('stdout'); // Lost.
    add('stdout');
    log.trim(3);
    expect(await rejection(world.clock.until(events.next()))).toMatchObject({
      code: 'TRUNCATED',
      details: { firstSeq: 3 },
    });
    expect(await events.next()).toEqual({ done: true, value: undefined });
  });

  it('are not lost by a reader so slow that they no longer fit in memory', async () => {
    const { world, session, add, broker } = await begin();
    const total = 12_000;
    const events = session.events({ fromSeq: 1 })[Symbol.asyncIterator]();
    add('stdout');
    const found = [(await world.clock.until(events.next())).value as ExecutionEvent];
    for (let n = 1; n < total; n++) add('stdout');
    await world.clock.settle();
    const before = broker.heard.length;
    while (found.length < total) found.push((await world.clock.until(events.next())).value as ExecutionEvent);
    expect(seqs(found)).toEqual(range(1, total));
    expect(broker.heard.length - before).toBeGreaterThanOrEqual(10_000 / PAGE);
    await events.return?.();
  });

  it('end without an error when the signal is aborted, before or while they are waited for', async () => {
    const { world, session } = await begin();
    const controller = new AbortController();
    const found = read(session.events({ signal: controller.signal }));
    await world.clock.settle();
    controller.abort();
    expect(await found).toEqual([]);
    expect(await read(session.events({ signal: controller.signal }))).toEqual([]);
    expect(world.clock.awake).toBe(0);
  });

  it('end when the iterator is returned, even while the next is waited for', async () => {
    const { world, session } = await begin();
    const events = session.events({ fromSeq: 1 })[Symbol.asyncIterator]();
    const next = events.next();
    await world.clock.settle();
    await events.return?.();
    expect(await next).toEqual({ done: true, value: undefined });
  });

  it('end when the client closes', async () => {
    const { world, session, client } = await begin();
    const readers = [read(session.events()), read(session.events({ fromSeq: 1 })), read(client.allEvents())];
    await world.clock.settle();
    await client.close();
    expect(await Promise.all(readers)).toEqual([[], [], []]);
    expect(await read(session.events())).toEqual([]);
    expect(await read(client.allEvents())).toEqual([]);
  });

  it('of a session that does not exist are refused', async () => {
    const world = new World();
    world.broker('events_read', () => refusal('NOT_FOUND'));
    const client = await world.client();
    expect(await rejection(world.clock.until(read(client.session('s').events())))).toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  it('are UNAVAILABLE if no broker can be asked for the first of them', async () => {
    const world = new World();
    const client = await world.client({ timeoutMs: 2_000 });
    const error = await rejection(world.clock.until(read(client.session('s').events({ fromSeq: 1 }))));
    expect(error).toMatchObject({ code: 'UNAVAILABLE', outcome: 'not_started' });
  });

  it('are read from the log only once live ones arrive, so that none falls between', async () => {
    const world = new World();
    const log = new Log('s');
    log.add('stdout');
    world.broker('events_read', () => {
      const page = log.read(1, 10);
      if (log.seq === 1) world.publish(log.add('stdout'));
      return { value: page };
    });
    const client = await world.client({ bus: slowBus(world.server.connect(), world.clock) }, false);
    expect(seqs(await world.clock.until(read(client.session('s').events({ fromSeq: 1 }), 2)))).toEqual([
      1, 2,
    ]);
    expect(world.clock.time).toBe(20);
  });

  it('are only those that were asked for, whatever a broker gives', async () => {
    const world = new World();
    const log = new Log('s');
    for (let n = 0; n < 5; n++) log.add('stdout');
    world.broker('events_read', () => ({ value: log.read(1, 4) }));
    const client = await world.client();
    const controller = new AbortController();
    const found = read(client.session('s').events({ fromSeq: 3, signal: controller.signal }));
    await world.clock.advance(1_000);
    controller.abort();
    expect(seqs(await world.clock.until(found))).toEqual([3, 4]);
  });

  it('go on when nobody could be asked for a while', async () => {
    const { world, session, broker, log } = await begin();
    const found = read(session.events({ fromSeq: 1 }), 1);
    await world.clock.settle();
    broker.stop();
    await world.clock.advance(120_000);
    log.add('stdout');
    world.serve(log);
    expect(seqs(await world.clock.until(found))).toEqual([1]);
  });
});

describe('the events of an execution', () => {
  /** An owner that publishes all of an execution as soon as it has accepted it. */
  async function running(lost: readonly string[] = []) {
    const given = await begin();
    const { world, log } = given;
    const owner = world.owner('s', 1, (command: SessionCommand) => {
      if (command.t !== 'execute') return { value: { status: 'running', result: undefined } };
      const { execution } = command;
      log.add('stdout', 'another');
      for (const type of ['session_init', 'stdout', 'final'] as const) {
        const event = log.add(type, execution);
        if (!lost.includes(type)) world.publish(event);
      }
      world.publish(log.add('session_init', 'another'));
      world.tell('s', execution, resultJson(execution, 1));
      return { value: { execution, result: undefined } };
    });
    for (let n = 0; n < 5; n++) log.add('stdout', 'before');
    return { ...given, owner };
  }
  const types = (events: readonly ExecutionEvent[]) => events.map(({ type }) => type);

  it('are all there, if iteration begins with it, and the log is not asked', async () => {
    const { world, session, broker } = await running();
    const run = session.execute('', { commandId: 'e' });
    const found = await world.clock.until(read(run));
    expect(types(found)).toEqual(['session_init', 'stdout', 'final']);
    expect(seqs(found)).toEqual([7, 8, 9]);
    expect(broker.heard).toEqual([]);
    expect(await world.clock.until(run.result)).toMatchObject({ success: true });
  });

  it.each([[['session_init']], [['stdout']], [['final']], [['session_init', 'stdout', 'final']]])(
    'come from the log where %j were lost',
    async (lost) => {
      const { world, session } = await running(lost);
      const found = await world.clock.until(read(session.execute('', { commandId: 'e' })));
      expect(types(found)).toEqual(['session_init', 'stdout', 'final']);
      expect(world.clock.time).toBeLessThanOrEqual(50);
    },
  );

  it('come from the log, if iteration begins later, or twice', async () => {
    const { world, session } = await running();
    const run = session.execute('', { commandId: 'e' });
    await world.clock.until(run.result);
    for (let n = 0; n < 2; n++)
      expect(types(await world.clock.until(read(run)))).toEqual(['session_init', 'stdout', 'final']);
  });

  it('are those that are left, if the log was trimmed since', async () => {
    const { world, session, log } = await running();
    const run = session.execute('', { commandId: 'e' });
    await world.clock.until(run.result);
    log.trim(8);
    expect(types(await world.clock.until(read(run)))).toEqual(['stdout', 'final']);
    log.trim(10);
    expect(await world.clock.until(read(run))).toEqual([]);
  });

  it('end though others of the session never do', async () => {
    const { world, session, log, add } = await running();
    const run = session.execute('', { commandId: 'e' });
    await world.clock.until(run.result);
    log.trim(10);
    let busy = true;
    const noise = (): void => {
      add('stdout', 'another');
      if (busy) world.clock.after(10, noise);
    };
    noise();
    expect(await world.clock.until(read(run))).toEqual([]);
    busy = false;
  });

  it('come from the log, though others are never silent', async () => {
    const { world, session, add } = await running(['session_init', 'stdout', 'final']);
    const found = read(session.execute('', { commandId: 'e' }));
    for (let ms = 10; ms < 2_000; ms += 10) world.clock.after(ms, () => add('stdout', 'another'));
    expect(types(await world.clock.until(found))).toEqual(['session_init', 'stdout', 'final']);
    expect(world.clock.time).toBeLessThan(100);
  });

  it('are TRUNCATED if the trimming overtakes their reader', async () => {
    const { world, session, log } = await begin();
    log.add('session_init', 'e');
    world.owner('s', 1, () => ({ value: { execution: 'e', result: undefined } }));
    const run = session.execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    const events = run[Symbol.asyncIterator]();
    expect((await world.clock.until(events.next())).value).toMatchObject({ type: 'session_init' });
    log.add('stdout', 'e');
    log.add('stdout', 'e');
    log.trim(3);
    expect(await rejection(world.clock.until(events.next()))).toMatchObject({ code: 'TRUNCATED' });
  });

  it('are none of one that was refused', async () => {
    const { world, client, broker } = await begin();
    world.owner('refusing', 1, () => refusal('CLOSED'));
    const run = client.session('refusing').execute('');
    expect(await world.clock.until(read(run))).toEqual([]);
    expect(await world.clock.until(read(run))).toEqual([]);
    expect(broker.heard).toEqual([]);
  });

  it('are in force before the command is sent', async () => {
    const { world, broker } = await running();
    const client = await world.client(
      { id: 'slow', bus: slowBus(world.server.connect(), world.clock) },
      false,
    );
    const found = read(client.session('s').execute('', { commandId: 'e' }));
    expect(types(await world.clock.until(found))).toEqual(['session_init', 'stdout', 'final']);
    expect(broker.heard).toEqual([]);
  });

  it('hold up the command only until they can be heard', async () => {
    const { world, session, owner } = await running();
    const run = session.execute('', { commandId: 'e' });
    const events = run[Symbol.asyncIterator]();
    await world.clock.until(run.accepted);
    expect(owner.heard[0]).toMatchObject({ t: 'execute', execution: 'e' });
    await events.return?.();
  });

  it('end when the client closes', async () => {
    const { world, client } = await begin();
    world.owner('slow', 1, () => undefined);
    const found = read(client.session('slow').execute(''));
    await world.clock.settle();
    await client.close();
    expect(await found).toEqual([]);
  });
});

describe('the events of all sessions', () => {
  it('are live, once each, and of the types that are wanted', async () => {
    const world = new World();
    const client = await world.client();
    const all = read(client.allEvents(), 4);
    const ends = read(client.allEvents({ types: ['final', 'session_init'] }), 3);
    const [a, b] = [new Log('a'), new Log('b')];
    await world.clock.settle();
    const first = a.add('session_init');
    for (const event of [first, first, b.add('stdout'), a.add('final'), b.add('final')]) world.publish(event);
    expect((await all).map(({ sessionId, type }) => `${sessionId} ${type}`)).toEqual([
      'a session_init',
      'b stdout',
      'a final',
      'b final',
    ]);
    expect((await ends).map(({ sessionId, type }) => `${sessionId} ${type}`)).toEqual([
      'a session_init',
      'a final',
      'b final',
    ]);
  });

  it('of one session are filled up from the log and filtered by type', async () => {
    const { world, client, log } = await begin();
    for (const type of ['session_init', 'stdout', 'final', 'stdout'] as const) log.add(type);
    const found = await world.clock.until(
      read(client.allEvents({ sessionId: 's', fromSeq: 1, types: ['stdout'] }), 2),
    );
    expect(seqs(found)).toEqual([2, 4]);
  });

  it('tell a reader that is too slow, after what it could keep', async () => {
    const world = new World();
    const client = await world.client();
    const log = new Log('a');
    const events = client.allEvents()[Symbol.asyncIterator]();
    for (let n = 0; n < 10_001; n++) world.publish(log.add('stdout'));
    await world.clock.settle();
    for (let n = 1; n <= 10_000; n++) expect((await events.next()).value.seq).toBe(n);
    expect(await rejection(events.next())).toMatchObject({ code: 'OVERLOADED' });
  });
});
