/** Tool calls of an execution: intent before dispatch, one end each, and what is in doubt. */
import { describe, expect, it } from 'vitest';
import type { ToolEnd } from '../../actors/sessiondata.ts';
import { applied, call, failed, returned, SessionDriver, START, value } from '../support/session.ts';

type Made = Parameters<typeof call>[1];

/** A session whose execution e1 waits for the calls given. */
function calling(...made: readonly Made[]): SessionDriver {
  return callingAtMost(10, ...made);
}

function callingAtMost(maxConcurrentToolCalls: number, ...made: readonly Made[]): SessionDriver {
  const session = new SessionDriver();
  session.request('e1', { limits: { maxConcurrentToolCalls } });
  session.report('e1', { items: made.map((over, index) => call(index, over)), waiting: true });
  return session;
}

const dispatched = (session: SessionDriver): readonly number[] =>
  session.effects('call').map(({ index }) => index);
const states = (session: SessionDriver): readonly string[] =>
  session.execution('e1').calls.map(({ state }) => state);
const NOT_STARTED: ToolEnd = { ok: 'not_started' };
const UNKNOWN: ToolEnd = { ok: 'unknown' };

describe('a call', () => {
  it.each(['unsafe', 'idempotent'] as const)(
    'of an %s tool is dispatched after the commit of its intent',
    (effect) => {
      const session = calling({ effect, json: '{"a":1}' });
      expect(session.out.journal).toEqual([{ execution: 'e1', entry: ['c', 0, 'work', '{"a":1}', effect] }]);
      expect(session.out.effects).toEqual([{ type: 'call', execution: 'e1', index: 0 }]);
      expect(session.out.early).toEqual([]);
      expect(session.out.urgent).toBe(true);
    },
  );

  it('of a read tool need not wait for the commit', () => {
    const session = calling({ effect: 'read' });
    expect(session.out.journal).toHaveLength(1);
    expect(session.out.early).toEqual([{ type: 'call', execution: 'e1', index: 0 }]);
    expect(session.out.effects).toEqual([]);
    expect(session.out.urgent).toBe(false);
  });

  it('is told as an event', () => {
    const session = calling({ json: '{"a":1}' }, { json: 'no json' });
    expect(session.out.events.map(({ payload }) => payload)).toEqual([
      { callId: 'e1/0', toolName: 'work', args: { a: 1 } },
      { callId: 'e1/1', toolName: 'work', args: undefined },
    ]);
  });

  it.each([
    ['nobody knows', 'UNKNOWN_TOOL'],
    ['the script may not call', 'TOOL_NOT_ALLOWED'],
  ] as const)('of a tool that %s is answered at once and never dispatched', (_why, refusal) => {
    const session = calling({ refusal });
    expect(session.deliveries('e1')).toEqual([[0, refusal]]);
    expect(session.effects('deliver')).toHaveLength(1);
    expect([...session.effects('call'), ...session.out.early]).toEqual([]);
    session.report('e1', { items: [applied(0)], end: returned() });
    expect(session.records('e1')).toMatchObject([{ outcome: 'failed', code: refusal }]);
  });

  it.each([
    ['TOOL_TIMEOUT', 'TOOL_TIMEOUT'],
    ['INVALID_ARGUMENT', 'INVALID_ARGUMENT'],
    ['OUTCOME_UNKNOWN', 'OUTCOME_UNKNOWN'],
    ['SOMETHING_ELSE', 'TOOL_ERROR'],
    ['EXECUTION_TIMEOUT', 'TOOL_ERROR'],
  ])('that its provider says failed as %s is a %s to the script', (code, told) => {
    const session = calling({});
    session.endCall('e1', 0, { ok: false, code, message: 'no' });
    expect(session.deliveries('e1')).toEqual([[0, told]]);
  });

  it('with arguments that are nested too deeply is refused, and its event is without them', () => {
    const deep = `${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}`;
    const session = calling({ json: deep });
    expect(session.deliveries('e1')).toEqual([[0, 'SERIALIZATION_ERROR']]);
    expect(session.events.at(-1)).toEqual({
      type: 'tool_call',
      execution: 'e1',
      payload: { callId: 'e1/0', toolName: 'work', args: undefined },
    });
    expect([...session.effects('call'), ...session.out.early]).toEqual([]);
  });

  it('whose provider does not know what became of it leaves its execution in doubt', () => {
    const session = calling({});
    session.endCall('e1', 0, { ok: false, code: 'OUTCOME_UNKNOWN', message: 'its end was acknowledged' });
    session.report('e1', { items: [applied(0)], end: failed('OUTCOME_UNKNOWN') });
    expect(session.ended('e1')?.end).toMatchObject({ code: 'OUTCOME_UNKNOWN', outcome: 'unknown' });
  });

  it('that is open when its execution ends is told to have been cancelled, started or not', () => {
    const session = callingAtMost(1, {}, {});
    session.cancel('e1');
    expect(session.records('e1')).toMatchObject([
      { outcome: 'unknown', code: 'CANCELLED' },
      { outcome: 'not_started', code: 'CANCELLED' },
    ]);
  });

  it('that succeeded has no code', () => {
    const session = calling({});
    session.endCall('e1', 0, value('1'));
    session.report('e1', { items: [applied(0)], end: returned() });
    expect(session.records('e1')[0]).not.toHaveProperty('code');
  });

  it('is handed its result after the commit, and the script is told to have it', () => {
    const session = calling({});
    session.now += 40;
    session.endCall('e1', 0, value('{"x":1}'));
    expect(session.out.journal).toEqual([{ execution: 'e1', entry: ['d', 0, '', '{"x":1}', START + 40, 5] }]);
    expect(session.out.effects).toEqual([{ type: 'deliver', execution: 'e1' }]);
    session.report('e1', { items: [applied(0)] });
    expect(session.out.events).toEqual([
      { type: 'tool_result_applied', execution: 'e1', payload: { callId: 'e1/0', ok: true } },
    ]);
  });

  it('is handed its error', () => {
    const session = calling({});
    session.endCall('e1', 0, { ok: false, code: 'TOOL_ERROR', message: 'no' });
    expect(session.entries('e1').at(-1)).toEqual(['d', 0, 'TOOL_ERROR', 'no', START, 5]);
    session.report('e1', { items: [applied(0)] });
    expect(session.out.events).toMatchObject([{ payload: { ok: false } }]);
  });

  it('has one end: what comes later is dropped', () => {
    const session = calling({});
    session.endCall('e1', 0);
    for (const again of [
      session.endCall('e1', 0, value('2')),
      session.loseCall('e1', 0),
      session.missProvider('e1', 0),
    ])
      expect(again).toMatchObject({ journal: [], effects: [] });
    expect(session.execution('e1').deliveries).toBe(1);
  });

  it('that was never made cannot end', () => {
    const session = calling({});
    expect(session.endCall('e1', 7)).toMatchObject({ journal: [], effects: [] });
    expect(session.endCall('e9', 0)).toMatchObject({ journal: [], effects: [] });
  });
});

