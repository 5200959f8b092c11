/**
 * The reference part of OPTIONS.md, made from the source: the interfaces of the options with what is written above each
 * key, the rules of the numbers, the commands' help and the environment. A test holds the page to it;
 * `npx node test/support/optiondocs.ts` writes it anew.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ENVIRONMENT } from '../../src/env.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const FILE = path.join(ROOT, 'OPTIONS.md');
const BEGIN = '<!-- reference: written by test/support/optiondocs.ts -->';
const END = '<!-- end of reference -->';

/** An option as its interface declares it. */
export interface Option {
  readonly name: string;
  readonly type: string;
  /** It must be given. */
  readonly required: boolean;
  /** What is written above it, in one line. */
  readonly text: string;
  /** The interface and the file that declare it. */
  readonly declared: string;
}

/** One table of the page. */
export interface Group {
  readonly title: string;
  /** What they are options of. */
  readonly about: string;
  readonly file: string;
  readonly name: string;
}

/** Every interface of options that a user meets. Those that they extend are read by themselves. */
export const GROUPS: readonly Group[] = [
  {
    title: 'createSystem',
    about: 'A system of this process, or this process’s part of a cluster.',
    file: 'src/systemoptions.ts',
    name: 'CreateSystemOptions',
  },
  {
    title: 'admission',
    about: 'The option `admission` of `createSystem` and `EnclaveBroker`: what a broker takes on.',
    file: 'src/options.ts',
    name: 'AdmissionOptions',
  },
  {
    title: 'admission.tenants',
    about: 'What one tenant gets, by its name in `admission.tenants`.',
    file: 'src/options.ts',
    name: 'TenantOptions',
  },
  {
    title: 'runtimePool',
    about: 'The option `runtimePool` of `createSystem` and `EnclaveBroker`: the autoscaler.',
    file: 'src/options.ts',
    name: 'RuntimePoolOptions',
  },
  {
    title: 'pool',
    about:
      'A worker pool: `pool` of `createSystem`, `createWorkerPoolAdapter` and, with `size` and `maxMemory` for the first two, `workerPool` of `EnclaveRuntime`.',
    file: 'src/options.ts',
    name: 'WorkerPoolOptions',
  },
  {
    title: 'limits',
    about:
      'What one execution may use: of `createSystem`, `EnclaveBroker`, `EnclaveClient`, `spawnSession`, `execute` and `run`. An Enclave and its `run` know those without `deadlineMs` and `maxStateBytes`.',
    file: 'src/options.ts',
    name: 'SessionLimitOptions',
  },
  {
    title: 'EnclaveBroker',
    about: 'A broker as a process of its own.',
    file: 'src/broker.ts',
    name: 'EnclaveBrokerOptions',
  },
  {
    title: 'EnclaveRuntime',
    about: 'A runtime as a process of its own.',
    file: 'src/runtime.ts',
    name: 'EnclaveRuntimeOptions',
  },
  {
    title: 'workerPool',
    about: 'The option `workerPool` of `EnclaveRuntime`.',
    file: 'src/runtime.ts',
    name: 'RuntimeWorkerPool',
  },
  {
    title: 'EnclaveClient',
    about: 'A client as services embed it.',
    file: 'src/client.ts',
    name: 'EnclaveClientOptions',
  },
  {
    title: 'reconnection',
    about: 'The option `reconnection` of `EnclaveClient`.',
    file: 'src/client.ts',
    name: 'ReconnectionOptions',
  },
  {
    title: 'spawnSession',
    about: 'A new session, by a system or a client.',
    file: 'src/client/options.ts',
    name: 'SpawnOptions',
  },
  {
    title: 'execute',
    about: 'An execution of a session.',
    file: 'src/client/options.ts',
    name: 'ExecuteOptions',
  },
  {
    title: 'run',
    about: 'A stateless run, by a system or a client.',
    file: 'src/client/options.ts',
    name: 'RunOptions',
  },
  {
    title: 'events',
    about:
      'The events of all sessions, live, or of the one that `sessionId` names; those of a session know `fromSeq` and `signal`.',
    file: 'src/client/options.ts',
    name: 'AllEventsOptions',
  },
  {
    title: 'migrate',
    about: 'Handing a session to another broker.',
    file: 'src/client/options.ts',
    name: 'MigrateOptions',
  },
  {
    title: 'provideTools',
    about: 'A service that provides tools and is no broker.',
    file: 'src/providetools.ts',
    name: 'ProvideToolsOptions',
  },
  {
    title: 'defineTool',
    about: 'A tool.',
    file: 'src/tools/define.ts',
    name: 'ToolDefinition',
  },
  {
    title: 'Enclave',
    about: 'Scripts within one process, without sessions.',
    file: 'src/enclave.ts',
    name: 'EnclaveConfig',
  },
  {
    title: 'Enclave.run',
    about: 'One run of an Enclave.',
    file: 'src/enclave.ts',
    name: 'RunOptions',
  },
  {
    title: 'EnclavePool',
    about: 'Enclaves that are borrowed, beside their number and the options of an Enclave.',
    file: 'src/enclavepool.ts',
    name: 'EnclavePoolOptions',
  },
  {
    title: 'nats',
    about: 'NATS by options instead of urls: `nats`, `serverUrl` and `brokerUrl`.',
    file: 'src/bus/nats/options.ts',
    name: 'NatsOptions',
  },
  {
    title: 'nats.reconnect',
    about: 'The option `reconnect` of `nats`.',
    file: 'src/bus/nats/options.ts',
    name: 'NatsReconnectOptions',
  },
  {
    title: 'nats.tls',
    about: 'The option `tls` of `nats`.',
    file: 'src/bus/nats/options.ts',
    name: 'NatsTlsOptions',
  },
];

