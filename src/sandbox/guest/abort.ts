/**
 * The guest's `AbortController` and `AbortSignal`. There is no `AbortSignal.timeout`: a script has no clock
 * that runs by itself, and makes one from `sleep`.
 */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { GuestEvents } from './events.ts';
import type { GuestException } from './exception.ts';
import type { GuestIdl } from './idl.ts';

export function installAbort(
  global: Record<string, unknown>,
  idl: GuestIdl,
  DOMException: GuestException,
  events: GuestEvents,
): void {
  const { apply, expose, need } = idl;
  const { EventTarget, fire } = events;
  const NativeTypeError = TypeError;
  /** What the constructor of a signal asks for. No script has this object. */
  const KEY = {};
  const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;

  let make: () => AbortSignal;
  let end: (signal: AbortSignal, reason: unknown) => void;

  class AbortSignal extends EventTarget {
    #aborted = false;
    #reason: unknown = undefined;
    #stops: (() => void)[] = [];
    #sources: AbortSignal[] | undefined = undefined;
    #dependents: AbortSignal[] = [];
    #handler: unknown = null;
    #handled = false;

    static {
      make = () => new AbortSignal(KEY);
      end = (signal, reason) => {
        if (!signal.#aborted) signal.#abort(reason);
      };
      events.follow = (signal, stop) => {
        if (!isObject(signal) || !(#aborted in signal)) return 'stranger';
        if (signal.#aborted) return 'aborted';
        signal.#stops[signal.#stops.length] = stop;
        return 'following';
      };
    }

    constructor(..._key: unknown[]) {
      if (_key[0] !== KEY) throw new NativeTypeError('Illegal constructor');
      super();
    }

    static abort(reason: unknown = undefined): AbortSignal {
      const signal = make();
      signal.#settle(reason);
      return signal;
    }

    static any(signals: unknown): AbortSignal {
      need(arguments.length, 1);
      if (!isObject(signals)) throw new NativeTypeError('The signals are not a sequence');
      const list: AbortSignal[] = [];
      for (const signal of signals as Iterable<unknown>) {
        if (!isObject(signal) || !(#aborted in signal)) throw new NativeTypeError('Not an AbortSignal');
        list[list.length] = signal;
      }
      const result = make();
      for (let index = 0; index < list.length; index++) {
        const signal = list[index] as AbortSignal;
        if (!signal.#aborted) continue;
        result.#settle(signal.#reason);
        return result;
      }
      result.#sources = [];
      for (let index = 0; index < list.length; index++) result.#dependOn(list[index] as AbortSignal);
      return result;
    }

    /** Depend on a signal itself, or on what it depends on, so that chains stay one level deep. */
    #dependOn(signal: AbortSignal): void {
      const sources = signal.#sources ?? [signal];
      const own = this.#sources as AbortSignal[];
      for (let index = 0; index < sources.length; index++) {
        const source = sources[index] as AbortSignal;
        let known = false;
        for (let place = 0; place < own.length; place++) if (own[place] === source) known = true;
        if (known) continue;
        own[own.length] = source;
        source.#dependents[source.#dependents.length] = this;
      }
    }

    #settle(reason: unknown): void {
      this.#aborted = true;
      this.#reason =
        reason === undefined ? new DOMException('This operation was aborted', 'AbortError') : reason;
    }

    /** All dependents are aborted before the first event: a listener sees one state everywhere. */
    #abort(reason: unknown): void {
      this.#settle(reason);
      const ended: AbortSignal[] = [this];
      for (let index = 0; index < this.#dependents.length; index++) {
        const dependent = this.#dependents[index] as AbortSignal;
        if (dependent.#aborted) continue;
        dependent.#settle(this.#reason);
        ended[ended.length] = dependent;
      }
      this.#dependents = [];
      for (let index = 0; index < ended.length; index++) (ended[index] as AbortSignal).#announce();
    }

    #announce(): void {
      const stops = this.#stops;
      this.#stops = [];
      for (let index = 0; index < stops.length; index++) (stops[index] as () => void)();
      fire(this, 'abort');
    }

    get aborted(): boolean {
      return this.#aborted;
    }

    get reason(): unknown {
      return this.#reason;
    }

    throwIfAborted(): void {
      if (this.#aborted) throw this.#reason;
    }

    get onabort(): unknown {
      return this.#handler;
    }
    set onabort(value: unknown) {
      this.#handler = typeof value === 'function' || isObject(value) ? value : null;
      if (this.#handled || this.#handler === null) return;
      // Its place among the listeners is that of the first handler.
      this.#handled = true;
      apply(addEventListener, this, [
        'abort',
        (event: unknown) => {
          if (typeof this.#handler === 'function') apply(this.#handler as () => unknown, this, [event]);
        },
      ]);
    }
  }

  const { addEventListener } = EventTarget.prototype as { addEventListener: (...args: never[]) => void };

  class AbortController {
    readonly #signal: AbortSignal = make();

    get signal(): AbortSignal {
      return this.#signal;
    }

    abort(reason: unknown = undefined): void {
      end(this.#signal, reason);
    }
  }

  expose(global, 'AbortSignal', AbortSignal);
  expose(global, 'AbortController', AbortController);
}
