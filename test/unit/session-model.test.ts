/**
 * The session machine under any facts in any order: scripts that run, replay, go astray; runtimes and providers that
 * take, refuse, die and repeat themselves; owners that come and go; a wall clock that jumps. What must hold after
 * each step is checked by the driver (test/support/session.ts); here are the facts, what is answered, and the end.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AttemptEnd } from '../../actors/attempt.ts';
import type { Answer, Execution, ReportedItem, SessionSettings, ToolEnd } from '../../actors/sessiondata.ts';
import {
  applied,
  call,
  crashed,
  failed,
  output,
  returned,
  runtime,
  SessionDriver,
  sleep,
  VERSIONS,
} from '../support/session.ts';

const WEIGHTS = {
  request: 10,
  requestAgain: 4,
  cancel: 3,
  run: 30,
  wait: 10,
  end: 12,
  crash: 3,
  stray: 2,
  repeat: 4,
  refuse: 4,
  lose: 4,
  loseStale: 2,
  endCall: 14,
  loseCall: 5,
  missProvider: 5,
  wake: 12,
  pass: 4,
  jump: 1,
  runtimes: 4,
  migrate: 2,
  hibernate: 2,
  activate: 4,
  close: 0.2,
} as const;
type Act = keyof typeof WEIGHTS;

/** One step; `pick` and `other` choose among whatever there is at that moment. */
interface Step {
  readonly act: Act;
  readonly pick: number;
  readonly other: number;
}

const anyStep: fc.Arbitrary<Step> = fc.record({
  act: fc.oneof(
    ...Object.entries(WEIGHTS).map(([act, weight]) => ({
      weight: Math.ceil(weight * 5),
      arbitrary: fc.constant(act as Act),
    })),
  ),
  pick: fc.nat(1_000),
  other: fc.nat(1_000),
});
const anySettings: fc.Arbitrary<Partial<SessionSettings>> = fc.record({
  ttlMs: fc.constantFrom(0, 3_000, 60_000),
  maxConcurrentExecutions: fc.integer({ min: 1, max: 3 }),
  maxExecutions: fc.integer({ min: 1, max: 6 }),
  keepExecutions: fc.integer({ min: 0, max: 4 }),
  placementTimeoutMs: fc.constantFrom(0, 100, 5_000),
  providerTimeoutMs: fc.constantFrom(0, 600),
  parkAfterMs: fc.constantFrom(0, 1_000),
  quarantineAfter: fc.integer({ min: 1, max: 3 }),
});

const DEADLINE_MS = 15_000;
const EFFECTS = ['read', 'idempotent', 'unsafe'] as const;
const ENDS: readonly ToolEnd[] = [
  { ok: true, json: '1' },
  { ok: false, code: 'TOOL_ERROR', message: 'no' },
  { ok: 'not_started' },
  { ok: 'unknown' },
];
const RUNTIMES = [
  runtime('r1'),
  runtime('r2', { free: 1 }),
  runtime('r3', { draining: true }),
  runtime('r4', { free: 0 }),
  runtime('r5', { versions: { ...VERSIONS, engine: 'other' } }),
];

const NOTHING = { ended: [], events: [], journal: [], state: undefined };

class World {
  readonly session: SessionDriver;
  /** What became of them, to see that the run was worth something. */
  readonly seen = new Set<string>();
  #ids = 0;
  readonly #asked: { readonly id: string; readonly issuedAt: number }[] = [];
  /** Of what was accepted. */
  readonly #fingerprints = new Map<string, string>();
  /** Of every execution, also of those that ended. */
  readonly #attempts: { readonly execution: string; readonly attempt: string }[] = [];
  readonly #reports: { readonly execution: string; readonly attempt: string; readonly n: number }[] = [];

  constructor(settings: Partial<SessionSettings>) {
    this.session = new SessionDriver({ settings });
  }

