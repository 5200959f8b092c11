/** The events of one session: numbered from 1 without a gap (S6), the oldest trimmed. */

/** How much longer than `maxEvents` a log gets before it is trimmed, so that not every commit moves it all. */
const SLACK = 0.25;

export class EventLog {
  /** The number of the last event. */
  seq = 0;
  readonly #events: string[] = [];

  /** The number of the first event that is still there; `seq` + 1 if none is. */
  get firstSeq(): number {
    return this.seq - this.#events.length + 1;
  }

  /** Append, and keep at least the last `maxEvents` and at most a quarter more. */
  append(events: readonly string[], maxEvents: number): void {
    for (const event of events) this.#events.push(event);
    this.seq += events.length;
    const { length } = this.#events;
    if (length > maxEvents * (1 + SLACK)) this.#events.splice(0, length - maxEvents);
  }

  /** From a number on; empty if that is before the first or after the last. */
  read(fromSeq: number, limit: number): readonly string[] {
    const start = fromSeq - this.firstSeq;
    return start < 0 ? [] : this.#events.slice(start, start + limit);
  }
}
