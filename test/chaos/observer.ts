/** A subscriber that knows NATS and JSON, and nothing of ours: what it hears is what anybody hears. */
import { connect, type NatsConnection } from '@nats-io/transport-node';

interface Heard {
  readonly seq: number;
  readonly text: string;
}

export class Observer {
  readonly #connection: NatsConnection;
  readonly #bySession = new Map<string, Heard[]>();

  private constructor(connection: NatsConnection) {
    this.#connection = connection;
    connection.subscribe('enclave.default.session.*.event.*', {
      callback: (error, message) => {
        if (error !== null) return;
        const text = new TextDecoder().decode(message.data);
        const { sessionId, seq } = JSON.parse(text) as { readonly sessionId: string; readonly seq?: number };
        if (seq === undefined) return; // Heartbeats have no number.
        const heard = this.#bySession.get(sessionId) ?? [];
        heard.push({ seq, text });
        this.#bySession.set(sessionId, heard);
      },
    });
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

  async stop(): Promise<void> {
    await this.#connection.close();
  }
}
