/**
 * Makes an execution a function of its source, input, seed and deliveries, so that it can be replayed.
 *
 * Time stands still between deliveries and never goes back; randomness comes from a seed; what shows the
 * collector's work or another thread's is gone.
 */
import type { GuestKit } from './kit.ts';

/** How the host sets the sources that a script would otherwise read from the machine. */
export interface GuestSources {
  /** Move the clock to `ms` since the epoch; an earlier time changes nothing. */
  readonly advance: (ms: number) => void;
  /** Start the clock at `ms` and the random sequence at `seed` (four 32-bit words). */
  readonly reset: (ms: number, a: number, b: number, c: number, d: number) => void;
  readonly now: () => number;
  /**
   * Take away what the memory limit does not count, what blocks or races, and what shows the collector; stop
   * Temporal's clock. Done in every context, because V8 adds these globals after it has loaded its snapshot.
   */
  readonly settle: () => void;
}

export function installDeterminism(global: Record<string, unknown>, kit: GuestKit): GuestSources {
  const { construct, defineProperty } = Reflect;
  const { apply, define } = kit;
  let clock = 0;

  // sfc32: small, fast, passes PractRand; a script's Math.random needs no more.
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 1;
  const next = (): number => {
    const sum = (s0 + s1 + s3) | 0;
    s3 = (s3 + 1) | 0;
    s0 = s1 ^ (s1 >>> 9);
    s1 = (s2 + (s2 << 3)) | 0;
    s2 = ((s2 << 21) | (s2 >>> 11)) + sum;
    s2 |= 0;
    return sum >>> 0;
  };
  define(Math, 'random', function random() {
    return ((next() >>> 5) * 67_108_864 + (next() >>> 6)) / 9_007_199_254_740_992;
  });

  const NativeDate = Date;
  // biome-ignore lint/suspicious/noShadowRestrictedNames: scripts see this name as `Date.name`.
  const GuestDate = function Date(this: unknown, ...args: unknown[]) {
    if (new.target === undefined) return new NativeDate(clock).toString();
    return construct(NativeDate, args.length === 0 ? [clock] : args, new.target);
  };
  Object.defineProperty(GuestDate, 'prototype', { value: NativeDate.prototype, writable: false });
  Object.defineProperty(GuestDate, 'length', { value: 7 });
  define(GuestDate, 'now', function now() {
    return clock;
  });
  define(GuestDate, 'parse', NativeDate.parse);
  define(GuestDate, 'UTC', NativeDate.UTC);
  define(NativeDate.prototype, 'constructor', GuestDate);
  define(global, 'Date', GuestDate);

  // Intl reads the machine's clock when it is given no date.
  const dateFormat = Intl.DateTimeFormat.prototype;
  const formatGetter = Object.getOwnPropertyDescriptor(dateFormat, 'format')?.get as (
    this: unknown,
  ) => (date: unknown) => string;
  const formatToParts = dateFormat.formatToParts as (date: unknown) => unknown;
  Object.defineProperty(dateFormat, 'format', {
    configurable: true,
    enumerable: false,
    get: function format(this: unknown) {
      const bound = apply(formatGetter, this, []);
      return (date: unknown) => bound(date === undefined ? clock : date);
    },
  });
  define(dateFormat, 'formatToParts', function formatToParts_(this: unknown, date: unknown) {
    return apply(formatToParts as never, this, [date === undefined ? clock : date]);
  });

  // Temporal.Now reads the machine's clock and zone, and V8 makes Temporal when it is first asked for, which
  // costs as much as a whole context. So the global is taken away unmade, and made again, with a Now of ours,
  // when a script asks. Its classes are reached from a value; the engine's own Now is reached from nowhere.
  const makeTemporal = (): object => {
    type Value = Record<string, (argument?: unknown) => Value>;
    const made = {};
    const add = (value: Value): Value => {
      const maker = value.constructor as unknown as { name: string };
      define(made, maker.name, maker);
      return value;
    };
    const fromMs = (ms: number): Value =>
      (new NativeDate(ms) as unknown as Value).toTemporalInstant?.() as Value;
    const zonedAt = (zone: unknown): Value =>
      fromMs(clock).toZonedDateTimeISO?.(zone === undefined ? 'UTC' : zone) as Value;
    const instant = add(fromMs(0));
    const zoned = add(zonedAt('UTC'));
    const date = add(zoned.toPlainDate?.() as Value);
    add(zoned.toPlainTime?.() as Value);
    add(zoned.toPlainDateTime?.() as Value);
    add(date.toPlainYearMonth?.() as Value);
    add(date.toPlainMonthDay?.() as Value);
    add(instant.since?.(instant) as Value);
    const now = {};
    define(now, 'instant', () => fromMs(clock));
    define(now, 'timeZoneId', () => 'UTC');
    define(now, 'zonedDateTimeISO', (zone: unknown) => zonedAt(zone));
    define(now, 'plainDateISO', (zone: unknown) => zonedAt(zone).toPlainDate?.());
    define(now, 'plainTimeISO', (zone: unknown) => zonedAt(zone).toPlainTime?.());
    define(now, 'plainDateTimeISO', (zone: unknown) => zonedAt(zone).toPlainDateTime?.());
    define(now, Symbol.toStringTag, 'Temporal.Now');
    define(made, 'Now', now);
    define(made, Symbol.toStringTag, 'Temporal');
    return made;
  };
  const replaceTemporal = (): void => {
    if (!('Temporal' in global)) return;
    delete global.Temporal;
    const set = (value: unknown): void => define(global, 'Temporal', value);
    const get = (): unknown => {
      const made = makeTemporal();
      set(made);
      return made;
    };
    defineProperty(global, 'Temporal', {
      __proto__: null,
      get,
      set,
      enumerable: false,
      configurable: true,
    } as PropertyDescriptor);
  };

  // A growable buffer reserves memory that the isolate's limit does not count.
  const NativeBuffer = ArrayBuffer;
  // biome-ignore lint/suspicious/noShadowRestrictedNames: scripts see this name as `ArrayBuffer.name`.
  const GuestBuffer = function ArrayBuffer(
    this: unknown,
    length: unknown,
    options?: { maxByteLength?: unknown },
  ) {
    if (new.target === undefined) throw new TypeError("Constructor ArrayBuffer requires 'new'");
    if (typeof options === 'object' && options !== null && options.maxByteLength !== undefined) {
      throw new RangeError('ArrayBuffer: maxByteLength is not supported here');
    }
    return construct(NativeBuffer, [length], new.target);
  };
  Object.defineProperty(GuestBuffer, 'prototype', { value: NativeBuffer.prototype, writable: false });
  Object.defineProperty(GuestBuffer, 'length', { value: 1 });
  define(GuestBuffer, 'isView', NativeBuffer.isView);
  Object.defineProperty(
    GuestBuffer,
    Symbol.species,
    Object.getOwnPropertyDescriptor(NativeBuffer, Symbol.species) ?? {},
  );
  define(NativeBuffer.prototype, 'constructor', GuestBuffer);
  delete (NativeBuffer.prototype as unknown as Record<string, unknown>).resize;
  define(global, 'ArrayBuffer', GuestBuffer);

  const gone = [
    'WebAssembly',
    'SharedArrayBuffer',
    'Atomics',
    'WeakRef',
    'FinalizationRegistry',
    'performance',
    'gc',
  ];
  return {
    settle: () => {
      for (let index = 0; index < gone.length; index++) delete global[gone[index] as string];
      replaceTemporal();
    },
    now: () => clock,
    advance: (ms) => {
      if (ms > clock) clock = ms;
    },
    reset: (ms, a, b, c, d) => {
      clock = ms;
      s0 = a | 0;
      s1 = b | 0;
      s2 = c | 0;
      s3 = d | 0;
      for (let round = 0; round < 12; round++) next();
    },
  };
}
