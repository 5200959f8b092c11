/**
 * The sandbox of the simulation: runs programs as a pool of workers would, seen from its host. What it says comes
 * later, in order, and in reports that may hold less than everything.
 */
import type { AttemptEnd, Delivery, ScriptItem, Versions } from '../../actors/attempt.ts';
import type { RunningAttempt, Sandbox, SandboxSpec } from '../../src/runtime/sandbox.ts';
import type { Process } from './process.ts';
import { Machine } from './program.ts';
import type { Random } from './random.ts';
import type { Scheduler } from './scheduler.ts';

/** How it goes wrong, on demand. */
export interface SandboxDefects {
  /** Deliveries that come together are applied in the opposite order. */
  readonly unordered?: boolean;
  /** Deliveries that come together are applied in one entry. */
  readonly together?: boolean;
}

export interface SandboxOptions {
  readonly process: Process;
  readonly scheduler: Scheduler;
  readonly random: Random;
  readonly capacity: number;
  readonly defects: SandboxDefects;
  /** Whether a worker dies now, or refuses to start. */
  readonly fails: (what: 'lost' | 'refused') => boolean;
  readonly onLost: (attempt: string, alone: boolean) => void;
  readonly note: (what: string) => void;
}

const VERSIONS: Versions = { engine: 'simulated', prelude: '1', stripper: '1' };
const USAGE = { cpu: 1, heap: 1 };

export class SimulatedSandbox implements Sandbox {
  readonly versions = VERSIONS;
  readonly capacity: number;
  readonly #options: SandboxOptions;

  constructor(options: SandboxOptions) {
    this.#options = options;
    this.capacity = options.capacity;
  }

  start(spec: SandboxSpec): RunningAttempt {
    return new SimulatedAttempt(spec, this.#options);
  }
}

interface Told {
  readonly items: readonly ScriptItem[];
  /** Deliveries that the script had been handed. */
  readonly handed: number;
  readonly end: AttemptEnd | undefined;
}

class SimulatedAttempt implements RunningAttempt {
  readonly #spec: SandboxSpec;
  readonly #options: SandboxOptions;
  readonly #machine: Machine;
  /** What is on its way between host and worker: each way in order. */
  readonly #toWorker: (() => void)[] = [];
  readonly #toHost: Told[] = [];
  #given: number;
  #handed = 0;
  /** Nothing is told any more. */
  #over = false;
  /** Its worker is gone, or never had it. */
  #dead = false;

  constructor(spec: SandboxSpec, options: SandboxOptions) {
    this.#spec = spec;
    this.#options = options;
    const { source, input, state = '{}', seed, startTime, deliveries } = spec;
    this.#machine = new Machine({ source, input, state, seed, startTime });
    this.#given = deliveries.length;
    if (options.fails('refused')) {
      this.#dead = true;
      this.#tell([], { kind: 'refused', code: 'OVERLOADED', message: 'no room', retryAfterMs: 10 });
      return;
    }
    this.#send(() => {
      this.#machine.start();
      this.#apply(deliveries);
      this.#report();
    });
  }

  deliver(deliveries: readonly Delivery[]): void {
    this.#given += deliveries.length;
    this.#send(() => {
      this.#apply(deliveries);
      this.#report();
    });
  }

  stop(): void {
    this.#over = true;
  }

  /** Something for the worker to do, in order. */
  #send(act: () => void): void {
    const { scheduler, process, random } = this.#options;
    this.#toWorker.push(act);
    scheduler.after(random.between(0, 2), process, () => {
      const next = this.#toWorker.shift();
      if (!this.#over && !this.#dead && this.#machine.end === undefined) next?.();
    });
  }

  #apply(deliveries: readonly Delivery[]): void {
    const { defects, random } = this.#options;
    this.#handed += deliveries.length;
    if (defects.together === true) return this.#machine.deliverTogether(deliveries);
    const inOrder = defects.unordered === true ? deliveries.toReversed() : deliveries;
    for (const delivery of inOrder) {
      this.#machine.deliver(delivery);
      // Part of it may be told before the rest.
      if (random.chance(0.1) && this.#machine.end === undefined)
        this.#tell(this.#machine.take(), undefined, -1);
    }
  }

  #report(): void {
    const { fails, random } = this.#options;
    const { end } = this.#machine;
    const items = this.#machine.take();
    if (end?.kind === 'crashed') return this.#lose(random.chance(0.5) ? items : [], this.#spec.alone);
    if (fails('lost'))
      return this.#lose(random.chance(0.5) ? items : [], this.#spec.alone || random.chance(0.3));
    if (end === undefined) return this.#tell(items, undefined);
    if (end.kind === 'returned') return this.#tell(items, { ...end, usage: USAGE });
    const { code, message } = end;
    this.#tell(items, { kind: 'failed', code, message, name: 'Error', stack: '', usage: USAGE });
  }

  #lose(items: readonly ScriptItem[], alone: boolean): void {
    this.#dead = true;
    this.#options.onLost(this.#spec.id, alone);
    this.#tell(items, { kind: 'lost', alone });
  }

  /** In order, and later. `handed`: less than was handed, if more is being handed just now. */
  #tell(items: readonly ScriptItem[], end: AttemptEnd | undefined, handed = this.#handed): void {
    const { scheduler, process, random, note } = this.#options;
    this.#toHost.push({ items, handed, end });
    scheduler.after(random.between(0, 2), process, () => {
      const told = this.#toHost.shift();
      if (told === undefined || this.#over) return;
      const { onReport, onEnd } = this.#spec;
      note(
        `attempt ${short(this.#spec.id)} says ${told.items.map(brief).join(' ')}${told.end === undefined ? '' : ` end:${told.end.kind}`}`,
      );
      if (told.end === undefined) return onReport(told.items, told.handed === this.#given);
      if (told.items.length > 0) onReport(told.items, false);
      if (this.#over) return;
      this.#over = true;
      onEnd(told.end);
    });
  }
}

function brief(item: ScriptItem): string {
  if (item.kind === 'output') return 'output';
  return `${item.kind}#${item.index}`;
}

const short = (id: string): string => id.slice(0, 6);
