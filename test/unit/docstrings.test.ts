/** Every export of the package says what it is, where it is declared. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const SRC = path.resolve(import.meta.dirname, '../../src');
const index = readFileSync(path.join(SRC, 'index.ts'), 'utf8');

interface Exported {
  readonly name: string;
  readonly file: string;
}

function exportsOf(text: string, folder: string): readonly Exported[] {
  return [...text.matchAll(/^export (?:type )?\{([^}]*)\} from '([^']+)'/gm)].flatMap(
    ([, names = '', from = '']) =>
      names
        .split(',')
        .map((name) => name.trim().replace(/^type /, ''))
        .filter((name) => name !== '')
        .map((name) => ({ name: name.split(' as ')[0] ?? '', file: path.resolve(folder, from) })),
  );
}

/** The text before the declaration of a name; where it is only passed on, there. Undefined: it is nowhere. */
function before({ name, file }: Exported): string | undefined {
  const text = readFileSync(file, 'utf8');
  const declared = new RegExp(`^export (?:async )?(?:interface|type|class|function|const) ${name}\\b`, 'm');
  const at = declared.exec(text)?.index;
  if (at !== undefined) return text.slice(0, at);
  const on = exportsOf(text, path.dirname(file)).find((each) => each.name === name);
  return on === undefined ? undefined : before(on);
}

const isDocumented = (exported: Exported): boolean =>
  /\/\*\*(?:[^*]|\*(?!\/)){10,}\*\/\n$/.test(before(exported) ?? '');

describe('every export of the package', () => {
  const all = exportsOf(index, SRC);

  it('is found where it is declared', () => {
    expect(all.length).toBeGreaterThan(60);
    expect(all.filter((each) => before(each) === undefined)).toEqual([]);
    // Nothing is exported in a way that is not read here.
    expect(index.match(/^export /gm)).toHaveLength(index.match(/^export (?:type )?\{/gm)?.length ?? 0);
  });

  it('has a docstring', () => {
    expect(all.filter((each) => !isDocumented(each)).map(({ name }) => name)).toEqual([]);
  });
});
