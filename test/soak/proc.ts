/** What the kernel tells of a process. Linux only. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { childrenOf } from '../support/processes.ts';

export interface Usage {
  readonly residentBytes: number;
  /** Of its threads so far. */
  readonly cpuMs: number;
  readonly descriptors: number;
  readonly sockets: number;
  readonly children: readonly number[];
}

/** A process that cannot be mistaken for a later one of the same id. */
export interface Identity {
  readonly pid: number;
  /** In ticks since the start of the machine. */
  readonly startedAt: number;
}

const PAGE_BYTES = 4096;
/** Of the times that the kernel tells, on every Linux. */
const TICK_MS = 10;

/** Undefined if there is no such process. */
export function usageOf(pid: number): Usage | undefined {
  try {
    const [, pages = '0'] = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ');
    const fields = statOf(pid);
    const descriptors = readdirSync(`/proc/${pid}/fd`);
    const sockets = descriptors.filter((fd) => linkOf(`/proc/${pid}/fd/${fd}`).startsWith('socket:'));
    return {
      residentBytes: Number(pages) * PAGE_BYTES,
      cpuMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS,
      descriptors: descriptors.length,
      sockets: sockets.length,
      children: childrenOf(pid),
    };
  } catch {
    return undefined;
  }
}

/** Undefined if it has ended; one that nobody has waited for has. */
export function identityOf(pid: number): Identity | undefined {
  try {
    const fields = statOf(pid);
    return fields[0] === 'Z' ? undefined : { pid, startedAt: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

/** What follows its name, which is in brackets and may hold anything. */
function statOf(pid: number): readonly string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

export function isSame({ pid, startedAt }: Identity): boolean {
  return identityOf(pid)?.startedAt === startedAt;
}

function linkOf(file: string): string {
  try {
    return readlinkSync(file);
  } catch {
    return ''; // Closed meanwhile.
  }
}
