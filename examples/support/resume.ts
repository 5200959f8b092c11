/** The worker of a session's script is killed, and the script goes on in another runtime. */
import { z } from 'zod';
// In a service of your own: from 'enclave-actors'.
import { defineTool, type SessionRef, type System, type Tool } from '#enclave';
import { bad, good, name, row } from './print.ts';
import { returned } from './returned.ts';
import { printState } from './state.ts';

const SCRIPT = `const ticket = Math.floor(Math.random() * 1_000_000);
const card = await tools.cards.charge({ cents: input.cents });
console.log('ticket', ticket, 'is paid by charge', card.charge);
await sleep(250); // The worker is killed here.
state.tickets.push(ticket);
return ticket;`;

let charges = 0;

/** A tool that must not happen twice: it is `unsafe`, so nothing ever calls it again to be sure. */
export const cardTool: Tool = defineTool({
  name: 'cards:charge',
  effect: 'unsafe',
  input: z.object({ cents: z.int().positive() }),
  handler: () => ({ charge: ++charges }),
});

/** What {@link resumeElsewhere} needs a session to begin with. */
export const NO_TICKETS = { tickets: [] };

/**
 * Kill the worker in the middle of a script, in a system of two runtimes that has {@link cardTool}. The session's
 * state began as {@link NO_TICKETS}.
 */
export async function resumeElsewhere(system: System, session: SessionRef): Promise<void> {
  charges = 0;
  await printState(session);
  const run = session.execute<number>(SCRIPT, { input: { cents: 4_200 } });
  let lost = '';
  for await (const event of run) {
    if (event.type !== 'stdout') continue;
    row('script', event.payload.chunk.trimEnd());
    lost = killWorkerAboard(system);
  }
  const result = await run.result;
  const ticket = returned(result);
  const { runtime } = await session.info();
  row(
    'script',
    `${good(`finished: ticket ${ticket}`)}, begun on ${name(lost)}, ended on ${name(String(runtime))}`,
  );
  row('card', `charged: ${charges}; attempts of the script: ${result.stats.attempts}`);
  await printState(session);
}

/** SIGKILL the worker that has a script aboard, and return the runtime that it belonged to. */
function killWorkerAboard(system: System): string {
  for (const [runtime, { workers }] of Object.entries(system.stats())) {
    const worker = workers.find(({ aboard }) => aboard > 0);
    if (worker === undefined) continue;
    process.kill(worker.pid, 'SIGKILL');
    row('SIGKILL', bad(`worker ${worker.id} of ${runtime}, process ${worker.pid}`));
    return runtime;
  }
  throw new Error('no worker has a script aboard');
}
