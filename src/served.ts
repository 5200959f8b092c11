/** A system that is started on demand, and the endpoints that tell of it. */
import type { Registry } from 'prom-client';
import { EnclaveError } from './errors.ts';
import { type HealthServer, serveHealth } from './ops/health.ts';
import type { System } from './system.ts';

export class Served {
  readonly #create: (signal: AbortSignal) => Promise<System>;
  readonly #registry: Registry | undefined;
  readonly #abandoned = new AbortController();
  #starting: Promise<System> | undefined;
  #system: System | undefined;
  #health: HealthServer | undefined;
  #leaving: Promise<void> | undefined;

  /** @param create Rejects soon once its signal is aborted. */
  constructor(create: (signal: AbortSignal) => Promise<System>, registry: Registry | undefined) {
    this.#create = create;
    this.#registry = registry;
  }

  /** Safe to call again; after a failure it tries again. */
  start(): Promise<System> {
    if (this.#leaving !== undefined) return Promise.reject(new EnclaveError('CLOSED', 'It was closed'));
    this.#starting ??= this.#create(this.#abandoned.signal).then(
      (system) => {
        this.#system = system;
        return system;
      },
      (error: unknown) => {
        this.#starting = undefined;
        throw error;
      },
    );
    return this.#starting;
  }

  /** The endpoints are there before it has started, so that a probe sees that it is starting. */
  async listen(port: number, host: string | undefined): Promise<number> {
    const registry = this.#registry;
    this.#health ??= await serveHealth({
      port,
      host,
      started: () => this.#system !== undefined,
      checks: () => this.#system?.checks() ?? { started: false },
      metrics:
        registry === undefined
          ? undefined
          : async () => ({ contentType: registry.contentType, text: await registry.metrics() }),
    });
    await this.start();
    return this.#health.port;
  }

  async drain(): Promise<void> {
    await this.#system?.drain();
    await this.close();
  }

  close(): Promise<void> {
    this.#leaving ??= (async () => {
      if (this.#system === undefined) this.#abandoned.abort();
      const system = await this.#starting?.catch(() => undefined);
      await system?.close();
      await this.#health?.close();
    })();
    return this.#leaving;
  }
}
