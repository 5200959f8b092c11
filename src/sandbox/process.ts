/**
 * One worker process: how it is started, spoken to, measured and killed.
 *
 * The walls around it are set here (see ARCHITECTURE.md, "Containment"): a fixed environment, Node's permission
 * model with only our own files readable, no core dumps, no file of any size to be written, another user where
 * the parent may set one, first in line for the kernel's OOM killer. The parent holds the only clock.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { FrameReader, FrameWriter } from './frames.ts';
import { type ParentMessage, parseWorkerMessage, type WorkerMessage } from './messages.ts';

const MiB = 1024 * 1024;

/** Longest message in either direction, in bytes: twice the largest payload that any limit allows, and its escapes. */
const MAX_FRAME_BYTES = 64 * MiB;

/** What a worker process needs besides scripts, in bytes: Node, the addon, the V8 snapshot. */
const BASE_BYTES = 80 * MiB;

export interface WorkerProcessOptions {
  readonly maxWorkerMemory: number;
  readonly maxWarmIsolates: number;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly onMessage: (message: WorkerMessage) => void;
  /** The worker broke the protocol: it has been killed. */
  readonly onViolation: (error: Error) => void;
  readonly onExit: (detail: string) => void;
}

/** What stands around a worker here; `stats()` reports it. */
export interface Containment {
  /** Node's permission model: files, child processes and (on Node 26) sockets are refused. */
  readonly permissionModel: boolean;
  /** Sockets are refused by the permission model too, not only by taking their modules away. */
  readonly network: boolean;
  /** Core dumps and file writes are limited to nothing by the shell that starts the worker. */
  readonly resourceLimits: boolean;
  /** Workers run under another user than their parent. */
  readonly separateUser: boolean;
}

/** The containment of workers started with these options on this machine. */
export function containmentOf(options: { readonly uid: number | undefined }): Containment {
  const major = Number(process.versions.node.split('.')[0]);
  return {
    permissionModel: true,
    network: major >= 25,
    resourceLimits: process.platform !== 'win32',
    separateUser: options.uid !== undefined && options.uid !== process.getuid?.(),
  };
}

const require = createRequire(import.meta.url);
const entry = workerEntry();
const flags = permissionFlags();

export class WorkerProcess {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #pipe: Duplex;
  readonly #writer: FrameWriter;
  #gone = false;
  /** When anything last came from it, by the monotonic clock, in ms. */
  lastHeard = performance.now();

  constructor(options: WorkerProcessOptions) {
    this.#child = start(options);
    this.pid = this.#child.pid ?? 0;
    this.#pipe = this.#child.stdio[3] as Duplex;
    this.#writer = new FrameWriter((bytes) => this.#pipe.write(bytes));
    const messages: WorkerMessage[] = [];
    const reader = new FrameReader(MAX_FRAME_BYTES, (text) => messages.push(parseWorkerMessage(text)));
    this.#pipe.on('data', (chunk: Buffer) => {
      this.lastHeard = performance.now();
      try {
        reader.push(chunk);
        for (const message of messages.splice(0)) if (!this.#gone) options.onMessage(message);
      } catch (error) {
        // A worker that breaks the protocol, or says what nobody here can take in, is not one that we wrote any more.
        messages.length = 0;
        this.kill();
        options.onViolation(error instanceof Error ? error : new Error(String(error)));
      }
    });
    // The pipe breaks when the worker dies; its exit says so.
    this.#pipe.on('error', () => undefined);
    let told = false;
    const exited = (detail: string): void => {
      this.#gone = true;
      if (told) return;
      told = true;
      this.#pipe.destroy();
      options.onExit(detail);
    };
    this.#child.on('error', (error) => exited(error.message));
    this.#child.on('exit', (code, signal) => exited(signal === null ? `exit code ${code}` : signal));
    raiseOomScore(this.pid);
  }

  send(message: ParentMessage): void {
    if (!this.#gone) this.#writer.send(JSON.stringify(message));
  }

  /** End it now. SIGKILL: what runs in it is never asked. */
  kill(): void {
    this.#gone = true;
    this.#child.kill('SIGKILL');
  }

  /** Whether this process keeps the parent's event loop alive. */
  hold(on: boolean): void {
    const pipe = this.#pipe as Duplex & { ref?: () => void; unref?: () => void };
    if (on) {
      this.#child.ref();
      pipe.ref?.();
    } else {
      this.#child.unref();
      pipe.unref?.();
    }
  }

  /** Resident memory in bytes as the kernel sees it, or undefined where that cannot be read. */
  residentBytes(): number | undefined {
    try {
      return Number(readFileSync(`/proc/${this.pid}/statm`, 'latin1').split(' ')[1]) * 4096;
    } catch {
      return undefined;
    }
  }

  /** CPU time of the whole process in ms, or undefined where that cannot be read. */
  cpuMs(): number | undefined {
    try {
      // Fields 14 and 15 of proc(5) stat, in ticks of 10 ms, counted after the name, which may hold anything.
      const stat = readFileSync(`/proc/${this.pid}/stat`, 'latin1');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return (Number(fields[11]) + Number(fields[12])) * 10;
    } catch {
      return undefined;
    }
  }
}

