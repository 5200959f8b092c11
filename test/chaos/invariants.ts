/** What must hold whatever happened: see README.md. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import type { ErrorCode, ExecutionEvent } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import type { ChaosCluster, ChaosPod } from './cluster.ts';
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
  /** Events that the observer heard, repetitions included. */
  readonly heard: number;
  /** Events that were published more than once, as they may be. */
  readonly repeated: number;
  /** Committed events that the observer missed, as it may if a pod was cut off from NATS meanwhile. */
  readonly missed: number;
  /** How often the store was asked for the records of these sessions while they worked. */
  readonly looks: number;
  /** Sessions that brokers took over with work in flight, as they logged it. */
  readonly takeovers: number;
  /** Those among them from a broker to which nothing had been done, and which had given its lease up by itself. */
  readonly ofLostLeases: number;
  /** Why brokers to which nothing had been done lost their leases: a machine that is too busy stands still. */
  readonly leasesLost: readonly string[];
}

export interface Allowed {
  /** The codes of failures that what was done may cause. Default: none, everything succeeds. */
  readonly mayFail?: readonly ErrorCode[] | undefined;
}

/** What becomes of unsafe calls that were under way at a process or over a link that was lost. */
export const IN_DOUBT: Allowed = { mayFail: ['OUTCOME_UNKNOWN'] };

export async function checkInvariants(
  cluster: ChaosCluster,
  executed: readonly Executed[],
  { mayFail = [] }: Allowed = {},
): Promise<Report> {
  const failed = executed.filter(({ result }) => !result.success && !mayFail.includes(result.error.code));
  expect(failed, 'executions that failed').toEqual([]);
  const sessions = [...new Set(executed.map(({ session }) => session))];
  const once = landings(cluster, 'once');
  const counts = { events: 0, heard: 0, repeated: 0, missed: 0, looks: 0 };
  for (const session of sessions) {
    const of = executed.filter((each) => each.session === session);
    const log = await logOf(cluster, session);
    checkLog(session, log);
    await checkObserved(cluster, session, log, counts);
    checkExecutions(session, of, log);
    checkHistory(cluster, session);
    await checkState(cluster, session, of);
    counts.events += log.length;
    counts.looks += cluster.history.looks(session);
  }
  if (executed.length > 0) expect(counts.heard, 'events that were heard').toBeGreaterThan(0);
  checkLandings(executed, once);
  const taken = await checkTakeovers(cluster);
  const succeeded = executed.filter(({ result }) => result.success).length;
  const executions = executed.length;
  return {
    sessions: sessions.length,
    executions,
    succeeded,
    ...taken,
    leasesLost: leasesLostBy(cluster).map(({ reason }) => reason),
    ...counts,
  };
}

// ---- who owned it ----------------------------------------------------------------------------------------

/** I1: what a reader of the store saw of a session never went back, and no epoch had two owners. */
export function checkHistory({ history }: ChaosCluster, session: string): void {
  if (history.since(session) === undefined) return;
  expect(history.looks(session), `looks at ${session}`).toBeGreaterThan(0);
  for (const seen of history.of(session)) {
    for (const number of ['epoch', 'version', 'seq'] as const) {
      const numbers = seen.map((one) => one[number]);
      const fell = numbers.findIndex((one, index) => one < (numbers[index - 1] ?? 0));
      expect(fell, `where the ${number} of ${session} falls: ${numbers.join()}`).toBe(-1);
    }
    // Nobody's at its end, and then no more.
    for (const [epoch, all = []] of Object.entries(Object.groupBy(seen, ({ epoch: one }) => String(one)))) {
      const owners = all
        .map(({ owner }) => owner)
        .filter((owner, index, others) => owner !== others[index - 1]);
      const who = `the owners of ${session} in epoch ${epoch}`;
      expect(owners.filter((owner) => owner !== undefined).length, `${who}: ${owners.join()}`).toBeLessThan(
        2,
      );
      if (owners.length > 1) expect(owners.at(-1), `${who}: ${owners.join()}`).toBeUndefined();
    }
  }
}

interface Takeover {
  readonly session: string;
  readonly epoch: number;
  readonly by: ChaosPod;
  /** The incarnation that it was taken from. */
  readonly from: string;
  /** The broker of that, if it is one of the cluster's. */
  readonly former: ChaosPod | undefined;
  /** By the wall clock of the test, in ms. */
  readonly at: number;
}

/** Whether this incarnation is one of the broker's. */
const isOf = (incarnation: string, { id }: ChaosPod): boolean =>
  incarnation.startsWith(`${id.slice(0, 40)}-`);

