/**
 * Metrics in a registry that the user provides. The only module that imports prom-client.
 *
 * Parts of a process may share a registry: a metric that is there already is used again, and every gauge is read from
 * all who have something to say about it, at each scrape. So what is gone is reported no more.
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import {
  CATALOG,
  type CounterEntry,
  type CounterName,
  type GaugeEntry,
  type GaugeName,
  type HistogramEntry,
  type HistogramName,
} from './catalog.ts';

/** Says what a gauge is now: a value, and that of its label if it has one. */
export type Reading = (report: (value: number, label?: string) => void) => void;

/** A registry of one's own. */
export function createRegistry(): Registry {
  return new Registry();
}

export function counterOf(registry: Registry, name: CounterName): Counter {
  const known = registry.getSingleMetric(name);
  if (known !== undefined) return known as Counter;
  const { help, labels, initial = [] }: CounterEntry = CATALOG[name];
  const counter = new Counter({ name, help, labelNames: labels, registers: [registry] });
  for (const series of initial) counter.inc(series, 0);
  return counter;
}

export function histogramOf(registry: Registry, name: HistogramName): Histogram {
  const known = registry.getSingleMetric(name);
  if (known !== undefined) return known as Histogram;
  const { help, labels, buckets }: HistogramEntry = CATALOG[name];
  return new Histogram({ name, help, labelNames: labels, buckets: [...buckets], registers: [registry] });
}

const readingsOf = new WeakMap<Registry, Map<GaugeName, Set<Reading>>>();

/** Have a gauge read at every scrape. Returns what ends that. */
export function readGauge(registry: Registry, name: GaugeName, reading: Reading): () => void {
  const readings = gaugeOf(registry, name);
  readings.add(reading);
  return () => void readings.delete(reading);
}

/** Register a gauge, if it is not. Returns what it is read from. */
export function gaugeOf(registry: Registry, name: GaugeName): Set<Reading> {
  let byName = readingsOf.get(registry);
  if (byName === undefined) {
    byName = new Map();
    readingsOf.set(registry, byName);
  }
  let readings = byName.get(name);
  if (readings === undefined) {
    readings = new Set();
    byName.set(name, readings);
  }
  if (registry.getSingleMetric(name) === undefined) register(registry, name, readings);
  return readings;
}

function register(registry: Registry, name: GaugeName, readings: ReadonlySet<Reading>): void {
  const { help, labels, combine }: GaugeEntry = CATALOG[name];
  const [label] = labels;
  const gauge: Gauge = new Gauge({
    name,
    help,
    labelNames: labels,
    registers: [registry],
    collect: () => {
      const values = combined(readings, combine);
      gauge.reset();
      for (const [key, value] of values)
        if (label === undefined) gauge.set(value);
        else gauge.set({ [label]: key }, value);
    },
  });
}

function combined(
  readings: ReadonlySet<Reading>,
  combine: GaugeEntry['combine'],
): ReadonlyMap<string, number> {
  const values = new Map<string, number>();
  for (const reading of readings)
    reading((value, key = '') => {
      const other = values.get(key);
      if (other === undefined) values.set(key, value);
      else if (combine === 'sum') values.set(key, other + value);
      else values.set(key, Math[combine](other, value));
    });
  return values;
}
