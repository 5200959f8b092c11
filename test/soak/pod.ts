/**
 * The command line, for pods of the soak. Once it has drained, the real one ends its process whatever is left; this
 * one does not, so that a timer or a socket that was left behind is seen: it keeps the process alive.
 */
import { answerProbes, shouldEnd } from './probe.ts';

answerProbes(process.env.ENCLAVE_TEST_DIR ?? '/tmp');
const exit = process.exit.bind(process);
process.exit = ((code?: number) => {
  if (code !== undefined && code !== 0) return exit(code);
  shouldEnd();
}) as typeof process.exit;

await import('../../src/cli.ts');
