/** A runtime as a process of its own: `createSystem` with the role `runtime`. It knows NATS and nothing else. */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import { checkKeys, isRecord } from './arguments.ts';
import { invalidArgument } from './errors.ts';
import { DEFAULT_NATS, type NatsSource, natsSource } from './natssource.ts';
import type { WorkerPoolOptions } from './options.ts';
import { Served } from './served.ts';
import { startSystem } from './system.ts';
import { type CreateSystemOptions, checkSystemOptions } from './systemoptions.ts';

/** Where NATS is, what its workers are, and which rules find it. Everything has a default. */
export interface EnclaveRuntimeOptions {
  /** The NATS servers that its brokers use: `nats://` or `tls://` urls, or options with credentials. Default `nats://127.0.0.1:4222`. */
  readonly brokerUrl?: NatsSource | undefined;
  /** Its worker processes. `size` and `maxMemory` stand for `poolSize` and `maxWorkerMemory`. */
  readonly workerPool?: RuntimeWorkerPool | undefined;
  /** Between heartbeats, in ms. Default 1,000; 50 to 60,000. */
  readonly heartbeatInterval?: number | undefined;
  /** What routing rules match it by; one that is undefined is left out. Default: none. */
  readonly labels?: Readonly<Record<string, string | undefined>> | undefined;
  /** The tenant boundary. Default: that of the credentials, or `'default'`. */
  readonly namespace?: string | undefined;
  /** Names this runtime: `[A-Za-z0-9_-]{1,60}`; no other process of the namespace may have it. Default: that of the credentials, or a new one. */
  readonly id?: string | undefined;
  /** How long a drain lets scripts go on, in ms. Default 30,000; 0 to 3,600,000. */
  readonly drainGraceMs?: number | undefined;
  /** A pino logger. Default: silent. */
  readonly logger?: Logger | undefined;
  /** A prom-client registry. Default: none. */
  readonly registry?: Registry | undefined;
}

/** A worker pool under the guide's names. */
export interface RuntimeWorkerPool extends Omit<WorkerPoolOptions, 'poolSize' | 'maxWorkerMemory'> {
  /** Worker processes. Default `recommendedPoolSize('mixed')`; 1 to 256. */
  readonly size?: number | undefined;
  /** Resident memory of one, in bytes. Default 256 MiB; 96 MiB to 64 GiB. */
  readonly maxMemory?: number | undefined;
}

const KEYS = [
  'brokerUrl',
  'workerPool',
  'heartbeatInterval',
  'labels',
  'namespace',
  'id',
  'drainGraceMs',
  'logger',
  'registry',
];

/**
 * Runs scripts for the brokers of its namespace, in a worker pool behind a bounded mailbox. It keeps nothing: when it
 * dies, what it ran is replayed elsewhere.
 *
 * The constructor throws an EnclaveError INVALID_ARGUMENT naming the option that is wrong.
 */
export class EnclaveRuntime implements AsyncDisposable {
  readonly #served: Served;

  constructor(options: EnclaveRuntimeOptions = {}) {
    checkKeys(options, KEYS, 'options');
    const { brokerUrl = DEFAULT_NATS, workerPool = {}, heartbeatInterval, labels, ...rest } = options;
    if (typeof workerPool !== 'object' || workerPool === null)
      throw invalidArgument('options.workerPool', 'must be an object');
    const { size, maxMemory, ...pool } = workerPool;
    const settings: CreateSystemOptions = {
      ...rest,
      nats: natsSource(brokerUrl, 'options.brokerUrl'),
      roles: ['runtime'],
      labels: defined(labels),
      pool: { ...pool, poolSize: size, maxWorkerMemory: maxMemory },
      heartbeatIntervalMs: heartbeatInterval,
    };
    checkSystemOptions(settings);
    this.#served = new Served((signal) => startSystem(settings, signal), options.registry);
  }

  /** Join the cluster. Resolves when offers can reach it. Rejects as UNAVAILABLE if no server answers. Safe to call again. */
  async connect(): Promise<void> {
    await this.#served.start();
  }

  /**
   * Join the cluster and serve `/livez`, `/readyz`, `/startupz` and `/metrics`. Resolves to the port.
   * @param port 0 for any that is free.
   */
  listen(port: number, host?: string): Promise<number> {
    return this.#served.listen(port, host);
  }

  /** Take nothing more, let scripts end within the grace, give the rest back, then leave. */
  drain(): Promise<void> {
    return this.#served.drain();
  }

  /** Leave now; what it runs is replayed elsewhere. Safe to call again. */
  close(): Promise<void> {
    return this.#served.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What is not an object is left for the check that says so. */
function defined(labels: EnclaveRuntimeOptions['labels']): Readonly<Record<string, string>> | undefined {
  if (!isRecord(labels)) return labels;
  const given = Object.entries(labels).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return Object.fromEntries(given);
}
