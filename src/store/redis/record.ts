/** The hash of a session, read: which of its fields are what of the port. */
import type { SessionRecord } from '../store.ts';

/** Before the names of the port's fields, so that they cannot be confused with the record's own. */
export const FIELD = ':';

/** What is read to decide about a session. */
export const HEAD = ['owner', 'epoch', 'work', 'wake', 'cover'] as const;

export interface SessionHead {
  readonly owner: string | undefined;
  readonly epoch: number;
  readonly work: boolean;
  readonly wakeAt: number | undefined;
  readonly cover: string;
}

/** Undefined if there is no such session. */
export function headOf(texts: readonly (string | null)[]): SessionHead | undefined {
  const [owner, epoch, work, wake, cover] = texts;
  if (typeof epoch !== 'string') return undefined;
  return {
    owner: ownerOf(owner),
    epoch: Number(epoch),
    work: work === '1',
    wakeAt: typeof wake === 'string' && wake !== '' ? Number(wake) : undefined,
    cover: cover ?? '0',
  };
}

/** What is read of a record. */
export const RECORD = ['owner', 'epoch', 'version', 'snapshot', 'seq', 'first', 'published'] as const;

/** Undefined if there is no such session. */
export function recordOf(session: string, texts: readonly (string | null)[]): SessionRecord | undefined {
  const [owner, epoch, version, snapshot, seq, first, published] = texts;
  if (typeof epoch !== 'string') return undefined;
  return {
    session,
    owner: ownerOf(owner),
    epoch: Number(epoch),
    version: Number(version),
    snapshot: snapshot ?? '',
    seq: Number(seq),
    firstSeq: Number(first),
    publishedSeq: Number(published),
  };
}

/** A record and all fields, from the whole hash: names and texts in turn. */
export function wholeOf(
  session: string,
  hash: readonly string[],
): { readonly record: SessionRecord | undefined; readonly fields: Readonly<Record<string, string>> } {
  const own = new Map<string, string>();
  const fields: [string, string][] = [];
  for (let at = 0; at + 1 < hash.length; at += 2) {
    const [name = '', text = ''] = [hash[at], hash[at + 1]];
    if (name.startsWith(FIELD)) fields.push([name.slice(FIELD.length), text]);
    else own.set(name, text);
  }
  const record = recordOf(
    session,
    RECORD.map((name) => own.get(name) ?? null),
  );
  return { record, fields: Object.fromEntries(fields) };
}

/** In Redis, nobody is an empty text. */
function ownerOf(owner: string | null | undefined): string | undefined {
  return owner === null || owner === undefined || owner === '' ? undefined : owner;
}
