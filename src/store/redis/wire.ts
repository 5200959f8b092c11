/**
 * How a step gets to Redis and back: found, sent, judged, and sent again only where that is certain to be
 * right.
 *
 *  W1  Every call is settled within `commandTimeoutMs`, whatever the network does.
 *  W2  A write is sent again only after an answer that says that nothing was done (a redirection, an unknown
 *      script). One that may have been carried out is UNKNOWN; UNAVAILABLE is said only when none of it was
 *      sent, or Redis refused it (S9). While a Cluster moves a slot, a step is refused there unless all its
 *      keys exist and are on one side; steps of such a session may be UNAVAILABLE for as long as the slot
 *      takes. To name fewer keys would have Redis write beside those on their way.
 *  W3  With ack 'replica' a write is acknowledged when a WAIT on the connection that it went over counts a
 *      replica. WAIT promises to speak of the writes of its own connection only (Redis 7 counts all that came
 *      before), and on one that was just made it is satisfied at once; so a connection that was made anew in
 *      between counts as no acknowledgement, and a step that is answered from memory writes something, too.
 *  W4  What must be up to date is read from masters. Only scans of indexes may be read from replicas.
 */
import type { Clock } from '../../clock.ts';
import { StoreError } from '../store.ts';
import type { Link, Node, Origin } from './client.ts';
import { Deadlines } from './deadlines.ts';
import { slotOf } from './keys.ts';
import { judge } from './outcome.ts';
import type { Script } from './scripts.ts';

type Args = readonly (string | number)[];

/** One call of the port: what its errors name, and when its time is over, by the monotonic clock. */
export interface Call {
  readonly operation: string;
  readonly endsAt: number;
}

/** Pauses between tries, in ms. */
const PAUSE_MS = { first: 10, last: 100 };

interface Sending {
  readonly key: string;
  readonly link: Link;
  /** How often it may be sent again after its outcome was lost. */
  readonly retries: number;
  /** What it is if its outcome stays lost. */
  readonly lost: 'UNKNOWN' | 'UNAVAILABLE';
  readonly replica: boolean;
  readonly send: (node: Node) => Promise<unknown>;
}

export class Wire {
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #writes: Link;
  readonly #reads: Link;
  readonly #readRetries: number;
  readonly #scans: boolean;
  readonly #timeoutMs: number;
  /** The ms of a WAIT; undefined if the master's word is enough. */
  readonly #waitMs: number | undefined;
  /** The WAIT that covers what was sent in this tick, by connection. */
  readonly #waits = new Map<Node, Promise<void>>();

  constructor(origin: Origin, links: { writes: Link; reads: Link }, options: WireOptions) {
    this.#clock = options.clock;
    this.#deadlines = new Deadlines(options.clock);
    this.#writes = links.writes;
    this.#reads = links.reads;
    this.#readRetries = origin.readRetries;
    this.#scans = origin.scans;
    this.#timeoutMs = options.commandTimeoutMs;
    this.#waitMs =
      options.ack === 'replica' ? Math.max(1, Math.floor(options.commandTimeoutMs / 2)) : undefined;
  }

  /** True if writes are acknowledged by a replica. */
  get waits(): boolean {
    return this.#waitMs !== undefined;
  }

