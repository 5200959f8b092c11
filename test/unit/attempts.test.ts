/** What an owner makes of a runtime's answer to its probe. */
import { expect, it } from 'vitest';
import { type Body, type Bus, BusError } from '../../src/bus/bus.ts';
import { Acks } from '../../src/session/acks.ts';
import { Attempts } from '../../src/session/attempts.ts';
import { Directory } from '../../src/session/directory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');

/** After a take-over: 5 reports and 2 deliveries are committed. */
async function probed(answer: Body | undefined, connectedMs?: number): Promise<readonly string[]> {
  const clock = new VirtualClock();
  const told: string[] = [];
  const bus: Partial<Bus> = {
    connectedMs,
    request: async (subject) => {
      if (answer === undefined) throw new BusError('NO_RESPONDERS', subject, 'nobody is there');
      return { ok: true, value: answer, epoch: 2 };
    },
    publish: (_, body) => void told.push((body as { readonly t: string }).t),
  };
  const directory = new Directory({ bus: bus as Bus, clock, subjects, onChange: () => undefined });
  const attempts = new Attempts({
    session: 's1',
    epoch: 2,
    bus: bus as Bus,
    clock,
    subjects,
    directory,
    mayAct: () => true,
    leaseHolds: () => true,
    acks: new Acks({ bus: bus as Bus, clock, subjects }),
    makeOffer: () => undefined,
    deliveries: (_, count) =>
      (
        [
          [0, '', '1', 1],
          [1, '', '2', 2],
        ] as const
      ).slice(count),
    onReport: () => undefined,
    onRefused: () => void told.push('refused'),
    onLost: () => void told.push('lost'),
  });
  attempts.restore('e1', 'a1', 'r1', 5);
  await attempts.probe('e1', 'a1', 'r1');
  await clock.settle();
  return told;
}

it.each([
  ['knows no more than is committed', { running: true, received: 2, acknowledged: 5 }, []],
  ['is behind, and is sent what it lacks', { running: true, received: 1, acknowledged: 3 }, ['deliver']],
  ['is of a release that does not tell', { running: true, received: 2 }, []],
  ['does not run it', { running: false, received: 0 }, ['lost']],
  ['was handed more than is committed', { running: true, received: 3, acknowledged: 5 }, ['stop', 'lost']],
  ['told more than is committed', { running: true, received: 2, acknowledged: 6 }, ['stop', 'lost']],
])('a runtime that %s', async (_, answer, expected) => {
  expect(await probed(answer)).toEqual(expected);
});

it('a runtime that is gone has lost it, but one that may be on its way back has not yet', async () => {
  expect(await probed(undefined)).toEqual(['lost']);
  expect(await probed(undefined, 10_000)).toEqual(['lost']);
  expect(await probed(undefined, 1_000)).toEqual([]);
});
