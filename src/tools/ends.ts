/**
 * The ends of calls that no owner has acknowledged, in the order in which they were last sent: what is due to be
 * sent again is at the front, so a sweep costs what it sends.
 */
import type { ProviderMessage } from '../protocol.ts';

/** Ends that one sweep sends again at most; the next one goes on from there. */
const MAX_RESENT = 1_000;
/** What an end costs beside its texts. */
const END_BYTES = 256;

type Ended = Extract<ProviderMessage, { readonly t: 'ended' }>;

export interface Told {
  readonly session: string;
  readonly message: Ended;
  readonly endedAt: number;
  /** Nobody takes the owner's place. */
  readonly hasNoHeirs: boolean;
  sentAt: number;
}

export class Ends {
  readonly #keepMs: number;
  readonly #told = new Map<string, Told>();
  #bytes = 0;

  /** `keepMs`: how long an end is kept for an owner to come. */
  constructor(keepMs: number) {
    this.#keepMs = keepMs;
  }

  get size(): number {
    return this.#told.size;
  }

  /** What is kept, estimated by the lengths of its texts. */
  get bytes(): number {
    return this.#bytes;
  }

  get(key: string): Told | undefined {
    return this.#told.get(key);
  }

  /** Keep an end that is being sent now, in the place of what was kept for the key. */
  add(key: string, session: string, message: Ended, now: number, hasNoHeirs = false): void {
    this.delete(key);
    this.#told.set(key, { session, message, endedAt: now, hasNoHeirs, sentAt: now });
    this.#bytes += sizeOf(message);
  }

  delete(key: string): Told | undefined {
    const told = this.#told.get(key);
    if (told === undefined) return undefined;
    this.#told.delete(key);
    this.#bytes -= sizeOf(told.message);
    return told;
  }

  /** It is being sent again. */
  sent(key: string, told: Told, now: number): void {
    told.sentAt = now;
    this.#told.delete(key);
    this.#told.set(key, told);
  }

  /** Those that were last sent `ageMs` ago or earlier; those that were kept for `keepMs` are forgotten instead. */
  due(now: number, ageMs: number): readonly (readonly [string, Told])[] {
    const due: (readonly [string, Told])[] = [];
    for (const [key, told] of this.#told) {
      if (now - told.sentAt < ageMs || due.length === MAX_RESENT) break;
      if (now - told.endedAt >= this.#keepMs) this.delete(key);
      else due.push([key, told]);
    }
    return due;
  }

  clear(): void {
    this.#told.clear();
    this.#bytes = 0;
  }
}

function sizeOf({ key, end }: Ended): number {
  const text = end.ok === true ? end.json.length : end.ok === false ? end.message.length : 0;
  return END_BYTES + key.length + text;
}
