/** `redactEvents` of a session, of a run and of a broker: what is published and what is stored. */
import { afterEach, describe, expect, it } from 'vitest';
import {
  type CreateSystemOptions,
  createSystem,
  defineTool,
  type ExecutionEvent,
  type SessionRef,
  type System,
} from '../../src/index.ts';
import { Parts } from '../support/parts.ts';
import { codeOf, logOf, subscribe } from '../support/systems.ts';
import { valueIn } from './ends.ts';

const SECRET = 'confidential-7b3c';
const SCRIPT = `
  console.log(input);
  console.warn(input);
  await callTool('letters:weigh', input);
  if (input.endsWith('!')) throw new Error(input);
  return input`;
const tools = [defineTool({ name: 'letters:weigh', effect: 'read', handler: (args) => args })];

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((one) => one.close()));
});

async function open(options: CreateSystemOptions = {}): Promise<System> {
  const system = await createSystem({ tools, pool: { poolSize: 1 }, ...options });
  opened.push(system);
  return system;
}

const TYPES = ['session_init', 'stdout', 'log', 'tool_call', 'tool_result_applied', 'final'].toSorted();

/** What readers of a session see while it runs and in its log. */
async function eventsOf(session: SessionRef): Promise<readonly ExecutionEvent[]> {
  const live = subscribe(session);
  const results = [
    await session.execute(SCRIPT, { input: SECRET }).result,
    await session.execute(SCRIPT, { input: `${SECRET}!` }).result,
  ];
  // Whoever ran it has everything.
  expect(results.map((result) => (result.success ? result.value : result.error.message))).toEqual([
    SECRET,
    `${SECRET}!`,
  ]);
  const stored = await logOf(session);
  await expect.poll(() => live.events.length, { timeout: 20_000 }).toBe(stored.length);
  await live.stop();
  expect(live.events).toEqual(stored);
  expect([...new Set(stored.map(({ type }) => type))].toSorted()).toEqual(TYPES);
  return stored;
}

describe('events', () => {
  it('hold what scripts write, pass and return where nobody says otherwise', async () => {
    const system = await open();
    const text = JSON.stringify(await eventsOf(await system.spawnSession()));
    expect(text).toContain(SECRET);
    expect(text).not.toContain('redacted');
  });

  it.each(['session', 'none'] as const)('of a redacted session do not, durability %s', async (durability) => {
    const system = await open();
    const events = await eventsOf(await system.spawnSession({ redactEvents: true, durability }));
    expect(JSON.stringify(events)).not.toContain(SECRET);
    const bytes = events.flatMap(({ payload }) => ('redacted' in payload ? [payload.redacted?.bytes] : []));
    expect(bytes).toHaveLength(8);
    expect(bytes.every((count) => (count ?? 0) >= SECRET.length)).toBe(true);
  });

  it('of every session of a broker that redacts do not', async () => {
    const system = await open({ redactEvents: true });
    expect(JSON.stringify(await eventsOf(await system.spawnSession()))).not.toContain(SECRET);
  });

  it('of a run that asks for it do not, and its result is whole', async () => {
    const system = await open();
    for (const redactEvents of [true, false]) {
      const events: ExecutionEvent[] = [];
      const onEvent = (event: ExecutionEvent): void => void events.push(event);
      const result = await system.run(SCRIPT, { input: SECRET, redactEvents, onEvent });
      expect(valueIn(result)).toBe(SECRET);
      await expect.poll(() => events.at(-1)?.type, { timeout: 20_000 }).toBe('final');
      expect(JSON.stringify(events).includes(SECRET)).toBe(!redactEvents);
    }
  });

  it('stay redacted when another broker takes the session over', async () => {
    const parts = new Parts(tools);
    opened.push(parts);
    const first = await parts.broker('b1');
    await parts.runtime('r1');
    const session = await parts.client.spawn({ ttlMs: 0, redactEvents: true });
    expect(valueIn(await session.execute(SCRIPT, { input: SECRET }).result)).toBe(SECRET);
    await first.halt();
    await parts.broker('b2');
    expect(valueIn(await session.execute(SCRIPT, { input: SECRET }).result)).toBe(SECRET);
    const events = await logOf(session);
    expect(events.filter(({ type }) => type === 'final')).toHaveLength(2);
    expect(JSON.stringify(events)).not.toContain(SECRET);
  });
});

describe('the option', () => {
  it('is true or false', async () => {
    const system = await open();
    const wrong = { redactEvents: 'yes' as unknown as boolean };
    expect(await codeOf(() => system.spawnSession(wrong))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(() => system.run('return 1', wrong))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(() => createSystem(wrong))).toBe('INVALID_ARGUMENT');
  });
});
