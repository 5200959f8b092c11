/**
 * Who is there: the runtimes and brokers of the namespace, as their heartbeats show them.
 *
 * One that misses {@link MISSED_BEATS} beats is not given anything new; whether its attempts live is found out by a
 * probe, not by silence alone.
 */
import type { RuntimeView } from '../../actors/placement.ts';
import { LEAST_LOADED, type Routing } from '../../actors/routing.ts';
import { type Bus, isNobody, isSettled, type Subscription } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Advertise, BrokerHeartbeat, Ping, RuntimeHeartbeat } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import { brokerBeatOf, type Dropped, runtimeBeatOf, speakerOf } from './heard.ts';

export const MISSED_BEATS = 3;
/** After this long here, in ms, every broker that lives has been heard of: two beats and a little. */
const SETTLED_MS = 2_500;
/** A runtime that was silent for this long is pinged, however seldom its heartbeats are, in ms. */
const PING_AFTER_MS = 750;
/** One that is so many beats late is asked whether it lives. */
const OVERDUE_BEATS = 1.5;

interface Runtime {
  beat: RuntimeHeartbeat;
  heardAt: number;
  /** Offered since its last heartbeat. */
  offered: number;
  /** Places kept for those whose turn has come. */
  reserved: number;
  /** Which of the offers made here it got last; 0 for none. */
  turn: number;
  /** When a sign of life of it was last looked for or came, in ms of the monotonic clock. */
  askedAt: number;
}

interface KnownBroker {
  readonly beat: BrokerHeartbeat;
  readonly heardAt: number;
  /** Sessions that were given to it since. */
  given: number;
}

export interface DirectoryOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** How this broker places. Default: on the runtime with the most room. */
  readonly routing?: Routing | undefined;
  /** A runtime may have room: it came, something has ended there, or its heartbeat says so. */
  readonly onChange: () => void;
  /** A runtime's process is gone: nobody hears its commands. Default: nobody asks whether one is. */
  readonly onGone?: ((runtime: string) => void) | undefined;
  /** Told when a runtime is heard that was not there. Default: nobody wants to know. */
  readonly onHeard?: ((runtime: string) => void) | undefined;
  /** Told when a runtime is there no more. `drained`: it had told that it would go. Default: nobody wants to know. */
  readonly onLeft?: ((runtime: string, drained: boolean) => void) | undefined;
  /** Told of every broker's heartbeat. Default: nobody wants to know. */
  readonly onBroker?: ((beat: BrokerHeartbeat) => void) | undefined;
  /** Told of heartbeats that are none. */
  readonly dropped?: Pick<Dropped, 'note'> | undefined;
}

export class Directory {
  readonly #options: DirectoryOptions;
  readonly #runtimes = new Map<string, Runtime>();
  readonly #brokers = new Map<string, KnownBroker>();
  #subscriptions: Subscription[] = [];
  #view: readonly RuntimeView[] | undefined;
  #offers = 0;
  #startedAt = Number.POSITIVE_INFINITY;

  constructor(options: DirectoryOptions) {
    this.#options = options;
  }

  /** True once everybody who is there has certainly been heard of. */
  get settled(): boolean {
    const { bus, clock } = this.#options;
    return clock.monotonic() - this.#startedAt >= SETTLED_MS && isSettled(bus);
  }

  /** How this broker places. */
  get routing(): Routing {
    return this.#options.routing ?? LEAST_LOADED;
  }

