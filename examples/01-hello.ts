/** Run a script that calls a tool. */
// In a service of your own: from 'enclave-actors'.
import { z } from 'zod';
import { defineTool, Enclave } from '#enclave';

const greet = defineTool({
  name: 'greet',
  input: z.object({ who: z.string() }),
  handler: ({ who }) => `Hello, ${who}!`,
});

await using enclave = new Enclave({ tools: [greet] });
const result = await enclave.run<string>(`return await callTool('greet', { who: 'isolated world' })`);
console.log(result.success ? result.value : result.error);
