/**
 * What the guest's web globals share: saved intrinsics, and the rules of Web IDL that plain classes miss.
 *
 * Like every `install` function of this folder, the one here runs inside the isolate from its source text, so
 * it uses no import and no module-level name at run time. A script may patch any prototype afterwards; what is
 * saved here stays what it was.
 */

type Method = (...args: never[]) => unknown;

/** Collects UTF-16 units into a string without a string per unit. */
export interface GuestBuilder {
  readonly add: (unit: number) => void;
  readonly end: () => string;
}

/** Saved intrinsics and conversions. */
export interface GuestIdl {
  readonly apply: <R>(fn: (...args: never[]) => R, self: unknown, args: readonly unknown[]) => R;
  /** A method as a function of its receiver. */
  readonly uncurry: <A extends readonly never[], R>(
    fn: (...args: A) => R,
  ) => (self: unknown, ...args: A) => R;
  /** The getter of a built-in property as a function of its receiver; undefined where this engine has none. */
  readonly getter: (prototype: object, key: PropertyKey) => ((self: unknown) => unknown) | undefined;
  /** Define a writable, configurable property, enumerable only if asked. */
  readonly define: (target: object, key: PropertyKey, value: unknown, enumerable?: boolean) => void;
  /** Make a class or function a global. Members of a class become enumerable, as Web IDL has them. */
  readonly expose: (global: Record<string, unknown>, name: string, value: Method | object) => void;
  /** Web IDL's USVString: the value as a string, lone surrogates replaced. Throws TypeError for a symbol. */
  readonly usv: (value: unknown) => string;
  /** Throw TypeError if fewer arguments were given than the method needs. */
  readonly need: (given: number, least: number) => void;
  /** Let an error be an uncaught one: a rejection that nobody handles. */
  readonly report: (error: unknown) => void;
  readonly charCodeAt: (text: string, index: number) => number;
  readonly slice: (text: string, from: number, to: number) => string;
  readonly builder: () => GuestBuilder;
}

export function installIdl(): GuestIdl {
  const { apply, ownKeys, getOwnPropertyDescriptor, defineProperty } = Reflect;
  const { bind, call } = Function.prototype;
  const { fromCharCode } = String;
  const NativeTypeError = TypeError;
  const uncurry = ((fn: Method) => apply(bind, call, [fn])) as unknown as GuestIdl['uncurry'];
  const toWellFormed = uncurry(String.prototype.toWellFormed as () => string);
  const CHUNK = 4_096;

  const define: GuestIdl['define'] = (target, key, value, enumerable = false) => {
    defineProperty(target, key, {
      __proto__: null,
      value,
      writable: true,
      enumerable,
      configurable: true,
    } as PropertyDescriptor);
  };

  const enumerate = (target: object): void => {
    const keys = ownKeys(target);
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index] as PropertyKey;
      const fixed = key === 'constructor' || key === 'prototype' || key === 'name' || key === 'length';
      // Accessors called `name` are members; a function's own `name` is not.
      const own = fixed && typeof target === 'function';
      if (typeof key === 'symbol' || key === 'constructor' || own) continue;
      defineProperty(target, key, { __proto__: null, enumerable: true } as PropertyDescriptor);
    }
  };

  const tag = (prototype: object, name: string): void => {
    defineProperty(prototype, Symbol.toStringTag, {
      __proto__: null,
      value: name,
      configurable: true,
    } as PropertyDescriptor);
  };

  const builder = (): GuestBuilder => {
    let text = '';
    let units: number[] = [];
    let count = 0;
    const flush = (): void => {
      text += apply(fromCharCode as Method, undefined, units) as string;
      units = [];
      count = 0;
    };
    return {
      add: (unit) => {
        units[count++] = unit;
        if (count === CHUNK) flush();
      },
      end: () => {
        if (count > 0) flush();
        return text;
      },
    };
  };

  return {
    __proto__: null,
    apply,
    uncurry,
    getter: (prototype: object, key: PropertyKey) => {
      const get = getOwnPropertyDescriptor(prototype, key)?.get;
      return get === undefined ? undefined : uncurry(get);
    },
    define,
    expose: (global: Record<string, unknown>, name: string, value: object) => {
      const prototype = getOwnPropertyDescriptor(value, 'prototype')?.value as object | undefined;
      if (prototype !== undefined) {
        enumerate(value);
        enumerate(prototype);
        tag(prototype, name);
      }
      define(global, name, value);
    },
    usv: (value: unknown) => toWellFormed(`${value as string}`),
    need: (given: number, least: number) => {
      if (given >= least) return;
      throw new NativeTypeError(
        `${least} argument${least === 1 ? '' : 's'} required, but only ${given} present`,
      );
    },
    report: (error: unknown) => {
      void (async () => {
        throw error;
      })();
    },
    charCodeAt: uncurry(String.prototype.charCodeAt as (...args: never[]) => number),
    slice: uncurry(String.prototype.slice as (...args: never[]) => string),
    builder,
  } as unknown as GuestIdl;
}
