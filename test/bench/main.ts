/**
 * The benchmark: this package beside bare isolated-vm, in one run.
 *
 *   node test/bench/main.ts [--json] [--rounds N] [--quick] [--only name[,name]]
 *
 * Exits with 1 if a script returns a wrong value or fails. A missed acceptance ratio is reported, not an
 * error: it says as much about the machine as about the code.
 */
import { judge } from './acceptance.ts';
import { openBare } from './bare/pool.ts';
import { measureFlood } from './flood.ts';
import { describeMachine } from './machine.ts';
import { measureMemory } from './memory.ts';
import { measureRecycling } from './recycling.ts';
import * as report from './report.ts';
import type { Results } from './results.ts';
import { answerTool } from './scripts.ts';
import { readSettings, type Section, type Settings } from './settings.ts';
import { type Open, type Openers, type SideName, TWO_WORKERS, withSide } from './side.ts';
import { measureStart } from './start.ts';
import { measureThroughput } from './throughput.ts';

const settings = readSettings(process.argv.slice(2));
const print = (text: string) => {
  if (!settings.json) console.log(text);
};

/** On a terminal, the row under way: two minutes of silence look like a hang. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/** Our package is loaded only if it is measured, so that bare can be measured without it. */
async function openersOf({ sides }: Settings): Promise<Openers> {
  const openers = new Map<SideName, Open>();
  if (sides.includes('bare')) openers.set('bare', (shape) => openBare(shape, answerTool));
  if (sides.includes('ours')) {
    const { openOurs } = await import('./ours.ts');
    openers.set('ours', (shape) => openOurs(shape, answerTool));
  }
  return openers;
}

/** Measure a section and print it, if it was asked for. */
async function run<T>(
  name: Section,
  measure: () => Promise<T | undefined>,
  show: (result: T) => string,
): Promise<T | undefined> {
  if (!settings.sections.includes(name)) return undefined;
  progress(name);
  const result = await measure();
  progress('');
  if (result !== undefined) print(show(result));
  return result;
}

const machine = await describeMachine();
const openers = await openersOf(settings);
const ours = openers.get('ours');
print(report.reportMachine(machine, settings));
const results: Results = {
  machine,
  settings,
  throughput: await run(
    'throughput',
    () => measureThroughput(openers, settings, progress),
    report.reportThroughput,
  ),
  start: await run('start', () => measureStart(openers, settings.rounds), report.reportStart),
  memory: await run('memory', () => measureMemory(openers, settings.rounds), report.reportMemory),
  recycling: await run(
    'recycling',
    async () => ours && (await measureRecycling(ours, settings)),
    report.reportRecycling,
  ),
  flood: await run('flood', () => measureFlood(openers, settings), report.reportFlood),
  durability: await run(
    'durability',
    async () => {
      if (ours === undefined) return undefined;
      const { measureDurability } = await import('./sessions.ts');
      return withSide(ours, TWO_WORKERS, (side) => measureDurability(side, settings));
    },
    report.reportDurability,
  ),
  hibernation: await run(
    'hibernation',
    async () => ours && (await import('./sessions.ts')).measureHibernation(settings.quick),
    report.reportHibernation,
  ),
};
const verdicts = judge(results);
print(report.reportVerdicts(verdicts, settings));
if (settings.json) console.log(JSON.stringify({ ...results, acceptance: verdicts }, undefined, 2));
