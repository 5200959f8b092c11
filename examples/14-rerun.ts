/** An execution went wrong. It is run again from its journal, to see why, and no tool is called. */
// In a service of your own: from 'enclave-actors'.
import { createSystem, defineTool } from '#enclave';
import { bad, good, heading, row } from './support/print.ts';
import { printTrace } from './support/trace.ts';

// One of these was entered by somebody in a hurry.
const CATALOGUE = new Map<string, object>([
  ['lamp', { cents: 2_900 }],
  ['chair', { price: 8_000 }],
  ['table', { cents: 12_000 }],
]);

let calls = 0;
const lookUp = defineTool({
  name: 'catalogue:get',
  handler: (item) => {
    calls++;
    return CATALOGUE.get(String(item));
  },
});

const SCRIPT = `let total = 0;
for (const item of input) {
  const { cents } = await tools.catalogue.get(item);
  total += cents;
}
if (!(total > 0)) throw new RangeError('the total cannot be ' + total);
return total;`;

await using system = await createSystem({ tools: [lookUp] });
const session = await system.spawnSession();

heading('What the user saw');
const { id, result } = session.execute<number>(SCRIPT, { input: [...CATALOGUE.keys()] });
const ended = await result;
row('total', ended.success ? good(String(ended.value)) : bad(ended.error.message));
row('tool', `called ${calls} times`);

heading('What the script did, step by step');
const report = await system.rerun(id, { sessionId: session.id });
printTrace(report.trace);

heading('The rerun');
row('verdict', `${good(report.verdict)}: ${report.difference ?? 'it ended as it did then'}`);
row('tool', `called ${calls} times, as before`);
