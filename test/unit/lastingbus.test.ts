/** A bus whose links come and go: what goes on over the next one, and what is said of what was lost with the last. */
import { describe, expect, it } from 'vitest';
import type { Bus } from '../../src/bus/bus.ts';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { EnclaveError } from '../../src/errors.ts';
import { LastingBus } from '../../src/lastingbus.ts';
import { VirtualClock } from '../support/clock.ts';

const REQUEST = { timeoutMs: 1_000 };

function setUp() {
  const clock = new VirtualClock();
  const server = new MemoryBusServer({ clock });
  const far = server.connect('far');
  let near: Bus | undefined;
  let opened = 0;
  let isAway = false;
  const bus: LastingBus = new LastingBus(async () => {
    if (isAway) throw new EnclaveError('UNAVAILABLE', 'no server');
    opened++;
    near = server.connect('near');
    bus.use(near);
  });
  return {
    clock,
    far,
    bus,
    opened: () => opened,
    /** The link that is there is closed for good. */
    giveUp: async (away = false) => {
      isAway = away;
      await near?.close();
      bus.drop();
    },
  };
}

describe('a bus that outlives its links', () => {
  it('has its subscriptions made again on every link, and no others (L1)', async () => {
    const { clock, far, bus, opened, giveUp } = setUp();
    const heard: unknown[] = [];
    bus.subscribe('told', ({ body }) => void heard.push(body));
    const other = bus.subscribe('told', () => void heard.push('another'));
    await bus.flush();
    other.unsubscribe();
    await giveUp();
    await bus.flush();
    far.publish('told', { n: 1 });
    await clock.settle();
    expect(heard).toEqual([{ n: 1 }]);
    expect(opened()).toBe(2);
  });

  it('says of a request that a link took along that it may have been acted on (L2)', async () => {
    const { clock, far, bus, giveUp } = setUp();
    let asked = 0;
    far.subscribe('ask', () => void asked++);
    const request = bus.request('ask', {}, REQUEST);
    const refused = expect(request).rejects.toMatchObject({ code: 'TIMEOUT' });
    await clock.settle();
    expect(asked).toBe(1);
    await giveUp();
    await refused;
  });

  it('says that nothing was sent where no link can be had, and tries anew the next time (L3)', async () => {
    const { far, bus, giveUp } = setUp();
    far.subscribe('ask', ({ respond }) => respond?.({ ok: 1 }));
    await giveUp(true);
    await expect(bus.request('ask', {}, REQUEST)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(() => bus.publish('told', {})).not.toThrow();
    await giveUp(false);
    expect(await bus.request('ask', {}, REQUEST)).toEqual({ ok: 1 });
  });

  it('is closed once it was closed, and opens nothing', async () => {
    const { bus, opened } = setUp();
    await bus.close();
    await expect(bus.request('ask', {}, REQUEST)).rejects.toMatchObject({ code: 'CLOSED' });
    expect(() => bus.subscribe('told', () => undefined)).toThrow(expect.objectContaining({ code: 'CLOSED' }));
    expect(opened()).toBe(0);
  });
});
