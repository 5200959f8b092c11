/** Containment, "Memory" and "Time": what a script holds while it waits, and what it leaves running when it ends. */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { HEAVY, LEVELS, openArena } from './arena.ts';

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

describe.runIf(process.platform === 'linux')(
  'a script on a thread of its own that leaves work behind',
  () => {
    /** CPU time of a process so far, in ms; undefined once it is gone. */
    const cpuMs = (pid: number): number | undefined => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
        const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        return state === 'Z' || state === 'X' ? undefined : (Number(fields[10]) + Number(fields[11])) * 10;
      } catch {
        return undefined;
      }
    };
    /** Resolves when all processes are gone, or use less than a fifth of a core for half a second. */
    const calm = async (pids: readonly number[]): Promise<void> => {
      const used = (): number => pids.reduce((sum, pid) => sum + (cpuMs(pid) ?? 0), 0);
      const usesLittle = async (): Promise<boolean> => {
        const before = used();
        await new Promise((resolve) => setTimeout(resolve, 500));
        return used() - before < 100;
      };
      await expect.poll(usesLittle, { timeout: 10_000 }).toBe(true);
    };
    /** Goes on for hours, and no termination of V8's ends it. */
    const ENDLESS = '[].indexOf.call({ length: 2 ** 53 - 1 }, 1)';
    const LATER = 'Promise.resolve().then(() => 0).then';

    const cases = [
      ['it returns', `${HEAVY} Promise.resolve().then(() => 0).then(() => ${ENDLESS}); return 1`],
      ['it passes its CPU time', `${HEAVY} ${ENDLESS}`],
      ['it is cancelled', `${HEAVY} await callTool('echo', 'cancel'); ${ENDLESS}`],
      ['its time is over', `${HEAVY} ${ENDLESS}`],
    ] as const;
    for (const [name, code] of cases) {
      it.each(LEVELS)(`no thread spins on when ${name} at level %s`, async (isolation) => {
        const tenant = `${name} ${isolation}`;
        expect(await arena.value('return 1', { isolation, tenant })).toBe(1);
        const seen = new Set<number>();
        const look = setInterval(() => {
          for (const pid of arena.pids()) seen.add(pid);
        }, 5);
        const cancel = new AbortController();
        const result = await arena.attack(code, {
          isolation,
          tenant,
          signal: cancel.signal,
          limits: {
            cpuMs: name === 'it passes its CPU time' ? 300 : 60_000,
            timeoutMs: name === 'its time is over' ? 400 : 20_000,
          },
          onEvent: ({ type }) => {
            if (type === 'tool_call') setTimeout(() => cancel.abort(), 100);
          },
        });
        clearInterval(look);
        if (name === 'it returns') expect(result).toMatchObject({ success: true, value: 1 });
        else expect(result.success).toBe(false);
        expect(seen.size).toBeGreaterThan(0);
        await calm([...seen, ...arena.pids()]);
        expect(arena.enclave.stats().restarts).toBe(0);
      });
    }

    it.each([
      `${HEAVY} ${LATER}(() => { for (;;); }); return 1`,
      `${HEAVY} const spin = () => Promise.resolve().then(spin); spin(); return 1`,
      `${HEAVY} ${LATER}(() => [].indexOf.call({ length: 1e5 }, 1)); return 1`,
      `${HEAVY} ${LATER}(() => /^(a+)+$/.test("a".repeat(40) + "b")); return 1`,
      `${HEAVY} return 1`,
    ])('its worker lives on where that can be ended: %s', async (code) => {
      expect(await arena.value('return 1')).toBe(1);
      const before = arena.pids();
      expect(await arena.value(code)).toBe(1);
      await calm(arena.pids());
      expect(arena.pids()).toEqual(before);
    });
  },
);
