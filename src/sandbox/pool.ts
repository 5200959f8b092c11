/**
 * The worker pool: runs the runtime machine and the supervisor machine and does what they decide.
 *
 * Nothing is decided here. A fact goes into a machine; its effects come out and are carried out: a process is
 * started or killed, an execution is given to a worker, tried again, or refused.
 */
import { type Actor, createActor } from 'xstate';
import type { Versions } from '../../actors/attempt.ts';
import {
  isEmpty,
  queueLength,
  type RuntimeEffect,
  type RuntimeEvent,
  runtimeMachine,
} from '../../actors/runtime.ts';
import { type SupervisorEvent, supervisorMachine } from '../../actors/supervisor.ts';
import type { RetireReason } from '../../actors/worker.ts';
import type { ResolvedPoolOptions } from '../options.ts';
import type { Execution } from './execution.ts';
import { type Containment, containmentOf } from './process.ts';
import { Recycling } from './recycling.ts';
import { Slot } from './slot.ts';

/** How often busy workers are measured, in ms. */
const INSPECT_MS = 50;
/** Heavy scripts remembered. */
const MAX_HEAVY = 1_000;
const BACKOFF = { baseDelayMs: 50, maxDelayMs: 5_000 };

/** What a pool tells its observers. */
export interface PoolObserver {
  /** A worker was let go (`executions`, `memory`, `idle`, `shutdown`) or lost (`crash`, `killed`). */
  readonly workerRetired: (slot: string, reason: RetireReason | 'crash' | 'killed', detail: string) => void;
  readonly workerReady: (slot: string, pid: number, startMs: number) => void;
  readonly escalated: (retryAfterMs: number, crashes: number) => void;
  readonly violation: (slot: string, error: Error) => void;
}

/** How one worker process is now. */
export interface WorkerStats {
  /** The slot's name: stable for the life of one process. */
  readonly id: string;
  readonly pid: number;
  readonly state: string;
  /** Executions that it served. */
  readonly executions: number;
  /** Executions aboard now. */
  readonly aboard: number;
  /** Resident memory when last measured, in bytes. */
  readonly memoryBytes: number;
}

/** How a pool of workers is now. */
export interface PoolStats {
  /** `failed`: too many crashes; runs are refused until it has cooled down. */
  readonly status: 'open' | 'failed' | 'draining' | 'drained' | 'closed';
  readonly workers: readonly WorkerStats[];
  /** Executions that wait for a worker. */
  readonly queueLength: number;
  /** Executions aboard a worker now. */
  readonly active: number;
  /** Workers so far that ended unplanned: they crashed, or were killed for what a script did. */
  readonly restarts: number;
  /** Workers so far that were replaced as planned: after `maxExecutionsPerWorker`, or for their memory. */
  readonly recycles: number;
  /** What is in force around the workers. */
  readonly containment: Containment;
}

export class WorkerPool {
  readonly options: ResolvedPoolOptions;
  readonly #observers = new Set<PoolObserver>();
  readonly #runtime: Actor<typeof runtimeMachine>;
  readonly #supervisor: Actor<typeof supervisorMachine>;
  readonly #slots = new Map<string, Slot>();
  readonly #executions = new Map<string, Execution>();
  readonly #queueTimers = new Map<string, NodeJS.Timeout>();
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #recycling: Recycling<Slot>;
  #slotCount = 0;
  #restarts = 0;
  #recycles = 0;
  #held = false;
  #inspection: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #onDrained: (() => void)[] = [];
  #onGone: (() => void)[] = [];

