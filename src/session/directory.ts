/**
 * Who is there: the runtimes and brokers of the namespace, as their heartbeats show them.
 *
 * One that misses {@link MISSED_BEATS} beats is not given anything new; whether its attempts live is found out by a
 * probe, not by silence alone.
 */
import type { RuntimeView } from '../../actors/placement.ts';
import type { Bus, Subscription } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { BrokerHeartbeat, RuntimeHeartbeat } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';

export const MISSED_BEATS = 3;
/** One that is so many beats late is asked whether it lives. */
const OVERDUE_BEATS = 1.5;

interface Runtime {
  beat: RuntimeHeartbeat;
  heardAt: number;
  /** Offered since its last heartbeat. */
  offered: number;
}

export interface DirectoryOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** A runtime came, went, or has room again. */
  readonly onChange: () => void;
}

export class Directory {
  readonly #options: DirectoryOptions;
  readonly #runtimes = new Map<string, Runtime>();
  readonly #brokers = new Map<string, { readonly beat: BrokerHeartbeat; readonly heardAt: number }>();
  #subscriptions: Subscription[] = [];
  #view: readonly RuntimeView[] | undefined;

  constructor(options: DirectoryOptions) {
    this.#options = options;
  }

  start(): void {
    const { bus, subjects } = this.#options;
    this.#subscriptions = [
      bus.subscribe(subjects.runtimeHeartbeat('*'), ({ body }) =>
        this.#hearRuntime(body as RuntimeHeartbeat),
      ),
      bus.subscribe(subjects.brokerHeartbeat('*'), ({ body }) => {
        const beat = body as BrokerHeartbeat;
        this.#brokers.set(beat.broker, { beat, heardAt: this.#options.clock.monotonic() });
      }),
    ];
  }

  stop(): void {
    for (const subscription of this.#subscriptions.splice(0)) subscription.unsubscribe();
  }

  /** The runtimes that may be offered something. */
  view(): readonly RuntimeView[] {
    this.#view ??= [...this.#runtimes.values()].map(({ beat, offered }) => ({
      id: beat.runtime,
      labels: beat.labels,
      free: beat.capacity - beat.load - offered,
      draining: beat.draining,
      versions: beat.versions,
    }));
    return this.#view;
  }

  /** Heartbeats of the runtimes that are there. */
  runtimes(): readonly RuntimeHeartbeat[] {
    return [...this.#runtimes.values()].map(({ beat }) => beat);
  }

  /** Brokers that are there and not draining, the one with the fewest sessions first. */
  brokers(): readonly BrokerHeartbeat[] {
    return [...this.#brokers.values()]
      .map(({ beat }) => beat)
      .filter(({ draining }) => !draining)
      .toSorted((one, other) => one.sessions - other.sessions);
  }

  /** Count an offer until the next heartbeat tells. */
  noteOffer(runtime: string, change: 1 | -1): void {
    const known = this.#runtimes.get(runtime);
    if (known === undefined) return;
    known.offered = Math.max(-known.beat.load, known.offered + change);
    this.#view = undefined;
  }

  isThere(runtime: string): boolean {
    return this.#runtimes.has(runtime);
  }

  /** True if a heartbeat is overdue: whether it lives is worth a question. */
  isOverdue(runtime: string): boolean {
    const known = this.#runtimes.get(runtime);
    if (known === undefined) return true;
    return this.#options.clock.monotonic() - known.heardAt > known.beat.intervalMs * OVERDUE_BEATS;
  }

  /** It certainly is not there any more. */
  drop(runtime: string): void {
    if (this.#runtimes.delete(runtime)) this.#view = undefined;
  }

  /** Let go of those that were silent for too long. */
  sweep(): void {
    const now = this.#options.clock.monotonic();
    for (const [id, { beat, heardAt }] of this.#runtimes) {
      if (now - heardAt > beat.intervalMs * MISSED_BEATS) this.drop(id);
    }
    for (const [id, { beat, heardAt }] of this.#brokers) {
      if (now - heardAt > beat.intervalMs * MISSED_BEATS) this.#brokers.delete(id);
    }
  }

  #hearRuntime(beat: RuntimeHeartbeat): void {
    const before = this.#runtimes.get(beat.runtime);
    const hadRoom = before !== undefined && before.beat.capacity > before.beat.load && !before.beat.draining;
    this.#runtimes.set(beat.runtime, { beat, heardAt: this.#options.clock.monotonic(), offered: 0 });
    this.#view = undefined;
    const hasRoom = beat.capacity > beat.load && !beat.draining;
    if (hasRoom && !hadRoom) this.#options.onChange();
  }
}
