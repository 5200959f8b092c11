/** The end of a session's memory, while the store comes and goes. */
import { expect, it } from 'vitest';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { SessionClient } from '../../src/client/client.ts';
import { systemClock } from '../../src/clock.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import { Broker, type BrokerNotice } from '../../src/session/broker.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { type Store, StoreError } from '../../src/store/store.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { waitUntil } from '../support/processes.ts';

it('a session that has ended is deleted in time, though the store is away just then', async () => {
  const shared = { clock: systemClock, subjects: subjectsOf('purge') };
  const bus = new MemoryBusServer({ clock: systemClock });
  const memory = new MemoryStore({ clock: systemClock });
  let refused = 0;
  const handle: Store = memory.handle();
  const store = new Proxy(handle, {
    get: (_, key: keyof Store) =>
      key === 'delete' && refused < 2
        ? () => Promise.reject(new StoreError(refused++ === 0 ? 'UNKNOWN' : 'UNAVAILABLE', 'delete', 'away'))
        : (handle[key] as (...args: unknown[]) => unknown).bind(handle),
  });
  const notices: BrokerNotice[] = [];
  const broker = new Broker({
    ...shared,
    id: 'b1',
    bus: bus.connect('b1'),
    store,
    tool: () => undefined,
    settings: { tombstoneMs: 50 },
    onNotice: (notice) => notices.push(notice),
  });
  await broker.start();
  const defaults = { limits: resolveSessionLimits(undefined), isolation: 'context' } as const;
  const client = new SessionClient({ ...shared, id: 'c1', bus: bus.connect('c1'), defaults });
  await client.start();
  const session = await client.spawn();
  await session.close();
  await waitUntil(async () => (await memory.handle().load(session.id)) === undefined, 'it is gone');
  expect(refused).toBe(2);
  expect(broker.sessions).toBe(0);
  expect(notices.filter(({ type }) => type === 'error')).toEqual([]);
  await client.close();
  await broker.close();
  await bus.close();
});
