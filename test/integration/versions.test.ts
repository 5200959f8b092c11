/** Acceptance: a session goes through brokers of two releases, up and down again, and its scripts do not notice. */
import { afterEach, describe, expect, it } from 'vitest';
import { defineTool, type SessionRef } from '../../src/index.ts';
import type { Broker } from '../../src/session/broker.ts';
import { CODEC } from '../../src/session/release.ts';
import { versionOf } from '../../src/session/snapshot.ts';
import { CODEC as NEXT } from '../support/nextrelease.ts';
import { Parts } from '../support/parts.ts';
import { expectContiguous, logOf, subscribe } from '../support/systems.ts';
import { valueIn } from './ends.ts';

let parts: Parts;
afterEach(() => parts.close());

/** Calls of each n, and which of them may end. */
const calls = new Map<number, number>();
let open = 0;
const waits: (() => void)[] = [];
const step = defineTool({
  name: 'step',
  effect: 'unsafe',
  handler: async (args) => {
    const { n } = args as { readonly n: number };
    calls.set(n, (calls.get(n) ?? 0) + 1);
    while (n >= open) await new Promise<void>((resolve) => waits.push(resolve));
    return n;
  },
});
/** Calls up to this n may end, and the next one is made. */
async function upTo(n: number): Promise<void> {
  open = n;
  for (const wake of waits.splice(0)) wake();
  await parts.until(() => calls.has(n), `call ${n} is made`);
}

const LOOP = `
  const seen = [];
  for (let n = 0; n < input.steps; n++) {
    console.log('step ' + n);
    seen.push(await callTool('step', { n }));
    await sleep(1);
  }
  state.runs = (state.runs ?? 0) + 1;
  return { seen, runs: state.runs };`;

const writes = async (session: SessionRef): Promise<number | undefined> =>
  versionOf((await parts.store.load(session.id))?.snapshot ?? '');
const agreeOn = (version: number, ...brokers: readonly Broker[]): Promise<void> =>
  parts.until(
    () => brokers.every(({ snapshotVersion }) => snapshotVersion === version),
    `version ${version} is written by ${brokers.map(({ id }) => id).join()}`,
    40_000,
  );
const isAt = (session: SessionRef, broker: Broker): Promise<void> =>
  parts.until(
    () => broker.actor(session.id)?.context.executions.length === 1,
    `${broker.id} has the session`,
  );

describe('a session in a rolling upgrade that is rolled back', () => {
  it('goes through brokers of both releases in both versions, and nothing of it is lost or done twice', {
    timeout: 120_000,
  }, async () => {
    parts = new Parts([step]);
    const old = await parts.broker('old');
    await parts.runtime('r1');
    const session = await parts.session();
    const seen = subscribe(session);
    const run = session.execute<{ seen: number[]; runs: number }>(LOOP, {
      input: { steps: 6 },
      limits: { timeoutMs: 110_000, maxToolCalls: 100 },
    });
    await upTo(0);
    expect(await writes(session)).toBe(CODEC.newest);

    // The upgrade begins: the next release takes the session on, in the version of the old one.
    const next = await parts.broker('next', { snapshots: NEXT });
    await parts.until(() => old.directory.brokers().length === 2, 'the old broker knows the next one');
    await session.migrate({ to: 'next' });
    await isAt(session, next);
    await upTo(1);
    expect(await writes(session)).toBe(CODEC.newest);

    // It is complete: what is written from now on is new.
    await old.close();
    await agreeOn(NEXT.newest, next);
    await upTo(2);
    expect(await writes(session)).toBe(NEXT.newest);

    // Its broker dies. An old one that comes before the new one leaves the session to that.
    const older = await parts.broker('older');
    next.abandon();
    const newest = await parts.broker('newest', { snapshots: NEXT });
    await isAt(session, newest);
    expect(older.sessions).toBe(0);
    await upTo(3);
    expect(await writes(session)).toBe(CODEC.newest);

    // It is rolled back: the old one takes over what the new one wrote for it.
    newest.abandon();
    await isAt(session, older);
    await upTo(4);
    await upTo(5);
    open = 6;
    for (const wake of waits.splice(0)) wake();
    const result = await run.result;
    expect(valueIn(result)).toEqual({ seen: [0, 1, 2, 3, 4, 5], runs: 1 });
    expect(result.stats.attempts).toBe(1);

    // Put away by the old release, it is woken by the new one, with its state.
    await session.hibernate();
    const last = await parts.broker('last', { snapshots: NEXT });
    await older.close();
    const again = await session.execute<{ seen: number[]; runs: number }>(LOOP, { input: { steps: 0 } })
      .result;
    expect(valueIn(again)).toEqual({ seen: [], runs: 2 });
    expect(last.sessions).toBe(1);

    expect([...calls.values()]).toEqual([1, 1, 1, 1, 1, 1]);
    const { seq } = await session.info();
    await parts.until(() => seen.events.at(-1)?.seq === seq, 'all events have come');
    await seen.stop();
    expectContiguous(seen.events);
    expect(seen.events).toEqual(await logOf(session));
  });
});
