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
