/** Time in a session: sleeps, parking, deadlines, the time to live. It is told the time; it has no clock. */
import { describe, expect, it } from 'vitest';
import { hasWork } from '../../actors/session.ts';
import { applied, call, returned, runtime, SessionDriver, START, sleep } from '../support/session.ts';

function sleeping(...lengths: readonly number[]): SessionDriver {
  const session = new SessionDriver();
  session.request('e1');
  session.report('e1', { items: lengths.map((ms, index) => sleep(index, ms)), waiting: true });
  return session;
}

describe('a sleep', () => {
  it('is written down with the time of its end', () => {
    expect(sleeping(500).out.journal).toEqual([{ execution: 'e1', entry: ['s', 0, 500, START + 500] }]);
  });

  it('that is short keeps its runtime', () => {
    const session = sleeping(10_000);
    expect(session.execution('e1').phase).toBe('running');
    expect(session.effects('stop')).toEqual([]);
    expect(session.nextWake).toBe(START + 10_000);
  });

  it('ends at its time and not before', () => {
    const session = sleeping(500);
    expect(session.pass(499)).toMatchObject({ journal: [], effects: [] });
    session.pass(1);
    expect(session.out.effects).toEqual([{ type: 'deliver', execution: 'e1' }]);
    expect(session.entries('e1').at(-1)).toEqual(['d', 0, '', '', START + 500, 0]);
  });

  it('is handed over in the order of the ends, and of the making where those are equal', () => {
    const session = sleeping(300, 100, 200, 100);
    session.pass(1_000);
    expect(session.deliveries('e1').map(([index]) => index)).toEqual([1, 3, 2, 0]);
  });

  it('is not begun anew by a replay', () => {
    const session = sleeping(500);
    session.now += 400;
    session.lose('e1');
    session.report('e1', { items: [sleep(0, 500)], waiting: true });
    expect(session.out.journal).toEqual([]);
    session.pass(100);
    expect(session.effects('deliver')).toHaveLength(1);
  });

  it('that is over is not told as the result of a tool', () => {
    const session = sleeping(500);
    session.pass(500);
    expect(session.report('e1', { items: [applied(0)] }).events).toEqual([]);
  });
});

