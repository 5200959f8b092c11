/** A Redis Sentinel: watches a master, and makes a replica of it the master when it is gone. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { binary } from './install.ts';
import { HOST, type Server, startServer } from './processes.ts';
import type { RedisServer } from './redis.ts';

/** How long a master may be silent before it counts as gone. */
const SILENCE_MS = 500;

/** Starts one on loopback, which alone decides. Resolves when it watches the master under the name given. */
export async function startSentinel(name: string, master: RedisServer): Promise<Server> {
  return await startServer({
    name: 'redis-sentinel',
    command: binary('redis-server'),
    url: (port) => `redis://${HOST}:${port}`,
    args: ({ port, directory }) => {
      const config = path.join(directory, 'sentinel.conf');
      // Sentinel writes down in it what it learns.
      writeFileSync(
        config,
        [
          `port ${port}`,
          `bind ${HOST}`,
          `dir ${directory}`,
          `sentinel monitor ${name} ${master.host} ${master.port} 1`,
          `sentinel down-after-milliseconds ${name} ${SILENCE_MS}`,
          `sentinel failover-timeout ${name} 5000`,
          '',
        ].join('\n'),
      );
      return [config, '--sentinel'];
    },
    ready: ({ output }) => output.includes(`+monitor master ${name}`),
  });
}
