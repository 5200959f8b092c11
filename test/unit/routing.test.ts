/** Rules that turn a session's labels into labels of a runtime; and what a session says when none fits. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RuntimeView } from '../../actors/placement.ts';
import { waitingFor } from '../../actors/placing.ts';
import {
  bestThere,
  LEAST_LOADED,
  type Routing,
  type RoutingRule,
  unplaced,
  wantedLabels,
  whyUnplaced,
} from '../../actors/routing.ts';
import type { EnclaveError } from '../../src/errors.ts';
import { resolveRuntimePool } from '../../src/options.ts';
import { type RoutingOptions, resolveRouting } from '../../src/routing.ts';
import { SessionJournal } from '../../src/session/journal.ts';
import { resultJson } from '../../src/session/results.ts';
import { runtime, SessionDriver, VERSIONS } from '../support/session.ts';

/** The guide's own. */
const GUIDE: readonly RoutingRule[] = [
  { match: { priority: 'high' }, target: { tier: 'premium' } },
  { match: { region: 'us-east' }, target: { region: 'us-east' } },
];
const byRules = (...rules: readonly RoutingRule[]): Routing => ({ strategy: 'label-match', rules });
const wanted = (session: Record<string, string>, ...rules: readonly RoutingRule[]) =>
  wantedLabels(byRules(...rules), session);

describe('the labels that a runtime must have', () => {
  it('are the targets of every rule that matches', () => {
    expect(wanted({ priority: 'high' }, ...GUIDE)).toEqual([{ tier: 'premium' }]);
    expect(wanted({ region: 'us-east', user: 'u' }, ...GUIDE)).toEqual([{ region: 'us-east' }]);
    expect(wanted({ priority: 'high', region: 'us-east' }, ...GUIDE)).toEqual([
      { tier: 'premium', region: 'us-east' },
    ]);
  });

  it('are none when no rule matches', () => {
    expect(wanted({ priority: 'low', region: 'eu' }, ...GUIDE)).toEqual([{}]);
    expect(wanted({}, ...GUIDE)).toEqual([{}]);
  });

  it('are those of the earlier rule where two disagree (W1)', () => {
    const rules = [...GUIDE, { match: {}, target: { tier: 'standard', disk: 'ssd' } }];
    expect(wanted({ priority: 'high' }, ...rules)).toEqual([{ tier: 'premium', disk: 'ssd' }]);
    expect(wanted({}, ...rules)).toEqual([{ tier: 'standard', disk: 'ssd' }]);
  });

  it('need all labels of a match', () => {
    const rule = { match: { a: '1', b: '2' }, target: { c: '3' } };
    expect(wanted({ a: '1' }, rule)).toEqual([{}]);
    expect(wanted({ a: '1', b: '2' }, rule)).toEqual([{ c: '3' }]);
  });

  it('give way to fallbacks, those of later rules first (W2)', () => {
    const rules = [
      { match: {}, target: { tier: 'premium' }, fallback: { tier: 'standard' } },
      { match: {}, target: { region: 'eu' } },
      { match: {}, target: { disk: 'ssd' }, fallback: {} },
    ];
    expect(wanted({}, ...rules)).toEqual([
      { tier: 'premium', region: 'eu', disk: 'ssd' },
      { tier: 'premium', region: 'eu' },
      { tier: 'standard', region: 'eu' },
    ]);
  });

  it('are all labels of the session where there are no rules', () => {
    const routing: Routing = { strategy: 'label-match', rules: undefined };
    expect(wantedLabels(routing, { region: 'eu', tier: 'a' })).toEqual([{ region: 'eu', tier: 'a' }]);
  });

  it.each(['least-loaded', 'round-robin'] as const)('are none under %s', (strategy) => {
    expect(wantedLabels({ strategy, rules: undefined }, { region: 'eu' })).toEqual([{}]);
  });

  it('are not fooled by labels that every object has, and may be called __proto__', () => {
    const odd = JSON.parse('{"__proto__":"x"}') as Record<string, string>;
    expect(wanted({}, { match: { constructor: 'x' }, target: { a: '1' } })).toEqual([{}]);
    expect(wanted({}, { match: odd, target: { a: '1' } })).toEqual([{}]);
    const [labels = {}] = wanted(odd, { match: odd, target: odd });
    expect(Object.entries(labels)).toEqual([['__proto__', 'x']]);
    expect(bestThere([labels], [runtime('r1')], undefined)).toBeUndefined();
    expect(bestThere([labels], [runtime('r1', { labels: odd })], undefined)).toBe(labels);
  });
});

