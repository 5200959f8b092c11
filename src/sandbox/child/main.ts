/**
 * The worker process: reads messages on descriptor 3, runs attempts, says what happened.
 *
 * It holds nothing that matters. When its parent is gone the pipe closes and it kills itself.
 */
import net from 'node:net';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { FrameReader, FrameWriter } from '../frames.ts';
import { PRELUDE_VERSION } from '../guest/prelude.ts';
import { urlHost } from '../guest/urlhost.ts';
import type { ParentMessage } from '../messages.ts';
import { Attempt, CPU_CHECK_MS } from './attempt.ts';
import { IsolateCache } from './isolates.ts';
import { lockDown } from './lockdown.ts';

const STRIPPER = 'amaro';
/** How long a dying worker may take to say why, in ms. */
const LAST_WORDS_MS = 100;
const { values } = parseArgs({
  options: {
    'max-frame-bytes': { type: 'string', default: '' },
    'max-warm': { type: 'string', default: '' },
    'warm-bytes': { type: 'string', default: '' },
  },
});
const maxFrameBytes = Number(values['max-frame-bytes']);

const { die } = lockDown(STRIPPER);
process.on('uncaughtException', die);
process.on('unhandledRejection', die);

const socket = new net.Socket({ fd: 3, readable: true, writable: true });
const writer = new FrameWriter((bytes) => socket.write(bytes));
const send = (text: string): void => writer.send(text);
socket.on('error', die);
socket.on('close', die);
socket.on('end', die);

const attempts = new Map<number, Attempt>();
const cache = new IsolateCache({
  maxWarm: Number(values['max-warm']),
  budgetBytes: Number(values['warm-bytes']),
});

const forget = (attempt: Attempt): void => {
  attempts.delete(attempt.id);
};

const onCall = (attempt: Attempt, op: string, text: string): string => {
  if (op === 'url') return urlHost(text);
  // The isolate that calls is still inside: it is left alone until the call has returned.
  if (op === 'end') setImmediate(() => attempt.endedInside(text));
  else if (attempt.fits(text)) send(`{"t":"items","x":${attempt.id},"items":${text}}`);
  else setImmediate(() => attempt.wroteTooMuch());
  return '';
};

// V8 cannot go on in this process, and only a lack of memory makes it say so. What can be said has been.
const onCatastrophe = (): void => {
  writer.flush();
  socket.end(die);
  setTimeout(die, LAST_WORDS_MS);
};

const onStuck = (): void => send('{"t":"stuck"}');

const handle = (message: ParentMessage): void => {
  switch (message.t) {
    case 'start': {
      const attempt = new Attempt(message, {
        cache,
        send,
        maxFrameBytes,
        onEnd: forget,
        onCall,
        onCatastrophe,
        onStuck,
      });
      attempts.set(attempt.id, attempt);
      attempt.begin();
      if (message.threaded) watchCpu();
      break;
    }
    case 'deliver':
      attempts.get(message.x)?.deliver(message.d);
      break;
    case 'cancel':
      attempts.get(message.x)?.cancel();
      break;
    case 'ping':
      send(`{"t":"pong","n":${message.n}}`);
      break;
  }
};

// The parent is trusted; its frames are bounded all the same.
const reader = new FrameReader(maxFrameBytes, (text) => handle(JSON.parse(text) as ParentMessage));
socket.on('data', (chunk: Buffer) => {
  reader.push(chunk);
  scheduleIdle();
});

let cpuTimer: NodeJS.Timeout | undefined;
function watchCpu(): void {
  cpuTimer ??= setInterval(() => {
    let threaded = false;
    for (const attempt of attempts.values()) {
      attempt.checkCpu();
      threaded ||= attempt.threaded;
    }
    if (threaded) return;
    clearInterval(cpuTimer);
    cpuTimer = undefined;
  }, CPU_CHECK_MS);
}

let _idle: NodeJS.Immediate | undefined;
function scheduleIdle(): void {
  _idle ??= setImmediate(() => {
    _idle = undefined;
    if (cache.prepare()) scheduleIdle();
  });
}

/** What a script's values depend on: the language, `Intl` and time zones, `URL`. */
function engine(): string {
  const { v8, icu, cldr, tz, unicode, ada } = process.versions;
  return `v8 ${v8}, icu ${icu}, cldr ${cldr}, tz ${tz}, unicode ${unicode}, ada ${ada}`;
}

cache.prepare();
send(JSON.stringify({ t: 'ready', engine: engine(), prelude: PRELUDE_VERSION, stripper: STRIPPER }));
