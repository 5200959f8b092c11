/** What is sampled, of whom, and how much of it may grow. */
import { existsSync, readFileSync } from 'node:fs';
import { POOL_RULES } from '../../src/options.ts';
import { waitUntil } from '../support/processes.ts';
import { LASTING, type Member, type Members, REPLACED, RUNTIMES } from './members.ts';
import { fileOf, type Told } from './probe.ts';
import { identityOf, usageOf } from './proc.ts';
import { type Bound, type Judgement, judge, type Sample } from './slope.ts';

const MiB = 1024 * 1024;

/**
 * What is held after a collection tells a leak best. Some things are kept for their time: ids of attempts for ten
 * minutes in a runtime, what closed sessions answer for ten minutes in a broker. Resident memory also counts what V8 and
 * the allocators keep for later, and falls seldom.
 */
export const BOUNDS = {
  held: { noise: 2 * MiB, perMinute: 0.5 * MiB },
  resident: { noise: 32 * MiB, perMinute: 2 * MiB },
  descriptors: { noise: 4, perMinute: 0 },
  sockets: { noise: 4, perMinute: 0 },
  children: { noise: 1, perMinute: 0 },
  /** Timers, sockets and requests under way that keep it alive. */
  resources: { noise: 24, perMinute: 0 },
  /** A session that is in use has two. */
  subscriptions: { noise: 60, perMinute: 0 },
  connections: { noise: 2, perMinute: 0 },
  /** Without those of sessions that were closed and are kept, and without incarnations; a session has some twenty. */
  keys: { noise: 200, perMinute: 0 },
  /** Of Redis; closed sessions are in it. */
  stored: { noise: 3 * MiB, perMinute: 1 * MiB },
} as const satisfies Record<string, Bound>;

/** A worker is no figure: its pool replaces it when it has grown, so that it may, up to this. */
const MAX_WORKER_BYTES = POOL_RULES.maxWorkerMemory.default;

export type Figure = keyof typeof BOUNDS;

/** One life of a process, or a server. */
export interface Series {
  readonly name: string;
  readonly life: number;
  readonly figure: Figure;
  readonly bound: Bound;
  /** After its warm-up. */
  readonly judgement: Judgement;
}

export class Figures {
  readonly #members: Members;
  readonly #warmUpMs: number;
  /** By `name/life/figure`. */
  readonly #series = new Map<string, { name: string; life: number; figure: Figure; samples: Sample[] }>();
  /** Lives of each name, by process. */
  readonly #lives = new Map<string, string[]>();
  /** Sessions that were closed, and stay for their time. */
  readonly kept = new Set<string>();
  /** Resident, in bytes. */
  largestWorker = 0;
  #underway: Promise<void> = Promise.resolve();

  constructor(members: Members, warmUpMs: number) {
    this.#members = members;
    this.#warmUpMs = warmUpMs;
  }

  /** Look at everything once. One at a time. */
  sample(): Promise<void> {
    this.#underway = this.#underway.then(() => this.#look());
    return this.#underway;
  }

