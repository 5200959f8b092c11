/**
 * The reports of one attempt that its owner has not acknowledged, oldest first.
 *
 * Invariants:
 *  O1  A report leaves only by an acknowledgement of its number or of a later one, or with the attempt.
 *  O2  A report is sent again as it was: its number stands for the same facts each time.
 */
import type { AttemptEnd, ScriptItem } from '../../actors/attempt.ts';
import type { Report } from '../protocol.ts';

/** Bytes of one attempt that one sweep sends again at most; the first report always goes. */
const RESEND_BYTES = 1024 * 1024;
/** What an item costs beside its text: its keys, and the object that holds it. */
const ITEM_BYTES = 64;

interface Kept {
  readonly report: Report;
  readonly bytes: number;
  sentAt: number;
}

export class Outbox {
  #kept: Kept[] = [];
  #bytes = 0;

  get size(): number {
    return this.#kept.length;
  }

  /** What is kept, as estimated by {@link sizeOf}. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Keep a report that was just sent. */
  add(report: Report, bytes: number, now: number): void {
    this.#kept.push({ report, bytes, sentAt: now });
    this.#bytes += bytes;
  }

  /** Forget the reports up to this number (O1). */
  acknowledge(n: number): void {
    let count = 0;
    for (const { report, bytes } of this.#kept) {
      if (report.n > n) break;
      this.#bytes -= bytes;
      count++;
    }
    this.#kept.splice(0, count);
  }

  /** Those last sent `ageMs` ago or longer, which count as sent now (O2). With `ageMs` 0: all. */
  again(now: number, ageMs: number): readonly Report[] {
    const due: Report[] = [];
    let bytes = 0;
    for (const kept of this.#kept) {
      if (ageMs > 0 && now - kept.sentAt < ageMs) continue;
      bytes += kept.bytes;
      if (ageMs > 0 && due.length > 0 && bytes > RESEND_BYTES) break;
      kept.sentAt = now;
      due.push(kept.report);
    }
    return due;
  }

  clear(): void {
    this.#kept = [];
    this.#bytes = 0;
  }
}

/** A report's size in memory, estimated by the lengths of its texts. */
export function sizeOf(items: readonly ScriptItem[], end: AttemptEnd | undefined): number {
  let bytes = ITEM_BYTES;
  for (const item of items) {
    bytes += ITEM_BYTES;
    if (item.kind === 'output') bytes += item.text.length;
    else if (item.kind === 'call') bytes += item.name.length + item.json.length;
  }
  if (end?.kind === 'returned') bytes += end.json.length + (end.state?.length ?? 0);
  else if (end?.kind === 'failed') bytes += end.message.length + end.stack.length;
  return bytes;
}
