/** Acceptance: where executions run, by the labels of their session and by how much the runtimes have to do. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SessionRef } from '../../src/client/session.ts';
import type { ExecutionResult } from '../../src/result.ts';
import { resolveRouting } from '../../src/routing.ts';
import { Parts } from '../support/parts.ts';

let parts: Parts;
beforeEach(() => {
  parts = new Parts();
});
afterEach(() => parts.close());

/** The guide's own. */
const GUIDE = resolveRouting({
  routingStrategy: 'label-match',
  routingRules: [
    { match: { priority: 'high' }, target: { tier: 'premium' } },
    { match: { region: 'us-east' }, target: { region: 'us-east' } },
  ],
});
const FALLBACK = resolveRouting({
  routingStrategy: 'label-match',
  routingRules: [
    { match: { priority: 'high' }, target: { tier: 'premium' }, fallback: { tier: 'standard' } },
  ],
});
/** Runs until its session is closed. */
const FOREVER = 'for (;;) await sleep(50);';

const errorOf = (result: ExecutionResult) => (result.success ? undefined : result.error);
const runtimeOf = async (session: SessionRef): Promise<string | undefined> => (await session.info()).runtime;

/** Where one execution of a new session with these labels ran. */
async function ranOn(labels: Readonly<Record<string, string>> = {}): Promise<string | undefined> {
  const session = await parts.session(labels);
  expect(await session.execute('return 1').result).toMatchObject({ success: true, value: 1 });
  return runtimeOf(session);
}

describe('routing rules', () => {
  it("do what the guide's say: all that match hold, and a session that none matches runs anywhere", async () => {
    await parts.broker('b1', { routing: GUIDE });
    // The plain one has the most room by far.
    await parts.runtime('plain', {}, 64);
    await parts.runtime('premium', { tier: 'premium' }, 4);
    await parts.runtime('premium-east', { tier: 'premium', region: 'us-east' }, 2);
    await parts.known(3);
    expect(await ranOn()).toBe('plain');
    expect(await ranOn({ priority: 'low' })).toBe('plain');
    expect(await ranOn({ priority: 'high' })).toBe('premium');
    expect(await ranOn({ region: 'us-east' })).toBe('premium-east');
    expect(await ranOn({ region: 'us-east', priority: 'high' })).toBe('premium-east');
  });

  it('hold for stateless runs too', async () => {
    await parts.broker('b1', { routing: GUIDE, placementTimeoutMs: 200 });
    await parts.runtime('plain');
    await parts.known(1);
    expect(await parts.client.run('return 1')).toMatchObject({ success: true });
    const refused = await parts.client.run('return 1', { labels: { priority: 'high' } });
    expect(errorOf(refused)).toMatchObject({ code: 'NO_RUNTIME', details: { wanted: { tier: 'premium' } } });
    await parts.runtime('premium', { tier: 'premium' });
    await parts.known(2);
    expect(await parts.client.run('return 2', { labels: { priority: 'high' } })).toMatchObject({ value: 2 });
  });

  it('that no runtime fits end as NO_RUNTIME, saying what was wanted and what is there', async () => {
    await parts.broker('b1', { routing: GUIDE, placementTimeoutMs: 300 });
    await parts.runtime('plain', { tier: 'standard' }, 4);
    await parts.known(1);
    const session = await parts.session({ priority: 'high' });
    expect(errorOf(await session.execute('return 1').result)).toMatchObject({
      code: 'NO_RUNTIME',
      message: 'No runtime took the execution within 300 ms: no runtime has the label tier=premium',
      outcome: 'not_started',
      retryable: true,
      details: {
        wanted: { tier: 'premium' },
        runtimes: [{ id: 'plain', labels: { tier: 'standard' }, free: 4, draining: false }],
        known: 1,
      },
    });
  });

  it('wait for a runtime that is on its way up', async () => {
    await parts.broker('b1', { routing: GUIDE });
    await parts.runtime('plain');
    await parts.known(1);
    const session = await parts.session({ priority: 'high' });
    const run = session.execute('return 7');
    await run.accepted;
    await parts.runtime('premium', { tier: 'premium' });
    expect(await run.result).toMatchObject({ success: true, value: 7 });
    expect(await runtimeOf(session)).toBe('premium');
  });

  it('fall back while nobody is there, and wait for one that is there and full', async () => {
    await parts.broker('b1', { routing: FALLBACK });
    await parts.runtime('standard', { tier: 'standard' });
    await parts.known(1);
    expect(await ranOn({ priority: 'high' })).toBe('standard');
    await parts.runtime('premium', { tier: 'premium' }, 1);
    await parts.known(2);
    const busy = await parts.session({ priority: 'high' });
    const running = busy.execute(FOREVER);
    await parts.until(async () => (await runtimeOf(busy)) === 'premium', 'it runs on the premium one');
    const next = await parts.session({ priority: 'high' });
    const waiting = next.execute('return 3');
    await waiting.accepted;
    await busy.close();
    expect(errorOf(await running.result)).toMatchObject({ code: 'CLOSED' });
    expect(await waiting.result).toMatchObject({ success: true, value: 3 });
    expect(await runtimeOf(next)).toBe('premium');
  });

  it('are the rules of the broker that owns the session now', async () => {
    const first = await parts.broker('b1', { routing: GUIDE });
    await parts.runtime('plain');
    await parts.runtime('premium', { tier: 'premium' });
    await parts.known(2);
    const session = await parts.session({ priority: 'high' });
    await session.execute('return 1').result;
    expect(await runtimeOf(session)).toBe('premium');
    await parts.broker('b2', {
      routing: resolveRouting({
        routingStrategy: 'label-match',
        routingRules: [{ match: {}, target: { tier: 'gold' } }],
      }),
    });
    await parts.runtime('gold', { tier: 'gold' });
    await parts.known(3);
    await first.drain();
    expect(await session.execute('return 2').result).toMatchObject({ success: true });
    expect(await runtimeOf(session)).toBe('gold');
  });
});

