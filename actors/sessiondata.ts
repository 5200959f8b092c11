/**
 * What a session is made of: its context, the facts that it is told, and what comes out of a step. Data only.
 */
import type { AttemptEnd, ScriptItem, Versions } from './attempt.ts';
import type { EventPayloads, EventType } from './events.ts';
import type { RuntimeView } from './placement.ts';
import type { Routing } from './routing.ts';

/** What a tool does to the world. */
export type Effect = 'read' | 'idempotent' | 'unsafe';

/** Why a call is not made at all. */
export type ToolRefusal = 'UNKNOWN_TOOL' | 'TOOL_NOT_ALLOWED';

/** Bounds of an execution that the session itself keeps; the others are its runtime's. */
export interface ExecutionLimits {
  readonly maxToolCalls: number;
  readonly maxConcurrentToolCalls: number;
  readonly timeoutMs: number;
  readonly deadlineMs: number;
}

/** Chosen once, when the session is made. Times in ms. */
export interface SessionSettings {
  /** From the last activity to the session's end; 0 for never. */
  readonly ttlMs: number;
  readonly labels: Readonly<Record<string, string>>;
  /** On whose behalf its executions are. Absent: nobody was named. */
  readonly tenant?: string | undefined;
  readonly maxConcurrentExecutions: number;
  /** Executions that wait or run. */
  readonly maxExecutions: number;
  /** Ended executions that are remembered, with their results. */
  readonly keepExecutions: number;
  /** How long a closed or expired session still answers for what it did. */
  readonly tombstoneMs: number;
  /** How long an execution that never ran waits for a runtime. */
  readonly placementTimeoutMs: number;
  /** How long a call waits for a provider of its tool. */
  readonly providerTimeoutMs: number;
  /** A sleep longer than this lets the isolate go. */
  readonly parkAfterMs: number;
  /** Crashes alone aboard a worker before an execution is given up. */
  readonly quarantineAfter: number;
}

/** A tool call that the script made and was not handed the end of. */
export interface OpenCall {
  readonly index: number;
  readonly effect: Effect;
  /** Whether its tool can tell what became of a lost call. */
  readonly reconcilable: boolean;
  /** `queued`: too many run. `unprovided`: nobody offers the tool just now. `reconciling`: its provider was lost. */
  readonly state: 'queued' | 'running' | 'unprovided' | 'reconciling';
  /** When it was first to be dispatched, in ms since the epoch. */
  readonly since: number;
  /** Since when a provider is looked for; 0 if none was missed. */
  readonly seekingSince: number;
  /** When to look again; 0 if it need not be. */
  readonly retryAt: number;
  /** A provider that had it was lost: unless it is found out, nobody knows what it did. */
  readonly lost: boolean;
}

export interface Sleep {
  readonly index: number;
  readonly wakeAt: number;
}

/** An execution's run on one runtime. The counters tell what of it has been seen: a replay repeats the rest. */
export interface Attempt {
  readonly id: string;
  readonly runtime: string;
  /** The script may have run before. */
  readonly replay: boolean;
  /** Reports taken in. */
  readonly reports: number;
  readonly outputs: number;
  readonly entries: number;
  readonly applied: number;
  /** The script was handed everything there is and waits. */
  readonly waiting: boolean;
}

export interface Execution {
  readonly id: string;
  /** Of what was asked: another under the same id is refused. */
  readonly fingerprint: string;
  readonly issuedAt: number;
  readonly acceptedAt: number;
  readonly deadlineAt: number;
  /** The subject that its result is told to. */
  readonly tell: string;
  readonly limits: ExecutionLimits;
  /** `queued`: behind others. `placing`: waits for a runtime. `parked`: sleeps, without one. */
  readonly phase: 'queued' | 'placing' | 'running' | 'parked';
  readonly attempt: Attempt | undefined;
  /** Attempts offered so far. */
  readonly attempts: number;
  /** When a runtime is looked for again, while `placing`. */
  readonly placeAt: number;
  /** The end of looking; 0 if no runtime is looked for, or one has reported. */
  readonly placeBy: number;
  readonly placeTries: number;
  /** Runtimes that refused it since it last waited. */
  readonly refusedBy: readonly string[];
  /** Why it could not be placed last. */
  readonly refusal: string;
  readonly avoid: string | undefined;
  /** True once a runtime reported anything of it. */
  readonly started: boolean;
  /** What the script's clock started at; 0 before the first attempt. */
  readonly startTime: number;
  /** What the script's clock shows at most. */
  readonly clock: number;
  readonly versions: Versions | undefined;
  /** The session's state has had this many changes when it started. */
  readonly stateVersion: number;
  readonly crashes: number;
  /** Suspected of having killed a worker: it runs with nothing else aboard. */
  readonly alone: boolean;
  /** A limit was passed in a replay, and it is tried once more. */
  readonly limitRetried: boolean;
  /** Calls and sleeps made so far, and calls. */
  readonly entries: number;
  readonly toolCalls: number;
  readonly calls: readonly OpenCall[];
  readonly sleeps: readonly Sleep[];
  readonly deliveries: number;
  /** Deliveries that the script is known to have been handed. */
  readonly applied: number;
  readonly outputs: number;
  readonly stdoutBytes: number;
  /** A call of it ended as OUTCOME_UNKNOWN. */
  readonly doubt: boolean;
}

