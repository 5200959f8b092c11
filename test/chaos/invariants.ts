/** What must hold whatever happened: see README.md. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import type { ExecutionEvent } from '../../src/index.ts';
import type { ChaosCluster } from './cluster.ts';
import type { Executed } from './load.ts';

export interface Landing {
  /** `session/execution/index`. */
  readonly key: string;
  readonly what: unknown;
  readonly pid: number;
}

/** What the tools of the pods wrote down under a name. */
export function landings(cluster: ChaosCluster, name: string): readonly Landing[] {
  const file = path.join(cluster.directory, `${name}.log`);
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Landing);
}

/** What was found, for those who want to print it. */
export interface Report {
  readonly sessions: number;
  readonly executions: number;
  readonly succeeded: number;
  readonly events: number;
  /** Events that were published more than once, as they may be. */
  readonly repeated: number;
  /** Published events that the observer missed, as it may while NATS is away. */
  readonly missed: number;
  /** Sessions that brokers took over with work in flight, as they logged it. */
  readonly takeovers: number;
  /** Those among them from a broker to which nothing had been done. */
  readonly falseTakeovers: number;
  /** Why brokers to which nothing had been done lost their leases: a machine that is too busy stands still. */
  readonly leasesLost: readonly string[];
}

interface Takeover {
  readonly session: string;
  readonly epoch: number;
  /** Something had been done to the broker that it was taken from. */
  readonly justified: boolean;
}

/** Sessions that were taken from a broker that had not given them up. */
function takeoversOf({ brokers }: ChaosCluster): readonly Takeover[] {
  return brokers.flatMap(({ pod }) =>
    pod.logged('session taken over').map(({ time, session, epoch, from }) => {
      const at = Number(time) - pod.skewMs;
      const former = brokers.find(({ id }) => String(from).startsWith(`${id.slice(0, 40)}-`));
      return {
        session: String(session),
        epoch: Number(epoch),
        justified: former === undefined || former.wasHarmed(at),
      };
    }),
  );
}

export async function checkInvariants(cluster: ChaosCluster, executed: readonly Executed[]): Promise<Report> {
  const sessions = [...new Set(executed.map(({ session }) => session))];
  const once = landings(cluster, 'once');
  const counts = { events: 0, repeated: 0, missed: 0 };
  for (const session of sessions) {
    const of = executed.filter((each) => each.session === session);
    const log = await logOf(cluster, session);
    checkLog(session, log);
    checkObserved(cluster, session, log, counts);
    checkExecutions(session, of, log);
    await checkState(cluster, session, of);
    counts.events += log.length;
  }
  checkLandings(executed, once);
  const taken = takeoversOf(cluster);
  const falseTakeovers = taken.filter(({ justified }) => !justified).length;
  const epochs = taken.map(({ session, epoch }) => `${session} in epoch ${epoch}`);
  expect(new Set(epochs).size, 'each epoch has one owner').toBe(epochs.length); // I1
  const succeeded = executed.filter(({ result }) => result.success).length;
  const executions = executed.length;
  return {
    sessions: sessions.length,
    executions,
    succeeded,
    takeovers: taken.length,
    falseTakeovers,
    leasesLost: leasesLostBy(cluster),
    ...counts,
  };
}

function leasesLostBy({ brokers }: ChaosCluster): readonly string[] {
  return brokers.flatMap((broker) =>
    broker.pod
      .logged('the lease is lost')
      .filter(({ time }) => !broker.wasHarmed(Number(time) - broker.pod.skewMs))
      .map(({ reason }) => String(reason)),
  );
}

/** The texts of a session's log, by number from 1, read from the store. */
export async function logOf(cluster: ChaosCluster, session: string): Promise<readonly string[]> {
  const store = await cluster.store();
  const texts: string[] = [];
  for (;;) {
    const page = await store.readEvents(session, texts.length + 1, 500);
    if (page === undefined || page.events.length === 0) return texts;
    texts.push(...page.events);
  }
}

/** I1, I4 */
function checkLog(session: string, log: readonly string[]): void {
  const numbers = log.map((text) => (JSON.parse(text) as ExecutionEvent).seq);
  expect(numbers, `the log of ${session}`).toEqual(log.map((_, index) => index + 1));
}

/** I4: what was published is what was committed. */
function checkObserved(
  cluster: ChaosCluster,
  session: string,
  log: readonly string[],
  counts: { repeated: number; missed: number },
): void {
  const seen = new Set<number>();
  for (const { seq, text } of cluster.observer.heard(session)) {
    if (seen.has(seq)) counts.repeated++;
    seen.add(seq);
    expect(JSON.parse(text), `event ${seq} of ${session} as it was published`).toEqual(
      JSON.parse(log[seq - 1] ?? 'null'),
    );
  }
  counts.missed += log.length - seen.size;
}

/** I2, I5 */
function checkExecutions(session: string, executed: readonly Executed[], log: readonly string[]): void {
  const events = log.map((text) => JSON.parse(text) as ExecutionEvent);
  for (const { execution, acknowledged, result } of executed) {
    const own = events.filter(({ executionId }) => executionId === execution);
    const begun = own.filter(({ type }) => type === 'session_init').length;
    const ended = own.filter(({ type }) => type === 'final').length;
    const what = `execution ${execution} of ${session}`;
    if (acknowledged || begun > 0)
      expect([begun, ended], `${what}: its beginning and its end`).toEqual([1, 1]);
    const calls = own.filter(({ type }) => type === 'tool_call').map(({ payload }) => payload);
    const indexes = calls.map((payload) => (payload as { readonly callId?: string }).callId);
    expect(new Set(indexes).size, `${what}: each call once`).toBe(indexes.length);
    if (result.success) expect(begun, `${what} succeeded, so it began`).toBe(1);
  }
}

/** I5: the state counts every success, and nothing else. */
async function checkState(
  cluster: ChaosCluster,
  session: string,
  executed: readonly Executed[],
): Promise<void> {
  const succeeded = executed.flatMap(({ result, input }) =>
    result.success ? [{ value: result.value as readonly number[], input }] : [],
  );
  const { state } = await cluster.client.session(session).info();
  const { n = 0 } = state as { readonly n?: number };
  const values = succeeded.map(({ value }) => value[0]).toSorted((one, other) => (one ?? 0) - (other ?? 0));
  // One whose result nobody knows may have been counted.
  const unknown = executed.filter(
    ({ result }) => !result.success && result.error.outcome === 'unknown',
  ).length;
  expect(n, `the state of ${session} counts its successes`).toBeGreaterThanOrEqual(succeeded.length);
  expect(n, `the state of ${session} counts nothing else`).toBeLessThanOrEqual(succeeded.length + unknown);
  expect(new Set(values).size, `each execution of ${session} counted by itself`).toBe(values.length);
  for (const { value, input } of succeeded) expect(value.slice(1)).toEqual([input, input, input]);
}

/** I3 */
function checkLandings(executed: readonly Executed[], once: readonly Landing[]): void {
  const times = new Map<string, number>();
  for (const { key } of once) times.set(key, (times.get(key) ?? 0) + 1);
  const doubled = [...times].filter(([, count]) => count > 1);
  expect(doubled, 'calls of an unsafe tool that landed more than once').toEqual([]);
  for (const { session, execution, result } of executed) {
    if (!result.success) continue;
    const landed = [...times.keys()].filter((key) => key.startsWith(`${session}/${execution}/`)).length;
    expect(landed, `the unsafe call of ${execution}, which succeeded`).toBe(1);
  }
}
