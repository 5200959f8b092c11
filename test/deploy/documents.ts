/** The files of docker/ as data, what the code says of itself, and misspellings. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parse, parseAllDocuments } from 'yaml';
import { DEFAULT_BROKER_PORT } from '../../src/broker.ts';
import { ENVIRONMENT } from '../../src/env.ts';
import { ROUTES } from '../../src/ops/health.ts';
import { createRegistry, registerMetrics } from '../../src/ops/metrics.ts';
import { SYSTEM_RULES } from '../../src/options.ts';

export const ROOT = path.resolve(import.meta.dirname, '../..');
export const read = (file: string): string => readFileSync(path.join(ROOT, file), 'utf8');

export type Fields = Readonly<Record<string, unknown>>;

export const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The value at a path of keys; undefined where there is none. */
export function at(value: unknown, ...keys: readonly (string | number)[]): unknown {
  let found = value;
  for (const key of keys) {
    if (typeof found !== 'object' || found === null) return undefined;
    found = (found as Readonly<Record<string | number, unknown>>)[key];
  }
  return found;
}

/** The items there; none where there is no list. */
export function listAt(value: unknown, ...keys: readonly (string | number)[]): readonly unknown[] {
  const found = at(value, ...keys);
  return Array.isArray(found) ? found : [];
}

export function fieldsAt(value: unknown, ...keys: readonly (string | number)[]): Fields {
  const found = at(value, ...keys);
  return isFields(found) ? found : {};
}

export const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

