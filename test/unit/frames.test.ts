import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeFrame, FrameError, FrameReader, FrameWriter } from '../../src/sandbox/frames.ts';

/** A reader and what it read. */
function reading(maxBytes = 1_000) {
  const frames: string[] = [];
  return { frames, reader: new FrameReader(maxBytes, (text) => frames.push(text)) };
}

/** A header that announces so many bytes. */
function header(length: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(length);
  return bytes;
}

/** Cut bytes at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...ends, bytes.length].map((end, index) => bytes.subarray(index === 0 ? 0 : ends[index - 1], end));
}

describe('a frame', () => {
  it('is its length in four bytes, little-endian, and its text in UTF-8', () => {
    expect([...encodeFrame('a\u20ac')]).toEqual([4, 0, 0, 0, 0x61, 0xe2, 0x82, 0xac]);
    expect([...encodeFrame('')]).toEqual([0, 0, 0, 0]);
  });

  it('is read whole however its bytes are cut', () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 40 }).map((value) => value.toWellFormed());
    fc.assert(
      fc.property(
        fc.array(text, { maxLength: 8 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (texts, places) => {
          const { frames, reader } = reading();
          for (const chunk of cut(Buffer.concat(texts.map(encodeFrame)), places)) reader.push(chunk);
          expect(frames).toEqual(texts);
        },
      ),
    );
  });

  it('is read byte by byte, and not before its last byte has come', () => {
    const { frames, reader } = reading();
    const bytes = encodeFrame('slow');
    for (const byte of bytes.subarray(0, -1)) reader.push(Buffer.from([byte]));
    expect(frames).toEqual([]);
    reader.push(bytes.subarray(-1));
    expect(frames).toEqual(['slow']);
  });

  it('of no bytes is a text of no characters', () => {
    const { frames, reader } = reading();
    reader.push(Buffer.concat([header(0), encodeFrame('x'), header(0)]));
    expect(frames).toEqual(['', 'x', '']);
  });

  it('of ill-formed UTF-8 is a text all the same', () => {
    const { frames, reader } = reading();
    reader.push(Buffer.concat([header(3), Buffer.from([0xff, 0xc0, 0x41])]));
    expect(frames).toEqual(['\ufffd\ufffdA']);
  });
});

describe('the cap', () => {
  it('is checked on the header alone, before a byte of the body has come', () => {
    const { frames, reader } = reading(10);
    expect(() => reader.push(header(11))).toThrow(FrameError);
    expect(frames).toEqual([]);
  });

  it.each([11, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff])('refuses a frame of %d bytes', (length) => {
    expect(() => reading(10).reader.push(header(length))).toThrow(`${length} bytes is over the cap of 10`);
  });

  it('lets a frame of exactly its size through', () => {
    const { frames, reader } = reading(10);
    reader.push(encodeFrame('0123456789'));
    expect(frames).toEqual(['0123456789']);
  });

  it('counts bytes, not characters', () => {
    expect(() => reading(10).reader.push(encodeFrame('\u20ac'.repeat(4)))).toThrow(FrameError);
  });

  it('is checked on a header that comes in pieces, and on one behind a good frame', () => {
    const { frames, reader } = reading(10);
    const bytes = Buffer.concat([encodeFrame('good'), header(11)]);
    for (const byte of bytes.subarray(0, -1)) reader.push(Buffer.from([byte]));
    expect(() => reader.push(bytes.subarray(-1))).toThrow(FrameError);
    expect(frames).toEqual(['good']);
  });

  it.each([
    ['lines of text', 'x'.repeat(100_000)],
    ['JSON without a header', '{"t":"ready"}\n'.repeat(100)],
    ['the ipc channel of Node', '{"cmd":"NODE_HANDLE","type":"net.Server"}\n'],
  ])('stops a flood of %s at its first bytes', (_name, text) => {
    const { frames, reader } = reading(64 * 1024 * 1024);
    expect(() => reader.push(Buffer.from(text))).toThrow(FrameError);
    expect(frames).toEqual([]);
  });

  it('holds for any bytes: what is read was announced, and what is kept is less than a frame', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 40 }), (chunks) => {
        const { frames, reader } = reading(50);
        let pushed = 0;
        try {
          for (const chunk of chunks) {
            reader.push(Buffer.from(chunk));
            pushed += chunk.length;
            const read = frames.reduce((sum, text) => sum + 4 + Buffer.byteLength(text, 'utf8'), 0);
            // Ill-formed bytes grow up to threefold as text, so this bounds what was read from above only.
            expect(read).toBeLessThanOrEqual(pushed * 3 + 4);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(FrameError);
        }
      }),
    );
  });
});

describe('a reader whose listener throws', () => {
  it('lets the error out', () => {
    const seen: string[] = [];
    const reader = new FrameReader(100, (text) => {
      seen.push(text);
      if (text === 'bad') throw new Error('refused');
    });
    expect(() => reader.push(encodeFrame('bad'))).toThrow('refused');
    expect(seen).toEqual(['bad']);
  });
});

describe('a writer', () => {
  it('joins the frames of one turn into one write', async () => {
    const writes: Buffer[] = [];
    const writer = new FrameWriter((bytes) => writes.push(bytes));
    for (const text of ['a', 'b', 'c']) writer.send(text);
    expect(writes).toEqual([]);
    await new Promise(setImmediate);
    expect(writes).toEqual([Buffer.concat(['a', 'b', 'c'].map(encodeFrame))]);
    writer.send('d');
    await new Promise(setImmediate);
    expect(writes.slice(1)).toEqual([encodeFrame('d')]);
  });

  it('writes at once when it is flushed, and nothing twice', async () => {
    const writes: Buffer[] = [];
    const writer = new FrameWriter((bytes) => writes.push(bytes));
    writer.flush();
    writer.send('last words');
    writer.flush();
    expect(writes).toEqual([encodeFrame('last words')]);
    await new Promise(setImmediate);
    expect(writes).toHaveLength(1);
  });
});
