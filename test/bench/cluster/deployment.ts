/** A cluster of pods in a namespace of its own, and a client of it in this process. */
import path from 'node:path';
import type { EnclaveClient as Client } from '../../../src/index.ts';
import { type Pod, startBrokerPod, startRuntimePod } from '../../support/pods.ts';
import { waitUntil } from '../../support/processes.ts';
import { CLI, EnclaveClient } from './built.ts';
import type { Processes } from './cpu.ts';
import { TOOLS } from './podtools.ts';

export interface ClusterOptions {
  readonly nats: string;
  readonly redis: string;
  readonly namespace: string;
  /** Default 1. */
  readonly brokers?: number;
  /** Default 3. */
  readonly runtimes?: number;
  /** Worker processes of each runtime. Default 1. */
  readonly workers?: number;
  /** More words for the brokers' command line. */
  readonly args?: readonly string[];
  /** Directory of the pods' CPU profiles, which are written when they have drained. Default: none. */
  readonly profile?: string | undefined;
}

/** How long pods that were asked to end may take before they are killed. */
const DRAIN_MS = 40_000;

export class Cluster {
  readonly namespace: string;
  readonly brokers: Pod[] = [];
  readonly runtimes: Pod[] = [];
  readonly client: Client;
  readonly #options: ClusterOptions;

  private constructor(options: ClusterOptions) {
    this.#options = options;
    this.namespace = options.namespace;
    this.client = new EnclaveClient({ serverUrl: options.nats, namespace: options.namespace });
  }

  /** Resolves when it runs scripts. */
  static async open(options: ClusterOptions): Promise<Cluster> {
    const { brokers = 1, runtimes = 3 } = options;
    const cluster = new Cluster(options);
    await Promise.all([
      ...Array.from({ length: brokers }, () => cluster.addBroker()),
      ...Array.from({ length: runtimes }, (_, index) => cluster.#addRuntime(index + 1)),
    ]);
    await cluster.client.connect();
    await waitUntil(async () => (await cluster.client.run('return 1')).success, 'the cluster runs a script');
    return cluster;
  }

  /** Resolves when it is ready. */
  async addBroker(): Promise<Pod> {
    const { redis, args = [] } = this.#options;
    const number = this.brokers.length + this.#starting++;
    const id = `${this.namespace}-broker-${number + 1}`;
    const pod = await startBrokerPod({ ...this.#pod(id), redis, tools: TOOLS, args: this.#words(args) });
    this.#starting--;
    this.brokers.push(pod);
    return pod;
  }
  #starting = 0;

  async #addRuntime(number: number): Promise<void> {
    const id = `${this.namespace}-runtime-${number}`;
    const { workers = 1 } = this.#options;
    this.runtimes.push(await startRuntimePod({ ...this.#pod(id), poolSize: workers, args: this.#words([]) }));
  }

  #words(more: readonly string[]): readonly string[] {
    return ['--namespace', this.namespace, '--log-level', 'warn', ...more];
  }

  #pod(id: string) {
    const { nats, profile } = this.#options;
    const profiling =
      profile === undefined
        ? undefined
        : { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${path.resolve(profile, id)}` };
    return { id, nats, program: CLI, env: { NODE_ENV: 'production', ...profiling } };
  }

  /** Of the pods; their servers are the caller's. */
  get processes(): Processes {
    const pids = (pods: readonly Pod[]) => pods.filter(({ running }) => running).map(({ pid }) => pid);
    return { broker: pids(this.brokers), runtimes: pids(this.runtimes) };
  }

  /** End the pods as an operator would, with profiles written; what does not end in time is killed. */
  async drain(): Promise<void> {
    await this.client.close();
    const all = [...this.runtimes, ...this.brokers];
    const timer = setTimeout(() => void this.#kill(all), DRAIN_MS);
    // Brokers first: they have nobody to give their sessions to, and runtimes would wait for them.
    await Promise.all(all.map((pod) => pod.drain()));
    clearTimeout(timer);
  }

  /** End the pods at once. */
  async kill(): Promise<void> {
    await this.client.close();
    await this.#kill([...this.runtimes, ...this.brokers]);
  }

  async #kill(pods: readonly Pod[]): Promise<void> {
    await Promise.all(pods.map((pod) => pod.stop()));
  }
}
