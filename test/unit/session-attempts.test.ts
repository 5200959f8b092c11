/** An execution's attempts: placed, reported, lost, replayed. */
import { describe, expect, it } from 'vitest';
import {
  applied,
  call,
  crashed,
  failed,
  output,
  returned,
  runtime,
  SessionDriver,
  START,
  sleep,
  VERSIONS,
} from '../support/session.ts';

function started(options: ConstructorParameters<typeof SessionDriver>[0] = {}): SessionDriver {
  const session = new SessionDriver(options);
  session.request('e1');
  session.report('e1');
  return session;
}

/** Let time pass as the session asks for, until nothing is due before `until`. */
function elapse(session: SessionDriver, until: number, each: () => void = () => undefined): number {
  let steps = 0;
  for (let wake = session.nextWake; wake !== undefined && wake <= until; wake = session.nextWake) {
    if (++steps > 10_000) expect.fail('the session wakes itself without end');
    session.now = Math.max(session.now, wake);
    session.tell({ type: 'time.passed' });
    each();
    if (session.live.length === 0) return steps;
  }
  return steps;
}

describe('placing', () => {
  it('takes the runtime used last, while it has room', () => {
    const session = started();
    session.report('e1', { end: returned() });
    session.runtimes = [runtime('r2', { free: 9 }), runtime('r1', { free: 1 })];
    session.request('e2');
    expect(session.attempt('e2').runtime).toBe('r1');
  });

  it('is tried again after waits that double up to a second', () => {
    const session = new SessionDriver({ runtimes: [] });
    session.request('e1');
    const waits: number[] = [];
    for (let look = 0; look < 9; look++) {
      const wake = session.nextWake ?? 0;
      waits.push(wake - session.now);
      session.pass(wake - session.now);
    }
    expect(waits).toEqual([20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000]);
  });

  it('of one that began on versions that are gone ends as ENGINE_MISMATCH after placementTimeoutMs', () => {
    const session = started();
    const { placementTimeoutMs } = session.context.settings;
    session.runtimes = [runtime('r2', { versions: { ...VERSIONS, engine: 'newer' } })];
    session.lose('e1');
    elapse(session, session.now + placementTimeoutMs - 1);
    expect(session.live).toHaveLength(1);
    elapse(session, session.now + 2_000);
    expect(session.ended('e1')?.end).toMatchObject({ code: 'ENGINE_MISMATCH', outcome: 'completed' });
  });

  it('of one that began waits for its versions while no runtime is there at all', () => {
    const session = started();
    session.runtimes = [];
    session.lose('e1');
    elapse(session, session.now + 3 * session.context.settings.placementTimeoutMs);
    expect(session.live).toHaveLength(1);
    session.runtimes = [runtime('r2')];
    session.pass(1_000);
    expect(session.attempt('e1').runtime).toBe('r2');
  });

  it('does not look again before its time', () => {
    const session = new SessionDriver({ runtimes: [] });
    session.request('e1');
    session.runtimes = [runtime('r1')];
    session.pass(19);
    expect(session.execution('e1').phase).toBe('placing');
    session.pass(1);
    expect(session.execution('e1').phase).toBe('running');
  });

  it('ends as NO_RUNTIME after placementTimeoutMs if none was there', () => {
    const session = new SessionDriver({ runtimes: [] });
    session.request('e1');
    elapse(session, START + 29_999);
    expect(session.live).toEqual(['e1']);
    elapse(session, START + 31_000);
    expect(session.ended('e1')?.end).toMatchObject({
      code: 'NO_RUNTIME',
      outcome: 'not_started',
      retryAfterMs: 1_000,
    });
  });

  it('does not end an execution that ran before: it waits for its deadline', () => {
    const session = started();
    session.runtimes = [];
    session.lose('e1');
    elapse(session, START + 60_000);
    expect(session.execution('e1').phase).toBe('placing');
    session.runtimes = [runtime('r3')];
    elapse(session, session.now + 1_000);
    expect(session.attempt('e1')).toMatchObject({ runtime: 'r3', replay: true });
  });

  it('of a replay takes only a runtime of the versions that it began on', () => {
    const session = started();
    session.runtimes = [runtime('r3', { versions: { ...VERSIONS, engine: 'v8-2' } })];
    session.lose('e1');
    expect(session.execution('e1').phase).toBe('placing');
    session.runtimes = [...session.runtimes, runtime('r4')];
    session.pass(20);
    expect(session.attempt('e1').runtime).toBe('r4');
  });
});

