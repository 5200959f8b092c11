/** The commands of a cluster, as an operator types them, against brokers and a runtime that were started so too. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ENVIRONMENT } from '../../src/env.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { POD_TOOLS, type Pod, startBrokerPod, startRuntimePod } from '../support/pods.ts';
import { stopAll, waitUntil } from '../support/processes.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

let folder: string;
let nats: NatsServer;
let redis: RedisServer;
let brokers: readonly Pod[];
let runtime: Pod;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'enclave-commands-'));
  [nats, redis] = await Promise.all([startNats(), startRedis()]);
  const env = { ENCLAVE_TEST_DIR: folder, ENCLAVE_MAX_EVENTS: '10' };
  const broker = { nats: nats.url, redis: redis.url, tools: POD_TOOLS, env };
  brokers = await Promise.all(['one', 'two'].map((id) => startBrokerPod({ ...broker, id })));
  runtime = await startRuntimePod({ nats: nats.url, id: 'r1', labels: { tier: 'standard' } });
}, 60_000);
afterAll(async () => {
  await stopAll();
  rmSync(folder, { recursive: true, force: true });
});

interface Said {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The command line with the environment of an operator who has exported where the servers are. */
async function enclave(words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Said> {
  const cli = path.join(ROOT, 'src/cli.ts');
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [cli, ...words], {
      cwd: ROOT,
      env: { ...process.env, ENCLAVE_NATS_URL: nats.url, ...env },
    });
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

function script(text: string): string {
  const file = path.join(folder, `${Math.random()}.ts`);
  writeFileSync(file, text);
  return file;
}

describe('enclave run', () => {
  it('prints what a script returns, and what it logs on the other stream', async () => {
    const file = script('console.log("seen", input.n); return { twice: 2 * (input.n as number) };');
    const said = await enclave(['run', file, '--input', '{"n":4}']);
    expect(said).toMatchObject({ code: 0, err: 'seen 4\n' });
    expect(JSON.parse(said.out)).toEqual({ twice: 8 });
  });

  it('runs in this process with --local, without any server', async () => {
    const nowhere = { ENCLAVE_NATS_URL: 'nats://127.0.0.1:1' };
    expect(await enclave(['run', script('return 1 + 1'), '--local'], nowhere)).toMatchObject({
      code: 0,
      out: '2\n',
    });
    const away = await enclave(['run', script('return 1 + 1')], nowhere);
    expect(away).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^error: UNAVAILABLE: .*127\.0\.0\.1:1/),
    });
  });

  it('exits with 1 and says what is certain when the script fails', async () => {
    const said = await enclave([
      'run',
      script('await callTool("ledger:look", {});\nthrow new TypeError("no")'),
    ]);
    expect(said.code).toBe(1);
    expect(said.err).toMatch(/^SCRIPT_ERROR: TypeError: no[\s\S]*outcome: completed\n$/);
  });

  it('refuses what contradicts itself', async () => {
    expect(await enclave(['run', 'x', '--local', '--session', 's'])).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^error: INVALID_ARGUMENT: --session: .*--local/),
    });
    expect(await enclave(['run', script('return 1'), '--input', '{'])).toMatchObject({
      code: 2,
      err: expect.stringMatching(/--input: is not JSON/),
    });
  });
});

describe('enclave sessions', () => {
  it('lists, shows, follows, moves and closes a session', async () => {
    const { EnclaveClient } = await import('../../src/index.ts');
    await using client = new EnclaveClient({ serverUrl: nats.url });
    const session = await client.spawnSession({ labels: { who: 'ops' } });
    const file = script('state.n = (state.n ?? 0) + 1; console.log("line"); return state.n;');
    expect(await enclave(['run', file, '--session', session.id])).toMatchObject({ code: 0, out: '1\n' });

    const listed = (await enclave(['sessions', 'ls'])).out.split('\n');
    expect(listed[0]).toMatch(/^SESSION +STATUS +OWNER +EPOCH +EVENTS +RUNS +LAST ACTIVITY +LABELS$/);
    expect(listed).toContainEqual(expect.stringMatching(new RegExp(`^${session.id} +idle .*who=ops$`)));
    const rows = (await enclave(['sessions', 'ls', '--json'])).out.trim().split('\n');
    expect(rows.map((row) => JSON.parse(row) as object)).toMatchObject([{ session: session.id, seq: 3 }]);

    const shown = (await enclave(['sessions', 'show', session.id])).out;
    expect(shown).toMatch(/^status +idle$/m);
    expect(shown).toMatch(/^state +\{"n":1\}$/m);
    expect(shown).toMatch(/^execution +\S+ {2}succeeded$/m);

    const events = (await enclave(['sessions', 'events', session.id])).out.trim().split('\n');
    expect(events.map((line) => line.trim().split(/\s+/)[1])).toEqual(['session_init', 'stdout', 'final']);
    expect(
      (await enclave(['sessions', 'events', session.id, '--from', '3'])).out.trim().split('\n'),
    ).toHaveLength(1);

    const { owner } = await session.info();
    const other = owner === 'one' ? 'two' : 'one';
    const moved = await enclave(['sessions', 'migrate', session.id, '--to', other]);
    expect(moved).toMatchObject({ code: 0, out: expect.stringContaining(`owned by ${other} in epoch `) });
    expect(await enclave(['sessions', 'close', session.id])).toMatchObject({ code: 0 });
    expect((await session.info()).status).toBe('closed');
    expect(await enclave(['sessions', 'show', 'nobody'])).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^error: NOT_FOUND/),
    });
  });

  it('shows the events that are kept of a log that was trimmed', async () => {
    const { EnclaveClient } = await import('../../src/index.ts');
    await using client = new EnclaveClient({ serverUrl: nats.url });
    const session = await client.spawnSession();
    for (let n = 0; n < 10; n++) await session.execute('console.log("line")').result;
    const { seq } = await session.info();
    const { code, out } = await enclave(['sessions', 'events', session.id, '--json']);
    expect(code).toBe(0);
    const seqs = out
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { readonly seq: number }).seq);
    expect(seqs[0]).toBeGreaterThan(1);
    expect(seqs).toEqual(
      Array.from({ length: seq - (seqs[0] ?? 0) + 1 }, (_, index) => (seqs[0] ?? 0) + index),
    );
    expect(await enclave(['sessions', 'events', session.id, '--from', '1'])).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^error: TRUNCATED/),
    });
  });

  it('saves the journal of an execution for a rerun, and deletes a session', async () => {
    const { EnclaveClient } = await import('../../src/index.ts');
    await using client = new EnclaveClient({ serverUrl: nats.url });
    const session = await client.spawnSession();
    const run = session.execute('return (await callTool("ledger:look", {})) === undefined ? 1 : 2;');
    await run.result;
    const { code, out } = await enclave(['sessions', 'journal', session.id, run.id]);
    expect(code).toBe(0);
    const file = path.join(folder, 'journal.json');
    writeFileSync(file, out);
    expect(await enclave(['rerun', file])).toMatchObject({
      code: 0,
      out: expect.stringMatching(/ledger:look[\s\S]*verdict +same\n$/),
    });
    expect(await enclave(['sessions', 'delete', session.id])).toMatchObject({
      code: 0,
      out: `${session.id} is gone\n`,
    });
    expect(await enclave(['sessions', 'show', session.id])).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^error: NOT_FOUND/),
    });
  });
});

