/** The parts that metrics are made of, with clocks and pools under the test's control. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Execution, SessionContext, SessionEvent } from '../../actors/sessiondata.ts';
import { lossOf, meterBroker } from '../../src/ops/metrics/broker.ts';
import { meterExecutions, Rate } from '../../src/ops/metrics/executions.ts';
import { type MeteredPool, meterPool } from '../../src/ops/metrics/pools.ts';
import { meterEventLoop } from '../../src/ops/metrics/process.ts';
import { createRegistry, readGauge } from '../../src/ops/metrics/registry.ts';
import { REMEMBER_MS } from '../../src/ops/metrics/runtimes.ts';
import { Shared } from '../../src/ops/metrics/shared.ts';
import { meterTools } from '../../src/ops/metrics/tools.ts';
import { meter, meterLosses, meterProcess } from '../../src/ops/metrics.ts';
import type { ExecutionResult } from '../../src/result.ts';
import type { PoolObserver, PoolStats } from '../../src/sandbox/pool.ts';
import { Dropped } from '../../src/session/heard.ts';
import { replayOf } from '../../src/session/replays.ts';
import { parseScrape, type Scrape } from '../support/scrape.ts';

type Registry = ReturnType<typeof createRegistry>;
const scrape = async (registry: Registry): Promise<Scrape> => parseScrape(await registry.metrics());
const startingWith = (found: Scrape, start: string) =>
  Object.fromEntries([...found].filter(([series]) => series.startsWith(start)));

/** A monotonic clock that a test moves. */
function clock(start = 0) {
  let now = start;
  return {
    now: () => now,
    passes: (ms: number) => {
      now += ms;
    },
  };
}

describe('the rate of executions', () => {
  it('is that of the last ten seconds', () => {
    const { now, passes } = clock(5_000);
    const rate = new Rate(now);
    expect(rate.perSecond()).toBe(0);
    for (let count = 0; count < 20; count++) rate.note();
    expect(rate.perSecond()).toBe(2);
    passes(9_000);
    rate.note();
    expect(rate.perSecond()).toBeCloseTo(2.1);
    passes(1_000);
    expect(rate.perSecond()).toBeCloseTo(0.1);
    passes(9_000);
    expect(rate.perSecond()).toBe(0);
  });

  it('forgets what a whole number of windows ago shared its place', () => {
    const { now, passes } = clock();
    const rate = new Rate(now);
    rate.note();
    passes(30_000);
    rate.note();
    expect(rate.perSecond()).toBeCloseTo(0.1);
  });
});

describe('executions', () => {
  it('are counted by outcome and code, and measured in seconds', async () => {
    const registry = createRegistry();
    const executions = meterExecutions(registry, () => 0);
    executions.ended('completed', 'OK', 40);
    executions.ended('completed', 'OK', 2_000);
    executions.ended('unknown', 'OUTCOME_UNKNOWN', 0);
    const found = await scrape(registry);
    expect(startingWith(found, 'enclave_executions_total')).toEqual({
      'enclave_executions_total{outcome="completed",code="OK"}': 2,
      'enclave_executions_total{outcome="unknown",code="OUTCOME_UNKNOWN"}': 1,
    });
    expect(found.get('enclave_execution_latency_seconds_sum')).toBeCloseTo(2.04);
    expect(found.get('enclave_execution_latency_seconds_bucket{le="0.05"}')).toBe(2);
    executions.stop();
    expect((await scrape(registry)).get('enclave_executions_per_second')).toBe(0);
  });

  it('have no more series than there are codes, whatever runtimes call their ends', async () => {
    const registry = createRegistry();
    const executions = meterExecutions(registry, () => 0);
    for (let index = 0; index < 500; index++) executions.ended('completed', `CODE_${index}`, 1);
    expect(startingWith(await scrape(registry), 'enclave_executions_total')).toEqual({
      'enclave_executions_total{outcome="completed",code="OK"}': 0,
      'enclave_executions_total{outcome="completed",code="OTHER"}': 500,
    });
  });
});

