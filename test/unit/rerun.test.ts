import { expect, it } from 'vitest';
import type { ScriptItem } from '../../actors/attempt.ts';
import { systemClock } from '../../src/clock.ts';
import type { JournalRead } from '../../src/protocol.ts';
import { rerun } from '../../src/runtime/rerun.ts';
import type { Sandbox } from '../../src/runtime/sandbox.ts';
import { VERSIONS } from '../support/session.ts';

const JOURNAL: JournalRead = {
  source: 'return 1',
  input: '',
  state: '{}',
  seed: [1, 2, 3, 4],
  startTime: 0,
  limits: {} as JournalRead['limits'],
  versions: VERSIONS,
  calls: [],
  deliveries: [],
  result: undefined,
};

/** A worker that is not ours any more says what it likes. */
const liar = (items: readonly ScriptItem[], json: string): Sandbox => ({
  versions: VERSIONS,
  capacity: 1,
  start: ({ onReport, onEnd }) => {
    onReport(items, false);
    onEnd({ kind: 'returned', json, state: undefined, usage: { cpu: 0, heap: 0 } });
    return { deliver: () => undefined, stop: () => undefined };
  },
});

it('arguments and values that are no JSON are told as nothing', async () => {
  const call: ScriptItem = { kind: 'call', index: 0, name: 'echo', json: '{' };
  expect(await rerun(liar([call], '1'), systemClock, JOURNAL)).toMatchObject({
    verdict: 'different',
    trace: [{ type: 'call', index: 0, name: 'echo', args: undefined }],
  });
  expect(await rerun(liar([], '{'), systemClock, JOURNAL)).toMatchObject({
    verdict: 'same',
    end: { ok: true, value: undefined },
  });
});
