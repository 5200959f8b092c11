/** Attempts for sessions, with a seat of ours in the place of a worker: what no worker of ours would ever say too. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AttemptEnd, Delivery, ScriptItem } from '../../actors/attempt.ts';
import { defaultLimits, resolveLimits } from '../../src/options.ts';
import { type AttemptSpec, SessionAttempt } from '../../src/sandbox/attempt.ts';
import type { Execution } from '../../src/sandbox/execution.ts';
import type { StartMessage } from '../../src/sandbox/messages.ts';

const USAGE = { cpu: 1, heap: 2 };
const SPEC = {
  id: 'a',
  source: '',
  input: '',
  state: undefined,
  maxStateBytes: 100,
  seed: [1, 2, 3, 4] as const,
  startTime: 1_000,
  tenantKey: 't',
  key: 'k',
  isolation: 'context' as const,
  limits: resolveLimits({ maxToolCalls: 1_000 }, defaultLimits(2 ** 28)),
  alone: false,
  deliveries: [],
  maxReplayBytes: 10_000,
};

/** An attempt in a seat: the last start message, and everything that was sent and told. */
function seated(options: Partial<AttemptSpec> = {}, seat = true) {
  const told: { items: readonly ScriptItem[]; waiting: boolean }[] = [];
  const ends: AttemptEnd[] = [];
  const sent: Delivery[][] = [];
  const starts: StartMessage[] = [];
  const asked: string[] = [];
  const heavy: string[] = [];
  let execution: Execution | undefined;
  const attempt = new SessionAttempt(
    {
      submit: (given) => {
        execution = given;
      },
      cancel: (given, reason) => given.stop('CANCELLED', reason),
      isHeavy: () => false,
      noteHeavy: (key) => heavy.push(key),
    },
    {
      ...SPEC,
      onReport: (items, waiting) => told.push({ items, waiting }),
      onEnd: (end) => ends.push(end),
      ...options,
    },
  );
  if (execution === undefined) throw new Error('It was not submitted');
  const run = execution;
  const start = (): void => {
    starts.push(
      run.seat(
        {
          worker: 'worker-1',
          deliver: (deliveries) => sent.push([...deliveries]),
          cancel: () => asked.push('cancel'),
          kill: () => asked.push('kill'),
          waiting: () => undefined,
          leave: (sound) => asked.push(sound ? 'leave' : 'leave unsound'),
          again: start,
        },
        starts.length + 1,
      ),
    );
  };
  if (seat) start();
  return { attempt, run, told, ends, sent, starts, asked, heavy, start };
}

const call = (index: number): ScriptItem => ({ kind: 'call', index, name: 'tool', json: '1' });
const applied = (index: number): ScriptItem => ({ kind: 'applied', index });
const output = (text: string): ScriptItem => ({ kind: 'output', level: '', text });
const result = (index: number, json = '1'): Delivery => [index, '', json, 1_000 + index];
const returned = (state?: string) => ({ ok: true as const, json: '', state });