describe('strategies', () => {
  /** Where each of so many sessions ran, one after the other. */
  async function shares(sessions: number): Promise<Readonly<Record<string, number>>> {
    const counts: Record<string, number> = {};
    for (let count = 0; count < sessions; count++) {
      const runtime = (await ranOn()) ?? 'none';
      counts[runtime] = (counts[runtime] ?? 0) + 1;
    }
    return counts;
  }

  it('round-robin gives every runtime its turn, however large it is', async () => {
    await parts.broker('b1', { routing: resolveRouting({ routingStrategy: 'round-robin' }) });
    await Promise.all([parts.runtime('a', {}, 2), parts.runtime('b', {}, 16), parts.runtime('c', {}, 64)]);
    await parts.known(3);
    expect(await shares(12)).toEqual({ a: 4, b: 4, c: 4 });
  });

  it('round-robin goes on with the next one for the executions of one session', async () => {
    await parts.broker('b1', { routing: resolveRouting({ routingStrategy: 'round-robin' }) });
    await Promise.all([parts.runtime('a'), parts.runtime('b')]);
    await parts.known(2);
    const session = await parts.session();
    const seen: (string | undefined)[] = [];
    for (let run = 0; run < 4; run++) {
      await session.execute('return 1').result;
      seen.push(await runtimeOf(session));
    }
    expect([seen[0], seen[1]]).toEqual([seen[2], seen[3]]);
    expect(new Set(seen).size).toBe(2);
  });

  it('least-loaded is the default: what runs spreads by the room that is left', async () => {
    await parts.broker('b1');
    await Promise.all([parts.runtime('large', {}, 40), parts.runtime('small', {}, 32)]);
    await parts.known(2);
    const runs: { readonly session: SessionRef; readonly result: Promise<ExecutionResult> }[] = [];
    const where: (string | undefined)[] = [];
    for (let count = 0; count < 16; count++) {
      const session = await parts.session();
      runs.push({ session, result: session.execute(FOREVER).result });
      await parts.until(async () => (await runtimeOf(session)) !== undefined, 'it runs');
      where.push(await runtimeOf(session));
    }
    // The first eight make them even, to one more or less: a heartbeat may show a load that is not yet all of it.
    expect(where.slice(0, 7)).toEqual(Array(7).fill('large'));
    const onSmall = where.filter((id) => id === 'small').length;
    expect(onSmall).toBeGreaterThanOrEqual(3);
    expect(onSmall).toBeLessThanOrEqual(5);
    await Promise.all(runs.map(({ session }) => session.close()));
    await Promise.all(runs.map(({ result }) => result));
  });
});
