/**
 * The runtime role: takes attempts that session owners offer over the bus, runs them in a sandbox, and tells what
 * they did until it is acknowledged. It holds nothing that matters: when it dies, its attempts are replayed elsewhere.
 *
 * Invariants:
 *  H1  An attempt id is started at most once: from its acceptance on it is aboard, and afterwards it has a tombstone.
 *  H2  What was answered as not running is never started afterwards.
 *  H3  An attempt is aboard until its end is acknowledged, its owner stops it, or no owner was heard for `orphanMs`: a
 *      `stop` may be lost, and a living owner asks after an attempt that is quiet every few seconds.
 *  H4  Timers: one for heartbeats, one sweep for all attempts, set only while there are any, and one for each answer
 *      that is held back.
 */
import { hash } from 'node:crypto';
import { replayLimits, sameVersions } from '../../actors/attempt.ts';
import type { Bus, Message, Subscription } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import { HeldAnswer, HOLD_MS } from '../heldanswer.ts';
import type { Losses } from '../losses.ts';
import type {
  AckReports,
  Offer,
  OfferAnswer,
  ProbeAnswer,
  ReplyError,
  Report,
  RuntimeCommand,
  RuntimeHeartbeat,
} from '../protocol.ts';
import { answer, refusal, refuse } from '../replies.ts';
import type { Subjects } from '../subjects.ts';
import { publishIfFits, publishOrDrop, sendToSomebody } from '../telling.ts';
import { Tombstones } from '../tombstones.ts';
import { messageAttributes, tracing } from '../traces.ts';
import { Attempt, type AttemptPort } from './attempt.ts';
import { commandOf, isAckReports, isPing } from './commands.ts';
import { Heartbeats } from './heartbeats.ts';
import type { Sandbox, SandboxSpec } from './sandbox.ts';
import { AttemptSpans } from './spans.ts';

const MiB = 1024 * 1024;
/** When a refused owner may ask again, in ms. */
const RETRY_AFTER_MS = 100;
/** Offers are refused while all attempts together keep this many times what one of them may. */
const FULL_OUTBOXES = 8;

export interface RuntimeHostOptions {
  /** Names this runtime: no other may have it. */
  readonly id: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly sandbox: Sandbox;
  /** What placement rules match. */
  readonly labels: Readonly<Record<string, string>>;
  /** Between heartbeats, in ms. Default 1,000. */
  readonly heartbeatMs?: number | undefined;
  /** Scripts at once. Default: the sandbox's. At the limit offers are refused as OVERLOADED. */
  readonly capacity?: number | undefined;
  /** What is not acknowledged is sent again after this long, or up to twice as long, in ms. Default 1,000. */
  readonly resendMs?: number | undefined;
  /** What one attempt may have told and not yet got acknowledged, in bytes. Default 8 MiB. At the limit it is stopped and ends as lost. */
  readonly maxUnacknowledgedBytes?: number | undefined;
  /** For how long an attempt's id is refused after its end, in ms. Default 600,000; at most 10,000 ids. */
  readonly tombstoneMs?: number | undefined;
  /** An attempt is stopped and forgotten if its owner says nothing to it for this long, in ms. Default 60,000. */
  readonly orphanMs?: number | undefined;
  /** Told of what is refused or dropped here. Default: nobody counts. */
  readonly losses?: Losses | undefined;
  /** How long the answer to an offer waits for the first report, in ms. Default 25; 0: not at all. */
  readonly holdMs?: number | undefined;
}

export class RuntimeHost {
  readonly id: string;
  readonly #bus: Bus;
  readonly #clock: Clock;
  readonly #subjects: Subjects;
  readonly #sandbox: Sandbox;
  readonly #capacity: number | undefined;
  readonly #resendMs: number;
  readonly #orphanMs: number;
  readonly #holdMs: number;
  readonly #losses: Losses | undefined;
  readonly #maxUnacknowledgedBytes: number;
  readonly #port: AttemptPort;
  readonly #heartbeats: Heartbeats;
  readonly #tombstones: Tombstones;
  readonly #attempts = new Map<string, Attempt>();
  #phase: 'new' | 'open' | 'draining' | 'closed' = 'new';
  #running = 0;
  /** What all attempts keep, in bytes. */
  #keptBytes = 0;
  #subscriptions: readonly Subscription[] = [];
  #cancelSweep: (() => void) | undefined;
  #drained: PromiseWithResolvers<void> | undefined;
  #cancelGrace: (() => void) | undefined;

