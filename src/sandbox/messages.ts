/**
 * What parent and worker process say to each other, as tagged unions.
 *
 * The worker is treated as compromised: {@link parseWorkerMessage} checks every field of what comes from it and
 * builds a fresh object of what passed. What the guest produced stays text (`json`, `text`) until its reader
 * parses it, so that no key of a script's ever becomes a key of ours.
 */
import type { Delivery, ScriptItem, Usage } from '../../actors/attempt.ts';
import type { GuestConfig } from './guest/execution.ts';

export type { Delivery, ScriptItem, Usage } from '../../actors/attempt.ts';

/** How far an execution is kept from its neighbours. See README, "Isolation". */
export type Isolation = 'process' | 'execution' | 'context' | 'realm';

export interface StartMessage {
  readonly t: 'start';
  /** The attempt. Unique for the life of the parent. */
  readonly x: number;
  readonly isolation: Isolation;
  readonly tenant: string;
  readonly source: string;
  /** JSON, or '' for none. */
  readonly input: string;
  readonly config: GuestConfig;
  readonly cpuMs: number;
  readonly memoryBytes: number;
  /** Run on a thread from the start, without the quantum. */
  readonly threaded: boolean;
  /** What earlier attempts were handed, in order. */
  readonly deliveries: readonly Delivery[];
}

export type ParentMessage =
  | StartMessage
  | { readonly t: 'deliver'; readonly x: number; readonly d: readonly Delivery[] }
  | { readonly t: 'cancel'; readonly x: number }
  | { readonly t: 'ping'; readonly n: number };

/** How a script ended, told by the guest. */
export type GuestEnd =
  /** `state`: its new state as JSON; undefined if it has none or did not change it. */
  | { readonly ok: true; readonly json: string; readonly state: string | undefined }
  | {
      readonly ok: false;
      readonly code: GuestErrorCode;
      readonly name: string;
      readonly message: string;
      readonly stack: string;
    };

/** Longest message or stack of an error, in UTF-16 units: what the guest caps them at, and a little. */
const MAX_TEXT = 8_200;
/** Longest timer of the platform, in ms. */
const MAX_SLEEP_MS = 2_147_483_647;

const GUEST_CODES = [
  'SCRIPT_ERROR',
  'TOOL_ERROR',
  'UNKNOWN_TOOL',
  'TOOL_NOT_ALLOWED',
  'TOOL_UNAVAILABLE',
  'TOOL_TIMEOUT',
  'OUTCOME_UNKNOWN',
  'SERIALIZATION_ERROR',
  'RESULT_LIMIT_EXCEEDED',
  'STATE_LIMIT_EXCEEDED',
  'OUTPUT_LIMIT_EXCEEDED',
  'TOOL_CALL_LIMIT_EXCEEDED',
  'INVALID_ARGUMENT',
] as const;
export type GuestErrorCode = (typeof GUEST_CODES)[number];

/** Ends that only the worker can see. */
const STOP_CODES = [
  'SYNTAX_ERROR',
  'RESULT_LIMIT_EXCEEDED',
  'OUTPUT_LIMIT_EXCEEDED',
  'MEMORY_LIMIT_EXCEEDED',
  'CPU_LIMIT_EXCEEDED',
  'CANCELLED',
] as const;
export type StopCode = (typeof STOP_CODES)[number];

export type WorkerMessage =
  | { readonly t: 'ready'; readonly engine: string; readonly prelude: string; readonly stripper: string }
  | { readonly t: 'items'; readonly x: number; readonly items: readonly ScriptItem[] }
  | {
      readonly t: 'step';
      readonly x: number;
      readonly items: readonly ScriptItem[];
      readonly applied: number;
      readonly end: GuestEnd | undefined;
      readonly usage: Usage;
    }
  /** To be started again: on a thread of its own if it was `heavy`, else as before. */
  | { readonly t: 'preempted'; readonly x: number; readonly heavy: boolean }
  | {
      readonly t: 'stopped';
      readonly x: number;
      readonly code: StopCode;
      readonly message: string;
      readonly stack: string;
      readonly usage: Usage;
    }
  /** A thread of an execution that has ended runs on, and nothing in the worker can end it. */
  | { readonly t: 'stuck' }
  | { readonly t: 'pong'; readonly n: number };

