/** Listing sessions (S12). */
import { expect } from 'vitest';
import type { Store } from '../../../src/store/store.ts';
import { range, type Test } from './kit.ts';

async function listed(store: Store, limit: number): Promise<readonly string[]> {
  const found: string[] = [];
  for (let cursor = ''; ; ) {
    const page = await store.list(cursor, limit);
    found.push(...page.sessions);
    cursor = page.cursor;
    if (cursor === '') return found;
  }
}

export function listing(test: Test): void {
  test('shows every session that is there all the while, whatever the size of a page', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const writers = await Promise.all(range(25).map(() => room.writer(store, { owner })));
    for (const limit of [1, 7, 1_000]) {
      const found = new Set(await listed(store, limit));
      expect(writers.filter(({ session }) => !found.has(session))).toEqual([]);
    }
  });

  test('shows no session that was deleted before, and nothing that is none', async (room) => {
    const store = await room.connect();
    const [kept, deleted] = [await room.writer(store), await room.writer(store)];
    await deleted.write({ events: ['{}'], work: true, wakeAt: 1 });
    const { session, owner, epoch, nonce } = deleted;
    expect(await store.delete(session, owner, epoch, nonce)).toBe(true);
    const found = await listed(store, 10);
    expect(found).toContain(kept.session);
    expect(found).not.toContain(session);
    const there = await Promise.all([...new Set(found)].map((each) => store.load(each)));
    expect(there.filter((record) => record === undefined)).toEqual([]);
  });

  test('ends in the middle while sessions come and go', async (room) => {
    const store = await room.connect();
    const owner = await room.broker(store);
    const stays = await room.writer(store, { owner });
    const found: string[] = [];
    for (let cursor = '', pages = 0; pages < 1_000; pages++) {
      const page = await store.list(cursor, 1);
      found.push(...page.sessions);
      cursor = page.cursor;
      if (cursor === '') break;
      if (pages < 20) await room.writer(store, { owner });
      else expect(pages).toBeLessThan(900);
    }
    expect(found).toContain(stays.session);
  });
}
