/** A store whose commits are measured is the same store, and every commit is told of once. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { MeteredStore } from '../../src/ops/meteredstore.ts';
import { createRegistry, meterCommits } from '../../src/ops/metrics.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { type Commit, type CommitReply, type Store, StoreError } from '../../src/store/store.ts';
import { storeContract } from '../contract/store.ts';
import { parseScrape } from '../support/scrape.ts';

const MAX_EVENTS = 100;

storeContract('memory, measured', async () => {
  const store = new MemoryStore({ clock: systemClock, maxEvents: MAX_EVENTS });
  const onCommit = meterCommits(createRegistry());
  return {
    connect: async () => new MeteredStore(store.handle(), () => performance.now(), onCommit),
    maxEvents: MAX_EVENTS,
    close: () => store.close(),
  };
});

/** A store of which a test says how it answers a commit, and when. */
function metered(reply: Promise<CommitReply>) {
  const registry = createRegistry();
  let now = 1_000;
  const store = { commit: () => reply } as unknown as Store;
  return {
    store: new MeteredStore(store, () => now, meterCommits(registry)),
    passes: (ms: number) => {
      now += ms;
    },
    scrape: async () => parseScrape(await registry.metrics()),
  };
}
const COMMIT = {} as Commit;
const LATENCY = 'enclave_commit_latency_seconds';
const total = (outcome: string): string => `enclave_commits_total{outcome="${outcome}"}`;

describe('a commit', () => {
  it.each([
    [{ status: 'committed', version: 2 }, 0],
    [{ status: 'repeated', version: 2 }, 0],
    [{ status: 'fenced', epoch: 3 }, 1],
    [{ status: 'conflict', version: 7 }, 0],
  ] as const)('that is answered %j is counted so, with its time', async (reply, fenced) => {
    const answered = Promise.withResolvers<CommitReply>();
    const { store, passes, scrape } = metered(answered.promise);
    const done = store.commit(COMMIT);
    passes(30);
    expect((await scrape()).get(total(reply.status))).toBe(0);
    answered.resolve(reply);
    expect(await done).toBe(reply);
    const found = await scrape();
    expect(found.get(total(reply.status))).toBe(1);
    expect(found.get('enclave_fenced_writes_total')).toBe(fenced);
    expect(found.get(`${LATENCY}_count`)).toBe(1);
    expect(found.get(`${LATENCY}_sum`)).toBeCloseTo(0.03);
    expect(found.get(`${LATENCY}_bucket{le="0.025"}`)).toBe(0);
    expect(found.get(`${LATENCY}_bucket{le="0.05"}`)).toBe(1);
  });

  it.each([
    [new StoreError('UNAVAILABLE', 'commit', 'it is away'), 'unavailable'],
    [new StoreError('UNKNOWN', 'commit', 'no answer'), 'unknown'],
    [new StoreError('CLOSED', 'commit', 'it was closed'), 'closed'],
    [new TypeError('broken'), 'error'],
  ])('that fails with %s is counted as %s, without a time', async (error, outcome) => {
    const { store, scrape } = metered(Promise.reject(error));
    await expect(store.commit(COMMIT)).rejects.toBe(error);
    const found = await scrape();
    expect(found.get(total(outcome))).toBe(1);
    expect(found.get(`${LATENCY}_count`)).toBe(0);
  });
});
