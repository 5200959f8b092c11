/** Reading a session's events with a plain NATS client, also those that it missed while it was away. */
// In a service of your own: from 'enclave-actors'.
import { createSystem, defineTool } from '#enclave';
import { bad, good, heading, name, row } from './support/print.ts';
import { returned } from './support/returned.ts';
import { startServers } from './support/servers.ts';
import { Follower, type SessionEvent } from './support/subscriber.ts';

await using servers = await startServers();
const weigh = defineTool({ name: 'letters:weigh', effect: 'read', handler: () => ({ grams: 20 }) });
await using system = await createSystem({
  nats: servers.natsUrl,
  redis: servers.redisUrl,
  roles: ['broker', 'runtime'],
  tools: [weigh],
  pool: { poolSize: 1 },
});
const session = await system.spawnSession({ id: 'post-office' });

// From here on the subscriber: it knows NATS, JSON and EVENTS.md, and could be any program in any language.
const seen: number[] = [];
let ended = (): void => undefined;
const follow = (fromSeq: number): Promise<Follower> =>
  Follower.start({
    connection: { servers: servers.natsUrl },
    session: 'post-office',
    fromSeq,
    onEvent: (event) => {
      seen.push(event.seq);
      row(name(`${event.seq} ${event.type}`.padEnd(24)), summary(event));
      if (event.type === 'final') ended();
    },
    onMissing: (from, to) => row(bad('gone'), `${from} to ${to}`),
  });
const oneEnd = (): Promise<void> => new Promise((resolve) => (ended = resolve));

function summary({ payload }: SessionEvent): string {
  const { chunk, message, args, result, ok = '' } = payload;
  return JSON.stringify(chunk ?? message ?? args ?? result ?? ok).replace(/^""$/, '');
}

heading('Live');
const first = await follow(1);
const morning = oneEnd();
returned(
  await session.execute(`console.log('open'); return await tools.letters.weigh({ to: input })`, {
    input: 'Lisbon',
  }).result,
);
await morning;

heading('The subscriber is away');
await first.stop();
returned(await session.execute(`console.warn('nobody hears this'); return 'stamped'`).result);
row('missed', `${(await session.info()).seq - seen.length} events`);

heading('Back: what was missed is read from the log, what comes is heard');
const afternoon = oneEnd();
const second = await follow(first.next);
await afternoon;
const evening = oneEnd();
returned(await session.execute(`console.log('closed')`).result);
await evening;
await second.stop();

heading('In all');
const isWhole = seen.every((seq, index) => seq === index + 1) && seen.length === (await session.info()).seq;
row('events', isWhole ? good(`1 to ${seen.length}, each once, no gap`) : bad(seen.join(' ')));