/** A worker said something that no worker of ours says. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** Check and copy a message from a worker. Throws {@link ProtocolError}. */
export function parseWorkerMessage(text: string): WorkerMessage {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    throw new ProtocolError('not JSON');
  }
  const message = record(raw);
  switch (message.t) {
    case 'step': {
      const step = record(message.s);
      return {
        t: 'step',
        x: integer(message.x),
        items: items(step.items),
        applied: integer(message.n),
        end: step.end === undefined ? undefined : guestEnd(record(step.end)),
        usage: { cpu: number(message.cpu), heap: number(message.heap) },
      };
    }
    case 'items':
      return { t: 'items', x: integer(message.x), items: items(message.items) };
    case 'preempted':
      return { t: 'preempted', x: integer(message.x), heavy: message.heavy === true };
    case 'stopped':
      return {
        t: 'stopped',
        x: integer(message.x),
        code: oneOf(STOP_CODES, message.code),
        message: capped(message.message, MAX_TEXT),
        stack: capped(message.stack, MAX_TEXT),
        usage: { cpu: number(message.cpu), heap: number(message.heap) },
      };
    case 'stuck':
      return { t: 'stuck' };
    case 'pong':
      return { t: 'pong', n: integer(message.n) };
    case 'ready':
      return {
        t: 'ready',
        engine: string(message.engine),
        prelude: string(message.prelude),
        stripper: string(message.stripper),
      };
    default:
      throw new ProtocolError('unknown message');
  }
}

function items(raw: unknown): ScriptItem[] {
  if (!Array.isArray(raw)) throw new ProtocolError('items is not a list');
  return raw.map((entry: unknown): ScriptItem => {
    if (!Array.isArray(entry)) throw new ProtocolError('an item is not a list');
    switch (entry[0]) {
      case 'o':
        return { kind: 'output', level: '', text: string(entry[1]) };
      case 'l':
        return {
          kind: 'output',
          level: oneOf(['debug', 'info', 'warn', 'error'] as const, entry[1]),
          text: string(entry[2]),
        };
      case 'c':
        return { kind: 'call', index: integer(entry[1]), name: string(entry[2]), json: string(entry[3]) };
      case 'a':
        return { kind: 'applied', index: integer(entry[1]) };
      case 's':
        return { kind: 'sleep', index: integer(entry[1]), ms: Math.min(number(entry[2]), MAX_SLEEP_MS) };
      default:
        throw new ProtocolError('unknown item');
    }
  });
}

function guestEnd(raw: Record<string, unknown>): GuestEnd {
  if (raw.ok === true) {
    const state = raw.state === undefined ? undefined : string(raw.state);
    return { ok: true, json: string(raw.json), state };
  }
  return {
    ok: false,
    code: oneOf(GUEST_CODES, raw.code),
    name: capped(raw.name, 201),
    message: capped(raw.message, MAX_TEXT),
    stack: capped(raw.stack, MAX_TEXT),
  };
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ProtocolError('not an object');
  return value as Record<string, unknown>;
}
function string(value: unknown): string {
  if (typeof value !== 'string') throw new ProtocolError('not a string');
  return value;
}
/** A text that ends up in a result, whatever length the worker made it. */
function capped(value: unknown, max: number): string {
  return string(value).slice(0, max);
}
function number(value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0)
    throw new ProtocolError('not a number from 0');
  return value;
}
function integer(value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0)
    throw new ProtocolError('not a whole number from 0');
  return value as number;
}
function oneOf<const T extends string>(known: readonly T[], value: unknown): T {
  if (!known.includes(value as T)) throw new ProtocolError('not one of the known words');
  return value as T;
}
