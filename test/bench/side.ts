/**
 * What the benchmark asks of either side, so that every measurement is written once and favours neither.
 */

/** What is new for each run: the isolate, the context in a kept isolate, or nothing. */
export type Level = 'execution' | 'context' | 'realm';

export type SideName = 'bare' | 'ours';

export type ToolHandler = (name: string, args: unknown) => unknown;

/** How a side is sized. Both get the same. */
export interface Shape {
  /** Worker processes, started at once and kept. */
  readonly workers: number;
  /** Runs aboard one worker at once; the others wait in the parent. */
  readonly maxConcurrentPerWorker: number;
  /** Recycle a worker after this many runs. Default: never. Bare has no recycling and ignores it. */
  readonly maxExecutionsPerWorker?: number;
}

export interface RunOptions {
  readonly level: Level;
  /** Whom the run is for. Bare knows no tenants and ignores it. */
  readonly tenant?: string;
}

/** One system under measurement. */
export interface Side {
  readonly name: SideName;
  /** The value that the script returned; rejects if it did not return one. */
  run(code: string, options: RunOptions): Promise<unknown>;
  /** The worker processes alive now. */
  pids(): readonly number[];
  /** End every process; resolves when they are gone. */
  close(): Promise<void>;
}

/** Makes a fresh side. */
export type Open = (shape: Shape) => Side;

/** The sides under measurement, bare first. */
export type Openers = ReadonlyMap<SideName, Open>;

/** The shape of a loaded side. */
export const TWO_WORKERS: Shape = { workers: 2, maxConcurrentPerWorker: 16 };

/** The shape where one process is what is measured. */
export const ONE_WORKER: Shape = { workers: 1, maxConcurrentPerWorker: 16 };

/** Open the sides, lend them to `work`, and close them whatever happens. */
export async function withSides<T>(
  openers: Openers,
  shape: Shape,
  work: (sides: ReadonlyMap<SideName, Side>) => Promise<T>,
): Promise<T> {
  const sides = new Map<SideName, Side>();
  try {
    for (const [name, open] of openers) sides.set(name, open(shape));
    return await work(sides);
  } finally {
    for (const side of sides.values()) await side.close();
  }
}

/** Open one side, lend it to `work`, and close it whatever happens. */
export async function withSide<T>(open: Open, shape: Shape, work: (side: Side) => Promise<T>): Promise<T> {
  const side = open(shape);
  try {
    return await work(side);
  } finally {
    await side.close();
  }
}
