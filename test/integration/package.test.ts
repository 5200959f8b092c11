/** The package as it would be published: built, complete, and able to run a script. */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { publint } from 'publint';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const exec = promisify(execFile);
const root = path.join(import.meta.dirname, '..', '..');
const bin = (name: string): string => path.join(root, 'node_modules', '.bin', name);
let copy = '';

beforeAll(async () => {
  // A copy, so that a build under test neither needs nor leaves a `dist` in the checkout; where it is, it finds
  // its dependencies as an installed package does.
  copy = await mkdtemp(path.join(root, 'node_modules', '.package-'));
  for (const name of ['actors', 'src', 'package.json', 'tsconfig.json', 'tsconfig.build.json']) {
    await cp(path.join(root, name), path.join(copy, name), { recursive: true });
  }
  for (const name of ['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'LICENSE']) {
    await cp(path.join(root, name), path.join(copy, name)).catch(() => undefined);
  }
  await exec(bin('tsc'), ['-p', 'tsconfig.build.json'], { cwd: copy });
}, 120_000);
afterAll(() => rm(copy, { recursive: true, force: true }));

describe('the built package', () => {
  it('holds what it needs and nothing else', async () => {
    const { stdout } = await exec('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: copy });
    const report = JSON.parse(stdout.slice(stdout.search(/[[{]/))) as unknown;
    // npm prints an array, or an object by name, depending on its version.
    const [packed] = Object.values(report as Record<string, { files: { path: string }[] }>);
    const files = packed?.files.map((file) => file.path) ?? [];
    expect(files).toEqual(
      expect.arrayContaining([
        'LICENSE',
        'package.json',
        'dist/src/index.js',
        'dist/src/index.d.ts',
        'dist/src/sandbox/child/main.js',
        'dist/actors/runtime.js',
      ]),
    );
    const stray = files.filter(
      (file) => !/^(dist\/(src|actors)\/.*\.(js|d\.ts)|package\.json|[A-Z]+(\.md)?)$/.test(file),
    );
    expect(stray).toEqual([]);
  }, 60_000);

  it('has nothing that publint complains of', async () => {
    const { messages } = await publint({ pkgDir: copy, level: 'suggestion', strict: true, pack: false });
    expect(messages).toEqual([]);
  }, 60_000);

  it('imports no TypeScript file', async () => {
    for (const file of ['index.js', 'enclave.js', 'sandbox/process.js', 'sandbox/child/main.js']) {
      const text = await readFile(path.join(copy, 'dist', 'src', file), 'utf8');
      expect(text).not.toMatch(/from '[^']*\.ts'/);
    }
  });

  it('runs a script, imported by its name', async () => {
    const { result, entry } = await runFrom(copy);
    expect(result).toMatchObject({ success: true, value: 42 });
    if (process.platform === 'linux') expect(entry).toMatch(/dist\/src\/sandbox\/child\/main\.js$/);
  }, 60_000);

  it('runs where its dependencies are links to a store, and theirs are not in sight', async () => {
    const linked = await mkdtemp(path.join(os.tmpdir(), 'enclave-linked-'));
    try {
      await cp(path.join(copy, 'dist'), path.join(linked, 'dist'), { recursive: true });
      await cp(path.join(copy, 'package.json'), path.join(linked, 'package.json'));
      const { dependencies } = JSON.parse(await readFile(path.join(copy, 'package.json'), 'utf8')) as {
        dependencies: Record<string, string>;
      };
      for (const name of Object.keys(dependencies)) {
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
