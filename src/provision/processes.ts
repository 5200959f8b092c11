/**
 * Runtimes as processes of this machine: each is the command `enclave runtime`, started with this process's own Node.
 *
 * Invariants:
 *  U1  None outlives this process: each holds the end of a pipe that breaks when this process is gone.
 *  U2  Each is asked to end (SIGTERM) before it is made to (SIGKILL), `killAfterMs` later.
 *  U3  None is given this process's environment: secrets of the broker, such as those of its store, stay with it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Labels } from '../../actors/placement.ts';
import { labelsOf } from '../arguments.ts';
import type { Clock } from '../clock.ts';
import { EnclaveError, invalidArgument } from '../errors.ts';
import type { Provisioner } from './provisioner.ts';

const DEFAULT_DRAIN_GRACE_MS = 30_000;
/** What a drain takes beside its grace, in ms. */
const KILL_MARGIN_MS = 5_000;
/** What a process needs to run at all. */
const INHERITED = [
  'PATH',
  'HOME',
  'TMPDIR',
  'TEMP',
  'LANG',
  'TZ',
  'NODE_OPTIONS',
  'NODE_EXTRA_CA_CERTS',
  'SystemRoot',
];

export interface LocalRuntimesOptions {
  readonly clock: Clock;
  /** Of the NATS server: `ENCLAVE_NATS_URL`. */
  readonly natsUrl: string;
  /** `ENCLAVE_NAMESPACE`. */
  readonly namespace: string;
  /** `ENCLAVE_LABELS`, as `name=value,name=value`: so names hold no `=`, and neither holds a comma or begins or ends with a space. Default: none. */
  readonly labels?: Labels | undefined;
  /** Workers of each: `ENCLAVE_POOL_SIZE`. Default: the runtime's own. */
  readonly poolSize?: number | undefined;
  /** How long each may let its scripts go on when it is asked to end, in ms: `ENCLAVE_DRAIN_GRACE_MS`. Default 30,000. */
  readonly drainGraceMs?: number | undefined;
  /** Between being asked to end and being made to, in ms. Default `drainGraceMs` and 5,000. */
  readonly killAfterMs?: number | undefined;
  /** More variables of its environment, such as its NATS credentials. They come after all others. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Where what it writes goes. Default `'inherit'`: where this process's goes. */
  readonly output?: 'inherit' | 'ignore' | undefined;
  /** The program and its arguments. Default: the CLI's command `runtime`. */
  readonly program?: readonly string[] | undefined;
}

/** Labels that can be handed over in a variable. Throws INVALID_ARGUMENT naming the one that cannot. */
export function checkHanded(given: unknown, key: string): Labels {
  const labels = labelsOf(given, key);
  for (const [name, value] of Object.entries(labels))
    if (/[=,]/.test(name) || value.includes(',') || name.trim() !== name || value.trim() !== value)
      throw invalidArgument(
        `${key}.${name}`,
        'must have no comma, no = in its name, and no space at either end',
      );
  return labels;
}

interface Runtime {
  readonly child: ChildProcess;
  readonly gone: Promise<void>;
}

export class LocalRuntimes implements Provisioner {
  readonly labels: Labels;
  readonly #options: LocalRuntimesOptions;
  readonly #drainGraceMs: number;
  readonly #killAfterMs: number;
  readonly #runtimes = new Map<string, Runtime>();
  #closed = false;

  /** Throws INVALID_ARGUMENT naming a label that cannot be handed over. */
  constructor(options: LocalRuntimesOptions) {
    const { drainGraceMs = DEFAULT_DRAIN_GRACE_MS, killAfterMs = drainGraceMs + KILL_MARGIN_MS } = options;
    this.#options = options;
    this.#drainGraceMs = drainGraceMs;
    this.#killAfterMs = killAfterMs;
    this.labels = checkHanded(options.labels, 'labels');
  }

  async start(): Promise<{ readonly id: string }> {
    if (this.#closed) throw new EnclaveError('CLOSED', 'No more runtimes are started here');
    const id = `local-${this.#options.clock.id()}`;
    const child = this.#spawn(id);
    const gone = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      child.once('error', () => resolve());
    });
    this.#runtimes.set(id, { child, gone });
    void gone.then(() => this.#runtimes.delete(id));
    // Its end of the pipe breaks when it dies.
    child.stdin?.on('error', () => undefined);
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', (cause) =>
        reject(
          new EnclaveError('UNAVAILABLE', `A runtime could not be started: ${cause.message}`, { cause }),
        ),
      );
    });
    return { id };
  }

  /** U2 */
  async drain(id: string): Promise<void> {
    const runtime = this.#runtimes.get(id);
    if (runtime === undefined) return;
    runtime.child.kill('SIGTERM');
    const callOff = this.#options.clock.after(this.#killAfterMs, () => runtime.child.kill('SIGKILL'), true);
    await runtime.gone;
    callOff();
  }

  async stop(id: string): Promise<void> {
    const runtime = this.#runtimes.get(id);
    runtime?.child.kill('SIGKILL');
    await runtime?.gone;
  }

  async list(): Promise<readonly string[]> {
    return [...this.#runtimes.keys()];
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#runtimes.keys()].map((id) => this.drain(id)));
  }

  #spawn(id: string): ChildProcess {
    const { output = 'inherit', program = cliProgram() } = this.#options;
    const leash = `${siblingUrl('leash')}?killAfterMs=${this.#killAfterMs}`;
    return spawn(process.execPath, ['--import', leash, ...program], {
      env: this.#environment(id),
      stdio: ['pipe', output, output], // U1
      // A signal from the terminal is for the broker: a runtime that gets two does not finish what it has.
      detached: true,
      windowsHide: true,
    });
  }

  /** U3 */
  #environment(id: string): Record<string, string> {
    const { natsUrl, namespace, poolSize, env } = this.#options;
    const inherited = INHERITED.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value] as const];
    });
    const labels = Object.entries(this.labels).map(([name, value]) => `${name}=${value}`);
    return {
      ...Object.fromEntries(inherited),
      ENCLAVE_NATS_URL: natsUrl,
      ENCLAVE_NAMESPACE: namespace,
      ENCLAVE_ID: id,
      ENCLAVE_DRAIN_GRACE_MS: String(this.#drainGraceMs),
      ...(labels.length === 0 ? {} : { ENCLAVE_LABELS: labels.join(',') }),
      ...(poolSize === undefined ? {} : { ENCLAVE_POOL_SIZE: String(poolSize) }),
      ...env,
    };
  }
}

/** TypeScript when we run from sources, JavaScript when we run from `dist`. */
function siblingUrl(name: string): string {
  return new URL(`${name}${path.extname(fileURLToPath(import.meta.url))}`, import.meta.url).href;
}

function cliProgram(): readonly string[] {
  return [fileURLToPath(siblingUrl('../cli')), 'runtime'];
}
