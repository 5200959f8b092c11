/**
 * Reading the events of one session: live ones as they are published, and the log where they are missing.
 *
 * Invariants:
 *  V1  Every event is given once, in the order of `seq`, without a gap. What cannot be given so, because the log was
 *      trimmed, is told as TRUNCATED.
 *  V2  The live subscription is in force before the log is read, so nothing falls between the two.
 *  V3  Live events are hints: publishing is at most once, and types are subjects of their own, so that order holds
 *      only within one. A gap, or five seconds of silence, is settled by the log.
 *  V4  At most 10,000 live events wait for a slow reader. Beyond that they are dropped and read from the log.
 *  V5  A connection that was given up ends it as UNAVAILABLE, with the `seq` to go on from.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { Message, Subscription } from '../bus/bus.ts';
import { EnclaveError } from '../errors.ts';
import type { EventsRead, ReadEvents } from '../protocol.ts';
import type { ClientContext } from './context.ts';

/** Most live events that wait for a reader. */
export const MAX_WAITING = 10_000;
/** Most events asked for at once. A broker gives fewer where they are large. */
export const PAGE = 500;
/** After this long without an event the log is asked whether one was lost, in ms. */
export const CHECK_MS = 5_000;
/** How long the last events of an execution that has ended may take before the log is asked for them, in ms. */
const GRACE_MS = 50;
/** Longest wait until live events are sure to arrive, in ms. */
const FLUSH_MS = 1_000;
/** Before the log is asked again for an event that is known to exist and is not there yet, in ms. */
const LAG_MS = 100;

/**
 * Where to begin: with a `seq`, or with
 * - `now`: the first event after those that are there already;
 * - `first`: the first one that the log still has;
 * - `init`: the `session_init` of `execution`, which has not been sent yet.
 */
export type EventStart = number | 'now' | 'first' | 'init';

export interface EventReaderOptions {
  readonly start: EventStart;
  /** Only this execution's; its `final` is the last. Default: all, without end. */
  readonly execution?: string | undefined;
  /** Only these types. Default: all. */
  readonly types?: readonly string[] | undefined;
  /** Ends the iteration, without an error. */
  readonly signal?: AbortSignal | undefined;
  readonly onEnd?: (() => void) | undefined;
}

export interface EventReader extends AsyncIterableIterator<ExecutionEvent> {
  /** Resolves when live events arrive, or cannot. Never rejects. */
  readonly ready: Promise<void>;
  /** Nothing more will be added to the log: end when it has been read. */
  finish(): void;
  /** End the iteration now. Safe to call again. */
  end(): void;
}