describe('parking', () => {
  it('lets the isolate go during a sleep over parkAfterMs', () => {
    const session = new SessionDriver();
    session.request('e1');
    const { id, runtime: on } = session.attempt('e1');
    session.report('e1', { items: [sleep(0, 10_001)], waiting: true });
    expect(session.out.effects).toEqual([{ type: 'stop', execution: 'e1', attempt: id, runtime: on }]);
    expect(session.execution('e1')).toMatchObject({ phase: 'parked', attempt: undefined });
    expect(session.context.pending).toEqual([]);
    expect(hasWork(session.context)).toBe(false);
    expect(session.nextWake).toBe(START + 10_001);
    expect(session.state).toBe('waiting');
  });

  it('is decided by the sleep that ends first', () => {
    expect(sleeping(60_000, 5_000).execution('e1').phase).toBe('running');
    expect(sleeping(60_000, 30_000).execution('e1').phase).toBe('parked');
  });

  it.each(['running', 'unprovided', 'reconciling'])('waits for the end of a call that is %s', (state) => {
    const session = new SessionDriver();
    session.request('e1');
    const items = [sleep(0, 60_000), call(1, { reconcilable: true })];
    session.report('e1', { items, waiting: true });
    if (state === 'unprovided') session.missProvider('e1', 1);
    if (state === 'reconciling') session.loseCall('e1', 1);
    session.report('e1', { waiting: true });
    expect(session.execution('e1')).toMatchObject({ phase: 'running', calls: [{ state }] });
    session.endCall('e1', 1);
    session.report('e1', { items: [applied(1)], waiting: true });
    expect(session.execution('e1').phase).toBe('parked');
  });

  it('waits until the script has been handed everything', () => {
    const session = sleeping(500, 60_000);
    session.pass(500);
    session.report('e1', { waiting: true, received: 0 });
    expect(session.execution('e1').phase).toBe('running');
    expect(session.attempt('e1').waiting).toBe(false);
    session.report('e1', { items: [applied(0)], waiting: true });
    expect(session.execution('e1').phase).toBe('parked');
  });

  it('does not happen while the script still does something', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [sleep(0, 60_000)], waiting: false });
    expect(session.execution('e1').phase).toBe('running');
    expect(session.state).toBe('executing');
  });

  it('ends with a replay, which goes on', () => {
    const session = sleeping(60_000);
    session.pass(59_999);
    expect(session.execution('e1').phase).toBe('parked');
    session.pass(1);
    expect(session.effects('offer')).toHaveLength(1);
    expect(session.attempt('e1')).toMatchObject({ replay: true });
    session.report('e1', { items: [sleep(0, 60_000), applied(0)], end: returned('2') });
    expect(session.ended('e1')).toMatchObject({ end: { ok: true, json: '2' }, execution: { attempts: 2 } });
  });

  it('may follow parking', () => {
    const session = sleeping(20_000, 60_000);
    session.pass(20_000);
    session.report('e1', { items: [sleep(0, 20_000), sleep(1, 60_000), applied(0)], waiting: true });
    expect(session.execution('e1').phase).toBe('parked');
    expect(session.nextWake).toBe(START + 60_000);
  });

  it('waits for a runtime when it wakes and there is none', () => {
    const session = sleeping(60_000);
    session.runtimes = [];
    session.pass(60_000);
    expect(session.execution('e1').phase).toBe('placing');
    session.runtimes = [runtime('r9')];
    session.pass(20);
    expect(session.attempt('e1')).toMatchObject({ runtime: 'r9', replay: true });
  });

  it('ignores what the attempt that was let go still reports', () => {
    const session = new SessionDriver();
    session.request('e1');
    const { id } = session.attempt('e1');
    session.report('e1', { items: [sleep(0, 60_000)], waiting: true });
    session.report('e1', { attempt: id, n: 2, end: { kind: 'stopped' } });
    expect(session.execution('e1').phase).toBe('parked');
  });
});

describe('deadlineMs', () => {
  const limits = { deadlineMs: 50_000 };

  it('ends an execution at its time, with the event that says so', () => {
    const session = new SessionDriver();
    session.request('e1', { limits });
    expect(session.nextWake).toBe(START + 50_000);
    session.pass(49_999);
    expect(session.live).toEqual(['e1']);
    session.pass(1);
    expect(session.code('e1')).toBe('DEADLINE_EXCEEDED');
    expect(session.out.events).toMatchObject([
      { type: 'deadline_exceeded', payload: { elapsedMs: 50_000, budgetMs: 50_000 } },
      { type: 'final', payload: { ok: false } },
    ]);
    expect(session.effects('stop')).toHaveLength(1);
  });

  it('ends one that is parked', () => {
    const session = new SessionDriver();
    session.request('e1', { limits });
    session.report('e1', { items: [sleep(0, 90_000)], waiting: true });
    expect(session.nextWake).toBe(START + 50_000);
    session.pass(50_000);
    expect(session.ended('e1')?.end).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcome: 'completed' });
  });

  it('ends one that waits for its turn, or for a runtime, as not started', () => {
    const session = new SessionDriver({ settings: { placementTimeoutMs: 90_000 }, runtimes: [] });
    session.request('e1', { limits });
    session.request('e2', { limits });
    session.pass(50_000);
    for (const id of ['e1', 'e2'])
      expect(session.ended(id)?.end).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcome: 'not_started' });
  });

  it('counts from the time it was accepted, replays included', () => {
    const session = new SessionDriver();
    session.request('e1', { limits });
    session.now += 40_000;
    session.lose('e1');
    session.pass(10_000);
    expect(session.code('e1')).toBe('DEADLINE_EXCEEDED');
  });

  it('cancels the calls that run', () => {
    const session = new SessionDriver();
    session.request('e1', { limits });
    session.report('e1', { items: [call(0)], waiting: true });
    session.pass(50_000);
    expect(session.effects('cancelCall')).toHaveLength(1);
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'unknown' });
  });
});

