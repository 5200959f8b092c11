/** What a broker owes is told in few messages, in nobody's name but that of a living lease, and to the end. */
import { describe, expect, it } from 'vitest';
import { type Body, type Bus, BusError } from '../../src/bus/bus.ts';
import { ACK_MS, Acks } from '../../src/session/acks.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');
const lives = (): boolean => true;

function setUp(publish?: (subject: string) => void) {
  const clock = new VirtualClock();
  const told: (readonly [subject: string, body: Body])[] = [];
  const bus: Partial<Bus> = {
    publish: (subject, body) => {
      publish?.(subject);
      told.push([subject, body]);
    },
  };
  return { clock, told, acks: new Acks({ bus: bus as Bus, clock, subjects }) };
}

describe('acknowledgements', () => {
  it('wait for others, and go to each runtime and provider in one message', async () => {
    const { acks, told, clock } = setUp();
    acks.attempt('r1', 'a1', { epoch: 1, ack: 1, mayAct: lives });
    acks.attempt('r2', 'a2', { epoch: 2, ack: 5, mayAct: lives });
    acks.call('p1', 's1/x1/0', lives);
    await clock.advance(ACK_MS - 1);
    acks.attempt('r1', 'a3', { epoch: 3, ack: 2, mayAct: lives });
    acks.call('p1', 's2/x1/0', lives);
    expect(told).toEqual([]);
    await clock.advance(1);
    expect(told).toEqual([
      [
        subjects.runtimeCmd('r1'),
        {
          t: 'acks',
          acks: [
            ['a1', 1, 1],
            ['a3', 3, 2],
          ],
        },
      ],
      [subjects.runtimeCmd('r2'), { t: 'acks', acks: [['a2', 2, 5]] }],
      [subjects.providerCmd('p1'), { t: 'ack', keys: ['s1/x1/0', 's2/x1/0'] }],
    ]);
    await clock.advance(1_000);
    expect([told.length, clock.timers]).toEqual([3, 0]);
  });

  it('of one attempt are one, the latest', async () => {
    const { acks, told, clock } = setUp();
    for (const ack of [1, 2, 3]) acks.attempt('r1', 'a1', { epoch: 1, ack, mayAct: lives });
    await clock.advance(ACK_MS);
    expect(told).toEqual([[subjects.runtimeCmd('r1'), { t: 'acks', acks: [['a1', 1, 3]] }]]);
  });

  it('are not told in the name of a lease that ended while they waited', async () => {
    const { acks, told, clock } = setUp();
    let holds = true;
    acks.attempt('r1', 'a1', { epoch: 1, ack: 1, mayAct: () => holds });
    acks.call('p1', 's1/x1/0', () => holds);
    acks.call('p1', 's2/x1/0', lives);
    holds = false;
    await clock.advance(ACK_MS);
    expect(told).toEqual([[subjects.providerCmd('p1'), { t: 'ack', keys: ['s2/x1/0'] }]]);
  });

  it('are told at once when asked for, and not again', async () => {
    const { acks, told, clock } = setUp();
    acks.attempt('r1', 'a1', { epoch: 1, ack: 1, mayAct: lives });
    acks.flush();
    expect(told).toHaveLength(1);
    await clock.advance(1_000);
    expect([told.length, clock.timers]).toEqual([1, 0]);
  });

  it('of very many go in several messages', async () => {
    const { acks, told, clock } = setUp();
    for (let index = 0; index < 1_200; index++) acks.call('p1', `s1/x1/${index}`, lives);
    await clock.advance(ACK_MS);
    const keys = told.map(([, body]) => (body as { readonly keys: readonly string[] }).keys);
    expect(keys.map(({ length }) => length)).toEqual([500, 500, 200]);
    expect(new Set(keys.flat()).size).toBe(1_200);
  });

  it('that cannot be sent harm nobody', async () => {
    const { acks, told, clock } = setUp((subject) => {
      if (subject === subjects.runtimeCmd('r1')) throw new BusError('DISCONNECTED', subject, 'away');
    });
    acks.attempt('r1', 'a1', { epoch: 1, ack: 1, mayAct: lives });
    acks.attempt('r2', 'a2', { epoch: 1, ack: 1, mayAct: lives });
    await clock.advance(ACK_MS);
    expect(told.map(([subject]) => subject)).toEqual([subjects.runtimeCmd('r2')]);
  });
});
