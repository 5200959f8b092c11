/** Acceptance: a script that loses its worker, or its provider, at any moment ends as if it had not. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  defineTool,
  type ExecutionEvent,
  type ExecutionResult,
  type System,
  type Tool,
} from '../../src/index.ts';
import { isAlive } from '../support/processes.ts';
import {
  closeAll,
  expectContiguous,
  killWorkers,
  logOf,
  open,
  runtimeOf,
  timeless,
  until,
} from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

/** The order in which the calls of {@link SCRIPT} end: by it, what two runs are handed is the same. */
const ENDS = [1, 2, 3, 4, 5, 9, 7, 8, 6, 10, 11, 12, 14, 13, 15, 18, 16, 17, 19, 20];
const EFFECTS = ['read', 'idempotent', 'unsafe'] as const;

/** 20 calls, numbered by `n`: one after the other, four at once, two in a race, three of which some fail. */
const SCRIPT = `
  const seen = [], start = Date.now();
  let n = 0, last = start;
  const note = (...what) => {
    const now = Date.now();
    if (now < last) throw new Error('time went back');
    last = now;
    seen.push([...what, now]);
    console.log(JSON.stringify([...what, now]));
  };
  const call = (fail = false) => { n++; return callTool(input.tools[n % input.tools.length], { n, fail }); };
  const risk = async () => { try { return await call(true) } catch (error) { return error.message } };
  for (let step = 0; step < 5; step++) {
    const chance = Math.random();
    if (chance < 0.5 && Date.now() >= start) note('low', chance, await call());
    else note('high', chance, await risk());
  }
  await Promise.all([call(), call(), call(), call()].map(async (end) => note('all', await end)));
  for (let step = 0; step < 3; step++) {
    console.warn('trying ' + Math.random());
    note('tried', await risk());
  }
  const racers = [call(), call()];
  note('first', await Promise.race(racers), (await Promise.all(racers)).length);
  note(new Date().getUTCFullYear() > 2000 ? 'late' : 'early', await call());
  await sleep(2);
  const settled = await Promise.allSettled([call(true), call(), call(true)].map(async (end) => note('one of', await end)));
  note('settled', settled.map(({ status }) => status).join());
  if (Date.now() > start) note('sleeping took time', await call());
  note('last', Math.random(), await call());
  if (input.linger) await sleep(400);
  return { n, seen };`;

interface Value {
  readonly n: number;
  readonly seen: readonly (readonly unknown[])[];
}

interface Blow {
  /** The call at which the worker is killed, and whether its handler runs or its end was handed over. */
  readonly at: number;
  readonly when: 'running' | 'applied';
}

/** One run of the script, and what its handlers saw. */
class Run {
  readonly counts = new Map<number, number>();
  readonly #ended = new Map(ENDS.map((n) => [n, Promise.withResolvers<void>()]));
  readonly #struck = Promise.withResolvers<void>();
  readonly #system: System;
  readonly #blow: Blow | undefined;
  #session = '';
  struckAt: string | undefined;

  constructor(system: System, blow: Blow | undefined) {
    this.#system = system;
    this.#blow = blow;
  }

