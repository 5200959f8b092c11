/**
 * The guide's EnclavePool, safe where its sketch is not: releasing twice, disposing with callers waiting, a
 * run that fails. Its Enclaves share one worker pool, so the pool hands out isolation of state, not processes.
 */
import { createWorkerPoolAdapter } from './adapter.ts';
import { checkKeys } from './arguments.ts';
import { ENCLAVE_KEYS, Enclave, type EnclaveConfig, type RunOptions } from './enclave.ts';
import { EnclaveError, invalidArgument } from './errors.ts';
import type { ExecutionResult } from './result.ts';

/** How many may wait for an EnclavePool. */
export interface EnclavePoolOptions {
  /** Callers that may wait for an Enclave. Default 1,000; 0 to 1,000,000. Over it `acquire` rejects as OVERLOADED. */
  readonly maxWaiters?: number | undefined;
}

/** When a caller that found the line full may come again, in ms: nobody knows how long the others keep theirs. */
const RETRY_AFTER_MS = 100;

interface Waiter {
  readonly resolve: (enclave: Enclave) => void;
  readonly reject: (error: EnclaveError) => void;
}

/**
 * A fixed number of Enclaves over one pool of worker processes, handed out one caller at a time, in the order in which they
 * came. What it keeps apart is isolates, not processes. Use `execute`, or `acquire` and `release`, and dispose of it when
 * you are done.
 */
export class EnclavePool implements AsyncDisposable {
  readonly #enclaves: readonly Enclave[];
  readonly #available: Enclave[];
  readonly #waiters = new Set<Waiter>();
  readonly #maxWaiters: number;
  #disposed: Promise<void> | undefined;

  /** @throws EnclaveError INVALID_ARGUMENT for a size that is not a whole number from 1 to 1,024, or a bad option. */
  constructor(size: number, config: EnclaveConfig = {}, options: EnclavePoolOptions = {}) {
    if (!Number.isInteger(size) || size < 1 || size > 1_024) {
      throw invalidArgument('size', `must be a whole number from 1 to 1024, not ${String(size)}`);
    }
    checkKeys(config, ENCLAVE_KEYS, 'config');
    checkKeys(options, ['maxWaiters'], 'options');
    const { maxWaiters = 1_000 } = options;
    if (!Number.isInteger(maxWaiters) || maxWaiters < 0 || maxWaiters > 1_000_000) {
      throw invalidArgument(
        'options.maxWaiters',
        `must be a whole number from 0 to 1000000, not ${String(maxWaiters)}`,
      );
    }
    this.#maxWaiters = maxWaiters;
    const shared = { ...config, adapter: config.adapter ?? createWorkerPoolAdapter() };
    this.#enclaves = Array.from({ length: size }, () => new Enclave(shared));
    this.#available = [...this.#enclaves];
  }

  /** Enclaves that are free. */
  get idle(): number {
    return this.#available.length;
  }
  /** Callers that wait for one. At `maxWaiters` the next is refused as OVERLOADED. */
  get waiting(): number {
    return this.#waiters.size;
  }

  /**
   * An Enclave of one's own until `release`. Callers are served in the order in which they came.
   *
   * Rejects with an EnclaveError: OVERLOADED, with `retryAfterMs`, if `maxWaiters` wait already, CANCELLED if `signal` is aborted,
   * CLOSED once the pool is disposed of.
   */
  acquire(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Enclave> {
    const { signal } = options;
    if (this.#disposed !== undefined) return Promise.reject(closed());
    if (signal?.aborted === true) return Promise.reject(cancelled());
    const free = this.#available.shift();
    if (free !== undefined) return Promise.resolve(free);
    if (this.#waiters.size >= this.#maxWaiters) {
      return Promise.reject(
        new EnclaveError('OVERLOADED', `${this.#maxWaiters} callers wait for an Enclave already`, {
          details: { retryAfterMs: RETRY_AFTER_MS },
        }),
      );
    }
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        this.#waiters.delete(waiter);
        reject(cancelled());
      };
      const waiter: Waiter = {
        resolve: (enclave) => {
          signal?.removeEventListener('abort', abort);
          resolve(enclave);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error);
        },
      };
      this.#waiters.add(waiter);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** Give an Enclave back. Releasing one that is free already, or of another pool, throws INVALID_ARGUMENT. */
  release(enclave: Enclave): void {
    if (!this.#enclaves.includes(enclave)) throw invalidArgument('enclave', 'does not belong to this pool');
    if (this.#available.includes(enclave)) throw invalidArgument('enclave', 'was released already');
    const [waiter] = this.#waiters;
    if (waiter === undefined) {
      this.#available.push(enclave);
      return;
    }
    this.#waiters.delete(waiter);
    waiter.resolve(enclave);
  }

  /** Run a script in the next free Enclave. Rejects as `acquire` and `run` do; the Enclave is always given back. */
  async execute<T = unknown>(code: string, options: RunOptions = {}): Promise<ExecutionResult<T>> {
    const enclave = await this.acquire({ signal: options.signal });
    try {
      return await enclave.run<T>(code, options);
    } finally {
      if (this.#disposed === undefined) this.release(enclave);
    }
  }

  /** Reject everyone who waits as CLOSED and dispose of every Enclave. Safe to call again. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      for (const waiter of this.#waiters) waiter.reject(closed());
      this.#waiters.clear();
      this.#available.length = 0;
      await Promise.all(this.#enclaves.map((enclave) => enclave.dispose()));
    })();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

function closed(): EnclaveError {
  return new EnclaveError('CLOSED', 'The EnclavePool was disposed of');
}
function cancelled(): EnclaveError {
  return new EnclaveError('CANCELLED', 'The caller stopped waiting for an Enclave');
}
