/**
 * What goes to and fro for a request: messages that NATS takes in, commands that Redis carries out, and the calls to
 * the system that write. Most of the CPU of so small requests is the price of these.
 */
import { readFileSync } from 'node:fs';
import type { NatsServer } from '../../support/nats.ts';
import type { RedisServer } from '../../support/redis.ts';
import { type CpuRole, mapRoles, type Processes, ROLES } from './cpu.ts';

export interface Traffic {
  readonly natsMessages: number;
  readonly natsBytes: number;
  readonly redisCommands: number;
  readonly redisBytes: number;
  /** Calls that write to a socket or a file, by role; the workers' are not the parent's to read. */
  readonly writes: Readonly<Record<CpuRole, number>>;
}

/** The servers whose traffic is counted, if a way uses them. */
export interface Counted {
  readonly nats?: NatsServer | undefined;
  readonly redis?: RedisServer | undefined;
}

/** Everything since the processes began. */
export async function readTraffic({ nats, redis }: Counted, processes: Processes): Promise<Traffic> {
  const [messages, bytes] = nats === undefined ? [0, 0] : await natsCounts(nats);
  const [commands, input] = redis === undefined ? [0, 0] : await redisCounts(redis);
  return {
    natsMessages: messages,
    natsBytes: bytes,
    redisCommands: commands,
    redisBytes: input,
    writes: mapRoles((role) =>
      (role === 'client' ? [process.pid] : (processes[role] ?? [])).reduce(
        (all, pid) => all + writesOf(pid),
        0,
      ),
    ),
  };
}

/** What came between the readings, of all pairs together, per request. */
export function perRequest(
  pairs: readonly { readonly before: Traffic; readonly after: Traffic }[],
  requests: number,
): Traffic {
  const each = (of: (traffic: Traffic) => number): number =>
    pairs.reduce((all, { before, after }) => all + of(after) - of(before), 0) / requests;
  return {
    natsMessages: each((traffic) => traffic.natsMessages),
    natsBytes: each((traffic) => traffic.natsBytes),
    redisCommands: each((traffic) => traffic.redisCommands),
    redisBytes: each((traffic) => traffic.redisBytes),
    writes: Object.fromEntries(
      ROLES.map((role) => [role, each((traffic) => traffic.writes[role])]),
    ) as unknown as Traffic['writes'],
  };
}

async function natsCounts({ monitorUrl }: NatsServer): Promise<readonly [number, number]> {
  const response = await fetch(`${monitorUrl}/varz`);
  const { in_msgs, in_bytes } = (await response.json()) as {
    readonly in_msgs: number;
    readonly in_bytes: number;
  };
  return [in_msgs, in_bytes];
}

async function redisCounts(redis: RedisServer): Promise<readonly [number, number]> {
  const text = await redis.cli('INFO', 'stats');
  const field = (name: string): number => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  // Those of scripts are counted too.
  return [field('total_commands_processed'), field('total_net_input_bytes')];
}

function writesOf(pid: number): number {
  try {
    return Number(/^syscw: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
