/**
 * What an execution did and what it was handed, in order: enough to start it again elsewhere.
 *
 * Invariants:
 *  J1  A call is entered once. A replayed attempt that makes it again is recognised by index, name and exact
 *      arguments (by their digest), and gets the recorded end; anything else at that index is a nondeterministic
 *      replay.
 *  J2  What is kept of a call does not grow with its arguments: a script may make many large ones.
 *  J3  Deliveries are handed over in the order in which they were entered, in every attempt.
 */
import { Buffer } from 'node:buffer';
import { hash } from 'node:crypto';
import type { ToolCallRecord } from '../result.ts';
import type { Delivery, ScriptItem } from './messages.ts';

/** What an entry costs besides its payload, in bytes. */
const ENTRY_BYTES = 256;
/** Arguments up to this are kept as they are, in UTF-16 units; of longer ones a digest. */
const MAX_KEPT_ARGS = 100;

interface Entry {
  readonly index: number;
  readonly kind: 'call' | 'sleep';
  readonly name: string;
  /** Tells the exact arguments; for a sleep its length. */
  readonly args: string;
  state: 'queued' | 'running' | 'completed' | 'failed';
  /** Of its end; '' if it succeeded. */
  code: string | undefined;
  startedAt: number;
  durationMs: number;
}

/** A call or a sleep that the script made for the first time. */
export type NewEntry = Entry;

export class Journal {
  readonly #executionId: string;
  readonly #maxBytes: number;
  readonly #entries = new Map<number, Entry>();
  #deliveries: Delivery[] = [];
  #calls = 0;
  /** Entries made so far. */
  #next = 0;
  #forgotten = false;
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
    return this.#calls;
  }

  /** False once more was delivered than may be kept: such an execution cannot be started again. */
  get replayable(): boolean {
    return this.#bytes <= this.#maxBytes;
  }

  /** True once its deliveries are gone: the present attempt is the last. */
  get forgotten(): boolean {
    return this.#forgotten;
  }

  /** Keep no more deliveries: there will be no other attempt. What is kept of calls is for the result. */
  forget(): void {
    this.#forgotten = true;
    this.#deliveries = [];
  }

  /** A new attempt begins: it will make the same calls again. */
  restart(): void {
    this.#seen = 0;
  }

  /** Enter a call. Returns it if it is new, undefined if it was recognised, `'mismatch'` if it is neither (J1). */
  enter(item: Extract<ScriptItem, { kind: 'call' | 'sleep' }>): NewEntry | 'mismatch' | undefined {
    const name = item.kind === 'call' ? item.name : '';
    const args = item.kind === 'call' ? fingerprint(item.json) : String(item.ms);
    if (item.index !== this.#seen) return 'mismatch';
    this.#seen++;
    if (item.index < this.#next) {
      const known = this.#entries.get(item.index);
      const same = known?.kind === item.kind && known.name === name && known.args === args;
      return same ? undefined : 'mismatch';
    }
    this.#next++;
    const entry: Entry = {
      index: item.index,
      kind: item.kind,
      name,
      args,
      state: 'queued',
      code: undefined,
      startedAt: 0,
      durationMs: 0,
    };
    this.#entries.set(item.index, entry);
    if (item.kind === 'call') this.#calls++;
    return entry;
  }

  /** True if the present attempt made fewer calls than were made before: it went another way. */
  get behind(): boolean {
    return this.#seen < this.#next;
  }

  start(entry: NewEntry, at: number): void {
    entry.state = 'running';
    entry.startedAt = at;
  }

  /**
   * The end of a call or sleep, to be handed to the script. No entry: the script has yet to make it, as another
   * attempt elsewhere did.
   */
  deliver(entry: NewEntry | undefined, delivery: Delivery, at: number): void {
    if (entry !== undefined) {
      if (entry.state === 'running') entry.durationMs = at - entry.startedAt;
      entry.code = delivery[1];
      entry.state = entry.code === '' ? 'completed' : 'failed';
    }
    if (!this.#forgotten) this.#deliveries.push(delivery);
    this.#bytes += Buffer.byteLength(delivery[2]) + ENTRY_BYTES;
    // Nothing will ask for it again, and a script may sleep as often as it likes.
    if (this.#forgotten && entry?.kind === 'sleep') this.#entries.delete(entry.index);
  }

  /** The call or sleep of this index. */
  entryAt(index: number): NewEntry | undefined {
    return this.#entries.get(index);
  }

  /** True if a call is in a handler: its effect is in doubt if the execution ends now. */
  get inDoubt(): boolean {
    for (const entry of this.#entries.values())
      if (entry.kind === 'call' && entry.state === 'running') return true;
    return false;
  }

  /** Every call so far, for the result. */
  records(now: number): readonly ToolCallRecord[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.kind === 'call')
      .map((entry) => ({
        callId: `${this.#executionId}/${entry.index}`,
        callIndex: entry.index,
        name: entry.name,
        outcome:
          entry.state === 'running' ? 'unknown' : entry.state === 'queued' ? 'not_started' : entry.state,
        ...(entry.code === '' ? {} : { code: entry.code ?? 'CANCELLED' }),
        durationMs: entry.state === 'running' ? now - entry.startedAt : entry.durationMs,
      }));
  }
}

/** A text that stands for these arguments and no others (J2). */
function fingerprint(json: string): string {
  // No JSON begins like that, so that no arguments are taken for the digest of others.
  return json.length <= MAX_KEPT_ARGS ? json : `sha256:${json.length}:${hash('sha256', json)}`;
}