// ---- reading interfaces ----------------------------------------------------------------------------------

interface Declared {
  readonly options: readonly Option[];
  /** What stands after `extends`. */
  readonly bases: string;
}

const sources = new Map<string, string>();
function sourceOf(file: string): string {
  const text = sources.get(file) ?? readFileSync(path.join(ROOT, file), 'utf8');
  sources.set(file, text);
  return text;
}

/** An interface as it is written. Throws if the file has none of this name, or one with a key of another form. */
function declaredIn(file: string, name: string): Declared {
  const head = new RegExp(`^export interface ${name}(?:<[^{]*>)?(?:\\s+extends\\s+([^{]+?))?\\s*\\{\\n`, 'm');
  const found = head.exec(sourceOf(file));
  if (found === null) throw new Error(`${file} has no interface ${name}`);
  const rest = sourceOf(file).slice(found.index + found[0].length);
  const body = rest.startsWith('}') ? '' : rest.slice(0, rest.indexOf('\n}'));
  const form = /(?:[ \t]*\/\*\*((?:[^*]|\*(?!\/))*)\*\/\s*)?readonly (\w+)(\??):\s*([^;]+);/y;
  const options: Option[] = [];
  let at = 0;
  while (body.slice(at).trim() !== '') {
    form.lastIndex = at + (/^\s*/.exec(body.slice(at))?.[0].length ?? 0);
    const match = form.exec(body);
    if (match === null) throw new Error(`${file}, ${name}: cannot read ${body.slice(at, at + 80)}`);
    const [, doc = '', key = '', optional, type = ''] = match;
    options.push({
      name: key,
      type: type
        .replace(/\s*\|\s*undefined\b/, '')
        .replace(/\s+/g, ' ')
        .trim(),
      required: optional === '',
      text: lineOf(doc),
      declared: `${name} in ${file}`,
    });
    at = form.lastIndex;
  }
  return { options, bases: found[1] ?? '' };
}

