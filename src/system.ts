/**
 * The composition root: puts brokers, runtimes, a tool provider and a client together in one process, over the
 * memory bus and the memory store.
 */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { ExecutionEvent } from '../actors/events.ts';
import { createWorkerPoolAdapter } from './adapter.ts';
import { checkIsolation, checkObservers } from './arguments.ts';
import { MemoryBusServer } from './bus/memory.ts';
import { SessionClient } from './client/client.ts';
import type { AllEventsOptions, SpawnOptions } from './client/options.ts';
import type { SessionRef } from './client/session.ts';
import { type Clock, systemClock } from './clock.ts';
import { EnclaveError, invalidArgument } from './errors.ts';
import { logBroker, logPool } from './ops/logs.ts';
import { type EnclaveMetrics, meter } from './ops/metrics.ts';
import { type ResolvedSystemOptions, resolveSystemOptions, type SystemOptions } from './options.ts';
import { PoolSandbox } from './poolsandbox.ts';
import type { JournalRead } from './protocol.ts';
import type { ExecutionResult } from './result.ts';
import { RuntimeHost } from './runtime/host.ts';
import { type RerunReport, rerun } from './runtime/rerun.ts';
import type { Isolation } from './sandbox/messages.ts';
import type { WorkerPool } from './sandbox/pool.ts';
import { Broker } from './session/broker.ts';
import { MemoryStore } from './store/memory.ts';
import type { Store } from './store/store.ts';
import { type Subjects, subjectsOf } from './subjects.ts';
import type { Tool } from './tools/define.ts';
import { ToolProvider } from './tools/provider.ts';
import { createToolRegistry, type ToolRegistry } from './tools/registry.ts';

export interface CreateSystemOptions extends SystemOptions {
  /** Tools made by `defineTool`: every broker of this process provides them. Default: none. */
  readonly tools?: readonly Tool[] | undefined;
  /** How far executions of different sessions are kept apart where a session does not say. Default `'context'`. */
  readonly isolation?: Isolation | undefined;
  /** A pino logger. Default: silent. Script text and tool arguments are never logged. */
  readonly logger?: Logger | undefined;
  /** A prom-client registry that gets the `enclave_*` metrics. Default: none. */
  readonly registry?: Registry | undefined;
}

/** An execution's script, what it was given and everything that it was handed. */
export type ExecutionJournal = JournalRead;

/** A runtime as its last heartbeat showed it. */
export interface RuntimeInfo {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Scripts that it runs at most, and has. */
  readonly capacity: number;
  readonly load: number;
  readonly draining: boolean;
}

/** A broker as its last heartbeat showed it. */
export interface BrokerInfo {
  readonly id: string;
  /** Sessions with an actor there. */
  readonly sessions: number;
}

interface BrokerNode {
  readonly broker: Broker;
  readonly provider: ToolProvider;
}

interface RuntimeNode {
  readonly host: RuntimeHost;
  readonly pool: WorkerPool;
  readonly stop: () => Promise<void>;
}

/** How long a drain waits for handlers and scripts before it goes on without them, in ms. */
const DRAIN_GRACE_MS = 30_000;

/**
 * Sessions: actors that keep their state, whose scripts survive the loss of the worker and of the runtime they run
 * on, and of the broker that owns them.
 */
