/** Real nats-servers for tests. */
import { randomUUID } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { binary } from './install.ts';
import { HOST, type Server, startServer } from './processes.ts';

export interface NatsOptions {
  /** A configuration file, or the text of one. Port, host and name are set over it. Default: short pings. */
  readonly config?: string | undefined;
  /** More arguments of nats-server. */
  readonly args?: readonly string[] | undefined;
  /** Default: a free one. */
  readonly port?: number | undefined;
}

export interface NatsServer extends Server {
  /** The monitoring endpoint: `/varz`, `/connz`, `/subsz`. */
  readonly monitorUrl: string;
}

/** A test should learn in a second or two that a peer is gone. */
const SHORT_PINGS = 'ping_interval: "1s"\nping_max: 2\n';

/** Starts a nats-server on loopback. Resolves when it greets. */
export async function startNats(options: NatsOptions = {}): Promise<NatsServer> {
  const { config = SHORT_PINGS, args = [], port } = options;
  const name = `test-${randomUUID()}`;
  const server = await startServer({
    name: 'nats-server',
    command: binary('nats-server'),
    port,
    url: (own) => `nats://${HOST}:${own}`,
    args: (place) => [
      ...['-c', fileOf(config, place.directory), '-a', HOST, '-p', String(place.port)],
      ...['-m', String(place.secondPort), '-n', name, ...args],
    ],
    ready: async (_, own) => (await greeting(own)).includes(name),
  });
  return Object.assign(server, { monitorUrl: `http://${HOST}:${server.secondPort}` });
}

function fileOf(config: string, directory: string): string {
  if (existsSync(config)) return config;
  const path = join(directory, 'nats.conf');
  writeFileSync(path, config);
  return path;
}

/** The INFO line that a nats-server sends first, in the clear also where TLS follows. */
function greeting(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(port, HOST);
    const end = (): void => {
      socket.destroy();
      resolve(text);
    };
    socket.setEncoding('utf8').setTimeout(1000, end);
    socket.on('error', reject).on('close', end);
    socket.on('data', (part: string) => {
      text += part;
      if (text.includes('\n')) end();
    });
  });
}
