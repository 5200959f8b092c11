/** A shopping cart in `state`: kept between scripts, and changed as a whole or not at all. */
// In a service of your own: from 'enclave-actors'.
import { createSystem, type ExecutionResult } from '#enclave';
import { bad, good, heading, row } from './support/print.ts';
import { printState } from './support/state.ts';

await using system = await createSystem();
const cart = await system.spawnSession({
  state: { items: [], cents: 0 },
  limits: { maxStateBytes: 1_000 },
});

const ADD = `state.items.push(input.item);
state.cents += input.cents;
return state.items.length + ' in the cart';`;

heading('What a script leaves in `state`, the next one finds');
await show('a lamp', await cart.execute<string>(ADD, { input: { item: 'lamp', cents: 2_900 } }).result);
await show('a chair', await cart.execute<string>(ADD, { input: { item: 'chair', cents: 8_000 } }).result);

heading('A script that fails changes nothing');
await show(
  'a voucher',
  await cart.execute<string>(`state.cents = 0; throw new Error('this voucher has expired')`).result,
);

heading('Nor does one that leaves too much');
await show('a long note', await cart.execute<string>(`state.note = 'please '.repeat(1_000)`).result);

heading('And the cart goes on');
await show('a table', await cart.execute<string>(ADD, { input: { item: 'table', cents: 12_000 } }).result);

/** How a script ended, and the state after it. */
async function show(label: string, result: ExecutionResult<string>): Promise<void> {
  if (result.success) row(label, good(result.value));
  else row(label, `${bad(result.error.code)} ${result.error.message}`);
  await printState(cart);
}