function start(options: WorkerProcessOptions): ChildProcess {
  const warmBytes = Math.max(0, Math.floor((options.maxWorkerMemory - BASE_BYTES) / 2));
  const args = [
    '--no-node-snapshot',
    // The V8 snapshot is this worker's own, so its hash seed is as random as a new one, and every context is cheaper.
    '--no-rehash-snapshot',
    '--disable-warning=PERM0001',
    '--disable-warning=SecurityWarning',
    ...flags,
    entry,
    `--max-frame-bytes=${MAX_FRAME_BYTES}`,
    `--max-warm=${options.maxWarmIsolates}`,
    `--warm-bytes=${warmBytes}`,
  ];
  const common = {
    cwd: path.parse(entry).root,
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  } as const;
  const env = { TZ: 'UTC', LANG: 'C.UTF-8' };
  if (process.platform === 'win32')
    return spawn(process.execPath, args, { ...common, stdio: [...common.stdio], env });
  // No core dumps, no file writes. `env -i` because a shell adds variables of its own.
  const script = 'ulimit -c 0; ulimit -f 0; exec env -i TZ=UTC LANG=C.UTF-8 "$@"';
  return spawn('/bin/sh', ['-c', script, 'sh', process.execPath, ...args], {
    ...common,
    stdio: [...common.stdio],
    env,
  });
}

/** The worker's program: TypeScript when we run from sources, JavaScript when we run from `dist`. */
function workerEntry(): string {
  const here = fileURLToPath(import.meta.url);
  return path.join(path.dirname(here), 'child', `main${path.extname(here)}`);
}

function permissionFlags(): string[] {
  const readable = [path.resolve(path.dirname(entry), '..', '*'), ownPackageFile(), '/etc/alpine-release'];
  for (const { directory, missed } of workerPackages()) {
    // Package managers that link packages have two names for each file: the loader asks for both.
    for (const name of new Set([directory, realpathSync(directory)]))
      readable.push(name, path.join(name, '*'));
    // Where the loader looks before it comes there: a refusal ends its search, a file that is not there does not.
    for (const name of missed) readable.push(path.join(name, 'package.json'));
  }
  return ['--permission', '--allow-addons', ...readable.map((file) => `--allow-fs-read=${file}`)];
}

interface WorkerPackage {
  readonly directory: string;
  /** Where it could have been, and is not, in the order of the search. */
  readonly missed: readonly string[];
}

/** The packages whose files the worker reads. */
function workerPackages(): readonly WorkerPackage[] {
  const own = ['isolated-vm', 'amaro', '@jridgewell/sourcemap-codec'].map((name) =>
    findPackage(name, require),
  );
  const addon = createRequire(path.join(realpathSync(own[0]?.directory ?? ''), 'package.json'));
  return [...own, findPackage('node-gyp-build', addon)];
}

/** Node reads it to learn that our files are modules. */
function ownPackageFile(): string {
  for (let directory = path.dirname(entry); ; directory = path.dirname(directory)) {
    const candidate = path.join(directory, 'package.json');
    if (existsSync(candidate)) return candidate;
    if (directory === path.dirname(directory)) throw new Error('No package.json above the worker program');
  }
}

function findPackage(name: string, from: NodeJS.Require): WorkerPackage {
  const missed: string[] = [];
  for (const directory of from.resolve.paths(name) ?? []) {
    const candidate = path.join(directory, name);
    if (existsSync(path.join(candidate, 'package.json'))) return { directory: candidate, missed };
    missed.push(candidate);
  }
  throw new Error(`The package ${name} is not installed`);
}

/** Raising one's children's score needs no privilege: a worker dies before its parent does. */
function raiseOomScore(pid: number): void {
  if (process.platform !== 'linux') return;
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, '1000');
  } catch {
    // Gone already, or not ours to set.
  }
}
