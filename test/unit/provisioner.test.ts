/** Runtimes as processes: started, asked to end, made to end, and never left behind. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { LocalRuntimes, type LocalRuntimesOptions } from '../../src/provision/processes.ts';
import { isAlive } from '../support/processes.ts';

const PATIENCE = { timeout: 20_000, interval: 10 };
const SOURCES = path.resolve(import.meta.dirname, '../../src');

let directory = '';
const opened: LocalRuntimes[] = [];
/** Processes that a test started by itself or learned of. */
const pids = new Set<number>();

beforeEach(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'enclave-provisioner-'));
});
afterEach(async () => {
  await Promise.all(
    opened.splice(0).map(async (local) => {
      for (const id of await local.list()) await local.stop(id);
      await local.close();
    }),
  );
  for (const pid of pids) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
  pids.clear();
  rmSync(directory, { recursive: true, force: true });
});

/** A program that writes what it was given to a file of its runtime's id, and then does what it is told. */
function program(onTerm: string): string {
  const file = path.join(directory, `program-${systemClock.id()}.mjs`);
  writeFileSync(
    file,
    `import { renameSync, writeFileSync } from 'node:fs';
     process.on('SIGTERM', () => { ${onTerm} });
     setInterval(() => undefined, 1_000);
     const file = ${JSON.stringify(`${directory}/`)} + process.env.ENCLAVE_ID;
     writeFileSync(file + '.part', JSON.stringify({ pid: process.pid, env: process.env, args: process.argv.slice(2) }));
     renameSync(file + '.part', file);`,
  );
  return file;
}

function open(over: Partial<LocalRuntimesOptions> = {}): LocalRuntimes {
  const local = new LocalRuntimes({
    clock: systemClock,
    natsUrl: 'nats://127.0.0.1:4222',
    namespace: 'test',
    output: 'ignore',
    program: [program('process.exit(0)')],
    ...over,
  });
  opened.push(local);
  return local;
}

interface Seen {
  readonly pid: number;
  readonly env: Readonly<Record<string, string>>;
  readonly args: readonly string[];
}

/** What a runtime wrote when it was up. */
async function seen(id: string): Promise<Seen> {
  const what = await vi.waitFor(
    () => JSON.parse(readFileSync(path.join(directory, id), 'utf8')) as Seen,
    PATIENCE,
  );
  pids.add(what.pid);
  return what;
}

const isGone = (pid: number): Promise<void> => vi.waitFor(() => expect(isAlive(pid)).toBe(false), PATIENCE);

