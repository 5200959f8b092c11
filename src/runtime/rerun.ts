/**
 * Rerun: an execution that ended runs again from its journal, in a sandbox of its own. No tool is called; every call
 * gets the end that it had. What comes out is a trace, and whether the script did what it did before.
 */
import { type AttemptEnd, type Delivery, type ScriptItem, sameVersions } from '../../actors/attempt.ts';
import type { Clock } from '../clock.ts';
import type { JournalRead } from '../protocol.ts';
import type { ExecutionResult } from '../result.ts';
import type { RunningAttempt, Sandbox } from './sandbox.ts';

/** One thing that the script did or was handed, in order. */
export type TraceStep =
  | { readonly type: 'output'; readonly level: string; readonly text: string }
  | { readonly type: 'call'; readonly index: number; readonly name: string; readonly args: unknown }
  | { readonly type: 'sleep'; readonly index: number; readonly ms: number }
  | {
      readonly type: 'handed';
      readonly index: number;
      readonly code: string;
      readonly value: unknown;
      /** What the script's clock showed from then on, in ms since the epoch. */
      readonly time: number;
    };

/** What running an execution again from its journal showed. */
export interface RerunReport {
  /**
   * `same`: it ended as it did. `different`: it made another call, or ended otherwise; `difference` says where.
   * `incomplete`: it waits for something that the journal has no end of, as an execution does that was cancelled or
   * stopped. `engine_mismatch`: the engine, prelude or stripper here is not the one that it ran on, so that
   * nothing can be concluded; it was not run.
   */
  readonly verdict: 'same' | 'different' | 'incomplete' | 'engine_mismatch';
  readonly difference: string | undefined;
  readonly trace: readonly TraceStep[];
  /** How it ended this time; undefined if it did not. */
  readonly end:
    | { readonly ok: true; readonly value: unknown }
    | { readonly ok: false; readonly code: string; readonly message: string }
    | undefined;
  /** How it ended then; undefined if it still runs. */
  readonly recorded: ExecutionResult | undefined;
}

/** Run it again. Resolves when it has ended, or waits for what the journal does not have. */
export function rerun(sandbox: Sandbox, clock: Clock, journal: JournalRead): Promise<RerunReport> {
  const recorded = journal.result === undefined ? undefined : (JSON.parse(journal.result) as ExecutionResult);
  const { versions } = journal;
  const here = sandbox.versions;
  if (versions !== undefined && here !== undefined && !sameVersions(versions, here)) {
    const difference = `it ran on ${describe(versions)}; here is ${describe(here)}`;
    return Promise.resolve({ verdict: 'engine_mismatch', difference, trace: [], end: undefined, recorded });
  }
  return new Promise((resolve) => {
    const trace: TraceStep[] = [];
    let entries = 0;
    let difference: string | undefined;
    let over = false;
    const handed = new Map(journal.deliveries.map((delivery) => [delivery[0], delivery]));
    const finish = (end: RerunReport['end'], incomplete: boolean): void => {
      if (over) return;
      over = true;
      difference ??= incomplete ? undefined : differenceOf(end, recorded);
      if (difference === undefined && !incomplete && entries < journal.calls.length)
        difference = `it made ${entries} calls and sleeps; then it made ${journal.calls.length}`;
      const verdict = difference !== undefined ? 'different' : incomplete ? 'incomplete' : 'same';
      resolve({ verdict, difference, trace, end, recorded });
    };
    const take = (item: ScriptItem): void => {
      trace.push(stepOf(item, handed));
      if (item.kind !== 'call' && item.kind !== 'sleep') return;
      const before = journal.calls[entries++];
      const name = item.kind === 'call' ? item.name : '';
      const args = item.kind === 'call' ? item.json : String(item.ms);
      if (before?.kind === item.kind && before.name === name && before.args === args) return;
      difference ??= `at index ${item.index} it made ${item.kind} ${name}(${args}); the journal has ${before === undefined ? 'nothing' : `${before.kind} ${before.name}(${before.args})`}`;
    };
    let attempt: RunningAttempt | undefined;
    attempt = sandbox.start({
      id: `rerun-${clock.id()}`,
      source: journal.source,
      input: journal.input,
      state: journal.state,
      maxStateBytes: journal.limits.maxStateBytes,
      seed: journal.seed,
      startTime: journal.startTime,
      tenantKey: `rerun-${clock.id()}`,
      key: 'rerun',
      isolation: 'execution',
      limits: journal.limits,
      alone: false,
      deliveries: journal.deliveries,
      onReport: (items, waiting) => {
        if (over) return;
        for (const item of items) take(item);
        if (difference === undefined && !waiting) return;
        finish(undefined, difference === undefined);
        attempt?.stop();
      },
      onEnd: (end) => finish(endOf(end), false),
    });
    if (over) attempt.stop(); // It may have been seen before there was an attempt to stop.
  });
}

function stepOf(item: ScriptItem, handed: ReadonlyMap<number, Delivery>): TraceStep {
  switch (item.kind) {
    case 'output':
      return { type: 'output', level: item.level === '' ? 'log' : item.level, text: item.text };
    case 'call':
      return { type: 'call', index: item.index, name: item.name, args: parsed(item.json) };
    case 'sleep':
      return { type: 'sleep', index: item.index, ms: item.ms };
    case 'applied': {
      const [index, code, payload, time] = handed.get(item.index) ?? [item.index, '', '', 0];
      return { type: 'handed', index, code, value: code === '' ? parsed(payload) : payload, time };
    }
  }
}

function endOf(end: AttemptEnd): RerunReport['end'] {
  switch (end.kind) {
    case 'returned':
      return { ok: true, value: parsed(end.json) };
    case 'failed':
    case 'refused':
      return { ok: false, code: end.code, message: end.message };
    case 'lost':
      return { ok: false, code: 'WORKER_CRASHED', message: 'The worker was lost' };
    case 'stopped':
      return { ok: false, code: 'CANCELLED', message: 'It was stopped' };
  }
}

/** Ends that a script does not bring about by itself: a rerun cannot be expected to end so again. */
const NOT_ITS_OWN = [
  'CANCELLED',
  'CLOSED',
  'DEADLINE_EXCEEDED',
  'QUARANTINED',
  'NO_RUNTIME',
  'STATE_CONFLICT',
];

function differenceOf(end: RerunReport['end'], recorded: ExecutionResult | undefined): string | undefined {
  if (recorded === undefined || end === undefined) return undefined;
  if (recorded.success) {
    if (!end.ok) return `it failed with ${end.code} (${end.message}); then it returned a value`;
    return JSON.stringify(end.value) === JSON.stringify(recorded.value)
      ? undefined
      : 'it returned another value than then';
  }
  const { code } = recorded.error;
  if (NOT_ITS_OWN.includes(code)) return undefined;
  if (end.ok) return `it returned a value; then it failed with ${code}`;
  return end.code === code ? undefined : `it failed with ${end.code}; then with ${code}`;
}

/** What a text says. No JSON (no guest of ours sends it, a worker that has fallen may) says nothing. */
function parsed(json: string): unknown {
  try {
    return json === '' ? undefined : (JSON.parse(json) as unknown);
  } catch {
    return undefined;
  }
}

function describe({ engine, prelude, stripper }: NonNullable<JournalRead['versions']>): string {
  return `engine ${engine}, prelude ${prelude}, stripper ${stripper}`;
}
