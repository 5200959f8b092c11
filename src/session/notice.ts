import type { ToolCallRecord } from '../result.ts';
import type { AuditRecord } from './audit.ts';

/**
 * Why an attempt is begun again: nobody runs it any more, because its runtime is gone or does not know it
 * (`runtime_lost`); or its runtime gave it back, because the worker died or the runtime drains (`given_back`).
 */
export type ReplayReason = 'runtime_lost' | 'given_back';

/** What a broker tells an operator. What is told of executions and calls is committed. */
export type BrokerNotice =
  | { readonly type: 'lease.lost'; readonly incarnation: string; readonly reason: string }
  /** With work in flight, from the incarnation `from`, which had not given it up. */
  | {
      readonly type: 'session.taken_over';
      readonly session: string;
      readonly epoch: number;
      readonly from: string;
    }
  | { readonly type: 'session.fenced'; readonly session: string }
  /** A newer release stored it, in a version that this broker cannot read: it is left to others. Told of one session a minute. */
  | { readonly type: 'session.too_new'; readonly session: string }
  /** Another broker has adopted it, which this one asked to. */
  | { readonly type: 'session.handed_over'; readonly session: string; readonly to: string }
  /** `result` is JSON of an ExecutionResult. The session of a stateless run is named like its execution. */
  | {
      readonly type: 'execution.ended';
      readonly session: string;
      readonly execution: string;
      readonly result: string;
      readonly outcome: 'completed' | 'not_started' | 'unknown';
      /** The error's, or `'OK'`. */
      readonly code: string;
      /** From its acceptance to its end. */
      readonly latencyMs: number;
      /** On whose behalf it was. */
      readonly tenant?: string | undefined;
      /** The script. */
      readonly source?: string | undefined;
    }
  /** Its attempt was lost: it is begun again, elsewhere if that can be. */
  | {
      readonly type: 'execution.replayed';
      readonly session: string;
      readonly execution: string;
      readonly reason: ReplayReason;
    }
  /** A call has ended, or its execution has before it. */
  | {
      readonly type: 'tool.ended';
      readonly session: string;
      readonly execution: string;
      /** As the script wrote it. */
      readonly tool: string;
      readonly outcome: ToolCallRecord['outcome'];
      /** As in the record of a call; '' if it completed. */
      readonly code: string;
      readonly durationMs: number;
      /** What it was called with, as JSON; '' for nothing. */
      readonly args?: string | undefined;
    }
  /** As `execution.ended`, where records are wanted. Of a durable session it may be told again by a broker that took the session over. */
  | { readonly type: 'execution.audited'; readonly record: AuditRecord }
  /** A runtime is there: told once, until it is gone. */
  | { readonly type: 'runtime.heard'; readonly runtime: string }
  /** It stopped answering. `drained`: it had told that it would. */
  | { readonly type: 'runtime.gone'; readonly runtime: string; readonly drained: boolean }
  /** Providers disagree about what a tool does: the strictest effect counts. */
  | { readonly type: 'tool.conflict'; readonly tool: string; readonly effects: readonly string[] }
  /** The autoscaler starts or drains runtimes: there are `from`, and are to be `to`. */
  | {
      readonly type: 'runtimes.scaled';
      readonly from: number;
      readonly to: number;
      readonly reason: string;
    }
  /** A runtime could not be started or ended. It is tried again. */
  | { readonly type: 'scaling.failed'; readonly reason: string }
  /** Messages of runtimes, brokers or providers were dropped, `count` of them since the last notice: in the last one this `field` was wrong. */
  | {
      readonly type: 'message.dropped';
      readonly subject: string;
      readonly field: string;
      readonly count: number;
    }
  | { readonly type: 'error'; readonly session: string | undefined; readonly error: unknown };

export type Notify = (notice: BrokerNotice) => void;
