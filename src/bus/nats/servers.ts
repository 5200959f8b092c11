/**
 * Where the servers are and who we are, from urls: `nats://user:password@host:port,host2` and `tls://…`.
 *
 * No message made here repeats a url: it may hold a secret, and where that ends is just what a broken one does not
 * tell.
 */
import { invalidArgument } from '../../errors.ts';

export interface Servers {
  /** `host:port`; never with a secret. */
  readonly hosts: readonly string[];
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly token: string | undefined;
  /** One of the urls is `tls://`. */
  readonly tls: boolean;
}

interface Login {
  readonly user?: string;
  readonly password?: string;
  readonly token?: string;
}

const DEFAULT_PORT = 4222;
const MAX_PORT = 65_535;
const URL = /^(?:([a-z][a-z0-9+.-]*):\/\/)?([^/?#]*)\/?$/i;
const HOST = /^(\[[0-9a-f:.]+\]|[^\s:@[\]]+)(?::(\d{1,5}))?$/i;

/** Throws INVALID_ARGUMENT, naming `key` and the place in the list. */
export function parseServers(servers: string | readonly string[], key: string): Servers {
  const urls = (typeof servers === 'string' ? [servers] : servers).flatMap((each) => listOf(each, key));
  if (urls.length === 0) throw invalidArgument(key, 'names no server');
  let login: Login = {};
  let tls = false;
  const hosts = urls.map((url, index) => {
    const place = urls.length === 1 ? key : `${key}[${index}]`;
    const parsed = parse(url, place);
    tls ||= parsed.tls;
    if (parsed.login !== undefined) {
      if (
        index > 0 &&
        JSON.stringify(login) !== JSON.stringify(parsed.login) &&
        Object.keys(login).length > 0
      )
        throw invalidArgument(place, 'has other credentials than the servers before it');
      login = parsed.login;
    }
    return parsed.host;
  });
  return { hosts, user: login.user, password: login.password, token: login.token, tls };
}

function listOf(servers: unknown, key: string): readonly string[] {
  if (typeof servers !== 'string') throw invalidArgument(key, 'must be a url, or a list of urls');
  return servers
    .split(',')
    .map((url) => url.trim())
    .filter((url) => url !== '');
}

function parse(url: string, key: string) {
  const [, scheme = 'nats', authority = ''] = URL.exec(url) ?? [];
  if (!/^(?:nats|tls)$/i.test(scheme))
    throw invalidArgument(key, `must begin with nats:// or tls://, not with ${scheme}://`);
  const at = authority.lastIndexOf('@');
  const [, host, digits] = HOST.exec(authority.slice(at + 1)) ?? [];
  const port = Number(digits ?? DEFAULT_PORT);
  if (host === undefined || port < 1 || port > MAX_PORT)
    throw invalidArgument(
      key,
      'is not a url like nats://user:password@host:port (what is special in a password is written as %xx)',
    );
  return {
    host: `${host}:${port}`,
    tls: scheme.toLowerCase() === 'tls',
    login: at === -1 ? undefined : loginOf(authority.slice(0, at), key),
  };
}

/** `user:password`, or a token. */
function loginOf(text: string, key: string): Login {
  const colon = text.indexOf(':');
  try {
    if (colon === -1) return { token: decodeURIComponent(text) };
    return {
      user: decodeURIComponent(text.slice(0, colon)),
      password: decodeURIComponent(text.slice(colon + 1)),
    };
  } catch {
    throw invalidArgument(key, 'has credentials that are not encoded as those of a url');
  }
}
