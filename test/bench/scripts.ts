/**
 * The scripts that are run, the tool they call, and the check of what they return.
 *
 * Every source text is unique, so that no side gains from a cache of compiled code; every result is checked,
 * so that no side gains from being wrong.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunOptions, Side } from './side.ts';

export interface Script {
  readonly name: string;
  /** The text numbered `n`. */
  readonly source: (n: number) => string;
  /** What text `n` returns. */
  readonly expected: (n: number) => unknown;
}

export const SIMPLE: Script = {
  name: 'simple',
  source: (n) => `let s = 0; for (let i = 0; i < 100; i++) s += i; return s + ${n};`,
  expected: (n) => 4950 + n,
};

export const ONE_CALL: Script = {
  name: 'one call',
  source: (n) => `const u = await callTool('users:get', { id: ${n} }); return u.name;`,
  expected: (n) => `user ${n}`,
};

export const TEN_CALLS: Script = {
  name: 'ten calls',
  source: (n) =>
    `const r = await Promise.all([...Array(10).keys()].map((i) => callTool('users:get', { id: i + ${n} }))); return r.length;`,
  expected: () => 10,
};

/** How long the tool of {@link WAITING} takes, in ms. */
export const WAIT_MS = 50;

/** A script that mostly waits for a tool, as most scripts do outside benchmarks. */
export const WAITING: Script = {
  name: 'waiting',
  source: (n) => `const u = await callTool('users:find', { id: ${n} }); return u.name;`,
  expected: (n) => `user ${n}`,
};

/** The tools of both sides: `users:get` answers at once, `users:find` after {@link WAIT_MS}. */
export function answerTool(name: string, args: unknown): unknown {
  const { id } = args as { readonly id: number };
  const user = { id, name: `user ${id}` };
  if (name === 'users:get') return user;
  if (name === 'users:find') return sleep(WAIT_MS, user);
  throw new Error(`unknown tool ${name}`);
}

let lastNumber = 0;

/** Run a fresh text of `script` and check its result. Rejects on a wrong one, which fails the benchmark. */
export async function ask(side: Side, script: Script, options: RunOptions): Promise<void> {
  const n = ++lastNumber;
  const value = await side.run(script.source(n), options);
  if (value !== script.expected(n)) {
    const seen = JSON.stringify(value);
    throw new Error(
      `${side.name}, ${script.name}, ${options.level}: ${seen} instead of ${script.expected(n)}`,
    );
  }
}