/** Begin to read; the subscription is made within this call. */
export function readEvents(
  context: ClientContext,
  session: string,
  options: EventReaderOptions,
): EventReader {
  const reader = new Reader(context, session, options);
  const events = reader.events();
  return {
    ready: reader.ready,
    finish: () => reader.finish(),
    end: () => reader.end(),
    next: () => events.next(),
    return: async () => {
      reader.end();
      await events.return(undefined);
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

class Reader {
  readonly ready: Promise<void>;
  readonly #context: ClientContext;
  readonly #session: string;
  readonly #options: EventReaderOptions;
  readonly #subscription: Subscription | undefined;
  readonly #live = new Waiting();
  readonly #page = new Waiting();
  readonly #stopWatching: () => void;
  /** The `seq` to be given next; undefined while the start is looked for. */
  #next: number | undefined;
  /** The highest `seq` that is known to exist. */
  #latest = 0;
  /** The log's trimmed part is passed over: the reader wants what there is. */
  #fromFirst: boolean;
  /** The log is to be asked though nothing is known to be missing. */
  #doubtful = false;
  /** When the log is to be asked for the rest, in ms of the monotonic clock; undefined until {@link Reader.finish}. */
  #finishAt: number | undefined;
  /** The last event that there will be; undefined while that is not known. */
  #last: number | undefined;
  /** The start is found: from here on a reading that fails may be tried again later. */
  #begun = false;
  #ended = false;
  /** Why nothing more will come (V5). */
  #lost: EnclaveError | undefined;
  #wake = (): void => undefined;

  constructor(context: ClientContext, session: string, options: EventReaderOptions) {
    this.#context = context;
    this.#session = session;
    this.#options = options;
    const { start, signal } = options;
    this.#next = typeof start === 'number' ? start : start === 'first' ? 1 : undefined;
    this.#fromFirst = start === 'first';
    // What is there already is known from the log only.
    this.#doubtful = this.#next !== undefined;
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
    if (signal?.aborted === true || context.closing.closed) this.end();
    this.#subscription = this.#ended ? undefined : this.#subscribe();
    this.ready = this.#subscription === undefined ? Promise.resolve() : this.#flush();
  }

  finish(): void {
    this.#finishAt ??= this.#context.clock.monotonic() + GRACE_MS;
    this.#wake();
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stopWatching();
    this.#subscription?.unsubscribe();
    this.#live.clear();
    this.#wake();
    this.#options.onEnd?.();
  }

  async *events(): AsyncGenerator<ExecutionEvent, void, undefined> {
    try {
      await this.#until(this.ready); // V2
      if (this.#options.start === 'now' && !this.#ended) await this.#findNow();
      while (!this.#ended && !this.#isThrough()) {
        const event = this.#take();
        if (event === undefined && this.#lost !== undefined) throw this.#goOnFrom(this.#lost);
        if (event === undefined) await this.#more();
        else if (this.#isWanted(event)) {
          yield event;
          if (event.type === 'final' && this.#options.execution !== undefined) return;
        }
      }
    } finally {
      this.end();
    }
  }

  #subscribe(): Subscription | undefined {
    const { bus, subjects } = this.#context;
    try {
      return bus.subscribe(subjects.sessionEvent(this.#session, '*'), (message) => this.#arrive(message));
    } catch {
      // The bus is closed: reading the log says so.
      return undefined;
    }
  }

  /** A bus that is cut off must not hold up a command for ever: after a while the log makes up for it (V3). */
  #flush(): Promise<void> {
    return new Promise((resolve) => {
      const callOff = this.#context.clock.after(FLUSH_MS, resolve, true);
      const done = (): void => {
        callOff();
        resolve();
      };
      this.#context.bus.flush().then(done, done);
    });
  }

  #arrive({ body }: Message): void {
    const event = body as Partial<ExecutionEvent>;
    if (event.sessionId !== this.#session || !isNumbered(event)) return;
    if (this.#live.size >= MAX_WAITING) this.#live.clear(); // V4
    this.#live.push(event);
    this.#latest = Math.max(this.#latest, event.seq);
    this.#wake();
  }

  /** The next event, if it is at hand. */
  #take(): ExecutionEvent | undefined {
    if (this.#next === undefined) return this.#takeInit();
    for (const waiting of [this.#page, this.#live]) {
      while (waiting.seq < this.#next) waiting.shift();
      if (waiting.seq !== this.#next) continue;
      this.#next++;
      return waiting.shift();
    }
    return undefined;
  }

  /** The execution's first event. If another of it comes first, that one was lost: the log has it. */
  #takeInit(): ExecutionEvent | undefined {
    for (let event = this.#live.shift(); event !== undefined; event = this.#live.shift()) {
      if (event.executionId !== this.#options.execution) continue;
      if (event.type !== 'session_init') {
        this.#beginWithLog();
        return undefined;
      }
      this.#next = event.seq + 1;
      this.#begun = true;
      return event;
    }
    return undefined;
  }

  #isThrough(): boolean {
    return this.#last !== undefined && this.#next !== undefined && this.#next > this.#last;
  }

  #beginWithLog(): void {
    this.#next = 1;
    this.#fromFirst = true;
  }

  /** Read on in the log where something is or may be missing, else wait. */
  async #more(): Promise<void> {
    const graceMs = this.#graceMs();
    if (graceMs === 0) this.#doubtful = true;
    if (this.#doubtful && this.#next === undefined) this.#beginWithLog();
    const missing = this.#next !== undefined && this.#next <= this.#latest;
    if (missing || this.#doubtful) await this.#readPage(missing || !this.#begun);
    else if (!(await this.#rest(graceMs ?? CHECK_MS))) this.#doubtful = true; // V3
  }

  /** How long the last events may still take to arrive by themselves; undefined if more will come, or is known to be the last. */
  #graceMs(): number | undefined {
    if (this.#finishAt === undefined || this.#last !== undefined) return undefined;
    return Math.max(0, this.#finishAt - this.#context.clock.monotonic());
  }

  async #readPage(needed: boolean): Promise<void> {
    const next = this.#next ?? 1;
    const finishing = this.#finishAt !== undefined;
    const page = await this.#read(next, PAGE, needed);
    this.#doubtful = false;
    if (page === undefined) return;
    this.#begun = true;
    this.#latest = Math.max(this.#latest, page.seq);
    if (finishing) this.#last ??= page.seq;
    this.#page.clear();
    for (const json of page.events) {
      const event = JSON.parse(json) as ExecutionEvent;
      if (isNumbered(event) && event.seq >= next) this.#page.push(event);
    }
    const firstSeq = this.#page.size > 0 ? this.#page.seq : page.firstSeq;
    if (firstSeq > next) return this.#passTrimmed(firstSeq, next);
    this.#fromFirst = false;
    // An event was published that the log does not show yet.
    if (this.#page.size === 0 && next <= this.#latest) await this.#rest(LAG_MS);
  }

  #passTrimmed(firstSeq: number, next: number): void {
    if (!this.#fromFirst) {
      const message = `The events from ${next} to ${firstSeq - 1} are no longer kept`;
      throw new EnclaveError('TRUNCATED', message, { details: { firstSeq } });
    }
    this.#fromFirst = false;
    this.#next = firstSeq;
    this.#doubtful = this.#page.size === 0;
  }

  async #findNow(): Promise<void> {
    const page = await this.#read(1, 1, true);
    if (page === undefined) return;
    this.#next = page.seq + 1;
    this.#begun = true;
  }

  /** Undefined if the iteration ended meanwhile, or if it failed for now and nobody needs it for now. */
  async #read(fromSeq: number, limit: number, needed: boolean): Promise<EventsRead | undefined> {
    const body: ReadEvents = { session: this.#session, fromSeq, limit };
    try {
      const answer = await this.#until(this.#context.requests.ask<EventsRead>('events_read', body));
      return answer?.value;
    } catch (error) {
      // What is at hand is still given; then it ends.
      if (this.#lost !== undefined) return undefined;
      if (this.#ended || (!needed && error instanceof EnclaveError && error.retryable)) return undefined;
      throw error;
    }
  }

  /** V5 */
  #goOnFrom(cause: EnclaveError): EnclaveError {
    const fromSeq = this.#next;
    const details = fromSeq === undefined ? undefined : { fromSeq };
    return new EnclaveError(cause.code, cause.message, { cause, details });
  }

  /** Settles as the promise does, or with undefined when the iteration ends first. */
  #until<T>(promise: Promise<T>): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#ended) resolve(undefined);
      };
      promise.then(resolve, reject);
      this.#wake();
    });
  }

  /** Wait for whatever happens. False if nothing did for so long, in ms. */
  #rest(ms: number): Promise<boolean> {
    return new Promise((resolve) => {
      const callOff = this.#context.clock.after(ms, () => resolve(false), true);
      this.#wake = () => {
        callOff();
        resolve(true);
      };
    });
  }

  #isWanted(event: ExecutionEvent): boolean {
    const { execution, types } = this.#options;
    return (
      (execution === undefined || event.executionId === execution) &&
      (types === undefined || types.includes(event.type))
    );
  }
}

/** Events in the order in which they came. Adding and taking cost O(1). */
class Waiting {
  #events: ExecutionEvent[] = [];
  #taken = 0;

  get size(): number {
    return this.#events.length - this.#taken;
  }

  /** Of the first; infinite if there is none. */
  get seq(): number {
    return this.#events[this.#taken]?.seq ?? Number.POSITIVE_INFINITY;
  }

  push(event: ExecutionEvent): void {
    this.#events.push(event);
  }

  shift(): ExecutionEvent | undefined {
    const event = this.#events[this.#taken];
    if (event === undefined) return undefined;
    this.#taken++;
    if (this.#taken === this.#events.length) this.clear();
    else if (this.#taken >= MAX_WAITING) {
      // What was taken must not stay in memory for as long as something waits.
      this.#events.splice(0, this.#taken);
      this.#taken = 0;
    }
    return event;
  }

  clear(): void {
    this.#events = [];
    this.#taken = 0;
  }
}

/** Heartbeats have no number: they are not part of the log. */
export function isNumbered(event: Partial<ExecutionEvent>): event is ExecutionEvent {
  return Number.isSafeInteger(event.seq) && typeof event.type === 'string';
}
