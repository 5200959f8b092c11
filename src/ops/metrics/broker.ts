/** A broker: its sessions, and what it tells its operator. */
import type { Registry } from 'prom-client';
import type { BrokerNotice } from '../../session/notice.ts';
import type { LeaseLoss } from './catalog.ts';
import { type Monotonic, meterExecutions } from './executions.ts';
import { counterOf, readGauge } from './registry.ts';
import { KnownRuntimes } from './runtimes.ts';
import { meterTools } from './tools.ts';

/** What a broker can say of itself now. */
export interface Census {
  /** Sessions here, by status; every status is there. */
  statuses(): ReadonlyMap<string, number>;
  /** Executions that wait for room in any runtime. */
  waiting(): number;
  /** Whether the bus can be reached: without it nothing is known of runtimes. */
  hears(): boolean;
}

export interface BrokerMeter {
  readonly notice: (notice: BrokerNotice) => void;
  stop(): void;
}

/** Why a lease was lost, by the words of actors/lease.ts. */
const LOSSES: Readonly<Record<string, LeaseLoss>> = {
  'the answer came too late': 'late_answer',
  'the main loop stood still': 'stood_still',
  'the store refused it': 'refused',
  'the store did not answer': 'unanswered',
  'it was not renewed in time': 'not_renewed',
};

export function lossOf(reason: string): LeaseLoss {
  return Object.hasOwn(LOSSES, reason) ? (LOSSES[reason] ?? 'other') : 'other';
}

export function meterBroker(registry: Registry, census: Census, now: Monotonic): BrokerMeter {
  const executions = meterExecutions(registry, now);
  const tools = meterTools(registry);
  const runtimes = new KnownRuntimes(now);
  const takeovers = counterOf(registry, 'enclave_lease_takeovers_total');
  const leases = counterOf(registry, 'enclave_lease_losses_total');
  const migrations = counterOf(registry, 'enclave_migrations_total');
  const replays = counterOf(registry, 'enclave_replays_total');
  const stops = [
    executions.stop,
    readGauge(registry, 'enclave_runtime_health', (report) => {
      if (census.hears()) runtimes.health(report);
    }),
    readGauge(registry, 'enclave_waiting_executions', (report) => report(census.waiting())),
    readGauge(registry, 'enclave_sessions', (report) => {
      for (const [status, count] of census.statuses()) report(count, status);
    }),
  ];
  return {
    notice: (notice) => {
      switch (notice.type) {
        case 'execution.ended':
          return executions.ended(notice.outcome, notice.code, notice.latencyMs);
        case 'tool.ended':
          return tools.ended(notice.tool, notice.outcome, notice.code, notice.durationMs);
        case 'execution.replayed':
          return replays.inc({ reason: notice.reason });
        case 'session.taken_over':
          return takeovers.inc();
        case 'session.handed_over':
          return migrations.inc();
        case 'lease.lost':
          return leases.inc({ reason: lossOf(notice.reason) });
        case 'runtime.heard':
          return runtimes.heard(notice.runtime);
        case 'runtime.gone':
          return runtimes.gone(notice.runtime, notice.drained);
      }
    },
    stop: () => {
      for (const stop of stops) stop();
    },
  };
}
