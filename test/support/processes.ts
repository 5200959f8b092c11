/**
 * Server processes under a test's control: started, paused, killed, started again on the same port.
 *
 * P1  No process outlives the one that started it, however that one ends: a SIGKILL of a test's process takes its
 *     servers along, also paused ones.
 * P2  A port that was handed out is below the range that the system gives to outgoing connections, so that nobody
 *     takes it while its server is down.
 * P3  A server is ready when the process that we started says so; another one's answer on its port does not count.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

export const HOST = '127.0.0.1';

/** Facts may take their time on a loaded machine. */
const PATIENCE_MS = 20_000;
const POLL_MS = 5;
/** How long a process that was asked to end may take before it is killed. */
const GRACE_MS = 5000;
const KEPT_LINES = 200;
const ATTEMPTS = 5;

/** What every server of the harness can do. All verbs may be called at any time, and more than once. */
export interface Server {
  readonly host: string;
  readonly port: number;
  readonly url: string;
  /** Of the process that runs now, or that ran last. */
  readonly pid: number;
  readonly running: boolean;
  /** Whether it runs and is not paused. */
  readonly answering: boolean;
  /** What it printed last, for messages of failed tests. */
  readonly output: string;
  /** SIGSTOP: its connections stay open, and nothing is answered. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /** SIGKILL. Resolves when the process is gone. Its files stay. */
  kill(): Promise<void>;
  /** SIGTERM, and SIGKILL when it takes too long. Its files stay. */
  terminate(): Promise<void>;
  /** {@link kill}, and its files are removed: the end of the server, with nothing left to save. */
  stop(): Promise<void>;
  /** Starts it again on its port, with the files that it has; one that runs is terminated first. Resolves when it is ready. */
  restart(): Promise<void>;
}

// --- Waiting

/**
 * Resolves when the fact holds; what it throws counts as no.
 *
 * @throws Error that says what never came true, after `patienceMs`.
 */
export async function waitUntil(
  fact: () => boolean | Promise<boolean>,
  what: string,
  patienceMs = PATIENCE_MS,
): Promise<void> {
  const end = performance.now() + patienceMs;
  let cause: unknown;
  for (;;) {
    try {
      if (await fact()) return;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > end) throw new Error(`it never came true that ${what}`, { cause });
    await delay(POLL_MS);
  }
}

// --- Ports

// Fetch refuses some ports, the last of which is 10080.
const FIRST_PORT = 10_100;
const PORTS = 21_900;
const handedOut = new Set<number>();

/** A loopback port on which nobody listens (P2). Never the same twice in one process. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * PORTS);
    if (handedOut.has(port) || !(await isFree(port))) continue;
    handedOut.add(port);
    return port;
  }
}

export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ port, host: HOST, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

// --- Directories

const DIRECTORY = /^enclave-test-(\d+)-/;
const directories = new Set<string>();

/** A new directory, gone at {@link removeDirectory} or at the end of this process. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), `enclave-test-${process.pid}-`));
  directories.add(path);
  return path;
}

export function removeDirectory(path: string): void {
  directories.delete(path);
  rmSync(path, { recursive: true, force: true, maxRetries: 3 });
}

/** Removes the directories of processes that were killed and could not do so themselves. */
export function sweep(): void {
  for (const name of readdirSync(tmpdir())) {
    const owner = DIRECTORY.exec(name)?.[1];
    if (owner !== undefined && !isAlive(Number(owner))) removeDirectory(join(tmpdir(), name));
  }
}

