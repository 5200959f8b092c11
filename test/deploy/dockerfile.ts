/** docker/Dockerfile as data, and what of the repository its builder may see. */
import { globSync, statSync } from 'node:fs';
import path from 'node:path';
import { ROOT, read } from './documents.ts';

export interface Instruction {
  readonly word: string;
  /** Everything after the word, its flags included, on one line. */
  readonly text: string;
}

export interface Stage {
  readonly base: string;
  readonly name: string | undefined;
  readonly instructions: readonly Instruction[];
}

export interface Copy {
  /** The stage that it copies from; undefined: the repository. */
  readonly from: string | undefined;
  readonly sources: readonly string[];
  readonly target: string;
}

export interface Image {
  readonly nodeVersion: string | undefined;
  readonly stages: readonly Stage[];
  /** The last stage, which is the image. */
  readonly final: Stage;
  readonly env: Readonly<Record<string, string>>;
  readonly user: string;
  readonly workdir: string;
  readonly exposed: readonly number[];
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
  readonly healthcheck: readonly string[];
}

const instructionsOf = (text: string): readonly Instruction[] =>
  text
    .replace(/^\s*#.*\n/gm, '')
    .replace(/\s*\\\n\s*/g, ' ')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [, word = '', rest = ''] = /^(\S+)\s*(.*)$/.exec(line) ?? [];
      return { word: word.toUpperCase(), text: rest.trim() };
    });

/** Throws on a file without a stage, or with a command that is not in the exec form. */
export function parseDockerfile(text: string): Image {
  const stages: (Stage & { readonly instructions: Instruction[] })[] = [];
  let nodeVersion: string | undefined;
  for (const instruction of instructionsOf(text)) {
    const { word, text: rest } = instruction;
    const [base = '', as = 'AS', name] = rest.split(/\s+/);
    if (word === 'FROM' && as.toUpperCase() === 'AS') stages.push({ base, name, instructions: [] });
    else if (stages.length === 0 && word === 'ARG')
      nodeVersion = /^NODE_VERSION=(\S+)$/.exec(rest)?.[1] ?? nodeVersion;
    else if (stages.length === 0 || word === 'FROM') throw new Error(`${word} ${rest}: is no stage`);
    else stages.at(-1)?.instructions.push(instruction);
  }
  const final = stages.at(-1);
  if (final === undefined) throw new Error('the Dockerfile has no stage');
  const last = (word: string): string =>
    final.instructions.findLast((each) => each.word === word)?.text ?? '';
  const exec = (words: string): readonly string[] => JSON.parse(words) as readonly string[];
  return {
    nodeVersion,
    stages,
    final,
    env: Object.fromEntries(
      last('ENV')
        .split(/\s+/)
        .map((each) => [each.slice(0, each.indexOf('=')), each.slice(each.indexOf('=') + 1)]),
    ),
    user: last('USER'),
    workdir: last('WORKDIR'),
    exposed: last('EXPOSE').split(/\s+/).map(Number),
    entrypoint: exec(last('ENTRYPOINT')),
    command: exec(last('CMD')),
    healthcheck: exec(/CMD (\[.*\])$/.exec(last('HEALTHCHECK'))?.[1] ?? '[]'),
  };
}

export function copiesOf({ instructions }: Stage): readonly Copy[] {
  return instructions
    .filter(({ word }) => word === 'COPY')
    .map(({ text }) => {
      const words = text.split(/\s+/);
      const from = words.find((word) => word.startsWith('--from='))?.slice('--from='.length);
      const files = words.filter((word) => !word.startsWith('--'));
      return { from, sources: files.slice(0, -1), target: files.at(-1) ?? '' };
    });
}

/** What `.dockerignore` lets through. Throws if it does anything but hide all else. */
export function letThrough(text: string): readonly string[] {
  const [first, ...others] = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  if (first !== '*' || others.some((line) => !/^![\w.*-]+$/.test(line)))
    throw new Error('.dockerignore: is more than a list of what is let through');
  return others.map((line) => line.slice(1));
}

/** The files and folders at the top of the repository that a pattern means. */
export const atTop = (pattern: string): readonly string[] =>
  globSync(pattern, { cwd: ROOT }).filter((name) =>
    statSync(path.join(ROOT, name), { throwIfNoEntry: false }),
  );

const SHOWN = letThrough(read('.dockerignore'));

/** What a `COPY` finds: what is there and let through. */
export function found(source: string, shown: readonly string[] = SHOWN): readonly string[] {
  const seen = new Set(shown.flatMap(atTop));
  return atTop(source.replace(/^\.\//, '')).filter((name) => seen.has(name));
}

export const IMAGE = parseDockerfile(read('docker/Dockerfile'));
