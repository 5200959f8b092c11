/** A service that provides tools and is no broker, as a process of its own: `node service.ts <nats url> <id>`. */
import { appendFileSync, existsSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { defineTool, provideTools } from '../../src/index.ts';

const [url = '', id = ''] = process.argv.slice(2);
const directory = process.env.ENCLAVE_TEST_DIR ?? '/tmp';

/** Writes its calls down, and waits for the gate that it is called with. */
const gated = async (args: unknown, key: string, signal: AbortSignal): Promise<unknown> => {
  const { gate } = args as { readonly gate: string };
  const line = JSON.stringify({ key, what: args, pid: process.pid });
  appendFileSync(path.join(directory, `${gate}.waiting.log`), `${line}\n`);
  while (!existsSync(path.join(directory, `${gate}.open`))) await delay(10, undefined, { signal });
  return { passed: gate };
};

await provideTools(
  url,
  [
    defineTool({
      name: 'service:put',
      effect: 'idempotent',
      handler: (args, { idempotencyKey, signal }) => gated(args, idempotencyKey, signal),
    }),
    defineTool({
      name: 'service:send',
      handler: (args, { idempotencyKey, signal }) => gated(args, idempotencyKey, signal),
    }),
  ],
  { id },
);
process.stdout.write('ready\n');
