/** Sessions with nothing to do are put away, and come back as if they had never been gone. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { defineTool, type SessionRef, type SpawnOptions, type System } from '../../src/index.ts';
import {
  closeAll,
  codeOf,
  expectContiguous,
  failureOf,
  Gate,
  hostOf,
  logOf,
  open,
  subscribe,
  until,
} from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

let system: System;
let gate = new Gate();
const heard: unknown[] = [];

beforeAll(async () => {
  const tools = [
    defineTool({ name: 'wait', handler: () => gate.pass() }),
    defineTool({
      name: 'hear',
      effect: 'idempotent',
      handler: (args) => {
        heard.push(args);
        return args;
      },
    }),
  ];
  system = await open({ brokers: 2, tools, hibernateAfterMs: 100, parkAfterMs: 100 });
});
afterAll(closeAll);
afterEach(() => {
  gate.open();
  gate = new Gate();
  heard.length = 0;
});

const isHosted = ({ id }: SessionRef): boolean => hostOf(system, id) !== undefined;
const hosted = (): number => system.parts.brokers.reduce((sum, { broker }) => sum + broker.sessions, 0);
const isAway = (session: SessionRef) => until(() => !isHosted(session), 'it is put away');
const run = async (session: SessionRef, code: string): Promise<unknown> =>
  valueIn(await session.execute(code).result);

/** A session that has been put away. */
async function away(options?: SpawnOptions): Promise<SessionRef> {
  const session = await system.spawnSession(options);
  await run(session, 'state.n = 1; console.log("before")');
  await isAway(session);
  return session;
}

describe('a session without activity', () => {
  it('leaves its broker by itself, and can be asked about without being woken', async () => {
    const session = await system.spawnSession({ labels: { kind: 'idle' } });
    const execution = session.execute('state.n = 1; return "done"');
    valueIn(await execution.result);
    const before = await session.info();
    await isAway(session);
    const { version, ...info } = await session.info();
    expect(info).toEqual({
      id: session.id,
      status: 'hibernated',
      epoch: before.epoch,
      owner: undefined,
      runtime: 'runtime-1',
      seq: 2,
      state: { n: 1 },
      labels: { kind: 'idle' },
      tenant: 'default',
      durability: 'session',
      executions: [{ id: execution.id, status: 'succeeded' }],
    });
    expect(version).toBeGreaterThan(before.version);
    expect(valueIn(await session.result(execution.id))).toBe('done');
    expect(await logOf(session)).toHaveLength(2);
    expect(isHosted(session)).toBe(false);
  });

  it('is one of many: none of 100 keeps an actor', async () => {
    const sessions = await Promise.all(Array.from({ length: 100 }, () => system.spawnSession()));
    await until(() => hosted() === 0, 'all of them are put away');
    const [first] = sessions;
    expect((await first?.info())?.status).toBe('hibernated');
  });

  it('stays while a script of it runs, or if it is kept in memory only', async () => {
    const busy = await system.spawnSession();
    const execution = busy.execute('return await callTool("wait")');
    await until(() => gate.waiting === 1, 'its script waits');
    const volatile = await system.spawnSession({ durability: 'none' });
    await run(volatile, 'state.n = 1');
    // Others come and go meanwhile.
    await away();
    await away();
    expect([isHosted(busy), isHosted(volatile)]).toEqual([true, true]);
    expect(await codeOf(() => busy.hibernate())).toBe('OVERLOADED');
    gate.open();
    expect((await execution.result).success).toBe(true);
    await isAway(busy);
    expect(await run(volatile, 'return state.n')).toBe(1);
    await volatile.close();
  });
});

