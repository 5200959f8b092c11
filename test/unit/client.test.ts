/** Finding the owner of a session, whoever it is, and being honest when nobody is found. */
import { describe, expect, it } from 'vitest';
import { type Bus, BusError } from '../../src/bus/bus.ts';
import type { Activated, CreateSession, SessionCommand } from '../../src/protocol.ts';
import { refusal, rejection, resultJson, subjects, World } from './client-world.ts';

const activated = (broker: string | undefined, retryAfterMs = 0): { readonly value: Activated } => ({
  value: { session: 's', broker, retryAfterMs },
});
const accepted = (command: SessionCommand) => {
  if (command.t !== 'execute') throw new Error(`unexpected ${command.t}`);
  const { execution } = command;
  return { value: { execution, result: resultJson(execution, 'done') } };
};

/** A bus whose server cannot be asked while that is true. */
function awayBus(bus: Bus, isAway: () => boolean): Bus {
  return {
    maxPayloadBytes: bus.maxPayloadBytes,
    publish: (...given) => bus.publish(...given),
    request: (subject, ...given) =>
      isAway()
        ? Promise.reject(new BusError('DISCONNECTED', subject, 'there is no connection'))
        : bus.request(subject, ...given),
    subscribe: (...given) => bus.subscribe(...given),
    flush: () => bus.flush(),
    close: () => bus.close(),
  };
}

