/** The scaling guide's three distributed snippets as three processes, over a NATS server and a Redis of this machine. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { good, heading, row } from './support/print.ts';
import { freePort, startServers } from './support/servers.ts';

const guide = path.join(import.meta.dirname, 'guide');
await using servers = await startServers();
const port = await freePort();
const env = {
  ...process.env,
  BROKER_URL: servers.natsUrl,
  REDIS_URL: servers.redisUrl,
  PORT: String(port),
  REGION: 'here',
};

function snippet(name: string): ChildProcess {
  return spawn(process.execPath, [path.join(guide, `${name}.ts`)], {
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}

/** Resolves when the broker's readiness endpoint says so. */
async function ready(): Promise<void> {
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
    if (answer?.ok === true) return;
    await delay(50);
  }
}

heading('A broker and a runtime, as the guide writes them');
const broker = snippet('broker');
const runtime = snippet('runtime');
await ready();
row('broker', good('ready'));

heading('A client');
const client = snippet('client');
const [code] = (await once(client, 'exit')) as [number];

heading('SIGTERM: both drain and end by themselves');
for (const [name, child] of Object.entries({ runtime, broker })) {
  child.kill('SIGTERM');
  const [exit, signal] = (await once(child, 'exit')) as [number | null, string | null];
  row(name, exit === 0 ? good('exit code 0') : `exit code ${exit}, ${signal}`);
}
process.exitCode = code;
