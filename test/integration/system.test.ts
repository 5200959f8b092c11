/** A system as a whole: its options, what it shows, how it ends, and workers that scripts kill. */
import { afterEach, describe, expect, it } from 'vitest';
import { createSystem, defineTool, type ExecutionEvent, type System } from '../../src/index.ts';
import { isAlive } from '../support/processes.ts';
import {
  closeAll,
  codeOf,
  expectContiguous,
  failureOf,
  Gate,
  killWorkers,
  logOf,
  open,
  pidsOf,
  refusalOf,
  runtimeOf,
  until,
} from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

afterEach(closeAll);

/** A tool whose handlers wait at a gate. */
function gated() {
  const gate = new Gate();
  const signals: AbortSignal[] = [];
  const wait = defineTool({
    name: 'wait',
    handler: async (_args, { signal }) => {
      signals.push(signal);
      await gate.pass();
      return 'waited';
    },
  });
  return { gate, signals, tools: [wait] };
}
const WAIT = 'return await callTool("wait")';

describe('createSystem', () => {
  const tool = defineTool({ name: 'a:b', handler: () => 1 });

  it.each<[string, unknown]>([
    ['options', null],
    ['options', 'x'],
    ['options.workers', { workers: 2 }],
    ['options.brokers', { brokers: 0 }],
    ['options.runtimes', { runtimes: 1.5 }],
    ['options.leaseTtlMs', { leaseTtlMs: 100 }],
    ['options.hibernateAfterMs', { hibernateAfterMs: '1s' }],
    ['options.namespace', { namespace: 'no.dots' }],
    ['options.maxEvents', { maxEvents: 5 }],
    ['options.limits.cpuMs', { limits: { cpuMs: 0 } }],
    ['options.limits.memoryBytes', { limits: { memoryBytes: 1024 ** 3 } }],
    ['options.poolSize', { pool: { poolSize: 0 } }],
    ['options.minWorkers', { pool: { poolSize: 1, minWorkers: 2 } }],
    ['options.size', { pool: { size: 1 } }],
    ['options.isolation', { isolation: 'none' }],
    ['options.logger', { logger: console }],
    ['options.registry', { registry: {} }],
    ['tools', { tools: {} }],
    ['tools[0]', { tools: [{ name: 'x', handler: () => 1 }] }],
    ['tools[1]', { tools: [tool, defineTool({ name: 'a.b', handler: () => 2 })] }],
  ])('is refused naming %s: %o', async (key, options) => {
    const error = await refusalOf(() => createSystem(options as object));
    expect([error.code, error.key]).toEqual(['INVALID_ARGUMENT', key]);
    expect(error.message).toContain(key);
  });

  it('takes an explicit undefined for the default', async () => {
    const system = await open({
      brokers: undefined,
      limits: undefined,
      pool: { poolSize: 1, uid: undefined },
    });
    const session = await system.spawnSession({ limits: undefined, id: undefined });
    expect(valueIn(await session.execute('return 1', { input: undefined, signal: undefined }).result)).toBe(
      1,
    );
  });
});

