/**
 * The composition root: puts the roles of a process together, over memory or over NATS and Redis.
 */
import type { ExecutionEvent } from '../actors/events.ts';
import { type BusSource, openBus, openStore, type StoreSource } from './backends.ts';
import { SessionClient } from './client/client.ts';
import type { AllEventsOptions, RunOptions, SpawnOptions } from './client/options.ts';
import type { SessionRef } from './client/session.ts';
import { type Clock, systemClock } from './clock.ts';
import { EnclaveError } from './errors.ts';
import { type Member, memberOf } from './member.ts';
import { BrokerNode, type NodeContext, RuntimeNode } from './nodes.ts';
import type { Checks } from './ops/health.ts';
import { logLink, logStore, logUntaken } from './ops/logs.ts';
import { meterDeadLetters, meterProcess } from './ops/metrics.ts';
import { type ResolvedSystemOptions, resolveSystemOptions } from './options.ts';
import { PoolSandbox } from './poolsandbox.ts';
import type { JournalRead, KnownTool, SessionListed } from './protocol.ts';
import type { ExecutionResult } from './result.ts';
import { resolveRouting } from './routing.ts';
import { type RerunReport, rerun } from './runtime/rerun.ts';
import { autoscalingOf, type PoolKeeping } from './runtimepool.ts';
import type { WorkerPool } from './sandbox/pool.ts';
import { Directory } from './session/directory.ts';
import type { Store } from './store/store.ts';
import { StoreClock } from './storeclock.ts';
import { subjectsOf } from './subjects.ts';
import {
  type CreateSystemOptions,
  checkSystemOptions,
  type Role,
  rolesOf,
  toolsOf,
} from './systemoptions.ts';
import type { ToolRegistry } from './tools/registry.ts';

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

/** What a system is made of, checked. */
interface Made {
  readonly settings: ResolvedSystemOptions;
  readonly options: CreateSystemOptions;
  readonly tools: ToolRegistry;
  readonly bus: BusSource;
  /** Undefined where no broker is hosted. */
  readonly store: StoreSource | undefined;
  readonly keeping: PoolKeeping | undefined;
  /** Who this process is to the cluster; undefined within one process. */
  readonly member: Member | undefined;
}

/**
 * Sessions: actors that keep their state, whose scripts survive the loss of the worker and of the runtime they run
 * on, and of the broker that owns them.
 */
export class System implements AsyncDisposable {
  readonly #clock: Clock = systemClock;
  readonly #made: Made;
  readonly #wall: StoreClock | undefined;
  readonly #brokers: readonly BrokerNode[];
  readonly #runtimes: readonly RuntimeNode[];
  readonly #client: SessionClient;
  readonly #directory: Directory;
  readonly #stopMetrics: (() => void) | undefined;
  #listening = false;
  #state: 'new' | 'started' | 'draining' | 'closed' = 'new';
  #closing: Promise<void> | undefined;

