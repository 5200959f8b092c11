/**
 * UTF-8 in the guest: an isolate has no encoder of its own, and no byte of a script should cross to the host
 * only to be encoded. The decoder is the one of the Encoding standard: an ill-formed sequence becomes one
 * U+FFFD per maximal subpart.
 */
import type { GuestIdl } from './idl.ts';

/** Where a decoder stands inside a sequence, between two chunks. */
export interface Utf8State {
  needed: number;
  seen: number;
  point: number;
  lower: number;
  upper: number;
}

/** UTF-8 encoding and decoding over plain strings and bytes. */
export interface GuestUtf8 {
  readonly encode: (text: string) => { readonly bytes: Uint8Array<ArrayBuffer>; readonly length: number };
  /** Write whole characters only, as many as fit into `size` bytes. `read` counts UTF-16 units. */
  readonly write: (text: string, bytes: Uint8Array, size: number) => { read: number; written: number };
  readonly start: () => Utf8State;
  /** Decode `length` bytes; unless `more`, an unfinished sequence at the end is an error too. Undefined: `fatal`, and ill-formed. */
  readonly decode: (
    bytes: Uint8Array,
    length: number,
    state: Utf8State,
    fatal: boolean,
    more: boolean,
  ) => string | undefined;
}

export function installUtf8(idl: GuestIdl): GuestUtf8 {
  const { charCodeAt, builder } = idl;
  const Bytes = Uint8Array;

  /** The code point at `index`, U+FFFD for a lone surrogate. */
  const pointAt = (text: string, index: number): number => {
    const unit = charCodeAt(text, index);
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    if (unit > 0xdbff || index + 1 >= text.length) return 0xfffd;
    const next = charCodeAt(text, index + 1);
    if (next < 0xdc00 || next > 0xdfff) return 0xfffd;
    return 0x10000 + ((unit - 0xd800) << 10) + (next - 0xdc00);
  };
  const sizeOf = (point: number): number => (point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4);

  const write: GuestUtf8['write'] = (text, bytes, size) => {
    let read = 0;
    let written = 0;
    while (read < text.length) {
      const point = pointAt(text, read);
      const width = sizeOf(point);
      if (written + width > size) break;
      read += width === 4 ? 2 : 1;
      if (width === 1) {
        bytes[written++] = point;
        continue;
      }
      bytes[written++] = (width === 2 ? 0xc0 : width === 3 ? 0xe0 : 0xf0) | (point >> (6 * (width - 1)));
      for (let left = width - 2; left >= 0; left--) bytes[written++] = 0x80 | ((point >> (6 * left)) & 0x3f);
    }
    return { read, written };
  };

  const encode: GuestUtf8['encode'] = (text) => {
    let length = 0;
    for (let index = 0; index < text.length; ) {
      const width = sizeOf(pointAt(text, index));
      length += width;
      index += width === 4 ? 2 : 1;
    }
    const bytes = new Bytes(length);
    write(text, bytes, length);
    return { bytes, length };
  };

  const reset = (state: Utf8State): void => {
    state.needed = 0;
    state.seen = 0;
    state.point = 0;
    state.lower = 0x80;
    state.upper = 0xbf;
  };

  /** Begin a sequence with its first byte; false if no sequence begins so. */
  const begin = (byte: number, state: Utf8State): boolean => {
    if (byte >= 0xc2 && byte <= 0xdf) {
      state.needed = 1;
      state.point = byte & 0x1f;
    } else if (byte >= 0xe0 && byte <= 0xef) {
      if (byte === 0xe0) state.lower = 0xa0;
      if (byte === 0xed) state.upper = 0x9f;
      state.needed = 2;
      state.point = byte & 0xf;
    } else if (byte >= 0xf0 && byte <= 0xf4) {
      if (byte === 0xf0) state.lower = 0x90;
      if (byte === 0xf4) state.upper = 0x8f;
      state.needed = 3;
      state.point = byte & 0x7;
    } else return false;
    return true;
  };

  const decode: GuestUtf8['decode'] = (bytes, length, state, fatal, more) => {
    const out = builder();
    for (let index = 0; index < length; index++) {
      const byte = bytes[index] as number;
      if (state.needed === 0) {
        if (byte < 0x80) out.add(byte);
        else if (!begin(byte, state)) {
          if (fatal) return undefined;
          out.add(0xfffd);
        }
      } else if (byte < state.lower || byte > state.upper) {
        if (fatal) return undefined;
        reset(state);
        out.add(0xfffd);
        index--; // The byte that does not belong to the sequence may begin the next.
      } else {
        state.lower = 0x80;
        state.upper = 0xbf;
        state.point = (state.point << 6) | (byte & 0x3f);
        if (++state.seen < state.needed) continue;
        const point = state.point;
        reset(state);
        if (point < 0x10000) out.add(point);
        else {
          out.add(0xd800 + ((point - 0x10000) >> 10));
          out.add(0xdc00 + ((point - 0x10000) & 0x3ff));
        }
      }
    }
    if (!more && state.needed !== 0) {
      reset(state);
      if (fatal) return undefined;
      out.add(0xfffd);
    }
    return out.end();
  };

  return {
    encode,
    write,
    start: () => ({ needed: 0, seen: 0, point: 0, lower: 0x80, upper: 0xbf }),
    decode,
  };
}
