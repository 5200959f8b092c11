/** When a call counts as taken, as lost and as nobody's, whatever the bus does. */
import { describe, expect, it } from 'vitest';
import { type Body, type Bus, BusError, type BusErrorCode } from '../../src/bus/bus.ts';
import type { CallTool } from '../../src/protocol.ts';
import { Acks } from '../../src/session/acks.ts';
import { ToolCalls } from '../../src/session/toolcalls.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');
const MESSAGE: CallTool = {
  t: 'call',
  key: 's1/e1/0',
  session: 's1',
  execution: 'e1',
  index: 0,
  name: 'a',
  args: '',
  epoch: 1,
  notAfterMs: 1_000,
  maxPayloadBytes: 1_000,
};
const TAKEN: Body = { ok: true, value: { provider: 'p1' }, epoch: 1 };
type Answer = Body | BusErrorCode | 'DISCONNECTED';

/** `answers` by subject; `reached`: whether the server can be. */
function setUp() {
  const clock = new VirtualClock();
  const world = {
    reached: true,
    connectedMs: undefined as number | undefined,
    answers: new Map<string, Answer>(),
    probes: 0,
    asked: [] as string[],
    providers: undefined as readonly string[] | undefined,
  };
  const told: string[] = [];
  const bus: Partial<Bus> = {
    maxPayloadBytes: 1_000_000,
    get connectedMs() {
      return world.connectedMs;
    },
    request: async (subject) => {
      world.asked.push(subject);
      const answer = world.answers.get(subject) ?? 'NO_RESPONDERS';
      if (typeof answer === 'string') throw new BusError(answer as BusErrorCode, subject, 'as the test says');
      return answer;
    },
    publish: (subject) => {
      if (subject === subjects.providerProbe && world.reached) world.probes++;
    },
    flush: async () => {
      if (!world.reached) throw new BusError('TIMEOUT', '', 'the server is away');
    },
  };
  const calls = new ToolCalls({
    session: 's1',
    bus: bus as Bus,
    clock,
    subjects,
    mayAct: () => true,
    leaseHolds: () => true,
    providers: () => world.providers,
    acks: new Acks({ bus: bus as Bus, clock, subjects }),
    makeCall: () => MESSAGE,
    subjectOf: ({ name }) => subjects.tool(name),
    isOpen: () => true,
    isCommitted: () => true,
    onLost: () => void told.push('lost'),
    onUnprovided: () => void told.push('unprovided'),
    onEnded: (_execution, _index, { end }) => void told.push(end.ok === false ? end.code : 'ended'),
  });
  const dispatch = async (answer: Answer): Promise<void> => {
    world.answers.set(subjects.tool('a'), answer);
    await calls.dispatch('e1', 0, 'call');
    await clock.settle();
  };
  /** Sweeps as an owner does. */
  const pass = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += 250) {
      await clock.advance(250);
      calls.sweep();
      await clock.settle();
    }
  };
  return { world, told, calls, dispatch, pass };
}

