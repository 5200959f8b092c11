/** The option `runtimePool`: how many runtimes there are to be, and what starts and ends them. */

import type { NatsOptions } from './bus/nats.ts';
import { systemClock } from './clock.ts';
import { invalidArgument } from './errors.ts';
import { natsOptions } from './natssource.ts';
import { type ResolvedSystemOptions, resolveRuntimePool } from './options.ts';
import { LocalRuntimes } from './provision/processes.ts';
import type { Provisioner } from './provision/provisioner.ts';
import type { Autoscaling } from './session/autoscale.ts';
import type { CreateSystemOptions } from './system.ts';

/** A pool that is kept, until it is closed. */
export interface PoolKeeping {
  readonly autoscaling: Autoscaling;
  /** Drains the runtimes that were started here; a provisioner of the user's own is left alone. */
  close(): Promise<void>;
}

/** Undefined where nobody asked for it. */
export function autoscalingOf({ runtimePool, provisioner = 'local', nats }: CreateSystemOptions) {
  if (runtimePool === undefined || nats === undefined) return undefined;
  const pool = resolveRuntimePool(runtimePool, 'options.runtimePool');
  return {
    /** Throws INVALID_ARGUMENT naming the option. */
    check: (): void => {
      if (provisioner === 'local') environmentOf(natsOptions(nats));
      else if (typeof provisioner?.start !== 'function')
        throw invalidArgument('options.provisioner', "must be 'local' or a provisioner");
    },
    keep: (settings: ResolvedSystemOptions): PoolKeeping => {
      const own = provisioner === 'local' ? localRuntimes(natsOptions(nats), settings) : undefined;
      const autoscaling = { pool, provisioner: own ?? (provisioner as Provisioner) };
      return { autoscaling, close: async () => own?.close() };
    },
  };
}

function localRuntimes(nats: NatsOptions, settings: ResolvedSystemOptions): Provisioner {
  const { url, env } = environmentOf(nats);
  const { namespace, drainGraceMs, pool } = settings;
  return new LocalRuntimes({
    clock: systemClock,
    natsUrl: url,
    namespace,
    poolSize: pool.poolSize,
    drainGraceMs,
    env,
  });
}

/** What the processes are given of our way to NATS. Throws INVALID_ARGUMENT where it cannot be handed on. */
function environmentOf(nats: NatsOptions): { readonly url: string; readonly env: Record<string, string> } {
  if (!('servers' in nats) || nats.servers === undefined)
    throw invalidArgument(
      'options.provisioner',
      "'local' needs the urls of the NATS servers, not a connection",
    );
  if (nats.credentials !== undefined || nats.nkey !== undefined)
    throw invalidArgument(
      'options.provisioner',
      "'local' cannot give each runtime an identity of its own: with credentials, bring a provisioner that does",
    );
  const { servers, user, password, token, tls } = nats;
  const files = typeof tls === 'object' ? tls : {};
  const given = {
    ENCLAVE_NATS_USER: user,
    ENCLAVE_NATS_PASSWORD: password,
    ENCLAVE_NATS_TOKEN: token,
    ENCLAVE_NATS_CA: files.caFile,
    ENCLAVE_NATS_CERT: files.certFile,
    ENCLAVE_NATS_KEY: files.keyFile,
  };
  const env = Object.entries(given).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return { url: typeof servers === 'string' ? servers : servers.join(','), env: Object.fromEntries(env) };
}
