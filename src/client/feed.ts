/**
 * Live events of every session of the namespace. There is no log across sessions, so what is lost on the way stays
 * lost, and a reader that is too slow is told so.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { Message, Subscription } from '../bus/bus.ts';
import { EnclaveError } from '../errors.ts';
import type { ClientContext } from './context.ts';
import { isNumbered, MAX_WAITING } from './events.ts';

/** Streams whose last `seq` is remembered, to tell what comes twice. */
const MAX_STREAMS = 10_000;

export interface FeedOptions {
  readonly types?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Begin to listen; the subscriptions are made within this call. Delivery: at most once, in order within one session
 * and type. Over 10,000 waiting events the iteration ends with OVERLOADED,
 * and with UNAVAILABLE when the connection is given up.
 */
export function feedOf(context: ClientContext, options: FeedOptions): AsyncIterableIterator<ExecutionEvent> {
  const feed = new Feed(context, options);
  const events = feed.events();
  return {
    next: () => events.next(),
    return: async () => {
      feed.end();
      await events.return(undefined);
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

class Feed {
  readonly #context: ClientContext;
  readonly #subscriptions: readonly Subscription[];
  readonly #stopWatching: () => void;
  /** Of each session and type, which is as far as a bus keeps the order. */
  readonly #last = new Map<string, number>();
  #waiting: ExecutionEvent[] = [];
  #overrun = false;
  /** Why nothing more will come. */
  #lost: EnclaveError | undefined;
  #ended = false;
  #wake = (): void => undefined;

  constructor(context: ClientContext, { types = ['*'], signal }: FeedOptions) {
    this.#context = context;
    const end = (): void => this.end();
    const stopClosing = context.closing.onClose((why) => {
      if (why.code === 'CLOSED') return end();
      this.#lost = why;
      this.#wake();
    });
    signal?.addEventListener('abort', end, { once: true });
    this.#stopWatching = () => {
      stopClosing();
      signal?.removeEventListener('abort', end);
    };
    this.#ended = signal?.aborted === true || context.closing.closed;
    if (this.#ended) this.#stopWatching();
    const wanted = this.#ended ? [] : [...new Set(types)];
    this.#subscriptions = wanted.map((type) =>
      context.bus.subscribe(context.subjects.sessionEvent('*', type), (message) => this.#arrive(message)),
    );
  }

  end(): void {
    this.#ended = true;
    this.#stopWatching();
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    this.#wake();
  }

  async *events(): AsyncGenerator<ExecutionEvent, void, undefined> {
    try {
      while (!this.#ended) {
        const events = this.#waiting;
        this.#waiting = [];
        for (const event of events) {
          if (this.#ended) return;
          yield event;
        }
        if (this.#overrun && this.#waiting.length === 0)
          throw new EnclaveError('OVERLOADED', `More than ${MAX_WAITING} events waited for their reader`);
        if (this.#lost !== undefined && this.#waiting.length === 0) throw this.#lost;
        if (this.#waiting.length === 0 && !this.#ended) await this.#rest();
      }
    } finally {
      this.end();
    }
  }

  #arrive({ body }: Message): void {
    const event = body as Partial<ExecutionEvent>;
    if (this.#overrun || typeof event.sessionId !== 'string' || !isNumbered(event) || !this.#isNew(event))
      return;
    if (this.#waiting.length >= MAX_WAITING) this.#overrun = true;
    else this.#waiting.push(event);
    this.#wake();
  }

  #isNew({ sessionId, type, seq }: ExecutionEvent): boolean {
    const stream = `${sessionId}.${type}`;
    if (seq <= (this.#last.get(stream) ?? 0)) return false;
    this.#last.delete(stream);
    this.#last.set(stream, seq);
    if (this.#last.size > MAX_STREAMS) {
      const [oldest] = this.#last.keys();
      if (oldest !== undefined) this.#last.delete(oldest);
    }
    return true;
  }

  #rest(): Promise<void> {
    return new Promise((resolve) => {
      // Nothing else may keep up a process that only listens.
      const callOff = this.#context.clock.after(LISTEN_MS, resolve, true);
      this.#wake = () => {
        callOff();
        resolve();
      };
    });
  }
}

const LISTEN_MS = 60_000;