/** A comment in one line, without what it is made of; a list in it as sentences. */
function lineOf(doc: string): string {
  return doc
    .split('\n')
    .map((line) => line.replace(/^\s*\*? ?/, '').trim())
    .join(' ')
    .replace(/ - (?=`)/g, ' ')
    .replace(/\{@link (\w+)\}/g, '`$1`')
    .replace(/\s+/g, ' ')
    .trim();
}

/** The file that an interface of this name comes from, as `file` imports it, or `file` itself. */
function fileOf(file: string, name: string): string {
  const text = sourceOf(file);
  if (new RegExp(`^export interface ${name}\\b`, 'm').test(text)) return file;
  const imports = text.matchAll(/import (?:type )?\{([^}]*)\} from '(\.[^']+)'/g);
  for (const [, names = '', from = ''] of imports)
    if (names.split(',').some((each) => each.trim().replace(/^type /, '') === name))
      return path.posix.join(path.posix.dirname(file), from);
  throw new Error(`${file} does not say where ${name} comes from`);
}

/** All options of a group, those of what it extends first, its own over them. */
export function optionsOf({ file, name }: Pick<Group, 'file' | 'name'>): readonly Option[] {
  const { options, bases } = declaredIn(file, name);
  const all = new Map<string, Option>();
  for (const [, omit, base = ''] of bases.matchAll(/(Omit<\s*)?(\w+)(?=[\s,>]|$)/g)) {
    if (base === 'Omit') continue;
    for (const option of optionsOf({ file: fileOf(file, base), name: base })) all.set(option.name, option);
    const omitted = omit === undefined ? '' : bases.slice(bases.indexOf(omit));
    for (const [, key = ''] of omitted.matchAll(/'(\w+)'/g)) all.delete(key);
    if (omit !== undefined) break; // What follows are the keys.
  }
  for (const option of options) all.set(option.name, option);
  return [...all.values()];
}

// ---- rules of numbers ------------------------------------------------------------------------------------

export interface Rule {
  readonly default: number;
  readonly min: number;
  readonly max: number;
  readonly unit: string;
}

/** Where the rules of an interface's numbers are, by the interface. */
const RULES: Readonly<Record<string, readonly [file: string, name: string]>> = {
  Limits: ['src/options.ts', 'LIMIT_RULES'],
  SessionLimitOptions: ['src/options.ts', 'SESSION_LIMIT_RULES'],
  WorkerPoolOptions: ['src/options.ts', 'POOL_RULES'],
  SystemOptions: ['src/options.ts', 'SYSTEM_RULES'],
  RuntimePoolOptions: ['src/options.ts', 'RUNTIME_POOL_RULES'],
  AdmissionOptions: ['src/options.ts', 'ADMISSION_RULES'],
  TenantOptions: ['src/options.ts', 'TENANT_RULES'],
  NatsOptions: ['src/bus/nats/options.ts', 'RULES'],
  NatsReconnectOptions: ['src/bus/nats/options.ts', 'RECONNECT_RULES'],
};

/** The rule of a number; undefined if it has none in a table. */
export function ruleOf({ name, declared }: Option): Rule | undefined {
  const [file, table] = RULES[declared.split(' ')[0] ?? ''] ?? [];
  if (file === undefined) return undefined;
  const [, body] =
    new RegExp(`^(?:export )?const ${table} = \\{([\\s\\S]*?)\\n\\}`, 'm').exec(sourceOf(file)) ?? [];
  if (body === undefined) throw new Error(`${file} has no ${table}`);
  const [, rule] = new RegExp(`^  ${name}: \\{ (.*) \\}`, 'm').exec(body) ?? [];
  if (rule === undefined) return undefined;
  const part = (key: string): string => new RegExp(`\\b${key}: ([^,]+)`).exec(rule)?.[1]?.trim() ?? '';
  const unit = part('unit').replaceAll("'", '');
  return { default: numberOf(part('default')), min: numberOf(part('min')), max: numberOf(part('max')), unit };
}

/** `4096 * MiB`, `30_000`, `-1` */
function numberOf(text: string): number {
  const units: Readonly<Record<string, number>> = { KiB: 1024, MiB: 1024 * 1024 };
  return text
    .split('*')
    .map((factor) => factor.trim())
    .map((factor) => units[factor] ?? Number(factor.replaceAll('_', '')))
    .reduce((product, factor) => product * factor, 1);
}

// ---- what a text says ------------------------------------------------------------------------------------

/** What it is if it is not given, as its text says; undefined if it does not. */
export function defaultIn({ text }: Pick<Option, 'text'>): string | undefined {
  const found = /\bDefault(?:s to)?:? ((?:`[^`]*`|\([^)]*\)|\d[\d,.]*\d|[^.;`(])+)/.exec(text)?.[1]?.trim();
  return found === undefined || found === '' ? undefined : found;
}

// ---- the page --------------------------------------------------------------------------------------------

const rowOf = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;

/** From its rule, where it is a number that has one. */
function rangeOf(option: Option): string {
  const rule = ruleOf(option);
  if (rule === undefined) return '';
  const range = `${amount(rule.min, rule.unit)} to ${amount(rule.max, rule.unit)}`;
  return rule.unit === 'ms' || option.name.endsWith('Ms') ? `${range} ms` : range;
}

/** As the texts write it: `30,000`, `64 MiB`, `1 byte`. */
export function amount(value: number, unit: string): string {
  const written = value.toLocaleString('en-US', { maximumFractionDigits: 3 });
  if (unit !== 'bytes') return written;
  for (const [name, size] of [
    ['GiB', 1024 ** 3],
    ['MiB', 1024 ** 2],
    ['KiB', 1024],
  ] as const)
    if (value >= size && value % size === 0) return `${value / size} ${name}`;
  return value === 0 ? written : `${written} byte${value === 1 ? '' : 's'}`;
}

/** What is not given is not there; of options that have a table of their own, each has its default. */
function withoutDefault({ type }: Option): string {
  return GROUPS.some(({ name }) => type.includes(name)) || type === 'Limits' ? 'those of its parts' : 'none';
}

function tableOf(group: Group): string {
  const rows = optionsOf(group).map((option) => {
    const fallback = option.required ? 'must be given' : (defaultIn(option) ?? withoutDefault(option));
    const cells = [`\`${option.name}\``, `\`${option.type}\``, fallback, rangeOf(option), option.text];
    return rowOf(cells);
  });
  return [
    rowOf(['option', 'type', 'default', 'range', 'meaning']),
    '| --- | --- | --- | --- | --- |',
    ...rows,
  ].join('\n');
}