describe('deliveries', () => {
  it('are numbered in the order in which the ends came', () => {
    const session = calling({}, {}, {});
    for (const index of [2, 0, 1]) session.endCall('e1', index);
    expect(session.deliveries('e1')).toEqual([
      [2, ''],
      [0, ''],
      [1, ''],
    ]);
    expect(session.execution('e1').deliveries).toBe(3);
  });

  it('never move the clock of the script back, whatever the wall clock does', () => {
    const session = calling({}, {}, {});
    const times: number[] = [];
    for (const [index, jump] of [100, -5_000, 20].entries()) {
      session.now += jump;
      session.endCall('e1', index);
      const last = session.entries('e1').at(-1);
      if (last?.[0] === 'd') times.push(last[4]);
    }
    expect(times).toEqual([START + 100, START + 100, START + 100]);
  });
});

describe('maxToolCalls', () => {
  it('ends the execution whose runtime tells of more calls than it may make', () => {
    const session = new SessionDriver();
    session.request('e1', { limits: { maxToolCalls: 2 } });
    session.report('e1', { items: [call(0), call(1)], waiting: true });
    session.report('e1', { items: [call(2)], waiting: true });
    expect(session.out.ended.map(({ end }) => end)).toMatchObject([{ code: 'TOOL_CALL_LIMIT_EXCEEDED' }]);
    expect(dispatched(session)).toEqual([]);
  });
});

