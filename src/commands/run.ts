/** `enclave run`: one script, in the cluster or in this process. */
import { readFile } from 'node:fs/promises';
import type { ExecutionEvent } from '../../actors/events.ts';
import type { NatsOptions } from '../bus/nats.ts';
import { EnclaveClient } from '../client.ts';
import { Enclave } from '../enclave.ts';
import type { ExecutionResult } from '../result.ts';

export interface RunCommand {
  /** `-` for the standard input. */
  readonly file: string;
  readonly input: unknown;
  /** Undefined: in this process. */
  readonly nats: NatsOptions | undefined;
  readonly namespace: string | undefined;
  /** Run it in this session. */
  readonly session: string | undefined;
  readonly labels: Readonly<Record<string, string>> | undefined;
  readonly timeoutMs: number | undefined;
  /** Print the whole result as JSON. */
  readonly json: boolean;
}

/** Beyond the script's own time its result is waited for, in ms: it may wait for a runtime first. */
const PATIENCE_MS = 60_000;

/** Print what the script prints, then what it returns. Resolves to the exit code. */
export async function runFile(command: RunCommand): Promise<number> {
  const code = await read(command.file);
  const result = await (command.nats === undefined ? runHere(code, command) : runThere(code, command));
  if (command.json) process.stdout.write(`${JSON.stringify(result, undefined, 2)}\n`);
  else if (result.success)
    process.stdout.write(`${JSON.stringify(result.value, undefined, 2) ?? 'undefined'}\n`);
  else {
    const { code: failure, message, outcome, stack } = result.error;
    process.stderr.write(`${failure}: ${stack ?? message}\noutcome: ${outcome}\n`);
  }
  return result.success ? 0 : 1;
}

async function runHere(code: string, { input, timeoutMs, json }: RunCommand): Promise<ExecutionResult> {
  await using enclave = new Enclave();
  const limits = timeoutMs === undefined ? undefined : { timeoutMs };
  return await enclave.run(code, { input, limits, onEvent: json ? undefined : print });
}

async function runThere(
  code: string,
  {
    nats,
    namespace,
    session,
    input,
    labels,
    timeoutMs,
    json,
  }: RunCommand & { readonly nats?: NatsOptions | undefined },
): Promise<ExecutionResult> {
  if (nats === undefined) throw new TypeError('no server');
  const timeout = timeoutMs === undefined ? undefined : timeoutMs + PATIENCE_MS;
  await using client = new EnclaveClient({ serverUrl: nats, namespace, timeout });
  await client.connect();
  const limits = timeoutMs === undefined ? undefined : { timeoutMs };
  if (session === undefined)
    return await client.run(code, { input, labels, limits, onEvent: json ? undefined : print });
  const run = client.session(session).execute(code, { input, limits });
  if (!json) for await (const event of run) print(event);
  return await run.result;
}

function print({ type, payload }: ExecutionEvent): void {
  const { chunk, level, message } = payload as {
    readonly chunk?: string;
    readonly level?: string;
    readonly message?: string;
  };
  if (type === 'stdout') process.stderr.write(chunk ?? '');
  if (type === 'log') process.stderr.write(`${level ?? 'log'}: ${message ?? ''}\n`);
}

async function read(file: string): Promise<string> {
  if (file !== '-') return readFile(file, 'utf8');
  let text = '';
  for await (const chunk of process.stdin) text += String(chunk);
  return text;
}
