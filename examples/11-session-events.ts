/** Three ways to read what happens: one execution's events, a session's from any point on, everybody's. */
// In a service of your own: from 'enclave-actors'.
import { createSystem, defineTool } from '#enclave';
import { printEvent } from './support/events.ts';
import { good, heading, name, row } from './support/print.ts';
import { returned } from './support/returned.ts';

const books = defineTool({
  name: 'books:find',
  effect: 'read',
  handler: () => ['Dune', 'Emma', 'Ulysses'],
});
await using system = await createSystem({ tools: [books] });
const session = await system.spawnSession({ id: 'reader' });

heading('One execution, as it happens');
const run = session.execute(
  `const found = await tools.books.find({ shelf: input });
console.log('%d books on shelf %d', found.length, input);
state.next = found[0];`,
  { input: 3 },
);
for await (const event of run) printEvent(event);

// Nobody reads along here. The events are in the log all the same.
const quiet = session.execute<string>(`console.log('reading %s', state.next); return 'a good book'`);
row('returned', good(returned(await quiet.result)));

// Numbers go on from one execution to the next. Whoever was cut off asks for what comes after the last one seen.
heading('A late reader, from event 4 on');
for await (const event of session.events({ fromSeq: 4 })) {
  printEvent(event);
  if (event.type === 'final' && event.executionId === quiet.id) break;
}

heading('Everybody at once');
const watching = watchAll(2);
const [ana, ben] = await Promise.all([
  system.spawnSession({ id: 'ana' }),
  system.spawnSession({ id: 'ben' }),
]);
ana.execute(`for (const word of ['one', 'two']) { console.log(word); await sleep(20); }`);
ben.execute(`for (const word of ['uno', 'due']) { console.log(word); await sleep(20); }`);
await watching;

/** Print what all sessions say until so many executions have ended. */
async function watchAll(executions: number): Promise<void> {
  let left = executions;
  for await (const event of system.events()) {
    if (event.type === 'stdout') row(name(event.sessionId), event.payload.chunk.trimEnd());
    if (event.type !== 'final') continue;
    row(name(event.sessionId), event.payload.ok ? good('done') : 'failed');
    if (--left === 0) return;
  }
}
