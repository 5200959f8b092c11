/**
 * What is looked at when a store opens: whether these servers can do it, and what their settings put at risk.
 */

import type { Clock } from '../../clock.ts';
import { EnclaveError, invalidArgument } from '../../errors.ts';
import type { Link, Node } from './client.ts';
import { Deadlines } from './deadlines.ts';
import type { StoreNotice } from './options.ts';
import { isCredentialError } from './outcome.ts';

/** The first version that has all that the scripts use. */
const LEAST_MAJOR = 7;

/**
 * Wait until the links are connected. Rejects with an EnclaveError: INVALID_ARGUMENT naming `redis` if the
 * server does not accept the credentials, UNAVAILABLE if there is none in time. What the server said is quoted;
 * errors of ioredis are not passed on, for they hold the command that failed, password included.
 */
export async function connected(links: readonly Link[], clock: Clock, timeoutMs: number): Promise<void> {
  let reason = 'nothing answers';
  await new Promise<void>((resolve, reject) => {
    const settle = (): void => {
      cancel();
      for (const link of links) {
        link.onError = () => undefined;
        link.onChange = () => undefined;
      }
    };
    const cancel = clock.after(
      timeoutMs,
      () => {
        settle();
        reject(
          new EnclaveError(
            'UNAVAILABLE',
            `There was no connection to Redis within ${timeoutMs} ms: ${reason}`,
          ),
        );
      },
      true,
    );
    for (const link of links) {
      link.onError = (error) => {
        reason = error.message;
        if (!isCredentialError(error)) return;
        settle();
        reject(invalidArgument('redis', `the server refuses us: ${error.message}`));
      };
      link.onChange = () => {
        if (!links.every((each) => each.connected)) return;
        settle();
        resolve();
      };
      link.connect();
    }
  });
}

/**
 * Rejects with INVALID_ARGUMENT naming `redis` if a server is too old or of the wrong kind. Answers with what
 * puts data at risk.
 */
export async function examine(
  link: Link,
  ack: 'master' | 'replica',
  clock: Clock,
  timeoutMs: number,
): Promise<readonly StoreNotice[]> {
  const deadlines = new Deadlines(clock);
  const endsAt = clock.monotonic() + timeoutMs;
  const within = <T>(answer: Promise<T>): Promise<T> =>
    deadlines.within(answer, endsAt, () => new Error('it took too long'));
  const masters = await mastersOf(link, clock, endsAt);
  const notices = await Promise.all(
    masters.map(async (node) => {
      if (!node.ready) await within(node.change()).catch(unanswered);
      const ask = (command: string, ...args: string[]) => within(node.call(command, args));
      checkServer(await ask('info', 'server').catch(unanswered), link.isCluster);
      return [
        ...(await settings(ask)),
        ...(ack === 'replica'
          ? replicas(node, String(await ask('info', 'replication').catch(unanswered)))
          : []),
      ];
    }),
  );
  return [...new Map(notices.flat().map((notice) => [notice.message, notice])).values()];
}

async function mastersOf(link: Link, clock: Clock, endsAt: number): Promise<readonly Node[]> {
  for (;;) {
    const masters = link.masters();
    if (masters !== undefined) return masters;
    if (clock.monotonic() >= endsAt)
      throw new EnclaveError('UNAVAILABLE', 'The Redis Cluster does not serve all slots');
    link.refresh();
    await new Promise<void>((resolve) => void clock.after(50, resolve, true));
  }
}

type Ask = (command: string, ...args: string[]) => Promise<unknown>;

function checkServer(info: unknown, isCluster: boolean): void {
  const fields = fieldsOf(String(info));
  const version = fields.get('redis_version') ?? 'unknown';
  if (!(Number.parseInt(version, 10) >= LEAST_MAJOR))
    throw invalidArgument('redis', `the server is Redis ${version}; at least ${LEAST_MAJOR}.0 is needed`);
  if (!isCluster && fields.get('redis_mode') === 'cluster')
    throw invalidArgument(
      'redis',
      'the server is part of a Redis Cluster: give its nodes as { cluster: [{ host, port }] }',
    );
}

async function settings(ask: Ask): Promise<readonly StoreNotice[]> {
  let config: ReadonlyMap<string, string>;
  try {
    const [one, other, third] = await Promise.all(
      ['appendonly', 'maxmemory-policy', 'maxmemory'].map((name) => ask('config', 'get', name)),
    );
    config = pairsOf([one, other, third].flat() as string[]);
  } catch {
    return [
      warning(
        'settings',
        'Redis does not show its settings (CONFIG GET), so whether it keeps what it acknowledges was not checked: ' +
          'it should have appendonly yes and maxmemory-policy noeviction.',
      ),
    ];
  }
  const notices: StoreNotice[] = [];
  if (config.get('appendonly') !== 'yes')
    notices.push(
      warning(
        'appendonly',
        'Redis keeps nothing on disk (appendonly is not yes). When its process ends, acknowledged sessions are ' +
          'lost, except what a replica has.',
      ),
    );
  const policy = config.get('maxmemory-policy') ?? 'noeviction';
  if (policy !== 'noeviction' && config.get('maxmemory') !== '0')
    notices.push(
      warning(
        'maxmemory-policy',
        `Redis removes keys when its memory is full (maxmemory-policy is ${policy}): sessions, leases or parts of ` +
          'them. Set it to noeviction; writes are refused then.',
      ),
    );
  return notices;
}

function replicas(node: Node, info: string): readonly StoreNotice[] {
  if (Number(fieldsOf(info).get('connected_slaves')) > 0) return [];
  return [
    warning(
      'replicas',
      `No replica is connected to ${node.address}. With ack 'replica' nothing is acknowledged there ` +
        'until one is.',
    ),
  ];
}

const warning = (about: StoreNotice['about'], message: string): StoreNotice => ({
  type: 'store.warning',
  about,
  message,
});

/** An error of ioredis holds the command that failed. */
function unanswered(error: unknown): never {
  const reason = error instanceof Error ? error.message : String(error);
  if (isCredentialError(error)) throw invalidArgument('redis', `the server refuses us: ${reason}`);
  throw new EnclaveError('UNAVAILABLE', `Redis did not answer: ${reason}`);
}

/** Of an answer to INFO. */
function fieldsOf(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split(/\r?\n/).map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1)] as const;
    }),
  );
}

function pairsOf(texts: readonly string[]): ReadonlyMap<string, string> {
  const pairs = new Map<string, string>();
  for (let at = 0; at + 1 < texts.length; at += 2) pairs.set(texts[at] ?? '', texts[at + 1] ?? '');
  return pairs;
}
