/**
 * The host's side of the guest's `URL`: Node's own parser behind text in and text out.
 *
 * The request comes from a process-mate that may be hostile, so it is capped, checked field by field, and
 * whatever is wrong with it has the one answer `{"ok":false}`.
 */
import type { UrlAnswer, UrlKey } from './host.ts';

/** Longest request, in UTF-16 units. */
const MAX_URL_REQUEST = 65_536;

const REFUSED = '{"ok":false}';

const KEYS: ReadonlySet<unknown> = new Set<UrlKey>([
  'href',
  'protocol',
  'username',
  'password',
  'host',
  'hostname',
  'port',
  'pathname',
  'search',
  'hash',
]);

/**
 * Answer one request of the guest: JSON of a `UrlRequest` in, JSON of a `UrlAnswer` out. Never throws. A
 * request over 65,536 UTF-16 units, one that is malformed and a URL that does not parse are all `{"ok":false}`.
 */
export function urlHost(request: string): string {
  if (typeof request !== 'string' || request.length > MAX_URL_REQUEST) return REFUSED;
  try {
    const url = locate(JSON.parse(request));
    return url === undefined ? REFUSED : JSON.stringify(partsOf(url));
  } catch {
    return REFUSED;
  }
}

/** The URL that a request asks for, or undefined where the request is malformed. Throws if it does not parse. */
function locate(request: unknown): URL | undefined {
  if (typeof request !== 'object' || request === null) return undefined;
  const { op, href, base, key, value } = request as Readonly<Record<string, unknown>>;
  if (typeof href !== 'string') return undefined;
  if (op === 'parse') {
    if (base !== undefined && typeof base !== 'string') return undefined;
    return new URL(href, base);
  }
  if (op !== 'set' || !KEYS.has(key) || typeof value !== 'string') return undefined;
  const url = new URL(href);
  url[key as UrlKey] = value;
  return url;
}

function partsOf(url: URL): UrlAnswer {
  const { href, origin, protocol, username, password, host, hostname, port, pathname, search, hash } = url;
  return {
    ok: true,
    href,
    origin,
    protocol,
    username,
    password,
    host,
    hostname,
    port,
    pathname,
    search,
    hash,
  };
}