describe('a command', () => {
  it('goes to the owner, once', async () => {
    const world = new World();
    const owner = world.owner('s', 1, accepted);
    const client = await world.client();
    const result = await world.clock.until(client.session('s').execute('return 1').result);
    expect(result).toMatchObject({ success: true, value: 'done' });
    expect(owner.heard).toHaveLength(1);
    expect(owner.heard[0]).toMatchObject({
      t: 'execute',
      source: 'return 1',
      input: '',
      tell: subjects.clientResult('caller'),
    });
  });

  it('is sent again, the same, when a broker has seen to an owner', async () => {
    const world = new World();
    let owner: { readonly heard: SessionCommand[] } | undefined;
    const broker = world.broker('session_activate', (_, count) => {
      if (count === 1) return activated(undefined, 40);
      owner = world.owner('s', 3, accepted);
      return activated('b1');
    });
    const client = await world.client();
    const run = client.session('s').execute('return 1', { commandId: 'e1' });
    expect(await world.clock.until(run.result)).toMatchObject({ success: true, executionId: 'e1' });
    expect(broker.heard).toEqual([
      { session: 's', minEpoch: 0 },
      { session: 's', minEpoch: 0 },
    ]);
    expect(owner?.heard).toHaveLength(1);
    expect(world.clock.time).toBeGreaterThanOrEqual(40);
  });

  it('keeps its ids and its time of issue when a silent owner is replaced', async () => {
    const world = new World();
    const paused = world.owner('s', 4, () => undefined);
    let next: { readonly heard: SessionCommand[] } | undefined;
    world.broker('session_activate', () => {
      paused.stop();
      next ??= world.owner('s', 5, accepted);
      return activated('b2');
    });
    const client = await world.client();
    const run = client.session('s').execute('return 1');
    expect(await world.clock.until(run.result)).toMatchObject({ success: true });
    expect(next?.heard).toEqual(paused.heard);
    expect(world.clock.time).toBeGreaterThanOrEqual(1_000);
  });

  it('drops the answer of an owner that has been replaced, and asks for one of at least the epoch seen', async () => {
    const world = new World();
    const client = await world.client();
    const current = world.owner('s', 7, () => ({ value: {} }));
    await world.clock.until(client.session('s').hibernate());
    current.stop();
    const stale = world.owner('s', 6, () => ({ value: {} }));
    let newest: { readonly heard: SessionCommand[] } | undefined;
    const broker = world.broker('session_activate', () => {
      stale.stop();
      newest ??= world.owner('s', 8, () => ({ value: {} }));
      return activated('b');
    });
    await world.clock.until(client.session('s').hibernate());
    expect(stale.heard).toHaveLength(1);
    expect(newest?.heard).toHaveLength(1);
    expect(broker.heard).toEqual([{ session: 's', minEpoch: 7 }]);
  });

  it.each(['FENCED', 'UNAVAILABLE'])('is sent again after %s, if that passes', async (code) => {
    const world = new World();
    world.broker('session_activate', () => activated('b'));
    const owner = world.owner('s', 1, (command, count) =>
      count < 3 ? refusal(code, { retryable: true, details: { retryAfterMs: 30 } }) : accepted(command),
    );
    const client = await world.client();
    expect(await world.clock.until(client.session('s').execute('').result)).toMatchObject({ success: true });
    expect(owner.heard).toHaveLength(3);
    expect(world.clock.time).toBeGreaterThanOrEqual(60);
  });

  it('that is refused as OVERLOADED is not sent again', async () => {
    const world = new World();
    const owner = world.owner('s', 1, () =>
      refusal('OVERLOADED', { retryable: true, details: { retryAfterMs: 250 } }),
    );
    const client = await world.client();
    const run = client.session('s').execute('');
    const result = await world.clock.until(run.result);
    expect(result).toMatchObject({
      success: false,
      error: { code: 'OVERLOADED', retryable: true, outcome: 'not_started', retryAfterMs: 250 },
    });
    expect(await rejection(run.accepted)).toMatchObject({
      code: 'OVERLOADED',
      details: { retryAfterMs: 250 },
    });
    expect(owner.heard).toHaveLength(1);
  });

  it('says why it was not carried out, as whoever refused it last said', async () => {
    const world = new World();
    const client = await world.client({ timeoutMs: 3_000 });
    const passing = { retryable: true, message: 'The store could not answer' };
    world.broker('session_activate', () => refusal('UNAVAILABLE', passing));
    const error = await rejection(world.clock.until(client.session('s').close()));
    expect(error).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'not_started',
      message: 'Nobody answered for session "s" in time: The store could not answer',
      details: { refusal: 'UNAVAILABLE' },
    });
    world.broker('tools_list', () => refusal('FENCED', { ...passing, details: { retryAfterMs: 70 } }));
    expect(await rejection(world.clock.until(client.tools()))).toMatchObject({
      code: 'UNAVAILABLE',
      message: 'No broker answered in time: The store could not answer',
      retryAfterMs: 70,
      details: { refusal: 'FENCED' },
    });
  });

  it('is not to be tried again by itself if it may have been carried out', async () => {
    const world = new World();
    const client = await world.client({ timeoutMs: 3_000 });
    world.owner('s', 1, () => undefined);
    const error = await rejection(world.clock.until(client.session('s').close()));
    expect(error).toMatchObject({ code: 'UNAVAILABLE', outcome: 'unknown', retryable: false });
  });

  it('is surely not started if nobody ever got it', async () => {
    const world = new World();
    const client = await world.client({ timeoutMs: 3_000 });
    const error = await rejection(world.clock.until(client.session('s').close()));
    expect(error).toMatchObject({ code: 'UNAVAILABLE', outcome: 'not_started', retryable: true });
    expect(world.clock.time).toBe(3_000);
  });

  it('is sent again if the server was away, and is carried out when it is back', async () => {
    const world = new World();
    world.owner('s', 1, () => ({ value: {} }));
    world.broker('session_activate', () => activated('b1'));
    const near = world.server.connect('client');
    const away = awayBus(near, () => world.clock.time < 2_000);
    const client = await world.client({ bus: away, timeoutMs: 3_000 });
    await world.clock.until(client.session('s').close());
    expect(world.clock.time).toBeGreaterThanOrEqual(2_000);
  });

  it('is surely not started if the server stays away', async () => {
    const world = new World();
    const bus = awayBus(world.server.connect('client'), () => true);
    const client = await world.client({ bus, timeoutMs: 3_000 });
    expect(await rejection(world.clock.until(client.session('s').close()))).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'not_started',
    });
  });

  it('is in doubt if somebody may have got it', async () => {
    const world = new World();
    world.owner('s', 1, () => undefined);
    const client = await world.client({ timeoutMs: 3_000 });
    expect(await rejection(world.clock.until(client.session('s').close()))).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'unknown',
    });
    expect(await world.clock.until(client.session('s').execute('').result)).toMatchObject({
      error: { code: 'UNAVAILABLE', outcome: 'unknown', retryable: false },
    });
  });

  it('is in doubt if its session is gone after a silence', async () => {
    const world = new World();
    const owner = world.owner('s', 1, () => undefined);
    world.broker('session_activate', () => {
      owner.stop();
      return refusal('NOT_FOUND');
    });
    const client = await world.client();
    expect(await rejection(world.clock.until(client.session('s').close()))).toMatchObject({
      code: 'NOT_FOUND',
      outcome: 'unknown',
    });
    expect(await rejection(world.clock.until(client.session('s').close()))).toMatchObject({
      code: 'NOT_FOUND',
      outcome: 'not_started',
    });
  });

  it('larger than the bus carries is refused', async () => {
    const world = new World();
    world.owner('s', 1, accepted);
    const client = await world.client();
    const limits = { maxToolPayloadBytes: 16 * 1024 * 1024 };
    const run = client.session('s').execute('', { input: 'x'.repeat(9 * 1024 * 1024), limits });
    expect(await world.clock.until(run.result)).toMatchObject({
      error: { code: 'INVALID_ARGUMENT', outcome: 'not_started' },
    });
  });

  it('may be refused with a code that this version does not know', async () => {
    const world = new World();
    world.owner('s', 1, () => refusal('FROM_THE_FUTURE', { outcome: 'completed' }));
    const client = await world.client();
    expect(await rejection(world.clock.until(client.session('s').close()))).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'completed',
      details: { code: 'FROM_THE_FUTURE' },
    });
  });
});

