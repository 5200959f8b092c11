/** What an execution was, for those who must be able to say so later: whose, which script, what it called, how it ended. */
import { hash } from 'node:crypto';
import type { Ended } from '../../actors/sessiondata.ts';
import type { ToolCallRecord } from '../result.ts';
import type { Isolation } from '../sandbox/messages.ts';
import { canonicalToolName } from '../tools/define.ts';
import type { LiveExecution } from './live.ts';

/** One execution that has ended. It holds no script text, input, arguments, results or messages of errors. */
export interface AuditRecord {
  /** When it ended, in ms since the epoch, by its broker's clock. */
  readonly at: number;
  readonly namespace: string;
  /** Missing for a stateless run. */
  readonly session?: string | undefined;
  readonly execution: string;
  /** On whose behalf it was. */
  readonly tenant: string;
  /** Of its source as UTF-8, in hex. */
  readonly scriptSha256: string;
  readonly scriptBytes: number;
  readonly isolation: Isolation;
  /** The tools that it called, by the number of calls; at most 100 of them. */
  readonly tools: readonly AuditedTool[];
  /** Calls in all. */
  readonly toolCalls: number;
  readonly outcome: 'completed' | 'not_started' | 'unknown';
  /** The error's code, or `OK`. */
  readonly code: string;
  /** From its first placement on a runtime to its end, in ms; 0 if it was never placed. */
  readonly durationMs: number;
  /** From its acceptance to its first placement, or to its end, in ms. */
  readonly queueMs: number;
  /** Times that it was offered to a runtime. */
  readonly attempts: number;
  /** The runtime that it was on at its end. Missing if it was on none. */
  readonly runtime?: string | undefined;
  /** The broker that committed its end. */
  readonly broker: string;
}

/** The calls of one tool, in an audit record. */
export interface AuditedTool {
  /** The canonical name; `(invalid)` for what is no name. */
  readonly name: string;
  readonly calls: number;
  /** Calls by outcome: they add up to `calls`. */
  readonly completed: number;
  readonly failed: number;
  readonly unknown: number;
  readonly notStarted: number;
}

/** Where the records of a session come from. */
export interface Audited {
  readonly namespace: string;
  readonly broker: string;
  readonly session: string | undefined;
  readonly tenant: string;
  readonly isolation: Isolation;
}

const MAX_TOOLS = 100;
const INVALID = '(invalid)';

const COUNTED = {
  completed: 'completed',
  failed: 'failed',
  unknown: 'unknown',
  not_started: 'notStarted',
} as const satisfies Record<ToolCallRecord['outcome'], keyof AuditedTool>;

export function auditRecord(from: Audited, { execution, at, end }: Ended, live: LiveExecution): AuditRecord {
  const { startTime, acceptedAt, attempts, attempt } = execution;
  const calls = live.journal.records(execution, at);
  return {
    at,
    namespace: from.namespace,
    ...(from.session === undefined ? {} : { session: from.session }),
    execution: execution.id,
    tenant: from.tenant,
    scriptSha256: hash('sha256', live.source, 'hex'),
    scriptBytes: Buffer.byteLength(live.source),
    isolation: from.isolation,
    tools: toolsOf(calls),
    toolCalls: calls.length,
    outcome: end.ok ? 'completed' : end.outcome,
    code: end.ok ? 'OK' : end.code,
    // The next owner's clock may be behind.
    durationMs: startTime === 0 ? 0 : Math.max(0, at - startTime),
    queueMs: Math.max(0, (startTime === 0 ? at : startTime) - acceptedAt),
    attempts,
    ...(attempt === undefined ? {} : { runtime: attempt.runtime }),
    broker: from.broker,
  };
}

function toolsOf(calls: readonly ToolCallRecord[]): readonly AuditedTool[] {
  const tools = new Map<string, { -readonly [K in keyof AuditedTool]: AuditedTool[K] }>();
  for (const { name: written, outcome } of calls) {
    const name = canonicalToolName(written) ?? INVALID;
    let tool = tools.get(name);
    if (tool === undefined) {
      tool = { name, calls: 0, completed: 0, failed: 0, unknown: 0, notStarted: 0 };
      tools.set(name, tool);
    }
    tool.calls++;
    tool[COUNTED[outcome]]++;
  }
  return [...tools.values()].toSorted((one, other) => other.calls - one.calls).slice(0, MAX_TOOLS);
}
