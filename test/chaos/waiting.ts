/** Scripts that wait in a tool call until the test lets them go on. */
import type { EnclaveClient, ExecutionHandle, ExecutionResult, SessionRef } from '../../src/index.ts';
import { waitUntil } from '../support/processes.ts';
import type { ChaosCluster, ChaosPod } from './cluster.ts';
import { landings } from './invariants.ts';
import type { Executed } from './load.ts';

/** Of brokers and of a service; the first of each is unsafe, the second idempotent. */
export type Gate = 'gate:pass' | 'gate:put' | 'service:send' | 'service:put';

/** Counts itself in `state`, prints, waits at a gate, prints what became of the call. */
const script = (tool: Gate): string => `state.n = (state.n ?? 0) + 1;
const once = await callTool('ledger:once', { n: input });
console.log('before');
let how;
try {
  how = (await callTool('${tool}', { gate: 'gate-' + input })).passed;
} catch (error) {
  how = error.name;
}
console.log('after: ' + how);
return [state.n, once.landed, input, input];`;

let inputs = 1_000_000;

/** One script that waits at a gate of its own. */
export class Waiting {
  readonly session: string;
  readonly input: number;
  readonly execution: string;
  readonly #cluster: ChaosCluster;
  readonly #client: EnclaveClient;
  readonly #unwatch: () => Promise<void>;

  private constructor(
    cluster: ChaosCluster,
    client: EnclaveClient,
    session: SessionRef,
    run: ExecutionHandle,
    input: number,
  ) {
    this.#cluster = cluster;
    this.#client = client;
    this.session = session.id;
    this.input = input;
    this.execution = run.id;
    this.#unwatch = cluster.history.watch([session.id]);
  }

  /** Resolves when the script waits at its gate. */
  static async start(cluster: ChaosCluster, tool: Gate = 'gate:pass'): Promise<Waiting> {
    const client = cluster.connect();
    const session = await client.spawnSession();
    const input = ++inputs;
    const run = session.execute(script(tool), { input });
    const waiting = new Waiting(cluster, client, session, run, input);
    await waitUntil(() => waiting.calls.length === 1, 'the script waits at its gate');
    return waiting;
  }

  get gate(): string {
    return `gate-${this.input}`;
  }

  /** The times that its call reached a handler. */
  get calls(): ReturnType<typeof landings> {
    return landings(this.#cluster, `${this.gate}.waiting`);
  }

  async owner(): Promise<ChaosPod> {
    const owner = await this.#cluster.ownerOf(this.session);
    if (owner === undefined) throw new Error('nobody owns it');
    return owner;
  }

  async runtime(): Promise<ChaosPod> {
    const runtime = await this.#cluster.runtimeOf(this.session);
    if (runtime === undefined) throw new Error('nobody runs it');
    return runtime;
  }

  /** From now on nobody asks for the result. */
  forsake(): Promise<void> {
    return this.#client.close();
  }

  open(): void {
    this.#cluster.open(this.gate);
  }

  /** When an observer heard the line that it prints after the gate. */
  passedAt(how: string = this.gate): number | undefined {
    return this.#cluster.observer.printed(this.session, `after: ${how}\n`);
  }

  result(): Promise<ExecutionResult> {
    return this.#cluster.client.session(this.session).result(this.execution);
  }

  async executed(): Promise<Executed> {
    const { session, execution, input } = this;
    const result = await this.result();
    await this.#unwatch();
    return { session, execution, input, acknowledged: true, result };
  }

  /** When a broker logged that it took the session over, in ms since the epoch; the first after `since`. */
  takenOverAt(since: number): number | undefined {
    return this.#cluster.brokers
      .flatMap(({ pod }) =>
        pod
          .logged('session taken over')
          .filter(({ session }) => session === this.session)
          .map(({ time }) => Number(time) - pod.skewMs),
      )
      .filter((time) => time >= since)
      .toSorted((one, other) => one - other)[0];
  }
}
