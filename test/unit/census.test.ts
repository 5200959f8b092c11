/** What a broker counts of itself. */
import { describe, expect, it } from 'vitest';
import { newSession, type SessionStateValue } from '../../actors/session.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import { Census } from '../../src/session/census.ts';
import { SessionDriver } from '../support/session.ts';

/** A session with so many executions that found no runtime. */
function placing(count: number, labels: Readonly<Record<string, string>> = {}): SessionContext {
  const session = new SessionDriver({ runtimes: [], settings: { labels, maxConcurrentExecutions: count } });
  for (let n = 1; n <= count; n++) session.request(`e${n}`);
  return session.context;
}

const actors = (status: SessionStateValue, ...contexts: readonly SessionContext[]) =>
  contexts.map((context) => ({ actor: { status, context } }));

describe('the census of a broker', () => {
  it('has every status, those of nobody too', () => {
    const { settings } = placing(1);
    const idle = newSession({ id: 's1', settings, now: 0 });
    const hosting = { all: () => actors('idle', idle, idle) };
    const census = new Census({ hosting, runs: { actors: () => [] } });
    expect(Object.fromEntries(census.statuses())).toEqual({
      starting: 0,
      idle: 2,
      executing: 0,
      waiting: 0,
      hibernated: 0,
      migrating: 0,
      closed: 0,
      expired: 0,
    });
  });

  it('tells what waits from what a runtime that would be started could take, in sessions and runs', () => {
    const census = new Census({
      hosting: { all: () => actors('executing', placing(2, { tier: 'premium' }), placing(1)) },
      runs: { actors: () => [{ context: placing(3, { tier: 'premium' }) }] },
      routing: { strategy: 'label-match', rules: undefined },
      startable: { tier: 'standard' },
    });
    expect(census.waiting()).toBe(6);
    expect(census.demand()).toBe(1);
  });
});
