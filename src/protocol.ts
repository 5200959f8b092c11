/**
 * What clients, brokers, runtimes and tool providers say to each other over the bus. Every body is JSON data.
 *
 * Delivery: a `publish` may be lost, a `request` may be answered and its answer lost. So everything here is either
 * repeated until it is acknowledged, or asked for again by the side that misses it; and everything is recognised
 * when it comes twice.
 */

import type { AttemptEnd, Delivery, ScriptItem, Versions } from '../actors/attempt.ts';
import type { SessionStateValue } from '../actors/session.ts';
import type { Outcome } from './errors.ts';
import type { ResolvedSessionLimits, SessionLimitOptions } from './options.ts';
import type { Isolation } from './sandbox/messages.ts';

/** The answer to every request. `epoch` is the owner's, 0 where no session is meant; an answer of a lower epoch than one that was seen is dropped. */
export type Reply<T> =
  | { readonly ok: true; readonly value: T; readonly epoch: number }
  | { readonly ok: false; readonly error: ReplyError; readonly epoch: number };

export interface ReplyError {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly outcome: Outcome;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
}

// ---- client → brokers ------------------------------------------------------------------------------------

/** `broker.session_create`. Repeating it with the same `creation` is answered as the first time. */
export interface CreateSession {
  readonly session: string;
  /** Names this creation. */
  readonly creation: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Canonical names of the only tools that its scripts may call; undefined for all. */
  readonly tools: readonly string[] | undefined;
  /** 0 for never; undefined for the broker's own. */
  readonly ttlMs?: number | undefined;
  /** Those that were set; the broker's own hold else. An older client sends all of them. */
  readonly limits: SessionLimitOptions;
  /** Undefined: the broker's own. */
  readonly isolation?: Isolation | undefined;
  readonly durability: Durability;
  readonly maxConcurrentExecutions: number;
  /** Keep what its scripts write, pass to tools and return out of its events. Default false. An older broker does not know it, and shows them. */
  readonly redactEvents?: boolean | undefined;
  /** On whose behalf: what its executions count for. Undefined: {@link DEFAULT_TENANT}. */
  readonly tenant?: string | undefined;
  /** The first `state`, as JSON of an object. */
  readonly state: string;
}

/** `'session'`: stored by its broker before anything is acknowledged. `'none'`: in its broker's memory only. */
export type Durability = 'none' | 'session';

/** Whose executions those are that were made on nobody's behalf. */
export const DEFAULT_TENANT = 'default';

/** What an execution of a session may use: what a run may, and what only sessions have. */
export type SessionLimits = ResolvedSessionLimits;

/**
 * `broker.run`: run a script for which no session is kept. Answered with {@link RunTaken}. Whoever asks sends it again
 * only if it was refused or reached nobody: after a time-out it may run.
 */
export interface RunScript {
  /** Names the execution; begins with `run-`, as no session does. */
  readonly run: string;
  readonly source: string;
  /** JSON, or '' for none. */
  readonly input: string;
  /** As those of {@link CreateSession}. */
  readonly limits: SessionLimitOptions;
  readonly seed: readonly [number, number, number, number];
  /** Undefined: the broker's own. */
  readonly isolation?: Isolation | undefined;
  /** On whose behalf: isolates are kept per tenant. */
  readonly tenant: string;
  /** Canonical names of the only tools that it may call; undefined for all. */
  readonly tools: readonly string[] | undefined;
  /** What routing rules match, as a session's. */
  readonly labels: Readonly<Record<string, string>>;
  /** Publish its events, as those of a session named like the execution. */
  readonly events: boolean;
  /** As that of {@link CreateSession}. */
  readonly redactEvents?: boolean | undefined;
  /** Where the result is told (at most once) if it is not in the answer: {@link ResultTold}. */
  readonly tell: string;
}
export interface RunTaken {
  /** Stands for a session in subjects: its `cmd` takes `cancel` and `result`. */
  readonly home: string;
  /** The ExecutionResult as JSON, if it has ended by now. */
  readonly result: string | undefined;
  /** When it ends at the latest, from its acceptance, in ms. Undefined from an older broker. */
  readonly deadlineMs?: number | undefined;
}

