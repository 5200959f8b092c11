/** The roles that a process hosts: each is put together here from its parts. */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { Routing } from '../actors/routing.ts';
import { createWorkerPoolAdapter } from './adapter.ts';
import type { BusSource } from './backends.ts';
import type { Clock } from './clock.ts';
import { nearBus } from './nearbus.ts';
import { type AuditSink, auditor } from './ops/audit.ts';
import { childOf, logBroker, logPool } from './ops/logs.ts';
import { MeteredStore } from './ops/meteredstore.ts';
import { meterBroker, meterCommits, meterLosses, meterRuntime } from './ops/metrics.ts';
import type { ResolvedSystemOptions } from './options.ts';
import { PoolSandbox } from './poolsandbox.ts';
import { RuntimeHost } from './runtime/host.ts';
import type { Isolation } from './sandbox/messages.ts';
import type { WorkerPool } from './sandbox/pool.ts';
import { allowanceOf } from './session/allowance.ts';
import type { Autoscaling } from './session/autoscale.ts';
import { Broker } from './session/broker.ts';
import type { Store } from './store/store.ts';
import type { Subjects } from './subjects.ts';
import { ToolProvider } from './tools/provider.ts';
import type { ToolRegistry } from './tools/registry.ts';

export interface NodeContext {
  readonly bus: BusSource;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly settings: ResolvedSystemOptions;
  readonly logger: Logger | undefined;
  /** Show scripts, arguments and results in lines of the level `debug`. */
  readonly logContent: boolean;
  readonly metrics: Registry | undefined;
}

/** What a broker needs beside what all roles share. */
export interface BrokerParts {
  readonly store: Store;
  readonly tools: ToolRegistry;
  readonly routing: Routing;
  readonly autoscaling: Autoscaling | undefined;
  /** How far executions are kept apart where nobody says. Default `'context'`. */
  readonly isolation: Isolation | undefined;
  /** Keep what scripts write, pass to tools and return out of all events. */
  readonly redactEvents: boolean;
  /** Where records of executions go; undefined: none are made. */
  readonly audit: AuditSink | undefined;
  /** By which the broker tells the time, which is written down and read by others. */
  readonly clock: Clock;
}

/** A broker, and the provider of its process's tools. */
export class BrokerNode {
  readonly broker: Broker;
  readonly provider: ToolProvider;
  readonly #settings: ResolvedSystemOptions;
  readonly #stopMetrics: () => void;

  constructor(id: string, context: NodeContext, parts: BrokerParts) {
    const { tools, routing, autoscaling, redactEvents, isolation } = parts;
    const { bus, clock, subjects, settings, logger, logContent, metrics: registry } = context;
    const now = (): number => clock.monotonic();
    const store =
      registry === undefined ? parts.store : new MeteredStore(parts.store, now, meterCommits(registry));
    const census = {
      statuses: () => this.broker.statuses(),
      waiting: () => this.broker.waiting,
      hears: () => bus.connected,
    };
    const metrics = registry && meterBroker(registry, census, now);
    const losses = registry && meterLosses(registry);
    const log = logger === undefined ? undefined : logBroker(logger, id, { content: logContent });
    const own = bus.connect(id);
    const audit =
      parts.audit === undefined
        ? undefined
        : auditor(parts.audit, own, subjects, logger && childOf(logger, { broker: id }));
    this.#settings = settings;
    this.#stopMetrics = () => metrics?.stop();
    this.provider = new ToolProvider({
      id: `${id.slice(0, 40)}-${clock.id()}`,
      bus: bus.connect(`${id}.provider`),
      clock,
      subjects,
      registry: tools,
      losses,
    });
    this.broker = new Broker({
      id,
      bus: nearBus(own, this.provider),
      store,
      clock: parts.clock,
      subjects,
      tool: (name) => {
        const tool = tools.resolve(name);
        return tool === undefined
          ? undefined
          : {
              canonicalName: tool.canonicalName,
              effect: tool.effect,
              reconcilable: tool.reconcile !== undefined,
            };
      },
      isReachable: () => bus.connected,
      leaseTtlMs: settings.leaseTtlMs,
      hibernateAfterMs: settings.hibernateAfterMs,
      scanMs: settings.scanIntervalMs,
      maxSessions: settings.maxSessions,
      maxConcurrentSessions: settings.maxConcurrentSessions,
      admission: settings.admission,
      maxRuns: settings.maxRuns,
      allowance: allowanceOf({ limits: settings.limits, most: settings.maxLimits, isolation }),
      routing,
      autoscaling,
      settings: {
        ttlMs: settings.sessionTimeoutMs,
        keepExecutions: settings.keepExecutions,
        maxExecutions: settings.maxExecutions,
        parkAfterMs: settings.parkAfterMs,
        placementTimeoutMs: settings.placementTimeoutMs,
      },
      losses,
      redactEvents,
      audit: audit !== undefined,
      onNotice: (notice) => {
        if (notice.type === 'execution.audited') return audit?.(notice.record);
        log?.(notice);
        metrics?.notice(notice);
      },
    });
  }

  /** Its provider first: a session that it takes over may have calls to make. */
  async start(): Promise<void> {
    await this.provider.start();
    await this.broker.start();
  }

  /** Hand the sessions over, then wait for the handlers. */
  async drain(): Promise<void> {
    const { drainGraceMs } = this.#settings;
    await this.broker.drain(drainGraceMs);
    await this.provider.drain(drainGraceMs);
  }

  /** End now; others need not wait for the lease to take its sessions over. */
  async close(): Promise<void> {
    this.provider.close();
    this.#stopMetrics();
    await this.broker.halt();
  }
}

/** A runtime and its worker pool. */
export class RuntimeNode {
  readonly host: RuntimeHost;
  readonly pool: WorkerPool;
  readonly #settings: ResolvedSystemOptions;
  readonly #stopMetrics: () => void;
  readonly #stop: () => Promise<void>;

  constructor(id: string, context: NodeContext, labels: Readonly<Record<string, string>>) {
    const { bus, clock, subjects, settings, logger } = context;
    const adapter = createWorkerPoolAdapter(settings.pool);
    this.pool = adapter.attach();
    const metrics = context.metrics && meterRuntime(context.metrics, id, this.pool, () => bus.connected);
    this.#settings = settings;
    this.host = new RuntimeHost({
      id,
      bus: bus.connect(id),
      clock,
      subjects,
      sandbox: new PoolSandbox(this.pool),
      labels,
      heartbeatMs: settings.heartbeatIntervalMs,
      losses: metrics,
    });
    const stopLogging =
      logger === undefined ? undefined : this.pool.observe(logPool(logger.child({ runtime: id })));
    this.#stopMetrics = () => metrics?.stop();
    this.#stop = async () => {
      this.host.close();
      this.#stopMetrics();
      await adapter.detach();
      stopLogging?.();
    };
  }

  start(): Promise<void> {
    return this.host.start();
  }

  /** Take nothing more; what does not end within the grace is given back. */
  drain(): Promise<void> {
    return this.host.drain(this.#settings.drainGraceMs);
  }

  close(): Promise<void> {
    return this.#stop();
  }
}
