/** Which steps begin an execution again because its attempt was lost. */
import type { SessionContext, SessionEvent } from '../../actors/sessiondata.ts';
import type { ReplayReason } from './notice.ts';

export interface Replay {
  readonly execution: string;
  readonly reason: ReplayReason;
}

/** Undefined if the step that took the event in lost no attempt, or the execution ended with it. */
export function replayOf(
  event: SessionEvent,
  before: SessionContext,
  after: SessionContext,
): Replay | undefined {
  // Nearly every step leaves here.
  if (event.type !== 'attempt.lost' && event.type !== 'attempt.reported') return undefined;
  const { execution, attempt } = event;
  const reason = event.type === 'attempt.lost' ? 'runtime_lost' : 'given_back';
  if (event.type === 'attempt.reported' && event.end?.kind !== 'lost' && event.end?.kind !== 'stopped')
    return undefined;
  const executionIn = (context: SessionContext) => context.executions.find(({ id }) => id === execution);
  if (executionIn(before)?.attempt?.id !== attempt) return undefined;
  const left = executionIn(after);
  return left !== undefined && left.attempt?.id !== attempt ? { execution, reason } : undefined;
}
