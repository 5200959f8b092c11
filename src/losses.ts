/** What a process does not take, told to whoever counts it. Both are called where work is refused: they must cost little. */

/**
 * What was full where something was refused as OVERLOADED. Of a broker: its `sessions`, its stateless `runs`, the
 * executions of one `session`, the `mailbox` of a session's actor, what one `tenant` may have, or the executions that
 * are `waiting` for room in a runtime. Of the namespace: all `sessions`. Of a runtime: the `runtime` itself, the `outbox` of
 * reports that nobody acknowledged, or the `queue` for its workers. Or a `provider` of tools.
 */
export type Full =
  | 'sessions'
  | 'runs'
  | 'session'
  | 'mailbox'
  | 'tenant'
  | 'waiting'
  | 'runtime'
  | 'outbox'
  | 'queue'
  | 'provider';

/**
 * What a message was that was dropped: a `report` of a runtime, the word of a `provider`, a `heartbeat`, a `command` to
 * a runtime or a provider that was none, or anything that was `unreadable` or made its receiver fail.
 */
export type DeadLetter = 'report' | 'provider' | 'heartbeat' | 'command' | 'unreadable';

export interface Losses {
  /** A request was refused as OVERLOADED. */
  overloaded(full: Full): void;
  /** A message was dropped. */
  dropped(letter: DeadLetter): void;
}

/** Nobody counts. */
export const UNCOUNTED: Losses = { overloaded: () => undefined, dropped: () => undefined };