/** An execution that ended and is remembered. */
export interface Finished {
  readonly id: string;
  readonly fingerprint: string;
  readonly issuedAt: number;
  readonly ok: boolean;
}

/** Something that was decided and must happen, whoever owns the session: performed again by every new owner. */
export type Pending =
  | { readonly id: string; readonly type: 'attempt'; readonly execution: string; readonly attempt: string }
  | {
      readonly id: string;
      readonly type: 'call' | 'reconcile';
      readonly execution: string;
      readonly index: number;
    };

export interface SessionContext {
  readonly id: string;
  readonly settings: SessionSettings;
  readonly createdAt: number;
  readonly lastActivityAt: number;
  /** Changes of `state` so far. */
  readonly stateVersion: number;
  /** In order of arrival. */
  readonly executions: readonly Execution[];
  /** The latest last. */
  readonly finished: readonly Finished[];
  /** Commands first issued at that time or before, and not remembered, are refused: they may have run. */
  readonly horizon: number;
  /** Owners since the last progress. */
  readonly activations: number;
  readonly pending: readonly Pending[];
  /** The runtime used last. */
  readonly runtime: string | undefined;
  /** A hand-over was asked for. */
  readonly migrating: boolean;
  readonly hibernated: boolean;
  readonly ended: '' | 'closed' | 'expired';
  readonly endedAt: number;
  /** What the last step decided. Not part of a snapshot. */
  readonly out: Output;
}

// ---- facts -----------------------------------------------------------------------------------------------

/** What chance and the surroundings add to a fact: a step itself is pure. */
export interface Surroundings {
  /** In ms since the epoch. */
  readonly now: number;
  /** An id for an attempt, if the step starts one. */
  readonly fresh: string;
  readonly runtimes: readonly RuntimeView[];
  /** How the broker places now. Default: on the runtime with the most room, whatever the labels. */
  readonly routing?: Routing | undefined;
  /** Others wait for room whose turn comes first: it waits too. Default false. */
  readonly behind?: boolean | undefined;
}

/** A request whose answer is among the step's `replies`. */
export interface Asked {
  readonly ref: number;
}

/** An item of a report, with what the owner knows about it. */
export type ReportedItem =
  | Extract<ScriptItem, { kind: 'output' | 'sleep' }>
  | (Extract<ScriptItem, { kind: 'call' }> & {
      /** Why it is not to be made: the script may not call the tool, or nobody was ever known to offer it. */
      readonly refusal: ToolRefusal | undefined;
      readonly effect: Effect;
      readonly reconcilable: boolean;
    })
  | (Extract<ScriptItem, { kind: 'applied' }> & {
      /** Undefined for a sleep; else whether the call succeeded. */
      readonly ok: boolean | undefined;
    });

export type SessionEvent =
  /** Its owner has just acquired it. */
  | ({ readonly type: 'session.activated' } & Surroundings)
  | ({ readonly type: 'execution.requested'; readonly execution: NewExecution } & Asked & Surroundings)
  | ({ readonly type: 'execution.cancel'; readonly execution: string; readonly reason: string } & Asked &
      Surroundings)
  | ({
      readonly type: 'attempt.reported';
      readonly execution: string;
      readonly attempt: string;
      readonly n: number;
      readonly received: number;
      readonly items: readonly ReportedItem[];
      readonly waiting: boolean;
      readonly end: AttemptEnd | undefined;
      /** A call is not the one that the journal has at its index. */
      readonly mismatch: boolean;
    } & Surroundings)
  /** Certain: it was not started there. */
  | ({
      readonly type: 'attempt.refused';
      readonly execution: string;
      readonly attempt: string;
      readonly code: string;
      readonly message: string;
    } & Surroundings)
  /** It does not run any more, and its end is not known. */
  | ({ readonly type: 'attempt.lost'; readonly execution: string; readonly attempt: string } & Surroundings)
  | ({
      readonly type: 'call.ended';
      readonly execution: string;
      readonly index: number;
      readonly end: ToolEnd;
      readonly durationMs: number;
    } & Surroundings)
  /** The provider that ran it is gone. */
  | ({ readonly type: 'call.lost'; readonly execution: string; readonly index: number } & Surroundings)
  /** Nobody offers its tool just now: it was not started. */
  | ({ readonly type: 'call.unprovided'; readonly execution: string; readonly index: number } & Surroundings)
  | ({ readonly type: 'runtimes.changed' } & Surroundings)
  | ({ readonly type: 'time.passed' } & Surroundings)
  | ({ readonly type: 'session.migrate' } & Asked & Surroundings)
  | ({ readonly type: 'session.hibernate' } & Asked & Surroundings)
  | ({ readonly type: 'session.close' } & Asked & Surroundings);

