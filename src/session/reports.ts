/**
 * What runtimes report, checked. A runtime runs beside hostile code and may have fallen to it: whatever it sends, the
 * owner neither throws nor stores what cannot be read again.
 *
 * Invariants:
 *  C1  A report speaks for the attempt in whose subject it came, and for no other.
 *  C2  Every field that is used has its type; every text that is taken for JSON is JSON.
 *  C3  What is not known here is let pass and not used, so that newer runtimes can say more.
 *
 * Order and numbers of reports are for attempts.ts, what a script may do next is for the machine. Measured: under 1 µs
 * for a report with a call, beside the parsing of the returned value.
 */
import type { AttemptEnd, ScriptItem, Usage } from '../../actors/attempt.ts';
import type { Report, SessionLimits } from '../protocol.ts';
import {
  type Fields,
  isCode,
  isCount,
  isId,
  isJson,
  isJsonObject,
  isMeasure,
  isRecord,
  isText,
} from './shapes.ts';

const LEVELS: readonly unknown[] = ['', 'debug', 'info', 'warn', 'error'];
/** Longest timer of the platform, in ms: what sandboxes cap sleeps at. */
const MAX_SLEEP_MS = 2_147_483_647;

/** The report that a body is, or why it is none. `attempt` is the one in whose subject it came (C1). */
export function reportOf(body: unknown, attempt: string): Report | string {
  if (!isRecord(body)) return 'body';
  const report = body as Fields<Report>;
  if (report.t !== 'report') return 't';
  if (report.attempt !== attempt) return 'attempt'; // C1
  if (!isId(report.execution)) return 'execution';
  if (!isId(report.runtime)) return 'runtime';
  if (!isCount(report.n) || report.n < 1) return 'n';
  if (!isCount(report.received)) return 'received';
  if (typeof report.waiting !== 'boolean') return 'waiting';
  if (!Array.isArray(report.items)) return 'items';
  for (const [index, item] of report.items.entries()) {
    const wrong = wrongItem(item);
    if (wrong !== undefined) return `items[${index}].${wrong}`;
  }
  const wrong = report.end === undefined ? undefined : wrongEnd(report.end);
  return wrong === undefined ? (body as unknown as Report) : `end.${wrong}`;
}

/** The field that is wrong. */
function wrongItem(value: unknown): string | undefined {
  if (!isRecord(value)) return 'kind';
  const item = value as Fields<ScriptItem> & { readonly [field: string]: unknown };
  switch (item.kind) {
    case 'output':
      if (!LEVELS.includes(item.level)) return 'level';
      return isText(item.text) ? undefined : 'text';
    case 'call':
      if (!isCount(item.index)) return 'index';
      if (!isText(item.name)) return 'name';
      // That it is JSON is for the tool's provider to find out.
      return isText(item.json) ? undefined : 'json';
    case 'sleep':
      if (!isCount(item.index)) return 'index';
      return isMeasure(item.ms) && item.ms <= MAX_SLEEP_MS ? undefined : 'ms';
    case 'applied':
      return isCount(item.index) ? undefined : 'index';
    default:
      return 'kind';
  }
}

/** The field that is wrong. */
function wrongEnd(value: unknown): string | undefined {
  if (!isRecord(value)) return 'kind';
  const end = value as Fields<AttemptEnd> & { readonly [field: string]: unknown };
  switch (end.kind) {
    case 'returned':
      // Both become parts of what is stored.
      if (!isJson(end.json)) return 'json';
      if (end.state !== undefined && !isJsonObject(end.state)) return 'state';
      return isUsage(end.usage) ? undefined : 'usage';
    case 'failed':
      if (!isCode(end.code)) return 'code';
      if (!isText(end.name)) return 'name';
      if (!isText(end.message)) return 'message';
      if (!isText(end.stack)) return 'stack';
      return isUsage(end.usage) ? undefined : 'usage';
    case 'refused':
      if (!isCode(end.code)) return 'code';
      if (!isText(end.message)) return 'message';
      return isMeasure(end.retryAfterMs) ? undefined : 'retryAfterMs';
    case 'lost':
      return typeof end.alone === 'boolean' ? undefined : 'alone';
    case 'stopped':
      return undefined;
    default:
      return 'kind';
  }
}

function isUsage(value: unknown): value is Usage {
  return isRecord(value) && isMeasure(value.cpu) && isMeasure(value.heap);
}

/** The end, unless it holds more than the execution may return or keep: a runtime that is sound has seen to that. */
export function withinLimits(
  end: AttemptEnd | undefined,
  { maxResultBytes, maxStateBytes }: Pick<SessionLimits, 'maxResultBytes' | 'maxStateBytes'>,
): AttemptEnd | undefined {
  if (end?.kind !== 'returned') return end;
  const over = (text: string | undefined, most: number): boolean =>
    // Fewer units than a third are never more bytes: most texts need not be counted.
    text !== undefined && text.length * 3 > most && Buffer.byteLength(text) > most;
  const failed = (code: string, what: string, most: number): AttemptEnd => ({
    kind: 'failed',
    code,
    name: 'EnclaveError',
    message: `${what} is larger than ${most} bytes as JSON`,
    stack: '',
    usage: end.usage,
  });
  if (over(end.json, maxResultBytes)) return failed('RESULT_LIMIT_EXCEEDED', 'The result', maxResultBytes);
  if (over(end.state, maxStateBytes)) return failed('STATE_LIMIT_EXCEEDED', 'The state', maxStateBytes);
  return end;
}
