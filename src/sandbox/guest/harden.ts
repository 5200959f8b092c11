/**
 * Freezes a realm so that one tenant can use it again and again ('realm' isolation).
 *
 * Everything reachable from the global by properties and prototypes is frozen, and the global takes no new
 * names. Inherited data properties that programs commonly shadow (`error.name = …`, `object.toString = …`)
 * become accessors first, because assigning over a frozen inherited data property fails ("override mistake";
 * the remedy is the one that SES documents).
 */
import type { GuestKit } from './kit.ts';

export function installHarden(global: Record<string, unknown>, kit: GuestKit): () => void {
  const { define } = kit;
  const { freeze, getPrototypeOf, preventExtensions } = Object;
  const { ownKeys, getOwnPropertyDescriptor, defineProperty } = Reflect;

  const seen = new Set<object>();
  const pending: object[] = [];
  const reach = (value: unknown): void => {
    if ((typeof value !== 'object' && typeof value !== 'function') || value === null || seen.has(value))
      return;
    seen.add(value);
    pending.push(value);
  };
  const enableOverride = (prototype: object, keys: readonly PropertyKey[]): void => {
    for (const key of keys) {
      const found = getOwnPropertyDescriptor(prototype, key);
      if (found === undefined || !('value' in found) || !found.configurable) continue;
      const value = found.value as unknown;
      reach(value); // From now on only a call of the getter leads there.
      defineProperty(prototype, key, {
        configurable: false,
        enumerable: found.enumerable ?? false,
        get: () => value,
        set(this: unknown, next: unknown) {
          if (this === prototype) throw new TypeError(`Cannot assign to '${String(key)}' of a shared object`);
          if (typeof this !== 'object' && typeof this !== 'function') return;
          if (this === null) return;
          const own = getOwnPropertyDescriptor(this, key);
          if (own !== undefined) {
            define(this, key, next);
            return;
          }
          defineProperty(this, key, { value: next, writable: true, enumerable: true, configurable: true });
        },
      });
    }
  };

  return () => {
    void global.Temporal; // Made now: a frozen global takes no new value.
    const prototypes = [Object, Function, Array, Promise, Map, Set, Date, RegExp, Iterator].map(
      (maker) => maker.prototype as object,
    );
    for (const prototype of prototypes) enableOverride(prototype, ownKeys(prototype));
    for (const name of [
      'Error',
      'TypeError',
      'RangeError',
      'SyntaxError',
      'ReferenceError',
      'EvalError',
      'URIError',
      'AggregateError',
    ]) {
      const maker = global[name] as { prototype: object } | undefined;
      if (maker !== undefined) enableOverride(maker.prototype, ownKeys(maker.prototype));
    }
    // What syntax reaches without a name: generators, async functions, iterators.
    reach(getPrototypeOf(async () => undefined));
    reach(getPrototypeOf(function* () {}));
    reach(getPrototypeOf(async function* () {}));
    reach(getPrototypeOf(Uint8Array));
    for (const iterable of [[], new Map(), new Set(), '', 'a'.matchAll(/a/g)] as Iterable<unknown>[])
      reach(getPrototypeOf(iterable[Symbol.iterator]()));
    reach(getPrototypeOf(Iterator.from({ next: () => ({ done: true, value: undefined }) })));
    reach(getPrototypeOf([].values().map((value) => value)));
    // Every error has a `stack` of its own, with accessors that all errors share.
    const stack = getOwnPropertyDescriptor(new Error(), 'stack');
    reach(stack?.get);
    reach(stack?.set);
    const segments = new Intl.Segmenter().segment('a');
    reach(getPrototypeOf(segments));
    reach(getPrototypeOf(segments[Symbol.iterator]()));
    for (let above: unknown = getPrototypeOf(global); above !== null; above = getPrototypeOf(above))
      reach(above);
    const params = global.URLSearchParams as undefined | (new () => { entries(): object });
    if (params !== undefined) reach(getPrototypeOf(new params().entries()));
    for (const key of ownKeys(global)) {
      const property = getOwnPropertyDescriptor(global, key);
      if (property !== undefined) {
        // The tools proxy answers every property read with a new branch: there is nothing in it to freeze.
        if (key !== 'tools') reach(property.value);
        reach(property.get);
        reach(property.set);
        defineProperty(
          global,
          key,
          'value' in property ? { writable: false, configurable: false } : { configurable: false },
        );
      }
    }
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      if (next === global) continue;
      reach(getPrototypeOf(next));
      for (const key of ownKeys(next)) {
        const property = getOwnPropertyDescriptor(next, key);
        reach(property?.value);
        reach(property?.get);
        reach(property?.set);
      }
      // A typed array with elements cannot be frozen; the shared intrinsics hold none.
      freeze(next);
    }
    preventExtensions(global);
  };
}
