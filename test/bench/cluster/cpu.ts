/**
 * CPU seconds of processes, from the kernel's own accounts (Linux only; elsewhere nothing is known).
 *
 * A worker that was replaced meanwhile is in the account of the runtime that waited for it: nothing is missed.
 */
import { readFileSync } from 'node:fs';
import { childrenOf } from '../../support/processes.ts';

export const ROLES = ['client', 'nats', 'redis', 'replica', 'broker', 'runtimes', 'workers'] as const;
export type CpuRole = (typeof ROLES)[number];

/** CPU seconds by role. */
export type Cpu = Readonly<Record<CpuRole, number>>;

/** Which processes serve a way. Runtimes bring their workers, their children; the client is this process. */
export type Processes = Readonly<Partial<Record<Exclude<CpuRole, 'client'>, readonly number[]>>>;

const TICKS_PER_SECOND = 100;

/** CPU seconds of each role since its processes began. */
export function readCpu(processes: Processes): Cpu {
  const { user, system } = process.cpuUsage();
  const runtimes = processes.runtimes ?? [];
  const children = runtimes.flatMap(childrenOf);
  return {
    client: (user + system) / 1e6,
    nats: own(processes.nats),
    redis: own(processes.redis),
    replica: own(processes.replica),
    broker: own(processes.broker),
    runtimes: own(runtimes),
    workers: own(processes.workers) + own(children) + sum(runtimes.map((pid) => timesOf(pid).waitedFor)),
  };
}

/** What was used between two readings. */
export function used(before: Cpu, after: Cpu): Cpu {
  return mapRoles((role) => after[role] - before[role]);
}

/** All of these together, times a factor. */
export function total(all: readonly Cpu[], factor = 1): Cpu {
  return mapRoles((role) => sum(all.map((one) => one[role])) * factor);
}

export function mapRoles(value: (role: CpuRole) => number): Cpu {
  return Object.fromEntries(ROLES.map((role) => [role, value(role)])) as unknown as Cpu;
}

export const sum = (values: readonly number[]): number => values.reduce((all, value) => all + value, 0);

function own(pids: readonly number[] = []): number {
  return sum(pids.map((pid) => timesOf(pid).own));
}

function timesOf(pid: number): { readonly own: number; readonly waitedFor: number } {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name, in brackets, may hold anything.
    const fields = text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    const [utime = 0, stime = 0, cutime = 0, cstime = 0] = fields.slice(11, 15);
    return { own: (utime + stime) / TICKS_PER_SECOND, waitedFor: (cutime + cstime) / TICKS_PER_SECOND };
  } catch {
    return { own: 0, waitedFor: 0 };
  }
}