describe('ttlMs', () => {
  it('ends a session without activity, at its time', () => {
    const session = new SessionDriver();
    expect(session.nextWake).toBe(START + 300_000);
    session.pass(299_999);
    expect(session.state).toBe('idle');
    session.pass(1);
    expect(session.state).toBe('expired');
    expect(session.out.urgent).toBe(true);
    expect(session.request('e1')).toMatchObject({ ok: false, code: 'EXPIRED', outcome: 'not_started' });
  });

  it('counts from the last end', () => {
    const session = new SessionDriver();
    session.now += 200_000;
    session.request('e1');
    session.now += 90_000;
    session.report('e1', { end: returned() });
    expect(session.nextWake).toBe(START + 290_000 + 300_000);
    session.pass(299_999);
    expect(session.state).toBe('idle');
    session.pass(1);
    expect(session.state).toBe('expired');
  });

  it.each(['running', 'parked', 'placing'])('never ends a session with an execution that is %s', (phase) => {
    const session = new SessionDriver({
      settings: { placementTimeoutMs: 10_000_000 },
      runtimes: phase === 'placing' ? [] : undefined,
    });
    session.request('e1');
    if (phase === 'parked') session.report('e1', { items: [sleep(0, 3_000_000)], waiting: true });
    session.pass(2_000_000);
    expect(session.execution('e1').phase).toBe(phase);
    expect(session.context.ended).toBe('');
  });

  it('gives way to a command that comes first', () => {
    const session = new SessionDriver();
    session.now += 400_000;
    expect(session.request('e1')).toEqual({ ok: true, kind: 'accepted' });
    session.pass(0);
    expect(session.context.ended).toBe('');
  });

  it('of 0 lets it live for ever', () => {
    const session = new SessionDriver({ settings: { ttlMs: 0 } });
    expect(session.nextWake).toBeUndefined();
    session.pass(10 ** 12);
    expect(session.state).toBe('idle');
  });

  it('ends one that is hibernated', () => {
    const session = new SessionDriver();
    session.hibernate();
    session.pass(300_000);
    expect(session.state).toBe('expired');
  });
});

describe('a tombstone', () => {
  it.each(['closed', 'expired'])('of a session that was %s answers for what it did', (ended) => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { end: returned() });
    if (ended === 'closed') session.close();
    else session.pass(300_000);
    expect(session.state).toBe(ended);
    session.pass(59_999);
    expect(session.out.purge).toBe(false);
    expect(session.request('e1')).toEqual({ ok: true, kind: 'ended', execution: 'e1' });
    expect(session.request('e2')).toMatchObject({ ok: false, code: ended.toUpperCase() });
    expect(hasWork(session.context)).toBe(false);
  });

  it('is purged at its time, by a step that is committed', () => {
    const session = new SessionDriver();
    session.close();
    expect(session.nextWake).toBe(START + 60_000);
    session.pass(60_000);
    expect(session.out).toMatchObject({ purge: true, urgent: true });
  });
});

describe('the next wake', () => {
  it('of one that waits for a runtime is its next look', () => {
    const session = new SessionDriver({ runtimes: [] });
    session.request('e1');
    expect(session.nextWake).toBe(START + 20);
  });

  it('is the earliest of all', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    session.request('e1', { limits: { deadlineMs: 70_000 } });
    session.request('e2', { limits: { deadlineMs: 80_000 } });
    session.report('e1', { items: [sleep(0, 9_000)], waiting: true });
    expect(session.nextWake).toBe(START + 9_000);
    session.report('e2', { items: [call(0)], waiting: true });
    session.missProvider('e2', 0);
    expect(session.nextWake).toBe(START + 250);
    session.endCall('e2', 0);
    session.pass(9_000);
    expect(session.nextWake).toBe(START + 70_000);
  });

  it('of one that waits for its turn is its deadline, not now', () => {
    const session = new SessionDriver();
    session.request('e1', { limits: { deadlineMs: 90_000 } });
    session.request('e2', { limits: { deadlineMs: 50_000 } });
    expect(session.nextWake).toBe(START + 50_000);
  });
});
