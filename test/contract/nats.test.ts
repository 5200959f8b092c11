/** The contract of the bus on a real nats-server: handles of one connection, and a connection for each handle. */
import { NatsLink } from '../../src/bus/nats.ts';
import { startNats } from '../support/nats.ts';
import { busContract } from './bus.ts';

busContract('NATS', async () => {
  const server = await startNats();
  const link = await NatsLink.open({ servers: server.url });
  return {
    connect: () => link.connect(),
    close: async () => {
      await link.close();
      await server.stop();
    },
  };
});

busContract('NATS, a connection each,', async () => {
  const server = await startNats();
  const links: NatsLink[] = [];
  return {
    connect: async () => {
      const link = await NatsLink.open({ servers: server.url });
      links.push(link);
      return link.connect();
    },
    close: async () => {
      await Promise.all(links.map((link) => link.close()));
      await server.stop();
    },
  };
});