  take({ act, pick, other }: Step): void {
    const { session } = this;
    const live = choice(session.context.executions, pick);
    const running = choice(
      session.context.executions.filter(({ attempt }) => attempt !== undefined),
      pick,
    );
    const stale = choice(this.#attempts, other);
    switch (act) {
      case 'request':
        return this.#request(`e${++this.#ids}`, session.now - (pick % 3), 'f', 1 + (other % 3));
      case 'requestAgain': {
        const asked = choice(this.#asked, pick);
        if (asked !== undefined) this.#request(asked.id, asked.issuedAt, other % 4 === 0 ? 'g' : 'f', 1);
        return;
      }
      case 'cancel':
        return this.#cancel(
          pick % 3 === 0 ? (choice(this.#asked, other)?.id ?? 'nobody') : (live?.id ?? 'e1'),
        );
      case 'run':
      case 'wait':
        if (running !== undefined) this.#report(running, act === 'wait', other);
        return;
      case 'end':
        if (running !== undefined) this.#report(running, false, other, endOf(running, pick + other));
        return;
      case 'crash':
        if (running !== undefined) session.report(running.id, { end: crashed(other % 2 === 0) });
        return;
      case 'stray': // A script that is not deterministic.
        if (running !== undefined)
          session.report(running.id, {
            items: [call((other % 3) + (pick % 2), { name: 'stray' })],
            waiting: true,
          });
        return;
      case 'repeat': {
        const ignored = (): void => expect(session.out, 'it is not taken in').toMatchObject(NOTHING);
        const report = choice(this.#reports, other);
        if (report !== undefined) {
          session.report(report.execution, { ...report, items: [output('x')], end: returned('0', '"old"') });
          ignored();
        }
        if (running?.attempt !== undefined) {
          session.report(running.id, { n: running.attempt.reports + 2, end: returned('0', '"gap"') });
          ignored();
        }
        return;
      }
      case 'refuse':
        if (running !== undefined) session.refuse(running.id, other % 2 === 0 ? 'OVERLOADED' : 'CLOSED');
        return;
      case 'lose':
        if (running !== undefined) session.lose(running.id);
        return;
      case 'loseStale':
        if (stale === undefined || this.#present(stale)) return;
        session.lose(stale.execution, stale.attempt);
        session.refuse(stale.execution, 'OVERLOADED', stale.attempt);
        expect([session.out.effects, session.out.ended], 'nothing comes of an old attempt').toEqual([[], []]);
        return;
      case 'endCall':
      case 'loseCall':
      case 'missProvider':
        return this.#tool(act, live, other);
      case 'wake': {
        // Not often as far as a deadline: that would be the end of all of them.
        const { nextWake = session.now } = session;
        if (pick % 5 === 0 || nextWake < session.now + 4_000) session.now = Math.max(session.now, nextWake);
        session.pass(0);
        return;
      }
      case 'pass':
        session.pass(pick);
        return;
      case 'jump':
        session.now -= pick;
        return;
      case 'runtimes':
        session.runtimes = RUNTIMES.filter((_one, index) => ((pick >> index) & 1) === 1);
        session.tell({ type: 'runtimes.changed' });
        return;
      case 'migrate':
        session.migrate();
        return;
      case 'hibernate': {
        const quiet = session.context.executions.every(({ phase }) => phase === 'parked');
        expect(session.hibernate().ok, 'only what is quiet is put away').toBe(quiet);
        return;
      }
      case 'activate':
        session.activate();
        return;
      case 'close':
        session.close();
        expect(session.live).toEqual([]);
    }
  }

  /** What is new since the last step. */
  note({ act }: Step): void {
    const { session } = this;
    if (session.context.migrating && act !== 'activate')
      expect(session.effects('offer'), 'nothing is placed during a hand-over').toEqual([]);
    for (const { id, attempt } of session.context.executions) {
      if (attempt === undefined || this.#attempts.some((one) => one.attempt === attempt.id)) continue;
      this.#attempts.push({ execution: id, attempt: attempt.id });
    }
    for (const { phase, calls } of session.context.executions) {
      this.seen.add(phase);
      for (const { state } of calls) this.seen.add(state);
    }
    this.seen.add(session.state);
  }

  #present({ execution, attempt }: { readonly execution: string; readonly attempt: string }): boolean {
    return this.session.context.executions.some((one) => one.id === execution && one.attempt?.id === attempt);
  }

  #request(id: string, issuedAt: number, fingerprint: string, maxConcurrentToolCalls: number): void {
    const { session } = this;
    const before = session.context;
    if (!this.#asked.some((asked) => asked.id === id)) this.#asked.push({ id, issuedAt });
    const limits = { deadlineMs: DEADLINE_MS, maxConcurrentToolCalls };
    const isLive = session.live.includes(id);
    const kept = before.finished.find((one) => one.id === id);
    const answer = session.request(id, { issuedAt, fingerprint, limits });
    const same = this.#fingerprints.get(id) === fingerprint;
    if (isLive || kept !== undefined) {
      expect(session.out.accepted).toEqual([]);
      expect(describeAnswer(answer)).toBe(!same ? 'COMMAND_CONFLICT' : isLive ? 'accepted' : 'ended');
      return;
    }
    expect(answer.ok).toBe(session.out.accepted.length === 1);
    if (answer.ok) this.#fingerprints.set(id, fingerprint);
    if (issuedAt <= before.horizon) expect(answer.ok, 'what may have run does not run').toBe(false);
    this.seen.add(describeAnswer(answer));
  }

  #cancel(id: string): void {
    const { session } = this;
    const isLive = session.live.includes(id);
    const kept = session.context.finished.some((one) => one.id === id);
    const answer = session.cancel(id);
    if (isLive) {
      expect(answer).toEqual({ ok: true, kind: 'cancelled', cancelled: true });
      expect([session.code(id), session.live.includes(id)]).toEqual(['CANCELLED', false]);
    } else if (kept) {
      expect(answer).toEqual({ ok: true, kind: 'cancelled', cancelled: false });
    } else {
      expect(describeAnswer(answer)).toBe('NOT_FOUND');
    }
  }

  /** Go on as a deterministic script: first again what the journal has, then something new. */
  #report(execution: Execution, waiting: boolean, seed: number, end?: AttemptEnd): void {
    const { attempt, id, entries, deliveries } = execution;
    if (attempt === undefined) return;
    const items: ReportedItem[] = [];
    const made = this.session.entries(id).filter(([kind]) => kind !== 'd');
    const upTo = waiting || end !== undefined ? entries : Math.min(entries, attempt.entries + (seed % 3));
    for (const entry of made.slice(attempt.entries, upTo)) {
      if (entry[0] === 'c') items.push(call(entry[1], { name: entry[2], json: entry[3], effect: entry[4] }));
      if (entry[0] === 's') items.push(sleep(entry[1], entry[2]));
    }
    if (attempt.entries >= entries || waiting || end !== undefined) {
      for (let more = seed % 4; more > 0; more--)
        items.push(something(entries + (seed % 4) - more, seed + more));
    }
    if (attempt.applied < deliveries) items.push(applied(this.#applied(id, attempt.applied)));
    if (seed % 3 === 0) items.push(output(`line ${attempt.outputs}`));
    const n = attempt.reports + 1;
    this.#reports.push({ execution: id, attempt: attempt.id, n });
    this.session.report(id, { items, waiting, end });
  }

  #applied(id: string, count: number): number {
    return this.session.deliveries(id)[count]?.[0] ?? 0;
  }

  #tool(act: 'endCall' | 'loseCall' | 'missProvider', live: Execution | undefined, other: number): void {
    const { session } = this;
    if (live === undefined) return;
    // A provider only speaks of what it was given.
    const given = live.calls.filter(({ state }) => state !== 'queued');
    const index = choice(given, other)?.index ?? 99;
    const open = given.find((one) => one.index === index);
    if (act === 'endCall') session.endCall(live.id, index, choice(ENDS, other) ?? { ok: 'unknown' });
    else session[act](live.id, index);
    if (act === 'loseCall' && open?.effect === 'unsafe')
      expect(
        session.effects('call').filter((one) => one.execution === live.id && one.index === index),
      ).toEqual([]);
  }

  /** Nobody helps any more: time alone ends everything. */
  settle(): void {
    const { session } = this;
    session.runtimes = [];
    session.activate();
    for (let steps = 0; session.live.length > 0; steps++) {
      if (steps > 500) expect.fail('time does not end it');
      const wake = session.nextWake ?? expect.fail('it waits and is not woken');
      session.now = Math.max(session.now, wake);
      session.pass(0);
    }
    for (const id of session.accepted) {
      expect(session.ended(id), `${id} has ended`).toBeDefined();
      expect(session.eventsOf(id).filter(({ type }) => type === 'final')).toHaveLength(1);
      const lines = session.eventsOf(id).filter(({ type }) => type === 'stdout');
      const told = lines.map(({ payload }) => (payload as { chunk: string }).chunk);
      expect(told, 'every line once, in order').toEqual(told.map((_, index) => `line ${index}`));
      this.seen.add(session.code(id) ?? 'succeeded');
    }
    expect(session.context.pending).toEqual([]);
  }
}

const describeAnswer = (answer: Answer): string => (answer.ok ? answer.kind : answer.code);

function choice<T>(among: readonly T[], pick: number): T | undefined {
  return among[pick % Math.max(1, among.length)];
}

function something(index: number, seed: number): ReportedItem {
  if (seed % 3 === 0) return sleep(index, (seed % 5) * 700);
  return call(index, {
    name: `tool${seed % 2}`,
    json: `{"n":${seed}}`,
    effect: choice(EFFECTS, seed) ?? 'unsafe',
    refusal: seed % 7 === 1 ? 'UNKNOWN_TOOL' : seed % 7 === 2 ? 'TOOL_NOT_ALLOWED' : undefined,
    reconcilable: seed % 2 === 0,
  });
}

function endOf({ id }: Execution, seed: number): AttemptEnd {
  const ends = [
    returned('1'),
    returned('2', `{"by":"${id}"}`),
    returned('2', `{"by":"${id}"}`),
    failed(),
    failed('EXECUTION_TIMEOUT'),
    { kind: 'stopped' } as const,
    { kind: 'refused', code: 'OVERLOADED', message: 'full', retryAfterMs: 1 } as const,
  ];
  return choice(ends, seed) ?? failed();
}

/** Let worlds run; returns everything that was seen in them. */
function explore(parameters: fc.Parameters<unknown>): ReadonlySet<string> {
  const seen = new Set<string>();
  fc.assert(
    fc.property(anySettings, fc.array(anyStep, { maxLength: 120, size: 'max' }), (settings, steps) => {
      const world = new World(settings);
      for (const step of steps) {
        world.take(step);
        world.note(step);
      }
      world.settle();
      for (const one of world.seen) seen.add(one);
    }),
    parameters as fc.Parameters<[Partial<SessionSettings>, Step[]]>,
  );
  return seen;
}

describe('a session that is told anything in any order', () => {
  it('ends every execution that it accepted once, and is the same when it is read again', () => {
    explore({ numRuns: 150 });
  });

  // Always the same runs: what is seldom must not be missed by chance.
  it('does so in every state that there is', () => {
    const seen = [...explore({ numRuns: 400, seed: 14 })];
    const places = ['queued', 'placing', 'running', 'parked', 'unprovided', 'reconciling'];
    const states = ['idle', 'executing', 'waiting', 'hibernated', 'migrating', 'closed', 'expired'];
    const answers = ['accepted', 'COMMAND_EXPIRED', 'OVERLOADED', 'CLOSED', 'EXPIRED'];
    const codes = ['succeeded', 'CANCELLED', 'DEADLINE_EXCEEDED', 'NONDETERMINISTIC_REPLAY', 'QUARANTINED'];
    const ends = ['STATE_CONFLICT', 'SCRIPT_ERROR', 'EXECUTION_TIMEOUT', 'NO_RUNTIME'];
    expect(seen).toEqual(expect.arrayContaining([...places, ...states, ...answers, ...codes, ...ends]));
  });
});