describe('tool calls', () => {
  it('are counted under one spelling of a name', async () => {
    const registry = createRegistry();
    const tools = meterTools(registry);
    tools.ended('users:get', 'completed', '', 10);
    tools.ended('users.get', 'failed', 'TOOL_ERROR', 10);
    expect(startingWith(await scrape(registry), 'enclave_tool_calls_total')).toEqual({
      'enclave_tool_calls_total{tool="users.get",outcome="completed"}': 1,
      'enclave_tool_calls_total{tool="users.get",outcome="failed"}': 1,
    });
  });

  it('have 200 names, and no script can use those up with names of nothing', async () => {
    const registry = createRegistry();
    const tools = meterTools(registry);
    for (let index = 0; index < 1_000; index++) {
      tools.ended(`no${index}`, 'failed', 'UNKNOWN_TOOL', 0);
      tools.ended(`not${index}`, 'failed', 'TOOL_NOT_ALLOWED', 0);
    }
    for (let index = 0; index < 250; index++) tools.ended(`tool${index}`, 'completed', '', 1);
    const found = startingWith(await scrape(registry), 'enclave_tool_calls_total');
    expect(Object.keys(found)).toHaveLength(202);
    expect(found['enclave_tool_calls_total{tool="other",outcome="failed"}']).toBe(2_000);
    expect(found['enclave_tool_calls_total{tool="other",outcome="completed"}']).toBe(50);
  });

  it('are measured where a handler had them', async () => {
    const registry = createRegistry();
    const tools = meterTools(registry);
    for (const code of ['', 'TOOL_ERROR', 'TOOL_TIMEOUT']) tools.ended('a', 'failed', code, 100);
    for (const code of [
      'UNKNOWN_TOOL',
      'TOOL_NOT_ALLOWED',
      'TOOL_UNAVAILABLE',
      'OUTCOME_UNKNOWN',
      'CANCELLED',
    ])
      tools.ended('a', 'failed', code, 0);
    const found = await scrape(registry);
    expect(found.get('enclave_tool_call_latency_seconds_count')).toBe(3);
    expect(found.get('enclave_tool_call_latency_seconds_sum')).toBeCloseTo(0.3);
  });
});

/** A pool that says what the test wants. */
class FakePool {
  readonly stats_: { -readonly [K in keyof PoolStats]: PoolStats[K] } = {
    status: 'open',
    workers: [],
    queueLength: 0,
    active: 0,
    restarts: 0,
    recycles: 0,
    containment: {} as PoolStats['containment'],
  };
  readonly observers = new Set<PoolObserver>();
  measured = 0;

  stats(): PoolStats {
    this.measured++;
    return { ...this.stats_ };
  }
  observe(observer: PoolObserver): () => void {
    this.observers.add(observer);
    return () => this.observers.delete(observer);
  }
  workers(...memory: readonly (readonly [id: string, memoryBytes: number])[]): void {
    this.stats_.workers = memory.map(([id, memoryBytes]) => ({
      ...{ id, memoryBytes, pid: 1, state: 'ready', executions: 0, aboard: 0 },
    }));
  }
  retire(slot: string, reason: Parameters<PoolObserver['workerRetired']>[1]): void {
    for (const observer of this.observers) observer.workerRetired(slot, reason, '');
  }
}
const MEMORY = 'enclave_worker_memory_bytes';