describe('a session that hibernates', () => {
  it('comes back by the next command, with its state, its past and a higher epoch', async () => {
    const session = await away();
    const before = await session.info();
    expect(await run(session, 'state.n++; return state.n')).toBe(2);
    const info = await session.info();
    expect(info.epoch).toBeGreaterThan(before.epoch);
    expect(info.status).toBe('idle');
    expect(info.executions).toHaveLength(2);
    await isAway(session);
    expect(await run(session, 'return state.n')).toBe(2);
  });

  it('numbers its events on, for one who listens all the while, too', async () => {
    const session = await system.spawnSession();
    const seen = subscribe(session);
    for (let n = 0; n < 3; n++) {
      await run(session, `console.log(${n})`);
      await isAway(session);
    }
    await until(() => seen.events.length === 9, 'everything has been heard');
    await seen.stop();
    expectContiguous(seen.events);
    expect(seen.events).toEqual(await logOf(session));
  });

  it('remembers its commands: the same id is the same execution', async () => {
    const session = await system.spawnSession();
    const send = (input: number) =>
      session.execute('return await callTool("hear", input)', { commandId: 'once', input, seed: 1 }).result;
    const result = await send(1);
    await isAway(session);
    expect(await send(1)).toEqual(result);
    await isAway(session);
    expect(failureOf(await send(2))).toBe('COMMAND_CONFLICT');
    expect(heard).toEqual([1]);
  });

  it('loses no command that comes while it is being put away', async () => {
    const session = await system.spawnSession();
    for (let n = 1; n <= 20; n++) {
      // Whichever comes first: it is put away and comes back, or has something to do and stays.
      const [result] = await Promise.all([
        session.execute<number>('state.n = (state.n ?? 0) + 1; return state.n').result,
        session.hibernate().catch((error: { readonly code?: string }) => {
          expect(error.code).toBe('OVERLOADED');
        }),
      ]);
      expect(valueIn(result)).toBe(n);
    }
    expectContiguous(await logOf(session));
  });

  it('can be put away twice, migrated, closed and deleted', async () => {
    const session = await away();
    await session.hibernate();
    expect((await session.info()).status).toBe('hibernated');
    const { owner } = await session.migrate();
    expect(hostOf(system, session.id)?.broker.id).toBe(owner);
    await isAway(session);
    await session.close();
    expect(failureOf(await session.execute('return 1').result)).toBe('CLOSED');
    const other = await away();
    await other.delete();
    expect(await codeOf(() => other.info())).toBe('NOT_FOUND');
  });
});

describe('a session that hibernates in the middle of a sleep', () => {
  /** Its script sleeps, and nobody looks after it. */
  async function asleep(ms: number) {
    const session = await system.spawnSession();
    const execution = session.execute(
      `console.log('before'); await sleep(${ms}); console.log('after'); return await callTool('hear', 'awake')`,
    );
    await execution.accepted;
    await isAway(session);
    return { session, execution };
  }

  it('is woken when its time has come, with no client asking', async () => {
    // A handle that waits asks for an owner once, after a second. This is later.
    const { session, execution } = await asleep(2_000);
    expect(await session.info()).toMatchObject({
      status: 'hibernated',
      executions: [{ id: execution.id, status: 'parked' }],
    });
    expect(heard).toEqual([]);
    await until(() => heard.length === 1, 'the script has gone on');
    const result = await execution.result;
    expect(valueIn(result)).toBe('awake');
    expect(result.stats.attempts).toBeGreaterThan(1);
    expect((await logOf(session)).map(({ type }) => type)).toEqual([
      'session_init',
      'stdout',
      'stdout',
      'tool_call',
      'tool_result_applied',
      'final',
    ]);
    await isAway(session);
  });

  it('can be cancelled', async () => {
    const { session, execution } = await asleep(3_600_000);
    expect(await execution.cancel()).toBe(true);
    expect(errorIn(await execution.result)).toMatchObject({ code: 'CANCELLED', outcome: 'completed' });
    expect(await run(session, 'return "next"')).toBe('next');
    expect(heard).toEqual([]);
  });
});

describe('ttlMs', () => {
  it('expires a session that hibernates, and what it did can still be read', async () => {
    const session = await system.spawnSession({ ttlMs: 1_000 });
    const execution = session.execute('return "kept"');
    valueIn(await execution.result);
    await isAway(session);
    expect((await session.info()).status).toBe('hibernated');
    await until(async () => (await session.info()).status === 'expired', 'it has expired');
    expect(failureOf(await session.execute('return 1').result)).toBe('EXPIRED');
    expect(valueIn(await session.result(execution.id))).toBe('kept');
  });
});
