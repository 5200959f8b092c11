/** What a broker knows of the others, from their heartbeats. */
import { describe, expect, it } from 'vitest';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { Directory } from '../../src/session/directory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { VirtualClock } from '../support/clock.ts';

const subjects = subjectsOf('test');

async function setUp() {
  const clock = new VirtualClock();
  const server = new MemoryBusServer({ clock, deliver: ({ run }) => clock.soon(run) });
  const other = server.connect('other');
  const directory = new Directory({
    bus: server.connect('broker'),
    clock,
    subjects,
    onChange: () => undefined,
  });
  directory.start();
  const beat = async (broker: string, sessions: number, draining = false): Promise<void> => {
    other.publish(subjects.brokerHeartbeat(broker), { broker, sessions, draining, intervalMs: 1_000 });
    await clock.settle();
  };
  return { clock, directory, beat };
}

describe('whom a session is given to', () => {
  it('is the broker with the fewest, counting those that were given since its heartbeat', async () => {
    const { directory, beat } = await setUp();
    await beat('b1', 0);
    await beat('b2', 3);
    await beat('b3', 1);
    const targets = Array.from({ length: 8 }, () => directory.successor('b1'));
    expect(targets.filter((target) => target === 'b3')).toHaveLength(5);
    expect(targets.filter((target) => target === 'b2')).toHaveLength(3);
    await beat('b3', 2);
    expect(directory.successor('b1')).toBe('b3');
  });

  it('is never the one that gives, one that drains, or one that fell silent', async () => {
    const { directory, beat, clock } = await setUp();
    await beat('b1', 0);
    await beat('b2', 0, true);
    expect(directory.successor('b1')).toBeUndefined();
    await beat('b3', 9);
    expect(directory.successor('b1')).toBe('b3');
    await clock.advance(3_001);
    directory.sweep();
    expect(directory.successor('b1')).toBeUndefined();
  });
});