describe('what a system shows', () => {
  it('is its brokers and runtimes, with what they have', async () => {
    const { gate, tools } = gated();
    const system = await open({ brokers: 2, runtimes: 2, tools });
    expect(system.runtimes().map(({ id }) => id)).toEqual(['runtime-1', 'runtime-2']);
    await until(() => system.brokers().length === 2, 'both brokers have been heard');
    const sessions = await Promise.all(Array.from({ length: 4 }, () => system.spawnSession()));
    const runs = sessions.map((session) => session.execute(WAIT));
    await until(() => gate.waiting === 4, 'four scripts wait');
    expect(Object.keys(system.stats())).toEqual(['runtime-1', 'runtime-2']);
    // By the next heartbeat at the latest.
    await until(
      () => system.runtimes().reduce((sum, { load }) => sum + load, 0) === 4,
      'the runtimes tell of four scripts',
    );
    await until(
      () => system.brokers().reduce((sum, { sessions }) => sum + sessions, 0) === 4,
      'the brokers tell of four sessions',
    );
    for (const { load, ...runtime } of system.runtimes()) {
      expect(runtime).toEqual({ id: runtime.id, labels: {}, capacity: 16, draining: false });
      expect(load).toBeGreaterThan(0); // They share what begins at the same time.
    }
    gate.open();
    for (const run of runs) valueIn(await run.result);
  });

  it('is the events of all its sessions, as they come', async () => {
    const system = await open({ brokers: 2 });
    const controller = new AbortController();
    const all: ExecutionEvent[] = [];
    const finals: ExecutionEvent[] = [];
    const read = async (into: ExecutionEvent[], types?: readonly string[]): Promise<void> => {
      for await (const event of system.events({ signal: controller.signal, types })) into.push(event);
    };
    const reading = [read(all), read(finals, ['final'])];
    const sessions = await Promise.all([1, 2, 3].map(() => system.spawnSession()));
    for (const session of sessions) valueIn(await session.execute('console.log("hi"); return 1').result);
    await until(() => all.length === 9 && finals.length === 3, 'all of them have come');
    controller.abort();
    await Promise.all(reading);
    for (const session of sessions) {
      const own = all.filter(({ sessionId }) => sessionId === session.id);
      expect(own.toSorted((one, other) => one.seq - other.seq)).toEqual(await logOf(session));
    }
    expect(finals.map(({ type }) => type)).toEqual(['final', 'final', 'final']);
    expect(await codeOf(() => system.events({ fromSeq: 1 }))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(() => system.events({ types: [] }))).toBe('INVALID_ARGUMENT');
  });

  it('are the events of one session, too, from wherever they are wanted', async () => {
    const system = await open();
    const { id, ...session } = await system.spawnSession();
    expect(session).toBeDefined();
    valueIn(await system.session(id).execute('console.log("hi"); return 1').result);
    const types: string[] = [];
    for await (const event of system.events({ sessionId: id, fromSeq: 1, types: ['stdout', 'final'] })) {
      types.push(event.type);
      if (event.type === 'final') break;
    }
    expect(types).toEqual(['stdout', 'final']);
  });
});

describe('the end of a system', () => {
  /** A system with a script that waits, and one that computes. */
  async function busy() {
    const { gate, signals, tools } = gated();
    const system = await open({ brokers: 2, runtimes: 2, tools });
    const session = await system.spawnSession();
    const run = session.execute(WAIT);
    await until(() => gate.waiting === 1, 'the script waits');
    return { system, session, run, gate, signals, pids: pidsOf(system) };
  }

  it('by close: what runs ends as CLOSED and in doubt, and no process is left', async () => {
    const { system, session, run, signals, pids } = await busy();
    const spinning = (await system.spawnSession()).execute('for (;;) {}', { limits: { cpuMs: 60_000 } });
    await spinning.accepted;
    const later = session.result(run.id);
    const iterated: string[] = [];
    const iterating = (async () => {
      for await (const { type } of session.events({ fromSeq: 1 })) iterated.push(type);
    })();
    await until(() => iterated.length === 2, 'a reader listens');
    expect(pids.length).toBeGreaterThanOrEqual(2);
    expect(pids.every(isAlive)).toBe(true);
    const closing = system.close();
    expect(errorIn(await run.result)).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
    expect(failureOf(await spinning.result)).toBe('CLOSED');
    expect(await codeOf(() => later)).toBe('CLOSED');
    await iterating;
    await closing;
    await system.close();
    expect(pids.filter(isAlive)).toEqual([]);
    expect(signals.map(({ aborted }) => aborted)).toEqual([true]);
    expect(await codeOf(() => system.spawnSession())).toBe('CLOSED');
    const after = session.execute('return 1');
    expect(errorIn(await after.result)).toMatchObject({ code: 'CLOSED', outcome: 'not_started' });
    expect(await codeOf(() => session.info())).toBe('CLOSED');
  });

  it('by drain: what runs is waited for', async () => {
    const { system, run, gate } = await busy();
    let drained = false;
    const draining = system.drain().then(() => {
      drained = true;
    });
    await until(() => system.runtimes().every((runtime) => runtime.draining), 'the runtimes say so');
    expect(drained).toBe(false);
    gate.open();
    expect(valueIn(await run.result)).toBe('waited');
    await draining;
    await system.close();
  });

  it('by disposal: nothing is left', async () => {
    let pids: readonly number[] = [];
    {
      await using system: System = await createSystem({ pool: { poolSize: 1 } });
      const session = await system.spawnSession();
      valueIn(await session.execute('return 1').result);
      pids = pidsOf(system);
      expect(pids).toHaveLength(1);
    }
    expect(pids.filter(isAlive)).toEqual([]);
  });
});

