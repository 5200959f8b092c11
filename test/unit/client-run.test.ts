/** A stateless run, as a client sees it through: what is told, in whichever order. */
import { describe, expect, it } from 'vitest';
import type { RunScript } from '../../src/protocol.ts';
import type { ExecutionResult } from '../../src/result.ts';
import { World } from './client-world.ts';

const RESULT = JSON.stringify({
  success: true,
  value: 42,
  executionId: 'x',
  stats: {},
  toolCalls: [],
  output: [],
} as unknown as ExecutionResult);

describe('the result of a stateless run', () => {
  it('counts when it overtakes the answer that says where it runs, though its broker is gone then', async () => {
    const world = new World();
    const client = await world.client();
    // A main loop that stood still: the answer was due, and the run has ended, in the same turn.
    world.broker<RunScript>('run', ({ run }) => {
      world.tell('home', run, RESULT);
      return { value: { home: 'home', result: undefined } };
    });
    const result = await world.clock.until(client.run('return 42'));
    expect(result).toMatchObject({ success: true, value: 42 });
    // It did not have to be asked for.
    expect(world.clock.time).toBeLessThan(1_000);
    await client.close();
  });

  it('does not count when it comes from elsewhere', async () => {
    const world = new World();
    const client = await world.client();
    world.broker<RunScript>('run', ({ run }) => {
      world.tell('elsewhere', run, RESULT);
      return { value: { home: 'home', result: undefined } };
    });
    const result = await world.clock.until(client.run('return 42'));
    expect(result).toMatchObject({ success: false, error: { outcome: 'unknown' } });
    await client.close();
  });

  it('is waited for until its deadline, which the broker tells where the client set none', async () => {
    const took = async (limits: { readonly deadlineMs?: number }, told: number | undefined) => {
      const world = new World();
      const client = await world.client({ defaults: {} });
      const value = { home: 'home', result: undefined, deadlineMs: told };
      world.broker('run', () => ({ value }));
      world.owner('home', 0, ({ t }) =>
        t === 'result' ? { value: { status: 'running', result: undefined } } : { value: {} },
      );
      const result = await world.clock.until(client.run('return 42', { limits }));
      expect(result).toMatchObject({ success: false, error: { code: 'TIMEOUT', outcome: 'unknown' } });
      await client.close();
      return Math.round(world.clock.time / 1_000);
    };
    expect(await took({}, 50_000)).toBe(80);
    expect(await took({ deadlineMs: 20_000 }, undefined)).toBe(50);
  });

  it('is waited for when it comes later', async () => {
    const world = new World();
    const client = await world.client();
    world.broker<RunScript>('run', ({ run }) => {
      world.clock.after(500, () => world.tell('home', run, RESULT));
      return { value: { home: 'home', result: undefined } };
    });
    const result = await world.clock.until(client.run('return 42'));
    expect(result).toMatchObject({ success: true, value: 42 });
    await client.close();
  });
});
