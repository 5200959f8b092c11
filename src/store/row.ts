/**
 * One session in memory. There may be 100,000 at rest, so whatever a session does not have is `undefined` and no
 * empty collection.
 */
import { EventLog } from './eventlog.ts';
import { type Operations, remember } from './operations.ts';
import type { Commit, Creation, SessionRecord } from './store.ts';
import type { Waking } from './wakes.ts';

export class Row implements Waking {
  readonly session: string;
  /** The operation that created it. */
  readonly creation: string;
  owner: string | undefined;
  epoch = 1;
  /** Of the owner's acquisition; empty if nobody owns it. */
  nonce: string;
  version = 1;
  snapshot: string;
  publishedSeq = 0;
  work = false;
  wakeAt: number | undefined = undefined;
  place = -1;
  log: EventLog | undefined = undefined;
  operations: Operations | undefined = undefined;
  fields: Map<string, string> | undefined = undefined;
  journals: Map<string, string[]> | undefined = undefined;

  constructor({ session, operation, owner, nonce, snapshot, fields }: Creation) {
    this.session = session;
    this.creation = operation;
    this.owner = owner;
    this.nonce = nonce;
    this.snapshot = snapshot;
    if (fields !== undefined) writeFields(this, fields);
  }

  get seq(): number {
    return this.log?.seq ?? 0;
  }
}

/** Whether it is owned by that acquisition. */
export function isOwned(row: Row, owner: string, epoch: number, nonce: string): boolean {
  return row.owner === owner && row.epoch === epoch && row.nonce === nonce;
}

export function recordOf(row: Row): SessionRecord {
  return {
    session: row.session,
    owner: row.owner,
    epoch: row.epoch,
    version: row.version,
    snapshot: row.snapshot,
    seq: row.seq,
    firstSeq: row.log?.firstSeq ?? 1,
    publishedSeq: row.publishedSeq,
  };
}

/** Write what a commit has for the session itself: all but its place in the indexes. It was checked: nothing here fails. */
export function write(row: Row, commit: Commit, maxEvents: number): void {
  row.version += 1;
  row.operations = remember(row.operations, row.version, commit.operation);
  row.snapshot = commit.snapshot;
  row.publishedSeq = commit.publishedSeq;
  if (commit.fields !== undefined) writeFields(row, commit.fields);
  if (commit.events.length > 0) (row.log ??= new EventLog()).append(commit.events, maxEvents);
  if (commit.journal !== undefined || commit.forget !== undefined) writeJournals(row, commit);
  row.work = commit.work;
  if (commit.release === true) {
    row.owner = undefined;
    row.nonce = '';
  }
}

function writeFields(row: Row, fields: Readonly<Record<string, string | null>>): void {
  const all = row.fields ?? new Map<string, string>();
  for (const [name, text] of Object.entries(fields)) {
    if (text === null) all.delete(name);
    else all.set(name, text);
  }
  row.fields = all.size === 0 ? undefined : all;
}

/** What one commit both appends to and forgets is gone afterwards. */
function writeJournals(row: Row, { journal = [], forget = [] }: Commit): void {
  const all = row.journals ?? new Map<string, string[]>();
  for (const { execution, entries } of journal) {
    const before = all.get(execution);
    if (before !== undefined) for (const entry of entries) before.push(entry);
    else if (entries.length > 0) all.set(execution, [...entries]);
  }
  for (const execution of forget) all.delete(execution);
  row.journals = all.size === 0 ? undefined : all;
}