describe('a pool', () => {
  it('is measured once a scrape', async () => {
    const registry = createRegistry();
    const pool = new FakePool();
    meterPool(registry, pool satisfies MeteredPool, 'r1', () => true);
    pool.stats_.queueLength = 7;
    pool.stats_.active = 3;
    pool.workers(['w1', 100], ['w2', 200]);
    expect(startingWith(await scrape(registry), 'enclave_')).toMatchObject({
      'enclave_queue_depth{runtime="r1"}': 7,
      enclave_active_executions: 3,
      'enclave_runtime_health{runtime_id="r1"}': 1,
      [`${MEMORY}{worker_id="w1"}`]: 100,
      [`${MEMORY}{worker_id="w2"}`]: 200,
    });
    expect(pool.measured).toBe(1);
    pool.stats_.active = 4;
    expect((await scrape(registry)).get('enclave_active_executions')).toBe(4);
  });

  it('takes the series of a retired worker along, and counts why it is gone', async () => {
    const registry = createRegistry();
    const pool = new FakePool();
    meterPool(registry, pool, 'r1', () => true);
    pool.workers(['w1', 100], ['w2', 200]);
    await scrape(registry);
    pool.workers(['w2', 200]);
    pool.retire('w1', 'executions');
    const found = await scrape(registry);
    expect(startingWith(found, MEMORY)).toEqual({ [`${MEMORY}{worker_id="w2"}`]: 200 });
    expect(startingWith(found, 'enclave_worker_retirements_total')).toEqual({
      'enclave_worker_retirements_total{reason="crash"}': 0,
      'enclave_worker_retirements_total{reason="killed"}': 0,
      'enclave_worker_retirements_total{reason="executions"}': 1,
      'enclave_worker_retirements_total{reason="memory"}': 0,
      'enclave_worker_retirements_total{reason="heap"}': 0,
      'enclave_worker_retirements_total{reason="idle"}': 0,
      'enclave_worker_retirements_total{reason="shutdown"}': 0,
    });
  });

  it('is unhealthy while it takes nothing, or nobody can reach it', async () => {
    const registry = createRegistry();
    const pool = new FakePool();
    let reachable = true;
    meterPool(registry, pool, 'r1', () => reachable);
    const health = async () => (await scrape(registry)).get('enclave_runtime_health{runtime_id="r1"}');
    expect(await health()).toBe(1);
    pool.stats_.status = 'failed';
    expect(await health()).toBe(0);
    pool.stats_.status = 'open';
    reachable = false;
    expect(await health()).toBe(0);
    reachable = true;
    expect(await health()).toBe(1);
  });

  it('is reported once however many use it, until the last of them lets go', async () => {
    const registry = createRegistry();
    const pool = new FakePool();
    const stops = [1, 2].map(() => meterPool(registry, pool, 'embedded', () => true));
    pool.stats_.active = 2;
    expect((await scrape(registry)).get('enclave_active_executions')).toBe(2);
    pool.retire('w1', 'crash');
    stops[0]?.();
    stops[0]?.();
    expect((await scrape(registry)).get('enclave_worker_retirements_total{reason="crash"}')).toBe(1);
    expect((await scrape(registry)).get('enclave_active_executions')).toBe(2);
    stops[1]?.();
    const found = await scrape(registry);
    expect(found.get('enclave_active_executions')).toBe(0);
    expect(startingWith(found, 'enclave_queue_depth')).toEqual({});
    expect(pool.observers.size).toBe(0);
  });

  it('does not share the names of its workers with another pool of the process', async () => {
    const registry = createRegistry();
    const pools = [1, 2, 3].map(() => new FakePool());
    const stops = pools.map((pool, index) => {
      pool.workers(['w1', index + 1]);
      return meterPool(registry, pool, `r${index}`, () => true);
    });
    const expected = { [`${MEMORY}{worker_id="2:w1"}`]: 2, [`${MEMORY}{worker_id="3:w1"}`]: 3 };
    expect(startingWith(await scrape(registry), MEMORY)).toEqual({
      [`${MEMORY}{worker_id="w1"}`]: 1,
      ...expected,
    });
    stops[0]?.();
    expect(startingWith(await scrape(registry), MEMORY)).toEqual(expected);
    meterPool(registry, pools[0] as FakePool, 'r0', () => true);
    expect(startingWith(await scrape(registry), MEMORY)).toEqual({
      ...expected,
      [`${MEMORY}{worker_id="4:w1"}`]: 1,
    });
  });
});

describe('an Enclave', () => {
  it('counts its runs, their calls, and those that found the queue full', async () => {
    const registry = createRegistry();
    const { ended, stop } = meter(registry, new FakePool());
    const stats = { queueTime: 500, duration: 250 } as ExecutionResult['stats'];
    const call = { callId: 'e/0', callIndex: 0, name: 'a:b', durationMs: 20 };
    const base = { executionId: 'e', stats };
    ended({ ...base, success: true, value: 1, toolCalls: [{ ...call, outcome: 'completed' }] });
    const error = { code: 'OVERLOADED', outcome: 'not_started' } as Extract<
      ExecutionResult,
      { success: false }
    >['error'];
    ended({
      ...base,
      success: false,
      error,
      toolCalls: [{ ...call, outcome: 'unknown', code: 'CANCELLED' }],
    });
    const found = await scrape(registry);
    stop();
    expect(found.get('enclave_executions_total{outcome="completed",code="OK"}')).toBe(1);
    expect(found.get('enclave_executions_total{outcome="not_started",code="OVERLOADED"}')).toBe(1);
    expect(found.get('enclave_mailbox_rejections_total{reason="queue"}')).toBe(1);
    expect(found.get('enclave_execution_latency_seconds_sum')).toBeCloseTo(1.5);
    expect(found.get('enclave_tool_calls_total{tool="a.b",outcome="completed"}')).toBe(1);
    expect(found.get('enclave_tool_calls_total{tool="a.b",outcome="unknown"}')).toBe(1);
    expect(found.get('enclave_tool_call_latency_seconds_count')).toBe(1);
  });
});

