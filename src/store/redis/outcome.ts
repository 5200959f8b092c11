/** What an error of Redis, or of the connection to it, says about the command that it answers. */

export type Verdict =
  /** Another node has the slot, or will soon: nothing was done here. */
  | { readonly kind: 'moved' }
  | { readonly kind: 'ask'; readonly address: string }
  /** Nothing was done; the same node may do it in a moment. */
  | { readonly kind: 'again' }
  /** The script is not known there; nothing was done. */
  | { readonly kind: 'noscript' }
  /** Nothing was done, for a reason that will last a while. */
  | { readonly kind: 'refused'; readonly reason: string; readonly stale: boolean }
  /** It may have been done. */
  | { readonly kind: 'lost'; readonly reason: string };

/**
 * Answers with which Redis refuses a command before it does any of it. Scripts are checked at their first
 * write, too.
 */
const REFUSALS = new Set([
  'LOADING',
  'READONLY',
  'MISCONF',
  'OOM',
  'NOREPLICAS',
  'CLUSTERDOWN',
  'MASTERDOWN',
  'BUSY',
  'NOAUTH',
  'WRONGPASS',
  'NOPERM',
]);

/** What ioredis says when it did not write the command. */
const NOT_WRITTEN = /^Stream isn't writeable|^Cluster isn't ready/;

export function judge(error: unknown): Verdict {
  const message = error instanceof Error ? error.message : String(error);
  const answered = error instanceof Error && error.name === 'ReplyError';
  if (!answered)
    return NOT_WRITTEN.test(message)
      ? { kind: 'refused', reason: 'the connection is not there', stale: false }
      : { kind: 'lost', reason: message };
  const [code = '', , address = ''] = message.split(' ');
  if (code === 'MOVED') return { kind: 'moved' };
  if (code === 'ASK') return { kind: 'ask', address };
  if (code === 'TRYAGAIN') return { kind: 'again' };
  if (code === 'NOSCRIPT') return { kind: 'noscript' };
  if (REFUSALS.has(code)) return { kind: 'refused', reason: message, stale: code === 'READONLY' };
  return { kind: 'lost', reason: message };
}

/** Whether a server will not have us whatever we try. */
export function isCredentialError(error: unknown): boolean {
  return (
    error instanceof Error && /^(?:WRONGPASS|NOAUTH|NOPERM|ERR invalid password|ERR AUTH)/.test(error.message)
  );
}
