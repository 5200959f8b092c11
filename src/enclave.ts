/**
 * The embedded front door: run scripts, get results.
 */
import { hash } from 'node:crypto';
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { ExecutionEvent } from '../actors/events.ts';
import { createWorkerPoolAdapter, WorkerPoolAdapter } from './adapter.ts';
import { checkIsolation, checkKeys, checkObservers, checkSignal, inputJson } from './arguments.ts';
import { systemClock } from './clock.ts';
import { executionError, invalidArgument } from './errors.ts';
import { uuidv7 } from './ids.ts';
import { childOf, logPool } from './ops/logs.ts';
import { type EnclaveMetrics, meter } from './ops/metrics.ts';
import { defaultLimits, type Limits, type ResolvedLimits, resolveLimits } from './options.ts';
import { type ExecutionResult, unstartedResult } from './result.ts';
import type { Isolation } from './sandbox/messages.ts';
import type { PoolStats, WorkerPool } from './sandbox/pool.ts';
import { Run, type ToolPort } from './sandbox/run.ts';
import { seedWords } from './seed.ts';
import { canonicalToolName, type Tool } from './tools/define.ts';
import { callTool } from './tools/dispatch.ts';
import {
  type AllowList,
  createAllowList,
  createToolRegistry,
  type ToolHandler,
  type ToolRegistry,
} from './tools/registry.ts';

/** @internal */
export const ENCLAVE_KEYS = ['adapter', 'toolHandler', 'tools', 'limits', 'isolation', 'logger', 'registry'];
const RUN_KEYS = ['input', 'limits', 'signal', 'tenant', 'tools', 'isolation', 'onEvent', 'seed'];
const MAX_TENANT_LENGTH = 256;

/** What an Enclave is made of: where scripts run, which tools they have, and their limits. Everything has a default. */
export interface EnclaveConfig {
  /** Where scripts run. Default: a worker pool of its own with default options. */
  readonly adapter?: WorkerPoolAdapter | undefined;
  /** Serves every tool that is not in `tools`. Default: such tools are unknown to scripts. */
  readonly toolHandler?: ToolHandler | undefined;
  /** Tools made by `defineTool`. Default: none. */
  readonly tools?: readonly Tool[] | undefined;
  /** Limits of every run that does not set its own. */
  readonly limits?: Limits | undefined;
  /** How far executions are kept apart. Default `'context'`. See README, "Isolation". */
  readonly isolation?: Isolation | undefined;
  /** A pino logger. Default: silent. Script text and tool arguments are never logged. */
  readonly logger?: Logger | undefined;
  /** A prom-client registry that gets the `enclave_*` metrics. Default: none. Enclaves may share one. */
  readonly registry?: Registry | undefined;
}

/** What one run of an Enclave is given, over what its config says. */
export interface RunOptions {
  /** JSON data that the script sees as `input`. At most `maxToolPayloadBytes` as JSON. Default: undefined. */
  readonly input?: unknown;
  /** Limits of this run, over the Enclave's. */
  readonly limits?: Limits | undefined;
  /** Ends the run as CANCELLED when it is aborted. */
  readonly signal?: AbortSignal | undefined;
  /** On whose behalf: 1 to 256 characters. Isolates are kept per tenant and never shared between tenants. Default: the Enclave's own tenant. */
  readonly tenant?: string | undefined;
  /** The only tools that this script may call, by name. Default: all. */
  readonly tools?: readonly string[] | undefined;
  /** Overrides the Enclave's `isolation`. */
  readonly isolation?: Isolation | undefined;
  /** Called with every event of the execution, in order, while it happens. What it throws is dropped and logged. */
  readonly onEvent?: ((event: ExecutionEvent) => void) | undefined;
  /** Seeds `Math.random` in the script. Default: a random seed. */
  readonly seed?: string | number | undefined;
}

/** Totals of one Enclave, and the state of the pool that it uses. */
export interface EnclaveStats extends PoolStats {
  /** Runs that ended with a value. */
  readonly succeeded: number;
  /** Runs that ended with an error. */
  readonly failed: number;
}

let enclaves = 0;

