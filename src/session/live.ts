/** What a session has besides what its machine knows: `state`, and the texts and journals of its executions. */
import type { TraceHeaders } from '../bus/bus.ts';
import type { SessionLimits } from '../protocol.ts';
import type { SessionJournal } from './journal.ts';

/** An execution as it was asked for. */
export interface ExecutionTexts {
  readonly source: string;
  readonly input: string;
  readonly seed: readonly [number, number, number, number];
  readonly limits: SessionLimits;
  /** The trace that it was asked for in. Default: none. */
  readonly trace?: TraceHeaders | undefined;
}

/** An execution that has not ended. */
export interface LiveExecution extends ExecutionTexts {
  /** The session's state when it began; undefined: as it is now. */
  base: string | undefined;
  readonly journal: SessionJournal;
}

export interface LiveSession {
  /** JSON of `state`, as the last step left it. */
  state: string;
  readonly executions: Map<string, LiveExecution>;
}
