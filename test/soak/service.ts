/** A service that provides tools: `node service.ts <nats url> <id>`. At SIGTERM it drains, and must end by itself. */
import { provideTools } from '../../src/index.ts';
import tools from '../support/podtools.ts';
import { answerProbes, shouldEnd } from './probe.ts';
import { OF_THE_SERVICE } from './tools.ts';

const [url = '', id = ''] = process.argv.slice(2);
answerProbes(process.env.ENCLAVE_TEST_DIR ?? '/tmp');
const own = tools.filter(({ name }) => OF_THE_SERVICE.includes(name));
const service = await provideTools(url, own, { id });
// As a service has something to do: its link alone keeps no process up.
const awake = setInterval(() => undefined, 60_000);
process.once('SIGTERM', () => {
  void service.drain().then(() => {
    clearInterval(awake);
    shouldEnd();
  });
});
process.stdout.write('ready\n');