/** The words that lead to each command of the command line. */
export const COMMANDS: readonly string[] = [
  'broker',
  'runtime',
  'run',
  'sessions ls',
  'sessions show',
  'sessions events',
  'sessions migrate',
  'sessions close',
  'sessions delete',
  'sessions journal',
  'identities init',
  'identities add',
  'identities issue',
  'identities revoke',
  'identities ls',
  'rerun',
];

const helps = new Map<string, string>();

/** What a command says of itself, each option in one line. */
export function helpOf(command: string): string {
  const help = helps.get(command) ?? askForHelp(command);
  helps.set(command, help);
  return help;
}

function askForHelp(command: string): string {
  const words = command.split(' ').filter((word) => word !== '');
  const cli = path.join(ROOT, 'src/cli.ts');
  const help = execFileSync(process.execPath, [cli, ...words, '--help'], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
  });
  return help.replace(/\n {10,}(?=\S)/g, ' ');
}

function commandSection(command: string): string {
  const rows = [...helpOf(command).matchAll(/^ {2}(-\S.*?) {2,}(\S.*)$/gm)]
    .map(([, flags = '', meaning = '']) => [flags.trim(), meaning.trim()] as const)
    .filter(([flags]) => flags !== '-h, --help')
    .map(([flags, meaning]) => rowOf([`\`${flags}\``, meaning]));
  const table =
    rows.length === 0 ? 'No options.' : ['| option | meaning |', '| --- | --- |', ...rows].join('\n');
  return `### enclave ${command}\n\n${table}`;
}

function environmentTable(): string {
  const rows = Object.entries(ENVIRONMENT).map(([name, meaning]) => `| \`${name}\` | ${meaning} |`);
  return ['| variable | meaning |', '| --- | --- |', ...rows].join('\n');
}

/** What stands between the marks. */
export function makeReference(): string {
  const groups = GROUPS.map((group) => `### ${group.title}\n\n${group.about}\n\n${tableOf(group)}`);
  return [
    '## In code',
    ...groups,
    '## On the command line',
    ...COMMANDS.map(commandSection),
    '## In the environment',
    environmentTable(),
  ].join('\n\n');
}

/** The page, and the part of it between the marks. Throws if they are not there. */
export function readPage(): { readonly before: string; readonly reference: string; readonly after: string } {
  const text = readFileSync(FILE, 'utf8');
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`${FILE} has no part for the reference`);
  return {
    before: text.slice(0, begin),
    reference: text.slice(begin + BEGIN.length, end).trim(),
    after: text.slice(end),
  };
}

if (import.meta.main) {
  const { before, after } = readPage();
  writeFileSync(FILE, `${before}${BEGIN}\n\n${makeReference()}\n\n${after}`);
}
