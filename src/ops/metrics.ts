/**
 * The `enclave_*` metrics of a process, by what it hosts. Each is described in metrics/catalog.ts and in METRICS.md.
 *
 * An execution is counted once, where its end is certain: by the broker that commits it, or by the Enclave that ran it.
 * So sums over all processes are true.
 */
import type { Registry } from 'prom-client';
import type { Losses } from '../losses.ts';
import type { ExecutionResult } from '../result.ts';
import { CATALOG, type MetricName } from './metrics/catalog.ts';
import { meterExecutions } from './metrics/executions.ts';
import { meterLosses, meterRejections } from './metrics/losses.ts';
import { type MeteredPool, meterPool } from './metrics/pools.ts';
import { meterEventLoop } from './metrics/process.ts';
import { counterOf, gaugeOf, histogramOf } from './metrics/registry.ts';
import { meterTools } from './metrics/tools.ts';

export { type BrokerMeter, type Census, meterBroker } from './metrics/broker.ts';
export { meterCommits } from './metrics/commits.ts';
export { meterDeadLetters, meterLosses } from './metrics/losses.ts';
export { meterProcess } from './metrics/process.ts';
export { createRegistry } from './metrics/registry.ts';

/** The runtime's name in labels: an Enclave has one, its pool. */
const EMBEDDED = 'embedded';

const monotonic = (): number => performance.now();

export interface EnclaveMetrics {
  readonly ended: (result: ExecutionResult) => void;
  /** Stop reporting the pool. */
  readonly stop: () => void;
}

/** Report an Enclave and its pool. Enclaves may share a registry, and a pool. */
export function meter(registry: Registry, pool: MeteredPool): EnclaveMetrics {
  const executions = meterExecutions(registry, monotonic);
  const tools = meterTools(registry);
  const overloaded = meterRejections(registry);
  const stops = [executions.stop, meterPool(registry, pool, EMBEDDED, () => true), meterEventLoop(registry)];
  return {
    ended: (result) => {
      const { success, stats, toolCalls } = result;
      const outcome = success ? 'completed' : result.error.outcome;
      executions.ended(outcome, success ? 'OK' : result.error.code, stats.queueTime + stats.duration);
      for (const { name, outcome, code = '', durationMs } of toolCalls)
        tools.ended(name, outcome, code, durationMs);
      if (!success && result.error.code === 'OVERLOADED') overloaded('queue');
    },
    stop: () => {
      for (const stop of stops) stop();
    },
  };
}

/** Report a runtime and its pool. `isReachable`: whether brokers can reach it. */
export function meterRuntime(
  registry: Registry,
  runtime: string,
  pool: MeteredPool,
  isReachable: () => boolean,
): Losses & { readonly stop: () => void } {
  return { ...meterLosses(registry), stop: meterPool(registry, pool, runtime, isReachable) };
}

/** Register every metric without reporting anything: what a dashboard or an alert may ask for. */
export function registerMetrics(registry: Registry): void {
  for (const name of Object.keys(CATALOG) as MetricName[]) {
    const { type } = CATALOG[name];
    if (type === 'counter') counterOf(registry, name as Parameters<typeof counterOf>[1]);
    else if (type === 'gauge') gaugeOf(registry, name as Parameters<typeof gaugeOf>[1]);
    else histogramOf(registry, name as Parameters<typeof histogramOf>[1]);
  }
}