describe('a broker', () => {
  const nobody = { statuses: () => new Map<string, number>(), waiting: () => 0, hears: () => true };

  it('tells of sessions and waiting executions as they are at the scrape', async () => {
    const registry = createRegistry();
    const statuses = new Map([
      ['idle', 3],
      ['executing', 0],
    ]);
    let waiting = 2;
    const { stop } = meterBroker(
      registry,
      { ...nobody, statuses: () => statuses, waiting: () => waiting },
      () => 0,
    );
    let found = await scrape(registry);
    expect(startingWith(found, 'enclave_sessions')).toEqual({
      'enclave_sessions{status="idle"}': 3,
      'enclave_sessions{status="executing"}': 0,
    });
    expect(found.get('enclave_waiting_executions')).toBe(2);
    waiting = 0;
    found = await scrape(registry);
    expect(found.get('enclave_waiting_executions')).toBe(0);
    stop();
    expect(startingWith(await scrape(registry), 'enclave_sessions')).toEqual({});
  });

  it('counts what it tells its operator', async () => {
    const registry = createRegistry();
    const { notice } = meterBroker(registry, nobody, () => 0);
    const of = { session: 's', execution: 'e' };
    notice({ type: 'execution.ended', ...of, result: '{}', outcome: 'completed', code: 'OK', latencyMs: 5 });
    notice({ type: 'tool.ended', ...of, tool: 'a', outcome: 'completed', code: '', durationMs: 1 });
    notice({ type: 'execution.replayed', ...of, reason: 'runtime_lost' });
    notice({ type: 'session.taken_over', session: 's', epoch: 2, from: 'b' });
    notice({ type: 'session.handed_over', session: 's', to: 'b' });
    notice({ type: 'lease.lost', incarnation: 'i', reason: 'the main loop stood still' });
    notice({ type: 'session.fenced', session: 's' });
    const found = Object.fromEntries([...(await scrape(registry))].filter(([, value]) => value === 1));
    expect(
      Object.keys(found)
        .filter((series) => series.includes('_total'))
        .toSorted(),
    ).toEqual([
      'enclave_executions_total{outcome="completed",code="OK"}',
      'enclave_lease_losses_total{reason="stood_still"}',
      'enclave_lease_takeovers_total',
      'enclave_migrations_total',
      'enclave_replays_total{reason="runtime_lost"}',
      'enclave_tool_calls_total{tool="a",outcome="completed"}',
    ]);
  });

  it('has a reason for every way in which the lease machine loses one', () => {
    const machine = readFileSync(path.resolve(import.meta.dirname, '../../actors/lease.ts'), 'utf8');
    const reasons = [...machine.matchAll(/give\(context, '([^']+)'\)/g)].map(([, reason = '']) => reason);
    expect(reasons.length).toBeGreaterThan(4);
    // It was given up: that is no loss, and is not told.
    const lost = reasons.filter((reason) => reason !== 'it was ended');
    expect(lost.filter((reason) => lossOf(reason) === 'other')).toEqual([]);
    expect(lossOf('constructor')).toBe('other');
  });

  it('says nothing of runtimes while it is cut off itself', async () => {
    const registry = createRegistry();
    let connected = true;
    const { notice } = meterBroker(registry, { ...nobody, hears: () => connected }, () => 0);
    const health = async () => startingWith(await scrape(registry), 'enclave_runtime_health');
    notice({ type: 'runtime.heard', runtime: 'a' });
    connected = false;
    notice({ type: 'runtime.gone', runtime: 'a', drained: false });
    expect(await health()).toEqual({});
    connected = true;
    expect(await health()).toEqual({ 'enclave_runtime_health{runtime_id="a"}': 0 });
    notice({ type: 'runtime.heard', runtime: 'a' });
    expect(await health()).toEqual({ 'enclave_runtime_health{runtime_id="a"}': 1 });
  });

  it('reports a lost runtime for a quarter of an hour, and one that drained no more', async () => {
    const registry = createRegistry();
    const { now, passes } = clock();
    const { notice } = meterBroker(registry, nobody, now);
    const health = async () => startingWith(await scrape(registry), 'enclave_runtime_health');
    const of = (runtime: string) => `enclave_runtime_health{runtime_id="${runtime}"}`;
    for (const runtime of ['a', 'b', 'c']) notice({ type: 'runtime.heard', runtime });
    expect(await health()).toEqual({ [of('a')]: 1, [of('b')]: 1, [of('c')]: 1 });
    notice({ type: 'runtime.gone', runtime: 'a', drained: true });
    notice({ type: 'runtime.gone', runtime: 'b', drained: false });
    expect(await health()).toEqual({ [of('b')]: 0, [of('c')]: 1 });
    passes(REMEMBER_MS - 1);
    expect(await health()).toEqual({ [of('b')]: 0, [of('c')]: 1 });
    passes(1);
    expect(await health()).toEqual({ [of('c')]: 1 });
    notice({ type: 'runtime.gone', runtime: 'c', drained: false });
    notice({ type: 'runtime.heard', runtime: 'c' });
    expect(await health()).toEqual({ [of('c')]: 1 });
    for (let index = 0; index < 2_000; index++)
      notice({ type: 'runtime.gone', runtime: `x${index}`, drained: false });
    expect(Object.keys(await health())).toHaveLength(1_001);
  });
});

describe('what is not taken', () => {
  it('is counted by what was full and by what it was', async () => {
    const registry = createRegistry();
    const losses = meterLosses(registry);
    losses.overloaded('runs');
    losses.overloaded('runs');
    losses.dropped('command');
    const found = await scrape(registry);
    expect(found.get('enclave_mailbox_rejections_total{reason="runs"}')).toBe(2);
    expect(found.get('enclave_mailbox_rejections_total{reason="queue"}')).toBe(0);
    expect(found.get('enclave_dead_letters_total{reason="command"}')).toBe(1);
  });

  it('is counted every time, though it is told once a second', async () => {
    const registry = createRegistry();
    const told: number[] = [];
    const dropped = new Dropped(
      { monotonic: () => 0 },
      (notice) => notice.type === 'message.dropped' && told.push(notice.count),
      meterLosses(registry),
    );
    for (let count = 0; count < 5; count++) dropped.note('e.n.session.s.in.AAAA', 'items[3].kind');
    dropped.note('e.n.session.s.in.tools', 'key');
    dropped.note('e.n.runtime.r.heartbeat', 'load');
    expect(told).toEqual([1]);
    expect(startingWith(await scrape(registry), 'enclave_dead_letters_total')).toEqual({
      'enclave_dead_letters_total{reason="report"}': 5,
      'enclave_dead_letters_total{reason="provider"}': 1,
      'enclave_dead_letters_total{reason="heartbeat"}': 1,
      'enclave_dead_letters_total{reason="command"}': 0,
      'enclave_dead_letters_total{reason="unreadable"}': 0,
    });
  });
});

describe('a process', () => {
  it('says what it is connected to and whether it drains; two of one registry say the worse', async () => {
    const registry = createRegistry();
    const state = { bus: true, store: true, draining: false };
    const stop = meterProcess(registry, {
      bus: () => state.bus,
      store: () => state.store,
      draining: () => state.draining,
    });
    const other = meterProcess(registry, { bus: () => true, draining: () => false });
    const flags = async () => {
      const found = await scrape(registry);
      return ['bus_connected', 'store_connected', 'draining'].map((name) => found.get(`enclave_${name}`));
    };
    expect(await flags()).toEqual([1, 1, 0]);
    Object.assign(state, { bus: false, store: false, draining: true });
    expect(await flags()).toEqual([0, 0, 1]);
    stop();
    expect((await flags())[0]).toBe(1);
    other();
  });

  it('says nothing of a store where it has none', async () => {
    const registry = createRegistry();
    const stop = meterProcess(registry, { bus: () => true, draining: () => false });
    expect((await scrape(registry)).has('enclave_store_connected')).toBe(false);
    stop();
  });

  it('has one main loop, which is watched until the last that asked for it lets go', async () => {
    const registry = createRegistry();
    const lag = { seconds: 0.25, started: 0, stopped: 0 };
    const start = () => {
      lag.started++;
      return { take: () => lag.seconds, stop: () => lag.stopped++ };
    };
    const stops = [meterEventLoop(registry, start), meterEventLoop(registry, start)];
    expect((await scrape(registry)).get('enclave_event_loop_lag_seconds')).toBe(0.25);
    stops[0]?.();
    expect([lag.started, lag.stopped]).toEqual([1, 0]);
    stops[1]?.();
    expect(lag.stopped).toBe(1);
    expect((await scrape(registry)).get('enclave_event_loop_lag_seconds')).toBe(0);
  });

  it('sees that its main loop was blocked, once', async () => {
    const registry = createRegistry();
    const stop = meterEventLoop(registry);
    const lag = async () => (await scrape(registry)).get('enclave_event_loop_lag_seconds') ?? 0;
    const turn = () => new Promise((resolve) => setTimeout(resolve, 50));
    await turn();
    const end = performance.now() + 300;
    while (performance.now() < end);
    await turn();
    expect(await lag()).toBeGreaterThan(0.2);
    expect(await lag()).toBe(0);
    stop();
  });
});

describe('a gauge', () => {
  it('puts together what several say of the same', async () => {
    const registry = createRegistry();
    const stops = [3, 5].map((value) =>
      readGauge(registry, 'enclave_queue_depth', (report) => report(value, 'r')),
    );
    readGauge(registry, 'enclave_runtime_health', (report) => report(1, 'r'));
    readGauge(registry, 'enclave_runtime_health', (report) => report(0, 'r'));
    const found = await scrape(registry);
    expect(found.get('enclave_queue_depth{runtime="r"}')).toBe(8);
    expect(found.get('enclave_runtime_health{runtime_id="r"}')).toBe(0);
    stops[0]?.();
    expect((await scrape(registry)).get('enclave_queue_depth{runtime="r"}')).toBe(5);
  });

  it('comes back in a registry that its user has cleared', async () => {
    const registry = createRegistry();
    readGauge(registry, 'enclave_draining', (report) => report(1));
    registry.clear();
    expect(await registry.metrics()).toBe('\n');
    readGauge(registry, 'enclave_draining', (report) => report(0));
    expect((await scrape(registry)).get('enclave_draining')).toBe(1);
  });
});

describe('what is shared', () => {
  it('begins with the first user, ends with the last, and begins again', () => {
    const shared = new Shared<string>();
    const log: string[] = [];
    const start = () => {
      log.push('start');
      return () => log.push('stop');
    };
    const [one, two] = [shared.use('a', start), shared.use('a', start)];
    one();
    one();
    expect([log, shared.size]).toEqual([['start'], 1]);
    two();
    expect([log, shared.size]).toEqual([['start', 'stop'], 0]);
    shared.use('a', start)();
    expect(log).toHaveLength(4);
  });
});

describe('a replay', () => {
  const context = (...attempts: readonly (string | undefined)[]): SessionContext =>
    ({
      executions: attempts.map((id, index) => ({
        id: `e${index}`,
        attempt: id === undefined ? undefined : { id },
      })) as unknown as readonly Execution[],
    }) as SessionContext;
  const event = (rest: object): SessionEvent => ({ execution: 'e0', attempt: 'a', ...rest }) as SessionEvent;
  const lost = event({ type: 'attempt.lost' });
  const reported = (kind: string | undefined) =>
    event({ type: 'attempt.reported', end: kind === undefined ? undefined : { kind } });

  it('follows the loss of the attempt under way, if the execution goes on', () => {
    const before = context('a');
    expect(replayOf(lost, before, context(undefined))).toEqual({ execution: 'e0', reason: 'runtime_lost' });
    expect(replayOf(lost, before, context('b'))).toEqual({ execution: 'e0', reason: 'runtime_lost' });
    for (const kind of ['lost', 'stopped'])
      expect(replayOf(reported(kind), before, context('b'))).toEqual({
        execution: 'e0',
        reason: 'given_back',
      });
  });

  it('does not follow a loss that ends the execution, or was known before', () => {
    expect(replayOf(lost, context('a'), context())).toBeUndefined();
    expect(replayOf(lost, context('b'), context('b'))).toBeUndefined();
    expect(replayOf(lost, context(undefined), context(undefined))).toBeUndefined();
    // A report that came too early is not taken in.
    expect(replayOf(reported('lost'), context('a'), context('a'))).toBeUndefined();
  });

  it('does not follow other ends, or other facts', () => {
    for (const kind of ['returned', 'failed', 'refused', undefined])
      expect(replayOf(reported(kind), context('a'), context(undefined))).toBeUndefined();
    const refused = event({ type: 'attempt.refused' });
    expect(replayOf(refused, context('a'), context(undefined))).toBeUndefined();
  });
});
