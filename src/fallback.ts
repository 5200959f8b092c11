/** Stateless runs in this process, for a client whose cluster is away. */
import type { RunOptions } from './client/options.ts';
import { Enclave, type EnclaveConfig } from './enclave.ts';
import { invalidArgument } from './errors.ts';
import { LIMIT_RULES, type Limits, type ResolvedSessionLimits } from './options.ts';
import type { ExecutionResult } from './result.ts';
import type { Isolation } from './sandbox/messages.ts';

/** `'local'`: an Enclave with its defaults. Else the options of one. */
export type FallbackOption = 'local' | EnclaveConfig;

/** How long a broker is looked for before a run is made here, in ms. */
const PATIENCE_MS = 1_000;

export class Fallback {
  readonly patienceMs = PATIENCE_MS;
  readonly #config: EnclaveConfig;
  #enclave: Enclave | undefined;

  /** Throws INVALID_ARGUMENT. */
  constructor(option: FallbackOption) {
    if (option !== 'local' && (typeof option !== 'object' || option === null))
      throw invalidArgument('options.fallback', "must be 'local' or the options of an Enclave");
    this.#config = option === 'local' ? {} : option;
  }

  run<T>(
    code: string,
    options: RunOptions,
    limits: ResolvedSessionLimits,
    isolation: Isolation,
  ): Promise<ExecutionResult<T>> {
    // Workers are started when they are needed first: the cluster may never be away.
    this.#enclave ??= new Enclave(this.#config);
    // Its events are the caller's alone: they are neither published nor stored.
    const { labels: _, redactEvents: _shown, limits: given, ...rest } = options;
    return this.#enclave.run<T>(code, {
      ...rest,
      isolation,
      limits: given === undefined ? undefined : ofRun(limits, given),
    });
  }

  async close(): Promise<void> {
    await this.#enclave?.dispose();
  }
}

/** Those limits that were given and that a run has; sessions have more. */
function ofRun(limits: ResolvedSessionLimits, given: object): Limits {
  const keys = Object.keys(LIMIT_RULES).filter((key) => Object.hasOwn(given, key));
  return Object.fromEntries(keys.map((key) => [key, limits[key as keyof ResolvedSessionLimits]]));
}
