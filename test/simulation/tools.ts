/**
 * The tools of the simulated world, and what their handlers really did.
 *
 * Every effect is there; some calls fail, some take long. What decides is the arguments, so that a script is free to
 * go either way; what a call returns is never the same twice, unless its tool is idempotent.
 */
import { defineTool, type Tool, type ToolContext } from '../../src/tools/define.ts';
import { createToolRegistry, type ToolRegistry } from '../../src/tools/registry.ts';
import type { Process } from './process.ts';
import type { Random } from './random.ts';
import { hash32 } from './random.ts';

/** What scripts call: the last one does not exist. */
export const TOOL_NAMES = [
  'data:read',
  'data:read',
  'data:put',
  'mail:send',
  'mail:send',
  'bank:pay',
  'bank:pay',
  'no:such',
];

/** A handler that began. */
export interface Start {
  readonly tool: string;
  readonly process: Process;
  readonly at: number;
  readonly epoch: number;
}

export interface ToolWorldOptions {
  readonly random: Random;
  readonly now: () => number;
  readonly onStart: (key: string, start: Start) => void;
  readonly note: (who: string, what: string) => void;
}

export class ToolWorld {
  readonly starts = new Map<string, Start[]>();
  /** How often a key was said never to have taken effect. */
  readonly denied = new Map<string, number>();
  /** What took effect, by key. */
  readonly #landed = new Map<string, unknown>();
  readonly #options: ToolWorldOptions;
  #calls = 0;

  constructor(options: ToolWorldOptions) {
    this.#options = options;
  }

  /** The tools as a process offers them. */
  registry(process: Process): ToolRegistry {
    const tool = (name: string, effect: Tool['effect']): Tool =>
      defineTool({ name, effect, handler: (args, ctx) => this.#handle(process, name, args, ctx) });
    return createToolRegistry({
      tools: [
        tool('data:read', 'read'),
        tool('data:put', 'idempotent'),
        tool('mail:send', 'unsafe'),
        defineTool({
          name: 'bank:pay',
          effect: 'unsafe',
          handler: (args, ctx) => this.#handle(process, 'bank:pay', args, ctx),
          reconcile: ({ key }) => this.#reconcile(key),
        }),
      ],
    });
  }

  async #handle(process: Process, tool: string, args: unknown, ctx: ToolContext): Promise<unknown> {
    const { random, note } = this.#options;
    const key = ctx.idempotencyKey;
    this.#noteStart(key, tool, process, ctx.epoch ?? 0);
    const denied = this.denied.get(key);
    const { value } = args as { readonly value: number };
    const kind = hash32(`${tool}${value}`) % 12;
    const ms = kind === 0 ? random.between(200, 3_500) : random.between(0, 40);
    await new Promise<void>((resolve) => process.clock.after(ms, resolve));
    if (kind === 1) throw new TypeError(`${tool} cannot do ${value % 10}`);
    const known = this.#landed.get(key);
    if (known !== undefined && tool !== 'data:read') return known;
    // It was said that this would never take effect.
    if (this.denied.get(key) !== denied) throw new Error(`${tool} came too late`);
    const result = { number: ++this.#calls };
    this.#landed.set(key, result);
    note(process.id, `${tool} ${key} took effect`);
    await new Promise<void>((resolve) => process.clock.after(random.between(0, 10), resolve));
    return result;
  }

  #noteStart(key: string, tool: string, process: Process, epoch: number): void {
    const { now, onStart } = this.#options;
    const start: Start = { tool, process, at: now(), epoch };
    onStart(key, start);
    const starts = this.starts.get(key);
    if (starts === undefined) this.starts.set(key, [start]);
    else starts.push(start);
  }

  #reconcile(
    key: string,
  ):
    | { readonly status: 'completed'; readonly value: unknown }
    | { readonly status: 'not_started' | 'unknown' } {
    const value = this.#landed.get(key);
    if (value !== undefined) return { status: 'completed', value };
    if (this.#options.random.chance(0.2)) return { status: 'unknown' };
    this.denied.set(key, (this.denied.get(key) ?? 0) + 1);
    return { status: 'not_started' };
  }
}
