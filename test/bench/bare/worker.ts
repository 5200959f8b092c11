/**
 * The bare comparator's worker process: isolated-vm, a pipe on descriptor 3, and nothing that supervises.
 */
import { Socket } from 'node:net';
import ivm from 'isolated-vm';
import type { Level } from '../side.ts';
import { FrameReader, FrameWriter } from './frames.ts';
import { Guest, newIsolate, type Outlets } from './guest.ts';
import type { ToParent, ToWorker } from './messages.ts';

const PIPE_FD = 3;

const pipe = new Socket({ fd: PIPE_FD, readable: true, writable: true });
const writer = new FrameWriter(pipe);
const reader = new FrameReader();
const guests = new Map<number, Guest>();
let nextGuest = 0;
let keptIsolate: ivm.Isolate | undefined;
let realm: Guest | undefined;

const outlets: Outlets = {
  post: new ivm.Callback((frame: string) => writer.send(frame)),
  finish: new ivm.Callback((id: number, frame: string) => {
    writer.send(frame);
    const guest = guests.get(id);
    if (guest !== undefined) guest.ended = true;
  }),
};

function openGuest(level: Level): Guest {
  if (level === 'realm' && realm !== undefined) return realm;
  if (level !== 'execution') keptIsolate ??= newIsolate();
  const guest = new Guest(nextGuest++, level, level === 'execution' ? undefined : keptIsolate, outlets);
  guests.set(guest.id, guest);
  if (guest.kept) realm = guest;
  return guest;
}

/** Only after an entry has returned: a context cannot be released from within. */
function closeIfEnded(guest: Guest): void {
  if (!guest.ended || guest.kept) return;
  guests.delete(guest.id);
  guest.close();
}

/** Enter a guest; what it throws (a syntax error, a timeout) is the end of its run. */
function enter(guest: Guest, entry: () => void): void {
  try {
    entry();
  } catch (error) {
    guest.ended = true;
    const failed: ToParent = { type: 'failed', run: guest.lastRun, message: String(error) };
    writer.send(JSON.stringify(failed));
  }
  closeIfEnded(guest);
}

pipe.on('data', (chunk: Buffer) => {
  for (const text of reader.read(chunk)) {
    const message = JSON.parse(text) as ToWorker;
    if (message.type === 'run') {
      const guest = openGuest(message.level);
      enter(guest, () => guest.run(message.run, message.code));
    } else {
      const guest = guests.get(message.guest);
      if (guest !== undefined) enter(guest, () => guest.answer(message.call, message.ok, message.json));
    }
  }
});
pipe.on('end', () => process.exit(0));
