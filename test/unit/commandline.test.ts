/** What the words of the command line and the variables of the environment come to, before anything is done. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { makeProgram, obey } from '../../src/commands/program.ts';
import { redisOf } from '../../src/commands/values.ts';

const { asked } = vi.hoisted(() => ({ asked: [] as (readonly unknown[])[] }));
const { record } = vi.hoisted(() => ({
  record: (...words: readonly unknown[]) => {
    asked.push(words);
    return Promise.resolve(0);
  },
}));
vi.mock('../../src/commands/serve.ts', () => ({ serveBroker: record, serveRuntime: record }));
vi.mock('../../src/commands/run.ts', () => ({ runFile: record }));
vi.mock('../../src/commands/sessions.ts', async (original) =>
  Object.fromEntries(Object.keys(await original<object>()).map((name) => [name, record])),
);

let said = '';
let folder = '';
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'enclave-words-'));
  asked.length = 0;
  said = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said += String(text);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** What the words have done. */
async function done(...words: readonly string[]): Promise<Readonly<Record<string, unknown>>> {
  expect([await obey(words), said]).toEqual([0, '']);
  return asked.at(-1)?.[0] as Readonly<Record<string, unknown>>;
}

/** Why the words are refused. */
async function refused(...words: readonly string[]): Promise<string> {
  expect([await obey(words), asked]).toEqual([2, []]);
  return said;
}

describe('Redis', () => {
  it.each<readonly [string, unknown]>([
    ['redis://127.0.0.1:6379', 'redis://127.0.0.1:6379'],
    ['rediss://me:secret@a/2', 'rediss://me:secret@a/2'],
    ['a:7000', 'redis://a:7000'],
    [
      'a:7000,b',
      {
        cluster: [
          { host: 'a', port: 7_000 },
          { host: 'b', port: 6_379 },
        ],
      },
    ],
    [
      'rediss://me:s%40y@a:7000,rediss://me:s%40y@b',
      {
        cluster: [
          { host: 'a', port: 7_000 },
          { host: 'b', port: 6_379 },
        ],
        ...{ username: 'me', password: 's@y', redisOptions: { tls: {} } },
      },
    ],
    // Who names no scheme means that of the first.
    [
      'rediss://a,b',
      {
        cluster: [
          { host: 'a', port: 6_379 },
          { host: 'b', port: 6_379 },
        ],
        redisOptions: { tls: {} },
      },
    ],
    [
      'redis+sentinel://s1,s2:7000/sessions',
      {
        sentinels: [
          { host: 's1', port: 26_379 },
          { host: 's2', port: 7_000 },
        ],
        name: 'sessions',
      },
    ],
    [
      'rediss+sentinel://me:secret@s1/sessions/3',
      {
        sentinels: [{ host: 's1', port: 26_379 }],
        ...{ name: 'sessions', db: 3, username: 'me', password: 'secret' },
        ...{ tls: {}, enableTLSForSentinelMode: true, sentinelTLS: {} },
      },
    ],
  ])('is found by %s', (text, options) => {
    expect(redisOf(text, '--redis')).toEqual(options);
  });

  it('has the passwords of the environment where the url has none', () => {
    vi.stubEnv('ENCLAVE_REDIS_PASSWORD', 'pass');
    vi.stubEnv('ENCLAVE_REDIS_SENTINEL_PASSWORD', 'watch');
    expect(redisOf('rediss://a,rediss://b', '--redis')).toMatchObject({ password: 'pass' });
    expect(redisOf('redis://a', '--redis')).toBe('redis://:pass@a');
    expect(redisOf('redis+sentinel://a/m', '--redis')).toMatchObject({
      password: 'pass',
      sentinelPassword: 'watch',
    });
  });

  it.each([
    ['rediss://a,redis://b', 'in the clear'],
    ['redis://me:secret@a,redis://you:secret@b', 'several users'],
    ['redis://a/1,redis://b/1', 'no more of a node'],
    ['http://me:secret@a', 'must begin with redis://'],
    ['redis://me:secret@a:port', 'no url'],
    ['redis+sentinel://a', 'name-of-the-master'],
    ['redis+sentinel:///m', 'name-of-the-master'],
    [',', 'no server'],
  ])('is not %s, and the error holds no secret', async (text, why) => {
    const error = await refused('broker', '--redis', text);
    expect(error).toContain(`--redis: `);
    expect(error).toContain(why);
    expect(error).not.toContain('secret');
  });
});