describe('enclave broker and enclave runtime', () => {
  it('say what to do about a port that is taken', async () => {
    const port = String(brokers[0]?.port);
    const words = ['broker', '--redis', redis.url, '--port', port, '--host', '127.0.0.1'];
    expect(await enclave([...words, '--log-level', 'silent'])).toMatchObject({
      code: 2,
      err: expect.stringMatching(new RegExp(`^error: UNAVAILABLE: Port ${port} .*--port 0`)),
    });
  });

  it('end with code 0 on SIGTERM', async () => {
    expect(await runtime.drain()).toBe(0);
    expect(runtime.logged('runtime has drained')).toHaveLength(1);
    expect(await brokers[0]?.drain()).toBe(0);
  });

  it('say what is wrong with their options, and end', async () => {
    const wrong = await enclave([
      'broker',
      '--redis',
      redis.url,
      '--lease-ttl',
      '1',
      '--log-level',
      'silent',
    ]);
    expect(wrong).toMatchObject({
      code: 2,
      err: expect.stringMatching(/INVALID_ARGUMENT: options\.leaseTtlMs/),
    });
    const labels = await enclave(['runtime', '--labels', 'tier', '--log-level', 'silent']);
    expect(labels).toMatchObject({ code: 2, err: expect.stringMatching(/--labels: must be key=value/) });
    const routing = await enclave(['broker', '--redis', redis.url, '--routing', '{"strategy":"nearest"}']);
    expect(routing).toMatchObject({ code: 2, err: expect.stringMatching(/routingStrategy: must be/) });
  });
});

describe('enclave identities', () => {
  it('makes, lists and revokes credentials that only their owner can read', async () => {
    const keys = path.join(folder, 'keys');
    const conf = (await enclave(['identities', 'init', keys, '--namespace', 'acme'])).out.trim();
    expect(readFileSync(conf, 'utf8')).toContain('operator');
    const named = ['--namespace', 'acme', '--role', 'runtime', '--id', 'r1'];
    const creds = (await enclave(['identities', 'issue', keys, ...named])).out.trim();
    expect(statSync(creds).mode & 0o777).toBe(0o600);
    const [listed] = (await enclave(['identities', 'ls', keys])).out.trim().split('\n');
    expect(JSON.parse(listed ?? '')).toMatchObject({ namespace: 'acme', role: 'runtime', id: 'r1' });
    expect((await enclave(['identities', 'revoke', keys, ...named])).out).toBe('revoked: 1\n');
    expect((await enclave(['identities', 'issue', keys, '--role', 'king', '--id', 'x'])).code).toBe(2);
  });
});

describe('the environment', () => {
  it('is told of in the help, every variable of it', async () => {
    const { out } = await enclave(['--help']);
    for (const name of Object.keys(ENVIRONMENT)) expect(out).toContain(name);
  });

  it('is read, every variable of it', async () => {
    const sources = ['env.ts', 'commands/program.ts', 'commands/values.ts']
      .map((file) => readFileSync(path.join(ROOT, 'src', file), 'utf8'))
      .join('');
    const read = Object.keys(ENVIRONMENT).filter((name) => sources.split(`'${name}'`).length > 1);
    expect(read).toEqual(Object.keys(ENVIRONMENT));
    await waitUntil(() => brokers[1]?.running === true, 'the other broker lives on');
  });
});
