/**
 * The TypeScript of README.md and CLUSTER.md is what the package takes: every block is checked by the compiler, against
 * our own sources in the place of the installed package. Errors have the lines of the document.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
// Where it is, it finds what a user would have installed beside the package.
const folder = mkdtempSync(path.join(ROOT, 'node_modules', '.snippets-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What the reader of a document knows from elsewhere: the other document, the text around, the reader's own tools. */
const KNOWN: Readonly<Record<string, string>> = {
  'README.md': "import { createSystem, type ExecutionResult as Result } from 'enclave-actors';",
  'CLUSTER.md':
    "import type { CreateSystemOptions, Tool } from 'enclave-actors'; declare const getUser: Tool, sendMail: Tool;",
};

const SHAPE = 'executionId; stats; toolCalls }';
/** One for each block. */
const MISTAKES: Readonly<Record<string, readonly (readonly [right: string, wrong: string])[]>> = {
  'README.md': [
    ['poolSize: 2', 'poolsize: 2'],
    ['session.migrate()', 'session.move()'],
    [SHAPE, 'executionId; stats }'],
  ],
  'CLUSTER.md': [
    ['timeout: 60_000', 'timeOut: 60_000'],
    ['target: { tier:', 'targets: { tier:'],
    ['maxWaiting: 2_000', 'maxWaits: 2_000'],
  ],
};

/** What stands for the first and the last line of a block, and its lines in between. */
function moduleOf(block: readonly string[], first: boolean): readonly string[] {
  const [begin = ''] = block;
  // Some of an object's options.
  if (/^\w+: /.test(begin)) return ['void ({', ...block, '} satisfies CreateSystemOptions);'];
  // What a result has, without the types.
  if (begin === 'type ExecutionResult =') return ['', ...block.map(() => ''), shapeOf(block.slice(1))];
  // The first one stands for itself; the others see its names, and not those of each other.
  return first ? ['', ...block, ''] : ['{', ...block, '}'];
}

/** A line that holds if the members of every alternative are those of the type, no more and no less. */
function shapeOf(alternatives: readonly string[]): string {
  const checks = alternatives.map((line) => {
    const [, body = ''] = /^ {2}\| \{ (.*) \};?$/.exec(line) ?? [];
    const success = body.startsWith('success: true');
    const [, error = ''] = /error: \{ (.*?) \}/.exec(body) ?? [];
    const names = (text: string): string =>
      [...text.matchAll(/(\w+)\??(?=[;,:]|$)(?:: \w+)?/g)].map(([, name]) => `'${name}'`).join(' | ');
    const own = names(body.replace(/error: \{.*?\}/, 'error').replaceAll(/: \w+/g, ''));
    const type = `Extract<Result, { success: ${success} }>`;
    return [
      `null as unknown as keyof ${type} satisfies ${own};`,
      `null as unknown as (${own}) satisfies keyof ${type};`,
      ...(error === '' ? [] : [`null as unknown as (${names(error)}) satisfies keyof ${type}['error'];`]),
    ].join(' ');
  });
  return checks.join(' ');
}

/** The document as a module: its blocks in their places, nothing in all others. */
function programOf(document: string, text: string): string {
  const lines = text.split('\n');
  const program = lines.map(() => '');
  let blocks = 0;
  for (let at = 0; at < lines.length; at++) {
    if (lines[at] !== '```ts') continue;
    const end = lines.indexOf('```', at);
    for (const [offset, line] of moduleOf(lines.slice(at + 1, end), blocks++ === 0).entries())
      program[at + offset] = line;
    at = end;
  }
  expect(blocks, `${document} has blocks`).toBeGreaterThan(1);
  program[0] = KNOWN[document] ?? '';
  return program.join('\n');
}

/** What the compiler says of a document. */
async function errorsIn(document: string, text: string): Promise<string> {
  const name = document.replace('.md', '.ts');
  writeFileSync(path.join(folder, name), programOf(document, text));
  const compilerOptions = { noEmit: true, paths: { 'enclave-actors': [path.join(ROOT, 'src/index.ts')] } };
  const config = { extends: path.join(ROOT, 'tsconfig.json'), compilerOptions, include: [name] };
  const file = path.join(folder, `${name}.json`);
  writeFileSync(file, JSON.stringify(config));
  const tsc = path.join(ROOT, 'node_modules/.bin/tsc');
  return promisify(execFile)(tsc, ['-p', file], { cwd: folder }).then(
    () => '',
    (error: unknown) => (error as { readonly stdout: string }).stdout,
  );
}

describe.each(Object.keys(KNOWN))('the TypeScript of %s', (document) => {
  const text = readFileSync(path.join(ROOT, document), 'utf8');

  it('is what the package takes', async () => {
    expect(await errorsIn(document, text)).toBe('');
  }, 60_000);

  it('would not be with a mistake in any of its blocks', async () => {
    let wrong = text;
    const places: string[] = [];
    for (const [right, mistake] of MISTAKES[document] ?? []) {
      expect(text).toContain(right);
      wrong = wrong.replace(right, mistake);
      const line = text.slice(0, text.indexOf(right)).split('\n').length;
      // The shape of a result is held at the end of its block.
      places.push(`.ts(${right === SHAPE ? text.split('\n').indexOf('```', line) + 1 : line},`);
    }
    expect(places).toHaveLength(text.match(/^```ts$/gm)?.length ?? 0);
    const said = await errorsIn(document, wrong);
    expect(places.filter((place) => !said.includes(place))).toEqual([]);
  }, 60_000);
});