  /** Calls end in the order of {@link ENDS}; the one that follows the blow waits until it has fallen. */
  async handle(n: number): Promise<string> {
    this.counts.set(n, (this.counts.get(n) ?? 0) + 1);
    const before = ENDS[ENDS.indexOf(n) - 1];
    if (before !== undefined) await this.#ended.get(before)?.promise;
    if (this.#blow?.when === 'applied' && before === this.#blow.at) await this.#struck.promise;
    if (this.#blow?.when === 'running' && n === this.#blow.at) await this.#strike();
    this.#ended.get(n)?.resolve();
    return `end of ${n}`;
  }

  async go(seed: number, shift: number) {
    const session = await this.#system.spawnSession();
    this.#session = session.id;
    const tools = EFFECTS.map((_effect, index) => EFFECTS[(index + shift) % EFFECTS.length]);
    const linger = this.#blow?.when === 'applied' && this.#blow.at === ENDS.at(-1);
    const run = session.execute<Value>(SCRIPT, { commandId: 'x', seed, input: { tools, linger } });
    const events: ExecutionEvent[] = [];
    const indexOf = new Map<string, number>();
    for await (const event of run) {
      events.push(event);
      if (event.type === 'tool_call')
        indexOf.set(event.payload.callId, (event.payload.args as { readonly n: number }).n);
      const applied = event.type === 'tool_result_applied' ? indexOf.get(event.payload.callId) : undefined;
      if (this.#blow?.when === 'applied' && applied === this.#blow.at) await this.#strike();
    }
    return { result: await run.result, events, log: await logOf(session), info: await session.info() };
  }

  /** Kill the worker that the script runs in. Resolves when it is dead. */
  async #strike(): Promise<void> {
    this.struckAt = runtimeOf(this.#system, this.#session);
    const killed = killWorkers(this.#system, this.struckAt);
    expect(killed).toHaveLength(1);
    await until(() => !killed.some(isAlive), 'the worker is dead');
    this.#struck.resolve();
  }
}

describe('a script of 20 calls whose worker is killed', () => {
  let system: System;
  let current: Run;
  let reference: Awaited<ReturnType<Run['go']>>;

  beforeAll(async () => {
    const tools = EFFECTS.map((effect) =>
      defineTool({
        name: effect,
        effect,
        handler: async (args) => {
          const { n, fail } = args as { readonly n: number; readonly fail: boolean };
          const value = await current.handle(n);
          if (fail) throw new Error(`refused ${n}`);
          return value;
        },
      }),
    );
    system = await open({ runtimes: 2, tools, pool: { maxRestarts: 1_000 } });
    current = new Run(system, undefined);
    reference = await current.go(7, 0);
  });
  afterAll(closeAll);

  /** Everything but the time, which is what it was in each run. */
  const withoutTimes = ({ n, seen }: Value) => ({ n, seen: seen.map((what) => what.slice(0, -1)) });
  const eventsWithoutTimes = (events: readonly ExecutionEvent[]) =>
    timeless(events).map((event) =>
      JSON.stringify(event, (key, value: unknown) =>
        key === 'chunk' ? (JSON.parse(String(value)) as unknown[]).slice(0, -1) : key === 'seen' ? 0 : value,
      ).replaceAll(/"toolName":"\w+"/g, '"toolName"'),
    );
  const shown = (events: readonly ExecutionEvent[]) =>
    events.flatMap(({ type, payload }) => (type === 'stdout' ? [JSON.parse(payload.chunk) as unknown] : []));

  it('makes its 20 calls and takes one attempt if it is not', () => {
    const { result, events, log } = reference;
    expect(valueIn(result).n).toBe(20);
    expect(valueIn(result).seen.map(([what]) => what)).toContain('high');
    expect(valueIn(result).seen.map(([what]) => what)).toContain('low');
    expect(result.stats.attempts).toBe(1);
    expect(events.filter(({ type }) => type === 'tool_call')).toHaveLength(20);
    expect(log).toEqual(events);
    expect(result.toolCalls.filter(({ outcome }) => outcome === 'failed').length).toBeGreaterThan(4);
  });

  const blows = ENDS.flatMap((at, index) =>
    (['running', 'applied'] as const).map((when, nth) => ({ at, when, shift: (index + nth) % 3 })),
  );
  it.each(blows)('while call $at is $when ends as if it had not been', async ({ at, when, shift }) => {
    current = new Run(system, { at, when });
    const { result, events, log, info } = await current.go(7, shift);
    const value = valueIn(result);
    expect(withoutTimes(value)).toEqual(withoutTimes(valueIn(reference.result)));
    // What was shown before the blow and what was returned after it are the same, to the millisecond.
    expect(shown(events)).toEqual(value.seen);
    expectContiguous(events);
    expect(log).toEqual(events);
    expect(eventsWithoutTimes(events)).toEqual(eventsWithoutTimes(reference.events));
    expect([...current.counts].toSorted(([one], [other]) => one - other)).toEqual(
      Array.from({ length: 20 }, (_, index) => [index + 1, 1]),
    );
    const outcomes = (of: ExecutionResult) => of.toolCalls.map(({ callId, outcome }) => [callId, outcome]);
    expect(outcomes(result)).toEqual(outcomes(reference.result));
    expect(result.stats.attempts).toBe(2);
    expect([info.runtime, current.struckAt].toSorted()).toEqual(['runtime-1', 'runtime-2']);
  });
});

describe('a call whose provider is lost', () => {
  /** Calls again until the handler says that its call was the one that mattered. */
  const WAIT = `const ask = async () => {
    for (;;) { const end = await callTool(input.tool, {}); if (end !== 'again') return end }
  };`;
  const CAUGHT = `${WAIT} try { return await ask() } catch (error) { return [error.name, error.message] }`;
  const scenarios = {
    read: CAUGHT,
    idempotent: CAUGHT,
    unsafe: CAUGHT,
    'unsafe.uncaught': `${WAIT} return await ask()`,
    'unsafe.failing': `${WAIT} try { await ask() } catch {} throw new TypeError('afterwards')`,
    'reconcile.completed': CAUGHT,
    'reconcile.not_started': CAUGHT,
    'reconcile.unknown': CAUGHT,
    'reconcile.broken': CAUGHT,
    bystander: CAUGHT,
  };
  type Scenario = keyof typeof scenarios;
  const names = Object.keys(scenarios) as Scenario[];

  const results = new Map<Scenario, ExecutionResult>();
  /** The keys of the calls that were not told to be made again, per scenario. */
  const keys = new Map<Scenario, string[]>(names.map((name) => [name, []]));
  const asked: string[] = [];
  const resultOf = (name: Scenario): ExecutionResult => results.get(name) as ExecutionResult;
  const lastCall = (name: Scenario) => resultOf(name).toolCalls.at(-1);

  beforeAll(async () => {
    let system: System;
    let lost = false;
    const before = { doomed: 0, other: 0 };
    const bystander = Promise.withResolvers<void>();
    const running = () => {
      const [doomed, other] = system.parts.brokers.map(({ provider }) => provider.running);
      return { doomed: doomed ?? 0, other: other ?? 0 };
    };
    const handler = (name: Scenario): Tool['handler'] => {
      return async (_args, { idempotencyKey, signal }) => {
        if (lost) {
          keys.get(name)?.push(idempotencyKey);
          return 'again, elsewhere';
        }
        const now = running();
        const wanted = name === 'bystander' ? 'other' : 'doomed';
        if (now[wanted] === before[wanted]) return 'again'; // It came to the wrong provider.
        before[wanted] = now[wanted];
        keys.get(name)?.push(idempotencyKey);
        if (name === 'bystander') {
          await bystander.promise;
          return 'undisturbed';
        }
        const gone = Promise.withResolvers<void>();
        signal.addEventListener('abort', () => gone.resolve());
        await gone.promise;
        return 'nobody hears this';
      };
    };
    const tools = names.map((name) => {
      const effect = name === 'read' || name === 'idempotent' ? name : 'unsafe';
      if (!name.startsWith('reconcile')) return defineTool({ name, effect, handler: handler(name) });
      return defineTool({
        name,
        effect,
        handler: handler(name),
        reconcile: ({ key }) => {
          asked.push(key);
          if (name === 'reconcile.completed') return { status: 'completed', value: { found: true } };
          if (name === 'reconcile.broken') throw new Error('broken');
          return name === 'reconcile.not_started' ? { status: 'not_started' } : { status: 'unknown' };
        },
      });
    });
    system = await open({ brokers: 2, tools });
    const runs = [];
    for (const name of names) {
      const session = await system.spawnSession();
      // A broker calls its own tools.
      await session.migrate({ to: name === 'bystander' ? 'broker-2' : 'broker-1' });
      runs.push(session.execute(scenarios[name], { input: { tool: name } }));
      await until(() => keys.get(name)?.length === 1, `the call of ${name} is where it should be`);
    }
    lost = true;
    system.parts.brokers[0]?.provider.close();
    for (const [index, run] of runs.entries()) {
      const name = names[index] as Scenario;
      if (name !== 'bystander') results.set(name, await run.result);
    }
    bystander.resolve();
    results.set('bystander', (await runs.at(-1)?.result) as ExecutionResult);
  });
  afterAll(closeAll);

  it.each(['read', 'idempotent'] as const)('is made again with the same key if its tool is %s', (name) => {
    const [first, ...others] = keys.get(name) ?? [];
    expect(others).toEqual([first]);
    expect(valueIn(resultOf(name))).toBe('again, elsewhere');
    expect(lastCall(name)?.outcome).toBe('completed');
  });

  const UNKNOWN = expect.stringMatching(/what it did is not known/);

  it('is an error that the script can catch, and never made again, if its tool is unsafe', () => {
    expect(valueIn(resultOf('unsafe'))).toEqual(['OutcomeUnknownError', UNKNOWN]);
    expect(keys.get('unsafe')).toHaveLength(1);
    expect(lastCall('unsafe')?.outcome).toBe('unknown');
  });

  it.each(['unsafe.uncaught', 'unsafe.failing'] as const)(
    'leaves the outcome of a script unknown that fails afterwards (%s)',
    (name) => {
      const error = errorIn(resultOf(name));
      expect(error).toMatchObject({ outcome: 'unknown', retryable: false });
      if (name === 'unsafe.uncaught')
        expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: UNKNOWN });
      else expect(error).toMatchObject({ code: 'SCRIPT_ERROR', name: 'TypeError', message: 'afterwards' });
      expect(lastCall(name)?.outcome).toBe('unknown');
      expect(keys.get(name)).toHaveLength(1);
    },
  );

  it('ends with what its tool finds to have been completed', () => {
    expect(valueIn(resultOf('reconcile.completed'))).toEqual({ found: true });
    expect(lastCall('reconcile.completed')?.outcome).toBe('completed');
    expect(keys.get('reconcile.completed')).toHaveLength(1);
  });

  it('is made again if its tool finds that it was not started', () => {
    const [first, ...others] = keys.get('reconcile.not_started') ?? [];
    expect(others).toEqual([first]);
    expect(valueIn(resultOf('reconcile.not_started'))).toBe('again, elsewhere');
  });

  it.each(['reconcile.unknown', 'reconcile.broken'] as const)(
    'is in doubt if its tool cannot tell (%s)',
    (name) => {
      expect(valueIn(resultOf(name))).toEqual(['OutcomeUnknownError', UNKNOWN]);
      expect(lastCall(name)?.outcome).toBe('unknown');
      expect(keys.get(name)).toHaveLength(1);
    },
  );

  it('is asked about by its key, and only calls of tools that can tell are', () => {
    const lost = names.filter((name) => name.startsWith('reconcile')).map((name) => keys.get(name)?.[0]);
    expect([...new Set(asked)].toSorted()).toEqual(lost.toSorted());
  });

  it('does not disturb a call that another provider runs', () => {
    expect(valueIn(resultOf('bystander'))).toBe('undisturbed');
    expect(keys.get('bystander')).toHaveLength(1);
  });
});
