/**
 * A TCP proxy between a pod and a server: the link that a test cuts, stalls and leads elsewhere.
 *
 * X1  A cut is a reset: what is under way in either direction may be lost, and both sides learn of it.
 * X2  A stall is silence: connections stay, bytes and ends are held and arrive in order afterwards.
 */
import { connect, createServer, type Server as Listener, type Socket } from 'node:net';
import { freePort, HOST, track } from './processes.ts';

/** `toTarget`: requests; `fromTarget`: answers. */
export type Direction = 'toTarget' | 'fromTarget';

export interface TcpProxy {
  readonly host: string;
  readonly port: number;
  /** How many clients are connected. */
  readonly connections: number;
  /** How many bytes were passed on, over all connections. */
  readonly bytes: Readonly<Record<Direction, number>>;
  /** How many bytes of requests have come and are held. */
  readonly held: number;
  /** Whether this text is among the requests of one connection that have come and are held. */
  holds(text: string): boolean;
  /** `nats://127.0.0.1:<port>` for 'nats'. */
  url(scheme: string): string;
  /** Resets all connections and refuses new ones (X1). */
  cut(): void;
  /** Accepts connections again. */
  restore(): Promise<void>;
  /**
   * Holds bytes (X2), in one direction or, by default, in both; new connections are accepted, and held too. With
   * 'fromTarget' alone a request is carried out and nobody hears of it.
   */
  stall(direction?: Direction): void;
  /** Lets everything flow again. */
  resume(): void;
  /** Resets all connections; new ones go to this port. */
  target(port: number): void;
  /** Cuts, for good. */
  stop(): Promise<void>;
}

/** Starts a proxy on a free loopback port, to a port of loopback. */
export async function startProxy(targetPort: number): Promise<TcpProxy> {
  const proxy = new OwnProxy(targetPort, await freePort());
  await proxy.restore();
  return track(proxy);
}

class OwnProxy implements TcpProxy {
  readonly host = HOST;
  readonly port: number;
  readonly bytes = { toTarget: 0, fromTarget: 0 };
  #targetPort: number;
  #listener: Listener | undefined;
  #stopped = false;
  readonly #links = new Set<Link>();
  readonly #stalled = new Set<Direction>();

  constructor(targetPort: number, port: number) {
    this.#targetPort = targetPort;
    this.port = port;
  }

  get connections(): number {
    return this.#links.size;
  }

  get held(): number {
    return [...this.#links].reduce((sum, { toTarget }) => sum + toTarget.waiting, 0);
  }

  holds(text: string): boolean {
    return [...this.#links].some(({ toTarget }) => toTarget.waits(text));
  }

  url(scheme: string): string {
    return `${scheme}://${HOST}:${this.port}`;
  }

  cut(): void {
    this.#listener?.close();
    this.#listener = undefined;
    this.#reset();
  }

  restore(): Promise<void> {
    if (this.#stopped) return Promise.reject(new Error('the proxy is stopped'));
    if (this.#listener !== undefined) return Promise.resolve();
    const listener = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (client) =>
      this.#join(client),
    );
    this.#listener = listener;
    return new Promise((resolve, reject) => {
      listener.once('error', reject);
      // A cut may come before the listening.
      listener.once('close', resolve);
      listener.listen({ port: this.port, host: HOST, exclusive: true }, resolve);
    });
  }

  stall(direction?: Direction): void {
    for (const one of direction === undefined ? (['toTarget', 'fromTarget'] as const) : [direction]) {
      this.#stalled.add(one);
    }
    this.#regulate();
  }

  resume(): void {
    this.#stalled.clear();
    this.#regulate();
  }

  target(port: number): void {
    this.#targetPort = port;
    this.#reset();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.cut();
  }

  #join(client: Socket): void {
    const target = connect({ port: this.#targetPort, host: HOST, allowHalfOpen: true });
    const link: Link = {
      toTarget: new Flow(client, target, (count) => (this.bytes.toTarget += count)),
      fromTarget: new Flow(target, client, (count) => (this.bytes.fromTarget += count)),
      reset: () => {
        this.#links.delete(link);
        // A socket that is still connecting cannot be reset.
        for (const socket of [client, target])
          socket.connecting ? socket.destroy() : socket.resetAndDestroy();
      },
    };
    this.#links.add(link);
    for (const socket of [client, target]) {
      socket.setNoDelay(true);
      socket.on('error', link.reset);
      // Both ends were passed on: each side closes by itself.
      socket.on('close', () => client.destroyed && target.destroyed && this.#links.delete(link));
    }
    this.#regulate();
  }

  #regulate(): void {
    for (const link of this.#links) {
      link.toTarget.hold(this.#stalled.has('toTarget'));
      link.fromTarget.hold(this.#stalled.has('fromTarget'));
    }
  }

  #reset(): void {
    for (const link of [...this.#links]) link.reset();
  }
}

interface Link extends Record<Direction, Flow> {
  reset(): void;
}

/** What is held of one connection is read, so that it can be looked at; of more than this only that there is some. */
const READ_BYTES = 1024 * 1024;

/** One direction of one connection: not read while enough is held or while the other side does not take more. */
class Flow {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #count: (bytes: number) => void;
  #held = true;
  #full = false;
  #kept: Buffer[] = [];
  #ended = false;

  constructor(from: Socket, to: Socket, count: (bytes: number) => void) {
    this.#from = from;
    this.#to = to;
    this.#count = count;
    from.on('data', (chunk: Buffer) => {
      if (this.#held) this.#kept.push(chunk);
      else this.#pass(chunk);
      this.#regulate();
    });
    from.on('end', () => {
      this.#ended = true;
      if (!this.#held) to.end();
    });
    to.on('drain', () => {
      this.#full = false;
      this.#regulate();
    });
    this.#regulate();
  }

  /** Bytes that have come and were not passed on. */
  get waiting(): number {
    return this.#keptBytes + this.#from.readableLength;
  }

  /** Whether this text is among them. */
  waits(text: string): boolean {
    return Buffer.concat(this.#kept).includes(text);
  }

  hold(held: boolean): void {
    this.#held = held;
    if (!held) for (const chunk of this.#kept.splice(0)) this.#pass(chunk);
    if (!held && this.#ended) this.#to.end();
    this.#regulate();
  }

  get #keptBytes(): number {
    return this.#kept.reduce((sum, { length }) => sum + length, 0);
  }

  #pass(chunk: Buffer): void {
    this.#count(chunk.length);
    this.#full = !this.#to.write(chunk);
  }

  #regulate(): void {
    const enough = this.#held ? this.#keptBytes >= READ_BYTES : this.#full;
    if (enough) this.#from.pause();
    else this.#from.resume();
  }
}
