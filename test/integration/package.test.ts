/** The package as it would be published: built, complete, and able to run a script. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { publint } from 'publint';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const exec = promisify(execFile);
const root = path.join(import.meta.dirname, '..', '..');
const bin = (name: string): string => path.join(root, 'node_modules', '.bin', name);
const MANIFEST = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  readonly name: string;
  readonly files: readonly string[];
  readonly bin: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
};
/** The sources, built. */
let copy = '';
/** A folder of somebody who installed the package, and the package there. */
let consumer = '';
let installed = '';

beforeAll(async () => {
  // A copy, so that a build under test neither needs nor leaves a `dist` in the checkout; where it is, it finds
  // its dependencies as an installed package does.
  copy = await mkdtemp(path.join(root, 'node_modules', '.package-'));
  const texts = MANIFEST.files.filter((name) => !name.startsWith('dist/'));
  for (const name of ['actors', 'src', 'package.json', 'tsconfig.json', 'tsconfig.build.json', ...texts])
    await cp(path.join(root, name), path.join(copy, name), { recursive: true });
  await exec(bin('tsc'), ['-p', 'tsconfig.build.json'], { cwd: copy });
  consumer = path.join(copy, 'consumer');
  installed = path.join(consumer, 'node_modules', MANIFEST.name);
  await mkdir(installed, { recursive: true });
  await exec('npm', ['pack', '--ignore-scripts', '--pack-destination', consumer], { cwd: copy });
  const [tarball = ''] = (await readdir(consumer)).filter((name) => name.endsWith('.tgz'));
  await exec('tar', ['-xzf', path.join(consumer, tarball), '-C', installed, '--strip-components=1']);
  await writeFile(path.join(consumer, 'package.json'), '{"type":"module"}');
}, 180_000);
afterAll(() => rm(copy, { recursive: true, force: true }));

describe('the package', () => {
  it('holds what it needs and nothing else', async () => {
    const entries = await readdir(installed, { recursive: true, withFileTypes: true });
    const files = entries
      .filter((entry) => entry.isFile())
      .map((entry) => path.relative(installed, path.join(entry.parentPath, entry.name)));
    expect(files).toEqual(
      expect.arrayContaining([
        'package.json',
        'dist/src/index.js',
        'dist/src/index.d.ts',
        'dist/src/cli.js',
        'dist/src/sandbox/child/main.js',
        'dist/src/provision/leash.js',
        'dist/actors/runtime.js',
      ]),
    );
    for (const name of MANIFEST.files)
      expect(
        files.some((file) => file === name || file.startsWith(`${name}/`)),
        `${name} is in the package`,
      ).toBe(true);
    const stray = files.filter(
      (file) =>
        !/^dist\/(src|actors)\/.*\.(js|d\.ts)$/.test(file) &&
        !['package.json', ...MANIFEST.files].includes(file),
    );
    expect(stray).toEqual([]);
  });

  it('has nothing that publint complains of', async () => {
    const { messages } = await publint({ pkgDir: installed, level: 'suggestion', strict: true, pack: false });
    expect(messages).toEqual([]);
  }, 60_000);

  it('imports no TypeScript file', async () => {
    for (const file of ['index.js', 'enclave.js', 'sandbox/process.js', 'sandbox/child/main.js']) {
      const text = await readFile(path.join(installed, 'dist', 'src', file), 'utf8');
      expect(text).not.toMatch(/from '[^']*\.ts'/);
    }
  });

  it('runs a script, imported by its name, with its dependencies some folders further up', async () => {
    const { result, entry } = await runFrom(consumer);
    expect(result).toMatchObject({ success: true, value: 42 });
    if (process.platform === 'linux') expect(entry).toMatch(/dist\/src\/sandbox\/child\/main\.js$/);
  }, 60_000);

  it('has a command line', async () => {
    const cli = path.join(installed, MANIFEST.bin.enclave ?? '');
    expect(await readFile(cli, 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
    const { stdout } = await exec(process.execPath, [cli, '--help'], { cwd: consumer });
    expect(stdout).toMatch(/^Usage: enclave/);
    for (const command of ['broker', 'runtime', 'run', 'sessions', 'identities'])
      expect(stdout).toMatch(new RegExp(`^ +${command}\\b`, 'm'));
  }, 60_000);

  it('has types that a program can be checked against', async () => {
    const check = async (body: string): Promise<unknown> => {
      await writeFile(path.join(consumer, 'program.ts'), `${TYPES}${body}`);
      return exec(bin('tsc'), ['-p', '.'], { cwd: consumer });
    };
    await writeFile(
      path.join(consumer, 'tsconfig.json'),
      JSON.stringify({ compilerOptions, files: ['program.ts'] }),
    );
    await check(
      'if (result.success) { const value: number | undefined = result.value; console.log(value); }',
    );
    // They are ours, and not just anything.
    await expect(check('const code: number = result;')).rejects.toMatchObject({
      stdout: expect.stringContaining("is not assignable to type 'number'"),
    });
  }, 120_000);

  it('runs where its dependencies are links to a store, and theirs are not in sight', async () => {
    const linked = await mkdtemp(path.join(os.tmpdir(), 'enclave-linked-'));
    try {
      await cp(installed, linked, { recursive: true });
      for (const name of Object.keys(MANIFEST.dependencies)) {
        const link = path.join(linked, 'node_modules', name);
        await mkdir(path.dirname(link), { recursive: true });
        await symlink(path.join(root, 'node_modules', name), link);
      }
      expect((await runFrom(linked)).result).toMatchObject({ success: true, value: 42 });
    } finally {
      await rm(linked, { recursive: true, force: true });
    }
  }, 60_000);
});

/** Run a program that imports the package of a folder by its name. */
async function runFrom(directory: string): Promise<{ result: unknown; entry?: string }> {
  const program = path.join(directory, 'program.mjs');
  await writeFile(program, PROGRAM);
  const { stdout } = await exec(process.execPath, [program], { cwd: directory, timeout: 50_000 });
  return JSON.parse(stdout) as { result: unknown; entry?: string };
}

const compilerOptions = { noEmit: true, strict: true, module: 'nodenext', target: 'esnext', types: ['node'] };
const TYPES = `import { Enclave, type ExecutionResult } from 'enclave-actors';
const result: ExecutionResult<number> = await new Enclave().run<number>('return 1');
`;
const PROGRAM = `import { readFileSync } from 'node:fs';
import { createWorkerPoolAdapter, defineTool, Enclave } from 'enclave-actors';
const add = defineTool({ name: 'add', handler: ([a, b]) => a + b });
const adapter = createWorkerPoolAdapter({ poolSize: 1, queueTimeoutMs: 5_000 });
await using enclave = new Enclave({ adapter, tools: [add] });
const result = await enclave.run('const sum: number = await tools.add([40, 2]); return sum');
const [{ pid } = {}] = enclave.stats().workers;
const command =
  process.platform === 'linux' && result.success ? readFileSync('/proc/' + pid + '/cmdline', 'utf8').split('\\0') : [];
console.log(JSON.stringify({ result, entry: command.find((word) => /child.main/.test(word)) }));
`;
