/** What a broker tells an operator. */
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
  /** `result` is JSON of an ExecutionResult. */
  | {
      readonly type: 'execution.ended';
      readonly session: string;
      readonly execution: string;
      readonly result: string;
    }
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