describe('maxConcurrentToolCalls', () => {
  it('keeps the others waiting, in order', () => {
    const session = callingAtMost(2, {}, {}, {}, {});
    expect(dispatched(session)).toEqual([0, 1]);
    expect(states(session)).toEqual(['running', 'running', 'queued', 'queued']);
    session.endCall('e1', 1);
    expect(dispatched(session)).toEqual([2]);
    session.endCall('e1', 2);
    expect(dispatched(session)).toEqual([3]);
  });

  it('counts a call from when it was dispatched', () => {
    const session = callingAtMost(1, {}, {});
    session.now += 70;
    session.endCall('e1', 0);
    expect(session.open('e1', 1).since).toBe(START + 70);
  });

  it('passes over what nobody can run', () => {
    const session = callingAtMost(1, { refusal: 'UNKNOWN_TOOL' }, {});
    expect(dispatched(session)).toEqual([1]);
  });

  it('makes room by a call that ends in doubt', () => {
    const session = callingAtMost(1, {}, {});
    session.loseCall('e1', 0);
    expect(dispatched(session)).toEqual([1]);
  });
});

describe('a provider that is lost while it runs a call', () => {
  it('of a read tool: it is dispatched again', () => {
    const session = calling({ effect: 'read' });
    session.loseCall('e1', 0);
    expect(session.out.early).toEqual([{ type: 'call', execution: 'e1', index: 0 }]);
    expect(states(session)).toEqual(['running']);
  });

  it('of an idempotent tool: it is dispatched again', () => {
    const session = calling({ effect: 'idempotent' });
    session.loseCall('e1', 0);
    expect(dispatched(session)).toEqual([0]);
    expect(session.deliveries('e1')).toEqual([]);
  });

  it('of an unsafe tool: it is never dispatched again and ends as OUTCOME_UNKNOWN', () => {
    const session = calling({ effect: 'unsafe' });
    session.loseCall('e1', 0);
    expect(dispatched(session)).toEqual([]);
    expect(session.deliveries('e1')).toEqual([[0, 'OUTCOME_UNKNOWN']]);
    session.report('e1', { items: [applied(0)], end: returned() });
    expect(session.records('e1')).toMatchObject([{ outcome: 'unknown' }]);
  });

  it('does not matter to a call that was never dispatched', () => {
    const session = callingAtMost(1, {}, {});
    expect(session.loseCall('e1', 1)).toMatchObject({ journal: [], effects: [] });
    expect(states(session)).toEqual(['running', 'queued']);
  });
});

