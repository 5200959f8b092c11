/** Brokers of several releases share a store: what each reads, writes, leaves alone and ignores. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import type { BrokerHeartbeat, CreateSession, Reply, SessionCommand } from '../../src/protocol.ts';
import { commandOf as runtimeCommandOf } from '../../src/runtime/commands.ts';
import { heartbeatOf, toolPageOf } from '../../src/session/adverts.ts';
import { activateOf, askOf, commandOf, createOf, runOf } from '../../src/session/asked.ts';
import { Broker, type BrokerNotice } from '../../src/session/broker.ts';
import { brokerBeatOf, providerMessageOf, replyOf, runtimeBeatOf } from '../../src/session/heard.ts';
import { CODEC } from '../../src/session/release.ts';
import { reportOf } from '../../src/session/reports.ts';
import { codecOf, type SnapshotCodec, type SnapshotStep, versionOf } from '../../src/session/snapshot.ts';
import { LISTEN_BEATS, SILENT_BEATS, Snapshots } from '../../src/session/versions.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import type { SessionRecord, Store } from '../../src/store/store.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { callOf, providerCommandOf } from '../../src/tools/commands.ts';
import { VirtualClock } from '../support/clock.ts';
import { CODEC as NEXT } from '../support/nextrelease.ts';

const GOLDEN = path.resolve(import.meta.dirname, '../golden');
const golden = (scene: string): string =>
  readFileSync(path.join(GOLDEN, `session-v${CODEC.newest}-${scene}.json`), 'utf8');
const { value: idle, context: idleContext } = CODEC.decode(golden('idle'));

// ---- tables ----------------------------------------------------------------------------------------------

/** Version 2 has a field that version 1 has not; version 3 calls one otherwise. */
const added: SnapshotStep = {
  up: (body) => ({ ...body, note: 'none' }),
  down: ({ note: _note, ...body }) => body,
};
const renamed: SnapshotStep = {
  up: ({ value, ...body }) => ({ ...body, state: value }),
  down: ({ state, ...body }) => ({ ...body, value: state }),
};
/** The body of a text of that version, as a release with the first steps of the table writes it. */
const bodyIn = (text: string): Record<string, unknown> =>
  (JSON.parse(text) as { readonly body: Record<string, unknown> }).body;

describe('a table of versions', () => {
  // The machine holds version 1, whatever the newest is.
  const three = codecOf([added, renamed], 3, 1);

  it('writes every version that it has, the newest by default', () => {
    expect(versionOf(three.encode(idle, idleContext, 1))).toBe(3);
    const [one, two, newest] = [1, 2, 3].map((version) =>
      bodyIn(three.encode(idle, idleContext, 1, version)),
    );
    expect(Object.keys(one ?? {})).toEqual(['value', 'context']);
    expect(two).toMatchObject({ value: 'idle', note: 'none' });
    expect(newest).toMatchObject({ state: 'idle', note: 'none' });
    expect(newest).not.toHaveProperty('value');
  });

  it('reads every version through its upcasters, and its downcasters where the machine is older', () => {
    for (const version of [1, 2, 3])
      expect(three.decode(three.encode(idle, idleContext, 1, version))).toEqual({
        value: idle,
        context: idleContext,
      });
    const held = codecOf([added], 2, 2);
    expect(bodyIn(held.encode(idle, idleContext, 1, 2))).not.toHaveProperty('note');
    expect(held.decode(golden('idle')).value).toBe('idle');
  });

  it('gives what an older version has no place for its default', () => {
    const text = three.encode(idle, idleContext, 1, 2).replace('"note":"none"', '"note":"mine"');
    const inTwo = codecOf([added], 2, 1);
    const { value, context } = inTwo.decode(text);
    expect(bodyIn(inTwo.encode(value, context, 1, 2))).toMatchObject({ note: 'none' });
  });

  it('cut short is an older release: it reads and writes what that did, and refuses the rest', () => {
    const older = codecOf([added, renamed], 2, 1);
    const text = three.encode(idle, idleContext, 1);
    expect(older.isNewer(text)).toBe(true);
    expect(() => older.decode(text)).toThrow(expect.objectContaining({ code: 'ENGINE_MISMATCH' }));
    expect(older.encode(idle, idleContext, 1)).toBe(three.encode(idle, idleContext, 1, 2));
    expect(() => older.encode(idle, idleContext, 1, 3)).toThrow(RangeError);
    expect(() => older.encode(idle, idleContext, 1, 0)).toThrow(RangeError);
  });

  it.each(['closed', 'executing', 'hibernated', 'idle', 'parked'])(
    'of the next release takes over a session that is %s, and gives it back as it was',
    (scene) => {
      const read = NEXT.decode(golden(scene));
      const text = NEXT.encode(read.value, read.context, 1);
      expect(CODEC.isNewer(text)).toBe(true);
      const again = NEXT.decode(text);
      expect(again).toEqual(read);
      expect(NEXT.encode(again.value, again.context, 1)).toBe(text);
      const back = NEXT.encode(again.value, again.context, 1, CODEC.newest);
      expect(JSON.parse(back)).toEqual(JSON.parse(golden(scene)));
    },
  );
});

