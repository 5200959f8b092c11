/**
 * What a script does and what it is handed, as data: the words that sandbox, runtime and session share.
 */

/**
 * Something handed to the script: the end of a tool call or of a sleep. `code` is '' for a result, whose JSON is
 * `payload`; else `payload` is the error's message. `time` is what the script's clock moves to, in ms since the
 * epoch.
 */
export type Delivery = readonly [index: number, code: string, payload: string, time: number];

/** Something the script did, in the order it did it. Calls and sleeps share one contiguous count from 0. */
export type ScriptItem =
  | {
      readonly kind: 'output';
      readonly level: '' | 'debug' | 'info' | 'warn' | 'error';
      readonly text: string;
    }
  | { readonly kind: 'call'; readonly index: number; readonly name: string; readonly json: string }
  | { readonly kind: 'sleep'; readonly index: number; readonly ms: number }
  /** It was handed the end of this call or sleep. */
  | { readonly kind: 'applied'; readonly index: number };

/** Measures of one attempt: CPU time in ms, heap in bytes. */
export interface Usage {
  readonly cpu: number;
  readonly heap: number;
}

/** The versions that a replay depends on. */
export interface Versions {
  readonly engine: string;
  readonly prelude: string;
  readonly stripper: string;
}

export function sameVersions(one: Versions, other: Versions): boolean {
  return one.engine === other.engine && one.prelude === other.prelude && one.stripper === other.stripper;
}

/** A replay makes up for time that was lost: it gets this many times the wall and CPU time of a first attempt. */
const REPLAY_FACTOR = 3;
/** And never more than this, in ms. */
const MAX_TIME_MS = 3_600_000;

/** What a replay may use of what a first attempt may; times in ms. */
export function replayLimits<T extends { readonly timeoutMs: number; readonly cpuMs: number }>(limits: T): T {
  const longer = (ms: number): number => Math.min(ms * REPLAY_FACTOR, MAX_TIME_MS);
  return { ...limits, timeoutMs: longer(limits.timeoutMs), cpuMs: longer(limits.cpuMs) };
}

/** How an attempt ended. Every attempt ends exactly once. */
export type AttemptEnd =
  /** The script returned. `state` is its new state as JSON; undefined if it did not change it. */
  | {
      readonly kind: 'returned';
      readonly json: string;
      readonly state: string | undefined;
      readonly usage: Usage;
    }
  /** The script, or a limit, ended it: `code` is one of the error codes of a result. */
  | {
      readonly kind: 'failed';
      readonly code: string;
      readonly name: string;
      readonly message: string;
      readonly stack: string;
      readonly usage: Usage;
    }
  /** Its worker, or the place it ran in, is gone. `alone`: it was alone aboard, so the crash counts against it. */
  | { readonly kind: 'lost'; readonly alone: boolean }
  /** It was never started: the pool had no room, or was closed. */
  | {
      readonly kind: 'refused';
      readonly code: string;
      readonly message: string;
      readonly retryAfterMs: number;
    }
  /** It was stopped as its owner asked. */
  | { readonly kind: 'stopped' };

/** Failures of a call that a script can tell apart; every other is a TOOL_ERROR to it. */
const CALL_CODES = [
  'INVALID_ARGUMENT',
  'SERIALIZATION_ERROR',
  'UNKNOWN_TOOL',
  'TOOL_NOT_ALLOWED',
  'TOOL_UNAVAILABLE',
  'TOOL_TIMEOUT',
  'OUTCOME_UNKNOWN',
];

/** What a script is told of a call that is not made, because it may not call the tool or there is none. */
export function refusalText(code: 'TOOL_NOT_ALLOWED' | 'UNKNOWN_TOOL', tool: string): string {
  return code === 'UNKNOWN_TOOL'
    ? `There is no tool "${tool}"`
    : `This script may not call the tool "${tool}"`;
}

/** The code of a failed call's delivery. */
export function deliveryCode(code: string): string {
  return CALL_CODES.includes(code) ? code : 'TOOL_ERROR';
}
