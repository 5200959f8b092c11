/**
 * What durability costs, and what a session that sleeps costs.
 *
 * The first table: the same scripts run by `Enclave.run`, by sessions that are kept nowhere (`durability: 'none'`), and
 * by durable ones on the memory store, interleaved. The second: memory of hibernated sessions beyond what is stored
 * of them, and what waking one adds to an execution.
 */
import v8 from 'node:v8';
import vm from 'node:vm';
import type { SessionRef, System } from '../../src/index.ts';
import { load } from './load.ts';
import { interleave } from './rounds.ts';
import { answerTool, ONE_CALL, type Script, SIMPLE } from './scripts.ts';
import type { Settings } from './settings.ts';
import { type Side, TWO_WORKERS } from './side.ts';
import { median, medianSample, percentile, type Sample, type SampleRatio, sampleRatio } from './stats.ts';

const built = new URL('../../dist/src/index.js', import.meta.url);
const { createSystem, defineTool } = (await import(built.href)) as typeof import('../../src/index.ts');

const LANES = 16;
const NEVER = 1_000_000_000;
const HIBERNATED = 100_000;
const WAKES = 200;

export type Way = 'run' | 'none' | 'session';

export interface DurabilityRow {
  readonly script: string;
  readonly samples: Readonly<Record<Way, Sample>>;
  /** session / none. */
  readonly durable: SampleRatio;
  /** none / Enclave.run. */
  readonly none: SampleRatio;
}

export interface HibernationResult {
  readonly sessions: number;
  /** Of one hibernated session, in bytes. */
  readonly storedBytes: number;
  readonly beyondBytes: number;
  readonly warmMs: number;
  readonly wakeMs: number;
  readonly wakeP99Ms: number;
}

/** The bench's one tool: `effect` decides what a call has to commit. */
const toolsOf = (effect: 'read' | 'unsafe') => [
  defineTool({ name: 'users:get', effect, handler: (args) => answerTool('users:get', args) }),
];

const newSystem = (effect: 'read' | 'unsafe'): Promise<System> =>
  createSystem({
    tools: toolsOf(effect),
    hibernateAfterMs: 86_400_000,
    pool: {
      poolSize: TWO_WORKERS.workers,
      minWorkers: TWO_WORKERS.workers,
      maxConcurrentPerWorker: TWO_WORKERS.maxConcurrentPerWorker,
      maxExecutionsPerWorker: NEVER,
    },
  });

export async function measureDurability(side: Side, settings: Settings): Promise<readonly DurabilityRow[]> {
  const rows: DurabilityRow[] = [];
  for (const [script, effect, name] of [
    [SIMPLE, 'unsafe', 'simple'],
    [ONE_CALL, 'unsafe', 'one call, unsafe'],
    [ONE_CALL, 'read', 'one call, read'],
  ] as const) {
    await using system = await newSystem(effect);
    rows.push(await measureRow(side, system, script, name, settings));
  }
  return rows;
}

async function measureRow(
  side: Side,
  system: System,
  script: Script,
  name: string,
  settings: Settings,
): Promise<DurabilityRow> {
  const lanes = (way: 'none' | 'session'): Promise<SessionRef[]> =>
    Promise.all(Array.from({ length: LANES }, () => system.spawnSession({ durability: way })));
  const sessions = { none: await lanes('none'), session: await lanes('session') };
  let n = 0;
  let lane = 0;
  const requests: ReadonlyMap<Way, () => Promise<void>> = new Map([
    [
      'run',
      async () => {
        const number = n++;
        check(
          script,
          number,
          await side.run(script.source(number), { level: 'context', tenant: `lane-${lane++ % LANES}` }),
        );
      },
    ],
    ...(['none', 'session'] as const).map((way) => {
      const free = [...sessions[way]];
      const request = async (): Promise<void> => {
        const session = free.pop() as SessionRef;
        const number = n++;
        const result = await session.execute(script.source(number)).result;
        free.push(session);
        if (!result.success) throw new Error(`${result.error.code}: ${result.error.message}`);
        check(script, number, result.value);
      };
      return [way, request] as const;
    }),
  ]);
  for (const request of requests.values())
    await load(request, { concurrency: LANES, durationMs: settings.steadyMs / 2 });
  const rounds = await interleave(requests, settings.rounds, (request) =>
    load(request, { concurrency: LANES, durationMs: settings.sampleMs * 2 }),
  );
  const of = (way: Way): readonly Sample[] => rounds.get(way) ?? [];
  return {
    script: name,
    samples: {
      run: medianSample(of('run')),
      none: medianSample(of('none')),
      session: medianSample(of('session')),
    },
    durable: sampleRatio(of('session'), of('none')),
    none: sampleRatio(of('none'), of('run')),
  };
}

function check(script: Script, n: number, value: unknown): void {
  if (value !== script.expected(n)) throw new Error(`${script.name} ${n} returned ${JSON.stringify(value)}`);
}

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc') as () => void;

function heldBytes(): number {
  collect();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

export async function measureHibernation(quick: boolean): Promise<HibernationResult> {
  const count = quick ? HIBERNATED / 10 : HIBERNATED;
  await using system = await newSystem('read');
  // What is made once, is made.
  for (const session of await make(system, 1_000, 'first')) await session.delete();
  const before = heldBytes();
  for (let from = 0; from < count; from += 1_000) await make(system, 1_000, `s${from}`);
  const bytes = (heldBytes() - before) / count;
  const storedBytes = await storedOf(system, 's0-0');
  const wakes: number[] = [];
  const warms: number[] = [];
  for (let index = 0; index < WAKES; index++) {
    const session = system.session(`s${Math.floor((index * count) / WAKES / 1_000) * 1_000}-${index}`);
    wakes.push(await timed(() => session.execute(SIMPLE.source(index)).result));
    for (let again = 0; again < 3; again++)
      warms.push(await timed(() => session.execute(SIMPLE.source(index)).result));
    await session.hibernate();
  }
  return {
    sessions: count,
    storedBytes,
    beyondBytes: bytes - storedBytes,
    warmMs: median(warms),
    wakeMs: median(wakes),
    wakeP99Ms: percentile(wakes, 99),
  };
}

async function make(system: System, count: number, prefix: string): Promise<readonly SessionRef[]> {
  const sessions = await Promise.all(
    Array.from({ length: count }, (_, index) => system.spawnSession({ id: `${prefix}-${index}` })),
  );
  await Promise.all(sessions.map((session) => session.hibernate()));
  return sessions;
}

/** Text that the store holds of a session: its snapshot and its fields. One byte a character: all of it is ASCII. */
async function storedOf(system: System, id: string): Promise<number> {
  const { store } = system.parts;
  const record = await store.load(id);
  const fields = await store.readFields(id, ['meta', 'state']);
  return (record?.snapshot.length ?? 0) + Object.values(fields).reduce((sum, text) => sum + text.length, 0);
}

async function timed(work: () => Promise<{ readonly success: boolean }>): Promise<number> {
  const start = performance.now();
  const { success } = await work();
  if (!success) throw new Error('an execution of a hibernated session failed');
  return performance.now() - start;
}
