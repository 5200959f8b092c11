/** The store contract against real Redis servers: one, one that waits for its replica, and a Cluster. */
import { RedisStore, type RedisStoreOptions } from '../../src/store/redis/store.ts';
import { startRedis, startRedisCluster, startReplicatedRedis } from '../support/redis.ts';
import { storeContract } from './store.ts';

const MAX_EVENTS = 100;

/** Handles on one server, closed with it. */
function opened(options: Omit<RedisStoreOptions, 'namespace' | 'maxEvents'>, stop: () => Promise<void>) {
  const stores: RedisStore[] = [];
  return {
    connect: async () => {
      const store = await RedisStore.open({
        ...options,
        namespace: 'contract',
        maxEvents: MAX_EVENTS,
        // Nothing is wrong with a server that is slow under load.
        commandTimeoutMs: 15_000,
      });
      stores.push(store);
      return store;
    },
    maxEvents: MAX_EVENTS,
    close: async () => {
      await Promise.all(stores.map((store) => store.close()));
      await stop();
    },
  };
}

storeContract('Redis', async () => {
  const redis = await startRedis();
  return opened({ redis: redis.url }, () => redis.stop());
});

storeContract('replicated Redis', async () => {
  const redis = await startReplicatedRedis();
  return opened({ redis: redis.url, ack: 'replica' }, () => redis.stop());
});

storeContract('Redis Cluster', async () => {
  const cluster = await startRedisCluster();
  return opened({ redis: { cluster: cluster.addresses } }, () => cluster.stop());
});

storeContract('Redis Cluster with replicas', async () => {
  const cluster = await startRedisCluster();
  return opened({ redis: { cluster: cluster.addresses, scaleReads: 'slave' }, ack: 'replica' }, () =>
    cluster.stop(),
  );
});
