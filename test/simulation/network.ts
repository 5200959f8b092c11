/**
 * The network between processes: every hop of the memory bus takes time, and may be lost, doubled or held up.
 *
 * Invariants:
 *  N1  Hops between the same two processes arrive in the order in which they were sent (B1 of the bus).
 *  N2  What a dead process had sent and what had not arrived is lost, or not, as chance has it; what was sent to a
 *      dead process is lost.
 */
import type {
  Body,
  Bus,
  Handler,
  RequestOptions,
  SubscribeOptions,
  Subscription,
} from '../../src/bus/bus.ts';
import { type Hop, MemoryBusServer } from '../../src/bus/memory.ts';
import type { Clock } from '../../src/clock.ts';
import type { Faults } from './faults.ts';
import type { Process } from './process.ts';
import type { Random } from './random.ts';
import type { Scheduler } from './scheduler.ts';

export interface NetworkOptions {
  readonly scheduler: Scheduler;
  readonly random: Random;
  readonly faults: Faults;
  /** A process says something: before it is on its way. */
  readonly onSend: (process: Process, kind: 'publish' | 'request', subject: string, body: Body) => void;
  readonly note: (who: string, what: string) => void;
  readonly onError: (error: unknown, subject: string) => void;
}

interface Link {
  readonly hops: (() => void)[];
  dueAt: number;
}

export class Network {
  readonly #options: NetworkOptions;
  readonly #server: MemoryBusServer;
  readonly #processes = new Map<string, Process>();
  readonly #links = new Map<string, Link>();
  /** Until when each process is cut off, in virtual time. */
  readonly #cutUntil = new Map<string, number>();
  /** The process whose call of the bus is under way: its timers are its own. */
  #caller: Process | undefined;
  /** Until when messages are known to be lost or held up, in virtual time. */
  #disturbedUntil = -1;

