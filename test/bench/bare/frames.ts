/**
 * Frames on a byte stream: a u32 little-endian length, then that many bytes of UTF-8.
 *
 * Writes are coalesced, because one system call per frame would cost more than the frame does.
 */
import type { Writable } from 'node:stream';

const HEADER_BYTES = 4;
/** A frame that has waited this long goes out although its turn is not over: some runs take milliseconds. */
const LONGEST_WAIT_MS = 1;

/** Collects the frames of one turn of the event loop and writes them at once. */
export class FrameWriter {
  readonly #stream: Writable;
  #waiting: string[] = [];
  #since = 0;

  constructor(stream: Writable) {
    this.#stream = stream;
  }

  /** Send one frame: at the end of this turn, or at once if the oldest has waited a millisecond. */
  send(text: string): void {
    const now = performance.now();
    if (this.#waiting.push(text) === 1) {
      this.#since = now;
      process.nextTick(() => this.flush());
    } else if (now - this.#since > LONGEST_WAIT_MS) {
      this.flush();
    }
  }

  /** Write what waits now. */
  flush(): void {
    if (this.#waiting.length === 0) return;
    const texts = this.#waiting;
    this.#waiting = [];
    const sizes = texts.map((text) => Buffer.byteLength(text));
    const bytes = Buffer.allocUnsafe(sizes.reduce((sum, size) => sum + HEADER_BYTES + size, 0));
    let at = 0;
    for (const [index, text] of texts.entries()) {
      at = bytes.writeUInt32LE(sizes[index] ?? 0, at);
      at += bytes.write(text, at);
    }
    this.#stream.write(bytes);
  }
}

/** Cuts a stream of chunks into frames. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);

  /** The frames that `chunk` completes, in order. */
  *read(chunk: Buffer): Generator<string> {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const end = at + HEADER_BYTES + bytes.readUInt32LE(at);
      if (end > bytes.length) break;
      const text = bytes.toString('utf8', at + HEADER_BYTES, end);
      at = end;
      yield text;
    }
    this.#rest = bytes.subarray(at);
  }
}
