/** Worker pools: what waits, what runs, what the workers take, and which of them are gone. */
import type { Registry } from 'prom-client';
import type { PoolObserver, PoolStats, WorkerPool } from '../../sandbox/pool.ts';
import { counterOf, readGauge } from './registry.ts';
import { Shared } from './shared.ts';

/** What is read of a pool. */
export type MeteredPool = Pick<WorkerPool, 'stats' | 'observe'>;

interface Pools {
  readonly watched: Shared<MeteredPool>;
  /** Pools that there have been. */
  count: number;
}

const poolsBy = new WeakMap<Registry, Pools>();

/**
 * Report a pool under the name of its runtime. A pool is counted once, however many use it. Returns what ends that.
 * `isReachable`: whether the runtime can be given scripts, as far as it is not the pool's matter.
 */
export function meterPool(
  registry: Registry,
  pool: MeteredPool,
  runtime: string,
  isReachable: () => boolean,
): () => void {
  const pools = poolsOf(registry);
  return pools.watched.use(pool, () => watch(registry, pool, runtime, prefixOf(pools), isReachable));
}

function poolsOf(registry: Registry): Pools {
  let pools = poolsBy.get(registry);
  if (pools === undefined) {
    pools = { watched: new Shared(), count: 0 };
    poolsBy.set(registry, pools);
  }
  return pools;
}

/** Each pool numbers its slots from 1: what joins another one in a registry puts a number of its own before them. */
function prefixOf(pools: Pools): string {
  pools.count++;
  return pools.watched.size === 0 ? '' : `${pools.count}:`;
}

function watch(
  registry: Registry,
  pool: MeteredPool,
  runtime: string,
  prefix: string,
  isReachable: () => boolean,
): () => void {
  const retired = counterOf(registry, 'enclave_worker_retirements_total');
  const observer: PoolObserver = {
    workerReady: () => undefined,
    workerRetired: (_slot, reason) => retired.inc({ reason }),
    escalated: () => undefined,
    violation: () => undefined,
  };
  const stats = oncePerTurn(() => pool.stats());
  const isHealthy = (): boolean => stats().status === 'open' && isReachable();
  const stops = [
    pool.observe(observer),
    readGauge(registry, 'enclave_queue_depth', (report) => report(stats().queueLength, runtime)),
    readGauge(registry, 'enclave_runtime_health', (report) => report(isHealthy() ? 1 : 0, runtime)),
    readGauge(registry, 'enclave_active_executions', (report) => report(stats().active)),
    readGauge(registry, 'enclave_worker_memory_bytes', (report) => {
      for (const { id, memoryBytes } of stats().workers) report(memoryBytes, `${prefix}${id}`);
    }),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}

/** A scrape reads several gauges in one turn: the workers are measured once for all of them. */
function oncePerTurn(read: () => PoolStats): () => PoolStats {
  let kept: PoolStats | undefined;
  return () => {
    if (kept === undefined) {
      kept = read();
      queueMicrotask(() => {
        kept = undefined;
      });
    }
    return kept;
  };
}
