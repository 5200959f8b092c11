/** The options `runtimePool` and `provisioner`: how many runtimes there are to be, and what starts and ends them. */

import type { NatsOptions } from './bus/nats.ts';
import { systemClock } from './clock.ts';
import { invalidArgument } from './errors.ts';
import { type NatsSource, natsOptions } from './natssource.ts';
import {
  type ResolvedSystemOptions,
  type RuntimePoolOptions,
  resolveRuntimePool,
  type WorkerPoolOptions,
} from './options.ts';
import { checkHanded, LocalRuntimes } from './provision/processes.ts';
import type { Provisioner } from './provision/provisioner.ts';
import type { Autoscaling } from './session/autoscale.ts';

export interface AutoscalingOptions {
  /** Keep so many runtimes: one broker of several decides, and has them started and drained. Default: others do. Needs `nats` and the role `broker`. */
  readonly runtimePool?: RuntimePoolOptions | undefined;
  /** What starts and ends the runtimes of `runtimePool`: `'local'` for processes of this machine, or your own. Default `'local'`. */
  readonly provisioner?: 'local' | Provisioner | undefined;
}

/** A pool that is kept, until it is closed. */
export interface PoolKeeping {
  readonly autoscaling: Autoscaling;
  /** Drains the runtimes that were started here; a provisioner of the user's own is left alone. */
  close(): Promise<void>;
}

/** Undefined where nobody asked for it. */
export function autoscalingOf({
  runtimePool,
  provisioner = 'local',
  nats,
}: AutoscalingOptions & { readonly nats?: NatsSource | undefined }) {
  if (runtimePool === undefined || nats === undefined) return undefined;
  const pool = resolveRuntimePool(runtimePool, 'options.runtimePool');
  const { labels } = runtimePool;
  return {
    /** Throws INVALID_ARGUMENT naming the option. */
    check: (): void => {
      if (provisioner === 'local') {
        checkHanded(labels, 'options.runtimePool.labels');
        environmentOf(natsOptions(nats));
        return;
      }
      if (typeof provisioner?.start !== 'function')
        throw invalidArgument('options.provisioner', "must be 'local' or a provisioner");
      if (labels !== undefined)
        throw invalidArgument(
          'options.runtimePool.labels',
          'are those of the provisioner, which has its own',
        );
    },
    keep: (settings: ResolvedSystemOptions): PoolKeeping => {
      if (provisioner !== 'local')
        return { autoscaling: { pool, provisioner }, close: () => Promise.resolve() };
      const own = localRuntimes(natsOptions(nats), labels, settings);
      return { autoscaling: { pool, provisioner: own }, close: () => own.close() };
    },
  };
}

/** Runtimes as this process would host them, as processes of their own. */
function localRuntimes(
  nats: NatsOptions,
  labels: RuntimePoolOptions['labels'],
  settings: ResolvedSystemOptions,
): Provisioner {
  const { url, env } = environmentOf(nats);
  const { namespace, drainGraceMs, heartbeatIntervalMs, pool } = settings;
  return new LocalRuntimes({
    clock: systemClock,
    natsUrl: url,
    namespace,
    labels,
    poolSize: pool.poolSize,
    drainGraceMs,
    env: { ...env, ...workersOf(pool), ENCLAVE_HEARTBEAT_MS: String(heartbeatIntervalMs) },
  });
}

/** What the processes are told of their workers beside how many they are. */
function workersOf({ poolSize: _, maxWorkerMemory, ...others }: WorkerPoolOptions): Record<string, string> {
  return given({
    ENCLAVE_MAX_WORKER_MEMORY: maxWorkerMemory === undefined ? undefined : String(maxWorkerMemory),
    ENCLAVE_WORKER_POOL: Object.values(others).some((value) => value !== undefined)
      ? JSON.stringify(others)
      : undefined,
  });
}

/** What the processes are given of our way to NATS. Throws INVALID_ARGUMENT where it cannot be handed on. */
function environmentOf(nats: NatsOptions): { readonly url: string; readonly env: Record<string, string> } {
  const { servers, user, password, token, tls, inboxPrefix } = nats;
  if (servers === undefined)
    throw invalidArgument(
      'options.provisioner',
      "'local' needs the urls of the NATS servers, not a connection",
    );
  if (nats.credentials !== undefined || nats.nkey !== undefined)
    throw invalidArgument(
      'options.provisioner',
      "'local' cannot give each runtime an identity of its own: with credentials, bring a provisioner that does",
    );
  const files = typeof tls === 'object' ? tls : {};
  const env = given({
    ENCLAVE_NATS_USER: user,
    ENCLAVE_NATS_PASSWORD: password,
    ENCLAVE_NATS_TOKEN: token,
    ENCLAVE_NATS_TLS: tls === undefined ? undefined : '1',
    ENCLAVE_NATS_CA: files.caFile,
    ENCLAVE_NATS_CERT: files.certFile,
    ENCLAVE_NATS_KEY: files.keyFile,
    ENCLAVE_NATS_INBOX_PREFIX: inboxPrefix,
  });
  return { url: typeof servers === 'string' ? servers : servers.join(','), env };
}

/** Without what is undefined. */
function given(variables: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const entries = Object.entries(variables);
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => entry[1] !== undefined));
}