describe('a call whose request', () => {
  it.each(['NO_RESPONDERS', 'DISCONNECTED', 'BAD_SUBJECT'] as const)(
    'certainly reached nobody was not started: %s',
    async (code) => {
      const { told, dispatch, world } = setUp();
      await dispatch(code);
      expect([told, world.probes]).toEqual([['unprovided'], 0]);
    },
  );

  it.each(['TIMEOUT', 'CLOSED', 'FORBIDDEN'] as const)(
    'may have reached somebody is lost when nobody answers for it: %s',
    async (code) => {
      const { told, dispatch, pass, world } = setUp();
      await dispatch(code);
      await pass(2_000);
      expect(told).toEqual([]);
      await pass(750);
      expect(told).toEqual(['lost']);
      expect(world.probes).toBe(5);
    },
  );

  it('may have reached somebody is lost as soon as every provider that there is says that it is not there', async () => {
    const { told, dispatch, pass, world } = setUp();
    world.providers = ['p1', 'p2'];
    for (const id of world.providers)
      world.answers.set(subjects.providerCmd(id), { ok: true, value: { missing: ['s1/e1/0'] }, epoch: 0 });
    await dispatch('TIMEOUT');
    expect(told).toEqual([]);
    await pass(500);
    expect([told, world.probes]).toEqual([['lost'], 1]);
  });

  it('may have reached somebody is lost when every provider says so or is gone, and was when it was asked before', async () => {
    const { told, dispatch, pass, world } = setUp();
    world.providers = ['p1', 'p2'];
    world.answers.set(subjects.providerCmd('p1'), { ok: true, value: { missing: ['s1/e1/0'] }, epoch: 0 });
    await dispatch('TIMEOUT');
    await pass(750);
    expect(told).toEqual([]);
    await pass(250);
    expect([told, world.probes]).toEqual([['lost'], 2]);
  });

  it('may have reached somebody is not lost while providers may be on their way back to the bus', async () => {
    const { told, dispatch, pass, world } = setUp();
    world.providers = ['p1'];
    world.connectedMs = 0;
    await dispatch('TIMEOUT');
    await pass(20_000);
    expect(told).toEqual([]);
    world.connectedMs = 3_000;
    await pass(1_500);
    expect(told).toEqual(['lost']);
  });

  it.each([
    ['does not answer', 'TIMEOUT'],
    ['has it', { ok: true, value: { missing: [] }, epoch: 0 }],
    ['gives an answer that is none', { ok: true, value: {}, epoch: 0 }],
  ] as const)('may have reached somebody is not lost so soon if one of them %s', async (_, answer) => {
    const { told, dispatch, pass, world } = setUp();
    world.providers = ['p1', 'p2'];
    world.answers.set(subjects.providerCmd('p2'), answer);
    await dispatch('TIMEOUT');
    await pass(2_250);
    expect(told).toEqual([]);
    await pass(500);
    expect(told).toEqual(['lost']);
  });

  it('may have reached somebody is not lost while nobody can be asked', async () => {
    const { told, dispatch, pass, world } = setUp();
    world.reached = false;
    await dispatch('TIMEOUT');
    await pass(60_000);
    expect(told).toEqual([]);
    world.reached = true;
    await pass(4_000);
    expect(told).toEqual(['lost']);
    expect(world.probes).toBeGreaterThanOrEqual(5);
  });

  it('may have reached somebody is not lost when that one answers', async () => {
    const { told, dispatch, pass, calls } = setUp();
    await dispatch('TIMEOUT');
    calls.hear({ t: 'alive', key: MESSAGE.key, provider: 'p1' });
    await pass(1_500);
    expect(told).toEqual([]);
  });

  it('is too large for the bus ends at once', async () => {
    const { told, dispatch } = setUp();
    await dispatch('PAYLOAD_TOO_LARGE');
    expect(told).toEqual(['SERIALIZATION_ERROR']);
  });
});

describe('a call that a provider has', () => {
  it('is lost when nobody is where the provider was, twice', async () => {
    const { told, dispatch, pass, world } = setUp();
    await dispatch(TAKEN);
    await pass(2_000);
    expect(told).toEqual([]);
    await pass(500);
    expect(told).toEqual(['lost']);
    const asked = world.asked.filter((subject) => subject === subjects.providerCmd('p1'));
    expect(asked).toHaveLength(2);
  });

  it('is not lost if the provider was away for a moment only', async () => {
    const { told, dispatch, pass, world } = setUp();
    await dispatch(TAKEN);
    await pass(2_000);
    expect(world.asked).toContain(subjects.providerCmd('p1'));
    world.answers.set(subjects.providerCmd('p1'), { ok: true, value: { missing: [] }, epoch: 0 });
    await pass(20_000);
    expect(told).toEqual([]);
  });

  it('is not lost while its provider may be on its way back to the bus', async () => {
    const { told, dispatch, pass, world } = setUp();
    world.connectedMs = 2_999;
    await dispatch(TAKEN);
    await pass(20_000);
    expect(told).toEqual([]);
    world.connectedMs = 3_000;
    await pass(2_500);
    expect(told).toEqual(['lost']);
  });

  it('is lost when the provider is silent for five questions', async () => {
    const { told, dispatch, pass, world } = setUp();
    world.answers.set(subjects.providerCmd('p1'), 'TIMEOUT');
    await dispatch(TAKEN);
    await pass(9_000);
    expect(told).toEqual([]);
    await pass(3_000);
    expect(told).toEqual(['lost']);
  });

  it.each(['DISCONNECTED', 'CLOSED', 'FORBIDDEN'] as const)(
    'is not lost while nothing can be asked: %s',
    async (code) => {
      const { told, dispatch, pass, world } = setUp();
      world.answers.set(subjects.providerCmd('p1'), code);
      await dispatch(TAKEN);
      await pass(60_000);
      expect(told).toEqual([]);
    },
  );
});
