/**
 * A rolling restart under load, and what a migration costs. `node test/chaos/rolling.ts 5000` restarts every pod in
 * turn, and again, until so many executions have ended; then it measures the pauses.
 */
import type { ExecutionEvent } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import { ChaosCluster } from './cluster.ts';
import { checkInvariants, type Report } from './invariants.ts';
import { Load } from './load.ts';

export interface Rolled {
  readonly report: Report;
  /** Executions that did not succeed. */
  readonly failed: readonly unknown[];
  /** Times that every pod was restarted. */
  readonly turns: number;
  readonly exitCodes: readonly (number | null)[];
  /** From SIGTERM to the end of the process, in ms, by role. */
  readonly drainMs: { readonly broker: readonly number[]; readonly runtime: readonly number[] };
  readonly durationMs: number;
}

/** Restart each pod in turn, at least once, until so many executions have ended. */
export async function roll(cluster: ChaosCluster, executions: number): Promise<Rolled> {
  const startedAt = performance.now();
  const load = await Load.start(cluster, { sessions: 12 });
  await waitUntil(() => load.count > 12, 'the load runs');
  const drainMs = { broker: [] as number[], runtime: [] as number[] };
  const exitCodes: (number | null)[] = [];
  let turns = 0;
  do {
    for (const one of [...cluster.brokers, ...cluster.runtimes]) {
      const from = performance.now();
      exitCodes.push(await one.drain());
      drainMs[one.pod.role].push(Math.round(performance.now() - from));
      await waitUntil(load.everyoneGoesOn(), `every session goes on without ${one.id}`);
      await one.start();
      await waitUntil(load.everyoneGoesOn(), `every session goes on with ${one.id}`);
    }
    turns++;
  } while (load.count < executions);
  const executed = await load.stop();
  const failed = executed.filter(({ result }) => !result.success);
  const codes = failed.flatMap(({ result }) => (result.success ? [] : [result.error.code]));
  // Who asked tells of them.
  const report = await checkInvariants(cluster, executed, { mayFail: codes });
  return { report, failed, turns, exitCodes, drainMs, durationMs: Math.round(performance.now() - startedAt) };
}

export interface Pauses {
  /** Of the calls of `migrate()`, in ms. */
  readonly calls: readonly number[];
  /** The longest silence of the script's output around each of them, as an observer heard it, in ms. */
  readonly gaps: readonly number[];
  /** The silences between any two lines while nothing was moved, in ms. */
  readonly usual: readonly number[];
}

/** Prints a line every 5 ms until it is cancelled. */
const CHATTY = `for (let n = 0; n < 100_000; n++) {
  console.log(n);
  await new Promise((resolve) => setTimeout(resolve, 5));
}`;

/** Move executing sessions to and fro between two brokers, one after the other. */
export async function migrate(cluster: ChaosCluster, migrations: number, sessions = 4): Promise<Pauses> {
  const { client } = cluster;
  const limits = { timeoutMs: 300_000, deadlineMs: 300_000 };
  const refs = await Promise.all(Array.from({ length: sessions }, () => client.spawnSession()));
  const runs = refs.map((ref) => ref.execute(CHATTY, { limits }));
  const timesOf = (id: string): readonly number[] => cluster.observer.heard(id).map(({ at }) => at);
  const silence = (id: string, from: number): Promise<void> =>
    waitUntil(() => (timesOf(id).at(-1) ?? 0) > from, `${id} prints`);
  const calls: number[] = [];
  const spans: { readonly id: string; readonly from: number; readonly to: number }[] = [];
  await Promise.all(refs.map(({ id }) => waitUntil(() => timesOf(id).length > 50, `${id} prints`)));
  const quietUntil = performance.now();
  for (let n = 0; n < migrations; n++) {
    const ref = refs[n % sessions];
    if (ref === undefined) break;
    const owner = await cluster.ownerOf(ref.id);
    const to = cluster.brokers.find((one) => one !== owner);
    let from = 0;
    // On a machine that is too busy a broker may be taken for gone, and is no target then.
    await waitUntil(async () => {
      from = performance.now();
      return (await ref.migrate({ to: to?.id })).owner === to?.id;
    }, `${ref.id} goes to ${to?.id}`);
    calls.push(performance.now() - from);
    await silence(ref.id, performance.now());
    spans.push({ id: ref.id, from, to: performance.now() });
  }
  await Promise.all(runs.map((run) => run.cancel()));
  await Promise.all(runs.map((run) => run.result));
  const gaps = spans.map(({ id, from, to }) => longestGap(timesOf(id), from, to));
  const usual = refs.flatMap(({ id }) => differences(timesOf(id).filter((at) => at <= quietUntil)));
  for (const { id } of refs) checkGapless(cluster, id);
  return { calls, gaps, usual };
}

