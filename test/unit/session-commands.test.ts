/** Commands of a session: accepted once, answered for ever; cancel, close and what is remembered. */
import { describe, expect, it } from 'vitest';
import { call, returned, SessionDriver, START, sleep } from '../support/session.ts';

const ACCEPTED = { ok: true, kind: 'accepted' };
const refused = (code: string, outcome = 'not_started') =>
  expect.objectContaining({ ok: false, code, outcome });

/** Accept one and let it return. */
function run(session: SessionDriver, id: string, state?: string): void {
  session.request(id);
  session.report(id, { end: returned('1', state) });
}

describe('a command', () => {
  it('is accepted, begins its events, and is offered to a runtime', () => {
    const session = new SessionDriver();
    expect(session.request('e1')).toEqual(ACCEPTED);
    expect(session.out.accepted).toEqual(['e1']);
    expect(session.eventsOf('e1')).toEqual([
      { type: 'session_init', execution: 'e1', payload: { executionId: 'e1' } },
    ]);
    expect(session.effects('offer')).toEqual([
      { type: 'offer', execution: 'e1', attempt: session.attempt('e1').id, runtime: 'r1' },
    ]);
    expect(session.state).toBe('executing');
  });

  it('that is sent again while it runs is accepted as before and not run twice', () => {
    const session = new SessionDriver();
    session.request('e1');
    expect(session.request('e1')).toEqual(ACCEPTED);
    expect(session.out.accepted).toEqual([]);
    expect(session.live).toEqual(['e1']);
  });

  it('that is sent again after its end is answered with that end', () => {
    const session = new SessionDriver();
    run(session, 'e1');
    expect(session.request('e1')).toEqual({ ok: true, kind: 'ended', execution: 'e1' });
    expect(session.live).toEqual([]);
  });

  it('with the id of a running one and other content is refused', () => {
    const session = new SessionDriver();
    session.request('e1');
    expect(session.request('e1', { fingerprint: 'other' })).toEqual(refused('COMMAND_CONFLICT'));
    expect(session.execution('e1').fingerprint).toBe('f');
  });

  it('with the id of an ended one and other content is refused', () => {
    const session = new SessionDriver();
    run(session, 'e1');
    expect(session.request('e1', { fingerprint: 'other' })).toEqual(refused('COMMAND_CONFLICT'));
  });

  it('over maxExecutions is refused as OVERLOADED, with a time to come back', () => {
    const session = new SessionDriver({ settings: { maxExecutions: 2 } });
    session.request('e1');
    session.request('e2');
    expect(session.request('e3')).toEqual({
      ...({ ok: false, code: 'OVERLOADED', outcome: 'not_started', retryAfterMs: 1_000 } as const),
      message: expect.any(String),
    });
    expect(session.request('e2')).toEqual(ACCEPTED);
    session.report('e1', { end: returned() });
    expect(session.request('e3')).toEqual(ACCEPTED);
  });
});

describe('what is remembered', () => {
  it('is the last keepExecutions: the oldest to end is forgotten first', () => {
    const session = new SessionDriver({ settings: { keepExecutions: 2 } });
    run(session, 'e1');
    run(session, 'e2');
    expect(session.out.forget).toEqual([]);
    run(session, 'e3');
    expect(session.out.forget).toEqual(['e1']);
    expect(session.context.finished.map(({ id }) => id)).toEqual(['e2', 'e3']);
  });

  it('moves the horizon when it forgets: the same command again is expired, in doubt, and never runs', () => {
    const session = new SessionDriver({ settings: { keepExecutions: 1 } });
    run(session, 'e1');
    session.now += 10;
    run(session, 'e2');
    expect(session.context.horizon).toBe(START);
    expect(session.request('e1', { issuedAt: START })).toEqual(refused('COMMAND_EXPIRED', 'unknown'));
    expect(session.live).toEqual([]);
    expect(session.request('e3', { issuedAt: START + 1 })).toEqual(ACCEPTED);
  });

  it('refuses any command that was issued at the horizon or before, even one that is new', () => {
    const session = new SessionDriver({ settings: { keepExecutions: 0 } });
    run(session, 'e1');
    expect(session.request('e2', { issuedAt: START })).toEqual(refused('COMMAND_EXPIRED', 'unknown'));
    expect(session.request('e2', { issuedAt: START - 1 })).toEqual(refused('COMMAND_EXPIRED', 'unknown'));
    expect(session.request('e2', { issuedAt: START + 1 })).toEqual(ACCEPTED);
  });

  it('never moves the horizon back when an older command ends last', () => {
    const session = new SessionDriver({ settings: { keepExecutions: 0, maxConcurrentExecutions: 2 } });
    session.request('old', { issuedAt: START });
    session.request('new', { issuedAt: START + 50 });
    session.report('new', { end: returned() });
    session.report('old', { end: returned() });
    expect(session.context.horizon).toBe(START + 50);
  });

  it('answers for a running command from before the horizon', () => {
    const session = new SessionDriver({ settings: { keepExecutions: 0, maxConcurrentExecutions: 2 } });
    session.request('old', { issuedAt: START });
    session.request('new', { issuedAt: START + 50 });
    session.report('new', { end: returned() });
    expect(session.request('old', { issuedAt: START })).toEqual(ACCEPTED);
  });
});

