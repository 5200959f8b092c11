/**
 * Stack traces that show the script and nothing else.
 *
 * V8 asks the realm's `Error.prepareStackTrace` for the text of a stack. Ours keeps the frames of the script,
 * with the lines and columns of the text that the user sent, and cannot be replaced, so that no function of a
 * script runs while somebody formats an error.
 */
import type { GuestKit } from './kit.ts';

/** Generated position → position in the sent text: per generated line, `[column, sourceLine, sourceColumn]` from 0, by column. */
export type LineMap = readonly (readonly (readonly [number, number, number])[])[];

export interface GuestTrace {
  /** Positions of the script now running: undefined where the text ran as it was sent. */
  readonly setMap: (map: LineMap | undefined) => void;
}

export function installTrace(kit: GuestKit, scriptName: string, lineOffset: number): GuestTrace {
  const { apply } = kit;
  const errorToString = Error.prototype.toString;
  const site = Object.getPrototypeOf;
  let map: LineMap | undefined;

  interface Site {
    getScriptNameOrSourceURL(): unknown;
    getLineNumber(): number | null;
    getColumnNumber(): number | null;
    getFunctionName(): string | null;
    isAsync(): boolean;
  }

  const position = (line: number, column: number): string => {
    if (map !== undefined) {
      const segments = map[line - 1];
      if (segments !== undefined) {
        let found: readonly [number, number, number] | undefined;
        for (let index = 0; index < segments.length; index++) {
          const segment = segments[index];
          if (segment === undefined || segment[0] > column - 1) break;
          found = segment;
        }
        if (found !== undefined) return `${found[1] + 1}:${found[2] + 1}`;
      }
    }
    return `${line}:${column}`;
  };

  const prepare = (error: unknown, sites: Site[]): string => {
    let text: string;
    try {
      text = apply(errorToString as never, error, []) as string;
    } catch {
      text = 'Error';
    }
    try {
      for (let index = 0; index < sites.length; index++) {
        const frame = sites[index];
        if (frame === undefined) continue;
        // Read through the frame's own prototype: a script may call this function with objects of its own.
        const proto = site(frame) as Site;
        if (apply(proto.getScriptNameOrSourceURL as never, frame, []) !== scriptName) continue;
        const line = ((apply(proto.getLineNumber as never, frame, []) as number | null) ?? 0) - lineOffset;
        const column = (apply(proto.getColumnNumber as never, frame, []) as number | null) ?? 0;
        const name = apply(proto.getFunctionName as never, frame, []) as string | null;
        const awaited = (apply(proto.isAsync as never, frame, []) as boolean) ? 'async ' : '';
        const where = `${scriptName}:${position(line, column)}`;
        text +=
          name === null || name === '' || name === 'anonymous' || name === 'eval'
            ? `\n    at ${awaited}${where}`
            : `\n    at ${awaited}${name} (${where})`;
      }
    } catch {
      // A frame that cannot be read ends the text; the error itself is unharmed.
    }
    return text;
  };
  Object.defineProperty(Error, 'prepareStackTrace', {
    value: prepare,
    writable: false,
    enumerable: false,
    configurable: false,
  });

  return {
    setMap: (next) => {
      map = next;
    },
  };
}
