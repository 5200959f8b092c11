/** Shares of tenants where executions wait for a worker, and in what an owner offers to a runtime. */
import { describe, expect, it } from 'vitest';
import { createActor } from 'xstate';
import { EMPTY_MAILBOX, next, post, take, type Waiting } from '../../actors/mailbox.ts';
import { type RuntimeEffect, runtimeMachine } from '../../actors/runtime.ts';
import { MemoryBusServer } from '../../src/bus/memory.ts';
import { resolveSpawn } from '../../src/client/options.ts';
import { systemClock } from '../../src/clock.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import { commandOf } from '../../src/runtime/commands.ts';
import { Directory } from '../../src/session/directory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { SessionDriver } from '../support/session.ts';

describe('a mailbox', () => {
  it('shares by weight between those on whose behalf it is, whatever isolates they use', () => {
    let mailbox = EMPTY_MAILBOX;
    for (let n = 0; n < 8; n++) {
      const waiting: Waiting[] = [
        { id: `a${n}`, tenant: `session-${n}`, key: 'k', flow: 'a', weight: 1 },
        { id: `b${n}`, tenant: 'isolate-b', key: 'k', flow: 'b', weight: 3 },
      ];
      mailbox = waiting.reduce(post, mailbox);
    }
    const order: string[] = [];
    for (let n = 0; n < 8; n++) {
      order.push(next(mailbox)?.id ?? '');
      mailbox = take(mailbox);
    }
    expect(order.filter((id) => id.startsWith('a'))).toEqual(['a0', 'a1']);
  });
});

describe('a full mailbox', () => {
  /** One worker with one place, and two in the mailbox. */
  function start() {
    const limits = { maxWorkers: 1, maxQueueLength: 3, maxConcurrentPerWorker: 1, quarantineAfter: 3 };
    const actor = createActor(runtimeMachine, { input: limits }).start();
    const effects = (): readonly RuntimeEffect[] => actor.getSnapshot().context.effects;
    const submit = (id: string, flow = id.slice(0, 1)): readonly RuntimeEffect[] => {
      actor.send({
        type: 'execution.submitted',
        id,
        tenant: flow,
        key: id,
        dedicated: false,
        flow,
        weight: 1,
        at: 0,
      });
      return effects();
    };
    actor.send({ type: 'worker.starting' });
    actor.send({ type: 'worker.ready', slot: 'w1' });
    submit('a0');
    return { actor, submit, effects };
  }
  const refused = (id: string) => ({ type: 'refuse', id, code: 'OVERLOADED', position: 4, retryAfterMs: 0 });

  it('takes one of another tenant in for the last of the one that has most', () => {
    const { actor, submit } = start();
    for (const id of ['a1', 'a2', 'a3']) submit(id);
    expect(submit('a4')).toEqual([refused('a4')]);
    expect(submit('b1')).toEqual([refused('a3')]);
    // Two to one: there is nothing more to be evened out.
    expect(submit('b2')).toEqual([refused('b2')]);
    expect(actor.getSnapshot().context.shared.size).toBe(3);
    const order: string[] = [];
    let running = 'a0';
    for (let n = 0; n < 3; n++) {
      actor.send({ type: 'execution.settled', id: running, slot: 'w1', sound: true });
      const [dispatched] = actor.getSnapshot().context.effects;
      running = dispatched?.type === 'dispatch' ? dispatched.id : '';
      order.push(running);
    }
    expect(order).toEqual(['a1', 'b1', 'a2']);
  });

  it('keeps what was aboard a worker already', () => {
    const { actor, submit } = start();
    submit('a1');
    submit('a2');
    actor.send({ type: 'worker.lost', slot: 'w1', blamed: true, at: 1 });
    // a0 waits again, at the end of its tenant's line: the last that may go is the one before it.
    expect(submit('b1')).toMatchObject([refused('a2')]);
    expect(submit('c1')).toMatchObject([refused('a1')]);
    expect(submit('d1')).toMatchObject([refused('d1')]);
  });
});

describe('an owner', () => {
  it('does not place what is behind others, and does once its turn has come', () => {
    const session = new SessionDriver();
    session.behind = true;
    session.request('e1');
    expect(session.context.executions[0]?.phase).toBe('placing');
    session.pass(5_000);
    expect(session.context.executions[0]?.phase).toBe('placing');
    session.behind = false;
    session.tell({ type: 'runtimes.changed' });
    expect(session.attempt('e1').runtime).toBe('r1');
  });

  it('places what was refused by one runtime on another at once, though others wait', () => {
    const session = new SessionDriver();
    session.request('e1');
    session.behind = true;
    session.refuse('e1', 'OVERLOADED');
    expect(session.attempt('e1').runtime).toBe('r2');
  });
});

describe('the directory', () => {
  it('keeps places, believes a runtime that it is full, and tells when something ends there', async () => {
    const server = new MemoryBusServer({ clock: systemClock });
    const subjects = subjectsOf('test');
    let changes = 0;
    const bus = server.connect('broker');
    const directory = new Directory({ bus, clock: systemClock, subjects, onChange: () => changes++ });
    directory.start();
    const beat = { runtime: 'r1', labels: {}, capacity: 3, load: 1, draining: false, intervalMs: 1_000 };
    const runtime = server.connect('r1');
    runtime.publish(subjects.runtimeHeartbeat('r1'), beat);
    await bus.flush();
    await expect.poll(() => directory.view()).toMatchObject([{ id: 'r1', free: 2 }]);
    const free = (): number | undefined => directory.view()[0]?.free;
    const release = directory.reserve('r1');
    expect(free()).toBe(1);
    release();
    release();
    expect(free()).toBe(2);
    directory.noteFull('r1');
    expect(free()).toBe(0);
    const before = changes;
    directory.noteOffer('r1', -1);
    expect([free(), changes]).toEqual([1, before + 1]);
    runtime.publish(subjects.runtimeHeartbeat('r1'), { ...beat, load: 0 });
    await expect.poll(free).toBe(3);
    directory.stop();
    await server.close();
  });
});

describe('what is said of shares', () => {
  const offer = {
    ...{
      t: 'offer',
      session: 's',
      epoch: 1,
      attempt: 'a',
      execution: 'e',
      source: '',
      input: '',
      state: '{}',
    },
    ...{ seed: [1, 2, 3, 4], startTime: 1, limits: {}, isolation: 'context', alone: false, replay: false },
    deliveries: [],
  };

  it('may be missing in an offer, and must make sense', () => {
    expect(commandOf(offer)).toBeDefined();
    expect(commandOf({ ...offer, share: { name: 'a', weight: 0.5 } })).toBeDefined();
    for (const share of [null, {}, { name: 1, weight: 1 }, { name: 'a', weight: 0 }, { name: 'a' }])
      expect(commandOf({ ...offer, share })).toBeUndefined();
  });

  it.each(['', 'x'.repeat(257), 7])('a tenant called %j is refused', (tenant) => {
    const defaults = { limits: resolveSessionLimits(undefined), isolation: 'context' as const };
    expect(() => resolveSpawn({ tenant: tenant as string }, defaults)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', key: 'options.tenant' }),
    );
  });
});