/** `broker.session_activate`: see that somebody owns the session. Answered when its owner can be reached. */
export interface ActivateSession {
  readonly session: string;
  /** The highest epoch that the asker has seen. */
  readonly minEpoch: number;
}
export interface Activated {
  readonly session: string;
  /** The broker that owns it; undefined while nobody can be told: ask again after `retryAfterMs`. */
  readonly broker: string | undefined;
  readonly retryAfterMs: number;
}

/** `broker.session_info`, `broker.session_result`: asked where nobody owns the session. */
export interface AskSession {
  readonly session: string;
  /** Of `session_result` and `journal_read`. */
  readonly execution?: string | undefined;
}

/** `broker.sessions_list`: for operators. A page at a time; '' begins. */
export interface ListSessions {
  readonly cursor: string;
  /** Default 100; 1 to 1,000. */
  readonly limit?: number | undefined;
}
export interface SessionsListed {
  readonly sessions: readonly SessionListed[];
  /** Asks for the next page; '' if this was the last. */
  readonly cursor: string;
}
/** As it is stored: what its owner has not committed is not in it. */
export interface SessionListed {
  readonly session: string;
  readonly status: SessionStatus;
  /** The incarnation that owns it: its broker's id, and more, since each start of a broker is another incarnation. `SessionInfo.owner` is the broker alone. */
  readonly owner: string | undefined;
  readonly epoch: number;
  readonly seq: number;
  readonly labels: Readonly<Record<string, string>>;
  /** Executions that wait or run. */
  readonly executions: number;
  /** In ms since the epoch. */
  readonly lastActivityAt: number;
}

/** `broker.events_read`. */
export interface ReadEvents {
  readonly session: string;
  readonly fromSeq: number;
  readonly limit: number;
}
export interface EventsRead {
  /** As JSON. Empty, with `firstSeq` above the number asked for, where the log was trimmed. */
  readonly events: readonly string[];
  readonly firstSeq: number;
  readonly seq: number;
}

/** `broker.journal_read`: what a rerun needs. */
export interface JournalRead {
  readonly source: string;
  readonly input: string;
  readonly state: string;
  readonly seed: readonly [number, number, number, number];
  readonly startTime: number;
  readonly limits: SessionLimits;
  readonly versions: Versions | undefined;
  readonly calls: readonly {
    readonly index: number;
    readonly kind: 'call' | 'sleep';
    readonly name: string;
    readonly args: string;
  }[];
  readonly deliveries: readonly Delivery[];
  /** The ExecutionResult as JSON; undefined while it runs. */
  readonly result: string | undefined;
}

// ---- client → owner (`session.<id>.cmd`) -----------------------------------------------------------------

export type SessionCommand =
  /** The execution's id is the command's. Repeated: answered as the first time. Other content under the same id: COMMAND_CONFLICT. */
  | {
      readonly t: 'execute';
      readonly execution: string;
      /** When the client first issued it, by its own clock, in ms since the epoch. Older than what is remembered: COMMAND_EXPIRED. */
      readonly issuedAt: number;
      readonly source: string;
      /** JSON, or '' for none. */
      readonly input: string;
      /** Over the session's. */
      readonly limits: SessionLimitOptions | undefined;
      readonly seed: readonly [number, number, number, number];
      /** Where the result is told as soon as it is committed (at most once): {@link ResultTold}. */
      readonly tell: string;
    }
  | { readonly t: 'cancel'; readonly execution: string; readonly reason: string }
  | { readonly t: 'result'; readonly execution: string }
  | { readonly t: 'info' }
  /** What `events_read` and `journal_read` ask an owner who keeps them in memory only. */
  | { readonly t: 'events'; readonly fromSeq: number; readonly limit: number }
  | { readonly t: 'journal'; readonly execution: string }
  /** To a broker by id, or to any other. Answered with {@link Activated}. Owned in a later epoch than `fromEpoch` it has moved already, and stays. */
  | { readonly t: 'migrate'; readonly to: string | undefined; readonly fromEpoch: number | undefined }
  | { readonly t: 'hibernate' }
  | { readonly t: 'close' }
  | { readonly t: 'delete' };