describe('a worker that a script kills', () => {
  it('ends the script as QUARANTINED the third time that it was alone, and nothing else', async () => {
    const deaths: unknown[] = [];
    let system: System;
    const die = defineTool({
      name: 'die',
      handler: (args) => {
        deaths.push(args);
        killWorkers(system, runtimeOf(system, 'deadly'));
        return null;
      },
    });
    system = await open({ runtimes: 2, tools: [die] });
    const deadly = await system.spawnSession({ id: 'deadly' });
    const run = deadly.execute('for (let n = 0; ; n++) await callTool("die", n)');
    const result = await run.result;
    expect(errorIn(result)).toMatchObject({ code: 'QUARANTINED', retryable: false });
    // What was called before a crash is not called again.
    expect(deaths).toEqual([0, 1, 2]);
    expect(result.stats.attempts).toBe(3);
    expectContiguous(await logOf(deadly));
    expect(valueIn(await deadly.execute('return "another script"').result)).toBe('another script');
    const other = await system.spawnSession();
    expect(valueIn(await other.execute('return "another session"').result)).toBe('another session');
  });

  it('costs its neighbours an attempt, never their end', async () => {
    const { gate, tools } = gated();
    const system = await open({ tools });
    const sessions = await Promise.all(Array.from({ length: 5 }, () => system.spawnSession()));
    const runs = sessions.map((session) => session.execute(WAIT));
    await until(() => gate.waiting === 5, 'all of them wait');
    const killed = killWorkers(system, 'runtime-1');
    await until(() => !killed.some(isAlive), 'the worker is dead');
    gate.open();
    for (const run of runs) {
      const result = await run.result;
      expect(valueIn(result)).toBe('waited');
      expect(result.stats.attempts).toBe(2);
    }
  });

  it('is not missed by a script whose whole runtime is gone', async () => {
    const { gate, tools } = gated();
    const system = await open({ runtimes: 2, tools });
    const session = await system.spawnSession();
    const run = session.execute(`console.log('once'); ${WAIT}`);
    await until(() => gate.waiting === 1, 'the script waits');
    const first = runtimeOf(system, session.id);
    await system.parts.runtimes.find(({ host }) => host.id === first)?.close();
    gate.open();
    const result = await run.result;
    expect(valueIn(result)).toBe('waited');
    expect(result.stats.attempts).toBe(2);
    expect((await session.info()).runtime).not.toBe(first);
    await until(() => system.runtimes().length === 1, 'it is not listed any more');
    expect((await logOf(session)).filter(({ type }) => type === 'stdout')).toHaveLength(1);
  });
});

describe('an owner that stood still longer than its lease', () => {
  it('loses its sessions to its next incarnation, and no command is lost', async () => {
    const system = await open({ leaseTtlMs: 500 });
    const session = await system.spawnSession({ state: { n: 1 } });
    valueIn(await session.execute('state.n++').result);
    const { epoch } = await session.info();
    const asked = session.info();
    const run = session.execute('state.n++; return state.n');
    const until = performance.now() + 900;
    while (performance.now() < until); // Nothing else happens in this process meanwhile.
    expect((await asked).epoch).toBeGreaterThanOrEqual(epoch);
    expect(valueIn(await run.result)).toBe(3);
    expect((await session.info()).epoch).toBeGreaterThan(epoch);
    expectContiguous(await logOf(session));
  });
});
