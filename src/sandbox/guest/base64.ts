/** The guest's `atob` and `btoa`: forgiving base64 of the Infra standard, over strings of bytes. */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { GuestException } from './exception.ts';
import type { GuestIdl } from './idl.ts';

export function installBase64(
  global: Record<string, unknown>,
  idl: GuestIdl,
  DOMException: GuestException,
): void {
  const { expose, need, charCodeAt, builder } = idl;
  const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const Bytes = Uint8Array;
  const sextets = new Bytes(128);
  for (let index = 0; index < 128; index++) sextets[index] = 255;
  for (let index = 0; index < 64; index++) sextets[charCodeAt(ALPHABET, index)] = index;

  const isSpace = (unit: number): boolean =>
    unit === 32 || unit === 9 || unit === 10 || unit === 12 || unit === 13;
  const refuse = (): Error =>
    new DOMException('The string to be decoded is not correctly encoded.', 'InvalidCharacterError');

  /** The characters that count: no white space, and no padding where padding may stand. */
  const sextetsOf = (text: string): { values: Uint8Array; count: number } => {
    const values = new Bytes(text.length);
    let count = 0;
    let padding = 0;
    for (let index = 0; index < text.length; index++) {
      const unit = charCodeAt(text, index);
      if (isSpace(unit)) continue;
      if (unit === 61) {
        padding++;
        continue;
      }
      const value = unit < 128 ? (sextets[unit] as number) : 255;
      if (value === 255 || padding > 0) throw refuse();
      values[count++] = value;
    }
    if (count % 4 === 1 || (padding > 0 && (padding > 2 || (count + padding) % 4 !== 0))) throw refuse();
    return { values, count };
  };

  const { atob, btoa } = {
    atob(data: unknown): string {
      need(arguments.length, 1);
      const { values, count } = sextetsOf(`${data as string}`);
      const out = builder();
      let bits = 0;
      let held = 0;
      for (let index = 0; index < count; index++) {
        held = ((held << 6) | (values[index] as number)) & 0xffff;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        out.add((held >> bits) & 0xff);
      }
      return out.end();
    },

    btoa(data: unknown): string {
      need(arguments.length, 1);
      const text = `${data as string}`;
      const out = builder();
      for (let index = 0; index < text.length; index += 3) {
        let group = 0;
        const size = text.length - index < 3 ? text.length - index : 3;
        for (let place = 0; place < 3; place++) {
          const unit = place < size ? charCodeAt(text, index + place) : 0;
          if (unit > 255) throw new DOMException('Invalid character', 'InvalidCharacterError');
          group = (group << 8) | unit;
        }
        for (let place = 0; place < 4; place++) {
          out.add(place > size ? 61 : charCodeAt(ALPHABET, (group >> (18 - 6 * place)) & 63));
        }
      }
      return out.end();
    },
  };
  expose(global, 'atob', atob);
  expose(global, 'btoa', btoa);
}
