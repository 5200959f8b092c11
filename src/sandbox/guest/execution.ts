/**
 * One execution inside the isolate: runs the script, hands out its calls, takes deliveries, reports its end.
 *
 * The host enters through one function, `enter(op, …)`, and learns what happened through `enter('take')`: the
 * guest calls nothing back except to flush output early. So the only things that ever cross are primitive
 * strings and numbers. What it learns begins with a letter: W it goes on, E it ended, S it is no JavaScript, X nothing
 * that compiles, H it missed the host.
 *
 * Invariants:
 *  E1  A call's index is given synchronously, in the order of the calls (replay depends on it).
 *  E2  At most one delivery is handed over per entry; the microtasks it causes run before the next one.
 *  E3  After the end nothing is accepted or produced: calls never settle, output is dropped.
 *  E4  The kind of an error is looked up by identity in `kinds`, which scripts cannot reach. Text never decides.
 */
import type { GuestConsole, GuestOutput } from './console.ts';
import type { GuestSources } from './determinism.ts';
import type { GuestHost, GuestKit } from './kit.ts';
import type { GuestTrace, LineMap } from './trace.ts';

/** What `begin` needs beside the source and the input: as JSON, because it is the host's own text. */
export interface GuestConfig {
  readonly seed: readonly [number, number, number, number];
  readonly time: number;
  readonly maxToolCalls: number;
  readonly maxResultBytes: number;
  readonly maxOutputBytes: number;
  readonly maxToolPayloadBytes: number;
  /** Hand output over as soon as it is written, not at the end of the entry. */
  readonly stream: boolean;
  readonly map?: LineMap;
  /** JSON of an object that the script sees as `state`. Without it there is no such global. */
  readonly state?: string | undefined;
  /** What the script leaves in `state` as JSON, in UTF-16 units at most. */
  readonly maxStateBytes?: number | undefined;
}

export interface GuestParts {
  readonly sources: GuestSources;
  readonly trace: GuestTrace;
  /** Makes the console, when a script first asks for it. */
  readonly console: (output: GuestOutput) => GuestConsole;
}

export type GuestEnter = (
  op: string,
  a?: string | number,
  b?: string | number,
  c?: string | number,
  d?: number,
) => string;

