/** What a value that came from outside is, for the checks of messages. Nothing here throws, whatever it is given. */
import { ID } from '../subjects.ts';

const MAX_LABELS = 64;
const MAX_LABEL_LENGTH = 256;
/** Codes of errors: also of such as a newer version may have. */
const CODE = /^[A-Z][A-Z0-9_]{0,63}$/;

/** The fields of a type, of which nothing is known yet. */
export type Fields<T> = T extends unknown ? { readonly [K in keyof T]?: unknown } : never;

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** It may be part of a subject or a key. */
export function isId(value: unknown): value is string {
  return typeof value === 'string' && ID.test(value);
}

export function isText(value: unknown): value is string {
  return typeof value === 'string';
}

export function isCode(value: unknown): value is string {
  return typeof value === 'string' && CODE.test(value);
}

/** A whole number from 0. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** A number from 0. */
export function isMeasure(value: unknown): value is number {
  return Number.isFinite(value) && (value as number) >= 0;
}

/** JSON, or '' for none. */
export function isJson(value: unknown): value is string {
  if (typeof value !== 'string') return false;
  if (value === '') return true;
  try {
    JSON.parse(value);
    return true;
  } catch {
    return false;
  }
}

/** JSON of an object. */
export function isJsonObject(value: unknown): value is string {
  if (typeof value !== 'string') return false;
  try {
    return isRecord(JSON.parse(value));
  } catch {
    return false;
  }
}

/** At most 64, keys of 1 to 256 characters, values of 0 to 256. */
export function isLabels(value: unknown): value is Readonly<Record<string, string>> {
  if (!isRecord(value)) return false;
  const labels = Object.entries(value);
  return (
    labels.length <= MAX_LABELS &&
    labels.every(
      ([key, label]) =>
        key.length >= 1 &&
        key.length <= MAX_LABEL_LENGTH &&
        typeof label === 'string' &&
        label.length <= MAX_LABEL_LENGTH,
    )
  );
}
