/**
 * One place in the pool: a worker process, the machine that tells its life, and the attempts aboard.
 *
 * It routes each message to the execution that the pool gave this worker, and to no other (a worker's word
 * about anything else is dropped), and it measures the process from outside.
 */
import { type Actor, createActor } from 'xstate';
import type { Versions } from '../../actors/attempt.ts';
import { isServing, type RetireReason, wasPlanned, workerMachine } from '../../actors/worker.ts';
import type { Execution } from './execution.ts';
import type { WorkerMessage } from './messages.ts';
import { WorkerProcess, type WorkerProcessOptions } from './process.ts';
import type { Seat } from './seat.ts';

/** A worker with several executions aboard that is silent for this long is killed, in ms. */
const STALL_MS = 1_000;
/** An execution longer than this may have changed how much memory its worker holds, in ms. */
const CALM_MS = 5;
/** Share of `maxWorkerMemory` that an idle worker may hold before it is recycled. */
const MAX_IDLE_SHARE = 0.75;
/** Silence after which a worker is asked whether it still listens, in ms. */
const QUIET_MS = 250;

export interface SlotOptions {
  readonly name: string;
  readonly maxExecutions: number;
  readonly process: Omit<WorkerProcessOptions, 'onMessage' | 'onViolation' | 'onExit'>;
  readonly onReady: (slot: Slot) => void;
  readonly onReplace: (slot: Slot, reason: RetireReason) => void;
  readonly onExit: (slot: Slot, detail: string) => void;
  readonly onWaiting: (slot: Slot, execution: Execution, waits: boolean) => void;
  readonly onLeave: (slot: Slot, execution: Execution, sound: boolean) => void;
  /** It was killed from here; its exit follows. Nothing more may come aboard. */
  readonly onKilled: (slot: Slot) => void;
  readonly onViolation: (slot: Slot, error: Error) => void;
}

interface Aboard {
  readonly execution: Execution;
  attempt: number;
}

let attempts = 0;

export class Slot {
  readonly name: string;
  readonly process: WorkerProcess;
  readonly startedAt = performance.now();
  readonly #options: SlotOptions;
  readonly #machine: Actor<typeof workerMachine>;
  readonly #aboard = new Map<number, Aboard>();
  #idleSince = performance.now();
  /** Since when it has not answered a ping, and the CPU time of its process then, in ms. */
  #silence: { readonly since: number; readonly cpuMs: number | undefined } | undefined;
  /** Resident memory when nothing was aboard last, in bytes. */
  #calmBytes = 0;
  #calmStale = true;
  #pings = 0;
  /** Why this process was ended from here, if it was: nothing aboard, one execution to blame, one of several. */
  #verdict: 'none' | 'stopped' | 'blamed' | 'suspected' = 'none';
  memoryBytes = 0;
  /** What its worker runs on; undefined until it could take executions. */
  versions: Versions | undefined;