/** The answer to `execute`. */
export interface Accepted {
  readonly execution: string;
  /** The ExecutionResult as JSON, if it has ended already. */
  readonly result: string | undefined;
}
/** The answer to `cancel`: what the first commit decided. */
export interface Cancelled {
  /** False: it had ended before. */
  readonly cancelled: boolean;
}
/** The answer to `result`. */
export interface ResultAnswer {
  readonly status: 'running' | 'ended' | 'unknown';
  /** The ExecutionResult as JSON, if `ended`. */
  readonly result: string | undefined;
}
/** Published to `client.<id>.result`. */
export interface ResultTold {
  readonly session: string;
  readonly execution: string;
  readonly result: string;
}
/** The answer to `info`. */
export interface SessionInfoAnswer {
  readonly session: string;
  readonly status: SessionStatus;
  readonly epoch: number;
  readonly broker: string | undefined;
  /** The runtime that runs its script, or ran the last one. */
  readonly runtime: string | undefined;
  readonly seq: number;
  readonly version: number;
  /** JSON. */
  readonly state: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly durability: Durability;
  /** On whose behalf it is. Undefined from an older broker. */
  readonly tenant?: string | undefined;
  /** The executions that are remembered, oldest first. */
  readonly executions: readonly { readonly id: string; readonly status: ExecutionStatus }[];
}
/** What a session does: METRICS.md has a sentence for each, at `enclave_sessions`. */
export type SessionStatus = SessionStateValue;
/** `queued`: it waits for its turn or for a runtime. `running`: it is on one. `parked`: it sleeps and holds no isolate. `succeeded`, `failed`: it has ended. */
export type ExecutionStatus = 'queued' | 'running' | 'parked' | 'succeeded' | 'failed';

/** `broker.<id>.cmd`: take this session over; answered with {@link Activated}. */
export interface AdoptSession {
  readonly t: 'adopt';
  readonly session: string;
  readonly minEpoch: number;
}

// ---- owner → runtime (`runtime.<id>.cmd`) ----------------------------------------------------------------

export type RuntimeCommand =
  /** A request, answered with {@link OfferAnswer}. An attempt is offered once. */
  | Offer
  /** Hand these over, in order; `from` is the number of the first, from 1. `ack`: reports up to this number are committed. */
  | {
      readonly t: 'deliver';
      readonly attempt: string;
      readonly epoch: number;
      readonly from: number;
      readonly deliveries: readonly Delivery[];
      readonly ack: number;
    }
  /** End it; nothing more is reported. */
  | { readonly t: 'stop'; readonly attempt: string; readonly epoch: number }
  /** A request, answered with {@link ProbeAnswer}. If it is not there, it will never be accepted afterwards. */
  | { readonly t: 'probe'; readonly attempt: string; readonly session: string; readonly epoch: number };

/** To a runtime: reports of these attempts are committed, up to a number. */
export interface AckReports {
  readonly t: 'acks';
  /** Attempt, epoch of its owner, number of the report. */
  readonly acks: readonly (readonly [attempt: string, epoch: number, ack: number])[];
}

/** `runtime.probe`: every runtime beats at once. */
export interface Advertise {
  readonly t: 'advertise';
}

/** A request to a runtime of which nothing was heard: it answers. */
export interface Ping {
  readonly t: 'ping';
}