/** Sessions that were taken from a broker that had not given them up. */
function takeoversOf({ brokers }: ChaosCluster): readonly Takeover[] {
  return brokers.flatMap((by) =>
    by.pod.logged('session taken over').map(({ time, session, epoch, from }) => ({
      session: String(session),
      epoch: Number(epoch),
      by,
      from: String(from),
      former: brokers.find((broker) => isOf(String(from), broker)),
      at: Number(time) - by.pod.skewMs,
    })),
  );
}

/** I1, I6: each epoch has one owner, and nothing is taken from a broker that may still act. */
async function checkTakeovers(cluster: ChaosCluster): Promise<Pick<Report, 'takeovers' | 'ofLostLeases'>> {
  const taken = takeoversOf(cluster);
  const epochs = taken.map(({ session, epoch }) => `${session} in epoch ${epoch}`);
  expect(new Set(epochs).size, 'each epoch has one owner').toBe(epochs.length);
  for (const { session, epoch, by } of taken) {
    const owners = cluster.history
      .of(session)
      .flat()
      .flatMap((seen) => (seen.epoch === epoch && seen.owner !== undefined ? [seen.owner] : []));
    if (owners.length > 0)
      expect(
        owners.some((owner) => isOf(owner, by)),
        `${by.id} has ${session} in epoch ${epoch}: ${owners.join()}`,
      ).toBe(true);
  }
  const unharmed = taken.filter(({ former, at }) => former !== undefined && !former.wasHarmed(at));
  // Who stands still says so when it goes on.
  for (const { from, session } of unharmed)
    await waitUntil(
      () => leasesLostBy(cluster).some((lost) => lost.incarnation === from),
      `${from}, to which nothing was done, gave its lease up before ${session} was taken from it`,
    );
  return { takeovers: taken.length, ofLostLeases: unharmed.length };
}

interface LostLease {
  readonly incarnation: string;
  readonly reason: string;
}

/**
 * Leases that brokers gave up to which nothing had been done. A machine that is too busy stands still; but a store that
 * refuses a lease whose time is not over has let somebody else end it.
 */
function leasesLostBy({ brokers }: ChaosCluster): readonly LostLease[] {
  return brokers.flatMap((broker) =>
    broker.pod
      .logged('the lease is lost')
      .filter(({ time }) => !broker.wasHarmed(Number(time) - broker.pod.skewMs))
      .map(({ incarnation, reason }) => ({ incarnation: String(incarnation), reason: String(reason) }))
      .filter(({ reason }) => reason !== REFUSED),
  );
}

/** As actors/lease.ts says it. */
const REFUSED = 'the store refused it';

// ---- what is in the log ----------------------------------------------------------------------------------

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
export function checkLog(session: string, log: readonly string[]): void {
  const numbers = log.map((text) => (JSON.parse(text) as ExecutionEvent).seq);
  expect(numbers, `the log of ${session}`).toEqual(log.map((_, index) => index + 1));
}

/** I4: what was published is what was committed; and all of it was, if nothing came between us and the brokers. */
async function checkObserved(
  cluster: ChaosCluster,
  session: string,
  log: readonly string[],
  counts: { heard: number; repeated: number; missed: number },
): Promise<void> {
  const { observer, history } = cluster;
  const numbers = (): ReadonlySet<number> => new Set(observer.heard(session).map(({ seq }) => seq));
  if (!cluster.wasCutFromNats(history.since(session) ?? 0))
    await waitUntil(() => numbers().size >= log.length, `all ${log.length} events of ${session} are heard`);
  const heard = observer.heard(session);
  for (const { seq, text } of heard)
    expect(JSON.parse(text), `event ${seq} of ${session} as it was published`).toEqual(
      JSON.parse(log[seq - 1] ?? 'null'),
    );
  const { size } = numbers();
  counts.heard += heard.length;
  counts.repeated += heard.length - size;
  counts.missed += log.length - size;
}

/** A result that says that nobody knows is no promise. */
export function isTold({ result }: Executed): boolean {
  return result.success || result.error.outcome !== 'unknown';
}

/** Whether this event ends an execution as somebody was told that it had ended. */
export function isSame(event: ExecutionEvent, { result }: Executed): boolean {
  if (event.type !== 'final' || event.payload.ok !== result.success) return false;
  return result.success
    ? JSON.stringify(event.payload.result) === JSON.stringify(result.value)
    : event.payload.error?.code === result.error.code;
}

/** I2, I5 */
function checkExecutions(session: string, executed: readonly Executed[], log: readonly string[]): void {
  const events = log.map((text) => JSON.parse(text) as ExecutionEvent);
  for (const one of executed) {
    const { execution, acknowledged, result } = one;
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
    if (!isTold(one)) continue;
    const told = JSON.stringify(result);
    if (own.length > 0)
      expect(
        own.some((event) => isSame(event, one)),
        `${what}: its end is what was told, ${told}`,
      ).toBe(true);
    else expect(!result.success && result.error.outcome, `${what}: ${told}`).toBe('not_started');
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