  constructor(options: ResolvedPoolOptions) {
    this.options = options;
    this.#runtime = createActor(runtimeMachine, {
      input: {
        maxWorkers: options.poolSize,
        maxQueueLength: options.maxQueueLength,
        maxConcurrentPerWorker: options.maxConcurrentPerWorker,
        quarantineAfter: options.quarantineAfter,
      },
    }).start();
    const policy = { maxRestarts: options.maxRestarts, restartWindowMs: options.restartWindowMs, ...BACKOFF };
    this.#supervisor = createActor(
      supervisorMachine.provide({
        actions: {
          startChild: (_, { slot }) => this.#todo.push(() => this.#start(slot)),
          stopChild: (_, { slot }) => this.#todo.push(() => this.#slots.get(slot)?.drain('shutdown')),
          scheduleRestart: (_, { slot, delayMs }) => this.#todo.push(() => this.#restartLater(slot, delayMs)),
          escalate: (_, { retryAfterMs, crashes }) =>
            this.#todo.push(() => this.#coolDown(retryAfterMs, crashes)),
        },
      }),
      { input: { policy } },
    ).start();
    this.#recycling = new Recycling({
      starts: () => this.#starts,
      busy: () => queueLength(this.#runtime.getSnapshot().context) > 0,
      replace: (named) => {
        named(`w${this.#slotCount + 1}`);
        this.#tell({ type: 'worker.starting' });
        this.#addChild();
      },
      later: (ms, act) => this.#later(ms, act),
    });
    this.#ensureMinimum();
  }

  observe(observer: PoolObserver): () => void {
    this.#observers.add(observer);
    return () => this.#observers.delete(observer);
  }

  // ---- heavy scripts -------------------------------------------------------------------------------------

  /** Scripts that passed the quantum, the latest last: they are not tried on a worker's own thread again. */
  readonly #heavy = new Set<string>();

  isHeavy(key: string): boolean {
    return this.#heavy.has(key);
  }

  noteHeavy(key: string): void {
    this.#heavy.add(key);
    const [oldest] = this.#heavy;
    if (this.#heavy.size > MAX_HEAVY && oldest !== undefined) this.#heavy.delete(oldest);
  }

  // ---- executions ----------------------------------------------------------------------------------------

  /** Take an execution in. It is dispatched, queued or refused before this returns. */
  submit(execution: Execution): void {
    const { spec } = execution;
    this.#executions.set(spec.id, execution);
    this.#hold();
    this.#tell({
      type: 'execution.submitted',
      id: spec.id,
      tenant: spec.tenantKey,
      key: spec.key,
      flow: spec.share?.name,
      weight: spec.share?.weight,
      dedicated: spec.isolation === 'process',
      alone: spec.alone,
      at: performance.now(),
    });
    if (!execution.over && !execution.started) {
      const timer = setTimeout(
        () =>
          this.#withdraw(
            execution,
            'QUEUE_TIMEOUT',
            `No worker was free within queueTimeoutMs (${this.options.queueTimeoutMs})`,
          ),
        this.options.queueTimeoutMs,
      );
      this.#queueTimers.set(spec.id, timer);
    }
  }

  /** The caller gave up on it, wherever it is. */
  cancel(execution: Execution, reason: string): void {
    if (execution.over) return;
    if (this.#isAboard(execution)) execution.stop('CANCELLED', reason);
    else this.#withdraw(execution, 'CANCELLED', reason);
  }

  /** Its Enclave is being disposed of. */
  abandon(execution: Execution): void {
    if (execution.over) return;
    const aboard = this.#isAboard(execution);
    execution.stop('CLOSED', 'The Enclave was disposed of');
    if (aboard) return;
    this.#forget(execution.spec.id);
    this.#tell({ type: 'execution.withdrawn', id: execution.spec.id });
  }

  #withdraw(execution: Execution, code: 'QUEUE_TIMEOUT' | 'CANCELLED', message: string): void {
    if (execution.over || this.#isAboard(execution)) return;
    execution.refuse(
      code,
      message,
      code === 'QUEUE_TIMEOUT'
        ? this.#expectedWait(queueLength(this.#runtime.getSnapshot().context))
        : undefined,
    );
    this.#forget(execution.spec.id);
    this.#tell({ type: 'execution.withdrawn', id: execution.spec.id });
  }

  #isAboard(execution: Execution): boolean {
    return [...this.#slots.values()].some((slot) => slot.executions.includes(execution));
  }

  #forget(id: string): void {
    this.#executions.delete(id);
    const timer = this.#queueTimers.get(id);
    if (timer !== undefined) {
      clearTimeout(timer);
      this.#queueTimers.delete(id);
    }
    if (this.#executions.size === 0) this.#release();
  }

  // ---- the runtime machine's effects ---------------------------------------------------------------------

  #tell(event: RuntimeEvent): void {
    this.#runtime.send(event);
    // Carrying an effect out may tell the machine more: its effects come first, in the order of the facts.
    for (const effect of this.#runtime.getSnapshot().context.effects) this.#perform(effect);
  }

  #perform(effect: RuntimeEffect): void {
    switch (effect.type) {
      case 'dispatch':
        return this.#dispatch(effect.id, effect.slot);
      case 'startWorker':
        return this.#addChild();
      case 'refuse':
        return this.#refuse(effect);
      case 'retry': {
        const execution = this.#executions.get(effect.id);
        if (execution?.lost(effect.counted) === true) return;
        this.#forget(effect.id);
        return this.#tell({ type: 'execution.withdrawn', id: effect.id });
      }
      case 'quarantine':
        this.#executions
          .get(effect.id)
          ?.end(
            'QUARANTINED',
            `The script crashed its worker ${effect.crashes} times in a row; it is refused for a while`,
            'unknown',
          );
        return this.#forget(effect.id);
      case 'fail': {
        const execution = this.#executions.get(effect.id);
        const message =
          effect.code === 'CLOSED'
            ? 'The pool was closed'
            : 'Workers crash too often; the pool is cooling down';
        if (execution?.started === true)
          execution.end(effect.code, message, effect.code === 'CLOSED' ? undefined : 'unknown');
        else execution?.refuse(effect.code, message, effect.retryAfterMs);
        return this.#forget(effect.id);
      }
      case 'retireWorker': {
        const slot = this.#slots.get(effect.slot);
        if (slot !== undefined) this.#retire(slot, 'idle');
        return;
      }
      case 'drained':
        for (const done of this.#onDrained.splice(0)) done();
    }
  }

  #dispatch(id: string, name: string): void {
    const slot = this.#slots.get(name);
    const execution = this.#executions.get(id);
    const timer = this.#queueTimers.get(id);
    if (timer !== undefined) {
      clearTimeout(timer);
      this.#queueTimers.delete(id);
    }
    if (slot === undefined || execution === undefined || execution.over) {
      execution?.end('WORKER_CRASHED', 'Its worker was gone before the script was started');
      this.#forget(id);
      this.#tell({ type: 'execution.settled', id, slot: name, sound: false });
      return;
    }
    slot.board(execution);
    this.#watch();
  }

  #refuse(effect: Extract<RuntimeEffect, { type: 'refuse' }>): void {
    const execution = this.#executions.get(effect.id);
    const messages = {
      OVERLOADED: `The queue is full (maxQueueLength ${this.options.maxQueueLength})`,
      QUARANTINED: 'The script crashed its worker too often and is refused for a while',
      WORKER_CRASHED: 'Workers crash too often; the pool is cooling down',
      CLOSED: 'The pool is closed',
    };
    const retryAfterMs =
      effect.code === 'OVERLOADED' ? this.#expectedWait(effect.position) : effect.retryAfterMs;
    execution?.refuse(
      effect.code,
      messages[effect.code],
      effect.code === 'CLOSED' ? undefined : Math.ceil(retryAfterMs),
      effect.code === 'OVERLOADED' ? { limit: 'queue', position: effect.position } : undefined,
    );
    this.#forget(effect.id);
  }

  /** How long a queue of this length takes at the pace of late, in ms: what a refused caller should wait. */
  #expectedWait(position: number): number {
    return Math.max(10, Math.ceil((position * this.#paceMs) / Math.max(1, this.#slots.size)));
  }
  /** Time that a worker spends on one execution, smoothed, in ms. */
  #paceMs = 5;

  // ---- workers -------------------------------------------------------------------------------------------

  #addChild(): void {
    this.#ask({ type: 'child.add', slot: `w${++this.#slotCount}`, restart: 'permanent' });
  }

  #ask(event: SupervisorEvent): void {
    this.#supervisor.send(event);
    // An actor must not be made or told things from within another's transition: effects wait until it is over.
    for (const act of this.#todo.splice(0)) act();
  }
  /** What the supervisor asked for. */
  readonly #todo: (() => void)[] = [];

  /** False while the supervisor starts nothing: it has escalated, or it is stopped. */
  get #starts(): boolean {
    return this.#supervisor.getSnapshot().value === 'running';
  }

  #ensureMinimum(): void {
    if (!this.#starts) return;
    const coming = this.#runtime.getSnapshot().context;
    for (let count = coming.workers.length + coming.starting; count < this.options.minWorkers; count++) {
      this.#tell({ type: 'worker.starting' });
      this.#addChild();
    }
  }

  #start(name: string): void {
    const slot = new Slot({
      name,
      maxExecutions: this.options.maxExecutionsPerWorker,
      process: {
        maxWorkerMemory: this.options.maxWorkerMemory,
        maxWarmIsolates: this.options.maxWarmIsolates,
        uid: this.options.uid,
        gid: this.options.gid,
      },
      onReady: (ready) => this.#ready(ready),
      onReplace: (worker, reason) => this.#recycling.request({ worker, reason }),
      onExit: (gone, detail) => this.#exited(gone, detail),
      onWaiting: (at, execution, waits) =>
        this.#tell({
          type: waits ? 'execution.waiting' : 'execution.running',
          id: execution.spec.id,
          slot: at.name,
        }),
      onLeave: (at, execution, sound) => this.#left(at, execution, sound),
      onKilled: (killed) => this.#tell({ type: 'worker.closing', slot: killed.name }),
      onViolation: (violator, error) => this.#each((observer) => observer.violation(violator.name, error)),
    });
    this.#slots.set(name, slot);
    slot.process.hold(this.#held);
    this.#later(this.options.startTimeoutMs, () => {
      if (this.#slots.get(name) === slot && slot.state === 'starting') slot.process.kill();
    });
    this.#watch();
  }

  #ready(slot: Slot): void {
    const startMs = performance.now() - slot.startedAt;
    this.#versions = slot.versions;
    this.#ask({ type: 'child.up', slot: slot.name });
    this.#each((observer) => observer.workerReady(slot.name, slot.process.pid, startMs));
    this.#tell({ type: 'worker.ready', slot: slot.name });
    const relieved = this.#recycling.ready(slot.name, startMs);
    if (relieved === undefined) return;
    this.#recycles++;
    this.#retire(relieved.worker, relieved.reason);
  }

  /** Take a worker out of service: it finishes what is aboard and stops. */
  #retire(slot: Slot, reason: RetireReason): void {
    if (this.#slots.get(slot.name) !== slot) return;
    this.#ask({ type: 'child.retire', slot: slot.name });
    this.#tell({ type: 'worker.closing', slot: slot.name });
    this.#reasons.set(slot.name, reason);
    slot.drain(reason);
  }
  readonly #reasons = new Map<string, RetireReason>();
  /** The supervisor need not hear of every success, only of the first after a crash. */
  #crashedSinceProgress = false;

  #left(slot: Slot, execution: Execution, sound: boolean): void {
    this.#paceMs += (Math.min(execution.seatedMs, 1_000) - this.#paceMs) / 32;
    this.#forget(execution.spec.id);
    if (sound && this.#crashedSinceProgress) {
      this.#crashedSinceProgress = false;
      this.#ask({ type: 'child.progressed' });
    }
    this.#tell({ type: 'execution.settled', id: execution.spec.id, slot: slot.name, sound });
  }

  #exited(slot: Slot, detail: string): void {
    const wasStarting = slot.versions === undefined;
    const { planned, blamed } = slot;
    const reason = this.#reasons.get(slot.name);
    slot.exited();
    this.#slots.delete(slot.name);
    this.#reasons.delete(slot.name);
    this.#recycling.gone(slot);
    this.#each((observer) =>
      observer.workerRetired(
        slot.name,
        blamed ? 'killed' : planned ? (reason ?? 'shutdown') : 'crash',
        detail,
      ),
    );
    const at = performance.now();
    // The supervisor first: a restart that it plans counts as a worker on its way.
    if (!planned) {
      this.#restarts++;
      this.#crashedSinceProgress = true;
    }
    this.#ask({ type: 'child.exited', slot: slot.name, at, jitter: Math.random(), planned });
    this.#tell(
      wasStarting ? { type: 'worker.abandoned' } : { type: 'worker.lost', slot: slot.name, blamed, at },
    );
    this.#ensureMinimum();
    if (this.#slots.size === 0) for (const done of this.#onGone.splice(0)) done();
    this.#recycling.next();
  }

  #restartLater(name: string, delayMs: number): void {
    this.#tell({ type: 'worker.starting' });
    this.#waiting.add(name);
    this.#later(delayMs, () => {
      if (this.#waiting.delete(name)) this.#ask({ type: 'restart.due', slot: name });
    });
  }
  /** Slots whose restart is planned. */
  readonly #waiting = new Set<string>();

  #coolDown(retryAfterMs: number, crashes: number): void {
    for (const _name of this.#waiting) this.#tell({ type: 'worker.abandoned' });
    this.#waiting.clear();
    this.#recycling.abandon();
    this.#each((observer) => observer.escalated(retryAfterMs, crashes));
    this.#tell({ type: 'runtime.failed', retryAfterMs });
    this.#later(retryAfterMs, () => {
      this.#ask({ type: 'supervisor.resume' });
      this.#tell({ type: 'runtime.recovered' });
      this.#ensureMinimum();
    });
  }

  // ---- measuring -----------------------------------------------------------------------------------------

  /** Look at the workers again soon; less often when nothing runs. */
  #watch(): void {
    if (this.#inspection !== undefined || this.#slots.size === 0) return;
    const busy = this.#executions.size > 0;
    const idleMs = Math.max(10, Math.min(1_000, Math.floor(this.options.idleTimeout / 2)));
    this.#inspection = setTimeout(
      () => {
        this.#inspection = undefined;
        for (const slot of this.#slots.values()) slot.inspect(this.options.maxWorkerMemory);
        this.#letIdleGo();
        this.#recycling.next();
        this.#watch();
      },
      busy ? INSPECT_MS : idleMs,
    );
    this.#inspection.unref();
  }

  #letIdleGo(): void {
    let live = [...this.#slots.values()].filter((slot) => slot.ready).length;
    for (const slot of this.#slots.values()) {
      if (live <= this.options.minWorkers) return;
      if (!slot.ready || slot.idleMs < this.options.idleTimeout) continue;
      live--;
      this.#retire(slot, 'idle');
    }
  }

  // ---- the parent's event loop ---------------------------------------------------------------------------

  #hold(): void {
    if (this.#held) return;
    this.#held = true;
    for (const slot of this.#slots.values()) slot.process.hold(true);
    for (const timer of this.#timers) timer.ref();
    // From now on something is aboard: measure at the busy pace.
    clearTimeout(this.#inspection);
    this.#inspection = undefined;
    this.#watch();
  }

  #release(): void {
    if (!this.#held) return;
    this.#held = false;
    for (const slot of this.#slots.values()) slot.process.hold(false);
    for (const timer of this.#timers) timer.unref();
  }

  #later(ms: number, act: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, ms);
    this.#timers.add(timer);
    if (!this.#held) timer.unref();
  }

  #each(tell: (observer: PoolObserver) => void): void {
    for (const observer of this.#observers) tell(observer);
  }

  // ---- the end -------------------------------------------------------------------------------------------

  /** Refuse new executions and resolve when those inside have ended. */
  drain(): Promise<void> {
    return new Promise((resolve) => {
      const { value, context } = this.#runtime.getSnapshot();
      if (value === 'closed' || value === 'drained') return resolve();
      if (isEmpty(context)) {
        this.#tell({ type: 'runtime.drain' });
        return resolve();
      }
      this.#onDrained.push(resolve);
      this.#tell({ type: 'runtime.drain' });
    });
  }

  /** End everything now. Executions inside end as CLOSED. Resolves when every process is gone. */
  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      clearTimeout(this.#inspection);
      for (const timer of this.#timers) clearTimeout(timer);
      this.#timers.clear();
      this.#tell({ type: 'runtime.close' });
      this.#ask({ type: 'supervisor.stop' });
      for (const done of this.#onDrained.splice(0)) done();
      for (const slot of this.#slots.values()) {
        slot.process.hold(true);
        slot.kill('stopped');
      }
      if (this.#slots.size === 0) resolve();
      else this.#onGone.push(resolve);
    });
    return this.#closing;
  }

  /** What scripts run on here, by the worker that came up last; undefined until one has. */
  get versions(): Versions | undefined {
    return this.#versions;
  }
  #versions: Versions | undefined;

  /** Executions that all its workers together take at once. */
  get capacity(): number {
    return this.options.poolSize * this.options.maxConcurrentPerWorker;
  }

  /** Executions inside, waiting ones included. */
  get load(): number {
    return this.#executions.size;
  }

  stats(): PoolStats {
    const { value, context } = this.#runtime.getSnapshot();
    return {
      status: value as PoolStats['status'],
      workers: [...this.#slots.values()].map((slot) => ({
        id: slot.name,
        pid: slot.process.pid,
        state: slot.state,
        executions: slot.served,
        aboard: slot.aboard,
        memoryBytes: slot.process.residentBytes() ?? slot.memoryBytes,
      })),
      queueLength: queueLength(context),
      active: context.workers.reduce((sum, worker) => sum + worker.aboard.length, 0),
      restarts: this.#restarts,
      recycles: this.#recycles,
      containment: containmentOf(this.options),
    };
  }
}