export interface Offer {
  readonly t: 'offer';
  readonly session: string;
  /** True if `session` is the home of a broker's stateless runs: it has no heirs, because nobody takes its owner's place. */
  readonly home?: boolean | undefined;
  readonly epoch: number;
  readonly attempt: string;
  readonly execution: string;
  readonly source: string;
  readonly input: string;
  readonly state: string;
  readonly seed: readonly [number, number, number, number];
  /** What the script's clock starts at, in ms since the epoch. */
  readonly startTime: number;
  readonly limits: SessionLimits;
  readonly isolation: Isolation;
  /** Not the tenant but the key of its isolates: they are kept for it and shared with nobody else. Undefined: the session. The tenant is `share.name`. */
  readonly tenant?: string | undefined;
  /** The tenant on whose share it waits for a worker, and how large that share is beside others. Undefined from an older broker: what isolates are kept for, and 1. */
  readonly share?: { readonly name: string; readonly weight: number } | undefined;
  /** It is suspected of having killed a worker: nothing else may be aboard its worker. */
  readonly alone: boolean;
  /** An earlier attempt had been handed something: limits of CPU and wall time are tripled. */
  readonly replay: boolean;
  /** Deliveries that follow at once, by `deliver`: the script is given them without pause. */
  readonly deliveries: readonly Delivery[];
  /** Refuse as ENGINE_MISMATCH unless they are yours. */
  readonly versions: Versions | undefined;
}
/** It may come a moment after the offer, to take the first report along. */
export interface OfferAnswer {
  readonly versions: Versions | undefined;
  /** The attempt's first report. */
  readonly report?: Report | undefined;
}
export interface ProbeAnswer {
  readonly running: boolean;
  /** Deliveries received so far, without a gap. */
  readonly received: number;
  /** The last report that an owner acknowledged. Default: not told. */
  readonly acknowledged?: number | undefined;
}

/** runtime → owner (`session.<id>.in.<attempt>`). Numbered from 1 per attempt; sent again until acknowledged. */
export interface Report {
  readonly t: 'report';
  readonly attempt: string;
  readonly execution: string;
  readonly runtime: string;
  readonly n: number;
  /** Deliveries received so far, without a gap. */
  readonly received: number;
  readonly items: readonly ScriptItem[];
  /** The script was handed everything received and waits. */
  readonly waiting: boolean;
  readonly end: AttemptEnd | undefined;
}

/** `runtime.<id>.heartbeat`. */
export interface RuntimeHeartbeat {
  readonly runtime: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Attempts that it takes at most, and has. */
  readonly capacity: number;
  readonly load: number;
  readonly draining: boolean;
  readonly versions: Versions | undefined;
  readonly intervalMs: number;
}

/** `broker.<id>.heartbeat`. */
export interface BrokerHeartbeat {
  readonly broker: string;
  readonly sessions: number;
  /**
   * Executions that wait for room in a runtime and that one of the autoscaler's could take, as far as this broker knows
   * its labels; without an autoscaler: one without labels. Undefined from an older broker.
   */
  readonly waiting?: number | undefined;
  readonly draining: boolean;
  /** Versions of the session's snapshot: the highest that it reads, and the one that it writes now. Undefined from an older broker: it reads and writes version 1. */
  readonly snapshot?: { readonly reads: number; readonly writes: number } | undefined;
  readonly intervalMs: number;
}

// ---- owner ↔ tool provider -------------------------------------------------------------------------------

