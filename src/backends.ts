/**
 * What the roles of one process stand on: a bus and a store. In memory by default; NATS and Redis for a cluster.
 */
import type { Bus } from './bus/bus.ts';
import { MemoryBusServer } from './bus/memory.ts';
import { type LinkStatus, NatsLink, type NatsLinkOptions } from './bus/nats.ts';
import { systemClock } from './clock.ts';
import { alsoTelling } from './natssource.ts';
import { MemoryStore } from './store/memory.ts';
import { type RedisNotice, RedisStore, type RedisStoreOptions } from './store/redis/store.ts';
import type { Store } from './store/store.ts';

/** Where messages go. */
export interface BusSource {
  /** A new handle for one role of this process. */
  connect(name: string): Bus;
  readonly connected: boolean;
  close(): Promise<void>;
}

/** Where sessions are kept. */
export interface StoreSource {
  readonly store: Store;
  readonly connected: boolean;
}

/** Where Redis is: a `redis://` or `rediss://` url, the options of an ioredis client, or a client of your own, which is copied from and never closed. */
export type RedisSource = RedisStoreOptions['redis'];

export interface StoreSettings {
  readonly namespace: string;
  readonly maxEvents: number;
  readonly ack: 'master' | 'replica' | undefined;
  readonly keyPrefix: string | undefined;
  readonly onNotice: (notice: RedisNotice) => void;
}

/** The NATS server, or this process's memory. Rejects with an EnclaveError UNAVAILABLE if no server answers. */
export async function openBus(
  nats: NatsLinkOptions | undefined,
  onError: (error: unknown, subject: string) => void,
  onStatus: (status: LinkStatus) => void,
): Promise<BusSource> {
  if (nats === undefined) {
    const server = new MemoryBusServer({ clock: systemClock, onError });
    return { connect: (name) => server.connect(name), connected: true, close: () => server.close() };
  }
  const link = await NatsLink.open({ ...nats, onError: alsoTelling(nats, onError) });
  link.onStatus(onStatus);
  return link;
}

/** Redis, or this process's memory. Rejects with an EnclaveError UNAVAILABLE if no server answers. */
export async function openStore(
  redis: RedisSource | undefined,
  settings: StoreSettings,
): Promise<StoreSource> {
  const { namespace, maxEvents, ack, keyPrefix, onNotice } = settings;
  if (redis === undefined)
    return { store: new MemoryStore({ clock: systemClock, maxEvents }), connected: true };
  const store = await RedisStore.open({ redis, namespace, maxEvents, ack, keyPrefix, onNotice });
  return {
    store,
    get connected() {
      return store.connected;
    },
  };
}
