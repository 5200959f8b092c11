/**
 * The sandbox, as a port: what a runtime host runs attempts in. The pool of worker processes is one backend, a
 * simulator's scripted one another.
 */
import type { AttemptEnd, Delivery, ScriptItem, Versions } from '../../actors/attempt.ts';
import type { ResolvedLimits } from '../options.ts';
import type { Isolation } from '../sandbox/messages.ts';

/** One attempt at an execution, as its sandbox needs it. */
export interface SandboxSpec {
  /** The attempt's id. Nobody had it before. */
  readonly id: string;
  readonly source: string;
  /** JSON, or '' for none. */
  readonly input: string;
  /** JSON of an object; undefined where the script has no `state`. */
  readonly state: string | undefined;
  /** `state` as JSON, in bytes. */
  readonly maxStateBytes: number;
  readonly seed: readonly [number, number, number, number];
  /** What the script's clock starts at, in ms since the epoch. */
  readonly startTime: number;
  /** Whose warm isolates it may use; never shown to the script. */
  readonly tenantKey: string;
  /** On whose share it waits for a worker, and how large that is. Default: `tenantKey`'s, and 1. */
  readonly share?: { readonly name: string; readonly weight: number } | undefined;
  /** Names the script for the count of its crashes. */
  readonly key: string;
  readonly isolation: Isolation;
  readonly limits: ResolvedLimits;
  /** Nothing else may be aboard its worker. */
  readonly alone: boolean;
  /** Handed over first, in order, without a pause. */
  readonly deliveries: readonly Delivery[];
  /**
   * What the script did, in order. `waiting`: it was handed everything that was given so far, by `deliveries` and
   * by `deliver`, and waits for more. The array is the host's from then on and MUST NOT be changed.
   */
  readonly onReport: (items: readonly ScriptItem[], waiting: boolean) => void;
  /** It was given to a worker of this name, for the first time or again. Default: nobody wants to know. A sandbox without workers calls nothing. */
  readonly onSeated?: ((worker: string) => void) | undefined;
  /** How it ended: MUST be called exactly once, and nothing after it, unless it was stopped before. */
  readonly onEnd: (end: AttemptEnd) => void;
}

/** An attempt under way. */
export interface RunningAttempt {
  /** Hand these over, in order, after all that were given before. */
  deliver(deliveries: readonly Delivery[]): void;
  /** End it. Whether `onEnd` is called afterwards does not matter. */
  stop(): void;
}

export interface Sandbox {
  /** Start an attempt. `onReport` and `onEnd` may be called before it returns. MUST NOT throw: what cannot be started ends as `refused`. */
  start(spec: SandboxSpec): RunningAttempt;
  /** What a replay depends on; undefined until it is known. */
  readonly versions: Versions | undefined;
  /** Attempts that it takes at once. */
  readonly capacity: number;
}
