/**
 * The tools of the tests' broker pods. What they did is in files of the directory ENCLAVE_TEST_DIR, one line a landing,
 * so that a test can count it whatever died meanwhile.
 */
import { appendFileSync, existsSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { defineTool } from '../../src/index.ts';

const directory = process.env.ENCLAVE_TEST_DIR ?? '/tmp';
const land = (name: string, key: string, what: unknown): void =>
  appendFileSync(path.join(directory, `${name}.log`), `${JSON.stringify({ key, what, pid: process.pid })}\n`);

interface Args {
  readonly n?: number;
  readonly gate?: string;
  readonly ms?: number;
}

/** Waits until the test makes the file of the gate, or the call is aborted. */
async function pass(gate: string, signal: AbortSignal): Promise<void> {
  while (!existsSync(path.join(directory, `${gate}.open`))) await delay(10, undefined, { signal });
}

export default [
  defineTool({
    name: 'ledger:add',
    effect: 'idempotent',
    handler: (args, { idempotencyKey }) => {
      land('ledger', idempotencyKey, args);
      return { added: (args as Args).n ?? 0 };
    },
  }),
  defineTool({
    name: 'ledger:once',
    handler: (args, { idempotencyKey }) => {
      land('once', idempotencyKey, args);
      return { landed: (args as Args).n ?? 0 };
    },
  }),
  defineTool({
    name: 'ledger:look',
    effect: 'read',
    handler: (args) => ({ seen: (args as Args).n ?? 0 }),
  }),
  defineTool({
    name: 'gate:pass',
    handler: async (args, { signal, idempotencyKey }) => {
      const { gate = 'gate' } = args as Args;
      land(`${gate}.waiting`, idempotencyKey, args);
      await pass(gate, signal);
      return { passed: gate };
    },
  }),
  defineTool({
    name: 'gate:put',
    effect: 'idempotent',
    handler: async (args, { signal, idempotencyKey }) => {
      const { gate = 'gate' } = args as Args;
      land(`${gate}.waiting`, idempotencyKey, args);
      await pass(gate, signal);
      return { passed: gate };
    },
  }),
  defineTool({
    name: 'slow:look',
    effect: 'read',
    handler: async (args, { signal }) => {
      await delay((args as Args).ms ?? 10, undefined, { signal });
      return { waited: (args as Args).ms ?? 10 };
    },
  }),
];