  /** @internal Use {@link createSystem}. */
  constructor(made: Made) {
    const { settings, options, tools, bus, store, keeping, member } = made;
    const { logger, logContent = false, registry, labels = {}, isolation } = options;
    const { redactEvents = false, audit } = options;
    this.#made = made;
    const clock = this.#clock;
    const subjects = subjectsOf(settings.namespace);
    const context: NodeContext = { bus, clock, subjects, settings, logger, logContent, metrics: registry };
    const routing = resolveRouting(options);
    const autoscaling = keeping?.autoscaling;
    // Brokers of several machines must agree on the time that they write down.
    if (store !== undefined && options.redis !== undefined) this.#wall = new StoreClock(clock, store.store);
    const parts = { tools, routing, autoscaling, isolation, redactEvents, audit, clock: this.#wall ?? clock };
    this.#brokers = namesOf('broker', settings.brokers, made).map(
      (id) => new BrokerNode(id, context, { ...parts, store: (store as StoreSource).store }),
    );
    this.#runtimes = namesOf('runtime', settings.runtimes, made).map(
      (id) => new RuntimeNode(id, context, labels),
    );
    this.#client = new SessionClient({
      // Where results are told is granted to the client of this name.
      id: member?.id ?? clock.id(),
      bus: bus.connect('client'),
      clock,
      subjects,
      defaults: {
        limits: options.limits,
        isolation,
        // Within one process its own brokers answer.
        known: options.nats === undefined ? settings.limits : undefined,
      },
    });
    const [first] = this.#brokers;
    this.#directory =
      first?.broker.directory ??
      new Directory({ bus: bus.connect('directory'), clock, subjects, onChange: () => undefined });
    this.#stopMetrics =
      registry &&
      meterProcess(registry, {
        bus: () => bus.connected,
        store: store && (() => store.connected),
        draining: () => this.#state === 'draining',
      });
  }

  /** @internal Resolves when sessions can be made. */
  async start(): Promise<void> {
    await this.#wall?.start();
    await Promise.all(this.#brokers.map((node) => node.start()));
    // Brokers hear the first heartbeats.
    await Promise.all(this.#runtimes.map((node) => node.start()));
    // A runtime alone is no client before it is used as one: its identity may not be allowed to be.
    if (this.#runtimes.length === 0 || this.#brokers.length > 0) await this.#client.start();
    if (this.#state === 'new') this.#state = 'started';
  }

  /** The directory of this process's broker, or one of its own, which begins to listen when it is asked first. */
  get #known(): Directory {
    if (this.#brokers.length === 0 && !this.#listening) {
      this.#listening = true;
      this.#directory.start();
    }
    return this.#directory;
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

  /** Run a script for which no session is kept. See {@link SessionClient.run}. */
  run<T = unknown>(code: string, options: RunOptions = {}): Promise<ExecutionResult<T>> {
    return this.#client.run<T>(code, options);
  }

  /** The tools that scripts may call, as their providers advertise them. */
  tools(): Promise<readonly KnownTool[]> {
    return this.#client.tools();
  }

  /** Every session that is stored, as it was last committed: for operators. Those of durability 'none' are not among them. */
  sessions(): AsyncIterable<SessionListed> {
    return this.#client.sessions();
  }

  /** The runtimes that are there, as their heartbeats show them: a client listens from the first call on, and knows them after a heartbeat of each. */
  runtimes(): readonly RuntimeInfo[] {
    return this.#known.runtimes().map(({ runtime, labels, capacity, load, draining }) => ({
      id: runtime,
      labels,
      capacity,
      load,
      draining,
    }));
  }

  /** The brokers that are there, the one with the fewest sessions first. */
  brokers(): readonly BrokerInfo[] {
    return this.#known.brokers().map(({ broker, sessions }) => ({ id: broker, sessions }));
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
   * Rejects as NOT_FOUND if the session does not remember the execution, and as NO_RUNTIME if this system hosts no runtime
   * to do it in.
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

  /** What must be well for this process to be given work: what its readiness endpoint tells. */
  checks(): Checks {
    const { bus, store } = this.#made;
    return {
      started: this.#state !== 'new',
      notDraining: this.#state === 'started',
      bus: bus.connected,
      ...(store === undefined ? {} : { store: store.connected }),
      ...(this.#brokers.length === 0
        ? {}
        : { lease: this.#brokers.every(({ broker }) => broker.holdsLease) }),
      ...(this.#runtimes.length === 0
        ? {}
        : { workers: this.#runtimes.every(({ pool }) => pool.stats().status === 'open') }),
    };
  }

  /**
   * Take nothing new, hand sessions over to the brokers that remain, and wait for scripts and handlers to end, for
   * `drainGraceMs` each. Then `close`.
   */
  async drain(): Promise<void> {
    if (this.#state === 'started') this.#state = 'draining';
    const hosted = new Set(this.#brokers.map(({ broker }) => broker.id));
    const successor = this.#directory.brokers().some(({ broker }) => !hosted.has(broker));
    const drainBrokers = async (): Promise<void> => {
      for (const node of this.#brokers) await node.drain();
    };
    const drainRuntimes = (): Promise<unknown> => Promise.all(this.#runtimes.map((node) => node.drain()));
    // Scripts that run here end best with an owner: the next one, or this one while there is no other.
    if (successor) await drainBrokers();
    await drainRuntimes();
    if (!successor) await drainBrokers();
  }

  /** End everything now: what waits ends as CLOSED. Resolves when every process is gone. Safe to call again. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#state = 'closed';
      this.#stopMetrics?.();
      await this.#client.close();
      if (this.#listening) this.#directory.stop();
      await Promise.all(this.#brokers.map((node) => node.close()));
      this.#wall?.stop();
      await this.#made.keeping?.close();
      await Promise.all(this.#runtimes.map((node) => node.close()));
      await this.#made.bus.close();
      await this.#made.store?.store.close();
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal The parts, for tests that take them away. */
  get parts(): {
    readonly brokers: readonly BrokerNode[];
    readonly runtimes: readonly RuntimeNode[];
    readonly store: Store;
  } {
    const { store } = this.#made;
    if (store === undefined) throw new EnclaveError('INVALID_ARGUMENT', 'This system keeps no sessions');
    return { brokers: this.#brokers, runtimes: this.#runtimes, store: store.store };
  }
}

/** The names of this process's brokers or runtimes. */
function namesOf(role: Role, count: number, { options, member }: Made): readonly string[] {
  if (!rolesOf(options).includes(role)) return [];
  const name = member?.id ?? options.id ?? role;
  const numbered = count > 1 || (member === undefined && options.id === undefined);
  return Array.from({ length: count }, (_, index) => (numbered ? `${name}-${index + 1}` : name));
}

/**
 * Start a system: brokers, runtimes and tools in this process with nothing else installed, or this process's part of
 * a cluster over NATS and Redis. What cannot start leaves nothing behind.
 *
 * Rejects with an EnclaveError INVALID_ARGUMENT naming the option that is unknown, out of range or contradicts
 * another, or UNAVAILABLE if a server does not answer.
 */
export function createSystem(options: CreateSystemOptions = {}): Promise<System> {
  return startSystem(options, new AbortController().signal);
}

/** @internal As `createSystem`; rejects as CLOSED if the signal is aborted before the system has started. */
export async function startSystem(options: CreateSystemOptions, signal: AbortSignal): Promise<System> {
  checkSystemOptions(options);
  const member = await whoIs(options);
  const settings = resolveSystemOptions(
    { ...options, namespace: member?.namespace ?? options.namespace },
    rolesOf(options).includes('runtime'),
  );
  const tools = toolsOf(options.tools);
  const bus = await openBus(member?.nats, untaken(options), logLink(options.logger));
  let store: StoreSource | undefined;
  let system: System | undefined;
  try {
    if (rolesOf(options).includes('broker')) store = await storeOf(options, settings);
    const keeping = autoscalingOf(options)?.keep(settings);
    system = new System({ settings, options, tools, bus, store, keeping, member });
    // A broker waits for its lease for as long as it takes.
    signal.addEventListener('abort', () => void system?.close(), { once: true });
    if (!signal.aborted) await system.start();
    if (signal.aborted) throw new Error('aborted');
    return system;
  } catch (error) {
    await system?.close();
    await bus.close();
    await store?.store.close();
    throw signal.aborted ? new EnclaveError('CLOSED', 'It was closed before it had started') : error;
  }
}

function storeOf(options: CreateSystemOptions, settings: ResolvedSystemOptions): Promise<StoreSource> {
  const { redis, ack, keyPrefix, logger } = options;
  const { namespace, maxEvents } = settings;
  return openStore(redis, { namespace, maxEvents, ack, keyPrefix, onNotice: logStore(logger) });
}

/** Told of messages that nobody here can read. */
function untaken({ registry, logger }: CreateSystemOptions): (error: unknown, subject: string) => void {
  const note = registry && meterDeadLetters(registry);
  const log = logUntaken(logger);
  return (error, subject) => {
    note?.('unreadable');
    log(error, subject);
  };
}

async function whoIs(options: CreateSystemOptions): Promise<Member | undefined> {
  const { nats, namespace, id } = options;
  const [role = 'client'] = rolesOf(options).toSorted(); // A broker with runtimes of its own is a broker.
  return nats === undefined ? undefined : memberOf({ nats, role, namespace, id });
}
