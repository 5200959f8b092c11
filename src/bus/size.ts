/**
 * How large a body is: bytes of its JSON text in UTF-8, without making the text.
 *
 * Nearly every body is far from the cap, so a bound that costs a walk over its lengths is asked first; only what may
 * be too large is counted.
 */

/** A longer string is measured by the platform, which starts slowly and is fast then. In UTF-16 units. */
const SHORT_STRING = 48;
/** What is nested deeper is taken to be cyclic. */
const MAX_DEPTH = 1_000;
const NULL_BYTES = 4;

/**
 * Bytes of the JSON text of `value` in UTF-8, without making the text. Counting stops somewhere above `cap`, so the
 * cost has a bound; Infinity for what is nested more than 1,000 levels deep or cyclic. Exact for JSON data, with
 * what `JSON.stringify` makes of undefined and `toJSON`.
 */
function jsonBytes(value: unknown, cap: number, depth = MAX_DEPTH): number {
  switch (typeof value) {
    case 'string':
      return stringBytes(value, cap);
    case 'number':
      return numberBytes(value);
    case 'boolean':
      return value ? 4 : 5;
    case 'object':
      if (value === null) return NULL_BYTES;
      return depth === 0 ? Number.POSITIVE_INFINITY : objectBytes(value, cap, depth);
    case 'bigint':
      throw new TypeError('a bigint is not JSON data');
    default:
      return NULL_BYTES;
  }
}

function objectBytes(value: object, cap: number, depth: number): number {
  if ('toJSON' in value && typeof value.toJSON === 'function')
    return jsonBytes(value.toJSON(), cap, depth - 1);
  // Brackets and commas.
  let bytes = 1;
  if (Array.isArray(value)) {
    for (let at = 0; at < value.length && bytes <= cap; at++)
      bytes += 1 + jsonBytes(value[at], cap - bytes, depth - 1);
  } else {
    for (const key of Object.keys(value)) {
      if (bytes > cap) break;
      const item: unknown = (value as Readonly<Record<string, unknown>>)[key];
      if (item === undefined || typeof item === 'function' || typeof item === 'symbol') continue;
      bytes += stringBytes(key, cap - bytes) + 2 + jsonBytes(item, cap - bytes, depth - 1);
    }
  }
  return Math.max(bytes, 2);
}

function stringBytes(text: string, cap: number): number {
  if (text.length > cap) return text.length;
  if (text.length > SHORT_STRING) return Buffer.byteLength(JSON.stringify(text));
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    // A quote, a backslash, or a character that is escaped or longer than a byte.
    if (code < 32 || code > 126 || code === 34 || code === 92) return Buffer.byteLength(JSON.stringify(text));
  }
  return text.length + 2;
}

function numberBytes(value: number): number {
  if (!Number.isSafeInteger(value)) return Number.isFinite(value) ? String(value).length : NULL_BYTES;
  let bytes = value < 0 ? 2 : 1;
  for (let limit = 10; Math.abs(value) >= limit; limit *= 10) bytes++;
  return bytes;
}

/** Bytes that one UTF-16 unit takes at most, as an escape. */
const MAX_UNIT_BYTES = 6;
/** Longest text of a number. */
const MAX_NUMBER_BYTES = 25;

/** Whether the JSON text of `value` has at most `cap` bytes. False for what is nested too deep, or cyclic. */
export function fits(value: unknown, cap: number): boolean {
  return boundOf(value, cap, MAX_DEPTH) <= cap || jsonBytes(value, cap) <= cap;
}

/** Bytes that it takes at most; Infinity where only counting tells. */
function boundOf(value: unknown, cap: number, depth: number): number {
  switch (typeof value) {
    case 'string':
      return value.length * MAX_UNIT_BYTES + 2;
    case 'number':
      return MAX_NUMBER_BYTES;
    case 'object':
      return value === null ? NULL_BYTES : boundOfObject(value, cap, depth);
    case 'bigint':
      return Number.POSITIVE_INFINITY;
    default:
      return 5;
  }
}

function boundOfObject(value: object, cap: number, depth: number): number {
  if (depth === 0 || ('toJSON' in value && typeof value.toJSON === 'function'))
    return Number.POSITIVE_INFINITY;
  let bytes = 2;
  if (Array.isArray(value)) {
    for (let at = 0; at < value.length && bytes <= cap; at++) bytes += 1 + boundOf(value[at], cap, depth - 1);
    return bytes;
  }
  const record = value as Readonly<Record<string, unknown>>;
  for (const key in record) {
    if (bytes > cap) break;
    bytes += key.length * MAX_UNIT_BYTES + 4 + boundOf(record[key], cap, depth - 1);
  }
  return bytes;
}
