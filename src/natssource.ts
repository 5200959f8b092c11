/** The option that says where NATS is. */
import type { NatsOptions } from './bus/nats.ts';
import { invalidArgument } from './errors.ts';

/** Where NATS is looked for if nothing is said. */
export const DEFAULT_NATS = 'nats://127.0.0.1:4222';

/** Where NATS is: a `nats://` or `tls://` url, several of them, or options with credentials. */
export type NatsSource = string | readonly string[] | NatsOptions;

/** The option as it was given, once it is known not to be something else. Throws INVALID_ARGUMENT naming `key`. */
export function natsSource(source: NatsSource, key: string): NatsSource {
  if (typeof source === 'string' && /^https?:/i.test(source))
    throw invalidArgument(key, 'must be a nats:// or tls:// url: there is no gateway for http yet');
  const valid =
    typeof source === 'string' || Array.isArray(source) || (typeof source === 'object' && source !== null);
  if (!valid) throw invalidArgument(key, 'must be a nats:// url, a list of such, or options');
  if (isOptions(source) && 'mayAnswer' in source)
    throw invalidArgument(`${key}.mayAnswer`, 'unknown option; who may be answered is not for a user to say');
  return source;
}

/** NATS by its options or only by its servers. */
export function natsOptions(nats: NatsSource): NatsOptions {
  return isOptions(nats) ? nats : { servers: nats };
}

/** Whoever is told of an error by options of the user's own is told it beside us. */
export function alsoTelling(
  nats: NatsOptions,
  own: (error: unknown, subject: string) => void,
): (error: unknown, subject: string) => void {
  const { onError } = nats;
  if (onError === undefined) return own;
  return (error, subject) => {
    own(error, subject);
    onError(error, subject);
  };
}

function isOptions(nats: NatsSource): nats is NatsOptions {
  return typeof nats === 'object' && !Array.isArray(nats);
}