describe('an attempt', () => {
  it('starts with everything that was delivered before it had a worker', () => {
    const { attempt, starts, start } = seated({ deliveries: [result(0)] }, false);
    attempt.deliver([result(2), result(1)]);
    start();
    expect(starts[0]).toMatchObject({ deliveries: [result(0), result(2), result(1)], threaded: false });
    expect(starts[0]?.config).toMatchObject({ time: 1_000, seed: [1, 2, 3, 4] });
    expect(starts[0]?.config).not.toHaveProperty('state');
  });

  it('gives the script the state that it was given', () => {
    expect(seated({ state: '{"a":1}' }).starts[0]?.config).toMatchObject({
      state: '{"a":1}',
      maxStateBytes: 100,
    });
  });

  it('runs on a thread if it must be alone, or has more deliveries than may be kept', () => {
    expect(seated({ alone: true }).starts[0]).toMatchObject({ threaded: true });
    const many = seated({ deliveries: [result(0)], maxReplayBytes: 10 });
    expect(many.starts[0]).toMatchObject({ threaded: true, deliveries: [result(0)] });
  });

  it('waits only when it was handed everything that was delivered', () => {
    const { attempt, run, told } = seated({ deliveries: [result(0)] });
    run.step([call(0), applied(0), call(1), call(2)], 1, undefined, USAGE);
    attempt.deliver([result(1), result(2)]);
    run.step([applied(1)], 2, undefined, USAGE);
    run.step([applied(2)], 3, undefined, USAGE);
    expect(told.map(({ waiting }) => waiting)).toEqual([true, false, true]);
  });

  it('is sent what was delivered in one turn of the event loop in one message', async () => {
    const { attempt, sent } = seated();
    attempt.deliver([result(0)]);
    attempt.deliver([result(1), result(2)]);
    await new Promise((resolve) => setImmediate(resolve));
    expect(sent).toEqual([[result(0), result(1), result(2)]]);
  });

  it('tells what its script wrote much of while it runs', () => {
    const { run, told } = seated();
    run.items([output('a')]);
    run.step([output('b')], 0, returned(), USAGE);
    expect(told).toEqual([
      { items: [output('a')], waiting: false },
      { items: [output('b')], waiting: false },
    ]);
  });

  it('tells everything once and in order, wherever it is started again', () => {
    const anyScript = fc.array(fc.constantFrom('output', 'call'), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(anyScript, fc.array(fc.nat(3)), (script, cuts) => {
        const { attempt, run, told, ends, starts } = seated({ maxReplayBytes: 1e6 });
        // Every call is awaited. What the script does up to the end of its `handed` deliveries, then its end:
        const does = (handed: number): { items: readonly ScriptItem[]; over: boolean } => {
          const items: ScriptItem[] = [];
          let calls = 0;
          for (const [at, act] of script.entries()) {
            if (act === 'output') items.push(output(`${at}`));
            else {
              items.push(call(calls));
              if (calls === handed) return { items, over: false };
              items.push(applied(calls++));
            }
          }
          return { items, over: true };
        };
        let seen = 0;
        let next = 0;
        for (let handed = 0; ; ) {
          const { items, over } = does(handed);
          const cut = cuts[next++] ?? 0;
          if (cut > 0) {
            // Some of it is told, then the worker gives up and it begins anew.
            run.items(items.slice(seen, seen + cut));
            run.preempted(cut > 1);
            seen = 0;
            expect(starts.at(-1)?.deliveries.length).toBe(handed);
            continue;
          }
          run.step(items.slice(seen), handed, over ? returned() : undefined, USAGE);
          seen = items.length;
          if (over) break;
          attempt.deliver([result(handed++)]);
        }
        const calls = script.filter((act) => act === 'call').length;
        expect(told.flatMap(({ items }) => items)).toEqual(does(calls).items);
        expect(ends.map(({ kind }) => kind)).toEqual(['returned']);
      }),
    );
  });

  it('that does something else when it is started again is nondeterministic', () => {
    const { run, told, ends, asked } = seated();
    run.step([call(0)], 0, undefined, USAGE);
    run.preempted(true);
    run.step([output('new'), { kind: 'sleep', index: 0, ms: 1 }], 0, undefined, USAGE);
    expect(asked).toEqual(['cancel']);
    run.stopped('CANCELLED', '', '', USAGE);
    expect(ends).toMatchObject([{ kind: 'failed', code: 'NONDETERMINISTIC_REPLAY', usage: USAGE }]);
    expect(told.flatMap(({ items }) => items)).toEqual([call(0), output('new')]);
  });

  it('moves to a thread before more is delivered than may be kept, and is lost if it must move again', () => {
    const { attempt, run, starts, ends, asked } = seated({ maxReplayBytes: 300 });
    run.step([call(0), call(1)], 0, undefined, USAGE);
    attempt.deliver([result(0, '1'), result(1, '"a long one"')]);
    expect(starts.map(({ threaded }) => threaded)).toEqual([false, true]);
    expect(starts[1]?.deliveries.map(([index]) => index)).toEqual([0, 1]);
    run.preempted(false);
    expect(ends).toEqual([{ kind: 'lost', alone: false }]);
    expect(asked).toEqual(['leave unsound']);
  });

  it.each([true, false])('whose worker is lost is not tried again: the crash counts: %s', (counted) => {
    const { run, ends } = seated();
    expect(run.lost(counted)).toBe(false);
    expect(ends).toEqual([{ kind: 'lost', alone: counted }]);
    run.step([output('late')], 0, returned(), USAGE);
    expect(ends.length).toBe(1);
  });

  it('that starts more sleeps than any guest allows fails', () => {
    const { run, ends, told } = seated();
    const sleeps = Array.from({ length: 1_001 }, (_, index): ScriptItem => ({ kind: 'sleep', index, ms: 1 }));
    run.step(sleeps, 0, undefined, USAGE);
    run.stopped('CANCELLED', '', '', USAGE);
    expect(told.flatMap(({ items }) => items)).toHaveLength(1_000);
    expect(ends).toMatchObject([{ kind: 'failed', code: 'INVALID_ARGUMENT' }]);
  });

  it('may sleep as often as it likes, one after the other', () => {
    const { attempt, run, ends } = seated({ maxReplayBytes: 1e9 });
    for (let index = 0; index < 1_500; index++) {
      const before = index === 0 ? [] : [applied(index - 1)];
      run.step([...before, { kind: 'sleep', index, ms: 1 }], index, undefined, USAGE);
      attempt.deliver([[index, '', '', 1_000]]);
    }
    run.step([], 1_500, returned(), USAGE);
    expect(ends).toMatchObject([{ kind: 'returned' }]);
  });
});

describe('the state that a worker tells', () => {
  const end = (state: string | undefined): AttemptEnd | undefined => {
    const { run, ends } = seated({ state: '{}' });
    run.step([], 0, returned(state), USAGE);
    return ends[0];
  };

  it('is passed on if it is another than it was given', () => {
    expect(end('{"a":1}')).toEqual({ kind: 'returned', json: '', state: '{"a":1}', usage: USAGE });
    expect(end('{}')).toMatchObject({ kind: 'returned', state: undefined });
    expect(end(undefined)).toMatchObject({ kind: 'returned', state: undefined });
  });

  it('is ignored if the script has none', () => {
    const { run, ends } = seated();
    run.step([], 0, returned('{"a":1}'), USAGE);
    expect(ends).toMatchObject([{ kind: 'returned', state: undefined }]);
  });

  it.each(['', 'x', '[]', '1', 'null', '"a"', '{', '{}}'])('fails the script if it is %j', (state) => {
    expect(end(state)).toMatchObject({ kind: 'failed', code: 'SERIALIZATION_ERROR' });
  });

  it('fails the script if it is larger than it may be, in bytes', () => {
    expect(end(`{"a":"${'x'.repeat(92)}"}`)).toMatchObject({ kind: 'returned' });
    expect(end(`{"a":"${'x'.repeat(93)}"}`)).toMatchObject({ code: 'STATE_LIMIT_EXCEEDED' });
    expect(end(`{"a":"${'\u20ac'.repeat(31)}"}`)).toMatchObject({ code: 'STATE_LIMIT_EXCEEDED' });
  });
});
