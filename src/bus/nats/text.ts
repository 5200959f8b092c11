/**
 * Bodies as they go over the wire: JSON text in UTF-8.
 *
 * A body of a few hundred bytes is copied into the platform's pool by `Buffer.from` in a tenth of the time that a
 * `TextEncoder` takes to allocate an array for it.
 */
import { type Body, BusError } from '../bus.ts';

/** The body's text. Throws {@link BusError} PAYLOAD_TOO_LARGE, also for what is nested too deep or too long to be text. */
export function encode(subject: string, body: Body, maxBytes: number): Buffer {
  let data: Buffer | undefined;
  try {
    data = Buffer.from(JSON.stringify(body));
  } catch (error) {
    // The stack or the longest string did not suffice. What is no JSON data, such as a bigint, is a TypeError.
    if (!(error instanceof RangeError)) throw error;
  }
  if (data === undefined || data.length > maxBytes)
    throw new BusError('PAYLOAD_TOO_LARGE', subject, `larger than ${maxBytes} bytes`);
  return data;
}

/** The body that the bytes are. Throws TypeError for what is not the JSON text of an object or array: it came from a stranger. */
export function decode(data: Uint8Array): Body {
  const text = (
    Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.length)
  ).toString();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // What the parser says quotes the text, which may be anybody's.
    throw new TypeError(`dropped a message of ${data.length} bytes that is not JSON`);
  }
  if (typeof body !== 'object' || body === null)
    throw new TypeError(`dropped a message of ${data.length} bytes that is JSON but not an object`);
  return body;
}
