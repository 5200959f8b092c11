/** What the words of the command line and of the environment stand for. Each throws INVALID_ARGUMENT naming `key`. */
import { readFileSync } from 'node:fs';
import { isRecord } from '../arguments.ts';
import type { RedisSource } from '../backends.ts';
import { fromEnv } from '../env.ts';
import { invalidArgument } from '../errors.ts';
import { type RoutingOptions, resolveRouting } from '../routing.ts';

/** One of some words. */
export const wordOf =
  <T extends string>(...words: readonly T[]) =>
  (text: string, key: string): T => {
    const found = words.find((word) => word === text);
    if (found === undefined) throw invalidArgument(key, `must be one of ${words.join(', ')}, not ${text}`);
    return found;
  };

/** JSON, or `@file` with JSON in it. */
export function jsonOf(text: string, key: string): unknown {
  const json = text.startsWith('@') ? fileOf(text.slice(1), key) : text;
  try {
    return JSON.parse(json);
  } catch (error) {
    throw invalidArgument(key, text.startsWith('@') ? `${text.slice(1)} is not JSON` : 'is not JSON', error);
  }
}

function fileOf(file: string, key: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw invalidArgument(key, `${file} cannot be read: ${(error as Error).message}`, error);
  }
}

/** A JSON object, or `@file` with one in it: options, which are checked where they are used. */
export function objectOf(text: string, key: string): Readonly<Record<string, unknown>> {
  const value = jsonOf(text, key);
  if (!isRecord(value)) throw invalidArgument(key, 'must be a JSON object');
  return value;
}

const ROUTING_NAMES = { strategy: 'routingStrategy', rules: 'routingRules' } as const;

/** `{ strategy, rules }`, or the same by the names that they have in code. */
export function routingOf(text: string, key: string): RoutingOptions {
  const given = objectOf(text, key);
  const known = Object.entries(ROUTING_NAMES).flat();
  for (const name of Object.keys(given))
    if (!known.includes(name))
      throw invalidArgument(
        `${key}.${name}`,
        `unknown; it has strategy and rules, or ${Object.values(ROUTING_NAMES).join(' and ')}`,
      );
  for (const [short, long] of Object.entries(ROUTING_NAMES))
    if (given[short] !== undefined && given[long] !== undefined)
      throw invalidArgument(`${key}.${short}`, `is the same as ${long}: give one of them`);
  const { strategy, rules } = resolveRouting({
    routingStrategy: given.routingStrategy ?? given.strategy,
    routingRules: given.routingRules ?? given.rules,
  });
  return { routingStrategy: strategy, routingRules: rules };
}

// ---- Redis -----------------------------------------------------------------------------------------------

const DEFAULT_REDIS_PORT = 6379;
const DEFAULT_SENTINEL_PORT = 26_379;

/**
 * Where Redis is: one url, nodes of a Cluster as urls separated by commas, or
 * `redis+sentinel://sentinel,sentinel/name-of-the-master`. No error repeats a url: it may hold a password.
 */
export function redisOf(text: string, key: string): RedisSource {
  const sentinel = /^(rediss?)\+sentinel:\/\/([^/?#]*)(.*)$/s.exec(text);
  if (sentinel !== null) {
    const [, scheme = '', hosts = '', rest = ''] = sentinel;
    return bySentinel(scheme, hosts, rest, key);
  }
  const urls = redisUrls(text, key);
  const [first] = urls;
  if (first === undefined) throw invalidArgument(key, 'names no server');
  const password = fromEnv('ENCLAVE_REDIS_PASSWORD');
  for (const url of urls) if (password !== undefined && url.password === '') url.password = password;
  if (urls.length === 1) return first.href;
  for (const url of urls) {
    if (url.protocol !== first.protocol)
      throw invalidArgument(
        key,
        'has redis:// and rediss:// among the nodes of one Cluster: some would be spoken to in the clear',
      );
    if (url.username !== first.username || url.password !== first.password)
      throw invalidArgument(key, 'has several users: the nodes of a Cluster have one');
    if (!['', '/', '/0'].includes(url.pathname) || url.search !== '' || url.hash !== '')
      throw invalidArgument(key, 'may say no more of a node of a Cluster than where it is and who we are');
  }
  return {
    cluster: urls.map((url) => placeOf(url, DEFAULT_REDIS_PORT)),
    ...loginOf(first),
    ...(first.protocol === 'rediss:' ? { redisOptions: { tls: {} } } : {}),
  };
}

/** One that names no scheme has that of the first. */
function redisUrls(text: string, key: string): readonly URL[] {
  const [, scheme = 'redis'] = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text) ?? [];
  return text
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '')
    .map((each) => urlOf(each.includes('://') ? each : `${scheme}://${each}`, key));
}

function urlOf(text: string, key: string): URL {
  if (!URL.canParse(text)) throw invalidArgument(key, 'has something that is no url');
  const url = new URL(text);
  if (!['redis:', 'rediss:'].includes(url.protocol))
    throw invalidArgument(
      key,
      'a url must begin with redis://, rediss://, redis+sentinel:// or rediss+sentinel://',
    );
  return url;
}

function bySentinel(scheme: string, hosts: string, rest: string, key: string): RedisSource {
  const at = hosts.lastIndexOf('@');
  const [login, names] = at < 0 ? ['', hosts] : [hosts.slice(0, at + 1), hosts.slice(at + 1)];
  const sentinels = names
    .split(',')
    .filter((each) => each !== '')
    .map((each) => placeOf(urlOf(`redis://${each}`, key), DEFAULT_SENTINEL_PORT));
  const [, name = '', db] = /^\/([^/?#]+)(?:\/(\d+))?\/?$/.exec(rest) ?? [];
  if (sentinels.length === 0 || name === '')
    throw invalidArgument(key, 'must be redis+sentinel://sentinel,sentinel/name-of-the-master');
  const { username, password = fromEnv('ENCLAVE_REDIS_PASSWORD') } = loginOf(urlOf(`redis://${login}x`, key));
  return {
    sentinels,
    name: decodeURIComponent(name),
    ...(db === undefined ? {} : { db: Number(db) }),
    username,
    password,
    sentinelPassword: fromEnv('ENCLAVE_REDIS_SENTINEL_PASSWORD'),
    // The first is for the master, the second for the sentinels.
    ...(scheme === 'rediss' ? { tls: {}, enableTLSForSentinelMode: true, sentinelTLS: {} } : {}),
  };
}

function placeOf(
  { hostname, port }: URL,
  standard: number,
): { readonly host: string; readonly port: number } {
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? standard : Number(port) };
}

function loginOf({ username, password }: URL) {
  return {
    username: username === '' ? undefined : decodeURIComponent(username),
    password: password === '' ? undefined : decodeURIComponent(password),
  };
}
