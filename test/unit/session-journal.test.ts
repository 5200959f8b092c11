/** The owner's memory of what a script did and was handed. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Execution, JournalEntry } from '../../actors/sessiondata.ts';
import { SessionJournal } from '../../src/session/journal.ts';
import { call, SessionDriver, START } from '../support/session.ts';

const ENTRIES: readonly JournalEntry[] = [
  ['c', 0, 'users.get', '{"id":1}', 'read'],
  ['s', 1, 500, START + 500],
  ['d', 1, '', '', START + 500, 0],
  ['c', 2, 'pay', '{}', 'unsafe'],
  ['d', 2, 'TOOL_ERROR', 'no', START + 600, 12],
  ['d', 0, '', '7', START + 700, 90],
];

function journalOf(entries: readonly JournalEntry[] = ENTRIES): SessionJournal {
  return SessionJournal.read(entries.map((entry) => JSON.stringify(entry)));
}

describe('a journal', () => {
  it('hands out deliveries in the order of their commits', () => {
    const journal = journalOf();
    expect(journal.committed).toBe(3);
    expect(journal.after(0)).toEqual([
      [1, '', '', START + 500],
      [2, 'TOOL_ERROR', 'no', START + 600],
      [0, '', '7', START + 700],
    ]);
    expect(journal.after(2)).toEqual([[0, '', '7', START + 700]]);
    expect(journal.after(3)).toEqual([]);
    expect(journal.after(9)).toEqual([]);
  });

  it('shows a script nothing that is not committed', () => {
    const journal = new SessionJournal();
    journal.add(['c', 0, 'pay', '{}', 'unsafe']);
    journal.add(['d', 0, '', '1', START, 5]);
    expect([journal.committed, journal.after(0)]).toEqual([0, []]);
    journal.commit();
    journal.add(['c', 1, 'pay', '{}', 'unsafe']);
    journal.add(['d', 1, '', '2', START, 5]);
    expect(journal.after(0)).toEqual([[0, '', '1', START]]);
    journal.commit();
    expect(journal.after(1)).toEqual([[1, '', '2', START]]);
  });

  it.each([
    ['the same call', 0, 'call', 'users.get', '{"id":1}', false],
    ['a call that is not there yet', 3, 'call', 'anything', '{}', false],
    ['another tool', 0, 'call', 'users.put', '{"id":1}', true],
    ['other arguments', 0, 'call', 'users.get', '{"id":2}', true],
    ['the same arguments in other bytes', 0, 'call', 'users.get', '{"id": 1}', true],
    ['a sleep for a call', 0, 'sleep', '', '500', true],
    ['the same sleep', 1, 'sleep', '', '500', false],
    ['another sleep', 1, 'sleep', '', '501', true],
    ['a call for a sleep', 1, 'call', '', '500', true],
  ] as const)('is contradicted or not by %s', (_what, index, kind, name, args, answer) => {
    expect(journalOf().contradicts(index, kind, name, args)).toBe(answer);
  });

  it('knows its calls, and how they ended', () => {
    const journal = journalOf(ENTRIES.slice(0, 5));
    expect(journal.callAt(0)).toMatchObject({ name: 'users.get', args: '{"id":1}' });
    expect([journal.callAt(1), journal.callAt(9)]).toEqual([undefined, undefined]);
    expect([0, 1, 2, 9].map((index) => journal.succeeded(index))).toEqual([
      undefined,
      undefined,
      false,
      undefined,
    ]);
    expect(journalOf().succeeded(0)).toBe(true);
  });

  it('lists what was made for a rerun, in order', () => {
    expect(journalOf().trace()).toEqual([
      { index: 0, kind: 'call', name: 'users.get', args: '{"id":1}' },
      { index: 1, kind: 'sleep', name: '', args: '500' },
      { index: 2, kind: 'call', name: 'pay', args: '{}' },
    ]);
  });

  it('read from its texts is the one that was written', () => {
    const anyText = fc.string({ unit: 'binary' });
    fc.assert(
      fc.property(fc.array(fc.tuple(anyText, anyText, fc.boolean())), (calls) => {
        const entries = calls.flatMap(([name, args, ended], index): readonly JournalEntry[] => [
          ['c', index, name, args, 'unsafe'],
          ...(ended ? ([['d', index, '', args, START + index, 1]] as const) : []),
        ]);
        const written = new SessionJournal();
        for (const entry of entries) written.add(entry);
        written.commit();
        const read = journalOf(entries);
        expect(read.trace()).toEqual(written.trace());
        expect(read.after(0)).toEqual(written.after(0));
        for (const [index, [name, args]] of calls.entries())
          expect(read.contradicts(index, 'call', name, args)).toBe(false);
      }),
    );
  });
});

describe('the records of a result', () => {
  /** An execution with call 0 in a state of its own and call 1 behind it. */
  function execution(
    change: (session: SessionDriver) => void,
    over: Parameters<typeof call>[1] = {},
  ): Execution {
    const session = new SessionDriver();
    session.request('e1', { limits: { maxConcurrentToolCalls: 1 } });
    session.report('e1', { items: [call(0, over), call(1)], waiting: true });
    change(session);
    return session.execution('e1');
  }
  const made: readonly JournalEntry[] = [
    ['c', 0, 'work', '{}', 'unsafe'],
    ['c', 1, 'work', '{}', 'unsafe'],
  ];
  const outcomes = (of: Execution, entries: readonly JournalEntry[] = made): readonly string[] =>
    journalOf(entries)
      .records(of, START + 80)
      .map(({ outcome, durationMs }) => `${outcome} ${durationMs}`);

  it('tell of a call under way that it is in doubt, and of one that waits that it did not start', () => {
    expect(outcomes(execution(() => undefined))).toEqual(['unknown 80', 'not_started 0']);
  });

  it('tell of a call that is being asked about that it is in doubt', () => {
    const asked = execution((session) => session.loseCall('e1', 0), { reconcilable: true });
    expect(outcomes(asked)).toEqual(['unknown 80', 'not_started 0']);
  });

  it('tell of a call that nobody took that it did not start', () => {
    const missed = execution((session) => session.missProvider('e1', 0));
    expect(outcomes(missed)).toEqual(['not_started 0', 'not_started 0']);
  });

  it.each([
    ['', 'completed 9'],
    ['TOOL_ERROR', 'failed 9'],
    ['UNKNOWN_TOOL', 'failed 9'],
    ['OUTCOME_UNKNOWN', 'unknown 9'],
  ])('tell of a call that ended with %j that it is %s', (code, record) => {
    const ended = execution((session) => session.endCall('e1', 0));
    expect(outcomes(ended, [...made, ['d', 0, code, '1', START, 9]])).toEqual([record, 'unknown 80']);
  });

  it('leave sleeps out and keep the index of each call', () => {
    const records = journalOf().records({ id: 'e1', calls: [] } as unknown as Execution, START);
    expect(records.map(({ callId, callIndex, outcome }) => [callId, callIndex, outcome])).toEqual([
      ['e1/0', 0, 'completed'],
      ['e1/2', 2, 'failed'],
    ]);
  });
});
