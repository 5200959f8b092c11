/**
 * What the bare comparator's parent and worker say to each other, one JSON text a frame.
 *
 * `guest` names the context that made a call, so that its answer finds the way back; the parent only echoes it.
 */
import type { Level } from '../side.ts';

export type ToWorker =
  | { readonly type: 'run'; readonly run: number; readonly level: Level; readonly code: string }
  | {
      readonly type: 'answer';
      readonly guest: number;
      readonly call: number;
      readonly ok: boolean;
      /** JSON of the result, or of the error's message: parsed in the guest, never in the worker. */
      readonly json: string;
    };

export type ToParent =
  | { readonly type: 'done'; readonly run: number; readonly value?: unknown }
  | { readonly type: 'failed'; readonly run: number; readonly message: string }
  | {
      readonly type: 'call';
      readonly guest: number;
      readonly call: number;
      readonly name: string;
      readonly args?: unknown;
    };
