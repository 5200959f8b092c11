/** What runtimes report, as facts for the session machine. */
import type { ReportedItem, SessionEvent, Surroundings, ToolRefusal } from '../../actors/sessiondata.ts';
import type { Report } from '../protocol.ts';
import type { SessionJournal } from './journal.ts';

/** A fact for the machine, made when its turn comes; undefined: it is none any more. */
export type Fact = (around: Surroundings) => SessionEvent | undefined;

/** What a tool does, as far as the owner must know. */
export interface ToolFacts {
  readonly canonicalName: string;
  readonly effect: 'read' | 'idempotent' | 'unsafe';
  readonly reconcilable: boolean;
}

/** The tools that the scripts of a session may call. */
export interface SessionTools {
  /** What a call of this name would reach, or why it would not be made. */
  readonly find: (name: string) => ToolFacts | ToolRefusal;
  /** Look for those of the names that nobody is known to have. Resolves when `find` knows better; undefined: it knows. */
  readonly seek: (names: readonly string[]) => Promise<void> | undefined;
  /** The providers that there are; undefined while others may be there that were not heard of. */
  readonly providers: () => readonly string[] | undefined;
}

/** The names of the tools that a report calls for the first time. */
export function newToolNames(report: Report, journal: SessionJournal): readonly string[] {
  const names: string[] = [];
  for (const item of report.items)
    if (item.kind === 'call' && journal.callAt(item.index) === undefined) names.push(item.name);
  return names;
}

/**
 * A report as the machine takes it in: its calls with what is known of their tools, and whether it contradicts what
 * the journal has of the same execution.
 */
export function readReport(
  report: Report,
  execution: string,
  journal: SessionJournal,
  tools: Pick<SessionTools, 'find'>,
  around: Surroundings,
): SessionEvent {
  let mismatch = false;
  const items = report.items.map((item): ReportedItem => {
    switch (item.kind) {
      case 'call': {
        const found = tools.find(item.name);
        const isRefused = typeof found === 'string';
        mismatch ||= journal.contradicts(item.index, 'call', item.name, item.json);
        return {
          ...item,
          refusal: isRefused ? found : undefined,
          effect: isRefused ? 'unsafe' : found.effect,
          reconcilable: !isRefused && found.reconcilable,
        };
      }
      case 'sleep':
        mismatch ||= journal.contradicts(item.index, 'sleep', '', String(item.ms));
        return item;
      case 'applied':
        return { ...item, ok: journal.succeeded(item.index) };
      default:
        return item;
    }
  });
  const { attempt, n, received, waiting, end } = report;
  return {
    type: 'attempt.reported',
    execution,
    attempt,
    n,
    received,
    items,
    waiting,
    end,
    mismatch,
    ...around,
  };
}
