/**
 * What of an error or a text may stand in a log.
 *
 * Invariants:
 *  R1  Credentials in urls never do, wherever they stand.
 *  R2  Of an error that is none of ours only its kind, code, message and the lines of its stack do, and those of its
 *      causes: other properties may be anything, such as the options of a connection with its password.
 *  R3  Whoever logs hands over no script text, arguments, results or output: nothing here could tell them from other text.
 */

/** `scheme://user:password@`: what is left is the scheme. A token may stand for both. */
const CREDENTIALS = /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/?#"'<>@]*(?:@[^\s/?#"'<>@]*)*@/gi;
const SHOWN = '[redacted]';
/** Causes of causes. */
const MAX_DEPTH = 4;
/** In UTF-16 units. */
const MAX_LENGTH = 8_192;
/** Properties that our errors and the platform's have, and that hold names, numbers and codes. */
const PLAIN = [
  'code',
  'subject',
  'key',
  'outcome',
  'retryable',
  'errno',
  'syscall',
  'address',
  'port',
] as const;

/** R1 */
function withoutCredentials(text: string): string {
  const shown = text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH)}…` : text;
  return shown.includes('@') ? shown.replace(CREDENTIALS, `$1${SHOWN}@`) : shown;
}

/** An error as a log line has it (R2). What is no error is told as text. */
export function errorShown(error: unknown, depth = MAX_DEPTH): object {
  if (!(error instanceof Error)) return { type: typeof error, message: withoutCredentials(textOf(error)) };
  const shown: Record<string, unknown> = {
    type: error.name,
    message: withoutCredentials(error.message),
    stack: withoutCredentials(error.stack ?? ''),
  };
  const known = error as Error & Readonly<Record<string, unknown>>;
  for (const key of PLAIN) {
    const value = known[key];
    if (typeof value === 'string') shown[key] = withoutCredentials(value);
    else if (typeof value === 'number' || typeof value === 'boolean') shown[key] = value;
  }
  if (error.cause !== undefined && depth > 1) shown.cause = errorShown(error.cause, depth - 1);
  return shown;
}

/** The fields of a log line: texts without credentials, errors by {@link errorShown}. Deeper values are left as they are. */
export function fieldsShown(fields: object): Record<string, unknown> {
  const shown: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(fields)) {
    if (typeof value === 'string') shown[key] = withoutCredentials(value);
    else shown[key] = value instanceof Error ? errorShown(value) : value;
  }
  return shown;
}

function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return '';
  }
}
