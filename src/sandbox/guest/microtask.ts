/** The guest's `queueMicrotask`. */
import type { GuestIdl } from './idl.ts';

export function installMicrotask(global: Record<string, unknown>, idl: GuestIdl): void {
  const { apply, expose } = idl;
  const NativeTypeError = TypeError;
  // A method, so that it is no constructor, and a plain `await`, which looks up nothing that a script can patch.
  // An error of the callback's is an uncaught one: a rejection that nobody handles.
  const { queueMicrotask } = {
    queueMicrotask(callback: unknown): void {
      if (typeof callback !== 'function') throw new NativeTypeError('The callback is not a function');
      void (async () => {
        await undefined;
        apply(callback as () => unknown, undefined, []);
      })();
    },
  };
  expose(global, 'queueMicrotask', queueMicrotask);
}