  constructor(options: SlotOptions) {
    this.name = options.name;
    this.#options = options;
    this.process = new WorkerProcess({
      ...options.process,
      onMessage: (message) => this.#receive(message),
      onViolation: (error) => options.onViolation(this, error),
      onExit: (detail) => {
        options.onExit(this, detail);
      },
    });
    this.#machine = createActor(
      workerMachine.provide({
        actions: {
          // Effects tell other actors things, which must not happen within this one's transition.
          requestReplacement: (_, { reason }) => queueMicrotask(() => options.onReplace(this, reason)),
          stopProcess: () => queueMicrotask(() => this.kill('stopped')),
        },
      }),
      { input: { slot: options.name, maxExecutions: options.maxExecutions } },
    ).start();
  }

  get state(): string {
    return this.#machine.getSnapshot().value;
  }
  get served(): number {
    return this.#machine.getSnapshot().context.served;
  }
  get aboard(): number {
    return this.#aboard.size;
  }
  get ready(): boolean {
    return isServing(this.#machine.getSnapshot());
  }
  /** Time since the last execution ended, in ms; 0 while one is aboard. */
  get idleMs(): number {
    return this.#aboard.size > 0 ? 0 : performance.now() - this.#idleSince;
  }
  /** True if its exit was decided here: recycled, let go, or killed because of a script. No crash. */
  get planned(): boolean {
    return this.#verdict !== 'none' || wasPlanned(this.#machine.getSnapshot());
  }
  /** True if one execution, which has ended, is to blame for its end. */
  get blamed(): boolean {
    return this.#verdict === 'blamed';
  }
  /** The executions that are aboard. */
  get executions(): readonly Execution[] {
    return [...this.#aboard.values()].map(({ execution }) => execution);
  }

  /** Give it an execution. */
  board(execution: Execution): void {
    this.#machine.send({ type: 'execution.assigned' });
    const aboard: Aboard = { execution, attempt: 0 };
    const seat: Seat = {
      worker: this.name,
      deliver: (deliveries) => this.process.send({ t: 'deliver', x: aboard.attempt, d: deliveries }),
      cancel: () => this.process.send({ t: 'cancel', x: aboard.attempt }),
      waiting: (waits) => this.#options.onWaiting(this, execution, waits),
      kill: () => this.kill('blamed'),
      again: () => this.#start(aboard, seat),
      leave: (sound) => {
        this.#aboard.delete(aboard.attempt);
        this.#idleSince = performance.now();
        // A short execution leaves a process as it was; reading its memory each time would cost more than it.
        if (execution.seatedMs > CALM_MS) this.#calmStale = true;
        // An execution that is ended because its worker is gone leaves after the machine has.
        if (this.#machine.getSnapshot().status === 'active')
          this.#machine.send({ type: 'execution.settled' });
        this.#options.onLeave(this, execution, sound);
      },
    };
    if (this.#aboard.size === 0 && this.#calmStale) {
      this.#calmStale = false;
      this.#calmBytes = this.process.residentBytes() ?? this.#calmBytes;
    }
    this.#start(aboard, seat);
  }

  #start(aboard: Aboard, seat: Seat): void {
    // Ends the attempt that is there, if one is: a worker knows nothing of executions.
    if (this.#aboard.delete(aboard.attempt)) this.process.send({ t: 'cancel', x: aboard.attempt });
    aboard.attempt = ++attempts;
    this.#aboard.set(aboard.attempt, aboard);
    this.process.send(aboard.execution.seat(seat, aboard.attempt));
  }

  /** Finish what is aboard, then stop. */
  drain(reason: RetireReason): void {
    this.#machine.send({ type: 'worker.drain', reason });
  }

  /** End the process now. `blamed`: because of an execution that has ended, so that the others are innocent. */
  kill(verdict: 'stopped' | 'blamed' | 'suspected'): void {
    this.#verdict = verdict;
    this.process.kill();
    this.#options.onKilled(this);
  }

  exited(): void {
    this.#machine.send({ type: 'process.exited' });
  }

  /** Measure the process and act on what is seen. */
  inspect(maxMemory: number): void {
    this.memoryBytes = this.process.residentBytes() ?? this.memoryBytes;
    if (this.#aboard.size === 0) this.#calmBytes = this.memoryBytes;
    const allowed = this.#aboard.size === 0 ? maxMemory * MAX_IDLE_SHARE : maxMemory;
    if (this.memoryBytes > allowed) this.#tooLarge(maxMemory);
    else if (this.#aboard.size > 0) this.#listen();
  }

  #tooLarge(maxMemory: number): void {
    const [only, ...others] = this.#aboard.values();
    if (only === undefined) {
      this.#machine.send({ type: 'memory.exceeded' });
    } else if (others.length > 0) {
      // One of them did it, and nobody here knows which: each is tried again alone.
      this.kill('suspected');
    } else {
      this.kill('blamed');
      // What earlier scripts left behind is not this one's: it is started again, in a process of less weight.
      if (this.memoryBytes - this.#calmBytes < only.execution.spec.limits.memoryBytes / 2) return;
      only.execution.end(
        'MEMORY_LIMIT_EXCEEDED',
        `The worker's process grew past maxWorkerMemory (${maxMemory}) while the script ran in it`,
      );
    }
  }

  /** A worker that no longer listens is stuck in code that V8 cannot interrupt. */
  #listen(): void {
    const now = performance.now();
    if (now - this.process.lastHeard < QUIET_MS) {
      this.#silence = undefined;
      return;
    }
    if (this.#silence === undefined) {
      this.#silence = { since: now, cpuMs: this.process.cpuMs() };
      this.process.send({ t: 'ping', n: ++this.#pings });
      return;
    }
    const [only, ...others] = this.#aboard.values();
    if (others.length > 0) {
      if (now - this.#silence.since >= STALL_MS) this.kill('suspected');
    } else if (only !== undefined) {
      this.#checkCpuOf(only.execution, this.#silence.cpuMs);
    }
  }

  /** The worker cannot say what its one script uses; its process can. */
  #checkCpuOf(execution: Execution, baseMs: number | undefined): void {
    const used = this.process.cpuMs();
    const { cpuMs } = execution.spec.limits;
    if (used === undefined || baseMs === undefined || used - baseMs < cpuMs) return;
    this.kill('blamed');
    execution.end(
      'CPU_LIMIT_EXCEEDED',
      `The script used more than cpuMs (${cpuMs}) of CPU time, in code that cannot be interrupted`,
    );
  }

  #receive(message: WorkerMessage): void {
    if (message.t === 'pong') {
      this.#silence = undefined;
    } else if (message.t === 'stuck') {
      this.kill('blamed'); // The one to blame has ended: whoever is aboard is innocent.
    } else if (message.t === 'ready') {
      if (this.versions !== undefined) return;
      const { engine, prelude, stripper } = message;
      this.versions = { engine, prelude, stripper };
      this.#machine.send({ type: 'worker.ready' });
      this.#options.onReady(this);
    } else {
      const execution = this.#aboard.get(message.x)?.execution;
      if (execution === undefined) return;
      switch (message.t) {
        case 'items':
          return execution.items(message.items);
        case 'step':
          return execution.step(message.items, message.applied, message.end, message.usage);
        case 'stopped':
          return execution.stopped(message.code, message.message, message.stack, message.usage);
        case 'preempted':
          return execution.preempted(message.heavy);
      }
    }
  }
}