  async #look(): Promise<void> {
    const { nats, redis, directory } = this.#members.cluster;
    await Promise.all(this.#members.all.map((member) => this.#lookAt(member, directory)));
    const { num_subscriptions: subscriptions = 0 } = await monitored(nats.monitorUrl, 'subsz');
    const { num_connections: connections = 0 } = await monitored(nats.monitorUrl, 'connz');
    this.#note('nats-server', nats.pid, { subscriptions, connections });
    if (redis.kind !== 'standalone') return;
    const keys = splitLines(await redis.server.cli('KEYS', '*')).filter((key) => !this.#mayStay(key)).length;
    const used = /^used_memory:(\d+)/m.exec(await redis.server.cli('INFO', 'memory'));
    this.#note('redis-server', redis.server.pid, { keys, stored: Number(used?.[1]) });
  }

  async #lookAt({ name, pid, probed }: Member, directory: string): Promise<void> {
    const told = probed ? await probe(pid, directory) : undefined;
    const usage = usageOf(pid);
    if (usage === undefined) return; // It is being killed.
    this.#members.saw(pid);
    for (const child of usage.children) this.#members.saw(child, name.startsWith('runtime'));
    this.#note(name, pid, {
      resident: usage.residentBytes,
      descriptors: usage.descriptors,
      sockets: usage.sockets,
      children: usage.children.length,
      ...(told === undefined ? {} : { held: told.heldBytes, resources: told.resources.length }),
    });
    for (const child of usage.children)
      this.largestWorker = Math.max(this.largestWorker, usageOf(child)?.residentBytes ?? 0);
  }

  #note(name: string, pid: number, values: Partial<Record<Figure, number>>): void {
    const life = this.#lifeOf(name, pid);
    for (const [figure, value] of Object.entries(values) as [Figure, number][]) {
      const key = `${name}/${life}/${figure}`;
      const series = this.#series.get(key) ?? { name, life, figure, samples: [] };
      series.samples.push({ at: performance.now(), value });
      this.#series.set(key, series);
    }
  }

  /** The number of this process among those of the name, from 1. */
  #lifeOf(name: string, pid: number): number {
    const lives = this.#lives.get(name) ?? [];
    this.#lives.set(name, lives);
    const identity = `${pid}-${identityOf(pid)?.startedAt}`;
    if (!lives.includes(identity)) lives.push(identity);
    return lives.indexOf(identity) + 1;
  }

  #mayStay(key: string): boolean {
    if (key.includes(':incarnation:')) return true;
    const session = /:session:\{([^}]+)\}/.exec(key)?.[1];
    return session !== undefined && this.kept.has(session);
  }

  /** The samples of each life from its warm-up on, judged. */
  judged(): readonly Series[] {
    return [...this.#series.values()].map(({ name, life, figure, samples }) => {
      const warm = (samples[0]?.at ?? 0) + this.#warmUpMs;
      const bound = BOUNDS[figure];
      return {
        name,
        life,
        figure,
        bound,
        judgement: judge(
          samples.filter(({ at }) => at >= warm),
          bound,
        ),
      };
    });
  }

  /** What may never be, however short: more workers than a runtime may have (one, and one that takes its place), and larger ones. */
  beyond(): readonly string[] {
    const large = this.largestWorker > MAX_WORKER_BYTES ? [`a worker had ${this.largestWorker} bytes`] : [];
    return large.concat(this.#tooManyChildren());
  }

  #tooManyChildren(): readonly string[] {
    return [...this.#series.values()]
      .filter(({ figure }) => figure === 'children')
      .flatMap(({ name, samples }) => {
        const most = Math.max(...samples.map(({ value }) => value));
        const allowed = name.startsWith('runtime') ? 2 : 0;
        return most > allowed && !name.endsWith('-server') ? [`${name} had ${most} children`] : [];
      });
  }
}

/** The least number of workers that there must have been seen. */
export const LEAST_WORKERS = RUNTIMES;

/** What is looked at in every process. */
const OF_ALL = ['resident', 'descriptors', 'sockets', 'children'] as const satisfies readonly Figure[];
/** Those that answer probes tell this besides. */
const OF_PROBED = [...OF_ALL, 'held', 'resources'] as const satisfies readonly Figure[];

/** The figures of each member. Those that last from the beginning to the end must be judged, each of them. */
export const EXPECTED: Readonly<Record<string, readonly Figure[]>> = {
  ...Object.fromEntries(LASTING.map((name) => [name, OF_PROBED])),
  ...Object.fromEntries(REPLACED.map((name) => [name, OF_PROBED])),
  'nats-server': [...OF_ALL, 'subscriptions', 'connections'],
  'redis-server': [...OF_ALL, 'keys', 'stored'],
};

/** What was never seen of some member; and, if `whole`, what has no full verdict of one that lasts. */
export function unjudged(
  judged: readonly Pick<Series, 'name' | 'figure' | 'judgement'>[],
  whole: boolean,
): readonly string[] {
  return Object.entries(EXPECTED).flatMap(([name, figures]) =>
    figures.flatMap((figure) => {
      const lives = judged.filter((one) => one.name === name && one.figure === figure);
      if (lives.length === 0) return [`${figure} of ${name} was never looked at`];
      if (!whole || REPLACED.includes(name)) return [];
      const full = lives.some(({ judgement }) => judgement.verdict !== 'short');
      return full ? [] : [`${figure} of ${name} was looked at too seldom to be judged`];
    }),
  );
}

export const splitLines = (text: string): readonly string[] => text.split('\n').filter((line) => line !== '');

/** Numbers of the server's monitoring port. */
export async function monitored(
  url: string,
  page: 'subsz' | 'connz',
): Promise<Readonly<Record<string, number>>> {
  const response = await fetch(`${url}/${page}`, { signal: AbortSignal.timeout(5_000) });
  return (await response.json()) as Readonly<Record<string, number>>;
}

/** What it holds after a collection; undefined if it cannot be asked yet, or ends meanwhile. */
export async function probe(pid: number, directory: string): Promise<Told | undefined> {
  const file = fileOf(directory, pid);
  const read = (): Told | undefined =>
    existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Told) : undefined;
  const before = read();
  if (before === undefined || identityOf(pid) === undefined) return undefined;
  try {
    process.kill(pid, 'SIGUSR2');
  } catch {
    return undefined;
  }
  let told = before;
  await waitUntil(() => {
    told = read() ?? before;
    return told.number > before.number || identityOf(pid) === undefined;
  }, `${pid} tells what it holds`);
  return told.number > before.number ? told : undefined;
}
