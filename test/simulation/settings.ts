/** How large a world is, and how patient: drawn from the seed. Times are short, so that much happens in little time. */
import type { BrokerOptions } from '../../src/session/broker.ts';
import type { SessionPlan } from './clients.ts';
import type { Random } from './random.ts';

export interface Settings {
  readonly brokers: number;
  readonly runtimes: number;
  readonly providers: number;
  readonly clients: number;
  /** Brokers provide tools themselves, too. */
  readonly shared: boolean;
  readonly slowSoon: boolean;
  /** Chance per step that a client does something. */
  readonly act: number;
  readonly capacity: number;
  readonly skewMs: number;
  readonly maxEvents: number;
  readonly plans: readonly SessionPlan[];
  readonly broker: Pick<BrokerOptions, 'leaseTtlMs' | 'hibernateAfterMs' | 'scanMs' | 'settings'>;
}

export function drawSettings(random: Random): Settings {
  const small = random.chance(0.3);
  const plans = Array.from({ length: random.between(1, 4) }, (_, index) => ({
    id: `s${index + 1}`,
    executions: random.between(1, 5),
    maxConcurrentExecutions: random.pick([1, 1, 2, 3]),
    ttlMs: random.chance(0.1) ? 3_000 : 0,
  }));
  return {
    brokers: random.between(2, 3),
    runtimes: random.between(1, 3),
    providers: random.between(1, 2),
    clients: random.between(2, 3),
    shared: random.chance(0.3),
    slowSoon: random.chance(0.5),
    act: random.pick([0.03, 0.06, 0.12]),
    capacity: random.pick([1, 2, 8]),
    skewMs: random.chance(0.3) ? 50 : 0,
    maxEvents: random.chance(0.3) ? random.between(4, 20) : 10_000,
    plans,
    broker: {
      leaseTtlMs: random.pick([600, 1_000, 2_000]),
      hibernateAfterMs: random.pick([200, 500, 5_000]),
      scanMs: 200,
      settings: {
        parkAfterMs: random.pick([500, 2_000]),
        keepExecutions: small ? random.between(1, 2) : 32,
        maxExecutions: random.chance(0.2) ? 2 : 100,
      },
    },
  };
}
