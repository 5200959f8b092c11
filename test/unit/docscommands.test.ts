/** Every `enclave …` that a document tells an operator to type is understood by the real command line. */
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { obey } from '../../src/commands/program.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

// What a command would do is not done; that it was asked for is written down.
const { asked, recorder } = vi.hoisted(() => {
  const done: string[] = [];
  const made = (names: readonly string[]) => () =>
    Object.fromEntries(
      names.map((name) => [
        name,
        () => {
          done.push(name);
          return Promise.resolve(name === 'listIssued' ? [] : undefined);
        },
      ]),
    );
  return { asked: done, recorder: made };
});
vi.mock('../../src/commands/serve.ts', recorder(['serveBroker', 'serveRuntime']));
vi.mock('../../src/commands/run.ts', recorder(['runFile']));
vi.mock('../../src/commands/rerun.ts', recorder(['rerunFile']));
vi.mock(
  '../../src/commands/sessions.ts',
  recorder([
    ...['listSessions', 'showSession', 'printEvents', 'migrateSession', 'closeSession'],
    ...['deleteSession', 'printJournal'],
  ]),
);
vi.mock(
  '../../src/identities/files.ts',
  recorder(['initIdentities', 'addNamespace', 'issue', 'revoke', 'listIssued']),
);

interface Command {
  readonly where: string;
  /** After `enclave`. */
  readonly words: readonly string[];
}

/** The words of a shell command, up to what ends it: a pipe, a redirection, a comment. */
function wordsOf(text: string): readonly string[] {
  const words: string[] = [];
  const token = /\s+|'([^']*)'|"((?:[^"\\]|\\.)*)"|(\d?>{1,2}|[|;&)#`])|((?:[^\s'"|;&>)`\\]|\\.)+)/gy;
  let word: string | undefined;
  for (const [all, single, double, end, plain] of text.matchAll(token)) {
    const part = single ?? double?.replace(/\\(.)/g, '$1') ?? plain?.replace(/\\(.)/g, '$1');
    if (part !== undefined) word = (word ?? '') + part;
    else if (end === '#' && word !== undefined) word += all;
    else {
      if (word !== undefined) words.push(word);
      word = undefined;
      if (end !== undefined) return words;
    }
  }
  if (word !== undefined) words.push(word);
  return words;
}

/** The commands in fenced blocks and in code within a line. */
function commandsIn(where: string, text: string): readonly Command[] {
  const blocks = [...text.matchAll(/^( *)```(\w*)\n([\s\S]*?)^\1```$/gm)];
  const shell = blocks
    .filter(([, , language = '']) => ['sh', 'bash', 'console', ''].includes(language))
    .map(([, , , body = '']) => body.replace(/\\\n\s*/g, ' ').replace(/^\s*#.*$/gm, ''));
  const prose = text.replace(/^( *)```[\s\S]*?^\1```$/gm, '');
  // A sentence may break a line within its code.
  const inline = [...prose.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code.replace(/\s+/g, ' '));
  const at = /(?:^ *|[|&;(]\s*|-- |\bexec \S+ )(?:[A-Z_]+=\S+ +)*(?:npx )?enclave(?= )/gm;
  return [...shell, ...inline].flatMap((code) =>
    [...code.matchAll(at)].map(({ 0: found, index }) => {
      const [line = ''] = code.slice(index + found.length).split('\n');
      return { where, words: wordsOf(line.trim()) };
    }),
  );
}

const pages = globSync('*.md', { cwd: ROOT }).toSorted();
const all = pages.flatMap((page) => commandsIn(page, readFileSync(path.join(ROOT, page), 'utf8')));
/** What is no command: the name of the package, and headings of the reference. */
const isShown = ({ words }: Command): boolean => words.length > 0 && words[0] !== '…';
const shown = all.filter(isShown);

let printed: string[];
beforeEach(() => {
  printed = [];
  asked.length = 0;
  const print = (text: unknown): boolean => {
    printed.push(String(text));
    return true;
  };
  vi.spyOn(process.stdout, 'write').mockImplementation(print);
  vi.spyOn(process.stderr, 'write').mockImplementation(print);
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** What the command line makes of the words: what it would have done, or its complaint. */
async function understood(words: readonly string[]): Promise<string> {
  const failed = (await obey(words)) ?? 0; // A recorded command has no code.
  if (failed !== 0) return `exit code ${failed}: ${printed.join('').split('\n')[0]}`;
  if (asked.length > 0) return asked.join(', ');
  return printed.length > 0 ? 'printed' : 'nothing';
}

describe('the documents', () => {
  it('tell of commands', () => {
    expect(pages).toContain('RUNBOOK.md');
    expect(shown.length).toBeGreaterThan(20);
    const named = new Set(shown.map(({ words }) => words[0]));
    for (const command of ['broker', 'runtime', 'run', 'sessions', 'identities', 'rerun'])
      expect([...named]).toContain(command);
  });

  it('tell of none that the command line does not understand', async () => {
    const wrong: string[] = [];
    for (const { where, words } of shown) {
      printed = [];
      asked.length = 0;
      const did = await understood(words);
      if (did === 'nothing' || did.startsWith('exit'))
        wrong.push(`${where}: enclave ${words.join(' ')}: ${did}`);
    }
    expect(wrong).toEqual([]);
  }, 60_000);
});

describe('the check', () => {
  it.each([
    [['sessions', 'show', 'one'], 'showSession'],
    [['broker', '--lease-ttl', '15000'], 'serveBroker'],
    [['--help'], 'printed'],
    [['sessions', 'list'], 'exit code 2'],
    [['broker', '--leese-ttl', '15000'], 'exit code 2'],
    [['broker', '--lease-ttl', 'soon'], 'exit code 2'],
    [['sessions', 'show'], 'exit code 2'],
    [['identities', 'issue', 'dir'], 'exit code 2'],
    [['broker', '--admission', '{not json'], 'exit code 2'],
  ])('of %j finds %s', async (words, found) => {
    expect(await understood(words)).toContain(found);
  });

  it('finds commands in blocks, in lines, behind pipes, variables and other commands', () => {
    const page = [
      '`npx enclave run -` and `enclave sessions',
      'ls`',
      '```sh',
      "echo 'return 1' | A=1 enclave run - --json   # in full",
      '# enclave nothing',
      'kubectl exec x -- enclave sessions close s > file',
      '  docker exec x enclave sessions migrate s',
      'enclave runtime --labels a=b,c=d \\',
      '  --pool-size 2 && enclave broker',
      '```',
      '```ts',
      'enclave broken',
      '```',
    ].join('\n');
    const words = commandsIn('page', page).map((each) => each.words.join(' '));
    expect(words.toSorted()).toEqual(
      [
        'run -',
        'sessions ls',
        'run - --json',
        'sessions close s',
        'sessions migrate s',
        'runtime --labels a=b,c=d --pool-size 2',
        'broker',
      ].toSorted(),
    );
  });

  it('takes words apart as a shell does', () => {
    expect(wordsOf(`run - --input '{"a": 1}' "b c" d\\ e#f # g`)).toEqual([
      'run',
      '-',
      '--input',
      '{"a": 1}',
      'b c',
      'd e#f',
    ]);
    expect(wordsOf('sessions ls | wc -l')).toEqual(['sessions', 'ls']);
  });
});