describe('an offer that is refused', () => {
  it('goes to another runtime at once, and counts as no attempt', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.refuse('e1');
    expect(session.effects('offer')).toMatchObject([{ runtime: 'r2' }]);
    expect(session.execution('e1')).toMatchObject({ attempts: 1, started: false });
    expect(session.attempt('e1').replay).toBe(false);
  });

  it('may be refused by a report', () => {
    const session = new SessionDriver();
    session.request('e1');
    const end = { kind: 'refused', code: 'OVERLOADED', message: 'full', retryAfterMs: 10 } as const;
    session.report('e1', { end });
    expect(session.attempt('e1').runtime).toBe('r2');
    expect(session.execution('e1').started).toBe(false);
  });

  it('waits when there is no other', () => {
    const session = new SessionDriver({ runtimes: [runtime('r1')] });
    session.request('e1');
    session.refuse('e1');
    expect(session.effects('offer')).toEqual([]);
    expect(session.execution('e1')).toMatchObject({
      phase: 'placing',
      placeAt: START + 20,
      attempt: undefined,
    });
    expect(session.out.urgent).toBe(true);
  });

  it('of an earlier attempt changes nothing', () => {
    const session = new SessionDriver();
    session.request('e1');
    const first = session.attempt('e1').id;
    session.refuse('e1');
    const before = session.attempt('e1');
    session.refuse('e1', 'OVERLOADED', first);
    expect(session.attempt('e1')).toEqual(before);
  });

  it.each([1, 2, 3])(
    'by all of %d for placementTimeoutMs ends it as OVERLOADED, with waits in between',
    (count) => {
      const runtimes = Array.from({ length: count }, (_, index) => runtime(`r${index}`));
      const session = new SessionDriver({ runtimes });
      session.request('e1');
      let offers = 0;
      const refuseAll = (): void => {
        while (session.live.length > 0 && session.execution('e1').attempt !== undefined) {
          if (++offers > 500) expect.fail('it is offered without end and without a wait');
          session.refuse('e1');
        }
      };
      refuseAll();
      elapse(session, START + 32_000, refuseAll);
      expect(session.ended('e1')?.end).toMatchObject({ code: 'OVERLOADED', outcome: 'not_started' });
      expect(offers).toBeLessThan(60 * count);
    },
  );

  it('of a replay never ends it', () => {
    const session = started({ runtimes: [runtime('r1')] });
    session.lose('e1');
    const refuse = (): void => {
      if (session.execution('e1').attempt !== undefined) session.refuse('e1');
    };
    refuse();
    elapse(session, START + 90_000, refuse);
    expect(session.live).toEqual(['e1']);
  });
});

describe('reports', () => {
  it('of an earlier attempt change nothing', () => {
    const session = started();
    const first = session.attempt('e1').id;
    session.lose('e1');
    const out = session.report('e1', { attempt: first, n: 2, items: [call(0)], end: returned() });
    expect(out).toMatchObject({ events: [], journal: [], effects: [], ended: [] });
    expect(session.live).toEqual(['e1']);
  });

  it('that come twice count once', () => {
    const session = started();
    session.report('e1', { n: 2, items: [output('a')] });
    expect(session.report('e1', { n: 2, items: [output('a')] }).events).toEqual([]);
    expect(session.attempt('e1').reports).toBe(2);
  });

  it('that follow a gap are left for later', () => {
    const session = started();
    expect(session.report('e1', { n: 3, end: returned() }).ended).toEqual([]);
    session.report('e1', { n: 2, items: [output('a')] });
    session.report('e1', { n: 3, end: returned() });
    expect(session.eventsOf('e1').map(({ type }) => type)).toEqual(['session_init', 'stdout', 'final']);
  });

  it('that tell of more deliveries than there are do not keep a sleeper asleep', () => {
    const session = started();
    const items = [applied(0), applied(0), sleep(0, 60_000)];
    session.report('e1', { items, waiting: true });
    session.pass(60_000);
    expect(session.live.map((id) => session.execution(id).phase)).not.toContain('parked');
  });

  it('of output become events in order', () => {
    const session = started();
    session.report('e1', { items: [output('a'), { kind: 'output', level: 'warn', text: 'b' }] });
    expect(session.out.events).toEqual([
      { type: 'stdout', execution: 'e1', payload: { chunk: 'a' } },
      { type: 'log', execution: 'e1', payload: { level: 'warn', message: 'b' } },
    ]);
    expect(session.out.urgent).toBe(false);
  });

  it.each([
    ['a', 1],
    ['é', 2],
    ['€', 3],
    ['😀', 4],
    ['a€😀é', 10],
  ])('count the bytes of %j', (text, bytes) => {
    const session = started();
    session.report('e1', { items: [output(text)], end: returned() });
    expect(session.eventsOf('e1').at(-1)?.payload).toMatchObject({ stats: { stdoutBytes: bytes } });
  });
});