  constructor(options: RuntimeHostOptions) {
    const { id, bus, clock, subjects, sandbox, labels, heartbeatMs = 1_000, resendMs = 1_000 } = options;
    const { maxUnacknowledgedBytes = 8 * MiB, tombstoneMs = 600_000 } = options;
    const { orphanMs = 60_000, holdMs = HOLD_MS } = options;
    this.id = id;
    this.#bus = bus;
    this.#clock = clock;
    this.#subjects = subjects;
    this.#sandbox = sandbox;
    this.#capacity = options.capacity;
    this.#resendMs = resendMs;
    this.#orphanMs = orphanMs;
    this.#holdMs = holdMs;
    this.#losses = options.losses;
    this.#maxUnacknowledgedBytes = maxUnacknowledgedBytes;
    this.#tombstones = new Tombstones(clock, tombstoneMs);
    this.#port = {
      runtime: id,
      clock,
      maxUnacknowledgedBytes,
      losses: options.losses,
      send: (subject, report) => publishIfFits(bus, subject, report),
      ask: (subject, report, onNobody) => sendToSomebody(bus, subject, report, resendMs, onNobody),
      orphaned: (id) => {
        const attempt = this.#attempts.get(id);
        if (attempt !== undefined) this.#forget(attempt);
      },
      kept: (bytes) => {
        this.#keptBytes += bytes;
      },
      ended: () => {
        this.#running--;
        this.#heartbeats.noteLoad();
      },
    };
    this.#heartbeats = new Heartbeats(clock, heartbeatMs, {
      isFull: () => this.#running >= this.capacity,
      beat: () => this.#beat(labels, heartbeatMs),
    });
  }

  /** Attempts aboard: those that run, and those whose end is not acknowledged. */
  get attempts(): number {
    return this.#attempts.size;
  }

  /** Attempts whose script runs or waits. */
  get load(): number {
    return this.#running;
  }

  /** Scripts that it takes at once. */
  get capacity(): number {
    return this.#capacity ?? this.#sandbox.capacity;
  }

  /** Take offers. Resolves when they can reach it; then the first heartbeat is sent. */
  async start(): Promise<void> {
    if (this.#phase !== 'new') return;
    this.#phase = 'open';
    const { runtimeCmd, runtimeProbe } = this.#subjects;
    this.#subscriptions = [
      this.#bus.subscribe(runtimeCmd(this.id), (message) => this.#take(message)),
      this.#bus.subscribe(runtimeProbe, () => this.#heartbeats.now()),
    ];
    await this.#bus.flush();
    if (!this.#closed) this.#heartbeats.start();
  }

  /**
   * Take nothing new, and wait until every attempt has ended and was acknowledged, or `graceMs` have passed; then
   * what still runs is stopped and reported as lost, so that its owner has it replayed elsewhere. Call `close`
   * afterwards.
   */
  drain(graceMs: number): Promise<void> {
    if (this.#drained !== undefined) return this.#drained.promise;
    this.#drained = Promise.withResolvers();
    if (this.#phase === 'new' || this.#closed) this.#drained.resolve();
    else {
      this.#phase = 'draining';
      this.#heartbeats.now();
      this.#cancelGrace = this.#clock.after(graceMs, () => this.#graceOver(), true);
      this.#noteGone();
    }
    return this.#drained.promise;
  }

  /** Stop every attempt and leave the bus. Nothing is told: owners find out by probing. */
  close(): void {
    if (this.#closed) return;
    this.#phase = 'closed';
    this.#heartbeats.stop();
    this.#cancelSweep?.();
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    for (const attempt of this.#attempts.values()) attempt.stop();
    this.#attempts.clear();
    this.#noteGone();
  }

  get #closed(): boolean {
    return this.#phase === 'closed';
  }

  // ---- what owners say -----------------------------------------------------------------------------------

  #take(message: Message): void {
    if (this.#closed) return;
    if (isPing(message.body)) {
      answer(message, 0, {});
      return;
    }
    if (isAckReports(message.body)) return this.#hearAcks(message.body);
    const command = commandOf(message.body);
    if (command === undefined) return this.#losses?.dropped('command');
    if (command.t === 'offer') return this.#offer(command, message);
    const attempt = this.#attempts.get(command.attempt);
    if (attempt === undefined) {
      if (command.t === 'probe' || command.t === 'stop') this.#tombstones.add(command.attempt);
      if (command.t === 'probe') answer<ProbeAnswer>(message, command.epoch, { running: false, received: 0 });
      return;
    }
    if (attempt.admits(command.epoch)) return this.#obey(attempt, command, message);
    if (command.t === 'probe') refuse(message, attempt.epoch, fenced(attempt.epoch));
  }

  #hearAcks({ acks }: AckReports): void {
    for (const [id, epoch, ack] of acks) {
      const attempt = this.#attempts.get(id);
      if (attempt?.admits(epoch)) this.#acknowledge(attempt, ack);
    }
  }

  #obey(attempt: Attempt, command: Exclude<RuntimeCommand, Offer>, message: Message): void {
    switch (command.t) {
      case 'deliver':
        attempt.deliver(command.from, command.deliveries);
        return this.#acknowledge(attempt, command.ack);
      case 'stop':
        return this.#forget(attempt);
      case 'probe':
        answer<ProbeAnswer>(message, command.epoch, {
          running: true,
          received: attempt.received,
          acknowledged: attempt.acknowledged,
        });
        return attempt.reattach();
    }
  }

  #acknowledge(attempt: Attempt, n: number): void {
    attempt.acknowledge(n);
    if (attempt.settled) this.#forget(attempt);
  }

  #forget(attempt: Attempt): void {
    attempt.stop();
    this.#attempts.delete(attempt.id);
    this.#tombstones.add(attempt.id); // H1
    this.#noteGone();
  }

  #noteGone(): void {
    if (this.#attempts.size > 0) return;
    this.#cancelGrace?.();
    this.#drained?.resolve();
  }

  #graceOver(): void {
    for (const attempt of this.#attempts.values()) attempt.abandon();
    this.#drained?.resolve();
  }

  // ---- offers --------------------------------------------------------------------------------------------

  #offer(offer: Offer, message: Message): void {
    const { epoch } = offer;
    const aboard = this.#attempts.get(offer.attempt);
    if (aboard !== undefined && !aboard.admits(epoch))
      return refuse(message, aboard.epoch, fenced(aboard.epoch));
    const why = aboard === undefined ? this.#refusal(offer) : undefined;
    if (why !== undefined) return refuse(message, epoch, why);
    const accept = (report?: Report): boolean => {
      const { versions } = this.#sandbox;
      return answer<OfferAnswer>(message, epoch, report === undefined ? { versions } : { versions, report });
    };
    // The message has come twice: the attempt is aboard, and that is the answer (H1).
    if (aboard !== undefined) return void accept();
    if (message.respond === undefined) return;
    // An owner that cannot be told will offer another attempt: then this one must not run.
    const held = new HeldAnswer(accept, () => this.#forget(attempt));
    const subject = this.#subjects.sessionIn(offer.session, offer.attempt);
    const spans = tracing()
      ? new AttemptSpans(
          offer,
          message.trace,
          this.id,
          messageAttributes(this.#bus, 'process', message.subject),
        )
      : undefined;
    const attempt = new Attempt(offer, subject, this.#port, held, spans);
    this.#attempts.set(offer.attempt, attempt);
    this.#running++;
    this.#sweepLater();
    held.hold(this.#clock, this.#holdMs);
    if (attempt.running) attempt.start(this.#sandbox, specOf(offer));
    this.#heartbeats.noteLoad();
  }

  /** Why an offer is not accepted. Another runtime, or this one later, may accept another attempt. */
  #refusal(offer: Offer): ReplyError | undefined {
    if (this.#tombstones.has(offer.attempt))
      return refusal('CANCELLED', 'this attempt was given up before it was accepted, or has ended'); // H2
    if (this.#phase !== 'open') return refusal('CLOSED', `runtime ${this.id} is draining`);
    const { versions } = this.#sandbox;
    if (offer.versions && !(versions && sameVersions(offer.versions, versions)))
      return refusal('ENGINE_MISMATCH', `runtime ${this.id} has other versions`, { versions });
    const load = this.#running;
    const full = load >= this.capacity || this.#keptBytes >= FULL_OUTBOXES * this.#maxUnacknowledgedBytes;
    if (!full) return undefined;
    this.#losses?.overloaded(load >= this.capacity ? 'runtime' : 'outbox');
    const details = { retryAfterMs: RETRY_AFTER_MS, load, capacity: this.capacity };
    return refusal('OVERLOADED', `runtime ${this.id} has no room`, details);
  }

  // ---- what it does by itself ----------------------------------------------------------------------------

  #beat(labels: Readonly<Record<string, string>>, intervalMs: number): void {
    const heartbeat = {
      runtime: this.id,
      labels,
      capacity: this.capacity,
      load: this.#running,
      draining: this.#phase === 'draining',
      versions: this.#sandbox.versions,
      intervalMs,
    } satisfies RuntimeHeartbeat;
    // Whoever misses the heartbeat draws the right conclusion.
    publishOrDrop(this.#bus, this.#subjects.runtimeHeartbeat(this.id), heartbeat);
  }

  #sweepLater(): void {
    if (this.#closed) return;
    this.#cancelSweep ??= this.#clock.after(this.#resendMs, () => this.#sweep());
  }

  /** H4. */
  #sweep(): void {
    this.#cancelSweep = undefined;
    const now = this.#clock.monotonic();
    for (const attempt of this.#attempts.values())
      if (attempt.sweep(now, this.#resendMs) >= this.#orphanMs) this.#forget(attempt); // H3
    if (this.#attempts.size > 0) this.#sweepLater();
  }
}

function specOf(offer: Offer): Omit<SandboxSpec, 'onReport' | 'onEnd' | 'onSeated'> {
  const { limits, tenant = offer.session } = offer;
  return {
    id: offer.attempt,
    source: offer.source,
    input: offer.input,
    state: offer.state,
    maxStateBytes: limits.maxStateBytes,
    seed: offer.seed,
    startTime: offer.startTime,
    tenantKey: tenant,
    share: offer.share,
    // Measured: 1 µs for 2 KB of source.
    key: `${tenant}#${hash('sha1', offer.source, 'base64')}`,
    isolation: offer.isolation,
    limits: offer.replay ? replayLimits(limits) : limits,
    alone: offer.alone,
    deliveries: offer.deliveries,
  };
}

function fenced(epoch: number): ReplyError {
  const message = `a newer owner, of epoch ${epoch}, has this attempt`;
  return { code: 'FENCED', message, retryable: false, outcome: 'not_started', details: { epoch } };
}
