/**
 * Where owners tell this client the results of executions: one subscription for all of them. What is told may be
 * lost, so whoever listens here also asks (see poll.ts).
 */
import type { Bus, Message, Subscription } from '../bus/bus.ts';
import type { ResultTold } from '../protocol.ts';

type Listener = (result: string) => void;

export class Inbox {
  readonly subject: string;
  readonly #bus: Bus;
  readonly #listeners = new Map<string, Set<Listener>>();
  /** What was told of expected executions, by execution and then by session. */
  readonly #expected = new Map<string, Map<string, string>>();
  #subscription: Subscription | undefined;

  constructor(bus: Bus, subject: string) {
    this.#bus = bus;
    this.subject = subject;
  }

  /** Resolves when the owners' messages arrive. */
  async start(): Promise<void> {
    this.#subscription ??= this.#bus.subscribe(this.subject, (message) => this.#take(message));
    await this.#bus.flush();
  }

  /** Be told the result of an execution, as JSON. Returns what ends that. */
  listen(session: string, execution: string, listener: Listener): () => void {
    const key = keyOf(session, execution);
    const listeners = this.#listeners.get(key) ?? new Set();
    this.#listeners.set(key, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0 && this.#listeners.get(key) === listeners) this.#listeners.delete(key);
    };
  }

  /**
   * Keep what is told of an execution before it is known where it runs: its result may overtake the answer that says
   * so. `end` lets go of it.
   */
  expect(execution: string): {
    readonly told: (session: string) => string | undefined;
    readonly end: () => void;
  } {
    const results = new Map<string, string>();
    this.#expected.set(execution, results);
    return {
      told: (session) => results.get(session),
      end: () => {
        if (this.#expected.get(execution) === results) this.#expected.delete(execution);
      },
    };
  }

  /** How many executions somebody listens to. */
  get size(): number {
    return this.#listeners.size;
  }

  close(): void {
    this.#subscription?.unsubscribe();
    this.#listeners.clear();
    this.#expected.clear();
  }

  #take({ body }: Message): void {
    const { session, execution, result } = body as Partial<ResultTold>;
    if (typeof session !== 'string' || typeof execution !== 'string' || typeof result !== 'string') return;
    this.#expected.get(execution)?.set(session, result);
    for (const listener of [...(this.#listeners.get(keyOf(session, execution)) ?? [])]) listener(result);
  }
}

/** Ids hold no slash. */
const keyOf = (session: string, execution: string): string => `${session}/${execution}`;
