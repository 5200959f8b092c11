/** What an owner before this one committed, and may not have told: its events, and the records of executions that ended. */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { AuditRecord } from './audit.ts';
import type { Notify } from './notice.ts';
import type { Persistence } from './persistence.ts';

export interface RetoldOptions {
  readonly session: string;
  readonly persistence: Pick<Persistence, 'readField'>;
  /** Records are made of executions that end. */
  readonly audited: boolean;
  readonly publish: (events: readonly ExecutionEvent[]) => void;
  /** True once nothing is told any more. */
  readonly isStopped: () => boolean;
  readonly notify: Notify;
}

/** Tell it again. `texts`: JSON of events. */
export function retell(texts: readonly string[], options: RetoldOptions): void {
  const events = texts.map((text) => JSON.parse(text) as ExecutionEvent);
  options.publish(events);
  if (!options.audited) return;
  for (const { type, executionId } of events)
    if (type === 'final' && executionId !== undefined) void retellRecord(executionId, options);
}

/** Never rejects. */
async function retellRecord(
  execution: string,
  { session, persistence, isStopped, notify }: RetoldOptions,
): Promise<void> {
  try {
    const text = await persistence.readField(`audit:${execution}`);
    if (text === undefined || isStopped()) return;
    notify({ type: 'execution.audited', record: JSON.parse(text) as AuditRecord });
  } catch (error) {
    notify({ type: 'error', session, error });
  }
}