/** `tool.<name>`, a request: run it. Answered when it is taken on; the end is in the answer, or is published to the session. */
export interface CallTool {
  readonly t: 'call' | 'reconcile';
  /** `session/execution/index`: the idempotency key. */
  readonly key: string;
  readonly session: string;
  /** As in {@link Offer}. */
  readonly home?: boolean | undefined;
  readonly execution: string;
  readonly index: number;
  /** As the script wrote it. */
  readonly name: string;
  /** JSON, or '' for none. */
  readonly args: string;
  readonly epoch: number;
  /** How long the owner's lease lasted when it sent this, in ms from the arrival. */
  readonly notAfterMs: number;
  readonly maxPayloadBytes: number;
  /** On whose behalf the script runs, as the session's or the run's caller named it. Undefined: nobody was named, or, of a session, by an older broker. */
  readonly tenant?: string | undefined;
}
/** It may come a moment after the call, to take the end along. */
export interface CallTaken {
  readonly provider: string;
  /** As the provider would tell it by `ended`. */
  readonly ended?: { readonly end: CallEnd; readonly durationMs: number } | undefined;
}

/** provider → owner (`session.<id>.in.tools`), sent again until acknowledged. */
export type ProviderMessage =
  | {
      readonly t: 'ended';
      readonly key: string;
      readonly provider: string;
      readonly end: CallEnd;
      readonly durationMs: number;
    }
  /** Asked for by `probe`: it runs here. */
  | { readonly t: 'alive'; readonly key: string; readonly provider: string };

/** How a call, or the question what became of it, ended. */
export type CallEnd =
  | { readonly ok: true; readonly json: string }
  | { readonly ok: false; readonly code: string; readonly message: string }
  /** Of a reconciliation: it never happened, or nobody can tell. */
  | { readonly ok: 'not_started' }
  | { readonly ok: 'unknown' };

/** owner, broker → provider (`provider.<id>.cmd`, or `provider.probe` for a probe of all). */
export type ProviderCommand =
  | { readonly t: 'ack'; readonly keys: readonly string[] }
  /** Nobody waits for it any more: its signal is aborted. */
  | { readonly t: 'cancel'; readonly key: string }
  /** Who has one of these answers the session with `alive` or `ended`. As a request to one provider: {@link ProbedCalls}. */
  | { readonly t: 'probe'; readonly keys: readonly string[] }
  /** Beat at once. As a request it is answered with the {@link ProviderHeartbeat} as well. */
  | { readonly t: 'advertise' }
  /** A request to one provider, answered with {@link ToolPage}: what it offers, page by page, from 0. */
  | { readonly t: 'tools'; readonly page: number };
export interface ProbedCalls {
  /** Those that it does not have. */
  readonly missing: readonly string[];
}

/**
 * `provider.<id>.heartbeat`. It names the list of its tools by a hash, so that a long list is sent once to every
 * broker and not every second.
 */
export interface ProviderHeartbeat {
  readonly provider: string;
  readonly hash: string;
  /** Tools on the list. */
  readonly tools: number;
  /** It takes no more calls. */
  readonly draining: boolean;
  readonly intervalMs: number;
}
/** A part of a provider's list. One of another hash than the part before it begins another list. */
export interface ToolPage {
  readonly hash: string;
  readonly page: number;
  readonly pages: number;
  readonly tools: readonly AdvertisedTool[];
}
/** What a provider tells of a tool. */
export interface AdvertisedTool {
  /** As it was defined. */
  readonly name: string;
  readonly canonicalName: string;
  readonly effect: 'read' | 'idempotent' | 'unsafe';
  readonly reconcilable: boolean;
  readonly timeoutMs?: number | undefined;
  readonly description?: string | undefined;
  /** JSON Schema (draft 2020-12) of its arguments, where its schema can be said in it and is not too long. */
  readonly input?: Readonly<Record<string, unknown>> | undefined;
}

/** `broker.tools_list`: the tools that are known, by canonical name, after this one. Default: from the first. */
export interface ListTools {
  readonly after?: string | undefined;
}
export interface ToolList {
  readonly tools: readonly KnownTool[];
  /** Ask again after this one; undefined: that was all. */
  readonly after: string | undefined;
}
/** A tool, with what the strictest of its providers says of its effect. */
export interface KnownTool extends AdvertisedTool {
  /** Providers that take calls of it now; 0: it is remembered, and calls wait for one to come. */
  readonly providers: number;
}
