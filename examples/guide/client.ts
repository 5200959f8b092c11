/** The scaling guide's client. Everything between the two rules is the guide's own text; only the import is another. */
// In a service of your own: from 'enclave-actors'.
import { EnclaveClient } from '#enclave';
import { good, row } from '../support/print.ts';

// ---- api/client.ts ---------------------------------------------------------------------------------------

const client = new EnclaveClient({
  serverUrl: process.env.BROKER_URL,

  // Reconnection
  reconnection: {
    enabled: true,
    maxAttempts: 5,
    backoffMultiplier: 2,
  },

  // Request timeout
  timeout: 60000,
});

// ----------------------------------------------------------------------------------------------------------

const session = await client.spawnSession({ labels: { region: 'here' } });
const script = `const user = await callTool('users:get', { id: 7 });
state.greeted = (state.greeted ?? 0) + 1;
return 'Hello, ' + user.name;`;
const first = await session.execute<string>(script).result;
const second = await session.execute<string>(script).result;
const { state, owner } = await session.info();
row('script', first.success && second.success ? good(second.value) : 'failed');
row('state', JSON.stringify(state));
row('owner', owner ?? 'nobody');
const single = await client.run<number>('return input.a * input.b', { input: { a: 6, b: 7 } });
row('stateless', single.success ? good(String(single.value)) : single.error.code);
await client.close();