  begin(operation: string): Call {
    return { operation, endsAt: this.#clock.monotonic() + this.#timeoutMs };
  }

  /** True while a call may begin another step. */
  hasTime(call: Call): boolean {
    return this.#clock.monotonic() < call.endsAt;
  }

  /** A step that writes. `isPromise` says of its answer whether it must survive the master (W3). */
  write(
    call: Call,
    script: Script,
    keys: readonly string[],
    args: Args,
    isPromise: (reply: unknown) => boolean = () => true,
  ): Promise<unknown> {
    return this.#carryOut(call, {
      key: keys[0] ?? '',
      link: this.#writes,
      retries: 0,
      lost: 'UNKNOWN',
      replica: false,
      send: (node) => this.#run(node, script, keys, args, isPromise),
    });
  }

  /** A step that only reads, on the master (W4). */
  readStep(call: Call, script: Script, keys: readonly string[], args: Args): Promise<unknown> {
    return this.#read(call, keys[0] ?? '', false, (node) => evaluate(node, script, keys, args, 'read'));
  }

  /** A command that only reads, on the master (W4). Its first argument is its key. */
  read(call: Call, command: string, args: Args): Promise<unknown> {
    return this.#read(call, String(args[0]), false, (node) => node.call(command, args));
  }

  /** A command that reads an index, on a replica if that is allowed (W4). */
  scan(call: Call, command: string, args: Args): Promise<unknown> {
    return this.#read(call, String(args[0]), this.#scans, (node) => node.call(command, args));
  }

  /** The addresses of all masters, in order. */
  async masters(call: Call): Promise<readonly string[]> {
    for (let wait = PAUSE_MS.first; this.hasTime(call); wait = Math.min(wait * 2, PAUSE_MS.last)) {
      const nodes = this.#reads.masters();
      if (nodes !== undefined) return nodes.map(({ address }) => address).toSorted();
      this.#reads.refresh();
      await this.#pause(wait);
    }
    throw this.#failure(call, 'UNAVAILABLE', 'the Cluster does not serve all slots');
  }

  /** A command that only reads and has no key, on one master. */
  readAt(call: Call, address: string, command: string, args: Args): Promise<unknown> {
    const send = async (): Promise<unknown> => {
      const node = this.#reads.masters()?.find((each) => each.address === address);
      if (node?.ready === false) await node.change();
      if (node?.ready !== true) throw new Error(`${address} does not answer`);
      return node.call(command, args);
    };
    return this.#read(call, '', false, send);
  }

  #read(call: Call, key: string, replica: boolean, send: (node: Node) => Promise<unknown>): Promise<unknown> {
    const link = this.#reads;
    return this.#carryOut(call, {
      key,
      link,
      retries: this.#readRetries,
      lost: 'UNAVAILABLE',
      replica,
      send,
    });
  }

  async #carryOut(call: Call, sending: Sending): Promise<unknown> {
    const { link, key } = sending;
    const slot = link.isCluster ? slotOf(key) : 0;
    let ask: Node | undefined;
    let { retries } = sending;
    let wait: number = PAUSE_MS.first;
    const pause = (): Promise<void> => {
      const ms = wait;
      wait = Math.min(wait * 2, PAUSE_MS.last);
      return this.#pause(ms);
    };
    for (;;) {
      const node = ask ?? (await this.#find(call, link, slot, sending.replica));
      try {
        return await this.#deadlines.within(
          sending.send(node),
          call.endsAt,
          () => new Error('it took too long'),
        );
      } catch (error) {
        ask = undefined;
        const verdict = judge(error);
        if (verdict.kind === 'lost') {
          if (link.isCluster) link.refresh();
          if (retries-- <= 0 || !this.hasTime(call)) throw this.#failure(call, sending.lost, verdict.reason);
          await pause();
        } else if (verdict.kind === 'refused') {
          if (verdict.stale) node.renew();
          link.refresh();
          if (retries-- <= 0 || !this.hasTime(call)) throw this.#failure(call, 'UNAVAILABLE', verdict.reason);
          await pause();
        } else {
          // Nothing was done, and nothing is wrong: the Cluster moves slots about (W2).
          if (!link.isCluster)
            throw this.#failure(call, 'UNAVAILABLE', 'the server is part of a Redis Cluster');
          if (!this.hasTime(call)) throw this.#failure(call, 'UNAVAILABLE', String(error));
          if (verdict.kind === 'ask') {
            const target = link.nodeAt(verdict.address);
            if (target !== undefined && !target.ready) await target.change();
            if (target?.ready === true) ask = asking(target);
          }
          if (ask === undefined) {
            link.refresh();
            await pause();
          }
        }
      }
    }
  }

  /** A node that takes commands now. One Redis that is away is told at once; a Cluster may be electing. */
  async #find(call: Call, link: Link, slot: number, replica: boolean): Promise<Node> {
    for (let wait = PAUSE_MS.first; ; wait = Math.min(wait * 2, PAUSE_MS.last)) {
      const node = link.nodeOf(slot, replica);
      if (node?.ready === true) return node;
      if (!link.isCluster || !this.hasTime(call))
        throw this.#failure(call, 'UNAVAILABLE', 'there is no connection to Redis');
      if (node === undefined) {
        link.refresh();
        await this.#pause(wait);
      } else {
        // It connects, which it may not manage.
        await this.#deadlines.within(node.change(), call.endsAt, () => new Error()).catch(() => undefined);
        if (!node.ready) {
          link.refresh();
          await this.#pause(wait);
        }
      }
    }
  }

  async #run(
    node: Node,
    script: Script,
    keys: readonly string[],
    args: Args,
    isPromise: (reply: unknown) => boolean,
  ): Promise<unknown> {
    if (this.#waitMs === undefined) return evaluate(node, script, keys, args, 'write');
    const { connection } = node;
    let acknowledged: Promise<void> | undefined;
    const reply = await evaluate(node, script, keys, args, 'write', () => {
      acknowledged = this.#acknowledged(node);
      // Not every reply is a promise that needs it.
      acknowledged.catch(() => undefined);
    });
    if (isPromise(reply)) {
      await acknowledged;
      if (node.connection !== connection) throw new Error('the connection was lost before a replica had it');
    }
    return reply;
  }

  /** W3: one WAIT for all that is sent in this tick. Rejects unless a replica has it. */
  #acknowledged(node: Node): Promise<void> {
    const known = this.#waits.get(node);
    if (known !== undefined) return known;
    const { connection } = node;
    const wait = new Promise<void>((resolve, reject) => {
      setImmediate(() => {
        this.#waits.delete(node);
        if (node.connection !== connection || !node.ready)
          return reject(new Error('the connection was lost before a replica had it'));
        node.call('wait', [1, this.#waitMs ?? 1]).then(
          (count) => (Number(count) >= 1 ? resolve() : reject(new Error('no replica has it'))),
          // Whatever was refused here, what it was to confirm was done.
          (error: unknown) => reject(new Error(`a replica may not have it: ${String(error)}`)),
        );
      });
    });
    this.#waits.set(node, wait);
    return wait;
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.#clock.after(ms, resolve, true));
  }

  #failure({ operation }: Call, code: 'UNKNOWN' | 'UNAVAILABLE', reason: string): StoreError {
    return new StoreError(code, operation, reason);
  }
}

