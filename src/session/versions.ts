/**
 * The snapshots of one broker among brokers of several releases: it reads what its own release reads, and writes what
 * all of them read. So a rolling upgrade can be stopped and rolled back while brokers of both releases are there.
 *
 * Invariants:
 *  U1  It never writes a version that a broker it knows of cannot read. Brokers tell what they read in their
 *      heartbeats; one that does not is of the first release. It goes down at the first such heartbeat.
 *  U2  It goes up only when every broker known has read the higher version for {@link LISTEN_BEATS} beats; it begins,
 *      and begins again with every lease, below its own newest version, because it has not heard everybody.
 *  U3  One that falls silent counts for {@link SILENT_BEATS} beats more.
 *  U4  Beats are its own, as they come back to it from the bus: while it hears nothing, nobody is forgotten and
 *      nothing goes up.
 *
 * What a broker writes before it has heard of a newly started older one may be too new for that one, which then leaves
 * the session to others (ownership.ts).
 */
import type { SessionStateValue } from '../../actors/session.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import type { BrokerHeartbeat } from '../protocol.ts';
import type { DecodedSnapshot, SnapshotCodec } from './snapshot.ts';

export const LISTEN_BEATS = 3;
export const SILENT_BEATS = 10;
/** What a broker reads that does not say. */
const FIRST_VERSION = 1;

interface Heard {
  readonly reads: number;
  /** The last of our own beats before it. */
  readonly beat: number;
}

export class Snapshots {
  readonly #broker: string;
  readonly #codec: SnapshotCodec;
  readonly #heard = new Map<string, Heard>();
  #writes: number;
  /** Our own beats so far. */
  #beats = 0;
  /** Beats since which all known have read more than is written. */
  #agreed = 0;

  constructor(broker: string, codec: SnapshotCodec) {
    this.#broker = broker;
    this.#codec = codec;
    this.#writes = Math.max(FIRST_VERSION, codec.newest - 1);
  }

  /** The highest version that it reads. */
  get reads(): number {
    return this.#codec.newest;
  }
  /** The version that it writes now. */
  get writes(): number {
    return this.#writes;
  }

  /** Its lease begins: others may have come that it has not heard (U2). */
  restart(): void {
    this.#agreed = 0;
    this.#writes = Math.min(this.#writes, Math.max(FIRST_VERSION, this.#codec.newest - 1));
  }

  /** Any broker's heartbeat, its own among them. */
  hear({ broker, snapshot }: Pick<BrokerHeartbeat, 'broker' | 'snapshot'>): void {
    const reads = snapshot?.reads ?? FIRST_VERSION;
    this.#heard.set(broker, { reads, beat: this.#beats });
    if (reads < this.#writes) {
      this.#writes = reads; // U1
      this.#agreed = 0;
    }
    if (broker === this.#broker) this.#beat();
  }

  #beat(): void {
    this.#beats++;
    let common = this.#codec.newest;
    for (const [broker, { reads, beat }] of this.#heard) {
      if (this.#beats - beat > SILENT_BEATS)
        this.#heard.delete(broker); // U3
      else common = Math.min(common, reads);
    }
    if (common <= this.#writes) this.#agreed = 0;
    else if (++this.#agreed > LISTEN_BEATS) {
      this.#writes = common; // U2
      this.#agreed = 0;
    }
  }

  encode(value: SessionStateValue, context: SessionContext, epoch: number): string {
    return this.#codec.encode(value, context, epoch, this.#writes);
  }

  /** As the codec's. */
  decode(text: string): DecodedSnapshot {
    return this.#codec.decode(text);
  }

  /** As the codec's. */
  isNewer(text: string): boolean {
    return this.#codec.isNewer(text);
  }
}
