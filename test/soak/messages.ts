/** What the soak and the process of its load tell each other. */
import type { Executed } from '../chaos/load.ts';

export type ToLoad =
  /** Begin so many a second of each kind; undefined: as many as can be. */
  | { readonly t: 'pace'; readonly perSecond: number | undefined }
  /** This session was looked at: let it go. */
  | { readonly t: 'retire'; readonly session: string; readonly how: 'close' | 'delete' }
  /** Begin nothing more. */
  | { readonly t: 'finish' }
  /** Nothing comes any more: end. */
  | { readonly t: 'stop' };

/** A stateless run that has ended. */
export interface RunEnded {
  readonly ok: boolean;
  /** What it failed with: the code and the outcome. */
  readonly error: string | undefined;
  /** By the wall clock, in ms. */
  readonly from: number;
  readonly to: number;
}

/** An execution of a session, and when it was asked for and its result came, by the wall clock, in ms. */
export interface Timed extends Executed {
  readonly from: number;
  readonly to: number;
}

export type FromLoad =
  | { readonly t: 'ready' }
  | { readonly t: 'executed' }
  | { readonly t: 'ran'; readonly run: RunEnded }
  /** A session that will execute nothing more. */
  | { readonly t: 'finished'; readonly session: string; readonly executed: readonly Timed[] }
  | { readonly t: 'retired'; readonly session: string; readonly how: 'close' | 'delete' }
  /** Everything has ended that was begun. */
  | { readonly t: 'idle' }
  | { readonly t: 'failed'; readonly message: string };
