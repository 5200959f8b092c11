/**
 * Memory of an idle worker process, and what each tenant that is kept warm adds to it.
 *
 * Two figures, from the kernel's own accounts (Linux only; elsewhere there are none): resident is what `ps`
 * shows and counts the pages of the Node binary in every process; private is what one more worker costs.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { interleave } from './rounds.ts';
import { ask, SIMPLE } from './scripts.ts';
import { type Level, ONE_WORKER, type Open, type Openers, type Side, withSide } from './side.ts';
import { median } from './stats.ts';

/** Tenants that pay for what is made once; the next {@link TENANTS} are what is measured. */
const FIRST_TENANTS = 4;
/** With the first ones still under the default number of warm isolates per worker, 16. */
const TENANTS = 8;
/** How long a worker has been left alone when it counts as idle. */
const IDLE_MS = 200;
const WARM_LEVELS: ReadonlyMap<Level, Level> = new Map([
  ['context', 'context'],
  ['realm', 'realm'],
]);
const KIB = 1024;

/** Bytes. */
export interface Footprint {
  readonly residentBytes: number;
  readonly privateBytes: number;
}

export interface MemoryResult {
  /** One worker that has run one script and nothing since. */
  readonly idleWorker: { readonly bare: Footprint | undefined; readonly ours: Footprint | undefined };
  /** What one more warm tenant adds, by level. Ours only: bare knows no tenants. */
  readonly warmTenant: { readonly context: Footprint | undefined; readonly realm: Footprint | undefined };
}

/** Measure fresh processes every round. Undefined where the kernel does not tell. */
export async function measureMemory(openers: Openers, rounds: number): Promise<MemoryResult | undefined> {
  if (process.platform !== 'linux') return undefined;
  const idle = await interleave(openers, rounds, idleWorker);
  const ours = openers.get('ours');
  const tenants = ours && (await interleave(WARM_LEVELS, rounds, (level) => warmTenant(ours, level)));
  return {
    idleWorker: { bare: medianOf(idle.get('bare')), ours: medianOf(idle.get('ours')) },
    warmTenant: { context: medianOf(tenants?.get('context')), realm: medianOf(tenants?.get('realm')) },
  };
}

function idleWorker(open: Open): Promise<Footprint> {
  return withSide(open, ONE_WORKER, async (side) => {
    await ask(side, SIMPLE, { level: 'context' });
    return footprintOf(await idlePid(side));
  });
}

function warmTenant(open: Open, level: Level): Promise<Footprint> {
  return withSide(open, ONE_WORKER, async (side) => {
    let tenants = 0;
    const admit = async (more: number) => {
      for (const end = tenants + more; tenants < end; tenants++) {
        await ask(side, SIMPLE, { level, tenant: `tenant-${tenants}` });
      }
    };
    await admit(FIRST_TENANTS);
    const pid = await idlePid(side);
    const before = await footprintOf(pid);
    await admit(TENANTS);
    if ((await idlePid(side)) !== pid)
      throw new Error('the worker was replaced while its memory was measured');
    const after = await footprintOf(pid);
    return {
      residentBytes: (after.residentBytes - before.residentBytes) / TENANTS,
      privateBytes: (after.privateBytes - before.privateBytes) / TENANTS,
    };
  });
}

/** The only worker's process, once it has been left alone for a while. */
async function idlePid(side: Side): Promise<number> {
  await sleep(IDLE_MS);
  const [pid, ...others] = side.pids();
  if (pid === undefined || others.length > 0) throw new Error(`${side.name} should have one worker`);
  return pid;
}

async function footprintOf(pid: number): Promise<Footprint> {
  const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
  const bytes = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1]) * KIB;
  return { residentBytes: bytes('Rss'), privateBytes: bytes('Private_Clean') + bytes('Private_Dirty') };
}

function medianOf(footprints: readonly Footprint[] | undefined): Footprint | undefined {
  if (footprints === undefined) return undefined;
  return {
    residentBytes: median(footprints.map((footprint) => footprint.residentBytes)),
    privateBytes: median(footprints.map((footprint) => footprint.privateBytes)),
  };
}