describe('routing', () => {
  const rules = [{ match: {}, target: { a: 'b' } }];

  it.each([[{ strategy: 'label-match', rules }], [{ routingStrategy: 'label-match', routingRules: rules }]])(
    'is understood as %j',
    async (given) => {
      expect(await done('broker', '--routing', JSON.stringify(given))).toMatchObject({
        routingStrategy: 'label-match',
        routingRules: rules,
      });
    },
  );

  it.each([
    [{ routingStrategie: 'round-robin' }, '--routing.routingStrategie: unknown'],
    [{ strategy: 'round-robin', routingStrategy: 'round-robin' }, 'give one of them'],
    [{ strategy: 'random' }, "must be 'label-match'"],
    [[], '--routing: must be a JSON object'],
  ])('is not %j', async (given, why) => {
    expect(await refused('broker', '--routing', JSON.stringify(given))).toContain(why);
  });
});

describe('JSON', () => {
  it('may be in a file', async () => {
    const file = path.join(folder, 'tenants.json');
    writeFileSync(file, '{"maxConcurrent":3}');
    expect(await done('broker', '--admission', `@${file}`)).toMatchObject({
      admission: { maxConcurrent: 3 },
    });
    writeFileSync(file, '{');
    expect(await refusedAgain('broker', '--admission', `@${file}`)).toContain(`${file} is not JSON`);
  });

  it('is told from a file that is not there', async () => {
    expect(await refused('broker', '--admission', '@nofile')).toMatch(/nofile cannot be read: ENOENT/);
  });

  async function refusedAgain(...words: readonly string[]): Promise<string> {
    asked.length = 0;
    return refused(...words);
  }
});

describe('the environment', () => {
  it.each(['broker', 'runtime'])('has every option of %s', (name) => {
    const command = makeProgram().commands.find((each) => each.name() === name);
    const options = (command?.options ?? []).filter(({ long }) => long !== '--help');
    expect(options.length).toBeGreaterThan(10);
    for (const { long, description } of options) expect(description, long ?? '').toMatch(/ \(ENCLAVE_\w+\)$/);
  });

  it('is what stands where nothing was said', async () => {
    vi.stubEnv('ENCLAVE_SESSION_TIMEOUT_MS', '7');
    vi.stubEnv('ENCLAVE_MAX_RUNS', '8');
    vi.stubEnv('ENCLAVE_TOOLS', 'tools.mjs');
    vi.stubEnv('ENCLAVE_ROUTING', '{"strategy":"round-robin"}');
    vi.stubEnv('ENCLAVE_RUNTIME_POOL', '{"minSize":2}');
    vi.stubEnv('ENCLAVE_RUNTIME_WORKERS', '{"poolSize":3}');
    vi.stubEnv('ENCLAVE_REDACT_EVENTS', '1');
    expect(await done('broker', '--max-runs', '9')).toMatchObject({
      ...{ sessionTimeoutMs: 7, maxRuns: 9, toolsFile: 'tools.mjs', routingStrategy: 'round-robin' },
      ...{ runtimePool: { minSize: 2 }, pool: { poolSize: 3 }, redactEvents: true },
    });
  });

  it('tells a runtime of its workers; what was said alone wins over what was said with others', async () => {
    vi.stubEnv('ENCLAVE_WORKER_POOL', '{"size":2,"idleTimeout":5,"uid":1}');
    vi.stubEnv('ENCLAVE_UID', '99');
    vi.stubEnv('ENCLAVE_NATS_TLS', '1');
    const { workerPool, brokerUrl } = await done('runtime', '--gid', '98');
    expect(workerPool).toEqual({ size: 2, idleTimeout: 5, uid: 99, gid: 98 });
    expect(brokerUrl).toMatchObject({ tls: true });
  });

  it('is named where what it holds is wrong', async () => {
    vi.stubEnv('ENCLAVE_REDIS_ACK', 'all');
    expect(await refused('broker')).toContain('ENCLAVE_REDIS_ACK: must be one of master, replica, not all');
  });
});

describe('enclave run', () => {
  it.each([
    [['--session', 's', '--labels', 'a=b'], '--labels: '],
    [['--local', '--labels', 'a=b'], '--labels: '],
    [['--local', '--session', 's'], '--session: '],
    [['--local', '--nats', 'n'], '--nats: '],
    [['--local', '--namespace', 'n'], '--namespace: '],
  ])('takes nothing that it would not use: %j', async (words, named) => {
    expect(await refused('run', '-', ...words)).toContain(named);
  });
});

describe('enclave sessions events', () => {
  it('begins with the first that is kept', async () => {
    await done('sessions', 'events', 's');
    expect(asked[0]?.[2]).toEqual({ fromSeq: 'first', follow: false });
  });
});