describe('a runtime that is a process', () => {
  it('is given what it needs, and no more of this process than that (U3)', async () => {
    vi.stubEnv('ENCLAVE_REDIS_URL', 'redis://secret');
    vi.stubEnv('SOME_SECRET', 'secret');
    const local = open({
      labels: { tier: 'premium', region: 'us-east' },
      poolSize: 3,
      env: { ENCLAVE_NATS_CREDS: '/creds', ENCLAVE_NAMESPACE: 'theirs' },
      program: [program('process.exit(0)'), 'runtime'],
    });
    const { id } = await local.start();
    vi.unstubAllEnvs();
    const { env, args } = await seen(id);
    expect(Object.fromEntries(Object.entries(env).filter(([name]) => name.startsWith('ENCLAVE_')))).toEqual({
      ENCLAVE_NATS_URL: 'nats://127.0.0.1:4222',
      ENCLAVE_NAMESPACE: 'theirs',
      ENCLAVE_ID: id,
      ENCLAVE_DRAIN_GRACE_MS: '30000',
      ENCLAVE_LABELS: 'tier=premium,region=us-east',
      ENCLAVE_POOL_SIZE: '3',
      ENCLAVE_NATS_CREDS: '/creds',
    });
    expect(env).not.toHaveProperty('SOME_SECRET');
    expect(env.PATH).toBe(process.env.PATH);
    expect(args).toEqual(['runtime']);
  });

  it('has a name of its own, and is listed until it is gone', async () => {
    const local = open();
    const ids = [(await local.start()).id, (await local.start()).id];
    expect(new Set(ids).size).toBe(2);
    for (const id of ids) expect(id).toMatch(/^[A-Za-z0-9_-]{1,64}$/);
    expect(await local.list()).toEqual(ids);
    const [one = '', two = ''] = ids;
    const { pid } = await seen(one);
    process.kill(pid, 'SIGKILL');
    await vi.waitFor(async () => expect(await local.list()).toEqual([two]), PATIENCE);
  });

  it('is asked to end, and may take its time', async () => {
    const local = open({ program: [program(`setTimeout(() => process.exit(0), 100)`)] });
    const { id } = await local.start();
    const { pid } = await seen(id);
    await local.drain(id);
    expect([isAlive(pid), await local.list()]).toEqual([false, []]);
  });

  it('is made to end when its grace is over (U2)', async () => {
    const local = open({ program: [program('')], killAfterMs: 50 });
    const { id } = await local.start();
    const { pid } = await seen(id);
    await local.drain(id);
    expect(isAlive(pid)).toBe(false);
  });

  it('is ended at once when it is to stop, whatever it says', async () => {
    const local = open({ program: [program('')] });
    const { id } = await local.start();
    const { pid } = await seen(id);
    await local.stop(id);
    expect(isAlive(pid)).toBe(false);
  });

  it('that is not one of these is left alone', async () => {
    const local = open();
    await local.drain('somebody');
    await local.stop('somebody');
    expect(await local.list()).toEqual([]);
  });

  it('is gone when all are closed, and none is started after that', async () => {
    const local = open();
    const started = await Promise.all([local.start(), local.start()]);
    const all = await Promise.all(started.map(({ id }) => seen(id)));
    await Promise.all([local.close(), local.close()]);
    expect(all.filter(({ pid }) => isAlive(pid))).toEqual([]);
    await expect(local.start()).rejects.toMatchObject({ code: 'CLOSED' });
  });

  it.each([
    ['a comma in a value', 'labels.a', { a: 'b,c' }],
    ['a comma in a name', 'labels.a,b', { 'a,b': 'c' }],
    ['= in a name', 'labels.a=b', { 'a=b': 'c' }],
    ['a space at an end', 'labels.a', { a: 'b ' }],
    ['no text', 'labels.a', { a: 1 }],
  ])('is refused labels that cannot be handed over: %s', (_what, key, labels) => {
    const given = labels as unknown as Record<string, string>;
    expect(() => open({ labels: given })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', key }));
  });

  /** A process that starts one runtime, and says so. */
  function parent(
    killAfterMs: number,
    runtime: string,
  ): { readonly pid: number; readonly id: Promise<string> } {
    const file = path.join(directory, 'parent.ts');
    const url = (name: string): string => JSON.stringify(pathToFileURL(path.join(SOURCES, name)).href);
    writeFileSync(
      file,
      `import { systemClock } from ${url('clock.ts')};
       import { LocalRuntimes } from ${url('provision/processes.ts')};
       const local = new LocalRuntimes({ clock: systemClock, natsUrl: 'nats://x', namespace: 'n', output: 'ignore',
         killAfterMs: ${killAfterMs}, program: [${JSON.stringify(runtime)}] });
       console.log((await local.start()).id);`,
    );
    const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] });
    const pid = child.pid ?? expect.fail('it was not started');
    pids.add(pid);
    const id = new Promise<string>((resolve) =>
      child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString().trim())),
    );
    return { pid, id };
  }

  it('does not outlive the process that started it, though that was killed (U1)', async () => {
    const { pid, id } = parent(60_000, program('process.exit(0)'));
    const runtime = await seen(await id);
    process.kill(pid, 'SIGKILL');
    await isGone(runtime.pid);
  });

  it('does not outlive it for longer than its grace (U1)', async () => {
    const { pid, id } = parent(50, program(''));
    const runtime = await seen(await id);
    process.kill(pid, 'SIGKILL');
    await isGone(runtime.pid);
  });
});
