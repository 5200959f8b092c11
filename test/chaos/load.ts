/** Durable executions with tool calls, whose results tell whether any was lost or doubled. */
import type { ExecutionResult, SessionRef } from '../../src/index.ts';
import type { ChaosCluster } from './cluster.ts';

/** Counts itself in `state`, calls a tool of each kind, prints a line. */
export const SCRIPT = `state.n = (state.n ?? 0) + 1;
const once = await callTool('ledger:once', { n: input });
const added = await callTool('ledger:add', { n: input });
console.log('number', input);
const seen = await callTool('ledger:look', { n: input });
return [state.n, once.landed, added.added, seen.seen];`;

export interface Executed {
  readonly session: string;
  readonly execution: string;
  readonly input: number;
  readonly acknowledged: boolean;
  readonly result: ExecutionResult;
}

/** By the clock of `performance.now()`, in ms. */
export interface Loaded extends Executed {
  /** When its acceptance was told; undefined if it was not. */
  readonly acknowledgedAt: number | undefined;
  /** When its result was told. */
  readonly endedAt: number;
}

export interface LoadOptions {
  /** Default 8. Each runs one script at a time. */
  readonly sessions?: number | undefined;
  /** In all. Default: until {@link Load.stop}. */
  readonly executions?: number | undefined;
  readonly script?: string | undefined;
}

/** A load that runs until it is stopped, or has run what it was to run. */
export class Load {
  readonly sessions: readonly SessionRef[];
  readonly executed: Loaded[] = [];
  readonly #cluster: ChaosCluster;
  readonly #options: LoadOptions;
  readonly #unwatch: () => Promise<void>;
  readonly #done: Promise<void>;
  #started = 0;
  #stopped = false;

  private constructor(cluster: ChaosCluster, sessions: readonly SessionRef[], options: LoadOptions) {
    this.sessions = sessions;
    this.#cluster = cluster;
    this.#options = options;
    this.#unwatch = cluster.history.watch(sessions.map(({ id }) => id));
    this.#done = Promise.all(sessions.map((session) => this.#run(session))).then(() => undefined);
  }

  static async start(cluster: ChaosCluster, options: LoadOptions = {}): Promise<Load> {
    const { sessions = 8 } = options;
    const spawned = Array.from({ length: sessions }, () => cluster.client.spawnSession());
    return new Load(cluster, await Promise.all(spawned), options);
  }

  /** Executions that have ended. */
  get count(): number {
    return this.executed.length;
  }

  /** A fact: every session has begun and ended an execution after this was asked for. */
  everyoneGoesOn(): () => boolean {
    const last = this.#started;
    return () => {
      const on = new Set(this.executed.filter(({ input }) => input > last).map(({ session }) => session));
      return this.sessions.every(({ id }) => on.has(id));
    };
  }

  /** Begin no more. Resolves when all have ended. */
  async stop(): Promise<readonly Loaded[]> {
    this.#stopped = true;
    return this.ended();
  }

  /** Resolves when all have ended. */
  async ended(): Promise<readonly Loaded[]> {
    await this.#done;
    await this.#unwatch();
    return this.executed;
  }

  async #run(session: SessionRef): Promise<void> {
    const { executions = Number.POSITIVE_INFINITY, script = SCRIPT } = this.#options;
    // A test that fails leaves its load behind, and a client that is closed refuses at once, again and again.
    while (!this.#stopped && !this.#cluster.stopping && this.#started < executions) {
      const input = ++this.#started;
      const run = session.execute(script, { input });
      let acknowledgedAt: number | undefined;
      run.accepted.then(
        () => {
          acknowledgedAt = performance.now();
        },
        () => undefined,
      );
      const result = await run.result;
      this.executed.push({
        session: session.id,
        execution: run.id,
        input,
        acknowledged: acknowledgedAt !== undefined,
        acknowledgedAt,
        result,
        endedAt: performance.now(),
      });
    }
  }
}
