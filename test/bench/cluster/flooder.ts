/**
 * A tenant that floods: a process of its own, so that what it costs its own client is not the other tenant's loss.
 *
 *   node test/bench/cluster/flooder.ts <nats> <namespace> <requests a second>
 *
 * Says `ready` on its standard output when it is connected. Floods from the word `go` on its standard input until that
 * ends.
 */
import { createInterface } from 'node:readline';
import { EnclaveClient } from './built.ts';
import { floodAt } from './paced.ts';

/** Whoever floods does not wait for ever. */
const PATIENCE_MS = 2_000;

const [nats = '', namespace = '', rate = ''] = process.argv.slice(2);
const client = new EnclaveClient({ serverUrl: nats, namespace, timeout: PATIENCE_MS });
await client.connect();
process.stdout.write('ready\n');
let stop: () => number = () => 0;
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'go') stop = floodAt(Number(rate), (source) => client.run(source, { tenant: 'flood' }));
  if (line === 'stop') process.stdout.write(`sent ${stop()}\n`);
}
stop();
await client.close();
