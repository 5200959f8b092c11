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

  /** How many executions somebody listens to. */
  get size(): number {
    return this.#listeners.size;
  }

  close(): void {
    this.#subscription?.unsubscribe();
    this.#listeners.clear();
  }

  #take({ body }: Message): void {
    const { session, execution, result } = body as Partial<ResultTold>;
    if (typeof session !== 'string' || typeof execution !== 'string' || typeof result !== 'string') return;
    for (const listener of [...(this.#listeners.get(keyOf(session, execution)) ?? [])]) listener(result);
  }
}

/** Ids hold no slash. */
const keyOf = (session: string, execution: string): string => `${session}/${execution}`;