describe('a new session', () => {
  it('is asked for again by the same creation until a broker answers', async () => {
    const world = new World();
    const broker = world.broker<CreateSession>('session_create', (_, count) =>
      count < 3 ? undefined : { value: {}, epoch: 1 },
    );
    const client = await world.client();
    const session = await world.clock.until(
      client.spawn({
        labels: { region: 'eu' },
        tools: ['users:get', 'users.get'],
        ttlMs: 1_000,
        state: { n: 1 },
        maxConcurrentExecutions: 2,
      }),
    );
    expect(broker.heard).toHaveLength(3);
    expect(new Set(broker.heard.map(({ creation }) => creation)).size).toBe(1);
    expect(broker.heard[0]).toMatchObject({
      session: session.id,
      labels: { region: 'eu' },
      tools: ['users.get'],
      ttlMs: 1_000,
      state: '{"n":1}',
      durability: 'session',
      isolation: 'context',
      maxConcurrentExecutions: 2,
    });
    expect(session.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab]/);
  });

  it('is refused if its id is taken, and is in doubt if no broker answers', async () => {
    const world = new World();
    const taken = world.broker('session_create', () => refusal('ALREADY_EXISTS'));
    const client = await world.client({ timeoutMs: 2_000 });
    expect(await rejection(world.clock.until(client.spawn({ id: 's' })))).toMatchObject({
      code: 'ALREADY_EXISTS',
    });
    taken.stop();
    expect(await rejection(world.clock.until(client.spawn()))).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'not_started',
    });
    world.broker('session_create', () => undefined);
    expect(await rejection(world.clock.until(client.spawn()))).toMatchObject({
      code: 'UNAVAILABLE',
      outcome: 'unknown',
    });
  });

  it("is told its own limits once, and each execution's beside them", async () => {
    const world = new World();
    const created: unknown[] = [];
    world.broker('session_create', (body) => {
      created.push(body);
      return { value: {}, epoch: 1 };
    });
    const owner = world.owner('s', 1, accepted);
    const client = await world.client();
    const session = await world.clock.until(
      client.spawn({ id: 's', limits: { cpuMs: 77, deadlineMs: 5_000 } }),
    );
    await world.clock.until(session.execute('', { limits: { cpuMs: 78 } }).result);
    expect(created).toMatchObject([{ limits: { cpuMs: 77, deadlineMs: 5_000, maxStateBytes: 262_144 } }]);
    expect(owner.heard[0]).toHaveProperty('limits', { cpuMs: 78 });
  });

  it('may have the name of one that was deleted, whose epochs were higher', async () => {
    const world = new World();
    const client = await world.client();
    const old = world.owner('s', 9, () => ({ value: {} }));
    await world.clock.until(client.session('s').hibernate());
    old.stop();
    world.broker('session_create', () => ({ value: {}, epoch: 1 }));
    world.owner('s', 1, accepted);
    const session = await world.clock.until(client.spawn({ id: 's' }));
    expect(await world.clock.until(session.execute('').result)).toMatchObject({ success: true });
  });
});