describe('cancel against completion', () => {
  it('cancels what runs, and says so', () => {
    const session = new SessionDriver();
    session.request('e1');
    const { id, runtime } = session.attempt('e1');
    expect(session.cancel('e1')).toEqual({ ok: true, kind: 'cancelled', cancelled: true });
    expect(session.code('e1')).toBe('CANCELLED');
    expect(session.effects('stop')).toEqual([{ type: 'stop', execution: 'e1', attempt: id, runtime }]);
    expect(session.effects('tell')).toEqual([{ type: 'tell', execution: 'e1', subject: 'tell.e1' }]);
  });

  it('loses against an end that came first, and says so', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { end: returned('7', '{"n":1}') });
    expect(session.cancel('e1')).toEqual({ ok: true, kind: 'cancelled', cancelled: false });
    expect(session.ended('e1')?.end).toEqual({ ok: true, json: '7' });
  });

  it('wins against an end that comes later: that one changes nothing, and no state', () => {
    const session = new SessionDriver();
    session.request('e1');
    const attempt = session.attempt('e1').id;
    session.cancel('e1');
    const out = session.report('e1', { attempt, n: 1, end: returned('7', '{"n":1}') });
    expect(out).toMatchObject({ state: undefined, ended: [], events: [], effects: [] });
    expect(session.context.stateVersion).toBe(0);
    expect(session.code('e1')).toBe('CANCELLED');
  });

  it('answers the same again', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.cancel('e1');
    expect(session.cancel('e1')).toEqual({ ok: true, kind: 'cancelled', cancelled: false });
    expect(session.request('e1')).toEqual({ ok: true, kind: 'ended', execution: 'e1' });
  });

  it('of an execution that nobody knows is refused', () => {
    expect(new SessionDriver().cancel('e1')).toEqual(refused('NOT_FOUND'));
  });

  it('of one that waits in the queue ends it as not started', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.request('e2');
    session.cancel('e2');
    expect(session.ended('e2')?.end).toMatchObject({ code: 'CANCELLED', outcome: 'not_started' });
    expect(session.effects('stop')).toEqual([]);
  });

  it('of one that was offered and has not reported is in doubt', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.cancel('e1');
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'unknown' });
  });

  it('of one that runs and has no call under way is certain', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1');
    session.cancel('e1');
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'completed' });
  });

  it('of one with a call under way is in doubt, and the call is cancelled', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [call(0)], waiting: true });
    session.cancel('e1');
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'unknown' });
    expect(session.effects('cancelCall')).toEqual([{ type: 'cancelCall', execution: 'e1', index: 0 }]);
    expect(session.endCall('e1', 0)).toMatchObject({ journal: [], effects: [] });
  });

  it('of one that is parked needs no runtime', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.report('e1', { items: [sleep(0, 60_000)], waiting: true });
    expect(session.cancel('e1')).toEqual({ ok: true, kind: 'cancelled', cancelled: true });
    expect(session.effects('stop')).toEqual([]);
  });

  it('makes room for the next in the same step', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.request('e2');
    session.cancel('e1');
    expect(session.effects('offer')).toMatchObject([{ execution: 'e2' }]);
  });
});