describe('an attempt that is lost', () => {
  it('is followed by another elsewhere, which replays', () => {
    const session = started();
    const first = session.attempt('e1');
    session.lose('e1');
    expect(session.effects('offer')).toHaveLength(1);
    expect(session.attempt('e1')).toMatchObject({ runtime: 'r2', replay: true, reports: 0, entries: 0 });
    expect(session.attempt('e1').id).not.toBe(first.id);
    expect(session.execution('e1')).toMatchObject({ attempts: 2, crashes: 0, alone: false });
  });

  it('before it reported anything is replayed too: it may have begun', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.lose('e1');
    expect(session.attempt('e1').replay).toBe(true);
  });

  it('may be followed by one on the same runtime if there is no other', () => {
    const session = started({ runtimes: [runtime('r1')] });
    session.lose('e1');
    expect(session.attempt('e1').runtime).toBe('r1');
  });

  it('is followed by one that does not tell again what is known', () => {
    const session = started();
    const items = [output('a'), call(0), output('b'), call(1)];
    session.report('e1', { items, waiting: true });
    session.endCall('e1', 0);
    session.report('e1', { items: [applied(0), output('c')], waiting: true });
    const told = session.eventsOf('e1').length;
    session.lose('e1');
    session.report('e1', { items: [...items, applied(0), output('c')], waiting: true });
    expect(session.out).toMatchObject({ events: [], journal: [], effects: [], early: [] });
    expect(session.eventsOf('e1')).toHaveLength(told);
    session.report('e1', { items: [output('d'), call(2)], waiting: true });
    expect(session.out.events.map(({ type }) => type)).toEqual(['stdout', 'tool_call']);
    expect(session.out.journal).toHaveLength(1);
  });

  it('leaves its calls running: their ends feed the next attempt', () => {
    const session = started();
    session.report('e1', { items: [call(0)], waiting: true });
    session.lose('e1');
    expect([...session.effects('call'), ...session.effects('cancelCall')]).toEqual([]);
    session.endCall('e1', 0, { ok: true, json: '5' });
    expect(session.effects('deliver')).toHaveLength(1);
    session.report('e1', { items: [call(0), applied(0)], end: returned('5') });
    expect(session.records('e1')).toMatchObject([{ outcome: 'completed' }]);
  });

  it('keeps the time that the script began at', () => {
    const session = started();
    session.now += 5_000;
    session.lose('e1');
    expect(session.execution('e1').startTime).toBe(START);
  });
});

describe('crashes', () => {
  it('in company make the next attempt run alone, and do not count', () => {
    const session = started({ settings: { quarantineAfter: 1 } });
    session.report('e1', { end: crashed(false) });
    expect(session.execution('e1')).toMatchObject({ alone: true, crashes: 0, phase: 'running' });
  });

  it('alone count: quarantineAfter of them end it', () => {
    const session = started({ settings: { quarantineAfter: 2 } });
    session.report('e1', { end: crashed(true) });
    expect(session.execution('e1')).toMatchObject({ crashes: 1, phase: 'running' });
    session.report('e1', { end: crashed(true) });
    expect(session.code('e1')).toBe('QUARANTINED');
    expect(session.effects('offer')).toEqual([]);
  });

  it('of the runtime do not count', () => {
    const session = started({ settings: { quarantineAfter: 1 } });
    for (let time = 0; time < 5; time++) session.lose('e1');
    expect(session.execution('e1')).toMatchObject({ crashes: 0, alone: false });
  });

  it('of an attempt that somebody else had stopped do not count', () => {
    const session = started({ settings: { quarantineAfter: 1 } });
    session.report('e1', { end: { kind: 'stopped' } });
    expect(session.execution('e1')).toMatchObject({ crashes: 0, phase: 'running', attempts: 2 });
  });
});

