/** A session as a new owner finds it in the store. */
import type { SessionContext } from '../../actors/sessiondata.ts';
import type { SessionInfoAnswer, SessionLimits, SessionListed } from '../protocol.ts';
import type { Isolation } from '../sandbox/messages.ts';
import type { SessionRecord, Store } from '../store/store.ts';
import { tenantOf } from './admitted.ts';
import { SessionJournal } from './journal.ts';
import type { LiveExecution } from './live.ts';
import type { DecodedSnapshot } from './snapshot.ts';
import type { Snapshots } from './versions.ts';

export interface LoadedSession {
  readonly snapshot: DecodedSnapshot;
  readonly state: string;
  readonly meta: {
    readonly tools: readonly string[] | undefined;
    readonly isolation: Isolation;
    readonly limits: SessionLimits;
    readonly redactEvents?: boolean | undefined;
  };
  readonly live: ReadonlyMap<string, LiveExecution>;
}

export async function loadSession(
  store: Store,
  snapshots: Pick<Snapshots, 'decode'>,
  record: SessionRecord,
  fields: Readonly<Record<string, string>>,
): Promise<LoadedSession> {
  const snapshot = snapshots.decode(record.snapshot);
  const { tools, isolation, limits, redactEvents } = JSON.parse(fields.meta ?? '{}') as LoadedSession['meta'];
  const live = new Map<string, LiveExecution>();
  for (const { id } of snapshot.context.executions) {
    const spec = JSON.parse(fields[`spec:${id}`] ?? '{}') as Pick<LiveExecution, 'seed' | 'limits' | 'trace'>;
    live.set(id, {
      source: fields[`source:${id}`] ?? '',
      input: fields[`input:${id}`] ?? '',
      seed: spec.seed,
      limits: spec.limits,
      trace: spec.trace,
      base: fields[`base:${id}`],
      journal: SessionJournal.read(await store.readJournal(record.session, id)),
    });
  }
  return { snapshot, state: fields.state ?? '{}', meta: { tools, isolation, limits, redactEvents }, live };
}

/** What can be told of a session that nobody owns. */
export function storedInfo(
  { value, context }: DecodedSnapshot,
  record: SessionRecord,
  state: string,
): SessionInfoAnswer {
  return {
    session: record.session,
    status: value,
    epoch: record.epoch,
    broker: undefined,
    runtime: context.runtime,
    seq: record.seq,
    version: record.version,
    state,
    labels: context.settings.labels,
    tenant: tenantOf(context.settings.tenant),
    durability: 'session',
    executions: executionsOf(context),
  };
}

/** What a list of sessions tells of one. */
export function listed(
  { value, context }: DecodedSnapshot,
  { session, owner, epoch, seq }: SessionRecord,
): SessionListed {
  const { settings, executions, lastActivityAt } = context;
  const { labels } = settings;
  return { session, status: value, owner, epoch, seq, labels, executions: executions.length, lastActivityAt };
}

export function executionsOf({ finished, executions }: SessionContext): SessionInfoAnswer['executions'] {
  return [
    ...finished.map(({ id, ok }) => ({ id, status: ok ? ('succeeded' as const) : ('failed' as const) })),
    ...executions.map(({ id, phase }) => ({ id, status: phase === 'placing' ? ('queued' as const) : phase })),
  ];
}
