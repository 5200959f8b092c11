/**
 * The guide's metrics, in a registry that the user provides. The only module that imports prom-client.
 *
 * Enclaves may share a registry: a metric that is there already is used again.
 */
import {
  Counter,
  type CounterConfiguration,
  Gauge,
  type GaugeConfiguration,
  Histogram,
  type HistogramConfiguration,
  Registry,
} from 'prom-client';
import type { ExecutionResult } from '../result.ts';
import type { PoolObserver, WorkerPool } from '../sandbox/pool.ts';

/** The window of `enclave_executions_per_second`, in seconds. */
const WINDOW_S = 10;
/** The runtime's name in labels: an Enclave has one, its pool. */
const RUNTIME = 'embedded';

export interface EnclaveMetrics {
  readonly ended: (result: ExecutionResult) => void;
  /** Stop reporting the pool. */
  readonly stop: () => void;
}

/** A registry of one's own. */
export function createRegistry(): Registry {
  return new Registry();
}

/** Register the `enclave_*` metrics of a pool, or only those of executions. */
export function meter(registry: Registry, pool?: WorkerPool): EnclaveMetrics {
  const shared = sharedMetrics(registry);
  const recent: number[] = Array.from({ length: WINDOW_S }, () => 0);
  const seconds: number[] = Array.from({ length: WINDOW_S }, () => 0);
  const rate = (): number => {
    const now = Math.floor(performance.now() / 1_000);
    return (
      recent.reduce((sum, value, index) => sum + (now - (seconds[index] ?? 0) < WINDOW_S ? value : 0), 0) /
      WINDOW_S
    );
  };
  const sources = sourcesOf(registry);
  sources.rates.add(rate);
  const release = pool === undefined ? () => undefined : watchPool(sources, pool, shared);
  return {
    ended: (result) => {
      const now = Math.floor(performance.now() / 1_000);
      const index = now % WINDOW_S;
      if (seconds[index] !== now) {
        seconds[index] = now;
        recent[index] = 0;
      }
      recent[index] = (recent[index] ?? 0) + 1;
      const code = result.success ? 'OK' : result.error.code;
      shared.total.inc({ outcome: result.success ? 'completed' : result.error.outcome, code });
      shared.latency.observe((result.stats.queueTime + result.stats.duration) / 1_000);
    },
    stop: () => {
      sources.rates.delete(rate);
      release();
    },
  };
}

/** What a registry's gauges are read from: Enclaves may share a registry, and a pool. */
interface Sources {
  readonly rates: Set<() => number>;
  readonly pools: Map<WorkerPool, { users: number; readonly stop: () => void }>;
}

const sourcesByRegistry = new WeakMap<Registry, Sources>();
function sourcesOf(registry: Registry): Sources {
  let found = sourcesByRegistry.get(registry);
  if (found === undefined) {
    found = { rates: new Set(), pools: new Map() };
    sourcesByRegistry.set(registry, found);
  }
  return found;
}

/** Count a pool once, however many Enclaves use it. Returns what ends that. */
function watchPool(sources: Sources, pool: WorkerPool, shared: SharedMetrics): () => void {
  let watched = sources.pools.get(pool);
  if (watched === undefined) {
    const observer: PoolObserver = {
      workerReady: () => undefined,
      workerRetired: (slot, reason) => {
        shared.memory.remove({ worker_id: slot });
        shared.retired.inc({ reason });
      },
      escalated: () => undefined,
      violation: () => undefined,
    };
    watched = { users: 0, stop: pool.observe(observer) };
    sources.pools.set(pool, watched);
  }
  const entry = watched;
  entry.users++;
  return () => {
    if (--entry.users > 0) return;
    entry.stop();
    sources.pools.delete(pool);
  };
}

/** Bring every gauge up to date. */
function collect(sources: Sources, shared: SharedMetrics): void {
  let perSecond = 0;
  for (const rate of sources.rates) perSecond += rate();
  shared.perSecond.set(perSecond);
  if (sources.pools.size === 0) return;
  let queued = 0;
  let active = 0;
  let healthy = 1;
  for (const pool of sources.pools.keys()) {
    const stats = pool.stats();
    queued += stats.queueLength;
    active += stats.active;
    if (stats.status !== 'open') healthy = 0;
    for (const worker of stats.workers) shared.memory.set({ worker_id: worker.id }, worker.memoryBytes);
  }
  shared.queueDepth.set({ runtime: RUNTIME }, queued);
  shared.health.set({ runtime_id: RUNTIME }, healthy);
  shared.active.set(active);
}

interface SharedMetrics {
  readonly perSecond: Gauge;
  readonly total: Counter<'outcome' | 'code'>;
  readonly latency: Histogram;
  readonly queueDepth: Gauge<'runtime'>;
  readonly health: Gauge<'runtime_id'>;
  readonly memory: Gauge<'worker_id'>;
  readonly active: Gauge;
  readonly retired: Counter<'reason'>;
}

function sharedMetrics(registry: Registry): SharedMetrics {
  const sources = sourcesOf(registry);
  const gauge = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    collect?: () => void,
  ): Gauge<L> => {
    const options: GaugeConfiguration<L> = {
      name,
      help,
      labelNames,
      registers: [registry],
      ...(collect === undefined ? {} : { collect }),
    };
    return (registry.getSingleMetric(name) as Gauge<L> | undefined) ?? new Gauge<L>(options);
  };
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[]): Counter<L> => {
    const options: CounterConfiguration<L> = { name, help, labelNames, registers: [registry] };
    return (registry.getSingleMetric(name) as Counter<L> | undefined) ?? new Counter<L>(options);
  };
  const latencyName = 'enclave_execution_latency_seconds';
  const latencyOptions: HistogramConfiguration<never> = {
    name: latencyName,
    help: 'Execution latency in seconds',
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers: [registry],
  };
  const shared: SharedMetrics = {
    // The first gauge that a scrape reads brings all of them up to date.
    perSecond: gauge('enclave_executions_per_second', 'Executions per second over the last 10 s', [], () =>
      collect(sources, shared),
    ),
    total: counter('enclave_executions_total', 'Executions that ended, by outcome and code', [
      'outcome',
      'code',
    ]),
    latency:
      (registry.getSingleMetric(latencyName) as Histogram | undefined) ?? new Histogram(latencyOptions),
    queueDepth: gauge('enclave_queue_depth', 'Number of pending executions', ['runtime']),
    health: gauge('enclave_runtime_health', 'Runtime health status (1=healthy, 0=unhealthy)', ['runtime_id']),
    memory: gauge('enclave_worker_memory_bytes', 'Worker memory usage in bytes', ['worker_id']),
    active: gauge('enclave_active_executions', 'Executions aboard a worker now', []),
    retired: counter('enclave_worker_retirements_total', 'Workers that are gone, by reason', ['reason']),
  };
  return shared;
}
