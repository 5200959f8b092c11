/**
 * Scripts of the simulation: small programs as JSON, and the machine that runs them. The sandbox runs them piece by
 * piece; the checker runs them again from nothing, with the deliveries that were committed.
 *
 * A program is made so that everything it must not depend on would show: several branches share one generator of
 * random numbers, one counter and the session's state, and each goes on after another number of hops, as
 * continuations of promises do. So the order of deliveries, and that each is handed over by itself, is in every call
 * that follows, and in the value returned.
 */
import type { Delivery, ScriptItem } from '../../actors/attempt.ts';
import { hash32, Random } from './random.ts';

export type Op =
  /** Call a tool; go on so many hops after its end. `caught`: an error does not end the branch. */
  | readonly ['call', tool: string, hops: number, caught: boolean]
  | readonly ['sleep', ms: number, hops: number]
  | readonly ['print', level: '' | 'info' | 'warn']
  | readonly ['hop', count: number]
  /** Take in a random number, the time, the counter that all branches share. */
  | readonly ['random']
  | readonly ['time']
  | readonly ['shared']
  /** Count a key of `state` up. */
  | readonly ['count', key: string]
  /** Leave out so many steps, if what was computed so far is a multiple. */
  | readonly ['skip', multiple: number, steps: number]
  | readonly ['throw']
  /** Kill the worker. */
  | readonly ['crash'];

export interface Program {
  readonly branches: readonly (readonly Op[])[];
  /** Not waited for: what they have under way when the others have ended stays open. */
  readonly detached: readonly (readonly Op[])[];
}

export type ProgramEnd =
  | { readonly kind: 'returned'; readonly json: string; readonly state: string | undefined }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }
  | { readonly kind: 'crashed' };

export interface ProgramInput {
  readonly source: string;
  readonly input: string;
  /** JSON of an object. */
  readonly state: string;
  readonly seed: readonly [number, number, number, number];
  readonly startTime: number;
}

interface Branch {
  readonly ops: readonly Op[];
  readonly attached: boolean;
  at: number;
  value: number;
  done: boolean;
}

interface Hop {
  readonly branch: Branch;
  left: number;
}

export class Machine {
  readonly #branches: readonly Branch[];
  readonly #input: string;
  readonly #random: Random;
  readonly #state: Record<string, number>;
  readonly #waits = new Map<
    number,
    { readonly branch: Branch; readonly hops: number; readonly caught: boolean }
  >();
  readonly #hops: Hop[] = [];
  #items: ScriptItem[] = [];
  #time: number;
  #shared = 0;
  #entries = 0;
  #changed = false;
  end: ProgramEnd | undefined;

