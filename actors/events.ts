/**
 * The event stream of an execution: the reference protocol, version 2.
 *
 * Every event is `{ protocolVersion, sessionId, seq, type, payload }`; `seq` counts from 1 without gaps
 * within one stream. Types of ours are only ever added; the reference's are never changed.
 */

/** What every event says in `protocolVersion`. */
export const PROTOCOL_VERSION = 2;

/** Severity of a `log` event: the console method that wrote it. */
export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** What is left of a text that a redacted event does not show. */
export interface Redacted {
  /** Of the text in UTF-8; of arguments and results, of their JSON. */
  readonly bytes: number;
  /** HMAC-SHA-256 of the text, keyed with the execution's seed, in base64url. */
  readonly hash: string;
}

/** Payloads by event type. Times and durations are in milliseconds. */
export interface EventPayloads {
  /** The execution was admitted. `executionId` names it; `attempt` counts from 1. */
  session_init: { readonly executionId: string };
  /** Text written by `console.log` and its kin (`dir`, `table`, `count`, …), newline included. */
  stdout: { readonly chunk: string; readonly redacted?: Redacted };
  /** Text written by `console.debug`, `info`, `warn`, `error` and `trace`. */
  log: { readonly level: LogLevel; readonly message: string; readonly redacted?: Redacted };
  /** The script called a tool. */
  tool_call: {
    readonly callId: string;
    readonly toolName: string;
    readonly args: unknown;
    readonly redacted?: Redacted;
  };
  /** The script was handed the end of a call: its result (`ok`) or its error. */
  tool_result_applied: { readonly callId: string; readonly ok: boolean };
  /** The wall-clock limit ended the execution. */
  deadline_exceeded: { readonly elapsedMs: number; readonly budgetMs: number };
  /** Something went wrong that did not end the execution, such as a lost worker. */
  error: { readonly code: string; readonly message: string; readonly recoverable: boolean };
  /** The last event of a stream. */
  final: {
    readonly ok: boolean;
    readonly result?: unknown;
    readonly error?: { readonly code: string; readonly message: string };
    /** Of the result, or of the error's message. */
    readonly redacted?: Redacted;
    readonly stats: {
      readonly durationMs: number;
      readonly toolCallCount: number;
      readonly stdoutBytes: number;
    };
  };
}

/** What an event may be: the values of `type`. EVENTS.md tells of each. */
export type EventType = keyof EventPayloads;

/** One event of an execution's stream. */
export type ExecutionEvent = {
  [T in EventType]: {
    readonly protocolVersion: typeof PROTOCOL_VERSION;
    readonly sessionId: string;
    readonly seq: number;
    /** Which execution of a session it belongs to; absent where the stream is one execution's. */
    readonly executionId?: string | undefined;
    readonly type: T;
    readonly payload: EventPayloads[T];
  };
}[EventType];
