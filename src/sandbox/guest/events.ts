/**
 * The guest's `Event` and `EventTarget`, without a tree: an event has one target. An error that a listener
 * throws is an uncaught one and stops neither the other listeners nor the dispatch.
 */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { GuestException } from './exception.ts';
import type { GuestIdl } from './idl.ts';

/** What `AbortSignal` is built from, and what it puts in. */
export interface GuestEvents {
  readonly EventTarget: new () => object;
  /** Dispatch a trusted event that neither bubbles nor can be cancelled. */
  readonly fire: (target: object, type: string) => void;
  /** Put in by the signals: run `stop` when the signal aborts; `aborted` if it has, `stranger` if it is no signal. */
  follow: ((signal: unknown, stop: () => void) => 'following' | 'aborted' | 'stranger') | undefined;
}

interface Listener {
  readonly type: string;
  readonly callback: object;
  readonly capture: boolean;
  readonly once: boolean;
  readonly passive: boolean;
  removed: boolean;
}

export function installEvents(
  global: Record<string, unknown>,
  idl: GuestIdl,
  DOMException: GuestException,
): GuestEvents {
  const { apply, expose, need, report } = idl;
  const { defineProperty } = Reflect;
  const NativeTypeError = TypeError;
  type Dictionary = Readonly<Record<string, unknown>>;

  const isObject = (value: unknown): value is object =>
    (typeof value === 'object' && value !== null) || typeof value === 'function';
  const dictionary = (value: unknown): Dictionary => {
    if (value === undefined || value === null) return { __proto__: null };
    if (!isObject(value)) throw new NativeTypeError('The options are not an object');
    return value as Dictionary;
  };

  let run: (
    event: unknown,
    target: object,
    listeners: readonly Listener[],
    drop: (listener: Listener) => void,
  ) => boolean;
  let trust: (event: Event) => Event;

  class Event {
    readonly #type: string;
    readonly #bubbles: boolean;
    readonly #cancelable: boolean;
    readonly #composed: boolean;
    #trusted = false;
    #target: object | null = null;
    #current: object | null = null;
    #dispatching = false;
    #stopped = false;
    #stoppedNow = false;
    #canceled = false;
    #passive = false;

    static {
      trust = (event) => {
        event.#trusted = true;
        return event;
      };
      run = (given, target, listeners, drop) => {
        if (!isObject(given) || !(#type in given)) throw new NativeTypeError('The event is not an Event');
        const event: Event = given;
        if (event.#dispatching) {
          throw new DOMException('The event is already being dispatched', 'InvalidStateError');
        }
        event.#dispatching = true;
        event.#target = target;
        event.#current = target;
        if (!event.#stopped) {
          event.#call(listeners, true, drop);
          if (!event.#stopped) event.#call(listeners, false, drop);
        }
        event.#current = null;
        event.#dispatching = false;
        event.#stopped = false;
        event.#stoppedNow = false;
        return !event.#canceled;
      };
    }

    constructor(type: unknown, init: unknown = undefined) {
      need(arguments.length, 1);
      this.#type = `${type as string}`;
      const { bubbles, cancelable, composed } = dictionary(init);
      this.#bubbles = !!bubbles;
      this.#cancelable = !!cancelable;
      this.#composed = !!composed;
    }

    /** At a target, listeners that capture come first. `listeners` is a copy: what is added meanwhile waits. */
    #call(listeners: readonly Listener[], capture: boolean, drop: (listener: Listener) => void): void {
      for (let index = 0; index < listeners.length && !this.#stoppedNow; index++) {
        const listener = listeners[index] as Listener;
        if (listener.type !== this.#type || listener.removed || listener.capture !== capture) continue;
        if (listener.once) drop(listener);
        this.#passive = listener.passive;
        try {
          const { callback } = listener;
          const own = typeof callback === 'function';
          const handler = own ? callback : (callback as { handleEvent?: unknown }).handleEvent;
          if (typeof handler !== 'function')
            throw new NativeTypeError('The listener has no handleEvent method');
          apply(handler as () => unknown, own ? this.#current : callback, [this]);
        } catch (error) {
          report(error);
        }
        this.#passive = false;
      }
    }

    get type(): string {
      return this.#type;
    }

    get target(): object | null {
      return this.#target;
    }

    get currentTarget(): object | null {
      return this.#current;
    }

    get eventPhase(): number {
      return this.#dispatching ? 2 : 0;
    }

    get bubbles(): boolean {
      return this.#bubbles;
    }

    get cancelable(): boolean {
      return this.#cancelable;
    }

    get composed(): boolean {
      return this.#composed;
    }

    get defaultPrevented(): boolean {
      return this.#canceled;
    }

    get isTrusted(): boolean {
      return this.#trusted;
    }

    /** Always 0: a script has no clock that runs by itself. */
    get timeStamp(): number {
      this.#type;
      return 0;
    }

    composedPath(): object[] {
      return this.#current === null ? [] : [this.#current];
    }

    preventDefault(): void {
      if (this.#cancelable && !this.#passive) this.#canceled = true;
    }

    stopPropagation(): void {
      this.#stopped = true;
    }

    stopImmediatePropagation(): void {
      this.#stopped = true;
      this.#stoppedNow = true;
    }
  }

  const PHASES = { __proto__: null, NONE: 0, CAPTURING_PHASE: 1, AT_TARGET: 2, BUBBLING_PHASE: 3 };
  for (const name of ['NONE', 'CAPTURING_PHASE', 'AT_TARGET', 'BUBBLING_PHASE'] as const) {
    const constant = { __proto__: null, value: PHASES[name], enumerable: true } as PropertyDescriptor;
    defineProperty(Event, name, constant);
    defineProperty(Event.prototype, name, constant);
  }

  const events: { -readonly [K in keyof GuestEvents]: GuestEvents[K] } = {
    EventTarget: Object,
    fire: () => undefined,
    follow: undefined,
  };

  class EventTarget {
    #listeners: Listener[] = [];

    static {
      events.fire = (target, type) => {
        (target as EventTarget).#dispatch(trust(new Event(type)));
      };
    }

    #dispatch(event: unknown): boolean {
      const copy: Listener[] = [];
      for (let index = 0; index < this.#listeners.length; index++)
        copy[index] = this.#listeners[index] as Listener;
      return run(event, this, copy, (listener) => this.#drop(listener));
    }

    #find(type: string, callback: unknown, capture: boolean): Listener | undefined {
      for (let index = 0; index < this.#listeners.length; index++) {
        const known = this.#listeners[index] as Listener;
        if (known.type === type && known.callback === callback && known.capture === capture) return known;
      }
      return undefined;
    }

    #drop(listener: Listener): void {
      const kept: Listener[] = [];
      for (let index = 0; index < this.#listeners.length; index++) {
        const known = this.#listeners[index] as Listener;
        if (known !== listener) kept[kept.length] = known;
      }
      listener.removed = true;
      this.#listeners = kept;
    }

    addEventListener(type: unknown, callback: unknown, options: unknown = undefined): void {
      this.#listeners;
      need(arguments.length, 2);
      const name = `${type as string}`;
      const given = isObject(options) ? (options as Dictionary) : undefined;
      const capture = given === undefined ? !!options : !!given.capture;
      const once = !!given?.once;
      const passive = !!given?.passive;
      const signal = given?.signal;
      if (callback === null || callback === undefined) return;
      if (!isObject(callback)) throw new NativeTypeError('The listener is not a function or an object');
      const listener: Listener = { type: name, callback, capture, once, passive, removed: false };
      if (signal !== undefined) {
        const bond = events.follow?.(signal, () => this.#drop(listener));
        if (bond === 'stranger') throw new NativeTypeError('The signal is not an AbortSignal');
        if (bond === 'aborted') return;
      }
      if (this.#find(name, callback, capture) === undefined)
        this.#listeners[this.#listeners.length] = listener;
    }

    removeEventListener(type: unknown, callback: unknown, options: unknown = undefined): void {
      this.#listeners;
      need(arguments.length, 2);
      const name = `${type as string}`;
      const capture = isObject(options) ? !!(options as Dictionary).capture : !!options;
      const known = this.#find(name, callback, capture);
      if (known !== undefined) this.#drop(known);
    }

    dispatchEvent(event: unknown): boolean {
      this.#listeners;
      need(arguments.length, 1);
      return this.#dispatch(event);
    }
  }

  events.EventTarget = EventTarget;
  expose(global, 'Event', Event);
  expose(global, 'EventTarget', EventTarget);
  return events;
}
