/** One execution, from its command to its result, whatever is lost on the way. */
import { getEventListeners } from 'node:events';
import { describe, expect, it } from 'vitest';
import { Inbox } from '../../src/client/inbox.ts';
import type { SessionCommand } from '../../src/protocol.ts';
import { refusal, rejection, resultJson, World } from './client-world.ts';

/** An owner who accepts, and whose executions end when told so. */
class Script {
  readonly ended = new Map<string, string>();
  readonly known = new Set<string>();

  answer = (command: SessionCommand) => {
    if (command.t === 'execute') {
      this.known.add(command.execution);
      return { value: { execution: command.execution, result: this.ended.get(command.execution) } };
    }
    if (command.t === 'result') {
      const result = this.ended.get(command.execution);
      const status =
        result !== undefined ? 'ended' : this.known.has(command.execution) ? 'running' : 'unknown';
      return { value: { status, result } };
    }
    if (command.t === 'cancel') return { value: { cancelled: !this.ended.has(command.execution) } };
    return undefined;
  };
}

const polls = (heard: readonly SessionCommand[]) => heard.filter(({ t }) => t === 'result').length;
const kinds = (heard: readonly SessionCommand[]) => heard.map(({ t }) => t);

describe('the result of an execution', () => {
  it('is what its owner tells, and nothing is asked', async () => {
    const world = new World();
    const owner = world.owner('s', 1, new Script().answer);
    const client = await world.client();
    const run = client.session('s').execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    world.tell('s', 'e', resultJson('e', { n: 1 }));
    expect(await world.clock.until(run.result)).toMatchObject({ success: true, value: { n: 1 } });
    expect(await run.result).toBe(await run.result);
    await world.clock.advance(60_000);
    expect(kinds(owner.heard)).toEqual(['execute']);
  });

  it('is asked for after 1, 2, 4 and every 5 seconds, if what was told is lost', async () => {
    const world = new World();
    const script = new Script();
    const times: number[] = [];
    world.owner('s', 1, (command) => {
      if (command.t === 'result') times.push(world.clock.time);
      if (times.length === 5) script.ended.set('e', resultJson('e', 5));
      return script.answer(command);
    });
    const client = await world.client();
    const run = client.session('s').execute('', { commandId: 'e' });
    expect(await world.clock.until(run.result)).toMatchObject({ success: true, value: 5 });
    expect(times).toEqual([1_000, 3_000, 7_000, 12_000, 17_000]);
  });

  it('may come before the acknowledgement, and then proves it', async () => {
    const world = new World();
    world.owner('s', 1, (command) => {
      if (command.t === 'execute') world.tell('s', command.execution, resultJson(command.execution, 1));
      return undefined;
    });
    const client = await world.client();
    const run = client.session('s').execute('');
    expect(await world.clock.until(run.result)).toMatchObject({ success: true });
    await run.accepted;
    expect(world.clock.time).toBe(0);
  });

  it('keeps the process up only while somebody waits for it', async () => {
    const world = new World();
    world.owner('s', 1, new Script().answer);
    const client = await world.client();
    const run = client.session('s').execute('');
    await world.clock.until(run.accepted);
    expect(world.clock.awake).toBe(0);
    void run.result;
    expect(world.clock.awake).toBe(1);
  });

  it('is in doubt if the session no longer knows an execution that was acknowledged', async () => {
    const world = new World();
    const script = new Script();
    world.owner('s', 1, script.answer);
    const client = await world.client();
    const run = client.session('s').execute('');
    await world.clock.until(run.accepted);
    script.known.clear();
    expect(await world.clock.until(run.result)).toMatchObject({
      success: false,
      error: { code: 'NOT_FOUND', outcome: 'unknown' },
    });
  });

  it('is asked of the brokers while nobody owns the session, who see to an owner if it still runs', async () => {
    const world = new World();
    const script = new Script();
    const first = world.owner('s', 1, script.answer);
    world.broker('session_result', () => ({ value: { status: 'running', result: undefined } }));
    const activate = world.broker('session_activate', () => {
      world.owner('s', 2, script.answer);
      script.ended.set('e', resultJson('e', 2));
      return { value: { session: 's', broker: 'b', retryAfterMs: 0 } };
    });
    const client = await world.client();
    const run = client.session('s').execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    first.stop();
    expect(await world.clock.until(run.result)).toMatchObject({ success: true, value: 2 });
    expect(activate.heard).toEqual([{ session: 's', minEpoch: 1 }]);
  });

  it('goes on being asked for while nobody can be reached', async () => {
    const world = new World();
    const script = new Script();
    const first = world.owner('s', 1, script.answer);
    const client = await world.client({ timeoutMs: 2_000 });
    const run = client.session('s').execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    first.stop();
    void run.result;
    await world.clock.advance(60_000);
    script.ended.set('e', resultJson('e', 3));
    world.broker('session_result', () => script.answer({ t: 'result', execution: 'e' }));
    expect(await world.clock.until(run.result)).toMatchObject({ success: true, value: 3 });
  });

  it('can be had by another client, after the one that began it is gone', async () => {
    const world = new World();
    const script = new Script();
    const owner = world.owner('s', 1, script.answer);
    const first = await world.client();
    const run = first.session('s').execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    await first.close();
    expect(await run.result).toMatchObject({ error: { code: 'CLOSED', outcome: 'unknown' } });

    const second = await world.client({ id: 'second' });
    const found = second.session('s').result('e');
    await world.clock.settle();
    expect(polls(owner.heard)).toBe(1);
    script.ended.set('e', resultJson('e', 'late'));
    expect(await world.clock.until(found)).toMatchObject({ success: true, value: 'late' });
    expect(await rejection(world.clock.until(second.session('s').result('other')))).toMatchObject({
      code: 'NOT_FOUND',
    });
    const waiting = second.session('s').result('never');
    await second.close();
    expect(await rejection(waiting)).toMatchObject({ code: 'CLOSED' });
  });

  it('is the first one, when the same command comes again', async () => {
    const world = new World();
    const script = new Script();
    world.owner('s', 1, script.answer);
    const client = await world.client();
    script.ended.set('e', resultJson('e', 'first'));
    const both = [
      client.session('s').execute('', { commandId: 'e' }),
      client.session('s').execute('', { commandId: 'e' }),
    ];
    for (const run of both) expect(await world.clock.until(run.result)).toMatchObject({ value: 'first' });
  });

  it.each(['COMMAND_CONFLICT', 'COMMAND_EXPIRED', 'CLOSED', 'EXPIRED', 'NOT_FOUND'])(
    'tells a refusal as %s',
    async (code) => {
      const world = new World();
      world.owner('s', 1, () =>
        refusal(code, { outcome: code === 'COMMAND_EXPIRED' ? 'unknown' : 'not_started' }),
      );
      const client = await world.client();
      const run = client.session('s').execute('', { commandId: 'e' });
      expect(await world.clock.until(run.result)).toMatchObject({
        success: false,
        executionId: 'e',
        error: { code, outcome: code === 'COMMAND_EXPIRED' ? 'unknown' : 'not_started', retryable: false },
        toolCalls: [],
      });
      expect(await rejection(run.accepted)).toMatchObject({ code });
    },
  );

  it('is SOURCE_LIMIT_EXCEEDED for a source that is too large, which is not sent', async () => {
    const world = new World();
    const owner = world.owner('s', 1, new Script().answer);
    const client = await world.client();
    const run = client.session('s').execute('é'.repeat(6), { limits: { maxSourceBytes: 11 } });
    expect(await world.clock.until(run.result)).toMatchObject({
      error: { code: 'SOURCE_LIMIT_EXCEEDED', outcome: 'not_started' },
    });
    expect(await rejection(run.accepted)).toMatchObject({ code: 'SOURCE_LIMIT_EXCEEDED' });
    await world.clock.until(
      client.session('s').execute('é'.repeat(6), { limits: { maxSourceBytes: 12 } }).accepted,
    );
    expect(owner.heard).toHaveLength(1);
  });

  it.each([
    ['a number in a told result', '7'],
    ['text that is not JSON', '{'],
  ])('is not %s', async (_, text) => {
    const world = new World();
    world.owner('s', 1, new Script().answer);
    const client = await world.client();
    const run = client.session('s').execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    world.tell('s', 'e', text);
    await world.clock.settle();
    world.tell('s', 'e', resultJson('e', 'right'));
    expect(await world.clock.until(run.result)).toMatchObject({ value: 'right' });
  });
});