/** From the last line before `from` to the first after `to`, and whatever is between. */
function longestGap(times: readonly number[], from: number, to: number): number {
  const first = times.findLastIndex((at) => at <= from);
  const last = times.findIndex((at) => at >= to);
  const end = last === -1 ? times.length : last + 1;
  return Math.max(0, ...differences(times.slice(Math.max(0, first), end)));
}

function differences(times: readonly number[]): readonly number[] {
  return times.slice(1).map((at, index) => at - (times[index] ?? at));
}

/** Nothing that was printed is missing, or is there twice. */
function checkGapless(cluster: ChaosCluster, id: string): void {
  const events = new Map(cluster.observer.heard(id).map(({ seq, text }) => [seq, text]));
  const lines = [...events]
    .toSorted(([one], [other]) => one - other)
    .map(([, text]) => JSON.parse(text) as ExecutionEvent)
    .flatMap((event) => (event.type === 'stdout' ? event.payload.chunk.split('\n') : []))
    .filter((line) => line !== '');
  const wrong = lines.findIndex((line, index) => line !== String(index));
  if (wrong !== -1) throw new Error(`line ${wrong} of ${id} is ${lines[wrong]}`);
}

/** Of sorted samples, by nearest rank. */
export function percentile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((one, other) => one - other);
  return Math.round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0);
}

export function describeRolled({ report, failed, turns, drainMs, durationMs }: Rolled): string {
  const most = (samples: readonly number[]): string =>
    `${percentile(samples, 0.5)} ms, at most ${Math.max(...samples)} ms`;
  return (
    `${report.executions} executions in ${report.sessions} sessions, ${turns} turns in ${durationMs} ms: ` +
    `${failed.length} failed; drain of a broker ${most(drainMs.broker)}, of a runtime ${most(drainMs.runtime)}; ` +
    `${report.takeovers} take-overs, ${report.ofLostLeases} of them because a broker stood still`
  );
}

export function describePauses({ calls, gaps, usual }: Pauses): string {
  const both = (samples: readonly number[]): string =>
    `p50 ${percentile(samples, 0.5)} ms, p99 ${percentile(samples, 0.99)} ms`;
  return `${calls.length} migrations: call ${both(calls)}; silence ${both(gaps)}, without a migration ${both(usual)}`;
}

/** With the default settings: a drained broker is not waited for, so that no shorter lease is needed. */
export const startRolling = (): Promise<ChaosCluster> =>
  ChaosCluster.start({ brokers: 2, runtimes: 3, brokerArgs: [] });

if (import.meta.main) {
  const cluster = await startRolling();
  try {
    const rolled = await roll(cluster, Number(process.argv[2] ?? 5_000));
    process.stdout.write(`${describeRolled(rolled)}\n`);
    for (const one of rolled.failed) process.stdout.write(`${JSON.stringify(one)}\n`);
    process.stdout.write(`${describePauses(await migrate(cluster, 200))}\n`);
    const well = rolled.failed.length === 0 && rolled.exitCodes.every((code) => code === 0);
    process.exitCode = well ? 0 : 1;
  } finally {
    await cluster.stop();
  }
}