  /** Listen, and have every runtime show itself: it may beat seldom. Nobody waits for that. */
  start(): void {
    const { bus, clock, subjects } = this.#options;
    this.#startedAt = clock.monotonic();
    this.#subscriptions = [
      bus.subscribe(subjects.runtimeHeartbeat('*'), ({ subject, body }) => {
        const beat = runtimeBeatOf(body, speakerOf(subject));
        if (typeof beat === 'string') this.#options.dropped?.note(subject, beat);
        else this.#hearRuntime(beat);
      }),
      bus.subscribe(subjects.brokerHeartbeat('*'), ({ subject, body }) => {
        const beat = brokerBeatOf(body, speakerOf(subject));
        if (typeof beat === 'string') this.#options.dropped?.note(subject, beat);
        else this.#hearBroker(beat);
      }),
    ];
    // Without it their next beats tell.
    publishOrDrop(bus, subjects.runtimeProbe, { t: 'advertise' } satisfies Advertise);
  }

  stop(): void {
    for (const subscription of this.#subscriptions.splice(0)) subscription.unsubscribe();
  }

  /** The runtimes that may be offered something. */
  view(): readonly RuntimeView[] {
    this.#view ??= [...this.#runtimes.values()].map(({ beat, offered, reserved, turn }) => ({
      id: beat.runtime,
      labels: beat.labels,
      free: beat.capacity - beat.load - offered - reserved,
      draining: beat.draining,
      versions: beat.versions,
      turn,
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

  /** Another broker to give a session to: the one with the fewest, which counts as having one more from now on. */
  successor(broker: string): string | undefined {
    let fewest: KnownBroker | undefined;
    for (const known of this.#brokers.values()) {
      if (known.beat.broker === broker || known.beat.draining) continue;
      const sessions = known.beat.sessions + known.given;
      if (fewest === undefined || sessions < fewest.beat.sessions + fewest.given) fewest = known;
    }
    if (fewest !== undefined) fewest.given++;
    return fewest?.beat.broker;
  }

  /** Executions that a runtime of the autoscaler's could take, at all brokers that are there, as they told last. */
  demand(): number {
    return [...this.#brokers.values()].reduce((sum, { beat }) => sum + (beat.waiting ?? 0), 0);
  }

  /** Count an offer until the next heartbeat tells. */
  noteOffer(runtime: string, change: 1 | -1): void {
    const known = this.#runtimes.get(runtime);
    if (known === undefined) return;
    known.offered = Math.max(-known.beat.load, known.offered + change);
    if (change === 1) known.turn = ++this.#offers;
    this.#view = undefined;
    if (change === -1) this.#options.onChange();
  }

  /** It says that it has no room: believe it until something ends there, or its next heartbeat. */
  noteFull(runtime: string): void {
    const known = this.#runtimes.get(runtime);
    if (known === undefined) return;
    known.offered = Math.max(known.offered, known.beat.capacity - known.beat.load);
    this.#view = undefined;
  }

  /** Keep one place for somebody who is about to ask for it. Returns a function that ends that, once. */
  reserve(runtime: string): () => void {
    const known = this.#runtimes.get(runtime);
    if (known === undefined) return () => undefined;
    known.reserved++;
    this.#view = undefined;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const now = this.#runtimes.get(runtime);
      if (now === undefined || now.reserved === 0) return;
      now.reserved--;
      this.#view = undefined;
    };
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
    const known = this.#runtimes.get(runtime);
    if (known === undefined) return;
    this.#runtimes.delete(runtime);
    this.#view = undefined;
    this.#options.onLeft?.(runtime, known.beat.draining);
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

  /** A process that is gone is noticed in about a second: one question a second to each runtime that is silent. */
  ping(): void {
    const { bus, clock, subjects, onGone } = this.#options;
    const now = clock.monotonic();
    for (const [id, runtime] of this.#runtimes) {
      if (now - runtime.askedAt < PING_AFTER_MS) continue;
      runtime.askedAt = now;
      void bus
        .request(subjects.runtimeCmd(id), { t: 'ping' } satisfies Ping, { timeoutMs: PING_AFTER_MS })
        .catch((error: unknown) => {
          // Silence means nothing: it may be slow, or paused.
          if (!isNobody(error, bus)) return;
          this.drop(id);
          onGone?.(id);
        });
    }
  }

  #hearBroker(beat: BrokerHeartbeat): void {
    this.#brokers.set(beat.broker, { beat, heardAt: this.#options.clock.monotonic(), given: 0 });
    this.#options.onBroker?.(beat);
  }

  #hearRuntime(beat: RuntimeHeartbeat): void {
    const before = this.#runtimes.get(beat.runtime);
    const { turn = 0, reserved = 0 } = before ?? {};
    const now = this.#options.clock.monotonic();
    this.#runtimes.set(beat.runtime, { beat, heardAt: now, offered: 0, reserved, turn, askedAt: now });
    this.#view = undefined;
    if (before === undefined) this.#options.onHeard?.(beat.runtime);
    if (beat.capacity > beat.load && !beat.draining) this.#options.onChange();
  }
}
