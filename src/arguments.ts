/** Checks of what callers hand in that more than one door makes. Each throws INVALID_ARGUMENT naming the key. */
import { invalidArgument } from './errors.ts';
import type { Isolation } from './sandbox/messages.ts';

const ISOLATIONS: readonly Isolation[] = ['process', 'execution', 'context', 'realm'];

/** An object of known keys. */
export function checkKeys(value: object, known: readonly string[], path: string): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalidArgument(path, 'must be an object');
  for (const key of Object.keys(value)) {
    if (!known.includes(key))
      throw invalidArgument(`${path}.${key}`, `unknown option; known ones are ${known.join(', ')}`);
  }
}

/** One of the known words, or nothing. */
export function oneOf<T extends string>(
  value: T | undefined,
  known: readonly T[],
  key: string,
): T | undefined {
  if (value !== undefined && !known.includes(value))
    throw invalidArgument(key, `must be one of ${known.join(', ')}, not ${String(value)}`);
  return value;
}

export function checkIsolation(isolation: Isolation | undefined, key: string): Isolation | undefined {
  return oneOf(isolation, ISOLATIONS, key);
}

export function checkSignal(signal: unknown, key: string): void {
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw invalidArgument(key, 'must be an AbortSignal');
}

/** What a system or an Enclave reports to. */
export function checkObservers(
  { logger, registry }: { readonly logger?: unknown; readonly registry?: unknown },
  path: string,
): void {
  if (logger !== undefined && typeof (logger as { child?: unknown } | null)?.child !== 'function')
    throw invalidArgument(`${path}.logger`, 'must be a pino logger');
  if (
    registry !== undefined &&
    typeof (registry as { getSingleMetric?: unknown } | null)?.getSingleMetric !== 'function'
  )
    throw invalidArgument(`${path}.registry`, 'must be a prom-client registry');
}

/** The JSON text of a value. */
export function jsonOf(value: unknown, key: string): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    throw invalidArgument(key, 'is not JSON data', error);
  }
  if (json === undefined) throw invalidArgument(key, `is not JSON data but a ${typeof value}`);
  return json;
}

/** An execution's `input` as JSON; '' for none. */
export function inputJson(input: unknown, maxToolPayloadBytes: number): string {
  if (input === undefined) return '';
  const json = jsonOf(input, 'options.input');
  if (Buffer.byteLength(json) > maxToolPayloadBytes)
    throw invalidArgument('options.input', `is larger than maxToolPayloadBytes (${maxToolPayloadBytes})`);
  return json;
}

const MAX_LABELS = 64;
const MAX_LABEL_LENGTH = 256;

/** Labels: an object of strings, at most 64; keys of 1 to 256 characters, values of 0 to 256. Undefined: none. */
export function labelsOf(labels: unknown, key: string): Readonly<Record<string, string>> {
  if (labels === undefined) return {};
  if (!isRecord(labels)) throw invalidArgument(key, 'must be an object of strings');
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) throw invalidArgument(key, `has more than ${MAX_LABELS} entries`);
  for (const [name, value] of entries) {
    if (name === '' || name.length > MAX_LABEL_LENGTH)
      throw invalidArgument(key, `has a key that is not of 1 to ${MAX_LABEL_LENGTH} characters`);
    if (typeof value !== 'string' || value.length > MAX_LABEL_LENGTH)
      throw invalidArgument(`${key}.${name}`, `must be a string of 0 to ${MAX_LABEL_LENGTH} characters`);
  }
  // Entries, not a spread: "__proto__" is a key like any other.
  return Object.fromEntries(entries) as Record<string, string>;
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
