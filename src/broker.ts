/** A broker as a process of its own: `createSystem` with the role `broker`, and the endpoints that an operator asks. */
import { checkKeys } from './arguments.ts';
import { DEFAULT_NATS } from './natssource.ts';
import { Served } from './served.ts';
import { type CreateSystemOptions, checkSystemOptions, type System, startSystem } from './system.ts';

/** `nats`: default `nats://127.0.0.1:4222`. */
export interface EnclaveBrokerOptions
  extends Omit<CreateSystemOptions, 'roles' | 'brokers' | 'runtimes' | 'pool' | 'heartbeatIntervalMs'> {
  /** Sessions that do not set `ttlMs` expire after this long without activity, in ms. Default 0, which is never; to 2,592,000,000 (30 days). */
  readonly sessionTimeout?: number | undefined;
}

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
    checkKeys(options, Object.keys(options ?? {}), 'options');
    const { sessionTimeout, nats = DEFAULT_NATS, ...rest } = options;
    const settings: CreateSystemOptions = {
      ...rest,
      nats,
      roles: ['broker'],
      sessionTimeoutMs: sessionTimeout,
    };
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
