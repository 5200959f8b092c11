/**
 * Whatever starts and ends runtimes, as a port. A broker's autoscaler decides how many there are to be; a provisioner
 * carries it out. Where something else does (Kubernetes), a broker has none, and no autoscaler.
 */
import type { Labels } from '../../actors/placement.ts';

/** What starts and ends runtimes for `runtimePool`: one of your own, for machines that are not this one. */
export interface Provisioner {
  /** What the runtimes that it starts have. Those of the namespace that have these labels are the pool that is scaled. */
  readonly labels: Labels;
  /** Start one more. Resolves with its id once it was started, which may be before it is heard; rejects if it was not. */
  start(): Promise<{ readonly id: string }>;
  /** Let it finish what it has, within a grace period of the provisioner's, and end it. Resolves when it is gone; at once if it is not one of {@link list}. */
  drain(id: string): Promise<void>;
  /** End it now: its executions go on elsewhere. Resolves when it is gone; at once if it is not one of {@link list}. */
  stop(id: string): Promise<void>;
  /** Those that it started and that are not gone. No other is ever drained. */
  list(): Promise<readonly string[]>;
  /** Drain all of them, and start no more. Resolves when they are gone. Safe to call again. */
  close(): Promise<void>;
}
