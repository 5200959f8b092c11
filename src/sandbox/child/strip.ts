/**
 * TypeScript to JavaScript, with the lines and columns that the user wrote.
 *
 * Types are blanked out in place, so positions stay. What cannot be blanked (enums, namespaces, parameter
 * properties) is transformed, and a line map then leads every stack frame back to the sent text.
 */
import { createRequire } from 'node:module';
import { decode } from '@jridgewell/sourcemap-codec';
import type { LineMap } from '../guest/trace.ts';

/** A text that runs, and where its lines came from if not from the same place. */
export interface Stripped {
  readonly code: string;
  readonly map: LineMap | undefined;
}

/** The stripper refused the text. Lines and columns count from 1. */
export class StripError extends Error {
  override readonly name = 'StripError';
  readonly line: number;
  readonly column: number;
  constructor(message: string, line: number, column: number) {
    super(message);
    this.line = line;
    this.column = column;
  }
}

type Transform = (
  source: string,
  options: { mode: 'strip-only' | 'transform'; sourceMap?: boolean },
) => { code: string; map?: string };

const require = createRequire(import.meta.url);
/** Part of the path of each of its files. */
const AMARO_FILES = '/node_modules/amaro/';
let transform: Transform | undefined;

// A body may use `return` and `await`, so it is stripped inside a function. Whether the text closed that
// function early does not matter here: the guest compiles the body by itself again.
const HEAD = 'async function body(){';
const TAIL = '\n}';

/**
 * A call with type arguments (`f<T>(x)`) is also JavaScript, with another meaning: TypeScript's is meant. Every
 * repetition is bounded, so that the search takes linear time.
 */
const TYPE_ARGUMENTS = /[\w$\])]\s{0,4}<[^;(){}]{1,120}>\s{0,4}[(`]/;

/** True if the text must be stripped although it may parse as JavaScript. */
export function looksLikeTypeScript(source: string): boolean {
  return TYPE_ARGUMENTS.test(source);
}

/** Strip the types from a script body. Throws {@link StripError}. */
export function stripTypes(source: string): Stripped {
  transform ??= (require('amaro') as { transformSync: Transform }).transformSync;
  const wrapped = HEAD + source + TAIL;
  try {
    const { code } = transform(wrapped, { mode: 'strip-only' });
    return { code: code.slice(HEAD.length, code.length - TAIL.length), map: undefined };
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'UnsupportedSyntax') throw asStripError(error);
  }
  try {
    const { code, map } = transform(wrapped, { mode: 'transform', sourceMap: true });
    const mappings = decode((JSON.parse(map ?? '{"mappings":""}') as { mappings: string }).mappings);
    // The printer puts the body on the lines after the opening brace: cutting there keeps the line numbers.
    return {
      code: code.slice(code.indexOf('{') + 1, code.lastIndexOf('}')),
      map: mappings.map((line) =>
        line.flatMap((segment) => {
          if (segment.length < 4) return [];
          const [column, , sourceLine, sourceColumn] = segment as [number, number, number, number];
          return [
            [
              column,
              sourceLine,
              sourceLine === 0 ? Math.max(0, sourceColumn - HEAD.length) : sourceColumn,
            ] as const,
          ];
        }),
      ),
    };
  } catch (error) {
    throw asStripError(error);
  }
}

function asStripError(error: unknown): StripError {
  // Only a complaint has a code. Anything else is a trap in the stripper's WebAssembly (a text nested too deeply
  // for its stack), after which that instance answers nothing any more.
  if (typeof (error as { code?: unknown }).code !== 'string') {
    transform = undefined;
    for (const file of Object.keys(require.cache)) {
      if (file.includes(AMARO_FILES)) delete require.cache[file];
    }
    return new StripError('The text is too deeply nested to be parsed', 1, 1);
  }
  const { message, startLine, startColumn } = error as {
    message?: unknown;
    startLine?: unknown;
    startColumn?: unknown;
  };
  const line = typeof startLine === 'number' ? startLine : 1;
  const column = typeof startColumn === 'number' ? startColumn : 0;
  return new StripError(
    String(message ?? 'Syntax error'),
    line,
    (line === 1 ? Math.max(0, column - HEAD.length) : column) + 1,
  );
}
