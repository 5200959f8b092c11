/**
 * The guest's `URLSearchParams`, whole in the guest: no host is asked.
 *
 * A URL and its parameters hold each other: the list tells its URL of every change (`changed`), and the URL
 * puts a new query into the list (`refill`) when it is changed itself.
 */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { GuestIdl } from './idl.ts';
import type { GuestUtf8 } from './utf8.ts';

/** How a URL holds on to its parameters. */
export interface GuestParams {
  /** New parameters from a query without its `?`; `changed` is called with the new query after every change. */
  readonly attach: (query: string, changed: (query: string) => void) => object;
  /** Replace the parameters by those of a query without its `?`; `changed` is not called. */
  readonly refill: (params: object, query: string) => void;
}

interface Pair {
  readonly name: string;
  value: string;
}

export function installParams(global: Record<string, unknown>, idl: GuestIdl, utf8: GuestUtf8): GuestParams {
  const { apply, define, expose, usv, need, charCodeAt, slice } = idl;
  const { ownKeys, getOwnPropertyDescriptor, getPrototypeOf, setPrototypeOf } = Reflect;
  const encodeComponent = encodeURIComponent;
  const NativeTypeError = TypeError;
  const arraySort = Array.prototype.sort;
  const iteratorPrototype = getPrototypeOf(getPrototypeOf([].values()) as object);
  const HEX = '0123456789ABCDEF';
  const iterator: typeof Symbol.iterator = Symbol.iterator;

  const hex = (unit: number): number => {
    if (unit >= 48 && unit <= 57) return unit - 48;
    const lower = unit | 32;
    return lower >= 97 && lower <= 102 ? lower - 87 : -1;
  };

  const decode = (text: string): string => {
    const { bytes, length } = utf8.encode(text);
    let size = 0;
    for (let index = 0; index < length; index++) {
      const byte = bytes[index] as number;
      if (byte === 37 && index + 2 < length) {
        const high = hex(bytes[index + 1] as number);
        const low = hex(bytes[index + 2] as number);
        if (high >= 0 && low >= 0) {
          bytes[size++] = high * 16 + low;
          index += 2;
          continue;
        }
      }
      bytes[size++] = byte === 43 ? 32 : byte;
    }
    return utf8.decode(bytes, size, utf8.start(), false, false) as string;
  };

  const encode = (text: string): string => {
    let out = '';
    let from = 0;
    for (let index = 0; index < text.length; index++) {
      const unit = charCodeAt(text, index);
      const letter = (unit | 32) >= 97 && (unit | 32) <= 122;
      if ((letter && unit < 128) || (unit >= 48 && unit <= 57)) continue;
      if (unit === 42 || unit === 45 || unit === 46 || unit === 95) continue; // * - . _
      const wide = unit >= 0xd800 && unit <= 0xdbff ? 2 : 1;
      let shown = '+';
      if (unit >= 128) shown = encodeComponent(slice(text, index, index + wide));
      else if (unit !== 32) shown = `%${HEX[unit >> 4]}${HEX[unit & 15]}`;
      out += slice(text, from, index) + shown;
      index += wide - 1;
      from = index + 1;
    }
    return out + slice(text, from, text.length);
  };

  const parse = (query: string): Pair[] => {
    const list: Pair[] = [];
    let from = 0;
    let equals = -1;
    for (let index = 0; index <= query.length; index++) {
      const unit = index === query.length ? 38 : charCodeAt(query, index);
      if (unit === 61 && equals < 0) equals = index;
      if (unit !== 38) continue;
      if (index > from) {
        const cut = equals < 0 ? index : equals;
        const name = decode(slice(query, from, cut));
        list[list.length] = { name, value: cut === index ? '' : decode(slice(query, cut + 1, index)) };
      }
      from = index + 1;
      equals = -1;
    }
    return list;
  };

  const fromPairs = (pairs: Iterable<unknown>): Pair[] => {
    const list: Pair[] = [];
    for (const pair of pairs) {
      const items: string[] = [];
      const own = pair as Iterable<unknown> | null | undefined;
      const isObject = typeof pair === 'object' || typeof pair === 'function';
      if (own === null || !isObject || typeof own?.[iterator] !== 'function') {
        throw new NativeTypeError('Each query pair must be an iterable [name, value] tuple');
      }
      for (const item of own) items[items.length] = usv(item);
      if (items.length !== 2) {
        throw new NativeTypeError('Each query pair must be an iterable [name, value] tuple');
      }
      list[list.length] = { name: items[0] as string, value: items[1] as string };
    }
    return list;
  };

  const fromRecord = (record: object): Pair[] => {
    const list: Pair[] = [];
    const places = { __proto__: null } as unknown as Record<string, Pair>;
    const keys = ownKeys(record);
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index] as string;
      if (getOwnPropertyDescriptor(record, key)?.enumerable !== true) continue;
      const name = usv(key);
      const value = usv((record as Record<string, unknown>)[key]);
      const known = places[name];
      if (known !== undefined) known.value = value;
      else list[list.length] = places[name] = { name, value };
    }
    return list;
  };

  const fromInit = (init: unknown): Pair[] => {
    if ((typeof init !== 'object' && typeof init !== 'function') || init === null) {
      const query = usv(init);
      return parse(query[0] === '?' ? slice(query, 1, query.length) : query);
    }
    const method = (init as Iterable<unknown>)[iterator] as unknown;
    if (method === undefined || method === null) return fromRecord(init);
    if (typeof method !== 'function') throw new NativeTypeError('Query pairs must be iterable');
    return fromPairs(init as Iterable<unknown>);
  };

  let listOf: (params: URLSearchParams) => readonly Pair[];
  const link: { -readonly [K in keyof GuestParams]?: GuestParams[K] } = {};

  class URLSearchParams {
    #list: Pair[];
    #changed: ((query: string) => void) | undefined = undefined;

    static {
      listOf = (params) => params.#list;
      link.attach = (query, changed) => {
        const params = new URLSearchParams();
        params.#list = parse(query);
        params.#changed = changed;
        return params;
      };
      link.refill = (params, query) => {
        (params as URLSearchParams).#list = parse(query);
      };
    }

    constructor(init: unknown = '') {
      this.#list = fromInit(init);
    }

    /** Keep what `keep` says, and say whether all was kept. */
    #filter(keep: (pair: Pair) => boolean): void {
      const kept: Pair[] = [];
      for (let index = 0; index < this.#list.length; index++) {
        const pair = this.#list[index] as Pair;
        if (keep(pair)) kept[kept.length] = pair;
      }
      this.#list = kept;
    }

    #update(): void {
      if (this.#changed !== undefined) this.#changed(this.toString());
    }

    get size(): number {
      return this.#list.length;
    }

    append(name: unknown, value: unknown): void {
      const list = this.#list;
      need(arguments.length, 2);
      list[list.length] = { name: usv(name), value: usv(value) };
      this.#update();
    }

    delete(name: unknown, value: unknown = undefined): void {
      this.#list;
      need(arguments.length, 1);
      const key = usv(name);
      const only = value === undefined ? undefined : usv(value);
      this.#filter((pair) => pair.name !== key || (only !== undefined && pair.value !== only));
      this.#update();
    }

    get(name: unknown): string | null {
      const list = this.#list;
      need(arguments.length, 1);
      const key = usv(name);
      for (let index = 0; index < list.length; index++) {
        if (list[index]?.name === key) return list[index]?.value ?? null;
      }
      return null;
    }

    getAll(name: unknown): string[] {
      const list = this.#list;
      need(arguments.length, 1);
      const key = usv(name);
      const found: string[] = [];
      for (let index = 0; index < list.length; index++) {
        const pair = list[index] as Pair;
        if (pair.name === key) found[found.length] = pair.value;
      }
      return found;
    }

    has(name: unknown, value: unknown = undefined): boolean {
      const list = this.#list;
      need(arguments.length, 1);
      const key = usv(name);
      const only = value === undefined ? undefined : usv(value);
      for (let index = 0; index < list.length; index++) {
        const pair = list[index] as Pair;
        if (pair.name === key && (only === undefined || pair.value === only)) return true;
      }
      return false;
    }

    set(name: unknown, value: unknown): void {
      const list = this.#list;
      need(arguments.length, 2);
      const key = usv(name);
      const next = usv(value);
      let found = false;
      this.#filter((pair) => {
        if (pair.name !== key) return true;
        if (found) return false;
        found = true;
        pair.value = next;
        return true;
      });
      if (!found) this.#list[list.length] = { name: key, value: next };
      this.#update();
    }

    sort(): void {
      // By UTF-16 units, as `<` compares; Array.prototype.sort is stable.
      const order = (a: Pair, b: Pair): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
      apply(arraySort as never, this.#list, [order]);
      this.#update();
    }

    forEach(callback: unknown, thisArg: unknown = undefined): void {
      this.#list;
      need(arguments.length, 1);
      if (typeof callback !== 'function') throw new NativeTypeError('The callback is not a function');
      for (let index = 0; index < this.#list.length; index++) {
        const pair = this.#list[index] as Pair;
        apply(callback as () => unknown, thisArg, [pair.value, pair.name, this]);
      }
    }

    entries(): object {
      return new PairIterator(this, 'entry');
    }

    keys(): object {
      return new PairIterator(this, 'name');
    }

    values(): object {
      return new PairIterator(this, 'value');
    }

    toString(): string {
      const list = this.#list;
      let out = '';
      for (let index = 0; index < list.length; index++) {
        const pair = list[index] as Pair;
        out += `${index === 0 ? '' : '&'}${encode(pair.name)}=${encode(pair.value)}`;
      }
      return out;
    }
  }

  class PairIterator {
    readonly #params: URLSearchParams;
    readonly #kind: 'entry' | 'name' | 'value';
    #index = 0;

    constructor(params: URLSearchParams, kind: 'entry' | 'name' | 'value') {
      listOf(params); // Throws for anything that has no list.
      this.#params = params;
      this.#kind = kind;
    }

    next(): { value: unknown; done: boolean } {
      // Read anew each time: the platform's iterators see what is added while they run.
      const pair = listOf(this.#params)[this.#index];
      if (pair === undefined) return { value: undefined, done: true };
      this.#index++;
      const value = this.#kind === 'entry' ? [pair.name, pair.value] : pair[this.#kind];
      return { value, done: false };
    }
  }

  expose({}, 'URLSearchParams Iterator', PairIterator);
  setPrototypeOf(PairIterator.prototype, iteratorPrototype);
  delete (PairIterator.prototype as { constructor?: unknown }).constructor;
  expose(global, 'URLSearchParams', URLSearchParams);
  define(URLSearchParams.prototype, iterator, URLSearchParams.prototype.entries);
  return link as GuestParams;
}
