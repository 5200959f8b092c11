/** `enclave sessions`: look at sessions, move them about and end them. */
import type { NatsOptions } from '../bus/nats.ts';
import { EnclaveClient } from '../client.ts';
import type { SessionListed } from '../protocol.ts';

export interface Cluster {
  readonly nats: NatsOptions;
  readonly namespace: string | undefined;
  /** Print JSON, one value a line. */
  readonly json: boolean;
}

const COLUMNS = ['SESSION', 'STATUS', 'OWNER', 'EPOCH', 'EVENTS', 'RUNS', 'LAST ACTIVITY', 'LABELS'] as const;

export async function listSessions(cluster: Cluster): Promise<void> {
  await using client = clientOf(cluster);
  const rows: (readonly string[])[] = [COLUMNS];
  for await (const session of client.sessions()) {
    if (cluster.json) print(session);
    else rows.push(row(session));
  }
  if (!cluster.json) process.stdout.write(table(rows));
}

export async function showSession(id: string, cluster: Cluster): Promise<void> {
  await using client = clientOf(cluster);
  await client.connect();
  const info = await client.session(id).info();
  if (cluster.json) return print(info);
  const { executions, labels, state, ...rest } = info;
  for (const [name, value] of Object.entries(rest)) line(name, String(value ?? '-'));
  line('labels', labelsText(labels) || '-');
  line('state', JSON.stringify(state));
  for (const { id: execution, status } of executions) line('execution', `${execution}  ${status}`);
}

/** Print what is kept, and, with `follow`, what comes, until the process is interrupted. */
export async function printEvents(
  id: string,
  cluster: Cluster,
  { fromSeq, follow }: { readonly fromSeq: number | 'first'; readonly follow: boolean },
): Promise<void> {
  await using client = clientOf(cluster);
  await client.connect();
  const session = client.session(id);
  const { seq } = await session.info();
  const controller = new AbortController();
  process.once('SIGINT', () => controller.abort());
  const none = fromSeq === 'first' ? seq === 0 : fromSeq > seq;
  if (!follow && none) return;
  for await (const event of session.events({ fromSeq, signal: controller.signal })) {
    if (cluster.json) print(event);
    else
      process.stdout.write(
        `${String(event.seq).padStart(6)}  ${event.type.padEnd(20)} ${JSON.stringify(event.payload)}\n`,
      );
    if (!follow && event.seq >= seq) return;
  }
}

export async function migrateSession(id: string, to: string | undefined, cluster: Cluster): Promise<void> {
  await using client = clientOf(cluster);
  await client.connect();
  const { owner, epoch } = await client.session(id).migrate({ to });
  if (cluster.json) return print({ session: id, owner, epoch });
  process.stdout.write(`${id} is owned by ${owner} in epoch ${epoch}\n`);
}

export async function closeSession(id: string, cluster: Cluster): Promise<void> {
  await using client = clientOf(cluster);
  await client.connect();
  await client.session(id).close();
  if (cluster.json) return print({ session: id, status: 'closed' });
  process.stdout.write(`${id} is closed\n`);
}

export async function deleteSession(id: string, cluster: Cluster): Promise<void> {
  await using client = clientOf(cluster);
  await client.connect();
  await client.session(id).delete();
  if (cluster.json) return print({ session: id, status: 'deleted' });
  process.stdout.write(`${id} is gone\n`);
}

/** Print the journal of an execution, for a file: JSON whether it was asked for or not. */
export async function printJournal(id: string, execution: string, cluster: Cluster): Promise<void> {
  await using client = clientOf(cluster);
  const journal = await client.journal(execution, { sessionId: id });
  process.stdout.write(`${JSON.stringify(journal, undefined, cluster.json ? undefined : 2)}\n`);
}

function clientOf({ nats, namespace }: Cluster): EnclaveClient {
  return new EnclaveClient({ serverUrl: nats, namespace, timeout: 10_000 });
}

function row(listed: SessionListed): readonly string[] {
  const { session, status, owner = '-', epoch, seq, executions, lastActivityAt, labels } = listed;
  const at = new Date(lastActivityAt).toISOString();
  return [session, status, owner, String(epoch), String(seq), String(executions), at, labelsText(labels)];
}

const labelsText = (labels: Readonly<Record<string, string>>): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');

function table(rows: readonly (readonly string[])[]): string {
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((cells) => cells[column]?.length ?? 0)));
  return rows
    .map(
      (cells) =>
        `${cells
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}

const print = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const line = (name: string, text: string): void => void process.stdout.write(`${name.padEnd(12)}${text}\n`);