describe('a lost call of an unsafe tool that can be asked', () => {
  const lost = (): SessionDriver => {
    const session = calling({ effect: 'unsafe', reconcilable: true });
    session.loseCall('e1', 0);
    return session;
  };

  it('is asked about and not dispatched', () => {
    const session = lost();
    expect(session.out.effects).toEqual([{ type: 'reconcile', execution: 'e1', index: 0 }]);
    expect(states(session)).toEqual(['reconciling']);
    expect(session.state).toBe('waiting');
  });

  it('ends with what it did', () => {
    const session = lost();
    session.endCall('e1', 0, value('3'));
    expect(session.deliveries('e1')).toEqual([[0, '']]);
    expect(session.execution('e1').doubt).toBe(false);
  });

  it('ends with the error that it ended with', () => {
    const session = lost();
    session.endCall('e1', 0, { ok: false, code: 'TOOL_ERROR', message: 'no' });
    expect(session.deliveries('e1')).toEqual([[0, 'TOOL_ERROR']]);
  });

  it('is dispatched again if it is certain that it was not started', () => {
    const session = lost();
    session.endCall('e1', 0, NOT_STARTED);
    expect(dispatched(session)).toEqual([0]);
    expect(states(session)).toEqual(['running']);
  });

  it('ends as OUTCOME_UNKNOWN if nobody can tell', () => {
    const session = lost();
    session.endCall('e1', 0, UNKNOWN);
    expect(session.deliveries('e1')).toEqual([[0, 'OUTCOME_UNKNOWN']]);
    session.report('e1', { items: [applied(0)], end: failed() });
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'unknown' });
  });

  it('is asked about again when the one that was asked is lost too', () => {
    const session = lost();
    session.loseCall('e1', 0);
    expect(session.effects('reconcile')).toHaveLength(1);
    expect(dispatched(session)).toEqual([]);
  });

  it('is asked about for providerTimeoutMs while nobody offers the tool, then is OUTCOME_UNKNOWN', () => {
    const session = lost();
    let asked = 0;
    for (let time = 0; time < 100 && session.deliveries('e1').length === 0; time++) {
      session.missProvider('e1', 0);
      if (session.deliveries('e1').length > 0) break;
      expect(session.nextWake).toBe(session.now + 250);
      session.pass(250);
      asked += session.effects('reconcile').length;
      expect(dispatched(session)).toEqual([]);
    }
    expect(asked).toBe(40);
    expect(session.now).toBe(START + 10_000);
    expect(session.deliveries('e1')).toEqual([[0, 'OUTCOME_UNKNOWN']]);
  });

  it('is dispatched once when the answer comes between two questions', () => {
    const session = lost();
    session.missProvider('e1', 0);
    session.endCall('e1', 0, NOT_STARTED);
    expect(dispatched(session)).toEqual([0]);
    session.pass(1_000);
    expect(dispatched(session)).toEqual([]);
  });
});

describe('a call whose tool nobody offers just now', () => {
  it('is tried again, and ends as TOOL_UNAVAILABLE after providerTimeoutMs', () => {
    const session = calling({});
    let tries = 0;
    while (session.deliveries('e1').length === 0 && tries < 100) {
      session.missProvider('e1', 0);
      if (session.deliveries('e1').length > 0) break;
      expect(states(session)).toEqual(['unprovided']);
      expect(session.nextWake).toBe(session.now + 250);
      session.pass(249);
      expect(dispatched(session)).toEqual([]);
      session.pass(1);
      expect(dispatched(session)).toEqual([0]);
      tries++;
    }
    expect(tries).toBe(40);
    expect(session.deliveries('e1')).toEqual([[0, 'TOOL_UNAVAILABLE']]);
    expect(session.execution('e1').doubt).toBe(false);
  });

  it('is not in doubt when its provider is said to be lost', () => {
    const session = calling({});
    session.missProvider('e1', 0);
    expect(session.loseCall('e1', 0)).toMatchObject({ journal: [], effects: [] });
    expect(states(session)).toEqual(['unprovided']);
  });

  it('is not_started if the execution ends meanwhile', () => {
    const session = calling({});
    session.missProvider('e1', 0);
    session.cancel('e1');
    expect(session.records('e1')).toMatchObject([{ outcome: 'not_started', durationMs: 0 }]);
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'completed' });
  });

  it.each([
    ['idempotent', { effect: 'idempotent' }],
    ['read', { effect: 'read' }],
    ['reconcilable', { effect: 'unsafe', reconcilable: true }],
  ] as const)(
    'is looked for as long after its provider was lost, however long it ran before: %s',
    (_what, over) => {
      const session = calling(over);
      session.now += 60_000;
      session.loseCall('e1', 0);
      session.missProvider('e1', 0);
      expect(session.deliveries('e1')).toEqual([]);
      session.pass(250);
      expect([
        ...session.effects('call'),
        ...session.effects('reconcile'),
        ...session.out.early,
      ]).toHaveLength(1);
    },
  );
});