/** @internal What an Enclave is made of; nothing is started. Throws INVALID_ARGUMENT naming the option that is wrong. */
export function checkEnclaveConfig(config: EnclaveConfig, path: string) {
  checkKeys(config, ENCLAVE_KEYS, path);
  if (config.adapter !== undefined && !(config.adapter instanceof WorkerPoolAdapter)) {
    throw invalidArgument(`${path}.adapter`, 'must be made by createWorkerPoolAdapter');
  }
  checkObservers(config, path);
  const registry = createToolRegistry({ tools: config.tools, toolHandler: config.toolHandler });
  const isolation = checkIsolation(config.isolation, `${path}.isolation`) ?? 'context';
  const adapter = config.adapter ?? createWorkerPoolAdapter();
  const { maxWorkerMemory } = adapter.options;
  const limits = checkMemory(
    resolveLimits(config.limits, defaultLimits(maxWorkerMemory), `${path}.limits`),
    maxWorkerMemory,
    `${path}.limits`,
  );
  return { registry, isolation, adapter, limits, maxWorkerMemory };
}

/**
 * Runs untrusted scripts in a pool of supervised worker processes.
 *
 * `run` rejects only on misuse (an EnclaveError naming the argument); whatever a script does is in the result.
 * Dispose of it when you are done; an idle Enclave does not keep the process alive.
 */
export class Enclave implements AsyncDisposable {
  readonly #adapter: WorkerPoolAdapter;
  readonly #pool: WorkerPool;
  readonly #registry: ToolRegistry;
  readonly #limits: ResolvedLimits;
  readonly #isolation: Isolation;
  readonly #logger: Logger | undefined;
  readonly #metrics: EnclaveMetrics | undefined;
  readonly #stopObserving: () => void;
  /** Keeps the isolates of Enclaves that share a pool apart. */
  readonly #realm = `${++enclaves}`;
  readonly #active = new Set<Run>();
  readonly #everyTool: AllowList;
  readonly #anyToolName: boolean;
  #succeeded = 0;
  #failed = 0;
  #disposed: Promise<void> | undefined;

  /**
   * @param internal Of this package. `anyToolName`: what a run's `tools` names may be unknown here.
   * @throws EnclaveError INVALID_ARGUMENT naming the option that is wrong.
   */
  constructor(config: EnclaveConfig = {}, internal: { readonly anyToolName?: boolean } = {}) {
    const { registry, isolation, adapter, limits } = checkEnclaveConfig(config, 'config');
    this.#registry = registry;
    this.#everyTool = createAllowList(undefined, registry);
    this.#anyToolName = internal.anyToolName ?? false;
    this.#isolation = isolation;
    this.#adapter = adapter;
    this.#limits = limits;
    this.#logger = config.logger === undefined ? undefined : childOf(config.logger, {});
    this.#pool = this.#adapter.attach();
    this.#metrics = config.registry === undefined ? undefined : meter(config.registry, this.#pool);
    this.#stopObserving =
      config.logger === undefined ? () => undefined : this.#pool.observe(logPool(config.logger));
  }

  /**
   * Run a script: the body of an async function in JavaScript or TypeScript.
   *
   * Delivery: a script is started once, and again only after its worker was lost; a tool handler is called at
   * most once per call. Rejects with an EnclaveError INVALID_ARGUMENT on misuse.
   */
  async run<T = unknown>(code: string, options: RunOptions = {}): Promise<ExecutionResult<T>> {
    if (typeof code !== 'string') throw invalidArgument('code', `must be a string, not ${typeof code}`);
    const prepared = this.#prepare(code, options);
    const { signal } = options;
    const refused = this.#refuseEarly(prepared.id, code, prepared.limits, signal);
    if (refused !== undefined) {
      this.#failed++;
      this.#metrics?.ended(refused);
      return refused;
    }
    return new Promise((resolve) => {
      let run: Run | undefined;
      const cancel = (): void => {
        if (run !== undefined) this.#pool.cancel(run.execution, 'The caller aborted the run');
      };
      run = new Run({
        ...prepared,
        source: code,
        onEnd: (result) => {
          signal?.removeEventListener('abort', cancel);
          if (run !== undefined) this.#active.delete(run);
          if (result.success) this.#succeeded++;
          else this.#failed++;
          this.#metrics?.ended(result);
          resolve(result as ExecutionResult<T>);
        },
      });
      this.#active.add(run);
      signal?.addEventListener('abort', cancel, { once: true });
      this.#pool.submit(run.execution);
    });
  }

