/**
 * What a running execution of a session did and was handed: the owner's memory of its journal. Entries are added as
 * they are decided; what may be shown to a script is what was committed.
 */
import type { Delivery } from '../../actors/attempt.ts';
import { isInDoubt } from '../../actors/ending.ts';
import type { Execution, JournalEntry } from '../../actors/sessiondata.ts';
import type { ToolCallRecord } from '../result.ts';

interface Entry {
  readonly kind: 'call' | 'sleep';
  readonly name: string;
  /** The exact arguments; for a sleep its length. */
  readonly args: string;
  /** Its end: '' for a result, else the error's code; undefined while it is open. */
  code: string | undefined;
  durationMs: number;
}

export class SessionJournal {
  readonly #entries: Entry[] = [];
  readonly #deliveries: Delivery[] = [];
  #committed = 0;

  /** Read what was stored. All of it was committed. */
  static read(texts: readonly string[]): SessionJournal {
    const journal = new SessionJournal();
    for (const text of texts) journal.add(JSON.parse(text) as JournalEntry);
    journal.commit();
    return journal;
  }

  add(entry: JournalEntry): void {
    switch (entry[0]) {
      case 'c':
        this.#entries[entry[1]] = {
          kind: 'call',
          name: entry[2],
          args: entry[3],
          code: undefined,
          durationMs: 0,
        };
        return;
      case 's':
        this.#entries[entry[1]] = {
          kind: 'sleep',
          name: '',
          args: String(entry[2]),
          code: undefined,
          durationMs: 0,
        };
        return;
      case 'd': {
        const [, index, code, payload, time, durationMs] = entry;
        this.#deliveries.push([index, code, payload, time]);
        const ended = this.#entries[index];
        if (ended === undefined) return;
        ended.code = code;
        ended.durationMs = durationMs;
      }
    }
  }

  /** Everything added so far is committed. */
  commit(): void {
    this.#committed = this.#deliveries.length;
  }

  /** Deliveries that may be handed over. */
  get committed(): number {
    return this.#committed;
  }

  /** Committed deliveries after the first `count`. */
  after(count: number): readonly Delivery[] {
    return this.#deliveries.slice(count, this.#committed);
  }

  /** True if the journal has something else at this index; false if it has the same, or nothing yet. */
  contradicts(index: number, kind: 'call' | 'sleep', name: string, args: string): boolean {
    const entry = this.#entries[index];
    return entry !== undefined && (entry.kind !== kind || entry.name !== name || entry.args !== args);
  }

  /** A call's name and arguments. */
  callAt(index: number): { readonly name: string; readonly args: string } | undefined {
    const entry = this.#entries[index];
    return entry?.kind === 'call' ? entry : undefined;
  }

  /** How the call of this index ended: undefined for a sleep, or while it is open. */
  succeeded(index: number): boolean | undefined {
    const entry = this.#entries[index];
    return entry?.kind === 'call' && entry.code !== undefined ? entry.code === '' : undefined;
  }

  /** Everything that was made, for a rerun. */
  trace(): readonly {
    readonly index: number;
    readonly kind: 'call' | 'sleep';
    readonly name: string;
    readonly args: string;
  }[] {
    return this.#entries.map(({ kind, name, args }, index) => ({ index, kind, name, args }));
  }

  /** Every call, for the result of an execution that ends now. */
  records(execution: Execution, now: number): readonly ToolCallRecord[] {
    const records: ToolCallRecord[] = [];
    for (const [index, entry] of this.#entries.entries()) {
      if (entry?.kind !== 'call') continue;
      const open = execution.calls.find((call) => call.index === index);
      const underway = open !== undefined && isInDoubt(open);
      records.push({
        callId: `${execution.id}/${index}`,
        callIndex: index,
        name: entry.name,
        outcome:
          entry.code === ''
            ? 'completed'
            : entry.code === undefined
              ? underway
                ? 'unknown'
                : 'not_started'
              : entry.code === 'OUTCOME_UNKNOWN'
                ? 'unknown'
                : 'failed',
        ...(entry.code === '' ? {} : { code: entry.code ?? 'CANCELLED' }),
        durationMs: underway ? now - open.since : entry.durationMs,
      });
    }
    return records;
  }
}
