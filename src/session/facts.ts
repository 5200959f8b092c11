/** What runtimes report, as facts for the session machine. */
import type { ReportedItem, SessionEvent, Surroundings } from '../../actors/sessiondata.ts';
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

/**
 * A report as the machine takes it in: its calls with what is known of their tools, and whether it contradicts what
 * the journal has of the same execution.
 */
export function readReport(
  report: Report,
  execution: string,
  journal: SessionJournal,
  tool: (name: string) => ToolFacts | undefined,
  around: Surroundings,
): SessionEvent {
  let mismatch = false;
  const items = report.items.map((item): ReportedItem => {
    switch (item.kind) {
      case 'call': {
        const facts = tool(item.name);
        mismatch ||= journal.contradicts(item.index, 'call', item.name, item.json);
        return {
          ...item,
          known: facts !== undefined,
          effect: facts?.effect ?? 'unsafe',
          reconcilable: facts?.reconcilable ?? false,
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