describe('the other commands', () => {
  const info = {
    session: 's',
    status: 'idle',
    epoch: 2,
    broker: 'b1',
    runtime: undefined,
    seq: 5,
    version: 3,
    state: '{"n":1}',
    labels: {},
    durability: 'session',
    executions: [],
  };

  it('info comes from the owner, or from any broker while there is none, without waking the session', async () => {
    const world = new World();
    const activate = world.broker('session_activate', () => activated('b'));
    const broker = world.broker('session_info', () => ({
      value: { ...info, status: 'hibernated', broker: undefined },
    }));
    const client = await world.client();
    expect(await world.clock.until(client.session('s').info())).toMatchObject({
      id: 's',
      status: 'hibernated',
      owner: undefined,
      state: { n: 1 },
    });
    world.owner('s', 2, () => ({ value: info }));
    expect(await world.clock.until(client.session('s').info())).toMatchObject({
      status: 'idle',
      owner: 'b1',
      seq: 5,
      version: 3,
    });
    expect([broker.heard.length, activate.heard.length]).toEqual([1, 0]);
  });

  it('migrate resolves to the new owner', async () => {
    const world = new World();
    const owner = world.owner('s', 2, ({ t }) =>
      t === 'info' ? { value: info } : { ...activated('b2'), epoch: 3 },
    );
    const client = await world.client();
    expect(await world.clock.until(client.session('s').migrate({ to: 'b2' }))).toEqual({
      epoch: 3,
      owner: 'b2',
    });
    expect(owner.heard).toEqual([{ t: 'info' }, { t: 'migrate', to: 'b2', fromEpoch: info.epoch }]);
  });

  it('migrate asks who the new owner is, if it was not told', async () => {
    const world = new World();
    world.broker('session_activate', () => activated('b2'));
    world.owner('s', 2, ({ t }) => ({ value: t === 'info' ? { ...info, broker: 'b2', epoch: 3 } : {} }));
    const client = await world.client();
    expect(await world.clock.until(client.session('s').migrate())).toEqual({ epoch: 3, owner: 'b2' });
  });

  it.each(['deleted by itself', 'found to be gone'])(
    'a session %s may come back, whose epochs begin anew',
    async (how) => {
      const world = new World();
      const client = await world.client();
      const old = world.owner('s', 9, ({ t }) =>
        t === 'close' ? { ...refusal('NOT_FOUND'), epoch: 0 } : { value: {} },
      );
      await world.clock.until(client.session('s').hibernate());
      if (how === 'deleted by itself') await world.clock.until(client.session('s').delete());
      else await rejection(world.clock.until(client.session('s').close()));
      old.stop();
      const next = world.owner('s', 1, () => ({ value: {} }));
      await world.clock.until(client.session('s').hibernate());
      expect(next.heard).toHaveLength(1);
    },
  );

  it('delete has succeeded if the session is gone after a lost answer, and only then', async () => {
    const world = new World();
    const owner = world.owner('s', 1, () => undefined);
    world.broker('session_activate', () => {
      owner.stop();
      return refusal('NOT_FOUND');
    });
    const client = await world.client();
    await world.clock.until(client.session('s').delete());
    expect(await rejection(world.clock.until(client.session('s').delete()))).toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  it('the journal of an execution comes from any broker', async () => {
    const world = new World();
    const broker = world.broker('journal_read', () => ({ value: { source: 'return 1' } }));
    const client = await world.client();
    expect(await world.clock.until(client.journal('s', 'e'))).toEqual({ source: 'return 1' });
    expect(broker.heard).toEqual([{ session: 's', execution: 'e' }]);
  });

  it('end as CLOSED when the client closes, each with what is certain', async () => {
    const world = new World();
    world.owner('asked', 1, () => undefined);
    const client = await world.client();
    const ends = Promise.all([
      rejection(client.session('asked').hibernate()),
      rejection(client.session('nobody').hibernate()),
      rejection(client.session('asked').info()),
    ]);
    await world.clock.settle();
    await client.close();
    await client.close();
    expect((await ends).map(({ code, outcome }) => [code, outcome])).toEqual([
      ['CLOSED', 'unknown'],
      ['CLOSED', 'not_started'],
      ['CLOSED', 'not_started'],
    ]);
    expect(await rejection(client.spawn())).toMatchObject({ code: 'CLOSED', outcome: 'not_started' });
    // Those of the bus, which stays open, keep nobody up.
    expect(world.clock.awake).toBe(0);
  });
});
