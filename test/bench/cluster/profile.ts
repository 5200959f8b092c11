/**
 * CPU profiles of the pods and of this process, and what they say of each row and way: the samples that fall into its
 * windows. All profiles and windows tell the time by the one monotonic clock of the machine. A profile says how the
 * time of a process is shared out; how much CPU it used is told by the kernel, for a sample that was taken while another
 * process had the CPU looks like any other.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import path from 'node:path';
import { type CpuRole, sum } from './cpu.ts';
import type { Window } from './throughput.ts';

interface CallFrame {
  readonly functionName: string;
  readonly url: string;
  readonly lineNumber: number;
}

interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: CallFrame;
    readonly children?: readonly number[];
  }[];
  readonly startTime: number;
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** What one role did for one way in a row, in µs of CPU per request. */
export interface Profiled {
  readonly row: string;
  readonly way: string;
  readonly role: string;
  readonly cpuUs: number;
  /** By package, or folder of ours; the most first. */
  readonly packages: readonly Entry[];
  /** Functions, without what they call. */
  readonly own: readonly Entry[];
  /** Functions of ours, with what they call until they wait. */
  readonly inclusive: readonly Entry[];
}

export interface Entry {
  readonly name: string;
  readonly us: number;
}

/** Functions with less than this share of the time are left out. */
const LEAST_SHARE = 0.004;

/** Profile this process until the function that this resolves to is called; it writes the profile there. */
export async function profileClient(directory: string): Promise<() => Promise<void>> {
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.start');
  return async () => {
    const { profile } = await session.post('Profiler.stop');
    session.disconnect();
    mkdirSync(path.join(directory, 'client'), { recursive: true });
    writeFileSync(path.join(directory, 'client', 'client.cpuprofile'), JSON.stringify(profile));
  };
}

/** Read all profiles under the directory. */
export function analyse(directory: string, windows: readonly Window[]): readonly Profiled[] {
  const profiles = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) =>
      readdirSync(path.join(directory, name))
        .filter((file) => file.endsWith('.cpuprofile'))
        .map((file) => ({
          name,
          stacks: stacksOf(JSON.parse(readFileSync(path.join(directory, name, file), 'utf8')) as CpuProfile),
        })),
    );
  const cases = new Map(windows.map(({ row, way }) => [`${row} ${way}`, { row, way }]));
  return [...cases.values()].flatMap(({ row, way }) => {
    const own = windows.filter((window) => window.row === row && window.way === way);
    const namespace = way === 'stateless' ? 'master' : way;
    const roles = [
      ['client', 'client'],
      ['broker', `${namespace}-broker`],
      ['runtimes', `${namespace}-runtime`],
    ] as const;
    return roles.flatMap(([role, prefix]) => {
      const stacks = profiles.filter(({ name }) => name.startsWith(prefix)).map(({ stacks: all }) => all);
      return stacks.length === 0 ? [] : [{ row, way, role, ...summarise(stacks, own, role) }];
    });
  });
}

/** One sample: when, how long until the next one, and the frames, the innermost first. */
interface Stack {
  readonly atUs: number;
  readonly us: number;
  readonly frames: readonly CallFrame[];
}

function stacksOf({ nodes, startTime, samples, timeDeltas }: CpuProfile): readonly Stack[] {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id])));
  const frames = new Map<number, readonly CallFrame[]>();
  const framesOf = (id: number): readonly CallFrame[] => {
    const known = frames.get(id);
    if (known !== undefined) return known;
    const frame = byId.get(id)?.callFrame;
    const parent = parents.get(id);
    const found = frame === undefined ? [] : [frame, ...(parent === undefined ? [] : framesOf(parent))];
    frames.set(id, found);
    return found;
  };
  let atUs = startTime;
  return samples.map((id, index) => {
    atUs += timeDeltas[index] ?? 0;
    return { atUs, us: timeDeltas[index + 1] ?? 0, frames: framesOf(id) };
  });
}

function summarise(
  processes: readonly (readonly Stack[])[],
  windows: readonly Window[],
  role: CpuRole,
): Omit<Profiled, 'row' | 'way' | 'role'> {
  const [packages, own, inclusive] = [new Counter(), new Counter(), new Counter()];
  let busyUs = 0;
  for (const { us, frames, atUs } of processes.flat()) {
    if (!windows.some(({ fromUs, toUs }) => fromUs <= atUs && atUs < toUs)) continue;
    const [top] = frames;
    if (top === undefined || top.functionName === '(idle)') continue;
    busyUs += us;
    packages.add(packageOf(top, frames), us);
    own.add(nameOf(top), us);
    for (const name of new Set(frames.filter(isOurs).map(nameOf))) inclusive.add(name, us);
  }
  const requests = sum(windows.map((window) => window.requests));
  const cpuUs = (sum(windows.map(({ cpu }) => cpu[role])) * 1e6) / requests;
  const shared = (counter: Counter) => counter.most(busyUs * LEAST_SHARE, cpuUs / busyUs);
  return { cpuUs, packages: shared(packages), own: shared(own), inclusive: shared(inclusive) };
}

class Counter {
  readonly #sums = new Map<string, number>();

  add(name: string, us: number): void {
    this.#sums.set(name, (this.#sums.get(name) ?? 0) + us);
  }

  /** The largest first, times a factor. */
  most(leastUs: number, factor: number): readonly Entry[] {
    return [...this.#sums]
      .filter(([, us]) => us >= leastUs)
      .sort(([, a], [, b]) => b - a)
      .map(([name, us]) => ({ name, us: us * factor }));
  }
}

const OURS = /\/dist\/((?:src|actors)\/.*)$/;
const PACKAGE = /\/node_modules\/((?:@[^/]+\/)?[^/]+)\//;

const isOurs = ({ url }: CallFrame): boolean => OURS.test(url);

function nameOf({ functionName, url, lineNumber }: CallFrame): string {
  const name = functionName === '' ? '(anonymous)' : functionName;
  const where = OURS.exec(url)?.[1] ?? url.replace(/^.*\/node_modules\//, '').replace(/^file:\/\//, '');
  return where === '' ? name : `${name} ${where}:${lineNumber + 1}`;
}

/** What has no place of its own, such as JSON, belongs to the innermost frame that has one. */
function packageOf(top: CallFrame, frames: readonly CallFrame[]): string {
  if (top.functionName.startsWith('(')) return top.functionName;
  const placed = frames.find(({ url }) => url !== '');
  if (placed === undefined) return top.functionName;
  const ours = OURS.exec(placed.url)?.[1];
  if (ours !== undefined) return ours.split('/').slice(0, -1).join('/');
  return PACKAGE.exec(placed.url)?.[1] ?? (placed.url.startsWith('node:') ? 'node' : 'benchmark');
}
