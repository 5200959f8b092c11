/**
 * The guest's own copy of what it needs, taken before any user code runs.
 *
 * Every function in `guest/` whose name starts with `install` is run inside the isolate, from its source
 * text, while the V8 startup snapshot is made. So none of them may use an import or a module-level name at
 * run time: what they need comes in through their parameters.
 *
 * Rules that hold for all of them:
 *  G1  Intrinsics are used through saved copies. A script may patch any prototype; it then breaks itself only.
 *  G2  What leaves the guest is text, built by joining primitive strings. No object of ours is ever passed to
 *      JSON.stringify, so that no `toJSON` and no setter on a prototype sees it.
 *  G3  The host function is called with primitive strings only, and lives in closures that scripts cannot reach.
 */

/** Saved intrinsics. */
export interface GuestKit {
  readonly apply: <R>(fn: (...args: never[]) => R, self: unknown, args: readonly unknown[]) => R;
  readonly stringify: (value: unknown) => string | undefined;
  readonly parse: (text: string) => unknown;
  /** Define a writable, configurable, non-enumerable property, as built-ins are. */
  readonly define: (target: object, key: PropertyKey, value: unknown) => void;
  readonly slice: (text: string, from: number, to: number) => string;
  /** A string for any value; never throws, never longer than `max` UTF-16 units. */
  readonly text: (value: unknown, max: number) => string;
}

/**
 * The one function of the host that the guest may call. It answers text and never throws. Handing it over costs
 * a tenth of a context, so a script that is not expected to need it does without: if it is `missed` all the same,
 * the attempt is given up, and the next one has it.
 */
export interface GuestHost {
  missed: boolean;
  call: ((op: 'flush' | 'end' | 'url', text: string) => string) | undefined;
}

export function installKit(): GuestKit {
  const { apply, defineProperty } = Reflect;
  const { stringify, parse } = JSON;
  const stringSlice = String.prototype.slice;
  const toText = String;
  const slice = (text: string, from: number, to: number): string =>
    apply(stringSlice, text, [from, to]) as string;
  return {
    // A literal with a null prototype, so that nothing put on Object.prototype shines through.
    __proto__: null,
    apply: apply as GuestKit['apply'],
    stringify: (value: unknown) => stringify(value),
    parse: (text: string) => parse(text),
    define: (target: object, key: PropertyKey, value: unknown) => {
      defineProperty(target, key, {
        __proto__: null,
        value,
        writable: true,
        enumerable: false,
        configurable: true,
      } as PropertyDescriptor);
    },
    slice,
    text: (value: unknown, max: number) => {
      try {
        const text = typeof value === 'string' ? value : toText(value);
        return text.length > max ? `${slice(text, 0, max)}…` : text;
      } catch {
        return '';
      }
    },
  } as unknown as GuestKit;
}