export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Those that any thread of it started, and that were not waited for. */
export function childrenOf(pid: number): readonly number[] {
  try {
    const threads = readdirSync(`/proc/${pid}/task`);
    const listed = threads.map((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8'));
    return listed.flatMap((text) => text.split(' ').filter(Boolean).map(Number));
  } catch {
    return [];
  }
}

// --- Processes

export interface LaunchOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** How P1 is upheld. Default: the kernel's way where there is one. */
  readonly guard?: Guard;
  /** Given every whole line of both streams as it comes: `output` keeps the last ones only. */
  readonly onLine?: (line: string) => void;
}

/**
 * `pdeathsig`: the kernel sends SIGKILL when the starting thread ends (Linux, by setpriv).
 * `watchdog`: a shell beside every process kills it when the pipe from us breaks.
 */
export type Guard = 'pdeathsig' | 'watchdog';

const launched = new Set<Launched>();

process.once('exit', () => {
  for (const one of launched) one.signal('SIGKILL');
  for (const path of directories) removeDirectory(path);
});

let usual: Guard | undefined;

function usualGuard(): Guard {
  return (usual ??= hasPdeathsig() ? 'pdeathsig' : 'watchdog');
}

function hasPdeathsig(): boolean {
  try {
    execFileSync('setpriv', ['--pdeathsig', 'KILL', 'true'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** One running program. */
export class Launched {
  readonly pid: number;
  /** Resolves when the process is gone. */
  readonly exited: Promise<void>;
  /** Resolves when it is gone, all that it printed is in `output`, and no child of its holds its streams. */
  readonly closed: Promise<void>;
  /** The process that upholds P1, where the kernel does not. */
  readonly watchdogPid: number | undefined;
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  /** What was begun and has no end yet, by stream. */
  readonly #rests = { stdout: '', stderr: '' };
  readonly #onLine: (line: string) => void;

  constructor(command: string, args: readonly string[], options: LaunchOptions = {}) {
    this.#onLine = options.onLine ?? (() => undefined);
    const guard = options.guard ?? usualGuard();
    const [file, ...words] =
      guard === 'pdeathsig' ? ['setpriv', '--pdeathsig', 'KILL', command, ...args] : [command, ...args];
    this.#child = spawn(file ?? command, words, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: options.env ?? process.env,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    if (this.#child.pid === undefined) {
      // Spawn emits what went wrong later; nobody can wait for it in a constructor.
      this.#child.once('error', () => {});
      throw new Error(`${command} cannot be started`);
    }
    this.pid = this.#child.pid;
    launched.add(this);
    const dog = guard === 'watchdog' ? watch(this.pid) : undefined;
    this.watchdogPid = dog?.pid;
    for (const name of ['stdout', 'stderr'] as const) {
      this.#child[name]?.setEncoding('utf8').on('data', (text: string) => this.#print(name, text));
    }
    this.closed = new Promise((resolve) => this.#child.once('close', () => resolve()));
    this.exited = new Promise((resolve) => {
      this.#child.once('exit', () => {
        launched.delete(this);
        dog?.kill('SIGKILL');
        resolve();
      });
    });
  }

  get running(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get exitCode(): number | null {
    return this.#child.exitCode;
  }

  /** The last lines of both streams. */
  get output(): string {
    return [...this.#lines, this.#rests.stdout + this.#rests.stderr].join('\n');
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.exited;
  }

  /** SIGTERM, and SIGKILL after `graceMs`. A paused process is resumed: it could not end otherwise. */
  async terminate(graceMs = GRACE_MS): Promise<void> {
    this.signal('SIGTERM');
    this.signal('SIGCONT');
    const timer = setTimeout(() => this.signal('SIGKILL'), graceMs);
    await this.exited;
    clearTimeout(timer);
  }

  #print(name: 'stdout' | 'stderr', text: string): void {
    const lines = (this.#rests[name] + text).split('\n');
    this.#rests[name] = lines.pop() ?? '';
    this.#lines.push(...lines);
    this.#lines.splice(0, this.#lines.length - KEPT_LINES);
    for (const line of lines) this.#onLine(line);
  }
}

/** Whoever ends the watchdog first has it let the process alone. */
function watch(pid: number): ChildProcess {
  // In a group of its own: what ends the tests' group must not end it first.
  const dog = spawn('sh', ['-c', 'read _; kill -KILL "$1"', 'sh', String(pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  dog.unref();
  return dog;
}

// --- Servers

export interface ServerSpec {
  /** For messages. */
  readonly name: string;
  readonly command: string;
  /** The port to have. Default: a free one, and another when somebody takes it first. */
  readonly port?: number | undefined;
  readonly url: (port: number) => string;
  readonly args: (place: Place) => readonly string[];
  /** P3: whether this process, and no other, serves the port. */
  readonly ready: (process: Launched, port: number) => boolean | Promise<boolean>;
}

/** What a server has to itself for as long as it is not stopped. */
export interface Place {
  readonly port: number;
  /** A second port, for the programs that listen on two. */
  readonly secondPort: number;
  readonly directory: string;
}

interface Stoppable {
  stop(): Promise<void>;
}

const unstopped = new Set<Stoppable>();

/** Lets {@link stopAll} stop it. Returns it. */
export function track<T extends Stoppable>(one: T): T {
  unstopped.add(one);
  return one;
}

/** Stops whatever this process started and did not stop: for `afterEach`. */
export async function stopAll(): Promise<void> {
  const all = [...unstopped];
  unstopped.clear();
  await Promise.all(all.map((one) => one.stop()));
}

/**
 * Starts a server and resolves when it is ready.
 *
 * @throws Error with the server's output, when it ends before.
 */
export async function startServer(spec: ServerSpec): Promise<OwnServer> {
  for (let attempt = 1; ; attempt++) {
    const server = track(new OwnServer(spec, spec.port ?? (await freePort()), await freePort()));
    try {
      await server.restart();
      return server;
    } catch (error) {
      await server.stop();
      const taken = /address already in use/i.test(String(error));
      if (!taken || spec.port !== undefined || attempt === ATTEMPTS) throw error;
    }
  }
}

export class OwnServer implements Server {
  readonly host = HOST;
  readonly port: number;
  readonly secondPort: number;
  readonly url: string;
  readonly #spec: ServerSpec;
  #process: Launched | undefined;
  #paused = false;
  #directory: string | undefined;

  constructor(spec: ServerSpec, port: number, secondPort: number) {
    this.#spec = spec;
    this.port = port;
    this.secondPort = secondPort;
    this.url = spec.url(port);
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  get running(): boolean {
    return this.#process?.running === true;
  }

  get answering(): boolean {
    return this.running && !this.#paused;
  }

  get output(): string {
    return this.#process?.output ?? '';
  }

  pause(): void {
    this.#paused = true;
    this.#process?.signal('SIGSTOP');
  }

  resume(): void {
    this.#paused = false;
    this.#process?.signal('SIGCONT');
  }

  async kill(): Promise<void> {
    await this.#process?.kill();
  }

  async terminate(): Promise<void> {
    await this.#process?.terminate();
  }

  async stop(): Promise<void> {
    // SIGTERM would be a courtesy to files that go, and a Redis that rewrites its append-only file ignores it.
    await this.kill();
    unstopped.delete(this);
    // A child of the server, such as one that rewrites a file, may still write.
    await Promise.race([this.#process?.closed, delay(GRACE_MS, undefined, { ref: false })]);
    if (this.#directory !== undefined) removeDirectory(this.#directory);
    this.#directory = undefined;
  }

  async restart(): Promise<void> {
    const { name, command, args, ready } = this.#spec;
    const { port, secondPort } = this;
    await this.terminate();
    track(this);
    this.#paused = false;
    this.#directory ??= temporaryDirectory();
    const started = new Launched(command, args({ port, secondPort, directory: this.#directory }));
    this.#process = started;
    const isReadyOrGone = async () => !started.running || (await ready(started, port));
    await waitUntil(isReadyOrGone, `${name} is ready on port ${port}`).catch(async (error) => {
      await started.kill();
      throw error;
    });
    if (started.running) return;
    await started.closed;
    throw new Error(`${name} ended at its start on port ${port}:\n${started.output}`);
  }
}
