/** What is done to the cluster while it works: kills and drains, in turn. */
import type { ChaosPod } from '../chaos/cluster.ts';
import { childrenOf } from '../support/processes.ts';
import type { Members } from './members.ts';

/** What was done, from its beginning to when whatever it hit was back, by the wall clock, in ms. */
export interface Done {
  readonly what: string;
  readonly from: number;
  to: number;
}

/**
 * The first broker and the first runtime are left alone, but for their workers, so that there are processes that have
 * seen everything: a leak takes time.
 */
export class Harm {
  readonly #members: Members;
  readonly done: Done[] = [];
  #turn = 0;

  constructor(members: Members) {
    this.#members = members;
  }

  /** What was under way at some time of these. */
  during(from: number, to: number): readonly Done[] {
    return this.done.filter((one) => one.from <= to && from <= one.to);
  }

  /** The next one. Resolves when whatever it hit is back. */
  async next(): Promise<void> {
    const { brokers, runtimes } = this.#members.cluster;
    const broker = brokers.at(-1);
    const [, second, third] = runtimes;
    const turns: readonly (readonly [string, () => Promise<void>])[] = [
      ['worker killed', () => this.#killWorker(runtimes[0])],
      ['runtime killed', () => this.#kill(second)],
      ['broker drained', () => this.#drain(broker)],
      ['worker killed', () => this.#killWorker(third)],
      ['broker killed', () => this.#kill(broker)],
      ['runtime drained', () => this.#drain(third)],
      ['service replaced', () => this.#members.replaceService()],
    ];
    const [what, act] = turns[this.#turn++ % turns.length] ?? ['', async () => undefined];
    const done: Done = { what, from: Date.now(), to: Number.POSITIVE_INFINITY };
    this.done.push(done);
    await act();
    done.to = Date.now();
  }

  async #killWorker(runtime: ChaosPod | undefined): Promise<void> {
    const [worker] = childrenOf(runtime?.pod.pid ?? 0);
    if (worker === undefined) return;
    this.#members.saw(worker);
    process.kill(worker, 'SIGKILL');
  }

  async #kill(pod: ChaosPod | undefined): Promise<void> {
    for (const child of childrenOf(pod?.pod.pid ?? 0)) this.#members.saw(child);
    await pod?.kill();
    await pod?.start();
  }

  async #drain(pod: ChaosPod | undefined): Promise<void> {
    if (pod === undefined) return;
    for (const child of childrenOf(pod.pod.pid)) this.#members.saw(child);
    await this.#members.drain(pod);
    await pod.start();
  }
}
