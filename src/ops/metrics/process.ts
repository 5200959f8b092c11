/** The process itself: its main loop, what it is connected to, whether it is about to end. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Registry } from 'prom-client';
import { readGauge } from './registry.ts';
import { Shared } from './shared.ts';

/** How often the main loop is looked at, in ms. */
const RESOLUTION_MS = 20;

/** What a process of a cluster can say of itself. */
export interface ProcessState {
  readonly bus: () => boolean;
  /** Undefined where there is no store. */
  readonly store?: (() => boolean) | undefined;
  readonly draining: () => boolean;
}

/** How late the main loop was, in seconds, since it was last asked for. */
export interface LagMonitor {
  take(): number;
  stop(): void;
}

export function meterProcess(registry: Registry, { bus, store, draining }: ProcessState): () => void {
  const flag = (is: () => boolean) => (report: (value: number) => void) => report(is() ? 1 : 0);
  const stops = [
    meterEventLoop(registry),
    readGauge(registry, 'enclave_bus_connected', flag(bus)),
    readGauge(registry, 'enclave_draining', flag(draining)),
    ...(store === undefined ? [] : [readGauge(registry, 'enclave_store_connected', flag(store))]),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}

const loops = new Shared<Registry>();

/** Report how late the main loop is: once per registry, whoever asks for it. Returns what ends that. */
export function meterEventLoop(registry: Registry, start: () => LagMonitor = monitorLag): () => void {
  return loops.use(registry, () => {
    const monitor = start();
    const stop = readGauge(registry, 'enclave_event_loop_lag_seconds', (report) => report(monitor.take()));
    return () => {
      stop();
      monitor.stop();
    };
  });
}

/** By Node's own monitor, which notes the time between its looks, not how late they are. */
function monitorLag(): LagMonitor {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  return {
    take: () => {
      const betweenMs = delay.percentile(99) / 1e6;
      delay.reset();
      return Math.max(0, betweenMs - RESOLUTION_MS) / 1_000;
    },
    stop: () => void delay.disable(),
  };
}