export const must = (holds: boolean, problem: string): readonly string[] => (holds ? [] : [problem]);
export const equal = (what: string, got: unknown, wanted: unknown): readonly string[] =>
  must(same(got, wanted), `${what} is ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);

// ---- YAML ------------------------------------------------------------------------------------------------

/** Anchors and merges are resolved, as compose does. Throws on what is not YAML. */
export const readYaml = (file: string): unknown => parse(read(file), { merge: true }) as unknown;

export function readYamls(file: string): readonly Fields[] {
  return parseAllDocuments(read(file)).map((document) => {
    if (document.errors.length > 0) throw new Error(`${file}: ${String(document.errors[0])}`);
    return document.toJS() as Fields;
  });
}

/** Names that a file of variables has, with what they are set to. */
export function readVariables(file: string): Readonly<Record<string, string>> {
  const lines = read(file)
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  );
}

// ---- the code --------------------------------------------------------------------------------------------

export const PORT = DEFAULT_BROKER_PORT;
export { ROUTES };
export const DRAIN_GRACE_MS = SYSTEM_RULES.drainGraceMs.default;
/** Whether it is read: by the command line, or by Node itself. */
export const isVariable = (name: string): boolean =>
  Object.hasOwn(ENVIRONMENT, name) || name === 'NODE_OPTIONS';

/** What CAPACITY.md measures: a broker without sessions, and what each session in use adds, resident, in bytes. */
const BROKER_BYTES = 150e6;
const SESSION_BYTES = 46e3;

/** Whether a broker's sessions and its heap fit into the memory that it has, in bytes. */
export function sessionProblems(sessions: unknown, options: unknown, memory: number): readonly string[] {
  const need = BROKER_BYTES + Number(sessions) * SESSION_BYTES;
  const heap = Number(/^--max-old-space-size=(\d+)$/.exec(String(options))?.[1]) * 2 ** 20;
  return [
    ...equal('sessions', sessions, '20000'),
    ...must(need <= memory / 2, 'its sessions need more than half of its memory'),
    ...must(heap >= need && heap <= memory - BROKER_BYTES, 'its heap is no match for its memory'),
  ];
}
export const PACKAGE = JSON.parse(read('package.json')) as {
  readonly version: string;
  readonly files: readonly string[];
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
};

const registry = createRegistry();
registerMetrics(registry);
/** The names of all metrics. */
export const METRICS: ReadonlySet<string> = new Set(registry.getMetricsAsArray().map(({ name }) => name));

/** What `enclave <command> --help` says: its options. Undefined: there is no such command. */
export function optionsOf(command: string): readonly string[] | undefined {
  if (!helps.has(command)) helps.set(command, askHelp(command));
  return helps.get(command);
}

const helps = new Map<string, readonly string[] | undefined>();
let commands: readonly string[] | undefined;

function askHelp(command: string): readonly string[] | undefined {
  const [, list = ''] = commands === undefined ? enclave('--help').split('\nCommands:\n') : [];
  commands ??= [...(list.split('\n\n')[0] ?? '').matchAll(/^ {2}([a-z]+) /gm)].map(([, name = '']) => name);
  if (!commands.includes(command)) return undefined;
  return [...enclave(command, '--help').matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map(
    ([, option = '']) => option,
  );
}

function enclave(...words: readonly string[]): string {
  return execFileSync(process.execPath, [path.join(ROOT, 'src/cli.ts'), ...words], { encoding: 'utf8' });
}

/** What the command line would not take. */
export function argumentProblems(words: readonly unknown[]): readonly string[] {
  const [command, ...rest] = words.map(String);
  const options = command === undefined ? undefined : optionsOf(command);
  if (options === undefined) return [`enclave ${command ?? ''}: is no command`];
  return rest
    .filter((word) => word.startsWith('-') && !options.includes(word.split('=')[0] ?? ''))
    .map((word) => `enclave ${command}: has no option ${word}`);
}

// ---- what NATS is given ----------------------------------------------------------------------------------

const conf = read('nats.conf').replace(/^\s*#.*$/gm, '');
export const NATS = {
  port: Number(/^listen: [\d.]+:(\d+)$/m.exec(conf)?.[1]),
  monitor: /^http: ([\d.:]+)$/m.exec(conf)?.[1],
  /** The variable with the password of each user. */
  users: new Map(
    [...conf.matchAll(/user: (\w+), password: \$(\w+)/g)].map(([, user = '', name = '']) => [user, name]),
  ),
};
/** The port that a url of Redis means if it names none. */
export const REDIS_PORT = Number(/Default redis:\/\/[\d.]+:(\d+)/.exec(ENVIRONMENT.ENCLAVE_REDIS_URL)?.[1]);

// ---- misspellings ----------------------------------------------------------------------------------------

export interface Misspelling<T> {
  /** Where, as keys joined by slashes. */
  readonly where: string;
  readonly document: T;
}

/** The document once for each of its keys and values, with that one misspelt. */
export function* misspellings<T extends object>(document: T): Generator<Misspelling<T>> {
  for (const keys of places(document)) {
    const where = keys.join('/');
    yield { where: `value ${where}`, document: changed(document, keys, misspellValue) };
    const last = keys.at(-1);
    if (typeof last === 'string')
      yield { where: `key ${where}`, document: changed(document, keys, misspellKey) };
  }
}

type Keys = readonly (string | number)[];

function* places(value: unknown, keys: Keys = []): Generator<Keys> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    const here = [...keys, Array.isArray(value) ? Number(key) : key];
    yield here;
    yield* places(inner, here);
  }
}

type Holder = Record<string | number, unknown>;

function changed<T extends object>(
  document: T,
  keys: Keys,
  change: (holder: Holder, key: string) => void,
): T {
  const copy = structuredClone(document);
  change(at(copy, ...keys.slice(0, -1)) as Holder, String(keys.at(-1)));
  return copy;
}

/** A letter more, another number, the other truth; a list or an object of another kind. */
function misspellValue(holder: Holder, key: string): void {
  const value = holder[key];
  if (typeof value === 'number') holder[key] = value + 1;
  else if (typeof value === 'boolean') holder[key] = !value;
  else if (typeof value === 'string') holder[key] = `${value.slice(0, -1)}~${value.slice(-1)}`;
  else if (Array.isArray(value)) holder[key] = value.length === 0 ? ['~'] : value.slice(1);
  else if (isFields(value)) holder[key] = Object.keys(value).length === 0 ? { '~': true } : {};
}

function misspellKey(holder: Holder, key: string): void {
  const value = holder[key];
  delete holder[key];
  holder[`${key}x`] = value;
}
