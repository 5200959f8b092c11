/** Brokers and runtimes with real workers, over memory if nothing else is said, put together by hand: they come and go while the test runs. */
import type { Routing } from '../../actors/routing.ts';
import { createWorkerPoolAdapter } from '../../src/adapter.ts';
import type { Bus } from '../../src/bus/bus.ts';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { SessionClient } from '../../src/client/client.ts';
import type { SessionRef } from '../../src/client/session.ts';
import { systemClock } from '../../src/clock.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import { PoolSandbox } from '../../src/poolsandbox.ts';
import { RuntimeHost } from '../../src/runtime/host.ts';
import type { Autoscaling } from '../../src/session/autoscale.ts';
import { Broker, type BrokerNotice } from '../../src/session/broker.ts';
import type { SnapshotCodec } from '../../src/session/snapshot.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import type { Tool } from '../../src/tools/define.ts';
import { ToolProvider } from '../../src/tools/provider.ts';
import { createToolRegistry } from '../../src/tools/registry.ts';
import { waitUntil } from './processes.ts';

/** Where handles of the bus come from. Closed with the parts. */
export interface BusSource {
  connect(name: string): Bus;
  close(): Promise<void>;
}

interface Runtime {
  readonly host: RuntimeHost;
  readonly stop: () => Promise<void>;
}

export interface BrokerParts {
  readonly routing?: Routing | undefined;
  readonly autoscaling?: Autoscaling | undefined;
  readonly placementTimeoutMs?: number | undefined;
  readonly audit?: boolean | undefined;
  readonly redactEvents?: boolean | undefined;
  /** To pose as another release. */
  readonly snapshots?: SnapshotCodec | undefined;
}

export class Parts {
  readonly #bus: BusSource;
  readonly store = new MemoryStore({ clock: systemClock });
  readonly #shared = { clock: systemClock, subjects: subjectsOf('test') };
  readonly #runtimes = new Map<string, Runtime>();
  readonly #registry: ReturnType<typeof createToolRegistry>;
  readonly #provider: ToolProvider;
  readonly brokers: Broker[] = [];
  readonly notices: BrokerNotice[] = [];
  readonly client: SessionClient;

  constructor(tools: readonly Tool[] = [], bus: BusSource = new MemoryBusServer({ clock: systemClock })) {
    this.#bus = bus;
    this.client = new SessionClient({
      id: 'client',
      bus: bus.connect('client'),
      ...this.#shared,
      defaults: { limits: resolveSessionLimits(undefined), isolation: 'context' },
    });
    this.#registry = createToolRegistry({ tools });
    this.#provider = new ToolProvider({
      ...this.#shared,
      id: 'provider',
      bus: bus.connect('provider'),
      registry: this.#registry,
    });
  }

  async broker(
    id: string,
    { routing, autoscaling, snapshots, placementTimeoutMs = 30_000, audit, redactEvents }: BrokerParts = {},
  ): Promise<Broker> {
    const broker = new Broker({
      ...this.#shared,
      id,
      bus: this.#bus.connect(id),
      store: this.store.handle(),
      tool: (name) => {
        const tool = this.#registry.resolve(name);
        if (tool === undefined) return undefined;
        const { canonicalName, effect, reconcile } = tool;
        return { canonicalName, effect, reconcilable: reconcile !== undefined };
      },
      routing,
      autoscaling,
      snapshots,
      audit,
      redactEvents,
      settings: { placementTimeoutMs },
      onNotice: (notice) => this.notices.push(notice),
    });
    this.brokers.push(broker);
    await broker.start();
    if (this.brokers.length > 1) return broker;
    await this.#provider.start();
    await this.client.start();
    return broker;
  }

  /** A runtime of one worker that has room for `capacity` executions. Resolves when it was told to all. */
  async runtime(id: string, labels: Readonly<Record<string, string>> = {}, capacity = 16): Promise<void> {
    const adapter = createWorkerPoolAdapter({ poolSize: 1, maxConcurrentPerWorker: capacity });
    const host = new RuntimeHost({
      ...this.#shared,
      id,
      bus: this.#bus.connect(id),
      sandbox: new PoolSandbox(adapter.attach()),
      labels,
      heartbeatMs: 100,
    });
    const stop = async (): Promise<void> => {
      this.#runtimes.delete(id);
      host.close();
      await adapter.detach();
    };
    this.#runtimes.set(id, { host, stop });
    await host.start();
  }

  /** A new session with these labels. */
  session(labels: Readonly<Record<string, string>> = {}): Promise<SessionRef> {
    return this.client.spawn({ labels, ttlMs: 0 });
  }

  get runtimes(): readonly string[] {
    return [...this.#runtimes.keys()];
  }

  /** Let it finish what it has, and end it. */
  async drain(id: string): Promise<void> {
    const runtime = this.#runtimes.get(id);
    await runtime?.host.drain(10_000);
    await runtime?.stop();
  }
  async stop(id: string): Promise<void> {
    await this.#runtimes.get(id)?.stop();
  }

  /** Every broker knows of as many runtimes. */
  async known(count: number): Promise<void> {
    await this.until(
      () => this.brokers.every(({ directory }) => directory.runtimes().length === count),
      `${count} runtimes are known`,
    );
  }

  readonly until = waitUntil;

  async close(): Promise<void> {
    await this.client.close();
    this.#provider.close();
    await Promise.all(this.brokers.map((broker) => broker.halt()));
    await Promise.all([...this.#runtimes.values()].map(({ stop }) => stop()));
    await this.#bus.close();
    await this.store.close();
  }
}
