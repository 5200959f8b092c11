/**
 * How fast sessions with work in flight that nobody waits for are taken over once their broker is dead, on real servers:
 * the figure of CAPACITY.md.
 *
 *   node test/bench/takeover.ts [--sessions N]
 *
 * One broker gets them all, each with an execution that waits for a runtime that is not there. Another broker starts, the first is
 * killed, and the second counts what it takes over.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { EnclaveClient } from '../../src/index.ts';
import { startNats } from '../support/nats.ts';
import { type Pod, startBrokerPod } from '../support/pods.ts';
import { stopAll, waitUntil } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';

const { values } = parseArgs({ options: { sessions: { type: 'string', default: '2000' } } });
const SESSIONS = Number(values.sessions);
/** Requests under way at once. */
const LANES = 32;
const PATIENCE_MS = 300_000;
const ADMISSION = JSON.stringify({ maxWaiting: 1_000_000 });
const ARGS = ['--hibernate-after', '86400000', '--admission', ADMISSION, '--log-level', 'error'];

/** Sessions with an actor there. */
async function taken(broker: Pod): Promise<number> {
  const { text } = await broker.get('/metrics');
  const counts = [...text.matchAll(/^enclave_sessions\{.*\} (\d+)$/gm)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}

try {
  const [nats, redis] = await Promise.all([startNats(), startRedis()]);
  const place = { nats: nats.url, redis: redis.url, args: ARGS };
  const first = await startBrokerPod(place);
  const client = new EnclaveClient({ serverUrl: nats.url });
  const left = Array.from({ length: SESSIONS }).values();
  const began = performance.now();
  await Promise.all(
    Array.from({ length: LANES }, async () => {
      for (const _ of left) {
        const session = await client.spawnSession();
        await session.execute('return 1').accepted;
      }
    }),
  );
  console.log(`${SESSIONS} sessions were made in ${((performance.now() - began) / 1_000).toFixed(1)} s`);
  await client.close();
  const second = await startBrokerPod(place);
  await first.kill();
  const killed = performance.now();
  const since = (): number => (performance.now() - killed) / 1_000;
  const reached = async (count: number): Promise<number> => {
    await waitUntil(
      async () => {
        if ((await taken(second)) >= count) return true;
        await delay(100);
        return false;
      },
      `${count} sessions are taken over`,
      PATIENCE_MS,
    );
    return since();
  };
  console.log(`the first was taken over ${(await reached(1)).toFixed(1)} s after SIGKILL`);
  console.log(`the last was taken over ${(await reached(SESSIONS)).toFixed(1)} s after SIGKILL`);
} finally {
  await stopAll();
}
