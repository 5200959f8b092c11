/** A session: scripts that run one after another and share a `state`. No server is needed. */
// In a service of your own: from 'enclave-actors'.
import { z } from 'zod';
import { createSystem, defineTool } from '#enclave';

const getUser = defineTool({
  name: 'users:get',
  effect: 'read',
  input: z.object({ id: z.int() }),
  handler: ({ id }) => ({ name: id === 7 ? 'Ada' : 'nobody' }),
});

await using system = await createSystem({ tools: [getUser] });
const session = await system.spawnSession();

const first = session.execute<string>(
  `state.user = await tools.users.get({ id: 7 }); return 'Hello, ' + state.user.name`,
);
console.log(await first.result);

const second = await session.execute<string>(`return 'Hello again, ' + state.user.name`).result;
console.log(second.success ? second.value : second.error);

console.log(await session.info());