// ---- what is written -------------------------------------------------------------------------------------

describe('the version that a broker writes', () => {
  const four = codecOf([added, renamed, added], 4, 1);
  const snapshots = (): Snapshots => new Snapshots('me', four);
  const beat = (broker: string, reads: number | undefined): Pick<BrokerHeartbeat, 'broker' | 'snapshot'> => ({
    broker,
    snapshot: reads === undefined ? undefined : { reads, writes: 1 },
  });
  /** So many of its own heartbeats come back; before each, those of others. */
  const pass = (to: Snapshots, beats: number, ...others: Parameters<typeof beat>[]): void => {
    for (let n = 0; n < beats; n++) {
      for (const other of others) to.hear(beat(...other));
      to.hear(beat('me', 4));
    }
  };

  it('is below its newest until it has listened, and then its newest', () => {
    const mine = snapshots();
    expect(mine.writes).toBe(3);
    pass(mine, LISTEN_BEATS);
    expect(mine.writes).toBe(3);
    pass(mine, 1);
    expect(mine.writes).toBe(4);
    expect(versionOf(mine.encode(idle, idleContext, 1))).toBe(4);
  });

  it('is never more than every other broker reads, and nothing is the first version', () => {
    const mine = snapshots();
    pass(mine, 20, ['b', 4], ['c', 2]);
    expect(mine.writes).toBe(2);
    expect(versionOf(mine.encode(idle, idleContext, 1))).toBe(2);
    mine.hear(beat('old', undefined));
    expect(mine.writes).toBe(1);
    expect(versionOf(mine.encode(idle, idleContext, 1))).toBe(1);
    pass(mine, 20, ['newer', 9], ['old', undefined]);
    expect(mine.writes).toBe(1);
  });

  it('falls with the first heartbeat of an older one, and rises when that one was silent for long', () => {
    const mine = snapshots();
    pass(mine, 10);
    mine.hear(beat('b', 3));
    expect(mine.writes).toBe(3);
    pass(mine, SILENT_BEATS + LISTEN_BEATS);
    expect(mine.writes).toBe(3);
    pass(mine, 1);
    expect(mine.writes).toBe(4);
  });

  it('rises when the older one comes back as a newer one, once it was heard for a while', () => {
    const mine = snapshots();
    pass(mine, 10, ['b', 3]);
    pass(mine, LISTEN_BEATS, ['b', 4]);
    expect(mine.writes).toBe(3);
    pass(mine, 1, ['b', 4]);
    expect(mine.writes).toBe(4);
  });

  it('rises to what all have in common, if that is not its newest', () => {
    const mine = snapshots();
    pass(mine, 10, ['b', 1]);
    pass(mine, 10, ['b', 3]);
    expect(mine.writes).toBe(3);
  });

  it('waits anew when an older one comes between', () => {
    const mine = snapshots();
    pass(mine, LISTEN_BEATS);
    pass(mine, 1, ['b', 3]);
    pass(mine, LISTEN_BEATS, ['b', 4]);
    expect(mine.writes).toBe(3);
  });

  it('stays while the broker hears nothing of itself: nobody is forgotten', () => {
    const mine = snapshots();
    pass(mine, 10, ['b', 3]);
    for (let n = 0; n < 100; n++) mine.hear(beat('c', 4));
    expect(mine.writes).toBe(3);
    pass(mine, SILENT_BEATS - 1);
    expect(mine.writes).toBe(3);
  });

  it('begins anew with every lease', () => {
    const mine = snapshots();
    pass(mine, 10);
    mine.restart();
    expect(mine.writes).toBe(3);
    pass(mine, LISTEN_BEATS);
    expect(mine.writes).toBe(3);
    pass(mine, 1);
    expect(mine.writes).toBe(4);
    mine.hear(beat('b', 1));
    mine.restart();
    expect(mine.writes).toBe(1);
  });

  it('is the first where there is no other', () => {
    const mine = new Snapshots('me', codecOf([]));
    expect(mine.writes).toBe(1);
    pass(mine, 10, ['newer', 2]);
    expect(mine.writes).toBe(1);
  });
});

