/** Time that moves only when everybody waits for it, and the two ends of a bus: the client's, and that of a scripted cluster. */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { Body, Bus, Subscription } from '../../src/bus/bus.ts';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { SessionClient, type SessionClientOptions } from '../../src/client/client.ts';
import { EnclaveError } from '../../src/errors.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import type { ReplyError, SessionCommand } from '../../src/protocol.ts';
import { type BrokerVerb, subjectsOf } from '../../src/subjects.ts';
import { VirtualClock } from '../support/clock.ts';

export const subjects = subjectsOf('test');
export const LIMITS = resolveSessionLimits(undefined);

interface Timer {
  readonly at: number;
  readonly keepsAlive: boolean;
}

/** A clock that can also go on for as long as it takes. */
export class TestClock extends VirtualClock {
  readonly waiting = new Set<Timer>();

  /** Since the start, in ms. */
  get time(): number {
    return this.monotonic();
  }

  /** Timers that keep the process up. */
  get awake(): number {
    return [...this.waiting].filter(({ keepsAlive }) => keepsAlive).length;
  }

  override after(ms: number, act: () => void, keepsAlive = false): () => void {
    const timer = { at: this.time + Math.max(0, ms), keepsAlive };
    this.waiting.add(timer);
    const callOff = super.after(ms, () => {
      this.waiting.delete(timer);
      act();
    });
    return () => {
      this.waiting.delete(timer);
      callOff();
    };
  }

  /** Time goes on until the promise settles. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const done = (): void => {
      settled = true;
    };
    promise.then(done, done);
    for (await this.settle(); !settled; await this.settle()) {
      if (this.waiting.size === 0) throw new Error('everybody waits, and nothing will ever happen');
      await this.advance(Math.min(...[...this.waiting].map(({ at }) => at)) - this.time);
    }
    return promise;
  }
}

type Answer =
  | { readonly value: unknown; readonly epoch?: number }
  | { readonly error: ReplyError; readonly epoch?: number };
/** Undefined: it never answers. */
type Answerer<T> = (body: T, count: number) => Answer | undefined;

export class World {
  readonly clock = new TestClock();
  readonly server = new MemoryBusServer({ clock: this.clock });
  readonly far: Bus = this.server.connect('cluster');

  /** `start`: it has an inbox. */
  async client(options: Partial<SessionClientOptions> = {}, start = true): Promise<SessionClient> {
    const client = new SessionClient({
      id: 'caller',
      bus: this.server.connect('client'),
      clock: this.clock,
      subjects,
      defaults: { limits: LIMITS, isolation: 'context' },
      ...options,
    });
    if (start) await client.start();
    return client;
  }

  /** Somebody who listens to the commands of a session; also what it heard. */
  owner(session: string, epoch: number, answer: Answerer<SessionCommand>) {
    return this.#listen<SessionCommand>(subjects.sessionCmd(session), undefined, epoch, answer);
  }

  /** Somebody of the brokers' group. */
  broker<T extends Body>(verb: BrokerVerb, answer: Answerer<T>, epoch = 0) {
    return this.#listen<T>(subjects.broker(verb), 'brokers', epoch, answer);
  }

  /** A broker that serves a log. */
  serve(log: Log) {
    return this.broker<{ readonly fromSeq: number; readonly limit: number }>('events_read', (asked) => ({
      value: log.read(asked.fromSeq, asked.limit),
    }));
  }

  publish(event: ExecutionEvent): void {
    this.far.publish(subjects.sessionEvent(event.sessionId, event.type), event);
  }

  tell(session: string, execution: string, result: string): void {
    this.far.publish(subjects.clientResult('caller'), { session, execution, result });
  }

  #listen<T extends Body>(subject: string, queue: string | undefined, epoch: number, answer: Answerer<T>) {
    const heard: T[] = [];
    const subscription: Subscription = this.far.subscribe(
      subject,
      ({ body, respond }) => {
        heard.push(body as T);
        const given = answer(body as T, heard.length);
        if (given === undefined) return;
        respond?.('error' in given ? { ok: false, epoch, ...given } : { ok: true, epoch, ...given });
      },
      { queue },
    );
    return { heard, stop: () => subscription.unsubscribe() };
  }
}

/** A bus on which a subscription is in force 20 ms after it was made, and no sooner. */
export function slowBus(bus: Bus, clock: TestClock): Bus {
  const soon = (act: () => void) => clock.after(20, act);
  return {
    maxPayloadBytes: bus.maxPayloadBytes,
    publish: (...given) => bus.publish(...given),
    request: (...given) => bus.request(...given),
    flush: () => new Promise((resolve) => soon(resolve)),
    close: () => bus.close(),
    subscribe: (...given) => {
      let made: Subscription | undefined;
      const callOff = soon(() => {
        made = bus.subscribe(...given);
      });
      return {
        unsubscribe: () => {
          callOff();
          made?.unsubscribe();
        },
        drain: async () => made?.drain(),
      };
    },
  };
}

/** The event log of one session. */
export class Log {
  readonly session: string;
  readonly events: ExecutionEvent[] = [];
  firstSeq = 1;
  seq = 0;

  constructor(session: string) {
    this.session = session;
  }

  add(type: 'session_init' | 'stdout' | 'final', executionId?: string): ExecutionEvent {
    const event = {
      protocolVersion: 2,
      sessionId: this.session,
      seq: ++this.seq,
      type,
      payload: { chunk: `${this.seq}` },
      ...(executionId === undefined ? {} : { executionId }),
    } as unknown as ExecutionEvent;
    this.events.push(event);
    return event;
  }

  trim(firstSeq: number): void {
    this.firstSeq = firstSeq;
  }

  read(fromSeq: number, limit: number) {
    const { firstSeq, seq } = this;
    if (fromSeq < firstSeq) return { events: [], firstSeq, seq };
    const events = this.events.slice(fromSeq - 1, fromSeq - 1 + limit);
    return { events: events.map((event) => JSON.stringify(event)), firstSeq, seq };
  }
}

export function refusal(code: string, parts: Partial<ReplyError> = {}): { readonly error: ReplyError } {
  return { error: { code, message: `refused: ${code}`, retryable: false, outcome: 'not_started', ...parts } };
}

export function resultJson(execution: string, value: unknown): string {
  const stats = {
    duration: 1,
    cpuTime: 1,
    toolCallCount: 0,
    startTime: 0,
    endTime: 0,
    queueTime: 0,
    memoryUsage: 0,
    attempts: 1,
  };
  return JSON.stringify({ success: true, value, executionId: execution, stats, toolCalls: [] });
}

/** What a promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<EnclaveError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof EnclaveError) return error;
    throw error;
  }
  throw new Error('it did not reject');
}
