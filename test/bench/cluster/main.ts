/**
 * The benchmark of the cluster: a broker, three runtimes, NATS and Redis on this machine, beside what they are made of.
 *
 *   node test/bench/cluster/main.ts [--json] [--rounds N] [--quick] [--only name[,name]] [--profile directory]
 *
 * Exits with 1 if a script returns a wrong value or fails. A missed bound is reported, not an error: it says as much
 * about the machine as about the code.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { stopAll } from '../../support/processes.ts';
import { describeMachine } from '../machine.ts';
import { judge } from './acceptance.ts';
import { measureDrain, measureMigration, measureTakeover } from './failures.ts';
import { measureFairness } from './fairness.ts';
import { analyse, profileClient } from './profile.ts';
import * as report from './report.ts';
import { readSettings, type Section } from './settings.ts';
import { measureThroughput, type ThroughputResult } from './throughput.ts';

/** Longer than the longest run: nothing that hangs stays. */
const MOST_MS = 30 * 60_000;
const SHOWN = 10;

const settings = readSettings(process.argv.slice(2));
const print = (text: string) => {
  if (!settings.json) console.log(text);
};

/** On a terminal, what is under way: minutes of silence look like a hang. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/** Measure a section and print it, if it was asked for. */
async function run<T>(
  name: Section,
  measure: (progress: (text: string) => void) => Promise<T>,
  show: (result: T) => string,
): Promise<T | undefined> {
  if (!settings.sections.includes(name)) return undefined;
  const result = await measure((text) => progress(`${name}: ${text}`));
  progress('');
  print(show(result));
  return result;
}

/** Under the profiler, if profiles are wanted. */
async function throughput(tell: (text: string) => void): Promise<ThroughputResult> {
  const { profile } = settings;
  if (profile === undefined) return measureThroughput(settings, tell);
  rmSync(profile, { recursive: true, force: true });
  mkdirSync(profile, { recursive: true });
  const stop = await profileClient(profile);
  const result = await measureThroughput(settings, tell);
  await stop();
  const profiles = analyse(profile, result.windows);
  writeFileSync(path.join(profile, 'profile.txt'), report.reportProfiles(profiles, 60));
  print(report.reportProfiles(profiles, SHOWN));
  print(`\nMore of it: ${path.join(profile, 'profile.txt')}`);
  return result;
}

const late = setTimeout(() => {
  console.error(`The benchmark did not end within ${MOST_MS / 60_000} minutes`);
  process.exit(1);
}, MOST_MS).unref();
const machine = await describeMachine();
print(report.reportMachine(machine, settings));
try {
  const measured = {
    throughput: (
      await run('throughput', throughput, ({ rows }) =>
        [
          report.reportThroughput(rows),
          report.reportCpu(rows, machine.cores),
          report.reportTraffic(rows),
        ].join('\n'),
      )
    )?.rows,
    takeover: await run('takeover', (tell) => measureTakeover(settings, tell), report.reportTakeover),
    migration: await run('migration', (tell) => measureMigration(settings, tell), report.reportMigration),
    drain: await run('drain', (tell) => measureDrain(settings, tell), report.reportDrain),
    fairness: await run('fairness', (tell) => measureFairness(settings, tell), report.reportFairness),
  };
  const verdicts = judge(measured);
  print(report.reportVerdicts(verdicts, settings));
  if (settings.json)
    console.log(JSON.stringify({ machine, settings, ...measured, acceptance: verdicts }, undefined, 2));
} finally {
  clearTimeout(late);
  await stopAll();
}
