/**
 * Every metric: what it is called, what it counts, and by which labels. METRICS.md is held against this table.
 *
 * Label values are bounded: each label has a fixed set of values, or is the id of something of which a cluster has few
 * (runtimes, workers), or is cut off at a number of names (tools, codes).
 */

import type { RetireReason } from '../../../actors/worker.ts';
import type { DeadLetter, Full } from '../../losses.ts';
import type { ReplayReason } from '../../session/notice.ts';
import type { CommitReply, StoreError } from '../../store/store.ts';

/** Who reports a metric. `embedded`: a process with an Enclave, which has no cluster. */
export type Reporter = 'broker' | 'runtime' | 'provider' | 'client' | 'embedded';

interface Described {
  readonly help: string;
  /** At most one for a gauge. */
  readonly labels: readonly string[];
  readonly by: readonly Reporter[];
}

export interface CounterEntry extends Described {
  readonly type: 'counter';
  /** Labels of the series that are there from the start, at 0: `increase()` does not see the first one of a new series. */
  readonly initial?: readonly Readonly<Record<string, string>>[];
}

export interface GaugeEntry extends Described {
  readonly type: 'gauge';
  /** What is reported where several parts of a process say something of the same. */
  readonly combine: 'sum' | 'min' | 'max';
}

export interface HistogramEntry extends Described {
  readonly type: 'histogram';
  /** Upper bounds, in seconds. */
  readonly buckets: readonly number[];
}

/** Series of a label, from the start. */
const each = (label: string, values: object): readonly Readonly<Record<string, string>>[] =>
  Object.keys(values).map((value) => ({ [label]: value }));

/** The values of a label: what is not there does not compile. */
type All<T extends string> = Readonly<Record<T, true>>;

/** The window of `enclave_executions_per_second`, in seconds. */
export const WINDOW_S = 10;

const RETIREMENTS: All<RetireReason | 'crash' | 'killed'> = {
  crash: true,
  killed: true,
  executions: true,
  memory: true,
  heap: true,
  idle: true,
  shutdown: true,
};
const REJECTIONS: All<Full> = {
  sessions: true,
  runs: true,
  session: true,
  mailbox: true,
  tenant: true,
  waiting: true,
  runtime: true,
  outbox: true,
  queue: true,
  provider: true,
};
const LETTERS: All<DeadLetter> = {
  report: true,
  provider: true,
  heartbeat: true,
  command: true,
  unreadable: true,
};
const REPLAYS: All<ReplayReason> = { runtime_lost: true, given_back: true };

/** What the store answered to a commit, or how it failed to. */
export type CommitOutcome =
  | CommitReply['status']
  | Lowercase<StoreError['code']>
  /** It threw what is none of its errors. */
  | 'error';
const COMMITS: All<CommitOutcome> = {
  committed: true,
  repeated: true,
  fenced: true,
  conflict: true,
  unavailable: true,
  unknown: true,
  closed: true,
  error: true,
};

export type LeaseLoss = 'late_answer' | 'stood_still' | 'refused' | 'unanswered' | 'not_renewed' | 'other';
const LEASE_LOSSES: All<LeaseLoss> = {
  late_answer: true,
  stood_still: true,
  refused: true,
  unanswered: true,
  not_renewed: true,
  other: true,
};

const WHOEVER_ENDS_THEM = ['broker', 'embedded'] as const;
const WHOEVER_HAS_WORKERS = ['runtime', 'embedded'] as const;
const BROKERS = ['broker'] as const;
const EVERYBODY = ['broker', 'runtime', 'provider', 'client'] as const;