/** A node that is getting a slot, and serves it already to who says ASKING before each command. */
function asking(node: Node): Node {
  return {
    address: node.address,
    get ready() {
      return node.ready;
    },
    get connection() {
      return node.connection;
    },
    change: () => node.change(),
    renew: () => node.renew(),
    call: (command, args) => {
      node.call('asking', []).catch(() => undefined);
      return node.call(command, args);
    },
  };
}

export interface WireOptions {
  readonly clock: Clock;
  readonly commandTimeoutMs: number;
  readonly ack: 'master' | 'replica';
}

/**
 * How a script is sent: one that only reads is said to, so that Redis carries it out also where it takes no
 * writes.
 */
const EVALUATE = { write: ['evalsha', 'eval'], read: ['evalsha_ro', 'eval_ro'] } as const;

/** By its digest; in full if the server does not know it. `sent` is called after each time it was sent. */
async function evaluate(
  node: Node,
  { lua, sha }: Script,
  keys: readonly string[],
  args: Args,
  kind: keyof typeof EVALUATE,
  sent: () => void = () => undefined,
): Promise<unknown> {
  const rest = [keys.length, ...keys, ...args];
  const [bySha, inFull] = EVALUATE[kind];
  try {
    const reply = node.call(bySha, [sha, ...rest]);
    sent();
    return await reply;
  } catch (error) {
    if (judge(error).kind !== 'noscript') throw error;
    const reply = node.call(inFull, [lua, ...rest]);
    sent();
    return await reply;
  }
}