// ---- brokers of two releases -----------------------------------------------------------------------------

describe('brokers of two releases', () => {
  const subjects = subjectsOf('t');
  const create = {
    session: 's1',
    creation: 'c1',
    labels: {},
    tools: undefined,
    ttlMs: 0,
    limits: resolveSessionLimits(undefined),
    isolation: 'context',
    durability: 'session',
    maxConcurrentExecutions: 1,
    state: '{}',
  } satisfies CreateSession;
  /** It waits for a runtime, of which there is none. */
  const execute = {
    t: 'execute',
    execution: 'e1',
    issuedAt: 1,
    source: 'return 1',
    input: '',
    limits: undefined,
    seed: [1, 2, 3, 4],
    tell: '',
  } satisfies SessionCommand;

  let clock: VirtualClock;
  let server: MemoryBusServer;
  let store: MemoryStore;
  let brokers: Broker[];
  let notices: BrokerNotice[];

  beforeEach(() => {
    clock = new VirtualClock();
    server = new MemoryBusServer({ clock });
    store = new MemoryStore({ clock });
    brokers = [];
    notices = [];
  });
  afterEach(async () => {
    for (const broker of brokers) broker.abandon();
    await server.close();
  });

  const start = async (
    id: string,
    snapshots: SnapshotCodec | undefined,
    over: Store = store,
  ): Promise<Broker> => {
    const broker = new Broker({
      id,
      bus: server.connect(),
      store: over,
      clock,
      subjects,
      tool: () => undefined,
      snapshots,
      onNotice: (notice) => notices.push(notice),
    });
    brokers.push(broker);
    const started = broker.start();
    await clock.settle();
    await started;
    return broker;
  };
  const ask = async (subject: string, body: object): Promise<Reply<unknown>> => {
    const asked = server.connect().request(subject, body, { timeoutMs: 10_000 });
    await clock.advance(100);
    return (await asked) as Reply<unknown>;
  };
  const stored = async (): Promise<SessionRecord> => {
    const record = await store.load('s1');
    if (record === undefined) throw new Error('there is no such session');
    return record;
  };
  const writtenIn = async (): Promise<number | undefined> => versionOf((await stored()).snapshot);
  const close = async (broker: Broker): Promise<void> => {
    const closed = broker.close();
    await clock.advance(1_000);
    await closed;
  };
  const refused = {
    ok: false,
    error: { code: 'UNAVAILABLE', retryable: true, outcome: 'not_started' },
  };
  const activate = { session: 's1', minEpoch: 0 };

  /** A session in the version of the next release that nobody owns. `busy`: with an execution that waits. */
  const leftByNext = async (busy = true): Promise<SessionRecord> => {
    const next = await start('next', NEXT);
    await clock.advance(10_000);
    expect(next.snapshotVersion).toBe(NEXT.newest);
    expect(await ask(subjects.broker('session_create'), create)).toMatchObject({ ok: true });
    if (busy) expect(await ask(subjects.sessionCmd('s1'), execute)).toMatchObject({ ok: true });
    await close(next);
    const record = await stored();
    expect([versionOf(record.snapshot), record.owner]).toEqual([NEXT.newest, undefined]);
    return record;
  };

  it('tell in their heartbeats what they read and write', async () => {
    const beats: BrokerHeartbeat[] = [];
    server.connect().subscribe(subjects.brokerHeartbeat('*'), ({ body }) => {
      beats.push(body as unknown as BrokerHeartbeat);
    });
    const next = await start('next', NEXT);
    await clock.advance(5_000);
    const [first] = beats;
    expect(first?.snapshot).toEqual({ reads: NEXT.newest, writes: CODEC.newest });
    expect(beats.at(-1)?.snapshot).toEqual({ reads: NEXT.newest, writes: NEXT.newest });
    await start('this', undefined);
    await clock.advance(2_000);
    expect(next.snapshotVersion).toBe(CODEC.newest);
    expect(beats.findLast(({ broker }) => broker === 'this')?.snapshot?.reads).toBe(CODEC.newest);
  });

  it('write the older version while both are there, and the newer one when all are new', async () => {
    const [next, older] = [await start('next', NEXT), await start('older', undefined)];
    await clock.advance(60_000);
    expect([next.snapshotVersion, older.snapshotVersion]).toEqual([CODEC.newest, CODEC.newest]);
    await close(older);
    await clock.advance(60_000);
    expect(next.snapshotVersion).toBe(NEXT.newest);
  });

  it('write the older version again when an older broker comes back', async () => {
    await start('next', NEXT);
    await clock.advance(10_000);
    await ask(subjects.broker('session_create'), create);
    expect(await writtenIn()).toBe(NEXT.newest);
    await start('older', undefined);
    await clock.advance(1_000);
    expect(await ask(subjects.sessionCmd('s1'), execute)).toMatchObject({ ok: true });
    expect(await writtenIn()).toBe(CODEC.newest);
  });

  it('of which the older one takes nothing over that it cannot read, and changes nothing of it', async () => {
    const before = await leftByNext();
    const older = await start('older', undefined);
    expect(await ask(subjects.broker('session_activate'), activate)).toMatchObject(refused);
    expect(await ask(subjects.brokerCmd('older'), { t: 'adopt', ...activate })).toMatchObject(refused);
    expect(await ask(subjects.broker('session_create'), create)).toMatchObject(refused);
    for (const verb of ['session_info', 'session_result', 'journal_read'] as const)
      expect(await ask(subjects.broker(verb), { session: 's1', execution: 'e1' })).toMatchObject(refused);
    expect(await ask(subjects.broker('sessions_list'), { cursor: '' })).toMatchObject(refused);
    // Its scans find the work that nobody does.
    await clock.advance(10_000);
    expect(await stored()).toEqual(before);
    expect(older.sessions).toBe(0);
    // Ten scans found it, and the operator was told once.
    expect(notices.filter(({ type }) => type === 'error' || type === 'session.too_new')).toEqual([
      { type: 'session.too_new', session: 's1' },
    ]);
  });

  it('of which the newer one takes over what the older one had to leave', async () => {
    await leftByNext();
    await start('older', undefined);
    await clock.advance(3_000);
    const next = await start('newer', NEXT);
    await clock.advance(3_000);
    expect(next.actor('s1')?.context.executions.map(({ id }) => id)).toEqual(['e1']);
    expect(await writtenIn()).toBe(CODEC.newest);
  });

  it('hand a session to and fro, and it is written in what both read', async () => {
    const [next, older] = [await start('next', NEXT), await start('older', undefined)];
    await clock.advance(3_000);
    await ask(subjects.broker('session_create'), create);
    await ask(subjects.sessionCmd('s1'), execute);
    for (const [to, broker] of [
      ['older', older],
      ['next', next],
      ['older', older],
    ] as const) {
      const body = { t: 'migrate', to, fromEpoch: undefined };
      const migrated = await ask(subjects.sessionCmd('s1'), body);
      expect(migrated).toMatchObject({ value: { broker: to } });
      expect(broker.actor('s1')?.context.executions.map(({ id }) => id)).toEqual(['e1']);
      expect(await writtenIn()).toBe(CODEC.newest);
    }
  });

  it('begin below their newest with a new lease, too', async () => {
    const next = await start('next', NEXT);
    await clock.advance(10_000);
    await ask(subjects.broker('session_create'), create);
    const { owner = '' } = await stored();
    await store.endIncarnation(owner);
    while (next.holdsLease) await clock.advance(100);
    while (!next.holdsLease) await clock.advance(100);
    expect(next.snapshotVersion).toBe(CODEC.newest);
    await clock.advance(10_000);
    expect(next.snapshotVersion).toBe(NEXT.newest);
  });

  /** It shows sessions as they were before a newer release wrote to them, so often. */
  const late = (before: SessionRecord, times: number): Store => {
    let looks = 0;
    return new Proxy(store.handle(), {
      get: (target, name) => {
        if (name === 'load' && looks++ < times) return () => Promise.resolve(before);
        const member: unknown = Reflect.get(target, name, target);
        return typeof member === 'function' ? (member.bind(target) as unknown) : member;
      },
    });
  };
  const inThis = (record: SessionRecord): SessionRecord => {
    const { value, context } = NEXT.decode(record.snapshot);
    return { ...record, snapshot: NEXT.encode(value, context, record.epoch, CODEC.newest) };
  };

  it('of which the older one gives back as it is what turns out to be too new once it is acquired', async () => {
    const before = await leftByNext(false);
    const older = await start('older', undefined, late(inThis(before), 1));
    // Nobody has work for it before it is asked for.
    expect(await ask(subjects.broker('session_activate'), activate)).toMatchObject(refused);
    const after = await stored();
    // It had it, and has it no more.
    expect(after.epoch).toBe(before.epoch + 1);
    expect(after).toEqual({ ...before, epoch: after.epoch, version: before.version + 1 });
    expect(older.sessions).toBe(0);
    const next = await start('newer', NEXT);
    await clock.advance(3_000);
    expect(next.sessions).toBe(1);
  });
});

