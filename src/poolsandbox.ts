/** The pool of worker processes as the sandbox of a runtime. */
import type { Versions } from '../actors/attempt.ts';
import type { RunningAttempt, Sandbox, SandboxSpec } from './runtime/sandbox.ts';
import { SessionAttempt } from './sandbox/attempt.ts';
import type { WorkerPool } from './sandbox/pool.ts';

export class PoolSandbox implements Sandbox {
  readonly #pool: WorkerPool;

  constructor(pool: WorkerPool) {
    this.#pool = pool;
  }

  start(spec: SandboxSpec): RunningAttempt {
    const { maxReplayBytes, maxWorkerMemory } = this.#pool.options;
    // Whoever made the offer knows no pool. An isolate that may outgrow its worker would be taken for one that did not
    // grow, and be started again and again.
    const limits = {
      ...spec.limits,
      memoryBytes: Math.min(spec.limits.memoryBytes, maxWorkerMemory),
    };
    return new SessionAttempt(this.#pool, { ...spec, limits, maxReplayBytes });
  }

  get versions(): Versions | undefined {
    return this.#pool.versions;
  }

  get capacity(): number {
    const { poolSize, maxConcurrentPerWorker } = this.#pool.options;
    return poolSize * maxConcurrentPerWorker;
  }
}
