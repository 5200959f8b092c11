/**
 * The comparator: what a competent engineer writes on isolated-vm without supervision. Worker processes, the
 * least loaded first, a bounded number of runs aboard each and one queue before them; tools are answered here.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { Level, Shape, Side, ToolHandler } from '../side.ts';
import { FrameReader, FrameWriter } from './frames.ts';
import type { ToParent, ToWorker } from './messages.ts';

const WORKER_ENTRY = fileURLToPath(new URL('./worker.ts', import.meta.url));

const WORKER_DIED = 'a bare worker died';

interface Job {
  readonly level: Level;
  readonly code: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Open a pool of bare workers; it starts them at once and never replaces one. */
export function openBare(shape: Shape, toolHandler: ToolHandler): Side {
  const pool = new BarePool(shape, toolHandler);
  return {
    name: 'bare',
    run: (code, { level }) => pool.run(code, level),
    pids: () => pool.pids(),
    close: () => pool.close(),
  };
}

class BarePool {
  readonly #workers: readonly BareWorker[];
  readonly #queue: Job[] = [];
  readonly #maxAboard: number;

  constructor(shape: Shape, toolHandler: ToolHandler) {
    this.#maxAboard = shape.maxConcurrentPerWorker;
    const refill = (worker: BareWorker) => this.#refill(worker);
    this.#workers = Array.from({ length: shape.workers }, () => new BareWorker(toolHandler, refill));
  }

  run(code: string, level: Level): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const job: Job = { level, code, resolve, reject };
    const worker = this.#leastLoaded();
    if (worker.aboard < this.#maxAboard) worker.start(job);
    else this.#queue.push(job);
    return promise;
  }

  pids(): readonly number[] {
    return this.#workers.map((worker) => worker.pid);
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.close()));
  }

  #leastLoaded(): BareWorker {
    return this.#workers.reduce((best, worker) => (worker.aboard < best.aboard ? worker : best));
  }

  #refill(worker: BareWorker): void {
    const job = this.#queue.shift();
    if (job !== undefined) worker.start(job);
  }
}

class BareWorker {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #writer: FrameWriter;
  readonly #jobs = new Map<number, Job>();
  readonly #toolHandler: ToolHandler;
  readonly #refill: (worker: BareWorker) => void;
  #nextRun = 0;
  #dead = false;

  constructor(toolHandler: ToolHandler, refill: (worker: BareWorker) => void) {
    this.#toolHandler = toolHandler;
    this.#refill = refill;
    this.#child = spawn(process.execPath, ['--no-node-snapshot', WORKER_ENTRY], {
      stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    });
    this.#exited = once(this.#child, 'exit').then(() => this.#failAll());
    const pipe = this.#child.stdio[3];
    if (!(pipe instanceof Socket)) throw new Error('the worker has no pipe on descriptor 3');
    this.#writer = new FrameWriter(pipe);
    const reader = new FrameReader();
    pipe.on('data', (chunk: Buffer) => {
      for (const text of reader.read(chunk)) this.#receive(JSON.parse(text) as ToParent);
    });
    // A pipe that breaks is followed by the exit, which fails whatever is aboard.
    pipe.on('error', () => {});
  }

  get aboard(): number {
    return this.#jobs.size;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  start(job: Job): void {
    if (this.#dead) {
      job.reject(new Error(WORKER_DIED));
      return;
    }
    const run = this.#nextRun++;
    this.#jobs.set(run, job);
    this.#send({ type: 'run', run, level: job.level, code: job.code });
  }

  async close(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #receive(message: ToParent): void {
    if (message.type === 'call') {
      void this.#call(message.guest, message.call, message.name, message.args);
      return;
    }
    const job = this.#jobs.get(message.run);
    if (job === undefined) return;
    this.#jobs.delete(message.run);
    if (message.type === 'done') job.resolve(message.value);
    else job.reject(new Error(message.message));
    this.#refill(this);
  }

  async #call(guest: number, call: number, name: string, args: unknown): Promise<void> {
    try {
      const json = JSON.stringify((await this.#toolHandler(name, args)) ?? null);
      this.#send({ type: 'answer', guest, call, ok: true, json });
    } catch (error) {
      this.#send({ type: 'answer', guest, call, ok: false, json: JSON.stringify(String(error)) });
    }
  }

  #send(message: ToWorker): void {
    this.#writer.send(JSON.stringify(message));
  }

  #failAll(): void {
    this.#dead = true;
    for (const job of this.#jobs.values()) job.reject(new Error(WORKER_DIED));
    this.#jobs.clear();
  }
}