describe('a fallback', () => {
  const [premium, standard] = [{ tier: 'premium' }, { tier: 'standard' }];
  const best = (...runtimes: readonly RuntimeView[]) => bestThere([premium, standard], runtimes, VERSIONS);

  it('is not taken while one that is wanted is there, with room or without', () => {
    expect(best(runtime('r1', { labels: premium, free: 0 }), runtime('r2', { labels: standard }))).toBe(
      premium,
    );
  });

  it.each([
    ['there is none', []],
    ['the only one drains', [runtime('r1', { labels: premium, draining: true })]],
    [
      'the only one has other versions',
      [runtime('r1', { labels: premium, versions: { ...VERSIONS, engine: 'x' } })],
    ],
  ])('is taken when %s', (_what, runtimes) => {
    expect(best(...runtimes, runtime('r2', { labels: standard }))).toBe(standard);
    expect(best(...runtimes)).toBeUndefined();
  });
});

describe('among any rules and runtimes', () => {
  const labels = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.constantFrom('1', '2'), {
    maxKeys: 2,
    noNullPrototype: true,
  });
  const rule = fc.record({ match: labels, target: labels, fallback: fc.option(labels, { nil: undefined }) });
  const rules = fc.array(rule, { maxLength: 4 });
  const has = (thing: Record<string, string>, needed: Record<string, string>): boolean =>
    Object.entries(needed).every(([key, value]) => thing[key] === value);

  it('each matching target holds unless an earlier one disagrees, and what no matching rule says is not wanted', () => {
    fc.assert(
      fc.property(rules, labels, (given, session) => {
        const all = wanted(session, ...given);
        const matching = given.filter(({ match }) => has(session, match));
        expect(all).toHaveLength(1 + matching.filter(({ fallback }) => fallback !== undefined).length);
        const first = all[0] ?? {};
        for (const key of ['a', 'b', 'c']) {
          const decides = matching.find(({ target }) => target[key] !== undefined);
          expect(first[key]).toBe(decides?.target[key]);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('an execution runs where the first of the wanted labels is that anyone has, and nowhere else', () => {
    const someRuntimes = fc.array(
      fc.record({ labels, free: fc.integer({ min: 0, max: 2 }), draining: fc.boolean() }),
      { maxLength: 5 },
    );
    fc.assert(
      fc.property(rules, labels, someRuntimes, (given, session, parts) => {
        const runtimes = parts.map((part, index) => runtime(`r${index}`, part));
        const driver = new SessionDriver({
          settings: { labels: session },
          runtimes,
          routing: byRules(...given),
        });
        driver.request('e1');
        const there = wanted(session, ...given).find((each) =>
          runtimes.some((one) => !one.draining && has(one.labels, each)),
        );
        const fitting = runtimes.filter(
          (one) => there !== undefined && !one.draining && one.free > 0 && has(one.labels, there),
        );
        const { phase, attempt } = driver.execution('e1');
        expect(phase).toBe(fitting.length > 0 ? 'running' : 'placing');
        if (attempt === undefined) return;
        const taken = fitting.find(({ id }) => id === attempt.runtime);
        expect(taken?.free).toBe(Math.max(...fitting.map(({ free }) => free)));
      }),
      { numRuns: 500 },
    );
  });
});

describe('a session', () => {
  const premium = { labels: { tier: 'premium' } };
  const driven = (options: ConstructorParameters<typeof SessionDriver>[0] = {}): SessionDriver =>
    new SessionDriver({ settings: { labels: { priority: 'high' } }, routing: byRules(...GUIDE), ...options });
  /** Until it is given up. */
  function wait(session: SessionDriver): void {
    for (let wake = session.nextWake; session.live.length > 0 && wake !== undefined; wake = session.nextWake)
      session.pass(Math.max(0, wake - session.now));
  }

  it('runs on a runtime with the labels, though another has more room', () => {
    const session = driven({
      runtimes: [runtime('r1', { free: 9 }), runtime('r2', { ...premium, free: 1 })],
    });
    session.request('e1');
    expect(session.attempt('e1').runtime).toBe('r2');
  });

  it('waits for one with the labels, and says after placementTimeoutMs that nobody has them', () => {
    const session = driven({ runtimes: [runtime('r1', { labels: { tier: 'standard' } }), runtime('r2')] });
    session.request('e1');
    expect(session.execution('e1').phase).toBe('placing');
    wait(session);
    expect(session.ended('e1')?.end).toMatchObject({
      code: 'NO_RUNTIME',
      message: 'No runtime took the execution within 30000 ms: no runtime has the label tier=premium',
      outcome: 'not_started',
      retryAfterMs: 1_000,
      details: {
        wanted: { tier: 'premium' },
        runtimes: [
          { id: 'r1', labels: { tier: 'standard' }, free: 4, draining: false },
          { id: 'r2', labels: {}, free: 4, draining: false },
        ],
        known: 2,
      },
    });
  });

  it('tells it in the result, where the client reads it', () => {
    const session = driven({ runtimes: [] });
    session.request('e1');
    wait(session);
    const ended = session.ended('e1');
    if (ended === undefined) expect.fail('it did not end');
    const { error } = JSON.parse(resultJson(ended, new SessionJournal())) as { readonly error: unknown };
    expect(error).toMatchObject({
      code: 'NO_RUNTIME',
      retryable: true,
      details: { wanted: { tier: 'premium' }, runtimes: [], known: 0 },
    });
  });

  it('runs as soon as a runtime with the labels comes', () => {
    const session = driven({ runtimes: [runtime('r1')] });
    session.request('e1');
    session.runtimes = [...session.runtimes, runtime('r2', premium)];
    session.tell({ type: 'runtimes.changed' });
    expect(session.attempt('e1').runtime).toBe('r2');
  });

  it('is placed by the rules of whoever owns it now, not by those that it was made under', () => {
    const before = driven({ runtimes: [runtime('r1'), runtime('r2', premium)] });
    before.request('e1');
    expect(before.attempt('e1').runtime).toBe('r2');
    const after = new SessionDriver({
      snapshot: before.encoded,
      runtimes: [runtime('r1', { labels: { tier: 'gold' } }), runtime('r3', premium)],
      routing: byRules({ match: { priority: 'high' }, target: { tier: 'gold' } }),
    });
    after.activate();
    after.lose('e1');
    expect(after.attempt('e1')).toMatchObject({ runtime: 'r1', replay: true });
  });

  it('of a replay waits for the labels, and ends as ENGINE_MISMATCH if those that have them cannot replay it', () => {
    const session = driven({ runtimes: [runtime('r2', premium)] });
    session.request('e1');
    session.report('e1');
    session.runtimes = [runtime('r1')];
    session.lose('e1');
    session.pass(60_000);
    expect(session.live).toEqual(['e1']);
    session.runtimes = [runtime('r1'), runtime('r2', { ...premium, versions: { ...VERSIONS, engine: 'x' } })];
    wait(session);
    expect(session.code('e1')).toBe('ENGINE_MISMATCH');
  });

  it('of a replay falls back where those that are wanted cannot replay it', () => {
    const standard = { labels: { tier: 'standard' } };
    const rule = { match: {}, target: { tier: 'premium' }, fallback: { tier: 'standard' } };
    const session = driven({ routing: byRules(rule), runtimes: [runtime('r1', premium)] });
    session.request('e1');
    session.report('e1');
    session.runtimes = [
      runtime('r2', { ...premium, versions: { ...VERSIONS, engine: 'x' } }),
      runtime('r3', standard),
    ];
    session.lose('e1');
    expect(session.attempt('e1')).toMatchObject({ runtime: 'r3', replay: true });
  });

  it('counts as waiting for a pool of runtimes whose labels would do', () => {
    const session = driven({
      runtimes: [],
      settings: { labels: { priority: 'high' }, maxConcurrentExecutions: 3 },
    });
    for (const id of ['e1', 'e2', 'e3', 'e4']) session.request(id);
    session.tell({ type: 'runtimes.changed' });
    session.tell({ type: 'runtimes.changed' });
    const waits = (labels: Record<string, string>) => waitingFor(session.context, labels, session.routing);
    expect([waits({ tier: 'premium', region: 'eu' }), waits({}), waits({ tier: 'standard' })]).toEqual([
      3, 0, 0,
    ]);
    expect(waitingFor(session.context, {})).toBe(3);
    session.runtimes = [runtime('r1', premium)];
    session.tell({ type: 'runtimes.changed' });
    expect(waits({ tier: 'premium' })).toBe(2);
  });

  it('by turns is offered to one runtime after the other', () => {
    const routing: Routing = { strategy: 'round-robin', rules: undefined };
    const session = driven({ runtimes: [runtime('r1'), runtime('r2'), runtime('r3')], routing });
    const got: string[] = [];
    for (let turn = 1; turn <= 6; turn++) {
      session.request(`e${turn}`);
      const { runtime: id } = session.attempt(`e${turn}`);
      got.push(id);
      session.runtimes = session.runtimes.map((one) => (one.id === id ? { ...one, turn } : one));
      session.cancel(`e${turn}`);
    }
    expect(got).toEqual(['r1', 'r2', 'r3', 'r1', 'r2', 'r3']);
  });
});

describe('why no runtime took it', () => {
  const eu = { region: 'eu', tier: 'a' };
  it.each([
    ['nobody is there', {}, [], 'no runtime was there'],
    [
      'nobody has a label',
      eu,
      [runtime('r1', { labels: { region: 'eu' } })],
      'no runtime has the label tier=a',
    ],
    [
      'nobody has both',
      eu,
      [runtime('r1', { labels: { region: 'eu' } }), runtime('r2', { labels: { tier: 'a' } })],
      'no runtime has all of the labels region=eu, tier=a',
    ],
    [
      'those that have them drain',
      eu,
      [runtime('r1', { labels: eu, draining: true }), runtime('r2')],
      'every runtime with region=eu, tier=a was draining',
    ],
    [
      'those that have them are full',
      eu,
      [runtime('r1', { labels: eu, free: 0 })],
      'no runtime with region=eu, tier=a had room for it',
    ],
    ['all are full', {}, [runtime('r1', { free: 0 })], 'no runtime had room for it'],
  ])('is told when %s', (_what, labels, runtimes, why) => {
    expect(whyUnplaced(labels as Record<string, string>, runtimes)).toBe(why);
  });

  it('names eight labels at most', () => {
    const labels = Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`l${index}`, 'x']));
    expect(whyUnplaced(labels, [runtime('r1')])).toBe(
      'no runtime has the label l0=x, l1=x, l2=x, l3=x, l4=x, l5=x, l6=x, l7=x and 12 more',
    );
  });

  it('shows ten runtimes at most, the same ones in whatever order they came, and says how many there were', () => {
    const runtimes = Array.from({ length: 30 }, (_, index) => runtime(`r${index}`));
    const shown = unplaced({}, runtimes);
    expect([shown.runtimes.length, shown.known]).toEqual([10, 30]);
    expect(unplaced({}, runtimes.toReversed())).toEqual(shown);
  });
});

// ---- options ---------------------------------------------------------------------------------------------

function refusalOf(act: () => unknown): Partial<EnclaveError> {
  try {
    act();
  } catch (error) {
    const { code, key, message } = error as EnclaveError;
    return { code, key: key ?? '', message };
  }
  return expect.fail('it was not refused');
}

describe('the options of routing', () => {
  const given = (options: unknown) => () => resolveRouting(options as RoutingOptions);
  const rules = (...list: readonly unknown[]) =>
    given({ routingStrategy: 'label-match', routingRules: list });
  const fine = { match: {}, target: {} };

  it('are least-loaded when nothing is said, or undefined', () => {
    expect(resolveRouting({})).toEqual(LEAST_LOADED);
    expect(resolveRouting({ routingStrategy: undefined, routingRules: undefined })).toEqual(LEAST_LOADED);
  });

  it("take the guide's own snippet", () => {
    expect(resolveRouting({ routingStrategy: 'label-match', routingRules: GUIDE })).toEqual(
      byRules(...GUIDE),
    );
  });

  it('do not follow later changes of what was given', () => {
    const target = { tier: 'a' };
    const { rules: resolved } = resolveRouting({
      routingStrategy: 'label-match',
      routingRules: [{ match: {}, target }],
    });
    target.tier = 'b';
    expect(resolved).toEqual([{ match: {}, target: { tier: 'a' } }]);
  });

  it.each([
    ['another strategy', 'routingStrategy', given({ routingStrategy: 'random' })],
    ['no strategy', 'routingStrategy', given({ routingStrategy: null })],
    ['rules without label-match', 'routingRules', given({ routingRules: [fine] })],
    [
      'rules with round-robin',
      'routingRules',
      given({ routingStrategy: 'round-robin', routingRules: [fine] }),
    ],
    [
      'rules that are no array',
      'routingRules',
      given({ routingStrategy: 'label-match', routingRules: fine }),
    ],
    ['no rules in an array', 'routingRules', rules()],
    ['too many rules', 'routingRules', rules(...Array.from({ length: 101 }, () => fine))],
    ['a rule that is none', 'routingRules[1]', rules(fine, 'high')],
    ['a rule without a match', 'routingRules[0].match', rules({ target: {} })],
    ['a rule without a target', 'routingRules[1].target', rules(fine, { match: {} })],
    [
      'a label that is no text',
      'routingRules[1].target.tier',
      rules(fine, { match: {}, target: { tier: 1 } }),
    ],
    ['a match that is no text', 'routingRules[0].match.a', rules({ match: { a: ['b'] }, target: {} })],
    ['a fallback that is no text', 'routingRules[0].fallback.a', rules({ ...fine, fallback: { a: null } })],
    ['a fallback that is true', 'routingRules[0].fallback', rules({ ...fine, fallback: true })],
    ['an unknown key', 'routingRules[0].targets', rules({ ...fine, targets: {} })],
    ['a label without a name', 'routingRules[0].match', rules({ match: { '': 'a' }, target: {} })],
    [
      'a label that is too long',
      'routingRules[0].match.a',
      rules({ match: { a: 'x'.repeat(257) }, target: {} }),
    ],
  ])('refuse %s, naming it', (_what, key, act) => {
    const refusal = refusalOf(act);
    expect(refusal).toMatchObject({ code: 'INVALID_ARGUMENT', key });
    expect(refusal.message).toMatch(new RegExp(`^${key.replace(/[[\].]/g, '\\$&')}: `));
  });
});

describe('the options of the pool of runtimes', () => {
  it("take the guide's own", () => {
    const guide = {
      minSize: 2,
      maxSize: 10,
      scaleUpThreshold: 0.8,
      scaleDownThreshold: 0.3,
      scaleInterval: 30_000,
    };
    expect(resolveRuntimePool(guide)).toEqual(guide);
    expect(resolveRuntimePool()).toEqual({ ...guide, minSize: 1 });
    expect(resolveRuntimePool({ minSize: undefined, maxSize: undefined })).toEqual(resolveRuntimePool());
  });

  it('fit what is said when one of a pair is', () => {
    expect(resolveRuntimePool({ minSize: 20 })).toMatchObject({ minSize: 20, maxSize: 20 });
    expect(resolveRuntimePool({ scaleUpThreshold: 0.2 })).toMatchObject({ scaleDownThreshold: 0.1 });
  });

  it.each([
    ['more at least than at most', 'runtimePool.minSize', { minSize: 3, maxSize: 2 }],
    [
      'equal thresholds',
      'runtimePool.scaleDownThreshold',
      { scaleUpThreshold: 0.5, scaleDownThreshold: 0.5 },
    ],
    ['a share over 1', 'runtimePool.scaleUpThreshold', { scaleUpThreshold: 80 }],
    ['a share that is no number', 'runtimePool.scaleUpThreshold', { scaleUpThreshold: Number.NaN }],
    ['half a runtime', 'runtimePool.minSize', { minSize: 1.5 }],
    ['no place for any', 'runtimePool.maxSize', { maxSize: 0 }],
    ['an interval of nothing', 'runtimePool.scaleInterval', { scaleInterval: 0 }],
    ['an unknown option', 'runtimePool.size', { size: 3 }],
  ])('refuse %s, naming it', (_what, key, given) => {
    expect(refusalOf(() => resolveRuntimePool(given as object))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      key,
    });
  });
});
