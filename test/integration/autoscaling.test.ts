/** Acceptance: a pool of runtimes grows with what is asked of it, shrinks without losing anything, and has one mind. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { resolveRuntimePool } from '../../src/options.ts';
import type { Provisioner } from '../../src/provision/provisioner.ts';
import { defineTool } from '../../src/tools/define.ts';
import { Parts } from '../support/parts.ts';

let parts: Parts;
/** Scripts that call the tool wait for it. */
let gate = Promise.withResolvers<void>();
const provisioners: InProcess[] = [];
beforeEach(() => {
  gate = Promise.withResolvers<void>();
  parts = new Parts([defineTool({ name: 'gate', effect: 'read', handler: () => gate.promise })]);
});
afterEach(async () => {
  await parts.close();
  await Promise.all(provisioners.splice(0).map((provisioner) => provisioner.close()));
});

/** Runtimes of this process, with real workers and room for two executions each. */
class InProcess implements Provisioner {
  readonly labels = {};
  readonly #name: string;
  readonly #mine = new Set<string>();
  #started = 0;
  /** How often a start fails before one succeeds. */
  failures = 0;
  drained = 0;
  /** Looks that its broker has begun, and those for which it had the role. */
  looks = 0;
  decided = 0;

  constructor(name: string) {
    this.#name = name;
    provisioners.push(this);
  }

  async start(): Promise<{ readonly id: string }> {
    if (this.failures-- > 0) throw new Error('no machine is left');
    const id = `${this.#name}-${++this.#started}`;
    this.#mine.add(id);
    await parts.runtime(id, {}, 2);
    return { id };
  }
  async drain(id: string): Promise<void> {
    this.drained++;
    await parts.drain(id);
    this.#mine.delete(id);
  }
  async stop(id: string): Promise<void> {
    await parts.stop(id);
    this.#mine.delete(id);
  }
  async list(): Promise<readonly string[]> {
    this.decided++;
    return this.mine;
  }
  get mine(): readonly string[] {
    return [...this.#mine];
  }
  async close(): Promise<void> {
    await Promise.all([...this.#mine].map((id) => this.stop(id)));
  }
}

const POOL = resolveRuntimePool({ minSize: 1, maxSize: 3, scaleInterval: 200 });
const scaled = () =>
  parts.notices.flatMap((notice) => (notice.type === 'runtimes.scaled' ? [notice.to - notice.from] : []));

async function broker(name: string): Promise<InProcess> {
  const provisioner = new InProcess(name);
  const store = parts.store.handle();
  const holdRole = store.holdRole.bind(store);
  vi.spyOn(store, 'holdRole').mockImplementation((...asked) => {
    provisioner.looks++;
    return holdRole(...asked);
  });
  vi.spyOn(parts.store, 'handle').mockReturnValueOnce(store);
  await parts.broker(name, { autoscaling: { pool: POOL, provisioner } });
  return provisioner;
}

describe('a pool of runtimes', () => {
  it('grows while executions wait, and shrinks to its least without disturbing one', async () => {
    const provisioner = await broker('b1');
    await parts.until(() => parts.runtimes.length === 1, 'the least number is there');
    const sessions = await Promise.all(Array.from({ length: 6 }, () => parts.session()));
    // More than one runtime has room for, and as much as three have.
    const runs = sessions.map((session) => session.execute(`await callTool('gate'); return 'done'`));
    await parts.until(() => parts.runtimes.length === 3, 'it is at its most');
    await parts.until(
      async () =>
        (await Promise.all(sessions.map((session) => session.info()))).every(
          (info) => info.runtime !== undefined,
        ),
      'everyone runs',
    );
    gate.resolve();
    const results = await Promise.all(runs.map(({ result }) => result));
    expect(results.map((result) => result.success && result.value)).toEqual(Array(6).fill('done'));
    expect(results.map(({ stats }) => stats.attempts)).toEqual(Array(6).fill(1));
    await parts.until(() => parts.runtimes.length === 1, 'it is at its least again');
    expect(provisioner.drained).toBe(2);
    const changes = scaled();
    expect(changes.slice(-2)).toEqual([-1, -1]);
    expect(changes.slice(0, -2).reduce((sum, change) => sum + change, 0)).toBe(3);
    expect(changes.slice(0, -2).every((change) => change > 0)).toBe(true);
  });

  it('is made up when a runtime is lost, and its executions go on', async () => {
    const provisioner = await broker('b1');
    await parts.until(() => parts.runtimes.length === 1, 'one is there');
    const session = await parts.session();
    const run = session.execute(`await callTool('gate'); return 'done'`);
    await parts.until(async () => (await session.info()).runtime === 'b1-1', 'it runs');
    await provisioner.stop('b1-1');
    await parts.until(async () => (await session.info()).runtime === 'b1-2', 'it runs elsewhere');
    gate.resolve();
    expect(await run.result).toMatchObject({ success: true, value: 'done', stats: { attempts: 2 } });
    expect(parts.runtimes).toEqual(['b1-2']);
  });

  it('comes up after starts that failed', async () => {
    const provisioner = new InProcess('b1');
    provisioner.failures = 2;
    await parts.broker('b1', { autoscaling: { pool: POOL, provisioner } });
    await parts.until(() => parts.runtimes.length === 1, 'one is there');
    expect(parts.notices.filter(({ type }) => type === 'scaling.failed')).toEqual([
      { type: 'scaling.failed', reason: 'no machine is left' },
      { type: 'scaling.failed', reason: 'no machine is left' },
    ]);
    expect(await (await parts.session()).execute('return 5').result).toMatchObject({ value: 5 });
  });

  it.each(['drain', 'abandon'] as const)(
    'is looked after by one broker, and by another after its %s',
    async (end) => {
      const first = await broker('b1');
      await parts.until(() => parts.runtimes.length === 1, 'one is there');
      const second = await broker('b2');
      await parts.until(
        () => parts.brokers.every(({ directory }) => directory.brokers().length === 2),
        'both are known',
      );
      // The second sees what the first one started, decides nothing, and starts nothing of its own.
      await parts.known(1);
      // A look begins by asking for the role: with the third one the first two are over.
      await parts.until(() => second.looks >= 3, 'the second one has looked twice');
      expect([second.decided, second.mine]).toEqual([0, []]);
      if (end === 'drain') await parts.brokers[0]?.drain();
      else parts.brokers[0]?.abandon();
      await first.close();
      await parts.until(() => second.mine.length === 1, 'the second one started one');
      expect(parts.runtimes).toEqual(['b2-1']);
    },
  );
});
