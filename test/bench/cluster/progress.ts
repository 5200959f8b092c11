/** Sessions whose scripts call a tool again and again, and when each call was seen: where nothing comes, they stand. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { EnclaveClient, SessionRef } from '../../../src/index.ts';
import { waitUntil } from '../../support/processes.ts';

const LIMITS = { timeoutMs: 600_000, maxToolCalls: 100_000 };
/** How long they may take to begin, in ms. */
const PATIENCE_MS = 30_000;
/** Calls after which a script has found its pace. */
const SETTLED = 5;

export class Progress {
  readonly sessions: readonly SessionRef[];
  readonly #seen: ReadonlyMap<string, number[]>;
  readonly #stop = new AbortController();
  readonly #listening: Promise<void>;

  private constructor(client: EnclaveClient, sessions: readonly SessionRef[]) {
    this.sessions = sessions;
    const seen = new Map<string, number[]>(sessions.map(({ id }) => [id, []]));
    this.#seen = seen;
    const events = client.events({ types: ['tool_call'], signal: this.#stop.signal });
    this.#listening = (async () => {
      for await (const { sessionId } of events) seen.get(sessionId)?.push(performance.now());
    })();
  }

  /** Resolves when all of them run at their pace: a call each `paceMs` and what it takes besides. */
  static async start(client: EnclaveClient, count: number, paceMs: number): Promise<Progress> {
    const sessions = await Promise.all(
      Array.from({ length: count }, () => client.spawnSession({ limits: LIMITS })),
    );
    const progress = new Progress(client, sessions);
    const script = `for (;;) await callTool('pace:wait', { ms: ${paceMs} });`;
    for (const session of sessions) session.execute(script).result.catch(() => undefined);
    const since = performance.now();
    await waitUntil(() => sessions.every(({ id }) => progress.calls(id, since) >= SETTLED), 'all run');
    return progress;
  }

  /** Calls of a session since then. */
  calls(session: string, sinceMs: number): number {
    return (this.#seen.get(session) ?? []).filter((at) => at >= sinceMs).length;
  }

  /** Resolves when each of these sessions has made so many calls since then that it has found its pace again. */
  async goOn(sessions: readonly string[], sinceMs: number, patienceMs = PATIENCE_MS): Promise<void> {
    const all = () => sessions.every((id) => this.calls(id, sinceMs) >= SETTLED);
    await waitUntil(all, 'the scripts go on', patienceMs);
  }

  /** The longest silence that ends after `sinceMs`: when it ended, after `sinceMs`, and how long it was. */
  silence(session: string, sinceMs: number): { readonly endMs: number; readonly lengthMs: number } {
    const seen = this.#seen.get(session) ?? [];
    return seen.reduce(
      (longest, at, index) => {
        const lengthMs = at - (seen[index - 1] ?? at);
        return at >= sinceMs && lengthMs > longest.lengthMs ? { endMs: at - sinceMs, lengthMs } : longest;
      },
      { endMs: 0, lengthMs: 0 },
    );
  }

  /** Forget what was seen; the scripts run on. */
  forget(): void {
    for (const seen of this.#seen.values()) seen.splice(0, seen.length - 1);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.race([this.#listening, sleep(1_000)]);
  }
}
