/**
 * `node test/simulation/main.ts [--seed N | --seeds A..B] [--count C] [--steps M] [--minutes X] [--defect name]
 * [--trace] [--json] [--keep-going]`: runs seeds until one violates an invariant (exit code 1, with the end of its
 * trace) or all are done. `--minutes` begins at a random seed unless one is given; `--trace` prints every line;
 * `--keep-going` counts violations, one line each, instead of stopping at the first.
 */
import { parseArgs } from 'node:util';
import { DEFECTS, type DefectName } from './defects.ts';
import { describe, type Outcome, runSeed } from './run.ts';
import { BOUNDARIES } from './store.ts';

const DEFAULT_STEPS = 400;

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string' },
    count: { type: 'string' },
    steps: { type: 'string' },
    minutes: { type: 'string' },
    defect: { type: 'string' },
    trace: { type: 'boolean' },
    json: { type: 'boolean' },
    'keep-going': { type: 'boolean' },
  },
});

function* seedsOf(): Generator<number> {
  const { seed, seeds, count, minutes } = values;
  const [from, to] = (seeds ?? '').split('..').map(Number);
  const start =
    seed !== undefined
      ? Number(seed)
      : seeds !== undefined
        ? (from ?? 0)
        : minutes === undefined
          ? 1
          : Math.floor(Math.random() * 2 ** 31);
  if (minutes !== undefined) {
    const end = performance.now() + Number(minutes) * 60_000;
    for (let next = start; performance.now() < end; next++) yield next;
    return;
  }
  const last = seeds !== undefined ? (to ?? start) : start + Number(count ?? 1) - 1;
  for (let next = start; next <= last; next++) yield next;
}

function add(all: Record<string, number>, more: Readonly<Record<string, number>>): void {
  for (const [kind, count] of Object.entries(more)) all[kind] = (all[kind] ?? 0) + count;
}

const faults: Record<string, number> = Object.fromEntries(BOUNDARIES.map((boundary) => [boundary, 0]));
const actions: Record<string, number> = {};
const formats: Record<string, number> = {};
const defect = values.defect === undefined ? undefined : DEFECTS[values.defect as DefectName];
if (values.defect !== undefined && defect === undefined)
  throw new RangeError(`--defect must be one of ${Object.keys(DEFECTS).join(', ')}`);
const steps = Number(values.steps ?? DEFAULT_STEPS);
const begun = performance.now();
let runs = 0;
let violations = 0;
let first: number | undefined;
let last: Outcome | undefined;
for (const seed of seedsOf()) {
  first ??= seed;
  last = await runSeed(seed, {
    steps,
    defect,
    onLine: values.trace === true ? (line) => console.log(line) : undefined,
  });
  runs++;
  add(faults, last.faults);
  add(actions, last.actions);
  add(formats, last.formats);
  if (last.violation === undefined) continue;
  violations++;
  if (values['keep-going'] === true) console.log(`seed ${seed}: ${last.violation.message.slice(0, 400)}`);
  else {
    console.log(describe(last));
    break;
  }
}
const seconds = (performance.now() - begun) / 1_000;
const summary = {
  first,
  last: last?.seed,
  runs,
  violations,
  steps,
  hash: last?.hash,
  seconds: Number(seconds.toFixed(2)),
  faults,
  actions,
  formats,
};
if (values.json === true) console.log(JSON.stringify(summary));
else {
  console.log(
    `${runs} seeds from ${first} to ${last?.seed}, ${steps} steps each: ${violations} with violations; ${(runs / seconds).toFixed(1)} seeds/s; trace of the last ${last?.hash}`,
  );
  console.log('faults', JSON.stringify(faults));
  console.log('clients', JSON.stringify(actions));
  console.log('snapshots', JSON.stringify(formats));
}
process.exitCode = violations > 0 ? 1 : 0;