describe('a limit of time', () => {
  it.each(['EXECUTION_TIMEOUT', 'CPU_LIMIT_EXCEEDED'])('%s in a first attempt is believed', (code) => {
    const session = started();
    session.report('e1', { end: failed(code) });
    expect(session.code('e1')).toBe(code);
  });

  it.each(['EXECUTION_TIMEOUT', 'CPU_LIMIT_EXCEEDED'])(
    '%s in a replay is tried once more elsewhere',
    (code) => {
      const session = started();
      session.lose('e1');
      expect(session.attempt('e1').runtime).toBe('r2');
      session.report('e1', { end: failed(code) });
      expect(session.attempt('e1').runtime).toBe('r1');
      expect(session.eventsOf('e1').map(({ type }) => type)).toEqual(['session_init']);
      session.report('e1', { end: failed(code) });
      expect(session.code('e1')).toBe(code);
    },
  );

  it('of wall time is told as deadline_exceeded before the end', () => {
    const session = started();
    session.report('e1', { end: failed('EXECUTION_TIMEOUT') });
    expect(session.out.events.map(({ type }) => type)).toEqual(['deadline_exceeded', 'final']);
  });

  it('is not what another failure in a replay is: that is believed', () => {
    const session = started();
    session.lose('e1');
    session.report('e1', { end: failed('MEMORY_LIMIT_EXCEEDED') });
    expect(session.code('e1')).toBe('MEMORY_LIMIT_EXCEEDED');
  });
});

describe('a failure', () => {
  it('tells what the script threw, and that nothing is in doubt', () => {
    const session = started();
    session.report('e1', { end: failed() });
    expect(session.ended('e1')).toMatchObject({
      end: { ok: false, code: 'SCRIPT_ERROR', name: 'Error', message: 'it failed', outcome: 'completed' },
      usage: { cpu: 1, heap: 1_000 },
    });
  });

  it('to compile is not_started', () => {
    const session = started();
    session.report('e1', { end: failed('SYNTAX_ERROR') });
    expect(session.ended('e1')?.end).toMatchObject({ outcome: 'not_started' });
  });

  it('after a call in doubt is in doubt', () => {
    const session = started();
    session.report('e1', { items: [call(0)], waiting: true });
    session.loseCall('e1', 0);
    session.report('e1', { items: [applied(0)], end: failed() });
    expect(session.ended('e1')?.end).toMatchObject({ code: 'SCRIPT_ERROR', outcome: 'unknown' });
  });
});

describe('a replay that goes another way is NONDETERMINISTIC_REPLAY', () => {
  const NONDETERMINISTIC = 'NONDETERMINISTIC_REPLAY';

  function replayed(): SessionDriver {
    const session = started();
    session.report('e1', { items: [call(0, { json: '{"a":1}' }), sleep(1, 50)], waiting: true });
    session.lose('e1');
    return session;
  }

  it.each([
    ['other arguments', call(0, { json: '{"a":2}' })],
    ['another tool', call(0, { name: 'play', json: '{"a":1}' })],
    ['a sleep in place of a call', sleep(0, 50)],
    ['a wrong index', call(1, { json: '{"a":1}' })],
  ])('with %s', (_what, item) => {
    const session = replayed();
    session.report('e1', { items: [item] });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
    expect(session.effects('stop')).toHaveLength(1);
  });

  it('with another sleep', () => {
    const session = replayed();
    session.report('e1', { items: [call(0, { json: '{"a":1}' }), sleep(1, 51)] });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
  });

  it('when it waits after fewer calls', () => {
    const session = replayed();
    session.report('e1', { items: [call(0, { json: '{"a":1}' })], waiting: true });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
  });

  it('when it returns after fewer calls', () => {
    const session = replayed();
    session.report('e1', { end: returned('1', '{"n":1}') });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
    expect(session.out.state).toBeUndefined();
  });

  it('but not while it waits for deliveries that it has not yet got', () => {
    const session = started();
    session.report('e1', { items: [call(0)], waiting: true });
    session.endCall('e1', 0);
    session.report('e1', { items: [applied(0), call(1)], waiting: true });
    session.lose('e1');
    session.report('e1', { items: [call(0)], waiting: true, received: 0 });
    expect(session.live).toEqual(['e1']);
    session.report('e1', { items: [applied(0)], waiting: true });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
  });

  it('in a first attempt too, with indexes that are not contiguous', () => {
    const session = started();
    session.report('e1', { items: [call(1)] });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
    expect(session.effects('call')).toEqual([]);
  });

  it('and nothing behind the difference is taken in', () => {
    const session = replayed();
    session.report('e1', { items: [call(0, { json: '{"a":2}' }), sleep(1, 50), call(2), output('x')] });
    expect(session.code('e1')).toBe(NONDETERMINISTIC);
    expect(session.out.journal).toEqual([]);
    expect(session.effects('call')).toEqual([]);
    expect(session.out.events.map(({ type }) => type)).toEqual(['final']);
  });
});
