/** A plain NATS service: answers each request with what a stateless run is answered with. */
import { connect } from '@nats-io/transport-node';

const connection = await connect({ servers: process.argv[2] ?? '' });
const result = JSON.stringify({
  success: true,
  value: 0,
  stats: { durationMs: 1, queuedMs: 0, cpuMs: 0.5, toolCallCount: 0, iterations: 0, bytes: 0 },
});
connection.subscribe('bench.bare', {
  callback: (_, message) => {
    const { run } = message.json<{ readonly run: string }>();
    message.respond(JSON.stringify({ ok: true, value: { home: run, result }, epoch: 0 }));
  },
});
await connection.flush();
process.stdout.write('ready\n');
