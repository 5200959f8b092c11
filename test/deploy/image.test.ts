/**
 * The image: its Dockerfile agrees with the package and the code, and what it would hold is put together and run, as compose
 * and Kubernetes would run it, against a NATS with nats.conf and a Redis started as compose starts it.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startNats } from '../support/nats.ts';
import {
  freePort,
  HOST,
  Launched,
  stopAll,
  temporaryDirectory,
  track,
  waitUntil,
} from '../support/processes.ts';
import { manifests } from './cluster.ts';
import { found, IMAGE, parseDockerfile } from './dockerfile.ts';
import {
  argumentProblems,
  at,
  type Fields,
  fieldsAt,
  listAt,
  METRICS,
  NATS,
  PACKAGE,
  ROOT,
  ROUTES,
  read,
  readYaml,
} from './documents.ts';
import { imageProblems } from './imagechecks.ts';
import { filesIn, type Staged, stage } from './staging.ts';

const compose = readYaml('docker/compose.yaml') as Fields;

const dockerfile = read('docker/Dockerfile');
const dockerignore = read('.dockerignore');

/** The text once for each of its words that is no comment, with a letter more in it. */
function misspelt(text: string): readonly { readonly word: string; readonly text: string }[] {
  const found: { readonly word: string; readonly text: string }[] = [];
  let start = 0;
  for (const line of text.split('\n')) {
    for (const { 0: word, index } of line.startsWith('#') ? [] : line.matchAll(/[^\s"\\]+/g)) {
      const end = start + index + word.length;
      found.push({ word, text: `${text.slice(0, end - 1)}~${text.slice(end - 1)}` });
    }
    start += line.length + 1;
  }
  return found;
}

function unnoticed(text: string, check: (text: string) => readonly string[]): readonly string[] {
  const all = misspelt(text);
  expect(all.length).toBeGreaterThan(4);
  return all.filter((each) => !isWrong(() => check(each.text))).map(({ word }) => word);
}

function isWrong(check: () => readonly string[]): boolean {
  try {
    return check().length > 0;
  } catch {
    return true;
  }
}

describe('the Dockerfile', () => {
  it('agrees with the package, with .dockerignore and with the code', () => {
    expect(imageProblems(dockerfile, dockerignore)).toEqual([]);
    expect(existsSync(path.join(ROOT, 'docker/Dockerfile.dockerignore'))).toBe(false);
  });

  it('bears no misspelling of any word, nor does .dockerignore', () => {
    const described = /^(?:org\.opencontainers\.|Apache-2\.0$|enclave-actors$|=$)/;
    const found = unnoticed(dockerfile, (text) => imageProblems(text, dockerignore));
    expect(found.filter((word) => !described.test(word))).toEqual([]);
    expect(unnoticed(dockerignore, (text) => imageProblems(dockerfile, text))).toEqual([]);
  });

  it('is not shown what it does not copy', () => {
    expect(imageProblems(dockerfile, `${dockerignore}!test\n`)).toEqual([
      'shown for nothing is ["test"], not []',
    ]);
    for (const name of ['test', 'docker', 'node_modules', 'dist', '.git'])
      expect(found(name), name).toEqual([]);
  });

  it('has arguments read by the real command line', () => {
    expect(argumentProblems(['brokers'])).not.toEqual([]);
    expect(argumentProblems(['broker', '--porte', '1'])).toEqual(['enclave broker: has no option --porte']);
    expect(argumentProblems(['broker', '--port', '1', '--redis=x'])).toEqual([]);
  });

  it('is read as a builder reads it', () => {
    const image = parseDockerfile(
      'ARG NODE_VERSION=1\nFROM a AS b\n# no\nFROM c\nENV A=1 \\\n  # no\n  B=2\nENTRYPOINT ["x"]\nCMD ["y"]\n',
    );
    expect(image).toMatchObject({ nodeVersion: '1', env: { A: '1', B: '2' }, command: ['y'] });
    expect(image.stages.map(({ base, name }) => [base, name])).toEqual([
      ['a', 'b'],
      ['c', undefined],
    ]);
  });
});

// ---- what it holds ---------------------------------------------------------------------------------------

const PASSWORDS: Readonly<Record<string, string>> = Object.fromEntries(
  [...NATS.users.values(), 'ENCLAVE_REDIS_PASSWORD'].map((name) => [name, `p-${name.toLowerCase()}`]),
);
const password = (name: string): string => PASSWORDS[name] ?? '';

let image: Staged;
let natsUrl: string;
let redisUrl: string;

/** Redis as compose starts it, but on a port of its own. */
async function startRedis(): Promise<string> {
  const port = await freePort();
  const words = listAt(compose, 'services', 'redis', 'command').map((word) =>
    String(word)
      .replaceAll('$$', '$')
      .replace('--dir /data', `--dir ${temporaryDirectory()} --port ${port} --bind ${HOST}`),
  );
  const env = { PATH: process.env.PATH, REDISCLI_AUTH: password('ENCLAVE_REDIS_PASSWORD') };
  const redis = new Launched(words[0] ?? '', words.slice(1), { env });
  track({ stop: () => redis.kill() });
  const [, , ...health] = listAt(compose, 'services', 'redis', 'healthcheck', 'test').map(String);
  const ping = (more: NodeJS.ProcessEnv): Promise<unknown> =>
    promisify(execFile)('redis-cli', ['-h', HOST, '-p', String(port), ...health], {
      env: { ...env, ...more },
    });
  await waitUntil(async () => {
    if (!redis.running) throw new Error(redis.output);
    await ping({});
    return true;
  }, 'Redis is healthy');
  await expect(ping({ REDISCLI_AUTH: 'wrong' })).rejects.toThrow();
  return `redis://${HOST}:${port}`;
}

beforeAll(async () => {
  Object.assign(process.env, PASSWORDS);
  [image, { url: natsUrl }, redisUrl] = await Promise.all([
    stage(),
    startNats({ config: path.join(ROOT, 'nats.conf') }),
    startRedis(),
  ]);
}, 120_000);
afterAll(async () => {
  for (const name of Object.keys(PASSWORDS)) delete process.env[name];
  await stopAll();
});

/** Run a command in the image. */
function enclave(words: readonly string[], env: Fields = {}): Promise<{ readonly stdout: string }> {
  const [program = '', ...args] = [...image.entrypoint, ...words];
  return promisify(execFile)(program, args, {
    cwd: image.workdir,
    env: { ...image.env, ...env } as NodeJS.ProcessEnv,
    timeout: 60_000,
  });
}

/** What compose, or Kubernetes, gives a process of this role: its words and its variables. */
function ofCompose(role: string): { readonly words: readonly string[]; readonly env: Fields } {
  const service = fieldsAt(compose, 'services', `${role}-1`);
  const env = Object.entries(fieldsAt(service, 'environment')).map(([name, value]) => [
    name,
    String(value).replace(/\$\{(\w+):\?[^}]*\}/g, (_, variable: string) => password(variable)),
  ]);
  return { words: listAt(service, 'command').map(String), env: Object.fromEntries(env) as Fields };
}

function ofKubernetes(role: string): { readonly words: readonly string[]; readonly env: Fields } {
  const deployment = manifests.find(
    ({ document }) =>
      document.kind === 'Deployment' && at(document, 'metadata', 'name') === `enclave-${role}`,
  )?.document;
  const container = at(deployment, 'spec', 'template', 'spec', 'containers', 0);
  const env = listAt(container, 'env').map((entry) => {
    const key = at(entry, 'valueFrom', 'secretKeyRef', 'key');
    const field = at(entry, 'valueFrom', 'fieldRef');
    const taken = field === undefined ? password(String(key)) : `enclave-${role}-7c9d-x2x4z`;
    return [at(entry, 'name'), at(entry, 'value') ?? taken];
  });
  return { words: listAt(container, 'args').map(String), env: Object.fromEntries(env) as Fields };
}

/** The same where the servers of this test are, on a free port. */
async function started({ words, env }: ReturnType<typeof ofCompose>) {
  const port = await freePort();
  const here: Fields = {
    ...env,
    ENCLAVE_PORT: String(port),
    ENCLAVE_NATS_URL: natsUrl,
    ...(env.ENCLAVE_REDIS_URL === undefined ? {} : { ENCLAVE_REDIS_URL: redisUrl }),
  };
  const [program = '', ...args] = [...image.entrypoint, ...words];
  const all = { ...image.env, ...here } as NodeJS.ProcessEnv;
  const launched = new Launched(program, args, { cwd: image.workdir, env: all });
  track({ stop: () => launched.kill() });
  const get = (route: string): Promise<Response> =>
    fetch(`http://${HOST}:${port}${route}`, { signal: AbortSignal.timeout(10_000) });
  await waitUntil(
    async () => {
      if (!launched.running) throw new Error(launched.output);
      return (await get(ROUTES.ready)).ok;
    },
    `${words.join(' ')} is ready`,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${launched.output}`);
  });
  const [node = '', ...probe] = IMAGE.healthcheck;
  const healthy = (): Promise<boolean> =>
    promisify(execFile)(node, probe, { cwd: image.workdir, env: all }).then(
      () => true,
      () => false,
    );
  return { launched, get, healthy };
}

describe('what the image holds', () => {
  it('is the whole published package', () => {
    expect(PACKAGE.files.length).toBeGreaterThan(0);
    const there = [...PACKAGE.files, 'package.json'].filter((name) =>
      existsSync(path.join(image.workdir, name)),
    );
    expect(there).toEqual([...PACKAGE.files, 'package.json']);
  });

  it('has no source, no test and no package that only development needs', () => {
    for (const name of ['src', 'actors', 'test', 'docker', 'tsconfig.json', 'node_modules/vitest'])
      expect(existsSync(path.join(image.workdir, name)), name).toBe(false);
  });

  it('says what it can do', async () => {
    expect((await enclave(['--help'])).stdout).toMatch(/Usage: enclave[\s\S]*broker[\s\S]*runtime/);
    expect((await enclave(['--version'])).stdout).toBe(`${PACKAGE.version}\n`);
  });

  it.each([
    ['compose', ofCompose],
    ['Kubernetes', ofKubernetes],
  ] as const)(
    'serves as %s starts it, runs a script, writes nothing and drains at SIGTERM',
    async (_, of) => {
      const before = await filesIn(image.root);
      const broker = await started(of('broker'));
      const runtime = await started(of('runtime'));
      for (const { get, healthy } of [broker, runtime]) {
        for (const route of Object.values(ROUTES)) expect((await get(route)).status, route).toBe(200);
        expect((await get('/live')).status).toBe(404);
        expect(await healthy()).toBe(true);
      }
      const scraped = await (await runtime.get(ROUTES.metrics)).text();
      expect(scraped).toMatch(/^enclave_active_executions(?:\{[^}]*\})? 0$/m);
      const exposed = [...scraped.matchAll(/^# TYPE (enclave_\w+)/gm)].map(([, name = '']) => name);
      expect(exposed.filter((name) => !METRICS.has(name))).toEqual([]);

      const script = path.join(temporaryDirectory(), 'script.js');
      writeFileSync(script, 'return 6 * 7');
      const client = {
        ENCLAVE_NATS_URL: natsUrl,
        ENCLAVE_NATS_USER: 'client',
        ENCLAVE_NATS_PASSWORD: password(NATS.users.get('client') ?? ''),
      };
      expect((await enclave(['run', script], client)).stdout.trim()).toBe('42');

      for (const { launched, healthy } of [runtime, broker]) {
        launched.signal('SIGTERM');
        await launched.exited;
        expect(launched.exitCode, launched.output).toBe(0);
        expect(await healthy()).toBe(false);
      }
      expect(await filesIn(image.root)).toEqual(before);
    },
    60_000,
  );

  it('loads tools as the image on top of it that KUBERNETES.md shows would', async () => {
    const [, shown = ''] = /```dockerfile\n([\s\S]*?)```/.exec(read('KUBERNETES.md')) ?? [];
    const [, to = '', at = ''] = /ln -s (\S+) (\S+)/.exec(shown) ?? [];
    expect(shown).toContain(`FROM enclave-actors:${PACKAGE.version}\n`);
    expect(shown).toContain(`WORKDIR ${IMAGE.workdir}\nUSER ${IMAGE.user}\n`);
    const [, folder = ''] = /WORKDIR (\S+)/.exec(shown) ?? [];
    const tools = path.join(image.root, folder);
    const file = path.join(tools, 'tools.mjs');
    mkdirSync(path.join(tools, path.dirname(at)), { recursive: true });
    // What npm ci would bring.
    symlinkSync(path.join(ROOT, 'node_modules/zod'), path.join(tools, 'node_modules/zod'));
    writeFileSync(
      file,
      `import { defineTool } from 'enclave-actors';
       import { z } from 'zod';
       export const tools = [
         defineTool({ name: 'twice', effect: 'read', input: z.number(), handler: (n) => 2 * n }),
       ];`,
    );
    const { words, env } = ofCompose('broker');
    try {
      const withTools = { words: [...words, '--tools', file], env };
      await expect(started(withTools)).rejects.toThrow(/enclave-actors/);
      symlinkSync(path.join(image.root, to), path.join(tools, at));
      const broker = await started(withTools);
      broker.launched.signal('SIGTERM');
      await broker.launched.exited;
      expect(broker.launched.exitCode, broker.launched.output).toBe(0);
    } finally {
      rmSync(tools, { recursive: true });
    }
  }, 60_000);

  it.each([
    ['a port that is no number', { ENCLAVE_PORT: '30o1' }, /ENCLAVE_PORT: must be a whole number/],
    ['the password of another user', { ENCLAVE_NATS_USER: 'client' }, /refuses the credentials/],
  ])('ends at its start with %s', async (_, wrong, said) => {
    const { words, env } = ofCompose('runtime');
    const failed = enclave(words, { ...env, ENCLAVE_NATS_URL: natsUrl, ...wrong });
    await expect(failed).rejects.toMatchObject({ code: 2, stderr: expect.stringMatching(said) });
  });
});
