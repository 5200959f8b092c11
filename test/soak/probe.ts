/**
 * In the processes of the soak: how much they hold after a full collection, told at SIGUSR2; and what keeps one alive
 * that should have ended.
 */
import { renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import v8 from 'node:v8';
import vm from 'node:vm';

/** What a process tells, in a file of its own. */
export interface Told {
  /** How often it was asked. */
  readonly number: number;
  /** Bytes after a collection: the heap, and what hangs on it outside. */
  readonly heldBytes: number;
  /** Timers, sockets and the like that keep it alive, by kind. */
  readonly resources: readonly string[];
}

/** How long what should have ended may take before it tells what keeps it, in ms. */
const LATE_MS = 5_000;

export const fileOf = (directory: string, pid: number): string => path.join(directory, `told-${pid}.json`);

/** Answer SIGUSR2 from now on, which the file says. Keeps no process alive. */
export function answerProbes(directory: string): void {
  v8.setFlagsFromString('--expose-gc');
  const collect = vm.runInNewContext('gc') as () => void;
  const file = fileOf(directory, process.pid);
  let number = 0;
  const tell = (): void => {
    collect();
    const { heapUsed, external } = process.memoryUsage();
    const told: Told = {
      number: number++,
      heldBytes: heapUsed + external,
      resources: process.getActiveResourcesInfo(),
    };
    writeFileSync(`${file}.new`, JSON.stringify(told));
    renameSync(`${file}.new`, file);
  };
  process.on('SIGUSR2', tell);
  // Whoever finds this file may ask: the signal would kill a process that does not handle it yet.
  tell();
}

/** From now on it should end by itself; if it does not, the standard error says why. Keeps no process alive. */
export function shouldEnd(): void {
  setTimeout(() => {
    process.stderr.write(`kept alive by ${process.getActiveResourcesInfo().join(', ')}\n`);
  }, LATE_MS).unref();
}