export const CATALOG = {
  enclave_executions_per_second: {
    type: 'gauge',
    help: `Executions that ended, per second over the last ${WINDOW_S} seconds`,
    labels: [],
    by: WHOEVER_ENDS_THEM,
    combine: 'sum',
  },
  enclave_executions_total: {
    type: 'counter',
    help: 'Executions that ended, by outcome and code (OK for a value)',
    labels: ['outcome', 'code'],
    by: WHOEVER_ENDS_THEM,
    initial: [{ outcome: 'completed', code: 'OK' }],
  },
  enclave_execution_latency_seconds: {
    type: 'histogram',
    help: 'Time from the acceptance of an execution to its end, waiting included, in seconds',
    labels: [],
    by: WHOEVER_ENDS_THEM,
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  },
  enclave_queue_depth: {
    type: 'gauge',
    help: "Executions that wait in a runtime's mailbox for a worker",
    labels: ['runtime'],
    by: WHOEVER_HAS_WORKERS,
    combine: 'sum',
  },
  enclave_runtime_health: {
    type: 'gauge',
    help: 'Whether a runtime is there and takes scripts (1), or is lost or takes none (0)',
    labels: ['runtime_id'],
    by: ['broker', 'runtime', 'embedded'],
    combine: 'min',
  },
  enclave_worker_memory_bytes: {
    type: 'gauge',
    help: 'Resident memory of a worker process, in bytes',
    labels: ['worker_id'],
    by: WHOEVER_HAS_WORKERS,
    combine: 'sum',
  },
  enclave_active_executions: {
    type: 'gauge',
    help: 'Executions aboard a worker now',
    labels: [],
    by: WHOEVER_HAS_WORKERS,
    combine: 'sum',
  },
  enclave_worker_retirements_total: {
    type: 'counter',
    help: 'Workers that are gone, by reason',
    labels: ['reason'],
    by: WHOEVER_HAS_WORKERS,
    initial: each('reason', RETIREMENTS),
  },
  enclave_sessions: {
    type: 'gauge',
    help: 'Sessions with an actor in this broker, by status',
    labels: ['status'],
    by: BROKERS,
    combine: 'sum',
  },
  enclave_waiting_executions: {
    type: 'gauge',
    help: 'Executions of this broker that wait for room in any runtime',
    labels: [],
    by: BROKERS,
    combine: 'sum',
  },
  enclave_lease_takeovers_total: {
    type: 'counter',
    help: 'Sessions with work in flight that were taken over from an owner that had not given them up',
    labels: [],
    by: BROKERS,
  },
  enclave_lease_losses_total: {
    type: 'counter',
    help: 'Leases that this broker lost without having given them up, by reason',
    labels: ['reason'],
    by: BROKERS,
    initial: each('reason', LEASE_LOSSES),
  },
  enclave_fenced_writes_total: {
    type: 'counter',
    help: 'Commits that the store refused because somebody else owns the session',
    labels: [],
    by: BROKERS,
  },
  enclave_migrations_total: {
    type: 'counter',
    help: 'Sessions that this broker handed to another one on purpose',
    labels: [],
    by: BROKERS,
  },
  enclave_commits_total: {
    type: 'counter',
    help: 'Commits of sessions to the store, by what became of them',
    labels: ['outcome'],
    by: BROKERS,
    initial: each('outcome', COMMITS),
  },
  enclave_commit_latency_seconds: {
    type: 'histogram',
    help: 'Time until the store answered a commit, in seconds',
    labels: [],
    by: BROKERS,
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
  },
  enclave_replays_total: {
    type: 'counter',
    help: 'Attempts at executions that were lost and are begun again, by reason',
    labels: ['reason'],
    by: BROKERS,
    initial: each('reason', REPLAYS),
  },
  enclave_tool_calls_total: {
    type: 'counter',
    help: 'Tool calls of scripts that ended, by tool and outcome',
    labels: ['tool', 'outcome'],
    by: WHOEVER_ENDS_THEM,
  },
  enclave_tool_call_latency_seconds: {
    type: 'histogram',
    help: 'Time that tool calls spent in their handlers, in seconds',
    labels: [],
    by: WHOEVER_ENDS_THEM,
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  },
  enclave_mailbox_rejections_total: {
    type: 'counter',
    help: 'Requests that were refused as OVERLOADED, by what was full',
    labels: ['reason'],
    by: ['broker', 'runtime', 'provider', 'embedded'],
    initial: each('reason', REJECTIONS),
  },
  enclave_dead_letters_total: {
    type: 'counter',
    help: 'Messages that were dropped because they were malformed or not permitted, by what they were',
    labels: ['reason'],
    by: EVERYBODY,
    initial: each('reason', LETTERS),
  },
  enclave_event_loop_lag_seconds: {
    type: 'gauge',
    help: 'The 99th percentile of how late the main loop was since the last scrape, in seconds',
    labels: [],
    by: [...EVERYBODY, 'embedded'],
    combine: 'max',
  },
  enclave_bus_connected: {
    type: 'gauge',
    help: 'Whether the bus can be reached (1) or not (0)',
    labels: [],
    by: EVERYBODY,
    combine: 'min',
  },
  enclave_store_connected: {
    type: 'gauge',
    help: 'Whether the store can be reached (1) or not (0)',
    labels: [],
    by: BROKERS,
    combine: 'min',
  },
  enclave_draining: {
    type: 'gauge',
    help: 'Whether the process is giving up its work to end (1) or not (0)',
    labels: [],
    by: EVERYBODY,
    combine: 'max',
  },
} as const satisfies Readonly<Record<string, CounterEntry | GaugeEntry | HistogramEntry>>;

type Catalog = typeof CATALOG;
export type MetricName = keyof Catalog;
type Named<T> = { [N in MetricName]: Catalog[N]['type'] extends T ? N : never }[MetricName];
export type CounterName = Named<'counter'>;
export type GaugeName = Named<'gauge'>;
export type HistogramName = Named<'histogram'>;
