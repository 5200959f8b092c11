/** The guest's `DOMException`: the error that the other web globals throw, with a name, a message and a legacy code. */
import type { GuestIdl } from './idl.ts';

/** The class, for the other install functions. */
export type GuestException = new (message?: unknown, name?: unknown) => Error & { readonly code: number };

export function installException(global: Record<string, unknown>, idl: GuestIdl): GuestException {
  const { usv, expose } = idl;
  const CODES = {
    __proto__: null,
    IndexSizeError: 1,
    HierarchyRequestError: 3,
    WrongDocumentError: 4,
    InvalidCharacterError: 5,
    NoModificationAllowedError: 7,
    NotFoundError: 8,
    NotSupportedError: 9,
    InUseAttributeError: 10,
    InvalidStateError: 11,
    SyntaxError: 12,
    InvalidModificationError: 13,
    NamespaceError: 14,
    InvalidAccessError: 15,
    TypeMismatchError: 17,
    SecurityError: 18,
    NetworkError: 19,
    AbortError: 20,
    URLMismatchError: 21,
    QuotaExceededError: 22,
    TimeoutError: 23,
    InvalidNodeTypeError: 24,
    DataCloneError: 25,
  } as unknown as Readonly<Record<string, number>>;

  class DOMException extends Error {
    readonly #message: string;
    readonly #name: string;

    constructor(message: unknown = '', name: unknown = 'Error') {
      super();
      this.#message = usv(message);
      this.#name = usv(name);
    }

    override get name(): string {
      return this.#name;
    }

    override get message(): string {
      return this.#message;
    }

    get code(): number {
      return CODES[this.#name] ?? 0;
    }
  }

  expose(global, 'DOMException', DOMException);
  return DOMException as unknown as GuestException;
}
