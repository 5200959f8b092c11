/**
 * Globals that are made when a script first asks for them.
 *
 * Making the web globals for every context would cost more than most scripts do. Until one of them is used all
 * are accessors; the first use makes all of them, and what a script has put in a name's place stays. A script
 * that patched intrinsics before that breaks its own web globals, and nothing else: they hold no more power.
 */
import type { GuestKit } from './kit.ts';

export function installLazily(
  global: Record<string, unknown>,
  kit: GuestKit,
  names: readonly string[],
  make: () => void,
): () => void {
  const { define } = kit;
  const { defineProperty, getOwnPropertyDescriptor, setPrototypeOf } = Reflect;
  const getters: unknown[] = [];
  let made = false;

  const load = (): void => {
    if (made) return;
    made = true;
    const kept: (PropertyDescriptor | undefined)[] = [];
    for (let index = 0; index < names.length; index++) {
      const found = getOwnPropertyDescriptor(global, names[index] as string);
      define(kept, index, found === undefined || found.get === getters[index] ? undefined : found);
    }
    // A making that fails (a script patched what it needs) must not leave the accessors to call themselves.
    for (let index = 0; index < names.length; index++) define(global, names[index] as string, undefined);
    make();
    for (let index = 0; index < names.length; index++) {
      const own = kept[index];
      // Without a prototype, so that nothing put on Object.prototype becomes part of the descriptor.
      if (own !== undefined && setPrototypeOf(own, null)) defineProperty(global, names[index] as string, own);
    }
  };

  for (let index = 0; index < names.length; index++) {
    const name = names[index] as string;
    const get = (): unknown => {
      load();
      return global[name];
    };
    define(getters, index, get);
    const set = (value: unknown): void => define(global, name, value);
    defineProperty(global, name, {
      __proto__: null,
      get,
      set,
      enumerable: false,
      configurable: true,
    } as PropertyDescriptor);
  }
  return load;
}
