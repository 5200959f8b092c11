/** A client as a process of its own, which executes one script and tells what it got: `node asker.ts <nats url> <Asked>`. */
import { EnclaveClient, type ExecutionResult } from '../../src/index.ts';

/** As JSON. */
export interface Asked {
  readonly session: string;
  readonly script: string;
  readonly deadlineMs?: number | undefined;
}

export interface Answer {
  readonly execution: string;
  readonly result: ExecutionResult;
  /** By its own monotonic clock, from when it asked until it knew the result, in ms. */
  readonly tookMs: number;
  /** What its wall clock said, in ms since the epoch. */
  readonly at: number;
}

if (import.meta.main) {
  const [url = '', text = ''] = process.argv.slice(2);
  const { session, script, deadlineMs } = JSON.parse(text) as Asked;
  const client = new EnclaveClient({ serverUrl: url, timeout: 60_000 });
  await client.connect();
  const from = performance.now();
  const run = client
    .session(session)
    .execute(script, deadlineMs === undefined ? {} : { limits: { deadlineMs } });
  const result = await run.result;
  const answer: Answer = {
    execution: run.id,
    result,
    tookMs: performance.now() - from,
    at: Date.now(),
  };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
  await client.close();
}
