/**
 * What runtimes, brokers and providers say beside reports, checked: heartbeats, answers, the ends of calls. Each
 * speaks under its own id, and the subject says which that is where the servers see to it that nobody else can use it.
 *
 * Invariants:
 *  D1  A heartbeat counts for the id in its subject and for no other.
 *  D2  A provider speaks of calls of the session in whose subject it does.
 *  D3  Nobody can fill the log by sending nonsense: of what is dropped, one in {@link QUIET_MS} is told, with a count.
 */
import type { Versions } from '../../actors/attempt.ts';
import type { Clock } from '../clock.ts';
import { type DeadLetter, type Losses, UNCOUNTED } from '../losses.ts';
import type {
  BrokerHeartbeat,
  CallEnd,
  ProviderMessage,
  Reply,
  ReplyError,
  RuntimeHeartbeat,
} from '../protocol.ts';
import { TOOLS } from '../subjects.ts';
import type { Notify } from './notice.ts';
import {
  type Fields,
  isCode,
  isCount,
  isId,
  isJson,
  isLabels,
  isMeasure,
  isRecord,
  isText,
} from './shapes.ts';

/** Silence after a notice of a dropped message, in ms. */
const QUIET_MS = 1_000;
/** Longest interval between heartbeats, in ms: one that is gone is missed after a few of them. */
const MAX_INTERVAL_MS = 600_000;
const MAX_VERSION_LENGTH = 256;
const INDEX = /^(?:0|[1-9]\d{0,14})$/;

/** The heartbeat that a body is, or the field that is wrong. `id` is the one in its subject (D1). */
export function runtimeBeatOf(body: unknown, id: string): RuntimeHeartbeat | string {
  if (!isRecord(body)) return 'body';
  const beat = body as Fields<RuntimeHeartbeat>;
  if (beat.runtime !== id || !isId(id)) return 'runtime';
  if (!isLabels(beat.labels)) return 'labels';
  if (!isCount(beat.capacity)) return 'capacity';
  if (!isCount(beat.load)) return 'load';
  if (typeof beat.draining !== 'boolean') return 'draining';
  if (beat.versions !== undefined && !isVersions(beat.versions)) return 'versions';
  return isInterval(beat.intervalMs) ? (body as unknown as RuntimeHeartbeat) : 'intervalMs';
}

/** As {@link runtimeBeatOf}. */
export function brokerBeatOf(body: unknown, id: string): BrokerHeartbeat | string {
  if (!isRecord(body)) return 'body';
  const beat = body as Fields<BrokerHeartbeat>;
  if (beat.broker !== id || !isId(id)) return 'broker';
  if (!isCount(beat.sessions)) return 'sessions';
  if (beat.waiting !== undefined && !isCount(beat.waiting)) return 'waiting';
  if (typeof beat.draining !== 'boolean') return 'draining';
  if (beat.snapshot !== undefined && !isSnapshotVersions(beat.snapshot)) return 'snapshot';
  return isInterval(beat.intervalMs) ? (body as unknown as BrokerHeartbeat) : 'intervalMs';
}

/** The id in `<…>.<id>.heartbeat`. */
export function speakerOf(subject: string): string {
  return subject.split('.').at(-2) ?? '';
}

/** The last token: an attempt, or `tools`. */
export function lastOf(subject: string): string {
  return subject.slice(subject.lastIndexOf('.') + 1);
}

/** What a provider says, or the field that is wrong. `session` stands in its subject (D2). */
export function providerMessageOf(body: unknown, session: string): ProviderMessage | string {
  if (!isRecord(body)) return 'body';
  const message = body as Fields<ProviderMessage> & { readonly [field: string]: unknown };
  if (message.t !== 'ended' && message.t !== 'alive') return 't';
  if (!isKeyOf(session, message.key)) return 'key';
  if (!isId(message.provider)) return 'provider';
  if (message.t === 'alive') return body as unknown as ProviderMessage;
  if (!isMeasure(message.durationMs)) return 'durationMs';
  return isCallEnd(message.end) ? (body as unknown as ProviderMessage) : 'end';
}