describe('a call that was looked for, ran, and is looked for again', () => {
  it.each([
    ['idempotent', { effect: 'idempotent' }],
    ['read', { effect: 'read' }],
    ['reconcilable', { effect: 'unsafe', reconcilable: true }],
  ] as const)('has its whole providerTimeoutMs again: %s', (_what, over) => {
    const session = calling(over);
    session.missProvider('e1', 0);
    session.pass(250);
    session.now += 60_000;
    session.loseCall('e1', 0);
    session.missProvider('e1', 0);
    expect(session.deliveries('e1')).toEqual([]);
  });
});

describe('an idempotent call whose first provider was lost', () => {
  const lost = (): SessionDriver => {
    const session = calling({ effect: 'idempotent' });
    session.loseCall('e1', 0);
    session.missProvider('e1', 0);
    return session;
  };

  it('is in doubt if the execution ends before another has taken it: the first may have done it', () => {
    const session = lost();
    session.cancel('e1');
    expect(session.records('e1')).toMatchObject([{ outcome: 'unknown' }]);
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'unknown' });
  });

  it('is in doubt if no other comes in time', () => {
    const session = lost();
    for (let time = 0; time < 100 && session.deliveries('e1').length === 0; time++) {
      session.pass(250);
      session.missProvider('e1', 0);
    }
    session.report('e1', { items: [applied(0)], end: returned() });
    expect(session.records('e1')).toMatchObject([{ outcome: 'unknown' }]);
  });

  it('is certain once another has done it', () => {
    const session = lost();
    session.pass(250);
    session.endCall('e1', 0);
    session.report('e1', { items: [applied(0)], end: returned() });
    expect(session.records('e1')).toMatchObject([{ outcome: 'completed' }]);
    expect(session.ended('e1')?.execution.doubt).toBe(false);
  });
});

describe('calls that were not awaited when the script returned', () => {
  it('are not_started if they waited for their turn, and in doubt if they ran', () => {
    const session = callingAtMost(1, {}, {});
    session.now += 30;
    session.report('e1', { end: returned() });
    expect(session.ended('e1')?.end).toEqual({ ok: true, json: '1' });
    expect(session.records('e1')).toEqual([
      { callId: 'e1/0', callIndex: 0, name: 'work', outcome: 'unknown', code: 'CANCELLED', durationMs: 30 },
      {
        callId: 'e1/1',
        callIndex: 1,
        name: 'work',
        outcome: 'not_started',
        code: 'CANCELLED',
        durationMs: 0,
      },
    ]);
    expect(session.effects('cancelCall').map(({ index }) => index)).toEqual([0]);
  });

  it.each(['unsafe', 'read'] as const)(
    'are not_started if they were made in the report that ends it: %s',
    (effect) => {
      const session = new SessionDriver();
      session.request('e1');
      session.report('e1', { items: [call(0, { effect })], end: returned() });
      expect(session.records('e1')).toMatchObject([{ outcome: 'not_started' }]);
      expect([...session.effects('call'), ...session.out.early]).toEqual([]);
      expect(session.ended('e1')?.execution.toolCalls).toBe(1);
    },
  );

  it('make a failure doubtful only if they ran', () => {
    const waited = callingAtMost(1, { effect: 'read' }, {});
    waited.endCall('e1', 0);
    waited.missProvider('e1', 1);
    waited.report('e1', { items: [applied(0)], end: failed() });
    expect(waited.ended('e1')?.end).toMatchObject({ outcome: 'completed' });
    const ran = callingAtMost(1, {});
    ran.report('e1', { end: failed() });
    expect(ran.ended('e1')?.end).toMatchObject({ outcome: 'unknown' });
  });
});

describe('what a script leaves that is nested too deeply', () => {
  const deep = `${'['.repeat(5_000)}${']'.repeat(5_000)}`;

  it.each([
    ['returned value', returned(deep)],
    ['state', returned('1', `{"a":${deep}}`)],
  ])('as its %s is a SERIALIZATION_ERROR, and the state stays as it was', (_, end) => {
    const session = calling();
    session.report('e1', { end });
    expect(session.ended('e1')?.end).toMatchObject({ code: 'SERIALIZATION_ERROR', outcome: 'completed' });
    expect(session.out.state).toBeUndefined();
  });
});
