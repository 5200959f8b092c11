/**
 * The guest's `TextEncoder` and `TextDecoder`. Decoded are UTF-8, UTF-16LE and windows-1252 (which the
 * Encoding standard means by `latin1`); every other label is a RangeError.
 */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { GuestIdl } from './idl.ts';
import type { GuestUtf8, Utf8State } from './utf8.ts';

export function installEncoding(global: Record<string, unknown>, idl: GuestIdl, utf8: GuestUtf8): void {
  const { expose, usv, need, getter, builder, charCodeAt, slice, uncurry } = idl;
  const { isView } = ArrayBuffer;
  const Bytes = Uint8Array;
  const NativeTypeError = TypeError;
  const NativeRangeError = RangeError;
  const toLowerCase = uncurry(String.prototype.toLowerCase as () => string);
  type Get = (self: unknown) => unknown;
  const typedPrototype = Object.getPrototypeOf(Bytes.prototype) as object;
  const typedTag = getter(typedPrototype, Symbol.toStringTag) as Get;
  const fields = ['buffer', 'byteOffset', 'byteLength'] as const;
  const [typedBuffer, typedOffset, typedLength] = fields.map((key) => getter(typedPrototype, key)) as [
    Get,
    Get,
    Get,
  ];
  const [viewBuffer, viewOffset, viewLength] = fields.map((key) => getter(DataView.prototype, key)) as [
    Get,
    Get,
    Get,
  ];
  const bufferLength = getter(ArrayBuffer.prototype, 'byteLength') as Get;

  const WINDOWS_1252 =
    '\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f' +
    '\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178';
  const LABELS = { __proto__: null } as unknown as Record<string, string>;
  const named = {
    'utf-8': 'unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8',
    'utf-16le': 'csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le',
    'windows-1252':
      'ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 ' +
      'iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252',
  };
  for (const [encoding, labels] of Object.entries(named)) {
    for (const label of labels.split(' ')) LABELS[label] = encoding;
  }

  /** The bytes of a buffer or view, none if it is detached. Throws TypeError for anything else. */
  const bytesOf = (input: unknown): { bytes: Uint8Array; length: number } => {
    if (!isView(input)) {
      const length = bufferLength(input) as number;
      return { bytes: length === 0 ? new Bytes(0) : new Bytes(input as ArrayBuffer), length };
    }
    const typed = typedTag(input) !== undefined;
    const length = (typed ? typedLength(input) : viewLength(input)) as number;
    if (length === 0) return { bytes: new Bytes(0), length };
    const offset = (typed ? typedOffset(input) : viewOffset(input)) as number;
    const buffer = (typed ? typedBuffer(input) : viewBuffer(input)) as ArrayBuffer;
    return { bytes: new Bytes(buffer, offset, length), length };
  };

  const trim = (label: string): string => {
    const isSpace = (unit: number): boolean =>
      unit === 32 || unit === 9 || unit === 10 || unit === 12 || unit === 13;
    let from = 0;
    let to = label.length;
    while (from < to && isSpace(charCodeAt(label, from))) from++;
    while (to > from && isSpace(charCodeAt(label, to - 1))) to--;
    return slice(label, from, to);
  };

  const dictionary = (options: unknown): Readonly<Record<string, unknown>> => {
    if (options === undefined || options === null) return { __proto__: null };
    if (typeof options !== 'object' && typeof options !== 'function') {
      throw new NativeTypeError('The options are not an object');
    }
    return options as Readonly<Record<string, unknown>>;
  };

  class TextEncoder {
    // A member of its own, so that the methods can tell an encoder from anything else.
    readonly #encoding = 'utf-8';

    get encoding(): string {
      return this.#encoding;
    }

    encode(input: unknown = ''): Uint8Array {
      this.#encoding;
      return utf8.encode(usv(input)).bytes;
    }

    encodeInto(source: unknown, destination: unknown): { read: number; written: number } {
      this.#encoding;
      need(arguments.length, 2);
      const text = usv(source);
      if (!isView(destination) || typedTag(destination) !== 'Uint8Array') {
        throw new NativeTypeError('The destination is not a Uint8Array');
      }
      return utf8.write(text, destination as Uint8Array, typedLength(destination) as number);
    }
  }

  /** Where a UTF-16 decoder stands between two chunks: a half unit, a first half of a pair. */
  interface Utf16State {
    byte: number;
    lead: number;
  }

  const decodeUtf16 = (
    bytes: Uint8Array,
    length: number,
    state: Utf16State,
    fatal: boolean,
    more: boolean,
  ): string | undefined => {
    const out = builder();
    for (let index = 0; index < length; index++) {
      if (state.byte < 0) {
        state.byte = bytes[index] as number;
        continue;
      }
      const unit = ((bytes[index] as number) << 8) | state.byte;
      state.byte = -1;
      const trail = unit >= 0xdc00 && unit <= 0xdfff;
      if (state.lead >= 0) {
        if (!trail && fatal) return undefined;
        out.add(trail ? state.lead : 0xfffd);
        state.lead = -1;
        if (trail) {
          out.add(unit);
          continue;
        }
      }
      if (unit >= 0xd800 && unit <= 0xdbff) state.lead = unit;
      else if (!trail) out.add(unit);
      else if (fatal) return undefined;
      else out.add(0xfffd);
    }
    if (!more && (state.byte >= 0 || state.lead >= 0)) {
      if (fatal) return undefined;
      out.add(0xfffd);
    }
    return out.end();
  };

  const decode1252 = (bytes: Uint8Array, length: number): string => {
    const out = builder();
    for (let index = 0; index < length; index++) {
      const byte = bytes[index] as number;
      out.add(byte >= 0x80 && byte <= 0x9f ? charCodeAt(WINDOWS_1252, byte - 0x80) : byte);
    }
    return out.end();
  };

  class TextDecoder {
    readonly #encoding: string;
    readonly #fatal: boolean;
    readonly #ignoreBOM: boolean;
    #utf8: Utf8State = utf8.start();
    #utf16: Utf16State = { byte: -1, lead: -1 };
    #begun = false;
    #streaming = false;

    constructor(label: unknown = 'utf-8', options: unknown = undefined) {
      const text = `${label as string}`;
      const { fatal, ignoreBOM } = dictionary(options);
      const encoding = LABELS[toLowerCase(trim(text))];
      if (encoding === undefined) {
        throw new NativeRangeError(`The "${slice(text, 0, 100)}" encoding is not supported`);
      }
      this.#encoding = encoding;
      this.#fatal = !!fatal;
      this.#ignoreBOM = !!ignoreBOM;
    }

    get encoding(): string {
      return this.#encoding;
    }

    get fatal(): boolean {
      return this.#fatal;
    }

    get ignoreBOM(): boolean {
      return this.#ignoreBOM;
    }

    #reset(): void {
      this.#utf8 = utf8.start();
      this.#utf16 = { byte: -1, lead: -1 };
      this.#begun = false;
      this.#streaming = false;
    }

    #decode(bytes: Uint8Array, length: number, more: boolean): string | undefined {
      if (this.#encoding === 'utf-8') return utf8.decode(bytes, length, this.#utf8, this.#fatal, more);
      if (this.#encoding === 'windows-1252') return decode1252(bytes, length);
      return decodeUtf16(bytes, length, this.#utf16, this.#fatal, more);
    }

    decode(input: unknown = undefined, options: unknown = undefined): string {
      this.#encoding;
      const { bytes, length } = input === undefined ? { bytes: new Bytes(0), length: 0 } : bytesOf(input);
      const more = !!dictionary(options).stream;
      if (!this.#streaming) this.#reset();
      this.#streaming = more;
      const text = this.#decode(bytes, length, more);
      if (text === undefined) {
        this.#reset();
        throw new NativeTypeError(`The encoded data was not valid for encoding ${this.#encoding}`);
      }
      const first = !this.#begun && text.length > 0;
      if (first) this.#begun = true;
      const marked = first && !this.#ignoreBOM && this.#encoding !== 'windows-1252' && text[0] === '\ufeff';
      return marked ? slice(text, 1, text.length) : text;
    }
  }

  expose(global, 'TextEncoder', TextEncoder);
  expose(global, 'TextDecoder', TextDecoder);
}
