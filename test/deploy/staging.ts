/**
 * The image without an engine: docker/Dockerfile carried out in temporary folders, of exactly the files that it copies. What
 * the registries would give is taken from here: the dependencies of the lock file, and Node. What apt would install is not
 * there.
 */
import { execFile } from 'node:child_process';
import { access, chmod, cp, mkdir, readdir, symlink } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { temporaryDirectory } from '../support/processes.ts';
import { copiesOf, found, IMAGE, type Stage } from './dockerfile.ts';
import { ROOT, read } from './documents.ts';

const run = promisify(execFile);
const NODE = path.dirname(process.execPath);

/** The image's file system: `root` stands for `/`. */
export interface Staged {
  readonly root: string;
  /** The variables that the image sets, and where its programs are. */
  readonly env: Readonly<Record<string, string>>;
  /** Without the init: it is not there. */
  readonly entrypoint: readonly string[];
  readonly workdir: string;
}

/** Throws where the Dockerfile has a step that is not known here. */
export async function stage(): Promise<Staged> {
  const roots = new Map<string, string>();
  let root = '';
  for (const one of IMAGE.stages) {
    root = temporaryDirectory();
    if (one.name !== undefined) roots.set(one.name, root);
    await carryOut(one, root, roots);
  }
  const [init, dashes, ...entrypoint] = IMAGE.entrypoint;
  if (init !== '/usr/bin/tini' || dashes !== '--') throw new Error('the entry point has no init');
  return {
    root,
    env: { ...IMAGE.env, PATH: [path.join(root, 'usr/local/bin'), NODE, '/usr/bin', '/bin'].join(':') },
    entrypoint,
    workdir: path.join(root, IMAGE.workdir),
  };
}

async function carryOut(one: Stage, root: string, roots: ReadonlyMap<string, string>): Promise<void> {
  const copies = copiesOf(one);
  let workdir = root;
  for (const { word, text } of one.instructions) {
    if (word === 'WORKDIR') {
      workdir = path.join(root, text);
      await mkdir(workdir, { recursive: true });
    } else if (word === 'COPY') {
      const copy =
        copies[
          one.instructions.filter((each) => each.word === 'COPY').findIndex((each) => each.text === text)
        ];
      if (copy === undefined) throw new Error(`COPY ${text}`);
      const from = copy.from === undefined ? ROOT : roots.get(copy.from);
      if (from === undefined) throw new Error(`COPY ${text}: there is no such stage`);
      const sources =
        copy.from === undefined ? copy.sources.flatMap((source) => found(source)) : copy.sources;
      if (sources.length === 0) throw new Error(`COPY ${text}: there is nothing`);
      for (const source of sources) {
        const target = path.join(
          workdir,
          copy.target,
          copy.target.endsWith('/') ? path.basename(source) : '',
        );
        await cp(path.join(from, source), target, { recursive: true, verbatimSymlinks: true });
      }
    } else if (word === 'RUN') await runStep(text, workdir, root);
  }
}

async function runStep(text: string, workdir: string, root: string): Promise<void> {
  for (const step of text.split('&&').map((each) => each.trim())) {
    const [program, ...words] = step.split(/\s+/);
    if (program === 'npm' && words[0] === 'ci') await installed(workdir, words.includes('--omit=dev'));
    else if (step === 'npm run build')
      await run('npm', ['run', 'build'], {
        cwd: workdir,
        env: { ...process.env, PATH: `${NODE}:${process.env.PATH}` },
      });
    else if (program === 'chmod')
      await chmod(path.join(workdir, words[1] ?? ''), Number.parseInt(words[0] ?? '', 8));
    else if (program === 'ln' && words[0] === '-s') {
      const [, to = '', at = ''] = words;
      await mkdir(path.dirname(path.join(root, at)), { recursive: true });
      await symlink(path.join(root, to), path.join(root, at));
    } else if (program !== 'apt-get' && step !== 'rm -rf /var/lib/apt/lists/*')
      throw new Error(`RUN ${step}: nobody knows what that does`);
  }
}

/** What `npm ci` would make of the lock file, out of what it made of it here. */
async function installed(workdir: string, production: boolean): Promise<void> {
  // It needs both, and how the lock file is to be read.
  await Promise.all(
    ['package.json', 'package-lock.json', '.npmrc'].map((name) => access(path.join(workdir, name))),
  );
  const { packages } = JSON.parse(read('package-lock.json')) as {
    readonly packages: Readonly<Record<string, { readonly dev?: true; readonly devOptional?: true }>>;
  };
  if (!production) return symlink(path.join(ROOT, 'node_modules'), path.join(workdir, 'node_modules'));
  const names = Object.entries(packages)
    .filter(([name, { dev, devOptional }]) => name !== '' && dev !== true && devOptional !== true)
    .map(([name]) => name);
  for (const name of names) await cp(path.join(ROOT, name), path.join(workdir, name), { recursive: true });
}

/** Every file of a folder. */
export async function filesIn(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .toSorted();
}
