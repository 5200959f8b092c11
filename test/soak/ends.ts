/** After everything was closed: what is still there that should not be. */
import type { ChaosCluster } from '../chaos/cluster.ts';
import { waitUntil } from '../support/processes.ts';
import { monitored, splitLines } from './figures.ts';

/** What each key is for that may stay, by what it looks like; see src/store/redis/keys.ts. */
const STAYS: readonly (readonly [RegExp, string])[] = [
  // A dead incarnation must not come to life again: remembered for 30 days.
  [/^enclave:default:incarnation:[\w-]+$/, 'incarnations'],
  // When those sessions are to be deleted for good.
  [/^enclave:default:(?:wakes|covers):\{wake\d\}$/, 'wakes of closed sessions'],
];

/** How long those who have left may be remembered, in ms. */
const PATIENCE_MS = 10_000;

export interface Left {
  readonly complaints: readonly string[];
  /** Keys that stay as documented, by kind. */
  readonly keys: ReadonlyMap<string, number>;
}

/** `subscriptions`: those that nats-server had before anybody came. */
export async function whatIsLeft(
  { nats, redis }: ChaosCluster,
  kept: ReadonlySet<string>,
  subscriptions: number,
): Promise<Left> {
  const complaints: string[] = [];
  const count = async (page: 'connz' | 'subsz', what: string): Promise<number> =>
    (await monitored(nats.monitorUrl, page))[what] ?? 0;
  // A server learns of the end of a connection a little later than who ended it.
  const isFree = async (): Promise<boolean> =>
    (await count('connz', 'num_connections')) === 0 &&
    (await count('subsz', 'num_subscriptions')) === subscriptions;
  await waitUntil(isFree, 'nats-server is left alone', PATIENCE_MS).catch(async () => {
    const now = await count('subsz', 'num_subscriptions');
    const response = await fetch(`${nats.monitorUrl}/connz?subs=1`, { signal: AbortSignal.timeout(5_000) });
    complaints.push(
      `${now} subscriptions at nats-server, where there were ${subscriptions} at first; its connections: ${await response.text()}`,
    );
  });
  const keys = new Map<string, number>();
  if (redis.kind !== 'standalone') return { complaints, keys };
  const { server } = redis;
  const clients = splitLines(await server.cli('CLIENT', 'LIST')).length - 1; // Who asks.
  if (clients !== 0) complaints.push(`${clients} clients at Redis`);
  for (const key of splitLines(await server.cli('KEYS', '*'))) {
    const what = kindOf(key, kept);
    if (what === undefined) complaints.push(`the key ${key} in Redis`);
    else keys.set(what, (keys.get(what) ?? 0) + 1);
  }
  for (const part of Array.from({ length: 8 }, (_, index) => index)) {
    const sessions = splitLines(await server.cli('ZRANGE', `enclave:default:wakes:{wake${part}}`, '0', '-1'));
    for (const session of sessions)
      if (!kept.has(session)) complaints.push(`a wake of session ${session}, which is no more`);
  }
  return { complaints, keys };
}

function kindOf(key: string, kept: ReadonlySet<string>): string | undefined {
  const session = /^enclave:default:session:\{([\w-]+)\}/.exec(key)?.[1];
  if (session !== undefined) return kept.has(session) ? 'of closed sessions' : undefined;
  return STAYS.find(([pattern]) => pattern.test(key))?.[1];
}
