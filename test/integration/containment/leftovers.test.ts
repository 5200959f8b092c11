/** Containment, "Memory" and "Time": what a script holds while it waits, and what it leaves running when it ends. */
import { afterAll, describe, expect, it } from 'vitest';
import { LEVELS, openArena } from './arena.ts';

const arena = openArena();
afterAll(() => arena[Symbol.asyncDispose]());

describe('a script that waits while its isolate is full', () => {
  const FILL =
    'const kept = []; try { for (let i = 0; i < 32; i++) kept.push(new ArrayBuffer(1 << 20)) } catch {}';
  const limits = { cpuMs: 5_000, timeoutMs: 10_000 };

  it.each(LEVELS)('takes neither its worker nor its neighbours along at level %s', async (isolation) => {
    expect(await arena.value('return 1', { isolation })).toBe(1);
    const before = arena.pids();
    const beside = arena.enclave.run('for (let i = 0; i < 20; i++) await sleep(10); return 1', {
      tenant: 'neighbour',
      limits,
    });
    const result = await arena.attack(`${FILL} await sleep(200); return kept.length > 0`, {
      isolation,
      limits,
    });
    if (result.success) expect(result.value).toBe(true);
    else expect(result.error.code).toBe('MEMORY_LIMIT_EXCEEDED');
    expect(await beside).toMatchObject({ stats: { attempts: 1 } });
    expect(arena.enclave.stats().restarts).toBe(0);
    if (isolation !== 'process') expect(arena.pids()).toEqual(before);
  });

  it('does not fail the next script of its tenant, that comes meanwhile', async () => {
    const tenant = 'full house';
    const holder = arena.enclave.run(`${FILL} await callTool("echo", 1); await sleep(200); return 1`, {
      tenant,
      limits,
    });
    const others = [0, 1, 2, 3].map((n) =>
      arena.enclave.run(`await sleep(${n * 20}); return ${n}`, { tenant, limits }),
    );
    for (const [n, other] of others.entries()) expect(await other).toMatchObject({ success: true, value: n });
    await holder;
    expect(arena.enclave.stats().restarts).toBe(0);
  });
});