describe('the inbox', () => {
  it('forgets an execution with its last listener', async () => {
    const world = new World();
    const inbox = new Inbox(world.server.connect('inbox'), 'inbox');
    await inbox.start();
    const told: string[] = [];
    const stops = [
      inbox.listen('s', 'e', (json) => told.push(`1 ${json}`)),
      inbox.listen('s', 'e', (json) => told.push(`2 ${json}`)),
    ];
    world.far.publish('inbox', { session: 's', execution: 'e', result: 'r' });
    world.far.publish('inbox', { session: 's', execution: 'e', result: 7 });
    world.far.publish('inbox', { session: 's', execution: 'other', result: 'r' });
    await world.clock.settle();
    expect(told).toEqual(['1 r', '2 r']);
    expect(inbox.size).toBe(1);
    for (const stop of stops) stop();
    expect(inbox.size).toBe(0);
  });
});

describe('cancelling', () => {
  it('before the command is sent sends nothing', async () => {
    const world = new World();
    const owner = world.owner('s', 1, new Script().answer);
    const client = await world.client();
    const controller = new AbortController();
    const run = client.session('s').execute('', { signal: controller.signal });
    const cancelled = run.cancel();
    expect(await world.clock.until(cancelled)).toBe(true);
    expect(await world.clock.until(run.result)).toMatchObject({
      error: { code: 'CANCELLED', outcome: 'not_started' },
    });
    controller.abort();
    const never = client.session('s').execute('', { signal: controller.signal });
    expect(await world.clock.until(never.result)).toMatchObject({
      error: { code: 'CANCELLED', outcome: 'not_started' },
    });
    await world.clock.settle();
    expect(owner.heard).toEqual([]);
  });

  it('stops the search for an owner, if nobody has got the command', async () => {
    const world = new World();
    const client = await world.client();
    const controller = new AbortController();
    const run = client.session('s').execute('', { signal: controller.signal });
    await world.clock.advance(500);
    world.broker('session_activate', () => ({ value: { session: 's', broker: 'b', retryAfterMs: 0 } }));
    controller.abort();
    const late = world.owner('s', 1, new Script().answer);
    expect(await world.clock.until(run.result)).toMatchObject({
      error: { code: 'CANCELLED', outcome: 'not_started' },
    });
    expect(late.heard).toEqual([]);
  });

  it('waits for the acknowledgement, if somebody may have got the command', async () => {
    const world = new World();
    const script = new Script();
    world.broker('session_activate', () => ({ value: { session: 's', broker: 'b', retryAfterMs: 0 } }));
    const owner = world.owner('s', 1, (command, count) => (count === 1 ? undefined : script.answer(command)));
    const client = await world.client();
    const run = client.session('s').execute('', { commandId: 'e' });
    await world.clock.settle();
    expect(await world.clock.until(run.cancel('enough'))).toBe(true);
    expect(kinds(owner.heard)).toEqual(['execute', 'execute', 'cancel']);
    expect(owner.heard[2]).toEqual({ t: 'cancel', execution: 'e', reason: 'enough' });
  });

  it('before the acknowledgement is too late, if that brings the result', async () => {
    const world = new World();
    const script = new Script();
    script.ended.set('e', resultJson('e', 1));
    const owner = world.owner('s', 1, script.answer);
    const client = await world.client();
    const controller = new AbortController();
    const run = client.session('s').execute('', { commandId: 'e', signal: controller.signal });
    // Past the turn in which it is sent.
    await Promise.resolve();
    await Promise.resolve();
    await Promise.resolve();
    expect(await world.clock.until(run.cancel())).toBe(false);
    expect(kinds(owner.heard)).toEqual(['execute']);
    expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
  });

  it('by a signal goes to the owner', async () => {
    const world = new World();
    const owner = world.owner('s', 1, new Script().answer);
    const client = await world.client();
    const controller = new AbortController();
    const run = client.session('s').execute('', { signal: controller.signal });
    await world.clock.until(run.accepted);
    controller.abort();
    await world.clock.settle();
    expect(kinds(owner.heard)).toEqual(['execute', 'cancel']);
  });

  it('comes too late when it has ended, whoever knows that first', async () => {
    const world = new World();
    const script = new Script();
    const owner = world.owner('s', 1, script.answer);
    const client = await world.client();
    const run = client.session('s').execute('', { commandId: 'e' });
    await world.clock.until(run.accepted);
    script.ended.set('e', resultJson('e', 1));
    expect(await world.clock.until(run.cancel())).toBe(false);
    world.tell('s', 'e', resultJson('e', 1));
    await world.clock.until(run.result);
    expect(await run.cancel()).toBe(false);
    expect(kinds(owner.heard)).toEqual(['execute', 'cancel']);
  });

  it('of an execution that was refused is false', async () => {
    const world = new World();
    world.owner('s', 1, () => refusal('OVERLOADED', { retryable: true }));
    const client = await world.client();
    const run = client.session('s').execute('');
    await world.clock.settle();
    expect(await world.clock.until(run.cancel())).toBe(false);
  });
});

describe('closing the client', () => {
  it('ends executions as CLOSED, in doubt if they may have been taken on', async () => {
    const world = new World();
    world.owner('accepted', 1, new Script().answer);
    world.owner('silent', 1, () => undefined);
    const client = await world.client();
    const runs = ['accepted', 'silent', 'nobody'].map((id) => client.session(id).execute(''));
    await world.clock.settle();
    runs.push(client.session('accepted').execute('')); // Not sent yet.
    await client.close();
    runs.push(client.session('accepted').execute('')); // Never sent.
    const results = await Promise.all(runs.map(({ result }) => result));
    expect(
      results.map((result) => (result.success ? 'success' : `${result.error.code} ${result.error.outcome}`)),
    ).toEqual([
      'CLOSED unknown',
      'CLOSED unknown',
      'CLOSED not_started',
      'CLOSED not_started',
      'CLOSED not_started',
    ]);
    expect(world.clock.awake).toBe(0);
  });
});