export interface NewExecution {
  readonly id: string;
  readonly fingerprint: string;
  readonly issuedAt: number;
  readonly tell: string;
  readonly limits: ExecutionLimits;
}

/** How a call, or the question what became of it, ended. */
export type ToolEnd =
  | { readonly ok: true; readonly json: string }
  | { readonly ok: false; readonly code: string; readonly message: string }
  | { readonly ok: 'not_started' }
  | { readonly ok: 'unknown' };

// ---- what comes out --------------------------------------------------------------------------------------

/** What happened to an execution, in the order in which it must be replayed. */
export type JournalEntry =
  | readonly ['c', index: number, name: string, args: string, effect: Effect]
  | readonly ['s', index: number, ms: number, wakeAt: number]
  | readonly ['d', index: number, code: string, payload: string, time: number, durationMs: number];

export type SessionEffect =
  | { readonly type: 'offer'; readonly execution: string; readonly attempt: string; readonly runtime: string }
  /** Does it still run there? */
  | { readonly type: 'probe'; readonly execution: string; readonly attempt: string; readonly runtime: string }
  /** There is something new for the script. */
  | { readonly type: 'deliver'; readonly execution: string }
  | { readonly type: 'stop'; readonly execution: string; readonly attempt: string; readonly runtime: string }
  /** Dispatch it. */
  | { readonly type: 'call'; readonly execution: string; readonly index: number }
  /** Does anybody still run it? */
  | { readonly type: 'locate'; readonly execution: string; readonly index: number }
  | { readonly type: 'reconcile'; readonly execution: string; readonly index: number }
  | { readonly type: 'cancelCall'; readonly execution: string; readonly index: number }
  | { readonly type: 'tell'; readonly execution: string; readonly subject: string };

/** What a request is answered with. */
export type Answer =
  | { readonly ok: true; readonly kind: 'accepted' | 'done' }
  /** It ended before: its result is to be read. */
  | { readonly ok: true; readonly kind: 'ended'; readonly execution: string }
  | { readonly ok: true; readonly kind: 'cancelled'; readonly cancelled: boolean }
  | {
      readonly ok: false;
      readonly code: string;
      readonly message: string;
      readonly outcome: 'not_started' | 'completed' | 'unknown';
      readonly retryAfterMs: number | undefined;
    };

export interface StepEvent<T extends EventType = EventType> {
  readonly type: T;
  readonly execution: string;
  readonly payload: EventPayloads[T];
}

/** How an execution ended: its result is made of this and of its journal. */
export interface Ended {
  readonly execution: Execution;
  readonly at: number;
  readonly end:
    | { readonly ok: true; readonly json: string }
    | {
        readonly ok: false;
        readonly code: string;
        readonly name: string;
        readonly message: string;
        readonly stack: string;
        readonly outcome: 'not_started' | 'completed' | 'unknown';
        readonly retryAfterMs: number | undefined;
        /** What the code's docs promise, as JSON data. */
        readonly details?: Readonly<Record<string, unknown>> | undefined;
      };
  readonly usage: { readonly cpu: number; readonly heap: number };
}

export interface Output {
  /** Something below must not happen before this step is committed. */
  readonly urgent: boolean;
  /** Performed after the commit, in this order. */
  readonly effects: readonly SessionEffect[];
  /** Calls of `read` tools: may be performed before the commit, because they may be performed again. */
  readonly early: readonly SessionEffect[];
  readonly replies: readonly { readonly ref: number; readonly answer: Answer }[];
  readonly events: readonly StepEvent[];
  readonly journal: readonly { readonly execution: string; readonly entry: JournalEntry }[];
  readonly ended: readonly Ended[];
  /** Executions that were accepted: their source and input are to be kept. */
  readonly accepted: readonly string[];
  /** The new `state`, as JSON. */
  readonly state: string | undefined;
  /** Executions whose results and journals are remembered no longer. */
  readonly forget: readonly string[];
  /** The session may be deleted: its tombstone has served its time. */
  readonly purge: boolean;
}