// ---- messages --------------------------------------------------------------------------------------------

describe('messages of a newer release', () => {
  const subjects = subjectsOf('t');
  const limits = resolveSessionLimits(undefined);
  const seed = [1, 2, 3, 4];
  const usage = { cpu: 1, heap: 2 };
  const attempt = 'A'.repeat(22);
  const tool = { name: 'a', canonicalName: 'a', effect: 'read', reconcilable: false };
  const report = {
    t: 'report',
    attempt,
    execution: 'e1',
    runtime: 'r1',
    n: 1,
    received: 0,
    items: [
      { kind: 'output', level: '', text: '' },
      { kind: 'call', index: 0, name: 'a', json: '' },
    ],
    waiting: true,
    end: { kind: 'returned', json: '1', state: undefined, usage },
  };
  const run = {
    run: 'run-1',
    source: '',
    input: '',
    limits,
    seed,
    isolation: 'context',
    tenant: '',
    tools: undefined,
    labels: {},
    events: false,
    tell: '',
  };
  const create = { ...run, session: 's1', creation: 'c', ttlMs: 0, durability: 'none', state: '{}' };
  const offer = {
    t: 'offer',
    session: 's1',
    epoch: 1,
    attempt,
    execution: 'e1',
    source: '',
    input: '',
    state: '',
    seed,
    startTime: 1,
    limits,
    isolation: 'context',
    alone: false,
    replay: false,
    deliveries: [],
    versions: undefined,
  };
  const call = {
    t: 'call',
    key: 's1/e1/0',
    session: 's1',
    execution: 'e1',
    index: 0,
    name: 'a',
    args: '',
    epoch: 1,
    notAfterMs: 1,
    maxPayloadBytes: 1,
  };
  const beat = { broker: 'b1', sessions: 0, draining: false, intervalMs: 1_000 };

  const toOwner = (body: object) => commandOf(body, subjects);
  const checks: readonly (readonly [string, (body: object) => unknown, object])[] = [
    ['a session to be made', createOf, { ...create, maxConcurrentExecutions: 1 }],
    ['a run', (body) => runOf(body, subjects), run],
    ['an activation', activateOf, { session: 's1', minEpoch: 0 }],
    ['a question about a session', askOf, { session: 's1' }],
    [
      'an execution',
      toOwner,
      { t: 'execute', execution: 'e1', issuedAt: 1, source: '', input: '', seed, tell: '' },
    ],
    ['a cancellation', toOwner, { t: 'cancel', execution: 'e1', reason: '' }],
    ['a migration', toOwner, { t: 'migrate' }],
    ['an offer', runtimeCommandOf, offer],
    ['deliveries', runtimeCommandOf, { t: 'deliver', attempt, epoch: 1, from: 1, deliveries: [], ack: 0 }],
    ['a probe', runtimeCommandOf, { t: 'probe', attempt, epoch: 1, session: 's1' }],
    ['a report', (body) => reportOf(body, attempt), report],
    ['a call', callOf, call],
    ['a cancelled call', providerCommandOf, { t: 'cancel', key: 's1/e1/0' }],
    [
      'the end of a call',
      (body) => providerMessageOf(body, 's1'),
      { t: 'ended', key: 's1/e1/0', provider: 'p1', end: { ok: true, json: '1' }, durationMs: 1 },
    ],
    ['an answer', (body) => replyOf(body, () => true), { ok: true, value: {}, epoch: 1 }],
    [
      'a heartbeat of a runtime',
      (body) => runtimeBeatOf(body, 'r1'),
      {
        runtime: 'r1',
        labels: {},
        capacity: 1,
        load: 0,
        draining: false,
        versions: undefined,
        intervalMs: 1,
      },
    ],
    [
      'a heartbeat of a broker',
      (body) => brokerBeatOf(body, 'b1'),
      { ...beat, snapshot: { reads: 7, writes: 6 } },
    ],
    [
      'a heartbeat of a provider',
      (body) => heartbeatOf(body),
      { provider: 'p1', hash: 'h', tools: 0, draining: false, intervalMs: 1 },
    ],
    ['a list of tools', toolPageOf, { hash: 'h', page: 0, pages: 1, tools: [tool] }],
  ];

  /** More in every object of the message, but for those whose keys are the user's or are checked by name. */
  const withMore = (body: unknown): unknown => {
    if (Array.isArray(body)) return body.map(withMore);
    if (typeof body !== 'object' || body === null) return body;
    const own = Object.entries(body).map(([key, value]) => [
      key,
      ['labels', 'limits'].includes(key) ? value : withMore(value),
    ]);
    return { ...Object.fromEntries(own), since: { release: 'next' } };
  };

  it.each(checks)('may say more than is known: %s', (_, check, body) => {
    const [plain, more] = [check(body), check(withMore(body) as object)];
    expect(typeof plain, `${String(plain)} is the field that is wrong`).toBe('object');
    expect(more).toEqual(withMore(plain));
  });

  it('may not name a limit that would not be held', () => {
    const body = { ...create, maxConcurrentExecutions: 1, limits: { ...limits, maxWonders: 1 } };
    expect(() => createOf(body)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', key: 'limits.maxWonders' }),
    );
  });

  it('and heartbeats of an older one may say less', () => {
    expect(brokerBeatOf(beat, 'b1')).toBe(beat);
    for (const snapshot of [null, 2, {}, { reads: 0, writes: 1 }, { reads: 1.5, writes: 1 }, { reads: 1 }])
      expect(brokerBeatOf({ ...beat, snapshot }, 'b1')).toBe('snapshot');
  });
});