/** `session/execution/index`. */
function isKeyOf(session: string, key: unknown): key is string {
  if (!isText(key)) return false;
  const [own, execution, index = '', ...more] = key.split('/');
  return own === session && isId(execution) && INDEX.test(index) && more.length === 0;
}

function isCallEnd(value: unknown): value is CallEnd {
  if (!isRecord(value)) return false;
  const { ok, json, code, message } = value;
  if (ok === true) return isJson(json);
  if (ok === false) return isCode(code) && isText(message);
  return ok === 'not_started' || ok === 'unknown';
}

/** The answer that a body is; undefined if it is none, or if its value is not as it should be. */
export function replyOf<T>(body: unknown, isValue: (value: unknown) => boolean): Reply<T> | undefined {
  if (!isRecord(body) || !isCount(body.epoch)) return undefined;
  if (body.ok === true) return isValue(body.value) ? (body as unknown as Reply<T>) : undefined;
  return body.ok === false && isReplyError(body.error) ? (body as unknown as Reply<T>) : undefined;
}

function isReplyError(value: unknown): value is ReplyError {
  return (
    isRecord(value) && isCode(value.code) && isText(value.message) && typeof value.retryable === 'boolean'
  );
}

export const isOfferAnswer = isRecord;
export const isProbeAnswer = (value: unknown): boolean =>
  isRecord(value) &&
  typeof value.running === 'boolean' &&
  isCount(value.received) &&
  (value.acknowledged === undefined || isCount(value.acknowledged));
export const isCallTaken = (value: unknown): boolean =>
  isRecord(value) && isId(value.provider) && (value.ended === undefined || isEnded(value.ended));
const isEnded = (value: unknown): boolean =>
  isRecord(value) && isMeasure(value.durationMs) && isCallEnd(value.end);
export const isProbedCalls = (value: unknown): boolean =>
  isRecord(value) && Array.isArray(value.missing) && value.missing.every(isText);

function isVersions(value: unknown): value is Versions {
  if (!isRecord(value)) return false;
  const { engine, prelude, stripper } = value as Fields<Versions>;
  return [engine, prelude, stripper].every((each) => isText(each) && each.length <= MAX_VERSION_LENGTH);
}

function isSnapshotVersions(value: unknown): boolean {
  if (!isRecord(value)) return false;
  return [value.reads, value.writes].every((version) => isCount(version) && version >= 1);
}

function isInterval(value: unknown): value is number {
  return isMeasure(value) && value >= 1 && value <= MAX_INTERVAL_MS;
}

/** Tells the operator of messages that were dropped (D3). */
export class Dropped {
  readonly #clock: Pick<Clock, 'monotonic'>;
  readonly #notify: Notify;
  readonly #losses: Pick<Losses, 'dropped'>;
  #count = 0;
  #toldAt = Number.NEGATIVE_INFINITY;

  constructor(clock: Pick<Clock, 'monotonic'>, notify: Notify, losses: Pick<Losses, 'dropped'> = UNCOUNTED) {
    this.#clock = clock;
    this.#notify = notify;
    this.#losses = losses;
  }

  /** `field` is the one that was wrong. */
  note(subject: string, field: string): void {
    this.#count++;
    this.#losses.dropped(letterOf(subject));
    const now = this.#clock.monotonic();
    if (now - this.#toldAt < QUIET_MS) return;
    this.#toldAt = now;
    this.#notify({ type: 'message.dropped', subject, field, count: this.#count });
    this.#count = 0;
  }
}

/** What was meant to be said where this was. */
function letterOf(subject: string): DeadLetter {
  const last = lastOf(subject);
  if (last === TOOLS) return 'provider';
  return last === 'heartbeat' ? 'heartbeat' : 'report';
}
