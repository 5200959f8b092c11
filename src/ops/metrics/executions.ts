/** Executions that ended: how many, how fast, how late. */
import type { Registry } from 'prom-client';
import { isErrorCode } from '../../errors.ts';
import { WINDOW_S } from './catalog.ts';
import { counterOf, histogramOf, readGauge } from './registry.ts';

/** Codes of a newer release, or of a runtime that fell to its scripts. */
const OTHER_CODES = 'OTHER';

/** The monotonic clock, in ms. */
export type Monotonic = () => number;

export interface ExecutionMeter {
  /** `code`: `'OK'` for a value. */
  ended(outcome: string, code: string, latencyMs: number): void;
  stop(): void;
}

type Series = Readonly<Record<'outcome' | 'code', string>>;

export function meterExecutions(registry: Registry, now: Monotonic): ExecutionMeter {
  const total = counterOf(registry, 'enclave_executions_total');
  const latency = histogramOf(registry, 'enclave_execution_latency_seconds');
  const rate = new Rate(now);
  // Made once each: an execution costs no object.
  const series = new Map<string, Map<string, Series>>();
  const seriesOf = (outcome: string, code: string): Series => {
    let byCode = series.get(outcome);
    if (byCode === undefined) series.set(outcome, (byCode = new Map()));
    let found = byCode.get(code);
    if (found === undefined) byCode.set(code, (found = { outcome, code }));
    return found;
  };
  const stop = readGauge(registry, 'enclave_executions_per_second', (report) => report(rate.perSecond()));
  return {
    ended: (outcome, code, latencyMs) => {
      rate.note();
      total.inc(seriesOf(outcome, code === 'OK' || isErrorCode(code) ? code : OTHER_CODES));
      latency.observe(latencyMs / 1_000);
    },
    stop,
  };
}

/** How often something happened in the last {@link WINDOW_S} seconds, the current one included. */
export class Rate {
  readonly #now: Monotonic;
  readonly #counts: number[] = Array.from({ length: WINDOW_S }, () => 0);
  /** The second that each count is of. */
  readonly #seconds: number[] = Array.from({ length: WINDOW_S }, () => -WINDOW_S);

  constructor(now: Monotonic) {
    this.#now = now;
  }

  note(): void {
    const second = Math.floor(this.#now() / 1_000);
    const index = second % WINDOW_S;
    if (this.#seconds[index] !== second) {
      this.#seconds[index] = second;
      this.#counts[index] = 0;
    }
    this.#counts[index] = (this.#counts[index] ?? 0) + 1;
  }

  perSecond(): number {
    const oldest = Math.floor(this.#now() / 1_000) - WINDOW_S;
    let sum = 0;
    for (const [index, second] of this.#seconds.entries())
      if (second > oldest) sum += this.#counts[index] ?? 0;
    return sum / WINDOW_S;
  }
}
