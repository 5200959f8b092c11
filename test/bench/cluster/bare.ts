/**
 * What the servers give to whoever uses them plainly: request-reply of NATS with a responder in a process of its own,
 * and fenced commits of Redis. Bodies are as large as those of a run and of an execution.
 */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { connect } from '@nats-io/transport-node';
import { Redis } from 'ioredis';
import { Launched, waitUntil } from '../../support/processes.ts';
import { SIMPLE } from '../scripts.ts';
import type { Processes } from './cpu.ts';

export interface Bare {
  request(n: number): Promise<void>;
  readonly processes: Processes;
  close(): Promise<void>;
}

const RESPONDER = fileURLToPath(new URL('responder.ts', import.meta.url));
const LIMITS = { timeoutMs: 30_000, cpuMs: 30_000, memoryBytes: 134_217_728, maxToolCalls: 100 };
const SIZES = { maxSourceBytes: 1_048_576, maxResultBytes: 1_048_576, maxOutputBytes: 1_048_576 };

/** Plain request-reply over NATS; the responder counts as broker. */
export async function openBareNats(url: string): Promise<Bare> {
  const responder = new Launched(process.execPath, [RESPONDER, url]);
  await waitUntil(() => responder.output.includes('ready'), 'the responder is ready');
  const connection = await connect({ servers: url });
  return {
    request: async (n) => {
      const body = {
        ...{
          run: `run-${randomUUID()}`,
          source: SIMPLE.source(n),
          input: '',
          limits: { ...LIMITS, ...SIZES },
        },
        ...{ seed: [1, 2, 3, 4], isolation: 'context', tenant: '', labels: {}, events: false },
        tell: 'enclave.bench.client.0198c5c4-0000-7000-8000-000000000000.result',
      };
      const reply = await connection.request('bench.bare', JSON.stringify(body), { timeout: 10_000 });
      if (!reply.json<{ readonly ok: boolean }>().ok) throw new Error('the responder refused');
    },
    processes: { broker: [responder.pid] },
    close: async () => {
      await connection.close();
      await responder.kill();
    },
  };
}

const FENCED = `if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'snapshot', ARGV[2], 'version', ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'e', ARGV[4])
return 1`;
const SESSIONS = 16;

/** One fenced step per request: a snapshot and an event. */
export async function openBareCommits(url: string): Promise<Bare> {
  const redis = new Redis(url);
  const sha = String(await redis.script('LOAD', FENCED));
  for (let session = 0; session < SESSIONS; session++) await redis.hset(`{bare-${session}}`, 'epoch', '1');
  const snapshot = JSON.stringify({ text: 'x'.repeat(1_500) });
  const event = JSON.stringify({ type: 'final', text: 'x'.repeat(200) });
  return {
    request: async (n) => {
      const key = `{bare-${n % SESSIONS}}`;
      const kept = await redis.evalsha(sha, 2, key, `${key}:events`, '1', snapshot, String(n), event);
      if (kept !== 1) throw new Error('a commit was fenced');
    },
    processes: {},
    close: async () => {
      await redis.quit();
    },
  };
}
