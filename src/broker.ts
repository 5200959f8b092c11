/** A broker as a process of its own: `createSystem` with the role `broker`, and the endpoints that an operator asks. */
import { checkKeys } from './arguments.ts';
import type { RedisSource } from './backends.ts';
import { invalidArgument } from './errors.ts';
import { DEFAULT_NATS, type NatsSource } from './natssource.ts';
import type { RuntimePoolOptions, WorkerPoolOptions } from './options.ts';
import { Served } from './served.ts';
import { type System, startSystem } from './system.ts';
import { type CreateSystemOptions, checkSystemOptions, SYSTEM_KEYS } from './systemoptions.ts';

/** What a broker is given: the servers, its tools, and how it owns, places and limits. */
export interface EnclaveBrokerOptions
  extends Omit<CreateSystemOptions, 'roles' | 'brokers' | 'runtimes' | 'labels'> {
  /** The NATS servers: urls, or options with credentials. Default `nats://127.0.0.1:4222`. */
  readonly nats?: NatsSource | undefined;
  /** Where sessions are kept: a `redis://` or `rediss://` url, the options of an ioredis client, or a client of your own. */
  readonly redis: RedisSource;
  /** What an acknowledged write has reached: `'master'`, or one `'replica'` of it too. Default `'master'`. See README, "What is guaranteed". */
  readonly ack?: 'master' | 'replica' | undefined;
  /** Begins every key in Redis; without braces. Default `enclave:<namespace>:`. */
  readonly keyPrefix?: string | undefined;
  /** Names this broker: `[A-Za-z0-9_-]{1,60}`; no other process of the namespace may have it. Default: that of the credentials, or a new one. */
  readonly id?: string | undefined;
  /** Keep so many runtimes: one broker of several decides, and has them started and drained. Default: others do. */
  readonly runtimePool?: RuntimePoolOptions | undefined;
  /** The worker pool of each runtime that `runtimePool` starts on this machine; only with those. Default: `poolSize` is `recommendedPoolSize('mixed')`. */
  readonly pool?: WorkerPoolOptions | undefined;
  /** Between the heartbeats of the runtimes that `runtimePool` starts on this machine, in ms; only with those. Default 1,000; 50 to 60,000. */
  readonly heartbeatIntervalMs?: number | undefined;
  /** The same as `sessionTimeoutMs`; not both. Sessions that do not set `ttlMs` expire after this long without activity, in ms. Default 0, which is never; to 2,592,000,000 (30 days). */
  readonly sessionTimeout?: number | undefined;
}

const NOT_ITS_OWN = ['roles', 'brokers', 'runtimes', 'labels'];
const KEYS = [...SYSTEM_KEYS.filter((key) => !NOT_ITS_OWN.includes(key)), 'sessionTimeout'];

/** The port that the endpoints have if none is named. */
export const DEFAULT_BROKER_PORT = 3001;

/**
 * Owns sessions, places their scripts on runtimes, provides tools. Any number of brokers share a namespace; each can
 * take over what another one owned.
 *
 * The constructor throws an EnclaveError INVALID_ARGUMENT naming the option that is wrong.
 */
export class EnclaveBroker implements AsyncDisposable {
  readonly #served: Served;

  constructor(options: EnclaveBrokerOptions) {
    checkKeys(options, KEYS, 'options');
    const { sessionTimeout, sessionTimeoutMs = sessionTimeout, nats = DEFAULT_NATS, ...rest } = options;
    if (sessionTimeout !== undefined && options.sessionTimeoutMs !== undefined)
      throw invalidArgument('options.sessionTimeout', 'is the same as sessionTimeoutMs: give one of them');
    const settings: CreateSystemOptions = { ...rest, nats, roles: ['broker'], sessionTimeoutMs };
    checkSystemOptions(settings);
    this.#served = new Served((signal) => startSystem(settings, signal), options.registry);
  }

  /** Join the cluster. Resolves to the system that this broker is part of. Rejects as `createSystem` does. Safe to call again. */
  start(): Promise<System> {
    return this.#served.start();
  }

  /**
   * Join the cluster and serve `/livez`, `/readyz`, `/startupz` and `/metrics`. Resolves to the port, once sessions
   * can be made. Rejects with an EnclaveError, or the system's error if the port cannot be had.
   * @param port 0 for any that is free. Default 3001.
   */
  listen(port = DEFAULT_BROKER_PORT, host?: string): Promise<number> {
    return this.#served.listen(port, host);
  }

  /** Take nothing new, hand every session over, wait for handlers, then leave. Resolves when the process can exit. */
  drain(): Promise<void> {
    return this.#served.drain();
  }

  /** Leave now. Others take its sessions over. Safe to call again. */
  close(): Promise<void> {
    return this.#served.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