describe('close', () => {
  it('ends everything as CLOSED, and stops and cancels what runs', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    for (const id of ['e1', 'e2', 'e3']) session.request(id);
    session.report('e1', { items: [call(0)], waiting: true });
    expect(session.close()).toEqual({ ok: true, kind: 'done' });
    expect(['e1', 'e2', 'e3'].map((id) => session.code(id))).toEqual(['CLOSED', 'CLOSED', 'CLOSED']);
    expect(session.effects('stop').map(({ execution }) => execution)).toEqual(['e1', 'e2']);
    expect(session.effects('cancelCall')).toHaveLength(1);
    expect(session.effects('offer')).toEqual([]);
    expect(session.state).toBe('closed');
  });

  it('may be said twice', () => {
    const session = new SessionDriver();
    session.close();
    const { endedAt } = session.context;
    session.now += 5;
    expect(session.close()).toEqual({ ok: true, kind: 'done' });
    expect(session.context.endedAt).toBe(endedAt);
  });

  it('refuses new commands as CLOSED and answers for old ones', () => {
    const session = new SessionDriver();
    run(session, 'e1');
    session.request('e2');
    session.close();
    expect(session.request('e3')).toEqual(refused('CLOSED'));
    expect(session.request('e1')).toEqual({ ok: true, kind: 'ended', execution: 'e1' });
    expect(session.request('e2')).toEqual({ ok: true, kind: 'ended', execution: 'e2' });
    expect(session.request('e1', { fingerprint: 'other' })).toEqual(refused('COMMAND_CONFLICT'));
    expect(session.cancel('e2')).toEqual({ ok: true, kind: 'cancelled', cancelled: false });
  });
});

describe('state', () => {
  it('is committed with the end of the execution that returned it', () => {
    const session = new SessionDriver();
    run(session, 'e1', '{"n":1}');
    expect(session.out).toMatchObject({ state: '{"n":1}', ended: [{ end: { ok: true, json: '1' } }] });
  });

  it('stays as it is when the script did not change it', () => {
    const session = new SessionDriver();
    run(session, 'e1');
    expect(session.out.state).toBeUndefined();
  });

  it('is changed by the first of two that ran side by side; the second ends as a conflict', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    session.request('e1');
    session.request('e2');
    session.report('e2', { end: returned('1', '{"by":2}') });
    expect(session.out.state).toBe('{"by":2}');
    session.report('e1', { end: returned('1', '{"by":1}') });
    expect(session.out.state).toBeUndefined();
    expect(session.code('e1')).toBe('STATE_CONFLICT');
  });

  it('does not conflict for one that only read it, or that began after the change', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    session.request('e1');
    session.request('e2');
    session.report('e2', { end: returned('1', '{"by":2}') });
    session.request('e3');
    session.report('e1', { end: returned('1') });
    session.report('e3', { end: returned('1', '{"by":3}') });
    expect(session.ended('e1')?.end.ok).toBe(true);
    expect(session.out.state).toBe('{"by":3}');
  });

  it('conflicts too for one whose first attempt began before the change and whose replay ends after it', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    session.request('e1');
    session.request('e2');
    session.report('e2', { end: returned('1', '{"by":2}') });
    session.lose('e1');
    session.report('e1', { end: returned('1', '{"by":1}') });
    expect(session.code('e1')).toBe('STATE_CONFLICT');
  });
});

describe('maxConcurrentExecutions', () => {
  it('lets that many run, and the next in order when one ends', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 2 } });
    for (const id of ['e1', 'e2', 'e3', 'e4']) session.request(id);
    const phases = (): readonly string[] => session.context.executions.map(({ phase }) => phase);
    expect(phases()).toEqual(['running', 'running', 'queued', 'queued']);
    session.report('e2', { end: returned() });
    expect(session.effects('offer')).toMatchObject([{ execution: 'e3' }]);
    expect(phases()).toEqual(['running', 'running', 'queued']);
  });

  it('is filled one step after the other when several places are free: the next is due at once', () => {
    const session = new SessionDriver({ settings: { maxConcurrentExecutions: 3 } });
    session.migrate();
    for (const id of ['e1', 'e2', 'e3']) session.request(id);
    session.activate();
    const offers = [session.effects('offer').length];
    while ((session.nextWake ?? Infinity) <= session.now) offers.push(session.pass(0).effects.length);
    expect(offers).toEqual([1, 1, 1]);
  });
});