export function installExecution(
  global: Record<string, unknown>,
  kit: GuestKit,
  host: GuestHost,
  parts: GuestParts,
  scriptName: string,
): GuestEnter {
  const { apply, define, stringify, parse, text } = kit;
  const { sources, trace } = parts;
  const NativePromise = Promise;
  const NativeError = Error;
  const NativeSyntaxError = SyntaxError;
  const NativeTypeError = TypeError;
  const NativeRangeError = RangeError;
  const NativeNumber = Number;
  const AsyncFunction = (async () => undefined).constructor as new (body: string) => () => Promise<unknown>;
  const kinds = new WeakMap<object, string>();
  const kindGet = WeakMap.prototype.get;
  const kindSet = WeakMap.prototype.set;
  const mapGet = Map.prototype.get;
  const mapSet = Map.prototype.set;
  const mapDelete = Map.prototype.delete;
  const mapClear = Map.prototype.clear;
  const charCode = String.prototype.charCodeAt;
  const RegExpMaker = RegExp;
  const anything = /^/;
  const matchAnything = RegExp.prototype.exec;
  const setRegExpInput = Object.getOwnPropertyDescriptor(RegExp, 'input')?.set as (value: string) => void;
  const { defineProperty } = Object;
  const OPENING_BRACE = 0x7b;
  const FLUSH_AT = 16_384;
  const MAX_SLEEPS = 1_000;

  interface Waiter {
    readonly sleep: boolean;
    readonly resolve: (value: unknown) => void;
    readonly reject: (error: unknown) => void;
  }
  const waiting = new Map<number, Waiter>();
  let running = false;
  let failedToCompile: '' | 'S' | 'X' = '';
  let fatal = '';
  let items = '';
  let end = '';
  let nextIndex = 0;
  let toolCalls = 0;
  let sleeping = 0;
  let outputLeft = 0;
  let maxToolCalls = 0;
  let maxResult = 0;
  let maxPayload = 0;
  let stream = false;
  /** The state as the script found it, as JSON; undefined if it has none. */
  let stateFound: string | undefined;
  let state: unknown;
  let maxState = 0;

  const branded = (kind: string, message: string): Error => {
    const error = new NativeError(message);
    define(
      error,
      'name',
      kind === 'UNKNOWN_TOOL'
        ? 'UnknownToolError'
        : kind === 'TOOL_NOT_ALLOWED'
          ? 'ToolNotAllowedError'
          : kind === 'TOOL_UNAVAILABLE'
            ? 'ToolUnavailableError'
            : kind === 'TOOL_TIMEOUT'
              ? 'ToolTimeoutError'
              : kind === 'OUTCOME_UNKNOWN'
                ? 'OutcomeUnknownError'
                : kind === 'TOOL_ERROR'
                  ? 'ToolError'
                  : 'EnclaveError',
    );
    apply(kindSet as never, kinds, [error, kind]);
    return error;
  };
  const kindOf = (error: unknown): string =>
    typeof error === 'object' && error !== null
      ? ((apply(kindGet as never, kinds, [error]) as string | undefined) ?? '')
      : '';

  /** What an error of JSON.stringify, or of a script's own toJSON, says. */
  const whyNot = (error: unknown): string => {
    try {
      return typeof error === 'object' && error !== null
        ? text((error as { message?: unknown }).message, 500)
        : '';
    } catch {
      return '';
    }
  };

  const put = (item: string): void => {
    items += items === '' ? item : `,${item}`;
  };
  /** Only from a thread of its own: there the host answers on another stack than the script's. */
  const flush = (): void => {
    if (items === '' || host.call === undefined) return;
    const batch = items;
    items = '';
    try {
      host.call('flush', `[${batch}]`);
    } catch {
      // At the edge of the stack: nothing was told, and what the library says of it is not for the script.
      items = batch;
      throw new NativeRangeError('Maximum call stack size exceeded');
    }
  };
  /** A limit that ends the execution. Thrown too, but a script that catches it gains nothing. */
  const halt = (kind: string, message: string): Error => {
    if (fatal === '') {
      fatal = `{"ok":false,"name":"EnclaveError","stack":"","code":${stringify(kind)},"message":${stringify(message)}}`;
    }
    return branded(kind, message);
  };

  const utf8Length = (value: string): number => {
    let bytes = value.length;
    for (let index = 0; index < value.length; index++) {
      const code = apply(charCode as never, value, [index]) as number;
      if (code > 0x7f)
        bytes +=
          code > 0x7ff
            ? code >= 0xd800 && code <= 0xdbff
              ? 1
              : code >= 0xdc00 && code <= 0xdfff
                ? 1
                : 2
            : 1;
    }
    return bytes;
  };

  const guestConsole = parts.console({
    room: () => outputLeft,
    now: sources.now,
    write: (level, said) => {
      if (!running || fatal !== '') return; // E3
      // The console is made late: a script may have patched what it formats with.
      const line = typeof said === 'string' ? said : text(said, outputLeft);
      let bytes = line.length > outputLeft ? line.length : utf8Length(line);
      if (bytes === 0) bytes = 1; // Or there would be no end of empty lines.
      if (bytes > outputLeft)
        throw halt('OUTPUT_LIMIT_EXCEEDED', 'The script wrote more than maxOutputBytes to the console');
      outputLeft -= bytes;
      put(level === '' ? `["o",${stringify(line)}]` : `["l",${stringify(level)},${stringify(line)}]`);
      if (stream) flush();
    },
  });

  /** A promise that `await` takes as it is, whatever a script has done to Promise.prototype. */
  const own = <T>(promise: Promise<T>): Promise<T> => {
    define(promise, 'constructor', NativePromise);
    return promise;
  };
  const wait = (item: (index: number) => string, sleep = false): Promise<unknown> =>
    own(
      new NativePromise((resolve, reject) => {
        const index = nextIndex++; // E1
        apply(mapSet as never, waiting, [index, { __proto__: null, resolve, reject, sleep }]);
        put(item(index));
        if (stream && items.length > FLUSH_AT) flush();
      }),
    );
  const never = (): Promise<unknown> => new NativePromise(() => undefined);

  /** An error made here, not where the delivery came in, has the frame that awaits the call on its stack. */
  const settled = async (waited: Promise<unknown>): Promise<unknown> => {
    try {
      return await waited;
    } catch (failure) {
      const { code, message } = failure as { code: string; message: string };
      throw branded(code, message);
    }
  };

  const callTool = (name: unknown, args?: unknown): Promise<unknown> => {
    if (!running || fatal !== '') return never(); // E3
    try {
      if (typeof name !== 'string') throw branded('UNKNOWN_TOOL', 'callTool: the name of a tool is a string');
      const shown = text(name, 256);
      let json: string | undefined;
      try {
        json = args === undefined ? '' : stringify(args);
      } catch (error) {
        throw branded(
          'SERIALIZATION_ERROR',
          `callTool(${shown}): the arguments are not JSON: ${whyNot(error)}`,
        );
      }
      if (json === undefined)
        throw branded('SERIALIZATION_ERROR', `callTool(${shown}): the arguments are not JSON`);
      if (json.length > maxPayload) {
        throw branded(
          'SERIALIZATION_ERROR',
          `callTool(${shown}): the arguments are larger than maxToolPayloadBytes (${maxPayload})`,
        );
      }
      if (toolCalls >= maxToolCalls)
        throw halt(
          'TOOL_CALL_LIMIT_EXCEEDED',
          `The script made more than maxToolCalls (${maxToolCalls}) tool calls`,
        );
      toolCalls++;
      return own(settled(wait((index) => `["c",${index},${stringify(shown)},${stringify(json)}]`)));
    } catch (error) {
      return new NativePromise((_resolve, reject) => reject(error));
    }
  };
  define(callTool, 'name', 'callTool');
  define(global, 'callTool', callTool);

  const sleep = (ms: unknown): Promise<unknown> => {
    if (!running || fatal !== '') return never(); // E3
    let span = NativeNumber(ms);
    if (!(span > 0)) span = 0;
    if (span > 2_147_483_647) span = 2_147_483_647;
    if (sleeping >= MAX_SLEEPS) {
      const tooMany = branded('INVALID_ARGUMENT', `sleep: more than ${MAX_SLEEPS} sleeps and timers at once`);
      return own(new NativePromise((_resolve, reject) => reject(tooMany)));
    }
    sleeping++;
    return wait((index) => `["s",${index},${span}]`, true);
  };
  define(sleep, 'name', 'sleep');
  define(global, 'sleep', sleep);

  // The timers that scripts commonly use, on top of sleep.
  const timers = new Map<number, boolean>();
  let timerIds = 0;
  define(global, 'setTimeout', function setTimeout(callback: unknown, ms: unknown, ...args: unknown[]) {
    if (typeof callback !== 'function') throw new NativeTypeError('setTimeout: the callback is a function');
    const id = ++timerIds;
    apply(mapSet as never, timers, [id, true]);
    void (async () => {
      await sleep(ms);
      if (apply(mapDelete as never, timers, [id]) !== true) return;
      try {
        apply(callback as never, undefined, args);
      } catch (error) {
        fail(error); // As an uncaught error anywhere ends a program.
      }
    })();
    return id;
  });
  define(global, 'clearTimeout', function clearTimeout(id: unknown) {
    apply(mapDelete as never, timers, [id]);
  });

  // tools.users.get(args) → callTool('users.get', args)
  const branch = (path: string): unknown =>
    new Proxy(
      // An arrow function, because it has no property that could not be hidden.
      (() => undefined) as unknown as Record<string, unknown>,
      {
        __proto__: null,
        get: (_target: unknown, key: PropertyKey) =>
          // What the language itself asks a value for; a tool of such a name is reached through callTool.
          typeof key === 'symbol' ||
          key === 'then' ||
          key === 'toJSON' ||
          key === 'toString' ||
          key === 'valueOf'
            ? undefined
            : branch(path === '' ? (key as string) : `${path}.${key as string}`),
        apply: (_target: unknown, _self: unknown, args: unknown[]) =>
          path === '' ? callTool(undefined) : callTool(path, args[0]),
        set: () => false,
        defineProperty: () => false,
        deleteProperty: () => false,
        setPrototypeOf: () => false,
        getPrototypeOf: () => null,
        preventExtensions: () => false,
        getOwnPropertyDescriptor: () => undefined,
        has: () => false,
        ownKeys: () => [],
      } as unknown as ProxyHandler<Record<string, unknown>>,
    );
  define(global, 'tools', branch(''));

  let input: unknown;
  defineProperty(global, 'input', {
    configurable: true,
    enumerable: false,
    get: () => input,
    set: (value: unknown) => {
      input = value;
    },
  });

  /** Only before the first entry: a hardened global takes no new name, and never lets go of one. */
  const exposeState = (): void => {
    defineProperty(global, 'state', {
      configurable: true,
      enumerable: false,
      get: () => state,
      set: (value: unknown) => {
        state = value;
      },
    });
  };

  const finish = (json: string): void => {
    if (!running) return;
    running = false; // E3
    // A limit that was passed ends the script, even one that caught it and went on.
    end = fatal === '' ? json : fatal;
    if (!stream || host.call === undefined) return;
    // On a thread of its own it need not come to rest first: what it left running ends with it.
    try {
      flush();
      host.call('end', end);
    } catch {
      // Not told now: `take` tells it.
    }
  };
  const fail = (error: unknown): void => {
    const kind = kindOf(error); // E4
    let name = '';
    let message = '';
    let stack = '';
    try {
      if (typeof error === 'object' && error !== null) {
        const thrown = error as { name?: unknown; message?: unknown; stack?: unknown };
        name = text(typeof thrown.name === 'string' ? thrown.name : '', 200);
        message =
          typeof thrown.message === 'string'
            ? text(thrown.message, 4_000)
            : text(stringify(error) ?? '', 1_000);
        stack = typeof thrown.stack === 'string' ? text(thrown.stack, 8_000) : '';
      } else {
        message = typeof error === 'symbol' ? 'Symbol' : text(error, 4_000);
      }
    } catch {
      // A getter of the script's threw: what was read so far stands.
    }
    finish(
      `{"ok":false,"code":${stringify(kind === '' ? 'SCRIPT_ERROR' : kind)},"name":${stringify(name === '' ? 'Error' : name)},"message":${stringify(message)},"stack":${stringify(stack)}}`,
    );
  };
  const succeed = (value: unknown): void => {
    let json: string | undefined;
    try {
      json = value === undefined ? '' : stringify(value);
    } catch (error) {
      return fail(branded('SERIALIZATION_ERROR', `The returned value is not JSON: ${whyNot(error)}`));
    }
    if (json === undefined)
      return fail(branded('SERIALIZATION_ERROR', `The returned value is not JSON: it is a ${typeof value}`));
    if (json.length > maxResult) {
      return fail(
        branded('RESULT_LIMIT_EXCEEDED', `The returned value is larger than maxResultBytes (${maxResult})`),
      );
    }
    const left = stateLeft();
    if (left === undefined) return;
    finish(`{"ok":true,"json":${stringify(json)}${left}}`);
  };
  /** The member of the end that tells a changed state; '' where there is none, undefined if the state is refused. */
  const stateLeft = (): string | undefined => {
    if (stateFound === undefined) return '';
    let json: string | undefined;
    try {
      json = stringify(state);
    } catch (error) {
      fail(branded('SERIALIZATION_ERROR', `\`state\` is not JSON: ${whyNot(error)}`));
      return undefined;
    }
    if (json === undefined || apply(charCode as never, json, [0]) !== OPENING_BRACE) {
      fail(branded('SERIALIZATION_ERROR', '`state` is not a JSON object'));
      return undefined;
    }
    if (json.length > maxState) {
      fail(branded('STATE_LIMIT_EXCEEDED', `\`state\` is larger than maxStateBytes (${maxState})`));
      return undefined;
    }
    return json === stateFound ? '' : `,"state":${stringify(json)}`;
  };

  const begin = (source: string, inputJson: string, configJson: string): void => {
    const config = parse(configJson) as GuestConfig;
    sources.reset(config.time, config.seed[0], config.seed[1], config.seed[2], config.seed[3]);
    trace.setMap(config.map);
    guestConsole.reset();
    apply(matchAnything as never, anything, ['']); // RegExp.$1 and its kin remember the last match of the realm.
    apply(setRegExpInput as never, RegExpMaker, ['']);
    apply(mapClear as never, waiting, []);
    apply(mapClear as never, timers, []);
    timerIds = 0;
    items = '';
    end = '';
    fatal = '';
    nextIndex = 0;
    toolCalls = 0;
    sleeping = 0;
    failedToCompile = '';
    outputLeft = config.maxOutputBytes;
    maxToolCalls = config.maxToolCalls;
    maxResult = config.maxResultBytes;
    maxPayload = config.maxToolPayloadBytes;
    stream = config.stream;
    running = true;
    input = inputJson === '' ? undefined : parse(inputJson);
    stateFound = config.state;
    state = stateFound === undefined ? undefined : parse(stateFound);
    maxState = config.maxStateBytes ?? 0;
    let body: () => Promise<unknown>;
    try {
      // The constructor parses the body by itself, so that no text can close the function around it.
      body = new AsyncFunction(`${source}\n//# sourceURL=${scriptName}`);
    } catch (error) {
      // Nothing of the script has run: whatever was thrown, the compiler threw it.
      running = false;
      failedToCompile = error instanceof NativeSyntaxError ? 'S' : 'X';
      return;
    }
    void (async () => {
      try {
        succeed(await own(body()));
      } catch (error) {
        fail(error);
      }
    })();
  };

  const deliver = (index: number, code: string, payload: string, time: number): void => {
    sources.advance(time);
    const waiter = apply(mapGet as never, waiting, [index]) as Waiter | undefined;
    if (waiter === undefined || !running) return;
    apply(mapDelete as never, waiting, [index]);
    put(`["a",${index}]`);
    if (waiter.sleep) sleeping--;
    if (code === '') waiter.resolve(payload === '' ? undefined : parse(payload));
    else waiter.reject({ __proto__: null, code, message: payload });
  };

  const take = (): string => {
    if (failedToCompile !== '') return failedToCompile;
    if (host.missed) return 'H';
    if (fatal !== '') {
      running = false;
      return `E{"items":[${items}],"end":${fatal}}`;
    }
    const step = `{"items":[${items}]${end === '' ? '' : `,"end":${end}`}}`;
    items = '';
    return (end === '' ? 'W' : 'E') + step;
  };

  return (op, a, b, c, d) => {
    switch (op) {
      case 'begin':
        begin(a as string, b as string, c as string);
        return '';
      case 'deliver':
        deliver(a as number, b as string, c as string, d as number);
        return '';
      case 'take':
        return take();
      case 'state':
        exposeState();
        return '';
      default:
        return '';
    }
  };
}
