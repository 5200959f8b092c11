/**
 * Length-prefixed frames on a byte stream: the only thing that parent and worker say to each other.
 *
 * A frame is a 32-bit little-endian byte length and that many bytes of UTF-8 JSON. The length is checked
 * against a cap before anything is buffered, so that no peer can make the other hold more than one frame.
 * (Node's own `ipc` stdio has no cap, and one malformed line on it is an uncaught exception in the parent.)
 */

/** A peer broke the framing: nothing after it can be trusted. */
export class FrameError extends Error {
  override readonly name = 'FrameError';
}

const HEADER_BYTES = 4;

/** One frame, ready to be written. */
export function encodeFrame(text: string): Buffer {
  const length = Buffer.byteLength(text);
  const frame = Buffer.allocUnsafe(HEADER_BYTES + length);
  frame.writeUInt32LE(length, 0);
  frame.write(text, HEADER_BYTES, 'utf8');
  return frame;
}

/** Cuts a byte stream into frames. Throws {@link FrameError} on a length over `maxBytes`. */
export class FrameReader {
  readonly #maxBytes: number;
  readonly #onFrame: (text: string) => void;
  #chunks: Buffer[] = [];
  #buffered = 0;
  /** Bytes still missing before the next step (a header or a body) is possible. */
  #needed = HEADER_BYTES;

  constructor(maxBytes: number, onFrame: (text: string) => void) {
    this.#maxBytes = maxBytes;
    this.#onFrame = onFrame;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    if (this.#buffered < this.#needed) return;
    let bytes = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks, this.#buffered);
    this.#needed = HEADER_BYTES;
    while (bytes.length >= HEADER_BYTES) {
      const length = bytes.readUInt32LE(0);
      if (length > this.#maxBytes)
        throw new FrameError(`a frame of ${length} bytes is over the cap of ${this.#maxBytes}`);
      if (bytes.length < HEADER_BYTES + length) {
        this.#needed = HEADER_BYTES + length;
        break;
      }
      const text = bytes.toString('utf8', HEADER_BYTES, HEADER_BYTES + length);
      bytes = bytes.subarray(HEADER_BYTES + length);
      this.#onFrame(text);
    }
    this.#chunks = bytes.length === 0 ? [] : [bytes];
    this.#buffered = bytes.length;
  }
}

/** Joins the frames of one turn of the event loop into one write. */
export class FrameWriter {
  readonly #write: (bytes: Buffer) => void;
  #frames: Buffer[] = [];

  constructor(write: (bytes: Buffer) => void) {
    this.#write = write;
  }

  send(text: string): void {
    this.#frames.push(encodeFrame(text));
    if (this.#frames.length === 1) process.nextTick(() => this.flush());
  }

  flush(): void {
    const [first] = this.#frames;
    if (first === undefined) return;
    const bytes = this.#frames.length === 1 ? first : Buffer.concat(this.#frames);
    this.#frames = [];
    this.#write(bytes);
  }
}
