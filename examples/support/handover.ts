/** A session is handed to another broker under a script, and the script does not notice. */
// In a service of your own: from 'enclave-actors'.
import type { SessionRef } from '#enclave';
import { dim, good, ms, name, row } from './print.ts';
import { returned } from './returned.ts';
import { printState } from './state.ts';

const LINES = 8;
const HAND_OVER_AFTER = 3;
const SCRIPT = `for (let line = 1; line <= ${LINES}; line++) {
  console.log('line', line);
  await sleep(50);
}
state.lines = ${LINES};
return 'all ${LINES} lines';`;

/** Hand the session over in the middle of a script, in a system of at least two brokers. */
export async function migrateUnderway(session: SessionRef): Promise<void> {
  const before = await session.info();
  row('owner', `${name(String(before.owner))}, epoch ${before.epoch}`);
  const run = session.execute<string>(SCRIPT);
  const arrivals: number[] = [];
  let handover: Promise<void> | undefined;
  let { seq } = before;
  for await (const event of run) {
    if (event.seq !== ++seq) throw new Error(`event ${seq} is missing: here is ${event.seq}`);
    if (event.type !== 'stdout') continue;
    arrivals.push(performance.now());
    row('script', `${event.payload.chunk.trimEnd()}  ${dim(`event ${event.seq}`)}`);
    if (arrivals.length === HAND_OVER_AFTER) handover = migrate(session, before.owner);
  }
  await handover;
  const result = await run.result;
  row('script', good(`finished: "${returned(result)}"`));
  const after = await session.info();
  row('owner', `${name(String(after.owner))}, epoch ${after.epoch}`);
  row('events', `${before.seq + 1} to ${seq}, no gap; attempts of the script: ${result.stats.attempts}`);
  row('pause', pauses(arrivals));
  await printState(session);
}

async function migrate(session: SessionRef, from: string | undefined): Promise<void> {
  const start = performance.now();
  const { owner } = await session.migrate();
  row('migrate', `from ${name(String(from))} to ${name(owner)}, in ${ms(performance.now() - start)}`);
}

/** The pause over the handover beside the longest one of the others. */
function pauses(arrivals: readonly number[]): string {
  const all = arrivals.slice(1).map((at, index) => at - (arrivals[index] ?? at));
  const [pause = 0] = all.splice(HAND_OVER_AFTER - 1, 1);
  return `${ms(pause)} between the lines around it; elsewhere up to ${ms(Math.max(...all))}`;
}
