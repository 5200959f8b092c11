/**
 * The soak: a cluster of real processes under constant load, with kills and drains, whose figures must stay flat and of
 * which nothing may be left when it has ended.
 *
 *   node test/soak/main.ts [--minutes N]
 *
 * Default 10 minutes. Exits with 1 and a list of what is wrong: executions that failed, were lost or done twice; figures
 * that grow, or that were not judged; processes that do not end by themselves; processes, connections, subscriptions or keys that are left.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startNats } from '../support/nats.ts';
import { stopAll, waitUntil } from '../support/processes.ts';
import { whatIsLeft } from './ends.ts';
import { Figures, LEAST_WORKERS, monitored, unjudged } from './figures.ts';
import { Harm } from './harm.ts';
import { Ledger } from './ledger.ts';
import { Members } from './members.ts';
import { table } from './report.ts';

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '10' } } });
const minutes = Number(values.minutes);
if (!(minutes >= 1 && minutes <= 600)) throw new RangeError('--minutes: must be from 1 to 600');

const durationMs = minutes * 60_000;
/** A soak of this length must have judged everything; in a shorter one some of it may have been looked at too seldom. */
const WHOLE_MS = 600_000;
/** Code is compiled, pools are filled, ids are remembered for the first time. */
const warmUpMs = Math.min(120_000, durationMs / 4);
const sampleMs = Math.max(1_000, durationMs / 200);
const harmMs = Math.max(6_000, durationMs / 40);
const checkMs = 3_000;
/** How long the load runs as fast as it can, so that half of that is known. */
const calibrationMs = Math.min(10_000, durationMs / 12);
/** Longer than a soak that ends: nothing that hangs stays. */
const late = setTimeout(() => {
  process.stderr.write('the soak did not end in time\n');
  process.exit(1);
}, durationMs + 300_000).unref();

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const complaints: string[] = [];

/** Do it again and again, with a pause, until the signal. What it throws is a complaint. */
async function every(ms: number, what: string, signal: AbortSignal, act: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await delay(ms, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    await act().catch((error: unknown) => complaints.push(`${what}: ${String(error)}`));
  }
}

async function soak(members: Members): Promise<void> {
  const { load, cluster } = members;
  const figures = new Figures(members, warmUpMs);
  const harm = new Harm(members);
  const ledger = new Ledger(members, figures, harm);

  const before = ledger.ended;
  await delay(calibrationMs);
  const capacity = (ledger.ended - before) / (calibrationMs / 1_000);
  // Half of it, of two kinds.
  const perSecond = Math.max(1, capacity / 4);
  load.tell({ t: 'pace', perSecond });
  print(`it does ${capacity.toFixed(0)} a second; the load is ${perSecond.toFixed(1)} of each kind`);

  const over = new AbortController();
  const from = performance.now();
  const loops = [
    every(sampleMs, 'figures could not be read', over.signal, () => figures.sample()),
    every(checkMs, 'sessions could not be checked', over.signal, () => ledger.check()),
    every(harmMs, 'harm could not be done', over.signal, () => harm.next()),
  ];
  await delay(durationMs - calibrationMs);
  over.abort();
  await Promise.all(loops);
  const seconds = (performance.now() - from) / 1_000;
  const rate = (ledger.ended - before) / (seconds + calibrationMs / 1_000);

  load.tell({ t: 'finish' });
  await ledger.idle;
  await ledger.check();
  await waitUntil(() => ledger.settled, 'every session that was handed in is let go', 60_000);
  ledger.checkRuns();
  await members.endLoad();
  await members.drainService();
  for (const runtime of cluster.runtimes) await members.drain(runtime);
  for (const broker of cluster.brokers) await members.drain(broker);

  const judged = figures.judged();
  print(table(judged));
  for (const { name, life, figure, judgement } of judged)
    if (judgement.verdict === 'grows')
      complaints.push(
        `${figure} of ${name} (life ${life}) grew by ${Math.round(judgement.growth)} where ${Math.round(judgement.allowed)} is allowed`,
      );
  complaints.push(...figures.beyond(), ...ledger.complaints, ...members.badEnds);
  if (ledger.executions === 0 || ledger.runs === 0) complaints.push('nothing was executed');
  complaints.push(...unjudged(judged, durationMs >= WHOLE_MS));
  if (members.workersSeen < LEAST_WORKERS)
    complaints.push(`only ${members.workersSeen} workers were seen, of ${LEAST_WORKERS} runtimes`);
  summarise(members, harm, ledger, rate);
  print(`largest worker: ${(figures.largestWorker / 1_048_576).toFixed(0)} MiB resident`);
  kept = figures.kept;
}

let kept: ReadonlySet<string> = new Set();

function summarise(members: Members, harm: Harm, ledger: Ledger, rate: number): void {
  const { executions, succeeded, replayed, sessions, deleted, runs, runsLost, events, takeovers } = ledger;
  print(
    `\n${executions} executions in ${sessions} sessions (${deleted} deleted, ${ledger.kept} closed), ${executions - succeeded} failed, ${replayed} begun again; ${events} events`,
  );
  print(`${runs} stateless runs, ${runsLost} lost with a killed broker; ${rate.toFixed(1)} a second in all`);
  const harms = Object.entries(Object.groupBy(harm.done, ({ what }) => what));
  print(harms.map(([what, all = []]) => `${what}: ${all.length}`).join(', '));
  const drains = Object.entries(Object.groupBy(members.drains, ({ kind }) => kind));
  print(
    `${takeovers} take-overs; drains ${drains.map(([kind, all = []]) => `${kind} at most ${Math.max(...all.map(({ ms }) => Math.round(ms)))} ms`).join(', ')}`,
  );
}

/** Those that a nats-server has to itself. */
async function ownSubscriptions(): Promise<number> {
  const fresh = await startNats();
  const { num_subscriptions = 0 } = await monitored(fresh.monitorUrl, 'subsz');
  await fresh.stop();
  return num_subscriptions;
}

print(
  `a soak of ${minutes} minutes; warm-up ${warmUpMs / 1_000} s, sampled every ${sampleMs / 1_000} s, harm every ${harmMs / 1_000} s`,
);
const own = await ownSubscriptions();
const members = await Members.start();
try {
  await soak(members);
  // The soak's own client and observer were there all along.
  const { cluster } = members;
  await Promise.all([cluster.client.close(), cluster.observer.stop(), (await cluster.store()).close()]);
  const left = await whatIsLeft(cluster, kept, own);
  complaints.push(...left.complaints);
  print(
    `left in Redis, as documented: ${[...left.keys].map(([what, count]) => `${count} ${what}`).join(', ')}`,
  );
} finally {
  await stopAll();
  clearTimeout(late);
}
const there = members.left;
for (const { pid } of there) complaints.push(`process ${pid} is still there`);
print(`${members.seen} processes were seen, ${there.length} are left`);
print(complaints.length === 0 ? '\nflat, and nothing is left' : `\nWRONG:\n- ${complaints.join('\n- ')}`);
process.exitCode = complaints.length === 0 ? 0 : 1;
