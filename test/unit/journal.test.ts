import { describe, expect, it } from 'vitest';
import type { Delivery, ScriptItem } from '../../actors/attempt.ts';
import { Journal, type NewEntry } from '../../src/sandbox/journal.ts';

type Item = Extract<ScriptItem, { kind: 'call' | 'sleep' }>;

const call = (index: number, name = 'tool', json = '{}'): Item => ({ kind: 'call', index, name, json });
const sleep = (index: number, ms = 5): Item => ({ kind: 'sleep', index, ms });
const result = (index: number, json = 'null'): Delivery => [index, '', json, 1_000];
const error = (index: number): Delivery => [index, 'TOOL_ERROR', 'no', 1_000];

const journal = (maxBytes = 1_000): Journal => new Journal('x', maxBytes);

/** Enter what must be new. */
function enter(into: Journal, item: Item): NewEntry {
  const entry = into.enter(item);
  if (entry === undefined || entry === 'mismatch') throw new Error(`Not new: ${String(entry)}`);
  return entry;
}

describe('a journal', () => {
  it('enters calls and sleeps in the order of their indexes', () => {
    const entries = journal();
    expect(enter(entries, call(0, 'a', '[1]'))).toMatchObject({ index: 0, name: 'a', args: '[1]' });
    expect(enter(entries, sleep(1, 7))).toMatchObject({ index: 1, kind: 'sleep', args: '7' });
  });

  it.each([
    { claim: 'an index that was skipped', item: call(2) },
    { claim: 'an index that was used before in the same attempt', item: call(0) },
  ])('takes $claim for a mismatch', ({ item }) => {
    const entries = journal();
    enter(entries, call(0));
    expect(entries.enter(item)).toBe('mismatch');
  });

  it('recognises every call of the attempt before, and enters what is new after them', () => {
    const entries = journal();
    enter(entries, call(0, 'a'));
    enter(entries, sleep(1));
    entries.restart();
    expect([entries.enter(call(0, 'a')), entries.enter(sleep(1))]).toEqual([undefined, undefined]);
    expect(entries.enter(call(2))).toMatchObject({ index: 2 });
  });

  it.each([
    { claim: 'another name', item: call(0, 'b', '{"n":1}') },
    { claim: 'other arguments', item: call(0, 'a', '{"n":2}') },
    { claim: 'the same arguments in other bytes', item: call(0, 'a', '{"n": 1}') },
    { claim: 'a sleep in the place of a call', item: sleep(0) },
  ])('takes $claim in a replay for a mismatch', ({ item }) => {
    const entries = journal();
    enter(entries, call(0, 'a', '{"n":1}'));
    entries.restart();
    expect(entries.enter(item)).toBe('mismatch');
  });

  it('recognises long arguments, and tells them from others, without keeping them', () => {
    const entries = journal();
    const long = JSON.stringify('€'.repeat(1_000_000));
    const entry = enter(entries, call(0, 'a', long));
    expect(JSON.stringify(entry).length).toBeLessThan(500);
    entries.restart();
    expect(entries.enter(call(0, 'a', long))).toBeUndefined();
    for (const other of [`${long} `, long.replace('€', '$'), '1']) {
      entries.restart();
      expect(entries.enter(call(0, 'a', other))).toBe('mismatch');
    }
  });

  it('takes a sleep of another length in a replay for a mismatch', () => {
    const entries = journal();
    enter(entries, sleep(0, 5));
    entries.restart();
    expect(entries.enter(sleep(0, 6))).toBe('mismatch');
  });

  it('is behind until a replay has made every call again', () => {
    const entries = journal();
    enter(entries, call(0));
    expect(entries.behind).toBe(false);
    entries.restart();
    expect(entries.behind).toBe(true);
    entries.enter(call(0));
    expect(entries.behind).toBe(false);
  });

  it('keeps deliveries in the order in which they were entered, whatever the order of the calls', () => {
    const entries = journal();
    const [first, second] = [enter(entries, call(0)), enter(entries, call(1))];
    entries.deliver(second, result(1), 10);
    entries.deliver(first, error(0), 20);
    entries.restart();
    expect(entries.deliveries).toEqual([result(1), error(0)]);
    expect(entries.deliveries.map((delivery) => entries.entryAt(delivery[0]))).toEqual([second, first]);
  });

  it('counts calls, not sleeps', () => {
    const entries = journal();
    enter(entries, call(0));
    enter(entries, sleep(1));
    expect(entries.callCount).toBe(1);
  });

  it('cannot be replayed any more once it was handed more bytes than it may keep', () => {
    const overhead = 256;
    const fits = journal(overhead + 4);
    fits.deliver(enter(fits, call(0)), result(0, '"éa'), 0); // Four bytes, three characters.
    expect(fits.replayable).toBe(true);
    const over = journal(overhead + 3);
    over.deliver(enter(over, call(0)), result(0, '"éa'), 0);
    expect(over.replayable).toBe(false);
  });

  it('counts a delivery of nothing, so that sleeps without end cannot grow it for ever', () => {
    const entries = journal(0);
    expect(entries.replayable).toBe(true);
    entries.deliver(enter(entries, sleep(0)), result(0, ''), 0);
    expect(entries.replayable).toBe(false);
  });

  it('is in doubt only while a call is in a handler', () => {
    const entries = journal();
    const entry = enter(entries, call(0));
    expect(entries.inDoubt).toBe(false);
    entries.start(entry, 0);
    expect(entries.inDoubt).toBe(true);
    entries.deliver(entry, result(0), 1);
    expect(entries.inDoubt).toBe(false);
  });

  it('is not in doubt because of a sleep', () => {
    const entries = journal();
    entries.start(enter(entries, sleep(0)), 0);
    expect(entries.inDoubt).toBe(false);
  });

  it('tells of every call how it ended and how long it took, and nothing of sleeps', () => {
    const entries = journal();
    const done = enter(entries, call(0, 'done'));
    enter(entries, sleep(1));
    const failed = enter(entries, call(2, 'failed'));
    const running = enter(entries, call(3, 'running'));
    const unknown = enter(entries, call(4, 'unknown-tool'));
    enter(entries, call(5, 'queued'));
    entries.start(done, 100);
    entries.start(failed, 100);
    entries.start(running, 110);
    entries.deliver(done, result(0), 130);
    entries.deliver(failed, error(2), 150);
    entries.deliver(unknown, error(4), 150); // It never came to a handler.
    expect(entries.records(200)).toEqual([
      { callId: 'x/0', callIndex: 0, name: 'done', outcome: 'completed', durationMs: 30 },
      { callId: 'x/2', callIndex: 2, name: 'failed', outcome: 'failed', code: 'TOOL_ERROR', durationMs: 50 },
      { callId: 'x/3', callIndex: 3, name: 'running', outcome: 'unknown', code: 'CANCELLED', durationMs: 90 },
      {
        callId: 'x/4',
        callIndex: 4,
        name: 'unknown-tool',
        outcome: 'failed',
        code: 'TOOL_ERROR',
        durationMs: 0,
      },
      {
        callId: 'x/5',
        callIndex: 5,
        name: 'queued',
        outcome: 'not_started',
        code: 'CANCELLED',
        durationMs: 0,
      },
    ]);
  });
});
