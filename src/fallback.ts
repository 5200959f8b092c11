/** Stateless runs in this process, for a client whose cluster is away. */
import type { RunOptions } from './client/options.ts';
import { checkEnclaveConfig, Enclave, type EnclaveConfig } from './enclave.ts';
import { invalidArgument } from './errors.ts';
import { LIMIT_RULES, type Limits, mergeSessionLimits, type SessionLimitOptions } from './options.ts';
import type { ExecutionResult } from './result.ts';
import type { Isolation } from './sandbox/messages.ts';

/** `'local'`: an Enclave with its defaults. Else the options of one. */
export type FallbackOption = 'local' | EnclaveConfig;

/** What the client sets: it holds where neither the run nor the fallback's own options say otherwise. */
export interface ClientSettings {
  readonly limits: SessionLimitOptions;
  readonly isolation: Isolation | undefined;
}

/** How long a broker is looked for before a run is made here, in ms. */
const PATIENCE_MS = 1_000;

export class Fallback {
  readonly patienceMs = PATIENCE_MS;
  readonly #config: EnclaveConfig;
  readonly #limits: SessionLimitOptions;
  readonly #isolation: Isolation | undefined;
  readonly #maxWorkerMemory: number;
  #enclave: Enclave | undefined;

  /** Throws INVALID_ARGUMENT naming the option: nobody should learn while the cluster is away that it is wrong. */
  constructor(option: FallbackOption, client: ClientSettings) {
    if (option !== 'local' && (typeof option !== 'object' || option === null))
      throw invalidArgument('options.fallback', "must be 'local' or the options of an Enclave");
    this.#config = option === 'local' ? {} : option;
    this.#maxWorkerMemory = checkEnclaveConfig(this.#config, 'options.fallback').maxWorkerMemory;
    this.#limits = mergeSessionLimits(this.#config.limits, client.limits, 'options.fallback.limits');
    this.#isolation = this.#config.isolation ?? client.isolation;
  }

  run<T>(code: string, options: RunOptions): Promise<ExecutionResult<T>> {
    // Workers are started when they are needed first: the cluster may never be away.
    this.#enclave ??= new Enclave(this.#config, { anyToolName: true });
    // Its events are the caller's alone: they are neither published nor stored.
    const { labels: _, redactEvents: _shown, limits, isolation = this.#isolation, ...rest } = options;
    return this.#enclave.run<T>(code, { ...rest, isolation, limits: this.#limitsOf(limits) });
  }

  async close(): Promise<void> {
    await this.#enclave?.dispose();
  }

  /** The run's limits, over the fallback's, over the client's: those that a run in this process has. */
  #limitsOf(given: SessionLimitOptions | undefined): Limits {
    const { deadlineMs, maxStateBytes: _, ...limits } = mergeSessionLimits(given, this.#limits);
    const { memoryBytes, timeoutMs = LIMIT_RULES.timeoutMs.default } = limits;
    return {
      ...limits,
      // The cluster's workers may have more than those here.
      ...(memoryBytes === undefined ? {} : { memoryBytes: Math.min(memoryBytes, this.#maxWorkerMemory) }),
      // Nothing else bounds a run here.
      ...(deadlineMs === undefined ? {} : { timeoutMs: Math.min(timeoutMs, deadlineMs) }),
    };
  }
}