export class System implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #subjects: Subjects;
  readonly #store: Store;
  readonly #bus: MemoryBusServer;
  readonly #registry: ToolRegistry;
  readonly #options: CreateSystemOptions;
  readonly #resolved: ResolvedSystemOptions;
  readonly #brokers: BrokerNode[] = [];
  readonly #runtimes: RuntimeNode[] = [];
  readonly #metrics: EnclaveMetrics[] = [];
  readonly #client: SessionClient;
  #closing: Promise<void> | undefined;

  /** @internal Use {@link createSystem}. */
  constructor(options: CreateSystemOptions) {
    const resolved = resolveSystemOptions(options);
    checkIsolation(options.isolation, 'options.isolation');
    checkObservers(options, 'options');
    this.#options = options;
    this.#resolved = resolved;
    this.#clock = systemClock;
    this.#subjects = subjectsOf(resolved.namespace);
    this.#registry = createToolRegistry({ tools: options.tools });
    this.#store = new MemoryStore({ clock: systemClock, maxEvents: resolved.maxEvents });
    this.#bus = new MemoryBusServer({ clock: systemClock });
    for (let index = 1; index <= resolved.brokers; index++) this.#addBroker(`broker-${index}`);
    for (let index = 1; index <= resolved.runtimes; index++) this.#addRuntime(`runtime-${index}`);
    this.#client = new SessionClient({
      id: this.#clock.id(),
      bus: this.#bus.connect('client'),
      clock: this.#clock,
      subjects: this.#subjects,
      defaults: { limits: resolved.limits, isolation: options.isolation ?? 'context' },
    });
  }

  /** @internal Resolves when sessions can be made. */
  async start(): Promise<void> {
    await Promise.all(
      this.#brokers.map(async ({ broker, provider }) => {
        await provider.start();
        await broker.start();
      }),
    );
    // Brokers hear the first heartbeats.
    await Promise.all(this.#runtimes.map(({ host }) => host.start()));
    await this.#client.start();
  }

  /**
   * Make a session. Rejects with an EnclaveError: INVALID_ARGUMENT naming the option, ALREADY_EXISTS, OVERLOADED, or
   * CLOSED.
   */
  spawnSession(options: SpawnOptions = {}): Promise<SessionRef> {
    return this.#client.spawn(options);
  }

  /** A session that exists, by its id. Whether it does is told by the first command. */
  session(id: string): SessionRef {
    return this.#client.session(id);
  }

  /** The runtimes that are there. */
  runtimes(): readonly RuntimeInfo[] {
    const [first] = this.#brokers;
    return (first?.broker.directory.runtimes() ?? []).map(
      ({ runtime, labels, capacity, load, draining }) => ({
        id: runtime,
        labels,
        capacity,
        load,
        draining,
      }),
    );
  }

  /** The brokers that are there, the one with the fewest sessions first. */
  brokers(): readonly BrokerInfo[] {
    const [first] = this.#brokers;
    return (first?.broker.directory.brokers() ?? []).map(({ broker, sessions }) => ({
      id: broker,
      sessions,
    }));
  }

  /** Events of one session, as by `session.events()`, or live ones of all sessions. */
  events(options: AllEventsOptions = {}): AsyncIterable<ExecutionEvent> {
    return this.#client.allEvents(options);
  }

  /**
   * The journal of an execution, as JSON data: what `rerun` and the command `enclave rerun` run again. It holds the
   * script, its input and everything that it was handed. Rejects as NOT_FOUND if the session does not remember it.
   */
  journal(executionId: string, { sessionId }: { readonly sessionId: string }): Promise<ExecutionJournal> {
    return this.#client.journal(sessionId, executionId);
  }

  /**
   * Run an execution that ended again from its journal, without calling any tool, and show its trace: for debugging.
   * Rejects as NOT_FOUND if the session does not remember the execution.
   */
  async rerun(executionId: string, { sessionId }: { readonly sessionId: string }): Promise<RerunReport> {
    const journal = await this.journal(executionId, { sessionId });
    const [runtime] = this.#runtimes;
    if (runtime === undefined) throw new EnclaveError('NO_RUNTIME', 'This system hosts no runtime');
    return rerun(new PoolSandbox(runtime.pool), this.#clock, journal);
  }

  /** The worker pools of the runtimes hosted here, by runtime. */
  stats(): Readonly<Record<string, ReturnType<WorkerPool['stats']>>> {
    return Object.fromEntries(this.#runtimes.map(({ host, pool }) => [host.id, pool.stats()]));
  }

  /**
   * Take nothing new, hand sessions over to the brokers that remain, and wait for scripts and handlers to end, for
   * 30 s at most. Then `close`.
   */
  async drain(): Promise<void> {
    await Promise.all(this.#runtimes.map(({ host }) => host.drain(DRAIN_GRACE_MS)));
    for (const { broker } of this.#brokers) await broker.drain();
    await Promise.all(this.#brokers.map(({ provider }) => provider.drain(DRAIN_GRACE_MS)));
  }

  /** End everything now: what waits ends as CLOSED. Resolves when every process is gone. Safe to call again. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#client.close();
      for (const { provider } of this.#brokers) provider.close();
      for (const { broker } of this.#brokers) broker.abandon();
      for (const metrics of this.#metrics) metrics.stop();
      await Promise.all(this.#runtimes.map(({ stop }) => stop()));
      await this.#bus.close();
      await this.#store.close();
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #addBroker(id: string): void {
    const { logger } = this.#options;
    const resolved = this.#resolved;
    const shared = { clock: this.#clock, subjects: this.#subjects };
    const notice = logger === undefined ? undefined : logBroker(logger, id);
    const provider = new ToolProvider({
      ...shared,
      id: `${id}-${this.#clock.id()}`,
      bus: this.#bus.connect(`${id}.provider`),
      registry: this.#registry,
    });
    const broker = new Broker({
      ...shared,
      id,
      bus: this.#bus.connect(id),
      store: this.#store,
      tool: (name) => {
        const tool = this.#registry.resolve(name);
        return tool === undefined
          ? undefined
          : {
              canonicalName: tool.canonicalName,
              effect: tool.effect,
              reconcilable: tool.reconcile !== undefined,
            };
      },
      leaseTtlMs: resolved.leaseTtlMs,
      hibernateAfterMs: resolved.hibernateAfterMs,
      maxSessions: resolved.maxSessions,
      settings: {
        keepExecutions: resolved.keepExecutions,
        maxExecutions: resolved.maxExecutions,
        parkAfterMs: resolved.parkAfterMs,
        placementTimeoutMs: resolved.placementTimeoutMs,
      },
      onNotice: (told) => {
        notice?.(told);
        if (told.type === 'execution.ended')
          this.#metrics[0]?.ended(JSON.parse(told.result) as ExecutionResult);
      },
    });
    this.#brokers.push({ broker, provider });
  }

  #addRuntime(id: string): void {
    const { logger, registry } = this.#options;
    const adapter = createWorkerPoolAdapter(this.#resolved.pool);
    const pool = adapter.attach();
    const host = new RuntimeHost({
      id,
      bus: this.#bus.connect(id),
      clock: this.#clock,
      subjects: this.#subjects,
      sandbox: new PoolSandbox(pool),
      labels: {},
    });
    const metrics = registry === undefined ? undefined : meter(registry, pool);
    if (metrics !== undefined) this.#metrics.push(metrics);
    const stopLogging =
      logger === undefined ? undefined : pool.observe(logPool(logger.child({ runtime: id })));
    this.#runtimes.push({
      host,
      pool,
      stop: async () => {
        host.close();
        await adapter.detach();
        stopLogging?.();
      },
    });
  }

  /** @internal The parts, for tests that take them away. */
  get parts(): {
    readonly brokers: readonly BrokerNode[];
    readonly runtimes: readonly RuntimeNode[];
    readonly store: Store;
  } {
    return { brokers: this.#brokers, runtimes: this.#runtimes, store: this.#store };
  }
}

/**
 * Start a system: brokers, runtimes and tools in this process, nothing else installed. Sessions live as long as the
 * process does.
 *
 * Rejects with an EnclaveError INVALID_ARGUMENT naming the option that is unknown, out of range or contradicts another.
 */
export async function createSystem(options: CreateSystemOptions = {}): Promise<System> {
  if (typeof options !== 'object' || options === null) throw invalidArgument('options', 'must be an object');
  const system = new System(options);
  await system.start();
  return system;
}