  constructor({ source, input, state, seed, startTime }: ProgramInput) {
    const { branches, detached } = JSON.parse(source) as Program;
    const branch = (ops: readonly Op[], attached: boolean, index: number): Branch => ({
      ops,
      attached,
      at: 0,
      value: hash32(`${index}`),
      done: false,
    });
    this.#branches = [...branches, ...detached].map((ops, index) =>
      branch(ops, index < branches.length, index),
    );
    this.#input = input;
    this.#random = new Random(seed);
    this.#state = JSON.parse(state) as Record<string, number>;
    this.#time = startTime;
  }

  /** What it did since it was last asked, in order. */
  take(): readonly ScriptItem[] {
    const items = this.#items;
    this.#items = [];
    return items;
  }

  start(): void {
    for (const branch of this.#branches) this.#hops.push({ branch, left: 0 });
    this.#settle();
  }

  /** One delivery, one entry. */
  deliver(delivery: Delivery): void {
    this.#enter(delivery);
    this.#settle();
  }

  /** All of them in one entry: what a sandbox must not do. */
  deliverTogether(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) this.#enter(delivery);
    this.#settle();
  }

  #enter([index, code, payload, time]: Delivery): void {
    if (this.end !== undefined) return;
    const wait = this.#waits.get(index);
    if (wait === undefined) return;
    this.#waits.delete(index);
    this.#time = Math.max(this.#time, time);
    this.#items.push({ kind: 'applied', index });
    const { branch, hops, caught } = wait;
    if (code !== '' && !caught) return this.#fail(code, payload);
    this.#mix(branch, `${code}|${payload}`);
    this.#hops.push({ branch, left: hops });
  }

  /** Until nothing can go on. */
  #settle(): void {
    for (
      let hop = this.#hops.shift();
      hop !== undefined && this.end === undefined;
      hop = this.#hops.shift()
    ) {
      if (hop.left > 0) {
        hop.left--;
        this.#hops.push(hop);
      } else this.#run(hop.branch);
    }
  }

  #run(branch: Branch): void {
    while (this.end === undefined) {
      const op = branch.ops[branch.at];
      if (op === undefined) return this.#finish(branch);
      branch.at++;
      if (!this.#perform(branch, op)) return;
    }
  }

  /** False if the branch has to wait. */
  #perform(branch: Branch, op: Op): boolean {
    switch (op[0]) {
      case 'call': {
        const index = this.#entries++;
        const json = JSON.stringify({ value: branch.value, at: branch.at });
        this.#items.push({ kind: 'call', index, name: op[1], json });
        this.#waits.set(index, { branch, hops: op[2], caught: op[3] });
        return false;
      }
      case 'sleep': {
        const index = this.#entries++;
        this.#items.push({ kind: 'sleep', index, ms: op[1] });
        this.#waits.set(index, { branch, hops: op[2], caught: false });
        return false;
      }
      case 'hop':
        this.#hops.push({ branch, left: op[1] });
        return false;
      case 'print':
        this.#items.push({ kind: 'output', level: op[1], text: `${branch.value}\n` });
        return true;
      case 'random':
        this.#mix(branch, `${this.#random.next()}`);
        return true;
      case 'time':
        this.#mix(branch, `${this.#time}`);
        return true;
      case 'shared':
        this.#shared = (this.#shared * 31 + branch.value) >>> 0;
        this.#mix(branch, `${this.#shared}`);
        return true;
      case 'count': {
        const count = (this.#state[op[1]] ?? 0) + 1;
        this.#state[op[1]] = count;
        this.#changed = true;
        this.#mix(branch, `${count}`);
        return true;
      }
      case 'skip':
        if (branch.value % op[1] === 0) branch.at += op[2];
        return true;
      case 'throw':
        this.#fail('SCRIPT_ERROR', `thrown at ${branch.value}`);
        return false;
      case 'crash':
        this.end = { kind: 'crashed' };
        return false;
    }
  }

  #mix(branch: Branch, text: string): void {
    branch.value = (Math.imul(branch.value, 0x9e3779b1) ^ hash32(text)) >>> 0;
  }

  #finish(branch: Branch): void {
    branch.done = true;
    if (this.#branches.some(({ attached, done }) => attached && !done)) return;
    const values = this.#branches.map(({ value }) => value);
    this.end = {
      kind: 'returned',
      json: JSON.stringify({ values, shared: this.#shared, input: this.#input }),
      state: this.#changed ? JSON.stringify(this.#state) : undefined,
    };
  }

  #fail(code: string, message: string): void {
    this.end = { kind: 'failed', code, message };
  }
}

export interface Run {
  readonly items: readonly ScriptItem[];
  readonly end: ProgramEnd | undefined;
}

/** Run a program from nothing with these deliveries. */
export function runProgram(input: ProgramInput, deliveries: readonly Delivery[]): Run {
  const machine = new Machine(input);
  machine.start();
  for (const delivery of deliveries) machine.deliver(delivery);
  return { items: machine.take(), end: machine.end };
}

// ---- making them -----------------------------------------------------------------------------------------

export interface ProgramStyle {
  /** Names of tools that scripts may call. */
  readonly tools: readonly string[];
  /** Chance that a program is one that kills its worker. */
  readonly crashes: number;
  readonly longSleepMs: number;
}

/** A new program, as source. */
export function makeProgram(random: Random, style: ProgramStyle): string {
  const branches = Array.from({ length: random.between(1, 3) }, () => makeBranch(random, style));
  const detached = random.chance(0.15) ? [makeBranch(random, style)] : [];
  if (random.chance(style.crashes)) {
    const victim = random.pick(branches);
    victim.splice(random.below(victim.length + 1), 0, ['crash']);
  }
  return JSON.stringify({ branches, detached } satisfies Program);
}

function makeBranch(random: Random, style: ProgramStyle): Op[] {
  return Array.from({ length: random.between(2, 8) }, () => makeOp(random, style));
}

function makeOp(random: Random, { tools, longSleepMs }: ProgramStyle): Op {
  const dice = random.below(100);
  if (dice < 36) return ['call', random.pick(tools), random.below(4), random.chance(0.85)];
  if (dice < 46) return ['sleep', random.between(0, 300), random.below(4)];
  if (dice < 49) return ['sleep', random.between(300, longSleepMs), random.below(4)];
  if (dice < 59) return ['print', random.pick(['', 'info', 'warn'] as const)];
  if (dice < 65) return ['hop', random.between(0, 3)];
  if (dice < 73) return ['random'];
  if (dice < 79) return ['time'];
  if (dice < 87) return ['shared'];
  if (dice < 94) return ['count', random.pick(['a', 'b'])];
  if (dice < 99) return ['skip', random.between(2, 3), random.between(1, 2)];
  return ['throw'];
}
