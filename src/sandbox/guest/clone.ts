/**
 * The guest's `structuredClone`, for data. It walks depth first with a stack of its own, so that depth costs
 * memory (which is limited and counted) and never the engine's stack.
 *
 * What a value is, is decided by the first built-in prototype on its chain and then by its internal slots, so
 * that no value can pass for another kind; whatever has slots that are not data is a DataCloneError. Known
 * differences from the platform: `transfer` is refused unless it is empty, resizable buffers become fixed ones,
 * and a proxy or an `arguments` object is cloned as the plain object that it looks like.
 */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { GuestException } from './exception.ts';
import type { GuestIdl } from './idl.ts';

export function installClone(
  global: Record<string, unknown>,
  idl: GuestIdl,
  DOMException: GuestException,
): void {
  const { define, expose, need, getter, uncurry } = idl;
  const { getPrototypeOf, getOwnPropertyDescriptor, ownKeys } = Reflect;
  const { keys: keysOf, hasOwn } = Object;
  const { isArray } = Array;
  const box = Object;
  const NativeTypeError = TypeError;
  const NativeError = Error;
  const NativeDate = Date;
  const NativeRegExp = RegExp;
  const NativeMap = Map;
  const NativeSet = Set;
  const Buffer = ArrayBuffer;
  const View = DataView;
  const Bytes = Uint8Array;
  type Get = (self: unknown) => unknown;
  type Seen = Map<object, object>;

  /** Finish a step of a container: true once nothing is left to do. */
  type Frame = () => boolean;
  /** Make the copy of an object of one kind, or undefined if it has not the slots of that kind. */
  type Maker = (source: object, walk: Walk) => object | undefined;
  interface Walk {
    readonly copy: (value: unknown) => unknown;
    /** Have the copy of a container filled, step by step, before what was begun earlier. */
    readonly open: (target: object, fill: Frame) => object;
  }

  const method = (owner: object, key: string): ((self: unknown, ...args: unknown[]) => unknown) =>
    uncurry((owner as Record<string, never>)[key] as never) as never;
  const get = (owner: object, key: PropertyKey): Get => getter(owner, key) ?? (() => undefined);
  const typedPrototype = getPrototypeOf(Bytes.prototype) as object;
  const mapGet = method(NativeMap.prototype, 'get');
  const mapSet = method(NativeMap.prototype, 'set');
  const mapEach = method(NativeMap.prototype, 'forEach');
  const setAdd = method(NativeSet.prototype, 'add');
  const setEach = method(NativeSet.prototype, 'forEach');
  const setBytes = method(typedPrototype, 'set');
  const getTime = method(NativeDate.prototype, 'getTime');
  const bufferLength = get(Buffer.prototype, 'byteLength');
  const bufferDetached = get(Buffer.prototype, 'detached');
  const typedName = get(typedPrototype, Symbol.toStringTag);
  const typedBuffer = get(typedPrototype, 'buffer');
  const typedOffset = get(typedPrototype, 'byteOffset');
  const typedLength = get(typedPrototype, 'length');
  const viewBuffer = get(View.prototype, 'buffer');
  const viewOffset = get(View.prototype, 'byteOffset');
  const viewLength = get(View.prototype, 'byteLength');
  const regexpSource = get(NativeRegExp.prototype, 'source');
  const exceptionName = get(DOMException.prototype as object, 'name');
  const exceptionMessage = get(DOMException.prototype as object, 'message');

  const refuse = (what: string): Error => new DOMException(`${what} could not be cloned.`, 'DataCloneError');
  const none = { __proto__: null };

  /** The slot that `read` reads, or `none` if the object has no such slot. */
  const slot = (read: Get, source: object): unknown => {
    try {
      return read(source);
    } catch {
      return none;
    }
  };

  const properties = (source: object, target: object, walk: Walk): object => {
    const keys = keysOf(source);
    let next = 0;
    return walk.open(target, () => {
      if (next >= keys.length) return true;
      const key = keys[next++] as string;
      // A getter may have removed what was there when the keys were taken.
      if (hasOwn(source, key)) define(target, key, walk.copy((source as Record<string, unknown>)[key]), true);
      return false;
    });
  };

  const copyArray = (source: readonly unknown[], walk: Walk): object => {
    const target: unknown[] = [];
    target.length = source.length;
    return properties(source, target, walk);
  };

  const copyMap: Maker = (source, walk) => {
    const items: unknown[] = [];
    const collect = (value: unknown, key: unknown) => {
      items[items.length] = key;
      items[items.length] = value;
    };
    if (slot((self) => mapEach(self, collect), source) === none) return undefined;
    const target = new NativeMap<unknown, unknown>();
    let next = 0;
    let key: unknown;
    return walk.open(target, () => {
      if (next >= items.length) return true;
      // One at a time: a key that is a container is filled before its value is looked at.
      if (next % 2 === 0) key = walk.copy(items[next]);
      else mapSet(target, key, walk.copy(items[next]));
      next++;
      return false;
    });
  };

  const copySet: Maker = (source, walk) => {
    const items: unknown[] = [];
    const collect = (value: unknown) => {
      items[items.length] = value;
    };
    if (slot((self) => setEach(self, collect), source) === none) return undefined;
    const target = new NativeSet<unknown>();
    let next = 0;
    return walk.open(target, () => {
      if (next >= items.length) return true;
      setAdd(target, walk.copy(items[next++]));
      return false;
    });
  };

  const ERRORS = {
    __proto__: null,
    Error,
    EvalError,
    RangeError,
    ReferenceError,
    SyntaxError,
    TypeError,
    URIError,
  } as unknown as Readonly<Record<string, new () => Error>>;

  const ownValue = (source: object, key: PropertyKey): unknown => {
    const property = getOwnPropertyDescriptor(source, key);
    return property !== undefined && 'value' in property ? property.value : none;
  };
  const copyStack = (source: object, target: object): void => {
    const { stack } = source as { stack?: unknown };
    if (typeof stack === 'string') define(target, 'stack', stack);
  };

  let isError: unknown; // `Error.isError`, once it is there.
  const copyError: Maker = (source, walk) => {
    if (typeof isError === 'function' && !isError(source)) return undefined;
    const { name } = source as { name?: unknown };
    const kind = name === undefined ? 'Error' : `${name as string}`;
    const target = new (ERRORS[kind] ?? (ERRORS.Error as new () => Error))();
    const message = ownValue(source, 'message');
    if (message !== none) define(target, 'message', `${message as string}`);
    copyStack(source, target);
    const cause = ownValue(source, 'cause');
    let done = cause === none;
    return walk.open(target, () => {
      if (done) return true;
      done = true;
      define(target, 'cause', walk.copy(cause));
      return false;
    });
  };

  const copyException: Maker = (source) => {
    const message = slot(exceptionMessage, source);
    if (message === none) return undefined;
    const target = new DOMException(message, exceptionName(source));
    copyStack(source, target);
    return target;
  };

  const copyDate: Maker = (source) => {
    const time = slot(getTime, source);
    return time === none ? undefined : new NativeDate(time as number);
  };

  const FLAGS = {
    hasIndices: 'd',
    global: 'g',
    ignoreCase: 'i',
    multiline: 'm',
    dotAll: 's',
    unicode: 'u',
    unicodeSets: 'v',
    sticky: 'y',
  };
  const flags = Object.entries(FLAGS).map(([key, letter]) => ({
    has: get(NativeRegExp.prototype, key),
    letter,
  }));
  const copyRegExp: Maker = (source) => {
    const pattern = slot(regexpSource, source);
    // The prototype itself answers its getters without being a RegExp.
    if (pattern === none || source === NativeRegExp.prototype) return undefined;
    let text = '';
    for (let index = 0; index < flags.length; index++) {
      const flag = flags[index] as (typeof flags)[number];
      if (flag.has(source) === true) text += flag.letter;
    }
    return new NativeRegExp(pattern as string, text);
  };

  const copyBuffer: Maker = (source) => {
    const length = slot(bufferLength, source);
    if (length === none) return undefined;
    if (bufferDetached(source) === true) throw refuse('A detached ArrayBuffer');
    const target = new Buffer(length as number);
    setBytes(new Bytes(target), new Bytes(source as ArrayBuffer));
    return target;
  };

  type MakeTyped = new (buffer: unknown, offset: unknown, length: unknown) => object;
  const TYPED = { __proto__: null } as unknown as Record<string, MakeTyped>;
  for (const kind of [
    'Int8',
    'Uint8',
    'Uint8Clamped',
    'Int16',
    'Uint16',
    'Int32',
    'Uint32',
    'BigInt64',
    'BigUint64',
    'Float16',
    'Float32',
    'Float64',
  ]) {
    const known = global[`${kind}Array`];
    if (known !== undefined) TYPED[`${kind}Array`] = known as MakeTyped;
  }
  const copyTyped: Maker = (source, walk) => {
    const name = typedName(source) as string | undefined;
    if (name === undefined) return undefined;
    const maker = TYPED[name];
    if (maker === undefined) throw refuse(name);
    const buffer = walk.copy(typedBuffer(source));
    return new maker(buffer, typedOffset(source), typedLength(source));
  };
  const copyView: Maker = (source, walk) => {
    const buffer = slot(viewBuffer, source);
    if (buffer === none) return undefined;
    const target = walk.copy(buffer) as ArrayBuffer;
    return new View(target, viewOffset(source) as number, viewLength(source) as number);
  };

  const makers: Map<object, Maker> = new NativeMap();
  const boxed = (prototype: object): void => {
    const unbox = method(prototype, 'valueOf');
    makers.set(prototype, (source) => {
      const value = slot(unbox, source);
      return value === none ? undefined : box(value);
    });
  };
  for (const maker of [Boolean, Number, String, BigInt]) boxed(maker.prototype);
  for (const [maker, copy] of [
    [NativeMap, copyMap],
    [NativeSet, copySet],
    [Error, copyError],
    [DOMException, copyException],
    [NativeDate, copyDate],
    [NativeRegExp, copyRegExp],
    [Buffer, copyBuffer],
    [View, copyView],
  ] as [{ prototype: object }, Maker][]) {
    makers.set(maker.prototype, copy);
  }
  makers.set(typedPrototype, copyTyped);

  /** Everything with slots that are not data, by prototype. */
  const refused = (name: string, prototype: unknown): void => {
    if (typeof prototype !== 'object' || prototype === null || mapGet(makers, prototype) !== undefined)
      return;
    const refusal: Maker = () => {
      throw refuse(name);
    };
    mapSet(makers, prototype, refusal);
  };
  const classes = (owner: unknown, names: readonly PropertyKey[]): void => {
    if (typeof owner !== 'object' || owner === null) return;
    for (let index = 0; index < names.length; index++) {
      const known = ownValue(owner, names[index] as PropertyKey);
      if (typeof known === 'function') refused(known.name, ownValue(known, 'prototype'));
    }
  };
  classes(global, ['Symbol', 'Promise', 'WeakMap', 'WeakSet', 'WeakRef', 'FinalizationRegistry']);
  classes(global, ['URL', 'URLSearchParams', 'TextEncoder', 'TextDecoder']);
  classes(global, ['Event', 'EventTarget', 'AbortController']);
  classes(Intl, ownKeys(Intl));
  // V8 adds these to a context after its startup snapshot, so they are looked for when they may be needed.
  const LATE = ['SharedArrayBuffer', 'DisposableStack', 'AsyncDisposableStack'];
  let complete = false;
  const completeKinds = (): void => {
    complete = true;
    isError = ownValue(NativeError, 'isError');
    classes(global, LATE);
    const temporal = ownValue(global, 'Temporal');
    if (typeof temporal === 'object' && temporal !== null) classes(temporal, ownKeys(temporal));
  };
  refused('Generator', getPrototypeOf(function* () {}.prototype as object));
  refused('AsyncGenerator', getPrototypeOf(async function* () {}.prototype as object));
  for (const iterable of [[], new Map(), new Set(), '', 'a'.matchAll(/a/g)] as Iterable<unknown>[]) {
    refused('Iterator', getPrototypeOf(iterable[Symbol.iterator]()));
  }
  refused('Iterator', getPrototypeOf([].values().map((value) => value)));
  refused('Iterator', getPrototypeOf(new (global.URLSearchParams as new () => URLSearchParams)().entries()));

  const copyObject = (source: object, walk: Walk): object => {
    if (isArray(source)) return copyArray(source, walk);
    for (let link = getPrototypeOf(source); link !== null; link = getPrototypeOf(link)) {
      const maker = mapGet(makers, link) as Maker | undefined;
      const target = maker?.(source, walk);
      if (target !== undefined) return target;
    }
    return properties(source, {}, walk);
  };

  const clone = (value: unknown): unknown => {
    const seen: Seen = new NativeMap();
    const frames: Frame[] = [];
    let depth = 0;
    const walk: Walk = {
      copy: (item) => {
        if (typeof item === 'symbol' || typeof item === 'function') throw refuse(`A ${typeof item}`);
        if (typeof item !== 'object' || item === null) return item;
        const known = mapGet(seen, item);
        if (known !== undefined) return known;
        const target = copyObject(item, walk);
        mapSet(seen, item, target);
        return target;
      },
      open: (target, fill) => {
        frames[depth++] = fill;
        return target;
      },
    };
    const root = walk.copy(value);
    while (depth > 0) if ((frames[depth - 1] as Frame)()) depth--;
    return root;
  };

  const checkOptions = (options: unknown): void => {
    if (options === undefined || options === null) return;
    if (typeof options !== 'object' && typeof options !== 'function') {
      throw new NativeTypeError('The options are not an object');
    }
    const { transfer } = options as { transfer?: Iterable<unknown> };
    if (transfer === undefined) return;
    for (const _ of transfer) throw refuse('A transfer list: transferred values');
  };

  const { structuredClone } = {
    structuredClone(value: unknown, options: unknown = undefined): unknown {
      need(arguments.length, 1);
      checkOptions(options);
      if (!complete) completeKinds();
      return clone(value);
    },
  };
  expose(global, 'structuredClone', structuredClone);
}