  /** Totals since the Enclave was made, and the state of its pool now. */
  stats(): EnclaveStats {
    return { ...this.#pool.stats(), succeeded: this.#succeeded, failed: this.#failed };
  }

  /**
   * End every run of this Enclave as CLOSED, and the pool if no other Enclave uses it. Resolves when its
   * processes are gone. Safe to call again; a run after it ends as CLOSED.
   */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      for (const { execution } of this.#active) this.#pool.abandon(execution);
      this.#metrics?.stop();
      await this.#adapter.detach();
      this.#stopObserving();
    })();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #prepare(code: string, options: RunOptions) {
    checkKeys(options, RUN_KEYS, 'options');
    const { tenant, onEvent, signal, seed } = options;
    if (
      tenant !== undefined &&
      (typeof tenant !== 'string' || tenant === '' || tenant.length > MAX_TENANT_LENGTH)
    ) {
      throw invalidArgument('options.tenant', `must be a string of 1 to ${MAX_TENANT_LENGTH} characters`);
    }
    if (onEvent !== undefined && typeof onEvent !== 'function')
      throw invalidArgument('options.onEvent', 'must be a function');
    checkSignal(signal, 'options.signal');
    const { maxWorkerMemory, maxReplayBytes } = this.#adapter.options;
    const limits =
      options.limits === undefined
        ? this.#limits
        : checkMemory(
            resolveLimits(options.limits, this.#limits, 'options.limits'),
            maxWorkerMemory,
            'options.limits',
          );
    const tenantKey = tenant === undefined ? this.#realm : `${this.#realm}:${tenant}`;
    const key = `${tenantKey}#${hash('sha1', code, 'base64')}`;
    return {
      id: uuidv7(),
      input: inputJson(options.input, limits.maxToolPayloadBytes),
      tenantKey,
      tenant,
      key,
      isolation: checkIsolation(options.isolation, 'options.isolation') ?? this.#isolation,
      limits,
      seed: seedWords(seed, systemClock),
      heavy: this.#pool.isHeavy(key),
      onHeavy: () => this.#pool.noteHeavy(key),
      maxReplayBytes,
      tools: this.#toolPort(options.tools, limits),
      onEvent: onEvent === undefined ? undefined : this.#guarded(onEvent),
    };
  }

  #refuseEarly(
    executionId: string,
    code: string,
    limits: ResolvedLimits,
    signal: AbortSignal | undefined,
  ): ExecutionResult<never> | undefined {
    if (this.#disposed !== undefined) return refusal(executionId, 'CLOSED', 'The Enclave was disposed of');
    if (signal?.aborted === true)
      return refusal(executionId, 'CANCELLED', 'The caller aborted the run before it began');
    const { maxSourceBytes } = limits;
    if (code.length <= maxSourceBytes / 3) return undefined;
    const bytes = Buffer.byteLength(code);
    if (bytes <= maxSourceBytes) return undefined;
    return refusal(
      executionId,
      'SOURCE_LIMIT_EXCEEDED',
      `The source is ${bytes} bytes, more than maxSourceBytes (${maxSourceBytes})`,
    );
  }

  #toolPort(allowed: readonly string[] | undefined, { maxToolPayloadBytes }: ResolvedLimits): ToolPort {
    const known = this.#anyToolName ? undefined : this.#registry;
    const mayCall = allowed === undefined ? this.#everyTool : createAllowList(allowed, known);
    return {
      call: (name, argsJson, { signal, ...call }) => {
        const canonical = canonicalToolName(name);
        if (canonical !== undefined && !mayCall(canonical)) return 'TOOL_NOT_ALLOWED';
        const tool = this.#registry.resolve(name);
        if (tool === undefined) return 'UNKNOWN_TOOL';
        return callTool(tool, argsJson, call, { maxPayloadBytes: maxToolPayloadBytes, signal });
      },
    };
  }

  #guarded(onEvent: (event: ExecutionEvent) => void): (event: ExecutionEvent) => void {
    return (event) => {
      try {
        onEvent(event);
      } catch (error) {
        this.#logger?.error(
          { err: error, execution: event.sessionId, type: event.type },
          'an event listener threw',
        );
      }
    };
  }
}

function refusal(
  executionId: string,
  code: 'CLOSED' | 'CANCELLED' | 'SOURCE_LIMIT_EXCEEDED',
  message: string,
): ExecutionResult<never> {
  return unstartedResult(executionId, executionError(code, { message, outcome: 'not_started' }), Date.now());
}

function checkMemory(limits: ResolvedLimits, maxWorkerMemory: number, path: string): ResolvedLimits {
  if (limits.memoryBytes > maxWorkerMemory) {
    throw invalidArgument(
      `${path}.memoryBytes`,
      `${limits.memoryBytes} is more than maxWorkerMemory (${maxWorkerMemory}), which holds for the whole worker process`,
    );
  }
  return limits;
}
