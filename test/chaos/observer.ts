/** A subscriber that knows NATS and JSON, and nothing of ours: what it hears is what anybody hears. */
import { connect, createInbox, type NatsConnection } from '@nats-io/transport-node';
import type { ExecutionEvent } from '../../src/index.ts';

interface Heard {
  readonly seq: number;
  readonly text: string;
  /** When it came, by this process's monotonic clock, in ms. */
  readonly at: number;
}

/** An answer in the name of a session. */
export interface Answered {
  readonly ok: boolean;
  readonly epoch: number;
  readonly value?: { readonly broker?: string } | undefined;
}

export class Observer {
  readonly #connection: NatsConnection;
  readonly #bySession = new Map<string, Heard[]>();
  /** What runtimes told last: how many scripts they have, and when. */
  readonly #loads = new Map<string, { readonly load: number; readonly at: number }>();

  private constructor(connection: NatsConnection) {
    this.#connection = connection;
    connection.subscribe('enclave.default.runtime.*.heartbeat', {
      callback: (error, message) => {
        if (error !== null) return;
        const { runtime, load } = message.json<{ readonly runtime: string; readonly load: number }>();
        this.#loads.set(runtime, { load, at: performance.now() });
      },
    });
    connection.subscribe('enclave.default.session.*.event.*', {
      callback: (error, message) => {
        if (error !== null) return;
        const text = new TextDecoder().decode(message.data);
        const { sessionId, seq } = JSON.parse(text) as { readonly sessionId: string; readonly seq?: number };
        if (seq === undefined) return; // Heartbeats have no number.
        const heard = this.#bySession.get(sessionId) ?? [];
        heard.push({ seq, text, at: performance.now() });
        this.#bySession.set(sessionId, heard);
      },
    });
  }

  /** How many scripts a runtime told to have since `since`; undefined if it has told nothing. */
  load(runtime: string, since: number): number | undefined {
    const told = this.#loads.get(runtime);
    return told !== undefined && told.at >= since ? told.load : undefined;
  }

  /** Ask whoever hears the commands of a session what it knows of it, and listen to everybody who answers. */
  ask(session: string): readonly Answered[] {
    const answers: Answered[] = [];
    const inbox = createInbox();
    this.#connection.subscribe(inbox, {
      callback: (error, message) => {
        // Whoever is not subscribed is told by the server, without a body.
        if (error !== null || message.data.length === 0) return;
        answers.push(JSON.parse(new TextDecoder().decode(message.data)) as Answered);
      },
    });
    const body = JSON.stringify({ t: 'info' });
    this.#connection.publish(`enclave.default.session.${session}.cmd`, body, { reply: inbox });
    return answers;
  }

  static async start(url: string): Promise<Observer> {
    const connection = await connect({ servers: url, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
    const observer = new Observer(connection);
    await connection.flush();
    return observer;
  }

  /** Everything that was published of a session, in the order of arrival, repetitions included. */
  heard(session: string): readonly Heard[] {
    return this.#bySession.get(session) ?? [];
  }

  /** When a line of output was heard that begins like this; undefined if none was. */
  printed(session: string, text: string): number | undefined {
    return this.heard(session).find((heard) => {
      const { type, payload } = JSON.parse(heard.text) as ExecutionEvent;
      return type === 'stdout' && payload.chunk.startsWith(text);
    })?.at;
  }

  /** When the end of an execution was heard; undefined if it was not. */
  ended(session: string, execution: string): number | undefined {
    return this.heard(session).find((heard) => {
      const { type, executionId } = JSON.parse(heard.text) as ExecutionEvent;
      return type === 'final' && executionId === execution;
    })?.at;
  }

  async stop(): Promise<void> {
    await this.#connection.close();
  }
}
