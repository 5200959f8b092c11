/** The map of ARCHITECTURE.md, "The house", held against the source: who may import whom. */
import { globSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');

interface Import {
  readonly file: string;
  /** A path from the root for one of ours; else the package's name. */
  readonly target: string;
  /** Types only: it is gone when the program runs. */
  readonly type: boolean;
}

interface Source {
  readonly file: string;
  /** Without comments. */
  readonly code: string;
  readonly imports: readonly Import[];
}

const SPECIFIER = /(?:^|[\n;])\s*(?:import|export)\b(\s+type\b)?(?:([\w$\s{},*]*?)\bfrom\s*|\s*)'([^'\n]+)'/g;
const DYNAMIC = /\b(?:import|require(?:\.resolve)?)\(\s*['"]([^'"]+)['"]/g;

function read(file: string): Source {
  const text = readFileSync(path.join(ROOT, file), 'utf8');
  const code = text.replace(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm, '');
  const imports: Import[] = [];
  for (const [, type, names = '', specifier = ''] of code.matchAll(SPECIFIER))
    imports.push({ file, target: resolve(file, specifier), type: type !== undefined || onlyTypes(names) });
  for (const [, specifier = ''] of code.matchAll(DYNAMIC))
    imports.push({ file, target: resolve(file, specifier), type: false });
  return { file, code, imports };
}

/** True for `{ type A, type B }`. */
function onlyTypes(names: string): boolean {
  const inside = /^\s*\{([\s\S]*)\}\s*$/.exec(names)?.[1];
  if (inside === undefined) return false;
  const parts = inside
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  return parts.length > 0 && parts.every((part) => part.startsWith('type '));
}

function resolve(file: string, specifier: string): string {
  if (specifier.startsWith('.')) return path.posix.join(path.posix.dirname(file), specifier);
  const [scope = '', name] = specifier.split('/');
  return specifier.startsWith('@') ? `${scope}/${name}` : scope;
}

const sourcesIn = (...patterns: readonly string[]): readonly Source[] =>
  globSync(patterns, { cwd: ROOT })
    .map((file) => file.split(path.sep).join('/'))
    .toSorted()
    .map(read);
const actors = sourcesIn('actors/**/*.ts');
const src = sourcesIn('src/**/*.ts');
const examples = sourcesIn('examples/**/*.ts');
const ours = [...actors, ...src];
const importsOf = (sources: readonly Source[]): readonly Import[] =>
  sources.flatMap(({ imports }) => imports);
const show = (imports: readonly Import[]): readonly string[] =>
  imports.map(({ file, target }) => `${file} imports ${target}`);

const isBuiltin = (target: string): boolean => target.startsWith('node:') || builtinModules.includes(target);
const isPackage = ({ target }: Import): boolean => !target.includes('.ts') && !isBuiltin(target);

describe('the reader of imports', () => {
  it('finds the ones that are known to be there', () => {
    expect(show(importsOf(src))).toEqual(
      expect.arrayContaining([
        'src/sandbox/pool.ts imports actors/runtime.ts',
        'src/enclave.ts imports node:crypto',
        'src/sandbox/child/strip.ts imports @jridgewell/sourcemap-codec',
        'src/index.ts imports src/enclave.ts',
      ]),
    );
  });

  it('tells types from values', () => {
    const metrics = importsOf(src).filter(({ target }) => target === 'prom-client');
    expect(metrics.map(({ file, type }) => [file, type])).toEqual(
      expect.arrayContaining([
        ['src/enclave.ts', true],
        ['src/ops/metrics/registry.ts', false],
      ]),
    );
  });
});

describe('actors/ decides and does nothing', () => {
  it('imports xstate and itself only', () => {
    const others = importsOf(actors).filter(
      ({ target }) => target !== 'xstate' && !target.startsWith('actors/'),
    );
    expect(show(others)).toEqual([]);
  });

  it.each([
    ['a clock', /\bDate\s*\.\s*now\b|\bnew\s+Date\b|\bperformance\b|\bhrtime\b|\bTemporal\b/],
    ['randomness', /\bMath\s*\.\s*random\b|\brandomUUID\b|\bgetRandomValues\b|\bcrypto\b/],
    ['a timer', /\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b|\bafter\s*:/],
    ['the outside world', /\bprocess\s*\.(?!exited\b)|\bfetch\s*\(|\bconsole\b|\bglobalThis\b/],
    ['concurrency', /\basync\b|\bawait\b|\bPromise\b|\bfromPromise\b|\bspawn\w*\s*\(|\binvoke\s*:/],
  ])('does without %s', (_, pattern) => {
    const found = actors.flatMap(({ file, code }) => {
      const hit = pattern.exec(withoutStrings(code));
      return hit === null ? [] : [`${file}: ${hit[0]}`];
    });
    expect(found).toEqual([]);
  });
});

/** Event names such as 'process.exited' are words, not code. */
function withoutStrings(code: string): string {
  return code.replace(/'[^'\n]*'/g, "''");
}

describe('the directions of imports', () => {
  const within = (folder: string): readonly Import[] =>
    importsOf(src.filter(({ file }) => file.startsWith(`src/${folder}/`)));

  it.each([
    ['sandbox', ['bus', 'store', 'session', 'runtime', 'client']],
    ['bus', ['sandbox', 'store', 'session', 'runtime', 'client', 'tools']],
    ['store', ['sandbox', 'bus', 'session', 'runtime', 'client', 'tools']],
    ['tools', ['sandbox', 'store', 'session', 'runtime', 'client']],
    ['session', ['sandbox', 'runtime', 'client', 'ops']],
    ['runtime', ['sandbox', 'store', 'session', 'client', 'ops']],
    ['client', ['sandbox', 'store', 'session', 'runtime', 'ops']],
  ])('src/%s imports none of %j', (folder, forbidden) => {
    const wrong = within(folder).filter(
      ({ target, type }) => !type && forbidden.some((other) => target.startsWith(`src/${other}/`)),
    );
    expect(show(wrong)).toEqual([]);
  });

  it.each(['session', 'runtime', 'client', 'tools'])(
    'src/%s knows the bus and the store by their ports only',
    (folder) => {
      const wrong = within(folder).filter(
        ({ target }) =>
          /^src\/(?:bus|store)\//.test(target) && !/^src\/(?:bus\/bus|store\/store)\.ts$/.test(target),
      );
      expect(show(wrong)).toEqual([]);
    },
  );

  it('no folder of src/ but the commands imports the public API from below', () => {
    const roots = [
      ...['index', 'enclave', 'enclavepool', 'adapter', 'poolsandbox', 'system', 'systemoptions'],
      ...['broker', 'runtime', 'client', 'nodes', 'backends', 'served', 'providetools', 'env', 'cli'],
    ].map((name) => `src/${name}.ts`);
    const below = src.filter(({ file }) => file.split('/').length > 2 && !file.startsWith('src/commands/'));
    const wrong = importsOf(below).filter(({ target }) => roots.includes(target));
    expect(show(wrong)).toEqual([]);
  });

  it('lead nowhere back to where they began, types included', () => {
    const targets = new Map(ours.map(({ file, imports }) => [file, imports.map(({ target }) => target)]));
    const done = new Set<string>();
    const circles: string[] = [];
    const follow = (file: string, way: readonly string[]): void => {
      if (way.includes(file)) circles.push([...way.slice(way.indexOf(file)), file].join(' → '));
      if (done.has(file)) return;
      done.add(file);
      for (const target of targets.get(file) ?? []) follow(target, [...way, file]);
    };
    for (const file of targets.keys()) follow(file, []);
    expect(circles).toEqual([]);
  });

  it('what runs in the worker imports nothing of the host but messages and frames', () => {
    const allowed = /^src\/sandbox\/(?:child|guest)\/|^src\/sandbox\/(?:messages|frames)\.ts$/;
    const wrong = [...within('sandbox/child'), ...within('sandbox/guest')].filter(
      (each) => !each.type && each.target.endsWith('.ts') && !allowed.test(each.target),
    );
    expect(show(wrong)).toEqual([]);
  });

  it('what runs in the isolate imports nothing from outside', () => {
    // These two run in the worker: one builds the text that the isolate gets, one answers it.
    const hosts = ['src/sandbox/guest/prelude.ts', 'src/sandbox/guest/urlhost.ts'];
    const wrong = within('sandbox/guest').filter(
      ({ file, target, type }) => !type && !hosts.includes(file) && !target.startsWith('src/sandbox/guest/'),
    );
    expect(show(wrong)).toEqual([]);
  });

  it('examples import the public entry only, and what a user would install beside it', () => {
    const theirs = [
      ...['zod', 'prom-client', 'pino', 'ioredis', '@nats-io/transport-node'],
      ...['api', 'sdk-trace', 'context-async-hooks'].map((name) => `@opentelemetry/${name}`),
    ];
    const imports = importsOf(examples);
    const wrong = imports.filter(
      ({ target }) =>
        !isBuiltin(target) &&
        target !== '#enclave' &&
        !target.startsWith('examples/') &&
        !theirs.includes(target),
    );
    expect(show(wrong)).toEqual([]);
    expect(imports.some(({ target }) => target === '#enclave')).toBe(true);
  });
});

describe('third parties', () => {
  /** The one module that imports the package's values; xstate is the language of the machines. */
  const HOMES: Readonly<Record<string, string>> = {
    'isolated-vm': 'src/sandbox/child/isolates.ts',
    amaro: 'src/sandbox/child/strip.ts',
    '@jridgewell/sourcemap-codec': 'src/sandbox/child/strip.ts',
    'prom-client': 'src/ops/metrics/registry.ts',
    '@nats-io/transport-node': 'src/bus/nats/connection.ts',
    '@nats-io/jwt': 'src/identities/keys.ts',
    '@nats-io/nkeys': 'src/identities/keys.ts',
    uuid: 'src/ids.ts',
    '@opentelemetry/api': 'src/traces.ts',
    commander: 'src/commands/program.ts',
    pino: 'src/ops/logs.ts',
    ioredis: 'src/store/redis/client.ts',
    limiter: 'src/session/bucket.ts',
  };
  const values = importsOf(ours).filter((each) => isPackage(each) && !each.type && each.target !== 'xstate');

  it.each(Object.entries(HOMES))('%s is imported in %s only', (name, home) => {
    expect([...new Set(values.filter(({ target }) => target === name).map(({ file }) => file))]).toEqual([
      home,
    ]);
  });

  it('are imported in one module each', () => {
    const homes = new Map<string, Set<string>>();
    for (const { file, target } of values) homes.set(target, (homes.get(target) ?? new Set()).add(file));
    const shared = [...homes].filter(([, files]) => files.size > 1);
    expect(shared.map(([name, files]) => `${name}: ${[...files].join(', ')}`)).toEqual([]);
  });

  it('are dependencies, whether imported as values or as types', () => {
    const { dependencies } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
      readonly dependencies: Readonly<Record<string, string>>;
    };
    const unknown = importsOf(ours).filter(
      (each) => isPackage(each) && !Object.hasOwn(dependencies, each.target),
    );
    expect(show(unknown)).toEqual([]);
  });
});
