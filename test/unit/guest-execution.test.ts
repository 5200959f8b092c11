/** The guest against a host that fails it: what the script sees of that, and what is told afterwards. */
import ivm from 'isolated-vm';
import { describe, expect, it } from 'vitest';
import { ENTER, PRELUDE, WARM_UP } from '../../src/sandbox/guest/prelude.ts';

const snapshot = ivm.Isolate.createSnapshot([{ code: PRELUDE, filename: 'guest' }], WARM_UP);
const CONFIG = {
  seed: [1, 2, 3, 4],
  time: 0,
  maxToolCalls: 100,
  maxResultBytes: 1e6,
  maxOutputBytes: 1e6,
  maxToolPayloadBytes: 1e6,
};

/** Run a script to its first rest, with a host that answers what `onCall` does. Returns what `take` tells. */
function play(source: string, stream: boolean, onCall: (op: string) => string): unknown {
  const isolate = new ivm.Isolate({ memoryLimit: 64, snapshot });
  try {
    const enter = isolate.createContextSync().global.getSync(ENTER, { reference: true }) as ivm.Reference<
      (...args: unknown[]) => string
    >;
    const host = new ivm.Callback((op: string) => onCall(op), { sync: true });
    const config = JSON.stringify({ ...CONFIG, stream });
    enter.applySync(undefined, ['begin', source, '', config, host, false, false]);
    return JSON.parse(enter.applySync(undefined, ['take']).slice(1));
  } finally {
    isolate.dispose();
  }
}

describe('a host that throws in the middle of a call', () => {
  const fail = (): never => {
    throw new RangeError('from /srv/app/host.js');
  };

  it('is an error of the guest’s own to the script, and nothing that was written is lost', () => {
    const source = `try { console.warn('first') } catch (e) { console.error(e.name, e.message, /host/.test(e.stack)) } return 1`;
    // The script's own line about it fails in the same way, and ends it.
    expect(play(source, true, fail)).toMatchObject({
      items: [
        ['l', 'warn', 'first'],
        ['l', 'error', 'RangeError Maximum call stack size exceeded false'],
      ],
      end: {
        ok: false,
        code: 'SCRIPT_ERROR',
        name: 'RangeError',
        message: 'Maximum call stack size exceeded',
      },
    });
  });

  it('is told of the end all the same', () => {
    expect(play('return 7', true, fail)).toEqual({ items: [], end: { ok: true, json: '7' } });
  });
});

it('on the worker’s own thread nothing is told before the script rests: there the host has the script’s stack', () => {
  const asked: string[] = [];
  const source = `console.log('x'.repeat(20_000)); void callTool('a', 'y'.repeat(20_000)); new URL('http://a/'); return 1`;
  const told = play(source, false, (op) => {
    asked.push(op);
    return '{"ok":false}';
  }) as { items: unknown[] };
  expect(asked).toEqual(['url']);
  expect(told.items).toHaveLength(2);
});
