/**
 * The script's console: text is formatted, counted and capped here, as it is produced.
 *
 * `console.log` writes `stdout` text; `debug`, `info`, `warn`, `error` and `trace` write `log` messages with
 * their level. Formatting stops when the budget is used up, so that a huge value costs no more than the cap.
 */
import type { GuestKit } from './kit.ts';

/** Where the console writes to; it throws when the output limit is passed. */
export interface GuestOutput {
  /** UTF-16 units that may still be written. */
  readonly room: () => number;
  readonly write: (level: '' | 'debug' | 'info' | 'warn' | 'error', text: string) => void;
  readonly now: () => number;
}

/** What the execution resets between two runs in one realm: indentation, counters and timers. */
export interface GuestConsole {
  readonly reset: () => void;
}

export function installConsole(
  global: Record<string, unknown>,
  kit: GuestKit,
  output: GuestOutput,
): GuestConsole {
  const { apply, define, stringify, text } = kit;
  const { getPrototypeOf, ownKeys, getOwnPropertyDescriptor } = Reflect;
  const { isArray } = Array;
  const isFiniteNumber = Number.isFinite;
  const objectTag = Object.prototype.toString;
  const mapForEach = Map.prototype.forEach;
  const setForEach = Set.prototype.forEach;
  const toISO = Date.prototype.toISOString;
  const dateValue = Date.prototype.getTime;
  const regexpText = RegExp.prototype.toString;
  const stringReplace = String.prototype.replaceAll;
  const stringRepeat = String.prototype.repeat;
  const symbolText = Symbol.prototype.toString;
  const MAX_DEPTH = 4;
  const MAX_ITEMS = 100;

  const quoted = (value: string): string =>
    `'${apply(stringReplace as never, apply(stringReplace as never, value, ['\\', '\\\\']), ["'", "\\'"]) as string}'`;

  // One pass with a shared budget: `left` is what may still be written.
  const inspect = (
    value: unknown,
    depth: number,
    budget: { left: number; seen: unknown[]; depth: number },
  ): string => {
    if (budget.left <= 0) return '…';
    const leaf = (result: string): string => {
      budget.left -= result.length;
      return result;
    };
    switch (typeof value) {
      case 'string':
        return leaf(
          depth === 0 ? value : quoted(value.length > budget.left ? text(value, budget.left) : value),
        );
      case 'bigint':
        return leaf(`${text(value, 400)}n`);
      case 'symbol':
        return leaf(apply(symbolText as never, value, []) as string);
      case 'function': {
        const name = getOwnPropertyDescriptor(value, 'name')?.value as unknown;
        return leaf(
          `[Function${typeof name === 'string' && name !== '' ? `: ${text(name, 100)}` : ' (anonymous)'}]`,
        );
      }
      case 'object':
        return value === null ? leaf('null') : inspectObject(value, depth, budget);
      default:
        return leaf(text(value, 100));
    }
  };

  const inspectObject = (
    value: object,
    depth: number,
    budget: { left: number; seen: unknown[]; depth: number },
  ): string => {
    for (let index = 0; index < budget.depth; index++) if (budget.seen[index] === value) return '[Circular]';
    const tag = apply(objectTag as never, value, []) as string;
    if (tag === '[object Error]') {
      const stack = (value as { stack?: unknown }).stack;
      const shown = text(typeof stack === 'string' ? stack : value, 4_000);
      budget.left -= shown.length;
      return shown;
    }
    if (tag === '[object Date]') {
      const time = apply(dateValue as never, value, []) as number;
      const shown = isFiniteNumber(time) ? (apply(toISO as never, value, []) as string) : 'Invalid Date';
      budget.left -= shown.length;
      return shown;
    }
    if (tag === '[object RegExp]') {
      const shown = text(apply(regexpText as never, value, []), 1_000);
      budget.left -= shown.length;
      return shown;
    }
    if (depth >= MAX_DEPTH) return isArray(value) ? '[Array]' : '[Object]';
    define(budget.seen, budget.depth, value);
    budget.depth++;
    const shown = inspectMembers(value, tag, depth, budget);
    budget.depth--;
    return shown;
  };

  const inspectMembers = (
    value: object,
    tag: string,
    depth: number,
    budget: { left: number; seen: unknown[]; depth: number },
  ): string => {
    let body = '';
    let count = 0;
    const add = (item: string): boolean => {
      count++;
      if (count > MAX_ITEMS || budget.left <= 0) {
        if (count === MAX_ITEMS + 1) body += ', …';
        return false;
      }
      budget.left -= 2;
      body += body === '' ? item : `, ${item}`;
      return true;
    };
    if (isArray(value)) {
      for (let index = 0; index < value.length; index++)
        if (!add(inspect(value[index], depth + 1, budget))) break;
      return body === '' ? '[]' : `[ ${body} ]`;
    }
    if (tag === '[object Map]') {
      const entry = (item: unknown, key: unknown) => {
        if (count <= MAX_ITEMS)
          add(`${inspect(key, depth + 1, budget)} => ${inspect(item, depth + 1, budget)}`);
      };
      apply(mapForEach as never, value, [entry]);
      return `Map(${count}) {${body === '' ? '' : ` ${body} `}}`;
    }
    if (tag === '[object Set]') {
      const entry = (item: unknown) => {
        if (count <= MAX_ITEMS) add(inspect(item, depth + 1, budget));
      };
      apply(setForEach as never, value, [entry]);
      return `Set(${count}) {${body === '' ? '' : ` ${body} `}}`;
    }
    const keys = ownKeys(value);
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index] as PropertyKey;
      const descriptor = getOwnPropertyDescriptor(value, key);
      if (descriptor === undefined || descriptor.enumerable !== true) continue;
      const label =
        typeof key === 'symbol' ? `[${apply(symbolText as never, key, []) as string}]` : (key as string);
      const shown = 'value' in descriptor ? inspect(descriptor.value, depth + 1, budget) : '[Getter]';
      if (!add(`${text(label, 200)}: ${shown}`)) break;
    }
    const maker = (getPrototypeOf(value) as { constructor?: { name?: unknown } } | null)?.constructor?.name;
    const prefix =
      typeof maker === 'string' && maker !== '' && maker !== 'Object' ? `${text(maker, 100)} ` : '';
    return body === '' ? `${prefix}{}` : `${prefix}{ ${body} }`;
  };

  const format = (args: readonly unknown[]): string => {
    const budget = {
      __proto__: null,
      left: output.room() + 1,
      seen: [] as unknown[],
      depth: 0,
    } as unknown as {
      left: number;
      seen: unknown[];
      depth: number;
    };
    let result = '';
    let index = 0;
    const first = args[0];
    if (typeof first === 'string' && args.length > 1) {
      // %s %d %i %f %j %o %O %c %%, as in the WHATWG console.
      let at = 0;
      index = 1;
      for (let i = 0; i + 1 < first.length; i++) {
        if (first[i] !== '%') continue;
        const kind = first[i + 1] as string;
        let shown: string | undefined;
        if (kind === '%') shown = '%';
        else if (index < args.length) {
          if (kind === 's') shown = inspect(args[index++], 0, budget);
          else if (kind === 'd' || kind === 'i' || kind === 'f') {
            const value = args[index++];
            const number =
              typeof value === 'object' || typeof value === 'symbol' ? Number.NaN : Number(value);
            shown = text(kind === 'i' ? Math.trunc(number) : number, 50);
          } else if (kind === 'j') {
            try {
              shown = text(stringify(args[index++]), budget.left);
            } catch {
              shown = '[Circular]';
            }
          } else if (kind === 'o' || kind === 'O') shown = inspect(args[index++], 1, budget);
          else if (kind === 'c') {
            index++;
            shown = '';
          }
        }
        if (shown === undefined) continue;
        result += kit.slice(first, at, i) + shown;
        at = i + 2;
        i++;
      }
      result += kit.slice(first, at, first.length);
    }
    for (; index < args.length; index++) {
      const shown = inspect(args[index], 0, budget);
      result += index === 0 ? shown : ` ${shown}`;
    }
    return result;
  };

  let indent = '';
  const table = (): Record<string, number> => ({ __proto__: null }) as unknown as Record<string, number>;
  let counts = table();
  let timers = table();
  const indented = (line: string): string =>
    indent === '' ? line : indent + (apply(stringReplace as never, line, ['\n', `\n${indent}`]) as string);
  const print = (...args: unknown[]): void => output.write('', `${indented(format(args))}\n`);
  const at =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (...args: unknown[]): void =>
      output.write(level, indented(format(args)));
  const label = (value: unknown): string => (value === undefined ? 'default' : text(value, 200));

  const methods: Record<string, (...args: unknown[]) => void> = {
    log: print,
    dir: (value) => print(value),
    table: (value) => print(value),
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    trace: (...args) => output.write('debug', indented(`Trace: ${format(args)}`)),
    assert: (ok, ...args) => {
      if (!ok)
        output.write(
          'error',
          indented(args.length === 0 ? 'Assertion failed' : `Assertion failed: ${format(args)}`),
        );
    },
    count: (name) => {
      const key = label(name);
      counts[key] = (counts[key] ?? 0) + 1;
      print(`${key}: ${counts[key]}`);
    },
    countReset: (name) => {
      counts[label(name)] = 0;
    },
    group: (...args) => {
      if (args.length > 0) print(...args);
      if (indent.length < 40) indent += '  ';
    },
    groupEnd: () => {
      indent = apply(stringRepeat as never, ' ', [indent.length < 2 ? 0 : indent.length - 2]) as string;
    },
    time: (name) => {
      timers[label(name)] = output.now();
    },
    timeLog: (name) => print(`${label(name)}: ${output.now() - (timers[label(name)] ?? output.now())}ms`),
    timeEnd: (name) => {
      print(`${label(name)}: ${output.now() - (timers[label(name)] ?? output.now())}ms`);
      delete timers[label(name)];
    },
  };
  methods.groupCollapsed = methods.group as (...args: unknown[]) => void;

  const guestConsole = {};
  const names = ownKeys(methods);
  for (let index = 0; index < names.length; index++) {
    const name = names[index] as string;
    define(guestConsole, name, methods[name]);
  }
  define(guestConsole, Symbol.toStringTag, 'console');
  define(global, 'console', guestConsole);
  return {
    reset: () => {
      indent = '';
      counts = table();
      timers = table();
    },
  };
}
