/**
 * The session machine's pure transition.
 *
 * XState's `transition()` makes an actor, and with it an initial state, at every call only to have a scope to run
 * in: half of the cost of a step (measured: 16 µs against 8 µs). The machine spawns nothing, sends nothing and has no
 * actions but `assign`, so one scope serves every session.
 */
import { createActor, type SnapshotFrom } from 'xstate';
import { sessionMachine } from '../../actors/session.ts';
import type { SessionEvent } from '../../actors/sessiondata.ts';

export type SessionSnapshot = SnapshotFrom<typeof sessionMachine>;

const self = createActor(sessionMachine, { input: undefined as never });
const ignore = (): void => undefined;
const scope: Parameters<typeof sessionMachine.transition>[2] = {
  self,
  system: self.system,
  id: '',
  sessionId: '',
  logger: ignore,
  defer: ignore,
  emit: ignore,
  stopChild: ignore,
  actionExecutor: ignore,
};

/** What the session is after a fact. */
export function step(snapshot: SessionSnapshot, event: SessionEvent): SessionSnapshot {
  return sessionMachine.transition(snapshot, event, scope);
}
