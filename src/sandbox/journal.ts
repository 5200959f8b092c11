/**
 * What an execution did and what it was handed, in order: enough to start it again elsewhere.
 *
 * Invariants:
 *  J1  A call is entered once. A replayed attempt that makes it again is recognised by index, name and exact
 *      arguments, and gets the recorded end; anything else at that index is a nondeterministic replay.
 *  J2  Deliveries are handed over in the order in which they were entered, in every attempt.
 */
import { Buffer } from 'node:buffer';
import type { ToolCallRecord } from '../result.ts';
import type { Delivery, GuestItem } from './messages.ts';

interface Entry {
  readonly index: number;
  readonly kind: 'call' | 'sleep';
  readonly name: string;
  /** The exact arguments; for a sleep its length. */
  readonly args: string;
  state: 'queued' | 'running' | 'completed' | 'failed';
  startedAt: number;
  durationMs: number;
}

/** A call or a sleep that the script made for the first time. */
export type NewEntry = Entry;

export class Journal {
  readonly #executionId: string;
  readonly #maxBytes: number;
  readonly #entries: Entry[] = [];
  readonly #deliveries: Delivery[] = [];
  #bytes = 0;
  /** Entries seen again in the present attempt. */
  #seen = 0;

  constructor(executionId: string, maxBytes: number) {
    this.#executionId = executionId;
    this.#maxBytes = maxBytes;
  }

  get deliveries(): readonly Delivery[] {
    return this.#deliveries;
  }

  get callCount(): number {
    return this.#entries.reduce((count, entry) => count + (entry.kind === 'call' ? 1 : 0), 0);
  }

  /** False once more was delivered than may be kept: such an execution cannot be started again. */
  get replayable(): boolean {
    return this.#bytes <= this.#maxBytes;
  }

  /** A new attempt begins: it will make the same calls again. */
  restart(): void {
    this.#seen = 0;
  }

  /** Enter a call. Returns it if it is new, undefined if it was recognised, `'mismatch'` if it is neither (J1). */
  enter(item: Extract<GuestItem, { kind: 'call' | 'sleep' }>): NewEntry | 'mismatch' | undefined {
    const name = item.kind === 'call' ? item.name : '';
    const args = item.kind === 'call' ? item.json : String(item.ms);
    if (item.index !== this.#seen) return 'mismatch';
    this.#seen++;
    const known = this.#entries[item.index];
    if (known !== undefined) {
      return known.kind === item.kind && known.name === name && known.args === args ? undefined : 'mismatch';
    }
    const entry: Entry = {
      index: item.index,
      kind: item.kind,
      name,
      args,
      state: 'queued',
      startedAt: 0,
      durationMs: 0,
    };
    this.#entries.push(entry);
    return entry;
  }

  /** True if the present attempt made fewer calls than were made before: it went another way. */
  get behind(): boolean {
    return this.#seen < this.#entries.length;
  }

  start(entry: NewEntry, at: number): void {
    entry.state = 'running';
    entry.startedAt = at;
  }

  /** The end of a call or sleep, to be handed to the script. */
  deliver(entry: NewEntry, delivery: Delivery, at: number): void {
    if (entry.state === 'running') entry.durationMs = at - entry.startedAt;
    entry.state = delivery[1] === '' ? 'completed' : 'failed';
    this.#deliveries.push(delivery);
    this.#bytes += Buffer.byteLength(delivery[2]) + 64;
  }

  /** The call or sleep of this index. */
  entryAt(index: number): NewEntry | undefined {
    return this.#entries[index];
  }

  /** True if a call is in a handler: its effect is in doubt if the execution ends now. */
  get inDoubt(): boolean {
    return this.#entries.some((entry) => entry.kind === 'call' && entry.state === 'running');
  }

  /** Every call so far, for the result. */
  records(now: number): readonly ToolCallRecord[] {
    return this.#entries
      .filter((entry) => entry.kind === 'call')
      .map((entry) => ({
        callId: `${this.#executionId}/${entry.index}`,
        callIndex: entry.index,
        name: entry.name,
        outcome:
          entry.state === 'running' ? 'unknown' : entry.state === 'queued' ? 'not_started' : entry.state,
        durationMs: entry.state === 'running' ? now - entry.startedAt : entry.durationMs,
      }));
  }
}
