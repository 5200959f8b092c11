/**
 * Where an Enclave's scripts run: a worker pool, shared by every Enclave that is given the same adapter.
 */
import { type ResolvedPoolOptions, resolvePoolOptions, type WorkerPoolOptions } from './options.ts';
import { WorkerPool } from './sandbox/pool.ts';

/** Runs scripts in a pool of supervised worker processes. Made by {@link createWorkerPoolAdapter}. */
export class WorkerPoolAdapter {
  /** The options in force, defaults included. */
  readonly options: ResolvedPoolOptions;
  #pool: WorkerPool | undefined;
  #users = 0;

  constructor(options: WorkerPoolOptions | undefined) {
    this.options = resolvePoolOptions(options);
  }

  /** @internal The pool; started for its first user. */
  attach(): WorkerPool {
    this.#users++;
    this.#pool ??= new WorkerPool(this.options);
    return this.#pool;
  }

  /** @internal Close the pool after its last user. Resolves when its processes are gone. */
  async detach(): Promise<void> {
    this.#users--;
    const pool = this.#pool;
    if (this.#users > 0 || pool === undefined) return;
    this.#pool = undefined;
    await pool.close();
  }
}

/**
 * A pool of supervised worker processes for one Enclave, or for several that share it. Workers start with the
 * first Enclave that uses the adapter and end with the last one's `dispose()`.
 *
 * @throws EnclaveError INVALID_ARGUMENT naming the option that is unknown, out of range or contradicts another.
 */
export function createWorkerPoolAdapter(options?: WorkerPoolOptions): WorkerPoolAdapter {
  return new WorkerPoolAdapter(options);
}