  constructor(options: NetworkOptions) {
    this.#options = options;
    const { scheduler } = options;
    const callers = (): Clock | undefined => this.#caller?.clock;
    this.#server = new MemoryBusServer({
      clock: {
        now: () => scheduler.now,
        monotonic: () => scheduler.now,
        after: (ms, act) => callers()?.after(ms, act) ?? (() => undefined),
        soon: (act) => (callers() === undefined ? queueMicrotask(act) : callers()?.soon(act)),
        id: () => '',
      },
      deliver: (hop) => this.#deliver(hop),
      onError: options.onError,
    });
  }

  /** A process's handle. */
  connect(process: Process): Bus {
    this.#processes.set(process.id, process);
    const inner = this.#server.connect(process.id);
    const subscriptions = new Set<Subscription>();
    process.onDeath.push(() => {
      for (const subscription of subscriptions) subscription.unsubscribe();
      this.#forget(process);
    });
    const as = <T>(act: () => T): T => {
      const before = this.#caller;
      this.#caller = process;
      try {
        return act();
      } finally {
        this.#caller = before;
      }
    };
    const { onSend } = this.#options;
    return {
      maxPayloadBytes: inner.maxPayloadBytes,
      publish: (subject: string, body: Body) => {
        if (!process.send()) return;
        onSend(process, 'publish', subject, body);
        as(() => inner.publish(subject, body));
      },
      request: (subject: string, body: Body, options: RequestOptions) => {
        if (!process.send()) return new Promise<Body>(() => undefined);
        onSend(process, 'request', subject, body);
        return as(() => inner.request(subject, body, options));
      },
      subscribe: (subject: string, handler: Handler, options?: SubscribeOptions): Subscription => {
        if (!process.speaks)
          return { unsubscribe: () => undefined, drain: () => new Promise(() => undefined) };
        const subscription = as(() => inner.subscribe(subject, handler, options));
        subscriptions.add(subscription);
        return {
          unsubscribe: () => {
            subscriptions.delete(subscription);
            as(() => subscription.unsubscribe());
          },
          drain: () => as(() => subscription.drain()),
        };
      },
      flush: () => as(() => inner.flush()),
      close: () => as(() => inner.close()),
    };
  }

  /** Cut a process off from everybody else for a while. */
  cut(process: Process, ms: number): void {
    const until = this.#options.scheduler.now + ms;
    this.#cutUntil.set(process.id, until);
    this.#disturb(until);
  }

  heal(): void {
    this.#cutUntil.clear();
  }

  #deliver(hop: Hop): void {
    const { scheduler, random, faults, note } = this.#options;
    const from = this.#processes.get(hop.from ?? '');
    const to = this.#processes.get(hop.to ?? '');
    if (from === undefined || to === undefined || !to.alive) return;
    // A message was counted when it was published; an answer is one here.
    if (hop.kind === 'reply' && !from.send()) return;
    const far = from !== to;
    if (far && (this.#isCut(from) || this.#isCut(to) || faults.happens('lose'))) {
      this.#disturb(scheduler.now);
      return note(from.id, `lost on the way to ${to.id}: ${hop.kind} ${brief(hop)}`);
    }
    const held = far && faults.happens('delay');
    const ms = held ? random.between(20, random.chance(0.1) ? 3_000 : 400) : far ? random.between(0, 3) : 0;
    const link = this.#link(from, to);
    link.dueAt = Math.max(link.dueAt, scheduler.now + ms); // N1
    if (held) this.#disturb(link.dueAt);
    const copies = far && faults.happens('double') ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      link.hops.push(() => {
        note(to.id, `from ${from.id}: ${hop.kind} ${brief(hop)}`);
        hop.run();
      });
      scheduler.after(link.dueAt - scheduler.now, to, () => link.hops.shift()?.());
    }
  }

  /** Whether any message was lost or held up at that time or later. */
  disturbedSince(at: number): boolean {
    return this.#disturbedUntil >= at;
  }

  #disturb(until: number): void {
    this.#disturbedUntil = Math.max(this.#disturbedUntil, until);
  }

  #isCut(process: Process): boolean {
    return (this.#cutUntil.get(process.id) ?? 0) > this.#options.scheduler.now;
  }

  #link(from: Process, to: Process): Link {
    const key = `${from.id}>${to.id}`;
    let link = this.#links.get(key);
    if (link === undefined) this.#links.set(key, (link = { hops: [], dueAt: 0 }));
    return link;
  }

  /** N2 */
  #forget(process: Process): void {
    const flushed = this.#options.random.chance(0.5);
    for (const [key, { hops }] of this.#links) {
      const [from, to] = key.split('>');
      if (to === process.id || (from === process.id && !flushed)) hops.length = 0;
    }
  }
}

/** A message in a few words. */
function brief({ subject, body }: Hop): string {
  const {
    t,
    ok,
    epoch,
    error,
    value,
    key,
    keys,
    n,
    end,
    items,
    type,
    seq,
    execution,
    from,
    deliveries,
    ack,
  } = body as Readonly<Record<string, unknown>>;
  const words = [subject.split('.').slice(2).join('.')];
  const add = (name: string, told: unknown): void => {
    if (told !== undefined)
      words.push(
        `${name}=${typeof told === 'object' ? JSON.stringify(told).slice(0, 80) : String(told).slice(0, 40)}`,
      );
  };
  add('t', t);
  add('ok', ok);
  add('epoch', epoch);
  add('code', (error as { readonly code?: unknown } | undefined)?.code);
  add('value', value);
  add('key', key);
  add('keys', keys);
  add('n', n);
  add('items', Array.isArray(items) ? items.length : undefined);
  add('end', end);
  add('type', type);
  add('seq', seq);
  add('execution', t === 'report' ? undefined : execution);
  add('from', from);
  add('deliveries', Array.isArray(deliveries) ? deliveries.length : undefined);
  add('ack', ack);
  return words.join(' ');
}
