/** What a broker tells an operator. */
export type BrokerNotice =
  | { readonly type: 'lease.lost'; readonly incarnation: string; readonly reason: string }
  | { readonly type: 'session.taken_over'; readonly session: string; readonly epoch: number }
  | { readonly type: 'session.fenced'; readonly session: string }
  /** `result` is JSON of an ExecutionResult. */
  | {
      readonly type: 'execution.ended';
      readonly session: string;
      readonly execution: string;
      readonly result: string;
    }
  | { readonly type: 'error'; readonly session: string | undefined; readonly error: unknown };

export type Notify = (notice: BrokerNotice) => void;
