/** A NATS server and a Redis for one example, on free ports of this machine. They end with it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const HOST = '127.0.0.1';
const PATIENCE_MS = 10_000;

export interface Servers extends AsyncDisposable {
  readonly natsUrl: string;
  readonly redisUrl: string;
}

/** Start both. Rejects with a message that says what is missing. */
export async function startServers(): Promise<Servers> {
  const folder = mkdtempSync(path.join(tmpdir(), 'enclave-example-'));
  const [natsPort, redisPort] = [await freePort(), await freePort()];
  const children: ChildProcess[] = [];
  const stop = async (): Promise<void> => {
    for (const child of children)
      if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit');
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    children.push(start('nats-server', ['-a', HOST, '-p', String(natsPort)]));
    children.push(
      start('redis-server', [
        '--bind',
        HOST,
        '--port',
        String(redisPort),
        '--dir',
        folder,
        '--appendonly',
        'yes',
      ]),
    );
    await Promise.all([listens(natsPort, 'nats-server'), listens(redisPort, 'redis-server')]);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    natsUrl: `nats://${HOST}:${natsPort}`,
    redisUrl: `redis://${HOST}:${redisPort}`,
    [Symbol.asyncDispose]: stop,
  };
}

function start(program: string, args: readonly string[]): ChildProcess {
  const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/usr/local/sbin` };
  const child = spawn(program, args, { stdio: 'ignore', env });
  child.on('error', () => undefined); // Whoever waits for its port says so.
  return child;
}

async function listens(port: number, program: string): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (performance.now() < end) {
    if (await accepts(port)) return;
    await delay(20);
  }
  throw new Error(
    `${program} does not start: is it installed? On Debian: apt-get install nats-server redis-server`,
  );
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, HOST);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, HOST, () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
