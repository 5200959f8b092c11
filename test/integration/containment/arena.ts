/**
 * Where an attack meets its neighbours: one worker process, a hostile run and an innocent one aboard together.
 *
 * Whatever the attack does, the innocent run succeeds, the next run of the attacker's own tenant works, no text
 * that comes back names the host, and nothing surfaces in the host process by itself.
 */
import path from 'node:path';
import { expect } from 'vitest';
import {
  createWorkerPoolAdapter,
  defineTool,
  Enclave,
  type EnclaveConfig,
  type ExecutionError,
  type ExecutionResult,
  type Isolation,
  type RunOptions,
  type WorkerPoolOptions,
} from '../../../src/index.ts';

const MiB = 1024 * 1024;

/** Every isolation level. */
export const LEVELS: readonly Isolation[] = ['process', 'execution', 'context', 'realm'];

/** Enough work to pass the quantum of a worker's own thread: what follows runs on a thread of its own. */
export const HEAVY = 'let spun = 0; for (let i = 0; i < 1.5e7; i++) spun += i;\n';

/** Anything that only somebody with a view of the host could have written. */
const HOST_TEXT = [
  path.resolve('.'),
  process.execPath,
  'node_modules',
  'isolated-vm',
  'file://',
  'node:internal',
];
const HOST_FRAME = /\bat [^\n]*(?:\/|\.[cm]?[jt]s:\d+:\d+\)? *\n? *at Module)/;

const strays: unknown[] = [];
process.on('unhandledRejection', (error) => strays.push(error));
process.on('uncaughtExceptionMonitor', (error) => strays.push(error));

/** A call that a script made and a tool saw. */
export interface SeenCall {
  readonly name: string;
  readonly args: unknown;
}

export interface Arena extends AsyncDisposable {
  readonly enclave: Enclave;
  readonly calls: SeenCall[];
  /** Run a script as the attacker, with an innocent run beside it and another after it. */
  readonly attack: (code: string, options?: RunOptions) => Promise<ExecutionResult>;
  /** {@link attack} for a script that must succeed. */
  readonly value: (code: string, options?: RunOptions) => Promise<unknown>;
  /** {@link attack} for a script that must fail. */
  readonly error: (code: string, options?: RunOptions) => Promise<ExecutionError>;
  /** The process ids of the workers. */
  readonly pids: () => number[];
}

export function openArena(config: EnclaveConfig = {}, pool: WorkerPoolOptions = {}): Arena {
  const calls: SeenCall[] = [];
  const enclave = new Enclave({
    adapter: createWorkerPoolAdapter({ poolSize: 1, maxRestarts: 1_000, ...pool }),
    limits: { timeoutMs: 3_000, cpuMs: 600, memoryBytes: 32 * MiB },
    ...config,
    tools: [
      defineTool({
        name: 'echo',
        handler: (args: unknown) => {
          calls.push({ name: 'echo', args });
          return args;
        },
      }),
      defineTool({
        name: 'fail',
        handler: () => {
          throw Object.assign(new RangeError(`no luck ${'!'.repeat(5_000)}`), {
            secret: 'extra',
            cause: new Error('the cause'),
          });
        },
      }),
      defineTool({ name: 'evil:then', handler: () => ({ then: 1, constructor: 2, toJSON: 3 }) }),
    ],
  });
  const innocent = (): Promise<ExecutionResult> =>
    enclave.run('const n = await callTool("echo", 20); await sleep(1); return n + 22', {
      tenant: 'innocent',
      limits: { timeoutMs: 25_000, cpuMs: 5_000 },
    });
  const attack = async (code: string, options: RunOptions = {}): Promise<ExecutionResult> => {
    const beside = innocent();
    const result = await enclave.run(code, { tenant: 'attacker', ...options });
    expect(await beside).toMatchObject({ success: true, value: 42 });
    const next = await enclave.run('return typeof leak + [1].concat(2).map((n) => n * 2)', {
      tenant: options.tenant ?? 'attacker',
      limits: { timeoutMs: 25_000, cpuMs: 5_000 },
      ...(options.isolation === undefined ? {} : { isolation: options.isolation }),
    });
    expect(next).toMatchObject({ success: true, value: 'undefined2,4' });
    expectNoHostText(result);
    return result;
  };
  return {
    enclave,
    calls,
    attack,
    value: async (code, options) => {
      const result = await attack(code, options);
      if (!result.success) throw new Error(`the run failed: ${JSON.stringify(result.error)}`);
      return result.value;
    },
    error: async (code, options) => {
      const result = await attack(code, options);
      if (result.success) throw new Error(`the run succeeded: ${JSON.stringify(result.value)}`);
      return result.error;
    },
    pids: () => enclave.stats().workers.map(({ pid }) => pid),
    [Symbol.asyncDispose]: async () => {
      await enclave.dispose();
      expect(strays, 'nothing surfaces in the host process').toEqual([]);
    },
  };
}

/** No path, module name or frame of the host's in what a run came back with. */
export function expectNoHostText(result: ExecutionResult): void {
  const text = JSON.stringify(result.success ? result.value : result.error) ?? '';
  for (const word of HOST_TEXT) expect(text).not.toContain(word);
  expect(text).not.toMatch(HOST_FRAME);
}
