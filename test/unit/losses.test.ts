/** What brokers, runtimes and providers do not take is told to whoever counts it, once each. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import type { DeadLetter, Full, Losses } from '../../src/losses.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import type { CallTool, CreateSession, Offer, Reply, RunScript } from '../../src/protocol.ts';
import { RuntimeHost, type RuntimeHostOptions } from '../../src/runtime/host.ts';
import type { SandboxSpec } from '../../src/runtime/sandbox.ts';
import { Broker, type BrokerNotice, type BrokerOptions } from '../../src/session/broker.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { defineTool } from '../../src/tools/define.ts';
import { ToolProvider } from '../../src/tools/provider.ts';
import { createToolRegistry } from '../../src/tools/registry.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('t');
const limits = resolveSessionLimits(undefined);

let clock: VirtualClock;
let server: MemoryBusServer;
let full: Full[];
let letters: DeadLetter[];
let losses: Losses;
const opened: (() => void)[] = [];

beforeEach(() => {
  clock = new VirtualClock();
  server = new MemoryBusServer({ clock });
  [full, letters] = [[], []];
  losses = { overloaded: (what) => void full.push(what), dropped: (what) => void letters.push(what) };
});
afterEach(async () => {
  for (const close of opened.splice(0)) close();
  await server.close();
});

async function ask(subject: string, body: object): Promise<Reply<unknown>> {
  const reply = server.connect().request(subject, body, { timeoutMs: 1_000 });
  await clock.settle();
  return (await reply) as Reply<unknown>;
}
async function say(subject: string, body: object): Promise<void> {
  server.connect().publish(subject, body);
  await clock.settle();
}
const OVERLOADED = { ok: false, error: { code: 'OVERLOADED' } };

describe('a broker', () => {
  let notices: BrokerNotice[];
  async function start(options: Partial<BrokerOptions>): Promise<Broker> {
    notices = [];
    const broker = new Broker({
      id: 'b1',
      bus: server.connect(),
      store: new MemoryStore({ clock }),
      clock,
      subjects,
      tool: () => undefined,
      losses,
      onNotice: (notice) => notices.push(notice),
      ...options,
    });
    opened.push(() => broker.abandon());
    await broker.start();
    return broker;
  }
  const create = (session: string): CreateSession => ({
    session,
    creation: session,
    labels: {},
    tools: undefined,
    limits,
    isolation: 'context',
    durability: 'session',
    maxConcurrentExecutions: 1,
    state: '{}',
  });
  const script = (run: string): RunScript => ({
    run,
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
  });
  const beat = (runtime: string, draining = false) => ({
    runtime,
    labels: {},
    capacity: 4,
    load: 0,
    draining,
    versions: undefined,
    intervalMs: 1_000,
  });

  it('that has as many sessions as it takes', async () => {
    await start({ maxSessions: 1 });
    expect(await ask(subjects.broker('session_create'), create('s1'))).toMatchObject({ ok: true });
    expect(await ask(subjects.broker('session_create'), create('s2'))).toMatchObject(OVERLOADED);
    expect(full).toEqual(['sessions']);
  });

  it('that has as many runs as it takes', async () => {
    const broker = await start({ maxRuns: 1 });
    const first = ask(subjects.broker('run'), script('run-1'));
    await clock.settle();
    expect(await ask(subjects.broker('run'), script('run-2'))).toMatchObject(OVERLOADED);
    expect(full).toEqual(['runs']);
    // It waits for a runtime, and there is none.
    expect(broker.waiting).toBe(1);
    await clock.advance(100);
    expect(await first).toMatchObject({ ok: true });
  });

  it('whose session has as many executions as it takes', async () => {
    const broker = await start({ settings: { maxExecutions: 1 } });
    await ask(subjects.broker('session_create'), create('s1'));
    const execute = (execution: string) => ({
      ...{ t: 'execute', execution, issuedAt: 1, source: 'return 1', input: '', limits: undefined },
      ...{ seed: [1, 2, 3, 4], tell: subjects.clientResult('c1') },
    });
    expect(await ask(subjects.sessionCmd('s1'), execute('e1'))).toMatchObject({ ok: true });
    expect(await ask(subjects.sessionCmd('s1'), execute('e2'))).toMatchObject(OVERLOADED);
    expect(full).toEqual(['session']);
    expect(Object.fromEntries(broker.statuses())).toEqual({
      ...{
        starting: 0,
        idle: 0,
        executing: 1,
        waiting: 0,
        hibernated: 0,
        migrating: 0,
        closed: 0,
        expired: 0,
      },
    });
  });

  it('whose session’s actor has too many messages waiting', async () => {
    const broker = await start({});
    await ask(subjects.broker('session_create'), create('s1'));
    const actor = broker.actor('s1');
    // Each fact is followed by another one, so that there is never room.
    let flooding = true;
    const flood = (): undefined => void (flooding && actor?.tell(flood));
    while (actor?.tell(flood) === true);
    const reply = server.connect().request(subjects.sessionCmd('s1'), { t: 'close' }, { timeoutMs: 1_000 });
    expect(await reply.finally(() => (flooding = false))).toMatchObject(OVERLOADED);
    expect(full).toEqual(['mailbox']);
  });

  it('that hears what is nothing', async () => {
    await start({});
    await say(subjects.runtimeHeartbeat('r1'), {});
    await ask(subjects.broker('session_create'), create('s1'));
    await say(subjects.sessionIn('s1', 'A'.repeat(22)), { t: 'report' });
    await say(subjects.sessionTools('s1'), { t: 'ended' });
    expect(letters).toEqual(['heartbeat', 'report', 'provider']);
    expect(notices.filter(({ type }) => type === 'message.dropped')).toHaveLength(1);
  });

  it('tells once that a runtime is there, and how it left', async () => {
    await start({});
    const told = () => notices.filter(({ type }) => type.startsWith('runtime.'));
    for (const runtime of ['r1', 'r2', 'r1']) await say(subjects.runtimeHeartbeat(runtime), beat(runtime));
    const heard = ['r1', 'r2'].map((runtime) => ({ type: 'runtime.heard', runtime }));
    expect(told()).toEqual(heard);
    await say(subjects.runtimeHeartbeat('r2'), beat('r2', true));
    await clock.advance(5_000);
    const gone = [
      { type: 'runtime.gone', runtime: 'r1', drained: false },
      { type: 'runtime.gone', runtime: 'r2', drained: true },
    ];
    expect(told().slice(2)).toEqual(expect.arrayContaining(gone));
    expect(told()).toHaveLength(4);
    await say(subjects.runtimeHeartbeat('r1'), beat('r1'));
    expect(told().at(-1)).toEqual({ type: 'runtime.heard', runtime: 'r1' });
  });
});

describe('a runtime', () => {
  const specs: SandboxSpec[] = [];
  async function start(options: Partial<RuntimeHostOptions> = {}): Promise<void> {
    specs.length = 0;
    const host = new RuntimeHost({
      id: 'r1',
      bus: server.connect(),
      clock,
      subjects,
      sandbox: {
        versions: undefined,
        capacity: 1,
        start: (spec) => {
          specs.push(spec);
          return { deliver: () => undefined, stop: () => undefined };
        },
      },
      labels: {},
      holdMs: 0,
      losses,
      ...options,
    });
    opened.push(() => host.close());
    await host.start();
  }
  const offer = (attempt: string): Offer => ({
    t: 'offer',
    session: 's1',
    epoch: 1,
    attempt,
    execution: 'e1',
    source: 'return 1',
    input: '',
    state: '{}',
    seed: [1, 2, 3, 4],
    startTime: 1,
    limits,
    isolation: 'context',
    alone: false,
    replay: false,
    deliveries: [],
    versions: undefined,
  });
  const command = subjects.runtimeCmd('r1');

  it('that runs as many scripts as it takes', async () => {
    await start();
    expect(await ask(command, offer('a1'))).toMatchObject({ ok: true });
    expect(await ask(command, offer('a2'))).toMatchObject(OVERLOADED);
    expect(full).toEqual(['runtime']);
  });

  it('that keeps too many reports which nobody acknowledged', async () => {
    await start({ capacity: 10, maxUnacknowledgedBytes: 10 });
    for (let index = 0; full.length === 0 && index < 9; index++) {
      await ask(command, offer(`a${index}`));
      specs
        .at(-1)
        ?.onEnd({ kind: 'returned', json: '"0123456789"', state: undefined, usage: { cpu: 0, heap: 0 } });
      await clock.settle();
    }
    expect(full).toEqual(['outbox']);
  });

  it('whose workers have a full queue', async () => {
    await start();
    await ask(command, offer('a1'));
    specs[0]?.onEnd({ kind: 'refused', code: 'OVERLOADED', message: 'full', retryAfterMs: 10 });
    expect(full).toEqual(['queue']);
  });

  it('that gets a command which is none', async () => {
    await start();
    await say(command, { t: 'dance' });
    expect(letters).toEqual(['command']);
  });
});

describe('a provider', () => {
  const call = (index: number): CallTool => ({
    t: 'call',
    key: `s1/x1/${index}`,
    session: 's1',
    execution: 'x1',
    index,
    name: 'users:get',
    args: '{}',
    epoch: 1,
    notAfterMs: 5_000,
    maxPayloadBytes: 1_000,
  });
  beforeEach(async () => {
    const forever = defineTool({ name: 'users:get', handler: () => new Promise(() => undefined) });
    const provider = new ToolProvider({
      id: 'p1',
      bus: server.connect(),
      clock,
      subjects,
      registry: createToolRegistry({ tools: [forever] }),
      maxRunning: 1,
      holdMs: 0,
      losses,
    });
    opened.push(() => provider.close());
    await provider.start();
  });

  it('that runs as many calls as it takes', async () => {
    const subject = subjects.tool('users.get');
    expect(await ask(subject, call(0))).toMatchObject({ ok: true });
    expect(await ask(subject, call(1))).toMatchObject(OVERLOADED);
    expect(full).toEqual(['provider']);
  });

  it('that gets a call or a command which is none', async () => {
    await say(subjects.tool('users.get'), { t: 'call' });
    await say(subjects.providerCmd('p1'), { t: 'dance' });
    expect(letters).toEqual(['command', 'command']);
  });
});
